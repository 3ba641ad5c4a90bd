"""The public keys that may attach, in memory."""

from collections.abc import Iterable, Iterator
from typing import Final

from busd.core.enrolment import Enrolment
from busproto.errors import BusError, Code

KEYS: Final = 4096
"""Keys that may be enrolled at once. A node has a handful of cards; this is no place for a fleet's keys."""


class Keyring:
    """Enrolled keys by key, name and user id; and revoked ones, which never come back.

    The event loop changes it while ZAP's thread looks keys up: each look-up is one read of one dict.
    """

    def __init__(self, enrolled: Iterable[Enrolment] = (), revoked: Iterable[Enrolment] = ()) -> None:
        self._by_key: dict[str, Enrolment] = {}
        self._by_name: dict[str, Enrolment] = {}
        self._by_user_id: dict[str, Enrolment] = {}
        self._revoked: dict[str, Enrolment] = {}
        self._generations: dict[str, int] = {}
        for enrolment in revoked:
            self._remember(enrolment)
        for enrolment in enrolled:
            self.add(enrolment)

    def __iter__(self) -> Iterator[Enrolment]:
        """The enrolled keys, by name."""
        return iter(sorted(self._by_name.values(), key=lambda enrolment: enrolment.name))

    def __len__(self) -> int:
        return len(self._by_name)

    def user_id_of(self, key: str) -> str | None:
        """The user id of the enrolled public key ``key`` (Z85); None if it may not attach."""
        enrolment = self._by_key.get(key)
        return None if enrolment is None else enrolment.user_id

    def proven(self, user_id: str) -> Enrolment | None:
        """The enrolment that ``user_id`` names, if it still stands."""
        return self._by_user_id.get(user_id)

    def named(self, name: str) -> Enrolment | None:
        """The enrolment of unit ``name``, if one stands."""
        return self._by_name.get(name)

    def next_generation(self, name: str) -> int:
        """The number of the next life of ``name``: above all that were."""
        return self._generations.get(name, 0) + 1

    def check(self, name: str, key: str) -> None:
        """Raise BusError 3012 unless ``key`` can be enrolled as ``name``."""
        standing = self._by_name.get(name)
        holder = self._by_key.get(key)
        revoked = self._revoked.get(key)
        if standing is not None:
            same = "this key" if standing.key == key else f"key {standing.key}"
            reason = f"{same} is enrolled under this name since generation {standing.generation}; revoke it first"
        elif holder is not None:
            reason = f"this key is enrolled as '{holder.name}', and one key is one unit"
        elif revoked is not None:
            reason = f"this key was revoked as '{revoked.name}', and whoever took it then has it still; make a new pair"
        elif len(self._by_name) >= KEYS:
            reason = f"{len(self._by_name)} of {KEYS} keys are enrolled"
        else:
            return
        raise BusError(Code.KEY_NOT_ENROLLED, unit=name, reason=reason)

    def add(self, enrolment: Enrolment) -> None:
        """Let ``enrolment`` in from now on. Raises BusError 3012 when it cannot stand beside the others."""
        self.check(enrolment.name, enrolment.key)
        self._note_generation(enrolment)
        self._by_name[enrolment.name] = enrolment
        self._by_user_id[enrolment.user_id] = enrolment
        self._by_key[enrolment.key] = enrolment

    def revoke(self, revoked: Enrolment) -> None:
        """Keep the key of ``revoked``, which stands until now, out for ever."""
        del self._by_key[revoked.key]
        del self._by_user_id[revoked.user_id]
        del self._by_name[revoked.name]
        self._remember(revoked)

    def _remember(self, revoked: Enrolment) -> None:
        self._revoked[revoked.key] = revoked
        self._note_generation(revoked)

    def _note_generation(self, enrolment: Enrolment) -> None:
        self._generations[enrolment.name] = max(enrolment.generation, self._generations.get(enrolment.name, 0))
