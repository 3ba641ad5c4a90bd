"""The figures of a tenant's cache, told to a person or to a program."""

from collections.abc import Callable
from typing import Any, Final

from buscli.deletionwords import count, entries
from buscli.jsonform import to_json
from buscli.output import Output, printable
from buscli.units import binary_size, duration

__all__ = ["Figures"]


def _number(field: str) -> Callable[[Any], str]:
    return lambda part: f"{getattr(part, field):,}"


def _ratio(part: Any) -> str:
    return f"{part.hit_ratio:.1%}" if part.hits + part.misses else "-"


def _used(part: Any) -> str:
    used, limit = part.bytes, part.bytes_limit
    return f"{binary_size(used)} of {binary_size(limit)} ({used / limit:.0%})"


_LINES: Final[tuple[tuple[str, Callable[[Any], str]], ...]] = (
    ("hits", _number("hits")),
    ("misses", _number("misses")),
    ("hit ratio", _ratio),
    ("entries", _number("entries")),
    ("bytes", _used),
    ("most bytes at once", lambda part: binary_size(part.bytes_most)),
    ("who has to go", lambda part: str(part.policy)),
    ("sets", _number("sets")),
    ("deletes", _number("deletes")),
    ("clears", _number("clears")),
    ("evicted for bytes", _number("evicted_for_bytes")),
    ("evicted for entries", _number("evicted_for_entries")),
    ("expired", _number("expired")),
    ("keys were gone", _number("keyless")),
    ("refused as too large", _number("refused")),
    ("authentication failures", _number("unauthentic")),
    ("keys quarantined", _number("quarantined")),
    ("key", lambda part: str(part.epoch)),
    ("key age", lambda part: duration(part.key_age) if part.key_messages else "-"),
    ("messages under key", _number("key_messages")),
    ("sealed anew", _number("resealed")),
)
"""What is said of each part. A part without such a field (the keys of records are the clients') has no figure."""


class Figures:
    """The statistics of one tenant, as the component gives them."""

    def __init__(self, statistics: Any) -> None:
        self._statistics = statistics
        parts = {"values": statistics.sealed, "records": statistics.blind}
        self._parts: dict[str, Any] = {name: part for name, part in parts.items() if part is not None}

    @property
    def tenant(self) -> str:
        """Whose they are."""
        return str(self._statistics.tenant)

    def holds(self) -> str:
        """How much there is now: ``5,120 entries (3.2 MiB)``."""
        parts = self._parts.values()
        return f"{entries(sum(each.entries for each in parts))} ({binary_size(sum(each.bytes for each in parts))})"

    def show(self, output: Output) -> None:
        """Write all of them."""
        import msgspec

        if output.human:
            rows = [(name, *(_figure(figure, part) for part in self._parts.values())) for name, figure in _LINES]
            output.table((f"tenant {self.tenant}", *self._parts), rows)
        else:
            output.record(to_json(msgspec.to_builtins(self._statistics)))
        if failed := sum(part.unauthentic for part in self._parts.values()):
            said = f"{count(failed, 'record')} of tenant {printable(self.tenant)} failed authentication"
            output.note(f"{said}: somebody has written to the cache's memory, or there is a bug; its audit says more")
        if keys := sum(getattr(part, "quarantined", 0) for part in self._parts.values()):
            output.note(f"for that {count(keys, 'data key was', 'data keys were')} destroyed, with what it had sealed")


def _figure(figure: Callable[[Any], str], part: Any) -> str:
    try:
        return figure(part)
    except AttributeError:
        return "-"
