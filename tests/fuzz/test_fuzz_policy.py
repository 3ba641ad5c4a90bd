"""Fuzzing of the policy parser.

The invariant: any text parses to a policy or to errors, never to another exception; every error has the file's name, a
line that is in it, and a reason that is printable ASCII and short; a policy with an error in its only file allows
nobody anything; and a text without errors says the same when its rules are written again from what was understood.
"""

from collections.abc import Hashable
from functools import partial

import pytest

from busd.core.expectations import parse_expectations
from busd.core.lint import lint
from busd.core.policy import Policy, parse
from busd.core.principal import Principal
from busd.core.rules import VERBS, PolicyFile
from busd.ops.policyfolder import default_files, default_tests
from tests.fuzz import driver

pytestmark = pytest.mark.timeout(driver.TIMEOUT)

SECONDS_EACH = 0.05
NAME = "10-a.policy"

PRINCIPALS = [
    Principal("guest", "acme", "vm-1", 1),
    Principal("host", "node", "host", 0, uid=0, gid=0),
    Principal("soc", "node", "card", 1),
]


def read(text: str) -> Policy:
    return parse([PolicyFile(NAME, text)], self_uid=990)


def judge(data: bytes) -> Hashable:
    text = data.decode("utf-8", "surrogateescape")
    assert driver.cpu_seconds(partial(read, text), SECONDS_EACH) < SECONDS_EACH
    policy = read(text)
    lines = text.split("\n")
    for error in policy.errors:
        assert error.file == NAME
        assert 0 <= error.line <= len(lines)
        assert error.reason.isascii()
        assert error.reason.isprintable()
        assert len(error.reason) < 1000
    if policy.errors:
        assert policy.rules == ()
        assert policy.exports == ()
    else:
        check_again(policy)
    for principal in PRINCIPALS:
        rights = policy.rights(principal)
        for verb in VERBS:
            for subject in ("a.b", "metrics.cpu", "$bus.ping"):
                decision = rights.decide(verb, subject)
                assert decision == rights.decide_pattern(verb, subject)
                assert decision.allowed == (decision.rule is not None and decision.rule.allow)
                assert not (decision.allowed and policy.errors)
    expectations, wrong = parse_expectations("policy.tests", text, self_uid=990)
    kind = policy.errors[0].reason.partition("'")[0][:24] if policy.errors else ""
    return len(policy.rules).bit_length(), len(policy.exports).bit_length(), kind, bool(expectations), bool(wrong)


def check_again(policy: Policy) -> None:
    """What was understood is what was written: the rules' own text gives the same rules."""
    texts = [*(rule.text for rule in policy.rules), *(export.text for export in policy.exports)]
    again = read("".join(f"{text}\n" for text in texts) or "#\n")
    assert again.errors == ()
    assert [(r.allow, r.verbs, r.patterns, r.who) for r in again.rules] == [
        (r.allow, r.verbs, r.patterns, r.who) for r in policy.rules
    ]
    assert [(e.kind, e.patterns, e.tenants) for e in again.exports] == [
        (e.kind, e.patterns, e.tenants) for e in policy.exports
    ]
    if len(policy.rules) < 40:
        assert all(finding.severity == "warning" for finding in lint(policy))


def corpus() -> list[bytes]:
    return [
        *((file.text or "").encode() for file in default_files()),
        default_tests().encode(),
        b"allow publish,subscribe a.*,b.> from guest tenant=acme,globex unit=vm-1\n",
        b"deny call $bus.admin.> from host uid=0,self gid=4711 # why\n",
        b"allow delegate telemetry.read from soc\n",
        b"export service cache.> from node to acme,globex\nexport stream metrics.> from * to node\n",
        b"",
        b"\n",
    ]


TOKENS = [b"allow ", b"deny ", b"export ", b"service ", b"stream ", b" from ", b" to ", b"guest", b"host", b"soc",
          b"node", b" tenant=", b" unit=", b" uid=", b" gid=", b"self", b",", b"=", b"#", b" ", b"\t", b"\n", b"\r\n",
          b">", b"*", b".", b"$bus.", b"publish", b"subscribe", b"call", b"serve", b"delegate", b"a", b"0", b"\\",
          b"\0", b"4294967295", "\u0430".encode(), "\u202e".encode(), "\ufeff".encode(), "\u2028".encode(),
          b"\xff"]  # fmt: skip


def test_any_text() -> None:
    report = driver.run("policy", judge, corpus(), 3000, TOKENS)
    assert report.endings > 20


def test_any_name() -> None:
    """Whatever a file is called, it has a place among the rules or denies everything."""

    def judge_name(data: bytes) -> Hashable:
        name = data.decode("utf-8", "surrogateescape")
        policy = parse([PolicyFile(name, "allow call a from guest\n")], self_uid=990)
        allowed = policy.rights(PRINCIPALS[0]).decide("call", "a").allowed
        assert allowed == (not policy.errors)
        for error in policy.errors:
            assert str(error).isascii()
            assert str(error).isprintable()
        return allowed, len(name).bit_length()

    names = [b"10-a.policy", b"99-node_x.policy", b"1-a.policy", b"10-a.policy~", b".10-a.policy", b"policy.tests"]
    report = driver.run(
        "policy names", judge_name, names, 2000, [b"10-", b".policy", b"-", b"_", b"0", b"\n", b"/", b"A"]
    )
    assert report.endings > 5
