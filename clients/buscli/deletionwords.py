"""What words mean in progress and reports of a deletion: why something stays, and what is where."""

import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from buscli.deletionpath import text_of

__all__ = ["count", "entries", "error", "errors", "location", "moment", "reasons", "roots_of", "stays_because"]

_REASONS: Final = {
    "busy": "somebody keeps writing into it",
    "changed": "it changed while it was looked at",
    "mount": "a file system is mounted there",
    "nfs": "it is open on a file server",
    "stale": "the file server lost it",
    "young": "too young",
    "name": "of another name",
    "size": "of another size",
    "owner": "somebody else's",
    "type": "of another type",
    "sticky": "kept by its owner (sticky bit)",
    "locked": "locked by somebody",
    "directory": "directories",
    "socket": "sockets",
    "device": "devices",
}


def count(number: int, one: str, many: str = "") -> str:
    """``1,204 entries``, ``1 entry``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def entries(number: int) -> str:
    """So many entries."""
    return count(number, "entry", "entries")


def stays_because(reason: str) -> str:
    """A reason of the walk or a filter, for people."""
    return _REASONS.get(reason, reason)


def errors(failed: Mapping[int, int]) -> str:
    """``permission denied: 3, read-only file system: 1``, the most frequent first."""
    ordered = sorted(failed.items(), key=lambda item: -item[1])
    return ", ".join(f"{error(number)}: {times:,}" for number, times in ordered)


def error(number: int) -> str:
    """What this machine calls an error number."""
    return os.strerror(number).lower()


def reasons(counts: Mapping[str, int]) -> str:
    """``a file system is mounted there: 2``, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{stays_because(reason)}: {times:,}" for reason, times in ordered)


def moment(seconds: float) -> str:
    """A time since 1970 as this machine's clock shows it."""
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # a file may claim any time
        return f"{seconds:.0f} s after 1970"


async def roots_of(handle: Any) -> dict[str, bytes]:
    """The paths of the roots that the caller is told, by id."""
    paths = {root.id: root.path for root in await handle.roots()}
    return {id: path if isinstance(path, bytes) else os.fsencode(path) for id, path in paths.items() if path}


def location(root: str, path: bytes, known: Mapping[str, bytes]) -> str:
    """A path below a root, for people: whole where the root's own is known, else ``ROOT:PATH``."""
    if root in known:
        return text_of(known[root].rstrip(b"/") + b"/" + path)
    return f"{root}:{text_of(path)}"
