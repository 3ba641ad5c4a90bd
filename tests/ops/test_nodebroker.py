"""What the node gives the supervisor of its bus: on the real core, with a clock that stands still."""

from typing import Any

import pytest

import busd.nodebroker
from busd.nodebroker import NodeBroker
from busproto import envelope
from busproto.envelope import Kind, Status
from tests.core.peer import World, error_of


class Pump:
    """Counts how often it is told that something waits."""

    def __init__(self) -> None:
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(busd.nodebroker, "clock", lambda: made.now)
    return made


@pytest.fixture
def pump() -> Pump:
    return Pump()


@pytest.fixture
def broker(world: World, pump: Pump) -> NodeBroker:
    return NodeBroker(world.bus, pump)  # type: ignore[arg-type]


def kinds(messages: list[list[Any]], kind: int) -> list[list[Any]]:
    return [message for message in messages if message[0] == kind]


def test_pinned_calls_wait_and_go_to_who_serves_when_they_are_let_go(
    world: World, pump: Pump, broker: NodeBroker
) -> None:
    old, new, caller = world.peer(), world.peer(), world.peer()
    offer = old.serve("cache.get")
    let_go = broker.pin(["cache.get"])
    caller.call("cache.get")
    old.request(envelope.unserve(id := old.id(), offer), id)
    new.serve("cache.get")
    assert kinds(new.take(), Kind.CALL) == []
    assert pump.woken == 0
    let_go()
    assert pump.woken == 1, "else the call would wait for the next frame of somebody"
    (call,) = kinds(new.take(), Kind.CALL)
    assert call[2] == "cache.get"
    let_go()
    assert kinds(new.take(), Kind.CALL) == []


def test_what_an_endpoint_serves_and_who_it_is(world: World, broker: NodeBroker) -> None:
    host, guest = world.peer(), world.guest("acme", "vm-7")
    host.serve("cache.set")
    host.serve("cache.get")
    assert broker.offers(host.name) == ["cache.get", "cache.set"]
    assert broker.offers(guest.name) == []
    assert broker.offers("host-99") is None
    assert broker.principal(host.name) == ("host", "node", "host")
    assert broker.principal(guest.name) == ("guest", "acme", "vm-7")
    assert broker.principal("host-99") is None


def test_who_is_cut_off_is_told_why_and_the_census_keeps_it(world: World, pump: Pump, broker: NodeBroker) -> None:
    liar, other = world.peer(component="cache", owner="platform"), world.peer()
    liar.serve("cache.get")
    reason = "memory of 300 MiB is over its budget of 256 MiB"
    broker.cut_off(liar.name, reason)
    assert pump.woken == 1
    (bye,) = kinds(liar.take(), Kind.BYE)
    assert error_of(bye)["name"] == "component-stopped"
    assert error_of(bye)["text"] == f"component 'cache' was cut off: {reason}"
    assert broker.offers(liar.name) in ([], None)
    caller = other.call("cache.get")
    assert [message[1:3] for message in kinds(other.take(), Kind.REPLY)] == [[caller, Status.NO_RESPONDERS]]
    liar.leave()
    (row,) = other.ask("$bus.list", {"departed": True})["departed"]
    assert (row["reason"], row["error"]["fields"]["reason"]) == ("cut-off", reason)


def test_one_that_is_gone_already_cannot_be_cut_off_and_that_is_no_error(
    world: World, pump: Pump, broker: NodeBroker
) -> None:
    broker.cut_off("host-99", "late")
    assert pump.woken == 0


def test_what_is_shown_is_what_the_bus_answers(world: World, broker: NodeBroker) -> None:
    peer = world.peer()
    assert peer.ask("$bus.components") == {"components": []}
    broker.show({"cache": {"component": "cache", "state": "ready", "serves": ["cache.get"]}})
    assert peer.ask("$bus.components")["components"][0]["state"] == "ready"
    broker.show({})
    assert peer.ask("$bus.components") == {"components": []}
