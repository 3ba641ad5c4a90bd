"""The store of one tenant: the quota, the time, the conditions, what an entry costs, and what clearing does."""

import gc
import os
import random
import threading
import tracemalloc
from hashlib import blake2b

import pytest

from busd.components.cache import Cache
from busd.components.cache import store as store_module
from busd.components.cache.clock import Forward
from busd.components.cache.entry import ABSENT, NEVER, Entry
from busd.components.cache.policy import POLICIES, PolicyName
from busd.components.cache.quota import Quota
from busd.components.cache.reaper import AT_ONCE
from busd.components.cache.settings import CacheSettings, TenantSettings
from busd.components.cache.store import EXPIRING, TenantStore
from busd.components.cache.wheel import Wheel
from busproto.errors import BusError


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def store_of(entries: int, size: int = 100, *, policy: PolicyName = "lru", clock: Clock | None = None) -> TenantStore:
    """One that holds ``entries`` records of ``size`` bytes that do not expire."""
    cost = TenantStore(quota=1, policy=policy).cost(size, expires=False)
    return TenantStore(quota=entries * cost, policy=policy, clock=clock if clock is not None else Clock())


def there(store: TenantStore) -> list[int]:
    return sorted(int.from_bytes(each, "big") for each in store.present())


class Watched(Quota):
    """Sees every moment of a quota."""

    def charge(self, cost: int, entries: int) -> None:
        assert self.used + cost <= self.limit
        assert self.entries + entries <= self.entries_limit
        super().charge(cost, entries)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_quota_is_never_exceeded_and_the_sum_is_what_is_there(policy: PolicyName) -> None:
    clock, chosen = Clock(), random.Random(5)
    store = TenantStore(quota=50_000, entries=20, policy=policy, clock=clock)
    store._quota = Watched(50_000, 20)
    for generation in range(5_000):
        clock.now += chosen.random()
        number = chosen.randrange(150)
        what = chosen.randrange(10)
        if what < 6:
            expiry = clock.now + chosen.choice((0.1, 5, 50)) if chosen.random() < 0.5 else NEVER
            store.put(key(number), Entry(bytes(chosen.randrange(0, 4000)), generation, 0, expiry))
        elif what < 9:
            store.get(key(number))
        else:
            store.delete(key(number))
        figures = store.statistics()
        assert figures.bytes <= 50_000
        assert figures.entries <= 20
    entries = [store._policy.find(each, ABSENT) for each in store._policy]
    figures = store.statistics()
    assert figures.bytes == sum(store._cost(entry) for entry in entries)
    assert figures.entries == len(entries)
    assert min(figures.expired, figures.evicted_for_bytes, figures.evicted_for_entries, figures.deletes) > 0
    assert figures.bytes_most > 40_000


def test_an_entry_larger_than_the_quota_is_refused_evicts_nothing_and_leaves_what_was_there() -> None:
    store = store_of(4)
    for number in range(4):
        store.put(key(number), Entry(bytes(100), number + 1))
    with pytest.raises(BusError) as refused:
        store.put(key(0), Entry(bytes(100_000), 9))
    assert refused.value.code == 9104
    assert str(100_000 + store.cost(0, expires=False)) in str(refused.value)
    assert there(store) == [0, 1, 2, 3]
    found = store.peek(key(0))
    assert found is not None
    assert len(found.record) == 100
    assert (store.statistics().refused, store.statistics().evicted_for_bytes) == (1, 0)


def test_who_grows_makes_room_before_and_may_be_all_that_is_left() -> None:
    store = store_of(4)
    for number in range(4):
        store.put(key(number), Entry(bytes(100), number + 1))
    assert store.put(key(0), Entry(bytes(3 * store.cost(100, expires=False)), 5))
    assert there(store) == [0]
    assert store.put(key(0), Entry(bytes(1), 6))
    assert store.statistics().bytes == store.cost(1, expires=False)


@pytest.mark.parametrize("policy", POLICIES)
def test_who_grows_can_be_the_one_that_has_to_go(policy: PolicyName) -> None:
    store = store_of(5, policy=policy)
    for number in range(5):
        store.put(key(number), Entry(bytes(100), number + 1))
    for generation in range(6, 40):
        size = 100 if generation % 2 else 1_500
        assert store.put(key(generation % 5), Entry(bytes(size), generation))
        found = store.peek(key(generation % 5))
        assert found is not None
        assert found.generation == generation


def test_an_entry_is_there_until_the_very_moment_of_its_expiry() -> None:
    clock = Clock()
    store = store_of(10, clock=clock)
    store.put(key(1), Entry(b"", 1, 0, 1010.0))
    clock.now = 1009.999
    assert store.get(key(1)) is not None
    clock.now = 1010.0
    assert store.peek(key(1)) is None
    assert len(store) == 1, "a peek takes nothing out"
    assert store.get(key(1)) is None
    assert (len(store), store.statistics().expired, store.statistics().misses) == (0, 1, 1)
    assert store.statistics().bytes == 0


def test_what_is_over_its_time_already_is_a_delete() -> None:
    store = store_of(10)
    store.put(key(1), Entry(b"", 1))
    assert store.put(key(1), Entry(b"", 2, 0, 1000.0))
    assert (len(store), store.statistics().deletes) == (0, 1)


def test_a_clock_that_steps_back_neither_brings_back_nor_prolongs() -> None:
    raw = Clock()
    clock = Forward(raw)
    store = TenantStore(quota=10_000, clock=clock)
    store.put(key(1), Entry(b"", 1, 0, clock() + 10))
    raw.now = 500.0
    assert clock() == 1000.0
    raw.now = 509.0
    assert store.get(key(1)) is not None
    raw.now = 510.0
    assert store.get(key(1)) is None, "ten seconds went by, whatever the clock was set to"
    raw.now = 2000.0
    raw.now = 100.0
    assert clock() == 1010.0


def test_what_has_expired_goes_before_what_has_not() -> None:
    clock = Clock()
    cost = TenantStore(quota=1).cost(100, expires=True)
    store = TenantStore(quota=10 * cost, clock=clock)
    for number in range(10):
        store.put(key(number), Entry(bytes(100), number + 1, 0, 1000.0 + (20 if number < 5 else 1e6)))
    for number in range(5):
        store.get(key(number))
    clock.now = 1030.0
    store.put(key(20), Entry(bytes(100), 50, 0, 1e6))
    figures = store.statistics()
    assert (figures.evicted_for_bytes, figures.expired) == (0, 3), "one for the room, and two that each write sweeps"
    assert store.sweep(1) == 1
    assert store.sweep() == 1
    assert there(store) == [5, 6, 7, 8, 9, 20]


def test_the_wheel_finds_what_is_due_in_few_buckets_and_forgets_what_is_gone() -> None:
    chosen, wheel, entries = random.Random(1), Wheel(), {}
    for number in range(20_000):
        entry = Entry(b"", 1, 0, 1000.0 + 10 ** chosen.uniform(-2, 7))
        wheel.added(key(number), entry, 1000.0)
        entries[key(number)] = entry
    assert len(wheel) < 800
    for number in range(0, 20_000, 2):
        wheel.removed(key(number), entries.pop(key(number)))
    now = 1000.0
    while entries:
        now = 1000.0 + (now - 1000.0) * 1.5 + 0.01
        while (due := wheel.due(now)) is not None:
            entry = entries.pop(due)
            wheel.removed(due, entry)
            assert entry.expiry <= now
        late = [entry for entry in entries.values() if 1000.0 + (entry.expiry - 1000.0) * 1.3 + 0.2 < now]
        assert not late, "gone by an eighth of its time after it expired, or a 16th of a second"
    assert wheel.due(1e300) is None
    assert len(wheel) == 0


def test_conditions_see_what_is_there_and_has_not_expired() -> None:
    clock = Clock()
    store = store_of(10, clock=clock)
    assert not store.put(key(1), Entry(b"", 1), lambda live: live is not None)
    assert store.put(key(1), Entry(b"a", 2, 0, 1001.0), lambda live: live is None)
    assert not store.put(key(1), Entry(b"b", 3), lambda live: live is None)
    clock.now = 1001.0
    assert store.put(key(1), Entry(b"c", 4), lambda live: live is None)
    assert not store.delete(key(1), lambda entry: entry is not None and entry.generation == 3)
    assert store.delete(key(1), lambda entry: entry is not None and entry.generation == 4)
    assert not store.delete(key(1))


def test_of_two_writes_the_one_with_the_later_number_stays() -> None:
    store = store_of(10)
    assert store.put(key(1), Entry(b"later", 8))
    assert not store.put(key(1), Entry(b"earlier", 7))
    found = store.get(key(1))
    assert found is not None
    assert found.record == b"later"


def test_replacing_is_no_hit_and_only_over_the_same_entry() -> None:
    store = store_of(3)
    old, new = Entry(bytes(100), 1), Entry(bytes(100), 1)
    store.put(key(1), old)
    store.put(key(2), Entry(bytes(100), 2))
    assert store.replace(key(1), old, new)
    assert not store.replace(key(1), old, Entry(bytes(100), 1))
    assert not store.replace(key(1), new, Entry(bytes(10_000), 1)), "there is no room, and nobody goes for it"
    store.put(key(3), Entry(bytes(100), 3))
    store.put(key(4), Entry(bytes(100), 4))
    assert there(store) == [2, 3, 4]


@pytest.mark.parametrize("policy", POLICIES)
def test_clear_is_one_step_and_what_it_dropped_is_freed_without_the_lock(policy: PolicyName) -> None:
    store = store_of(AT_ONCE * 3, 0, policy=policy)
    for number in range(AT_ONCE * 2):
        store.put(key(number), Entry(b"", number))
    assert store.clear() == AT_ONCE * 2
    assert (len(store), store.statistics().bytes, store.statistics().clears) == (0, 0, 1)
    assert store.get(key(1)) is None
    assert store.put(key(1), Entry(b"", 10**9))
    store.settle()
    assert there(store) == [1]
    assert store.clear() == 1


def measured(policy: PolicyName, *, expires: bool) -> tuple[float, int]:
    """Bytes that an entry takes and is charged with, in a full store of 100,000 that turned over."""
    entries, size = 100_000, 64
    store = TenantStore(quota=1 << 40, entries=entries, policy=policy, clock=lambda: 0.0)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(2 * entries):
            blinded = blake2b(key(number), digest_size=16).digest()
            expiry = 1000.0 + number / 1000 if expires else NEVER
            store.put(blinded, Entry(bytes(bytearray(size)), (1 << 40) + number, 0, expiry))
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    return taken / len(store), store.cost(size, expires=expires)


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "expires"), [("lru", False), ("lru", True), ("sieve", False), ("s3fifo", False)])
def test_what_an_entry_is_charged_with_is_what_it_takes(policy: PolicyName, expires: bool) -> None:
    taken, charged = measured(policy, expires=expires)
    assert charged == pytest.approx(taken, rel=0.1)


def test_what_an_entry_costs_is_made_of_its_record_its_overhead_and_its_time() -> None:
    store = store_of(1)
    assert store.cost(1000, expires=False) - store.cost(0, expires=False) == 1000
    assert store.cost(0, expires=True) - store.cost(0, expires=False) == EXPIRING


@pytest.mark.slow
def test_millions_of_changes_do_not_grow_the_memory() -> None:
    """Two million, or as many as BUSD_CHURN_OPERATIONS says."""
    entries, changes = 2_000, int(os.environ.get("BUSD_CHURN_OPERATIONS", "2_000_000"))
    store = TenantStore(quota=1 << 40, entries=entries, clock=(clock := Clock()))
    record, keys = bytes(64), [blake2b(key(number), digest_size=16).digest() for number in range(3 * entries)]

    def churn(changes: int, generation: int) -> None:
        for number in range(generation, generation + changes):
            if not number % 7:
                store.delete(keys[number * 31 % len(keys)])
            else:
                clock.now += 0.001
                store.put(keys[number * 17 % len(keys)], Entry(record, number, 0, clock.now + number % 97))

    churn(400_000, 1)
    gc.collect()
    tracemalloc.start()
    try:
        churn(50_000, 400_001)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        churn(changes - 500_000, 450_001)
        tracemalloc.start()
        churn(50_000, changes - 49_999)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after < before * 1.25
    assert len(store._wheel) < 300
    assert len(store) <= entries


@pytest.mark.parametrize("gil", [True, False])
def test_threads_that_do_everything_at_once_leave_sums_that_are_right(
    gil: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with the locks that a build without the GIL takes."""
    monkeypatch.setattr(store_module, "GIL", gil)
    store = TenantStore(quota=100_000, entries=100)
    store._quota = Watched(100_000, 100)
    errors: list[BaseException] = []
    ready = threading.Barrier(8)

    def work(seed: int) -> None:
        chosen = random.Random(seed)
        try:
            ready.wait(10)
            for number in range(4_000):
                what, name = chosen.randrange(20), key(chosen.randrange(200))
                if what < 10:
                    store.get(name)
                elif what < 18:
                    expiry = store.clock() + chosen.random() / 100 if what % 2 else NEVER
                    store.put(name, Entry(bytes(chosen.randrange(2000)), number, 0, expiry))
                elif what < 19:
                    store.delete(name)
                elif chosen.random() < 0.05:
                    store.clear()
                else:
                    store.present()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    entries = [store._policy.find(each, ABSENT) for each in store._policy]
    assert store.statistics().bytes == sum(store._cost(entry) for entry in entries)
    assert store.statistics().entries == len(entries)
    assert (store.find.__name__ == "_locked_find") != gil


@pytest.mark.slow
def test_a_full_cache_takes_what_its_quota_says() -> None:
    """Of values of all sizes, with names, times and all that Python needs for them, to a tenth."""
    quota, chosen = 16 << 20, random.Random(6)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        mine = Cache.generated(CacheSettings(usual=TenantSettings(quota=quota)), quiet=True).tenant("acme")
        for number in range(60_000):
            mine.set(f"name-{number}", bytes(chosen.randrange(1000)), ttl=chosen.choice((None, 3600)))
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    figures = mine.statistics()
    assert figures.evicted_for_bytes > 10_000, "it is full"
    assert 0.99 * quota < figures.bytes <= figures.bytes_most <= quota
    assert taken == pytest.approx(quota, rel=0.1)
