"""Giving memory back to the system after a flood.

What is freed stays with the process: the allocator keeps it for the next time, and one small object at the end of a
hundred freed megabytes is enough. A node that was flooded once would be as large as then for ever (68 MiB in use and
590 taken, measured). So from time to time, if it has become much larger, it is asked to let go (glibc's malloc_trim).
"""

import asyncio
import ctypes
from collections.abc import Callable
from pathlib import Path
from resource import getpagesize
from typing import Final

__all__ = ["Memory", "give_back", "resident"]

PERIOD_SECONDS: Final = 60.0
"""Between two looks. To let go takes 0.12 ms of the loop for each MiB (measured): 40 ms, once, after a flood of 330."""

LONGEST_SECONDS: Final = 600.0
"""The same of a process that has really grown: each time that there was little to let go of, it is left alone for twice
as long. It may have been asked in the middle of a flood."""

WORTH_BYTES: Final = 32 << 20
"""Growth that makes it worth the while."""

_STATM: Final = Path("/proc/self/statm")
_trim: Final = getattr(ctypes.CDLL(None), "malloc_trim", None)


def resident() -> int:
    """Bytes of memory that this process takes; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * getpagesize()
    except OSError:
        return 0


def give_back() -> None:
    """Return what is free to the system, where the allocator can: glibc."""
    if _trim is not None:
        _trim(0)


class Memory:
    """Lets go of memory that is not used any more, after the process has become larger."""

    def __init__(self, resident: Callable[[], int] = resident, give_back: Callable[[], None] = give_back) -> None:
        self._resident = resident
        self._give_back = give_back
        self._least = 0
        """The least that it has taken."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """From now on; what is taken already is taken to be needed."""
        self._least = self._resident()
        self._task = asyncio.get_running_loop().create_task(self._look_on())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look_on(self) -> None:
        wait = PERIOD_SECONDS
        while True:
            await asyncio.sleep(wait)
            taken = self._resident()
            if taken - self._least < WORTH_BYTES:
                self._least = min(self._least, taken)
                wait = PERIOD_SECONDS
                continue
            self._give_back()
            wait = PERIOD_SECONDS if taken - self._resident() >= WORTH_BYTES else min(2 * wait, LONGEST_SECONDS)
