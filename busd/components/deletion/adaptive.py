"""How many files a second a file system bears: additive increase, multiplicative decrease. Pure: time is an argument.

Three signs say that it is too much. An unlink of ours takes long; a small file's fsync beside it takes long (the
canary: that is what a neighbour feels); the kernel says that tasks stall on I/O (PSI).
"""

from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

__all__ = ["Controller", "Decision", "Thresholds"]

PERIOD_SECONDS: Final = 0.5
"""Between two decisions: half of what is between two canaries at most, so none waits long to be heard."""

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

FELT_SECONDS: Final = 2.0
"""For which an fsync is remembered: five of them where they are quick."""

FELT_LEAST: Final = 4
"""Fsyncs that tell more than the last one. Then a quarter of them has to be slow: one in ten took
1.2 to 1.8 ms on a machine that others used while nothing was removed."""

USUALLY: Final = 4.0
"""Times what an fsync takes when it is quickest: a neighbour notices."""

LEAST_SECONDS: Final = 0.001
"""What nobody calls slow. Seen on ext4 with a journal in memory, two CPUs that others used too: the upper quartile is
0.2 to 0.5 ms when nothing is removed, and 0.8 to 8 beside an `rm -rf`."""


ALONE: Final = 1 / 16
"""Of what we have done: next to nothing. What is slow even then is taken for somebody else's doing. When only `FLOOR`
told, a run on a busy machine fell from 20,000 to 250 files a second in 14 s, and fsyncs of 3 to 11 ms went on."""

OTHERS: Final = 8.0
"""Flushes a second by others from which on somebody waits for this disk. A quiet machine has one in 5 s."""

OTHERS_SECONDS: Final = 10.0
"""For which that is remembered: a database that commits now and then is met at its next commit, too."""

UNKNOWN_SECONDS: Final = 0.4
"""For three looks. What is surprised in the first tenth of a second is one percent of ten seconds: its p99."""

POLITE: Final = 4_000.0
"""Files a second beside such a neighbour."""

FORGET: Final = 0.998
"""Of the most that was done in one period, with each decision: half of it after three minutes."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From when on a sign speaks. A latency that is above its threshold while we do next to nothing is not our doing:
    the disk is slow, or somebody else keeps it busy. Then twice that speaks, up to four times the threshold.
    """

    own_seconds: float = 0.002
    """Of one unlink, at the 95th percentile: 100 times an SSD's, and more than an NFS server's."""
    canary_seconds: float = 0.05
    """Of an fsync of 4 KiB, at most: a quiet hard disk takes 10 to 30 ms. Memory and a fast disk take
    0.2 to 0.4 ms, and 0.4 to 3 beside an `rm -rf`, so this alone never spoke there: four times what it has been seen to
    take does, from 1 ms on."""
    pressure_percent: float = 40.0
    """Of the time in which some task stalled on I/O. Our own threads count, so a disk that is only ours has some."""


class Decision(NamedTuple):
    """What may be removed from now on."""

    files_per_second: float
    why: str
    """"own latency", "canary", "pressure", "neighbours", "limit", "paused", or nothing: it goes as fast as it can."""


class _Latency:
    """One of the two latencies, and what it is without us."""

    __slots__ = ("_most", "_threshold", "_usual")

    def __init__(self, threshold: float) -> None:
        self._most = self._threshold = threshold
        self._usual = 0.0

    def seen(self, seconds: float) -> None:
        """So quick it can be: what is much slower is slow."""
        self._threshold = min(self._threshold, max(LEAST_SECONDS, USUALLY * seconds))

    def slow(self, seconds: float, *, alone: bool) -> bool:
        """Whether that is too long; ``alone``: it was measured while we did next to nothing."""
        if seconds <= self._threshold:
            self._usual = 0.0  # the disk can do that: from now on it has to
            return False
        if alone and (not self._usual or seconds < self._usual):
            self._usual = seconds
        return seconds > max(self._threshold, min(OURS * self._usual, SLOWEST * self._most))


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
        self._canaries: deque[tuple[float, float]] = deque(maxlen=SAMPLES)  # when it began, seconds
        self._neighbour = _Latency(self._thresholds.canary_seconds)
        self._most = 0.0  # files a second that were really done
        self._low: float | None = None  # since when the rate has been next to nothing
        self._counted = False  # whether others' flushes can be counted here
        self._heard: float | None = None  # when others were last heard of
        self._pressure: float | None = None
        self._pressure_cut = (float("-inf"), 0.0)  # when it was the reason for a cut, and percent

    def took(self, files: int, seconds: float) -> None:
        """A batch of ours ended: so many files, in so many seconds."""
        if files > 0:
            self._batches.append((seconds / files, files))
            self._files += files

    def canary(self, seconds: float, began: float) -> None:
        """An fsync that began at ``began`` took ``seconds``, or has lasted so long and not returned."""
        if self._canaries and self._canaries[-1][0] == began:
            self._canaries.pop()
        self._canaries.append((began, seconds))

    def unknown(self, now: float) -> None:
        """Nobody has looked yet whether others wait for this disk: it is as if, until there was time to see that."""
        self._counted = True
        self._heard = now - OTHERS_SECONDS + UNKNOWN_SECONDS

    def others(self, flushes: float, now: float) -> None:
        """Others have had the disk flushed so often a second, of late."""
        self._counted = True
        if flushes >= OTHERS:
            self._heard = now

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
            self._most = max(done, FORGET * self._most)
            if self._rate > max(FLOOR, ALONE * self._most):
                self._low = None
            elif self._low is None:
                self._low = now
            self._batches.clear()
            self._files = 0
        return self._decision(now)

    def _decision(self, now: float) -> Decision:
        found = Decision(self._rate, self._why)
        if self._counted and self._near(now) and self._rate > POLITE:
            found = Decision(POLITE, "neighbours")
        if self.limit is not None:
            if self.limit <= 0:
                return Decision(0.0, "paused")
            if self.limit <= found.files_per_second:
                return Decision(self.limit, "limit")
        return found

    def _sign(self, now: float) -> tuple[str, bool]:
        """What speaks against this rate; and whether it tells of this rate, or still of the one before the last cut."""
        limits = self._thresholds
        took = self._p95()
        slow = took is not None and self._own.slow(took, alone=self._low is not None)
        if self._canaries:
            began, seconds = self._felt(now)
            if not self._near(now):
                slow_fsync = seconds > limits.canary_seconds  # nobody is there who would feel less
            else:
                slow_fsync = self._neighbour.slow(seconds, alone=self._low is not None and began >= self._low)
            if slow_fsync:
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

    def _near(self, now: float) -> bool:
        """Whether somebody waits for this disk, as far as is known."""
        return not self._counted or (self._heard is not None and now - self._heard < OTHERS_SECONDS)

    def _felt(self, now: float) -> tuple[float, float]:
        """What a neighbour feels now, and since when: the upper quartile since the last cut, or the last fsync."""
        while len(self._canaries) > 1 and sum(self._canaries[0]) < now - FELT_SECONDS:
            self._canaries.popleft()
        # While the rate doubles, what was felt two decisions ago is no news of it.
        since = now - 2 * PERIOD_SECONDS if self._cut is None else self._cut
        recent = [each for each in self._canaries if each[0] >= since]
        if len(recent) < FELT_LEAST:
            return self._canaries[-1]
        seconds = sorted((each[1] for each in recent), reverse=True)[len(recent) // 4]
        self._neighbour.seen(seconds)
        return recent[0][0], seconds

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
        # From what was really done: half of an allowance that nobody uses would change nothing.
        used = min(self._rate, done) if done else self._rate
        if not self._why:
            self._before = used
        elif self._rose:  # this disk bears less than it did: regain it in smaller steps
            self._before = max(used, CUT * self._before)
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
