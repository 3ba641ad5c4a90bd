"""How often others have a disk write its cache: who calls fsync waits for that, and is who feels a deletion first."""

import os
import sys
from typing import Final

__all__ = ["Flushes"]

_FIELD: Final = 18
"""Of a line of /proc/diskstats: flush requests completed (Documentation/admin-guide/iostats.rst; Linux 5.5)."""

MOST: Final = 1 << 18
"""Bytes of that file: 150 for each of 1,700 devices."""


class Flushes:
    """The count of flush requests of the block device with the number ``device``."""

    def __init__(self, device: int, path: str = "/proc/diskstats") -> None:
        if sys.platform == "win32":
            numbers = (0, 0)
        else:
            numbers = (os.major(device), os.minor(device))
        self._numbers = tuple(str(number).encode() for number in numbers)
        self._path = path

    def read(self) -> int | None:
        """The count since the machine was started; None where nobody counts: no block device of one's own (btrfs,
        overlay, a file server), one that has nothing to flush and so is not asked to, another system.
        """
        try:
            with open(self._path, "rb") as file:
                for line in file.read(MOST).splitlines():
                    fields = line.split()
                    if tuple(fields[:2]) == self._numbers:
                        return int(fields[_FIELD]) or None
        except (OSError, ValueError, IndexError):
            return None
        return None
