"""Single flight: of all who find the same value missing, one computes it and the others wait for that."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

__all__ = ["LEAD", "RENEWALS", "Flight", "Flights", "Lead", "Outcome", "Waiter"]


RENEWALS: Final = 8
"""Computations of one tenant in the background at once: each may be a thread. Who comes beyond has the old value, and
whoever asks later renews it."""


class Lead:
    """See `LEAD`."""


LEAD: Final = Lead()
"""The outcome for who has to compute it himself, because who did was cancelled."""

Outcome = bytes | Lead
Waiter = Future[Outcome]


class Flight:
    """One computation.

    Attributes:
        key: blinded name of the value.
        generation: of the write that it will be; taken before it begins, so that each write since then is later.
        thread, task: who computes; the task only if that is a coroutine.
    """

    __slots__ = ("generation", "key", "task", "thread", "waiters")

    def __init__(self, key: bytes, generation: int) -> None:
        self.key = key
        self.generation = generation
        self.waiters: deque[Waiter] = deque()
        self.lead_by(None)

    def lead_by(self, task: "asyncio.Task[object] | None") -> None:
        """The calling thread, or ``task`` in it, computes."""
        self.thread = threading.get_ident()
        self.task = task


class Flights:
    """The computations of one tenant that are going on. Thread-safe.

    Threads and coroutines wait for one another, in whatever loops they run. A computation must not wait, however far
    around, for the value that it computes: asking for that itself is a RuntimeError, any longer circle is not seen.

    Attributes:
        computed: computations that began.
        shared: callers that got what another one computed.
        renewals_failed: computations in the background that gave nothing.
    """

    def __init__(self, generation: Callable[[], int]) -> None:
        """``generation`` gives the number of a write that begins now."""
        self._generation = generation
        self._lock = threading.Lock()
        self._flights: dict[bytes, Flight] = {}
        self.computed = self.shared = self.renewals_failed = 0
        self._renewing = 0

    def __len__(self) -> int:
        return len(self._flights)

    def join(self, key: bytes, task: "asyncio.Task[object] | None" = None) -> tuple[Flight, Waiter | None]:
        """The flight for ``key``; with None the caller leads it, and ends it by `land`, `fail` or `hand_on`.

        ``task`` is the caller if it is a coroutine. Raises RuntimeError if the caller would wait for itself.
        """
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = Flight(key, self._generation())
                flight.lead_by(task)
                self.computed += 1
                return flight, None
            if flight.thread == threading.get_ident() and (task is None or task is flight.task):
                raise RuntimeError(
                    "the value is being computed by this task itself"
                    if task is flight.task
                    else "the value is being computed by a task of this thread's loop, which waiting would block: "
                    "use get_or_compute_async"
                )
            waiter: Waiter = Future()
            flight.waiters.append(waiter)
            return flight, waiter

    def begin(self, key: bytes) -> Flight | None:
        """A flight for ``key`` that is led in the background, by nobody yet; `ended` is to follow.

        None if one is going on, or `RENEWALS` are.
        """
        with self._lock:
            if key in self._flights or self._renewing >= RENEWALS:
                return None
            flight = self._flights[key] = Flight(key, self._generation())
            flight.thread = 0
            self.computed += 1
            self._renewing += 1
            return flight

    def ended(self, *, failed: bool) -> None:
        """A computation in the background is over."""
        with self._lock:
            self._renewing -= 1
            self.renewals_failed += failed

    def wait(self, flight: Flight, waiter: Waiter, timeout: float | None) -> Outcome:
        """Block for what becomes of ``flight``: the value; its exception; or `LEAD`, and the caller leads it now.

        Raises TimeoutError after ``timeout`` seconds.
        """
        try:
            outcome = waiter.result(timeout)
        except BaseException:
            self._leave(flight, waiter)
            raise
        return self._had(flight, outcome, None)

    async def wait_async(self, flight: Flight, waiter: Waiter) -> Outcome:
        """As `wait`, in a coroutine."""
        try:
            outcome = await asyncio.wrap_future(waiter)
        except BaseException:
            self._leave(flight, waiter)
            raise
        return self._had(flight, outcome, asyncio.current_task())

    def _had(self, flight: Flight, outcome: Outcome, task: "asyncio.Task[object] | None") -> Outcome:
        with self._lock:
            if outcome is LEAD:
                flight.lead_by(task)
                flight.generation = self._generation()
                self.computed += 1
            else:
                self.shared += 1
        return outcome

    def _leave(self, flight: Flight, waiter: Waiter) -> None:
        """Whoever waited with ``waiter`` does so no longer. If he was just told to lead, somebody else is."""
        if not waiter.cancel() and waiter.exception() is None and waiter.result() is LEAD:
            self.hand_on(flight)

    def is_current(self, flight: Flight) -> bool:
        """Whether nothing was written or deleted under the key since it began: only then its value may be stored."""
        return self._flights.get(flight.key) is flight

    def outdate(self, key: bytes) -> None:
        """``key`` is written or deleted: what is being computed for it goes to who waits, and is not stored."""
        if self._flights:  # without the lock: a flight that begins now begins after the write
            with self._lock:
                self._flights.pop(key, None)

    def outdate_all(self) -> None:
        """As `outdate`, for all keys."""
        with self._lock:
            self._flights.clear()

    def _end(self, flight: Flight) -> list[Waiter]:
        with self._lock:
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
            waiters, flight.waiters = flight.waiters, deque()
        return [waiter for waiter in waiters if waiter.set_running_or_notify_cancel()]

    def land(self, flight: Flight, value: bytes) -> None:
        """It is computed: all who wait get ``value``."""
        for waiter in self._end(flight):
            waiter.set_result(value)

    def fail(self, flight: Flight, error: Exception) -> None:
        """It failed: all who wait get ``error``."""
        for waiter in self._end(flight):
            waiter.set_exception(error)

    def hand_on(self, flight: Flight) -> None:
        """Whoever computed was cancelled: the first who still waits computes it."""
        while True:
            with self._lock:
                if not flight.waiters:
                    if self._flights.get(flight.key) is flight:
                        del self._flights[flight.key]
                    return
                waiter = flight.waiters.popleft()
            if waiter.set_running_or_notify_cancel():
                waiter.set_result(LEAD)
                return
