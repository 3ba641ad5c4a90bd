"""The asyncio SDK on the bus in memory: the verbs, what they raise, and what they leave behind."""

import asyncio
from typing import Any

import pytest

import busclient
import busclient.testing
from busclient import (
    BusError,
    Call,
    Closed,
    Code,
    ConnectionLost,
    ErrorReply,
    Gap,
    NotConnected,
    Overloaded,
    PayloadTooLarge,
    UnknownOutcome,
)
from busclient.testing import MemoryBus, settle
from busd.core.quotas import Quotas
from busproto import envelope
from tests.clients.memory import echo, on_memory, state_of

# -- publish and subscribe --------------------------------------------------------------------------------------------


@on_memory(component="demo", owner="platform")
async def test_the_shape_of_the_sdk(bus: MemoryBus) -> None:
    assert state_of(bus) == "connected"
    assert bus.endpoint
    assert bus.welcome["node"] == "test"
    async with bus.subscribe("demo.>") as sub:
        await bus.publish("demo.tick", {"n": 1}, headers={"traceparent": "00-1-2-03"})
        message = await anext(sub)
        assert (message.subject, message.payload) == ("demo.tick", {"n": 1})
        assert message.headers["traceparent"] == "00-1-2-03"
        assert message.origin is not None
        assert message.origin.endpoint == bus.endpoint
    async with bus.serve("demo.echo", echo):
        reply = await bus.call("demo.echo", {"n": 1}, timeout=1.0)
        assert (reply.payload, dict(reply.headers)) == ({"n": 1}, {})
        assert reply.origin is not None


@pytest.mark.parametrize(
    "payload",
    [
        None,
        True,
        0,
        -5,
        2**63,
        1.5,
        "text",
        b"\x00\xff",
        [1, [2, {"a": None}]],
        {"k": b"v", "n": {"m": [1]}},
        {1: 2},
        "",
    ],
)
def test_payloads_are_any_msgpack_value(payload: Any) -> None:
    @on_memory()
    async def test(bus: MemoryBus) -> None:
        async with bus.subscribe("a") as sub, bus.serve("b", echo):
            await bus.publish("a", payload)
            received = (await anext(sub)).payload
            assert received == payload
            assert type(received) is type(payload)
            assert (await bus.call("b", payload)).payload == payload

    test()


@on_memory()
async def test_bytes_of_another_encoding_stay_as_they_are(bus: MemoryBus) -> None:
    json = b'{"n": 1}'
    headers = {"datacontenttype": "application/json"}
    async with bus.subscribe("a") as sub:
        await bus.publish("a", data=json, headers=headers)
        message = await anext(sub)
        assert message.payload == message.data == json
        await bus.publish("a", data=message.data, headers=message.headers)  # passed on as it came
        assert (await anext(sub)).payload == json
        await bus.publish("a", data=bytearray(envelope.pack(7)))
        assert (await anext(sub)).payload == 7
        with pytest.raises(TypeError, match="not both"):
            await bus.publish("a", 1, data=b"x")


@on_memory()
async def test_a_payload_that_is_not_what_it_says_is_an_error_where_it_is_read(bus: MemoryBus) -> None:
    async with bus.subscribe("a") as sub:
        await bus.publish("a", data=b"\xc1")
        await bus.publish("a", data=b"")
        message = await anext(sub)
        with pytest.raises(BusError, match="'a'") as caught:
            _ = message.payload
        assert caught.value.code == Code.PAYLOAD_UNDECODABLE
        assert message.data == b"\xc1"
        assert (await anext(sub)).payload is None


@on_memory()
async def test_what_msgpack_cannot_hold_is_refused(bus: MemoryBus) -> None:
    for send in (bus.publish, bus.call):
        with pytest.raises(BusError) as caught:
            await send("a", object())
        assert caught.value.code == Code.PAYLOAD_UNENCODABLE


@on_memory()
async def test_publish_nowait_is_publish_without_waiting(bus: MemoryBus) -> None:
    async with bus.subscribe("a") as sub:
        for n in range(1000):
            bus.publish_nowait("a", n)
        assert [(await anext(sub)).payload for _ in range(1000)] == list(range(1000))
    with pytest.raises(BusError):
        bus.publish_nowait("A")


@on_memory()
async def test_a_tight_loop_of_publishes_lets_others_run(bus: MemoryBus) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    for _ in range(5000):
        await bus.publish("a", bytes(100))
    task.cancel()
    assert turns > 5


@on_memory(quotas=Quotas(outbox_messages=100))
async def test_a_gap_raises_and_iteration_can_go_on(bus: MemoryBus) -> None:
    other = await bus.connect(component="other")
    async with bus.subscribe("a") as sub:
        bus.pause_reading()
        for n in range(150):
            await other.publish("a", n)
            await other.flush()
        bus.resume_reading()
        await settle()
        await other.publish("a", "later")
        got = []
        with pytest.raises(Gap) as caught:
            async for message in sub:
                got.append(message.payload)  # noqa: PERF401  (what came before the gap is wanted)
        assert caught.value.count == 150 - len(got)
        assert caught.value.reason == "outbox-messages"
        assert got == list(range(len(got)))
        assert (await anext(sub)).payload == "later"
        statistics = sub.statistics()
        assert statistics.lost_messages == caught.value.count
        assert (statistics.gaps, statistics.queued_messages, statistics.queued_bytes) == (1, 0, 0)


@on_memory()
async def test_gaps_yielded_stand_in_their_place(bus: MemoryBus) -> None:
    async with bus.subscribe("a", gaps="yield", max_pending=3) as sub:
        for n in range(5):
            await bus.publish("a", n)
        await settle()
        items = [await anext(sub) for _ in range(4)]
        await bus.publish("a", 5)
        items.append(await anext(sub))
    shown = [(item.count, item.reason) if isinstance(item, Gap) else item.payload for item in items]
    assert shown == [0, 1, 2, (2, "local-queue"), 5]


@on_memory()
async def test_latest_keeps_the_newest_of_each_subject(bus: MemoryBus) -> None:
    async with bus.subscribe("a.*", latest=True, max_pending=10) as sub:
        for n in range(200):
            await bus.publish(f"a.{n % 2}", n)
        await settle()
        newest: dict[str, int] = {}
        while sub.statistics().queued_messages:
            message = await anext(sub)
            newest[message.subject] = message.payload
        assert newest == {"a.0": 198, "a.1": 199}
        assert sub.statistics().conflated_messages > 100


@on_memory()
async def test_several_tasks_share_one_subscription(bus: MemoryBus) -> None:
    got: list[int] = []

    async def reader(sub: Any) -> None:
        async for message in sub:
            got.append(message.payload)
            await asyncio.sleep(0)

    async with bus.subscribe("a") as sub:
        readers = [asyncio.create_task(reader(sub)) for _ in range(3)]
        for n in range(30):
            await bus.publish("a", n)
        await settle()
    await asyncio.gather(*readers)  # leaving the subscription ends them
    assert sorted(got) == list(range(30))


@on_memory()
async def test_what_arrived_before_a_subscription_was_left_can_still_be_read(bus: MemoryBus) -> None:
    async with bus.subscribe("a") as sub:
        await bus.publish("a", 1)
        await settle()
    assert [message.payload async for message in sub] == [1]


@on_memory()
async def test_a_refused_subscription_raises_on_entering(bus: MemoryBus) -> None:
    with pytest.raises(BusError) as caught:
        async with bus.subscribe("a..b"):
            pass
    assert caught.value.code == Code.PATTERN_INVALID
    with pytest.raises(ValueError, match="gaps"):
        bus.subscribe("a", gaps="drop")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="max_pending"):
        bus.subscribe("a", max_pending=0)


@on_memory(quotas=Quotas(subscriptions=1))
async def test_a_quota_that_is_used_up_is_named(bus: MemoryBus) -> None:
    async with bus.subscribe("a"):
        with pytest.raises(Overloaded) as caught:
            async with bus.subscribe("b"):
                pass
        assert caught.value.fields["quota"] == "subscriptions"
    async with bus.subscribe("b"):
        pass


def refuse(bus: MemoryBus, subject: str) -> None:
    """The broker refuses a publish, as policy will make it do."""
    body = BusError(Code.DENIED, action="publish", subject=subject, reason="no rule allows it").body()
    bus._connection.frames_received([envelope.error(None, body)])


@on_memory()
async def test_a_refused_publish_is_raised_by_the_next_one_on_its_subject(bus: MemoryBus) -> None:
    refuse(bus, "secret.a")
    await bus.publish("other")
    with pytest.raises(busclient.Denied, match=r"secret\.a"):
        await bus.publish("secret.a")
    await bus.flush()


@on_memory()
async def test_a_refused_publish_is_raised_by_flush(bus: MemoryBus) -> None:
    refuse(bus, "secret.a")
    with pytest.raises(busclient.Denied, match=r"secret\.a"):
        await bus.flush()
    await bus.flush()


def test_a_refused_publish_is_raised_at_the_end_of_the_block() -> None:
    async def main() -> None:
        async with busclient.testing.bus() as bus:
            await bus.publish("secret.a")
            refuse(bus, "secret.a")

    with pytest.raises(busclient.Denied, match=r"secret\.a"):
        asyncio.run(main())


@on_memory(quotas=Quotas(max_payload=1000))
async def test_too_large_a_payload(bus: MemoryBus) -> None:
    with pytest.raises(PayloadTooLarge, match=r"1103 bytes exceeds the limit of 1000"):
        await bus.publish("a", bytes(1100))

    async def large(call: Call) -> bytes:
        return bytes(1100)

    async with bus.serve("b", large):
        with pytest.raises(ErrorReply) as caught:
            await bus.call("b")
        assert caught.value.code == Code.PAYLOAD_TOO_LARGE


# -- coming and going -------------------------------------------------------------------------------------------------


@on_memory()
async def test_the_node_goes_and_comes_back(bus: MemoryBus) -> None:
    other = await bus.connect(component="other")
    started = asyncio.Event()

    async def never(call: Call) -> None:
        started.set()
        await asyncio.Event().wait()

    async with bus.subscribe("a", gaps="yield") as sub, other.serve("never", never), other.serve("echo", echo):
        calling = asyncio.create_task(bus.call("never"))
        await started.wait()
        bus.node.stop()
        with pytest.raises(UnknownOutcome, match="the node was stopped"):
            await calling
        assert state_of(bus) == state_of(other) == "reconnecting"
        for request in (bus.call("echo"), bus.publish("a"), bus.flush(), bus.subscribe("b").open()):
            with pytest.raises(NotConnected, match="the node was stopped"):
                await request
        waiting = asyncio.create_task(bus.connected())
        await bus.clock.advance(10)
        assert not waiting.done()
        bus.node.start()
        await bus.clock.advance(1.0)  # back within a second of its return
        await waiting
        assert state_of(bus) == state_of(other) == "connected"
        gap = await anext(sub)
        assert isinstance(gap, Gap)
        assert (gap.count, gap.reason) == (None, "reconnected")
        assert (await bus.call("echo", 5)).payload == 5
        await other.publish("a", 6)
        message = await anext(sub)
        assert not isinstance(message, Gap)
        assert message.payload == 6
        assert bus.statistics().connects == 2


@on_memory()
async def test_what_was_left_while_there_was_no_connection_does_not_come_back(bus: MemoryBus) -> None:
    async with bus.serve("a", echo), bus.subscribe("b"):
        bus.disconnect()
        assert state_of(bus) == "reconnecting"
    assert bus.statistics().services == bus.statistics().subscriptions == 0
    await bus.clock.advance(1.0)
    assert state_of(bus) == "connected"
    statistics = bus.node.core.statistics()
    assert (statistics.services, statistics.subscriptions) == (0, 0)


@on_memory()
async def test_one_connection_breaks(bus: MemoryBus) -> None:
    other = await bus.connect(component="other")
    async with bus.subscribe("a") as sub:
        bus.disconnect()
        assert (state_of(bus), state_of(other)) == ("reconnecting", "connected")
        await bus.clock.advance(1.0)
        await other.publish("a", 1)
        with pytest.raises(Gap) as caught:
            await anext(sub)
        assert caught.value.count is None
        assert "an unknown number" in str(caught.value)
        assert (await anext(sub)).payload == 1


@on_memory(reconnect=False)
async def test_without_reconnect_the_bus_ends_with_its_connection(bus: MemoryBus) -> None:
    async with bus.subscribe("a") as sub:
        reading = asyncio.create_task(anext(sub))
        await settle()
        bus.disconnect()
        assert state_of(bus) == "closed"
        with pytest.raises(NotConnected):
            await reading
        with pytest.raises(NotConnected):
            await bus.call("a")
        with pytest.raises(NotConnected):
            await bus.connected()


@on_memory()
async def test_what_was_published_before_the_connection_broke_is_not_confirmed_afterwards(bus: MemoryBus) -> None:
    await bus.publish("a")
    bus.disconnect()
    await bus.clock.advance(1.0)
    await bus.publish("a")
    with pytest.raises(ConnectionLost, match="may not have arrived"):
        await bus.flush()
    await bus.flush()


def test_ending_without_a_connection_says_that_publishes_may_be_lost() -> None:
    async def main() -> None:
        async with busclient.testing.bus() as bus:
            await bus.publish("a")
            bus.node.stop()

    with pytest.raises(ConnectionLost):
        asyncio.run(main())


@on_memory()
async def test_a_service_refused_after_a_reconnect_says_so(bus: MemoryBus) -> None:
    other = await bus.connect(component="other")
    with pytest.raises(BusError) as caught:
        async with bus.serve("a", echo, group="x") as service:
            waiting = asyncio.create_task(service.wait())
            bus.disconnect()
            await settle()
            async with other.serve("a", echo, group="y"):
                await bus.clock.advance(1.0)
                with pytest.raises(BusError, match="group 'y'"):
                    await waiting
            service._told = False  # as if nobody had waited for it: then leaving says it
    assert caught.value.code == Code.GROUP_CONFLICT


@on_memory()
async def test_a_farewell_that_cannot_be_cured_ends_the_bus_with_it(bus: MemoryBus) -> None:
    body = BusError(Code.MANIFEST_INVALID, reason="owner is no name").body()
    async with bus.subscribe("a") as sub:
        bus._connection.frames_received([envelope.bye(body)])
        assert state_of(bus) == "closed"
        for request in (anext(sub), bus.call("a"), bus.publish("a"), bus.connected()):
            with pytest.raises(BusError) as caught:
                await request
            assert caught.value.code == Code.MANIFEST_INVALID


@on_memory()
async def test_a_farewell_that_passes_is_a_reconnect(bus: MemoryBus) -> None:
    bus._connection.frames_received([envelope.bye(BusError(Code.DRAINING, what="requests").body())])
    assert state_of(bus) == "reconnecting"
    with pytest.raises(NotConnected, match="shutting down"):
        await bus.publish("a")
    await bus.clock.advance(1.0)
    assert state_of(bus) == "connected"


@on_memory()
async def test_a_broker_that_breaks_the_protocol_is_left(bus: MemoryBus) -> None:
    calling = asyncio.create_task(bus.call("$bus.ping"))
    await asyncio.sleep(0)
    bus._connection.frames_received([b"\x93\x01"])
    assert state_of(bus) == "reconnecting"
    with pytest.raises((UnknownOutcome, NotConnected), match="broke the protocol"):
        await calling
    await bus.clock.advance(1.0)
    assert state_of(bus) == "connected"


def test_entering_raises_what_the_broker_has_against_this_client() -> None:
    async def main() -> None:
        async with busclient.testing.bus(component="Not A Name"):
            pass

    with pytest.raises(BusError) as caught:
        asyncio.run(main())
    assert caught.value.code == Code.MANIFEST_INVALID


def test_closing_ends_everything_that_hangs_on_the_bus() -> None:
    async def main() -> None:
        async with busclient.testing.bus() as first:
            bus = await first.connect(component="x")

            async def never(call: Call) -> None:
                await asyncio.Event().wait()

            service = await bus.serve("never", never).open()
            sub = await bus.subscribe("a").open()
            calling = asyncio.create_task(first.call("never"))
            own = asyncio.create_task(bus.call("never"))
            reading = asyncio.create_task(anext(sub))
            waiting = asyncio.create_task(service.wait())
            await settle()
            await bus.close()
            assert state_of(bus) == "closed"
            with pytest.raises(UnknownOutcome):
                await calling
            with pytest.raises(UnknownOutcome):
                await own
            with pytest.raises(StopAsyncIteration):
                await reading
            await waiting
            for request in (bus.call("a"), bus.publish("a"), bus.flush(), bus.open()):
                with pytest.raises(Closed):
                    await request
            await bus.close()  # twice is no harm
            await settle()
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_a_bus_that_was_not_entered_says_so() -> None:
    async def main() -> None:
        bus = busclient.connect("unix:///nowhere")
        with pytest.raises(NotConnected, match="never connected"):
            await bus.call("a")
        with pytest.raises(NotConnected):
            bus.publish_nowait("a")
        with pytest.raises(NotConnected):
            await bus.subscribe("a").open()
        with pytest.raises(NotConnected):
            await bus.serve("a", echo).open()
        with pytest.raises(NotConnected):
            await anext(bus.stream("a"))
        with pytest.raises(NotConnected):
            await bus.flush()
        assert state_of(bus) == "connecting"
        await bus.close()
        assert state_of(bus) == "closed"

    asyncio.run(main())


@on_memory()
async def test_statistics_are_of_this_bus(bus: MemoryBus) -> None:
    async with bus.subscribe("a"), bus.serve("b", echo):
        await bus.call("b", 1)
        statistics = bus.statistics()
    assert (statistics.state, statistics.connects) == ("connected", 1)
    assert (statistics.subscriptions, statistics.services) == (1, 1)
    assert (statistics.calls_in_flight, statistics.held_calls, statistics.late_replies) == (0, 0, 0)
    assert statistics.sent_frames >= 3
    assert statistics.received_envelopes >= 5
    assert bus.statistics().subscriptions == 0
