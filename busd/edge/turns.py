"""Whose turn it is: tenants share the routing loop fairly, and the node's own traffic never waits for more than a turn.

The node's frames are handled as they come. What comes from tenants (and from users of the host whom the node does not
belong to) is handled in small steps: an account after the other has a quantum, all of them together a slice of each
turn of the loop, and an account that has gone too fast waits until its debt is paid (deficit round robin, Shreedhar and
Varghese, 1995, with time instead of bytes). While a connection waits it is not read: the kernel's buffers fill up, and
the one who floods is held up by his own flood.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from busd.core.account import LONG_SECONDS, Account
from busd.core.session import Session

TURN_SECONDS: Final = 250e-6
"""What all accounts together may take of one turn of the loop, while others wait."""

QUANTUM_SECONDS: Final = 100e-6
"""What one account may take before the next one has its turn."""


READ_SECONDS: Final = 40e-6
"""What reading a connection may cost that has had its turn: a quarter of a mebibyte is copied. It is counted with the
turn that lets it be read, or a thousand connections could have the loop read for as long as they like."""


class Stepper(Protocol):
    """Something that has work of an account, and does it in steps."""

    session: Session

    def step(self) -> bool:
        """Do a little of it, less than a quantum; False when nothing is left, and its connection is read again."""


class Turns:
    """The accounts that have work waiting, and their order."""

    __slots__ = ("_began", "_clock", "_cpu", "_done", "_loop", "_order", "_scheduled", "_timer", "_waiting", "_work")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        done: Callable[[], None],
        cpu: Callable[[], float] | None = None,
    ) -> None:
        """``done`` is called at the end of each turn in which something was done. ``cpu`` is the time that this thread
        has run: nobody is charged for what the system gave to other processes. Without it, that is all of the time."""
        self._loop = loop
        self._clock = clock
        self._cpu = cpu or clock
        self._began = 0.0
        self._done = done
        self._work: dict[Account, deque[Stepper]] = {}
        self._order: deque[Account] = deque()
        self._waiting: set[Account] = set()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None

    def offer(self, stepper: Stepper) -> None:
        """``stepper``, which has no work queued, has some now."""
        account = stepper.session.account
        queue = self._work.get(account)
        if queue is None:
            queue = self._work[account] = deque()
            self._order.append(account)
        queue.append(stepper)
        if not self._scheduled and account not in self._waiting:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def stop(self) -> None:
        """Do no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- inside -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """One turn: quanta for the accounts in order, until none has work or the turn is over."""
        self._scheduled = False
        now = self._clock()
        self._began = self._cpu()
        spent = 0.0
        order = self._order
        while order and spent < TURN_SECONDS:
            account = order.popleft()
            if account.ready_at > now:
                self._waiting.add(account)
                continue
            took, now = self._serve(account, now)
            spent += took
            if self._work[account]:
                order.append(account)
            else:
                del self._work[account]
        if order:
            self._scheduled = True
            self._loop.call_soon(self._run)
        if self._waiting:
            self._wake_later(now)
        self._done()

    def _serve(self, account: Account, now: float) -> tuple[float, float]:
        """Give ``account`` a quantum. What it took, in seconds, and what time it is then."""
        queue = self._work[account]
        start, reads = now, 0
        while queue and now - start + reads * READ_SECONDS < QUANTUM_SECONDS:
            stepper = queue.popleft()
            if stepper.step():
                queue.append(stepper)
            else:
                reads += 1
            before, now = now, self._clock()
            took = now - before
            if took > LONG_SECONDS:
                # On a busy machine most such steps were short, and the node was set aside meanwhile. All of the turn's
                # time, at most: this is a system call, too dear for each step.
                took = min(took, self._cpu() - self._began)
            account.take_time(took, now)
        return now - start + reads * READ_SECONDS, now

    def _wake_later(self, now: float) -> None:
        """Let the accounts in debt come back when the first of them has paid."""
        if self._timer is not None:
            self._timer.cancel()
        first = min(account.ready_at for account in self._waiting)
        self._timer = self._loop.call_later(max(0.0, first - now), self._wake)

    def _wake(self) -> None:
        self._timer = None
        now = self._clock()
        ready = [account for account in self._waiting if account.ready_at <= now]
        self._waiting.difference_update(ready)
        self._order.extend(ready)
        if self._waiting:
            self._wake_later(now)
        if ready and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)
