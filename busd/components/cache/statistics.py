"""What the cache of one tenant has done, in numbers. Only that tenant may see them."""

import msgspec

__all__ = ["CacheStatistics", "StoreStatistics"]


class StoreStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What one store has done since it was made, and what it holds.

    Attributes:
        policy: lru, sieve or s3fifo.
        hits, misses: reads that found an entry, and that did not. One that fails authentication is a miss.
        sets: entries stored, also over others.
        deletes: entries taken out by a wish; those of a clear are not counted one by one.
        clears: times that all was dropped at once.
        expired: entries taken out because their time was over.
        evicted_for_bytes, evicted_for_entries: entries taken out to make room, by what was short.
        unauthentic: records that failed authentication. Each was a miss, and was taken out.
        keyless: records whose keys are gone (shredded, or older than the process). Each was a miss, and was taken out.
        refused: entries larger than the whole quota.
        entries, entries_limit: now, also those that have expired and were not yet found.
        bytes, bytes_limit: now, overhead included.
        bytes_most: the most that there ever was at once.
    """

    policy: str
    hits: int
    misses: int
    sets: int
    deletes: int
    clears: int
    expired: int
    evicted_for_bytes: int
    evicted_for_entries: int
    unauthentic: int
    keyless: int
    refused: int
    entries: int
    entries_limit: int
    bytes: int
    bytes_limit: int
    bytes_most: int

    @property
    def hit_ratio(self) -> float:
        """Hits of all reads; 0 before the first."""
        reads = self.hits + self.misses
        return self.hits / reads if reads else 0.0


class CacheStatistics(StoreStatistics, frozen=True, kw_only=True):
    """What a tenant's cache has done: its store's figures, its keys', and its computations'.

    Attributes:
        epoch: number of the key that new records are sealed under.
        key_age: seconds since that key was made; 0 before the first record.
        key_messages: records sealed under it.
        resealed: records that were read under an older key and sealed anew.
        quarantined: keys that were destroyed because too many records under them failed authentication.
        computed: computations that were begun because a value was not there, or no longer fresh.
        shared: callers that got the outcome of somebody else's computation.
        in_flight: computations that are going on now.
        stale: hits that gave a value which was no longer fresh, to callers that take such.
        renewals_failed: computations in the background that did not give a new one.
    """

    epoch: int
    key_age: float
    key_messages: int
    resealed: int
    quarantined: int = 0
    computed: int
    shared: int
    in_flight: int
    stale: int = 0
    renewals_failed: int = 0
