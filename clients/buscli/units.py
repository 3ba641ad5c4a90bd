"""Figures and names for people."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


def own_user_id() -> int:
    """The user that this process runs as; -1, which is nobody's, on Windows, where users have no numbers."""
    if sys.platform == "win32":
        return -1
    return os.geteuid()


def user_name(uid: int) -> str | int:
    """The name of a user id, or the id itself where this machine has no name for it."""
    if sys.platform == "win32":  # users there have no numbers
        return uid
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return uid


def duration(seconds: float) -> str:
    """A span of time with its two largest units, such as ``3h 20m``; below a minute with one."""
    if seconds < 1:
        return f"{seconds * 1e3:.0f}ms"
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if hours < 24 else f"{hours // 24}d {hours % 24}h"


def short(seconds: float) -> str:
    """A measured time in the unit that fits it: ``850 us``, ``1.25 ms``, ``2.1 s``."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def binary_size(size: int) -> str:
    """Bytes in the largest unit that they fill: ``0 B``, ``1.5 KiB``, ``32 MiB``."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:.1f}".removesuffix(".0") + f" {unit}"


def rfc3339(moment: "datetime") -> str:
    """A moment of UTC as RFC 3339, with microseconds."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
