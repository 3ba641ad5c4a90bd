"""How many files a second a file system bears: additive increase, multiplicative decrease. Pure: time is an argument.

Three signs say that it is too much. An unlink of ours takes long; a small file's fsync beside it takes long (the
canary: that is what a neighbour feels); the kernel says that tasks stall on I/O (PSI).
"""

from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

__all__ = ["Controller", "Decision", "Thresholds"]

PERIOD_SECONDS: Final = 0.5
"""Between two decisions: half of what is between two canaries, so none waits long to be heard."""

FIRST: Final = 20_000.0
"""Files a second to begin with: an SSD does not notice it, and doubling reaches what Python can do within 2 s."""

FLOOR: Final = 50.0
"""Files a second that are always left, or a job on a disk that others keep busy would never end."""

CEILING: Final = 1_000_000.0
"""Files a second: several times what any local file system does."""

CUT: Final = 0.5
"""A sign halves the rate: TCP's factor, and two of them within 2 s leave a quarter."""

STEP: Final = 0.05
"""Of the rate before the cut, regained with each decision: back after 5 s, if nothing speaks against it."""

CALM_SECONDS: Final = 5.0
"""Without any sign, growth is by a quarter instead: what was cut for somebody who has gone comes back within 10 s."""

GROWTH: Final = 1.25
USED: Final = 0.5
"""Of the rate: who does not use as much learns nothing by being allowed more."""

SAMPLES: Final = 4096
"""Batches remembered for one decision: 0.5 s at a million files a second."""

PRESSURE_HOLD_SECONDS: Final = 5.0
"""avg10 remembers for 10 s what is over: while it falls, one cut is answered by waiting."""


OURS: Final = 2.0
"""Times what it is without us: more is our doing."""

SLOWEST: Final = 4.0
"""Times the threshold: what even the slowest disk is not to exceed."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From when on a sign speaks. A latency that is above its threshold at `FLOOR` too is not our doing: the disk is
    slow, or somebody else keeps it busy. Then twice that speaks, up to four times the threshold.
    """

    own_seconds: float = 0.002
    """Of one unlink, at the 95th percentile: 100 times an SSD's, and more than an NFS server's."""
    canary_seconds: float = 0.05
    """Of an fsync of 4 KiB: a quiet hard disk takes 10 to 30 ms."""
    pressure_percent: float = 40.0
    """Of the time in which some task stalled on I/O. Our own threads count, so a disk that is only ours has some."""


class Decision(NamedTuple):
    """What may be removed from now on."""

    files_per_second: float
    why: str
    """"own latency", "canary", "pressure", "limit", "paused", or nothing: it is as fast as it gets, or rising."""


class _Latency:
    """One of the two latencies, and what it is without us."""

    __slots__ = ("_threshold", "_usual")

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._usual = 0.0

    def slow(self, seconds: float, *, alone: bool) -> bool:
        """Whether that is too long; ``alone``: it was measured while we did next to nothing."""
        if seconds <= self._threshold:
            self._usual = 0.0  # the disk can do that: from now on it has to
            return False
        if alone and (not self._usual or seconds < self._usual):
            self._usual = seconds
        return seconds > max(self._threshold, min(OURS * self._usual, SLOWEST * self._threshold))


class Controller:
    """Decides the rate of one file system. Not thread-safe.

    Args:
        limit: files a second that it never exceeds; None: none but `CEILING`. 0 is a pause.
        thresholds: from when on a sign speaks.
    """

    def __init__(self, limit: float | None = None, thresholds: Thresholds | None = None) -> None:
        self.limit = limit
        self._thresholds = thresholds or Thresholds()
        self._rate = FIRST
        self._before = 0.0  # the rate before the cuts that it recovers from; 0: there were none
        self._why = ""
        self._rising = True  # doubling, until the first sign
        self._rose = False  # since the last cut
        self._decided: float | None = None
        self._signed: float | None = None
        self._cut: float | None = None
        self._batches: deque[tuple[float, int]] = deque(maxlen=SAMPLES)  # seconds a file, files
        self._files = 0
        self._own = _Latency(self._thresholds.own_seconds)
        self._canary: tuple[float, float] | None = None  # when it began, seconds
        self._neighbour = _Latency(self._thresholds.canary_seconds)
        self._floor: float | None = None  # since when the rate has been the floor
        self._pressure: float | None = None
        self._pressure_cut = (float("-inf"), 0.0)  # when it was the reason for a cut, and percent

    def took(self, files: int, seconds: float) -> None:
        """A batch of ours ended: so many files, in so many seconds."""
        if files > 0:
            self._batches.append((seconds / files, files))
            self._files += files

    def canary(self, seconds: float, began: float) -> None:
        """An fsync that began at ``began`` took ``seconds``, or has lasted so long and not returned."""
        self._canary = (began, seconds)

    def pressure(self, percent: float | None) -> None:
        """PSI's io some avg10; None where there is none."""
        self._pressure = percent

    def decide(self, now: float) -> Decision:
        """The rate from ``now`` on. Asked more often than every 0.5 s it gives the last answer again."""
        if self._decided is None or now - self._decided >= PERIOD_SECONDS - 1e-6:
            seconds = now - self._decided if self._decided is not None else PERIOD_SECONDS
            self._decided = now
            done = self._files / seconds
            sign, fresh = self._sign(now)
            if sign:
                self._signed = now
                if fresh:
                    self._fall(sign, done, now)
            elif self._calm(now, PERIOD_SECONDS):
                self._rise(done, now)
            if self._rate > FLOOR:
                self._floor = None
            elif self._floor is None:
                self._floor = now
            self._batches.clear()
            self._files = 0
        return self._decision()

    def _decision(self) -> Decision:
        if self.limit is not None:
            if self.limit <= 0:
                return Decision(0.0, "paused")
            if self.limit <= self._rate:
                return Decision(self.limit, "limit")
        return Decision(self._rate, self._why)

    def _sign(self, now: float) -> tuple[str, bool]:
        """What speaks against this rate; and whether it tells of this rate, or still of the one before the last cut."""
        limits = self._thresholds
        took = self._p95()
        slow = took is not None and self._own.slow(took, alone=self._floor is not None)
        if self._canary is not None:
            began, seconds = self._canary
            if self._neighbour.slow(seconds, alone=self._floor is not None and began >= self._floor):
                lasting = began + seconds >= now - 1e-6
                return "canary", self._cut is None or began >= self._cut or lasting
        if slow:
            return "own latency", True
        if self._pressure is not None and self._pressure >= limits.pressure_percent:
            at, percent = self._pressure_cut
            fresh = now - at >= PRESSURE_HOLD_SECONDS or self._pressure >= percent + 1
            if fresh:
                self._pressure_cut = (now, self._pressure)
            return "pressure", fresh
        return "", False

    def _p95(self) -> float | None:
        """Seconds of an unlink at the 95th percentile; only the mean of each batch is known. None without any."""
        if not self._batches:
            return None
        left = 0.05 * sum(files for _, files in self._batches)
        for seconds, files in sorted(self._batches, reverse=True):
            left -= files
            if left < 0:
                return seconds
        return None

    def _fall(self, sign: str, done: float, now: float) -> None:
        if not self._why:
            self._before = self._rate
        elif self._rose:  # this disk bears less than it did: regain it in smaller steps
            self._before = max(self._rate, CUT * self._before)
        # From what was really done: half of an allowance that nobody uses would change nothing.
        used = min(self._rate, done) if done else self._rate
        self._rate = max(FLOOR, CUT * used)
        self._why = sign
        self._cut = now
        self._rising = self._rose = False

    def _calm(self, now: float, seconds: float) -> bool:
        return self._signed is None or now - self._signed >= seconds - 1e-6

    def _rise(self, done: float, now: float) -> None:
        if done < USED * self._rate and not self._why and self._rate >= FIRST:
            return
        self._rose = True
        if self._rising:
            self._rate *= 2
        elif self._calm(now, CALM_SECONDS):
            self._rate *= GROWTH
        else:
            self._rate += max(FLOOR, STEP * self._before)
        self._rate = min(self._rate, CEILING)
        if self._rate >= self._before:
            self._why = ""
