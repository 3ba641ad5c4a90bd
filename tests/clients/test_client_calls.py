"""Calls, services and streams of the asyncio SDK on the bus in memory."""

import asyncio
import contextvars
import gc
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from busclient import (
    BusError,
    Call,
    CallTimeout,
    Code,
    ErrorReply,
    NoResponders,
    Reply,
)
from busclient.testing import MemoryBus, settle
from tests.clients.memory import echo, on_memory

# -- calls ------------------------------------------------------------------------------------------------------------


@on_memory()
async def test_outcomes_of_calls(bus: MemoryBus) -> None:
    with pytest.raises(NoResponders, match=r"nobody\.there"):
        await bus.call("nobody.there")

    async def fails(call: Call) -> None:
        raise BusError(10001, text="no such file: x", path="x")

    async with bus.serve("fails", fails):
        with pytest.raises(ErrorReply, match="no such file") as caught:
            await bus.call("fails")
        assert (caught.value.code, caught.value.fields["path"]) == (10001, "x")


@on_memory()
async def test_an_exception_of_a_handler_is_logged_there_and_told_here_without_its_text(bus: MemoryBus) -> None:
    async def fails(call: Call) -> None:
        raise RuntimeError("the password is 1234")

    logged: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = logged.append  # type: ignore[assignment, method-assign]
    logging.getLogger("busclient").addHandler(handler)
    try:
        async with bus.serve("fails", fails) as service:
            with pytest.raises(ErrorReply) as caught:
                await bus.call("fails")
            assert service.statistics().failed_calls == 1
    finally:
        logging.getLogger("busclient").removeHandler(handler)
    assert caught.value.code == Code.HANDLER_FAILED
    assert "RuntimeError" in caught.value.text
    assert "1234" not in str(caught.value.body())
    assert [record.exc_info is not None for record in logged] == [True]


@on_memory()
async def test_a_call_that_nobody_answers_times_out_and_its_handler_is_cancelled(bus: MemoryBus) -> None:
    cancelled = asyncio.Event()

    async def never(call: Call) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with bus.serve("never", never):
        calling = asyncio.create_task(bus.call("never", timeout=2.0))
        await bus.clock.advance(1.9)
        assert not calling.done()
        await bus.clock.advance(0.2)
        with pytest.raises(CallTimeout, match="within 2"):
            await calling
        assert cancelled.is_set()
        await settle()
        assert bus.node.core.statistics().held_calls == 0


@on_memory()
async def test_cancelling_a_call_cancels_its_handler(bus: MemoryBus) -> None:
    order: list[str] = []

    async def never(call: Call) -> None:
        order.append("started")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            order.append("cancelled")
            raise

    async with bus.serve("never", never) as service:
        calling = asyncio.create_task(bus.call("never"))
        await settle()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await settle()
        assert order == ["started", "cancelled"]
        assert service.statistics().workers == 1  # the worker lives on
        assert bus.node.core.statistics().held_calls == 0


@on_memory()
async def test_a_handler_that_will_not_be_cancelled_is_answered_for_all_the_same(bus: MemoryBus) -> None:
    async def stubborn(call: Call) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return "done anyway"

    async with bus.serve("stubborn", stubborn, concurrency=1), bus.serve("echo", echo):
        calling = asyncio.create_task(bus.call("stubborn"))
        await settle()
        calling.cancel()
        await settle()
        assert bus.node.core.statistics().held_calls == 0
        second = asyncio.create_task(bus.call("stubborn", timeout=1.0))
        await settle()
        assert bus.node.core.statistics().held_calls == 1  # the only worker took it
        second.cancel()
        await settle()


@on_memory()
async def test_calls_in_flight_end_once_each_in_any_order(bus: MemoryBus) -> None:
    gates = [asyncio.Event() for _ in range(20)]

    async def gated(call: Call) -> Any:
        await gates[call.payload].wait()
        return call.payload

    async with bus.serve("gated", gated) as service:
        calls = [asyncio.create_task(bus.call("gated", n)) for n in range(20)]
        await settle()
        assert service.statistics().running_calls == 20
        for n in reversed(range(20)):
            gates[n].set()
            await settle()
            assert (await calls[n]).payload == n
        assert service.statistics().answered_calls == 20


@on_memory()
async def test_concurrency_bounds_the_handlers_that_run(bus: MemoryBus) -> None:
    running = most = 0
    go = asyncio.Event()

    async def counted(call: Call) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1
        return most

    async with bus.serve("counted", counted, concurrency=3) as service:
        calls = [asyncio.create_task(bus.call("counted")) for _ in range(10)]
        await settle()
        statistics = service.statistics()
        assert (statistics.running_calls, statistics.queued_calls, statistics.workers) == (3, 7, 3)
        go.set()
        await asyncio.gather(*calls)
    assert most == 3
    with pytest.raises(ValueError, match="concurrency"):
        bus.serve("x", echo, concurrency=0)


@on_memory()
async def test_handlers_do_not_see_each_others_context(bus: MemoryBus) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")
    set_before: contextvars.ContextVar[str] = contextvars.ContextVar("set_before", default="")
    set_before.set("by who serves")

    async def leaky(call: Call) -> list[str]:
        before = variable.get()
        if call.payload:
            variable.set("dirty")
        return [before, set_before.get()]

    async with bus.serve("leaky", leaky, concurrency=1) as service:
        for leak in (False, True, True, False, False):
            reply = await bus.call("leaky", leak)
            assert reply.payload == ["clean", "by who serves"]
        await asyncio.gather(*[bus.call("leaky", n % 3 == 0) for n in range(30)])
        assert service.statistics().workers == 1


@on_memory()
async def test_a_handler_may_call_itself_and_others(bus: MemoryBus) -> None:
    async def countdown(call: Call) -> list[int]:
        if call.payload == 0:
            return []
        rest = await bus.call("countdown", call.payload - 1)
        return [call.payload, *rest.payload]

    async with bus.serve("countdown", countdown):
        assert (await bus.call("countdown", 5)).payload == [5, 4, 3, 2, 1]


@on_memory()
async def test_replies_with_headers_and_of_other_encodings(bus: MemoryBus) -> None:
    async def handler(call: Call) -> Reply:
        match call.payload:
            case "headers":
                return Reply({"n": 1}, headers={"etag": "abc"})
            case "json":
                return Reply(data=b"[1]", headers={"datacontenttype": "application/json"})
            case _:
                return await bus.call("handler", "json")

    async with bus.serve("handler", handler):
        reply = await bus.call("handler", "headers")
        assert (reply.payload, reply.headers["etag"]) == ({"n": 1}, "abc")
        assert (await bus.call("handler", "json")).payload == b"[1]"
        passed_on = await bus.call("handler", "pass on")
        assert (passed_on.payload, passed_on.headers["datacontenttype"]) == (b"[1]", "application/json")


@on_memory()
async def test_a_handler_that_is_not_async_is_an_error_there_and_here(bus: MemoryBus) -> None:
    async with bus.serve("plain", lambda call: 5):  # type: ignore[arg-type, return-value]
        with pytest.raises(ErrorReply, match="TypeError"):
            await bus.call("plain")


@on_memory()
async def test_a_handler_whose_result_cannot_be_sent_is_an_error_reply(bus: MemoryBus) -> None:
    async def bad(call: Call) -> object:
        return object() if call.payload else Reply(1, headers={"NO": 1})

    async with bus.serve("bad", bad):
        for which, code in ((True, Code.PAYLOAD_UNENCODABLE), (False, Code.HEADERS_INVALID)):
            with pytest.raises(ErrorReply) as caught:
                await bus.call("bad", which)
            assert caught.value.code == code


@on_memory()
async def test_leaving_a_service_lets_its_handlers_finish(bus: MemoryBus) -> None:
    go = asyncio.Event()

    async def slow(call: Call) -> str:
        await go.wait()
        return "finished"

    caller = await bus.connect(component="caller")
    async with bus.serve("slow", slow):
        calling = asyncio.create_task(caller.call("slow"))
        await settle()
        asyncio.get_running_loop().call_soon(go.set)
    assert (await calling).payload == "finished"
    with pytest.raises(NoResponders):
        await caller.call("slow")


@on_memory()
async def test_leaving_a_service_through_an_exception_cancels_its_handlers(bus: MemoryBus) -> None:
    async def never(call: Call) -> None:
        await asyncio.Event().wait()

    caller = await bus.connect(component="caller")
    with pytest.raises(KeyError):
        async with bus.serve("never", never):
            calling = asyncio.create_task(caller.call("never"))
            await settle()
            raise KeyError
    with pytest.raises(ErrorReply) as caught:
        await calling
    assert caught.value.code == Code.CANCELLED


@on_memory()
async def test_drain_waits_for_calls_that_are_here_and_takes_no_new_ones(bus: MemoryBus) -> None:
    go = asyncio.Event()

    async def slow(call: Call) -> str:
        await go.wait()
        return "finished"

    caller = await bus.connect(component="caller")
    async with bus.serve("slow", slow):
        calling = asyncio.create_task(caller.call("slow", timeout=60.0))
        await settle()
        draining = asyncio.create_task(bus.drain(grace=5.0))
        await settle()
        with pytest.raises(NoResponders):
            await caller.call("slow")
        assert not draining.done()
        go.set()
        await draining
        assert (await calling).payload == "finished"


@on_memory()
async def test_a_drained_bus_takes_no_calls_after_a_reconnect_either(bus: MemoryBus) -> None:
    caller = await bus.connect(component="caller")
    async with bus.serve("a", echo):
        await bus.drain()
        bus.disconnect()
        await bus.clock.advance(1.0)
        with pytest.raises(NoResponders):
            await caller.call("a")


@on_memory()
async def test_drain_is_over_when_the_last_call_is_cancelled_before_anyone_took_it(bus: MemoryBus) -> None:
    async def never(call: Call) -> None:
        await asyncio.Event().wait()

    caller = await bus.connect(component="caller")
    async with bus.serve("never", never, concurrency=1):
        calls = [asyncio.create_task(caller.call("never", timeout=60.0)) for _ in range(3)]
        await settle()
        draining = asyncio.create_task(bus.drain(grace=5.0))
        await settle()
        for calling in calls:
            assert not draining.done()
            calling.cancel()
            await settle()
        await draining


@on_memory()
async def test_drain_gives_up_after_its_grace(bus: MemoryBus) -> None:
    async def never(call: Call) -> None:
        await asyncio.Event().wait()

    caller = await bus.connect(component="caller")
    async with bus.serve("never", never):
        calling = asyncio.create_task(caller.call("never", timeout=60.0))
        await settle()
        draining = asyncio.create_task(bus.drain(grace=5.0))
        await bus.clock.advance(5.0)
        with pytest.raises(TimeoutError, match="1 calls"):
            await draining
        calling.cancel()


# -- streams ----------------------------------------------------------------------------------------------------------


async def count_up(call: Call) -> AsyncIterator[int]:
    for n in range(call.payload):
        yield n


@on_memory()
async def test_streams(bus: MemoryBus) -> None:
    async with bus.serve("count", count_up), bus.serve("one", echo):
        assert [part.payload async for part in bus.stream("count", 5)] == [0, 1, 2, 3, 4]
        assert [part.payload async for part in bus.stream("count", 0)] == []
        assert [part.payload async for part in bus.stream("count", 3000)] == list(range(3000))
        assert [part.payload async for part in bus.stream("one", "only")] == ["only"]
        with pytest.raises(BusError, match=r"use stream\(\)"):
            await bus.call("count", 5)
        with pytest.raises(NoResponders):
            async for _ in bus.stream("nobody"):
                pass


class Watched:
    """A stream that says when its handler was let go."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def __call__(self, call: Call) -> AsyncIterator[int]:
        try:
            n = 0
            while True:
                yield n
                n += 1
                await asyncio.sleep(0)
        finally:
            self.ended.set()


@on_memory()
async def test_leaving_a_stream_early_cancels_it(bus: MemoryBus) -> None:
    watched = Watched()
    async with bus.serve("watch", watched.__call__):
        async for part in bus.stream("watch"):
            if part.payload == 3:
                break
        gc.collect()
        await asyncio.wait_for(watched.ended.wait(), 5)
        await settle()
        assert bus.node.core.statistics().held_calls == 0

        watched.ended.clear()
        async with bus.stream("watch") as parts:
            await anext(parts)
        await asyncio.wait_for(watched.ended.wait(), 5)

        watched.ended.clear()
        stream = bus.stream("watch")
        await anext(stream)
        await stream.aclose()
        assert [part async for part in stream] == []
        await asyncio.wait_for(watched.ended.wait(), 5)

        watched.ended.clear()

        async def reads() -> None:
            async for _ in bus.stream("watch"):
                pass

        reading = asyncio.create_task(reads())
        await settle()
        reading.cancel()
        await asyncio.wait([reading])
        await asyncio.wait_for(watched.ended.wait(), 5)
        await settle()
        assert bus.node.core.statistics().held_calls == 0


@on_memory()
async def test_a_stream_that_fails_half_way_gives_its_parts_first(bus: MemoryBus) -> None:
    async def half(call: Call) -> AsyncIterator[Any]:
        yield 1
        yield Reply(2, headers={"n": 2})
        raise BusError(10002, text="half way")

    async with bus.serve("half", half):
        got = []
        with pytest.raises(ErrorReply, match="half way"):
            async for part in bus.stream("half"):
                got.append((part.payload, dict(part.headers)))  # noqa: PERF401  (what came before the error is wanted)
        assert got == [(1, {}), (2, {"n": 2})]


@on_memory()
async def test_a_streams_timeout_is_for_all_of_it(bus: MemoryBus) -> None:
    watched = Watched()

    async def slow(call: Call) -> AsyncIterator[int]:
        yield 1
        try:
            await asyncio.Event().wait()
        finally:
            watched.ended.set()

    async with bus.serve("slow", slow):
        stream = bus.stream("slow", timeout=3.0)
        assert (await anext(stream)).payload == 1
        await bus.clock.advance(3.1)
        with pytest.raises(CallTimeout):
            await anext(stream)
        assert watched.ended.is_set()
