"""Invoking, deadlines and statistics by themselves."""

import asyncio
import logging
from typing import Any

import pytest

from busclient import BusError
from busclient.testing import FakeClock, settle
from busd.components.model import Context, Operation, OperationStatistics, compile_operations, invoke, invoke_stream
from busd.components.model.deadline import Deadline, Deadlines
from busd.components.model.statistics import BOUNDS
from tests.components.model_support import Row, Sample, refusal


def ready() -> tuple[Sample, dict[str, Operation]]:
    sample = Sample()
    sample.context = Context(Sample)
    return sample, dict(compile_operations(Sample))


def test_the_result_comes_as_bytes_and_as_a_value() -> None:
    async def main() -> None:
        sample, operations = ready()
        assert await invoke(sample, operations["add"], {"a": 1}) == (b"\x02", 2)
        assert await invoke(sample, operations["add"], data=operations["add"].pack((1,), {})) == (b"\x02", 2)
        parts = [part async for part in invoke_stream(sample, operations["count"], {"to": 1})]
        assert parts == [(b"\x82\xa3pid\x00\xa4name\xa4host", Row(0, "host"))]

    asyncio.run(main())


def test_every_call_is_counted_as_what_it_ended_in() -> None:
    async def main() -> None:
        sample, operations = ready()
        await invoke(sample, operations["add"], {"a": 1})
        await refusal(invoke(sample, operations["add"], {"a": "1"}))
        await refusal(invoke(sample, operations["add"], None))
        for how in ("own", "any", "cancelled"):
            await refusal(invoke(sample, operations["fail"], {"how": how}))
        await refusal(invoke(sample, operations["lie"], {"how": "type"}))
        waiting = asyncio.create_task(invoke(sample, operations["wait"], {"seconds": 60.0}))
        await settle()
        assert sample.context.statistics["wait"].in_flight == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        stream = invoke_stream(sample, operations["count"], {"to": 10})
        await anext(stream)
        await stream.aclose()
        figures = {
            name: (each.calls, each.in_flight, each.snapshot()["errors"])
            for name, each in sample.context.statistics.items()
            if each.calls
        }
        assert figures == {
            "add": (3, 0, {"2008": 2}),
            "fail": (3, 0, {"3007": 2, "10001": 1}),
            "lie": (1, 0, {"3007": 1}),
            "wait": (1, 0, {"3003": 1}),
            "count": (1, 0, {"3003": 1}),
        }

    asyncio.run(main())


def test_a_failure_is_logged_with_its_cause_where_it_happens(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> BusError:
        sample, operations = ready()
        return await refusal(invoke(sample, operations["fail"], {"how": "any"}))

    with caplog.at_level(logging.ERROR, "busd.components"):
        error = asyncio.run(main())
    assert "a secret of the component" in caplog.text
    assert "sample.fail failed" in caplog.text
    assert "secret" not in error.text
    assert isinstance(error.__cause__, ValueError)


def test_an_interrupt_is_not_turned_into_an_error() -> None:
    class Interrupted(Sample):
        async def add(self, a: int, b: int = 1) -> int:
            raise KeyboardInterrupt

    async def main() -> None:
        sample = Interrupted()
        sample.context = Context(Interrupted)
        with pytest.raises(KeyboardInterrupt):
            await invoke(sample, compile_operations(Interrupted)["add"], {"a": 1})
        assert sample.context.statistics["add"].in_flight == 0

    asyncio.run(main())


def test_statistics_are_plain_and_cumulative() -> None:
    statistics = OperationStatistics()
    assert statistics.snapshot() == {
        "calls": 0,
        "in_flight": 0,
        "errors": {},
        "seconds": {"count": 0, "sum": 0.0, "buckets": [[bound, 0] for bound in BOUNDS]},
    }
    begun = statistics.begin()
    assert statistics.in_flight == 1
    statistics.end(begun, 0)
    statistics.begin()
    statistics.end(begun - 7.0, 10001)
    statistics.begin()
    statistics.end(begun - 700.0, 2008)
    snapshot = statistics.snapshot()
    assert (snapshot["calls"], snapshot["in_flight"], snapshot["errors"]) == (3, 0, {"2008": 1, "10001": 1})
    buckets = dict(snapshot["seconds"]["buckets"])
    assert snapshot["seconds"]["count"] == 3
    assert 707 < snapshot["seconds"]["sum"] < 767
    assert (buckets[5.0], buckets[60.0]) == (1, 2)
    assert [count for _, count in snapshot["seconds"]["buckets"]] == sorted(buckets.values())


# -- deadlines ---------------------------------------------------------------------------------------------------------


async def answer(value: Any) -> Any:
    return value


async def never() -> None:
    await asyncio.Event().wait()


def test_what_does_not_wait_needs_no_timer() -> None:
    async def main() -> None:
        deadlines = Deadlines(FakeClock())
        assert await Deadline(deadlines, 1.0).run(answer(7)) == 7
        with pytest.raises(ZeroDivisionError):
            await Deadline(deadlines, 1.0).run(divide())
        assert deadlines._timer is None

    async def divide() -> float:
        return 1 / 0

    asyncio.run(main())


def test_one_timer_serves_all_deadlines() -> None:
    async def main() -> None:
        clock = FakeClock()
        deadlines = Deadlines(clock)
        ends: dict[float, float] = {}

        async def one(seconds: float) -> None:
            try:
                await Deadline(deadlines, seconds).run(never())
            except TimeoutError:
                ends[seconds] = clock.time() - 1000.0

        tasks = [asyncio.create_task(one(seconds)) for seconds in (3.0, 1.0, 2.0, 2.5)]
        await clock.advance(0)
        tasks[3].cancel()
        await clock.advance(10.0)
        await asyncio.wait(tasks)
        assert ends == {1.0: 1.0, 2.0: 2.0, 3.0: 3.0}
        assert deadlines._timer is None

    asyncio.run(main())


def test_deadlines_within_deadlines() -> None:
    async def main() -> None:
        clock = FakeClock()
        deadlines = Deadlines(clock)
        order: list[str] = []

        async def inner(seconds: float) -> str:
            try:
                await Deadline(deadlines, seconds).run(never())
            except TimeoutError:
                order.append("inner")
                return "went on"
            finally:
                order.append("left")
            return ""

        task = asyncio.create_task(Deadline(deadlines, 5.0).run(inner(1.0)))
        await clock.advance(2.0)
        assert (await task, order) == ("went on", ["inner", "left"])
        for inner_seconds in (5.0, 50.0):  # at the same time as the outer one, and later
            order.clear()
            task = asyncio.create_task(Deadline(deadlines, 5.0).run(inner(inner_seconds)))
            await clock.advance(6.0)
            with pytest.raises(TimeoutError):
                await task
            assert order[-1] == "left"
            assert not task.cancelling()

    asyncio.run(main())


def test_a_late_result_is_late() -> None:
    async def main() -> None:
        clock = FakeClock()

        async def slow() -> int:
            clock._now += 2.0
            return 7

        with pytest.raises(TimeoutError):
            await Deadline(Deadlines(clock), 1.0).run(slow())

    asyncio.run(main())


def test_both_the_deadline_and_the_caller_cancel() -> None:
    async def main() -> None:
        deadline = Deadline(Deadlines(FakeClock()), 1.0)
        task = asyncio.create_task(deadline.run(never()))
        await settle()
        deadline.expire()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
