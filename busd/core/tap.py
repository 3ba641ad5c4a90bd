"""One monitor: what it asked to see, and what it is told.

A tap is a call that the broker itself answers, for as long as the caller waits: a cancel, the deadline and a caller
that dies end it as they end any call. Whatever is too much for it is counted, and it is told the count: a tap has a
share of the loop's time and of its caller's outbox, and nothing of anybody else's.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from busd.core.call import Pending
from busd.core.introspection import BROKER, Request
from busd.core.principal import NODE_TENANT
from busd.core.tokenbucket import TokenBucket
from busproto import envelope
from busproto.envelope import Status
from busproto.limits import BATCH_BYTES, MIB
from busproto.subjects import check_name, check_pattern, matches

if TYPE_CHECKING:
    from busd.core.session import Session
    from busd.core.space import Plan

MONITOR: Final = "$bus.admin.monitor"
"""What is called for it."""

KINDS: Final = ("publish", "call", "reply", "denied")
"""What can be seen. A reply is any outcome of a call; what was denied never went anywhere."""

PATTERNS: Final = 16
"""Patterns of one tap: each is compared with each subject that was not seen lately."""

PAYLOAD_BYTES: Final = BATCH_BYTES
"""The most that is shown of one payload. A tap is for looking; bus record keeps whole ones."""

RECORDS: Final = (5000.0, 512)
"""Messages a second, and at once, that one tap is told. Each takes about 6 us: 3 % of the loop's time, and 3 ms in one
go. That is more than anybody reads, and more than a program in a pipe needs to find something out."""

LOOKS: Final = (80_000.0, 16384)
"""Messages a second, and at once, that are compared with the filter: up to 1 us each, 8 % of the loop's time."""

LOOKS_AT_ONCE: Final = 2048
"""The same of one frame, which may hold eight times as many: 2 ms."""

UNKNOWN_WEIGHT: Final = 4
"""What a look costs more, for each pattern, if the subject was not seen lately."""

SUBJECTS: Final = 4096
"""Subjects of which it is remembered whether a tap wants them."""

ORIGIN: Final = envelope.origin(BROKER, "host", NODE_TENANT, "", 0)
"""Of what the broker says."""

WAITING_BYTES: Final = 4 * MIB
"""What may wait in the outbox of the caller before a tap misses something. About 15,000 messages without payload."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What a tap shows. What is None or empty leaves nothing out."""

    patterns: tuple[str, ...]
    """Of subjects, as they are called in the space of the sender; ``>`` alone leaves out the broker's own."""
    tenant: str | None
    """Whose space it is said in."""
    endpoint: str | None
    """Who sent it, or is to get it."""
    kinds: tuple[str, ...]
    payload: int
    """Bytes of each payload that are shown."""

    def describe(self) -> dict[str, Any]:
        """As the census and the audit show it."""
        return {
            "patterns": list(self.patterns),
            "tenant": self.tenant,
            "endpoint": self.endpoint,
            "kinds": list(self.kinds),
            "payload": self.payload,
        }


def read_filter(request: Any) -> Filter:
    """The filter that a caller asks for. Raises BusError 2002 and 2008, which name what is wrong with it."""
    fields = Request(MONITOR, request)
    fields.only("patterns", "tenant", "endpoint", "kinds", "payload")
    patterns = _texts(fields, "patterns", PATTERNS)
    for pattern in patterns:
        check_pattern(pattern)
    tenant = fields.optional_text("tenant")
    if tenant is not None and (reason := check_name(tenant)) is not None:
        raise fields.error(f"tenant {reason}")
    kinds = _texts(fields, "kinds", len(KINDS)) or KINDS
    for kind in kinds:
        if kind not in KINDS:
            raise fields.error(f"kinds are {', '.join(KINDS)}; {kind[:40]!a} is none")
    endpoint = fields.optional_text("endpoint")
    payload = fields.optional_number("payload", 0, PAYLOAD_BYTES) or 0
    return Filter(patterns, tenant, None if endpoint is None else endpoint[:80], kinds, payload)


def _texts(fields: Request, name: str, most: int) -> tuple[str, ...]:
    value = fields.fields.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > most or not all(isinstance(each, str) for each in value):
        raise fields.error(f"{name} must be a list of at most {most} strings")
    return tuple(dict.fromkeys(value))


class Tap(Pending):
    """One endpoint's standing wish to see what passes."""

    __slots__ = (
        "_fresh",
        "_looks",
        "_parts",
        "_reached",
        "_records",
        "_said",
        "_saying",
        "_size",
        "_wanted",
        "due",
        "filter",
        "missed",
        "told",
        "unseen",
    )

    def __init__(self, caller: "Session", caller_id: int, filter: Filter, now: float) -> None:
        super().__init__(caller, caller_id, MONITOR, now)
        self.filter = filter
        self.told = 0
        """Messages that it was told of."""
        self.missed = 0
        """Messages that it wanted and was not told of."""
        self.unseen = 0
        """Messages that nobody compared with its filter."""
        self.due: dict[Tap, None] | None = None
        """Where it is kept when it is to be told of those at the latest."""
        self._said = self._saying = (0, 0)
        """What of both it was told; and will have been, once ``_parts`` are queued."""
        self._records = TokenBucket(*RECORDS)
        self._looks = TokenBucket(*LOOKS)
        self._wanted: dict[str, bool] = {}
        self._reached: WeakKeyDictionary[Plan, bool] = WeakKeyDictionary()
        self._parts: list[bytes] = []
        self._size = self._fresh = 0
        """Bytes in ``_parts``, and messages."""

    @property
    def answered_by(self) -> str:
        """The broker."""
        return BROKER

    def describe(self, now: float) -> dict[str, Any]:
        """As the census shows it."""
        return {
            "seconds": now - self.started,
            **self.filter.describe(),
            "told": self.told,
            "missed": self.missed,
            "unseen": self.unseen,
        }

    # -- what it wants ------------------------------------------------------------------------------------------------

    def looks(self, count: int, now: float) -> int:
        """How many of ``count`` messages are looked at; that is charged to it."""
        count = min(count, LOOKS_AT_ONCE, max(0, int(self._looks.available(now))))
        self._looks.spend(count, now)
        return count

    def wants(self, kind: str, tenant: str, subject: str, now: float) -> bool:
        """Whether it shows messages of ``kind`` on ``subject`` of ``tenant``, whoever sends and gets them."""
        filter = self.filter
        if kind not in filter.kinds or filter.tenant not in (None, tenant):
            return False
        if not filter.patterns:
            return True
        wanted = self._wanted.get(subject)
        if wanted is None:
            if len(self._wanted) >= SUBJECTS:
                self._wanted.clear()
            self._looks.spend(UNKNOWN_WEIGHT * len(filter.patterns), now)
            wanted = self._wanted[subject] = any(matches(pattern, subject) for pattern in filter.patterns)
        return wanted

    def is_between(self, *endpoints: str | None) -> bool:
        """Whether it shows what goes from one of ``endpoints`` to the others."""
        return self.filter.endpoint is None or self.filter.endpoint in endpoints

    def is_reached(self, plan: "Plan | None", now: float) -> bool:
        """Whether the endpoint that it is about receives what has ``plan``."""
        if plan is None:
            return False
        reached = self._reached.get(plan)
        if reached is None:
            names = [session.name for session in plan.sessions()]
            self._looks.spend(len(names) // UNKNOWN_WEIGHT, now)
            reached = self._reached[plan] = self.filter.endpoint in names
        return reached

    # -- what it is told ----------------------------------------------------------------------------------------------

    def has_room(self, now: float) -> bool:
        """Whether it may be told of one more message now."""
        return self._records.available(now) >= 1

    def unfold(self, count: int, now: float) -> None:
        """``count`` messages alike are taken apart for it, which is charged to it as looks."""
        self._looks.spend(count, now)

    def tell(self, record: dict[str, Any], now: float) -> None:
        """One message that it wants; missed, and counted, if it had too many."""
        if not self.has_room(now):
            self.missed += 1
            return
        self._records.spend(1, now)
        self._say_lost(now)
        self._fresh += 1
        self._add(record | {"at": now})
        if self._size > BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Queue what was told since the last time for the caller; missed, and counted, if there is no room for it."""
        caller = self.caller
        if not self._parts or caller is None:
            return
        outbox, data, count = caller.outbox, b"".join(self._parts), len(self._parts)
        if outbox.bytes + len(data) <= WAITING_BYTES and outbox.put(ORIGIN, data, count):
            self.told += self._fresh
            self._said = self._saying
        else:
            self.missed += self._fresh
            self._saying = self._said
        self._parts = []
        self._size = self._fresh = 0

    @property
    def owes(self) -> bool:
        """Whether it missed something that it was not told of."""
        return (self.missed, self.unseen) != self._said

    def say_lost(self, now: float) -> None:
        """Tell it what it missed, if there is room for that."""
        self._say_lost(now)
        self.flush()

    def begin(self, node: str, now: float) -> None:
        """Tell it that it is on, and what it shows."""
        self._add({"kind": "began", "node": node, "filter": self.filter.describe(), "at": now})
        self.flush()

    def _say_lost(self, now: float) -> None:
        missed, unseen = self._saying
        if (self.missed, self.unseen) != (missed, unseen):
            lost = {"missed": self.missed - missed, "unseen": self.unseen - unseen}
            self._add({"kind": "missed", **lost, "at": now})
            self._saying = self.missed, self.unseen

    def _add(self, record: dict[str, Any]) -> None:
        part = envelope.reply(self.caller_id, Status.PARTIAL, None, envelope.pack(record))
        self._parts.append(part)
        self._size += len(part)
