"""Errors as data: one exception type that carries a code of ``errors.json`` and the fields of its text."""

from collections.abc import Mapping
from typing import Any, Final, Self

from busproto.codes import ENTRIES, Code, Entry

__all__ = ["BusError", "Code", "Entry", "ENTRIES", "ProtocolError", "body_of", "describe"]

Field = str | int | float | bool | None


class _Blank(dict[str, Any]):
    """Field look-up for ``str.format_map`` that leaves an unknown field visible instead of failing on it."""

    def __missing__(self, key: str) -> str:
        return "{" + key + "}"


def describe(code: int, fields: Mapping[str, Any]) -> str:
    """The text of ``code`` with ``fields`` filled in; a code this version does not know is shown with its fields."""
    entry = ENTRIES.get(code)
    if entry is None:
        return str(fields.get("text") or f"error {code} {dict(fields)}")
    return entry.text.format_map(_Blank(fields))


def body_of(code: int, fields: Mapping[str, Field]) -> dict[str, Any]:
    """The error body that travels in ``error``, ``bye`` and in replies whose status is not ok (schemas/README.md)."""
    entry = ENTRIES[code]
    return {
        "code": entry.number,
        "name": entry.name,
        "text": describe(code, fields),
        "retryable": entry.retryable,
        "fields": dict(fields),
    }


class BusError(Exception):
    """An error of the bus.

    Attributes:
        code: number in ``errors.json`` (an application's own errors use 10000 and above).
        name: the number's name.
        text: one sentence saying what happened, with its numbers.
        fields: the values in that sentence.
        retryable: whether the same request can succeed later without a change.
        cure: what to do about it.
    """

    def __init__(self, code: int, /, **fields: Field) -> None:
        entry = ENTRIES.get(code)
        self.code = code
        self.fields: dict[str, Any] = fields
        self.name = entry.name if entry else "application"
        self.text = describe(code, fields)
        self.retryable = entry.retryable if entry else False
        self.cure = entry.cure if entry else ""
        super().__init__(self.text)

    def __str__(self) -> str:
        return f"BUS-{self.code} {self.name}: {self.text}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_body, (self.body(),))

    def body(self) -> dict[str, Any]:
        """The wire form: a map of code, name, text, retryable and fields."""
        return {
            "code": self.code,
            "name": self.name,
            "text": self.text,
            "retryable": self.retryable,
            "fields": self.fields,
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Read an error body from the wire. Missing or ill-typed entries fall back; nothing is raised."""
        code = body.get("code")
        fields = body.get("fields")
        error = cls.__new__(cls)
        if not isinstance(code, int) or isinstance(code, bool):  # a Code, if the body was never on the wire, is an int
            code = Code.INTERNAL
        BusError.__init__(error, int(code))
        if isinstance(fields, Mapping):
            error.fields = {str(key): value for key, value in fields.items()}
        for attribute, kind in (("name", str), ("text", str), ("retryable", bool)):
            value = body.get(attribute)
            if type(value) is kind:
                setattr(error, attribute, value)
        error.args = (error.text,)
        return error


class ProtocolError(BusError):
    """The other side broke the protocol. The session that caused it cannot go on."""


BLAMES: Final = frozenset({"peer", "caller", "responder", "capacity", "broker", "local", "operator"})
"""Who an error can be laid at the door of."""
