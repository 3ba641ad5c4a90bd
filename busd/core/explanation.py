"""Why a policy decides as it does about one principal, and what would have to change for it to decide otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from busd.core.policy import Decision, Policy
from busd.core.principal import NODE_TENANT, Principal
from busd.core.rules import VERBS, Export, Rule, selector_of, shown
from busd.core.space import SHOWN
from busproto.errors import BusError
from busproto.subjects import Relation, check_pattern, check_subject, covers, is_reserved, overlaps, relate

__all__ = ["Change", "Considered", "Explanation", "check_question", "explain", "exports_about", "principal_of"]

NEAREST: Final = 8
"""Rules that did not decide and are shown."""

UNITS: Final = {"host": "host", "soc": "", "guest": ""}
"""The unit of a principal that does not say: the host is one; of the others no rule with ``unit=`` is about it."""


@dataclass(frozen=True, slots=True)
class Considered:
    """A rule that did not decide, and why not."""

    where: str
    text: str
    why: str


@dataclass(frozen=True, slots=True)
class Change:
    """A line that turns the decision round, and its place."""

    file: str
    line: int
    """The line's number in the file, once it is there; what stands there now moves down."""
    text: str

    @property
    def where(self) -> str:
        """File and line."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision on one question, with everything that bears on it."""

    principal: Principal
    verb: str
    subject: str
    decision: Decision
    considered: tuple[Considered, ...]
    change: Change | None
    """What turns the decision round; None where no rule can."""
    advice: str
    """The same as a sentence, or why no rule can."""
    exports: tuple[str, ...]
    """What follows from exports, a sentence each."""

    def describe(self) -> dict[str, Any]:
        """As ``bus policy explain`` shows it."""
        rule = self.decision.rule
        return {
            "verb": self.verb,
            "subject": self.subject,
            "principal": self.principal.describe(),
            "allowed": self.decision.allowed,
            "where": self.decision.where,
            "rule": None if rule is None else rule.text,
            "reason": self.decision.reason,
            "considered": [{"where": each.where, "rule": each.text, "why": each.why} for each in self.considered],
            "change": None if self.change is None else {"where": self.change.where, "line": self.change.text},
            "advice": self.advice,
            "exports": list(self.exports),
        }


def principal_of(words: Sequence[str], self_uid: int) -> Principal:
    """Whoever ``BOUNDARY [KEY=VALUE]...`` describes; the words are those of a rule, with one value each.

    A tenant that is not given is the node, but a guest must say; several groups are its primary one and others.

    Raises:
        ValueError: with the reason, if it describes nobody or more than one.
    """
    if not words:
        raise ValueError("whom is it about? BOUNDARY [KEY=VALUE]..., such as guest tenant=acme unit=vm-42")
    who = selector_of(words, self_uid)
    if len(who.boundaries) > 1:
        raise ValueError("one endpoint is on one boundary")
    for key, values in (("tenant", who.tenants), ("unit", who.units), ("uid", who.uids)):
        if values is not None and len(values) > 1:
            raise ValueError(f"one endpoint has one {key}")
    boundary = who.boundaries[0]
    if boundary == "guest" and who.tenants is None:
        raise ValueError("a guest has a tenant: guest tenant=acme")
    gids = [int(gid) for word in words if word.startswith("gid=") for gid in word[4:].split(",")]
    return Principal(
        boundary=boundary,
        tenant=_only(who.tenants) or NODE_TENANT,
        unit=_only(who.units) or UNITS[boundary],
        generation=0,
        uid=None if who.uids is None else next(iter(who.uids)),
        gid=gids[0] if gids else None,
        groups=tuple(gids[1:]),
    )


def _only(values: frozenset[str] | None) -> str | None:
    return None if values is None else next(iter(values))


def check_question(verb: str, subject: str) -> None:
    """Whether it can be asked if ``verb`` is allowed on ``subject``.

    Raises:
        ValueError: with the reason, if not. A pattern can be subscribed to and served; the rest takes a subject.
    """
    if verb not in VERBS:
        raise ValueError(f"'{shown(verb)}' is no verb; verbs are {', '.join(VERBS)}")
    try:
        (check_pattern if verb in ("subscribe", "serve") else check_subject)(subject)
    except BusError as error:
        raise ValueError(error.text) from None


def explain(policy: Policy, principal: Principal, verb: str, subject: str) -> Explanation:
    """Decide as the bus would, and say why. ``verb`` and ``subject`` as `check_question` lets them pass."""
    decision = policy.rights(principal).decide_pattern(verb, subject)
    change, advice = _change(policy, principal, verb, subject, decision)
    return Explanation(
        principal=principal,
        verb=verb,
        subject=subject,
        decision=decision,
        considered=_considered(policy, principal, verb, subject, decision),
        change=change,
        advice=advice,
        exports=tuple(exports_about(policy, principal, verb, subject)),
    )


def _considered(
    policy: Policy, principal: Principal, verb: str, subject: str, decision: Decision
) -> tuple[Considered, ...]:
    """The rules that came nearest (that miss by one thing, or as few as there are), in the policy's order."""
    found: list[tuple[int, int, Considered]] = []
    decided = False
    for index, rule in enumerate(policy.rules):
        if rule is decision.rule:
            decided = True
            continue
        misses = _misses(rule, principal, verb, subject)
        if decided and not misses:
            misses, distance = ["it comes after the rule that decided"], 0
        else:
            distance = len(misses)
        found.append((distance, index, Considered(rule.where, rule.text, "; ".join(misses))))
    found.sort(key=lambda each: each[:2])
    nearest = [each for each in found[:NEAREST] if each[0] <= max(1, found[0][0])]
    return tuple(each[2] for each in sorted(nearest, key=lambda each: each[1]))


def _misses(rule: Rule, principal: Principal, verb: str, subject: str) -> list[str]:
    """Everything about ``rule`` that does not fit the question."""
    misses = [] if verb in rule.verbs else [f"it does not say {verb}"]
    tokens = subject.split(".")
    relation = max(relate(mine, tokens) for mine in rule.split)
    if relation is Relation.OVERLAPS:
        misses.append(f"it is about a part of {subject} only")
    elif relation is Relation.APART:
        broad = is_reserved(subject) and any(pattern[0] in "*>" for pattern in rule.patterns)
        patterns = ",".join(rule.patterns)
        miss = f"{patterns} does not match" if len(rule.patterns) == 1 else f"none of {patterns} matches"
        misses.append(miss + (": $bus. must be named" if broad else ""))
    if who := rule.who.mismatch(principal):
        misses.append(who)
    return misses


def _change(
    policy: Policy, principal: Principal, verb: str, subject: str, decision: Decision
) -> tuple[Change | None, str]:
    """The narrowest line that turns ``decision`` round, as a change and as a sentence."""
    if verb in ("publish", "serve") and is_reserved(subject):
        return None, f"no rule can allow it: only the broker can {verb} under $bus."
    if policy.errors and decision.rule is None:
        return None, f"repair {'; '.join(map(str, policy.errors[:3]))}"
    text = f"{'deny' if decision.allowed else 'allow'} {verb} {subject} from {_narrowest(principal)}"
    if decision.rule is not None:
        rule = decision.rule
        change = Change(rule.file, rule.line, text)
        advice = f"to {'deny' if decision.allowed else 'allow'} it, put before {rule.where} ({rule.text}): {text}"
        if not decision.allowed and not covers_all(rule, subject):
            advice += f"; or narrow {rule.where}, which denies a part of {subject}"
        return change, advice
    last = _nearest_place(policy, principal)
    if last is None:
        change = Change(policy.files[-1].name, (policy.files[-1].text or "").count("\n") + 1, text)
    else:
        change = Change(last.file, last.line + 1, text)
    return change, f"to allow it, add as {change.where}: {text}"


def covers_all(rule: Rule, subject: str) -> bool:
    """Whether one of the rule's patterns covers ``subject``."""
    return any(covers(pattern, subject) for pattern in rule.patterns)


def _nearest_place(policy: Policy, principal: Principal) -> Rule | None:
    """The last rule about the same boundary: where a reader would look for a new one. Any place would do."""
    about = [rule for rule in policy.rules if principal.boundary in rule.who.boundaries]
    return about[-1] if about else policy.rules[-1] if policy.rules else None


def _narrowest(principal: Principal) -> str:
    """The narrowest ``from`` that is about ``principal``."""
    words = [principal.boundary]
    if principal.boundary == "host" and principal.uid is not None:
        words.append(f"uid={principal.uid}")
    elif principal.boundary == "host" and principal.gid is not None:
        words.append(f"gid={principal.gid}")
    if principal.boundary != "host" or principal.tenant != NODE_TENANT:
        words.append(f"tenant={principal.tenant}")
    if principal.boundary != "host" and principal.unit:
        words.append(f"unit={principal.unit}")
    return " ".join(words)


def exports_about(policy: Policy, principal: Principal, verb: str, subject: str) -> list[str]:
    """What exports do for the question: a right in one's own space does not say who is there."""
    tenant = principal.tenant
    if is_reserved(subject):
        return []
    if tenant != NODE_TENANT:
        if verb == "call":
            services = [each for each in policy.exported_services(tenant) if _reaches(each, subject)]
            return [f"{each.where} offers it: the node's service can answer" for each in services] or [
                f"no export offers it to {tenant}: only {tenant}'s own endpoints can answer"
            ]
        if verb == "publish":
            streams = [each for each in policy.exported_streams(tenant) if _reaches(each, subject)]
            return [f"{each.where} shows it to the node, as {SHOWN}.{tenant}.{subject}" for each in streams]
        return []
    if verb == "publish" and subject.startswith(f"{SHOWN}."):
        return [f"under {SHOWN}. the node sees what tenants show it: the bus denies it whatever the rules say"]
    if verb == "serve":
        offered = [each for each in policy.exports if each.kind == "service" and _reaches(each, subject)]
        return [f"{each.where} offers it to {tenants_of(each)}" for each in offered]
    if verb == "subscribe":
        return [
            f"{each.where} shows {','.join(each.patterns)} of {tenants_of(each)} under {SHOWN}.ID."
            for each in policy.exports
            if each.kind == "stream" and any(overlaps(shown, subject) for shown in shown_as(each))
        ]
    return []


def shown_as(export: Export) -> list[str]:
    """The patterns under which the node sees an exported stream."""
    tenants = ["*"] if export.tenants is None else sorted(export.tenants)
    return [f"{SHOWN}.{tenant}.{pattern}" for tenant in tenants for pattern in export.patterns]


def _reaches(export: Export, subject: str) -> bool:
    return any(overlaps(pattern, subject) for pattern in export.patterns)


def tenants_of(export: Export) -> str:
    """The tenants at the other end, for a sentence."""
    return "every tenant" if export.tenants is None else ", ".join(sorted(export.tenants))
