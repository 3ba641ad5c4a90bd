"""The sans-IO session against the real core: what each request comes to, whatever the connection and time do to it."""

from typing import Any

import pytest

from busclient.errors import (
    BusError,
    CallTimeout,
    ConnectionLost,
    Denied,
    ErrorReply,
    Gap,
    NoResponders,
    NotConnected,
    Overloaded,
    PayloadTooLarge,
    UnknownOutcome,
)
from busclient.message import NO_ORIGIN, Message, Reply
from busclient.queues import Inbox, Offer, Parts
from busclient.session import LATE_SECONDS, Session, SessionState
from busproto import envelope as wire
from busproto.envelope import Kind, Status
from busproto.errors import Code
from busproto.limits import BATCH_BYTES, ID_FIRST, ID_MAX, PAYLOAD_BYTES
from tests.clients.session_pair import End, Wire


def drain(inbox: Inbox) -> list[Any]:
    """Everything in ``inbox``: payloads, and gaps as (count, reason)."""
    items: list[Any] = []
    while (item := inbox.take()) is not None:
        items.append((item.count, item.reason) if isinstance(item, Gap) else item.payload)
    return items


def answer(end: End, offer: Offer, status: int = Status.OK, payload: Any = None) -> None:
    """Answer the first call that waits in ``offer``."""
    assert end.session.reply(offer.queue.popleft(), status, None, wire.pack(payload))


# -- attaching --------------------------------------------------------------------------------------------------------


def test_hello_and_welcome() -> None:
    end = Wire().end(component="demo", owner="platform")
    assert end.session.state is SessionState.ATTACHED
    assert end.session.endpoint == end.peer.name != ""
    assert end.session.info["node"] == "test"
    assert end.peer.claims == {"component": "demo", "owner": "platform"}


def test_no_request_before_welcome() -> None:
    session = Session({}, "unix:///x")
    for request in (
        lambda: session.publish("a", b"\xc0", None),
        lambda: session.call("a", b"\xc0", None, 1.0, 0.0, "token"),
        lambda: session.subscribe(Inbox("a", latest=False, limit=1, token=None), 0.0, "token"),
        lambda: session.serve(Offer("a", group="g", token=None), 0.0, "token"),
        lambda: session.ping(0.0, "token"),
    ):
        with pytest.raises(NotConnected, match="never connected"):
            request()
    assert session.data_to_send() == []


def test_no_welcome_in_time_is_an_error() -> None:
    session = Session({}, "unix:///x")
    session.attach(10.0)
    session.expire(11.9)
    with pytest.raises(BusError) as caught:
        session.expire(12.0)
    assert caught.value.code == Code.HANDSHAKE_TIMEOUT


def test_bye_ends_the_session_with_its_error() -> None:
    end = Wire().end()
    end.session.receive(wire.bye(BusError(Code.MANIFEST_INVALID, reason="owner is no name").body()), 0.0)
    assert end.session.state is SessionState.ENDED
    assert end.session.farewell is not None
    assert end.session.farewell.code == Code.MANIFEST_INVALID
    with pytest.raises(NotConnected, match="owner is no name"):
        end.publish("a.b")


@pytest.mark.parametrize(
    "frame",
    [
        wire.hello({}),
        wire.welcome(1, "again", {}),
        wire.subscribe(1, "a", {}),
        wire.pack((63,)),
        wire.pack((Kind.REPLY,)),
        wire.pack((Kind.CALL, 1, {}, 5, None, b"")),
        wire.pack((Kind.PUBLISH, 7, None, b"")),
        wire.pack((Kind.PUBLISH, [], None, b"")),
        wire.pack("text"),
        b"\x93\x01",
        b"",
    ],
)
def test_a_broker_that_breaks_the_protocol_is_refused_with_a_bus_error(frame: bytes) -> None:
    end = Wire().end()
    end.subscribe(">")
    with pytest.raises(BusError):
        end.session.receive(frame, 0.0)


def test_kinds_that_may_be_skipped_are_skipped_and_counted() -> None:
    end = Wire().end()
    end.session.receive(wire.pack((64, "whatever")) + wire.ping(5), 0.0)
    assert end.session.skipped_envelopes == 1
    assert end.session.data_to_send() == [[wire.pong(5)]]


# -- publish and subscribe --------------------------------------------------------------------------------------------


def test_messages_come_in_order_with_headers_and_origin() -> None:
    world = Wire()
    sender, receiver = world.end(), world.end()
    inbox = receiver.subscribe("demo.>")
    sender.session.publish("demo.a", wire.pack(1), {"id": "x"})
    for n in range(2, 300):
        sender.publish("demo.a", wire.pack(n))
    world.run()
    first = inbox.take()
    assert isinstance(first, Message)
    assert (first.subject, dict(first.headers)) == ("demo.a", {"id": "x"})
    assert first.origin is not None
    assert first.origin.endpoint == sender.session.endpoint
    assert first.origin.boundary == "host"
    assert drain(inbox) == list(range(2, 300))


def test_a_message_that_matches_two_subscriptions_is_in_both() -> None:
    world = Wire()
    end = world.end()
    one, two, other = end.subscribe("a.*"), end.subscribe("a.b"), end.subscribe("c")
    end.publish("a.b", wire.pack(5))
    world.run()
    assert (drain(one), drain(two), drain(other)) == ([5], [5], [])


def test_unsubscribed_gets_nothing_more() -> None:
    world = Wire()
    end = world.end()
    one, two = end.subscribe("a.>"), end.subscribe("a.b")
    end.publish("a.b", wire.pack(1))
    world.run()
    end.session.unsubscribe(one)
    end.publish("a.b", wire.pack(2))
    world.run()
    assert (drain(one), drain(two)) == ([1], [1, 2])
    assert not end.session.requests


@pytest.mark.parametrize("size", [0, 1, 255, 256, 16 * 1024, 16 * 1024 + 1, 70_000, 300_000])
def test_payloads_of_every_size_arrive_whole(size: int) -> None:
    world = Wire()
    end = world.end()
    inbox = end.subscribe("a")
    payload = bytes(range(256)) * (size // 256 + 1)
    end.publish("a", wire.pack(payload[:size]))
    end.publish("a", b"\x01")
    world.run()
    assert drain(inbox) == [payload[:size], 1]


def test_frames_stay_below_the_batch_size_unless_one_envelope_is_larger() -> None:
    end = Wire().end()
    for size in (100, 5000, 20_000, 100_000, 100):
        for _ in range(40):
            end.publish("a", bytes(size))
    frames = [b"".join(pieces) for pieces in end.session.data_to_send()]
    decoder = wire.Decoder()
    assert all(len(frame) <= BATCH_BYTES or len(decoder.decode(frame).envelopes) <= 2 for frame in frames)
    assert sum(len(decoder.decode(frame).envelopes) for frame in frames) == 200


def test_too_large_a_payload_fails_before_it_is_sent_with_both_numbers() -> None:
    end = Wire(max_payload=5000).end()
    assert end.session.max_payload == 5000
    for send in (
        lambda: end.publish("a", bytes(5001)),
        lambda: end.call("a", "token", bytes(5001)),
    ):
        with pytest.raises(PayloadTooLarge) as caught:
            send()
        assert (caught.value.fields["size"], caught.value.fields["limit"]) == (5001, 5000)
    assert end.session.data_to_send() == []
    assert not end.session.calls
    end = Wire().end()
    with pytest.raises(PayloadTooLarge):
        end.publish("a", bytes(PAYLOAD_BYTES + 1))
    end.publish("a", bytes(5000))


@pytest.mark.parametrize("subject", ["", "A.b", "a..b", "a.*", "a.>", "$other", "x" * 300])
def test_what_is_no_subject_is_refused_before_it_is_sent(subject: str) -> None:
    end = Wire().end()
    with pytest.raises(BusError) as caught:
        end.publish(subject)
    assert caught.value.code == Code.SUBJECT_INVALID
    with pytest.raises(BusError):
        end.call(subject, "token")
    assert end.session.data_to_send() == []


def test_the_brokers_subjects_may_be_called_but_not_published_or_served() -> None:
    world = Wire()
    end = world.end()
    with pytest.raises(BusError) as caught:
        end.publish("$bus.x")
    assert caught.value.code == Code.SUBJECT_RESERVED
    with pytest.raises(BusError) as caught:
        end.session.serve(Offer("$bus.x", group="g", token=None), world.now, "token")
    assert caught.value.code == Code.SUBJECT_RESERVED
    end.call("$bus.ping", "ping")
    world.run()
    reply = end.outcomes["ping"]
    assert isinstance(reply, Reply)
    assert reply.payload["node"] == "test"
    with pytest.raises(BusError):
        end.publish("$bus.ping")  # having called it does not make it publishable


@pytest.mark.parametrize("headers", [{"Upper": 1}, {"a": None}, {"a": "x" * 5000}, {str(n): n for n in range(33)}])
def test_headers_that_the_broker_would_cut_us_off_for_are_refused_here(headers: Any) -> None:
    end = Wire().end()
    with pytest.raises(BusError) as caught:
        end.session.publish("a", b"\xc0", headers)
    assert caught.value.code == Code.HEADERS_INVALID
    with pytest.raises(BusError):
        end.session.call("a", b"\xc0", headers, 1.0, 0.0, "token")
    assert end.session.data_to_send() == []


def test_a_refused_publish_is_kept_for_the_next_one_on_that_subject() -> None:
    world = Wire()
    end = world.end()
    body = BusError(Code.DENIED, action="publish", subject="a.b", reason="no rule").body()
    end.session.receive(wire.error(None, body), 0.0)
    end.publish("a.c")
    with pytest.raises(Denied, match="no rule"):
        end.publish("a.b")
    end.publish("a.b")  # told once


def test_a_gap_from_the_broker_stands_in_its_place() -> None:
    world = Wire(outbox_messages=8)
    sender, receiver = world.end(), world.end()
    inbox = receiver.subscribe("a")
    world.ends.remove(receiver)  # it does not read
    for n in range(20):
        sender.publish("a", wire.pack(n))
        world.run()
    world.ends.append(receiver)
    world.run()
    sender.publish("a", wire.pack("later"))
    world.run()
    items = drain(inbox)
    assert items[-2:] == [(20 - (len(items) - 2), "outbox-messages"), "later"]
    assert items[:-2] == list(range(len(items) - 2))


# -- calls ------------------------------------------------------------------------------------------------------------


def test_a_call_and_its_reply() -> None:
    world = Wire()
    caller, responder = world.end(), world.end()
    offer = responder.serve("demo.echo")
    caller.call("demo.echo", "one", wire.pack({"n": 1}), timeout=2.5)
    world.run()
    call = offer.queue[0]
    assert (call.subject, call.payload) == ("demo.echo", {"n": 1})
    assert call.deadline == pytest.approx(world.now + 2.5)
    assert call.origin is not None
    assert call.origin.endpoint == caller.session.endpoint
    answer(responder, offer, payload="hello")
    world.run()
    reply = caller.outcomes["one"]
    assert isinstance(reply, Reply)
    assert reply.payload == "hello"
    assert reply.origin is not None
    assert reply.origin.endpoint == responder.session.endpoint
    assert not caller.session.calls
    assert not responder.session.held


def test_nobody_serves() -> None:
    world = Wire()
    end = world.end()
    end.call("nobody.there", "one")
    world.run()
    outcome = end.outcomes["one"]
    assert isinstance(outcome, NoResponders)
    assert outcome.fields["subject"] == "nobody.there"


def test_an_error_reply_has_the_responders_code_and_fields() -> None:
    world = Wire()
    end = world.end()
    offer = end.serve("a")
    end.call("a", "one")
    world.run()
    body = BusError(12345, text="the disk is full", disk="sda").body()
    assert end.session.reply(offer.queue.popleft(), Status.ERROR, None, wire.pack(body))
    world.run()
    outcome = end.outcomes["one"]
    assert isinstance(outcome, ErrorReply)
    assert (outcome.code, outcome.text, outcome.fields["disk"]) == (12345, "the disk is full", "sda")


@pytest.mark.parametrize("payload", [b"", b"\xc1", wire.pack("no body"), wire.pack({"no": "code"})])
def test_an_error_reply_that_cannot_be_read_is_still_an_error_reply(payload: bytes) -> None:
    world = Wire()
    end = world.end()
    offer = end.serve("a")
    end.call("a", "one")
    world.run()
    assert end.session.reply(offer.queue.popleft(), Status.ERROR, None, payload)
    world.run()
    outcome = end.outcomes["one"]
    assert isinstance(outcome, ErrorReply)
    assert "cannot be read" in outcome.text


def test_timeout_by_the_broker() -> None:
    world = Wire()
    end = world.end()
    offer = end.serve("a")
    end.call("a", "one", timeout=2.0)
    world.run()
    call = offer.queue[0]
    call.task = "somebody works on it"
    world.advance(1.9)
    assert "one" not in end.outcomes
    world.advance(0.11)  # the broker's deadlines are up to 8 ms late
    assert isinstance(end.outcomes["one"], CallTimeout)
    assert end.cancelled == [call]
    assert call.cancelled
    # The broker counts the call as held until the responder lets go of it, which it still can.
    assert end.session.reply(call, Status.OK, None, b"\xc0")
    world.run()
    assert world.core.statistics().held_calls == 0


def test_timeout_without_a_word_from_the_broker() -> None:
    world = Wire()
    end = world.end()
    end.serve("a")
    id = end.call("a", "one", timeout=2.0)
    end.session.data_to_send()  # lost on the way
    end.session.expire(world.now + 2.0)
    end.collect()
    assert "one" not in end.outcomes
    assert end.session.earliest == pytest.approx(world.now + 2.0 + LATE_SECONDS)
    end.session.expire(world.now + 2.0 + LATE_SECONDS)
    end.collect()
    outcome = end.outcomes["one"]
    assert isinstance(outcome, CallTimeout)
    assert outcome.fields["seconds"] == 2.0
    assert end.session.data_to_send() == [[wire.cancel(id)]]
    end.session.receive(wire.reply(id, Status.OK, None, b"\xc0"), world.now)
    end.collect()
    assert end.session.late_replies == 1
    assert not end.session.requests


def test_deadlines_of_different_calls() -> None:
    world = Wire()
    end = world.end()
    for timeout in (5.0, 1.0, 3.0):
        end.call("a", timeout, timeout=timeout)
    end.session.data_to_send()
    end.session.expire(world.now)
    for timeout in (1.0, 3.0, 5.0):
        assert end.session.earliest == pytest.approx(world.now + timeout + LATE_SECONDS)
        end.session.expire(end.session.earliest)
        end.collect()
        assert isinstance(end.outcomes[timeout], CallTimeout)
    assert len(end.outcomes) == 3


@pytest.mark.parametrize("timeout", [0, -1, 0.0001, 1e9, float("inf"), float("nan")])
def test_timeouts_out_of_bounds(timeout: float) -> None:
    end = Wire().end()
    with pytest.raises(BusError, match="not within") as caught:
        end.call("a", "one", timeout=timeout)
    assert caught.value.code == Code.REQUEST_INVALID
    assert not end.session.calls


def test_a_cancelled_call_is_cancelled_at_the_responder_and_its_late_reply_dropped() -> None:
    world = Wire()
    caller, responder = world.end(), world.end()
    offer = responder.serve("a")
    id = caller.call("a", "one")
    world.run()
    call = offer.queue[0]
    call.task = "somebody works on it"
    caller.session.abandon(id)
    caller.session.abandon(id)  # once is enough, twice no harm
    world.run()
    assert responder.cancelled == [call]
    assert responder.session.reply(call, Status.OK, None, b"\xc0")
    world.run()
    assert caller.outcomes == {}
    assert not caller.session.requests
    assert world.core.statistics().held_calls == 0


def test_a_call_cancelled_before_anyone_took_it_is_answered_at_once() -> None:
    world = Wire()
    caller, responder = world.end(), world.end()
    offer = responder.serve("a")
    id = caller.call("a", "one")
    world.run()
    caller.session.abandon(id)
    world.run()
    call = offer.queue[0]
    assert call.cancelled
    assert not responder.session.reply(call, Status.OK, None, b"\xc0")
    assert world.core.statistics().held_calls == 0


def test_a_stream_as_the_answer_to_a_plain_call_is_an_error_and_cancelled() -> None:
    world = Wire()
    caller, responder = world.end(), world.end()
    offer = responder.serve("a")
    caller.call("a", "one")
    world.run()
    call = offer.queue[0]
    call.task = "somebody works on it"
    assert responder.session.reply(call, Status.PARTIAL, None, b"\x01")
    world.run()
    outcome = caller.outcomes["one"]
    assert isinstance(outcome, BusError)
    assert "use stream()" in outcome.text
    assert responder.cancelled == [call]


def test_the_most_specific_offer_gets_the_call() -> None:
    world = Wire()
    end = world.end()
    offers = {pattern: end.serve(pattern) for pattern in ("a.>", "a.*", "a.b", "*.b")}
    for subject, pattern in (("a.b", "a.b"), ("a.c", "a.*"), ("a.b.c", "a.>"), ("z.b", "*.b")):
        end.call(subject, subject)
        world.run()
        assert [call.subject for call in offers[pattern].queue] == [subject]
        answer(end, offers[pattern])
        world.run()


def test_the_same_pattern_twice_on_one_bus_is_refused() -> None:
    world = Wire()
    end = world.end()
    end.serve("a")
    with pytest.raises(BusError, match="serves it already"):
        end.session.serve(Offer("a", group="g", token=None), world.now, "two")


def test_another_group_on_the_same_pattern_is_refused_by_the_broker() -> None:
    world = Wire()
    one, two = world.end(), world.end()
    one.serve("a", group="x")
    offer = Offer("a", group="y", token=None)
    two.session.serve(offer, world.now, "two")
    world.run()
    outcome = two.outcomes["two"]
    assert isinstance(outcome, BusError)
    assert outcome.code == Code.GROUP_CONFLICT
    assert not isinstance(outcome, ErrorReply)


def test_unserve_ends_with_the_brokers_word_and_no_call_after_it() -> None:
    world = Wire()
    end = world.end()
    offer = end.serve("a")
    end.call("a", "early")
    assert end.session.unserve(offer, world.now, "unserve")
    end.call("a", "late")
    world.run()
    assert end.outcomes.pop("unserve") is None
    assert isinstance(end.outcomes.pop("late"), NoResponders)
    assert len(offer.queue) == 1
    answer(end, offer, payload=1)
    world.run()
    assert isinstance(end.outcomes["early"], Reply)
    assert not end.session.unserve(offer, world.now, "again")


def test_a_call_for_nothing_that_is_served_here_is_answered_with_an_error() -> None:
    end = Wire().end()
    end.session.receive(wire.call(9, "x.y", 1000, None, b"\xc0"), 0.0)
    [[data]] = end.session.data_to_send()
    reply = wire.Decoder().decode(data).envelopes[0]
    assert reply[:3] == [Kind.REPLY, 9, Status.ERROR]
    assert wire.unpack(reply[4])["code"] == Code.NO_RESPONDERS


# -- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_of_parts() -> None:
    world = Wire()
    end = world.end()
    offer = end.serve("a")
    parts = Parts(None)
    end.call("a", None, parts=parts)
    world.run()
    call = offer.queue.popleft()
    for n in range(3):
        end.session.reply(call, Status.PARTIAL, None, wire.pack(n))
    world.run()
    assert not parts.done
    end.session.reply(call, Status.OK, None, b"")
    world.run()
    assert [part.payload for part in parts.queue] == [0, 1, 2]
    assert parts.done
    assert parts.outcome is None


def test_a_stream_that_ends_badly_keeps_its_parts() -> None:
    world = Wire()
    end = world.end()
    offer = end.serve("a")
    parts = Parts(None)
    end.call("a", None, timeout=1.0, parts=parts)
    world.run()
    end.session.reply(offer.queue[0], Status.PARTIAL, None, wire.pack(1))
    world.run()
    world.advance(1.01)
    assert [part.payload for part in parts.queue] == [1]
    assert parts.done
    assert isinstance(parts.outcome, CallTimeout)


def test_a_stream_that_is_not_read_ends_overloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busclient.queues.QUEUE_MESSAGES", 10)
    world = Wire()
    end = world.end()
    offer = end.serve("a")
    parts = Parts(None)
    end.call("a", None, parts=parts)
    world.run()
    call = offer.queue[0]
    call.task = "somebody works on it"
    for n in range(12):
        end.session.reply(call, Status.PARTIAL, None, wire.pack(n))
    world.run()
    assert len(parts.queue) == 10
    assert isinstance(parts.outcome, Overloaded)
    assert (parts.outcome.fields["used"], parts.outcome.fields["limit"]) == (10, 10)
    assert end.cancelled == [call]


# -- connections that go and come -------------------------------------------------------------------------------------


def test_every_pending_request_ends_when_the_connection_does() -> None:
    world = Wire()
    end = world.end()
    end.serve("a")
    parts = Parts(None)
    end.call("a", "sent")
    end.call("a", None, parts=parts)
    end.session.data_to_send()
    end.call("a", "unsent")
    end.session.subscribe(Inbox("x", latest=False, limit=1, token=None), world.now, "subscribe")
    end.session.ping(world.now, "ping")
    end.detach("the cable was cut")
    assert isinstance(end.outcomes.pop("sent"), UnknownOutcome)
    unsent = end.outcomes.pop("unsent")
    assert isinstance(unsent, NotConnected)
    assert "the cable was cut" in unsent.text
    assert isinstance(end.outcomes.pop("subscribe"), ConnectionLost)
    assert isinstance(end.outcomes.pop("ping"), ConnectionLost)
    assert end.outcomes == {}
    assert parts.done
    assert isinstance(parts.outcome, UnknownOutcome)
    with pytest.raises(NotConnected, match="the cable was cut"):
        end.publish("a")


def test_subscriptions_and_services_come_back_with_a_gap() -> None:
    world = Wire()
    end, other = world.end(), world.end()
    inbox, offer = end.subscribe("a.>"), end.serve("b")
    other.publish("a.x", wire.pack(1))
    world.run()
    end.detach()
    other.publish("a.x", wire.pack("missed"))
    world.run()
    end.attach()
    other.publish("a.x", wire.pack(2))
    other.call("b", "one")
    world.run()
    assert drain(inbox) == [1, (None, "reconnected"), 2]
    answer(end, offer, payload="served again")
    world.run()
    reply = other.outcomes["one"]
    assert isinstance(reply, Reply)
    assert reply.payload == "served again"


def test_what_was_unsubscribed_does_not_come_back() -> None:
    world = Wire()
    end = world.end()
    inbox, offer = end.subscribe("a"), end.serve("b")
    end.session.unsubscribe(inbox)
    end.session.unserve(offer, world.now, "unserve")
    end.detach()
    end.attach()
    assert world.core.statistics().subscriptions == 0
    assert world.core.statistics().services == 0


def test_a_subscription_refused_after_a_reconnect_ends_with_the_refusal() -> None:
    world = Wire()
    end = world.end()
    inboxes = [end.subscribe(f"a{n}") for n in range(3)]
    offer = end.serve("b", group="x")
    for inbox in inboxes:
        inbox.waiting = True
    end.detach()
    world.end().serve("b", group="y")
    object.__setattr__(world.core.quotas, "subscriptions", 2)
    end.attach()
    assert [inbox.ended is None for inbox in inboxes] == [True, True, False]
    assert isinstance(inboxes[2].ended, Overloaded)
    assert inboxes[2] in end.woken
    assert offer.ended is not None
    assert offer.ended.code == Code.GROUP_CONFLICT
    assert offer in end.woken


def test_a_call_held_when_the_connection_ends_is_cancelled_and_not_answered_through_the_next() -> None:
    world = Wire()
    end, caller = world.end(), world.end()
    offer = end.serve("a")
    caller.call("a", "one")
    world.run()
    call = offer.queue.popleft()
    end.detach()
    assert end.cancelled == [call]
    assert isinstance(caller.outcomes["one"], UnknownOutcome)
    end.attach()
    assert not end.session.reply(call, Status.OK, None, b"\xc0")


def test_a_reply_to_a_call_of_the_last_connection_does_not_end_the_one_with_its_number_in_this_one() -> None:
    world = Wire()
    end = world.end()
    offer = end.serve("a")
    calls = []
    for _ in range(2):
        end.session.receive(wire.call(70_000, "a", 1000, None, b"\xc0"), world.now)
        calls.append(offer.queue.popleft())
        if len(calls) == 1:
            end.detach()
            end.attach()
    assert not end.session.reply(calls[0], Status.OK, None, b"\xc0")
    assert end.session.reply(calls[1], Status.OK, None, b"\xc0")


def test_what_was_published_before_the_connection_ended_is_not_said_to_have_arrived() -> None:
    world = Wire()
    end = world.end()
    end.publish("a")
    assert end.session.unconfirmed
    end.detach()
    assert isinstance(end.session.unsure, ConnectionLost)
    assert not end.session.unconfirmed


def test_a_ping_is_answered_after_everything_before_it() -> None:
    world = Wire()
    end = world.end()
    end.publish("a")
    end.session.ping(world.now, "ping")
    world.run()
    assert end.outcomes["ping"] is None
    assert not end.session.unconfirmed


def test_a_broker_that_does_not_answer_requests_ends_them() -> None:
    world = Wire()
    end = world.end()
    inbox = Inbox("a", latest=False, limit=1, token=None)
    end.session.subscribe(inbox, world.now, "subscribe")
    end.session.ping(world.now, "ping")
    end.session.data_to_send()
    end.session.expire(world.now + 5.0)
    end.collect()
    assert isinstance(end.outcomes["subscribe"], CallTimeout)
    assert isinstance(end.outcomes["ping"], CallTimeout)
    sent = [message[0] for message in wire.Decoder().decode(b"".join(end.session.data_to_send()[0])).envelopes]
    assert sent == [Kind.UNSUBSCRIBE]


def test_ids_start_again_after_the_last_past_those_that_stand() -> None:
    world = Wire()
    end = world.end()
    inbox, offer = end.subscribe("a"), end.serve("b")
    assert (inbox.id, offer.id) == (ID_FIRST, ID_FIRST + 1)
    end.session._next_id = ID_MAX - 1
    for n in range(4):
        end.call("b", n)
        world.run()
        answer(end, offer, payload=n)
        world.run()
    assert all(isinstance(end.outcomes[n], Reply) for n in range(4))
    assert end.session._next_id == ID_FIRST + 5


# -- the inbox --------------------------------------------------------------------------------------------------------


def message(n: int, subject: str = "a") -> tuple[Any, ...]:
    return (Kind.PUBLISH, subject, None, wire.pack(n))


def test_a_full_inbox_counts_what_it_loses_in_its_place() -> None:
    inbox = Inbox("a", latest=False, limit=3, token=None)
    for n in range(5):
        inbox.put(message(n), NO_ORIGIN)
    assert [drain_one(inbox), drain_one(inbox)] == [0, 1]
    inbox.put(message(5), NO_ORIGIN)
    assert drain(inbox) == [2, (2, "local-queue"), 5]
    for n in range(4):
        inbox.put(message(n), NO_ORIGIN)
    assert drain(inbox) == [0, 1, 2, (1, "local-queue")]
    assert (inbox.lost, inbox.gaps, inbox.held) == (3, 2, 0)


def drain_one(inbox: Inbox) -> Any:
    item = inbox.take()
    assert isinstance(item, Message)
    return item.payload


def test_an_inbox_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busclient.queues.QUEUE_BYTES", 1000)
    inbox = Inbox("a", latest=False, limit=1000, token=None)
    for _ in range(5):
        inbox.put((Kind.PUBLISH, "a", None, bytes(400)), NO_ORIGIN)
    assert inbox.count == 2
    assert inbox.lost == 3
    assert inbox.held == 800


def test_a_latest_inbox_keeps_the_newest_of_each_subject() -> None:
    inbox = Inbox(">", latest=True, limit=10, token=None)
    for n in range(100):
        inbox.put(message(n, f"s{n % 3}"), NO_ORIGIN)
    newest: dict[str, int] = {}
    while (item := inbox.take()) is not None:
        assert isinstance(item, Message)
        newest[item.subject] = item.payload
    assert newest == {"s0": 99, "s1": 97, "s2": 98}
    assert inbox.lost == 0
    assert inbox.replaced > 80
    assert inbox.held == 0


def test_a_latest_inbox_with_too_many_subjects_loses_the_oldest_and_says_so() -> None:
    inbox = Inbox(">", latest=True, limit=10, token=None)
    for n in range(25):
        inbox.put(message(n, f"s{n}"), NO_ORIGIN)
    items = drain(inbox)
    lost = sum(item[0] for item in items if isinstance(item, tuple))
    kept = [item for item in items if not isinstance(item, tuple)]
    assert lost == inbox.lost > 0
    assert lost + len(kept) == 25
    assert kept == list(range(25 - len(kept), 25))
