"""Events in both forms: typed, in order, and no loss that is not told."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from busclient import BusError, Code, Gap
from busclient.testing import FakeClock, MemoryBus, Node, settle
from busd.components.model import Component, Context, Event, Manifest, attach, subscribe
from busd.components.model.testing import Form, both_forms, forms
from tests.components.model_support import POINTED, TICKED, Point, Row, Sample, play

OTHER: Event[int] = Event("other", int)


@forms
def test_events_are_typed_and_in_order(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        async with (
            subscribe(sample, TICKED) as one,
            subscribe(sample, TICKED) as two,
            subscribe(sample, POINTED) as none,
        ):
            await sample.emit(5, 3)
            for subscription in (one, two):
                assert [await anext(subscription) for _ in range(3)] == [Row(pid, "tick") for pid in (5, 6, 7)]
            waiting = asyncio.create_task(anext(none))
            await settle()
            assert not waiting.done()
            waiting.cancel()

    play(form, test)


@forms
def test_who_waits_is_woken(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        async with subscribe(sample, TICKED) as ticks:
            waiting = asyncio.create_task(anext(ticks))
            await settle()
            await sample.emit(1)
            assert await waiting == Row(1, "tick")

    play(form, test)


@forms
def test_before_and_after_the_subscription_there_is_nothing(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        await sample.emit(1)
        async with subscribe(sample, TICKED) as ticks:
            await sample.emit(2)
            await settle()
        await sample.emit(3)
        await settle()
        assert [tick async for tick in ticks] == [Row(2, "tick")]

    play(form, test)


@forms
def test_a_slow_subscriber_is_told_what_it_lost(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        async with subscribe(sample, TICKED, max_pending=3) as slow, subscribe(sample, TICKED) as quick:
            for pid in range(10):  # one by one, each in a frame of its own
                await sample.emit(pid)
                await settle()
            assert [(await anext(quick)).pid for _ in range(10)] == list(range(10))
            assert [(await anext(slow)).pid for _ in range(3)] == [0, 1, 2]
            with pytest.raises(Gap) as caught:
                await anext(slow)
            assert (caught.value.count, caught.value.reason) == (7, "local-queue")
            await sample.emit(20)
            assert await anext(slow) == Row(20, "tick")

    play(form, test)


@forms
def test_latest_keeps_the_newest(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        async with subscribe(sample, TICKED, latest=True, max_pending=2) as ticks:
            for pid in range(11):
                await sample.emit(pid)
                await settle()
            seen: list[int] = []
            while not seen or seen[-1] != 10:
                seen.append((await anext(ticks)).pid)
            assert len(seen) <= 2

    play(form, test)


@forms
def test_what_is_no_event_of_the_component_is_refused(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        with pytest.raises(LookupError, match="sample has no event 'other' of that type; it has: ticked, pointed"):
            subscribe(sample, OTHER)
        with pytest.raises(LookupError):
            subscribe(sample, Event("ticked", int))
        with pytest.raises(ValueError, match="max_pending"):
            subscribe(sample, TICKED, max_pending=0)

    play(form, test)


@forms
def test_events_are_not_shared(form: Form) -> None:
    class Pointer(Component):
        manifest = Manifest(component="pointer", version="1", owner="t", purpose="points", operations=(POINTED,))

        async def run(self) -> None:
            mine = Point(0, 0)
            while True:
                await self.context.sleep(1.0)
                mine.x += 1
                await self.context.publish(POINTED, mine)

    async def main() -> None:
        clock = FakeClock()
        async with (
            both_forms(Pointer, form, clock=clock) as pointer,
            subscribe(pointer, POINTED) as one,
            subscribe(pointer, POINTED) as two,
        ):
            await clock.advance(2.5)
            first, second = await anext(one), await anext(two)
            assert first == second == Point(1, 0)
            assert first is not second
            assert await anext(one) == Point(2, 0)

    asyncio.run(main())


@forms
def test_what_is_no_value_of_the_event_is_not_published(form: Form) -> None:
    class Careless(Component):
        manifest = Manifest(component="careless", version="1", owner="t", purpose="errs", operations=(TICKED,))
        errors: list[Exception] = []

        async def start(self) -> None:
            for event, value in ((TICKED, Row("x")), (TICKED, 3), (TICKED, object()), (OTHER, 1)):  # type: ignore[arg-type]
                try:
                    await self.context.publish(event, value)  # type: ignore[misc]
                except (BusError, LookupError) as error:
                    self.errors.append(error)

    async def main() -> None:
        async with both_forms(Careless, form):
            pass

    asyncio.run(main())
    wrong_field, wrong_type, odd, unknown = Careless.errors
    for error, reason in ((wrong_field, "pid: expected int, got str"), (wrong_type, "expected object, got int")):
        assert isinstance(error, BusError)
        assert error.code == Code.PAYLOAD_UNENCODABLE
        assert error.fields["reason"] == f"event 'ticked': {reason}"
    assert isinstance(odd, BusError)
    assert isinstance(unknown, LookupError)
    assert str(unknown) == "careless has no event 'other' of that type; it has ticked"


def test_the_end_of_the_handle_ends_its_subscriptions() -> None:
    async def read(ticks: AsyncIterator[Row]) -> list[int]:
        return [tick.pid async for tick in ticks]

    async def main(form: Form) -> None:
        async with both_forms(Sample, form) as sample:
            ticks = await subscribe(sample, TICKED).__aenter__()
            reading = asyncio.create_task(read(ticks))
            await sample.emit(1)
            await settle()
        assert await reading == [1]

    asyncio.run(main("direct"))
    asyncio.run(main("bus"))


def test_a_message_of_somebody_else_is_checked() -> None:
    async def main() -> None:
        node = Node(FakeClock())
        async with MemoryBus(node, {"component": "caller"}) as bus, attach(Sample, bus=bus) as sample:
            impostor = await bus.connect(component="impostor")
            async with subscribe(sample, TICKED) as ticks:
                await impostor.publish("sample.ticked", {"pid": "x"})
                await impostor.publish("sample.ticked", data=b"\xc1")
                await impostor.publish("sample.ticked", {"pid": 7})
                for reason in ("it is no value of the event: pid: expected int, got str", ""):
                    with pytest.raises(BusError) as caught:
                        await anext(ticks)
                    assert caught.value.code == Code.PAYLOAD_UNDECODABLE
                    assert reason in str(caught.value)
                assert await anext(ticks) == Row(7)

    asyncio.run(main())


def test_without_bus_and_listeners_an_event_goes_nowhere() -> None:
    async def main() -> None:
        sample = Sample()
        sample.context = Context(Sample)
        await sample.context.publish(TICKED, Row(1))
        before: Any = sample.context.time()
        await sample.context.sleep(0.0)
        assert sample.context.time() >= before

    asyncio.run(main())
