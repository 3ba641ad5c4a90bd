"""The request of ``telemetry.processes``: read strictly, so that a slip is an answer and not a surprise."""

from typing import Any, Final, NamedTuple, Self

from busd.components.telemetry.processes import Sort
from busd.components.telemetry.text import NAME_CHARACTERS
from busproto.errors import BusError, Code

__all__ = ["LIMIT_MAX", "PROCESSES", "ProcessesRequest"]

PROCESSES: Final = "telemetry.processes"

LIMIT_DEFAULT: Final = 10
LIMIT_MAX: Final = 1000
"""Rows in one reply: about 100 KiB, and 50 ms to read what the table does not hold."""


class ProcessesRequest(NamedTuple):
    """Which processes are asked for."""

    sort: Sort = "cpu"
    limit: int = LIMIT_DEFAULT
    name: str | None = None

    @classmethod
    def read(cls, payload: Any) -> Self:
        """Read a payload: nil, or a map with any of ``sort``, ``limit`` and ``name``.

        Raises BusError REQUEST_INVALID, whose text begins with the field at fault.
        """
        if payload is None:
            return cls()
        if not isinstance(payload, dict):
            raise _invalid(f"it must be a map or nil, not {_kind(payload)}")
        sort, limit, name = (payload.get(field, default) for field, default in cls._field_defaults.items())
        for field in payload:
            if field not in cls._fields:
                known = ", ".join(cls._fields)
                raise _invalid(f"'{str(field)[:NAME_CHARACTERS]}' is not a field; there are {known}")
        if sort not in ("cpu", "memory"):
            raise _invalid(f'\'sort\' must be "cpu" or "memory", not {_shown(sort)}')
        if type(limit) is not int or not 1 <= limit <= LIMIT_MAX:
            raise _invalid(f"'limit' must be a whole number from 1 to {LIMIT_MAX}, not {_shown(limit)}")
        if name is not None and (not isinstance(name, str) or not 1 <= len(name) <= NAME_CHARACTERS):
            raise _invalid(f"'name' must be a glob of 1 to {NAME_CHARACTERS} characters, not {_shown(name)}")
        return cls(sort, limit, name)


def _invalid(reason: str) -> BusError:
    return BusError(Code.REQUEST_INVALID, subject=PROCESSES, reason=reason)


def _kind(value: Any) -> str:
    return type(value).__name__


def _shown(value: Any) -> str:
    """A value in an error's text: short values as they are, long ones by type and length."""
    if isinstance(value, bool | int | float) or value is None:
        return str(value)[:32]
    if isinstance(value, str) and len(value) <= 32:
        return f'"{value}"'
    return f"{_kind(value)} of length {len(value)}" if hasattr(value, "__len__") else _kind(value)
