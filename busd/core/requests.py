"""What an endpoint asks of the bus under an id of its own: subscribe, serve, call, and their ends."""

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from busd.core.account import Accounts
from busd.core.calls import Calls
from busd.core.counters import Counters
from busd.core.gate import Gate
from busd.core.introspection import SERVICES
from busd.core.reasons import Departure
from busd.core.service import Group, Service
from busd.core.session import Session
from busd.core.space import SHOWN
from busd.core.subscription import Subscription
from busd.core.tap import MONITOR
from busproto import envelope
from busproto.envelope import Status
from busproto.errors import BusError, Code
from busproto.limits import VALUE_BYTES
from busproto.subjects import check_name, check_pattern, check_subject, is_reserved, matches

if TYPE_CHECKING:
    from busd.core.bus import Bus

BEHALF: Final = 6
"""Place of the field of a call that names a call which the caller holds and acts for."""

REQUEST_ITEMS: Final = 64
"""Entries in one list or map of a request to the broker itself: none of its services takes more than a few."""

_NIL: Final = envelope.pack(None)


class Requests:
    """Handles requests: each is answered by a reply with its id, or ends as a call does.

    The methods that handle one envelope take the session it came from, the envelope, the frame with the place of the
    envelope in it, and the time.
    """

    __slots__ = ("_accounts", "_bus", "_calls", "_counters", "_gate", "_origin")

    def __init__(
        self, bus: "Bus", gate: Gate, accounts: Accounts, calls: Calls, counters: Counters, origin: bytes
    ) -> None:
        """``origin`` goes before the answers, which are the broker's own."""
        self._gate = gate
        self._accounts = accounts
        self._bus = bus
        self._calls = calls
        self._counters = counters
        self._origin = origin

    # -- subscribe and serve ------------------------------------------------------------------------------------------

    def subscribe(self, session: Session, message: list[Any], frame: bytes, start: int, end: int, now: float) -> None:
        """Let the session receive what matches a pattern."""
        _, id, pattern, options = message[:4]
        try:
            check_pattern(pattern)
            latest = _options(pattern, options, latest=False)["latest"]
            if not isinstance(latest, bool):
                raise BusError(Code.REQUEST_INVALID, subject=pattern, reason="latest must be true or false")
            seconds = now - session.attached_at
            session.quotas.check("subscriptions", len(session.subscriptions), session.name, seconds)
            self._gate.pattern(session, "subscribe", pattern, now)
            self._accounts.charge(session.account, "subscriptions", 1, now)
        except BusError as error:
            if self._bus.taps.all:
                self._bus.taps.refused(session, "subscribe", pattern, error, now, id=id)
            self.refuse(session, id, error)
            return
        subscription = session.subscriptions[id] = Subscription(session, id, pattern, latest=latest)
        session.outbox.settle()
        session.space.subscribe(subscription)
        self._accept(session, id)

    def unsubscribe(self, session: Session, message: list[Any], frame: bytes, start: int, end: int, now: float) -> None:
        """End a subscription."""
        _, id, standing = message[:3]
        subscription = session.subscriptions.get(standing)
        if subscription is None:
            self.refuse(session, id, BusError(Code.ID_UNKNOWN, what="subscription", id=standing))
            return
        self._end_subscription(session, subscription)
        session.outbox.settle()
        self._accept(session, id)

    def serve(self, session: Session, message: list[Any], frame: bytes, start: int, end: int, now: float) -> None:
        """Let the session answer calls on the subjects of a pattern."""
        _, id, pattern, options = message[:4]
        try:
            check_pattern(pattern)
            if is_reserved(pattern):
                raise BusError(Code.SUBJECT_RESERVED, subject=pattern)
            group = _options(pattern, options, group="default")["group"]
            if (reason := check_name(group)) is not None:
                raise BusError(Code.REQUEST_INVALID, subject=pattern, reason=f"group {reason}")
            session.quotas.check("services", len(session.services), session.name, now - session.attached_at)
            self._gate.pattern(session, "serve", pattern, now)
            self._accounts.charge(session.account, "services", 1, now)
            try:
                session.services[id] = session.space.serve(session, id, pattern, group)
            except BusError:
                self._accounts.release(session.account, "services", 1)
                raise
        except BusError as error:
            if self._bus.taps.all:
                self._bus.taps.refused(session, "serve", pattern, error, now, id=id)
            self.refuse(session, id, error)
            return
        self._accept(session, id)

    def unserve(self, session: Session, message: list[Any], frame: bytes, start: int, end: int, now: float) -> None:
        """Take an offer to serve back."""
        _, id, standing = message[:3]
        service = session.services.get(standing)
        if service is None:
            self.refuse(session, id, BusError(Code.ID_UNKNOWN, what="service", id=standing))
            return
        self._end_service(session, service)
        self._accept(session, id)

    def end_all(self, session: Session) -> None:
        """``session`` leaves: it receives and serves nothing more."""
        for subscription in list(session.subscriptions.values()):
            self._end_subscription(session, subscription)
        for service in list(session.services.values()):
            self._end_service(session, service)

    def _end_subscription(self, session: Session, subscription: Subscription) -> None:
        del session.subscriptions[subscription.id]
        self._accounts.release(session.account, "subscriptions", 1)
        session.space.unsubscribe(subscription)

    def _end_service(self, session: Session, service: Service) -> None:
        del session.services[service.id]
        self._accounts.release(session.account, "services", 1)
        session.space.unserve(service)

    # -- calls --------------------------------------------------------------------------------------------------------

    def call(
        self,
        session: Session,
        message: list[Any],
        frame: bytes,
        start: int,
        end: int,
        now: float,
        resumed: bool = False,
    ) -> None:
        """Give a call to whoever serves its subject; the broker itself serves ``$bus.``.

        One that is ``resumed`` has waited before, and was paid for then.
        """
        id, subject = message[1], message[2]
        groups = session.view.groups.decisions
        behalf = None
        try:
            if subject not in groups:
                check_subject(subject)
                if subject in SERVICES:
                    self._gate.subject(session, "call", subject, now)
                    self._answer(session, id, subject, message[5], now)
                    return
                if subject == MONITOR:
                    self._gate.node_only(session, "call", subject, "a monitor sees what all tenants say", now)
                    self._monitor(session, message, now)
                    return
                self._gate.group(session, subject, now)
            if len(message) > BEHALF and message[BEHALF] is not None:
                behalf = self._gate.behalf(session, message[BEHALF], subject, now)
        except BusError as error:
            if self._bus.taps.all:
                self._bus.taps.refused(session, "call", subject, error, now, id=id)
            if error.code == Code.DENIED:
                self._calls.deny(session, id, error)
            else:
                self.refuse(session, id, error)
            return
        if session.account.calls is not None and not resumed:
            session.account.calls.spend(1, now)
        if self._bus.draining:
            self._calls.refuse(session, id, Status.OVERLOADED, code=Code.DRAINING, what="calls")
            return
        group = groups[subject]
        if group is not None and group.pins:
            self._calls.wait(session, group, message, frame[start:end], now)
            return
        self._calls.start(session, group, message, frame, start, end, now, behalf)

    def _monitor(self, session: Session, message: list[Any], now: float) -> None:
        """Let the session see what passes, for as long as it waits for its call."""
        id, subject = message[1], message[2]
        try:
            if len(message[5]) > VALUE_BYTES:
                raise BusError(Code.PAYLOAD_TOO_LARGE, size=len(message[5]), limit=VALUE_BYTES)
            session.quotas.check("calls", len(session.calls), session.name, now - session.attached_at)
            tap = self._bus.taps.open(session, message, now)
        except BusError as error:
            if error.code == Code.QUOTA_EXCEEDED:
                self._counters.count_quota(error)
                self._calls.refuse(session, id, Status.OVERLOADED, subject=subject, reason=error.text)
            else:
                self.refuse(session, id, error)
            return
        self._calls.watch(tap, message[3] / 1000, now)

    def resume(self, group: Group, now: float) -> None:
        """``group`` gives calls out again: what waited is asked for as if it came now, by the rights of now."""
        for waiting in list(group.waiting):
            caller = waiting.caller
            assert caller is not None
            self._calls.resume(waiting)
            request = waiting.request
            request[3] = max(1, round((waiting.due - now) * 1000))
            self.call(caller, request, waiting.data, 0, len(waiting.data), now, resumed=True)

    def reply(self, session: Session, message: list[Any], frame: bytes, start: int, end: int, now: float) -> None:
        """Pass on the reply to a call that the session holds."""
        if message[2] > Status.ERROR:
            reason = f"status {message[2]} is for the broker to give"
            error = BusError(Code.ENVELOPE_FIELDS, kind="reply", reason=reason)
            self._bus.end(session, error, Departure.PROTOCOL_ERROR, now)
            return
        self._calls.reply(session, message, frame, start, end, now)

    def cancel(self, session: Session, message: list[Any], frame: bytes, start: int, end: int, now: float) -> None:
        """Cancel a call that the session made."""
        self._calls.cancel(session, message[1], now)

    # -- rights that are taken back -----------------------------------------------------------------------------------

    def withdraw(self, session: Session) -> int:
        """End what ``session`` may not have any more, and tell it; how many subscriptions and services that was."""
        rights = session.view.rights
        ended: list[tuple[int, str, str, str]] = []
        for subscription in list(session.subscriptions.values()):
            decision = rights.decide_pattern("subscribe", subscription.pattern)
            if not decision.allowed:
                self._end_subscription(session, subscription)
                ended.append((subscription.id, "subscribe", subscription.pattern, decision.reason))
        for service in list(session.services.values()):
            decision = rights.decide_pattern("serve", service.pattern)
            if not decision.allowed:
                self._end_service(session, service)
                ended.append((service.id, "serve", service.pattern, decision.reason))
        session.outbox.withdraw(partial(_may_have, session))
        for id, action, subject, reason in ended:
            error = BusError(Code.RIGHT_WITHDRAWN, action=action, subject=subject, reason=reason)
            session.outbox.put_control(self._origin, envelope.error(id, error.body()))
        return len(ended)

    # -- answers ------------------------------------------------------------------------------------------------------

    def refuse(self, session: Session, id: int | None, error: BusError) -> None:
        """Tell ``session`` that a request was refused: by a reply if it has an id of its own, else by an error."""
        self._counters.refuse(error)
        if id is None or error.code == Code.ID_IN_USE:
            # A reply to an id that is in use would end the request that it stands for.
            data = envelope.error(id, error.body())
        else:
            data = envelope.reply(id, Status.ERROR, None, envelope.pack(error.body()))
        session.outbox.put_control(self._origin, data)

    def _accept(self, session: Session, id: int) -> None:
        session.outbox.put_control(self._origin, envelope.reply(id, Status.OK, None, _NIL))

    def _answer(self, session: Session, id: int, subject: str, payload: bytes | memoryview, now: float) -> None:
        """Answer a call to one of the broker's own services."""
        service = SERVICES.get(subject)
        if service is None:
            self._calls.refuse(session, id, Status.NO_RESPONDERS, subject=subject)
            return
        try:
            if len(payload) > VALUE_BYTES:
                raise BusError(Code.PAYLOAD_TOO_LARGE, size=len(payload), limit=VALUE_BYTES)
            request = envelope.unpack(payload, REQUEST_ITEMS) if len(payload) else None
            data = envelope.pack(service(self._bus, session, request, now))
        except BusError as error:
            self.refuse(session, id, error)
            return
        if session.outbox.put(self._origin, envelope.reply(id, Status.OK, None, data), 1):
            self._counters.calls["reply"] += 1
            if self._bus.taps.all:
                self._bus.taps.answered(session, id, subject, Status.OK, bytes=len(data))
        else:
            self._calls.refuse(session, id, Status.OVERLOADED, subject=subject, reason="the caller's outbox is full")


def _may_have(session: Session, subject: str) -> bool:
    """Whether ``session`` may still be given what was published on ``subject``, as it sees it."""
    if not any(matches(subscription.pattern, subject) for subscription in session.subscriptions.values()):
        return False
    first, _, rest = subject.partition(".")
    if session.space.node is not None or first != SHOWN:
        return True
    tenant, _, own = rest.partition(".")
    return any(
        matches(pattern, own) for space in session.space.tenants if space.tenant == tenant for pattern in space.shown
    )


def _options(pattern: str, options: dict[str, Any], **known: Any) -> dict[str, Any]:
    """``known`` with what ``options`` say. Raises BusError 2008 for an unknown option (README, "Evolution")."""
    for name in options:
        if name not in known and not name.startswith("x-"):
            raise BusError(Code.REQUEST_INVALID, subject=pattern, reason=f"unknown option {name[:64]!a}")
    return {**known, **options}
