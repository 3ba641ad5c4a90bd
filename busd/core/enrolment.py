"""A public key that was let in: which unit it is, for whom, and since when."""

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Self

from busproto.subjects import check_name
from busproto.z85 import decode_key


@dataclass(frozen=True, slots=True)
class Enrolment:
    """One life of a card or network peer: a name, and the key that proves it."""

    name: str
    """The unit's name."""
    tenant: str
    """Who owns it."""
    generation: int
    """Which life of this name it is; from 1."""
    key: str
    """Its CURVE public key in Z85."""
    enrolled_at: float
    """When, in seconds since 1970."""
    enrolled_by: str
    """Who asked for it: what was proven of them."""
    revoked_at: float | None = None
    """When it was revoked, in seconds since 1970; None while it stands."""

    @property
    def user_id(self) -> str:
        """What libzmq attaches to each message of this key (ZAP's user id): it names this life and no other."""
        return f"{self.name}/{self.generation}"

    def describe(self) -> dict[str, Any]:
        """The enrolment as a map, which `read` takes back."""
        return asdict(self)

    @classmethod
    def read(cls, document: Any) -> Self:
        """The enrolment that ``document`` describes. Raises ValueError with the reason when it describes none."""
        if not isinstance(document, dict):
            raise ValueError("it is not an object")
        fields = {"revoked_at": None, **document}
        if missing := sorted(set(cls.__dataclass_fields__) - set(fields)):
            raise ValueError(f"it has no {', '.join(missing)}")
        if unknown := sorted(map(str, set(fields) - set(cls.__dataclass_fields__))):
            raise ValueError(f"it has unknown fields: {', '.join(unknown)[:200]}")
        for field in ("name", "tenant"):
            if reason := check_name(fields[field]):
                raise ValueError(f"{field}: {reason}")
        generation = fields["generation"]
        if type(generation) is not int or generation < 1:
            raise ValueError("generation is not an integer from 1")
        if not isinstance(fields["key"], str):
            raise ValueError("key is not a string")
        decode_key(fields["key"])
        if not isinstance(fields["enrolled_by"], str):
            raise ValueError("enrolled_by is not a string")
        for field in ("enrolled_at", "revoked_at"):
            value = fields[field]
            if field == "revoked_at" and value is None:
                continue
            if type(value) not in (int, float) or not isfinite(value):
                raise ValueError(f"{field} is not a time in seconds")
        return cls(**fields)
