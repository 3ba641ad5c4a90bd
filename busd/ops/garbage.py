"""When Python looks for garbage: seldom and small while messages pass, thoroughly when nobody waits.

A full collection looks at every object there is: with thousands of endpoints that is tens of milliseconds in which
nothing is routed. What the bus holds is freed by counting references; only exceptions and tasks leave cycles.
"""

import asyncio
import gc
from collections.abc import Callable
from typing import Final

PERIOD_SECONDS: Final = 5.0
"""How often it is asked whether the bus is quiet."""

LONGEST_SECONDS: Final = 600.0
"""Then it is done even if it never is: cycles must not pile up for ever."""

_NEVER: Final = 1_000_000


class Garbage:
    """Full collections at quiet moments, instead of whenever enough objects were made."""

    def __init__(self, activity: Callable[[], int]) -> None:
        """``activity`` is a number that grows when something passes."""
        self._activity = activity
        self._before: tuple[int, int, int] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """From now on; what there is already is taken to stay."""
        self._before = gc.get_threshold()
        gc.collect()
        gc.freeze()
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
            if not passed or waited >= LONGEST_SECONDS:
                gc.collect()
                waited = 0.0
