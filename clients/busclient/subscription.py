"""A subscription: an async context manager, and an async iterator of its messages."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from busclient.connection import Connection
from busclient.errors import BusError, Gap
from busclient.message import UNDECODED, Message
from busclient.queues import Inbox
from busclient.waiters import Waiters
from busproto.envelope import Kind

__all__ = ["Subscription", "SubscriptionStatistics"]

Item = TypeVar("Item", covariant=True)


@dataclass(frozen=True, slots=True)
class SubscriptionStatistics:
    """One subscription's figures."""

    pattern: str
    """What it is subscribed to."""
    queued_messages: int
    """Messages (and gaps) that wait for the program."""
    queued_bytes: int
    """Their payload bytes."""
    lost_messages: int
    """Messages lost, by the broker's count and this queue's own; those of a reconnect are not countable."""
    gaps: int
    """Gaps put in their places."""
    conflated_messages: int
    """Messages replaced here by a newer one of the same subject, as ``latest`` asks."""


class Subscription(Generic[Item]):
    """Messages on the subjects of one pattern, in the order of their senders.

    Stands from entering ``async with`` to leaving it, across reconnects. Several tasks may iterate: each message goes
    to one of them. Iteration ends when the subscription or the bus is closed by this program, and raises when the bus
    is gone for another reason or the broker refuses the subscription after a reconnect.
    """

    def __init__(
        self, connection: Connection, pattern: str, *, latest: bool, yield_gaps: bool, max_pending: int
    ) -> None:
        self._connection = connection
        self._waiters = Waiters()
        self._yield_gaps = yield_gaps
        self._inbox = Inbox(pattern, latest=latest, limit=max_pending, token=self._waiters)
        self._closed = False

    @property
    def pattern(self) -> str:
        """What it is subscribed to."""
        return self._inbox.pattern

    async def open(self) -> Self:
        """Subscribe, and return when the subscription stands. Raises BusError when the broker refuses it."""
        connection = self._connection
        try:
            await connection.request(lambda now, token: connection.session.subscribe(self._inbox, now, token))
        except BaseException:
            self.close()
            raise
        connection.dependents.add(self)
        return self

    def close(self) -> None:
        """Unsubscribe. Messages that have arrived can still be read; after them iteration ends."""
        if not self._closed:
            self._closed = True
            self._connection.dependents.discard(self)
            self._connection.session.unsubscribe(self._inbox)
            self._connection.flush_soon()
        self._waiters.wake()

    @property
    def tasks(self) -> tuple[()]:
        """It runs none."""
        return ()

    def end(self, failure: BusError | None) -> None:
        """The bus is gone for good, for ``failure`` or because this program closed it."""
        self._inbox.ended = failure
        self.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    async def __aiter__(self) -> AsyncIterator[Item]:
        # As __anext__ again and again, in half the time: the generator keeps its place where a coroutine begins anew.
        inbox = self._inbox
        envelope, publish, kind, undecoded = tuple, Kind.PUBLISH, Message, UNDECODED
        new = kind.__new__
        while True:
            queue = inbox.queue
            while queue and (first := queue[0]).__class__ is envelope and first[0] == publish:
                # Inbox.take() and Message.received(), written out: this is most of what a message costs here.
                queue.popleft()
                message: Any = new(kind)
                message.subject = first[1]
                message._headers = first[2]
                message._data = first[3]
                message._origin = inbox.origin
                message._payload = undecoded
                yield message
            try:
                item = await self.__anext__()
            except StopAsyncIteration:
                return
            yield item

    async def __anext__(self) -> Item:
        inbox = self._inbox
        while True:
            item: Any = inbox.take()
            if item is not None:
                if item.__class__ is Message or self._yield_gaps:
                    return item  # type: ignore[no-any-return]
                raise item
            if inbox.ended is not None:
                raise type(inbox.ended).from_body(inbox.ended.body())
            if self._closed:
                raise StopAsyncIteration
            inbox.waiting = True
            await self._waiters.wait()

    def statistics(self) -> SubscriptionStatistics:
        """Figures of this subscription."""
        inbox = self._inbox
        return SubscriptionStatistics(
            pattern=inbox.pattern,
            queued_messages=inbox.waiting_messages(),
            queued_bytes=inbox.held,
            lost_messages=inbox.lost,
            gaps=inbox.gaps,
            conflated_messages=inbox.replaced,
        )


GapOrMessage = Message | Gap
"""What iteration gives with ``gaps="yield"``."""
