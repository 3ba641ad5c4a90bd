"""Jobs that somebody watches: one look at all of them, ten times a second, for however many watch."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from typing import Final

from busd.components.deletion.progress import FINAL, Progress
from busd.components.model.caller import outside

__all__ = ["EACH_SECONDS", "LOOK_SECONDS", "Watches"]

LOOK_SECONDS: Final = 0.1
"""Between two looks; and ten times as long as a look takes, if that is more."""

EACH_SECONDS: Final = 1.0
"""After which whoever watches is told figures again, when nothing else has changed."""

State = Progress | Exception
"""What a look has found of one job."""

Look = Callable[[list[str]], Awaitable[Mapping[str, State]]]
"""Finds out how far these jobs are."""


class _Watched:
    """One job that is watched."""

    __slots__ = ("changed", "newest", "watchers")

    def __init__(self) -> None:
        self.newest: State | None = None
        self.changed = asyncio.Event()
        self.watchers = 0


class Watches:
    """What is watched by whom. Of one event loop.

    Args:
        look: called with ids of jobs.
    """

    def __init__(self, look: Look) -> None:
        self._look = look
        self._jobs: dict[str, _Watched] = {}
        self._task: asyncio.Task[None] | None = None
        self._over = False

    @property
    def count(self) -> int:
        """How many watch."""
        return sum(watched.watchers for watched in self._jobs.values())

    async def watch(self, first: Progress) -> AsyncGenerator[Progress, None]:
        """``first``, and then the newest progress of its job: at each change but of mere figures, and of those each
        second; until its state is final, or `end`. Who is slow to ask gets the newest and not what there was before.

        Raises what a look raises, or has found instead of a progress: the job is not known any more.
        """
        yield first
        if first.state in FINAL or self._over:
            return
        watched = self._jobs.setdefault(first.job, _Watched())
        watched.watchers += 1
        try:
            if self._task is None:
                self._task = asyncio.get_running_loop().create_task(self._run(), context=outside())
            told, at = first, time.monotonic()
            while True:
                state = watched.newest
                if isinstance(state, Exception):
                    raise state
                if state is not None and (_differ(state, told) or time.monotonic() - at >= EACH_SECONDS):
                    told, at = state, time.monotonic()
                    yield state
                    if state.state in FINAL:
                        return
                    continue  # what came while whoever asks was busy
                if self._over:
                    return
                await watched.changed.wait()
        finally:
            watched.watchers -= 1
            if not watched.watchers:
                self._jobs.pop(first.job, None)

    def begin(self) -> None:
        """There is something to watch, again."""
        self._over = False

    def end(self) -> None:
        """Whoever watches is told no more: the jobs go on elsewhere, or later."""
        self._over = True
        self._wake(self._jobs.values())

    async def close(self) -> None:
        """As `end`, and nothing of it is left."""
        self.end()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._jobs:
                began = time.monotonic()
                try:
                    found = await self._look(list(self._jobs))
                except Exception as error:  # it is everybody's who watches
                    found = dict.fromkeys(self._jobs, error)
                for job, state in found.items():
                    if job in self._jobs:
                        self._jobs[job].newest = state
                self._wake(self._jobs.values())
                await asyncio.sleep(max(LOOK_SECONDS, 10 * (time.monotonic() - began)))
        finally:
            self._task = None

    def _wake(self, jobs: Iterable[_Watched]) -> None:
        for watched in jobs:
            watched.changed.set()
            watched.changed = asyncio.Event()


def _differ(one: Progress, other: Progress) -> bool:
    """Whether more than figures has changed."""
    return any(
        getattr(one, name) != getattr(other, name)
        for name in ("state", "mode", "reason", "name_free", "expected", "until", "next_try")
    )
