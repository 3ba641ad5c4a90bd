"""The bus: frames come in from sessions, frames for sessions go out. No I/O, no clock; the time is an argument.

Whoever drives it (the edge, a test) does three things: ``receive`` what a peer sent; ``take`` what is to be sent to
each session that ``ready`` names, then close and ``detach`` it if it is closing; ``expire`` when ``next_deadline`` has
come.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import inf
from typing import Any, Final

from busd.core.calls import Calls
from busd.core.census import Census, check_claims
from busd.core.counters import Counters
from busd.core.deadlines import Alarm, Deadlines
from busd.core.outbox import Outbox, Part
from busd.core.principal import BOUNDARIES, NODE_TENANT, Principal
from busd.core.quotas import Quotas
from busd.core.reasons import Departure, Drop
from busd.core.relay import Relay
from busd.core.requests import Requests
from busd.core.session import Session
from busd.core.space import Plan, Space
from busd.core.states import TRANSITIONS, State
from busd.core.statistics import BusStatistics
from busproto import envelope
from busproto.envelope import KIND_NAMES, SKIPPABLE, VERSION, Batch, Decoder, Kind
from busproto.errors import BusError, Code
from busproto.limits import BATCH_BYTES, FRAME_BYTES, LARGE_FRAME_BYTES
from busproto.subjects import check_subject, is_reserved

RUN_MESSAGES: Final = 8192
"""Messages that are forwarded as one slice: half of what a frame may hold, so that a slice always fits into one."""

BROKER: Final = "$bus"
"""The endpoint that the broker itself is, in origins."""

_REQUESTS: Final = frozenset({Kind.SUBSCRIBE, Kind.UNSUBSCRIBE, Kind.SERVE, Kind.UNSERVE, Kind.CALL})
"""Kinds whose first field is an id of the sender's own choice."""

_RELAYED: Final = frozenset({Kind.CALL, Kind.REPLY})
"""Kinds of which several in a row are forwarded as one piece."""

_Handler = Callable[[Session, list[Any], bytes, int, int, float], None]


class Bus:
    """One node's bus."""

    def __init__(self, *, node: str, software: str, now: float, quotas: Quotas | None = None) -> None:
        """``node`` is this node's name, ``software`` the broker's name and version, ``now`` the time it starts."""
        self.node = node
        self.software = software
        self.started = now
        self.quotas = quotas or Quotas()
        self.census = Census(self.quotas.departures)
        self.draining = False
        self.alarm = Alarm()
        """Earlier than `next_deadline` was when it was last asked? Then it is time to ask again."""
        self._origin = envelope.origin(BROKER, "host", NODE_TENANT, "", 0)
        self._counters = Counters()
        self._relay = Relay()
        self._calls = Calls(self._origin, self._counters, self._relay, self.alarm)
        self._decoder = Decoder()
        self._requests = Requests(self, self._calls, self._counters, self._origin)
        self._handshakes: Deadlines[Session] = Deadlines(self.alarm)
        self._frames: Deadlines[Session] = Deadlines(self.alarm)
        self._held_bytes = 0
        self._spaces: dict[str, Space] = {}
        self._sessions: dict[Session, None] = {}
        self._ready: list[Session] = []
        self._count_drop = {boundary: partial(self._dropped, boundary) for boundary in BOUNDARIES}
        handlers: dict[int, _Handler] = {
            Kind.HELLO: self._hello,
            Kind.SUBSCRIBE: self._requests.subscribe,
            Kind.UNSUBSCRIBE: self._requests.unsubscribe,
            Kind.SERVE: self._requests.serve,
            Kind.UNSERVE: self._requests.unserve,
            Kind.CALL: self._requests.call,
            Kind.REPLY: self._requests.reply,
            Kind.CANCEL: self._requests.cancel,
            Kind.PING: self._ping,
            Kind.PONG: self._pong,
            Kind.DRAIN: self._drain,
            Kind.BYE: self._bye,
        }
        self._steps: dict[State, dict[int, tuple[State, _Handler]]] = {
            state: {kind: (following, handlers[kind]) for kind, following in row.items() if kind != Kind.PUBLISH}
            for state, row in TRANSITIONS.items()
        }
        """What each kind does in each state; publish has a path of its own."""

    # -- the seam -----------------------------------------------------------------------------------------------------

    def attach(self, principal: Principal, now: float, link: object = None) -> Session:
        """A connection has come, from ``principal``. Its hello must follow in time. ``link`` is kept for the caller.

        Raises BusError 4003 when there is no room, 5001 when the bus is draining.
        """
        if self.draining:
            raise BusError(Code.DRAINING, what="connections")
        if len(self._sessions) >= self.quotas.endpoints:
            raise BusError(Code.TOO_MANY_CONNECTIONS, used=len(self._sessions), limit=self.quotas.endpoints)
        session = Session(principal, self._space(principal.tenant), self.quotas, now, link)
        session.outbox = Outbox(self.quotas, partial(self._ready.append, session), self._count_drop[principal.boundary])
        self._sessions[session] = None
        session.handshake_slot = self._handshakes.add(session, now + self.quotas.handshake_seconds)
        return session

    def receive(self, session: Session, frame: bytes, now: float) -> None:
        """``session`` sent ``frame``. Raises nothing that a peer can cause: a violation ends the session instead."""
        if session.state is State.CLOSING:
            return
        try:
            batch = self._decoder.decode(frame, fold=True)
        except BusError as error:
            self.end(session, error, Departure.PROTOCOL_ERROR, now)
            return
        boundary = session.principal.boundary
        count = sum(batch.counts)
        self._counters.received_messages[boundary] += count
        self._counters.received_bytes[boundary] += len(frame)
        session.received_messages += count
        session.received_bytes += len(frame)
        if len(frame) > self.quotas.max_payload and (excess := self._too_large(batch.envelopes)) is not None:
            self.end(session, excess, Departure.PROTOCOL_ERROR, now)
            return
        self._route(session, frame, batch, now)
        self._relay.flush()
        if session.outbox.control > self.quotas.control_bytes:
            self.end(session, self._not_reading(session), Departure.NOT_READING, now)

    def ready(self) -> list[Session]:
        """The sessions for which something waits, or which are closing, since this was last asked."""
        sessions = self._ready.copy()
        self._ready.clear()
        return sessions

    def take(self, session: Session, limit: int = BATCH_BYTES) -> list[Part]:
        """The parts of the next frame for ``session``, in order; [] when nothing waits."""
        outbox = session.outbox
        messages, size = outbox.delivered_messages, outbox.delivered_bytes
        parts = outbox.take(limit)
        boundary = session.principal.boundary
        self._counters.delivered_messages[boundary] += outbox.delivered_messages - messages
        self._counters.delivered_bytes[boundary] += outbox.delivered_bytes - size
        return parts

    def detach(self, session: Session, now: float, departure: Departure = Departure.CONNECTION_LOST) -> None:
        """The connection is gone. ``departure`` says why unless the bus itself had ended the session."""
        if session not in self._sessions:
            return
        self._leave(session, departure, now)
        del self._sessions[session]
        self.hold(session, 0, now)
        self._counters.departures[session.principal.boundary, session.departure or departure] += 1
        session.outbox.clear()
        if self.census.leave(session, now):
            self._announce("$bus.endpoints.departed", session, now)

    def end(self, session: Session, error: BusError, departure: Departure, now: float) -> None:
        """Cut ``session`` off because of ``error``, in its envelopes or below: it is told, and no more is read."""
        if session.state is State.CLOSING:
            return
        self._counters.refuse(error)
        session.error = error.body()
        self._leave(session, departure, now)
        self._relay.flush()
        session.outbox.settle()
        session.outbox.put_control(None, envelope.bye(session.error))
        self._ready.append(session)

    def hold(self, session: Session, size: int, now: float) -> None:
        """``session`` has sent ``size`` bytes of a frame that is not complete (0: it has none).

        They are charged, to the node as a whole: a frame that never ends pins memory like a message that nobody reads
        (dbus-broker charges both), and it must end in time.
        """
        self._held_bytes += size - session.held_bytes
        session.held_bytes = size
        if not size:
            if session.frame_slot is not None:
                self._frames.remove(session, session.frame_slot)
                session.frame_slot = None
            return
        if session.frame_slot is None:
            self._expect_frame(session, now)
        try:
            self.quotas.check("held_bytes", self._held_bytes, "all connections together")
        except BusError as error:
            self.end(session, error, Departure.PROTOCOL_ERROR, now)

    def next_deadline(self) -> float | None:
        """When ``expire`` is next needed, in seconds; None when nothing waits for time to pass."""
        self.alarm.at = inf
        deadlines = (self._calls.next_deadline(), self._handshakes.next(), self._frames.next())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def expire(self, now: float) -> None:
        """Do what is due at ``now``."""
        self._calls.expire(now)
        for session in self._handshakes.expire(now):
            seconds = self.quotas.handshake_seconds
            stage = str(getattr(session.link, "stage", "connected"))
            error = BusError(Code.HANDSHAKE_TIMEOUT, seconds=seconds, stage=stage)
            session.handshake_slot = None
            self.end(session, error, Departure.HANDSHAKE_TIMEOUT, now)
        for session in self._frames.expire(now):
            if session.received_messages != session.frame_mark:
                # That frame has come; the one that is held now began later.
                self._expect_frame(session, now)
                continue
            session.frame_slot = None
            error = BusError(Code.FRAME_TIMEOUT, held=session.held_bytes, seconds=self.quotas.frame_seconds)
            self.end(session, error, Departure.PROTOCOL_ERROR, now)

    def drain(self, grace: float) -> None:
        """The node is going away within ``grace`` seconds: tell everyone, take no new calls, finish those in flight."""
        self.draining = True
        for session in self.census:
            session.outbox.put_control(None, envelope.drain(round(grace * 1000)))

    def shut(self, now: float) -> None:
        """The grace is over: what is still in flight ends as unknown, and every session with bye."""
        self._calls.end_all("the broker is shutting down", now)
        for session in self._sessions:
            self.end(session, BusError(Code.DRAINING, what="requests"), Departure.SHUTDOWN, now)

    @property
    def calls_in_flight(self) -> int:
        """Calls whose caller waits."""
        return self._calls.in_flight

    def statistics(self) -> BusStatistics:
        """Figures of the whole bus."""
        counters = self._counters
        spaces = [space.statistics() for space in self._spaces.values()]
        endpoints = dict.fromkeys(BOUNDARIES, 0)
        for session in self.census:
            endpoints[session.principal.boundary] += 1
        return BusStatistics(
            endpoints=endpoints,
            subscriptions=sum(space.subscriptions for space in spaces),
            services=sum(space.services for space in spaces),
            calls_in_flight=self._calls.in_flight,
            held_calls=self._calls.statistics().held,
            queued_messages=sum(session.outbox.messages for session in self._sessions),
            queued_bytes=sum(session.outbox.bytes for session in self._sessions),
            received_messages=dict(counters.received_messages),
            received_bytes=dict(counters.received_bytes),
            delivered_messages=dict(counters.delivered_messages),
            delivered_bytes=dict(counters.delivered_bytes),
            dropped_messages={(boundary, str(reason)): n for (boundary, reason), n in counters.dropped.items()},
            departures={(boundary, str(reason)): n for (boundary, reason), n in counters.departures.items()},
            calls=dict(counters.calls),
            refusals=dict(counters.refusals),
            quota_rejections=dict(counters.quota_rejections),
            skipped_envelopes=counters.skipped,
            route_cache_entries=sum(space.cached_subjects for space in spaces),
            route_cache_misses=sum(space.cache_misses for space in spaces),
            call_seconds=counters.call_seconds.statistics(),
        )

    # -- the path of a message ----------------------------------------------------------------------------------------

    def _route(self, session: Session, frame: bytes, batch: Batch, now: float) -> None:
        """Handle the envelopes of one frame in order, until one ends the session.

        Messages in a row that go to the same receivers are one run: one slice of the frame, one entry per receiver.
        Calls and replies in a row are one run of the relay.
        """
        envelopes, offsets, counts = batch
        plans = session.space.plans.decisions
        calls, subscriptions, services = session.calls, session.subscriptions, session.services
        state: State = session.state
        steps = self._steps[state]
        publishing = Kind.PUBLISH in TRANSITIONS[state]
        run: Plan | None = None
        subject = ""
        begin = messages = 0
        for index, message in enumerate(envelopes):
            kind = message[0]
            plan = None
            publishes = kind == Kind.PUBLISH and publishing
            if publishes:
                plan = plans.get(message[1]) or self._plan(session, message[1], counts[index])
                if plan is run and messages < RUN_MESSAGES and (run is None or not run.latest):
                    messages += counts[index]
                    continue
            if run is not None:
                self._forward(session.origin, run, subject, frame, begin, offsets[index], messages)
            run = plan
            if publishes:
                subject = message[1]
                begin = offsets[index]
                messages = counts[index]
                continue
            step = steps.get(kind)
            if step is None:
                if not self._skip(session, kind, now):
                    return
                continue
            if kind not in _RELAYED:
                self._relay.flush()
            session.state, handler = step
            if kind in _REQUESTS and ((id := message[1]) in calls or id in subscriptions or id in services):
                self._requests.refuse(session, message[1], BusError(Code.ID_IN_USE, id=message[1]))
                continue
            handler(session, message, frame, offsets[index], offsets[index + 1], now)
            if session.state is not state:
                state = session.state
                if state is State.CLOSING:
                    return
                steps = self._steps[state]
                publishing = Kind.PUBLISH in TRANSITIONS[state]
        if run is not None:
            self._forward(session.origin, run, subject, frame, begin, offsets[-1], messages)

    # -- publish and subscribe ----------------------------------------------------------------------------------------

    def _plan(self, session: Session, subject: str, count: int) -> Plan | None:
        """Who receives ``subject`` from ``session``; None, and ``count`` refusals told to the sender, if nobody may."""
        try:
            check_subject(subject)
            if is_reserved(subject):
                raise BusError(Code.SUBJECT_RESERVED, subject=subject)
        except BusError as error:
            for _ in range(count):
                self._requests.refuse(session, None, error)
            return None
        return session.space.plan(subject)

    def _forward(self, origin: bytes, plan: Plan, subject: str, frame: bytes, start: int, end: int, count: int) -> None:
        """Queue a run for its receivers. ``subject`` is the first message's, and everyone's where a plan has latest."""
        self._relay.flush()
        data = _slice(frame, start, end)
        for outbox, subscriptions in plan.receivers:
            outbox.deliver(origin, data, count, subscriptions)
        if plan.latest:
            # What may be replaced by something newer is queued message by message.
            offsets = [0, len(data)] if count == 1 else self._decoder.decode(bytes(data)).offsets
            for begin, stop in pairwise(offsets):
                part = _slice(frame, start + begin, start + stop)
                for outbox, subscriptions in plan.latest:
                    outbox.deliver_latest(origin, part, subject, subscriptions)

    def _announce(self, subject: str, session: Session, now: float) -> None:
        """Publish that ``session`` came or went, in the node's space and in its own tenant's."""
        for tenant in {NODE_TENANT, session.principal.tenant}:
            plan = self._space(tenant).plan(subject)
            if not (plan.receivers or plan.latest):
                continue
            row: dict[str, Any] = {
                "endpoint": session.name,
                "principal": session.principal.describe(),
                "claims": session.claims,
            }
            if session.departure is not None:
                row |= {"reason": str(session.departure), "seconds": now - session.attached_at}
            data = envelope.publish(subject, None, envelope.pack(row))
            self._forward(self._origin, plan, subject, data, 0, len(data), 1)

    # -- one envelope of any other kind -------------------------------------------------------------------------------

    def _skip(self, session: Session, kind: int, now: float) -> bool:
        """Pass over an envelope that the table of states does not have; False if the session ends because of it."""
        if kind in SKIPPABLE:
            self._counters.skipped += 1
            return True
        error = BusError(Code.KIND_UNEXPECTED, kind=KIND_NAMES[kind], state=str(session.state))
        self.end(session, error, Departure.PROTOCOL_ERROR, now)
        return False

    def _hello(self, session: Session, message: list[Any], frame: bytes, start: int, end: int, now: float) -> None:
        try:
            if self.draining:
                raise BusError(Code.DRAINING, what="endpoints")
            session.claims = check_claims(message[2])
        except BusError as error:
            self.end(session, error, Departure.REFUSED, now)
            return
        principal = session.principal
        if session.handshake_slot is not None:
            self._handshakes.remove(session, session.handshake_slot)
        session.name = self.census.name(principal.boundary)
        session.origin = envelope.origin(
            session.name, principal.boundary, principal.tenant, principal.unit, principal.generation
        )
        info = {
            "node": self.node,
            "broker": self.software,
            "boundary": principal.boundary,
            "tenant": principal.tenant,
            "unit": principal.unit,
            "generation": principal.generation,
            "max_payload": self.quotas.max_payload,
            "max_frame": FRAME_BYTES,
        }
        session.outbox.put_control(None, envelope.welcome(min(message[1], VERSION), session.name, info))
        self.census.enter(session)
        self._announce("$bus.endpoints.attached", session, now)

    def _ping(self, session: Session, message: list[Any], frame: bytes, start: int, end: int, now: float) -> None:
        session.outbox.put_control(None, envelope.pong(message[1]))

    def _pong(self, session: Session, message: list[Any], frame: bytes, start: int, end: int, now: float) -> None:
        """Nothing to do: that it came is all it says."""

    def _drain(self, session: Session, message: list[Any], frame: bytes, start: int, end: int, now: float) -> None:
        for service in session.services.values():
            session.space.unserve(service)

    def _bye(self, session: Session, message: list[Any], frame: bytes, start: int, end: int, now: float) -> None:
        self._leave(session, Departure.BYE, now)
        self._ready.append(session)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _space(self, tenant: str) -> Space:
        space = self._spaces.get(tenant)
        if space is None:
            space = self._spaces[tenant] = Space(tenant, self.quotas.route_cache)
        return space

    def _expect_frame(self, session: Session, now: float) -> None:
        session.frame_mark = session.received_messages
        session.frame_slot = self._frames.add(session, now + self.quotas.frame_seconds)

    def _leave(self, session: Session, departure: Departure, now: float) -> None:
        """Take ``session`` off the bus: no subscriptions, no services, no calls. What waits for it may still go out."""
        if session.departure is not None:
            return
        session.departure = departure
        session.state = State.CLOSING
        if session.handshake_slot is not None:
            self._handshakes.remove(session, session.handshake_slot)
        for subscription in session.subscriptions.values():
            session.space.unsubscribe(subscription)
        session.subscriptions.clear()
        for service in session.services.values():
            session.space.unserve(service)
        session.services.clear()
        self._calls.drop_session(session, "left", now)

    def _too_large(self, envelopes: list[list[Any]]) -> BusError | None:
        limit = self.quotas.max_payload
        for message in envelopes:
            if message[0] in (Kind.PUBLISH, Kind.CALL, Kind.REPLY):
                size = len(message[{Kind.PUBLISH: 3, Kind.CALL: 5, Kind.REPLY: 4}[message[0]]])
                if size > limit:
                    return BusError(Code.PAYLOAD_TOO_LARGE, size=size, limit=limit)
        return None

    def _not_reading(self, session: Session) -> BusError:
        return BusError(
            Code.QUOTA_EXCEEDED,
            quota="control_bytes",
            holder=session.name,
            used=session.outbox.control,
            limit=self.quotas.control_bytes,
        )

    def _dropped(self, boundary: str, reason: Drop, count: int) -> None:
        self._counters.dropped[boundary, reason] += count


def _slice(frame: bytes, start: int, end: int) -> Part:
    """``frame[start:end]`` so that keeping it does not keep much more than it."""
    if start == 0 and end == len(frame):
        return frame
    if end - start > LARGE_FRAME_BYTES and 2 * (end - start) > len(frame):
        return memoryview(frame)[start:end]
    return frame[start:end]
