"""Every call in flight: from the caller's request to exactly one final reply, whatever happens to either side.

The responder sees the broker's number for a call and the caller its own id; the rest of both envelopes is forwarded as
it came. A call that nobody waits for any more (cancelled, timed out, caller gone) stays with its responder as
*abandoned* until the responder finishes it: a responder that hangs keeps looking busy instead of looking free.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NoReturn

from busd.core.account import Account, Accounts
from busd.core.call import Call, Pending, Waiting
from busd.core.counters import Counters
from busd.core.deadlines import Alarm, Deadlines
from busd.core.ledger import Ledger
from busd.core.quotas import exceeded
from busd.core.reasons import Drop
from busd.core.relay import Relay
from busd.core.service import Group
from busd.core.session import Session
from busd.core.tap import Tap
from busd.core.taps import Taps
from busproto import envelope
from busproto.envelope import OUTCOMES, STATUS_CODES, Status
from busproto.errors import BusError, Code, body_of
from busproto.limits import ID_FIRST, ID_MAX


@dataclass(frozen=True, slots=True)
class CallsStatistics:
    """The calls of the whole broker."""

    in_flight: int
    """Calls whose caller waits."""
    waiting: int
    """Those of them that wait for a component to be handed over."""
    held: int
    """Calls that responders hold, abandoned ones included."""


class Calls:
    """The calls that responders hold, by the broker's number for each."""

    __slots__ = (
        "_accounts",
        "_counters",
        "_deadlines",
        "_held",
        "_last",
        "_origin",
        "_relay",
        "_taps",
        "_waiting",
        "in_flight",
    )

    def __init__(
        self, origin: bytes, accounts: Accounts, counters: Counters, relay: Relay, taps: Taps, alarm: Alarm
    ) -> None:
        """``origin`` goes before the outcomes that the broker itself decides; ``taps`` are told of those."""
        self._accounts = accounts
        self._relay = relay
        self._taps = taps
        self._origin = origin
        self._counters = counters
        self._held: dict[int, Call] = {}
        self._waiting: dict[Waiting, None] = {}
        self._deadlines: Deadlines[Pending] = Deadlines(alarm)
        self._last = ID_FIRST
        self.in_flight = 0

    def start(
        self,
        caller: Session,
        group: Group | None,
        request: list[Any],
        frame: bytes,
        start: int,
        end: int,
        now: float,
        behalf: Call | None = None,
    ) -> None:
        """Give the call envelope ``request`` (``frame[start:end]``) to one of ``group``, or end it at once.

        ``behalf`` is a call that the caller holds and acts for.
        """
        id, subject = request[1], request[2]
        if group is None:
            self.refuse(caller, id, Status.NO_RESPONDERS, subject=subject)
            return
        service = group.choose()
        responder = service.session
        first = caller if behalf is None else behalf.first
        try:
            if len(caller.calls) >= caller.quotas.calls:
                oldest = next(iter(caller.calls.values())).started
                caller.quotas.check("calls", len(caller.calls), caller.name, now - oldest)
            shares = responder.held_shares.get(first.account)
            if (
                shares is None
                or first.account.actor is not None
                or len(responder.held) >= responder.quotas.held_calls
                or not shares.charge(caller)
            ):
                self._charge(caller, first.account, responder, now)
        except BusError as error:
            self._counters.count_quota(error)
            self.refuse(caller, id, Status.OVERLOADED, subject=subject, reason=error.text)
            return
        number = self._next_number()
        origin = caller.origin if behalf is None else _behalf_origin(caller, behalf)
        full = (
            first.account.actor is not None
            and first.account is not responder.account
            and not responder.outbox.admits(origin, first.account.name, end - start)
        )
        if full or not self._relay.forward(responder.outbox, origin, frame, start, end, number):
            self._release(caller, first.account, responder)
            share = f" as far as {first.account.name} may use it" if full else ""
            reason = f"{responder.name} reads too slowly: its outbox is full{share}"
            self.refuse(caller, id, Status.OVERLOADED, subject=subject, reason=reason)
            return
        call = Call(number, caller, id, subject, service, now, first)
        call.slot = self._deadlines.add(call, now + request[3] / 1000)
        self._held[number] = responder.held[number] = caller.calls[id] = call
        group.start(service)
        caller.traffic.count(service, 1)
        self.in_flight += 1

    def wait(self, caller: Session, group: Group, request: list[Any], data: bytes, now: float) -> None:
        """Keep the call envelope ``request`` (``data``) until ``group``, which is pinned, gives calls out again."""
        account = caller.account
        try:
            if len(caller.calls) >= caller.quotas.calls:
                oldest = next(iter(caller.calls.values())).started
                caller.quotas.check("calls", len(caller.calls), caller.name, now - oldest)
            if group.shares is None:
                group.shares = Ledger(caller.quotas.held_calls)
            self._charge_waiting(group.shares, group, account, len(data), now)
        except BusError as error:
            self._counters.count_quota(error)
            self.refuse(caller, request[1], Status.OVERLOADED, subject=request[2], reason=error.text)
            return
        waiting = Waiting(caller, group, request, data, now, now + request[3] / 1000)
        waiting.slot = self._deadlines.add(waiting, waiting.due)
        group.waiting[waiting] = self._waiting[waiting] = None
        caller.calls[waiting.caller_id] = waiting
        self.in_flight += 1

    def watch(self, tap: Tap, seconds: float, now: float) -> None:
        """Let ``tap`` see what passes, until its caller cancels, is gone, or ``seconds`` have passed."""
        caller = tap.caller
        assert caller is not None
        tap.slot = self._deadlines.add(tap, now + seconds)
        caller.calls[tap.caller_id] = tap
        self.in_flight += 1
        self._taps.start(tap, now)

    def end_watch(self, tap: Tap, status: int, now: float, **fields: Any) -> None:
        """End ``tap`` with an outcome that the broker decides."""
        session = tap.caller
        assert session is not None
        self._end(tap, status, now, **fields)
        self._taps.stop(tap, session, status, now)

    def resume(self, waiting: Waiting) -> None:
        """Forget a call that waited: its caller makes it again."""
        caller = waiting.caller
        assert caller is not None
        self._deadlines.remove(waiting, waiting.slot)
        del caller.calls[waiting.caller_id]
        self.in_flight -= 1
        self._drop_waiting(waiting)

    def reply(self, responder: Session, answer: list[Any], frame: bytes, start: int, end: int, now: float) -> None:
        """Forward the reply envelope ``answer`` (``frame[start:end]``) to the caller, if it may still be answered."""
        call = responder.held.get(answer[1])
        if call is None:
            self._drop(responder, Drop.REPLY_FOREIGN)
            return
        status, caller = answer[2], call.caller
        if caller is None:
            self._drop(responder, Drop.REPLY_LATE)
        else:
            if not self._relay.forward(caller.outbox, responder.origin, frame, start, end, call.caller_id):
                reason = f"{caller.name} reads too slowly: its outbox is full"
                self._end(call, Status.OVERLOADED, now, reason=reason)
                if status == Status.PARTIAL:
                    self._tell_responder(call)
            elif status != Status.PARTIAL:
                self._leave_caller(call, status, now)
        if status != Status.PARTIAL:
            self._finish(call)

    def cancel(self, caller: Session, id: int, now: float) -> None:
        """The caller does not want call ``id`` any more. One that has ended already is nothing to complain about."""
        call = caller.calls.get(id)
        if call is not None:
            self._end(call, Status.CANCELLED, now)
            self._give_up(call, caller, Status.CANCELLED, now)

    def expire(self, now: float) -> None:
        """End what is past its deadline."""
        for call in self._deadlines.expire(now):
            caller = call.caller
            assert caller is not None
            self._end(call, Status.TIMEOUT, now, seconds=round(now - call.started, 3))
            self._give_up(call, caller, Status.TIMEOUT, now)

    def next_deadline(self) -> float | None:
        """When ``expire`` is next needed."""
        return self._deadlines.next()

    def drop_session(self, session: Session, reason: str, now: float) -> None:
        """``session`` leaves: what it waited for is abandoned, what it held ends as unknown."""
        for pending in list(session.calls.values()):
            self._leave_caller(pending, Status.CANCELLED, now)
            self._give_up(pending, session, Status.CANCELLED, now)
        for call in list(session.held.values()):
            if call.caller is not None:
                self._end(call, Status.UNKNOWN, now, reason=f"{session.name} {reason} while it held the call")
            self._finish(call)

    def end_all(self, reason: str, now: float) -> None:
        """The bus stops: every caller that waits learns that the outcome is unknown."""
        for call in list(self._held.values()):
            if call.caller is not None:
                self._end(call, Status.UNKNOWN, now, reason=reason)
        for waiting in list(self._waiting):
            self._end(waiting, Status.OVERLOADED, now, reason=f"{reason}; it was given to nobody")
            self._drop_waiting(waiting)

    def refuse(self, caller: Session, id: int, status: int, *, code: Code | None = None, **fields: Any) -> None:
        """End a call that was never given to anyone, with an outcome of the broker's."""
        body = body_of(code or STATUS_CODES[status], fields)
        self._counters.calls[OUTCOMES[status]] += 1
        caller.outbox.put_control(self._origin, envelope.reply(id, status, None, envelope.pack(body)))
        if self._taps.all:
            self._taps.answered(caller, id, str(fields.get("subject", "")), status, reason=body["text"])

    def deny(self, caller: Session, id: int, error: BusError) -> None:
        """End a call that the policy does not allow."""
        self._counters.calls[OUTCOMES[Status.DENIED]] += 1
        data = envelope.reply(id, Status.DENIED, None, envelope.pack(error.body()))
        caller.outbox.put_control(self._origin, data)

    def settle(self) -> None:
        """Bring what the owner's calls take of the shared ones up to date: they are not charged one by one."""
        ledger = self._accounts.ledgers["calls"]
        ledger.owned = max(0, len(self._held) + len(self._waiting) - ledger.shared)

    def statistics(self) -> CallsStatistics:
        """Figures of all calls."""
        return CallsStatistics(in_flight=self.in_flight, waiting=len(self._waiting), held=len(self._held))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _charge(self, caller: Session, account: Account, responder: Session, now: float) -> None:
        """Charge a call to its caller, and to the tenant that it is for. Raises BusError 4001 beyond their shares.

        (The usual case, one of the node's callers within its share, is decided by whoever calls this.)
        Callers share with others of their account only: how many endpoints a tenant has is nothing to anybody else.
        """
        limit = responder.quotas.held_calls
        if len(responder.held) >= limit:
            responder.quotas.check("held_calls", len(responder.held), responder.name, now - _oldest(responder, now))
        shares = responder.held_shares.get(account)
        if shares is None:
            shares = responder.held_shares[account] = Ledger(limit)
        if not shares.charge(caller):
            self._refuse_share(caller.name, shares, caller, responder, now)
        if account.actor is None:
            return
        tenants = responder.held_tenants
        tenants.owned = len(responder.held) - tenants.shared
        try:
            if not tenants.charge(None if account is responder.account else account):
                self._refuse_share(account.name, tenants, account, responder, now)
            self.settle()
            try:
                self._accounts.charge(account, "calls", 1, now)
            except BusError:
                tenants.release(None if account is responder.account else account)
                raise
        except BusError:
            shares.release(caller)
            raise

    def _charge_waiting(self, shares: Ledger, group: Group, account: Account, size: int, now: float) -> None:
        """Charge a call that waits to the account of its caller. Raises BusError 4001 beyond its shares."""
        actor = account.actor
        if not shares.charge(actor):
            used, most = shares.share(actor), shares.most(actor)
            oldest = next((waiting.started for waiting in group.waiting), now)
            raise exceeded("held_calls", used, most, f"{account.name} at {group.pattern}", now - oldest)
        try:
            self._accounts.charge(account, "queued_bytes", size, now)
            if actor is None:
                return
            self.settle()
            try:
                self._accounts.charge(account, "calls", 1, now)
            except BusError:
                self._accounts.release(account, "queued_bytes", size)
                raise
        except BusError:
            shares.release(actor)
            raise

    def _drop_waiting(self, waiting: Waiting) -> None:
        """It waits no more: its charges are given back."""
        group, account = waiting.group, waiting.payer
        del self._waiting[waiting], group.waiting[waiting]
        assert group.shares is not None
        group.shares.release(account.actor)
        self._accounts.release(account, "queued_bytes", len(waiting.data))
        if account.actor is not None:
            self._accounts.release(account, "calls", 1)

    def _release(self, caller: Session, account: Account, responder: Session) -> None:
        """The charge for one call is given back."""
        shares = responder.held_shares[account]
        shares.release(caller)
        if account.actor is None:
            return
        if not shares.used:
            del responder.held_shares[account]
        if account is not responder.account:
            responder.held_tenants.release(account)
        self._accounts.release(account, "calls", 1)

    def _refuse_share(self, holder: str, ledger: Ledger, actor: Hashable, responder: Session, now: float) -> NoReturn:
        """Say whose share of what ``responder`` holds is used up, and since when."""
        used, most = ledger.share(actor), ledger.most(actor)
        raise exceeded("held_calls", used, most, f"{holder} at {responder.name}", now - _oldest(responder, now))

    def _next_number(self) -> int:
        number = self._last
        while True:
            number = number + 1 if number < ID_MAX else ID_FIRST
            if number not in self._held:
                self._last = number
                return number

    def _end(self, call: Pending, status: int, now: float, **fields: Any) -> None:
        """Tell the caller an outcome that the broker decides, and let go of it."""
        caller = call.caller
        assert caller is not None
        self._relay.flush()
        body = body_of(STATUS_CODES[status], {"subject": call.subject, **fields})
        if self._taps.all and not isinstance(call, Tap):
            self._taps.ended(call, status, body["text"], now)
        caller.outbox.put_control(self._origin, envelope.reply(call.caller_id, status, None, envelope.pack(body)))
        self._leave_caller(call, status, now)

    def _leave_caller(self, call: Pending, status: int, now: float) -> None:
        """The caller has its outcome (or is gone): nobody waits for the call."""
        caller = call.caller
        assert caller is not None
        self._deadlines.remove(call, call.slot)
        del caller.calls[call.caller_id]
        call.caller = None
        self.in_flight -= 1
        self._counters.calls[OUTCOMES[status]] += 1
        self._counters.call_seconds.observe(now - call.started)

    def _tell_responder(self, call: Call) -> None:
        self._relay.flush()
        call.responder.outbox.put_control(None, envelope.cancel(call.number))

    def _give_up(self, call: Pending, caller: Session, status: int, now: float) -> None:
        """Its ``caller`` has its outcome, ``status``, or is gone: whoever has the call need not go on."""
        if isinstance(call, Call):
            self._tell_responder(call)
        elif isinstance(call, Waiting):
            self._drop_waiting(call)
        elif isinstance(call, Tap):
            self._taps.stop(call, caller, status, now)

    def _finish(self, call: Call) -> None:
        """The responder has finished the call (or is gone): nothing of it is left."""
        del self._held[call.number]
        del call.responder.held[call.number]
        account = call.first.account
        if account.actor is None:
            call.responder.held_shares[account].release(call.payer)
        else:
            self._release(call.payer, account, call.responder)
        call.service.group.finish(call.service)

    def _drop(self, responder: Session, reason: Drop) -> None:
        self._counters.dropped[responder.principal.boundary, reason] += 1
        if responder.tally is not None:
            responder.tally.dropped += 1


def _oldest(responder: Session, now: float) -> float:
    """When the oldest call that ``responder`` holds was made."""
    return next((call.started for call in responder.held.values()), now)


def _behalf_origin(caller: Session, behalf: Call) -> bytes:
    """The origin of what ``caller`` does on behalf of a call that it holds: itself, and who is behind that call."""
    if not behalf.behalf_origin:
        behalf.behalf_origin = envelope.origin(*_origin_of(caller), on_behalf_of=_origin_of(behalf.first))
    return behalf.behalf_origin


def _origin_of(session: Session) -> tuple[str, str, str, str, int]:
    principal = session.principal
    return session.name, principal.boundary, principal.tenant, principal.unit, principal.generation
