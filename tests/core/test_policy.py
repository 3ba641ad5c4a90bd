"""The policy engine: the first rule decides, what no rule allows is denied, and what is wrong never allows more."""

import gc
import time

import pytest

from busd.core.lint import lint
from busd.core.policy import Policy, parse
from busd.core.principal import Principal
from busd.core.rules import RULES, PolicyFile
from busproto.errors import BusError, Code
from tests.core.peer import World

GUEST = Principal("guest", "acme", "vm-1", 1)
OTHER = Principal("guest", "globex", "vm-2", 1)
ROOT = Principal("host", "node", "host", 0, uid=0, gid=0)

VERBS = ("publish", "subscribe", "call", "serve", "delegate")


def policy_of(*files: tuple[str, str | None]) -> Policy:
    return parse([PolicyFile(name, text) for name, text in files], self_uid=990, source="/p")


def one(text: str) -> Policy:
    policy = policy_of(("10-a.policy", text))
    assert policy.errors == ()
    return policy


def may(policy: Policy, principal: Principal, verb: str, subject: str) -> bool:
    return policy.rights(principal).decide(verb, subject).allowed


def test_the_first_rule_that_matches_decides() -> None:
    policy = one("deny publish a.secret from guest\nallow publish a.> from guest\ndeny publish > from guest\n")
    rights = policy.rights(GUEST)
    denied = rights.decide("publish", "a.secret")
    assert (denied.allowed, denied.where, denied.reason) == (False, "10-a.policy:1", "denied by 10-a.policy:1")
    assert denied.rule is not None
    assert denied.rule.text == "deny publish a.secret from guest"
    allowed = rights.decide("publish", "a.b.c")
    assert (allowed.allowed, allowed.where, allowed.reason) == (True, "10-a.policy:2", "allowed by 10-a.policy:2")
    assert rights.decide("publish", "b").where == "10-a.policy:3"


def test_what_no_rule_allows_is_denied() -> None:
    rights = one("allow publish a from guest\n").rights(GUEST)
    for verb, subject in (("publish", "b"), ("call", "a"), ("delegate", "a"), ("publish", "a.a")):
        decision = rights.decide(verb, subject)
        assert (decision.allowed, decision.rule, decision.where) == (False, None, "default")
        assert decision.reason == "no rule allows it"


def test_files_are_taken_in_the_order_of_their_names_wherever_they_stand() -> None:
    files = [("30-c.policy", "allow call a from guest\n"), ("10-b.policy", "deny call a from guest tenant=globex\n")]
    for given in (files, files[::-1]):
        policy = policy_of(*given)
        assert may(policy, GUEST, "call", "a")
        assert not may(policy, OTHER, "call", "a")
    same_place = policy_of(("10-b.policy", "deny call a from guest\n"), ("10-a.policy", "allow call a from guest\n"))
    assert may(same_place, GUEST, "call", "a"), "names decide where numbers are the same"


def test_broad_patterns_do_not_reach_the_broker() -> None:
    policy = one("allow subscribe,call,delegate >,*.>,*.* from guest\n")
    rights = policy.rights(GUEST)
    assert rights.decide("call", "x.list").allowed
    for verb in ("call", "subscribe", "delegate"):
        assert not rights.decide(verb, "$bus.list").allowed
        assert not rights.decide_pattern(verb, "$bus.>").allowed


def test_delegate_is_never_implied() -> None:
    assert not may(one("allow publish,subscribe,call,serve > from guest\n"), GUEST, "delegate", "a")
    assert may(one("allow delegate a from guest\n"), GUEST, "delegate", "a")
    assert not may(one("allow delegate a from guest\n"), GUEST, "call", "a")


def test_an_unknown_verb_is_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="'listen' is no verb"):
        one("allow call a from guest\n").rights(GUEST).decide("listen", "a")


def test_self_is_the_user_that_the_daemon_runs_as() -> None:
    policy = one("allow call a from host uid=self\n")
    for uid, expected in ((990, True), (0, False), (991, False), (None, False)):
        assert may(policy, Principal("host", "node", "host", 0, uid=uid), "call", "a") == expected


# -- patterns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "pattern", "allowed", "where", "reason"),
    [
        ("allow subscribe > from guest", "a.>", True, 1, "allowed by 10-a.policy:1"),
        ("allow subscribe a.> from guest", ">", False, None, "no rule allows it"),
        ("allow subscribe a.>,b.> from guest", "*.x", False, None, "no rule allows it"),
        (
            "deny subscribe a.secret from guest\nallow subscribe > from guest",
            "a.*",
            False,
            1,
            "a part of it is denied by 10-a.policy:1",
        ),
        ("deny subscribe a.> from guest\nallow subscribe > from guest", "a.b.*", False, 1, "denied by 10-a.policy:1"),
        ("deny subscribe a.> from guest\nallow subscribe > from guest", "b.>", True, 2, "allowed by 10-a.policy:2"),
        ("allow subscribe a.b from guest\nallow subscribe a.* from guest", "a.*", True, 2, "allowed by 10-a.policy:2"),
        ("allow subscribe a.b from guest\ndeny subscribe a.b from guest", "a.b", True, 1, "allowed by 10-a.policy:1"),
        ("allow subscribe a.b,a.* from guest", "a.*", True, 1, "allowed by 10-a.policy:1"),
        ("deny subscribe x,a.b from guest\nallow subscribe > from guest", "a.>", False, 1, "a part of it is denied by"),
        ("deny serve a.> from guest\nallow subscribe > from guest", "a.>", True, 2, "allowed by 10-a.policy:2"),
        ("deny subscribe a.> from host\nallow subscribe > from guest", "a.>", True, 2, "allowed by 10-a.policy:2"),
        ("allow subscribe > from guest", "$bus.>", False, None, "no rule allows it"),
        ("allow subscribe $bus.endpoints.* from guest", "$bus.endpoints.*", True, 1, "allowed by 10-a.policy:1"),
    ],
)
def test_patterns(rules: str, pattern: str, allowed: bool, where: int | None, reason: str) -> None:
    decision = one(rules + "\n").rights(GUEST).decide_pattern("subscribe", pattern)
    assert decision.allowed == allowed
    assert decision.where == (f"10-a.policy:{where}" if where else "default")
    assert decision.reason.startswith(reason)


def test_a_reason_does_not_repeat_the_rule() -> None:
    """Whoever was refused reads it: it must not learn which other tenants there are."""
    policy = one("deny publish x from guest tenant=acme,globex\nallow publish > from guest\n")
    for decision in (policy.rights(GUEST).decide("publish", "x"), policy.rights(GUEST).decide_pattern("publish", ">")):
        assert not decision.allowed
        assert "globex" not in decision.reason


# -- failing closed ---------------------------------------------------------------------------------------------------

GOOD = ("10-good.policy", "allow call a from guest\nexport service a from node to acme\n")
LATER = ("90-later.policy", "allow call b,a from guest\nexport service b from node to acme\n")


def everything_denied(policy: Policy) -> str:
    """The reason for which everything is denied."""
    reasons = set()
    for principal in (GUEST, ROOT):
        for verb in VERBS:
            for subject in ("a", "b", "$bus.ping"):
                decision = policy.rights(principal).decide(verb, subject)
                assert not decision.allowed
                assert policy.rights(principal).decide_pattern(verb, subject) == decision
                reasons.add(decision.reason)
    assert policy.exported_services("acme") == ()
    (reason,) = reasons
    return reason


def test_no_file_denies_everything() -> None:
    policy = policy_of()
    assert everything_denied(policy) == "the policy is in error at /p, so everything is denied"
    assert [str(error) for error in policy.errors] == ["/p: there is no policy file, so nothing is allowed"]


@pytest.mark.parametrize(
    "bad",
    [
        ("50-bad.polcy", "allow call a from guest\n"),
        ("50-bad.policy~", "allow call a from guest\n"),
        ("README", "# hello\n"),
        ("/etc/busd/policy.d", None),
    ],
)
def test_a_name_without_a_place_denies_everything(bad: tuple[str, str | None]) -> None:
    policy = policy_of(GOOD, bad, LATER)
    reason = everything_denied(policy)
    assert reason == f"the policy is in error at {bad[0]}, so everything is denied"
    assert len(policy.errors) == 1


def test_a_folder_that_cannot_be_read_denies_everything_and_says_so() -> None:
    policy = parse([PolicyFile("/etc/busd/policy.d", None, "it cannot be read: Permission denied")], self_uid=0)
    assert "/etc/busd/policy.d" in everything_denied(policy)
    assert [str(error) for error in policy.errors] == ["/etc/busd/policy.d: it cannot be read: Permission denied"]


@pytest.mark.parametrize(
    ("bad", "place"),
    [
        ("allow call b from guest\nalow call c from guest\n", "50-bad.policy:2"),
        ("allow call b from guest", "50-bad.policy"),
        ("", "50-bad.policy"),
        (None, "50-bad.policy"),
    ],
)
def test_a_bad_file_denies_from_its_place_on(bad: str | None, place: str) -> None:
    policy = policy_of(GOOD, ("50-bad.policy", bad), LATER)
    assert may(policy, GUEST, "call", "a"), "an earlier good file holds"
    rights = policy.rights(GUEST)
    for decision in (rights.decide("call", "b"), rights.decide_pattern("call", "b.>"), rights.decide("publish", "z")):
        assert (decision.allowed, decision.rule, decision.where) == (False, None, place)
        assert decision.reason == (
            f"the policy is in error at {place}, so everything that no earlier file decides is denied"
        )
    assert [export.where for export in policy.exported_services("acme")] == ["10-good.policy:2"]


def test_errors_of_all_files_are_told() -> None:
    policy = policy_of(("10-a.policy", "x\n"), ("20-b.policy", "# fine\n"), ("30-c.policy", "# fine\ny\n"))
    assert [error.where for error in policy.errors] == ["10-a.policy:1", "30-c.policy:2"]


def test_the_bound_of_rules_counts_all_files() -> None:
    half = "allow call a from guest\n" * (RULES // 2)
    assert policy_of(("10-a.policy", half), ("20-b.policy", half)).errors == ()
    policy = policy_of(("10-a.policy", half), ("20-b.policy", half + "export stream a from acme to node\n"))
    assert [error.where for error in policy.errors] == [f"20-b.policy:{RULES // 2 + 1}"]
    assert len(policy.rules) == RULES // 2


def test_a_new_policy_with_any_error_is_not_taken() -> None:
    one("allow call a from guest\n").require_valid()
    for files in ([], [GOOD, ("50-bad.policy", "x\n")], [GOOD, ("bad", "# fine\n")]):
        with pytest.raises(BusError) as refusal:
            policy_of(*files).require_valid()
        assert refusal.value.code == Code.POLICY_INVALID
        assert refusal.value.fields["count"] == 1
    with pytest.raises(BusError) as refusal:
        policy_of(("10-a.policy", "x\n" * 9)).require_valid()
    assert "10-a.policy:1: a line begins with" in refusal.value.text
    assert refusal.value.text.endswith("; and 4 more")


# -- exports ----------------------------------------------------------------------------------------------------------


def test_exports_are_for_whom_they_name() -> None:
    policy = one(
        "export service cache.> from node to acme\nexport service clock.now from node to *\n"
        "export stream metrics.> from acme,globex to node\nexport stream logs.> from * to node\n"
    )

    def patterns(kind: str, tenant: str) -> list[str]:
        found = policy.exported_services(tenant) if kind == "service" else policy.exported_streams(tenant)
        return [pattern for export in found for pattern in export.patterns]

    assert patterns("service", "acme") == ["cache.>", "clock.now"]
    assert patterns("service", "globex") == ["clock.now"]
    assert patterns("stream", "globex") == ["metrics.>", "logs.>"]
    assert patterns("stream", "initech") == ["logs.>"]
    assert patterns("service", "node") == patterns("stream", "node") == []


# -- cost and identity ------------------------------------------------------------------------------------------------


def test_principals_of_the_same_rules_share_their_rights() -> None:
    policy = one("allow call a from guest tenant=acme\nallow call b from guest\n")
    acme = policy.rights(GUEST)
    assert policy.rights(Principal("guest", "acme", "vm-9", 7)) is acme
    assert policy.rights(OTHER) is not acme
    assert len(policy._shared) == 1
    globex = policy.rights(OTHER)
    assert len(policy._shared) == 2
    del acme, globex
    gc.collect()
    assert len(policy._shared) == 0, "rights that nobody holds are kept"


def test_the_digest_is_that_of_names_and_text() -> None:
    digests = {
        policy_of(("10-a.policy", "#\n"), ("20-b.policy", "#\n")).digest,
        policy_of(("10-a.policy", "#\n#\n"), ("20-b.policy", "#\n")).digest,
        policy_of(("10-a.policy", "#\n"), ("21-b.policy", "#\n")).digest,
        policy_of(("10-a.policy", "#\n")).digest,
        policy_of().digest,
    }
    assert len(digests) == 5
    assert all(len(digest) == 16 for digest in digests)
    given = [("10-a.policy", "#\n"), ("20-b.policy", "x\n")]
    assert policy_of(*given).digest == policy_of(*given[::-1]).digest


def test_statistics() -> None:
    statistics = policy_of(GOOD, LATER, ("95-bad.policy", "x\n")).statistics()
    assert (statistics.files, statistics.rules, statistics.exports, statistics.errors) == (3, 2, 2, 1)


@pytest.mark.alone
def test_a_flood_of_denials_costs_microseconds() -> None:
    """50 rules, none of which matches; bounds are ten times what a slow machine measured."""
    text = "".join(f"allow publish,subscribe a{n}.b.*,c{n}.> from guest tenant=acme\n" for n in range(50))
    rights = one(text).rights(GUEST)

    def microseconds(work: object) -> float:
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(200):
                assert not work().allowed  # type: ignore[operator]
            best = min(best, (time.perf_counter() - start) / 200 * 1e6)
        return best

    assert microseconds(lambda: rights.decide("publish", "metrics.cpu.load")) < 10
    assert microseconds(lambda: rights.decide_pattern("subscribe", "metrics.>")) < 150


# -- guests that the node itself owns ---------------------------------------------------------------------------------


def test_a_guest_of_the_nodes_own_has_only_the_rights_that_name_it() -> None:
    service = Principal("guest", "node", "svc", 1)
    broad = "allow publish,subscribe,call,serve > from guest\n"
    assert not may(one(broad), service, "serve", "cache.get")
    assert may(one(broad), GUEST, "serve", "cache.get")
    named = one("deny call cache.shred from guest\n" + broad + "allow serve,call cache.> from guest tenant=node\n")
    assert may(named, service, "serve", "cache.get")
    assert not may(named, service, "call", "cache.shred"), "what guests are denied, this one is denied"
    assert not may(named, service, "publish", "cache.get")


def test_a_rule_about_guests_does_not_make_the_one_that_names_the_nodes_own_superfluous() -> None:
    text = "allow call cache.> from guest\nallow call cache.> from guest tenant=node\n"
    assert [finding for finding in lint(one(text)) if "cache" in str(finding)] == []
    text = text.replace("allow call cache.> from guest\n", "deny call cache.> from guest\n")
    assert lint(one(text)), "a denial reaches it"


def test_a_guest_of_the_nodes_own_pays_for_itself() -> None:
    world = World("allow call,serve > from host\nallow serve s from guest tenant=node\n")
    caller, service = world.peer(), world.guest("node", "svc")
    service.serve("s")
    assert service.session.account.name == "unit svc"
    caller.call("s")
    assert len(service.take()) == 1
