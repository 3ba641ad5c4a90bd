"""Stale-while-revalidate: an old value at once, one computation in the background, and a time that cannot be forged."""

import asyncio
import contextvars
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

from busd.components.cache import Cache
from busd.components.cache.entry import GRACE_MOST
from busd.components.cache.flight import RENEWALS
from busd.components.cache.scratch import Scratch
from busd.components.cache.settings import CacheSettings, TenantSettings
from busd.components.cache.tenant import TenantCache
from tests.components.test_cache_cache import entry_of
from tests.components.test_cache_flight import Slow, Thread, waiting
from tests.components.test_cache_store import Clock
from tests.support import wait_until


def caches(**share: Any) -> tuple[TenantCache, Clock]:
    clock = Clock()
    settings = CacheSettings(usual=TenantSettings(**share))
    return Cache.generated(settings, quiet=True, clock=clock).tenant("acme"), clock


def settled(mine: TenantCache) -> None:
    """Wait until nothing is computed any more."""
    wait_until(lambda: not mine._flights._renewing and not mine.statistics().in_flight)


def never() -> bytes:
    raise AssertionError("nothing is computed for a value that is fresh")


def test_an_old_value_is_given_at_once_and_renewed_once() -> None:
    mine, clock = caches()
    slow = Slow(b"new")
    assert mine.get_or_compute("k", lambda: b"old", ttl=10, stale=5) == b"old"
    clock.now += 9.75
    assert mine.get_or_compute("k", never, ttl=10, stale=5) == b"old"
    clock.now += 0.25
    assert [mine.get_or_compute("k", slow, ttl=10, stale=5) for _ in range(6)] == [b"old"] * 6
    assert slow.begun.wait(20)
    assert mine.statistics().in_flight == 1
    slow.go.set()
    settled(mine)
    assert slow.calls == 1
    assert mine.get_or_compute("k", never, ttl=10, stale=5) == b"new"
    figures = mine.statistics()
    assert (figures.stale, figures.computed, figures.renewals_failed) == (6, 2, 0)
    assert (figures.hits, figures.misses) == (8, 1)


def test_the_time_for_old_values_ends() -> None:
    mine, clock = caches()
    mine.get_or_compute("k", lambda: b"old", ttl=10, stale=5)
    clock.now += 14.9375
    slow = Slow(b"not in time")
    assert mine.get_or_compute("k", slow, ttl=10, stale=5) == b"old"
    mine.delete("k")  # the renewal must not land later
    slow.go.set()
    settled(mine)
    mine.get_or_compute("k", lambda: b"old", ttl=10, stale=5)
    clock.now += 15
    assert mine.get_or_compute("k", lambda: b"computed", ttl=10, stale=5) == b"computed", "the caller waits for it"
    assert mine.statistics().stale == 1


def test_a_caller_s_own_time_counts_also_if_the_value_is_kept_for_longer() -> None:
    mine, clock = caches()
    mine.get_or_compute("k", lambda: b"old", ttl=10, stale=100)
    clock.now += 15
    assert mine.get_or_compute("k", lambda: b"new", ttl=10, stale=5) == b"new"


def test_to_everybody_else_it_is_gone_when_its_time_is_over() -> None:
    mine, clock = caches(keep_names=True)
    for name in ("get", "has", "add", "replace", "cas", "touch", "delete", "lend", "compute"):
        mine.get_or_compute(name, lambda: b"old", ttl=10, stale=1000)
    found = mine.get_entry("get")
    assert found is not None
    assert found.ttl == 10.0
    generation = entry_of(mine, "cas")[1].generation
    clock.now += 10
    misses = mine.statistics().misses
    assert mine.get("get") is None
    assert mine.get_entry("get") is None
    assert mine.statistics().misses == misses + 2
    assert "has" not in mine
    assert mine.add("add", b"1")
    assert not mine.replace("replace", b"1")
    with pytest.raises(Exception, match="9106"):
        mine.cas("cas", b"1", generation)
    assert not mine.touch("touch")
    assert not mine.delete("delete")
    assert mine.lend("lend", Scratch()) is None
    assert list(mine.names()) == [b"add"]
    assert mine.get_or_compute("compute", lambda: b"new") == b"new"
    assert mine.get_or_compute("get", lambda: b"renewed", ttl=10, stale=1000) == b"old", "looking did not take it out"
    settled(mine)
    assert mine.get("get") == b"renewed"
    assert mine.get_or_compute("delete", lambda: b"new", stale=1000) == b"new", "deleted is deleted"


def test_touching_what_is_fresh_keeps_how_long_it_may_be_old() -> None:
    mine, clock = caches()
    mine.get_or_compute("k", lambda: b"v", ttl=10, stale=5)
    assert mine.touch("k", 20)
    clock.now += 20
    assert mine.get("k") is None
    assert mine.get_or_compute("k", lambda: b"new", ttl=10, stale=5) == b"v"
    settled(mine)


@pytest.mark.parametrize(
    ("share", "ttl", "stale", "grace"),
    [
        ({}, 10, 5, 5.0),
        ({}, 10, 0.01, 0.0625),
        ({}, 10, GRACE_MOST, GRACE_MOST),
        ({}, math.inf, 5, 0.0),
        ({}, None, 5, 0.0),
        ({"ttl": 10}, None, 5, 5.0),
        ({"ttl_limit": 12}, 10, 5, 2.0),
        ({"ttl_limit": 12.03}, 12, 5, 0.0),
        ({"ttl_limit": 10}, 100, 5, 0.0),
    ],
)
def test_how_long_it_is_kept(share: dict[str, float], ttl: float | None, stale: float, grace: float) -> None:
    """A tenant's limit is for both times together: nothing is held for longer than the operator allowed."""
    mine, clock = caches(**share)
    mine.get_or_compute("k", lambda: b"v", ttl=ttl, stale=stale)
    entry = entry_of(mine, "k")[1]
    assert entry.grace == grace
    if "ttl_limit" in share:
        assert entry.expiry <= clock.now + share["ttl_limit"]


@pytest.mark.parametrize("stale", [0, -1, math.nan, math.inf, GRACE_MOST + 1])
def test_a_time_that_cannot_be_is_refused(stale: float) -> None:
    mine, _ = caches()
    with pytest.raises(ValueError, match="stale is"):
        mine.get_or_compute("k", never, ttl=10, stale=stale)
    assert mine.statistics().in_flight == 0


@pytest.mark.parametrize("what", ["expiry", "grace", "both"])
def test_neither_time_can_be_changed_in_memory(what: str) -> None:
    mine, clock = caches()
    mine.get_or_compute("k", lambda: b"old", ttl=10, stale=5)
    entry = entry_of(mine, "k")[1]
    clock.now += 11
    if what != "grace":
        entry.expiry += 1000
    if what != "expiry":
        entry.flags += 1000 << 8
    assert mine.get_or_compute("k", lambda: b"new", ttl=10, stale=2000) == b"new"
    assert mine.statistics().unauthentic == 1
    assert mine.statistics().stale == 0


def test_a_renewal_that_fails_is_counted_and_the_old_value_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    mine, clock = caches()
    mine.get_or_compute("k", lambda: b"old", ttl=10, stale=5)
    clock.now += 10

    def fail() -> bytes:
        raise OSError("the secret is 4711")

    for number in range(3):
        assert mine.get_or_compute("k", fail, ttl=10, stale=5) == b"old"
        settled(mine)
        assert mine.statistics().renewals_failed == number + 1
    assert "could not be renewed: OSError" in caplog.text
    assert "4711" not in caplog.text
    assert mine.get_or_compute("k", lambda: b"new", ttl=10, stale=5) == b"old"
    settled(mine)
    assert mine.get("k") == b"new"


def test_who_waits_for_a_renewal_gets_what_becomes_of_it() -> None:
    mine, clock = caches()
    for result in (b"new", ValueError("no")):
        mine.set("k", b"")
        mine.delete("k")
        mine.get_or_compute("k", lambda: b"old", ttl=10, stale=5)
        clock.now += 10
        slow = Slow(result)
        assert mine.get_or_compute("k", slow, ttl=10, stale=5) == b"old"
        other = Thread(lambda: mine.get_or_compute("k", never))
        wait_until(lambda: waiting(mine) == 1)
        slow.go.set()
        outcome = other.end()
        assert outcome == result if isinstance(result, bytes) else isinstance(outcome, ValueError)
        settled(mine)


def test_what_is_written_meanwhile_stays() -> None:
    mine, clock = caches()
    mine.get_or_compute("k", lambda: b"old", ttl=10, stale=5)
    clock.now += 10
    slow = Slow(b"outdated")
    assert mine.get_or_compute("k", slow, ttl=10, stale=5) == b"old"
    assert slow.begun.wait(20)
    mine.set("k", b"written")
    slow.go.set()
    settled(mine)
    assert mine.get("k") == b"written"


def test_a_tenant_has_only_so_many_at_once() -> None:
    mine, clock = caches()
    names = [f"k{number}" for number in range(RENEWALS + 3)]
    for name in names:
        mine.get_or_compute(name, lambda: b"old", ttl=10, stale=5)
    clock.now += 10
    slow = Slow(b"new")
    assert [mine.get_or_compute(name, slow, ttl=10, stale=5) for name in names] == [b"old"] * len(names)
    wait_until(lambda: slow.calls == RENEWALS)
    slow.go.set()
    settled(mine)
    assert slow.calls == RENEWALS
    assert sum(mine.get(name) == b"new" for name in names) == RENEWALS


def test_without_a_thread_to_be_had_the_old_value_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, clock = caches()
    mine.get_or_compute("k", lambda: b"old", ttl=10, stale=5)
    clock.now += 10

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert mine.get_or_compute("k", never, ttl=10, stale=5) == b"old"
    assert (mine.statistics().renewals_failed, mine.statistics().in_flight) == (1, 0)
    assert mine.get_or_compute("k", lambda: b"new", ttl=10, stale=5) == b"old"
    settled(mine)
    assert mine.get("k") == b"new"


def test_a_renewal_sees_the_context_of_who_asked() -> None:
    variable = contextvars.ContextVar("variable", default=b"none")
    mine, clock = caches()
    mine.get_or_compute("k", lambda: b"old", ttl=10, stale=5)
    clock.now += 10
    variable.set(b"mine")
    mine.get_or_compute("k", variable.get, ttl=10, stale=5)
    settled(mine)
    assert mine.get("k") == b"mine"


def test_a_rotation_and_a_shred_meanwhile() -> None:
    mine, clock = caches()
    mine.get_or_compute("k", lambda: b"old", ttl=10, stale=5)
    first = mine.statistics().epoch
    second = mine.rotate()
    clock.now += 10
    slow = Slow(b"new")
    assert mine.get_or_compute("k", slow, ttl=10, stale=5) == b"old"
    assert entry_of(mine, "k")[1].epoch == second, "an old value is sealed anew as well"
    assert mine.shred_epoch(first)
    mine.shred()
    slow.go.set()
    settled(mine)
    assert (len(mine), mine.statistics().renewals_failed) == (0, 1), "nothing comes back"


def test_coroutines_get_the_old_value_and_a_task_renews_it() -> None:
    mine, clock = caches()

    async def main() -> None:
        calls, gate = 0, asyncio.Event()

        async def compute() -> bytes:
            nonlocal calls
            calls += 1
            await gate.wait()
            return str(calls).encode()

        def ask() -> Any:
            return mine.get_or_compute_async("k", compute, ttl=10, stale=5)

        gate.set()
        assert await ask() == b"1"
        gate.clear()
        clock.now += 10
        assert await asyncio.gather(*(ask() for _ in range(5))) == [b"1"] * 5
        await asyncio.sleep(0)
        assert (calls, mine.statistics().in_flight) == (2, 1)
        with pytest.raises(RuntimeError, match="get_or_compute_async"):
            mine.get_or_compute("k", never)  # would block the loop that has to compute it
        gate.set()
        while mine._flights._renewing:
            await asyncio.sleep(0)
        assert await ask() == b"2"
        assert (mine.statistics().stale, mine.statistics().renewals_failed) == (5, 0)

    asyncio.run(main())


def test_a_task_that_fails_or_is_cancelled_is_counted_and_leaves_nothing() -> None:
    mine, clock = caches()

    async def main() -> None:
        async def old() -> bytes:
            return b"old"

        async def fails() -> bytes:
            raise ValueError("no")

        async def hangs() -> bytes:
            await asyncio.sleep(60)
            return b""

        def ask(compute: Callable[[], Any]) -> Any:
            return mine.get_or_compute_async("k", compute, ttl=10, stale=5)

        async def cancelled(turns: int) -> None:
            assert await ask(hangs) == b"old"
            for _ in range(turns):
                await asyncio.sleep(0)
            (task,) = mine._computing._tasks
            task.cancel()
            await asyncio.wait([task])
            await asyncio.sleep(0)

        assert await ask(old) == b"old"
        clock.now += 10
        assert await ask(fails) == b"old"
        while mine._flights._renewing:
            await asyncio.sleep(0)
        assert mine.statistics().renewals_failed == 1
        await cancelled(0)  # before its first step
        await cancelled(2)
        assert (mine.statistics().renewals_failed, mine.statistics().in_flight) == (3, 0)
        assert await ask(hangs) == b"old"  # and the loop's end cancels this one

    asyncio.run(main())
    assert (mine.statistics().renewals_failed, mine.statistics().in_flight) == (4, 0)
