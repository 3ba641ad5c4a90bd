"""Rights in the SDK: what is taken back ends, and a worker acts for whoever called it."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

import busclient
from busclient import BusError, Call, Code, Denied
from busclient.message import Message, Origin
from busclient.queues import Inbox, Parts
from busclient.testing import MemoryBus, settle
from busproto import envelope as wire
from busproto.envelope import Status
from tests.clients.memory import on_memory
from tests.clients.session_pair import End, Wire
from tests.core.peer import OPEN, made
from tests.support import RunningNode

WITHOUT_B = "deny subscribe,serve b from host\n" + OPEN
NO_DELEGATE = OPEN.replace(",delegate", "")
MANIFEST: dict[str, Any] = {"component": "worker", "owner": "tests", "purpose": "acts for others"}


def change_policy(world: Wire, text: str) -> None:
    world.core.apply_policy(made(text), world.now)


def payloads(inbox: Inbox) -> list[Any]:
    items = []
    while isinstance(item := inbox.take(), Message):
        items.append(item.payload)
    return items


# -- what is taken back -----------------------------------------------------------------------------------------------


def test_a_withdrawn_subscription_ends_after_what_was_delivered_and_does_not_come_back() -> None:
    world = Wire()
    end, sender = world.end(), world.end()
    inbox, other = end.subscribe("b"), end.subscribe("a")
    for n in range(2):
        sender.publish("b", wire.pack(n))
    world.run()
    change_policy(world, WITHOUT_B)
    sender.publish("b", wire.pack(2))
    sender.publish("a", wire.pack(3))
    world.run()
    assert payloads(inbox) == [0, 1]
    assert isinstance(inbox.ended, Denied)
    assert inbox.ended.code == Code.RIGHT_WITHDRAWN
    assert inbox in end.woken
    assert payloads(other) == [3]
    assert other.ended is None
    assert end.session.subscriptions == 1
    assert not end.session.refused
    change_policy(world, OPEN)
    end.detach()
    end.attach()
    assert end.session.subscriptions == 1
    assert len(end.peer.subscriptions) == 1


def test_a_withdrawn_service_ends_and_the_calls_it_holds_are_finished() -> None:
    world = Wire()
    end, caller = world.end(), world.end()
    offer = end.serve("b")
    caller.call("b", "held")
    world.run()
    change_policy(world, WITHOUT_B)
    world.run()
    assert isinstance(offer.ended, Denied)
    assert offer.ended.code == Code.RIGHT_WITHDRAWN
    assert offer in end.woken
    assert end.session.services == 0
    assert end.session.reply(offer.queue.popleft(), Status.OK, None, wire.pack("done"))
    world.run()
    outcome = caller.outcomes["held"]
    assert isinstance(outcome, busclient.Reply)
    assert outcome.payload == "done"
    assert not end.session.unserve(offer, world.now, "unserve")
    end.detach()
    end.attach()
    assert end.session.services == 0


def test_an_unserve_that_crosses_the_withdrawal_has_what_it_wants() -> None:
    world = Wire()
    end = world.end()
    offer = end.serve("b")
    assert end.session.unserve(offer, world.now, "unserve")
    change_policy(world, WITHOUT_B)
    world.run()
    assert end.outcomes["unserve"] is None
    assert end.session.services == 0
    assert not end.session.refused


def test_an_unsubscribe_that_crosses_the_withdrawal_leaves_nothing() -> None:
    world = Wire()
    end = world.end()
    inbox = end.subscribe("b")
    end.session.unsubscribe(inbox)
    change_policy(world, WITHOUT_B)
    world.run()
    assert inbox.ended is None
    assert end.session.subscriptions == 0
    assert not end.session.refused
    assert not end.session.requests


@on_memory()
async def test_iteration_gives_what_came_and_then_raises(bus: MemoryBus) -> None:
    agent = await bus.connect(component="agent")
    async with agent.subscribe("b") as sub:
        await bus.publish("b", 1)
        await bus.flush()
        bus.node.apply_policy(WITHOUT_B)
        seen: list[Any] = []
        with pytest.raises(Denied) as caught:
            async for message in sub:
                seen += [message.payload]
        assert seen == [1]
        assert caught.value.code == Code.RIGHT_WITHDRAWN
        with pytest.raises(Denied):
            await anext(sub)
    with pytest.raises(Denied):
        async with agent.subscribe("b"):
            pass
    await agent.close()


@on_memory()
async def test_a_waiting_iterator_is_told(bus: MemoryBus) -> None:
    async with bus.subscribe("b") as sub:
        waiting = asyncio.ensure_future(anext(sub))
        await settle()
        bus.node.apply_policy(WITHOUT_B)
        await bus.flush()
        with pytest.raises(Denied):
            await waiting


@on_memory()
async def test_a_service_says_through_its_handle_that_it_was_ended(bus: MemoryBus) -> None:
    release = asyncio.Event()

    async def slow(call: Call) -> str:
        await release.wait()
        return "done"

    agent = await bus.connect(component="agent")
    service = await agent.serve("b", slow).open()
    held = asyncio.ensure_future(bus.call("b", timeout=60))
    await settle()
    bus.node.apply_policy(WITHOUT_B)
    await bus.flush()
    with pytest.raises(Denied) as caught:
        await service.wait()
    assert caught.value.code == Code.RIGHT_WITHDRAWN
    release.set()
    assert (await held).payload == "done"
    with pytest.raises(busclient.NoResponders):
        await bus.call("b")
    await service.close()
    with pytest.raises(Denied):
        async with agent.serve("b", slow):
            pass
    await agent.close()


# -- on behalf of -----------------------------------------------------------------------------------------------------


def call_for(end: End, subject: str, token: Any, call: Call | None, payload: bytes = b"\xc0", parts: Any = None) -> int:
    return end.session.call(subject, payload, None, 1.0, end.wire.now, token, parts, on_behalf_of=call)


@pytest.mark.parametrize("size", [0, 100, 20_000, 300_000])
def test_the_responder_sees_for_whom_a_call_is(size: int) -> None:
    world = Wire()
    caller, worker, store = world.end(), world.end(), world.end()
    front, back = worker.serve("front"), store.serve("back")
    caller.call("front", "outer")
    world.run()
    held = front.queue.popleft()
    assert held.origin is not None
    assert held.origin.on_behalf_of is None
    payload = wire.pack(os.urandom(size))
    call_for(worker, "back", "inner", held, payload)
    call_for(worker, "back", "own", None, payload)
    world.run()
    for acted, own in ((back.queue.popleft(), back.queue.popleft()),):
        assert acted.data == own.data == payload
        assert acted.origin is not None
        assert acted.origin.endpoint == worker.session.endpoint
        assert acted.origin.on_behalf_of == Origin(caller.session.endpoint, "host", "node", "host", 0)
        assert own.origin is not None
        assert own.origin.on_behalf_of is None


def test_through_several_workers_it_is_the_first_caller() -> None:
    world = Wire()
    caller, one, two, store = world.end(), world.end(), world.end(), world.end()
    first, second, third = one.serve("s1"), two.serve("s2"), store.serve("s3")
    caller.call("s1", "outer")
    world.run()
    call_for(one, "s2", "middle", first.queue.popleft())
    world.run()
    call_for(two, "s3", "inner", second.queue.popleft())
    world.run()
    origin = third.queue.popleft().origin
    assert origin is not None
    assert origin.endpoint == two.session.endpoint
    assert origin.on_behalf_of is not None
    assert origin.on_behalf_of.endpoint == caller.session.endpoint


def test_streams_too() -> None:
    world = Wire()
    caller, worker, store = world.end(), world.end(), world.end()
    front, back = worker.serve("front"), store.serve("back")
    caller.call("front", "outer")
    world.run()
    call_for(worker, "back", None, front.queue.popleft(), parts=Parts(None))
    world.run()
    origin = back.queue.popleft().origin
    assert origin is not None
    assert origin.on_behalf_of is not None


def test_a_call_that_is_over_is_acted_for_no_more() -> None:
    world = Wire()
    caller, worker = world.end(), world.end()
    front = worker.serve("front")
    caller.call("front", "one")
    caller.call("front", "two")
    world.run()
    answered, lost = front.queue.popleft(), front.queue.popleft()
    assert worker.session.reply(answered, Status.OK, None, b"\xc0")
    with pytest.raises(BusError, match="has been answered") as caught:
        call_for(worker, "back", "x", answered)
    assert caught.value.code == Code.REQUEST_INVALID
    worker.detach()
    worker.attach()
    with pytest.raises(BusError, match="its connection is gone"):
        call_for(worker, "back", "x", lost)
    assert not worker.session.calls
    world.run()
    assert "x" not in worker.outcomes


def test_policy_is_asked_for_the_caller_too() -> None:
    world = Wire()
    caller, worker, store = world.end(), world.end(), world.end()
    front, back = worker.serve("front"), store.serve("back")
    caller.call("front", "outer")
    world.run()
    held = front.queue.popleft()
    change_policy(world, NO_DELEGATE)
    call_for(worker, "back", "inner", held)
    world.run()
    assert isinstance(worker.outcomes["inner"], Denied)
    assert not back.queue


def test_a_caller_that_has_left_is_acted_for_no_more() -> None:
    world = Wire()
    caller, worker, store = world.end(), world.end(), world.end()
    front, back = worker.serve("front"), store.serve("back")
    caller.call("front", "outer")
    world.run()
    held = front.queue.popleft()
    held.task = object()  # a handler is at it
    caller.detach()
    call_for(worker, "back", "inner", held)
    world.run()
    assert isinstance(worker.outcomes["inner"], Denied)
    assert not back.queue


@on_memory()
async def test_handlers_act_for_their_callers(bus: MemoryBus) -> None:
    seen: list[Origin | None] = []

    async def back(call: Call) -> AsyncIterator[str]:
        seen.append(call.origin)
        yield "a"
        yield "b"

    async def single(call: Call) -> Any:
        seen.append(call.origin)
        return call.payload

    worker, store = await bus.connect(component="worker"), await bus.connect(component="store")

    async def front(call: Call) -> list[Any]:
        parts = [part.payload async for part in worker.stream("back", on_behalf_of=call)]
        reply = await worker.call("single", call.payload, on_behalf_of=call)
        return [*parts, reply.payload]

    async with worker.serve("front", front), store.serve("back", back), store.serve("single", single):
        assert (await bus.call("front", "c")).payload == ["a", "b", "c"]
    assert [origin.endpoint for origin in seen if origin] == [worker.endpoint] * 2
    assert [origin.on_behalf_of.endpoint for origin in seen if origin and origin.on_behalf_of] == [bus.endpoint] * 2
    await worker.close()
    await store.close()


def test_blocking_handlers_act_for_their_callers(shared_node: RunningNode) -> None:
    seen: list[Origin] = []

    def back(call: Call) -> Any:
        assert call.origin is not None
        seen.append(call.origin)
        return call.payload

    with (
        busclient.blocking.connect(shared_node.url, **MANIFEST) as caller,
        busclient.blocking.connect(shared_node.url, **MANIFEST) as worker,
        worker.serve("rights.back", back),
    ):
        finished: list[Call] = []

        def front(call: Call) -> Any:
            finished.append(call)
            (part,) = worker.stream("rights.back", 1, on_behalf_of=call)
            return [part.payload, worker.call("rights.back", 2, on_behalf_of=call).payload]

        with worker.serve("rights.front", front):
            assert caller.call("rights.front").payload == [1, 2]
        assert [origin.on_behalf_of.endpoint for origin in seen if origin.on_behalf_of] == [caller.endpoint] * 2
        with pytest.raises(BusError, match="has been answered"):
            worker.call("rights.back", on_behalf_of=finished[0])
