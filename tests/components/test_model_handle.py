"""Handles in both forms: a direct one and one over a bus are not told apart by what they do."""

import asyncio
import inspect
import math
from typing import Any

import pytest

from busclient import BusError, CallTimeout, Closed, ErrorReply, NoResponders
from busclient.testing import FakeClock, settle
from busd.components.model import attach, handle_statistics, subscribe, within
from busd.components.model.handle import Handle, handle_class
from busd.components.model.testing import Form, both_forms, forms
from tests.components.model_support import EVERYTHING, TICKED, Basket, Point, Row, Sample, play, refusal


@forms
def test_results_are_typed(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        assert await sample.add(1, 2) == 3
        assert await sample.add(a=1) == 2
        assert await sample.rows(2, sort="name") == [Row(0, "name"), Row(1, "name")]
        assert await sample.point(Point(1, 2.5)) == Point(2.5, 1)
        basket = Basket([Row(1, "a")], {"b": 2})
        assert await sample.basket(basket) == basket
        assert await sample.raw(b"") == b""
        assert await sample.raw(bytes(range(256)) * 300) == bytes(range(256)) * 300
        assert await sample.nothing() is None  # type: ignore[func-returns-value]

    play(form, test)


@forms
def test_every_kind_of_value_travels(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        result = await sample.everything(EVERYTHING)
        assert result == EVERYTHING
        assert result is not EVERYTHING
        assert result.at.tzinfo is not None

    play(form, test)


@forms
def test_what_is_not_told_apart_on_the_wire_is_not_told_apart_directly(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        assert await sample.whole((1, [2, {3: (4,)}])) == [1, [2, {3: [4]}]]
        assert await sample.whole(Row(1, "a")) == {"pid": 1, "name": "a"}
        assert await sample.whole(EVERYTHING.at) == "2026-01-02T03:04:05.678900Z"

    play(form, test)


@forms
def test_arguments_and_results_are_not_shared_with_the_component(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        mine = Basket(labels={"mine": 1})
        result = await sample.keep(mine)
        assert mine.labels == {"mine": 1}
        result.labels.clear()
        result.rows.append(Row(1))
        mine.labels["mine"] = 2
        assert await sample.kept() == [Basket(labels={"mine": 1, "kept": 1})]

    play(form, test)


BAD: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("rows", (), {"lmit": 3}, "lmit: there is no such field"),
    ("add", (), {}, "a: missing"),
    ("add", (), {"b": 1}, "a: missing"),
    ("add", ("1",), {}, "a: expected int, got str"),
    ("add", (1.0,), {}, "a: expected int, got float"),
    ("add", (True,), {}, "a: expected int, got bool"),
    ("add", (None,), {}, "a: expected int, got None"),
    ("rows", (0,), {}, "limit: expected int >= 1"),
    ("rows", (1001,), {}, "limit: expected int <= 1000"),
    ("rows", (), {"sort": "size"}, "sort: invalid enum value 'size'"),
    ("add", (2**64,), {}, "a: can't serialize ints < -2**63 or > 2**64 - 1"),
    ("add", (object(),), {}, "a: encoding objects of type object is unsupported"),
    ("rows", (), {"name": "\ud800"}, "name: 'utf-8' codec can't encode"),
    ("share", (math.nan,), {}, "share: expected float >= 0.0"),
    ("share", (math.inf,), {}, "share: expected float <= 1.0"),
    ("raw", ("text",), {}, "data: expected bytes, got str"),
    ("rows", (), {"name": b"bytes"}, "name: expected str | null, got bytes"),
    ("basket", ({"rows": [{"pid": 1}, {"pid": "x"}]},), {}, "basket.rows[1].pid: expected int, got str"),
    ("basket", ({"rows": [{"pid": 1}, {}]},), {}, "basket.rows[1].pid: missing"),
    ("basket", ({"row": []},), {}, "basket.row: there is no such field"),
    ("basket", ({"labels": {"a": None}},), {}, "basket.labels[...]: expected int, got None"),
    ("basket", (Basket(rows=[Row("x")]),), {}, "basket.rows[0].pid: expected int, got str"),  # type: ignore[arg-type]
    ("basket", (7,), {}, "basket: expected object, got int"),
    ("add", (1, 2, 3), {}, "takes at most 2 arguments by position, not 3: a, b"),
    ("rows", (1, "a", "pid"), {}, "takes at most 2 arguments by position, not 3: limit, name"),
    ("nothing", (1,), {}, "takes at most 0 arguments by position, not 1"),
    ("add", (1,), {"a": 1}, "a: given twice"),
]


@forms
@pytest.mark.parametrize(("name", "args", "kwargs", "reason"), BAD)
def test_an_argument_that_is_not_valid_is_named(
    form: Form, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], reason: str
) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        error = await refusal(getattr(sample, name)(*args, **kwargs))
        assert isinstance(error, ErrorReply)
        assert (error.code, error.name) == (2008, "request-invalid")
        assert error.fields["subject"] == f"sample.{name}"
        assert error.fields["reason"].startswith(reason)

    play(form, test)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@forms
def test_what_is_nested_too_deep_is_refused(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        error = await refusal(sample.whole(nested(100_000)))
        assert isinstance(error, ErrorReply)
        assert (error.code, error.fields["reason"][:10]) == (2008, "value: max")
        assert await sample.whole(nested(50)) == nested(50)

    play(form, test)


@forms
def test_a_huge_name_of_an_unknown_field_is_cut(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        error = await refusal(sample.rows(**{"x\n" * 50_000: 1}))  # type: ignore[arg-type]
        assert error.code == 2008
        assert len(error.fields["reason"]) < 350
        assert "\n" not in error.fields["reason"]

    play(form, test)


FAILURES: list[tuple[str, int, dict[str, Any]]] = [
    ("own", 10001, {"what": "mine", "numbers": 3}),
    ("known", 3004, {"action": "looking at", "subject": "it", "reason": "I say so"}),
    ("any", 3007, {"reason": "ValueError"}),
    ("cancelled", 3007, {"reason": "CancelledError"}),
    ("inner cancel", 3007, {"reason": "CancelledError"}),
    ("stop", 3007, {"reason": "RuntimeError"}),
    ("unsendable", 3007, {"reason": "its error cannot be sent: payload-unencodable"}),
]


@forms
@pytest.mark.parametrize(("how", "code", "fields"), FAILURES)
def test_a_failure_of_the_component_is_an_error_reply(form: Form, how: str, code: int, fields: dict[str, Any]) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        error = await refusal(sample.fail(how))
        assert isinstance(error, ErrorReply)
        assert error.code == code
        assert error.fields == fields
        assert "secret" not in str(error)
        assert await sample.add(1) == 2

    play(form, test)


@forms
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("type", "expected object, got str"),
        ("field", "pid: expected int, got str"),
        ("huge", "can't serialize ints < -2**63 or > 2**64 - 1"),
        ("none", "expected object, got None"),
        ("odd", "encoding objects of type object is unsupported"),
    ],
)
def test_a_result_that_is_not_what_was_promised_is_a_failure(form: Form, how: str, reason: str) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        error = await refusal(sample.lie(how))
        assert isinstance(error, ErrorReply)
        assert error.code == 3007
        assert error.fields["reason"] == f"a result of sample.lie is not what it promises: {reason}"

    play(form, test)


@forms
def test_a_call_that_is_late_ends_and_cancels_the_operation(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        late = asyncio.create_task(sample.wait(100.0))
        await clock.advance(4.9)
        assert not late.done()
        await clock.advance(0.2)
        with pytest.raises(CallTimeout) as caught:
            await late
        assert caught.value.code == 3002
        assert caught.value.fields["subject"] == "sample.wait"
        assert await sample.waited() == ["cancelled"]

    play(form, test)


@forms
def test_within_gives_each_call_other_seconds(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        short = within(sample, 0.5)
        late = asyncio.create_task(short.wait(3.0))
        in_time = asyncio.create_task(within(short, 30.0).wait(20.0))
        also_late = asyncio.create_task(sample.wait(20.0))
        await clock.advance(1.0)
        assert isinstance(late.exception(), CallTimeout)
        await clock.advance(4.5)
        assert isinstance(also_late.exception(), CallTimeout)
        await clock.advance(15.0)
        assert await in_time == "slept"
        assert await sample.waited() == ["cancelled", "cancelled", "slept"]
        for seconds in (0.0, -1.0, math.nan, math.inf, 86_401.0):
            with pytest.raises(ValueError, match="timeout"):
                within(sample, seconds)

    play(form, test)


@forms
def test_an_operation_that_heeds_no_cancellation_is_late_all_the_same(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        late = asyncio.create_task(sample.stubborn(100.0))
        await clock.advance(5.2)
        with pytest.raises(CallTimeout):
            await late
        assert not late.cancelling()

    play(form, test)


@forms
def test_cancelling_the_caller_cancels_the_operation(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        caller = asyncio.create_task(sample.wait(100.0))
        await clock.advance(1.0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await settle()
        assert await sample.waited() == ["cancelled"]
        assert handle_statistics(sample)["wait"].errors == {3003: 1}

    play(form, test)


@forms
def test_a_deadline_around_the_call_is_the_callers_own(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await sample.wait(100.0)
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        await settle()
        assert await sample.waited() == ["cancelled"]

    play(form, test)


@forms
def test_many_calls_at_a_time(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        calls = [asyncio.create_task(sample.wait(0.5 + n % 7)) for n in range(42)]
        await clock.advance(8.0)
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(end, CallTimeout) for end in ends] == [n % 7 + 0.5 > 5 for n in range(42)]
        statistics = handle_statistics(sample)["wait"]
        assert (statistics.calls, statistics.in_flight, statistics.errors) == (42, 0, {3002: 12})

    play(form, test)


@forms
def test_a_handle_has_the_operations_and_nothing_else(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        assert set(dir(sample)) == {each.rpartition(".")[2] for each in Sample.manifest.serves}
        for name in ("start", "stop", "context", "start_at", "manifest", "ticked", "ad"):
            with pytest.raises(
                AttributeError, match=f"component 'sample' has no operation '{name}'; it has: add, rows"
            ):
                getattr(sample, name)
        with pytest.raises(AttributeError):
            sample.start_at = 3
        assert not hasattr(sample, "__dict__")
        assert isinstance(sample, handle_class(Sample))
        assert not isinstance(sample, Sample)
        assert repr(sample) == f"<handle of sample, {'here' if form == 'direct' else 'on the bus'}>"
        assert inspect.iscoroutinefunction(sample.add)
        assert str(inspect.signature(sample.add)) == "(a: int, b: int = 1) -> int"
        assert sample.add.__doc__ == "The sum.\n\nWith the number that the component began with."
        assert sample.add.__qualname__ == "Sample.add"

    play(form, test)


@forms
def test_a_handle_that_is_closed_says_so(form: Form) -> None:
    async def main() -> None:
        async with both_forms(Sample, form) as sample:
            assert await sample.add(1) == 2
            later = sample.count(3)
            begun = sample.count(3)
            assert await anext(aiter(begun)) is not None
        for call in (sample.add(1), within(sample, 9.0).add(1), anext(aiter(later)), anext(aiter(begun))):
            error = await refusal(call)
            assert isinstance(error, Closed)
            assert error.text == "this handle is closed"
        with pytest.raises(Closed):
            await anext(aiter(sample.count(1)))
        with pytest.raises(Closed):
            subscribe(sample, TICKED)

    asyncio.run(main())


@forms
def test_leaving_waits_for_calls_that_are_under_way(form: Form) -> None:
    async def main() -> None:
        clock = FakeClock()
        async with both_forms(Sample, form, clock=clock) as sample:
            call = asyncio.create_task(sample.wait(1.0))
            clock.call_at(clock.time() + 2.0, lambda: None)
            mover = asyncio.create_task(clock.advance(2.0))
            await settle()
        assert await call == "slept"
        await mover

    asyncio.run(main())


@forms
def test_a_component_whose_background_work_failed_is_not_there(form: Form) -> None:
    async def main() -> None:
        async with both_forms(Sample, form) as sample:
            await sample.break_down()
            await settle()
            assert isinstance(await refusal(sample.add(1)), NoResponders)
            with pytest.raises(NoResponders):
                await anext(aiter(sample.count(1)))

    with pytest.raises(RuntimeError, match="the background is broken"):
        asyncio.run(main())


@forms
def test_what_keeps_it_from_starting_is_raised(form: Form) -> None:
    async def main() -> None:
        async with both_forms(Sample, form, refuse_to_start="no room"):
            raise AssertionError("it has started")

    with pytest.raises(RuntimeError, match="no room"):
        asyncio.run(main())


@forms
def test_configuration_is_checked(form: Form) -> None:
    async def main(**config: Any) -> int:
        async with both_forms(Sample, form, **config) as sample:
            return await sample.add(1)

    assert asyncio.run(main(start_at=40)) == 42
    with pytest.raises(BusError, match="config of component 'sample': start_at: expected int, got str") as caught:
        asyncio.run(main(start_at="40"))
    assert caught.value.code == 7002


@forms
def test_statistics_of_a_handle(form: Form) -> None:
    async def test(sample: Sample, clock: FakeClock) -> None:
        await sample.add(1)
        await refusal(sample.add("x"))  # type: ignore[arg-type]
        await refusal(sample.fail("own"))
        under_way = asyncio.create_task(within(sample, 1.0).wait(9.0))
        await settle()
        statistics = handle_statistics(sample)
        assert statistics["wait"].in_flight == 1
        await clock.advance(2.0)
        await refusal(under_way)
        figures = {name: (each.calls, each.in_flight, each.errors) for name, each in statistics.items() if each.calls}
        assert figures == {"add": (2, 0, {2008: 1}), "fail": (1, 0, {10001: 1}), "wait": (1, 0, {3002: 1})}

    play(form, test)


def test_what_is_no_handle_is_not_taken_for_one() -> None:
    with pytest.raises(TypeError, match="Sample is not a handle: attach"):
        within(Sample(), 1.0)
    with pytest.raises(TypeError, match="int is not a handle"):
        handle_statistics(3)


def test_both_forms_are_of_one_class() -> None:
    async def main() -> None:
        async with both_forms(Sample, "direct") as direct, both_forms(Sample, "bus") as far:
            assert type(direct) is type(far)
            assert isinstance(direct, Handle)

    asyncio.run(main())


def test_a_synchronous_operation_that_is_late_is_late() -> None:
    async def main() -> None:
        async with attach(Sample, where="here", timeout=0.001) as sample:
            # 100,000 rows take longer than a millisecond to copy, whatever the machine.
            error = await refusal(sample.whole([{"pid": pid} for pid in range(100_000)]))
            assert isinstance(error, CallTimeout)

    asyncio.run(main())
