"""The serving side: what somebody without a handle meets, and who an operation learns that it runs for."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import busclient.testing
from busclient import BusError, Call, CallTimeout, Code, Denied, ErrorReply, NoResponders
from busclient.testing import MemoryBus, settle
from busd.components.model import (
    LOCAL,
    Caller,
    Component,
    Context,
    Manifest,
    Offers,
    Request,
    Stream,
    attach,
    call_on_behalf,
    compile_operations,
    current_caller,
    offer,
    on_behalf,
)
from tests.components.model_support import Sample, refusal


async def served(bus: MemoryBus, component: Component) -> Offers:
    """Offer ``component`` on ``bus``."""
    component.context = Context(type(component), bus, clock=bus.clock)
    return await offer(bus, component, compile_operations(type(component)).values()).open()


def snapshot(component: Component, name: str) -> dict[str, Any]:
    """One operation's figures."""
    return component.context.statistics[name].snapshot()


def test_anyone_can_call_what_is_offered() -> None:
    async def main() -> None:
        async with busclient.testing.bus() as bus:
            sample = Sample()
            offers = await served(bus, sample)
            assert (await bus.call("sample.add", {"a": 2})).payload == 3
            assert (await bus.call("sample.rows", {"limit": 1})).payload == [{"pid": 0, "name": "pid"}]
            assert (await bus.call("sample.nothing")).payload is None
            assert (await bus.call("sample.raw", {"data": b"\xff"})).payload == b"\xff"
            parts = [part.payload async for part in bus.stream("sample.count", {"to": 2})]
            assert parts == [{"pid": 0, "name": "host"}, {"pid": 1, "name": "host"}]
            assert len(offers.services) == len(Sample.manifest.serves)
            await offers.close()
            assert isinstance(await refusal(bus.call("sample.add", {"a": 2})), NoResponders)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        ({"payload": {"a": "x"}}, 2008, "a: expected int, got str"),
        ({"payload": [1]}, 2008, "expected object, got array"),
        ({"payload": None}, 2008, "a: missing"),
        ({"payload": {"a": 1, "c": 1}}, 2008, "c: there is no such field"),
        ({"payload": {"a": float("nan")}}, 2008, "a: expected int, got float"),
        ({"payload": {"a": {"a": {"a": [[]] * 100}}}}, 2008, "a: expected int, got object"),
        ({"data": b"{}", "headers": {"datacontenttype": "application/json"}}, 2008, "expected object, got bytes"),
        ({"data": b"\xc1"}, 6002, ""),
        ({"data": b"\x91" * 5000}, 6002, ""),
        ({"data": b"\xdd\xff\xff\xff\xff"}, 6002, ""),
        ({"data": b"\xdf\xff\xff\xff\xff"}, 6002, ""),
        ({"data": b"\x81\xa1a\xc6\xff\xff\xff\xff"}, 6002, ""),
        ({"data": b"\x81\xa1a\x01\x02"}, 6002, ""),
        ({"data": b"\x81\xa1a\xd6\xff\x00\x00\x00\x00"}, 2008, "a: expected int, got Timestamp"),
    ],
)
def test_a_payload_of_anyone_is_refused_before_the_component_sees_it(
    request_: dict[str, Any], code: int, reason: str
) -> None:
    async def main() -> None:
        async with busclient.testing.bus() as bus:
            sample = Sample()
            offers = await served(bus, sample)
            error = await refusal(bus.call("sample.add", **request_))
            assert isinstance(error, ErrorReply)
            assert error.code == code
            assert reason in error.text
            assert snapshot(sample, "add")["errors"] == {str(code): 1}
            assert (await bus.call("sample.add", {"a": 1})).payload == 2
            await offers.close()

    asyncio.run(main())


def test_leaving_answers_what_is_held_and_leaving_in_anger_cancels_it() -> None:
    async def main(angry: bool) -> None:
        async with busclient.testing.bus() as bus:
            caller = await bus.connect(component="caller")
            sample = Sample()
            offers = await served(bus, sample)
            call = asyncio.create_task(caller.call("sample.wait", {"seconds": 1.0}))
            await settle()
            closing = asyncio.create_task(offers.close(cancel=angry))
            await bus.clock.advance(2.0)
            await closing
            if angry:
                assert (await refusal(call)).code == Code.CANCELLED
            else:
                assert (await call).payload == "slept"
            assert sample.ends == ["cancelled" if angry else "slept"]

    asyncio.run(main(angry=False))
    asyncio.run(main(angry=True))


def test_all_are_offered_or_none() -> None:
    async def main() -> None:
        async with busclient.testing.bus(policy="allow call,serve sample.add from host\n") as bus:
            sample = Sample()
            sample.context = Context(Sample, bus)
            with pytest.raises(Denied):
                async with offer(bus, sample, compile_operations(Sample).values()):
                    raise AssertionError("it is offered")
            await settle()
            assert bus.node.core.statistics().services == 0

    asyncio.run(main())


def test_whoever_can_call_one_operation_can_call_all() -> None:
    async def main() -> None:
        async with busclient.testing.bus() as bus:
            opening = asyncio.create_task(served(bus, Sample()))
            seen = []
            while not opening.done():
                await asyncio.sleep(0)
                seen.append(bus.node.core.statistics().services)
            await opening
            assert set(seen) == {0, len(Sample.manifest.serves)}

    asyncio.run(main())


def test_more_calls_than_the_sdk_runs_by_default() -> None:
    async def main() -> None:
        async with busclient.testing.bus() as bus:
            caller = await bus.connect(component="caller")
            sample = Sample()
            offers = await served(bus, sample)
            calls = [asyncio.create_task(caller.call("sample.wait", {"seconds": 1.0})) for _ in range(100)]
            for _ in range(4):
                await settle()
            assert snapshot(sample, "wait")["in_flight"] == 100
            await bus.clock.advance(1.5)
            assert {(await call).payload for call in calls} == {"slept"}
            await offers.close()

    asyncio.run(main())


def test_a_caller_that_left_cancels_its_stream() -> None:
    async def main() -> None:
        async with busclient.testing.bus() as bus:
            caller = await bus.connect(component="caller", reconnect=False)
            sample = Sample()
            offers = await served(bus, sample)
            stream = caller.stream("sample.count", {"to": 1000, "pause": 0.1})
            reading = asyncio.create_task(anext(aiter(stream)))
            await bus.clock.advance(0.15)
            await reading
            caller.disconnect()
            await settle()
            assert sample.ends == ["count cancelled", "count over"]
            assert snapshot(sample, "count")["errors"] == {"3003": 1}
            await offers.close()

    asyncio.run(main())


def test_a_stream_that_heeds_no_cancellation_is_ended() -> None:
    class Deaf(Component):
        manifest = Manifest(component="deaf", version="1", owner="t", purpose="p", operations=(Stream("talk"),))
        said = 0

        async def talk(self) -> AsyncIterator[int]:
            while True:
                try:
                    await self.context.sleep(1.0)
                except asyncio.CancelledError:
                    pass
                self.said += 1
                yield self.said

    async def main() -> None:
        async with busclient.testing.bus() as bus:
            caller = await bus.connect(component="caller")
            deaf = Deaf()
            offers = await served(bus, deaf)
            with pytest.raises(CallTimeout):
                reading = asyncio.create_task(anext(aiter(caller.stream("deaf.talk", timeout=0.5))))
                await bus.clock.advance(1.0)
                await reading
            await bus.clock.advance(20.0)
            assert deaf.said == 1
            assert snapshot(deaf, "talk")["in_flight"] == 0
            await offers.close()

    asyncio.run(main())


# -- callers -----------------------------------------------------------------------------------------------------------


class Relay(Component):
    """Asks another component, for itself and for whoever called it."""

    manifest = Manifest(
        component="relay",
        version="1",
        owner="t",
        purpose="p",
        operations=(Request("direct"), Request("behalf"), Request("seen"), Stream("parts")),
    )

    def __init__(self) -> None:
        self.callers: list[Caller] = []
        self.calls: list[Call | None] = []
        self.other: Relay | None = None

    async def seen(self) -> bool:
        self.callers.append(current_caller())
        self.calls.append(call_on_behalf())
        task = asyncio.create_task(self._later())
        await task
        return True

    async def _later(self) -> None:
        await asyncio.sleep(0)
        assert current_caller() is self.callers[-1]

    async def direct(self) -> bool:
        assert self.other is not None
        return await self.other.seen()

    async def behalf(self) -> bool:
        assert self.other is not None
        return await on_behalf(self.other).seen()

    async def parts(self) -> AsyncIterator[int]:
        try:
            for number in range(3):
                assert current_caller().endpoint != "local"
                yield number
        finally:
            assert current_caller().endpoint != "local"


def test_the_caller_is_who_the_broker_proved() -> None:
    async def main() -> None:
        async with busclient.testing.bus() as bus:
            caller = await bus.connect(component="caller")
            relay = Relay()
            offers = await served(bus, relay)
            await caller.call("relay.seen")
            seen = relay.callers[0]
            assert seen == (caller.endpoint, "host", "node", "host", 0, None, False)
            assert relay.calls[0] is not None
            assert relay.calls[0].subject == "relay.seen"
            assert [part.payload async for part in caller.stream("relay.parts")] == [0, 1, 2]
            await offers.close()

    asyncio.run(main())


def test_who_is_behind_a_caller_is_carried_on() -> None:
    async def main() -> None:
        async with busclient.testing.bus() as bus:
            caller = await bus.connect(component="caller")
            asking = await bus.connect(component="asking")
            first, second = Relay(), Relay()
            offers = await served(bus, second)
            first.context = Context(Relay, asking)
            operations = compile_operations(Relay)
            async with (
                attach(Relay, bus=asking) as other,
                offer(asking, first, []) as none,
                asking.serve("first.direct", _handler(first, "direct")),
                asking.serve("first.behalf", _handler(first, "behalf")),
            ):
                assert none.services == ()
                first.other = other
                await caller.call("first.direct")
                await caller.call("first.behalf")
                assert second.callers[0].endpoint == second.callers[1].endpoint == asking.endpoint
                assert second.callers[0].on_behalf_of is None
                behind = second.callers[1].on_behalf_of
                assert behind is not None
                assert behind.endpoint == caller.endpoint
                with pytest.raises(LookupError):
                    await on_behalf(other).seen()
            assert operations["seen"].kind == "request"
            await offers.close()

    asyncio.run(main())


def _handler(component: Component, name: str) -> Any:
    from busd.components.model.serve import handler

    return handler(component, compile_operations(type(component))[name])


def test_a_direct_call_comes_from_this_process() -> None:
    async def main() -> None:
        relay = Relay()
        async with busclient.testing.bus() as bus, attach(Relay, where="here") as other:
            offers = await served(bus, relay)
            relay.other = other
            await bus.call("relay.direct")
            await bus.call("relay.behalf")
            await offers.close()
            inner: Any = other
            instance = inner._route.component
            direct, behalf = instance.callers
            assert direct == LOCAL
            assert direct.local
            assert behalf.local
            assert behalf.on_behalf_of is not None
            assert behalf.on_behalf_of.endpoint == bus.endpoint
            assert [call and call.subject for call in instance.calls] == [None, "relay.behalf"]
            with pytest.raises(LookupError):
                await on_behalf(other).seen()
            with pytest.raises(LookupError):
                async for _ in on_behalf(other).parts():
                    pass

    asyncio.run(main())


def test_outside_of_an_operation_there_is_no_caller() -> None:
    class Curious(Component):
        manifest = Manifest(component="curious", version="1", owner="t", purpose="p", operations=(Request("ask"),))
        errors: list[str] = []

        async def run(self) -> None:
            try:
                current_caller()
            except LookupError as error:
                self.errors.append(str(error))

        async def ask(self) -> bool:
            async with attach(
                Curious, where="here"
            ):  # its background begins inside of this call, and is not part of it
                await asyncio.sleep(0)
            return current_caller().local

    async def main() -> None:
        async with attach(Curious, where="here") as curious:
            assert await curious.ask() is True
            with pytest.raises(LookupError):
                current_caller()
            assert call_on_behalf() is None

    asyncio.run(main())
    assert Curious.errors == ["there is no caller: this is not part of an operation"] * 2


def test_an_error_of_the_bus_is_passed_on() -> None:
    class Asker(Component):
        manifest = Manifest(component="asker", version="1", owner="t", purpose="p", operations=(Request("ask"),))

        async def ask(self) -> int:
            assert self.context.bus is not None
            await self.context.bus.call("nobody.there")
            return 1

    async def main() -> None:
        async with busclient.testing.bus() as bus:
            offers = await served(bus, Asker())
            async with attach(Asker, bus=bus) as far, attach(Asker, bus=bus, where="here") as near:
                for asker in (far, near):
                    error = await refusal(asker.ask())
                    assert type(error) is ErrorReply
                    assert isinstance(error, BusError)
                    assert (error.code, error.fields) == (3001, {"subject": "nobody.there"})
            await offers.close()

    asyncio.run(main())
