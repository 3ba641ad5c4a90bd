"""Where the batches of all jobs wait until their job, their tenant and their file system let them begin.

The arithmetic is in `throttle` and `turnstile`; here are the lock, the clock and the threads that wait.
"""

import math
import threading
import time
from collections.abc import Callable, Hashable
from types import EllipsisType, TracebackType
from typing import Final, Self

from busd.components.deletion.cancelled import Cancelled
from busd.components.deletion.gate import MOST
from busd.components.deletion.throttle import Throttle
from busd.components.deletion.turnstile import Lane, Ticket, Turnstile

__all__ = ["Gates", "JobGate"]

REASON_SECONDS: Final = 1.0
"""For which what a job last waited for is still said to hold it back: it waits a little, often."""

BATCH_SECONDS: Final = 0.008
"""Between two batches of a slow job: less than what is noticed beside an fsync, and a tenth of a percent of a core."""

LEAST: Final = 16
"""Files of a batch, at least; for fewer, asking costs more than removing."""

LONGEST_WAIT: Final = 3600.0
"""Seconds of one wait; the platform bounds what a wait may take."""


class _Waiter:
    """A thread with a batch."""

    __slots__ = ("gate", "ticket", "turn")

    def __init__(self, gate: "JobGate", ticket: Ticket, lock: threading.Lock) -> None:
        self.gate = gate
        self.ticket = ticket
        self.turn = threading.Condition(lock)


class Gates:
    """The gates of all jobs, and the throttles that they share. Every method may be called from any thread.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._turnstile = Turnstile()
        self._waiters: dict[Ticket, _Waiter] = {}
        # One of the waiters looks at the clock for all: were each to do so, every turn would wake them all.
        self._watch: _Waiter | None = None
        self._next = math.inf
        self._tenants: dict[str, Throttle] = {}
        self._systems: dict[Hashable, Throttle] = {}
        self._listeners: dict[Throttle, Callable[[int, float], None]] = {}

    def tenant(self, name: str) -> Throttle:
        """The throttle of all jobs of a tenant; unbounded until `change` says otherwise."""
        with self._lock:
            return self._tenants.setdefault(name, Throttle("tenant"))

    def system(self, device: Hashable) -> Throttle:
        """The throttle of all jobs on a file system, known by its device number; unbounded until changed."""
        with self._lock:
            return self._systems.setdefault(device, Throttle("file system"))

    def open(
        self,
        tenant: str,
        device: Hashable,
        *,
        files_per_second: float | None = None,
        bytes_per_second: float | None = None,
        files_in_flight: float | None = None,
    ) -> "JobGate":
        """A gate for a new job of ``tenant`` on the file system ``device``; close it when the job is over.

        None is unbounded, 0 lets nothing begin. Raises ValueError for a limit below 0 and for what is no number.
        """
        job = Throttle(
            files_per_second=files_per_second, bytes_per_second=bytes_per_second, files_in_flight=files_in_flight
        )
        return JobGate(self, Lane(tenant, job, (self.tenant(tenant), self.system(device))))

    def change(
        self,
        throttle: Throttle,
        *,
        files_per_second: float | EllipsisType | None = ...,
        bytes_per_second: float | EllipsisType | None = ...,
        files_in_flight: float | EllipsisType | None = ...,
        paused: bool | None = None,
        why: str | None = None,
    ) -> None:
        """Change limits of a job, a tenant or a file system; they hold at once, also for who waits already.

        What is not given stays. None is unbounded, 0 lets nothing begin; so does ``paused``, which keeps the limits.
        ``why`` is what a reason says of the limits. Raises ValueError for what is no limit; nothing is changed then.
        """
        limits = (files_per_second, bytes_per_second, files_in_flight)
        given = [None if limit is ... else limit for limit in limits]
        Throttle(files_per_second=given[0], bytes_per_second=given[1], files_in_flight=given[2])  # all right, or none
        with self._lock:
            now = self._clock()
            if files_per_second is not ...:
                throttle.change_files(files_per_second, now)
            if bytes_per_second is not ...:
                throttle.change_bytes(bytes_per_second, now)
            if files_in_flight is not ...:
                throttle.change_in_flight(files_in_flight)
            throttle.paused = throttle.paused if paused is None else paused
            throttle.why = throttle.why if why is None else why
            self._advance(now)

    def listen(self, throttle: Throttle, heard: Callable[[int, float], None] | None) -> None:
        """Call ``heard(files, seconds)`` for each batch that ended under ``throttle``, in the thread that ended it.

        None ends that. There is one listener to a throttle.
        """
        with self._lock:
            self._listeners.pop(throttle, None)
            if heard is not None:
                self._listeners[throttle] = heard

    def look(self) -> None:
        """Look at the clock now: for a clock that somebody moves."""
        with self._lock:
            self._advance(self._clock())

    def enter(self, gate: "JobGate", files: int, size: int) -> None:
        """What `JobGate.enter` does."""
        with self._lock:
            if gate.cancelled:
                raise Cancelled
            ticket = Ticket(gate.lane, files, size)
            waiter = self._waiters[ticket] = _Waiter(gate, ticket, self._lock)
            self._turnstile.add(ticket)
            try:
                self._advance(self._clock())
                while not ticket.admitted and not gate.cancelled:
                    self._wait(waiter)
                if gate.cancelled:
                    raise Cancelled
            except BaseException:
                if ticket.admitted:
                    self._end(gate, files)
                raise
            finally:
                self._gone(waiter)

    def left(self, gate: "JobGate", files: int, seconds: float) -> None:
        """What `JobGate.left` does."""
        with self._lock:
            if not gate.batches:
                return
            # What ends is what began: a walker may have met fewer files than it asked for.
            self._end(gate, files if files in gate.batches else gate.batches[0])
            listeners = [self._listeners[each] for each in gate.lane.throttles if each in self._listeners]
        for heard in listeners:
            heard(files, seconds)

    def cancel(self, gate: "JobGate") -> None:
        """What `JobGate.cancel` does."""
        with self._lock:
            gate.cancelled = True
            for waiter in self._waiters.values():
                if waiter.gate is gate:
                    waiter.turn.notify()

    def close(self, gate: "JobGate") -> None:
        """What `JobGate.close` does."""
        self.cancel(gate)
        with self._lock:
            for files in list(gate.batches):
                self._end(gate, files)
            self._turnstile.forget(gate.lane)

    def reason(self, gate: "JobGate") -> str:
        """What `JobGate.reason` does."""
        with self._lock:
            for throttle in gate.lane.throttles:
                if throttle.stopped:
                    return f"{throttle.name}: paused"
            return gate.why if self._clock() < gate.until else ""

    # What follows is called under the lock.

    def _wait(self, waiter: _Waiter) -> None:
        now, gate = self._clock(), waiter.gate
        _, by = waiter.ticket.waits_for(now)
        gate.why, gate.until = f"{by.name}: {'paused' if by.stopped else by.why}", math.inf
        if self._watch is None:
            self._watch = waiter
        seconds = None
        if self._watch is waiter and self._next < math.inf:
            seconds = min(max(0.0, self._next - now), LONGEST_WAIT)
        waiter.turn.wait(seconds)
        now = self._clock()
        gate.until = now + REASON_SECONDS
        if self._watch is waiter and not waiter.ticket.admitted:
            self._advance(now)

    def _advance(self, now: float) -> None:
        """Let begin what may, and see to it that somebody looks at the clock when the next may."""
        begun, when = self._turnstile.advance(now)
        for ticket in begun:
            waiter = self._waiters[ticket]
            waiter.gate.batches.append(ticket.files)
            waiter.turn.notify()
        sooner, self._next = when < self._next, when
        if sooner and self._watch is not None:
            self._watch.turn.notify()

    def _gone(self, waiter: _Waiter) -> None:
        """A waiter does not wait any longer, for whatever reason."""
        del self._waiters[waiter.ticket]
        if self._watch is waiter:
            self._watch = None
        if not waiter.ticket.admitted:
            self._turnstile.remove(waiter.ticket)
            self._advance(self._clock())  # it may have kept others from their turn
        if self._watch is None:
            # Not one whose turn has come: it goes, and would have to hand this on again.
            self._watch = next((each for each in self._waiters.values() if not each.ticket.admitted), None)
            if self._watch is not None:
                self._watch.turn.notify()

    def _end(self, gate: "JobGate", files: int) -> None:
        """A batch of so many files is in flight no longer; unless its gate was closed, which ended all."""
        if files in gate.batches:
            gate.batches.remove(files)
            for throttle in gate.lane.throttles:
                throttle.end(files)
            self._advance(self._clock())


class JobGate:
    """One job's gate: a `gate.Gate` for its walker, and what its owner does with it. Made by `Gates.open`.

    Attributes:
        lane: the job's throttles.
        cancelled: whether nothing more may begin.
    """

    def __init__(self, gates: Gates, lane: Lane) -> None:
        self._gates = gates
        self.lane = lane
        self.cancelled = False
        # The rest is the gates' own, under their lock: files of each batch in flight, what was last waited for, and
        # until when that is worth saying.
        self.batches: list[int] = []
        self.why = ""
        self.until = -math.inf

    @property
    def throttle(self) -> Throttle:
        """The job's own limits, for `Gates.change`."""
        return self.lane.job

    def enter(self, files: int, size: int) -> None:
        """Return when a batch of ``files`` that frees ``size`` bytes may begin; then call `left` once.

        Raises Cancelled, at once, when the job is cancelled or its gate is closed; then the batch must not begin.
        """
        self._gates.enter(self, files, size)

    def batch(self) -> int:
        """Most files of a batch: what the lowest of the rates gives for 8 ms, within 16 to 256."""
        rates = [throttle.files_per_second for throttle in self.lane.throttles]
        least = min((rate for rate in rates if rate), default=None)
        return MOST if least is None else max(LEAST, min(MOST, int(least * BATCH_SECONDS)))

    def left(self, files: int, seconds: float) -> None:
        """A batch that might begin has ended: ``files`` were removed or tried, and that took ``seconds``."""
        self._gates.left(self, files, seconds)

    def change(
        self,
        *,
        files_per_second: float | EllipsisType | None = ...,
        bytes_per_second: float | EllipsisType | None = ...,
        paused: bool | None = None,
    ) -> None:
        """Change the job's own limits, as `Gates.change`."""
        self._gates.change(
            self.lane.job, files_per_second=files_per_second, bytes_per_second=bytes_per_second, paused=paused
        )

    def cancel(self) -> None:
        """Let nothing more begin; whoever waits learns it at once. What has begun ends as it would."""
        self._gates.cancel(self)

    def close(self) -> None:
        """The job is over: as `cancel`, and what it had in flight counts no longer. May be called again."""
        self._gates.close(self)

    def reason(self) -> str:
        """What holds the job back at this time: "tenant: paused", "job: limit", "file system: canary"; or nothing."""
        return self._gates.reason(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
