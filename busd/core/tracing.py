"""The way that a message or call of an endpoint would take, step by step, without sending anything.

It asks what the path of a message asks, in the same order, of the same objects; but it counts, charges, caches and
queues nothing, so that looking changes nothing for who is looked at.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from busd.core.explanation import exports_about
from busd.core.gate import BY_DESIGN
from busd.core.policy import Decision
from busd.core.service import Group, Service
from busd.core.session import Session
from busd.core.space import SHOWN
from busproto.subjects import is_reserved, matches

if TYPE_CHECKING:
    from busd.core.bus import Bus

__all__ = ["Question", "trace"]

ADMINISTERS: Final = "$bus.admin.policy.explain"
"""Who may call this may have anyone's way explained, and read the rule itself."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked."""

    verb: str
    """``publish`` or ``call``."""
    subject: str
    """A valid one."""
    size: int
    """Bytes that the envelope would have."""
    served: frozenset[str]
    """Subjects that the broker answers itself."""


def administers(session: Session) -> bool:
    """Whether ``session`` may have others' ways explained: the node's own, as far as policy lets them administer."""
    return session.principal.is_node and session.view.rights.decide("call", ADMINISTERS).allowed


def trace(bus: "Bus", asker: Session, sender: Session, question: Question, now: float) -> dict[str, Any]:
    """What would become of it if ``sender`` did what is asked; ``asker`` is shown as much of that as it may see."""
    decision = _decide(sender, question)
    told: dict[str, Any] = {
        "subject": question.subject,
        "verb": question.verb,
        "tenant": sender.space.tenant,
        "allowed": decision.allowed,
        "rule": decision.where,
        "rule_text": decision.rule.text if decision.rule is not None and administers(asker) else None,
        "sender": _sender(sender, now),
        "exports": exports_about(bus.policy, sender.principal, question.verb, question.subject),
        "receivers": [],
        "groups": [],
        "chosen": None,
    }
    if question.verb == "publish" and (decision.allowed or is_reserved(question.subject)):
        told["receivers"] = _receivers(asker, sender, question)  # of what the broker itself publishes, too
    if not decision.allowed:
        outcome, reason = "denied", f"denied: {decision.reason}"
    elif question.verb == "publish":
        outcome, reason = _published(told["receivers"])
    else:
        groups = sender.space.groups_for(question.subject)
        chosen = _chosen(groups)
        told["groups"] = [_group(asker, group, chosen) for group in groups]
        told["chosen"] = None if chosen is None else chosen.session.name
        outcome, reason = _called(sender, question, groups, chosen)
    return {**told, "outcome": outcome, "reason": reason}


def _decide(sender: Session, question: Question) -> Decision:
    """As `busd.core.gate.Gate` decides."""
    verb, subject = question.verb, question.subject
    if verb == "publish" and is_reserved(subject):
        return Decision(False, None, BY_DESIGN, "only the broker publishes under $bus.")
    if verb == "publish" and sender.space.node is None and subject.startswith(f"{SHOWN}."):
        reason = f"under {SHOWN}. the node sees what tenants show it; nobody else publishes there"
        return Decision(False, None, BY_DESIGN, reason)
    return sender.view.rights.decide(verb, subject)


def _sender(sender: Session, now: float) -> dict[str, Any]:
    """Who it would come from, as the broker stamps it, and what that one may still do."""
    principal = sender.principal
    return {
        "endpoint": sender.name,
        "boundary": principal.boundary,
        "tenant": principal.tenant,
        "unit": principal.unit,
        "generation": principal.generation,
        "account": sender.account.name,
        "charges": sender.charges(),
        "rates": sender.account.rates(now),
        "throttled": sender.account.debts(now),
    }


def _receivers(asker: Session, sender: Session, question: Question) -> list[dict[str, Any]]:
    """Each subscription that would match, and what its endpoint's queue would do. The node's are shown to the node."""
    space, subject = sender.space, question.subject
    found = [(subject, subscription) for subscription in space.subscriptions_to(subject)]
    if space.node is not None and asker.principal.is_node and any(matches(each, subject) for each in space.shown):
        shown_as = f"{SHOWN}.{space.tenant}.{subject}"
        found += [(shown_as, subscription) for subscription in space.node.subscriptions_to(shown_as)]
    rows = []
    for seen_as, subscription in found:
        receiver = subscription.session
        actor = None if seen_as == subject else sender.account.name
        lost = receiver.outbox.would_lose(question.size, 1, actor)
        rows.append(
            {
                "endpoint": receiver.name,
                "component": receiver.claims.get("component"),
                "pattern": subscription.pattern,
                "as": seen_as,
                "subscription": subscription.id,
                "latest": subscription.latest,
                "queued_messages": receiver.outbox.messages,
                "queued_bytes": receiver.outbox.bytes,
                "limit_messages": receiver.quotas.outbox_messages,
                "limit_bytes": receiver.quotas.outbox_bytes,
                "would_lose": None if lost is None else str(lost),
            }
        )
    return rows


def _published(receivers: list[dict[str, Any]]) -> tuple[str, str]:
    """What becomes of a message, as one word and as a sentence."""
    if not receivers:
        return "nobody", "no subscription matches: it would reach nobody"
    endpoints = {row["endpoint"] for row in receivers}
    reached = {row["endpoint"] for row in receivers if row["would_lose"] is None}
    said = f"{_counted(len(receivers), 'matching subscription')} of {_counted(len(endpoints), 'endpoint')}"
    if reached == endpoints:
        return "delivered", said
    lost = {row["would_lose"] for row in receivers if row["would_lose"] is not None}
    said += f"; {len(endpoints - reached)} of them would lose it ({', '.join(sorted(lost))}) and be told by a gap"
    return ("delivered" if reached else "lost"), said


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _chosen(groups: list[Group]) -> Service | None:
    """Who would be given the call: of the most specific pattern's group, unless that is being exchanged."""
    return None if not groups or groups[0].pins or not groups[0].members else groups[0].choose()


def _group(asker: Session, group: Group, chosen: Service | None) -> dict[str, Any]:
    """Who shares the calls on a pattern. How much the node's own hold is shown to the node."""
    members = []
    for service in group.services():
        member = service.session
        row = {"endpoint": member.name, "outstanding": service.outstanding, "chosen": service is chosen}
        seen = asker.principal.is_node or asker.principal.tenant == member.principal.tenant
        held = {"used": len(member.held), "limit": member.quotas.held_calls} if seen else None
        members.append({**row, "component": member.claims.get("component"), "held_calls": held})
    return {"pattern": group.pattern, "group": group.name, "members": members}


def _called(sender: Session, question: Question, groups: list[Group], chosen: Service | None) -> tuple[str, str]:
    """What becomes of a call, as one word and as a sentence."""
    subject = question.subject
    if subject in question.served or (groups and is_reserved(subject)):
        return "delivered", "the broker answers this itself"
    if is_reserved(subject):
        return "nobody", "the broker has no such service"
    if not groups:
        return "nobody", "nobody serves it: the call would end as no-responders"
    first = f"{groups[0].pattern} is the most specific pattern that matches; "
    if chosen is None:
        waiting = len(groups[0].waiting)
        return "waits", first + f"who answers it is being exchanged, and {waiting} calls wait for that"
    responder = chosen.session
    said = first + f"{responder.name} has the fewest calls outstanding in its group"
    why = ""
    if len(sender.calls) >= sender.quotas.calls:
        why = f"{sender.name} has as many calls in flight as it may ({len(sender.calls)})"
    elif len(responder.held) >= responder.quotas.held_calls:
        why = f"{responder.name} holds as many calls as it may ({len(responder.held)})"
    elif responder.outbox.would_lose(question.size, 1, None) is not None:
        why = f"{responder.name} reads too slowly: its outbox is full"
    return ("overloaded", f"{said}, but {why}") if why else ("delivered", said)
