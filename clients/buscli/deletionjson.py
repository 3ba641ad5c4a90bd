"""Progress and reports as JSON: paths as text where they are text, errors by name."""

import errno
from typing import Any, Final

from buscli.jsonform import to_json

__all__ = ["error_name", "jsonable"]

_ERRNO_KEYS: Final = frozenset({"failed", "unreadable"})
"""Fields whose keys are error numbers, if they are numbers."""


def error_name(number: int) -> str:
    """``EACCES`` for 13; the number where this machine has no name for it."""
    return errno.errorcode.get(number, str(number))


def jsonable(value: Any) -> Any:
    """``value`` (a Struct of the deletion component, or what is in one) as a value for ``json.dumps``.

    A path is text. One that is no UTF-8 is shown with ``\\xff`` for what is not, and a second field, named as the first
    with ``_bytes`` behind it, has it whole as ``{"$bytes": base64}``.
    """
    import msgspec

    return _plain(msgspec.to_builtins(value, builtin_types=(bytes,)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        made: dict[str, Any] = {}
        for key, item in value.items():
            if isinstance(item, bytes):
                made[str(key)] = item.decode("utf-8", "backslashreplace")
                if not _is_text(item):
                    made[f"{key}_bytes"] = to_json(item)
            elif key in _ERRNO_KEYS and isinstance(item, dict):
                made[key] = {error_name(k) if isinstance(k, int) else k: _plain(v) for k, v in item.items()}
            elif key == "errno":
                made |= {"errno": item, "error": error_name(item)}
            else:
                made[str(key)] = _plain(item)
        return made
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace") if _is_text(value) else to_json(value)
    return to_json(value)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
