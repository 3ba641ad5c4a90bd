"""The events of a component that is called directly: to who subscribes in the same process."""

from typing import Final, Generic, Protocol, Self, TypeVar

import msgspec

from busclient import Closed, Gap, Message
from busclient.message import NO_ORIGIN
from busclient.queues import QUEUE_MESSAGES, Inbox
from busclient.waiters import Waiters
from busd.components.model.codec import Codec, explain
from busproto.envelope import Kind
from busproto.errors import BusError, Code

__all__ = ["EventSubscription", "LocalEvents", "LocalSubscription", "Source"]

T = TypeVar("T")


class Source(Protocol):
    """What messages come from: a subscription on a bus, or a local one."""

    async def __aenter__(self) -> object: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    async def __anext__(self) -> Message: ...

    def close(self) -> None: ...


class LocalEvents:
    """One component's events, for those who subscribe in its process: the same queues and gaps as on a bus."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, set[LocalSubscription]] = {}
        self._closed = False

    def publish(self, subject: str, data: bytes) -> None:
        """Put one message into the queue of everyone who subscribes to ``subject``."""
        for subscription in self._subscriptions.get(subject, ()):
            subscription.put(subject, data)

    def subscribe(
        self, subject: str, *, latest: bool = False, max_pending: int = QUEUE_MESSAGES
    ) -> "LocalSubscription":
        """Messages on ``subject``, as ``Bus.subscribe``."""
        if max_pending < 1:
            raise ValueError(f"max_pending of {max_pending} is below 1")
        return LocalSubscription(self, subject, latest=latest, max_pending=max_pending)

    def add(self, subscription: "LocalSubscription") -> None:
        """``subscription`` begins. Raises `Closed` when the component is gone."""
        if self._closed:
            raise Closed("handle")
        self._subscriptions.setdefault(subscription.subject, set()).add(subscription)

    def remove(self, subscription: "LocalSubscription") -> None:
        """``subscription`` ends."""
        self._subscriptions.get(subscription.subject, set()).discard(subscription)

    def close(self) -> None:
        """The component is gone: every subscription ends after what it still holds."""
        self._closed = True
        for subscriptions in self._subscriptions.values():
            for subscription in list(subscriptions):
                subscription.close()


class LocalSubscription:
    """One subscription to a component in the same process, from entering ``async with`` to leaving it."""

    def __init__(self, events: LocalEvents, subject: str, *, latest: bool, max_pending: int) -> None:
        self.subject: Final = subject
        self._events = events
        self._waiters = Waiters()
        self._inbox = Inbox(subject, latest=latest, limit=max_pending, token=self._waiters)
        self._closed = False

    def put(self, subject: str, data: bytes) -> None:
        """Take in one message, or count it as lost."""
        self._inbox.put((Kind.PUBLISH, subject, None, data), NO_ORIGIN)
        self._waiters.wake()

    async def __aenter__(self) -> Self:
        self._events.add(self)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Take in no more. What has come can still be read."""
        self._closed = True
        self._events.remove(self)
        self._waiters.wake()

    async def __anext__(self) -> Message:
        while True:
            item = self._inbox.take()
            if isinstance(item, Gap):
                raise item
            if item is not None:
                return item
            if self._closed:
                raise StopAsyncIteration
            await self._waiters.wait()


class EventSubscription(Generic[T]):
    """Events of one kind, each a value of the event's type: enter with ``async with``, then iterate.

    Iteration raises `Gap` where messages were lost, and BusError 6002 for a message that is no value of the type; it
    can go on after both. It ends when the handle or the bus is closed.
    """

    def __init__(self, subject: str, codec: Codec[T], source: Source) -> None:
        self._subject = subject
        self._codec = codec
        self._source = source

    async def __aenter__(self) -> Self:
        await self._source.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._source.__aexit__(*exc_info)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        message = await self._source.__anext__()
        try:
            return self._codec.read(message.payload)
        except (msgspec.ValidationError, RecursionError) as error:
            reason = f"it is no value of the event: {explain(error)}"
            raise BusError(Code.PAYLOAD_UNDECODABLE, subject=self._subject, encoding="msgpack", reason=reason) from None
