"""A connection to the bus for asyncio programs: `connect`, and what can be done with it."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Self, overload

from busclient.clock import Clock
from busclient.connection import PIPELINE, Connection, State
from busclient.connector import connect as open_link
from busclient.errors import CallTimeout, Code, Gap, Overloaded
from busclient.link import Connector
from busclient.message import Call, Message, Reply, encode
from busclient.queues import QUEUE_MESSAGES, Parts
from busclient.service import CONCURRENCY, Handler, Service
from busclient.stream import Stream
from busclient.subscription import Subscription
from busclient.url import default_url
from busproto.envelope import Headers, pack

__all__ = ["Bus", "BusStatistics", "connect"]

TIMEOUT: Final = 5.0
"""Seconds that a call waits unless told otherwise."""

UNSENT_BYTES: Final = 32 << 20
"""What `Bus.publish_nowait` may leave unsent: twice the largest payload."""


@dataclass(frozen=True, slots=True)
class BusStatistics:
    """One bus connection's figures, counted since it was made, across reconnects."""

    state: State
    """As `Bus.state`."""
    connects: int
    """Times that it was connected."""
    calls_in_flight: int
    """Calls (and other requests) whose final reply has not come."""
    held_calls: int
    """Calls to this endpoint that it has not answered."""
    subscriptions: int
    """Subscriptions that this program holds open."""
    services: int
    """Services that this program holds open."""
    sent_frames: int
    """Frames sent, or lost on their way when a connection ended."""
    received_envelopes: int
    """Envelopes received."""
    late_replies: int
    """Replies that came when nobody waited for them any more."""
    unmatched_messages: int
    """Messages that no subscription of this program matched (its unsubscribe was on the way)."""


def connect(
    url: str | None = None,
    *,
    component: str | None = None,
    version: str | None = None,
    owner: str | None = None,
    purpose: str | None = None,
    serves: Sequence[str] = (),
    publishes: Sequence[str] = (),
    needs: Sequence[str] = (),
    reconnect: bool = True,
    key: str | os.PathLike[str] | None = None,
    server_key: str | os.PathLike[str] | None = None,
) -> "Bus":
    """A connection to the bus, to be entered with ``async with``.

    Args:
        url: ``unix:///path/to/host.sock`` or an absolute path, ``vsock://CID:PORT``, ``serial:///dev/PORT`` or
            ``tcp://HOST:PORT``; by default ``BUS_URL``, or this user's socket if it is there, or the system's.
        component, version, owner, purpose, serves, publishes, needs: the manifest: what this program says of itself.
            Operators see it; nothing is decided by it.
        reconnect: whether to come back by itself after the connection was lost.
        key: for ``tcp://``, the path of this client's secret key file; by default ``BUS_KEY``.
        server_key: for ``tcp://``, the broker's public key or the path of its file; by default ``BUS_SERVER_KEY``.

    Entering raises `NotConnected` when there is no bus, and BusError when the bus does not take this client.
    """
    manifest: dict[str, Any] = {
        "component": component,
        "version": version,
        "owner": owner,
        "purpose": purpose,
        "serves": list(serves),
        "publishes": list(publishes),
        "needs": list(needs),
    }
    said = {key: value for key, value in manifest.items() if value}
    connector = partial(open_link, key=key, server_key=server_key)
    return Bus(url or default_url(), said, reconnect=reconnect, connector=connector)


class Bus:
    """One endpoint on the bus. Made by `connect`; belongs to the event loop that opens it.

    Requests fail at once with `NotConnected` while there is no connection; `connected` waits for one. When the
    connection is lost, every call in flight ends with `UnknownOutcome` (or `NotConnected`, if it had not been sent
    yet), and subscriptions and services come back with the connection, a `Gap` in each subscription.

    **Publishes that the broker refuses** have no reply. The refusal is raised by the next publish on that subject, by
    `flush`, or at the end of ``async with``, whichever comes first.
    """

    def __init__(
        self,
        url: str,
        manifest: Mapping[str, Any],
        *,
        reconnect: bool = True,
        connector: Connector = open_link,
        clock: Clock | None = None,
    ) -> None:
        self._connection = Connection(url, manifest, reconnect=reconnect, connector=connector, clock=clock)
        self._session = self._connection.session

    # -- coming and going ---------------------------------------------------------------------------------------------

    async def open(self) -> Self:
        """Connect; what entering ``async with`` does."""
        await self._connection.open()
        return self

    async def close(self) -> None:
        """Send what is unsent, say bye and close.

        Raises BusError if the broker refused something that was published and nobody was told yet, and `ConnectionLost`
        if the connection was lost for good before what was published was sure to have arrived.
        """
        try:
            if self._session.ready and self._session.unconfirmed:
                await self.flush()
            elif not self._session.ready and self._session.unsure is not None:
                raise self._session.unsure
            self._session.raise_refused()
        finally:
            await self._connection.close()

    async def drain(self, grace: float = 30.0) -> None:
        """Ask for no new calls, and return when those that are here have been answered. The bus stays open.

        Raises TimeoutError when that takes more than ``grace`` seconds.
        """
        session = self._session
        session.drain(grace)
        await self.flush()
        if not await self._connection.wait_until(lambda: not session.held, grace):
            raise TimeoutError(f"{len(session.held)} calls were not answered within {grace} s")

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, exc_type: type[BaseException] | None, *exc_info: object) -> None:
        if exc_type is None:
            await self.close()
        else:
            await self._connection.close()

    async def connected(self) -> None:
        """Return as soon as there is a connection. Raises what ended the bus, if it is closed."""
        await self._connection.wait_until(lambda: self._session.ready or self._connection.state == "closed")
        if not self._session.ready:
            raise self._session.unavailable()

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """``connecting`` at first, then ``connected``, ``reconnecting`` while the connection is lost, ``closed``."""
        return self._connection.state

    @property
    def url(self) -> str:
        """Where the bus is."""
        return self._connection.url

    @property
    def endpoint(self) -> str:
        """The name that the broker gave this endpoint; another one after each reconnect."""
        return self._session.endpoint

    @property
    def welcome(self) -> Mapping[str, Any]:
        """What the broker said of itself and of this endpoint: node, broker, boundary, tenant, max_payload, ..."""
        return self._session.info

    @property
    def draining(self) -> bool:
        """Whether the broker has announced that it is going away."""
        return self._session.draining

    def time(self) -> float:
        """The clock of deadlines, in seconds."""
        return self._connection.time()

    def statistics(self) -> BusStatistics:
        """Figures of this bus."""
        session = self._session
        return BusStatistics(
            state=self.state,
            connects=self._connection.connects,
            calls_in_flight=len(session.calls) + len(session.requests),
            held_calls=len(session.held),
            subscriptions=session.subscriptions,
            services=session.services,
            sent_frames=session.out.sent_frames,
            received_envelopes=session.received_envelopes,
            late_replies=session.late_replies,
            unmatched_messages=session.unmatched_messages,
        )

    # -- publish and subscribe ----------------------------------------------------------------------------------------

    async def publish(
        self,
        subject: str,
        payload: Any = None,
        *,
        headers: Headers | None = None,
        data: bytes | bytearray | memoryview | None = None,
    ) -> None:
        """Publish one message; waits while the connection takes no more.

        Args:
            subject: what it is about.
            payload: any value that msgpack can hold.
            headers: flat; ``datacontenttype`` names the encoding of ``data`` if that is not msgpack.
            data: instead of a payload, bytes that are already encoded; they are sent as they are.

        Raises:
            NotConnected: nothing was sent.
            PayloadTooLarge: more bytes than the broker takes.
            BusError: what the subject, the payload or the headers are not; or why the last message was refused.
        """
        connection = self._connection
        session = self._session
        session.publish(subject, pack(payload) if data is None else encode(payload, data), headers)
        if session.out.full:
            connection.flush()
        elif not connection.flush_due:
            connection.flush_soon()
        link = connection.link
        if connection.burst or (link is not None and link.paused):
            await connection.ready_to_send()

    def publish_nowait(
        self,
        subject: str,
        payload: Any = None,
        *,
        headers: Headers | None = None,
        data: bytes | bytearray | memoryview | None = None,
    ) -> None:
        """As `publish`, without waiting. Raises `Overloaded` when too much is unsent."""
        connection = self._connection
        link = connection.link
        if link is not None and link.paused and (used := link.unsent_bytes) > UNSENT_BYTES:
            raise Overloaded(
                Code.QUOTA_EXCEEDED, quota="unsent-bytes", holder="this client", used=used, limit=UNSENT_BYTES, since=""
            )
        session = self._session
        session.publish(subject, pack(payload) if data is None else encode(payload, data), headers)
        if session.out.full:
            connection.flush()
        elif not connection.flush_due:
            connection.flush_soon()

    async def flush(self) -> None:
        """Return when the broker has handled everything published before.

        Raises:
            ConnectionLost: the connection ended before that was sure.
            BusError: a publish was refused; the first refusal that nobody has seen.
        """
        session = self._session
        await self._connection.request(session.ping)
        session.raise_refused()
        if session.unsure is not None:
            unsure, session.unsure = session.unsure, None
            raise unsure

    @overload
    def subscribe(
        self, pattern: str, *, latest: bool = ..., gaps: Literal["raise"] = ..., max_pending: int = ...
    ) -> Subscription[Message]: ...

    @overload
    def subscribe(
        self, pattern: str, *, latest: bool = ..., gaps: Literal["yield"], max_pending: int = ...
    ) -> Subscription[Message | Gap]: ...

    def subscribe(
        self,
        pattern: str,
        *,
        latest: bool = False,
        gaps: Literal["raise", "yield"] = "raise",
        max_pending: int = QUEUE_MESSAGES,
    ) -> Subscription[Any]:
        """Messages on the subjects that match ``pattern``: enter with ``async with``, then iterate.

        Args:
            pattern: a subject, in which ``*`` stands for any token and a last ``>`` for the rest.
            latest: when this program cannot keep up, keep the newest message of each subject instead of the oldest.
            gaps: when messages were lost, ``raise`` a `Gap` from the iterator (which can go on after it), or
                ``yield`` it in its place.
            max_pending: messages that wait for this program before it loses some.
        """
        if gaps not in ("raise", "yield"):
            raise ValueError(f"gaps is 'raise' or 'yield', not {gaps!r}")
        if max_pending < 1:
            raise ValueError(f"max_pending of {max_pending} is below 1")
        return Subscription(
            self._connection, pattern, latest=latest, yield_gaps=gaps == "yield", max_pending=max_pending
        )

    # -- call and serve -----------------------------------------------------------------------------------------------

    async def call(
        self,
        subject: str,
        payload: Any = None,
        *,
        timeout: float = TIMEOUT,  # noqa: ASYNC109  (the broker keeps it)
        headers: Headers | None = None,
        data: bytes | bytearray | memoryview | None = None,
        on_behalf_of: Call | None = None,
    ) -> Reply:
        """Call one of those who serve ``subject`` and return its reply. Cancelling this cancels the call.

        Args as for `publish`; ``timeout`` in seconds, 0.001 to 86400; ``on_behalf_of``, in a handler, the call that it
        answers: policy then asks for the rights of both, and the responder sees for whom it is
        (``call.origin.on_behalf_of``).

        Raises:
            ErrorReply: the responder answered with an error.
            NoResponders, CallTimeout, Denied, Overloaded, UnknownOutcome: the other outcomes of a call.
            NotConnected, PayloadTooLarge, BusError: nothing was sent.
        """
        connection = self._connection
        link = connection.link
        if link is not None and link.paused and not await connection.ready_to_send(timeout):
            raise CallTimeout(subject, timeout)
        session = self._session
        if not session.ready:
            raise session.unavailable()
        future = connection.loop.create_future()
        content = pack(payload) if data is None else encode(payload, data)
        id = session.call(subject, content, headers, timeout, connection.time(), future, None, on_behalf_of)
        if session.earliest < connection.timer_at:
            connection.set_timer()
        if len(session.calls) == 1 or session.out.full or len(session.out.parts) >= PIPELINE:
            # Nothing else is under way that could share a frame: send at once.
            connection.flush()
        elif not connection.flush_due:
            connection.flush_soon()
        try:
            outcome = await future
        except asyncio.CancelledError:
            connection.abandon(id)
            raise
        if outcome.__class__ is Reply:
            return outcome
        raise outcome

    def stream(
        self,
        subject: str,
        payload: Any = None,
        *,
        timeout: float = TIMEOUT,
        headers: Headers | None = None,
        data: bytes | bytearray | memoryview | None = None,
        on_behalf_of: Call | None = None,
    ) -> Stream:
        """Call ``subject`` and iterate over the parts of its reply. ``timeout`` is for all of them together.

        Raises (while iterating) what `call` does.
        """
        content = encode(payload, data)

        def start(parts: Parts) -> int:
            now = self._connection.time()
            return self._session.call(subject, content, headers, timeout, now, None, parts, on_behalf_of)

        return Stream(self._connection, start)

    def serve(
        self, pattern: str, handler: Handler, *, group: str = "default", concurrency: int = CONCURRENCY
    ) -> Service:
        """Answer calls whose subject matches ``pattern``, from entering ``async with`` to leaving it.

        Args:
            pattern: as for `subscribe`. The most specific pattern that anyone serves gets the call.
            handler: ``async def handler(call)``. What it returns is the reply's payload (or a `Reply`); an async
                generator's values are a stream's parts. A BusError that it raises is the error reply (code from 10000
                for an application's own); any other exception is logged here and 3007 there. It is cancelled when
                nobody waits for the reply any more.
            group: those who serve the same pattern in the same group share the calls.
            concurrency: calls that are handled at a time.
        """
        return Service(self._connection, pattern, handler, group=group, concurrency=concurrency)
