"""One endpoint's connection, kept: the session on an event loop, its link, its timer, and coming back when it is lost.

`bus.Bus` is the public face of this. Nothing here knows a verb; it moves frames, wakes who waits, and reconnects.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf
from typing import Any, Final, Literal, Protocol

from busclient.clock import Clock, LoopClock, Timer
from busclient.connector import connect
from busclient.errors import BusError, CallTimeout, Closed, NotConnected
from busclient.link import CLOSE_SECONDS, Connector, Link
from busclient.message import Call
from busclient.session import Session, SessionState
from busproto.envelope import Headers

__all__ = ["Connection", "Dependent", "State"]

State = Literal["connecting", "connected", "reconnecting", "closed"]

FIRST_RETRY_SECONDS: Final = 0.02
LAST_RETRY_SECONDS: Final = 0.5
"""Reconnects begin after the first, double, and stay at the last: back within a second of the broker's return."""


PIPELINE: Final = 32
"""Calls or replies that go out without waiting for the end of the loop's turn. Else all that are in flight travel as
one batch, and only the process that has it works (64 in flight on two cores: 62 k/s so, 95 k/s by 16, 110 by 32)."""


class Dependent(Protocol):
    """What cannot outlive the connection: a subscription or a service."""

    @property
    def tasks(self) -> Collection["asyncio.Task[None]"]:
        """The tasks that it runs."""

    def end(self, failure: BusError | None) -> None:
        """There will be no connection again, for ``failure`` or because this program closed it."""


class Connection:
    """A session and the link that it has at the moment, if it has one."""

    def __init__(
        self,
        url: str,
        manifest: Mapping[str, Any],
        *,
        reconnect: bool = True,
        connector: Connector = connect,
        clock: Clock | None = None,
    ) -> None:
        self.session = Session(manifest, url)
        self.url = url
        self.state: State = "connecting"
        self.connects = 0
        """Times that it was connected."""
        self.link: Link | None = None
        self.dependents: set[Dependent] = set()
        self.flush_due = False
        """What was asked of the session goes out at the end of this turn of the loop."""
        self.timer_at = inf
        """When the session's deadlines are looked at next."""
        self.burst = False
        """A full frame has gone out: whoever sends in a loop should let others have a turn."""
        self._reconnect = reconnect
        self._connector = connector
        self.clock: Clock = clock or LoopClock()
        self.time = self.clock.time
        self._attaching: asyncio.Future[None] | None = None
        self._returning: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._timer: Timer | None = None

    async def open(self) -> None:
        """Connect for the first time. Raises BusError; `NotConnected` when nothing is there."""
        if self.state != "connecting" or self.link is not None:
            raise Closed("bus") if self.state == "closed" else RuntimeError("this bus is already open")
        self.loop = asyncio.get_running_loop()
        try:
            await self._attach()
        except BaseException:
            self._shut(None)
            raise

    async def close(self) -> None:
        """Send what is unsent, say bye, and wait until nothing of this connection runs any more."""
        link = self.link
        tasks = {task for dependent in self.dependents for task in dependent.tasks}
        self._shut(None)
        if self._returning is not None:
            tasks.add(self._returning)
        tasks.discard(asyncio.current_task())
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
        if link is not None:
            await link.wait_closed()

    # -- asking the session -------------------------------------------------------------------------------------------

    async def request(self, ask: Callable[[float, Any], object]) -> None:
        """Make a request of the broker itself and wait for its answer, if there will be one. Raises its refusal."""
        future = asyncio.get_running_loop().create_future()
        answered = ask(self.time(), future) is not False
        self.sent()
        if not answered:
            return
        outcome = await future
        if outcome is not None:
            raise outcome

    async def try_request(self, ask: Callable[[float, Any], object]) -> None:
        """As `request`, where a connection that is gone answers as well as any."""
        try:
            await self.request(ask)
        except (NotConnected, Closed, CallTimeout):
            pass

    def reply(self, call: Call, status: int, headers: Headers | None, payload: bytes) -> None:
        """Answer ``call``, if anyone still waits for it. Raises BusError when the reply cannot be sent as it is."""
        session = self.session
        if session.reply(call, status, headers, payload):
            if not session.held:
                # Nothing else is under way that could share a frame: send at once.
                self.flush()
                if self._waiting:
                    self._changed()
            elif session.out.full or len(session.out.parts) >= PIPELINE:
                self.flush()
            elif not self.flush_due:
                self.flush_soon()

    def abandon(self, id: int) -> None:
        """Cancel call ``id``."""
        self.session.abandon(id)
        self.flush_soon()

    def sent(self) -> None:
        """Something was asked of the session that is to go out and that has a deadline."""
        self.set_timer()
        self.flush_soon()

    def congested(self) -> bool:
        """Whether more was just sent than is good to send without a pause."""
        link = self.link
        return self.burst or (link is not None and link.paused)

    async def ready_to_send(self, seconds: float = inf) -> bool:
        """Give others a turn, and wait until the connection takes more. False if it does not in time."""
        self.burst = False
        if self.link is None or not self.link.paused:
            await asyncio.sleep(0)
            return True
        return await self.wait_until(lambda: self.link is None or not self.link.paused, seconds)

    # -- output and time ----------------------------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """Send when this turn of the loop is over, with whatever else it brings."""
        if not self.flush_due and self.link is not None:
            self.flush_due = True
            self.loop.call_soon(self._flush_now_due)

    def _flush_now_due(self) -> None:
        self.flush_due = False
        self.flush()

    def flush(self) -> None:
        """Send at once."""
        if self.session.out.full:
            self.burst = True
        frames = self.session.data_to_send()
        if frames and self.link is not None:
            self.link.send(frames)

    def set_timer(self) -> None:
        """See to it that the session's deadlines are looked at in time."""
        earliest = self.session.earliest
        if earliest < self.timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self.timer_at = earliest
            self._timer = self.clock.call_at(earliest, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.timer_at = inf
        try:
            self.session.expire(self.time())
        except BusError as error:
            self._drop(error.text)
            return
        self._settle()
        self.flush()
        self.set_timer()

    async def wait_until(self, condition: Callable[[], bool], seconds: float = inf) -> bool:
        """Wait until ``condition`` holds; it is looked at when something changes. False if it did not in time."""
        late = False

        def too_late() -> None:
            nonlocal late
            late = True
            self._changed()

        timer = self.clock.call_at(self.time() + seconds, too_late) if seconds != inf else None
        try:
            while not condition():
                if late:
                    return False
                future = self.loop.create_future()
                self._waiting.append(future)
                try:
                    await future
                finally:
                    if future in self._waiting:
                        self._waiting.remove(future)
        finally:
            if timer is not None:
                timer.cancel()
        return True

    def _changed(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    # -- what the link calls ------------------------------------------------------------------------------------------

    def frames_received(self, frames: Sequence[bytes]) -> None:
        """Whole frames came in."""
        session = self.session
        now = self.time()
        try:
            for frame in frames:
                session.receive(frame, now)
        except BusError as error:
            self._settle()
            self._drop(f"the broker broke the protocol: {error}")
            return
        self._settle()
        if session.out.parts:
            self.flush_soon()
        if self._waiting:
            self._changed()
        if self._attaching is not None and session.ready:
            self._welcomed(self._attaching)
        elif session.state is SessionState.ENDED:
            self._drop(session.reason)

    def link_resumed(self) -> None:
        """The link takes more."""
        self._changed()

    def link_lost(self, link: Link, reason: str) -> None:
        """The link is gone."""
        if link is self.link:
            self._drop(reason)

    def _settle(self) -> None:
        """Hand what the session has finished to whoever waits for it."""
        session = self.session
        if session.finished:
            for token, outcome in session.finished:
                if not token.done():
                    token.set_result(outcome)
            session.finished.clear()
        if session.woken:
            woken, session.woken = session.woken, []
            for queue in woken:
                queue.token.wake()
        if session.cancelled:
            for call in session.cancelled:
                if call.task is not None:
                    call.task.cancel()
            session.cancelled.clear()

    # -- connecting ---------------------------------------------------------------------------------------------------

    async def _attach(self) -> None:
        """Connect once: link, hello, welcome. Raises BusError; `NotConnected` when trying again may help."""
        self._attaching = attaching = self.loop.create_future()
        attached = False
        try:
            self.link = await self._connector(self.url, self)
            self.session.attach(self.time())
            self.sent()
            await attaching
            attached = True
        except OSError as error:
            raise NotConnected(self.url, _why(error)) from error
        finally:
            self._attaching = None
            if not attached:
                attaching.cancel()
                self._drop("the connection was not completed")

    def _welcomed(self, attaching: asyncio.Future[None]) -> None:
        self._attaching = None
        self.state = "connected"
        self.connects += 1
        if not attaching.done():
            attaching.set_result(None)
        self._changed()

    def _drop(self, reason: str) -> None:
        """The connection is over: end what hung on it, and come back if that is wanted."""
        session = self.session
        link, self.link = self.link, None
        if link is not None:
            self.flush()
            link.close()
        farewell = session.farewell
        if session.state is not SessionState.DETACHED:
            session.detach(reason)
        self._settle()
        self.burst = False
        if self._attaching is not None and not self._attaching.done():
            self._attaching.set_exception(farewell or NotConnected(self.url, reason))
        elif self.state == "connected":
            if farewell is not None and not farewell.retryable:
                self._shut(farewell)
            elif self._reconnect:
                self.state = "reconnecting"
                self._returning = self.loop.create_task(self._return())
            else:
                self._shut(NotConnected(self.url, reason))
        self._changed()

    async def _return(self) -> None:
        """Connect again, however long it takes."""
        delay = FIRST_RETRY_SECONDS
        while self.state == "reconnecting":
            await self.wait_until(lambda: self.state == "closed", delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, LAST_RETRY_SECONDS)
            try:
                await self._attach()
            except BusError as error:
                if error is self.session.farewell and not error.retryable:
                    self._shut(error)
            else:
                return

    def _shut(self, failure: BusError | None) -> None:
        """Closed for good. ``failure`` is why; None: the program wanted it."""
        if self.state == "closed":
            return
        self.state = "closed"
        session = self.session
        session.failure = failure or Closed("bus")
        session.bye()
        self.flush()
        self._drop("this bus was closed" if failure is None else failure.text)
        if self._returning is not None and self._returning is not asyncio.current_task():
            self._returning.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for dependent in list(self.dependents):
            dependent.end(failure)


def _why(error: OSError) -> str:
    """Why there is no connection, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "there is no such device" if error.filename else "there is no such socket"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there"
    if isinstance(error, PermissionError):
        return "this user may not connect to it"
    return error.strerror or str(error)
