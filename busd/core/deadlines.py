"""Deadlines of any number of things, kept so that adding and removing one costs the same whatever their number.

Things due within the same tick share a slot (a timing wheel without the wheel: Varghese and Lauck, 1987). A call that
is answered before its deadline leaves nothing behind, which a plain heap cannot do without a search.
"""

import heapq
from collections.abc import Hashable
from math import inf
from typing import Final, Generic, TypeVar

TICKS_PER_SECOND: Final = 128
"""Deadlines are met up to 1/128 s late: nobody can tell 8 ms in a time-out, and slots stay few."""

Thing = TypeVar("Thing", bound=Hashable)


class Alarm:
    """The earliest deadline that was set since somebody last looked: lets whoever keeps the timer look seldom."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = inf


class Deadlines(Generic[Thing]):
    """Things with a time at which they expire. Several can share an ``alarm``."""

    __slots__ = ("_alarm", "_order", "_slots")

    def __init__(self, alarm: Alarm) -> None:
        self._alarm = alarm
        self._slots: dict[int, dict[Thing, None]] = {}
        self._order: list[int] = []

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def add(self, thing: Thing, deadline: float) -> dict[Thing, None]:
        """Let ``thing`` expire at ``deadline`` (seconds). Returns the slot that ``remove`` needs."""
        number = int(deadline * TICKS_PER_SECOND) + 1
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = {}
            heapq.heappush(self._order, number)
            if deadline < self._alarm.at:
                self._alarm.at = deadline
        slot[thing] = None
        return slot

    @staticmethod
    def remove(thing: Thing, slot: dict[Thing, None]) -> None:
        """Forget ``thing``; nothing happens if it has expired."""
        slot.pop(thing, None)

    def next(self) -> float | None:
        """When the next thing may expire, in seconds; None when there is nothing."""
        order = self._order
        while order and not self._slots[order[0]]:
            del self._slots[heapq.heappop(order)]
        return order[0] / TICKS_PER_SECOND if order else None

    def expire(self, now: float, most: int | None = None) -> list[Thing]:
        """Remove and return what is due at ``now``, earliest slot first; at most ``most``, the rest is still due."""
        due: list[Thing] = []
        while self._order and self._order[0] <= now * TICKS_PER_SECOND:
            slot = self._slots[self._order[0]]
            while slot and len(due) != most:
                thing = next(iter(slot))
                del slot[thing]
                due.append(thing)
            if slot:
                break
            del self._slots[heapq.heappop(self._order)]
        return due
