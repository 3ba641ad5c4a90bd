"""What one tenant may hold, and holds."""

from typing import Final

from busproto.errors import BusError, Code

__all__ = ["Quota"]


class Quota:
    """Bytes and entries of one tenant. Whoever changes it holds the lock of the store.

    Attributes:
        limit: bytes, overhead included.
        entries_limit: entries.
        used: bytes in use; never above the limit.
        entries: entries in use; never above theirs.
        most: the most bytes that were ever in use at once.
    """

    __slots__ = ("entries", "entries_limit", "limit", "most", "used")

    def __init__(self, limit: int, entries_limit: int) -> None:
        self.limit: Final = limit
        self.entries_limit: Final = entries_limit
        self.used = 0
        self.entries = 0
        self.most = 0

    def check(self, cost: int) -> None:
        """Raises BusError 9104 if ``cost`` is more than all that there is."""
        if cost > self.limit:
            raise BusError(
                Code.CACHE_ENTRIES,
                used=cost,
                limit=self.limit,
                what="bytes of one entry with its overhead",
            )

    def has_room(self, cost: int, entries: int) -> bool:
        """Whether ``cost`` bytes and ``entries`` entries more (or less) fit."""
        return self.used + cost <= self.limit and self.entries + entries <= self.entries_limit

    def charge(self, cost: int, entries: int) -> None:
        """Count them; negative to give back. Asserts both bounds: what is refused is refused before."""
        self.used += cost
        self.entries += entries
        assert 0 <= self.used <= self.limit, (self.used, self.limit)
        assert 0 <= self.entries <= self.entries_limit, (self.entries, self.entries_limit)
        self.most = max(self.most, self.used)
