"""`BusCache`: plain values under plain names at the component, and requests that travel together."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import busclient.testing
from busclient import BusError, CallTimeout, Closed, Code, NoResponders
from busclient.testing import FakeClock
from busd.components.cache import client as client_module
from busd.components.cache.client import CALL_BYTES, CALLS, TOGETHER, BusCache
from busd.components.cache.component import EncryptedCache
from busd.components.model import attach, within
from busd.components.model.handle import handle_statistics
from busd.components.model.testing import Form, both_forms, forms
from tests.components.cache_component_world import SECONDS, config, world

Play = Callable[[BusCache, EncryptedCache], Awaitable[None]]


def play(form: Form, test: Play, **changes: Any) -> None:
    """Run ``test`` with a client, and the handle that it uses."""

    async def main() -> None:
        async with (
            asyncio.timeout(SECONDS),
            both_forms(EncryptedCache, form, clock=FakeClock(), **config(**changes)) as worker,
        ):
            await test(BusCache(worker), worker)

    asyncio.run(main())


def calls(worker: EncryptedCache) -> dict[str, int]:
    """How many calls of each operation were made through a handle."""
    return {name: figures.calls for name, figures in handle_statistics(worker).items() if figures.calls}


@forms
def test_it_does_what_a_cache_in_this_process_does(form: Form) -> None:
    async def test(mine: BusCache, worker: EncryptedCache) -> None:
        assert await mine.get("k") is None
        assert await mine.get("k", b"else") == b"else"
        generation = await mine.set("k", b"v", ttl=60.0)
        assert await mine.get("k") == await mine.get(b"k") == b"v"
        entry = await mine.get_entry("k")
        assert entry is not None
        assert (entry.value, entry.generation) == (b"v", generation)
        assert 59.0 < entry.ttl <= 60.0
        assert await mine.touch("k", math.inf)
        entry = await mine.get_entry("k")
        assert entry is not None
        assert entry.ttl == math.inf
        assert not await mine.add("k", b"other")
        assert await mine.add("new", bytearray(b"n"))
        assert await mine.replace("new", memoryview(b"newer"))
        assert not await mine.replace("nothing", b"x")
        later = await mine.cas("k", b"w", generation)
        with pytest.raises(BusError) as conflict:
            await mine.cas("k", b"x", generation)
        assert conflict.value.code == Code.CACHE_CONFLICT
        assert later > generation
        assert await mine.get_many(["k", b"new", "nothing"]) == {"k": b"w", b"new": b"newer"}
        assert await mine.delete("k")
        assert not await mine.delete("k")
        assert await mine.get_entry("k") is None
        assert await mine.clear() == 1
        assert await mine.get("new") is None

    play(form, test)


def test_what_is_asked_for_in_one_turn_of_the_loop_travels_together() -> None:
    async def test(mine: BusCache, worker: EncryptedCache) -> None:
        names = [f"name:{number}" for number in range(2 * TOGETHER)]
        await asyncio.gather(*(mine.set(name, name.encode()) for name in names))
        assert calls(worker) == {"set_many": 2}
        values = await asyncio.gather(*(mine.get(name) for name in [*names, "absent"]))
        assert values == [*(name.encode() for name in names), None]
        assert calls(worker) == {"set_many": 2, "get_many": 2, "get": 1}

    play("bus", test)


def test_a_lone_request_waits_for_no_other() -> None:
    async def test(mine: BusCache, worker: EncryptedCache) -> None:
        await mine.set("k", b"v")
        assert await mine.get("k") == b"v"
        assert calls(worker) == {"set": 1, "get": 1}

    play("bus", test)  # and the clock stood still


def test_large_values_do_not_travel_with_many_others() -> None:
    async def test(mine: BusCache, worker: EncryptedCache) -> None:
        value = bytes(CALL_BYTES // 4)
        names = [f"name:{number}" for number in range(16)]
        await mine.set_many(dict.fromkeys(names, value))
        assert calls(worker) == {"set_many": 4}
        for _ in range(3):  # until it knows how large they are
            assert await asyncio.gather(*map(mine.get, names)) == [value] * 16
        before = calls(worker).get("get_many", 0)
        await asyncio.gather(*map(mine.get, names))
        assert calls(worker)["get_many"] - before >= 4

    play("bus", test)


def test_no_more_than_so_many_calls_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond them gathers: a flood of requests does not use up what the broker lets a client have."""
    most = 0

    async def test(mine: BusCache, worker: EncryptedCache) -> None:
        async def get_many(names: list[bytes]) -> Any:
            nonlocal most
            most = max(most, sum(figures.in_flight for figures in handle_statistics(worker).values()) + 1)
            return await worker.get_many(names)

        class Watched:
            def __getattr__(self, name: str) -> Any:
                return get_many if name == "get_many" else getattr(worker, name)

        mine = BusCache(Watched())
        names = [f"name:{number}" for number in range(3 * CALLS * TOGETHER)]
        assert await asyncio.gather(*map(mine.get, names)) == [None] * len(names)

    play("bus", test)
    assert most == CALLS


@forms
def test_a_request_that_is_refused_is_refused_alone(form: Form) -> None:
    async def test(mine: BusCache, worker: EncryptedCache) -> None:
        long = "n" * 2000
        outcomes = await asyncio.gather(
            mine.set("a", b"1"), mine.set(long, b"2"), mine.set("b", bytes(2000)), mine.set("c", b"3", ttl=-1.0),
            mine.set("d", b"4"), return_exceptions=True,
        )  # fmt: skip
        codes = [each.code if isinstance(each, BusError) else None for each in outcomes]
        assert codes == [None, Code.CACHE_KEY_SIZE, Code.CACHE_VALUE_SIZE, Code.REQUEST_INVALID, None]
        values = await asyncio.gather(*map(mine.get, ["a", long, "b", "d", ""]), return_exceptions=True)
        assert [getattr(each, "code", each) for each in values] == [
            b"1", Code.CACHE_KEY_SIZE, None, b"4", Code.CACHE_KEY_SIZE,
        ]  # fmt: skip
        with pytest.raises(TypeError, match="str or bytes, not int"):
            await mine.get(5)  # type: ignore[call-overload]

    play(form, test, usual={"quota": 1 << 20, "value_limit": 1000})


def test_who_gives_up_gets_nothing_and_the_others_theirs() -> None:
    async def test(mine: BusCache, worker: EncryptedCache) -> None:
        names = [f"name:{number}" for number in range(8)]
        await mine.set_many({name: name.encode() for name in names})
        asked = [asyncio.ensure_future(mine.get(name)) for name in names]
        await asyncio.sleep(0)
        for each in asked[::2]:
            each.cancel()
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(each) for each in done[::2]] == [asyncio.CancelledError] * 4
        assert done[1::2] == [name.encode() for name in names[1::2]]
        assert await mine.get(names[0]) == names[0].encode()

    play("bus", test)


def test_each_of_those_that_travel_together_has_an_error_of_its_own() -> None:
    async def main() -> None:
        async with world() as here:
            mine = BusCache(within(here.acme, 0.5))
            await here.buses["acme"].close()
            errors = await asyncio.gather(*(mine.get(f"n{number}") for number in range(4)), return_exceptions=True)
            assert [type(each) for each in errors] == [Closed] * 4
            assert len({id(each) for each in errors}) == 4

    asyncio.run(main())


def test_without_a_component_each_hears_of_it_at_once() -> None:
    async def main() -> None:
        async with (
            busclient.testing.bus(component="alone") as bus,
            attach(EncryptedCache, bus=bus, where="bus") as worker,
        ):
            mine = BusCache(worker)
            done = await asyncio.gather(mine.get("a"), mine.get("b"), mine.set("c", b"1"), return_exceptions=True)
            assert [type(each) for each in done] == [NoResponders] * 3

    asyncio.run(main())


def test_a_worker_that_is_late_is_late_for_each() -> None:
    async def main() -> None:
        async with busclient.testing.bus(component="cache") as bus:

            async def never(call: Any) -> None:
                await asyncio.Event().wait()

            caller = await bus.connect(component="caller")
            async with bus.serve("cache.get_many", never), attach(EncryptedCache, bus=caller, where="bus") as worker:
                mine = BusCache(within(worker, 1.0))
                asked = asyncio.gather(mine.get("a"), mine.get("b"), return_exceptions=True)
                while not asked.done():
                    await bus.clock.advance(0.5)
                assert [type(each) for each in asked.result()] == [CallTimeout] * 2

    asyncio.run(main())


def test_what_one_message_does_not_hold_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "CALL_BYTES", 64 << 20)

    async def test(mine: BusCache, worker: EncryptedCache) -> None:
        value = bytes(6 << 20)
        names = [f"name:{number}" for number in range(5)]
        for name in names:
            await mine.set(name, value)
        before = calls(worker).get("get_many", 0)
        assert await mine.get_many(names) == dict.fromkeys(names, value)
        assert calls(worker)["get_many"] - before == 3

    play("bus", test, usual={"quota": 64 << 20})


def test_many_more_names_than_a_call_takes() -> None:
    async def test(mine: BusCache, worker: EncryptedCache) -> None:
        values = {f"name:{number}": str(number).encode() for number in range(1000)}
        await mine.set_many(values)
        assert await mine.get_many([*values, "absent"]) == values

    play("bus", test)


def test_tenants_have_values_of_their_own() -> None:
    async def main() -> None:
        async with world() as here:
            acme, globex = BusCache(here.acme), BusCache(here.globex)
            await asyncio.gather(*(acme.set(f"n{number}", b"acme") for number in range(40)))
            await asyncio.gather(*(globex.set(f"n{number}", b"globex") for number in range(20)))
            got = await asyncio.gather(*(each.get(f"n{n}") for n in range(40) for each in (acme, globex)))
            assert got[::2] == [b"acme"] * 40
            assert got[1::2] == [b"globex"] * 20 + [None] * 20

    asyncio.run(main())
