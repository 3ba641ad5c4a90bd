"""What a reviewer is told of a policy: explanations, expectations, findings and flows."""

import re

import pytest

from busd.core.expectations import check, parse_expectations
from busd.core.explanation import check_question, explain, principal_of
from busd.core.flows import BROKER, Flow, flows
from busd.core.lint import lint
from busd.core.policy import Policy, parse
from busd.core.principal import Principal
from busd.core.rules import PolicyFile

SELF = 990


def policy_of(**texts: str) -> Policy:
    """``_10_a="..."`` is the file ``10-a.policy``."""
    files = [PolicyFile(f"{name[1:].replace('_', '-')}.policy", text) for name, text in texts.items()]
    return parse(files, self_uid=SELF)


def who(text: str) -> Principal:
    return principal_of(text.split(), SELF)


# -- whom a question is about -----------------------------------------------------------------------------------------


def test_a_principal_is_described_in_the_words_of_a_rule() -> None:
    assert who("guest tenant=acme unit=vm-1") == Principal("guest", "acme", "vm-1", 0)
    assert who("guest tenant=acme") == Principal("guest", "acme", "", 0), "no rule with unit= is about it"
    assert who("host uid=self gid=4,27,100") == Principal("host", "node", "host", 0, uid=SELF, gid=4, groups=(27, 100))
    assert who("host tenant=acme") == Principal("host", "acme", "host", 0)
    assert who("soc unit=card-1") == Principal("soc", "node", "card-1", 0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "whom is it about?"),
        ("guest", "a guest has a tenant"),
        ("guest,host tenant=acme", "one endpoint is on one boundary"),
        ("guest tenant=acme,globex", "one endpoint has one tenant"),
        ("guest tenant=acme unit=a,b", "one endpoint has one unit"),
        ("host uid=0,1", "one endpoint has one uid"),
        ("vm tenant=acme", "'vm' is unknown here"),
        ("guest uid=0 tenant=acme", "uid= can never apply to guest"),
        ("guest acme", "'acme' is not KEY=VALUES"),
    ],
)
def test_a_description_of_nobody_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        who(text)


@pytest.mark.parametrize(
    ("verb", "subject", "reason"),
    [
        ("listen", "a", "'listen' is no verb; verbs are publish, subscribe, call, serve, delegate"),
        ("publish", "a.*", "'a.*' is not a subject: token 2 is the wildcard *"),
        ("call", "A", "'A' is not a subject"),
        ("subscribe", "a.>.b", "'a.>.b' is not a pattern"),
    ],
)
def test_what_cannot_be_asked(verb: str, subject: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        check_question(verb, subject)
    check_question("serve", "a.>")
    check_question("delegate", "$bus.list")


# -- explain ----------------------------------------------------------------------------------------------------------

RULES = policy_of(
    _10_node="allow publish,subscribe,call,serve > from host uid=0\n",
    _30_guests="# guests\ndeny publish metrics.secret.> from guest\nallow publish metrics.> from guest tenant=acme\n",
    _50_exports="export stream metrics.> from acme to node\nexport service cache.> from node to acme\n",
)


def test_explain_names_the_rule_that_decided_and_the_line_that_would_turn_it_round() -> None:
    found = explain(RULES, who("guest tenant=acme unit=vm-1"), "publish", "metrics.secret.key").describe()
    assert not found["allowed"]
    assert (found["where"], found["rule"]) == ("30-guests.policy:2", "deny publish metrics.secret.> from guest")
    line = "allow publish metrics.secret.key from guest tenant=acme unit=vm-1"
    assert found["change"] == {"where": "30-guests.policy:2", "line": line}
    assert found["advice"] == (
        "to allow it, put before 30-guests.policy:2 (deny publish metrics.secret.> from guest): " + line
    )
    assert found["considered"] == [
        {
            "where": "10-node.policy:1",
            "rule": "allow publish,subscribe,call,serve > from host uid=0",
            "why": "it is about host, not guest",
        },
        {
            "where": "30-guests.policy:3",
            "rule": "allow publish metrics.> from guest tenant=acme",
            "why": "it comes after the rule that decided",
        },
    ]


def test_explain_of_the_default_says_where_a_rule_would_belong() -> None:
    explanation = explain(RULES, who("guest tenant=globex unit=vm-1"), "publish", "metrics.cpu")
    assert explanation.decision.where == "default"
    assert explanation.advice == (
        "to allow it, add as 30-guests.policy:4: allow publish metrics.cpu from guest tenant=globex unit=vm-1"
    )
    whys = {each.where: each.why for each in explanation.considered}
    assert whys["30-guests.policy:3"] == "tenant globex is not in tenant=acme"
    assert whys["30-guests.policy:2"] == "metrics.secret.> does not match"
    assert whys["10-node.policy:1"] == "it is about host, not guest"


def test_explain_of_a_pattern_that_is_denied_in_part_says_what_could_be_narrowed() -> None:
    policy = policy_of(_10_a="deny subscribe a.secret from guest\nallow subscribe > from guest\n")
    explanation = explain(policy, who("guest tenant=acme"), "subscribe", "a.>")
    assert explanation.decision.reason == "a part of it is denied by 10-a.policy:1"
    assert explanation.advice.endswith("; or narrow 10-a.policy:1, which denies a part of a.>")


def test_explain_says_that_the_broker_s_subjects_must_be_named() -> None:
    explanation = explain(RULES, who("host uid=0"), "call", "$bus.list")
    (considered,) = [each for each in explanation.considered if each.where == "10-node.policy:1"]
    assert considered.why == "> does not match: $bus. must be named"
    assert explanation.change is not None
    assert explanation.change.text == "allow call $bus.list from host uid=0"


def test_explain_says_when_no_rule_can_help() -> None:
    explanation = explain(RULES, who("host uid=0"), "serve", "$bus.mine")
    assert explanation.change is None
    assert explanation.advice == "no rule can allow it: only the broker can serve under $bus."
    broken = policy_of(_10_a="allow call a from guest\n", _20_b="oops\n")
    explanation = explain(broken, who("guest tenant=acme"), "call", "b")
    assert explanation.change is None
    assert explanation.advice.startswith("repair 20-b.policy:1: a line begins with allow, deny or export")


@pytest.mark.parametrize(
    ("principal", "verb", "subject", "exports"),
    [
        ("guest tenant=acme", "call", "cache.get", ["50-exports.policy:2 offers it: the node's service can answer"]),
        (
            "guest tenant=globex",
            "call",
            "cache.get",
            ["no export offers it to globex: only globex's own endpoints can answer"],
        ),
        (
            "guest tenant=acme",
            "publish",
            "metrics.cpu",
            ["50-exports.policy:1 shows it to the node, as tenant.acme.metrics.cpu"],
        ),
        ("guest tenant=acme", "publish", "logs.x", []),
        ("guest tenant=acme", "call", "$bus.ping", []),
        ("host uid=0", "serve", "cache.>", ["50-exports.policy:2 offers it to acme"]),
        ("host uid=0", "subscribe", "tenant.>", ["50-exports.policy:1 shows metrics.> of acme under tenant.ID."]),
        ("host uid=0", "subscribe", "tenant.globex.>", []),
        ("host uid=0", "publish", "a", []),
        (
            "host uid=0",
            "publish",
            "tenant.acme.metrics.cpu",
            ["under tenant. the node sees what tenants show it: the bus denies it whatever the rules say"],
        ),
    ],
)
def test_explain_says_what_exports_do(principal: str, verb: str, subject: str, exports: list[str]) -> None:
    assert list(explain(RULES, who(principal), verb, subject).exports) == exports


@pytest.mark.parametrize(
    ("principal", "narrowest"),
    [
        ("guest tenant=acme unit=vm", "guest tenant=acme unit=vm"),
        ("guest tenant=acme", "guest tenant=acme"),
        ("host uid=5 gid=6", "host uid=5"),
        ("host gid=6", "host gid=6"),
        ("host", "host"),
        ("host uid=5 tenant=acme", "host uid=5 tenant=acme"),
        ("soc unit=card", "soc tenant=node unit=card"),
    ],
)
def test_the_proposed_rule_is_about_as_few_as_possible(principal: str, narrowest: str) -> None:
    change = explain(RULES, who(principal), "call", "$bus.list").change
    assert change is not None
    assert change.text == f"allow call $bus.list from {narrowest}"


# -- expectations -----------------------------------------------------------------------------------------------------


def test_expectations_are_checked_and_the_deciding_rule_is_told() -> None:
    text = (
        "# what must hold\nallow publish metrics.cpu from guest tenant=acme # it does\n"
        "deny publish metrics.cpu from guest tenant=acme\ndeny subscribe > from guest tenant=acme\n"
    )
    expectations, errors = parse_expectations("policy.tests", text, self_uid=SELF)
    assert errors == []
    verdicts = check(RULES, expectations)
    assert [verdict.met for verdict in verdicts] == [True, False, True]
    assert verdicts[1].describe() == {
        "where": "policy.tests:3",
        "expectation": "deny publish metrics.cpu from guest tenant=acme",
        "met": False,
        "decided_by": "30-guests.policy:3",
        "rule": "allow publish metrics.> from guest tenant=acme",
        "reason": "allowed by 30-guests.policy:3",
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("publish a from guest tenant=acme", "it must read: allow|deny VERB SUBJECT from BOUNDARY"),
        ("allow publish a", "it must read"),
        ("allow publish a from", "it must read"),
        ("allow publish a.> from guest tenant=acme", "is not a subject"),
        ("allow publish a from guest", "a guest has a tenant"),
        ("allow grab a from guest tenant=acme", "is no verb"),
    ],
)
def test_an_expectation_that_makes_no_sense_is_an_error(line: str, reason: str) -> None:
    expectations, errors = parse_expectations("policy.tests", f"# x\n{line}\n", self_uid=SELF)
    assert expectations == []
    (error,) = errors
    assert error.where == "policy.tests:2"
    assert reason in error.reason


# -- lint -------------------------------------------------------------------------------------------------------------


def test_lint_finds_rules_that_never_decide() -> None:
    policy = policy_of(
        _10_a="deny call a.>,b from guest\nallow publish > from guest,soc\n",
        _20_b="allow call a.x from guest tenant=acme\nallow call,publish b,c from guest\nallow call a.x from soc\n"
        "allow publish x from host\n",
    )
    assert [(finding.severity, finding.where, finding.text) for finding in lint(policy)] == [
        ("warning", "20-b.policy:1", "this rule can never decide anything: 10-a.policy:1 comes first and covers it"),
        (
            "warning",
            "20-b.policy:2",
            "a part of this rule can never decide anything (call b, publish b, publish c): "
            "10-a.policy:1, 10-a.policy:2 comes first",
        ),
    ]


@pytest.mark.parametrize(
    ("rules", "export", "missing"),
    [
        (
            "allow serve cache.> from host",
            "export service cache.> from node to acme",
            "no rule lets anybody of acme call cache.>",
        ),
        (
            "allow call cache.> from guest",
            "export service cache.> from node to acme",
            "no rule lets anybody of the node serve cache.>",
        ),
        (
            "allow call cache.> from guest tenant=globex\nallow serve > from host",
            "export service cache.> from node to acme",
            "no rule lets anybody of acme call cache.>",
        ),
        (
            "allow publish > from guest",
            "export stream metrics.> from * to node",
            "no rule lets anybody of the node subscribe tenant.*.metrics.>",
        ),
        (
            "deny publish metrics.> from guest\nallow publish > from guest\nallow subscribe > from host",
            "export stream metrics.> from acme to node",
            "no rule lets anybody of acme publish metrics.>",
        ),
        ("allow call > from guest\nallow serve cache.get from host", "export service cache.> from node to acme", ""),
        (
            "allow publish > from guest\nallow subscribe tenant.acme.> from host",
            "export stream metrics.> from * to node",
            "",
        ),
    ],
)
def test_lint_finds_exports_through_which_nothing_goes(rules: str, export: str, missing: str) -> None:
    policy = policy_of(_10_a=f"{rules}\n{export}\n")
    found = [finding.text for finding in lint(policy)]
    assert found == ([f"nothing can go through this export: {missing}"] if missing else [])


def test_lint_tells_errors_first() -> None:
    policy = policy_of(_10_a="allow call a from guest\nallow call a from guest\n", _20_b="oops\n")
    assert [(finding.severity, finding.where) for finding in lint(policy)] == [
        ("error", "20-b.policy:1"),
        ("warning", "10-a.policy:2"),
    ]


# -- flows ------------------------------------------------------------------------------------------------------------


def drawn(policy: Policy) -> set[tuple[str, str, str, str, str]]:
    return {(flow.sender, flow.kind, flow.subject, flow.space, flow.receiver) for flow in flows(policy)}


def test_flows_join_where_patterns_overlap_and_spaces_are_the_same() -> None:
    policy = policy_of(
        _10_a="allow publish metrics.> from guest\nallow subscribe metrics.cpu.*,logs.> from guest tenant=acme\n"
        "allow subscribe > from host uid=0\nallow call cache.get from soc\nallow serve cache.* from host uid=0\n"
    )
    assert drawn(policy) == {
        ("guest", "publish", "metrics.cpu.*", "acme", "guest tenant=acme"),
        ("soc", "call", "cache.get", "node", "host uid=0"),
    }


def test_flows_cross_spaces_by_exports_only() -> None:
    policy = policy_of(
        _10_a="allow publish,call > from guest\nallow subscribe tenant.acme.>,tenant.*.logs.> from host\n"
        "allow serve cache.> from soc\n",
        _20_b="export service cache.get,clock.> from node to acme,globex\nexport stream logs.> from * to node\n"
        "export stream metrics.> from acme,globex to node\n",
    )
    assert drawn(policy) == {
        ("guest", "call", "cache.get", "acme,globex > node", "soc"),
        ("guest", "publish", "tenant.acme.logs.>", "each tenant > node", "host"),
        ("guest", "publish", "tenant.*.logs.>", "each tenant > node", "host"),
        ("guest", "publish", "tenant.acme.metrics.>", "acme > node", "host"),
    }
    crossing = next(flow for flow in flows(policy) if flow.kind == "call")
    assert crossing == Flow(
        "call", "guest", "10-a.policy:1", "soc", "10-a.policy:3", "cache.get", "acme,globex > node", "20-b.policy:1"
    )
    assert crossing.describe()["export"] == "20-b.policy:1"


def test_flows_to_and_from_the_broker() -> None:
    policy = policy_of(_10_a="allow call $bus.ping from guest\nallow subscribe $bus.endpoints.> from host,guest\n")
    assert drawn(policy) == {
        ("guest", "call", "$bus.ping", "each tenant", BROKER),
        (BROKER, "publish", "$bus.endpoints.>", "each tenant,node", "host,guest"),
    }


def test_flows_on_behalf_of_somebody() -> None:
    policy = policy_of(
        _10_a="allow delegate telemetry.> from guest tenant=acme\nallow call telemetry.read from host uid=9\n"
        "allow call telemetry.read from guest tenant=globex\n"
    )
    assert drawn(policy) == {("guest tenant=acme", "delegate", "telemetry.read", "node", "host uid=9")}


def test_flows_leave_out_what_an_earlier_rule_denies_whole() -> None:
    policy = policy_of(
        _10_a="deny publish secret.> from guest\nallow publish secret.>,open.> from guest tenant=acme\n"
        "allow subscribe > from guest\n"
    )
    assert drawn(policy) == {("guest tenant=acme", "publish", "open.>", "acme", "guest")}
