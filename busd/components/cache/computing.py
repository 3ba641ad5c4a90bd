"""What computes the values of one tenant that are missing, for who waits for them, and in the background."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Final, Protocol

from busd.components.cache.entry import GRACE_MOST
from busd.components.cache.flight import Flight, Flights
from busd.components.cache.found import Value

__all__ = ["Computing", "Wanted"]

_log: Final = logging.getLogger("busd.cache")


class Wanted:
    """What a computed value is stored under, and for how long. ``ttl`` and ``stale`` as of `get_or_compute`."""

    __slots__ = ("name", "stale", "ttl")

    def __init__(self, name: bytes, ttl: float | None, stale: float | None) -> None:
        """Raises ValueError for a ``stale`` out of range."""
        if stale is not None and not 0 < stale <= GRACE_MOST:
            raise ValueError(f"stale is {stale} s; it has to be more than 0, and at most {GRACE_MOST:.0f}")
        self.name, self.ttl, self.stale = name, ttl, stale


class Place(Protocol):
    """Where values are; `TenantCache` is it."""

    @property
    def name(self) -> str: ...

    def landed(self, name: bytes, key: bytes) -> bytes | None:
        """The value, if it is there and fresh; neither a hit nor a miss."""

    def land(self, flight: Flight, value: Value, wanted: Wanted) -> bytes:
        """Store what was computed, if nothing was written meanwhile; returns it."""


class Computing:
    """Leads flights of one tenant. Thread-safe.

    Attributes:
        flights: those that are going on.
    """

    def __init__(self, place: Place, generation: Callable[[], int]) -> None:
        """``generation`` as of `Flights`."""
        self._place = place
        self.flights = Flights(generation)
        self._tasks: set[asyncio.Task[None]] = set()

    def lead(self, flight: Flight, compute: Callable[[], Value], wanted: Wanted) -> bytes:
        """Compute, store and give it to all who wait. Raises what ``compute`` does, and so does it to them."""
        with self._leading(flight):
            value = self._place.landed(wanted.name, flight.key)  # between the look and the join
            if value is None:
                value = self._place.land(flight, compute(), wanted)
        self.flights.land(flight, value)
        return value

    async def lead_async(self, flight: Flight, compute: Callable[[], Awaitable[Value]], wanted: Wanted) -> bytes:
        """As `lead`, in a coroutine."""
        with self._leading(flight):
            value = self._place.landed(wanted.name, flight.key)
            if value is None:
                value = self._place.land(flight, await compute(), wanted)
        self.flights.land(flight, value)
        return value

    @contextmanager
    def _leading(self, flight: Flight) -> Iterator[None]:
        """What fails in the block fails for all who wait; who is stopped in it leaves the lead to one of them."""
        try:
            yield
        except Exception as error:
            self.flights.fail(flight, error)
            raise
        except BaseException:
            self.flights.hand_on(flight)
            raise

    def renew(self, key: bytes, compute: Callable[[], Value], wanted: Wanted) -> None:
        """Have it computed in a thread in the background, unless somebody is at it. Never raises."""
        flight = self.flights.begin(key)
        if flight is None:
            return

        def work() -> None:
            flight.lead_by(None)
            failed: BaseException | None = None
            try:
                self.lead(flight, compute, wanted)
            except BaseException as error:  # whatever it is, nobody waits for it here
                failed = error
            self._ended(failed)

        try:
            context = copy_context()
            threading.Thread(target=context.run, args=(work,), name="cache-renewal", daemon=True).start()
        except RuntimeError as error:  # there are no more threads
            self.flights.hand_on(flight)
            self._ended(error)

    def renew_async(self, key: bytes, compute: Callable[[], Awaitable[Value]], wanted: Wanted) -> None:
        """Have it computed by a task of its own in this loop, unless somebody is at it."""
        flight = self.flights.begin(key)
        if flight is None:
            return
        begun = False

        async def work() -> None:
            nonlocal begun
            begun = True
            await self.lead_async(flight, compute, wanted)

        def ended(task: "asyncio.Task[None]") -> None:
            self._tasks.discard(task)
            if not begun:  # cancelled before its first step: nothing has ended the flight
                self.flights.hand_on(flight)
            self._ended(asyncio.CancelledError() if task.cancelled() else task.exception())

        task = asyncio.get_running_loop().create_task(work(), name="cache-renewal")
        flight.lead_by(task)
        self._tasks.add(task)  # the loop itself does not keep it
        task.add_done_callback(ended)

    def _ended(self, failed: BaseException | None) -> None:
        if failed is not None:  # said before it is counted: who sees the figure finds the line
            _log.warning("a value of tenant %r could not be renewed: %s", self._place.name, type(failed).__name__)
        self.flights.ended(failed=failed is not None)
