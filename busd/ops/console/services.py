"""What only components know, as the console asks for it: deletion jobs, and what each tenant has in the cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from busd.ops.console.text import clean

__all__ = ["ROWS", "Answers", "Services", "cache_row", "job_row"]

ROWS: Final = 100
"""Jobs, and caches, that are shown."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What they said, and why something is missing."""

    jobs: Sequence[Mapping[str, Any]] = ()
    caches: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = field(default=("jobs and caches have not been asked for yet",))


class Services(Protocol):
    """Whoever can ask components. Made when somebody begins to look, closed when nobody does any more."""

    async def ask(self) -> Answers:
        """What they say now. Raises nothing; takes a second at most."""

    async def close(self) -> None:
        """Ask no more."""


def job_row(progress: Mapping[str, Any]) -> dict[str, Any]:
    """A deletion job as the console shows it, from what ``deletion.list`` says of it."""
    failed = progress.get("failed")
    return {
        "id": clean(progress.get("job")),
        "state": clean(progress.get("state")),
        "root": clean(progress.get("root")),
        "path": clean(progress.get("path")),
        "tenant": clean(progress.get("tenant")),
        "removed": _number(progress.get("removed")) or 0,
        "total": _number(progress.get("expected")),
        "per_second": _number(progress.get("rate")) or 0,
        "eta_seconds": _number(progress.get("eta_seconds")),
        "failed": sum(_number(count) or 0 for count in failed.values()) if isinstance(failed, Mapping) else 0,
        "reason": clean(progress.get("reason") or progress.get("held_back_by") or ""),
    }


def cache_row(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """What one tenant has in the cache, from what ``cache.all_stats`` says of it."""
    parts = [part for kind in ("sealed", "blind") if isinstance(part := statistics.get(kind), Mapping)]

    def total(*fields: str) -> float:
        return sum(_number(part.get(field)) or 0 for part in parts for field in fields)

    sealed = statistics.get("sealed")
    key = sealed if isinstance(sealed, Mapping) else {}
    return {
        "tenant": clean(statistics.get("tenant")),
        "entries": total("entries"),
        "bytes": total("bytes"),
        "bytes_limit": total("bytes_limit"),
        "hits": total("hits"),
        "misses": total("misses"),
        "hit_ratio": _number(statistics.get("hit_ratio")) or 0.0,
        "evicted": total("evicted_for_bytes", "evicted_for_entries"),
        "unauthentic": total("unauthentic"),
        "epoch": _number(key.get("epoch")),
        "key_age": _number(key.get("key_age")),
    }


def _number(value: Any) -> float | None:
    """``value``, if it is a number that JSON can hold."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and value - value == 0 else None
