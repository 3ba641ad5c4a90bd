"""The testing kit: a test sees the same in both forms, whatever is called with whatever."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from busclient import BusError, CallTimeout
from busclient.testing import FakeClock
from busd.components.model import compile_operations
from busd.components.model.testing import Form, both_forms, forms
from tests.components.model_support import Sample

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(), max_size=10)
    | st.binary(max_size=300)
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.uuids(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=12,
)
NAMES = st.sampled_from(["limit", "name", "sort", "a", "b", "data", "value", "share", "basket", "how", "to"])
OPERATIONS = st.sampled_from(["add", "rows", "basket", "point", "share", "raw", "whole", "lie", "nothing", "who"])


async def outcome(sample: Any, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """What a call came to, as far as its caller can tell."""
    try:
        result = await getattr(sample, name)(*args, **kwargs)
    except BusError as error:
        return type(error), error.code, error.name, error.fields, error.retryable
    return ("caller", None) if name == "who" else (type(result), result)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(OPERATIONS, st.lists(VALUES, max_size=3), st.dictionaries(NAMES, VALUES, max_size=3)), max_size=12
    )
)
def test_no_call_can_tell_the_forms_apart(calls: list[tuple[str, list[Any], dict[str, Any]]]) -> None:
    async def main() -> None:
        async with both_forms(Sample, "direct") as here, both_forms(Sample, "bus") as there:
            for name, args, kwargs in calls:
                assert await outcome(here, name, args, kwargs) == await outcome(there, name, args, kwargs)

    asyncio.run(main())


def test_forms_are_both_forms() -> None:
    @forms
    def test(form: Form) -> None: ...

    (mark,) = test.pytestmark  # type: ignore[attr-defined]
    assert mark.args == ("form", get_args(Form))


@forms
def test_the_clock_is_the_tests(form: Form) -> None:
    async def main() -> None:
        clock = FakeClock()
        async with both_forms(Sample, form, clock=clock, timeout=60.0) as sample:
            waiting = asyncio.create_task(sample.wait(59.0))
            await clock.advance(58.0)
            assert not waiting.done()
            await clock.advance(1.5)
            assert await waiting == "slept"
            waiting = asyncio.create_task(sample.wait(61.0))
            await clock.advance(61.0)
            with pytest.raises(CallTimeout):
                await waiting

    asyncio.run(main())


@forms
@pytest.mark.parametrize("leave", [ZeroDivisionError, asyncio.CancelledError])
def test_a_test_that_fails_leaves_nothing_behind(form: Form, leave: type[BaseException]) -> None:
    async def main(body: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        with pytest.raises(leave):
            async with both_forms(Sample, form) as sample:
                await body(sample)
        assert len(asyncio.all_tasks()) == 1

    async def body(sample: Any) -> None:
        assert await sample.add(1) == 2
        raise leave

    asyncio.run(main(body))


def test_the_sample_has_all_that_is_tested() -> None:
    assert len(compile_operations(Sample)) == len(Sample.manifest.serves)
