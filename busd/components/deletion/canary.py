"""What a neighbour on the same disk feels: how long a small fsync takes, and how much the kernel says tasks stall."""

import os
import re
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

__all__ = ["CANARY_NAME", "Canary", "Pressure"]

CANARY_NAME: Final = b".busd-canary"
"""The canary's file. It keeps its name while it is used: some file systems (btrfs) do no work for the fsync of a file
without one, and so would never be slow."""

PERIOD_SECONDS: Final = 1.0
"""Between two writes, at most: often enough to answer within 2 s."""

SHARE: Final = 20
"""Times what the last write took, the next one begins: it takes a twentieth of the disk's time, and harms nobody."""

SHORTEST_SECONDS: Final = 0.4
"""Between two writes, at least: five in two seconds, so that one that is slow by accident is one of several. Another's
fsync at the same time waits for ours."""

ALONE: Final = 5
"""Writes at once to begin with: how long they take before anybody removes anything is what the others are held to."""

ALONE_SECONDS: Final = 0.25
"""To wait for these: more than they take on a hard disk that is not busy."""

KEPT: Final = 64
"""Figures kept until they are asked for."""

BLOCK: Final = 4096
"""A page: what a database's log writes at least."""

STOP_SECONDS: Final = 2.0
"""To wait for a write that has begun. An fsync on a dead server never returns, and the thread is left to it."""

MOST: Final = 4096
"""Bytes of /proc/pressure/io; it has about 120."""

_SOME: Final = re.compile(rb"^some .*?\bavg10=([0-9]{1,3}(?:\.[0-9]{1,4})?)\b", re.MULTILINE)


class Canary:
    """A thread that writes and fsyncs 4 KiB in a directory, times that, and rests for 0.4 to 1 s.

    Attributes:
        problem: why there are no figures ("No space left on device"); empty while there are.
        writes: so many have begun.
    """

    def __init__(
        self,
        directory: int,
        *,
        period: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sync: Callable[[int], None] = os.fsync,
    ) -> None:
        """``directory`` is duplicated; ``period``: seconds between two writes, whatever they take. Raises OSError when
        it cannot be duplicated.
        """
        self.problem = ""
        self.writes = 0
        self._directory = os.dup(directory)
        self._period = period
        self._clock = clock
        self._sync = sync
        self._last: tuple[float, float] | None = None
        self._new: deque[tuple[float, float]] = deque(maxlen=KEPT)
        self._running: float | None = None
        self._stop = threading.Event()
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deletion-canary", daemon=True)

    def start(self) -> None:
        """Begin. Returns after the first five writes, or 0.25 s: the job that it is for begins then."""
        self._thread.start()
        self._settled.wait(ALONE_SECONDS)

    def stop(self) -> None:
        """End, and remove the file. Returns after 2 s also when a write does not return."""
        self._stop.set()
        if self._thread.ident is None:
            self._close()
        else:
            self._thread.join(STOP_SECONDS)

    def read(self) -> tuple[float, float] | None:
        """When the last write began and how many seconds it took; None before the first.

        A write that lasts already longer than the last one took is the answer before it returns.
        """
        last, running = self._last, self._running
        if running is not None and (last is None or self._clock() - running > last[1]):
            return running, self._clock() - running
        return last

    def recent(self) -> list[tuple[float, float]]:
        """The writes since this was last asked, each as `read` has it; at the end one that lasts, as there."""
        found = [self._new.popleft() for _ in range(len(self._new))]
        now = self.read()
        if now is not None and (not found or found[-1] != now):
            found.append(now)
        return found

    def _run(self) -> None:
        file = -1
        try:
            turn = 0
            while not self._stop.is_set():
                try:
                    if file < 0:
                        file = self._open()
                    self._measure(file, turn)
                    self.problem = ""
                except OSError as error:
                    # No figure is no good news and no bad: the controller has its other signs.
                    self.problem = error.strerror or str(error)
                    self._last = None
                    self._new.clear()
                    if file >= 0:
                        os.close(file)
                        file = -1
                finally:
                    self._running = None
                turn += 1
                if turn >= ALONE or self._last is None or self._period is not None:
                    self._settled.set()
                    self._stop.wait(self._pause())
        finally:
            if file >= 0:
                os.close(file)
                with suppress(OSError):
                    os.unlink(CANARY_NAME, dir_fd=self._directory)
            self._close()

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT
        for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK"):
            flags |= getattr(os, name, 0)
        file = os.open(CANARY_NAME, flags, 0o600, dir_fd=self._directory)
        status = os.fstat(file)
        # One that an earlier life left is used again; what somebody put there for us to write to is not.
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != _uid():
            os.close(file)
            raise OSError(0, "what has the canary's name is not the canary's file")
        return file

    def _measure(self, file: int, turn: int) -> None:
        block = bytes([turn % 256]) * BLOCK  # what changes must be written
        self.writes += 1
        began = self._running = self._clock()
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, block)
        self._sync(file)
        self._last = (began, self._clock() - began)
        self._new.append(self._last)

    def _pause(self) -> float:
        if self._period is not None or self._last is None:
            return self._period or PERIOD_SECONDS
        return min(PERIOD_SECONDS, max(SHORTEST_SECONDS, SHARE * self._last[1]))

    def _close(self) -> None:
        directory, self._directory = self._directory, -1
        if directory >= 0:
            os.close(directory)


class Pressure:
    """The kernel's pressure stall information for I/O; nothing where there is none (not Linux, or psi=0)."""

    def __init__(self, path: str = "/proc/pressure/io") -> None:
        self._path = path

    def read(self) -> float | None:
        """Percent of the last 10 s in which some task stalled on I/O ("some avg10"); None where nobody says."""
        try:
            with open(self._path, "rb") as file:
                found = _SOME.search(file.read(MOST))
        except OSError:
            return None
        return float(found[1]) if found else None


def _uid() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0  # Windows: st_uid is 0
