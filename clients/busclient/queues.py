"""What the session has put aside for the program, each bounded: messages, calls, and parts of a stream.

Sans-IO like the session: ``token`` is the shell's, who waits for a queue sets ``waiting``, and the session then names
that queue once in `Session.woken` when there is something in it.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from busclient.errors import BusError, Code, Gap, Overloaded
from busclient.message import NO_ORIGIN, Call, Message, Reply
from busproto.envelope import Kind

__all__ = ["Inbox", "Offer", "Parts", "QUEUE_BYTES", "QUEUE_MESSAGES"]

QUEUE_MESSAGES: Final = 65536
"""Messages or parts that wait for the program on one subscription or stream: a quarter second of the fastest flow."""

QUEUE_BYTES: Final = 64 << 20
"""Their payload bytes: four of the largest payloads."""


RUN: Final = 0
"""In place of a kind: the head of a run of messages in an inbox."""


class Inbox:
    """Messages of one subscription that the program has not read yet.

    When it is full the newest messages are lost and counted, and a `Gap` takes their place; with ``latest`` older
    messages make room for the newest of each subject.
    """

    __slots__ = (
        "count",
        "ended",
        "gaps",
        "held",
        "id",
        "latest",
        "limit",
        "lost",
        "missed",
        "origin",
        "pattern",
        "queue",
        "replaced",
        "token",
        "waiting",
    )

    def __init__(self, pattern: str, *, latest: bool, limit: int, token: Any) -> None:
        self.pattern = pattern
        self.latest = latest
        self.limit = limit
        self.token = token
        self.id = 0
        """The subscription's id in this connection; 0 while it has none."""
        self.queue: deque[Sequence[Any] | Gap] = deque()
        """Publish envelopes as they came (a `Message` is made when it is taken), before each run of them its head (see
        `put_all`), and gaps."""
        self.count = 0
        """Messages and gaps in the queue, without the rest of the run that is being read."""
        self.held = 0
        """Payload bytes of those messages."""
        self.missed = 0
        """Lost since the last gap."""
        self.lost = 0
        """Lost here since the start, all gaps together (a reconnect's unknown number counts nothing)."""
        self.gaps = 0
        self.replaced = 0
        self.waiting = False
        self.ended: BusError | None = None
        """Why no more messages will come."""
        self.origin: Sequence[Any] = NO_ORIGIN
        """The origin of the run that is being read."""

    def put(self, envelope: Sequence[Any], origin: Sequence[Any]) -> None:
        """Take in one message, or count it as lost."""
        size = len(envelope[3])
        if self.missed or self.count >= self.limit or self.held + size > QUEUE_BYTES:
            self._squeeze(envelope, origin, size)
        else:
            self._append((envelope,), origin, size)

    def put_all(self, envelopes: Sequence[Sequence[Any]], origin: Sequence[Any], size: int) -> None:
        """Take in several messages of one sender, with payloads of ``size`` bytes together: a run.

        Its head, ``(RUN, origin, count, size)``, says what its messages have in common; what they are charged is given
        back when the run begins to be read, which costs less than message by message.
        """
        if self.missed or self.count + len(envelopes) > self.limit or self.held + size > QUEUE_BYTES:
            for envelope in envelopes:
                self.put(envelope, origin)
        else:
            self._append(envelopes, origin, size)

    def put_gap(self, count: int | None, reason: str) -> None:
        """Note that messages were lost at this place for a reason that lies outside this queue."""
        self.lost += count or 0
        self._note_missed()
        self._append_gap(count, reason)

    def take(self) -> Message | Gap | None:
        """The next message or gap; None when nothing waits."""
        queue = self.queue
        while queue:
            item = queue.popleft()
            if isinstance(item, Gap):
                self.count -= 1
                return item
            if item[0] == Kind.PUBLISH:
                return Message.received(item, self.origin)
            _, self.origin, count, size = item
            self.count -= count
            self.held -= size
        if self.missed:
            self._note_missed()
            return self.take()
        return None

    def waiting_messages(self) -> int:
        """Messages and gaps that wait, counted one by one."""
        return sum(isinstance(item, Gap) or item[0] == Kind.PUBLISH for item in self.queue)

    def _append(self, envelopes: Sequence[Sequence[Any]], origin: Sequence[Any], size: int) -> None:
        self.queue.append((RUN, origin, len(envelopes), size))
        self.queue.extend(envelopes)
        self.count += len(envelopes)
        self.held += size

    def _note_missed(self) -> None:
        if self.missed:
            self._append_gap(self.missed, "local-queue")
            self.missed = 0

    def _append_gap(self, count: int | None, reason: str) -> None:
        """Put a gap last; two in a row become one, so that gaps alone cannot fill the queue."""
        if self.queue and isinstance(last := self.queue[-1], Gap):
            count = None if count is None or last.count is None else count + last.count
            self.queue[-1] = Gap(count, reason, self.pattern)
        else:
            self.queue.append(Gap(count, reason, self.pattern))
            self.count += 1
            self.gaps += 1

    def _squeeze(self, envelope: Sequence[Any], origin: Sequence[Any], size: int) -> None:
        if self.latest:
            self._keep_newest(size)
        if self.count >= self.limit or self.held + size > QUEUE_BYTES:
            self.missed += 1
            self.lost += 1
            return
        self._note_missed()
        self._append((envelope,), origin, size)

    def _keep_newest(self, size: int) -> None:
        """Keep the newest message of each subject; if those alone fill the queue, the oldest half of them goes too.

        Either way half of the queue is free afterwards or it took as many messages to fill it: constant work a message.
        """
        newest: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {}
        gaps: list[Gap] = []
        messages = 0
        origin = self.origin
        for item in self.queue:
            if isinstance(item, Gap):
                gaps.append(item)
            elif item[0] == Kind.PUBLISH:
                messages += 1
                newest.pop(item[1], None)
                newest[item[1]] = (item, origin)
            else:
                origin = item[1]
        self.replaced += messages - len(newest)
        kept = list(newest.values())
        held = sum(len(envelope[3]) for envelope, _ in kept)
        dropped = 0
        while kept[dropped:] and (len(kept) - dropped > self.limit // 2 or held + size > QUEUE_BYTES // 2):
            held -= len(kept[dropped][0][3])
            dropped += 1
        self.queue = deque()
        self.count = self.held = 0
        self.missed += dropped
        self.lost += dropped
        for gap in gaps:
            self._append_gap(gap.count, gap.reason)
        self._note_missed()
        for envelope, origin in kept[dropped:]:
            self._append((envelope,), origin, len(envelope[3]))


class Offer:
    """One pattern that this endpoint serves, and the calls that no handler has taken yet."""

    __slots__ = ("ended", "group", "id", "pattern", "queue", "token", "waiting")

    def __init__(self, pattern: str, *, group: str, token: Any) -> None:
        self.pattern = pattern
        self.group = group
        self.token = token
        self.id = 0
        """The offer's id in this connection; 0 while it has none."""
        self.queue: deque[Call] = deque()
        """Bounded by the broker's quota of calls outstanding at one endpoint."""
        self.waiting = True
        self.ended: BusError | None = None


class Parts:
    """The parts of one streamed reply that the program has not read yet."""

    __slots__ = ("done", "held", "outcome", "queue", "token", "waiting")

    def __init__(self, token: Any) -> None:
        self.token = token
        self.queue: deque[Reply] = deque()
        self.held = 0
        self.waiting = False
        self.done = False
        """The final reply has come (or will not): after what is queued comes ``outcome``."""
        self.outcome: BusError | None = None
        """How the stream ended, if not well."""

    def put(self, part: Reply) -> Overloaded | None:
        """Take in one part; the error with which the stream has to end when there is no room for it."""
        size = len(part._data)
        if len(self.queue) >= QUEUE_MESSAGES:
            return _full("stream-parts", len(self.queue), QUEUE_MESSAGES)
        if self.held + size > QUEUE_BYTES:
            return _full("stream-bytes", self.held, QUEUE_BYTES)
        self.queue.append(part)
        self.held += size
        return None

    def take(self) -> Reply | None:
        """The next part; None when nothing waits."""
        if not self.queue:
            return None
        part = self.queue.popleft()
        self.held -= len(part._data)
        return part


def _full(quota: str, used: int, limit: int) -> Overloaded:
    return Overloaded(Code.QUOTA_EXCEEDED, quota=quota, holder="this client", used=used, limit=limit, since="")
