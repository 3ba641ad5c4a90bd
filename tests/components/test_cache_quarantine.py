"""Too many records of one data key fail authentication: that key is destroyed, and nobody else notices."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from busd.components.cache import Cache
from busd.components.cache.component import EncryptedCache
from busd.components.cache.quarantine import FAILURES, SECONDS, Quarantine
from busd.components.cache.security import SecurityEvent
from busd.components.cache.settings import CacheSettings
from busd.components.cache.statistics import CacheStatistics
from busd.components.cache.tenant import TenantCache
from tests.components.cache_component_world import damage, lines, world
from tests.components.test_cache_cache import entry_of, tamper
from tests.components.test_cache_store import Clock


def fail(mine: TenantCache, times: int) -> None:
    """Have so many records of the key that seals fail, one after the other."""
    for _ in range(times):
        mine.set("victim", b"v")
        record = entry_of(mine, "victim")[1].record
        tamper(mine, "victim", record[:-1] + bytes([record[-1] ^ 1]))
        assert mine.get("victim") is None


async def sealed(cache: EncryptedCache) -> CacheStatistics:
    figures = (await cache.stats()).sealed
    assert figures is not None
    return figures


def test_one_failure_too_many_destroys_the_key_and_a_new_one_seals() -> None:
    events: list[SecurityEvent] = []
    clock = Clock()
    cache = Cache.generated(quiet=True, clock=clock, on_security=events.append)
    mine, other = cache.tenant("acme"), cache.tenant("umbrella")
    mine.set("k", b"mine")
    other.set("k", b"other's")
    epoch, others = mine.statistics().epoch, other.statistics().epoch
    fail(mine, FAILURES - 1)
    assert mine.get("k") == b"mine"
    assert mine.statistics().quarantined == 0
    fail(mine, 1)
    figures = mine.statistics()
    assert (figures.quarantined, figures.unauthentic) == (1, FAILURES)
    assert mine.get("k") is None, "what the key sealed is gone with it"
    assert mine.statistics().keyless == 1, "and is no failure of its own"
    mine.set("k", b"again")
    assert mine.get("k") == b"again"
    assert mine.statistics().epoch == epoch + 1
    assert [event.quarantined for event in events] == [False] * (FAILURES - 1) + [True]
    assert {(event.tenant, event.epoch) for event in events} == {("acme", epoch)}
    assert other.get("k") == b"other's"
    assert (other.statistics().quarantined, other.statistics().epoch) == (0, others)


def test_what_was_sealed_under_another_key_of_the_tenant_stays() -> None:
    mine = Cache.generated(quiet=True, clock=Clock()).tenant("acme")
    mine.set("old", b"1")
    first = mine.statistics().epoch
    mine.rotate()
    fail(mine, FAILURES)
    assert mine.statistics().quarantined == 1
    assert entry_of(mine, "old")[1].epoch == first
    assert mine.get("old") == b"1"


def test_failures_of_two_keys_are_not_added_up() -> None:
    mine = Cache.generated(quiet=True, clock=Clock()).tenant("acme")
    for _ in range(3):
        fail(mine, FAILURES - 1)
        mine.rotate()
    assert mine.statistics().quarantined == 0


def test_failures_that_are_far_between_destroy_nothing() -> None:
    clock = Clock()
    mine = Cache.generated(quiet=True, clock=clock).tenant("acme")
    mine.set("k", b"v")
    for _ in range(3 * FAILURES):
        fail(mine, 1)
        clock.now += SECONDS / (FAILURES - 1) + 0.01
    assert mine.get("k") == b"v"
    assert mine.statistics().quarantined == 0


@pytest.mark.parametrize(("failures", "expected"), [(0, 0), (1, 40), (10, 4)])
def test_how_many_may_fail_is_a_setting_and_none_is_none(failures: int, expected: int) -> None:
    settings = CacheSettings(quarantine_failures=failures, quarantine_seconds=1.0)
    mine = Cache.generated(settings, quiet=True, clock=Clock()).tenant("acme")
    fail(mine, 40)
    assert (mine.statistics().quarantined, mine.statistics().unauthentic) == (expected, 40)


def test_a_record_that_says_another_epoch_is_held_against_the_one_it_was_sealed_in() -> None:
    """What was tampered with says anything; it must not choose which key goes."""
    mine = Cache.generated(quiet=True, clock=Clock()).tenant("acme")
    mine.set("innocent", b"1")
    first, second = mine.statistics().epoch, mine.rotate()
    for _ in range(FAILURES):
        mine.set("victim", b"v")
        record = bytearray(entry_of(mine, "victim")[1].record)
        record[1:5] = first.to_bytes(4, "big")
        tamper(mine, "victim", bytes(record))
        assert mine.get("victim") is None
    assert mine.get("innocent") == b"1"
    assert mine.statistics().quarantined == 1
    assert not mine.shred_epoch(second), "that is the one that went"


def test_threads_that_meet_the_same_failures_destroy_one_key_once() -> None:
    quarantine = Quarantine(failures=50)
    due: list[bool] = []
    ready = threading.Barrier(8)

    def work() -> None:
        ready.wait(10)
        due.extend(quarantine.is_due(1, 0.0, (1,)) for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (len(due), sum(due)) == (400, 8)


def test_epochs_without_a_key_take_no_memory() -> None:
    quarantine = Quarantine(failures=2)
    for epoch in range(1000):
        assert not quarantine.is_due(epoch, 0.0, (epoch,))
        assert not quarantine.is_due(epoch + 1, 0.0, (epoch,)), "nobody has a key of that epoch"
    assert len(quarantine._latest) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_that_was_forked_while_the_lock_was_held_goes_on() -> None:
    mine = Cache.generated(quiet=True).tenant("acme")
    with mine._quarantine._lock:
        child = os.fork()
        if child == 0:
            try:
                fail(mine, FAILURES)
                os._exit(mine.statistics().quarantined)
            finally:
                os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_on_the_bus_it_is_written_down_counted_and_another_tenant_s_cache_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(state=str(tmp_path), quarantine_failures=3) as here:
            await here.globex.set(b"n", value=b"theirs")
            await here.acme.set(b"kept", value=b"v")
            epoch = (await sealed(here.acme)).epoch
            for _ in range(3):
                await here.acme.set(b"n", value=b"v")
                damage(here.component, "acme", b"n")
                assert not (await here.acme.get(b"n")).found
            assert not (await here.acme.get(b"kept")).found
            await here.acme.set(b"n", value=b"new")
            assert (await here.acme.get(b"n")).value == b"new", "it serves on, under a new key"
            assert (await sealed(here.acme)).quarantined == 1
            other = await sealed(here.globex)
            assert (other.quarantined, other.unauthentic, other.keyless) == (0, 0, 0)
            assert (await here.globex.get(b"n")).value == b"theirs"
            assert here.component.statistics().quarantined == 1
            assert here.component.health().ok
            assert "1 data keys were destroyed" in here.component.health().detail
        told = lines(tmp_path, "acme")
        assert [each["event"] for each in told] == ["unauthentic"] * 3 + ["quarantined"]
        assert (told[-1]["epoch"], told[-1]["count"], told[-1]["by"]["tenant"]) == (epoch, 3, "acme")
        assert lines(tmp_path, "globex") == []

    asyncio.run(main())
