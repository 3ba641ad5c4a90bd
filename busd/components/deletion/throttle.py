"""How fast files may go: the rates of one job, one tenant or one file system. Pure: the time is an argument.

A neighbour on the same disk pays for every unlink, and neither ioprio nor nice prevents that: the journal's writes are
the kernel's own. So what is removed is rationed by count and by bytes, as RocksDB's DeleteScheduler and Ceph's purge
queue do.
"""

import math
from typing import Final

__all__ = ["BURST_SECONDS", "Bucket", "Throttle"]

BURST_SECONDS: Final = 0.25
"""What an idle bucket saves up. Less, and a thread that the system wakes late cannot make up for it; more, and
neighbours notice."""

_RESOLUTION: Final = 1e-8
"""Seconds that are no wait: what adding up floats loses. Who wakes on time must not miss the turn by that."""


class Bucket:
    """A token bucket that can be changed while it is used.

    A cost within the burst passes when that much is there. A larger one passes when the bucket is full, and leaves a
    debt; otherwise it could never pass. So in any window of t seconds at most rate * t + max(burst, largest cost)
    passes.
    """

    __slots__ = ("_at", "_balance", "_priced", "rate")

    def __init__(self, rate: float | None) -> None:
        """``rate`` per second; None: unbounded, 0: nothing passes. Raises ValueError for anything else not above 0."""
        self.rate = _checked(rate, "the rate")
        self._balance = self.burst
        self._priced = self.rate or 0.0
        self._at = -math.inf

    @property
    def burst(self) -> float:
        """What it holds when full."""
        return (self.rate or 0.0) * BURST_SECONDS

    def change(self, rate: float | None, now: float) -> None:
        """Let ``rate`` hold from ``now`` on. Raises ValueError as the constructor.

        A debt was made at the old rate. Slower: it takes no longer than it would have taken. Faster: it is paid faster.
        Whoever was not bounded before begins with nothing saved.
        """
        _checked(rate, "the rate")
        self._refill(now)
        self.rate = rate
        if rate and self._balance < 0 and self._priced > rate:
            self._balance *= rate / self._priced
        self._priced = rate or self._priced
        self._balance = min(self._balance, self.burst) if rate is not None else min(self._balance, 0.0)

    def _refill(self, now: float) -> None:
        if now > self._at:
            if self.rate is None:
                self._balance = 0.0
            elif self._balance < self.burst:
                self._balance = min(self.burst, self._balance + (now - self._at) * self.rate)
            self._at = now

    def ready_at(self, cost: float, now: float) -> float:
        """When ``cost`` may pass if nothing else does until then: ``now`` or later; infinite while the rate is 0."""
        if self.rate is None:
            return now
        if not self.rate:
            return math.inf
        if not cost:  # what costs nothing does not wait for a debt either
            return now
        self._refill(now)
        wait = (min(cost, self.burst) - self._balance) / self.rate
        return now if wait <= _RESOLUTION else now + wait

    def spend(self, cost: float, now: float) -> None:
        """Let ``cost`` pass at ``now``. Whether it may is the caller's question to `ready_at`."""
        if self.rate is not None:
            self._refill(now)
            self._balance -= cost


class Throttle:
    """What one job, one tenant or one file system may remove: files a second, bytes a second, files at once.

    Attributes:
        name: who it is for, as a reason names it: "job", "tenant", "file system".
        why: the reason that a waiter is told: "limit", or what a controller says of the rate that it set.
        paused: nothing begins until it is false again; the limits stay what they are.
        in_flight: files whose removal has begun and not ended.
        batches: batches of these.
        peak: the highest that ``in_flight`` ever was.
    """

    __slots__ = ("_bytes", "_files", "_most", "batches", "in_flight", "name", "paused", "peak", "why")

    def __init__(
        self,
        name: str = "job",
        *,
        files_per_second: float | None = None,
        bytes_per_second: float | None = None,
        files_in_flight: float | None = None,
    ) -> None:
        """None is unbounded, 0 lets nothing begin. Raises ValueError for less than 0 and for what is no number."""
        self.name = name
        self.why = "limit"
        self.paused = False
        self.in_flight = self.batches = self.peak = 0
        self._files = Bucket(files_per_second)
        self._bytes = Bucket(bytes_per_second)
        self._most = _checked(files_in_flight, "files in flight")

    @property
    def files_per_second(self) -> float | None:
        """None: unbounded."""
        return self._files.rate

    @property
    def bytes_per_second(self) -> float | None:
        """None: unbounded."""
        return self._bytes.rate

    @property
    def files_in_flight(self) -> float | None:
        """None: unbounded. One batch may always be in flight, however many files it has."""
        return self._most

    @property
    def stopped(self) -> bool:
        """Whether nothing may begin, whatever the time."""
        return self.paused or 0 in (self._files.rate, self._bytes.rate, self._most)

    def change_files(self, per_second: float | None, now: float) -> None:
        """Set files a second from ``now`` on; raises ValueError as the constructor."""
        self._files.change(per_second, now)

    def change_bytes(self, per_second: float | None, now: float) -> None:
        """Set bytes a second from ``now`` on; raises ValueError as the constructor."""
        self._bytes.change(per_second, now)

    def change_in_flight(self, files: float | None) -> None:
        """Set how many files at once; raises ValueError as the constructor. What is in flight ends as it would."""
        self._most = _checked(files, "files in flight")

    def ready_at(self, files: int, size: int, now: float) -> float:
        """When a batch of ``files`` that frees ``size`` bytes may begin; infinite while only others can change that."""
        if self.stopped:
            return math.inf
        if self._most is not None and self.batches and self.in_flight + files > self._most:
            return math.inf
        return max(self._files.ready_at(files, now), self._bytes.ready_at(size, now))

    def begin(self, files: int, size: int, now: float) -> None:
        """A batch begins: its files and bytes are spent."""
        self._files.spend(files, now)
        self._bytes.spend(size, now)
        self.batches += 1
        self.in_flight += files
        self.peak = max(self.peak, self.in_flight)

    def end(self, files: int) -> None:
        """A batch that began with so many files has ended."""
        self.batches -= 1
        self.in_flight -= files

    def seconds(self, files: int, size: int) -> float:
        """What share of this a batch takes: the seconds for which it uses up the scarcer of files and bytes."""
        rates = ((files, self._files.rate), (size, self._bytes.rate))
        costs = [amount / rate for amount, rate in rates if rate]
        return max(costs) if costs else files / _NOMINAL


_NOMINAL: Final = 10_000.0
"""Files a second that a share is counted in where there is no rate. Only the ratio of two such shares matters."""


def _checked(limit: float | None, what: str) -> float | None:
    if limit is not None and not 0 <= limit < math.inf:  # NaN is neither
        raise ValueError(f"{what} is {limit}; it has to be 0 or more, and finite")
    return limit
