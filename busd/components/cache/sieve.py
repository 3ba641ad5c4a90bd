"""SIEVE (Zhang et al., NSDI'24): a queue with a hand that passes over what was hit, and takes what was not.

A hit moves nothing, it only marks. The hand goes from the oldest to the newest, takes the marks away, and evicts the
first without one; who is passed over keeps its place, and who is new comes in at the newest end.
"""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from typing import Final

from busd.components.cache.entry import Entry

__all__ = ["Sieve"]


class Sieve:
    """Index in the order of insertion, in two parts: what the hand has passed, and what is ahead of it.

    The two are the paper's list cut at the hand: passed entries are older than those ahead, each part is in order, and
    where nothing is ahead the hand is back at the oldest. So the hand needs no links of our own.
    """

    __slots__ = ("_ahead", "_passed", "moves", "overhead")

    OVERHEAD: Final = 370

    def __init__(self, quota: int) -> None:
        """``quota`` in bytes; SIEVE does not need it."""
        self._ahead: OrderedDict[bytes, Entry] = OrderedDict()
        self._passed: OrderedDict[bytes, Entry] = OrderedDict()
        self.overhead = self.OVERHEAD
        self.moves: None = None

    def find(self, key: bytes, default: Entry) -> Entry:
        """The entry of ``key``, or ``default``.

        Without the lock: an entry that is passed over is in both parts for a moment, never in none; the third look is
        for a hand that turned back between the first two.
        """
        entry = self._ahead.get(key)
        if entry is None:
            entry = self._passed.get(key)
            if entry is None:
                entry = self._ahead.get(key, default)
        return entry

    def added(self, key: bytes, entry: Entry) -> None:
        """It comes in at the newest end, without a mark."""
        entry.mark = 0
        self._ahead[key] = entry

    def replaced(self, key: bytes, entry: Entry) -> None:
        """It keeps its place."""
        part = self._ahead if key in self._ahead else self._passed
        part[key] = entry

    def removed(self, key: bytes) -> None:
        """Raises KeyError if it is not there. Where the hand is on it, that goes on to the next."""
        if key in self._ahead:
            del self._ahead[key]
            if not self._ahead:
                self._turn()
        else:
            del self._passed[key]

    def _turn(self) -> None:
        """The hand is past the newest: back to the oldest."""
        self._ahead, self._passed = self._passed, self._ahead

    def victim(self) -> tuple[bytes, Entry]:
        """The first without a mark from the hand on. Raises KeyError if nothing is there."""
        while True:
            ahead = self._ahead
            key = next(iter(ahead), None)
            if key is None:
                raise KeyError("nothing to evict")
            entry = ahead[key]
            if not entry.mark:
                del ahead[key]
                if not ahead:
                    self._turn()
                return key, entry
            entry.mark = 0
            self._passed[key] = entry
            del ahead[key]
            if not ahead:
                self._turn()

    def __iter__(self) -> Iterator[bytes]:
        """Oldest first."""
        return chain(self._passed, self._ahead)

    def __len__(self) -> int:
        return len(self._ahead) + len(self._passed)
