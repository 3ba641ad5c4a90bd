"""When a data key is given up: too many records of its epoch failed authentication within too short a time."""

import threading
from collections import deque
from collections.abc import Collection
from typing import Final

__all__ = ["FAILURES", "SECONDS", "Quarantine"]

FAILURES: Final = 16
"""Of one epoch, until its key is destroyed. Memory that goes bad changes a record now and then; whoever writes to it,
or a bug that mixes records up, does it again and again. With GCM each try that fails also says something about the key
of its authentication (Procter and Cid, FSE 2013): one of sixteen with 16 MiB each succeeds with 2^-103 at most."""

SECONDS: Final = 60.0
"""Within which these failures are: what comes once in an hour is looked after by somebody, or by chance."""


class Quarantine:
    """The latest failures of one tenant, by epoch. Thread-safe.

    What it holds is bounded by the tenant's epochs times ``failures``.
    """

    __slots__ = ("_failures", "_latest", "_lock", "_seconds")

    def __init__(self, failures: int = FAILURES, seconds: float = SECONDS) -> None:
        """An epoch is due with its ``failures``-th failure within ``seconds``; 0: none ever is."""
        self._failures = failures
        self._seconds = seconds
        self._latest: dict[int, deque[float]] = {}
        self._lock = threading.Lock()

    def forked(self) -> None:
        """In the child of a fork: begin anew. The lock may be held by a thread that is not here."""
        self._latest = {}
        self._lock = threading.Lock()

    def is_due(self, epoch: int, now: float, epochs: Collection[int]) -> bool:
        """Count a failure of ``epoch`` at ``now``; whether its key has to go. It then begins at 0.

        ``epochs`` are those that have keys: of another one nothing is counted, and what was is forgotten.
        """
        if not self._failures or epoch not in epochs:
            return False
        with self._lock:
            for gone in self._latest.keys() - set(epochs):
                del self._latest[gone]
            latest = self._latest.setdefault(epoch, deque(maxlen=self._failures))
            latest.append(now)
            if len(latest) < self._failures or now - latest[0] > self._seconds:
                return False
            del self._latest[epoch]
            return True
