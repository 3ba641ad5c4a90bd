"""Single flight: one computes and all get it, among threads, coroutines and both, whatever ends the computation."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from busd.components.cache import Cache
from busd.components.cache.settings import CacheSettings, TenantSettings
from busd.components.cache.tenant import TenantCache
from tests.support import wait_until


def tenant_of() -> TenantCache:
    return Cache.generated(quiet=True).tenant("acme")


class Slow:
    """A computation that lasts until it is let go, and counts how often it was begun."""

    def __init__(self, result: bytes | BaseException) -> None:
        self.result = result
        self.calls = 0
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> bytes:
        self.calls += 1
        self.begun.set()
        assert self.go.wait(20)
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


class Thread(threading.Thread):
    """Keeps what the call gave, or raised."""

    def __init__(self, call: Callable[[], bytes]) -> None:
        super().__init__(daemon=True)
        self.call = call
        self.result: bytes | BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.call()
        except BaseException as error:
            self.result = error

    def end(self) -> bytes | BaseException | None:
        self.join(20)
        assert not self.is_alive()
        return self.result


def waiting(mine: TenantCache) -> int:
    return sum(len(flight.waiters) for flight in mine._flights._flights.values())


def test_of_many_threads_one_computes() -> None:
    mine, slow = tenant_of(), Slow(b"v")
    threads = [Thread(lambda: mine.get_or_compute("k", slow)) for _ in range(8)]
    wait_until(lambda: waiting(mine) == 7)
    assert mine.statistics().in_flight == 1
    slow.go.set()
    assert [thread.end() for thread in threads] == [b"v"] * 8
    assert slow.calls == 1
    assert mine.get_or_compute("k", slow) == b"v"
    figures = mine.statistics()
    assert (slow.calls, figures.computed, figures.shared, figures.in_flight) == (1, 1, 7, 0)


def test_a_failure_reaches_all_who_wait_and_is_not_kept() -> None:
    mine, slow = tenant_of(), Slow(ValueError("no"))
    threads = [Thread(lambda: mine.get_or_compute("k", slow)) for _ in range(4)]
    wait_until(lambda: waiting(mine) == 3)
    slow.go.set()
    results = [thread.end() for thread in threads]
    assert all(isinstance(result, ValueError) for result in results)
    assert (slow.calls, len(mine)) == (1, 0)
    assert mine.get_or_compute("k", lambda: bytearray(b"now")) == b"now"


def test_who_is_interrupted_hands_on_to_one_who_waits() -> None:
    mine, first, second = tenant_of(), Slow(KeyboardInterrupt()), Slow(b"v")
    leader = Thread(lambda: mine.get_or_compute("k", first))
    assert first.begun.wait(20)
    others = [Thread(lambda: mine.get_or_compute("k", second)) for _ in range(3)]
    wait_until(lambda: waiting(mine) == 3)
    first.go.set()
    assert isinstance(leader.end(), KeyboardInterrupt)
    assert second.begun.wait(20)
    second.go.set()
    assert [other.end() for other in others] == [b"v"] * 3
    assert (first.calls, second.calls) == (1, 1)


def test_who_waits_too_long_leaves_and_the_others_stay() -> None:
    mine, slow = tenant_of(), Slow(b"v")
    leader = Thread(lambda: mine.get_or_compute("k", slow))
    assert slow.begun.wait(20)
    with pytest.raises(TimeoutError):
        mine.get_or_compute("k", slow, timeout=0.01)
    patient = Thread(lambda: mine.get_or_compute("k", slow, timeout=20))
    wait_until(lambda: waiting(mine) == 2)
    slow.go.set()
    assert (leader.end(), patient.end(), slow.calls) == (b"v", b"v", 1)


@pytest.mark.parametrize("what", ["set", "delete", "clear", "set_many", "add"])
def test_what_is_written_meanwhile_stays(what: str) -> None:
    mine, slow = tenant_of(), Slow(b"old")
    leader = Thread(lambda: mine.get_or_compute("k", slow))
    assert slow.begun.wait(20)
    waiter = Thread(lambda: mine.get_or_compute("k", slow))
    wait_until(lambda: waiting(mine) == 1)
    after: dict[str, bytes | None] = {"set": b"new", "delete": None, "clear": None, "set_many": b"new", "add": b"new"}
    writes: dict[str, Callable[[], object]] = {
        "set": lambda: mine.set("k", b"new"),
        "delete": lambda: mine.delete("k"),
        "clear": mine.clear,
        "set_many": lambda: mine.set_many({"k": b"new"}),
        "add": lambda: mine.add("k", b"new"),
    }
    writes[what]()
    if after[what] is None:
        assert mine.get_or_compute("k", lambda: b"newer") == b"newer", "who comes now does not get the outdated one"
        after[what] = b"newer"
    slow.go.set()
    assert (leader.end(), waiter.end()) == (b"old", b"old")
    assert mine.get("k") == after[what]


def test_who_asks_for_what_it_computes_is_told() -> None:
    mine = tenant_of()
    with pytest.raises(RuntimeError, match="itself"):
        mine.get_or_compute("k", lambda: mine.get_or_compute("k", lambda: b""))
    assert mine.get_or_compute("a", lambda: mine.get_or_compute("b", lambda: b"inner")) == b"inner"
    assert mine.statistics().in_flight == 0


def test_what_cannot_be_stored_is_given_all_the_same_and_what_is_no_value_is_not() -> None:
    settings = CacheSettings(usual=TenantSettings(quota=4096, value_limit=8192))
    mine = Cache.generated(settings, quiet=True).tenant("acme")
    assert mine.get_or_compute("k", lambda: bytes(5000)) == bytes(5000)
    assert mine.get_or_compute("k", lambda: bytes(9000)) == bytes(9000)
    assert (len(mine), mine.statistics().refused) == (0, 1)
    with pytest.raises(TypeError, match="str"):
        mine.get_or_compute("k", lambda: "text")  # type: ignore[arg-type,return-value]
    assert mine.statistics().in_flight == 0


def test_coroutines_share_and_a_leader_that_is_cancelled_hands_on() -> None:
    mine = tenant_of()
    calls = 0

    async def main() -> None:
        gate = asyncio.Event()

        async def compute() -> bytes:
            nonlocal calls
            calls += 1
            await gate.wait()
            return b"v"

        async def ask() -> bytes:
            return await mine.get_or_compute_async("k", compute, ttl=60)

        tasks = [asyncio.create_task(ask()) for _ in range(5)]
        await asyncio.sleep(0)
        assert (calls, waiting(mine)) == (1, 4)
        tasks[1].cancel()
        tasks[0].cancel()
        await asyncio.wait([tasks[0], tasks[1]])
        while calls < 2:
            await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(*tasks[2:]) == [b"v"] * 3
        assert await ask() == b"v"

    asyncio.run(main())
    assert calls == 2
    assert mine.statistics().in_flight == 0


def test_a_waiter_that_is_cancelled_just_as_it_should_lead_hands_on() -> None:
    mine = tenant_of()

    async def main() -> None:
        gate = asyncio.Event()

        async def compute() -> bytes:
            await gate.wait()
            return b"v"

        tasks = [asyncio.create_task(mine.get_or_compute_async("k", compute)) for _ in range(4)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0)  # the leader has ended, and 1 was told; it does not know yet
        tasks[1].cancel()
        await asyncio.wait(tasks[:2])
        assert tasks[1].cancelled()
        gate.set()
        assert await asyncio.wait_for(asyncio.gather(*tasks[2:]), 20) == [b"v"] * 2

    asyncio.run(main())
    assert mine.statistics().in_flight == 0


def test_when_all_are_cancelled_nothing_is_left() -> None:
    mine = tenant_of()

    async def main() -> None:
        async def compute() -> bytes:
            await asyncio.sleep(60)
            return b""

        tasks = [asyncio.create_task(mine.get_or_compute_async("k", compute)) for _ in range(4)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    asyncio.run(main())
    assert mine.statistics().in_flight == 0


def test_a_failure_reaches_all_coroutines_and_recursion_is_told() -> None:
    mine = tenant_of()

    async def main() -> None:
        async def fail() -> bytes:
            await asyncio.sleep(0)
            raise ValueError("no")

        results = await asyncio.gather(
            *(mine.get_or_compute_async("k", fail) for _ in range(3)), return_exceptions=True
        )
        assert all(isinstance(result, ValueError) for result in results)

        async def again() -> bytes:
            return await mine.get_or_compute_async("k", again)

        with pytest.raises(RuntimeError, match="itself"):
            await mine.get_or_compute_async("k", again)

        async def blocks() -> bytes:
            await asyncio.sleep(0.01)
            return b""

        task = asyncio.create_task(mine.get_or_compute_async("k", blocks))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="get_or_compute_async"):
            mine.get_or_compute("k", lambda: b"")
        await task

    asyncio.run(main())


def test_threads_and_coroutines_wait_for_one_another() -> None:
    mine, slow = tenant_of(), Slow(b"v")
    leader = Thread(lambda: mine.get_or_compute("k", slow))
    assert slow.begun.wait(20)

    async def main() -> bytes:
        async def compute() -> bytes:
            return b"not this"

        task = asyncio.create_task(mine.get_or_compute_async("k", compute))
        while not waiting(mine):
            await asyncio.sleep(0)
        slow.go.set()
        return await task

    assert asyncio.run(main()) == b"v"
    assert leader.end() == b"v"
