"""Moves frames between connections and the bus, one write per receiver and loop turn.

Everything that arrives in one turn of the event loop goes into the bus at once; what that makes ready is written at the
end of the turn. So messages that arrive together leave together, in one frame and one system call, without any timer:
batches grow with the load and a lone message is not delayed.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final, Protocol

from busd.core.bus import Bus
from busd.core.reasons import Departure
from busd.core.session import Session
from busd.edge.turns import Turns
from busproto.errors import BusError, Code

clock: Final[Callable[[], float]] = time.monotonic
"""The bus's clock. The same one as asyncio's and uvloop's own, but finer than uvloop's millisecond."""


BUSY_GAP_SECONDS: Final = 300e-6
"""Frames that come closer together than this may have someone waiting for the next one: a round trip of calls takes as
long on a slow machine while the loop sleeps in between."""

VAIN: Final = 8
"""Frames in quick succession that are let pass after the loop has polled in vain, before it tries again. So those that
come at intervals just too long for it cost a ninth of a poll each (KVM's halt polling shrinks for the same reason)."""


LEAVING_AT_ONCE: Final = 4
"""Connections seen off in one turn of the loop; each takes 0.1 ms."""

AHEAD_SECONDS: Final = 1.0
"""How far ahead of its rates an account may be on a link that cannot be read more slowly."""


TIMED: Final = 61
"""One of so many reads is timed, which costs under 0.1 us a read. A prime: of senders who take turns not always the
same is."""


class Link(Protocol):
    """What the pump needs of a connection."""

    def flush(self) -> None:
        """Write what waits for the session, as far as the peer takes it; close when the session is over."""


class _Gone:
    """Stands for a connection that is gone: what still waited for it, nobody takes."""

    __slots__ = ()

    def flush(self) -> None:
        pass


_GONE: Final = _Gone()


class Pump:
    """One bus and one event loop.

    While frames come in quick succession the loop polls for the next one for ``busy_poll`` seconds before it sleeps:
    to be woken costs a process more than most of its work here, and in the ping-pong of calls each side waits for the
    other (Linux does the same for sockets, net.core.busy_poll). A quiet bus sleeps, and so does one on which nothing
    comes while it polls.
    """

    __slots__ = (
        "_began",
        "_busy_poll",
        "_due",
        "_finished",
        "_last",
        "_leaving",
        "_loop",
        "_polling",
        "_scheduled",
        "_timer",
        "_untimed",
        "_vain",
        "bus",
        "turns",
    )

    def __init__(self, bus: Bus, loop: asyncio.AbstractEventLoop, busy_poll: float = 0.0) -> None:
        self.bus = bus
        self._busy_poll = busy_poll
        self._last = -inf
        self._polling = False
        self._began = -inf
        """When it began to poll."""
        self._vain = 0
        """Frames to be let pass before it polls again."""
        self._loop = loop
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf
        self._finished: asyncio.Event | None = None
        self._leaving: deque[Callable[[], None]] = deque()
        self._untimed = 1
        self.turns = Turns(loop, clock, self._finish_turn, time.thread_time)
        """Who else has work to be done, in turns."""

    def receive(self, session: Session, frames: list[bytes]) -> None:
        """``session`` sent ``frames``."""
        now = clock()
        receive = self.bus.receive
        for frame in frames:
            receive(session, frame, now)
        self._untimed -= 1
        if not self._untimed:
            self._untimed = TIMED
            self.bus.routed(clock() - now)
        if session.account.paced:
            self._police(session, now)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)
        if now - self._last < BUSY_GAP_SECONDS and not self._polling:
            self._poll_soon(now)
        self._last = now

    def begin(self) -> float:
        """Something was read that waits for its turn: when, if that is to be timed, else 0."""
        self._untimed -= 1
        if self._untimed:
            return 0.0
        self._untimed = TIMED
        return clock()

    def _police(self, session: Session, now: float) -> None:
        """One whose link cannot be read more slowly (CURVE) ends when it is too far ahead of what it may do."""
        account = session.account
        end = clock()
        if account.loop is not None:
            account.loop.spend(end - now, end)
        if account.ready_at - end > AHEAD_SECONDS:
            ahead = account.ready_at - end
            reason = f"{account.name} is {ahead:.1f} s ahead of its rates: {', '.join(account.debts(end))}"
            self.bus.end(session, BusError(Code.TOO_FAST, reason=reason), Departure.TOO_FAST, end)

    def refuse(self, session: Session, error: BusError) -> None:
        """``session`` broke a rule below the envelopes."""
        self.bus.end(session, error, Departure.PROTOCOL_ERROR, clock())
        self.wake()

    def hold(self, session: Session, size: int) -> None:
        """``session`` has sent ``size`` bytes of a frame that is not complete."""
        self.bus.hold(session, size, clock())
        self.wake()

    def detach(self, session: Session) -> None:
        """The connection of ``session`` is gone.

        The two forget each other: with the megabytes that it may have read and that nobody is charged for any more,
        they would wait for a full collection of garbage, which is seldom while the bus is busy.
        """
        self.bus.detach(session, clock())
        session.link = _GONE
        self.wake()

    def see_off(self, leave: Callable[[], None]) -> None:
        """Have ``leave`` detach a connection that is gone, soon: hundreds may hang up at once.

        That is the broker's own work. It waits for no turn of the account: who is in debt may leave.
        """
        self._leaving.append(leave)
        if len(self._leaving) == 1:
            self._loop.call_soon(self._see_off)

    def wake(self) -> None:
        """Something other than a frame changed the bus: write what is ready in this turn, and watch its deadlines."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    async def finish_calls(self, seconds: float) -> None:
        """Wait until no caller waits for a reply any more, at most ``seconds``."""
        self._finished = asyncio.Event()
        self.wake()
        try:
            async with asyncio.timeout(seconds):
                await self._finished.wait()
        except TimeoutError:
            pass

    def stop(self) -> None:
        """Watch no more deadlines, and give no more turns."""
        self.turns.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _see_off(self) -> None:
        for _ in range(min(len(self._leaving), LEAVING_AT_ONCE)):
            self._leaving.popleft()()
        if self._leaving:
            self._loop.call_soon(self._see_off)

    def _poll_soon(self, now: float) -> None:
        """Something came: if that was soon after the last time, look for the next before sleeping."""
        if not self._polling and now - self._last < BUSY_GAP_SECONDS and self._busy_poll:
            if self._vain:
                self._vain -= 1
            else:
                self._polling = True
                self._began = now
                self._loop.call_soon(self._poll)
        self._last = now

    def _poll(self) -> None:
        """Keep the loop from sleeping: while a callback waits, it only looks whether something has come."""
        if clock() - self._last < self._busy_poll:
            self._loop.call_soon(self._poll)
        else:
            self._polling = False
            self._vain = VAIN if self._last == self._began else 0

    def _finish_turn(self) -> None:
        """Others had their turn: write what that made ready."""
        self._poll_soon(clock())
        if not self._scheduled:
            self._flush()

    def _flush(self) -> None:
        self._scheduled = False
        for session in self.bus.ready():
            link: Link = session.link  # type: ignore[assignment]
            link.flush()
        if self._finished is not None and not self.bus.calls_in_flight:
            self._finished.set()
        if self.bus.alarm.at < self._due:
            self._arm()

    def _arm(self) -> None:
        """Set the timer for the next deadline, if that is earlier than the one it is set for."""
        deadline = self.bus.next_deadline()
        if deadline is None or deadline >= self._due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - clock()), self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._due = inf
        self.bus.expire(clock())
        self._flush()
        self._arm()
