"""Monitors: who may have one, what it is told, and that nobody else notices."""

from typing import Any

import pytest

from busd.core.reasons import Departure
from busd.core.tap import LOOKS, LOOKS_AT_ONCE, MONITOR, RECORDS, WAITING_BYTES
from busd.core.taps import LOST_SECONDS, TAPS
from busproto import envelope
from busproto.envelope import Kind, Status
from busproto.errors import Code
from tests.core.peer import HOST, OPEN, Peer, World, error_of, made
from tests.schemas.test_asyncapi import check

DAY = 24 * 3600.0


class Monitor:
    """A peer that monitors."""

    def __init__(self, world: World, peer: Peer | None = None, seconds: float = DAY, **request: Any) -> None:
        self.peer = peer or world.peer(component="watcher", owner="ops", purpose="looks")
        self.id = self.peer.call(MONITOR, envelope.pack(request), seconds=seconds)
        (began,) = self.take()
        assert began["kind"] == "began"
        self.began = began

    def take(self) -> list[dict[str, Any]]:
        """What it was told since this was last asked; nothing else may have come."""
        told = []
        for message in self.peer.take():
            assert message[:3] == [Kind.REPLY, self.id, Status.PARTIAL], message
            told.append(envelope.unpack(message[4]))
        for record in told[:20]:
            check(MONITOR, "reply", record)
        return told

    def kinds(self) -> list[tuple[str, str]]:
        return [(record["kind"], record["subject"]) for record in self.take()]


def acts(world: World) -> list[dict[str, Any]]:
    return [record for record in world.bus.audit.take() if record.get("what") == MONITOR]


# -- who may -----------------------------------------------------------------------------------------------------------


def test_a_tenant_never_may_whatever_the_policy_says() -> None:
    world = World()
    guest = world.guest("acme")
    guest.call(MONITOR)
    (answer,) = guest.take()
    assert answer[2] == Status.DENIED
    assert "all tenants" in error_of(answer)["text"]
    assert world.statistics().monitors == 0
    assert [record["event"] for record in world.bus.audit.take() if record.get("subject") == MONITOR] == ["denied"]


def test_of_the_node_only_those_whom_policy_lets() -> None:
    world = World("allow publish,subscribe,call,serve > from host\nallow call $bus.ping,$bus.list from host\n")
    peer = world.peer()
    peer.call(MONITOR)
    (answer,) = peer.take()
    assert answer[2] == Status.DENIED
    assert error_of(answer)["code"] == Code.DENIED
    assert world.statistics().monitors == 0


def test_a_right_that_is_withdrawn_ends_it() -> None:
    world = World()
    monitor = Monitor(world)
    assert world.bus.apply_policy(made("allow publish > from host\n"), world.now) == 1
    (ending,) = monitor.peer.take()
    assert (ending[1], ending[2]) == (monitor.id, Status.DENIED)
    assert world.statistics().monitors == 0
    monitor.peer.publish("a")
    assert monitor.peer.take() == []


@pytest.mark.parametrize(
    "request_",
    [
        [],
        {"patterns": "a"},
        {"patterns": ["a"] * 17},
        {"patterns": [1]},
        {"kinds": ["all"]},
        {"tenant": "A B"},
        {"endpoint": 1},
        {"payload": -1},
        {"payload": 65537},
        {"paylod": 1},
    ],
    ids=repr,
)
def test_a_request_that_is_not_valid_is_refused_and_written_down(request_: Any) -> None:
    world = World()
    peer = world.peer()
    assert peer.ask(MONITOR, request_)["code"] == Code.REQUEST_INVALID
    assert world.statistics().monitors == 0
    assert [record["outcome"] for record in acts(world)] == ["request-invalid"]


def test_a_pattern_that_is_none_is_refused() -> None:
    assert World().peer().ask(MONITOR, {"patterns": ["a..b"]})["code"] == Code.PATTERN_INVALID


def test_there_are_few_at_a_time() -> None:
    world = World()
    monitors = [Monitor(world) for _ in range(TAPS)]
    late = world.peer()
    late.call(MONITOR)
    (answer,) = late.take()
    assert answer[2] == Status.OVERLOADED
    assert f"holds {TAPS} of {TAPS}" in error_of(answer)["text"]
    assert world.statistics().quota_rejections == {"monitors": 1}
    monitors[0].peer.send(envelope.cancel(monitors[0].id))
    Monitor(world, late)


# -- that it is seen ---------------------------------------------------------------------------------------------------


def test_the_census_shows_it_while_it_is_on_and_the_audit_when_it_began_and_ended() -> None:
    world = World()
    monitor = Monitor(world, patterns=["a.>"], tenant="acme", kinds=["publish"], payload=7)
    other = world.peer()
    assert world.statistics().monitors == 1
    world.advance(5.0)
    rows = {row["endpoint"]: row["monitoring"] for row in other.ask("$bus.list")["endpoints"]}
    asked = {"patterns": ["a.>"], "tenant": "acme", "endpoint": None, "kinds": ["publish"], "payload": 7}
    assert rows[monitor.peer.name] == [{"seconds": 5.0, **asked, "told": 0, "missed": 0, "unseen": 0}]
    assert rows[other.name] == []
    inspected = other.ask("$bus.inspect", {"endpoint": monitor.peer.name})
    assert inspected["monitoring"] == rows[monitor.peer.name]
    assert inspected["calls"][0]["responder"] == "$bus"
    (begun,) = acts(world)
    assert (begun["endpoint"], begun["facts"], begun["outcome"]) == (monitor.peer.name, asked, "ok")
    monitor.peer.send(envelope.cancel(monitor.id))
    assert other.ask("$bus.inspect", {"endpoint": monitor.peer.name})["monitoring"] == []
    (ended,) = acts(world)
    assert (ended["outcome"], ended["facts"]["seconds"]) == ("ended: cancelled", 5.0)
    assert world.statistics().monitors == 0


@pytest.mark.parametrize("how", ["bye", "lost", "deadline", "cut off"])
def test_it_ends_with_its_caller_and_its_deadline(how: str) -> None:
    world = World()
    monitor = Monitor(world, seconds=10.0)
    if how == "bye":
        monitor.peer.send(envelope.bye(None))
    elif how == "lost":
        monitor.peer.leave(Departure.CONNECTION_LOST)
    elif how == "deadline":
        world.advance(11.0)
        assert monitor.peer.take()[-1][2] == Status.TIMEOUT
    else:
        monitor.peer.send(b"\xc1")  # breaks the protocol
    assert world.statistics().monitors == 0
    assert [record["outcome"].partition(":")[0] for record in acts(world)] == ["ok", "ended"]
    world.peer().publish("a")
    world.advance(60.0)
    assert not monitor.peer.session.monitoring


def test_a_node_that_drains_does_not_wait_for_it() -> None:
    world = World()
    monitor = Monitor(world)
    world.bus.drain(5.0)
    assert world.bus.calls_in_flight == 0
    world.bus.shut(world.now)
    assert monitor.peer.take()[-1][0] == Kind.BYE
    assert world.statistics().monitors == 0


# -- what it is told ---------------------------------------------------------------------------------------------------


def test_a_publish_of_any_tenant_with_its_origin_headers_and_who_gets_it() -> None:
    world = World()
    monitor = Monitor(world)
    guest, reader = world.guest("acme"), world.guest("acme")
    reader.subscribe("m.>")
    monitor.take()
    world.advance(2.0)
    guest.send(envelope.publish("m.cpu", {"h": "x"}, b"12345"))
    (told,) = monitor.take()
    assert told == {
        "kind": "publish",
        "at": 2.0,
        "tenant": "acme",
        "subject": "m.cpu",
        "origin": {
            "endpoint": guest.name,
            "boundary": "guest",
            "tenant": "acme",
            "unit": "vm-acme",
            "generation": 1,
        },
        "receivers": 1,
        "headers": {"h": "x"},
        "bytes": 5,
    }
    assert [message[0] for message in reader.take()] == [Kind.PUBLISH]


def test_messages_alike_in_one_frame_are_each_told_with_their_own_payload() -> None:
    world = World()
    monitor = Monitor(world, payload=4)
    peer = world.peer()
    peer.send(*(envelope.publish("a.b", None, b"n%d-and-more" % n) for n in range(5)), envelope.publish("c", None, b""))
    told = monitor.take()
    assert [record["payload"] for record in told] == [b"n0-a", b"n1-a", b"n2-a", b"n3-a", b"n4-a", b""]
    assert [record["bytes"] for record in told] == [11] * 5 + [0]


def test_a_large_payload_is_shown_cut_and_only_if_it_is_asked_for() -> None:
    world = World()
    with_payload, without = Monitor(world, payload=10), Monitor(world)
    with_payload.take()
    world.peer().publish("a", b"x" * 200_000)
    (told,) = with_payload.take()
    assert (told["payload"], told["bytes"]) == (b"x" * 10, 200_000)
    assert "payload" not in without.take()[-1]


def test_a_call_and_its_reply_belong_together() -> None:
    world = World()
    monitor = Monitor(world, payload=64)
    caller, server = world.peer(), world.peer()
    server.serve("work.*")
    id = caller.call("work.now", b"please")
    (given,) = server.take()
    world.advance(0.25)
    server.send(envelope.reply(given[1], Status.PARTIAL, None, b"half"), envelope.reply(given[1], 0, {"h": 1}, b"done"))
    call, part, reply = (record for record in monitor.take() if record["subject"] == "work.now")
    assert (call["kind"], call["origin"]["endpoint"], call["to"], call["payload"]) == (
        "call",
        caller.name,
        server.name,
        b"please",
    )
    assert (part["kind"], part["status"], part["payload"]) == ("reply", "part", b"half")
    assert (reply["status"], reply["payload"], reply["headers"], reply["seconds"]) == ("reply", b"done", {"h": 1}, 0.25)
    assert (reply["origin"]["endpoint"], reply["to"]) == (server.name, caller.name)
    assert call["id"] == part["id"] == reply["id"] == id
    server.send(envelope.reply(given[1], 0, None, b"again"))
    assert monitor.take() == [], "a reply that goes nowhere does not pass"


def test_outcomes_that_the_broker_decides_follow_their_calls() -> None:
    world = World()
    monitor = Monitor(world, patterns=["work", "nobody", "$bus.>"])
    caller, server = world.peer(), world.peer()
    server.serve("work")
    caller.call("nobody")
    caller.call("work", seconds=0.5)
    world.advance(1.0)
    cancelled = caller.call("work")
    caller.send(envelope.cancel(cancelled))
    caller.call("work")
    server.leave()
    caller.take()
    caller.ask("$bus.ping")
    told = [(record["kind"], record["subject"], record.get("status")) for record in monitor.take()]
    assert told == [
        ("call", "nobody", None),
        ("reply", "nobody", "no-responders"),
        ("call", "work", None),
        ("reply", "work", "timeout"),
        ("call", "work", None),
        ("reply", "work", "cancelled"),
        ("call", "work", None),
        ("reply", "work", "unknown"),
        ("call", "$bus.ping", None),
        ("reply", "$bus.ping", "reply"),
    ]


def test_what_is_denied_is_told_as_denied_and_as_nothing_else() -> None:
    world = World(OPEN.replace("host,guest,soc", "host") + "allow publish ok from guest\n")
    monitor = Monitor(world)
    guest = world.guest("acme")
    guest.send(
        envelope.publish("ok", None, b""),
        envelope.publish("not", None, b"") * 3,
        envelope.call(7, "secret", 1000, None, b""),
        envelope.subscribe(8, "x.>", {}),
        envelope.serve(9, "y", {}),
    )
    allowed, *denied = monitor.take()
    assert (allowed["kind"], allowed["subject"]) == ("publish", "ok")
    assert {record["kind"] for record in denied} == {"denied"}
    counts: dict[tuple[str, str], int] = {}
    for record in denied:
        what = record["verb"], record["subject"]
        counts[what] = counts.get(what, 0) + record["count"]
    assert counts == {("publish", "not"): 3, ("call", "secret"): 1, ("subscribe", "x.>"): 1, ("serve", "y"): 1}
    assert all("no rule" in record["reason"] for record in denied)


def test_what_one_asks_of_the_broker_under_its_own_subjects_is_denied_too() -> None:
    world = World()
    monitor = Monitor(world, kinds=["denied"])
    world.peer().publish("$bus.fake")
    (told,) = monitor.take()
    assert (told["verb"], told["subject"]) == ("publish", "$bus.fake")


@pytest.mark.parametrize(
    ("request_", "seen"),
    [
        ({}, ["a.x", "b.x", "a.g", "echo", "echo"]),
        ({"patterns": ["a.*"]}, ["a.x", "a.g"]),
        ({"patterns": ["b.x", "echo"]}, ["b.x", "echo", "echo"]),
        ({"tenant": "acme"}, ["a.g"]),
        ({"tenant": "node"}, ["a.x", "b.x", "echo", "echo"]),
        ({"kinds": ["publish"]}, ["a.x", "b.x", "a.g"]),
        ({"kinds": ["call", "reply"]}, ["echo", "echo"]),
        ({"endpoint": "host-1"}, ["a.x", "b.x", "echo", "echo"]),
        ({"endpoint": "host-2"}, ["a.x", "echo", "echo"]),
        ({"endpoint": "host-2", "kinds": ["reply"]}, ["echo"]),
        ({"endpoint": "nobody"}, []),
    ],
    ids=repr,
)
def test_filters(request_: dict[str, Any], seen: list[str]) -> None:
    world = World()
    first, second, guest = world.peer(), world.peer(), world.guest("acme")
    assert (first.name, second.name) == ("host-1", "host-2")
    second.subscribe("a.x")
    second.serve("echo")
    monitor = Monitor(world, **request_)
    first.publish("a.x")
    first.publish("b.x")
    guest.publish("a.g")
    first.call("echo")
    second.send(envelope.reply(second.take()[-1][1], 0, None, b""))
    assert [subject for _, subject in monitor.kinds()] == seen


def test_a_pattern_over_everything_leaves_the_brokers_own_out_as_everywhere() -> None:
    world = World()
    monitor, own = Monitor(world, patterns=[">"]), Monitor(world, patterns=["$bus.>"])
    monitor.take()
    peer = world.peer()
    peer.ask("$bus.ping")
    peer.publish("a")
    assert monitor.kinds() == [("publish", "a")]
    assert [subject for _, subject in own.kinds()] == ["$bus.ping", "$bus.ping"]


def test_a_frame_that_is_handled_in_pieces_is_told_once() -> None:
    world = World()
    monitor = Monitor(world)
    peer = world.peer()
    frame = b"".join(envelope.publish(f"s.{n}", None, b"") for n in range(50))
    done = world.bus.receive(peer.session, frame, world.now, 10)
    while not done:
        done = world.bus.proceed(peer.session, world.now, 10)
    assert monitor.kinds() == [("publish", f"s.{n}") for n in range(50)]


def test_two_monitors_see_the_same_and_not_each_others_parts() -> None:
    world = World()
    first, second = Monitor(world, patterns=["a"]), Monitor(world, patterns=["a"])
    peer = world.peer()
    for _ in range(3):
        peer.publish("a")
    assert first.kinds() == second.kinds() == [("publish", "a")] * 3


# -- that nobody pays for it -------------------------------------------------------------------------------------------


def lost(records: list[dict[str, Any]]) -> tuple[int, int, int]:
    """Messages told, missed and unseen."""
    missed = [record for record in records if record["kind"] == "missed"]
    told = len(records) - len(missed)
    return told, sum(record["missed"] for record in missed), sum(record["unseen"] for record in missed)


def test_beyond_its_rate_it_misses_and_is_told_how_many() -> None:
    world = World()
    monitor = Monitor(world)
    peer = world.peer()
    peer.publish("a", times=1000)
    peer.publish("b", times=1000)
    world.advance(LOST_SECONDS + 0.1)
    told, missed, unseen = lost(monitor.take())
    assert RECORDS[1] - 1 <= told <= RECORDS[1]
    assert (told + missed, unseen) == (2000, 0)
    peer.publish("c")
    assert monitor.kinds() == [("publish", "c")]


def test_what_it_missed_stands_where_it_is_missing() -> None:
    world = World()
    monitor = Monitor(world)
    peer = world.peer()
    peer.publish("a", times=600)
    world.now += 0.5
    peer.publish("b")
    kinds = [record["kind"] for record in monitor.take()]
    assert len(kinds) >= RECORDS[1]
    assert kinds[-2:] == ["missed", "publish"]
    assert set(kinds[:-2]) == {"publish"}


def test_a_flood_is_not_even_looked_at_beyond_what_it_may_cost() -> None:
    world = World()
    monitor = Monitor(world, patterns=["rare"])
    peer = world.peer()
    sent = 0
    for _ in range(40):
        subjects = [f"s.{n}" for n in range(1000)]
        peer.send(*(envelope.publish(subject, None, b"") for subject in subjects))
        sent += 1000
    world.advance(LOST_SECONDS + 0.1)
    told, missed, unseen = lost(monitor.take())
    assert (told, missed) == (0, 0)
    assert sent - LOOKS[1] <= unseen < sent
    peer.publish("rare")
    assert monitor.kinds() == [("publish", "rare")]


def test_a_frame_of_thousands_is_looked_at_in_part() -> None:
    world = World()
    monitor = Monitor(world, patterns=["last"])
    peer = world.peer()
    frame = [envelope.publish(("a", "b")[n % 2], None, b"") for n in range(3 * LOOKS_AT_ONCE)]
    peer.send(*frame, envelope.publish("last", None, b""))
    world.advance(LOST_SECONDS + 0.1)
    assert lost(monitor.take()) == (0, 0, 2 * LOOKS_AT_ONCE + 1)


def test_one_that_does_not_read_costs_its_bound_and_loses_while_others_get_all() -> None:
    world = World()
    monitor = Monitor(world, payload=65536)
    sender, reader = world.peer(), world.peer()
    reader.subscribe("a")
    got = 0
    for _ in range(300):
        sender.publish("a", b"x" * 60_000)
        got += len(reader.take())
        world.now += 0.01
    assert got == 300
    outbox = monitor.peer.session.outbox
    assert outbox.bytes <= WAITING_BYTES + 200
    assert not monitor.peer.session.closing
    (row,) = monitor.peer.session.describe(world.now)["monitoring"]
    assert row["told"] + row["missed"] == 300
    assert 50 < row["told"] < 100
    first = monitor.take()
    world.advance(LOST_SECONDS + 0.1)
    told, missed, unseen = lost([*first, *monitor.take()])
    assert (told, told + missed, unseen) == (row["told"], 300, 0)


def test_while_nobody_monitors_frames_take_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    peer = world.peer()

    def fail(*_: object) -> int:
        raise AssertionError

    monkeypatch.setattr(world.bus, "_route_watched", fail)
    peer.publish("a", times=100)
    monitor = Monitor(world)
    with pytest.raises(AssertionError):
        peer.publish("a")
    monkeypatch.undo()
    monitor.peer.send(envelope.cancel(monitor.id))
    monkeypatch.setattr(world.bus, "_route_watched", fail)
    peer.publish("a")


def test_what_is_delivered_is_the_same_with_and_without_a_monitor() -> None:
    def exchange(*, watched: bool) -> list[list[Any]]:
        world = World()
        one, two = world.peer(), world.peer(principal=HOST)
        if watched:
            Monitor(world)
        two.subscribe("a.>")
        two.serve("s")
        one.send(
            envelope.publish("a.b", None, b"1"),
            envelope.call(1, "s", 1000, None, b"2"),
            envelope.call(2, "s", 1000, None, b"3"),
            envelope.publish("a.b", None, b"4"),
            envelope.call(3, "none", 1000, None, b"5"),
        )
        got = two.take()
        two.send(
            *(envelope.reply(m[1], 0, None, b"r") for m in got if m[0] == Kind.CALL), envelope.publish("a", None, b"")
        )
        return [*got, *one.take(), *two.take()]

    assert exchange(watched=True) == exchange(watched=False)
