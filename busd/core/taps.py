"""The monitors of a bus: each is told of what passes, as far as its filter and its share of the loop go.

While there is none, the path of a message has one test for each frame. While there is one, every frame is looked at
before it is routed (whose call a reply ends is known only until then) and after (what was refused is known only then).
What the broker decides itself, outside of any frame, is told at once.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from busd.core.audit import AuditTrail
from busd.core.call import Call, Pending
from busd.core.deadlines import Alarm, Deadlines
from busd.core.introspection import BROKER
from busd.core.principal import NODE_TENANT
from busd.core.quotas import exceeded
from busd.core.relay import Relay
from busd.core.session import Session
from busd.core.space import Plan
from busd.core.tap import LOOKS_AT_ONCE, MONITOR, Tap, read_filter
from busproto import envelope
from busproto.envelope import OUTCOMES, Batch, Decoder, Kind, Status
from busproto.errors import BusError, Code

TAPS: Final = 4
"""Monitors at a time: together they take less than half of the loop's time, whatever passes."""

LOST_SECONDS: Final = 1.0
"""After something was missed and nothing followed, the monitor is told by then."""

Held = Mapping[int, Call]
"""Of the replies in a frame, by place: the calls that they answer."""

_BROKER: Final = {"endpoint": BROKER, "boundary": "host", "tenant": NODE_TENANT, "unit": "", "generation": 0}


class Taps:
    """All monitors, and what a frame that is being routed has come to."""

    __slots__ = (
        "_deadlines",
        "_decoder",
        "_node",
        "_now",
        "_refused",
        "_relay",
        "_routing",
        "_seen",
        "_trail",
        "_watching",
        "all",
    )

    def __init__(self, *, node: str, trail: AuditTrail, relay: Relay, alarm: Alarm) -> None:
        self.all: list[Tap] = []
        """Those that are on, in the order in which they began."""
        self._node = node
        self._trail = trail
        self._relay = relay
        self._deadlines: Deadlines[Tap] = Deadlines(alarm)
        self._decoder = Decoder()
        self._now = 0.0
        """When something was last told of."""
        self._routing = False
        self._seen: list[tuple[str, str | None, dict[str, Any]]] = []
        """What the broker decided while a frame was routed: from, to, and the record."""
        self._refused: set[str | int] = set()
        """Of that frame: subjects of publishes, and ids of calls, that went nowhere."""
        self._watching: list[Tap] = []
        """Those that were on when it came."""

    # -- coming and going ---------------------------------------------------------------------------------------------

    def open(self, session: Session, call: list[Any], now: float) -> Tap:
        """A tap for the call envelope ``call`` of ``session``, which may have one. Raises BusError 2002, 2008, 4001.

        The request is written into the audit, whatever comes of it.
        """
        facts: dict[str, Any] = {}
        try:
            request = envelope.unpack(call[5], REQUEST_ITEMS) if len(call[5]) else None
            facts = request if isinstance(request, dict) else {}
            filter = read_filter(request)
            if len(self.all) >= TAPS:
                oldest = self.all[0]
                assert oldest.caller is not None
                raise exceeded("monitors", len(self.all), TAPS, oldest.caller.name, now - oldest.started)
        except BusError as error:
            self._trail.act(session.principal, session.name, MONITOR, facts, error.name, now)
            raise
        self._trail.act(session.principal, session.name, MONITOR, filter.describe(), "ok", now)
        return Tap(session, call[1], filter, now)

    def start(self, tap: Tap, now: float) -> None:
        """Tell ``tap`` of what passes from now on."""
        assert tap.caller is not None
        tap.caller.monitoring += (tap,)
        self.all.append(tap)
        self._relay.flush()
        tap.begin(self._node, now)

    def stop(self, tap: Tap, session: Session, outcome: int, now: float) -> None:
        """``tap`` of ``session`` is over, with the ``outcome`` of its call."""
        self.all.remove(tap)
        session.monitoring = tuple(each for each in session.monitoring if each is not tap)
        if tap.due is not None:
            self._deadlines.remove(tap, tap.due)
        facts = tap.describe(now)
        self._trail.act(session.principal, session.name, MONITOR, facts, f"ended: {OUTCOMES[outcome]}", now)

    # -- a frame ------------------------------------------------------------------------------------------------------

    def look(self, session: Session, batch: Batch, begin: int, now: float) -> Held:
        """A frame of ``session`` is about to be routed from its envelope ``begin``."""
        self._routing, self._now, self._watching = True, now, self.all.copy()
        self._refused.clear()
        held: dict[int, Call] = {}
        if not session.held:
            return held
        ended: set[int] = set()
        envelopes = batch.envelopes
        for index in range(begin, min(len(envelopes), begin + LOOKS_AT_ONCE)):
            message = envelopes[index]
            if message[0] != Kind.REPLY or message[1] in ended:
                continue
            call = session.held.get(message[1])
            if call is not None and call.caller is not None:
                held[index] = call
            if message[2] != Status.PARTIAL:
                ended.add(message[1])
        return held

    def tell(self, session: Session, frame: bytes, batch: Batch, begin: int, end: int, held: Held, now: float) -> None:
        """That frame was routed up to its envelope ``end``."""
        self._routing = False
        for tap in self._watching:
            if tap.caller is None:
                continue
            last = begin + tap.looks(end - begin, now)
            for index in range(begin, last):
                kind = batch.envelopes[index][0]
                if kind == Kind.PUBLISH:
                    self._tell_publish(tap, session, frame, batch, index, now)
                elif kind == Kind.CALL:
                    self._tell_call(tap, session, batch.envelopes[index], now)
                elif index in held:
                    self._tell_reply(tap, session, batch.envelopes[index], held[index], now)
            tap.unseen += sum(batch.counts[last:end])
            tap.flush()
        seen, self._seen = self._seen, []
        for sender, receiver, record in seen:
            self._give(sender, receiver, record, now)
        self._watch_losses(now)

    def _tell_publish(self, tap: Tap, session: Session, frame: bytes, batch: Batch, index: int, now: float) -> None:
        message, count = batch.envelopes[index], batch.counts[index]
        subject, tenant = message[1], session.principal.tenant
        if subject in self._refused or not tap.wants("publish", tenant, subject, now):
            return
        plan = session.view.plans.decisions.get(subject)
        if not (tap.is_between(session.name) or tap.is_reached(plan, now)):
            return
        if not tap.has_room(now):
            tap.missed += count  # before anything is made of it: in a flood that is what happens to most
            return
        messages = [message]
        if count > 1:
            tap.unfold(count, now)
            messages = self._decoder.decode(frame[batch.offsets[index] : batch.offsets[index + 1]]).envelopes
        about = {"kind": "publish", "tenant": tenant, "subject": subject, "origin": _origin(session)}
        about["receivers"] = None if plan is None else _receivers(plan)
        for each in messages:
            tap.tell(about | _content(each[2], each[3], tap.filter.payload), now)

    def _tell_call(self, tap: Tap, session: Session, message: list[Any], now: float) -> None:
        id, subject, tenant = message[1], message[2], session.principal.tenant
        if id in self._refused or not tap.wants("call", tenant, subject, now):
            return
        pending = session.calls.get(id)
        to = None if pending is None else pending.answered_by
        first = pending.first.name if isinstance(pending, Call) and pending.first is not pending.payer else None
        if not tap.is_between(session.name, to, first):
            return
        if not tap.has_room(now):
            tap.missed += 1
            return
        about = {"kind": "call", "tenant": tenant, "subject": subject, "origin": _origin(session), "to": to, "id": id}
        if first is not None:
            about["on_behalf_of"] = first
        tap.tell(about | _content(message[4], message[5], tap.filter.payload), now)

    def _tell_reply(self, tap: Tap, session: Session, message: list[Any], call: Call, now: float) -> None:
        caller = call.payer
        tenant = caller.principal.tenant
        if not tap.wants("reply", tenant, call.subject, now) or not tap.is_between(session.name, caller.name):
            return
        if not tap.has_room(now):
            tap.missed += 1
            return
        about = _outcome(caller, call.caller_id, call.subject, message[2], _origin(session))
        about["seconds"] = now - call.started
        tap.tell(about | _content(message[3], message[4], tap.filter.payload), now)

    # -- what the broker decides --------------------------------------------------------------------------------------

    def ended(self, call: Pending, status: int, text: str, now: float) -> None:
        """The broker itself ended ``call``, whose caller still waits."""
        caller = call.caller
        assert caller is not None
        self._now = now
        record = _outcome(caller, call.caller_id, call.subject, status, _BROKER)
        record |= {"seconds": now - call.started, "reason": text}
        self._show(call.answered_by or BROKER, caller.name, record)

    def answered(self, caller: Session, id: int, subject: str, status: int, **facts: Any) -> None:
        """The broker answered a call that it gave to nobody: ``bytes`` of an answer, or the ``reason`` for none."""
        record = _outcome(caller, id, subject, status, _BROKER) | facts
        self._show(BROKER, caller.name, record)

    def refused(
        self, session: Session, verb: str, subject: str, error: BusError, now: float, *, id: int = 0, count: int = 1
    ) -> None:
        """``session`` may not do ``verb`` on ``subject``, or nobody could: ``count`` messages, or the call ``id``."""
        self._refused.add(id or subject)
        if error.code not in (Code.DENIED, Code.SUBJECT_RESERVED):
            return
        self._now = now
        tenant, reason = session.principal.tenant, error.fields.get("reason", error.text)
        about = {"kind": "denied", "tenant": tenant, "subject": subject, "origin": _origin(session)}
        record = about | {"verb": verb, "reason": reason, "count": count}
        self._show(session.name, None, record)

    def next_deadline(self) -> float | None:
        """When ``expire`` is next needed."""
        return self._deadlines.next()

    def expire(self, now: float) -> None:
        """Tell who missed something how much that was."""
        for tap in self._deadlines.expire(now):
            tap.due = None
            tap.say_lost(now)
        self._watch_losses(now)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _show(self, sender: str, receiver: str | None, record: dict[str, Any]) -> None:
        """Tell of what the broker decided: behind the frame that is being routed, if there is one."""
        if self._routing:
            self._seen.append((sender, receiver, record))
        else:
            self._give(sender, receiver, record, self._now)

    def _give(self, sender: str, receiver: str | None, record: dict[str, Any], now: float) -> None:
        self._relay.flush()
        for tap in self._wanting(sender, receiver, record, now):
            tap.tell(record, now)
            tap.flush()

    def _wanting(self, sender: str, receiver: str | None, record: dict[str, Any], now: float) -> Iterator[Tap]:
        for tap in list(self.all):
            if not tap.looks(1, now):
                tap.unseen += record.get("count", 1)
            elif tap.wants(record["kind"], record["tenant"], record["subject"], now) and tap.is_between(
                sender, receiver
            ):
                yield tap

    def _watch_losses(self, now: float) -> None:
        for tap in self.all:
            if tap.due is None and tap.owes:
                tap.due = self._deadlines.add(tap, now + LOST_SECONDS)


REQUEST_ITEMS: Final = 64
"""Entries in one list or map of a request for a tap."""


def _origin(session: Session) -> dict[str, Any]:
    principal = session.principal
    return {
        "endpoint": session.name,
        "boundary": principal.boundary,
        "tenant": principal.tenant,
        "unit": principal.unit,
        "generation": principal.generation,
    }


def _receivers(plan: Plan) -> int:
    """How many get what has ``plan``, in all spaces."""
    return len(plan.receivers) + len(plan.latest) + (0 if plan.shown is None else _receivers(plan.shown))


def _outcome(caller: Session, id: int, subject: str, status: int, origin: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "denied" if status == Status.DENIED else "reply",
        "tenant": caller.principal.tenant,
        "subject": subject,
        "origin": origin,
        "to": caller.name,
        "id": id,
        "status": OUTCOMES.get(status, "part"),
    }


def _content(headers: dict[str, Any] | None, payload: bytes | memoryview, shown: int) -> dict[str, Any]:
    """Headers, the payload's size, and its beginning if that is wanted."""
    content: dict[str, Any] = {"headers": headers, "bytes": len(payload)}
    if shown:
        content["payload"] = bytes(payload[:shown])
    return content
