"""Rates with a burst: the token bucket, kept as one number."""


class TokenBucket:
    """Allows ``rate`` a second and ``burst`` at once.

    What is spent may go past what is there: who spends then has to wait until the debt is paid, so something large
    costs what it is worth instead of being impossible. Kept as the time at which the bucket is full again (the generic
    cell rate algorithm, ITU-T I.371), so nothing has to be done while nobody looks.
    """

    __slots__ = ("_burst_seconds", "_debtors", "_full_at", "_interval", "burst", "rate")

    def __init__(self, rate: float, burst: float, debtors: "set[TokenBucket] | None" = None) -> None:
        """``rate`` per second, above 0; ``burst`` in the same unit. Adds itself to ``debtors`` when it is in debt."""
        self._debtors = debtors
        self.rate = rate
        self.burst = burst
        self._interval = 1.0 / rate
        self._burst_seconds = burst / rate
        self._full_at = 0.0

    def spend(self, amount: float, now: float) -> None:
        """Take ``amount`` out at ``now`` (seconds)."""
        full_at = self._full_at
        self._full_at = full_at = (full_at if full_at > now else now) + amount * self._interval
        if self._debtors is not None and full_at - self._burst_seconds > now:
            self._debtors.add(self)

    @property
    def ready_at(self) -> float:
        """From when on there is no debt; in the past while there is none."""
        return self._full_at - self._burst_seconds

    def available(self, now: float) -> float:
        """What is there at ``now``; negative is debt."""
        return self.burst - max(0.0, self._full_at - now) * self.rate
