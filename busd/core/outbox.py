"""What waits to be sent to one endpoint: bounded, in order, and honest about what it could not hold."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from busd.core.account import Room
from busd.core.ledger import Ledger
from busd.core.quotas import Quotas
from busd.core.reasons import Drop
from busd.core.subscription import Subscription
from busproto import envelope
from busproto.envelope import Decoder, Kind
from busproto.limits import BATCH_BYTES, ENVELOPES_PER_FRAME

Part = bytes | bytearray | memoryview
Entry = tuple[bytes | None, Part, int, Part | None]
"""Origin envelope that must precede it (None: it needs none), envelopes of one sender in a row, messages among them,
and the rest of the envelope if it was too large to be copied."""

OVERHEAD: Final = 128
"""Bytes charged for an entry besides its data: the objects that hold it. Else 30-byte messages would cost fivefold."""

FRAME_ENTRIES: Final = ENVELOPES_PER_FRAME // 2
"""Entries in one frame: a pong takes three bytes, and more of them than a frame may hold fit into one by their size."""

FREE_BYTES: Final = BATCH_BYTES
"""What an outbox may hold without asking for room: a frame. One that is read never asks."""

GRANT_BYTES: Final = 4 * BATCH_BYTES
"""How much room is asked for at a time, at least: a slow reader's outbox asks a few hundred times until it is full."""

CONFLATE_BYTES: Final = BATCH_BYTES
"""Once this much waits a ``latest`` subscriber is not keeping up: one frame's worth, so it sees fresh values soon."""


def _wake_nobody() -> None:
    pass


_NOT, _GAPS, _FULL = range(3)
"""Whether an outbox is behind: not; it has gaps to tell before anything newer; it has to drain before it tells them."""


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

    Whoever reads has a bound of its own, and whoever pays for it (its tenant) one for all its outboxes together, which
    is asked for room in large pieces. What comes from another tenant may take a fair share of what is left only.

    When the quota is used up the outbox is *behind*: messages are counted per subscription instead of queued, until
    what was queued has drained to half; then each gap is told before anything newer. Answers of the broker are small
    and bounded by what the endpoint asked for; they always fit, up to ``control_bytes``.
    """

    __slots__ = (
        "_behind",
        "_count_drop",
        "_entries",
        "_foreign",
        "_gaps",
        "_granted",
        "_limit_bytes",
        "_limit_messages",
        "_newest",
        "_room",
        "_shares",
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

    def __init__(
        self, quotas: Quotas, room: Room, wake: Callable[[], None], count_drop: Callable[[Drop, int], None]
    ) -> None:
        """``wake`` is called when something waits, ``count_drop`` with a reason and a count at each loss."""
        self._limit_bytes = quotas.outbox_bytes
        self._room = room
        self._granted = min(FREE_BYTES, quotas.outbox_bytes)
        self._foreign: dict[bytes, str] = {}
        self._shares = Ledger(quotas.outbox_bytes)
        self._limit_messages = quotas.outbox_messages
        self._wake = wake
        self._count_drop = count_drop
        self._entries: list[Entry] = []
        self._newest: dict[str, tuple[bytes, Part]] = {}
        self._gaps: dict[Subscription, None] = {}
        self._behind = _NOT
        self.bytes = self.messages = self.control = self.peak = 0
        self.delivered_bytes = self.delivered_messages = self.lost = self.conflated = 0

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._entries or self._newest)

    # -- putting in ---------------------------------------------------------------------------------------------------

    def reject(self, count: int, subscriptions: Iterable[Subscription]) -> None:
        """Count messages as lost that ``admits`` had no share for. What others send goes on."""
        self._count_lost(count, subscriptions, Drop.TENANT_BYTES)
        self._behind = self._behind or _GAPS

    def admits(self, origin: bytes, actor: str, length: int) -> bool:
        """Whether ``actor`` may have ``length`` bytes more here; from now on what has ``origin`` is charged to it."""
        self._foreign[origin] = actor
        self._shares.owned = max(0, self.bytes - self._shares.shared)
        return self._shares.share(actor) + length <= self._shares.most(actor)

    def deliver(self, origin: bytes, data: Part, count: int, subscriptions: Iterable[Subscription]) -> None:
        """Queue ``count`` published messages, or count them as lost on each of the subscriptions that match them."""
        if (self._behind and not self._catch_up()) or not self.put(origin, data, count):
            self._lose(len(data), count, subscriptions)

    def deliver_latest(self, origin: bytes, data: Part, subject: str, subscriptions: Iterable[Subscription]) -> None:
        """Queue one message for subscriptions that all asked for ``latest``: the newer takes the place of the older."""
        if not self._newest and not self._behind and self.bytes < CONFLATE_BYTES and self.put(origin, data, 1):
            return
        older = self._newest.pop(subject, None)
        if older is not None:
            self._release(older[0], len(older[1]))
            self._charge(-len(older[1]) - OVERHEAD, -1)
            self.conflated += 1
            self._count_drop(Drop.CONFLATED, 1)
        if not self.has_room(len(data), 1):
            self._lose(len(data), 1, subscriptions)
            return
        self._newest[subject] = (origin, data)
        self._recharge(origin, len(data))
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
        return self.messages + count <= self._limit_messages and (
            self.bytes + length + OVERHEAD <= self._granted or self._grow(self.bytes + length + OVERHEAD)
        )

    def would_lose(self, length: int, count: int, actor: str | None) -> Drop | None:
        """Why one more entry of ``length`` bytes would be lost now; None if it would fit. It changes nothing.

        ``actor`` is who pays for it where that is another tenant, who may have a share of this outbox only.
        """
        if actor is not None:
            shares = self._shares
            free = shares.limit - max(self.bytes, shares.shared)
            share = shares.share(actor)
            if share + length > max(share, (free + share) // (shares.actors + (1 if share else 2))):
                return Drop.TENANT_BYTES
        needed = self.bytes + length + OVERHEAD
        fits = self.messages + count <= self._limit_messages and needed <= self._limit_bytes
        if self._behind != _FULL and fits and (needed <= self._granted or self._room.would_have(self._wants(needed))):
            return None
        return self._why_full(length, count)

    @property
    def overdrawn(self) -> bool:
        """Whether answers, which always fit, take more room than whoever pays for this outbox may have."""
        return self.bytes > self._granted and not self._grow(self.bytes, self.bytes)

    def append(self, origin: bytes | None, data: Part, count: int, rest: Part | None = None) -> None:
        """Queue ``data`` and ``rest`` as one entry, for which there is room."""
        if not self._entries:
            self._wake()
        self._entries.append((origin, data, count, rest))
        self.bytes += len(data) + OVERHEAD if rest is None else len(data) + len(rest) + OVERHEAD
        self.messages += count
        if self.bytes > self.peak:
            self.peak = self.bytes
        if self._foreign:
            self._recharge(origin, len(data) if rest is None else len(data) + len(rest))

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
        foreign = self._foreign
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
            if foreign:
                self._release(origin, length)
        if taken == len(self._entries):
            self._entries.clear()  # no new list: a collection of garbage would visit one for each endpoint
            if foreign and not self._newest:
                foreign.clear()
        else:
            del self._entries[:taken]
        self.bytes -= released
        self.control -= control
        self.messages -= messages
        self.delivered_bytes += size
        self.delivered_messages += messages
        if self._granted > FREE_BYTES and self.bytes <= FREE_BYTES:
            self._give_back()
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
        self._foreign.clear()
        self._shares = Ledger(self._limit_bytes)
        self.bytes = self.messages = self.control = 0
        self._give_back()

    def close(self) -> None:
        """The endpoint is gone for good: as `clear`, and whoever made the outbox is let go of too.

        The two hold each other. They would wait for a full collection of garbage, which is seldom.
        """
        self.clear()
        self._wake = _wake_nobody

    def withdraw(self, may_have: Callable[[str], bool]) -> None:
        """Take published messages out again that the endpoint may not have any more, by subject."""
        self.settle()
        kept: list[Entry] = []
        lost = 0
        decoder = Decoder()
        for origin, data, count, rest in self._entries:
            batch = decoder.decode(bytes(data)) if count and rest is None else None
            if batch is None or all(_may_have(message, may_have) for message in batch.envelopes):
                kept.append((origin, data, count, rest))
                continue
            places = zip(batch.envelopes, pairwise(batch.offsets), strict=True)
            parts = [data[begin:end] for message, (begin, end) in places if _may_have(message, may_have)]
            self.bytes -= len(data)
            self._release(origin, len(data))
            lost += count - len(parts)
            if parts:
                left = b"".join(parts)
                kept.append((origin, left, len(parts), None))
                self.bytes += len(left)
                self._recharge(origin, len(left))
            else:
                self.bytes -= OVERHEAD
        self._entries = kept
        if lost:
            self.messages -= lost
            self._count_drop(Drop.WITHDRAWN, lost)

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

    def _grow(self, needed: int, limit: int | None = None) -> bool:
        """Ask for room for ``needed`` bytes in all, which the endpoint itself may have up to ``limit``."""
        limit = self._limit_bytes if limit is None else limit
        if needed > limit:
            return False
        size = self._wants(needed, limit)
        if not self._room.ask(size):
            return False
        self._granted += size
        return True

    def _wants(self, needed: int, limit: int | None = None) -> int:
        """How much room is asked for when ``needed`` bytes in all must fit."""
        limit = self._limit_bytes if limit is None else limit
        return max(min(limit - self._granted, GRANT_BYTES), needed - self._granted)

    def _give_back(self) -> None:
        free = min(FREE_BYTES, self._limit_bytes)
        if self._granted > free:
            self._room.give_back(self._granted - free)
            self._granted = free

    def _release(self, origin: bytes | None, length: int) -> None:
        if origin is not None and (actor := self._foreign.get(origin)) is not None:
            self._shares.release(actor, length)

    def _recharge(self, origin: bytes | None, length: int) -> None:
        if origin is not None and (actor := self._foreign.get(origin)) is not None:
            self._shares.put(actor, length)

    def _catch_up(self) -> bool:
        """Tell gaps that need not wait; False while the outbox has to drain first."""
        if self._behind == _FULL:
            return False
        self._tell_gaps()
        return True

    def _lose(self, length: int, count: int, subscriptions: Iterable[Subscription]) -> None:
        self._count_lost(count, subscriptions, self._why_full(length, count))
        self._behind = _FULL
        if not self:
            # Nothing waits that would tell the gap on its way out: one message was larger than the whole quota.
            self._tell_gaps()

    def _count_lost(self, count: int, subscriptions: Iterable[Subscription], reason: Drop) -> None:
        self.lost += count
        self._count_drop(reason, count)
        for subscription in subscriptions:
            if not subscription.lost:
                subscription.lost_reason = reason
            subscription.lost += count
            self._gaps[subscription] = None

    def _why_full(self, length: int, count: int) -> Drop:
        if self.messages + count > self._limit_messages:
            return Drop.OUTBOX_MESSAGES
        return Drop.OUTBOX_BYTES if self.bytes + length + OVERHEAD > self._limit_bytes else Drop.TENANT_BYTES

    def _tell_gaps(self) -> None:
        self._behind = _NOT
        gaps, self._gaps = self._gaps, {}
        for subscription in gaps:
            self.put_control(None, envelope.gap(subscription.id, subscription.lost, subscription.lost_reason))
            subscription.lost = 0


def _may_have(message: list[Any], may_have: Callable[[str], bool]) -> bool:
    return message[0] != Kind.PUBLISH or may_have(message[1])
