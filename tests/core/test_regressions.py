"""Bugs that the state machine and the conformance tests found, each by the name of what went wrong."""

from typing import Any

from busd.core.outbox import OVERHEAD
from busproto import envelope
from busproto.envelope import Decoder, Kind, Status
from busproto.limits import ENVELOPES_PER_FRAME
from tests.core.peer import Peer, World, error_of
from tests.schemas.vectors_support import data_of, load

NIL = b"\xc0"


def kinds(got: list[list[Any]]) -> list[int]:
    return [fields[0] for fields in got]


def behind(world: World, peer: Peer, subject: str) -> Peer:
    """Publish on ``subject`` until ``peer`` loses messages; who did it."""
    sender = world.peer()
    while not peer.session.outbox.statistics().lost_messages:
        sender.send(envelope.publish(subject, None, NIL))
    return sender


def test_one_that_reads_slowly_but_reads_was_cut_off_for_answers_it_had_read() -> None:
    """What control answers weigh was only forgotten when the outbox ran empty, which under load it never does."""
    world = World(outbox_messages=8, control_bytes=2000)
    slow = world.peer()
    slow.send(envelope.subscribe(1, "a", {}))
    slow.take()
    sender = behind(world, slow, "a")
    gaps = 0
    for _ in range(400):
        gaps += kinds(Decoder().decode(b"".join(world.bus.take(slow.session, 1))).envelopes).count(Kind.GAP)
        for _ in range(2):
            sender.send(envelope.publish("a", None, NIL))
        slow.send(envelope.pong(1))
        assert slow.session.outbox.statistics().messages > 0, "it never runs empty"
        assert not slow.session.closing
    assert gaps * OVERHEAD > 2 * 2000, "answers beyond the quota have gone by"


def test_a_reply_to_a_second_request_with_the_same_id_ended_the_first() -> None:
    world = World()
    server, caller = world.peer(), world.peer()
    server.send(envelope.serve(1, "work", {}))
    caller.send(envelope.call(5, "work", 1000, None, NIL))
    for again in (
        envelope.unsubscribe(5, 1),
        envelope.unserve(5, 1),
        envelope.subscribe(5, "a", {}),
        envelope.serve(5, "a", {}),
    ):
        caller.send(again)
        [refused] = caller.take()
        assert refused[0] == Kind.ERROR
        assert refused[1] == 5
        assert refused[2]["name"] == "id-in-use"
    [number] = [got[1] for got in server.take() if got[0] == Kind.CALL]
    server.send(envelope.reply(number, Status.OK, None, NIL))
    assert [got[:3] for got in caller.take()] == [[Kind.REPLY, 5, Status.OK]]


def test_gap_and_newest_value_came_after_bye() -> None:
    world = World(outbox_messages=4)
    reader = world.peer()
    reader.send(envelope.subscribe(1, "a", {}) + envelope.subscribe(2, "b", {"latest": True}))
    reader.take()
    sender = behind(world, reader, "a")
    sender.send(envelope.publish("b", None, NIL))
    reader.send(b"\xc1")
    got = kinds(reader.take())
    assert got[-1] == Kind.BYE
    assert Kind.GAP in got


def test_messages_and_gaps_came_after_the_answer_to_unsubscribe() -> None:
    world = World(outbox_messages=4)
    reader = world.peer()
    reader.send(envelope.subscribe(1, "a", {}))
    reader.take()
    sender = behind(world, reader, "a")
    sender.send(envelope.publish("a", None, NIL))
    reader.send(envelope.unsubscribe(2, 1))
    assert kinds(reader.take()) == [Kind.PUBLISH] * 4 + [Kind.GAP, Kind.REPLY]


def test_thousands_of_calls_that_nobody_serves_in_one_read_ended_the_session() -> None:
    """Their answers went over the quota of an endpoint that had had no chance to read any."""
    world = World()
    caller = world.peer()
    caller.send(*[envelope.call(id, "nobody.is.here", 1000, None, NIL) for id in range(1, 8001)])
    assert not caller.session.closing
    assert len(caller.take()) == 8000


def test_a_small_limit_on_payloads_was_not_applied_to_small_frames() -> None:
    world = World(max_payload=4096)
    sender = world.peer()
    sender.send(envelope.publish("a", None, b"p" * 4096))
    assert not sender.session.closing
    sender.send(envelope.publish("a", None, b"p" * 4097))
    [bye] = sender.take()
    assert bye[1]["name"] == "payload-too-large"
    assert bye[1]["fields"] == {"size": 4097, "limit": 4096}


def test_an_origin_could_be_hidden_behind_an_appended_field() -> None:
    """Publishes in a row were told apart by their bytes alone, and an appended field can look like a payload."""
    world = World()
    victim, sender = world.peer(), world.peer()
    victim.send(envelope.subscribe(1, ">", {}))
    victim.take()
    [case] = [case for case in load("batches.json")["cases"] if case["name"] == "hidden-behind-an-appended-field"]
    sender.send(data_of(case))
    assert [got[1]["name"] for got in sender.take()] == ["kind-unexpected"]
    got = victim.take()
    assert [fields[:2] for fields in got] == [[Kind.PUBLISH, "a.b"]] * 2
    assert {origin[1] for origin in victim.origins[-2:] if origin} == {sender.name}


def test_refused_publishes_alike_were_told_of_as_if_they_were_one() -> None:
    world = World()
    sender = world.peer()
    sender.send(*[envelope.publish("$bus.mine", None, NIL)] * 3, envelope.ping(1))
    *refusals, pong = sender.take()
    assert pong[0] == Kind.PONG
    assert sum(error_of(refusal)["fields"].get("count", 1) for refusal in refusals) == 3
    assert world.statistics().refusals == {"subject-reserved": 3}


def test_more_pongs_went_into_a_frame_than_a_frame_may_hold() -> None:
    world = World()
    peer = world.peer()
    for _ in range(3):
        peer.send(envelope.ping(1) * ENVELOPES_PER_FRAME)
    assert len(peer.take()) == 3 * ENVELOPES_PER_FRAME
