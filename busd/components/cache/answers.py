"""What the cache component takes and answers, besides plain values."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final, Self

import msgspec

from busd.components.cache.opaque import OpaqueCache
from busd.components.cache.statistics import CacheStatistics, StoreStatistics
from busd.components.cache.tenant import TenantCache

__all__ = ["MANY", "CacheTotals", "Found", "Item", "Many", "Record", "Share", "Statistics", "Ttl"]

MANY: Final = 1000
"""Names in one call: 3 ms in which no other call is answered."""

Ttl = Annotated[float, msgspec.Meta(gt=0)]
"""Seconds; infinite: until it has to go."""


class Found(msgspec.Struct, frozen=True):
    """What is under a name.

    Attributes:
        found: whether something is; if not, the rest has no meaning.
        value: the value.
        generation: what `cas` needs to store over this and nothing else.
        ttl: seconds that it has left; None: until it has to go.
    """

    found: bool
    value: bytes = b""
    generation: int = 0
    ttl: float | None = None


class Many(msgspec.Struct, frozen=True):
    """What is under several names.

    Attributes:
        values: of each, in the order in which they were given, names before texts.
        left: so many at the end were not looked at, because a message holds no more: ask for them again.
    """

    values: Annotated[list[Found], msgspec.Meta(max_length=MANY)]
    left: int = 0


class Item(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of several values to be stored.

    Attributes:
        name, text, value, ttl: as of `set`.
    """

    value: bytes
    name: bytes = b""
    text: str = ""
    ttl: Ttl | None = None


class Record(msgspec.Struct, frozen=True):
    """A record that was sealed elsewhere.

    Attributes:
        found: whether there is one; if not, the rest has no meaning.
        record: as it came.
        generation, flags: what it is bound to.
        expiry: seconds since 1970; None: never. It is bound to that as well.
    """

    found: bool
    record: bytes = b""
    generation: int = 0
    flags: int = 0
    expiry: float | None = None


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache of one tenant has done.

    Attributes:
        tenant: whose.
        hit_ratio: hits of all reads of values.
        sealed: its values; None where there are none.
        blind: its records that were sealed elsewhere; None where there are none.
    """

    tenant: str
    hit_ratio: float = 0.0
    sealed: CacheStatistics | None = None
    blind: StoreStatistics | None = None

    @classmethod
    def of(cls, tenant: str, held: Sequence[TenantCache | OpaqueCache]) -> Self:
        """Those of all that ``tenant`` has."""
        sealed = next((each.statistics() for each in held if isinstance(each, TenantCache)), None)
        blind = next((each.statistics() for each in held if isinstance(each, OpaqueCache)), None)
        return cls(tenant=tenant, hit_ratio=0.0 if sealed is None else sealed.hit_ratio, sealed=sealed, blind=blind)


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's share.

    Attributes:
        tenant: whose.
        policy: who has to go: lru, sieve or s3fifo.
        quota: bytes of values with all that they cost; in mode both, the same again of records.
        entries_limit: entries at most.
        value_limit: bytes of the largest value that can be stored.
        name_limit: bytes of the longest name.
        bytes: in use, of values and records.
        entries: the same.
    """

    tenant: str
    policy: str
    quota: int
    entries_limit: int
    value_limit: int
    name_limit: int
    bytes: int
    entries: int

    @classmethod
    def of(cls, tenant: str, held: Sequence[TenantCache | OpaqueCache]) -> Self:
        """That of ``tenant``, which has at least one."""
        share, figures = held[0].settings, [each.statistics() for each in held]
        return cls(
            tenant=tenant,
            policy=share.policy,
            quota=share.quota,
            entries_limit=share.entries,
            value_limit=share.value_limit,
            name_limit=share.name_limit,
            bytes=sum(each.bytes for each in figures),
            entries=sum(each.entries for each in figures),
        )


@dataclass(frozen=True, slots=True)
class CacheTotals:
    """What the cache component has done since it was started, all tenants together, and what it has."""

    tenants: int
    """Tenants that have something here."""
    entries: int
    bytes: int
    """Overhead included."""
    promised: int
    """Bytes of all quotas that were given out."""
    hits: int
    misses: int
    sets: int
    evicted_for_bytes: int
    """To make room."""
    evicted_for_entries: int
    """To make room as well: there were too many."""
    expired: int
    unauthentic: int
    """Records that failed authentication."""
    quarantined: int
    """Data keys that were destroyed because too many records under them did."""
    recorded: int
    """Audit records written."""
    left_out: int
    """Those that were not, because there were too many."""

    @classmethod
    def of(
        cls,
        tenants: int,
        figures: Sequence[StoreStatistics],
        *,
        recorded: int = 0,
        left_out: int = 0,
        gone: Self | None = None,
    ) -> Self:
        """The sums of ``figures``, and of what was counted for tenants that are ``gone``: no count falls with one."""
        here = cls(
            tenants=tenants,
            entries=sum(each.entries for each in figures),
            bytes=sum(each.bytes for each in figures),
            promised=sum(each.bytes_limit for each in figures),
            hits=sum(each.hits for each in figures),
            misses=sum(each.misses for each in figures),
            sets=sum(each.sets for each in figures),
            evicted_for_bytes=sum(each.evicted_for_bytes for each in figures),
            evicted_for_entries=sum(each.evicted_for_entries for each in figures),
            expired=sum(each.expired for each in figures),
            unauthentic=sum(each.unauthentic for each in figures),
            quarantined=sum(each.quarantined for each in figures if isinstance(each, CacheStatistics)),
            recorded=recorded,
            left_out=left_out,
        )
        if gone is None:
            return here
        return replace(here, **{each: getattr(here, each) + getattr(gone, each) for each in DONE})


DONE: Final = (
    *("hits", "misses", "sets", "evicted_for_bytes", "evicted_for_entries", "expired", "unauthentic", "quarantined"),
)
"""Of the totals, what has been done, beside what is there."""
