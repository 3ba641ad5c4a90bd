"""What the audit records: every allow across a boundary once, every denial, every administrative act. No I/O.

The bus says what happened; whoever drives it takes the records and writes them down (``busd.ops.auditfile``). No
guest can make the log grow as it likes, nor the memory here: an allow is written once for each identity, verb and
subject; a denial at once when it is the first of its kind and then counted; beyond what an identity, and all of a
boundary together, may have written singly, both are summed up. What is summed up is counted: nothing goes unrecorded.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from typing import Any, Final

from busd.core.auditchain import Record
from busd.core.deadlines import Alarm, Deadlines
from busd.core.principal import BOUNDARIES, Principal
from busd.core.tokenbucket import TokenBucket

PERIOD_SECONDS: Final = 10.0
"""Between two summaries of one identity."""

KINDS: Final = 64
"""Different (verb, subject) of one identity that are counted apart within a period, or told singly."""

NAMED_KINDS: Final = 8
"""Of these, how many a summary names, most frequent first; the rest is one number."""

ACTOR_PAIRS: Final = 4096
"""Allowed (verb, subject) that are remembered for one identity: what is forgotten is written again when it recurs."""

PAIRS: Final = 65536
"""The same, for all identities together. Who has most forgets first: one busy identity does not cost the others."""

ACTORS: Final = 4096
"""Identities that are remembered; a node has some hundreds of units and users."""

ACTOR_ALLOWS: Final = (1.0, 1024)
"""Allows of one identity that are written singly: so many a second, and so many at once. An agent speaks of dozens of
subjects; one that makes up a new subject for each message would wash older records out of the log."""

SINGLE: Final = {"guest": (20.0, 16384), "host": (100.0, 16384), "soc": (100.0, 16384)}
"""Records a second (and at once) that are written singly, for all identities of a boundary together. 20 a second are
8 KB/s: a log of 1 GiB then goes back a day and a half while every guest attacks."""

SUMMARY_DEBT_SECONDS: Final = 60.0
"""Summaries may overdraw that allowance by so much; then they come later, and count more."""

PENDING: Final = 16384
"""Records that wait to be taken. They are taken with each turn of the loop, so this is reached if nobody writes."""

TEXT: Final = 255
"""Bytes of one text in a record: as long as a subject can be."""

FACTS_BYTES: Final = 16 * 1024
"""Bytes of what is told of one administrative act."""


class Event(StrEnum):
    """What kind of record it is."""

    ALLOWED = "allowed"
    """Something crossed a boundary with leave of policy, for the first time."""
    ALLOWED_MORE = "allowed-more"
    """So many more things did that were not written singly."""
    DENIED = "denied"
    """Policy refused something."""
    DENIED_MORE = "denied-more"
    """So many more were refused that were not written singly."""
    ACT = "act"
    """Someone administered the node, or tried to."""
    SYSTEM = "system"
    """The node did something by itself: started, loaded a policy, stopped."""
    LOST = "audit-lost"
    """So many records could not be written."""
    OPENED = "audit-opened"
    """A node began to write here."""
    TORN = "audit-torn"
    """The last line had no end and was put aside."""
    BROKEN = "audit-broken"
    """Lines at the end of the log were not as they were written."""
    DELETED = "audit-deleted"
    """The oldest files were removed, as configured."""


@dataclass(frozen=True, slots=True)
class TrailStatistics:
    """What became records, and what was summed up. Counters only grow."""

    records: Mapping[str, int]
    """Records made, by event."""
    allowed_summed: int
    """Allows that are in summaries only."""
    denied_summed: int
    """Denials that are in summaries only."""
    identities: int
    """Identities remembered."""
    pairs: int
    """Allowed (identity, verb, subject) remembered."""
    pending: int
    """Records that wait to be taken."""
    lost: int
    """Records that were not taken in time and are lost."""


class _Tally:
    """Things of one sort that one identity did and that are counted rather than told."""

    __slots__ = ("kinds", "others", "sort")

    def __init__(self, sort: Event) -> None:
        self.sort = sort
        self.kinds: dict[tuple[str, str], list[Any]] = {}
        """(verb, subject) to count and details."""
        self.others = 0

    def knows(self, kind: tuple[str, str]) -> bool:
        """Whether ``kind`` is counted apart."""
        return kind in self.kinds

    def has_room(self) -> bool:
        """Whether another kind can be counted apart."""
        return len(self.kinds) < KINDS

    def count(self, kind: tuple[str, str], details: Mapping[str, str], number: int = 1) -> None:
        """``number`` more of ``kind``."""
        counted = self.kinds.get(kind)
        if counted is not None:
            counted[0] += number
        elif self.has_room():
            self.kinds[kind] = [number, details]
        else:
            self.others += number

    def summarise(self) -> dict[str, Any] | None:
        """What was counted since this was last asked; None if nothing was. Kinds that did not recur are forgotten."""
        counted = [(kind, count, details) for kind, (count, details) in self.kinds.items() if count]
        self.kinds = {kind: [0, details] for kind, _, details in counted}
        if not counted and not self.others:
            return None
        counted.sort(key=lambda item: -item[1])
        named, rest = counted[:NAMED_KINDS], counted[NAMED_KINDS:]
        others, self.others = self.others + sum(count for _, count, _ in rest), 0
        kinds = [{"verb": verb, "subject": subject, **details, "count": n} for (verb, subject), n, details in named]
        return {"count": others + sum(count for _, count, _ in named), "kinds": kinds, "others": others}


class _Actor:
    """One identity: what is remembered of it."""

    __slots__ = ("allowed", "allows", "denied", "principal", "seen", "since", "slot")

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self.seen: dict[tuple[str, str], None] = {}
        """Allowed (verb, subject) that were written, oldest first."""
        self.allows = TokenBucket(*ACTOR_ALLOWS)
        self.allowed = _Tally(Event.ALLOWED_MORE)
        self.denied = _Tally(Event.DENIED_MORE)
        self.since = 0.0
        self.slot: dict[_Actor, None] | None = None
        """Where its next summary is kept, if one is due."""


class AuditTrail:
    """Collects what is to be recorded, in order, until it is taken.

    ``expire`` must be called when ``next_deadline`` has come, ``take`` after anything else.
    """

    def __init__(self, alarm: Alarm | None = None) -> None:
        """``alarm`` is told of new deadlines."""
        self.enabled = True
        """Whether anybody takes what is recorded. Without that nothing is."""
        self._records: list[Record] = []
        self._actors: dict[tuple[object, ...], _Actor] = {}
        self._deadlines: Deadlines[_Actor] = Deadlines(alarm or Alarm())
        self._single = {boundary: TokenBucket(*SINGLE[boundary]) for boundary in BOUNDARIES}
        self._pairs = 0
        self._made = dict.fromkeys(Event, 0)
        self._summed = {Event.ALLOWED_MORE: 0, Event.DENIED_MORE: 0}
        self._overflow = 0
        self._lost = 0

    # -- what happened ------------------------------------------------------------------------------------------------

    def allowed(self, principal: Principal, endpoint: str, verb: str, subject: str, to: str, now: float) -> None:
        """``principal`` may ``verb`` on ``subject``, which goes across a boundary to ``to`` (a boundary or endpoint).

        Meant for when policy is asked, not for each message: a repetition costs two look-ups.
        """
        if not self.enabled:
            return
        actor = self._actor(principal, now)
        kind = (verb, clip(subject))
        if kind in actor.seen:
            return
        single = self._single[principal.boundary]
        if actor.allows.available(now) < 1 or single.available(now) < 1:
            self._sum_up(actor, actor.allowed, kind, {"to": clip(to)}, now)
            return
        actor.allows.spend(1, now)
        single.spend(1, now)
        self._remember(actor, kind)
        self._add(Event.ALLOWED, _who(principal, endpoint), verb=verb, subject=kind[1], to=clip(to))

    def denied(
        self, principal: Principal, endpoint: str, verb: str, subject: str, where: str, reason: str, now: float
    ) -> None:
        """Policy refused ``principal`` to ``verb`` on ``subject``: at ``where`` (a rule's file:line), for ``reason``.

        The first of its kind is a record at once; then they are counted, and a summary comes every ``PERIOD_SECONDS``.
        """
        if not self.enabled:
            return
        actor = self._actor(principal, now)
        kind = (verb, clip(subject))
        details = {"where": clip(where), "reason": clip(reason)}
        tally, single = actor.denied, self._single[principal.boundary]
        if tally.knows(kind) or not tally.has_room() or single.available(now) < 1:
            self._sum_up(actor, tally, kind, details, now)
            return
        single.spend(1, now)
        tally.count(kind, details, 0)
        self._arm(actor, now)
        self._add(Event.DENIED, _who(principal, endpoint), verb=verb, subject=kind[1], **details)

    def act(
        self, principal: Principal, endpoint: str, what: str, facts: Mapping[str, Any], outcome: str, now: float
    ) -> None:
        """``principal`` did ``what`` (``guest.add``), or tried to: ``outcome`` is ``ok`` or the name of the error."""
        self._add(Event.ACT, _who(principal, endpoint), what=clip(what), facts=_plain(facts), outcome=clip(outcome))

    def system(self, what: str, facts: Mapping[str, Any], now: float) -> None:
        """The node did ``what`` by itself."""
        self._add(Event.SYSTEM, {}, what=clip(what), facts=_plain(facts))

    # -- the seam -----------------------------------------------------------------------------------------------------

    def take(self) -> list[Record]:
        """What is to be written, in order, since this was last asked."""
        records, self._records = self._records, []
        if self._overflow:
            records.append(lost(self._overflow, "nobody took them in time"))
            self._made[Event.LOST] += 1
            self._overflow = 0
        return records

    def next_deadline(self) -> float | None:
        """When ``expire`` is next needed, in seconds; None when nothing is counted."""
        return self._deadlines.next()

    def expire(self, now: float) -> None:
        """Make the summaries that are due at ``now``."""
        for actor in self._deadlines.expire(now):
            actor.slot = None
            if self._single[actor.principal.boundary].available(now) < -self._debt(actor):
                self._arm(actor, now, since=actor.since)
            elif self._summarise(actor, now):
                self._arm(actor, now)

    def settle(self, now: float) -> None:
        """Make all summaries now: the node stops."""
        for actor in self._actors.values():
            self._summarise(actor, now)

    def statistics(self) -> TrailStatistics:
        """Its figures."""
        return TrailStatistics(
            records={str(event): count for event, count in self._made.items() if count},
            allowed_summed=self._summed[Event.ALLOWED_MORE],
            denied_summed=self._summed[Event.DENIED_MORE],
            identities=len(self._actors),
            pairs=self._pairs,
            pending=len(self._records),
            lost=self._lost,
        )

    # -- inside -------------------------------------------------------------------------------------------------------

    def _actor(self, principal: Principal, now: float) -> _Actor:
        key = _identity(principal)
        actor = self._actors.get(key)
        if actor is None:
            if len(self._actors) >= ACTORS:
                self._forget(now)
            actor = self._actors[key] = _Actor(principal)
        return actor

    def _forget(self, now: float) -> None:
        """Make room for an identity: the one that came first goes, and what was counted of it is told."""
        actor = self._actors.pop(next(iter(self._actors)))
        self._summarise(actor, now)
        self._pairs -= len(actor.seen)
        if actor.slot is not None:
            self._deadlines.remove(actor, actor.slot)

    def _remember(self, actor: _Actor, kind: tuple[str, str]) -> None:
        if len(actor.seen) >= ACTOR_PAIRS:
            del actor.seen[next(iter(actor.seen))]
            self._pairs -= 1
        actor.seen[kind] = None
        self._pairs += 1
        if self._pairs > PAIRS:
            # A part at once, so that looking for who has most is seldom.
            largest = max(self._actors.values(), key=lambda each: len(each.seen))
            for oldest in list(largest.seen)[: 1 + len(largest.seen) // 8]:
                del largest.seen[oldest]
                self._pairs -= 1

    def _sum_up(
        self, actor: _Actor, tally: _Tally, kind: tuple[str, str], details: Mapping[str, str], now: float
    ) -> None:
        tally.count(kind, details)
        self._summed[tally.sort] += 1
        self._arm(actor, now)

    def _arm(self, actor: _Actor, now: float, since: float | None = None) -> None:
        """See to it that a summary of ``actor`` comes."""
        if actor.slot is None:
            actor.since = now if since is None else since
            actor.slot = self._deadlines.add(actor, now + PERIOD_SECONDS)

    def _summarise(self, actor: _Actor, now: float) -> bool:
        """Write what was counted of ``actor``. False if nothing was."""
        told = False
        for tally in (actor.denied, actor.allowed):
            summary = tally.summarise()
            if summary is not None:
                told = True
                self._single[actor.principal.boundary].spend(1, now)
                self._add(tally.sort, _who(actor.principal), **summary, seconds=round(now - actor.since, 3))
        return told

    def _debt(self, actor: _Actor) -> float:
        return SUMMARY_DEBT_SECONDS * self._single[actor.principal.boundary].rate

    def _add(self, event: Event, who: Mapping[str, Any], **facts: Any) -> None:
        if not self.enabled:
            return
        if len(self._records) >= PENDING:
            self._overflow += 1
            self._lost += 1
            return
        self._made[event] += 1
        self._records.append({"event": str(event), **who, **facts})


def lost(count: int, reason: str) -> Record:
    """The record that stands where ``count`` records are missing."""
    return {"event": str(Event.LOST), "count": count, "reason": clip(reason)}


def clip(text: str, limit: int = TEXT) -> str:
    """``text``, cut so that it takes at most ``limit`` bytes in a line, where a control character takes six."""
    if len(text) <= limit and text.isascii() and text.isprintable():
        return text
    text = text[:limit]
    while len(json.dumps(text)) - 2 > limit:
        text = text[: len(text) * 7 // 8]
    return text


def _identity(principal: Principal) -> tuple[object, ...]:
    """What tells one identity from another, whichever of its processes speaks."""
    return (
        principal.boundary,
        principal.tenant,
        principal.unit,
        principal.generation,
        principal.uid,
        principal.cid,
        principal.key,
    )


def _who(principal: Principal, endpoint: str = "") -> dict[str, Any]:
    """Who did it, as far as it was proven; without ``endpoint`` it was any process of that identity."""
    names = ("boundary", "tenant", "unit", "generation", "uid", "cid", "key", *(("pid",) if endpoint else ()))
    proven = {name: value for name in names if (value := getattr(principal, name)) is not None}
    return {"principal": proven, "endpoint": endpoint} if endpoint else {"principal": proven}


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """``facts`` as values that JSON has, bounded; ``...`` says that some were left out."""
    return _Facts().mapping(facts, 4)


class _Facts:
    """Makes facts plain, until they have taken ``FACTS_BYTES``."""

    def __init__(self) -> None:
        self._left = FACTS_BYTES

    def mapping(self, facts: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, value in facts.items():
            if self._left <= 0:
                made["..."] = True
                break
            made[self._text(name)] = self._value(value, depth)
        return made

    def _value(self, value: Any, depth: int) -> Any:
        self._left -= 8  # at least: quotes, a comma, a number's digits
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int) and abs(value) < 1 << 63:
            return int(value)
        if isinstance(value, float) and isfinite(value):
            return float(value)
        if depth and isinstance(value, Mapping):
            return self.mapping(value, depth - 1)
        if depth and isinstance(value, (list, tuple)):
            made: list[Any] = []
            for item in value:
                if self._left <= 0:
                    made.append("...")
                    break
                made.append(self._value(item, depth - 1))
            return made
        return self._text(value)

    def _text(self, value: object) -> str:
        text = clip(value if isinstance(value, str) else f"{value!s:.{TEXT}}")
        self._left -= len(json.dumps(text))
        return text
