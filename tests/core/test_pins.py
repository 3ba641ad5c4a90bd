"""Pinned calls: while a component is handed over its calls wait, and each gets one outcome from whoever serves then."""

from collections.abc import Callable
from itertools import count

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from busd.core.account import Rates
from busproto import envelope
from busproto.envelope import Kind, Status
from busproto.errors import BusError, Code
from tests.core.peer import Peer, World, error_of, made


def answer(responder: Peer, payload: bytes = b"x") -> list[int]:
    """Answer every call that ``responder`` was given; their numbers."""
    numbers = [message[1] for message in responder.take() if message[0] == Kind.CALL]
    for number in numbers:
        responder.send(envelope.reply(number, Status.OK, None, payload))
    return numbers


def test_calls_wait_and_go_to_whoever_serves_when_the_pin_is_taken_back() -> None:
    world = World()
    caller, old, new = world.peer(), world.peer(), world.peer()
    offer = old.serve("cache.get")
    unpin = world.bus.pin(["cache.get"])
    ids = [caller.call("cache.get", b"%d" % n, seconds=10) for n in range(3)]
    assert old.take() == []
    assert caller.take() == []
    id = old.id()
    assert old.request(envelope.unserve(id, offer), id)[2] == Status.OK
    new.serve("cache.get")
    assert new.take() == []
    unpin(world.now)
    given = new.take()
    assert [message[5] for message in given] == [b"0", b"1", b"2"]
    for message in given:
        new.send(envelope.reply(message[1], Status.OK, None, b"x"))
    assert sorted(message[1] for message in caller.take()) == ids
    assert world.bus.ledgers["queued_bytes"].used == 0


def test_who_is_serving_keeps_what_it_holds_while_it_is_pinned() -> None:
    world = World()
    caller, old = world.peer(), world.peer()
    old.serve("s")
    id = caller.call("s", seconds=10)
    unpin = world.bus.pin(["s"])
    assert len(answer(old)) == 1
    assert [message[:3] for message in caller.take()] == [[Kind.REPLY, id, Status.OK]]
    unpin(world.now)


def test_a_pattern_that_nobody_serves_yet_can_be_pinned() -> None:
    world = World()
    caller, new = world.peer(), world.peer()
    unpin = world.bus.pin(["s.*"])
    caller.call("s.a", seconds=10)
    assert caller.take() == []
    assert (
        "is being exchanged, and 1 calls wait"
        in caller.ask("$bus.explain", {"subject": "s.a", "verb": "call"})["reason"]
    )
    new.serve("s.*", group="own")
    unpin(world.now)
    assert len(answer(new)) == 1
    assert len(caller.take()) == 1


def test_if_nobody_serves_in_the_end_the_calls_end_at_once() -> None:
    world = World()
    caller = world.peer()
    unpin = world.bus.pin(["s"])
    caller.call("s", seconds=10)
    unpin(world.now)
    assert [message[2] for message in caller.take()] == [Status.NO_RESPONDERS]
    caller.call("s")
    assert [message[2] for message in caller.take()] == [Status.NO_RESPONDERS]
    assert world.statistics().services == 0


def test_a_pin_is_taken_back_once_and_two_pins_must_both_be() -> None:
    world = World()
    caller, responder = world.peer(), world.peer()
    responder.serve("s")
    first, second = world.bus.pin(["s", "s"]), world.bus.pin(["s"])
    caller.call("s", seconds=10)
    first(world.now)
    first(world.now)
    assert responder.take() == []
    second(world.now)
    assert len(answer(responder)) == 1


def test_a_waiting_call_ends_at_its_own_deadline_and_is_never_given_out() -> None:
    world = World()
    caller, responder = world.peer(), world.peer()
    responder.serve("s")
    unpin = world.bus.pin(["s"])
    caller.call("s", seconds=1)
    later = caller.call("s", seconds=5)
    world.advance(1.1)
    assert [message[2] for message in caller.take()] == [Status.TIMEOUT]
    unpin(world.now)
    (given,) = responder.take()
    assert given[0] == Kind.CALL
    world.advance(3.8)
    assert caller.take() == []
    world.advance(0.2)
    assert [(message[1], message[2]) for message in caller.take()] == [(later, Status.TIMEOUT)]


def test_a_waiting_call_can_be_cancelled_and_its_caller_can_leave() -> None:
    world = World()
    caller, gone, responder = world.peer(), world.peer(), world.peer()
    responder.serve("s")
    unpin = world.bus.pin(["s"])
    id = caller.call("s", seconds=10)
    gone.call("s", seconds=10)
    caller.send(envelope.cancel(id))
    assert [(message[1], message[2]) for message in caller.take()] == [(id, Status.CANCELLED)]
    gone.leave()
    assert world.statistics().calls_in_flight == 0
    unpin(world.now)
    assert responder.take() == []
    assert world.bus.ledgers["queued_bytes"].used == 0


def test_an_id_in_use_is_refused_while_the_call_waits() -> None:
    world = World()
    caller, responder = world.peer(), world.peer()
    responder.serve("s")
    unpin = world.bus.pin(["s"])
    id = caller.call("s", seconds=10)
    caller.send(envelope.call(id, "s", 1000, None, b""))
    (message,) = caller.take()
    assert message[0] == Kind.ERROR
    assert error_of(message)["code"] == Code.ID_IN_USE
    unpin(world.now)
    assert len(answer(responder)) == 1


def test_a_tenant_can_have_its_share_of_what_waits_and_no_more() -> None:
    policy = """
        allow publish,subscribe,call,serve > from host,guest
        export service s from node to *
"""
    world = World(policy, held_calls=8)
    hog, other, responder = world.guest("acme"), world.guest("globex"), world.peer()
    responder.serve("s")
    unpin = world.bus.pin(["s"])
    for _ in range(8):
        hog.call("s", seconds=10)
    refused = hog.take()
    assert {message[2] for message in refused} == {Status.OVERLOADED}
    assert 0 < len(refused) < 8
    assert "held_calls: tenant acme at s holds" in error_of(refused[0])["text"]
    other.call("s", seconds=10)
    assert other.take() == []
    unpin(world.now)
    assert len(answer(responder)) == 8 - len(refused) + 1
    assert (len(hog.take()), len(other.take())) == (8 - len(refused), 1)
    assert all(ledger.shared == 0 for name, ledger in world.bus.ledgers.items() if name in ("calls", "queued_bytes"))


def test_bytes_that_wait_are_charged() -> None:
    world = World(queued_bytes=4096)
    caller, responder = world.peer(), world.peer()
    responder.serve("s")
    unpin = world.bus.pin(["s"])
    caller.call("s", bytes(3000), seconds=10)
    caller.call("s", bytes(3000), seconds=10)
    (refused,) = caller.take()
    assert refused[2] == Status.OVERLOADED
    assert "queued_bytes" in error_of(refused)["text"]
    unpin(world.now)
    assert len(answer(responder)) == 1


def test_calls_on_behalf_of_another_wait_too_and_are_asked_for_by_the_rights_of_then() -> None:
    policy = """
        allow publish,subscribe,call,serve > from host
        allow call front from guest
        export service front from node to *
"""
    world = World(policy + "allow delegate back from guest\n")
    guest, worker, responder = world.guest("acme"), world.peer(), world.peer()
    worker.serve("front")
    responder.serve("back")
    guest.call("front", seconds=10)
    (held,) = worker.take()
    unpin = world.bus.pin(["back"])
    for id in (worker.id(), worker.id()):
        worker.send(envelope.call(id, "back", 9000, None, b"", on_behalf_of=held[1]))
    unpin(world.now)
    given = responder.take()
    assert len(given) == 2
    assert responder.origins[-1] is not None
    assert responder.origins[-1][6][2] == "acme"
    unpin = world.bus.pin(["back"])
    worker.send(envelope.call(worker.id(), "back", 9000, None, b"", on_behalf_of=held[1]))
    world.bus.apply_policy(made(policy), world.now)
    unpin(world.now)
    assert [message[2] for message in worker.take() if message[0] == Kind.REPLY] == [Status.DENIED]
    assert responder.take() == []


def test_a_call_that_waited_is_paid_for_once() -> None:
    policy = "allow call,serve > from host,guest\nexport service s from node to *\n"
    world = World(policy, rates=Rates(calls=10))
    caller, responder = world.guest("acme"), world.peer()
    responder.serve("s")
    bucket = caller.session.account.calls
    assert bucket is not None
    before = bucket.available(world.now)
    unpin = world.bus.pin(["s"])
    caller.call("s", seconds=10)
    unpin(world.now)
    assert before - bucket.available(world.now) == pytest.approx(1)


def test_when_the_bus_stops_what_waits_ends_as_given_to_nobody() -> None:
    world = World()
    caller, responder = world.peer(), world.peer()
    responder.serve("s")
    unpin = world.bus.pin(["s"])
    caller.call("s", seconds=10)
    world.bus.shut(world.now)
    reply = next(message for message in caller.take() if message[0] == Kind.REPLY)
    assert reply[2] == Status.OVERLOADED
    assert "it was given to nobody" in error_of(reply)["text"]
    unpin(world.now)
    assert responder.take()[-1][0] == Kind.BYE


def test_who_is_cut_off_is_told_and_the_census_says_why() -> None:
    world = World()
    liar, other = world.peer(component="liar"), world.peer()
    error = BusError(Code.DENIED, action="serve", subject="s", reason="it said that it was ready and was not")
    assert world.bus.cut_off(liar.name, error, world.now)
    (bye,) = liar.take()
    assert bye[0] == Kind.BYE
    assert "it said that it was ready and was not" in error_of(bye)["text"]
    liar.leave()
    row = other.ask("$bus.list", {"departed": True})["departed"][0]
    assert (row["endpoint"], row["reason"], row["error"]["code"]) == (liar.name, "cut-off", Code.DENIED)
    assert not world.bus.cut_off(liar.name, error, world.now)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["call", "call", "call", "cancel", "wait", "answer", "pin", "unpin", "serve", "unserve", "leave"]
        ),
        st.integers(0, 5),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_whatever_happens_each_call_has_one_outcome_and_is_given_out_at_most_once(steps: list[tuple[str, int]]) -> None:
    world = World(held_calls=20)
    callers = [world.peer() for _ in range(3)]
    responders = [world.peer() for _ in range(3)]
    offers: dict[Peer, int] = {}
    pins: list[Callable[[float], None]] = []
    made_calls: set[tuple[str, int]] = set()
    outcomes: list[tuple[str, int]] = []
    executed: list[bytes] = []
    number = count()

    def collect() -> None:
        for caller in callers:
            outcomes.extend((caller.name, message[1]) for message in caller.take() if message[0] == Kind.REPLY)

    def answer_all() -> None:
        for responder in responders:
            given = [message for message in responder.take() if message[0] == Kind.CALL]
            executed.extend(message[5] for message in given)
            for message in given:
                responder.send(envelope.reply(message[1], Status.OK, None, b""))

    for step, which in steps:
        caller, responder = callers[which % len(callers)], responders[which % 3]
        if step == "call":
            id = caller.call("s", b"%d" % next(number), seconds=1 + which)
            made_calls.add((caller.name, id))
        elif step == "cancel" and caller.session.calls:
            caller.send(envelope.cancel(next(iter(caller.session.calls))))
        elif step == "wait":
            world.advance(which / 2)
        elif step == "answer":
            answer_all()
        elif step == "pin":
            pins.append(world.bus.pin(["s", "t"]))
        elif step == "unpin" and pins:
            pins.pop(which % len(pins))(world.now)
        elif step in ("serve", "unserve"):
            id = responder.id()
            if step == "serve" and responder not in offers:
                offers[responder] = id
                responder.send(envelope.serve(id, "s", {}))
            elif step == "unserve" and responder in offers:
                responder.send(envelope.unserve(id, offers.pop(responder)))
        elif step == "leave" and len(callers) > 1:
            collect()
            callers.remove(caller)
            caller.leave()
            made_calls -= {(name, id) for name, id in made_calls if name == caller.name}
            outcomes = [(name, id) for name, id in outcomes if name != caller.name]
    for unpin in pins:
        unpin(world.now)
    answer_all()
    world.advance(10)
    answer_all()
    collect()
    assert sorted(outcomes) == sorted(made_calls)
    assert len(executed) == len(set(executed))
    statistics = world.statistics()
    assert (statistics.calls_in_flight, statistics.waiting_calls, statistics.held_calls) == (0, 0, 0)
    assert world.bus.ledgers["queued_bytes"].used == 0
