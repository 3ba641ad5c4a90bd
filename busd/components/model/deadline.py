"""Deadlines for what is called in process: two looks at the clock each, and one timer for all that have to wait."""

import asyncio
import types
from collections.abc import Generator
from math import inf
from typing import Any, Final, Protocol

from busclient.clock import Clock, Timer

__all__ = ["Deadline", "Deadlines", "Steps", "check_timeout"]

TIMEOUT_SECONDS_MIN: Final = 0.001
TIMEOUT_SECONDS_MAX: Final = 24 * 3600.0
"""What a call on a bus may take: the same in process, so that it can move."""


class Steps(Protocol):
    """A coroutine, or one step of an async generator."""

    def send(self, value: None, /) -> Any: ...

    def throw(self, error: BaseException, /) -> Any: ...

    def close(self) -> None: ...


class Deadlines:
    """Those who have to be over by some time, on ``clock``.

    There is one timer, for the earliest. It is not moved when that one is over in time, which is what nearly all are:
    it goes off, finds nothing, and is set again for the earliest of then.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock: Final = clock
        self.time: Final = clock.time
        self._waiting: set[Deadline] = set()
        self._timer: Timer | None = None
        self._timer_at = inf

    def watch(self, deadline: "Deadline") -> None:
        """Cancel what ``deadline`` is for when its time has come, until `forget`."""
        self._waiting.add(deadline)
        if deadline.when < self._timer_at:
            self._set_timer(deadline.when)

    def forget(self, deadline: "Deadline") -> None:
        """It is over."""
        self._waiting.discard(deadline)

    def close(self) -> None:
        """Nothing is waited for any more."""
        self._set_timer(inf)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = None if when == inf else self.clock.call_at(when, self._look)

    def _look(self) -> None:
        now = self.time()
        for deadline in [each for each in self._waiting if each.when <= now]:
            self._waiting.discard(deadline)
            deadline.expire()
        self._timer = None
        self._set_timer(min((each.when for each in self._waiting), default=inf))


class Deadline:
    """When something has to be over: in ``seconds`` from now."""

    __slots__ = ("_all", "_task", "expired", "when")

    def __init__(self, all: Deadlines, seconds: float) -> None:
        self._all = all
        self.when: Final = all.time() + seconds
        self._task: asyncio.Task[Any] | None = None
        self.expired = False
        """It has passed while something was waited for, and that was cancelled."""

    def passed(self) -> bool:
        """Whether it is over."""
        return self.expired or self._all.time() > self.when

    async def run(self, steps: Steps) -> Any:
        """The result of ``steps``, run in this task. Raises TimeoutError when they are not over in time.

        They are cancelled then. Like every other coroutine in this task they can hold it up by not heeding that.
        """
        try:
            waited_for = steps.send(None)
        except StopIteration as done:
            result = done.value
        else:
            # Only now can it be late while it runs: most calls in process never come here.
            result = await self._rest(steps, waited_for)
        if self._all.time() > self.when:
            raise TimeoutError
        return result

    async def _rest(self, steps: Steps, waited_for: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        self._task = task
        self._all.watch(self)
        try:
            result = await _resumed(steps, waited_for)
        except (Exception, asyncio.CancelledError) as error:
            if self.expired and task.uncancel() <= cancelling:
                raise TimeoutError from error
            raise
        finally:
            self._all.forget(self)
            self._task = None
        if self.expired:
            task.uncancel()
            raise TimeoutError
        return result

    def expire(self) -> None:
        """Its time has come."""
        if self._task is not None:
            self.expired = True
            self._task.cancel()


@types.coroutine
def _resumed(steps: Steps, waited_for: Any) -> Generator[Any, Any, Any]:
    """What ``await`` does, for what was begun already and waits for ``waited_for``."""
    while True:
        try:
            sent = yield waited_for
        except GeneratorExit:
            steps.close()
            raise
        except BaseException as error:
            try:
                waited_for = steps.throw(error)
            except StopIteration as done:
                return done.value
        else:
            try:
                waited_for = steps.send(sent)
            except StopIteration as done:
                return done.value


def check_timeout(seconds: float) -> float:
    """``seconds``, if a call may take so long. Raises ValueError."""
    if not TIMEOUT_SECONDS_MIN <= seconds <= TIMEOUT_SECONDS_MAX:
        raise ValueError(f"a timeout of {seconds} s is not within {TIMEOUT_SECONDS_MIN} to {TIMEOUT_SECONDS_MAX:g} s")
    return seconds
