"""What waits to be sent to one endpoint: bounded, in order, and honest about what it could not hold."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from busd.core.quotas import Quotas
from busd.core.reasons import Drop
from busd.core.subscription import Subscription
from busproto import envelope
from busproto.limits import BATCH_BYTES, ENVELOPES_PER_FRAME

Part = bytes | bytearray | memoryview
Entry = tuple[bytes | None, Part, int, Part | None]
"""Origin envelope that must precede it (None: it needs none), envelopes of one sender in a row, messages among them,
and the rest of the envelope if it was too large to be copied."""

OVERHEAD: Final = 128
"""Bytes charged for an entry besides its data: the objects that hold it. Else 30-byte messages would cost fivefold."""

FRAME_ENTRIES: Final = ENVELOPES_PER_FRAME // 2
"""Entries in one frame: a pong takes three bytes, and more of them than a frame may hold fit into one by their size."""

CONFLATE_BYTES: Final = BATCH_BYTES
"""Once this much waits a ``latest`` subscriber is not keeping up: one frame's worth, so it sees fresh values soon."""


@dataclass(frozen=True, slots=True)
class OutboxStatistics:
    """One endpoint's queue."""

    messages: int
    """Messages waiting."""
    bytes: int
    """Bytes charged for what waits."""
    delivered_messages: int
    """Messages handed to the transport."""
    delivered_bytes: int
    """Bytes handed to the transport."""
    lost_messages: int
    """Messages that did not fit; each was or will be reported by a gap."""
    conflated_messages: int
    """Messages replaced by a newer one, as ``latest`` asks."""
    peak_bytes: int
    """The most that was ever charged at once."""


class Outbox:
    """The entries of future frames.

    When the quota is used up the outbox is *behind*: messages are counted per subscription instead of queued, until
    what was queued has drained to half; then each gap is told before anything newer. Answers of the broker are small
    and bounded by what the endpoint asked for; they always fit, up to ``control_bytes``.
    """

    __slots__ = (
        "_behind",
        "_count_drop",
        "_entries",
        "_gaps",
        "_limit_bytes",
        "_limit_messages",
        "_newest",
        "_wake",
        "bytes",
        "conflated",
        "control",
        "delivered_bytes",
        "delivered_messages",
        "lost",
        "messages",
        "peak",
    )

    def __init__(self, quotas: Quotas, wake: Callable[[], None], count_drop: Callable[[Drop, int], None]) -> None:
        """``wake`` is called when something waits, ``count_drop`` with a reason and a count at each loss."""
        self._limit_bytes = quotas.outbox_bytes
        self._limit_messages = quotas.outbox_messages
        self._wake = wake
        self._count_drop = count_drop
        self._entries: list[Entry] = []
        self._newest: dict[str, tuple[bytes, Part]] = {}
        self._gaps: dict[Subscription, None] = {}
        self._behind = False
        self.bytes = self.messages = self.control = self.peak = 0
        self.delivered_bytes = self.delivered_messages = self.lost = self.conflated = 0

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._entries or self._newest)

    # -- putting in ---------------------------------------------------------------------------------------------------

    def deliver(self, origin: bytes, data: Part, count: int, subscriptions: Iterable[Subscription]) -> None:
        """Queue ``count`` published messages, or count them as lost on each of the subscriptions that match them."""
        if self._behind or not self.put(origin, data, count):
            self._lose(len(data), count, subscriptions)

    def deliver_latest(self, origin: bytes, data: Part, subject: str, subscriptions: Iterable[Subscription]) -> None:
        """Queue one message for subscriptions that all asked for ``latest``: the newer takes the place of the older."""
        if not self._newest and not self._behind and self.bytes < CONFLATE_BYTES and self.put(origin, data, 1):
            return
        older = self._newest.pop(subject, None)
        if older is not None:
            self._charge(-len(older[1]) - OVERHEAD, -1)
            self.conflated += 1
            self._count_drop(Drop.CONFLATED, 1)
        if not self.has_room(len(data), 1):
            self._lose(len(data), 1, subscriptions)
            return
        self._newest[subject] = (origin, data)
        self._charge(len(data) + OVERHEAD, 1)
        self._wake()

    def put(self, origin: bytes, data: Part, count: int) -> bool:
        """Queue ``data`` (``count`` messages) from ``origin``; False, and nothing queued, if it does not fit."""
        if not self.has_room(len(data), count):
            return False
        self.append(origin, data, count)
        return True

    def has_room(self, length: int, count: int) -> bool:
        """Whether one more entry of ``length`` bytes and ``count`` messages fits."""
        return self.bytes + length + OVERHEAD <= self._limit_bytes and self.messages + count <= self._limit_messages

    def append(self, origin: bytes | None, data: Part, count: int, rest: Part | None = None) -> None:
        """Queue ``data`` and ``rest`` as one entry, for which there is room."""
        if not self._entries:
            self._wake()
        self._entries.append((origin, data, count, rest))
        self.bytes += len(data) + OVERHEAD if rest is None else len(data) + len(rest) + OVERHEAD
        self.messages += count
        if self.bytes > self.peak:
            self.peak = self.bytes

    def put_control(self, origin: bytes | None, data: bytes) -> None:
        """Queue an answer of the broker's own, past the quota; ``control`` says how much of that waits."""
        self.append(origin, data, 0)
        self.control += len(data) + OVERHEAD

    def settle(self) -> None:
        """Queue the newest values that were held back, in the order in which they were last replaced.

        Done when all that is older has gone out, before a new subscription can put newer ones past them, and before
        the answer to an unsubscribe and a bye, after which nothing older may come.
        """
        if self._gaps:
            self._tell_gaps()
        self._entries.extend((origin, data, 1, None) for origin, data in self._newest.values())
        self._newest.clear()

    # -- taking out ---------------------------------------------------------------------------------------------------

    def take(self, limit: int) -> list[Part]:
        """The parts of the next frame: at most ``limit`` bytes unless one entry is longer; [] when nothing waits."""
        if self._newest and not self._entries:
            self.settle()
        parts: list[Part] = []
        last: bytes | None = None
        size = taken = messages = released = control = 0
        for origin, data, count, rest in self._entries:
            length = len(data) if rest is None else len(data) + len(rest)
            if taken and (size + length > limit or taken == FRAME_ENTRIES):
                break
            if origin is not None and origin is not last:
                parts.append(origin)
                size += len(origin)
                last = origin
            parts.append(data)
            if rest is not None:
                parts.append(rest)
            size += length
            released += length + OVERHEAD
            if count:
                messages += count
            else:
                control += length + OVERHEAD
            taken += 1
        if taken == len(self._entries):
            self._entries = []
        else:
            del self._entries[:taken]
        self.bytes -= released
        self.control -= control
        self.messages -= messages
        self.delivered_bytes += size
        self.delivered_messages += messages
        if self._gaps and self._has_drained():
            self._tell_gaps()
        return parts

    def clear(self) -> None:
        """The endpoint is gone: count what it did not get, and hold nothing."""
        if self.messages:
            self._count_drop(Drop.DETACHED, self.messages)
        self._entries = []
        self._newest.clear()
        self._gaps.clear()
        self.bytes = self.messages = self.control = 0

    def statistics(self) -> OutboxStatistics:
        """Figures of this outbox."""
        return OutboxStatistics(
            messages=self.messages,
            bytes=self.bytes,
            delivered_messages=self.delivered_messages,
            delivered_bytes=self.delivered_bytes,
            lost_messages=self.lost,
            conflated_messages=self.conflated,
            peak_bytes=self.peak,
        )

    # -- inside -------------------------------------------------------------------------------------------------------

    def _has_drained(self) -> bool:
        return self.bytes * 2 <= self._limit_bytes and self.messages * 2 <= self._limit_messages

    def _charge(self, bytes: int, messages: int) -> None:
        self.bytes += bytes
        self.messages += messages
        self.peak = max(self.peak, self.bytes)

    def _lose(self, length: int, count: int, subscriptions: Iterable[Subscription]) -> None:
        bytes_share = (self.bytes + length + OVERHEAD) / self._limit_bytes
        messages_share = (self.messages + count) / self._limit_messages
        reason = Drop.OUTBOX_BYTES if bytes_share >= messages_share else Drop.OUTBOX_MESSAGES
        self.lost += count
        self._count_drop(reason, count)
        for subscription in subscriptions:
            if not subscription.lost:
                subscription.lost_reason = reason
            subscription.lost += count
            self._gaps[subscription] = None
        self._behind = True
        if not self:
            # Nothing waits that would tell the gap on its way out: one message was larger than the whole quota.
            self._tell_gaps()

    def _tell_gaps(self) -> None:
        self._behind = False
        gaps, self._gaps = self._gaps, {}
        for subscription in gaps:
            self.put_control(None, envelope.gap(subscription.id, subscription.lost, subscription.lost_reason))
            subscription.lost = 0
