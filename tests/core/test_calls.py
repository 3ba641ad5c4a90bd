"""Calls through the core: one definite outcome each, whatever happens to either side."""

import pytest

from busproto import envelope
from busproto.envelope import Kind, Status
from tests.core.peer import Peer, World, error_of


def test_reply_reaches_the_caller_under_its_own_id() -> None:
    world = World()
    caller, responder = world.peer(), world.peer()
    responder.serve("echo.*")
    id = caller.call("echo.x", b"question")
    (request,) = responder.take()
    assert request[0] == Kind.CALL
    assert request[2:] == ["echo.x", 1000, None, b"question"]
    assert responder.origins[-1] == [Kind.ORIGIN, caller.name, "host", "node", "host", 0]
    responder.send(envelope.reply(request[1], Status.OK, {"id": "h"}, b"answer"))
    assert caller.take() == [[Kind.REPLY, id, Status.OK, {"id": "h"}, b"answer"]]
    assert caller.origins[-1] == [Kind.ORIGIN, responder.name, "host", "node", "host", 0]
    assert {outcome for outcome, count in world.statistics().calls.items() if count} == {"reply"}
    assert world.statistics().call_seconds.count == 1


@pytest.mark.parametrize("width", [b"\xcc\x05", b"\xcd\x00\x05", b"\xce\x00\x00\x00\x05", b"\xd0\x05", b"\xd1\x00\x05"])
def test_any_encoding_of_the_id_is_understood(width: bytes) -> None:
    world = World()
    caller, responder = world.peer(), world.peer()
    responder.serve("e")
    caller.send(b"\xdc\x00\x06\xcc\x08" + width + b"\xa1e\xcd\x03\xe8\xc0\xc4\x01?")
    (request,) = responder.take()
    assert request[2:] == ["e", 1000, None, b"?"]
    responder.send(envelope.reply(request[1], Status.OK, None, b"!"))
    assert caller.take() == [[Kind.REPLY, 5, Status.OK, None, b"!"]]


def test_stream_of_parts_ends_with_one_final_reply() -> None:
    world = World()
    caller, responder = world.peer(), world.peer()
    responder.serve("s")
    id = caller.call("s")
    number = responder.take()[0][1]
    for part in (b"1", b"2"):
        responder.send(envelope.reply(number, Status.PARTIAL, None, part))
    responder.send(envelope.reply(number, Status.OK, None, b"end"))
    responder.send(envelope.reply(number, Status.OK, None, b"again"))
    assert [(message[1], message[2], message[4]) for message in caller.take()] == [
        (id, 1, b"1"),
        (id, 1, b"2"),
        (id, 0, b"end"),
    ]
    assert world.statistics().dropped_messages == {("host", "reply-foreign"): 1}


def test_no_responders_is_known_at_once() -> None:
    world = World()
    caller = world.peer()
    id = caller.call("nobody.here")
    (reply,) = caller.take()
    assert reply[:3] == [Kind.REPLY, id, Status.NO_RESPONDERS]
    assert error_of(reply)["text"] == "nobody serves 'nobody.here'"


def test_time_out_tells_both_sides_and_the_late_reply_is_dropped() -> None:
    world = World()
    caller, responder = world.peer(), world.peer()
    responder.serve("slow")
    id = caller.call("slow", seconds=0.5)
    number = responder.take()[0][1]
    world.advance(0.49)
    assert caller.take() == []
    world.advance(0.02)
    (reply,) = caller.take()
    assert reply[:3] == [Kind.REPLY, id, Status.TIMEOUT]
    assert responder.take() == [[Kind.CANCEL, number]]
    assert world.statistics().held_calls == 1
    responder.send(envelope.reply(number, Status.OK, None, b"late"))
    assert caller.take() == []
    assert world.statistics().dropped_messages == {("host", "reply-late"): 1}
    assert world.statistics().held_calls == 0


def test_cancel_ends_the_call_once() -> None:
    world = World()
    caller, responder = world.peer(), world.peer()
    responder.serve("s")
    id = caller.call("s")
    number = responder.take()[0][1]
    caller.send(envelope.cancel(id), envelope.cancel(id))
    (reply,) = caller.take()
    assert reply[:3] == [Kind.REPLY, id, Status.CANCELLED]
    assert responder.take() == [[Kind.CANCEL, number]]


def test_responder_that_leaves_makes_the_outcome_unknown() -> None:
    world = World()
    caller, responder = world.peer(), world.peer()
    responder.serve("s")
    id = caller.call("s")
    responder.take()
    responder.leave()
    (reply,) = caller.take()
    assert reply[:3] == [Kind.REPLY, id, Status.UNKNOWN]
    assert responder.name in error_of(reply)["text"]
    assert world.statistics().held_calls == 0


def test_caller_that_leaves_is_not_waited_for() -> None:
    world = World()
    caller, responder = world.peer(), world.peer()
    responder.serve("s")
    caller.call("s")
    number = responder.take()[0][1]
    caller.leave()
    assert responder.take() == [[Kind.CANCEL, number]]
    responder.send(envelope.reply(number, Status.OK, None, b"x"))
    assert world.statistics().held_calls == world.statistics().calls_in_flight == 0


def test_calls_itself() -> None:
    world = World()
    peer = world.peer()
    peer.serve("me")
    id = peer.call("me", b"?")
    (request,) = peer.take()
    peer.send(envelope.reply(request[1], Status.OK, None, b"!"))
    assert peer.take() == [[Kind.REPLY, id, Status.OK, None, b"!"]]
    peer.call("me")
    peer.leave()
    assert world.statistics().held_calls == world.statistics().calls_in_flight == 0


def test_only_the_endpoint_that_holds_a_call_can_reply() -> None:
    world = World()
    caller, responder, thief = world.peer(), world.peer(), world.peer()
    responder.serve("s")
    caller.call("s")
    number = responder.take()[0][1]
    thief.send(envelope.reply(number, Status.OK, None, b"forged"))
    assert caller.take() == []
    assert world.statistics().dropped_messages == {("host", "reply-foreign"): 1}
    responder.send(envelope.reply(number, Status.OK, None, b"real"))
    assert caller.take()[0][4] == b"real"


def test_responder_cannot_speak_for_the_broker() -> None:
    world = World()
    caller, responder = world.peer(), world.peer()
    responder.serve("s")
    id = caller.call("s")
    number = responder.take()[0][1]
    responder.send(envelope.reply(number, Status.NO_RESPONDERS, None, b""))
    assert responder.session.closing
    assert caller.take()[0][:3] == [Kind.REPLY, id, Status.UNKNOWN]


def test_group_shares_calls_least_outstanding_first() -> None:
    world = World()
    caller = world.peer()
    members = [world.peer() for _ in range(3)]
    for member in members:
        member.serve("work", group="g")
    for _ in range(6):
        caller.call("work")
    assert [len(member.take()) for member in members] == [2, 2, 2]
    fresh = world.peer()
    fresh.serve("work", group="g")
    caller.call("work")
    caller.call("work")
    assert len(fresh.take()) == 2


def test_member_that_hangs_is_not_given_ever_more() -> None:
    world = World()
    caller, hung, good = world.peer(), world.peer(), world.peer()
    hung.serve("work")
    good.serve("work")
    given = {"hung": 0, "good": 0}
    for _ in range(20):
        caller.call("work", seconds=0.1)
        given["hung"] += sum(message[0] == Kind.CALL for message in hung.take())
        for request in good.take():
            given["good"] += 1
            good.send(envelope.reply(request[1], Status.OK, None, b""))
        world.advance(0.2)
    assert given == {"hung": 1, "good": 19}


def test_second_group_on_a_pattern_is_refused_by_name() -> None:
    world = World()
    first, second = world.peer(), world.peer()
    first.serve("s", group="blue")
    id = second.id()
    reply = second.request(envelope.serve(id, "s", {"group": "green"}), id)
    assert reply[2] == Status.ERROR
    assert error_of(reply)["code"] == 2006
    assert first.name in error_of(reply)["text"]
    first.leave()
    second.serve("s", group="green")


def test_most_specific_pattern_gets_the_call() -> None:
    world = World()
    caller = world.peer()
    peers: dict[str, Peer] = {}
    for pattern in (">", "a.>", "a.*", "a.b", "*.b"):
        peers[pattern] = world.peer()
        peers[pattern].serve(pattern)
    for subject, expected in (("a.b", "a.b"), ("a.c", "a.*"), ("a.b.c", "a.>"), ("x.b", "*.b"), ("x", ">")):
        caller.call(subject)
        assert {pattern for pattern, peer in peers.items() if peer.take()} == {expected}
    peers["a.b"].leave()
    caller.call("a.b")
    assert len(peers["a.*"].take()) == 1


def test_responder_that_does_not_read_makes_calls_overloaded() -> None:
    world = World(outbox_messages=2)
    caller, responder = world.peer(), world.peer()
    responder.serve("s")
    ids = [caller.call("s") for _ in range(3)]
    (reply,) = caller.take()
    assert reply[:3] == [Kind.REPLY, ids[2], Status.OVERLOADED]
    assert responder.name in error_of(reply)["text"]


def test_calls_in_flight_are_bounded_per_caller_and_per_responder() -> None:
    world = World(calls=3, held_calls=8)
    first, second, responder = world.peer(), world.peer(), world.peer()
    responder.serve("s")
    ids = [first.call("s") for _ in range(4)]
    (reply,) = first.take()
    assert reply[:3] == [Kind.REPLY, ids[3], Status.OVERLOADED]
    assert "calls" in error_of(reply)["text"]
    # Of the five that are left the second of two may have one: three such shares would fit.
    ids = [second.call("s") for _ in range(2)]
    (reply,) = second.take()
    assert reply[:3] == [Kind.REPLY, ids[1], Status.OVERLOADED]
    assert f"held_calls: {second.name} at {responder.name} holds 1 of 1" in error_of(reply)["text"]
    assert world.statistics().quota_rejections == {"calls": 1, "held_calls": 1}


def test_caller_that_does_not_read_still_gets_each_outcome() -> None:
    world = World(outbox_messages=1)
    caller, responder = world.peer(), world.peer()
    responder.serve("s")
    ids = [caller.call("s") for _ in range(1)]
    ids += [caller.call("s")]
    for request in responder.take():
        responder.send(envelope.reply(request[1], Status.OK, None, b"x"))
    outcomes = {message[1]: message[2] for message in caller.take()}
    assert set(outcomes) == set(ids)
    assert sorted(outcomes.values()) in ([Status.OK, Status.OVERLOADED], [Status.OK, Status.OK])


def test_stream_to_a_caller_that_does_not_read_ends_as_overloaded() -> None:
    world = World(outbox_messages=2)
    caller, responder = world.peer(), world.peer()
    responder.serve("s")
    id = caller.call("s")
    number = responder.take()[0][1]
    for _ in range(5):
        responder.send(envelope.reply(number, Status.PARTIAL, None, b"part"))
    assert [message[2] for message in caller.take()] == [Status.PARTIAL, Status.PARTIAL, Status.OVERLOADED]
    assert responder.take() == [[Kind.CANCEL, number]]
    assert id not in caller.session.calls


def test_draining_endpoint_gets_no_new_calls_and_finishes_its_own() -> None:
    world = World()
    caller, leaving = world.peer(), world.peer()
    leaving.serve("s")
    id = caller.call("s")
    number = leaving.take()[0][1]
    leaving.send(envelope.drain(0))
    caller.call("s")
    assert caller.take()[0][2] == Status.NO_RESPONDERS
    leaving.send(envelope.reply(number, Status.OK, None, b"done"))
    assert caller.take() == [[Kind.REPLY, id, Status.OK, None, b"done"]]
    leaving.send(envelope.serve(9, "t", {}))
    assert error_of(leaving.take()[-1])["code"] == 1014


def test_unserve_ends_the_offer() -> None:
    world = World()
    caller, responder = world.peer(), world.peer()
    service = responder.serve("s")
    id = responder.id()
    assert responder.request(envelope.unserve(id, service), id)[2] == Status.OK
    caller.call("s")
    assert caller.take()[0][2] == Status.NO_RESPONDERS
    id = responder.id()
    assert error_of(responder.request(envelope.unserve(id, service), id))["code"] == 2005


def test_id_in_use_is_an_error_that_does_not_end_the_call() -> None:
    world = World()
    caller, responder = world.peer(), world.peer()
    responder.serve("s")
    id = caller.call("s")
    caller.send(envelope.call(id, "s", 1000, None, b""))
    (refusal,) = caller.take()
    assert refusal[:2] == [Kind.ERROR, id]
    assert error_of(refusal)["code"] == 2004
    (request,) = responder.take()
    responder.send(envelope.reply(request[1], Status.OK, None, b""))
    assert caller.take()[0][:3] == [Kind.REPLY, id, Status.OK]


def test_shutting_bus_refuses_new_calls_and_ends_the_rest_as_unknown() -> None:
    world = World()
    caller, responder = world.peer(), world.peer()
    responder.serve("s")
    first = caller.call("s")
    responder.take()
    world.bus.drain(5.0)
    assert caller.take() == [[Kind.DRAIN, 5000]]
    second = caller.call("s")
    (reply,) = caller.take()
    assert reply[:3] == [Kind.REPLY, second, Status.OVERLOADED]
    assert error_of(reply)["code"] == 5001
    world.bus.shut(world.now)
    reply, bye = caller.take()
    assert reply[:3] == [Kind.REPLY, first, Status.UNKNOWN]
    assert bye[0] == Kind.BYE
    assert error_of(bye)["code"] == 5001


def test_nothing_follows_bye_not_even_ones_own_call() -> None:
    world = World()
    peer = world.peer()
    peer.serve("me")
    wide = 1 << 16
    peer.send(envelope.call(wide, "me", 1000, None, b"?"), envelope.origin("$bus", "host", "node", "", 0))
    assert [message[0] for message in peer.take()] == [Kind.CALL, Kind.CANCEL, Kind.BYE]
