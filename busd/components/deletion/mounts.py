"""By which other paths a place is reached: through bind mounts and other mounts of the same file system.

Source: proc_pid_mountinfo(5).
"""

import os
import re
import sys
from typing import NamedTuple

from busd.components.deletion.system import O_LOOK, O_SAFE

__all__ = ["Mount", "aliases", "mounts"]


class Mount(NamedTuple):
    """One line of mountinfo: the directory ``root`` of the file system ``device`` is seen at ``point``."""

    id: int
    device: bytes
    root: bytes
    point: bytes


def mounts() -> list[Mount]:
    """All mounts that this process sees; empty where the platform does not list them."""
    if sys.platform != "linux":
        return []
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = [line.split() for line in file]
        return [Mount(int(f[0]), f[2], _plain(f[3]), _plain(f[4])) for f in lines]
    except (OSError, ValueError, IndexError):
        return []


def _plain(field: bytes) -> bytes:
    """A field without its escapes: blank, tab, newline and backslash are written as three octal digits."""
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), field)


def aliases(path: bytes) -> list[bytes]:
    """Absolute paths that lead to what is at ``path``, which is absolute and without links, through other mounts.

    Those that another mount hides are left out. Empty if there is nothing at ``path`` or mounts are not known. Raises
    nothing.
    """
    listed = mounts()
    try:
        here = os.stat(path)
        mount = _mount_id(path)
    except (OSError, ValueError):
        return []
    own = next((m for m in listed if m.id == mount), None)
    if own is None:
        return []
    inside = _below(path, own.point)
    if inside is None:
        return []
    place = _joined(own.root, inside)
    found: list[bytes] = []
    for other in listed:
        rest = _below(place, other.root) if other.device == own.device else None
        if rest is None:
            continue
        alias = _joined(other.point, rest)
        try:
            there = os.stat(alias)
        except OSError:
            continue
        if alias != path and alias not in found and os.path.samestat(here, there):
            found.append(alias)
    return found


def _mount_id(path: bytes) -> int | None:
    fd = os.open(path, O_LOOK | O_SAFE)
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            return next((int(line.split()[1]) for line in file if line.startswith(b"mnt_id:")), None)
    finally:
        os.close(fd)


def _below(path: bytes, directory: bytes) -> bytes | None:
    """``path`` relative to ``directory``; empty if they are the same, None if it is not below."""
    if path == directory:
        return b""
    start = directory if directory.endswith(b"/") else directory + b"/"
    return path[len(start) :] if path.startswith(start) else None


def _joined(directory: bytes, rest: bytes) -> bytes:
    return os.path.join(directory, rest) if rest else directory
