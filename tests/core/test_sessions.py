"""A session's life: the table of states, hello, bounds on what it holds, and how it ends."""

import gc
from typing import Any

import pytest

from busd.core.reasons import Departure
from busd.core.session import Session
from busd.core.states import TRANSITIONS, State
from busproto import envelope
from busproto.envelope import KIND_NAMES, Kind, Status
from busproto.errors import BusError, Code
from tests.core.peer import HOST, Peer, World, error_of
from tests.support import no_collection

EXAMPLES: dict[int, bytes] = {
    Kind.HELLO: envelope.hello({}),
    Kind.WELCOME: envelope.welcome(1, "host-9", {}),
    Kind.PUBLISH: envelope.publish("a", None, b""),
    Kind.SUBSCRIBE: envelope.subscribe(1, "a", {}),
    Kind.UNSUBSCRIBE: envelope.unsubscribe(2, 1),
    Kind.SERVE: envelope.serve(3, "a", {}),
    Kind.UNSERVE: envelope.unserve(4, 3),
    Kind.CALL: envelope.call(5, "b", 1, None, b""),
    Kind.REPLY: envelope.reply(6, 0, None, b""),
    Kind.CANCEL: envelope.cancel(7),
    Kind.PING: envelope.ping(8),
    Kind.PONG: envelope.pong(8),
    Kind.DRAIN: envelope.drain(0),
    Kind.BYE: envelope.bye(None),
    Kind.ORIGIN: envelope.origin("e", "host", "node", "host", 0),
    Kind.GAP: envelope.gap(1, 1, "x"),
    Kind.ERROR: envelope.error(None, {}),
}


@pytest.mark.parametrize("state", [State.OPENING, State.OPEN, State.DRAINING])
@pytest.mark.parametrize("kind", sorted(EXAMPLES), ids=KIND_NAMES.get)
def test_table_of_states_is_what_the_bus_does(state: State, kind: int) -> None:
    world = World()
    peer = world.peer(hello=state is not State.OPENING)
    if state is State.DRAINING:
        peer.send(envelope.drain(0))
    assert peer.session.state is state
    peer.send(EXAMPLES[kind])
    expected = TRANSITIONS[state].get(kind)
    assert peer.session.state is (expected or State.CLOSING)
    if expected is None:
        bye = peer.take()[-1]
        assert bye[0] == Kind.BYE
        assert error_of(bye)["code"] == Code.KIND_UNEXPECTED
        assert error_of(bye)["fields"] == {"kind": KIND_NAMES[kind], "state": str(state)}


def test_every_kind_has_an_example() -> None:
    assert set(EXAMPLES) == set(KIND_NAMES)


def test_welcome_tells_what_the_broker_proved() -> None:
    world = World()
    peer = world.peer(hello=False)
    peer.send(envelope.hello({"component": "c"}, version=7))
    ((kind, version, name, info),) = peer.take()
    assert (kind, version, name) == (Kind.WELCOME, 1, "host-1")
    assert info == {
        "node": "test",
        "broker": "busd/test",
        "boundary": "host",
        "tenant": "node",
        "unit": "host",
        "generation": 0,
        "max_payload": 16 * 1024 * 1024,
        "max_frame": 16 * 1024 * 1024 + 64 * 1024,
        "max_envelopes": 16384,
    }


def test_hello_and_first_requests_in_one_frame() -> None:
    world = World()
    peer = world.peer(hello=False)
    peer.send(envelope.hello({}), envelope.subscribe(1, "a", {}), envelope.publish("a", None, b"x"))
    assert [message[0] for message in peer.take()] == [Kind.WELCOME, Kind.REPLY, Kind.PUBLISH]


@pytest.mark.parametrize(
    ("manifest", "word"),
    [
        ({"component": "Bad Name"}, "component"),
        ({"owner": ""}, "owner"),
        ({"component": 7}, "component"),
        ({"purpose": "x" * 257}, "purpose"),
        ({"version": 1.0}, "version"),
        ({"serves": "a.b"}, "serves"),
        ({"needs": ["a..b"]}, "needs"),
        ({"publishes": [1]}, "publishes"),
        ({"serves": ["a"] * 65}, "serves"),
    ],
)
def test_manifest_out_of_bounds_is_refused_naming_the_entry(manifest: dict[str, Any], word: str) -> None:
    world = World()
    peer = world.peer(hello=False)
    peer.send(envelope.hello(manifest))
    (bye,) = peer.take()
    assert bye[0] == Kind.BYE
    assert error_of(bye)["code"] == 1016
    assert word in error_of(bye)["text"]
    peer.leave()
    assert world.statistics().departures == {("host", "refused"): 1}


def test_unknown_manifest_entries_are_left_out() -> None:
    world = World()
    peer = world.peer(component="c", shoe_size=43)
    assert peer.session.claims == {"component": "c"}


def test_silence_ends_at_the_handshake_deadline() -> None:
    world = World(handshake_seconds=2.0)
    peer = world.peer(hello=False)
    world.advance(1.9)
    assert not peer.session.closing
    world.advance(0.2)
    (bye,) = peer.take()
    assert error_of(bye)["code"] == 1007
    peer.leave()
    row = world.bus.census.refused(world.now)[0]
    assert row["endpoint"] is None
    assert row["reason"] == "handshake-timeout"


def test_hello_in_time_has_no_deadline_after_it() -> None:
    world = World()
    peer = world.peer()
    world.advance(3600)
    assert not peer.session.closing
    assert world.bus.next_deadline() is None


def test_no_room_is_refused_with_the_numbers() -> None:
    world = World(endpoints=2)
    world.peer()
    world.peer(hello=False)
    with pytest.raises(BusError, match="2 of the 2"):
        world.bus.attach(HOST, world.now)


def test_malformed_frame_ends_the_session_and_only_it() -> None:
    world = World()
    bad, good = world.peer(), world.peer()
    good.subscribe("a")
    bad.subscribe("a")
    bad.send(b"\xc1")
    assert error_of(bad.take()[-1])["code"] == 1010
    good.publish("a")
    assert len(good.take()) == 1
    bad.publish("a")
    assert good.take() == []


def test_everything_held_is_released_at_the_end() -> None:
    world = World()
    peers = [world.peer() for _ in range(4)]
    for peer in peers:
        peer.subscribe("a.>")
        peer.subscribe("b", latest=True)
        peer.serve("work")
    for peer in peers:
        for _ in range(5):
            peer.call("work")
        peer.publish("a.b", b"x" * 1000, times=9)
    for peer in peers:
        peer.leave()
        assert used(peer) == {0}
    for ledger in world.bus.ledgers.values():
        assert (ledger.used, ledger.actors) == (0, 0)
    statistics = world.statistics()
    assert statistics.subscriptions == statistics.services == 0
    assert statistics.calls_in_flight == statistics.held_calls == 0
    assert statistics.queued_messages == statistics.queued_bytes == 0
    assert sum(statistics.calls.values()) == 20


def used(peer: Peer) -> set[int]:
    """What it uses of its quotas."""
    return {charge["used"] for charge in peer.session.charges().values()}


@pytest.mark.parametrize(
    ("quota", "request_of"),
    [
        ("subscriptions", lambda id: envelope.subscribe(id, f"s.{id}", {})),
        ("services", lambda id: envelope.serve(id, f"s.{id}", {})),
    ],
)
def test_quota_refusal_names_quota_holder_and_numbers(quota: str, request_of: Any) -> None:
    bounds: dict[str, Any] = {quota: 3}
    world = World(**bounds)
    peer = world.peer()
    for id in (1, 2, 3):
        assert peer.request(request_of(id), id)[2] == Status.OK
    world.advance(7.0)
    reply = peer.request(request_of(4), 4)
    assert reply[2] == Status.ERROR
    fields = error_of(reply)["fields"]
    assert fields == {
        "quota": quota,
        "holder": peer.name,
        "used": 3,
        "limit": 3,
        "since": ", the oldest for 7.0 s",
    }
    assert world.statistics().quota_rejections == {quota: 1}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (envelope.subscribe(1, "a..b", {}), 2002),
        (envelope.subscribe(1, "a", {"lates": True}), 2008),
        (envelope.subscribe(1, "a", {"latest": 1}), 2008),
        (envelope.unsubscribe(1, 9), 2005),
        (envelope.serve(1, "$bus.mine", {}), 2003),
        (envelope.serve(1, "a.>.b", {}), 2002),
        (envelope.serve(1, "a", {"group": "No"}), 2008),
        (envelope.call(1, "a.*", 1000, None, b""), 2001),
    ],
)
def test_bad_request_is_answered_under_its_id(data: bytes, code: int) -> None:
    world = World()
    peer = world.peer()
    reply = peer.request(data, 1)
    assert reply[2] == Status.ERROR
    assert error_of(reply)["code"] == code
    assert not peer.session.closing
    assert used(peer) <= {0, peer.session.outbox.bytes}


def test_options_that_begin_with_x_are_let_be() -> None:
    peer = World().peer()
    assert peer.request(envelope.subscribe(1, "a", {"x-mine": 1}), 1)[2] == Status.OK


def test_asking_without_reading_is_cut_off() -> None:
    world = World(control_bytes=10_000)
    peer = world.peer()
    for _ in range(200):
        peer.send(envelope.ping(1) * 10)
    assert peer.session.closing
    assert peer.session.departure is Departure.NOT_READING
    assert world.statistics().quota_rejections == {"control_bytes": 1}
    assert peer.session.outbox.bytes < 20_000
    assert error_of(peer.take()[-1])["fields"]["quota"] == "control_bytes"


def test_ping_is_answered_with_its_token() -> None:
    peer = World().peer()
    peer.send(envelope.ping(4_000_000_000))
    assert peer.take() == [[Kind.PONG, 4_000_000_000]]


def test_skippable_kind_is_skipped_and_counted() -> None:
    world = World()
    peer = world.peer()
    peer.send(envelope.pack([64, "new"]), envelope.ping(1))
    assert peer.take() == [[Kind.PONG, 1]]
    assert world.statistics().skipped_envelopes == 1


def test_payload_above_the_nodes_limit_ends_the_session() -> None:
    world = World(max_payload=100_000)
    peer = world.peer()
    peer.publish("a", b"x" * 100_000)
    assert not peer.session.closing
    peer.publish("a", b"x" * 100_001)
    assert error_of(peer.take()[-1])["fields"] == {"size": 100_001, "limit": 100_000}


def test_bye_is_a_departure_as_planned() -> None:
    world = World()
    peer = world.peer()
    peer.send(envelope.bye(None), envelope.ping(1))
    assert peer.take() == []
    assert peer.session in world.bus.ready()
    peer.leave()
    assert world.statistics().departures == {("host", "bye"): 1}


def test_departures_remembered_are_bounded_and_strangers_do_not_push_them_out() -> None:
    world = World(departures=3)
    for _ in range(5):
        world.peer().leave()
    for _ in range(10):
        world.peer(hello=False).leave()
    assert [row["endpoint"] for row in world.bus.census.departed(world.now)] == ["host-5", "host-4", "host-3"]
    assert len(world.bus.census.refused(world.now)) == 3


def test_tenants_cannot_name_each_others_subjects() -> None:
    world = World()
    acme, other = world.guest("acme"), world.guest("other")
    for peer in (acme, other):
        peer.subscribe(">")
        peer.serve("s")
    acme.publish("a", b"secret")
    acme.call("s")
    assert [message[0] for message in acme.take()] == [Kind.PUBLISH, Kind.CALL]
    assert other.take() == []


def test_frame_that_never_ends_is_cut_in_time() -> None:
    world = World(frame_seconds=10.0)
    peer = world.peer()
    for held in range(1, 10):
        world.bus.hold(peer.session, held, world.now)
        world.advance(1.0)
    assert not peer.session.closing
    world.advance(1.1)
    assert error_of(peer.take()[-1])["code"] == 1017
    peer.leave()
    assert world.bus.next_deadline() is None


def test_busy_sender_always_in_the_middle_of_a_frame_is_left_alone() -> None:
    world = World(frame_seconds=10.0)
    peer = world.peer()
    for held in range(1, 100):
        world.bus.hold(peer.session, held, world.now)
        peer.publish("a")
        world.advance(1.0)
    assert not peer.session.closing
    world.bus.hold(peer.session, 0, world.now)
    world.advance(100.0)
    assert not peer.session.closing


def test_half_received_frames_of_all_together_are_bounded() -> None:
    world = World(held_bytes=1000)
    first, second = world.peer(), world.peer()
    world.bus.hold(first.session, 600, world.now)
    world.bus.hold(second.session, 600, world.now)
    assert not first.session.closing
    assert error_of(second.take()[-1])["fields"]["quota"] == "node_held_bytes"
    assert world.statistics().quota_rejections == {"node_held_bytes": 1}
    second.leave()
    third = world.peer()
    world.bus.hold(third.session, 300, world.now)
    assert not third.session.closing


def test_a_session_that_left_is_freed_without_a_collection_of_garbage() -> None:
    """A full one is seldom, for it stalls the loop; sessions that waited for it were gigabytes under churn."""

    def alive() -> int:
        return sum(isinstance(each, Session) for each in gc.get_objects())

    world = World()
    with no_collection():
        before = alive()
        for departure in (Departure.CONNECTION_LOST, Departure.CUT_OFF):
            peer = world.peer(component="c")
            peer.subscribe("own")
            peer.serve("echo")
            peer.publish("own", times=3)
            peer.call("echo")
            peer.publish("own")
            if departure is Departure.CUT_OFF:
                world.bus.cut_off(peer.name, BusError(Code.DISCONNECTED, reason="r"), world.now)
            peer.leave(departure)
            assert world.bus.ready()[-1:] in ([], [peer.session])
            del peer
        assert alive() == before
