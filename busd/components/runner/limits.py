"""What a runner's process may use, and what it does use: the limit that the system keeps, and the figures of status."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

if sys.platform != "win32":
    import resource

__all__ = ["CPU_SECONDS", "LEAST_MEMORY_BYTES", "Usage", "limit_memory", "resident_bytes"]

LEAST_MEMORY_BYTES: Final = 48 << 20
"""The system's limit is not set below this: a runner has 20 MiB of data before its component has any."""

STACK_BYTES: Final = 1 << 20
"""Of each thread: all of it counts as data, used or not, and the usual 8 MiB leave room for 60 threads in 512 MiB."""

CPU_SECONDS: Final = 10.0
"""The time over which processor time is averaged: a burst of work is not a breach of the budget."""


def limit_memory(limit_bytes: int) -> bool:
    """Have every allocation fail (MemoryError) that would take this process's data beyond ``limit_bytes``.

    Below 48 MiB that is the limit. It cannot be taken back, and threads begun from now on have stacks of 1 MiB. False
    where the system keeps no such limit (Windows): there, and for what does not count as data (mapped files, shared
    memory), only the measured budget remains.

    Raises OSError or ValueError where the system refuses it.
    """
    if sys.platform != "win32":
        limit_bytes = max(limit_bytes, LEAST_MEMORY_BYTES)
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            limit_bytes = min(limit_bytes, hard)  # what was set before us stands
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
        threading.stack_size(STACK_BYTES)
        return True
    return False


def resident_bytes() -> int:
    """Memory of this process that is in RAM; without psutil the most that it ever was, and 0 where neither is known."""
    measured = _by_psutil()
    if measured is not None:
        return measured
    if sys.platform != "win32":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # the one counts bytes, the others KiB
    return 0


def _by_psutil() -> int | None:
    try:
        import psutil  # an extra: a component in a guest may be without
    except ImportError:
        return None
    try:
        return int(psutil.Process().memory_info().rss)
    except (psutil.Error, OSError):
        return None


class Usage:
    """Memory and processor time of this process.

    Args:
        processor: seconds of processor time used since some start, all threads together.
        memory: bytes in RAM.
    """

    def __init__(
        self,
        *,
        processor: Callable[[], float] = time.process_time,
        memory: Callable[[], int] = resident_bytes,
    ) -> None:
        self._processor = processor
        self._memory = memory
        self._looks: deque[tuple[float, float]] = deque()
        self.memory_bytes = 0
        """In RAM, at the last look."""
        self.cpu_percent = 0.0
        """Of one core, over the last 10 s before the last look, or since the first."""

    def look(self, now: float) -> None:
        """Measure; ``now`` is in seconds and does not go back."""
        self.memory_bytes = self._memory()
        used = self._processor()
        self._looks.append((now, used))
        while len(self._looks) > 2 and self._looks[1][0] <= now - CPU_SECONDS:
            self._looks.popleft()
        since, before = self._looks[0]
        if now > since:
            self.cpu_percent = round(100.0 * (used - before) / (now - since), 2)
