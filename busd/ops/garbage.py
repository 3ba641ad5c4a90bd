"""When Python looks for garbage: often at the little that is new, and seldom at all that there is.

A full collection looks at every object: with ten thousand endpoints that takes 100 ms, in which nothing is routed. What
the bus holds is freed by counting references; only exceptions and tasks leave cycles, and they are not old. So what
has outlived a few seconds is not looked at again (gc.freeze), but for once an hour, if nobody waits.
"""

import asyncio
import gc
from collections.abc import Callable
from typing import Final

PERIOD_SECONDS: Final = 5.0
"""How often what is new is looked at."""

THOROUGH_SECONDS: Final = 3600.0
"""After which all that there is is looked at, as soon as nothing has passed for a period."""

LONGEST_SECONDS: Final = 6 * THOROUGH_SECONDS
"""Then that is done even if something always passes: cycles must not pile up for ever."""

FEW: Final = 1
"""Collections of the middle generation in a period, after which the oldest has so few objects (some 7,000 each) that it
is looked at too. After more, when thousands attach at once, that would be a stall."""

_NEVER: Final = 1_000_000


class Garbage:
    """Small collections all the time and a full one at a quiet moment, not whenever enough objects were made."""

    def __init__(self, activity: Callable[[], int]) -> None:
        """``activity`` is a number that grows when something passes."""
        self._activity = activity
        self._before: tuple[int, int, int] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """From now on; what there is already is taken to stay."""
        self._before = gc.get_threshold()
        _collect_all()
        gc.set_threshold(self._before[0], self._before[1], _NEVER)
        self._task = asyncio.get_running_loop().create_task(self._collect_on())

    async def stop(self) -> None:
        """Leave it to Python again."""
        if self._task is not None and self._before is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            gc.set_threshold(*self._before)
            gc.unfreeze()

    async def _collect_on(self) -> None:
        waited = 0.0
        seen = self._activity()
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            waited += PERIOD_SECONDS
            passed, seen = self._activity() - seen, self._activity()
            if waited >= (LONGEST_SECONDS if passed else THOROUGH_SECONDS):
                _collect_all()
                waited = 0.0
            else:
                gc.collect(2 if gc.get_count()[2] <= FEW else 1)
                gc.freeze()


def _collect_all() -> None:
    gc.unfreeze()
    gc.collect()
    gc.freeze()
