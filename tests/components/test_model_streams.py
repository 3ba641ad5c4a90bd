"""Streams in both forms: parts, deadlines, and ends that come early."""

import asyncio
import gc
from typing import Any

import pytest

import busclient.testing
from busclient import BusError, CallTimeout, ErrorReply
from busclient.testing import FakeClock, settle
from busd.components.model import handle_statistics, within
from busd.components.model.testing import Form, forms
from tests.components.model_support import Row, Sample, play


async def read(stream: Any) -> tuple[list[Any], BusError | None]:
    """The parts of a stream, and what it ended in."""
    parts: list[Any] = []
    while True:
        try:
            parts.append(await anext(stream))
        except StopAsyncIteration:
            return parts, None
        except BusError as error:
            return parts, error


@forms
def test_parts_are_typed_and_in_order(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        assert await read(sample.count(3)) == ([Row(0, "host"), Row(1, "host"), Row(2, "host")], None)
        assert await read(sample.count(to=0)) == ([], None)
        parts, error = await read(sample.count(3000))
        assert (len(parts), error) == (3000, None)
        assert handle_statistics(sample)["count"].errors == {}

    play(form, test)


@forms
def test_an_exhausted_stream_stays_so(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        stream: Any = sample.count(1)
        assert len((await read(stream))[0]) == 1
        assert await read(stream) == ([], None)
        await stream.aclose()

    play(form, test)


@forms
@pytest.mark.parametrize(("own", "code"), [(True, 10003), (False, 3007)])
def test_a_failure_comes_after_the_parts(form: Form, own: bool, code: int) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        parts, error = await read(sample.count_and_fail(2, own))
        assert parts == [0, 1]
        assert isinstance(error, ErrorReply)
        assert error.code == code
        assert handle_statistics(sample)["count_and_fail"].errors == {code: 1}

    play(form, test)


@forms
def test_a_part_that_is_not_what_was_promised_is_a_failure(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        parts, error = await read(sample.lying_parts())
        assert parts == [1]
        assert isinstance(error, ErrorReply)
        assert error.fields["reason"] == "a part of sample.lying_parts is not what it promises: expected int, got str"

    play(form, test)


@forms
def test_arguments_of_a_stream_are_checked(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        bad: Any = sample.count("three")  # type: ignore[arg-type]
        parts, error = await read(bad)
        assert isinstance(error, ErrorReply)
        assert (parts, error.fields["reason"]) == ([], "to: expected int, got str")
        with pytest.raises(ErrorReply, match="takes at most 2 arguments"):
            sample.count(1, 2, 3)  # type: ignore[call-arg]
        parts, error = await read(sample.count(wrong=1))  # type: ignore[call-arg]
        assert error is not None
        assert error.fields["reason"] in ("wrong: there is no such field", "to: missing")

    play(form, test)


@forms
def test_the_deadline_is_for_all_parts_together(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        reading = asyncio.create_task(read(within(sample, 3.5).count(10, pause=1.0)))
        await clock.advance(5.0)
        parts, error = await reading
        assert len(parts) == 3
        assert isinstance(error, CallTimeout)
        assert error.fields["subject"] == "sample.count"
        assert await sample.waited() == ["count cancelled", "count over"]
        assert handle_statistics(sample)["count"].errors == {3002: 1}

    play(form, test)


@forms
def test_a_stream_that_is_closed_early_is_cancelled(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        stream: Any = sample.count(1000, pause=0.1)
        async with stream:
            reading = asyncio.create_task(anext(aiter(stream)))
            await clock.advance(0.15)
            assert await reading == Row(0, "host")
        await settle()
        assert await sample.waited() == ["count cancelled", "count over"]
        assert await read(stream) == ([], None)
        assert handle_statistics(sample)["count"].errors == {3003: 1}
        assert handle_statistics(sample)["count"].in_flight == 0

    play(form, test)


@forms
def test_a_stream_that_is_dropped_is_cancelled(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        async def first() -> int:
            async for part in sample.hang():
                return part
            return 0

        assert await first() == 1
        gc.collect()
        await settle()
        if form == "bus":  # it had gone on to the wait; a direct one is asked for each part
            assert await sample.waited() == ["hang over"]
        assert handle_statistics(sample)["hang"].in_flight == 0

    play(form, test)


@forms
def test_a_stream_that_was_never_begun_is_never_called(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        stream: Any = sample.count(3)
        await stream.aclose()
        assert await read(stream) == ([], None)
        sample.count(3)
        await settle()
        assert handle_statistics(sample)["count"].calls == 0

    play(form, test)


@forms
def test_cancelling_who_reads_cancels_the_operation(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        reading = asyncio.create_task(read(sample.hang()))
        await settle()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await settle()
        assert await sample.waited() == ["hang over"]

    play(form, test)


@forms
def test_a_request_is_answered_while_a_stream_is_open(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        async for part in sample.count(3):
            assert await sample.add(part.pid) == part.pid + 1

    play(form, test)


def test_an_sdk_stream_that_is_closed_before_it_begins_is_over() -> None:
    async def main() -> None:
        async with busclient.testing.bus() as bus:
            stream = bus.stream("nobody.there")
            await stream.aclose()
            assert [part async for part in stream] == []  # it once waited for parts that nobody had asked for

    asyncio.run(main())
