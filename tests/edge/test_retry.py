"""What ended is tried again: soon, then seldom, and not at all once it was stopped."""

import asyncio

import pytest

from busd.edge.retry import FIRST_SECONDS, LAST_SECONDS, SETTLED_SECONDS, Backoff, Retry
from tests.edge.raw import loops, run


def test_waits_double_up_to_the_last_and_begin_anew_after_success() -> None:
    backoff = Backoff()
    assert [backoff.ended(0.0) for _ in range(7)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert backoff.ended(SETTLED_SECONDS - 0.1) == LAST_SECONDS  # it accepts and closes: that is no success
    assert backoff.ended(SETTLED_SECONDS) == FIRST_SECONDS


@pytest.mark.parametrize("loop", sorted(loops()))
def test_attempts_follow_each_other_until_they_are_stopped(loop: str) -> None:
    async def main() -> None:
        attempts = 0

        async def attempt() -> None:
            nonlocal attempts
            attempts += 1
            assert retry.describe("trying", None) == {"state": "trying"}

        retry = Retry(attempt)
        retry.start()
        while attempts < 2:
            await asyncio.sleep(0.005)
        state = retry.describe("trying", "it broke")
        assert (state["state"], state["error"]) == ("waiting", "it broke")
        assert 0 < state["retry_seconds"] <= 0.2
        retry.stop()
        await asyncio.sleep(0.3)
        assert attempts == 2

    run(main(), loop)


def test_attempt_that_fails_by_a_bug_is_not_silent() -> None:
    said: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: said.append(str(context["exception"])))

        async def attempt() -> None:
            raise RuntimeError("nobody foresaw this")

        Retry(attempt).start()
        while not said:
            await asyncio.sleep(0.005)

    run(main(), "asyncio")
    assert said == ["nobody foresaw this"]
