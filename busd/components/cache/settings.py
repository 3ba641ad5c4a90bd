"""How much each tenant may have in the cache, and how it is kept."""

import math
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from busd.components.cache.padding import MAX_VALUE, PADDINGS, Padding
from busd.components.cache.policy import POLICIES, PolicyName
from busd.components.cache.quarantine import FAILURES, SECONDS

__all__ = ["CacheSettings", "TenantSettings"]

LEAST_QUOTA: Final = 4096
"""Bytes: less holds nothing to speak of."""

MAX_NAME: Final = 65_535
"""Bytes: what the length before a kept name can say."""


def _check(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{what} is {value}; it has to be {least} to {most}")


class TenantSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The share of one tenant.

    Attributes:
        quota: bytes, with all that an entry costs.
        entries: at most.
        value_limit: bytes of the largest value; at most 16 MiB.
        name_limit: bytes of the longest name.
        policy: who has to go: lru, sieve or s3fifo.
        padding: what a record's size hides of its value's: none, power-of-two or padme.
        ttl: seconds that an entry lives if the caller does not say; None: until it has to go.
        ttl_limit: seconds that an entry lives at most; None: any time.
        keep_names: whether names are sealed with the values, so that they can be listed. Costs their bytes.
    """

    quota: Annotated[int, msgspec.Meta(ge=LEAST_QUOTA, le=1 << 50)] = 64 << 20
    entries: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)] = 1 << 40
    value_limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_VALUE)] = MAX_VALUE
    name_limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_NAME)] = 1024
    policy: PolicyName = "lru"
    padding: Padding = "none"
    ttl: Annotated[float, msgspec.Meta(gt=0)] | None = None
    ttl_limit: Annotated[float, msgspec.Meta(gt=0)] | None = None
    keep_names: bool = False

    def __post_init__(self) -> None:
        """The ranges hold however it is made. Raises ValueError that names what is out of range."""
        _check("quota", self.quota, LEAST_QUOTA, 1 << 50)
        _check("entries", self.entries, 1, 1 << 40)
        _check("value_limit", self.value_limit, 1, MAX_VALUE)
        _check("name_limit", self.name_limit, 1, MAX_NAME)
        if self.policy not in POLICIES:
            raise ValueError(f"policy is {self.policy!r}; there are {', '.join(POLICIES)}")
        if self.padding not in PADDINGS:
            raise ValueError(f"padding is {self.padding!r}; there are {', '.join(PADDINGS)}")
        for what, seconds in (("ttl", self.ttl), ("ttl_limit", self.ttl_limit)):
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{what} is {seconds} s; it has to be more than 0")

    def lifetime(self, ttl: float | None) -> float:
        """Seconds for an entry whose caller said ``ttl``; infinite: it stays. Raises ValueError if that is not > 0."""
        wanted = ttl if ttl is not None else self.ttl if self.ttl is not None else math.inf
        if not wanted > 0:
            raise ValueError(f"the time to live is {wanted} s; it has to be more than 0, or infinite for ever")
        return wanted if self.ttl_limit is None else min(wanted, self.ttl_limit)


class CacheSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who has which share.

    Attributes:
        tenants: those that have a share of their own.
        usual: the share of all others; None: nobody else has one.
        tenants_limit: shares at once, so that names that anybody makes up do not fill the memory.
        bytes_limit: of all quotas together; None: any.
        quarantine_failures: so many records of one of a tenant's data keys that fail authentication within
            ``quarantine_seconds``, and that key is destroyed; 0: none is.
        quarantine_seconds: see there.
    """

    tenants: Mapping[str, TenantSettings] = {}
    usual: TenantSettings | None = TenantSettings()
    tenants_limit: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 1024
    bytes_limit: Annotated[int, msgspec.Meta(ge=LEAST_QUOTA)] | None = None
    quarantine_failures: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = FAILURES
    quarantine_seconds: Annotated[float, msgspec.Meta(gt=0)] = SECONDS
