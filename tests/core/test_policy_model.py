"""The policy engine against one that was written a second time, to be slow and plain.

The alphabet is small, so all of its subjects can be listed: what an engine allows is then a set.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st

from busd.core.explanation import explain
from busd.core.flows import BROKER, flows
from busd.core.lint import lint
from busd.core.policy import Policy, parse
from busd.core.principal import Principal
from busd.core.rules import PolicyFile, selector_of

SELF = 7
NAME = "10-a.policy"
VERBS = ("publish", "subscribe", "call", "serve", "delegate")

SUBJECTS = [
    *(".".join(tokens) for length in (1, 2, 3) for tokens in product("abz", repeat=length)),
    *("$bus.a", "$bus.b", "$bus.z", "$bus.a.b"),
]
"""z stands for every name that no rule has."""

PATTERNS = [
    ".".join((*tokens, last)) for length in (0, 1, 2) for tokens in product("ab*", repeat=length) for last in "ab*>"
]
RESERVED = ["$bus.a", "$bus.*", "$bus.>", "$bus.a.>"]

PRINCIPALS = [
    Principal("guest", "acme", "one", 1),
    Principal("guest", "globex", "two", 1),
    Principal("guest", "acme", "two", 1),
    Principal("host", "node", "host", 0, uid=7, gid=1, groups=(2, 3)),
    Principal("host", "node", "host", 0, uid=0, gid=0),
    Principal("host", "acme", "host", 0, uid=5, gid=2),
    Principal("soc", "node", "card", 1),
]


class Line(NamedTuple):
    """A rule before it is text."""

    allow: bool
    verbs: tuple[str, ...]
    patterns: tuple[str, ...]
    boundaries: tuple[str, ...]
    keys: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def text(self) -> str:
        keys = "".join(f" {key}={','.join(values)}" for key, values in self.keys)
        word = "allow" if self.allow else "deny"
        return f"{word} {','.join(self.verbs)} {','.join(self.patterns)} from {','.join(self.boundaries)}{keys}"


def some(values: Sequence[str], most: int) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True).map(tuple)


@st.composite
def lines(draw: st.DrawFn, verbs: tuple[str, ...] = VERBS) -> Line:
    chosen = draw(some(verbs, 3))
    broker = [] if {"publish", "serve"} & set(chosen) else RESERVED
    boundaries = draw(st.sampled_from([("guest",), ("host",), ("soc",), ("guest", "soc"), ("host", "guest")]))
    pools: dict[str, tuple[str, ...]] = {"tenant": ("acme", "globex", "node"), "unit": ("one", "two", "host")}
    if boundaries == ("host",):
        pools |= {"uid": ("0", "5", "self"), "gid": ("0", "1", "2", "3")}
    keys = draw(st.lists(st.sampled_from(sorted(pools)), max_size=2, unique=True))
    return Line(
        draw(st.booleans()),
        chosen,
        draw(some([*PATTERNS, *broker], 3)),
        boundaries,
        tuple((key, draw(some(pools[key], 2))) for key in keys),
    )


POLICIES = st.lists(lines(), max_size=8)


# -- the other engine -------------------------------------------------------------------------------------------------


@cache
def expression(pattern: str) -> re.Pattern[str]:
    parts = [
        r"[^.]+" if token == "*" else r"[^.]+(\.[^.]+)*" if token == ">" else re.escape(token)
        for token in pattern.split(".")
    ]
    first = "" if pattern.startswith("$bus") else r"(?!\$bus(\.|$))"
    return re.compile(first + r"\.".join(parts))


def concerns(line: Line, principal: Principal) -> bool:
    has: dict[str, set[str]] = {
        "tenant": {principal.tenant},
        "unit": {principal.unit},
        "uid": {str(principal.uid), *({"self"} if principal.uid == SELF else ())},
        "gid": {str(principal.gid), *map(str, principal.groups)},
    }
    return principal.boundary in line.boundaries and all(has[key] & set(values) for key, values in line.keys)


def decides(policy: Sequence[Line], principal: Principal, verb: str, subject: str) -> int | None:
    """The number of the line that decides."""
    for number, line in enumerate(policy, 1):
        matches = any(expression(pattern).fullmatch(subject) for pattern in line.patterns)
        if verb in line.verbs and matches and concerns(line, principal):
            return number
    return None


def allows(policy: Sequence[Line], principal: Principal, verb: str, subject: str) -> bool:
    number = decides(policy, principal, verb, subject)
    return number is not None and policy[number - 1].allow


# -- properties -------------------------------------------------------------------------------------------------------


def built(policy: Sequence[Line], *exports: str) -> Policy:
    text = "".join(f"{line}\n" for line in ("# a policy", *(line.text for line in policy), *exports))
    found = parse([PolicyFile(NAME, text)], self_uid=SELF)
    assert found.errors == ()
    return found


def where(number: int | None) -> str:
    return "default" if number is None else f"{NAME}:{number + 1}"


@settings(max_examples=100, deadline=None)
@given(policy=POLICIES)
def test_subjects_are_decided_as_by_the_other_engine(policy: list[Line]) -> None:
    engine = built(policy)
    for principal in PRINCIPALS:
        rights = engine.rights(principal)
        for verb in VERBS:
            for subject in SUBJECTS:
                decision = rights.decide(verb, subject)
                assert decision.where == where(decides(policy, principal, verb, subject))
                assert decision.allowed == allows(policy, principal, verb, subject)
                assert rights.decide_pattern(verb, subject) == decision, "a subject is a pattern of itself"


@settings(max_examples=100, deadline=None)
@given(policy=POLICIES)
@example([Line(True, ("subscribe",), ("a", ">"), ("guest",), ())])
def test_an_allowed_pattern_holds_no_denied_subject(policy: list[Line]) -> None:
    engine = built(policy)
    for principal in PRINCIPALS[:5]:
        rights = engine.rights(principal)
        for pattern in (*PATTERNS, *RESERVED):
            decision = rights.decide_pattern("subscribe", pattern)
            if decision.allowed:
                inside = [subject for subject in SUBJECTS if expression(pattern).fullmatch(subject)]
                assert all(allows(policy, principal, "subscribe", subject) for subject in inside)


@settings(max_examples=40, deadline=None)
@given(policy=st.lists(lines(), min_size=1, max_size=6))
def test_without_any_one_allow_nothing_more_is_allowed(policy: list[Line]) -> None:
    whole = built(policy)
    for index, line in enumerate(policy):
        if not line.allow:
            continue
        less = built(policy[:index] + policy[index + 1 :])
        for principal in PRINCIPALS[:5]:
            before, after = whole.rights(principal), less.rights(principal)
            for verb in line.verbs:
                for subject in SUBJECTS:
                    assert before.decide(verb, subject).allowed or not after.decide(verb, subject).allowed
                for pattern in PATTERNS:
                    assert (
                        before.decide_pattern(verb, pattern).allowed or not after.decide_pattern(verb, pattern).allowed
                    )


@settings(max_examples=40, deadline=None)
@given(before=POLICIES, broken=POLICIES, after=POLICIES)
def test_a_bad_file_in_the_middle_never_allows_more(before: list[Line], broken: list[Line], after: list[Line]) -> None:
    texts = ["".join(f"{line.text}\n" for line in part) or "# nothing\n" for part in (before, broken, after)]

    def of(middle: str) -> Policy:
        names = ("10-a.policy", "50-b.policy", "90-c.policy")
        return parse(
            [PolicyFile(n, t) for n, t in zip(names, (texts[0], middle, texts[2]), strict=True)], self_uid=SELF
        )

    bad, first = of(texts[1] + "oops\n"), built(before)
    for principal in PRINCIPALS[:5]:
        for verb in VERBS:
            for subject in SUBJECTS[::3]:
                assert bad.rights(principal).decide(verb, subject).allowed == (
                    first.rights(principal).decide(verb, subject).allowed
                )


@settings(max_examples=100, deadline=None)
@given(
    policy=POLICIES,
    principal=st.sampled_from(PRINCIPALS),
    verb=st.sampled_from(VERBS),
    subject=st.sampled_from(SUBJECTS) | st.sampled_from([*PATTERNS, *RESERVED]),
)
def test_the_change_that_explain_proposes_turns_the_decision_round(
    policy: list[Line], principal: Principal, verb: str, subject: str
) -> None:
    if verb not in ("subscribe", "serve") and subject not in SUBJECTS:
        subject = SUBJECTS[0]
    engine = built(policy)
    explanation = explain(engine, principal, verb, subject)
    assert explanation.decision == engine.rights(principal).decide_pattern(verb, subject)
    if explanation.change is None:
        assert verb in ("publish", "serve")
        assert subject.startswith("$bus")
        return
    text = (engine.files[0].text or "").split("\n")
    text.insert(explanation.change.line - 1, explanation.change.text)
    changed = parse([PolicyFile(explanation.change.file, "\n".join(text))], self_uid=SELF)
    assert changed.errors == ()
    assert changed.rights(principal).decide_pattern(verb, subject).allowed != explanation.decision.allowed


@settings(max_examples=100, deadline=None)
@given(policy=POLICIES)
def test_a_rule_that_lint_calls_dead_decides_nothing(policy: list[Line]) -> None:
    dead = {finding.line for finding in lint(built(policy)) if finding.text.startswith("this rule can never")}
    decided = {
        decides(policy, principal, verb, subject) for principal in PRINCIPALS for verb in VERBS for subject in SUBJECTS
    }
    assert not {number + 1 for number in decided if number is not None} & dead


EXPORTS = (
    "export service a.> from node to acme",
    "export service b.*,a from node to *",
    "export stream a.* from acme,globex to node",
)


def bears(selector: str, principal: Principal) -> bool:
    return selector != BROKER and selector_of(selector.split(), SELF).fits(principal)


@settings(max_examples=40, deadline=None)
@given(
    policy=st.lists(lines(("publish", "subscribe", "call", "serve")), max_size=6),
    exports=st.lists(st.sampled_from(EXPORTS), max_size=2, unique=True),
)
def test_the_graph_leaves_out_nothing_that_is_allowed(policy: list[Line], exports: list[str]) -> None:
    engine = built(policy, *exports)
    found = flows(engine)
    # In its space: hosts of the node and cards, and guests of tenants, as the graph says that it draws them.
    people = [p for p in PRINCIPALS if (p.boundary == "guest") != (p.tenant == "node")]

    def drawn(kind: str, sender: Principal, receiver: Principal, subject: str, crosses: bool) -> bool:
        return any(
            flow.kind == kind
            and bool(flow.export) == crosses
            and bears(flow.sender, sender)
            and bears(flow.receiver, receiver)
            and expression(flow.subject).fullmatch(subject) is not None
            for flow in found
        )

    for kind, other in (("publish", "subscribe"), ("call", "serve")):
        for sender in people:
            for subject in SUBJECTS[: len("abz") + 9]:
                if not allows(policy, sender, kind, subject):
                    continue
                for receiver in people:
                    if sender.tenant == receiver.tenant and allows(policy, receiver, other, subject):
                        assert drawn(kind, sender, receiver, subject, crosses=False), (kind, sender, receiver, subject)
                    if sender.tenant == "node" or receiver.tenant != "node":
                        continue
                    for export in engine.exports:
                        if not export.concerns(sender.tenant) or export.kind != ("stream", "service")[kind == "call"]:
                            continue
                        if not any(expression(pattern).fullmatch(subject) for pattern in export.patterns):
                            continue
                        seen = subject if kind == "call" else f"tenant.{sender.tenant}.{subject}"
                        if allows(policy, receiver, other, seen):
                            assert drawn(kind, sender, receiver, seen, crosses=True), (kind, sender, receiver, seen)


@settings(max_examples=40, deadline=None)
@given(policy=st.lists(lines(("publish", "subscribe", "call", "serve")).filter(lambda line: line.allow), max_size=6))
def test_without_denials_the_graph_shows_nothing_that_is_not_allowed(policy: list[Line]) -> None:
    people = [p for p in PRINCIPALS if (p.boundary == "guest") != (p.tenant == "node")]
    for flow in flows(built(policy)):
        if BROKER in (flow.sender, flow.receiver):
            continue
        receiving = {"publish": "subscribe", "call": "serve"}[flow.kind]
        inside = [subject for subject in SUBJECTS if expression(flow.subject).fullmatch(subject)]
        check: Callable[[str, str, str], bool] = lambda selector, verb, subject: all(  # noqa: E731
            allows(policy, person, verb, subject) for person in people if bears(selector, person)
        )
        for subject in inside:
            assert check(flow.sender, flow.kind, subject)
            assert check(flow.receiver, receiving, subject)
