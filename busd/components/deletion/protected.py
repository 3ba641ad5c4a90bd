"""Places that no job may remove, whatever name it comes by: known by device and inode, not by path."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from busd.components.deletion.mounts import aliases

__all__ = ["Key", "Marks", "Protected", "key_of"]

Key = tuple[int, int]
"""Device and inode."""


def key_of(status: os.stat_result) -> Key:
    """Device and inode of what was statted."""
    return status.st_dev, status.st_ino


class Marks(NamedTuple):
    """What is protected at one moment.

    Attributes:
        closed: neither these nor anything in them: the directories of the node's own state.
        kept: these themselves: "/", the user's home, roots, and what is closed. What lies in them is not protected.
        above: directories, and links, on the way to one of those. To remove them would remove it, or its name.
    """

    closed: dict[Key, str]
    kept: dict[Key, str]
    above: dict[Key, str]


class Protected:
    """Paths to keep. They are looked at anew each time, so that one that comes or is replaced later is protected, too;
    bind mounts by which they are reached are those of the time when this was made.

    Args:
        closed: absolute paths with all that is in them. One that does not exist yet protects what leads to it.
        kept: absolute paths, they alone. "/" is always one.
    """

    def __init__(self, closed: Iterable[Path], kept: Iterable[Path] = ()) -> None:
        self._closed = [(os.fsencode(path), _ways(path)) for path in closed]
        self._kept = [(os.fsencode(path), _ways(path)) for path in (Path("/"), *kept)]

    def marks(self) -> Marks:
        """What is protected now. Raises nothing: a path that cannot be looked at protects what leads to it."""
        marks = Marks({}, {}, {})
        for name, ways in self._closed:
            self._mark(marks, name, ways, closed=True)
        for name, ways in self._kept:
            self._mark(marks, name, ways, closed=False)
        return marks

    @staticmethod
    def _mark(marks: Marks, path: bytes, ways: list[bytes], *, closed: bool) -> None:
        name = os.fsdecode(path)
        for way in ways:
            for prefix in _prefixes(way):
                for key in _keys(prefix):
                    marks.above.setdefault(key, name)
        for way in ways[:1]:
            for key in _keys(way):
                marks.kept[key] = name
                if closed:
                    marks.closed[key] = name


def _ways(path: Path) -> list[bytes]:
    """The paths by which ``path`` is reached: as it is written, without links, and through other mounts."""
    written = os.fsencode(os.path.abspath(path))
    plain = os.path.realpath(written)
    return list(dict.fromkeys((written, plain, *aliases(plain))))


def _prefixes(path: bytes) -> list[bytes]:
    """The directories above ``path``, without "/" (which is always kept)."""
    parts = path.split(b"/")[1:]
    return [b"/" + b"/".join(parts[:count]) for count in range(1, len(parts))]


def _keys(path: bytes) -> list[Key]:
    """Device and inode of what is at ``path``: of a link and of what it leads to."""
    found: list[Key] = []
    for follow in (False, True):
        try:
            found.append(key_of(os.stat(path, follow_symlinks=follow)))
        except (OSError, ValueError):
            continue
    return found
