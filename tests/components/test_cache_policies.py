"""Who goes: each policy against the plain reading of its paper, and its hit ratios on made traces."""

from collections.abc import Callable
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busd.components.cache.entry import ABSENT, MARKS, Entry
from busd.components.cache.lru import LRU
from busd.components.cache.policy import POLICIES, Policy, PolicyName
from busd.components.cache.s3fifo import S3FIFO
from busd.components.cache.sieve import Sieve
from busd.components.cache.store import POLICIES as MAKERS
from busd.components.cache.store import TenantStore
from tests.components.cache_traces import che, loop, names, scanned, shifting, zipf

CAPACITY = 8
KEYS = 14


class Reference(Protocol):
    """A policy as its paper tells it, for items of one size: lists, and nothing clever."""

    def access(self, key: int) -> bool: ...
    def remove(self, key: int) -> None: ...
    def there(self) -> set[int]: ...


class PlainLRU:
    def __init__(self) -> None:
        self.order: list[int] = []

    def access(self, key: int) -> bool:
        if hit := key in self.order:
            self.order.remove(key)
        elif len(self.order) == CAPACITY:
            self.order.pop(0)
        self.order.append(key)
        return hit

    def remove(self, key: int) -> None:
        if key in self.order:
            self.order.remove(key)

    def there(self) -> set[int]:
        return set(self.order)


class PlainSieve:
    """NSDI'24, algorithm 1. Index 0 is the head, where new ones come in; the hand is a key."""

    def __init__(self) -> None:
        self.queue: list[int] = []
        self.visited: dict[int, bool] = {}
        self.hand: int | None = None

    def before(self, key: int) -> int | None:
        place = self.queue.index(key)
        return self.queue[place - 1] if place else None

    def access(self, key: int) -> bool:
        if key in self.queue:
            self.visited[key] = True
            return True
        if len(self.queue) == CAPACITY:
            at = self.hand if self.hand is not None else self.queue[-1]
            while self.visited[at]:
                self.visited[at] = False
                newer = self.before(at)
                at = newer if newer is not None else self.queue[-1]
            self.hand = self.before(at)
            self.queue.remove(at)
        self.queue.insert(0, key)
        self.visited[key] = False
        return False

    def remove(self, key: int) -> None:
        if key in self.queue:
            if self.hand == key:
                self.hand = self.before(key)
            self.queue.remove(key)

    def there(self) -> set[int]:
        return set(self.queue)


class PlainS3FIFO:
    """SOSP'23, algorithm 1. Index 0 is the head. A small queue of one place: 10 % of eight, and never none."""

    def __init__(self) -> None:
        self.small: list[int] = []
        self.main: list[int] = []
        self.ghost: list[int] = []
        self.freq: dict[int, int] = {}

    def access(self, key: int) -> bool:
        if key in self.small or key in self.main:
            self.freq[key] = min(self.freq[key] + 1, 3)
            return True
        while len(self.small) + len(self.main) >= CAPACITY:
            self.evict()
        self.freq[key] = 0
        if key in self.ghost:
            self.ghost.remove(key)
            self.main.insert(0, key)
        else:
            self.small.insert(0, key)
        return False

    def evict(self) -> None:
        if len(self.small) >= CAPACITY / 10 or not self.main:
            while self.small:
                tail = self.small.pop()
                if self.freq[tail] <= 1:
                    self.ghost.insert(0, tail)
                    self.trim()
                    return
                self.freq[tail] = 0
                self.main.insert(0, tail)
        while True:
            tail = self.main.pop()
            if not self.freq[tail]:
                self.trim()
                return
            self.freq[tail] -= 1
            self.main.insert(0, tail)

    def trim(self) -> None:
        while len(self.ghost) > (len(self.small) + len(self.main)) * 90 // 100:
            self.ghost.pop()

    def remove(self, key: int) -> None:
        for queue in (self.small, self.main):
            if key in queue:
                queue.remove(key)
                self.trim()

    def there(self) -> set[int]:
        return {*self.small, *self.main}


REFERENCES: dict[PolicyName, Callable[[], Reference]] = {"lru": PlainLRU, "sieve": PlainSieve, "s3fifo": PlainS3FIFO}


def access(policy: Policy, key: bytes, capacity: int) -> bool:
    """Ask for ``key``, and put it in if it is not there."""
    entry = policy.find(key, ABSENT)
    if entry is not ABSENT:
        if policy.moves is not None:
            policy.moves(key)
        elif entry.mark < MARKS:
            entry.mark += 1
        return True
    while len(policy) >= capacity:
        policy.victim()
    policy.added(key, Entry(b"", 1))
    return False


def made(name: PolicyName, capacity: int) -> Policy:
    """A policy for ``capacity`` entries with empty records."""
    return MAKERS[name](capacity * MAKERS[name](0).overhead)


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=300, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 9), st.integers(0, KEYS - 1)), max_size=150))
def test_each_policy_does_what_its_paper_says(name: PolicyName, steps: list[tuple[int, int]]) -> None:
    reference, policy = REFERENCES[name](), made(name, CAPACITY)
    for what, number in steps:
        key = number.to_bytes(16, "big")
        if what == 0:
            reference.remove(number)
            if policy.find(key, ABSENT) is not ABSENT:
                policy.removed(key)
        else:
            assert access(policy, key, CAPACITY) == reference.access(number)
        assert {int.from_bytes(key, "big") for key in policy} == reference.there()
        assert len(policy) == len(reference.there())


@pytest.mark.parametrize("name", POLICIES)
def test_an_empty_policy_has_no_victim_and_one_that_was_emptied_neither(name: PolicyName) -> None:
    policy = made(name, CAPACITY)
    with pytest.raises(KeyError):
        policy.victim()
    for number in range(CAPACITY):
        access(policy, number.to_bytes(16, "big"), CAPACITY)
    for number in range(CAPACITY):
        policy.removed(number.to_bytes(16, "big"))
    with pytest.raises(KeyError):
        policy.victim()
    with pytest.raises(KeyError):
        policy.removed(bytes(16))
    assert (len(policy), list(policy)) == (0, [])


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_replaced_keeps_its_place_and_gives_the_new_entry(name: PolicyName) -> None:
    policy = made(name, CAPACITY)
    for number in range(CAPACITY):
        access(policy, number.to_bytes(16, "big"), CAPACITY)
    new = Entry(b"larger", 2)
    policy.replaced(bytes(16), new)
    assert policy.find(bytes(16), ABSENT) is new
    assert policy.victim() == (bytes(16), new), "nothing was hit, so the first is the first to go"


def test_the_hand_of_sieve_goes_on_when_what_it_is_on_is_removed() -> None:
    policy = Sieve(0)
    keys = [bytes([number]) * 16 for number in range(4)]
    for key in keys:
        policy.added(key, Entry(b"", 1))
    policy.find(keys[0], ABSENT).mark = 1
    assert policy.victim()[0] == keys[1], "0 was passed over"
    policy.removed(keys[2])
    policy.removed(keys[3])
    assert policy.victim()[0] == keys[0], "the hand came back to the oldest, which has no mark any more"


def test_what_s3_fifo_has_seen_once_leaves_before_what_proved_itself() -> None:
    policy = S3FIFO(10 * S3FIFO.OVERHEAD)
    good, capacity = bytes(16), 10
    for _ in range(3):
        access(policy, good, capacity)
    for number in range(1, 200):
        access(policy, number.to_bytes(16, "big"), capacity)
    assert policy.find(good, ABSENT) is not ABSENT


def ratio(name: PolicyName, trace: list[int], capacity: int, *, warm: int = 0) -> float:
    """Hits of all requests after the first ``warm``."""
    policy, hits = made(name, capacity), 0
    for number, key in enumerate(names(trace)):
        hits += access(policy, key, capacity) and number >= warm
    return hits / (len(trace) - warm)


@pytest.mark.parametrize("alpha", [0.6, 0.8, 0.99, 1.1])
@pytest.mark.parametrize("capacity", [50, 500])
def test_lru_hits_as_often_as_theory_says(alpha: float, capacity: int) -> None:
    items = 5_000
    measured = ratio("lru", zipf(items, alpha, 120_000, seed=6), capacity, warm=20_000)
    assert measured == pytest.approx(che(items, alpha, capacity), abs=0.01)


@pytest.mark.parametrize(("capacity", "gain"), [(100, 0.05), (1_000, 0.02)])
def test_sieve_and_s3_fifo_hit_more_often_than_lru_on_zipf(capacity: int, gain: float) -> None:
    trace = zipf(10_000, 0.99, 200_000, seed=99)
    lru = ratio("lru", trace, capacity)
    assert ratio("sieve", trace, capacity) >= lru + gain
    assert ratio("s3fifo", trace, capacity) >= lru + gain


def test_one_shot_requests_cost_s3_fifo_least() -> None:
    trace = scanned(10_000, 0.99, 150_000, seed=20)
    assert ratio("s3fifo", trace, 500) > ratio("lru", trace, 500) + 0.05


def test_a_loop_over_more_than_fits_never_hits_an_lru() -> None:
    assert ratio("lru", loop(110, 20_000), 100) == 0.0
    assert ratio("lru", loop(100, 20_000), 100) > 0.99


@pytest.mark.parametrize("name", POLICIES)
def test_each_policy_follows_when_other_things_become_popular(name: PolicyName) -> None:
    trace = shifting(5_000, 0.99, 120_000, seed=3, every=20_000)
    steady = zipf(5_000, 0.99, 120_000, seed=3)
    assert ratio(name, trace, 500) > 0.8 * ratio(name, steady, 500)


@pytest.mark.parametrize("name", POLICIES)
def test_a_store_hits_as_often_as_its_policy_alone(name: PolicyName) -> None:
    trace = zipf(2_000, 0.9, 30_000, seed=8)
    store = TenantStore(quota=200 * MAKERS[name](0).overhead, policy=name, clock=lambda: 0.0)
    for generation, key in enumerate(names(trace)):
        if store.get(key) is None:
            store.put(key, Entry(b"", generation))
    assert store.statistics().hit_ratio == ratio(name, trace, 200)


def test_lru_is_exact_in_its_order() -> None:
    policy = LRU(0)
    for number in (1, 2, 3, 1):
        access(policy, number.to_bytes(16, "big"), 3)
    assert [int.from_bytes(key, "big") for key in policy] == [2, 3, 1]
