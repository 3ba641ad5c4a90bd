"""Reads plain maps into typed ones, with errors that name the field first."""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from busproto.errors import BusError, Code

__all__ = ["explain", "read_request"]

Wanted = TypeVar("Wanted", bound=msgspec.Struct)

_AT: Final = re.compile(r" - at `\$\.?(.*?)`$")
_NAMED: Final = re.compile(r"Object (contains unknown|missing required) field `(.*)`")


def explain(text: str) -> tuple[str, str]:
    """The field and the reason in what msgspec says: "Expected `int`, got `str` - at `$.budget.memory_bytes`"."""
    at = _AT.search(text)
    field = at[1] if at else ""
    reason = text[: at.start()] if at else text
    if named := _NAMED.fullmatch(reason):
        field = f"{field}.{named[2][:80]}".lstrip(".")
        return field, "it is missing" if named[1].startswith("missing") else "there is no such field"
    return field, reason[:1].lower() + reason[1:].replace("`", "'")


def read_request(subject: str, fields: Mapping[str, Any], wanted: type[Wanted]) -> Wanted:
    """``fields``, sent to ``subject``, as a ``wanted``. Raises BusError 2008, which names the field."""
    try:
        return msgspec.convert(fields, wanted)
    except msgspec.ValidationError as error:
        field, reason = explain(str(error))
        reason = f"{field}: {reason}" if field else reason
        raise BusError(Code.REQUEST_INVALID, subject=subject, reason=reason) from None
