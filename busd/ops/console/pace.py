"""Long work in small slices: the loop routes messages in between."""

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final, TypeVar

__all__ = ["CHUNK", "Pace", "most", "page"]

SLICE_SECONDS: Final = 0.001
"""Work without a pause. Whoever waits for the loop meanwhile does not notice."""

PAUSE_SECONDS: Final = 0.002
"""Between two slices: the console has a third of the loop at most, however many endpoints there are."""

CHUNK: Final = 256
"""Things that are handled between two looks at the clock, where each takes about a microsecond."""

T = TypeVar("T")


class Pace:
    """Whose turn it is: whoever works in a loop calls `rest` often."""

    __slots__ = ("_clock", "_since", "now")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self.now = self._since
        """When this slice began."""

    @property
    def due(self) -> bool:
        """Whether the slice is over."""
        return self._clock() - self._since >= SLICE_SECONDS

    async def rest(self) -> None:
        """Let others have the loop, if the slice is over."""
        if self.due:
            await asyncio.sleep(PAUSE_SECONDS)
            self._since = self.now = self._clock()


async def most(
    items: Iterable[T], number: int, key: Callable[[T], Any], pace: Pace, wanted: Callable[[T], bool] | None = None
) -> list[T]:
    """The ``number`` of ``items`` with the largest keys, largest first; only of those that are ``wanted``."""
    best: list[T] = []
    rest = iter(items)
    while chunk := list(islice(rest, CHUNK)):
        best += chunk if wanted is None else filter(wanted, chunk)
        best.sort(key=key, reverse=True)  # most of it is in order, and then that takes a tenth of what a heap does
        del best[number:]
        await pace.rest()
    return best


async def page(
    items: list[tuple[Any, int, T]], offset: int, limit: int, pace: Pace, *, descending: bool = False
) -> list[T]:
    """``limit`` of ``items`` from ``offset`` on, in the order of their keys: (key, number that no other has, item)."""
    runs: list[list[tuple[Any, int, T]]] = []
    for first in range(0, len(items), CHUNK):
        runs.append(sorted(items[first : first + CHUNK], key=_place, reverse=descending))
        await pace.rest()
    found: list[T] = []
    for place, item in enumerate(heapq.merge(*runs, key=_place, reverse=descending)):
        if place >= offset + limit:
            break
        if place >= offset:
            found.append(item[2])
        if place % CHUNK == 0:
            await pace.rest()
    return found


def _place(item: tuple[Any, int, object]) -> tuple[Any, int]:
    return item[0], item[1]
