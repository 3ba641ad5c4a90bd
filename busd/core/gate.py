"""Where the policy is asked: once for each identity and subject, and whoever is turned away pays for the asking."""

from typing import Final

from busd.core.audit import AuditTrail
from busd.core.call import Call
from busd.core.counters import Counters
from busd.core.policy import Decision
from busd.core.session import Session
from busd.core.space import SHOWN, Plan
from busproto.errors import BusError, Code
from busproto.subjects import check_subject, is_reserved

BY_DESIGN: Final = "by design"
"""In place of a rule: no policy can allow it."""


class Gate:
    """Decides by the rights of the identity that asks, and keeps what is allowed in its view."""

    __slots__ = ("_counters", "_trail")

    def __init__(self, trail: AuditTrail, counters: Counters) -> None:
        self._trail = trail
        self._counters = counters

    def subject(self, session: Session, verb: str, subject: str, now: float) -> None:
        """Raise BusError 3004 unless ``session`` may do ``verb`` on ``subject`` (valid)."""
        self._pass(session, session, verb, subject, session.view.rights.decide(verb, subject), now)

    def pattern(self, session: Session, verb: str, pattern: str, now: float) -> None:
        """Raise BusError 3004 unless ``session`` may do ``verb`` on all that matches ``pattern`` (valid)."""
        self._pass(session, session, verb, pattern, session.view.rights.decide_pattern(verb, pattern), now)

    def node_only(self, session: Session, verb: str, subject: str, why: str, now: float) -> None:
        """As `subject`, and raise BusError 3004 as well if ``session`` is a tenant's, whatever the policy says."""
        self.subject(session, verb, subject, now)
        if not session.principal.is_node:
            raise self._deny(session, session, verb, subject, BY_DESIGN, why, now)

    def plan(self, session: Session, subject: str, now: float) -> Plan:
        """Who receives what ``session`` publishes on ``subject``; remembered. Raises BusError 2001, 2003, 3004."""
        view = session.view
        check_subject(subject)
        if is_reserved(subject):
            raise BusError(Code.SUBJECT_RESERVED, subject=subject)
        if view.space.node is None and subject.startswith(f"{SHOWN}."):
            reason = f"under {SHOWN}. the node sees what tenants show it; nobody else publishes there"
            raise self._deny(session, session, "publish", subject, BY_DESIGN, reason, now)
        self.subject(session, "publish", subject, now)
        plan = view.space.plan(subject)
        view.plans.put(subject, plan)
        boundary = session.principal.boundary
        others = {to for receiver in plan.sessions() if (to := receiver.principal.boundary) != boundary}
        for to in sorted(others):
            self._trail.allowed(session.principal, session.name, "publish", subject, to, now)
        return plan

    def group(self, session: Session, subject: str, now: float) -> None:
        """Find who answers ``subject`` (valid) and remember it in the view. Raises BusError 3004."""
        view = session.view
        self.subject(session, "call", subject, now)
        group = view.space.group(subject)
        view.groups.put(subject, group)
        if group is None or group.pins:
            return
        to = group.choose().session.principal.boundary
        if to != session.principal.boundary:
            self._trail.allowed(session.principal, session.name, "call", subject, to, now)

    def behalf(self, session: Session, held: object, subject: str, now: float) -> Call:
        """The call with id ``held`` that ``session`` acts for by calling ``subject``. Raises BusError 3004."""
        call = session.held.get(held) if isinstance(held, int) else None
        if call is None or call.first.closing:
            reason = "it is on behalf of a call that this endpoint does not hold"
            raise self._deny(session, session, "call", subject, BY_DESIGN, reason, now)
        first = call.first
        delegated = first.view.delegated
        if subject not in delegated.decisions:
            self._pass(session, first, "delegate", subject, first.view.rights.decide("delegate", subject), now)
            delegated.put(subject, True)
            self._trail.allowed(first.principal, first.name, "delegate", subject, session.name, now)
        return call

    def _pass(self, asking: Session, session: Session, verb: str, subject: str, decision: Decision, now: float) -> None:
        """Let a request of ``asking`` through, or turn it away: ``session`` is whose rights decide."""
        if not decision.allowed:
            raise self._deny(asking, session, verb, subject, decision.where, decision.reason, now)

    def _deny(
        self, asking: Session, session: Session, verb: str, subject: str, where: str, reason: str, now: float
    ) -> BusError:
        """Count a denial, write it down, and have who asked pay for it; the error to raise."""
        self._counters.denials[asking.principal.boundary, verb] += 1
        if asking.tally is not None:
            asking.tally.denied += 1
        asking.denied += 1
        if asking.account.denials is not None:
            asking.account.denials.spend(1, now)
        self._trail.denied(session.principal, session.name, verb, subject, where, reason, now)
        whose = "" if session is asking else f" for {session.name}"
        return BusError(Code.DENIED, action=f"{verb}{whose}", subject=subject, reason=reason)
