"""Least recently used, exactly: who was not used for longest goes."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

from busd.components.cache.entry import Entry

__all__ = ["LRU"]


class LRU:
    """Index in the order of last use. A hit is one call into C, atomic under the GIL."""

    __slots__ = ("_order", "find", "moves", "overhead")

    OVERHEAD: Final = 370

    def __init__(self, quota: int) -> None:
        """``quota`` in bytes; LRU does not need it."""
        self._order: OrderedDict[bytes, Entry] = OrderedDict()
        self.overhead = self.OVERHEAD
        self.find: Callable[[bytes, Entry], Entry] = self._order.get
        self.moves: Callable[[bytes], None] | None = self._order.move_to_end

    def added(self, key: bytes, entry: Entry) -> None:
        """It is the last to go."""
        self._order[key] = entry

    replaced = added  # assignment keeps the place

    def removed(self, key: bytes) -> None:
        """Raises KeyError if it is not there."""
        del self._order[key]

    def victim(self) -> tuple[bytes, Entry]:
        """The least recently used. Raises KeyError if there is none."""
        return self._order.popitem(last=False)

    def __iter__(self) -> Iterator[bytes]:
        """Least recently used first."""
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)
