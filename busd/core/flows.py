"""Who may reach whom: a policy's rules joined where their patterns overlap, within a space and through exports.

The picture errs to one side: it leaves out nothing that the policy allows, and it may show a flow of which a denial
that is narrower than both ends takes a part away.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from busd.core.explanation import shown_as, tenants_of
from busd.core.policy import Policy
from busd.core.principal import NODE_TENANT
from busd.core.rules import Export, Rule, Selector
from busd.core.space import SHOWN
from busproto.subjects import common, covers

__all__ = ["BROKER", "Flow", "Spaces", "flows", "spaces_of"]

BROKER: Final = "the broker"
"""Who publishes and serves under ``$bus.``, in every space."""

_RESERVED: Final = "$bus.>"

PAIRS: Final = (("publish", "subscribe"), ("call", "serve"), ("delegate", "call"))
"""Which verbs meet. The last: a worker that may call does so on behalf of whoever delegates."""


class Spaces(NamedTuple):
    """Tenants' spaces."""

    named: frozenset[str]
    tenants: bool
    """Every tenant's but the node's."""

    def __and__(self, other: "Spaces") -> "Spaces":
        """The spaces that are in both."""
        named = self.named & other.named
        if other.tenants:
            named |= self.named - {NODE_TENANT}
        if self.tenants:
            named |= other.named - {NODE_TENANT}
        return Spaces(named, self.tenants and other.tenants)

    def __bool__(self) -> bool:
        return bool(self.named) or self.tenants

    def __str__(self) -> str:
        if not self.tenants:
            return ",".join(sorted(self.named))
        return "each tenant" + (",node" if NODE_TENANT in self.named else "")


NODE: Final = Spaces(frozenset({NODE_TENANT}), False)
EVERY: Final = Spaces(frozenset({NODE_TENANT}), True)


def spaces_of(who: Selector) -> Spaces:
    """Where those whom a rule is about speak: what ``tenant=`` says; else host and SoC in the node's space and guests
    in their tenant's."""
    if who.tenants is not None:
        return Spaces(who.tenants, False)
    named = {NODE_TENANT} if set(who.boundaries) & {"host", "soc"} else set()
    return Spaces(frozenset(named), "guest" in who.boundaries)


@dataclass(frozen=True, slots=True)
class Flow:
    """One way that something can go."""

    kind: str
    """The sender's verb: publish, call, or delegate."""
    sender: str
    """Whom its rule is about, as written."""
    sender_rule: str
    """The rule's place; empty for the broker."""
    receiver: str
    receiver_rule: str
    subject: str
    """The pattern of the subjects on which it goes, as the receiver sees them."""
    space: str
    """The spaces in which it goes; ``acme > node`` where it crosses."""
    export: str
    """The place of the export that lets it cross; empty within a space."""

    def describe(self) -> dict[str, Any]:
        """As ``bus policy graph`` prints it."""
        return {
            "kind": self.kind,
            "sender": self.sender,
            "sender_rule": self.sender_rule or None,
            "subject": self.subject,
            "space": self.space,
            "receiver": self.receiver,
            "receiver_rule": self.receiver_rule or None,
            "export": self.export or None,
        }


class _End(NamedTuple):
    """One pattern of one rule, at one end of flows."""

    who: str
    where: str
    pattern: str
    spaces: Spaces
    rule: Rule | None


def flows(policy: Policy) -> list[Flow]:
    """Every flow that the policy allows, in the order of the rules."""
    found: dict[Flow, None] = {}
    for sending, receiving in PAIRS:
        senders, receivers = _ends(policy, sending), _ends(policy, receiving)
        for sender in senders:
            for receiver in receivers:
                for flow in _between(policy, sending, receiving, sender, receiver):
                    found[flow] = None
    return list(found)


def _ends(policy: Policy, verb: str) -> list[_End]:
    ends = [
        _End(rule.who_text, rule.where, pattern, spaces_of(rule.who), rule)
        for rule in policy.rules
        if rule.allow and verb in rule.verbs
        for pattern in rule.patterns
    ]
    if verb in ("publish", "serve"):
        ends.append(_End(BROKER, "", _RESERVED, EVERY, None))
    return ends


def _between(policy: Policy, sending: str, receiving: str, sender: _End, receiver: _End) -> Iterator[Flow]:
    def flow(subject: str, space: str, export: str = "") -> Flow:
        return Flow(sending, sender.who, sender.where, receiver.who, receiver.where, subject, space, export)

    subject = common(sender.pattern, receiver.pattern)
    # A worker calls in its own space, and holds calls of that space and those that an export brings to the node.
    reach = Spaces(sender.spaces.named | NODE.named, sender.spaces.tenants) if sending == "delegate" else sender.spaces
    spaces = reach & receiver.spaces
    if (
        subject is not None
        and spaces
        and _both_open(policy, (sending, sender, subject), (receiving, receiver, subject))
    ):
        yield flow(subject, str(spaces))
    if sending == "delegate" or not receiver.spaces & NODE:
        return
    for export in policy.exports:
        if export.kind == ("stream" if sending == "publish" else "service"):
            for sent, seen, space in _crossings(export, sender, receiver):
                if _both_open(policy, (sending, sender, sent), (receiving, receiver, seen)):
                    yield flow(seen, f"{space} > node", export.where)


def _crossings(export: Export, sender: _End, receiver: _End) -> Iterator[tuple[str, str, str]]:
    """``(subject as sent, as received, from which spaces)`` of what ``export`` carries from one end to the other."""
    spaces = sender.spaces & _far_spaces(export)
    if not spaces or receiver.rule is None:
        return
    for pattern in export.patterns:
        sent = common(sender.pattern, pattern)
        if sent is None:
            continue
        if export.kind == "service":
            if (seen := common(sent, receiver.pattern)) is not None:
                yield seen, seen, str(spaces)
        else:
            for tenant in ["*"] if spaces.tenants else sorted(spaces.named):
                if (seen := common(f"{SHOWN}.{tenant}.{sent}", receiver.pattern)) is not None:
                    yield sent, seen, str(spaces) if tenant == "*" else tenant


def _far_spaces(export: Export) -> Spaces:
    return Spaces(frozenset(), True) if export.tenants is None else Spaces(export.tenants, False)


def _both_open(policy: Policy, *ends: tuple[str, _End, str]) -> bool:
    return all(_open(policy, verb, end, subject) for verb, end, subject in ends)


def _open(policy: Policy, verb: str, end: _End, subject: str) -> bool:
    """Whether the rule of ``end`` can decide ``subject``: no earlier rule about all of its principals does."""
    if end.rule is None:
        return True
    for rule in policy.rules:
        if rule is end.rule:
            return True
        if (
            verb in rule.verbs
            and rule.who.includes(end.rule.who)
            and any(covers(pattern, subject) for pattern in rule.patterns)
        ):
            return False
    return True


def unused_exports(policy: Policy) -> list[tuple[Export, str]]:
    """Exports through which nothing can go, and what is missing."""
    found = []
    for export in policy.exports:
        near, far = ("serve", "call") if export.kind == "service" else ("subscribe", "publish")
        patterns = export.patterns if export.kind == "service" else tuple(shown_as(export))
        if not _anybody(policy, far, export.patterns, _far_spaces(export)):
            found.append((export, f"no rule lets anybody of {tenants_of(export)} {far} {','.join(export.patterns)}"))
        elif not _anybody(policy, near, patterns, NODE):
            found.append((export, f"no rule lets anybody of the node {near} {','.join(patterns)}"))
    return found


def _anybody(policy: Policy, verb: str, patterns: tuple[str, ...], spaces: Spaces) -> bool:
    """Whether some rule lets somebody in ``spaces`` do ``verb`` on a part of ``patterns``."""
    return any(
        end.spaces & spaces
        and (subject := common(end.pattern, pattern)) is not None
        and _open(policy, verb, end, subject)
        for end in _ends(policy, verb)
        for pattern in patterns
    )
