"""The cache of many tenants against dicts, in whatever order things are done."""

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from busd.components.cache import Cache
from busd.components.cache.lru import LRU
from busd.components.cache.record import OVERHEAD as RECORD
from busd.components.cache.settings import CacheSettings, TenantSettings
from busd.components.cache.store import EXPIRING
from busproto.errors import BusError, Code
from tests.components.test_cache_store import Clock

QUOTA = 4_500
OVERHEAD = LRU.OVERHEAD + RECORD
TENANTS = ("a", "ab", "b")
tenants = st.sampled_from(TENANTS)
names = st.sampled_from(["", "b", "bc", "k1", "k2", "k3", "k4", "k5", "k6"]).filter(bool)
sizes = st.sampled_from([0, 1, 50, 500, 1_500, 4_000, 5_000])
ttls = st.sampled_from([None, 1.0, 7.5, 100.0, math.inf])


class Plain:
    """A tenant's cache as anybody would write it: a dict in the order of use."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[bytes, float]] = {}
        self.known: dict[str, int] = {}

    def cost(self, value: bytes, expiry: float) -> int:
        return len(value) + OVERHEAD + (0 if expiry == math.inf else EXPIRING)

    def used(self) -> int:
        return sum(self.cost(*entry) for entry in self.entries.values())

    def get(self, name: str, now: float) -> bytes | None:
        self.expire(now)
        if name not in self.entries:
            return None
        self.entries[name] = self.entries.pop(name)
        return self.entries[name][0]

    def expire(self, now: float) -> None:
        for name in [name for name, (_, expiry) in self.entries.items() if expiry <= now]:
            del self.entries[name]

    def set(self, name: str, value: bytes, expiry: float, now: float) -> None:
        self.expire(now)
        self.entries.pop(name, None)
        while self.used() + self.cost(value, expiry) > QUOTA:
            del self.entries[next(iter(self.entries))]
        self.entries[name] = (value, expiry)


class Caches(RuleBasedStateMachine):
    """What the model holds, the cache holds; what has expired and still takes room is swept before each write, so that
    both evict the same.
    """

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.cache = Cache.generated(CacheSettings(usual=TenantSettings(quota=QUOTA)), quiet=True, clock=self.clock)
        self.models = {tenant: Plain() for tenant in TENANTS}
        self.number = 0

    def value(self, size: int) -> bytes:
        self.number += 1
        return (str(self.number).encode() * size)[:size]

    def expiry(self, ttl: float | None) -> float:
        return math.inf if ttl is None else self.clock.now + ttl

    def written(self, tenant: str, name: str, size: int, ttl: float | None, how: str) -> None:
        """One write of each kind, which both do or both refuse."""
        mine, model, value = self.cache.tenant(tenant), self.models[tenant], self.value(size)
        for each in mine._store.present():
            assert len(each) == 16
        model.expire(self.clock.now)
        self.swept(tenant)
        there = name in model.entries
        refused: BusError | None = None
        try:
            if how == "set":
                mine.set(name, value, ttl=ttl)
                done = True
            elif how == "add":
                done = mine.add(name, value, ttl=ttl)
                assert done != there
            elif how == "replace":
                done = mine.replace(name, value, ttl=ttl)
                assert done == there
            else:
                found = mine.get_or_compute(name, lambda: value, ttl=ttl)
                known = model.get(name, self.clock.now)
                assert found == (value if known is None else known)
                done = known is None and model.cost(value, self.expiry(ttl)) <= QUOTA
        except BusError as error:
            refused = error
            done = False
        if refused is not None:
            assert refused.code == Code.CACHE_ENTRIES
            assert model.cost(value, self.expiry(ttl)) > QUOTA
        if done:
            model.set(name, value, self.expiry(ttl), self.clock.now)

    def swept(self, tenant: str) -> None:
        """What has expired goes also where its bucket's time is not yet over."""
        store = self.cache.tenant(tenant)._store
        for key in list(store._policy):
            if store.peek(key) is None:
                store.delete(key)

    @rule(tenant=tenants, name=names, size=sizes, ttl=ttls, how=st.sampled_from(["set", "add", "replace", "compute"]))
    def write(self, tenant: str, name: str, size: int, ttl: float | None, how: str) -> None:
        self.written(tenant, name, size, ttl, how)

    @rule(tenant=tenants, name=names)
    def read(self, tenant: str, name: str) -> None:
        assert self.cache.tenant(tenant).get(name) == self.models[tenant].get(name, self.clock.now)

    @rule(tenant=tenants, name=names)
    def look(self, tenant: str, name: str) -> None:
        found, model = self.cache.tenant(tenant).get_entry(name), self.models[tenant]
        value = model.get(name, self.clock.now)
        assert (found.value if found else None) == value
        if found is not None:
            assert self.clock.now + found.ttl == model.entries[name][1]
            model.known[name] = found.generation

    @rule(tenant=tenants, name=names, size=st.sampled_from([0, 50, 500]))
    def compare_and_set(self, tenant: str, name: str, size: int) -> None:
        mine, model, value = self.cache.tenant(tenant), self.models[tenant], self.value(size)
        model.expire(self.clock.now)
        self.swept(tenant)
        found = mine._open(name.encode(), mine._keys.blind(name.encode()), count=False)
        generation = model.known.get(name, 0)
        if found is not None and found[0].generation == generation:
            model.known[name] = mine.cas(name, value, generation)
            model.set(name, value, math.inf, self.clock.now)
        else:
            with pytest.raises(BusError) as conflict:
                mine.cas(name, value, generation)
            assert conflict.value.code == Code.CACHE_CONFLICT

    @rule(tenant=tenants, name=names)
    def delete(self, tenant: str, name: str) -> None:
        model = self.models[tenant]
        model.expire(self.clock.now)
        assert self.cache.tenant(tenant).delete(name) == (model.entries.pop(name, None) is not None)

    @rule(tenant=tenants, name=names, ttl=ttls)
    def touch(self, tenant: str, name: str, ttl: float | None) -> None:
        model = self.models[tenant]
        model.expire(self.clock.now)
        self.swept(tenant)
        assert self.cache.tenant(tenant).touch(name, ttl) == (name in model.entries)
        if name in model.entries:
            model.set(name, model.entries[name][0], self.expiry(ttl), self.clock.now)

    @rule(tenant=tenants)
    def clear(self, tenant: str) -> None:
        self.cache.tenant(tenant).clear()
        self.models[tenant] = Plain()

    @rule(tenant=tenants)
    def shred(self, tenant: str) -> None:
        self.cache.shred(tenant)
        self.models[tenant] = Plain()

    @rule(tenant=st.sampled_from([None, *TENANTS]))
    def rotate(self, tenant: str | None) -> None:
        # each key is kept: what eight rotations make of what was not read meanwhile is not for this model
        for name in TENANTS:
            if tenant in (None, name) and len(self.cache.tenant(name)._keys.slots) < 8:
                self.cache.rotate(name)

    @rule(seconds=st.sampled_from([0.0, 0.999, 1.0, 6.5, 50.0, 1000.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def quotas_hold(self) -> None:
        for tenant in self.cache.tenants():
            figures = self.cache.tenant(tenant).statistics()
            assert figures.bytes <= figures.bytes_most <= QUOTA
            assert figures.unauthentic == figures.keyless == 0


Caches.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestCaches = Caches.TestCase
