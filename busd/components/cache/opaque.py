"""The cache of one tenant in blind mode: clients seal, and what is held here are records under blinded names."""

import time
from collections.abc import Callable
from typing import Final

from busd.components.cache.clock import Forward
from busd.components.cache.datakey import HEADER_SIZE
from busd.components.cache.entry import NEVER, Entry
from busd.components.cache.keyring import BLINDED
from busd.components.cache.padding import MAX_PADDED
from busd.components.cache.record import OVERHEAD
from busd.components.cache.settings import TenantSettings
from busd.components.cache.statistics import StoreStatistics
from busd.components.cache.store import TenantStore
from busproto.errors import BusError, Code

__all__ = ["OpaqueCache"]


class OpaqueCache:
    """Records that were sealed elsewhere, as they came. Only sizes and ranges are checked. Thread-safe.

    What a record is bound to (generation, flags, expiry) is kept beside it and given back with it: the client needs it
    to open. The client also chooses the generation; it has to grow with each write to a name, for an earlier one does
    not replace a later one. That also keeps an old record from being put back, as long as the newer one is there.
    """

    def __init__(self, settings: TenantSettings, *, clock: Callable[[], float] | None = None) -> None:
        """``clock`` is the clients': by default the wall clock, kept from going back."""
        self.settings: Final = settings
        self._clock = clock if clock is not None else Forward(time.time)
        self._store = TenantStore(
            quota=settings.quota, entries=settings.entries, policy=settings.policy, clock=self._clock
        )

    def put(
        self,
        key: bytes,
        record: bytes,
        generation: int,
        *,
        flags: int = 0,
        expiry: float = NEVER,
        expected: int | None = None,
    ) -> bool:
        """Hold ``record`` under ``key`` until ``expiry`` (seconds since 1970); whether it was done.

        It is not if a later generation is there. ``expected``: only over that generation, 0 for over nothing.

        Raises BusError 9103: a blinded name has 16 bytes; 9102: the record is no record's size or too large; 9104: it
        is larger than the quota; ValueError: numbers out of range.
        """
        if len(key) != BLINDED:
            raise BusError(Code.CACHE_KEY_SIZE, size=len(key), limit=BLINDED)
        most = min(MAX_PADDED, self.settings.value_limit) + OVERHEAD + HEADER_SIZE  # of its data key, before it
        if not OVERHEAD <= len(record) <= most:
            raise BusError(Code.CACHE_VALUE_SIZE, size=len(record), limit=most)
        if not 0 < generation < 1 << 64 or not 0 <= flags < 1 << 32 or expiry != expiry:
            raise ValueError("generation is 1 to 2^64 - 1, flags are 0 to 2^32 - 1, expiry is a number")
        entry = Entry(bytes(record), generation, flags, expiry)
        if expected is None:
            return self._store.put(key, entry)

        def as_expected(live: Entry | None) -> bool:
            present = live.generation if live is not None else 0
            return present == expected and generation > present

        return self._store.put(key, entry, as_expected)

    def get(self, key: bytes) -> Entry | None:
        """The record under ``key`` with what it is bound to; None if there is none. To be read only."""
        return self._store.get(key)

    def delete(self, key: bytes) -> bool:
        """Take ``key`` out; whether it was there."""
        return self._store.delete(key)

    def clear(self) -> int:
        """Drop all, in O(1); how many entries that were."""
        return self._store.clear()

    def sweep(self, limit: int = 1000) -> int:
        """Take out at most ``limit`` expired entries; how many."""
        return self._store.sweep(limit)

    def __len__(self) -> int:
        return len(self._store)

    def statistics(self) -> StoreStatistics:
        """What this tenant's store has done, and holds."""
        return self._store.statistics()

    def forked(self) -> None:
        """In the child of a fork: begin empty."""
        self._clock = Forward(time.time) if isinstance(self._clock, Forward) else self._clock
        self._store.forked()
        self._store.clock = self._clock
