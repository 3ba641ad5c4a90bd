"""What becomes a record: once, singly, or summed up; and nothing that a guest does can make it cost more."""

import json
import sys
from itertools import count
from typing import Any

import pytest

from busd.core.audit import (
    ACTOR_ALLOWS,
    ACTOR_PAIRS,
    ACTORS,
    FACTS_BYTES,
    KINDS,
    NAMED_KINDS,
    PAIRS,
    PENDING,
    PERIOD_SECONDS,
    SINGLE,
    SUMMARY_DEBT_SECONDS,
    TEXT,
    AuditTrail,
    clip,
)
from busd.core.auditchain import LINE_BYTES, Chain, Record
from busd.core.auditcheck import verify
from busd.core.deadlines import Alarm
from busd.core.principal import Principal

GUEST = Principal("guest", "acme", "vm-1", 1, cid=7, pid=11, started=5)
ROOT = Principal("host", "node", "host", 0, uid=0, gid=0, pid=4711, groups=(0, 1))


def guest(number: int) -> Principal:
    return Principal("guest", f"t{number % 8}", f"vm-{number}", 1)


def allow(trail: AuditTrail, subject: str, now: float = 0.0, who: Principal = GUEST, verb: str = "call") -> None:
    trail.allowed(who, "guest-1", verb, subject, "host", now)


def deny(trail: AuditTrail, subject: str, now: float = 0.0, who: Principal = GUEST, verb: str = "call") -> None:
    trail.denied(who, "guest-1", verb, subject, "10-guests.policy:3", "no rule allows it", now)


def run(trail: AuditTrail, until: float) -> list[Record]:
    """Let time pass as the bus does; everything that was made."""
    while (deadline := trail.next_deadline()) is not None and deadline <= until:
        trail.expire(deadline)
    return trail.take()


# -- allows -----------------------------------------------------------------------------------------------------------


def test_an_allow_is_recorded_once_for_each_identity_verb_and_subject() -> None:
    trail = AuditTrail()
    for now in range(100):
        allow(trail, "cache.get", now)
        allow(trail, "cache.get", now, verb="publish")
        allow(trail, "cache.put", now)
        allow(trail, "cache.get", now, guest(2))
    records = trail.take()
    assert [(r["principal"]["unit"], r["verb"], r["subject"]) for r in records] == [
        ("vm-1", "call", "cache.get"),
        ("vm-1", "publish", "cache.get"),
        ("vm-1", "call", "cache.put"),
        ("vm-2", "call", "cache.get"),
    ]
    assert records[0] == {
        "event": "allowed",
        "principal": {"boundary": "guest", "tenant": "acme", "unit": "vm-1", "generation": 1, "cid": 7, "pid": 11},
        "endpoint": "guest-1",
        "verb": "call",
        "subject": "cache.get",
        "to": "host",
    }
    assert trail.take() == []
    assert trail.next_deadline() is None


def test_another_process_of_the_same_identity_is_no_news_and_another_life_of_the_unit_is() -> None:
    trail = AuditTrail()
    for generation, pid in ((1, 11), (1, 12), (2, 11)):
        allow(trail, "a", who=Principal("guest", "acme", "vm-1", generation, cid=7, pid=pid, started=pid))
    assert [r["principal"]["generation"] for r in trail.take()] == [1, 2]


def test_what_is_forgotten_is_written_again_and_never_lost() -> None:
    trail = AuditTrail()
    # Slowly, so that everything may be written singly.
    for number in range(ACTOR_PAIRS + 1):
        allow(trail, f"a{number}", now=2.0 * number)
    assert len(trail.take()) == ACTOR_PAIRS + 1
    allow(trail, "a0", now=1e6)
    allow(trail, f"a{ACTOR_PAIRS}", now=1e6)
    assert [r["subject"] for r in trail.take()] == ["a0"]
    assert trail.statistics().pairs == ACTOR_PAIRS


def test_all_identities_together_are_bounded_and_who_has_most_forgets_first() -> None:
    trail = AuditTrail()
    quiet = guest(99)
    allow(trail, "rare", who=quiet)
    now = 0.0
    for number in range(PAIRS // ACTOR_PAIRS + 2):
        for subject in range(ACTOR_PAIRS):
            now += 1.0
            allow(trail, f"s{subject}", now, guest(number))
        assert len(trail.take()) <= ACTOR_PAIRS + 1
    assert PAIRS * 7 // 8 < trail.statistics().pairs <= PAIRS
    allow(trail, "rare", now, quiet)
    assert trail.take() == [], "the busy ones did not make the quiet one's be forgotten"


def test_identities_are_bounded_and_what_was_counted_of_one_that_goes_is_told() -> None:
    trail = AuditTrail()
    deny(trail, "x", who=guest(0))
    deny(trail, "x", who=guest(0))
    for number in range(1, ACTORS):
        allow(trail, "a", who=guest(number))
    assert not [r for r in trail.take() if r["event"] == "denied-more"]
    allow(trail, "a", who=guest(ACTORS))
    assert [(r["event"], r["principal"]["unit"], r.get("count")) for r in trail.take()] == [
        ("denied-more", "vm-0", 1),
        ("allowed", f"vm-{ACTORS}", None),
    ]
    assert (trail.statistics().identities, trail.statistics().pairs) == (ACTORS, ACTORS)
    assert trail.next_deadline() is None


def test_a_guest_that_makes_up_subjects_cannot_flood_the_log_and_is_counted() -> None:
    trail = AuditTrail()
    sent = 50_000
    for number in range(sent):
        allow(trail, f"a{number}", now=number / sent)
    records = [*trail.take(), *run(trail, 1000.0)]
    singly = [r for r in records if r["event"] == "allowed"]
    more = [r for r in records if r["event"] == "allowed-more"]
    assert len(singly) <= ACTOR_ALLOWS[1] + 2
    assert len(more) == 1
    assert len(singly) + sum(r["count"] for r in more) == sent
    assert len(more[0]["kinds"]) == NAMED_KINDS
    assert more[0]["kinds"][0] == {"verb": "call", "subject": more[0]["kinds"][0]["subject"], "to": "host", "count": 1}
    allow(trail, f"a{sent - 1}", now=2000.0)
    assert [r["event"] for r in trail.take()] == ["allowed"], "what was only counted is written when there is room"


# -- denials ----------------------------------------------------------------------------------------------------------


def test_the_first_denial_of_a_kind_is_recorded_at_once_and_the_rest_counted_every_ten_seconds() -> None:
    trail = AuditTrail()
    for number in range(1000):
        deny(trail, "node.secret", now=number / 100)
    [record] = trail.take()
    assert record["event"] == "denied"
    assert (record["subject"], record["where"], record["reason"]) == (
        "node.secret",
        "10-guests.policy:3",
        "no rule allows it",
    )
    assert trail.next_deadline() == pytest.approx(PERIOD_SECONDS, abs=0.01)
    [summary] = run(trail, 10.5)
    assert summary == {
        "event": "denied-more",
        "principal": {"boundary": "guest", "tenant": "acme", "unit": "vm-1", "generation": 1, "cid": 7},
        "count": 999,
        "kinds": [
            {
                "verb": "call",
                "subject": "node.secret",
                "where": "10-guests.policy:3",
                "reason": "no rule allows it",
                "count": 999,
            }
        ],
        "others": 0,
        "seconds": pytest.approx(PERIOD_SECONDS, abs=0.05),
    }


def test_a_denial_that_goes_on_is_summed_up_again_and_one_that_comes_back_later_is_new() -> None:
    trail = AuditTrail()
    records = []
    for tenth in range(300):
        records += run(trail, tenth / 10)
        deny(trail, "x", now=tenth / 10)
    records += run(trail, 100.0)
    assert [r["event"] for r in records] == ["denied", *["denied-more"] * (len(records) - 1)]
    assert 1 + sum(r["count"] for r in records[1:]) == 300
    assert len(records) <= 2 + 30 // PERIOD_SECONDS
    assert trail.next_deadline() is None
    deny(trail, "x", now=200.0)
    assert [r["event"] for r in trail.take()] == ["denied"]


def test_kinds_beyond_the_bound_are_counted_together() -> None:
    trail = AuditTrail()
    for number in range(KINDS + 50):
        deny(trail, f"s{number}")
    assert len(trail.take()) == KINDS
    [summary] = run(trail, 20.0)
    assert (summary["count"], summary["others"], summary["kinds"]) == (50, 50, [])


def test_a_summary_names_the_most_frequent() -> None:
    trail = AuditTrail()
    for number in range(20):
        for _ in range(number + 1):
            deny(trail, f"s{number}")
    trail.take()
    [summary] = run(trail, 20.0)
    assert [(k["subject"], k["count"]) for k in summary["kinds"]] == [(f"s{n}", n) for n in range(19, 11, -1)]
    assert summary["count"] == sum(range(20))
    assert summary["others"] == sum(range(12))


def test_a_flood_of_denials_costs_neither_memory_nor_disk() -> None:
    trail = AuditTrail()
    sent, subjects, seconds = 100_000, 10_000, 100.0
    records: list[Record] = []
    for number in range(sent):
        now = number * seconds / sent
        if (deadline := trail.next_deadline()) is not None and deadline <= now:
            trail.expire(now)
        deny(trail, f"s{number % subjects}", now)
        records += trail.take()
    records += run(trail, 1e4)
    singly = sum(r["event"] == "denied" for r in records)
    assert singly + sum(r["count"] for r in records if r["event"] == "denied-more") == sent
    periods = seconds / PERIOD_SECONDS + 2
    assert len(records) <= periods * (KINDS + 1)
    assert sum(len(json.dumps(r)) for r in records) < 1 << 20
    statistics = trail.statistics()
    assert (statistics.identities, statistics.pairs, statistics.pending) == (1, 0, 0)
    assert statistics.denied_summed == sent - singly
    assert size_of(trail) < 64 * 1024


def test_all_guests_together_are_bounded_and_the_host_is_not_held_up_by_them() -> None:
    rate, burst = SINGLE["guest"]
    trail = AuditTrail()
    guests, seconds = 200, 2000.0
    records: list[Record] = []
    sent = 0
    for step in range(int(seconds)):
        if (deadline := trail.next_deadline()) is not None and deadline <= step:
            trail.expire(float(step))
        for number in range(guests):
            deny(trail, f"s{sent}", float(step), guest(number))
            sent += 1
        records += trail.take()
    allowed = burst + rate * (seconds + SUMMARY_DEBT_SECONDS) + guests
    assert len(records) <= allowed
    deny(trail, "host.thing", seconds, ROOT)
    assert [r["principal"]["boundary"] for r in trail.take()] == ["host"]
    trail.settle(seconds)
    records += trail.take()
    counted = sum(1 if r["event"] == "denied" else r["count"] for r in records)
    assert counted == sent, "what was not written singly was counted"


# -- acts, and what is in a record ------------------------------------------------------------------------------------


def test_every_administrative_act_is_recorded_with_its_outcome() -> None:
    trail = AuditTrail()
    for outcome in ("ok", "unit-refused", "ok") * 1000:
        trail.act(ROOT, "host-9", "guest.add", {"unit": "vm-1", "tenant": "acme"}, outcome, 0.0)
    records = trail.take()
    assert len(records) == 3000
    assert records[1] == {
        "event": "act",
        "principal": {"boundary": "host", "tenant": "node", "unit": "host", "generation": 0, "uid": 0, "pid": 4711},
        "endpoint": "host-9",
        "what": "guest.add",
        "facts": {"unit": "vm-1", "tenant": "acme"},
        "outcome": "unit-refused",
    }


def test_what_the_node_does_by_itself_is_recorded() -> None:
    trail = AuditTrail()
    trail.system("policy-loaded", {"files": 3, "folder": "/etc/busd/policy.d"}, 0.0)
    assert trail.take() == [
        {"event": "system", "what": "policy-loaded", "facts": {"files": 3, "folder": "/etc/busd/policy.d"}}
    ]
    assert trail.statistics().records == {"system": 1}


HOSTILE: list[Any] = [
    "x" * 10_000_000,
    "\0" * 100_000,
    "\U0010ffff" * 100_000,
    "\ud800" * 100_000,
    {f"k{n}": "v" * 300 for n in range(100_000)},
    {"\x1b" * 1000: {"\x1b" * 1000: {"a": {"b": {"c": {"d": {"e": 1}}}}}}},
    [["deep"] * 100] * 1000,
    list(range(100_000)),
    10**4000,
    float("nan"),
    float("inf"),
    b"\xff" * 1000,
    None,
    object(),
]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
def test_nothing_in_a_record_is_longer_than_a_line_whatever_was_sent(value: Any) -> None:
    trail = AuditTrail()
    text = value if isinstance(value, str) else "x"
    trail.allowed(GUEST, "guest-1", "call", text, text, 0.0)
    for _ in range(2):
        trail.denied(GUEST, "guest-1", "call", text, text, text, 0.0)
    trail.act(ROOT, "host-1", text, {"value": value, "other": 1}, text, 0.0)
    trail.system(text, {"value": value}, 0.0)
    trail.settle(1.0)
    chain = Chain("n1")
    lines = [chain.seal(record, "t") for record in trail.take()]
    assert len(lines) == 5
    assert all(len(line) < LINE_BYTES // 2 for line in lines)
    assert not any(b'"cut"' in line for line in lines), "each was recorded as what it is"
    assert verify(("f", line) for line in lines).ok


def test_facts_that_are_too_many_are_cut_and_say_so() -> None:
    trail = AuditTrail()
    trail.system("x", {f"k{n}": "v" for n in range(10_000)}, 0.0)
    [record] = trail.take()
    assert record["facts"]["..."] is True
    assert record["facts"]["k0"] == "v"
    assert len(json.dumps(record)) < 2 * FACTS_BYTES


def test_text_is_cut_by_what_it_takes_in_the_file() -> None:
    assert clip("a.b") == "a.b"
    assert clip("x" * 300) == "x" * TEXT
    assert clip("Grüße") == "Grüße"
    assert len(json.dumps(clip("\0" * 300))) - 2 <= TEXT
    assert len(clip("\0" * 300)) > 20


def test_records_that_nobody_takes_are_bounded_counted_and_told() -> None:
    trail = AuditTrail()
    for number in range(PENDING + 5):
        trail.system("x", {"n": number}, 0.0)
    assert (trail.statistics().pending, trail.statistics().lost) == (PENDING, 5)
    records = trail.take()
    assert records[-2]["facts"] == {"n": PENDING - 1}
    assert records[-1]["event"] == "audit-lost"
    assert records[-1]["count"] == 5
    assert trail.take() == []


def test_where_there_is_no_log_nothing_is_collected() -> None:
    trail = AuditTrail()
    trail.enabled = False
    for number in range(100):
        allow(trail, f"a{number}")
        deny(trail, f"d{number}")
        trail.act(ROOT, "host-1", "guest.add", {}, "ok", 0.0)
        trail.system("x", {}, 0.0)
    assert trail.take() == []
    assert trail.next_deadline() is None
    assert (trail.statistics().identities, trail.statistics().lost, trail.statistics().records) == (0, 0, {})


def test_the_alarm_is_told_of_a_summary_that_is_due() -> None:
    alarm = Alarm()
    trail = AuditTrail(alarm)
    deny(trail, "x", now=5.0)
    assert alarm.at == 5.0 + PERIOD_SECONDS


def size_of(root: object) -> int:
    """Bytes of all that hangs on ``root``."""
    seen: set[int] = set()
    waiting = [root]
    total = 0
    for _ in count():
        if not waiting:
            return total
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type):
            continue
        seen.add(id(thing))
        total += sys.getsizeof(thing)
        if isinstance(thing, dict):
            waiting += [*thing.keys(), *thing.values()]
        elif isinstance(thing, (list, tuple, set)):
            waiting += thing
        else:
            names = [*getattr(thing, "__slots__", ()), *getattr(thing, "__dict__", ())]
            waiting += [getattr(thing, name) for name in names if hasattr(thing, name)]
    raise AssertionError
