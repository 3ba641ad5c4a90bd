"""Whose batch begins next when several jobs share a file system. Pure: the time is an argument.

Tenants take turns by what their batches take of the file system (start-time fair queueing), and the jobs of one tenant
among themselves likewise, so neither more threads nor more jobs nor larger batches give anybody a larger share.
"""

import math
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from typing import Final

from busd.components.deletion.throttle import Throttle

__all__ = ["Lane", "Ticket", "Turnstile"]

KEPT: Final = 1024
"""Tenants whose shares are remembered, on each file system, when nothing of theirs waits."""


class Lane:
    """Where one job's batches queue: its throttles, and who it competes with.

    Attributes:
        tenant: whose job it is.
        job: the throttle of the job alone.
        shared: throttles that others wait for too: the tenant's, then the file system's.
    """

    __slots__ = ("job", "shared", "tenant", "throttles")

    def __init__(self, tenant: Hashable, job: Throttle, shared: tuple[Throttle, Throttle]) -> None:
        self.tenant = tenant
        self.job = job
        self.shared = shared
        self.throttles = (job, *shared)

    @property
    def system(self) -> Throttle:
        """The file system's throttle."""
        return self.shared[1]


class Ticket:
    """A batch that waits for its turn."""

    __slots__ = ("admitted", "files", "lane", "size")

    def __init__(self, lane: Lane, files: int, size: int) -> None:
        self.lane = lane
        self.files = files
        self.size = size
        self.admitted = False

    def waits_for(self, now: float) -> tuple[float, Throttle]:
        """When it could begin if it were alone, and the throttle that takes longest."""
        latest, by = -math.inf, self.lane.job
        for throttle in self.lane.throttles:
            when = throttle.ready_at(self.files, self.size, now)
            if when > latest:
                latest, by = when, throttle
        return latest, by


class Turnstile:
    """Batches that wait, and the order in which they begin."""

    def __init__(self) -> None:
        self._waiting: dict[Throttle, dict[Lane, deque[Ticket]]] = {}  # by file system
        self._shares: dict[Hashable, float] = {}  # of each tenant, and of each job, where it has got to
        self._turns: dict[Hashable, float] = {}  # where the one whose turn it last was had begun

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Ticket]:
        """All that wait."""
        for lanes in self._waiting.values():
            for queue in lanes.values():
                yield from queue

    def add(self, ticket: Ticket) -> None:
        """Let ``ticket`` wait for its turn."""
        self._waiting.setdefault(ticket.lane.system, {}).setdefault(ticket.lane, deque()).append(ticket)

    def remove(self, ticket: Ticket) -> None:
        """``ticket`` does not wait any longer."""
        lane = ticket.lane
        lanes = self._waiting[lane.system]
        lanes[lane].remove(ticket)
        if not lanes[lane]:
            del lanes[lane]
            if not lanes:
                del self._waiting[lane.system]

    def advance(self, now: float) -> tuple[list[Ticket], float]:
        """Let begin what may; returns these tickets in their order, and when to ask again.

        That time is infinite when only a change or the end of a batch lets anybody begin.
        """
        begun: list[Ticket] = []
        while True:
            ticket, when = self._next(now)
            if ticket is None:
                return begun, when
            self._begin(ticket, now)
            begun.append(ticket)

    def _next(self, now: float) -> tuple[Ticket | None, float]:
        earliest = math.inf
        held: set[Throttle] = set()
        for ticket in self._in_order():
            if not held.isdisjoint(ticket.lane.shared):
                continue
            when, by = ticket.waits_for(now)
            if when <= now:
                return ticket, now
            earliest = min(earliest, when)
            # It is this ticket's turn at what it waits for: small batches that pass it would keep a large one waiting
            # for ever. A throttle that waits for no time at all (paused, or full of what is in flight) stops all its
            # users in any case, and a job's own has no others.
            if by is not ticket.lane.job:
                held.add(by)
        return None, earliest

    def _in_order(self) -> Iterable[Ticket]:
        """The first of each lane: who has had least comes first; file systems by turns."""
        for system, lanes in self._waiting.items():
            yield from sorted(
                (queue[0] for queue in lanes.values()),
                key=lambda ticket: (
                    self._start((system, ticket.lane.tenant), system),
                    self._start(ticket.lane.job, (system, ticket.lane.tenant)),
                ),
            )

    def _start(self, who: Hashable, among: Hashable) -> float:
        """Where a share begins: whoever was away has no arrears."""
        return max(self._shares.get(who, 0.0), self._turns.get(among, 0.0))

    def _begin(self, ticket: Ticket, now: float) -> None:
        lane = ticket.lane
        self.remove(ticket)
        system, tenant = lane.system, (lane.system, lane.tenant)
        of_system = system.seconds(ticket.files, ticket.size)
        of_tenant = max(of_system, lane.shared[0].seconds(ticket.files, ticket.size))
        for who, among, cost in ((tenant, system, of_system), (lane.job, tenant, of_tenant)):
            start = self._start(who, among)
            self._turns[among] = start
            self._shares[who] = start + cost
        if system in self._waiting:  # the next file system's turn
            self._waiting[system] = self._waiting.pop(system)
        for throttle in lane.throttles:
            throttle.begin(ticket.files, ticket.size, now)
        ticket.admitted = True
        if len(self._turns) > KEPT:
            self._prune()

    def forget(self, lane: Lane) -> None:
        """The job is over. Its tenant's share is remembered: a new job for each batch is no way past the others."""
        self._shares.pop(lane.job, None)

    def _prune(self) -> None:
        """Forget the tenants who are least ahead of the others; who comes again begins where the others are."""
        waiting = {(ticket.lane.system, ticket.lane.tenant) for ticket in self}
        gone = [who for who in self._turns if isinstance(who, tuple) and who not in waiting]
        gone.sort(key=lambda who: self._shares.get(who, 0.0) - self._turns.get(who[0], 0.0))
        for who in gone[: len(gone) // 2]:
            del self._turns[who]
            self._shares.pop(who, None)
