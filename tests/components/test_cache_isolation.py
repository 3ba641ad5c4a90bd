"""What one tenant does, no other tenant can see in what it finds."""

import random
import sys
import threading
from collections.abc import Callable

import pytest

from busd.components.cache import Cache
from busd.components.cache.entry import ABSENT
from busd.components.cache.policy import POLICIES, PolicyName
from busd.components.cache.settings import CacheSettings, TenantSettings
from busd.components.cache.tenant import TenantCache
from tests.components.cache_traces import zipf
from tests.components.test_cache_store import Clock
from tests.support import no_collection


def cache_of(policy: PolicyName, clock: Clock | None = None) -> Cache:
    return Cache.generated(CacheSettings(usual=TenantSettings(quota=40_000, policy=policy)), quiet=True, clock=clock)


def flood(attacker: TenantCache, chosen: random.Random) -> None:
    """All that a tenant can do, a little of it."""
    for _ in range(3):
        name = f"key-{chosen.randrange(300)}"
        what = chosen.randrange(8)
        if what < 4:
            attacker.set(name, bytes(chosen.randrange(3000)), ttl=chosen.choice((None, 0.5, 60)))
        elif what < 6:
            attacker.get(name)
        elif what < 7:
            attacker.delete(name)
        elif chosen.random() < 0.1:
            attacker.clear()


def life(policy: PolicyName, disturb: Callable[[Cache, random.Random], None] | None) -> tuple[list[bool], object]:
    """The victim's hits and misses, and its figures, while ``disturb`` is called between its requests."""
    clock, own, others = Clock(), random.Random(1), random.Random(2)
    cache = cache_of(policy, clock)
    victim, trace = cache.tenant("victim"), []
    for item in zipf(300, 0.9, 1_500, seed=4):
        clock.now += 0.01
        name = f"key-{item}"
        hit = victim.get(name) is not None
        trace.append(hit)
        if not hit:
            victim.set(name, bytes(own.randrange(2000)), ttl=own.choice((None, 3)))
        if disturb is not None:
            disturb(cache, others)
    figures = victim.statistics()
    return trace, (figures.hits, figures.misses, figures.expired, figures.evicted_for_bytes, figures.bytes)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_victims_hits_and_misses_are_the_same_with_and_without_a_flood(policy: PolicyName) -> None:
    quiet = life(policy, None)
    flooded = life(policy, lambda cache, chosen: flood(cache.tenant("attacker"), chosen))

    def shredding(cache: Cache, chosen: random.Random) -> None:
        flood(cache.tenant(f"attacker-{chosen.randrange(3)}"), chosen)
        if chosen.random() < 0.05:
            cache.shred(f"attacker-{chosen.randrange(3)}")

    assert quiet[0].count(True) > 200
    assert quiet[0].count(False) > 200
    assert flooded == quiet
    assert life(policy, shredding) == quiet


@pytest.mark.parametrize("policy", POLICIES)
def test_prime_and_probe_tells_an_attacker_nothing(policy: PolicyName) -> None:
    """The attacker fills its cache, the victim works or does not, the attacker looks what of its own is gone.

    Its advantage is the difference between how often it says "it worked" when that is so and when it is not, with the
    best rule for what it saw.
    """
    chosen = random.Random(7)
    cache = cache_of(policy)
    attacker, victim = cache.tenant("attacker"), cache.tenant("victim")
    seen: dict[bool, dict[int, int]] = {True: {}, False: {}}
    rounds = 200
    for number in range(rounds):
        for each in range(60):
            attacker.set(f"prime-{each}", bytes(500))
        works = bool(number % 2)
        if works:
            for _ in range(60):
                victim.set(f"key-{chosen.randrange(100)}", bytes(chosen.randrange(2000)))
        gone = sum(attacker.get(f"prime-{each}") is None for each in range(60))
        seen[works][gone] = seen[works].get(gone, 0) + 1
    half = rounds / 2
    advantage = sum(abs(seen[True].get(gone, 0) - seen[False].get(gone, 0)) for gone in range(61)) / half / 2
    assert advantage <= 0.02
    assert victim.statistics().sets > 1_000


def test_one_name_in_a_thousand_tenants_is_a_thousand_values() -> None:
    cache = Cache.generated(quiet=True)
    tenants = [cache.tenant(f"tenant-{number}") for number in range(1000)]
    for number, tenant in enumerate(tenants):
        tenant.set("name", str(number).encode())
    assert [tenant.get("name") for tenant in tenants] == [str(number).encode() for number in range(1000)]
    keys = {tuple(tenant._store.present()) for tenant in tenants}
    assert len(keys) == 1000, "the same name is blinded to something else for each"


def test_names_that_run_together_the_same_are_apart() -> None:
    cache = Cache.generated(quiet=True)
    pairs = [("a", "bc"), ("ab", "c"), ("a\0", "bc"), ("a", "\0bc"), ("A", "bc"), ("a.b", "c"), ("ä", "c")]
    for number, (tenant, name) in enumerate(pairs):
        cache.tenant(tenant).set(name, bytes([number]))
    assert [cache.tenant(tenant).get(name) for tenant, name in pairs] == [bytes([number]) for number in range(7)]


def test_no_record_of_another_tenant_opens_wherever_it_is_put() -> None:
    cache = Cache.generated(quiet=True)
    mine, other = cache.tenant("acme"), cache.tenant("umbrella")
    for each in (mine, other):
        each.set("k", b"secret of " + each.name.encode())
    key = other._keys.blind(b"k")
    stolen, own = mine._store.find(mine._keys.blind(b"k"), ABSENT), other._store.find(key, ABSENT)
    assert other._store.replace(key, own, stolen)
    assert other.get("k") is None
    assert other.statistics().unauthentic == 1
    assert mine.get("k") == b"secret of acme"


def test_threads_of_many_tenants_never_get_what_is_not_theirs() -> None:
    cache = cache_of("lru")
    wrong: list[tuple[str, bytes | BaseException]] = []

    def work(name: str, seed: int) -> None:
        chosen = random.Random(seed)
        try:
            for _ in range(1_500):
                mine = cache.tenant(name)
                key = f"key-{chosen.randrange(50)}"
                if chosen.random() < 0.5:
                    mine.set(key, f"{name} {key}".encode() * chosen.randrange(1, 30))
                elif (value := mine.get(key)) is not None and not value.startswith(f"{name} {key}".encode()):
                    wrong.append((name, value))
                if chosen.random() < 0.01:
                    mine.rotate()
        except BaseException as error:
            wrong.append((name, error))

    threads = [threading.Thread(target=work, args=(f"tenant-{seed % 4}", seed)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_absent_another_tenants_and_expired_go_the_same_way() -> None:
    """The calls made for each kind of miss are the same. Figures of time are not for a test."""
    clock = Clock()
    cache = cache_of("lru", clock)
    mine, other = cache.tenant("acme"), cache.tenant("umbrella")
    other.set("foreign", b"v")
    mine.set("expired", b"v", ttl=1)
    mine.set("forged", b"v", ttl=60)
    clock.now += 1

    def path(name: str) -> list[str]:
        lines: list[str] = []

        def trace(frame: object, event: str, argument: object) -> None:
            code = frame.f_code  # type: ignore[attr-defined]
            if event == "call" and "cache" in code.co_filename:
                lines.append(code.co_name)

        with no_collection():  # what another test left behind is not taken apart in here
            sys.setprofile(trace)
            try:
                assert mine.get(name) is None
            finally:
                sys.setprofile(None)
        return [line for line in lines if line not in ("_drop", "_gone", "removed", "charge", "_cost", "test_")]

    absent = path("absent")
    assert "missed" in absent
    assert path("foreign") == path("expired") == absent
    mine._store.find(mine._keys.blind(b"forged"), ABSENT).expiry = 1e9
    failed = path("forged")
    assert failed[-1] == absent[-1]
    assert "missed" in failed
