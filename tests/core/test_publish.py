"""Publish and subscribe through the core: who gets what, in which order, and what is said about what was lost."""

import pytest

from busproto import envelope
from busproto.envelope import Kind
from tests.core.peer import Peer, World, error_of


def payloads(peer: Peer) -> list[bytes]:
    return [message[3] for message in peer.take() if message[0] == Kind.PUBLISH]


def test_reaches_every_matching_endpoint_once_and_verbatim() -> None:
    world = World()
    sender, exact, wild, other = (world.peer() for _ in range(4))
    exact.subscribe("demo.tick")
    exact.subscribe("demo.>")
    wild.subscribe("*.tick")
    other.subscribe("demo")
    message = envelope.publish("demo.tick", {"id": "7", "traceparent": "00-a-b-01"}, b"payload")
    sender.send(message)
    assert exact.take_frames()[0].endswith(message)
    assert len(payloads(wild)) == 1
    assert payloads(other) == payloads(exact) == []


def test_appended_fields_travel_along() -> None:
    world = World()
    sender, receiver = world.peer(), world.peer()
    receiver.subscribe(">")
    sender.send(envelope.pack([Kind.PUBLISH, "a", None, b"x", "from the future"]))
    assert receiver.take() == [[Kind.PUBLISH, "a", None, b"x", "from the future"]]


def test_origin_is_the_brokers_word() -> None:
    world = World()
    sender, second, receiver = world.peer(), world.peer(), world.peer()
    receiver.subscribe("a")
    sender.publish("a", b"1")
    second.publish("a", b"2")
    sender.publish("a", b"3")
    assert payloads(receiver) == [b"1", b"2", b"3"]
    told = [origin[1] for origin in receiver.origins[-3:] if origin is not None]
    assert told == [sender.name, second.name, sender.name]
    assert receiver.origins[-1] == [Kind.ORIGIN, sender.name, "host", "node", "host", 0]


def test_client_that_sends_an_origin_is_cut_off() -> None:
    world = World()
    liar, receiver = world.peer(), world.peer()
    receiver.subscribe("a")
    liar.send(envelope.origin("$bus", "host", "node", "", 0), envelope.publish("a", None, b"forged"))
    assert receiver.take() == []
    assert error_of(liar.take()[-1])["code"] == 1014
    assert liar.session.closing


@pytest.mark.parametrize("size", [1, 7, 64, 9000])
def test_batch_keeps_the_senders_order_across_subjects(size: int) -> None:
    world = World()
    sender, receiver = world.peer(), world.peer()
    receiver.subscribe("a.>")
    receiver.subscribe("b")
    messages = [("a.x", "b", "nobody")[index % 3] for index in range(size)]
    sender.send(*(envelope.publish(subject, None, b"%d" % index) for index, subject in enumerate(messages)))
    expected = [b"%d" % index for index, subject in enumerate(messages) if subject != "nobody"]
    assert payloads(receiver) == expected


def test_plan_follows_subscriptions_exactly() -> None:
    world = World()
    sender, receiver = world.peer(), world.peer()
    sender.publish("a.b.c")
    for pattern in ("a.b.c", "a.*.c", "a.>", ">"):
        subscription = receiver.subscribe(pattern)
        sender.publish("a.b.c", pattern.encode())
        assert payloads(receiver) == [pattern.encode()]
        id = receiver.id()
        assert receiver.request(envelope.unsubscribe(id, subscription), id)[2] == 0
        sender.publish("a.b.c")
        assert payloads(receiver) == []


def test_unrelated_subscription_leaves_remembered_plans_alone() -> None:
    world = World()
    sender, receiver = world.peer(), world.peer()
    receiver.subscribe("a.b")
    sender.publish("a.b")
    misses = world.statistics().route_cache_misses
    receiver.subscribe("c.*")
    sender.publish("a.b")
    assert world.statistics().route_cache_misses == misses


def test_subjects_remembered_are_bounded() -> None:
    world = World(route_cache=10)
    sender, receiver = world.peer(), world.peer()
    receiver.subscribe("s.>")
    for index in range(100):
        sender.publish(f"s.{index}", b"%d" % index)
    assert world.statistics().route_cache_entries <= 20
    assert payloads(receiver) == [b"%d" % index for index in range(100)]


@pytest.mark.parametrize(
    ("subject", "code"),
    [("$bus.endpoints.attached", 2003), ("$bus.x", 2003), ("A.b", 2001), ("a..b", 2001), ("a.*", 2001), ("", 2001)],
)
def test_refused_publish_is_told_and_harms_nothing_else(subject: str, code: int) -> None:
    world = World()
    sender, receiver = world.peer(), world.peer()
    receiver.subscribe(">")
    receiver.subscribe("$bus.>")
    sender.send(
        envelope.publish("a", None, b"1"), envelope.publish(subject, None, b"no"), envelope.publish("a", None, b"2")
    )
    (refusal,) = sender.take()
    assert refusal[:2] == [Kind.ERROR, None]
    assert error_of(refusal)["code"] == code
    assert error_of(refusal)["fields"]["subject"] == subject
    assert payloads(receiver) == [b"1", b"2"]


def test_wildcards_do_not_reach_the_brokers_subjects() -> None:
    world = World()
    everything, presence = world.peer(), world.peer()
    everything.subscribe(">")
    everything.subscribe("*.endpoints.attached")
    presence.subscribe("$bus.endpoints.*")
    newcomer = world.peer(component="late", owner="me")
    assert everything.take() == []
    (message,) = presence.take()
    assert message[1] == "$bus.endpoints.attached"
    told = envelope.unpack(message[3])
    assert told["endpoint"] == newcomer.name
    assert told["claims"] == {"component": "late", "owner": "me"}
    assert told["principal"]["uid"] == 1000
    newcomer.leave()
    (message,) = presence.take()
    assert message[1] == "$bus.endpoints.departed"
    assert envelope.unpack(message[3])["reason"] == "connection-lost"


def test_slow_reader_is_told_the_exact_gap_before_anything_newer() -> None:
    world = World(outbox_messages=10)
    sender, slow, quick = world.peer(), world.peer(), world.peer()
    first, second = slow.subscribe("a"), slow.subscribe("*")
    quick.subscribe("a")
    got: list[bytes] = []
    for index in range(35):
        sender.publish("a", b"%d" % index)
        got += payloads(quick)
    assert got == [b"%d" % index for index in range(35)]
    received = slow.take()
    assert [message[3] for message in received if message[0] == Kind.PUBLISH] == [b"%d" % i for i in range(10)]
    gaps = [message for message in received if message[0] == Kind.GAP]
    assert sorted(gaps) == [[Kind.GAP, first, 25, "outbox-messages"], [Kind.GAP, second, 25, "outbox-messages"]]
    assert received[-2:] == gaps
    sender.publish("a", b"after")
    assert payloads(slow) == [b"after"]
    assert world.statistics().dropped_messages == {("host", "outbox-messages"): 25}


def test_gap_waits_until_half_has_drained() -> None:
    world = World(outbox_messages=100)
    sender, slow = world.peer(), world.peer()
    subscription = slow.subscribe("a")
    for _ in range(150):
        sender.publish("a", b"x" * 1000)
    published = 150
    delivered = 0
    while slow.session.outbox.messages > 50:
        delivered += b"".join(world.bus.take(slow.session, 8 * 1024)).count(b"x" * 1000)
        sender.publish("a", b"late")
        published += 1
    sender.publish("a", b"after the gap")
    rest = slow.take()
    (gap,) = [message for message in rest if message[0] == Kind.GAP]
    older, newer = rest[: rest.index(gap)], rest[rest.index(gap) + 1 :]
    assert gap[1] == subscription
    assert {message[3] for message in older} == {b"x" * 1000}
    assert {message[3] for message in newer} <= {b"late", b"after the gap"}
    assert delivered + len(older) + gap[2] + len(newer) == published + 1


def test_message_larger_than_the_outbox_is_a_gap_at_once() -> None:
    world = World(outbox_bytes=1000)
    sender, receiver = world.peer(), world.peer()
    subscription = receiver.subscribe("a")
    sender.publish("a", b"x" * 2000)
    assert receiver.take() == [[Kind.GAP, subscription, 1, "outbox-bytes"]]
    sender.publish("a", b"small")
    assert payloads(receiver) == [b"small"]


def test_run_of_more_messages_than_the_outbox_may_hold_is_told_as_that() -> None:
    world = World(outbox_messages=10)
    sender, receiver = world.peer(), world.peer()
    subscription = receiver.subscribe("a")
    sender.publish("a", times=11)
    assert receiver.take() == [[Kind.GAP, subscription, 11, "outbox-messages"]]


def test_queued_bytes_stay_within_the_quota() -> None:
    world = World(outbox_bytes=100_000)
    sender, slow = world.peer(), world.peer()
    slow.subscribe("a")
    for _ in range(1000):
        sender.publish("a", b"x" * 1000)
    assert slow.session.outbox.statistics().peak_bytes <= 100_000


def test_latest_keeps_the_newest_of_each_subject_in_order() -> None:
    world = World()
    sender, slow = world.peer(), world.peer()
    slow.subscribe("t.>", latest=True)
    filler = b"x" * 70_000
    sender.publish("t.fill", filler)
    for index in range(100):
        sender.publish("t.a", b"a%d" % index)
        sender.publish("t.b", b"b%d" % index)
    assert payloads(slow) == [filler, b"a99", b"b99"]
    assert world.statistics().dropped_messages == {("host", "conflated"): 198}
    sender.publish("t.a", b"next")
    assert payloads(slow) == [b"next"]


def test_latest_that_keeps_up_misses_nothing() -> None:
    world = World()
    sender, receiver = world.peer(), world.peer()
    receiver.subscribe("t", latest=True)
    sender.publish("t", b"1", times=1)
    sender.send(envelope.publish("t", None, b"2"), envelope.publish("t", None, b"3"))
    assert payloads(receiver) == [b"1", b"2", b"3"]


def test_plain_subscription_beside_latest_gets_every_message() -> None:
    world = World()
    sender, receiver = world.peer(), world.peer()
    receiver.subscribe("t", latest=True)
    sender.publish("t", b"x" * 70_000)
    sender.publish("t", b"held back")
    receiver.send(envelope.subscribe(99, "t", {}))
    sender.publish("t", b"newer")
    assert [payload[:9] for payload in payloads(receiver)] == [b"xxxxxxxxx", b"held back", b"newer"]


def test_latest_beyond_the_quota_is_a_gap() -> None:
    world = World(outbox_bytes=70_000, outbox_messages=1000)
    sender, slow = world.peer(), world.peer()
    subscription = slow.subscribe("t.>", latest=True)
    sender.publish("t.a", b"x" * 66_000)
    for index in range(100):
        sender.publish(f"t.{index}", b"y" * 100)
    received = slow.take()
    delivered = [message[1] for message in received if message[0] == Kind.PUBLISH]
    (gap,) = [message for message in received if message[0] == Kind.GAP]
    assert gap[1] == subscription
    assert gap[2] + len(delivered) == 101
    assert slow.session.outbox.statistics().peak_bytes <= 70_000


def test_large_payload_is_not_copied_on_its_way() -> None:
    world = World()
    sender, receiver = world.peer(), world.peer()
    receiver.subscribe("a")
    frame = envelope.publish("a", None, b"x" * 1_000_000)
    world.bus.receive(sender.session, frame, world.now)
    parts = world.bus.take(receiver.session)
    assert parts[-1] is frame


def test_small_slice_does_not_keep_a_large_frame_alive() -> None:
    world = World()
    sender, receiver = world.peer(), world.peer()
    receiver.subscribe("a")
    sender.send(envelope.publish("a", None, b"small"), envelope.publish("nobody", None, b"x" * 1_000_000))
    parts = world.bus.take(receiver.session)
    assert isinstance(parts[-1], bytes)
    assert len(parts[-1]) < 20
