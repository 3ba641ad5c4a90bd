"""The bus: frames come in from sessions, frames for sessions go out. No I/O, no clock; the time is an argument.

Whoever drives it (the edge, a test) does three things: ``receive`` what a peer sent; ``take`` what is to be sent to
each session that ``ready`` names, then close and ``detach`` it if it is closing; ``expire`` when ``next_deadline`` has
come.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from math import inf
from typing import Any, Final

from busd.core.account import UNBOUNDED, Account, Accounts, Rates, Room, account_of
from busd.core.arrivals import Arrivals
from busd.core.audit import AuditTrail
from busd.core.blocks import Blocks
from busd.core.calls import Calls
from busd.core.census import Census, check_claims
from busd.core.counters import Counters, TenantCounters
from busd.core.deadlines import Alarm
from busd.core.fanout import Fanout
from busd.core.gate import Gate
from busd.core.introspection import BROKER
from busd.core.ledger import Ledger
from busd.core.outbox import Outbox, Part
from busd.core.policy import Policy
from busd.core.principal import BOUNDARIES, NODE_TENANT, Principal
from busd.core.quotas import Quotas, exceeded
from busd.core.reasons import Departure, Drop
from busd.core.relay import Relay
from busd.core.requests import Requests
from busd.core.rules import VERBS
from busd.core.session import Session
from busd.core.space import Plan
from busd.core.states import TRANSITIONS, State
from busd.core.statistics import BoundaryStatistics, BusStatistics, TenantStatistics
from busd.core.tap import MONITOR
from busd.core.taps import Taps
from busd.core.tenancy import Tenancy
from busd.core.units import Receipt, Unit, Units, take_down
from busproto import envelope
from busproto.envelope import KIND_NAMES, SKIPPABLE, VERSION, Batch, Decoder, Kind, Status
from busproto.errors import BusError, Code
from busproto.limits import BATCH_BYTES, FRAME_BYTES, ID_FIRST

RUN_MESSAGES: Final = 8192
"""Messages that are forwarded as one slice: half of what a frame may hold, so that a slice always fits into one."""

WHOLE: Final = 1 << 30
"""More things than a frame can hold: all of it is handled at once."""

UNKNOWN_WEIGHT: Final = 8
"""What a subject weighs more that was not seen before: who receives it has to be found among all subscriptions."""

RECEIVERS_WEIGHT: Final = 16
"""Receivers of a run that weigh as much as a call."""

_REQUESTS: Final = frozenset({Kind.SUBSCRIBE, Kind.UNSUBSCRIBE, Kind.SERVE, Kind.UNSERVE, Kind.CALL})
"""Kinds whose first field is an id of the sender's own choice."""

_RELAYED: Final = frozenset({Kind.CALL, Kind.REPLY})
"""Kinds of which several in a row are forwarded as one piece."""

_Handler = Callable[[Session, list[Any], bytes, int, int, float], None]


class Bus:
    """One node's bus."""

    def __init__(
        self,
        *,
        node: str,
        software: str,
        policy: Policy,
        now: float,
        quotas: Quotas | None = None,
        owners: frozenset[int] | None = None,
        guest_rates: Rates = UNBOUNDED,
        user_rates: Rates = UNBOUNDED,
        require_manifest: bool = False,
        tenants: Iterable[str] = (),
    ) -> None:
        """``node`` is this node's name, ``software`` the broker's name and version, ``now`` the time it starts.

        ``owners`` are the users of the host that the node belongs to (None: all of them); ``user_rates`` go for the
        others, ``guest_rates`` for each tenant. With ``require_manifest`` nobody gets in who does not say whose he is.
        ``tenants`` have figures of their own.
        """
        self.node = node
        self.software = software
        self.started = now
        self.quotas = quotas or Quotas()
        self.census = Census(self.quotas.departures)
        self.units = Units()
        self.blocks = Blocks()
        self.draining = False
        self.require_manifest = require_manifest
        self.alarm = Alarm()
        """Earlier than `next_deadline` was when it was last asked? Then it is time to ask again."""
        self.components: Mapping[str, Mapping[str, Any]] = {}
        """What ``$bus.components`` answers, by component: whoever supervises them keeps it up to date."""
        self.daemon: Callable[[], Mapping[str, Any] | None] = lambda: None
        """What ``$bus.stats`` says of the process that the bus runs in."""
        self.audit = AuditTrail(self.alarm)
        """What is to be written down; take it and write it."""
        self._origin = envelope.origin(BROKER, "host", NODE_TENANT, "", 0)
        self._counters = Counters(tenants)
        self._relay = Relay()
        self._accounts = Accounts(self.quotas, owners=owners, guest=guest_rates, user=user_rates)
        self._tenancy = Tenancy(policy, self.quotas)
        self._gate = Gate(self.audit, self._counters)
        self.taps = Taps(node=node, trail=self.audit, relay=self._relay, alarm=self.alarm)
        """Who monitors the traffic."""
        self._calls = Calls(self._origin, self._accounts, self._counters, self._relay, self.taps, self.alarm)
        self._decoder = Decoder()
        self._fanout = Fanout(self._tenancy, self._relay, self._decoder, self._origin)
        self._requests = Requests(self, self._gate, self._accounts, self._calls, self._counters, self._origin)
        self._arrivals = Arrivals(self._accounts, self._counters, self.quotas, self.alarm)
        self._sessions: dict[Session, Outbox] = {}
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

        Raises BusError 4003 when there is no room, 3009 when its unit does not stand, 5001 when the bus is draining.
        """
        if self.draining:
            raise BusError(Code.DRAINING, what="connections")
        self.units.check(principal)
        account = self._accounts.enter(principal, now)
        try:
            self._accounts.charge(account, "endpoints", 1, now)
        except BusError as error:
            self._counters.count_quota(error)
            self._accounts.leave(account, now)
            used, limit = error.fields["used"], error.fields["limit"]
            raise BusError(Code.TOO_MANY_CONNECTIONS, used=used, limit=limit, holder=account.name) from None
        session = self._open(principal, account, now, link)
        self._sessions[session] = session.outbox
        self._arrivals.expect_hello(session, now)
        return session

    def attach_inside(self, pattern: str, now: float, link: object) -> Session:
        """The broker's own endpoint, which answers calls on ``pattern``. It is no endpoint of the census."""
        principal = Principal("host", NODE_TENANT, "host", 0)
        session = self._open(principal, self._accounts.own(now), now, link)
        session.state = State.OPEN
        session.name = BROKER
        session.origin = self._origin
        session.services[ID_FIRST] = session.space.serve(session, ID_FIRST, pattern, "default")
        return session

    def _open(self, principal: Principal, account: Account, now: float, link: object) -> Session:
        session = Session(principal, self._tenancy.enter(principal), account, self.quotas, now, link)
        wake, count_drop = partial(self._ready.append, session), self._count_drop[principal.boundary]
        session.tally = tally = self._counters.tenants.get(principal.tenant)
        if tally is not None:
            count_drop = partial(self._dropped_of, tally, principal.boundary)
        session.outbox = Outbox(self.quotas, Room(self._accounts, account), wake, count_drop)
        return session

    def receive(self, session: Session, frame: bytes, now: float, weight: int = WHOLE) -> bool:
        """``session`` sent ``frame``. Raises nothing that a peer can cause: a violation ends the session instead.

        At most about ``weight`` things are done, of which a call is one and messages in a row to the same receivers
        are. False if some are left: ``proceed`` must be called, until it is True, before this is called again.
        """
        if session.state is State.CLOSING:
            return True
        try:
            batch = self._decoder.decode(frame, fold=True, limit=session.envelopes)
        except BusError as error:
            self.end(session, error, Departure.PROTOCOL_ERROR, now)
            return True
        boundary = session.principal.boundary
        count = sum(batch.counts)
        self._counters.received_messages[boundary] += count
        self._counters.received_bytes[boundary] += len(frame)
        session.received_messages += count
        session.received_bytes += len(frame)
        if session.tally is not None:
            session.tally.receive(count, len(frame))
        if len(frame) > self.quotas.max_payload and (excess := self._too_large(batch.envelopes)) is not None:
            self.end(session, excess, Departure.PROTOCOL_ERROR, now)
            return True
        if session.account.paced:
            self._pace(session.account, count, len(frame), now)
        return self._handle(session, frame, batch, 0, weight, now)

    def proceed(self, session: Session, now: float, weight: int = WHOLE) -> bool:
        """Go on with a frame of ``session`` that ``receive`` did not finish; False if there is still some left."""
        if session.rest is None or session.state is State.CLOSING:
            session.rest = None
            return True
        frame, batch, begin = session.rest
        return self._handle(session, frame, batch, begin, weight, now)

    def _handle(self, session: Session, frame: bytes, batch: Batch, begin: int, weight: int, now: float) -> bool:
        route = self._route_watched if self.taps.all else self._route
        end = route(session, frame, batch, begin, weight, now)
        self._relay.flush()
        outbox = session.outbox
        if outbox.control > self.quotas.control_bytes or (outbox.control and outbox.overdrawn):
            self.end(session, self._not_reading(session, now), Departure.NOT_READING, now)
        left = end < len(batch.envelopes) and session.state is not State.CLOSING
        session.rest = (frame, batch, end) if left else None
        return not left

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
        messages, size = outbox.delivered_messages - messages, outbox.delivered_bytes - size
        self._counters.delivered_messages[boundary] += messages
        self._counters.delivered_bytes[boundary] += size
        if session.tally is not None:
            session.tally.deliver(messages, size)
        return parts

    def detach(self, session: Session, now: float, departure: Departure = Departure.CONNECTION_LOST) -> None:
        """The connection is gone. ``departure`` says why unless the bus itself had ended the session."""
        if session not in self._sessions:
            return
        self._leave(session, departure, now)
        del self._sessions[session]
        self.hold(session, 0, now)
        self.keep(session, 0, now)
        self._tenancy.leave(session.view)
        self._accounts.release(session.account, "endpoints", 1)
        self._accounts.leave(session.account, now)
        self._counters.departures[session.principal.boundary, session.departure or departure] += 1
        session.outbox.close()
        if self.census.leave(session, now):
            self._fanout.announce("$bus.endpoints.departed", session, now)
        session.traffic.forget()

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
        """``session`` has sent ``size`` bytes of a frame that is not complete (0: it has none)."""
        try:
            self._arrivals.hold(session, size, now)
        except BusError as error:
            self.end(session, error, Departure.PROTOCOL_ERROR, now)

    def keep(self, session: Session, size: int, now: float) -> None:
        """``size`` bytes that ``session`` sent wait for its turn (0: none)."""
        try:
            self._arrivals.keep(session, size, now)
        except BusError as error:
            self.end(session, error, Departure.PROTOCOL_ERROR, now)

    def add_unit(self, unit: Unit) -> None:
        """Let ``unit`` attach. Raises BusError 3011 if it stands already, or is an earlier life of itself."""
        self.units.add(unit)

    def remove_unit(self, name: str, now: float) -> Receipt:
        """Tear unit ``name`` down: nothing of it is left when this returns. Raises BusError 3009 if it is unknown."""
        unit = self.units.remove(name)
        sessions = [
            session
            for session in self._sessions
            if session.principal.unit == name and session.principal.boundary == unit.boundary
        ]
        receipt = take_down(unit, sessions)
        error = BusError(Code.UNIT_UNKNOWN, unit=name, reason=f"generation {unit.generation} was removed")
        for session in sessions:
            self.hold(session, 0, now)
            self.keep(session, 0, now)
            session.outbox.clear()
            self.end(session, error, Departure.UNIT_REMOVED, now)
        return receipt

    def cut_off(self, name: str, error: BusError, now: float) -> bool:
        """End the session of endpoint ``name`` because of ``error``; False if it is not attached."""
        session = self.census.find(name)
        if session is None:
            return False
        self.end(session, error, Departure.CUT_OFF, now)
        return True

    def pin(self, patterns: Iterable[str]) -> Callable[[float], None]:
        """Have calls on ``patterns`` of the node's space wait: whoever serves them is being exchanged.

        They wait within their own deadlines, charged to their callers. Call what is returned, with the time, to let
        them go on, to whoever serves the patterns by then; it does nothing when called again.
        """
        space = self._tenancy.space(NODE_TENANT)
        groups = [space.pin(pattern) for pattern in dict.fromkeys(patterns)]

        def unpin(now: float) -> None:
            while groups:
                group = groups.pop(0)
                if space.unpin(group):
                    self._requests.resume(group, now)
            self._relay.flush()

        return unpin

    @property
    def policy(self) -> Policy:
        """The policy that decides."""
        return self._tenancy.policy

    def apply_policy(self, policy: Policy, now: float) -> int:
        """Decide by ``policy`` from now on. Returns how many subscriptions, offers to serve and monitors it ended."""
        self._tenancy.apply(policy)
        withdrawn = sum(self._requests.withdraw(session) for session in list(self.census))
        for tap in list(self.taps.all):
            assert tap.caller is not None
            decision = tap.caller.view.rights.decide("call", MONITOR)
            if not decision.allowed:
                self._calls.end_watch(tap, Status.DENIED, now, action="call", reason=decision.reason)
                withdrawn += 1
        self._counters.withdrawn += withdrawn
        return withdrawn

    def accounts(self, session: Session, now: float) -> list[dict[str, Any]]:
        """Who pays for what, as far as ``session`` may see it: the node all accounts, a tenant its own."""
        self._calls.settle()
        return self._accounts.describe(now, None if session.principal.is_node else session.account)

    @property
    def ledgers(self) -> Mapping[str, Ledger]:
        """What all share of the node's resources."""
        self._calls.settle()
        return self._accounts.ledgers

    def throttled(self, now: float) -> dict[str, int]:
        """How many accounts have overdrawn each rate at ``now``."""
        return self._accounts.throttled(now)

    def routed(self, seconds: float) -> None:
        """Whoever moves frames has timed one: so long after it had come all of it was in outboxes."""
        self._counters.route_seconds.observe(seconds)

    def find(self, endpoint: str) -> Principal | None:
        """The principal of an attached endpoint."""
        session = self.census.find(endpoint)
        return None if session is None else session.principal

    def next_deadline(self) -> float | None:
        """When ``expire`` is next needed, in seconds; None when nothing waits for time to pass."""
        self.alarm.at = inf
        others = (self._calls, self.audit, self.taps)
        deadlines = (*(other.next_deadline() for other in others), *self._arrivals.next())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def expire(self, now: float) -> None:
        """Do what is due at ``now``."""
        self._calls.expire(now)
        self.audit.expire(now)
        self.taps.expire(now)
        for session, error, departure in self._arrivals.expire(now):
            self.end(session, error, departure, now)

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
        """Calls whose caller waits for an end that will come: a monitor goes on for as long as it may."""
        return self._calls.in_flight - len(self.taps.all)

    @property
    def received_messages(self) -> int:
        """Envelopes received since the start."""
        return sum(self._counters.received_messages.values())

    def statistics(self) -> BusStatistics:
        """Figures of the whole bus. Takes less than a millisecond with ten thousand endpoints, unless none reads."""
        counters, calls, routes = self._counters, self._calls.statistics(), self._tenancy.routes
        boundaries = self._boundaries()
        denials = dict.fromkeys(VERBS, 0)
        for (_, verb), count in counters.denials.items():
            denials[verb] += count
        return BusStatistics(
            endpoints=dict(self.census.by_boundary),
            subscriptions=sum(each.subscriptions for each in boundaries.values()),
            services=sum(each.services for each in boundaries.values()),
            units={**dict.fromkeys(BOUNDARIES, 0), **self.units.by_boundary},
            accounts=self._accounts.connected,
            used={
                (resource, holder): used
                for resource, ledger in self.ledgers.items()
                for holder, used in (("node", ledger.owned), ("others", ledger.shared))
            },
            limits={resource: ledger.limit for resource, ledger in self.ledgers.items()},
            boundaries=boundaries,
            tenants={tenant: self._tenant(tenant, tally) for tenant, tally in counters.tenants.items()},
            calls_in_flight=calls.in_flight,
            monitors=len(self.taps.all),
            waiting_calls=calls.waiting,
            held_calls=calls.held,
            queued_messages=sum(each.queued_messages for each in boundaries.values()),
            queued_bytes=sum(each.queued_bytes for each in boundaries.values()),
            received_messages=dict(counters.received_messages),
            received_bytes=dict(counters.received_bytes),
            delivered_messages=dict(counters.delivered_messages),
            delivered_bytes=dict(counters.delivered_bytes),
            dropped_messages={(boundary, str(reason)): n for (boundary, reason), n in counters.dropped.items()},
            departures={(boundary, str(reason)): n for (boundary, reason), n in counters.departures.items()},
            calls=dict(counters.calls),
            refusals=dict(counters.refusals),
            quota_rejections=dict(counters.quota_rejections),
            denials=denials,
            denials_by_boundary=dict(counters.denials),
            withdrawn_rights=counters.withdrawn,
            skipped_envelopes=counters.skipped,
            route_cache_entries=routes.entries,
            route_cache_misses=routes.misses,
            call_seconds=counters.call_seconds.statistics(),
            route_seconds=counters.route_seconds.statistics(),
        )

    def _boundaries(self) -> dict[str, BoundaryStatistics]:
        """What there is, by boundary."""
        counters, routes = self._counters, self._tenancy.routes
        queued = {boundary: [0, 0] for boundary in BOUNDARIES}
        # The one look at every endpoint: 100 ns each, for no cache of the processor has them. To keep count would make
        # each write to one slower.
        for session, outbox in self._sessions.items():
            if outbox.bytes:
                here = queued[session.principal.boundary]
                here[0] += outbox.messages
                here[1] += outbox.bytes
        return {
            boundary: BoundaryStatistics(
                handshaking=counters.handshaking[boundary],
                subscriptions=routes.subscriptions[boundary],
                services=routes.services[boundary],
                queued_messages=queued[boundary][0],
                queued_bytes=queued[boundary][1],
                held_bytes=counters.held_bytes[boundary],
            )
            for boundary in BOUNDARIES
        }

    def _tenant(self, tenant: str, tally: TenantCounters) -> TenantStatistics:
        actor = account_of(tenant)
        return TenantStatistics(
            used={resource: ledger.share(actor) for resource, ledger in self.ledgers.items()},
            limits={resource: ledger.most(actor) for resource, ledger in self.ledgers.items()},
            received_messages=tally.received_messages,
            received_bytes=tally.received_bytes,
            delivered_messages=tally.delivered_messages,
            delivered_bytes=tally.delivered_bytes,
            dropped_messages=tally.dropped,
            denials=tally.denied,
        )

    # -- the path of a message ----------------------------------------------------------------------------------------

    def _route_watched(self, session: Session, frame: bytes, batch: Batch, first: int, weight: int, now: float) -> int:
        """As `_route`, while somebody monitors."""
        held = self.taps.look(session, batch, first, now)
        end = self._route(session, frame, batch, first, weight, now)
        self._relay.flush()
        self.taps.tell(session, frame, batch, first, end, held, now)
        return end

    def _route(self, session: Session, frame: bytes, batch: Batch, first: int, weight: int, now: float) -> int:
        """Handle the envelopes of one frame in order from ``first``, until one ends the session or ``weight`` is spent.

        Returns where to go on.

        Messages in a row that go to the same receivers are one run: one slice of the frame, one entry per receiver.
        Calls and replies in a row are one run of the relay.
        """
        envelopes, offsets, counts = batch
        plans = session.view.plans.decisions
        calls, subscriptions, services = session.calls, session.subscriptions, session.services
        forward = self._fanout.forward
        state: State = session.state
        steps = self._steps[state]
        publishing = Kind.PUBLISH in TRANSITIONS[state]
        run: Plan | None = None
        subject = ""
        begin = messages = 0
        stop = len(envelopes)
        for index, message in enumerate(envelopes[first:] if first else envelopes, first):
            if weight <= 0:
                stop = index
                break
            kind = message[0]
            plan = None
            publishes = kind == Kind.PUBLISH and publishing
            if publishes:
                plan = plans.get(message[1])
                if plan is None:
                    plan = self._plan(session, message[1], counts[index], now)
                    weight -= UNKNOWN_WEIGHT
                if plan is run and messages < RUN_MESSAGES and (run is None or not run.latest):
                    messages += counts[index]
                    continue
            if run is not None:
                forward(session, run, subject, frame, begin, offsets[index], messages)
                weight -= len(run.receivers) // RECEIVERS_WEIGHT
            run = plan
            weight -= 1
            if publishes:
                subject = message[1]
                begin = offsets[index]
                messages = counts[index]
                continue
            step = steps.get(kind)
            if step is None:
                if not self._skip(session, kind, now):
                    return index
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
                    return index
                steps = self._steps[state]
                publishing = Kind.PUBLISH in TRANSITIONS[state]
        if run is not None:
            forward(session, run, subject, frame, begin, offsets[stop], messages)
        return stop

    # -- publish and subscribe ----------------------------------------------------------------------------------------

    def _plan(self, session: Session, subject: str, count: int, now: float) -> Plan | None:
        """Who receives ``subject`` from ``session``; None, and one refusal of all ``count`` messages, if nobody may."""
        try:
            return self._gate.plan(session, subject, now)
        except BusError as error:
            if session.account.denials is not None:
                session.account.denials.spend(count - 1, now)
            if count > 1:
                # One answer for all that were alike: a frame has room for thousands.
                error = BusError(error.code, **error.fields, count=count)
                self._counters.refusals[error.name] += count - 1
                session.denied += count - 1 if error.code == Code.DENIED else 0
            if self.taps.all:
                self.taps.refused(session, "publish", subject, error, now, count=count)
            self._requests.refuse(session, None, error)
            return None

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
            self.blocks.check(session.principal, now)
            session.claims = check_claims(message[2])
            if self.require_manifest and (missing := session.unowned()):
                raise BusError(Code.MANIFEST_REQUIRED, missing=", ".join(missing))
        except BusError as error:
            self.end(session, error, Departure.REFUSED, now)
            return
        principal = session.principal
        self._arrivals.greet(session)
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
            "max_envelopes": session.envelopes,
        }
        session.outbox.put_control(None, envelope.welcome(min(message[1], VERSION), session.name, info))
        self.census.enter(session)
        self._fanout.announce("$bus.endpoints.attached", session, now)

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

    def _pace(self, account: Account, messages: int, size: int, now: float) -> None:
        if account.messages is not None:
            account.messages.spend(messages, now)
        if account.bytes is not None:
            account.bytes.spend(size, now)

    def _leave(self, session: Session, departure: Departure, now: float) -> None:
        """Take ``session`` off the bus: no subscriptions, no services, no calls. What waits for it may still go out."""
        if session.departure is not None:
            return
        session.departure = departure
        session.state = State.CLOSING
        self._arrivals.greet(session)
        self._requests.end_all(session)
        self._calls.drop_session(session, "left", now)

    def _too_large(self, envelopes: list[list[Any]]) -> BusError | None:
        limit = self.quotas.max_payload
        for message in envelopes:
            if message[0] in (Kind.PUBLISH, Kind.CALL, Kind.REPLY):
                size = len(message[{Kind.PUBLISH: 3, Kind.CALL: 5, Kind.REPLY: 4}[message[0]]])
                if size > limit:
                    return BusError(Code.PAYLOAD_TOO_LARGE, size=size, limit=limit)
        return None

    def _not_reading(self, session: Session, now: float) -> BusError:
        used, limit = session.outbox.control, self.quotas.control_bytes
        return exceeded("control_bytes", used, limit, session.name, now - session.attached_at)

    def _dropped(self, boundary: str, reason: Drop, count: int) -> None:
        self._counters.dropped[boundary, reason] += count

    def _dropped_of(self, tally: TenantCounters, boundary: str, reason: Drop, count: int) -> None:
        tally.dropped += count
        self._dropped(boundary, reason, count)
