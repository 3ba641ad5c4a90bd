"""S3-FIFO (Yang et al., SOSP'23): a small queue for the new, a main queue for what proved itself, a ghost of the gone.

Most of what is seen once is never seen again. It goes through the small queue quickly; what is hit there twice moves to
the main queue, and so does at once what comes back while it is still remembered. A hit moves nothing, it only counts.
"""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from typing import Final

from busd.components.cache.entry import Entry

__all__ = ["S3FIFO"]

SMALL: Final = 10
"""Percent of the quota for the small queue, as in the paper."""


class S3FIFO:
    """Index in two queues, sized in bytes; the ghost has at most 90 % as many keys as there are entries.

    The paper gives the ghost as many keys as the main queue has places. With a quota in bytes there are no places, and
    a ghost bound to what the main queue has would never let it begin.
    """

    __slots__ = ("_costs", "_ghost", "_main", "_small", "_small_bytes", "_target", "moves", "overhead")

    OVERHEAD: Final = 550

    def __init__(self, quota: int) -> None:
        """``quota`` in bytes: 10 % of it are the small queue's."""
        self._small: OrderedDict[bytes, Entry] = OrderedDict()
        self._main: OrderedDict[bytes, Entry] = OrderedDict()
        self._ghost: OrderedDict[bytes, None] = OrderedDict()
        self._small_bytes = 0
        self._target = quota * SMALL // 100
        self.overhead = self.OVERHEAD
        self.moves: None = None

    def find(self, key: bytes, default: Entry) -> Entry:
        """The entry of ``key``, or ``default``. Without the lock: what moves is in both queues for a moment."""
        entry = self._small.get(key)
        return self._main.get(key, default) if entry is None else entry

    def _size(self, entry: Entry) -> int:
        return len(entry.record) + self.overhead

    def added(self, key: bytes, entry: Entry) -> None:
        """It comes into the small queue, or into the main one if it is remembered."""
        entry.mark = 0
        if key in self._ghost:
            del self._ghost[key]
            self._main[key] = entry
        else:
            self._small[key] = entry
            self._small_bytes += self._size(entry)

    def replaced(self, key: bytes, entry: Entry) -> None:
        """It keeps its place."""
        old = self._small.get(key)
        if old is None:
            self._main[key] = entry
        else:
            self._small_bytes += len(entry.record) - len(old.record)
            self._small[key] = entry

    def removed(self, key: bytes) -> None:
        """Raises KeyError if it is not there."""
        entry = self._small.pop(key, None)
        if entry is None:
            del self._main[key]
        else:
            self._small_bytes -= self._size(entry)
        self._forget()

    def _forget(self) -> None:
        limit = len(self) * (100 - SMALL) // 100
        while len(self._ghost) > limit:
            self._ghost.popitem(last=False)

    def victim(self) -> tuple[bytes, Entry]:
        """Of the small queue while that has its share, else of the main one. Raises KeyError if nothing is there."""
        small, main = self._small, self._main
        turn = self._small_bytes >= self._target or not main
        while turn and small:
            key = next(iter(small))
            entry = small[key]
            size = self._size(entry)
            if entry.mark > 1:
                entry.mark = 0  # "its access bits are cleared during the move" (4.1)
                main[key] = entry
                del small[key]
                self._small_bytes -= size
            else:
                del small[key]
                self._small_bytes -= size
                self._ghost[key] = None
                self._forget()
                return key, entry
        while True:
            if not main:
                raise KeyError("nothing to evict")
            key = next(iter(main))
            entry = main[key]
            if not entry.mark:
                del main[key]
                self._forget()
                return key, entry
            entry.mark -= 1
            main.move_to_end(key)

    def __iter__(self) -> Iterator[bytes]:
        """Oldest first in each queue; the small one first."""
        return chain(self._small, self._main)

    def __len__(self) -> int:
        return len(self._small) + len(self._main)
