"""Tenants: what is theirs alone, what crosses where the policy exports it, and what is done on whose behalf."""

from typing import Any

import pytest

from busd.core.principal import Principal
from busd.core.units import Unit
from busproto import envelope
from busproto.envelope import Kind, Status
from busproto.errors import BusError
from tests.core.peer import OPEN, Peer, World, error_of, made

EXPORTS = (
    OPEN
    + """
export service cache.> from node to acme,globex
export stream metrics.> from acme,globex to node
"""
)


def publishes(peer: Peer) -> list[tuple[str, bytes]]:
    """What it was sent: subject and payload."""
    return [(message[1], message[3]) for message in peer.take() if message[0] == Kind.PUBLISH]


# -- spaces -----------------------------------------------------------------------------------------------------------


def test_two_units_of_one_tenant_reach_each_other() -> None:
    world = World()
    one, two = world.guest("acme", "vm-1"), world.guest("acme", "vm-2")
    two.subscribe("a.>")
    one.publish("a.b", b"hi")
    assert publishes(two) == [("a.b", b"hi")]
    assert two.origins[-1] == [Kind.ORIGIN, one.name, "guest", "acme", "vm-1", 1]


def test_the_node_does_not_see_what_a_tenant_does_not_show() -> None:
    world = World(EXPORTS)
    guest, host = world.guest("acme"), world.peer()
    host.subscribe(">")
    guest.publish("private.a")
    assert publishes(host) == []


def test_a_guest_sees_nothing_of_others_in_the_census() -> None:
    world = World()
    host, acme, other = world.peer(), world.guest("acme"), world.guest("globex")
    assert [row["endpoint"] for row in acme.ask("$bus.list")["endpoints"]] == [acme.name]
    assert acme.ask("$bus.inspect", {"endpoint": other.name})["code"] == 2008
    assert acme.ask("$bus.inspect", {"endpoint": host.name})["code"] == 2008
    other.leave()
    assert acme.ask("$bus.list", {"departed": True})["departed"] == []
    assert [row["account"] for row in acme.ask("$bus.list", {"accounts": True})["accounts"]] == ["tenant acme"]
    assert [row["endpoint"] for row in host.ask("$bus.list")["endpoints"]] == [host.name, acme.name]


def test_figures_of_the_whole_node_are_not_for_tenants() -> None:
    world = World()
    assert world.guest("acme").ask("$bus.stats")["code"] == 3004


# -- exports ----------------------------------------------------------------------------------------------------------


def test_an_offered_service_is_called_from_a_tenants_space_under_its_own_subject() -> None:
    world = World(EXPORTS)
    worker, guest = world.peer(), world.guest("acme")
    worker.serve("cache.get")
    id = guest.call("cache.get", b"key")
    (request,) = worker.take()
    assert request[2] == "cache.get"
    assert worker.origins[-1] == [Kind.ORIGIN, guest.name, "guest", "acme", "vm-acme", 1]
    worker.send(envelope.reply(request[1], Status.OK, None, b"value"))
    (reply,) = guest.take()
    assert reply[1:3] == [id, Status.OK]
    assert guest.origins[-1] is not None
    assert guest.origins[-1][3] == "node"


def test_a_service_that_is_not_offered_does_not_exist_for_tenants() -> None:
    world = World(EXPORTS)
    world.peer().serve("storage.read")
    initech = world.guest("initech")
    world.peer().serve("cache.get")
    for guest, subject in ((world.guest("acme"), "storage.read"), (initech, "cache.get")):
        guest.call(subject)
        (reply,) = guest.take()
        assert reply[2] == Status.NO_RESPONDERS


def test_nobody_in_a_tenants_space_can_stand_in_for_an_offered_service() -> None:
    """A unit that was taken over must not answer for the node's cache to the other units of its tenant."""
    world = World(EXPORTS)
    impostor, victim = world.guest("acme", "vm-1"), world.guest("acme", "vm-2")
    impostor.serve("cache.get")
    victim.call("cache.get")
    assert impostor.take() == []
    (reply,) = victim.take()
    assert reply[2] == Status.NO_RESPONDERS
    world.peer().serve("cache.>")
    victim.call("cache.get")
    assert impostor.take() == []


def test_a_service_that_comes_and_goes_is_seen_at_once_by_tenants() -> None:
    world = World(EXPORTS)
    guest, worker = world.guest("acme"), world.peer()
    guest.call("cache.get")
    assert guest.take()[0][2] == Status.NO_RESPONDERS
    worker.serve("cache.>")
    guest.call("cache.get")
    assert len(worker.take()) == 1
    worker.leave()
    assert guest.take()[0][2] == Status.UNKNOWN
    guest.call("cache.get")
    assert guest.take()[0][2] == Status.NO_RESPONDERS


def test_a_shown_stream_appears_to_the_node_under_the_tenants_name() -> None:
    world = World(EXPORTS)
    host, acme, globex, initech = world.peer(), world.guest("acme"), world.guest("globex"), world.guest("initech")
    host.subscribe("tenant.*.metrics.>")
    local = world.guest("acme", "vm-2")
    local.subscribe(">")
    acme.send(envelope.publish("metrics.cpu", {"traceparent": "t"}, b"1") + envelope.publish("metrics.cpu", None, b"2"))
    globex.publish("metrics.cpu", b"3")
    initech.publish("metrics.cpu", b"4")
    messages = [message for message in host.take() if message[0] == Kind.PUBLISH]
    assert [message[1:] for message in messages] == [
        ["tenant.acme.metrics.cpu", {"traceparent": "t"}, b"1"],
        ["tenant.acme.metrics.cpu", None, b"2"],
        ["tenant.globex.metrics.cpu", None, b"3"],
    ]
    assert [origin[3] for origin in host.origins[-3:] if origin is not None] == ["acme", "acme", "globex"]
    assert publishes(local) == [("metrics.cpu", b"1"), ("metrics.cpu", b"2")]


def test_a_late_subscription_of_the_node_sees_a_shown_stream() -> None:
    world = World(EXPORTS)
    acme, host = world.guest("acme"), world.peer()
    acme.publish("metrics.cpu")
    for pattern in ("tenant.acme.metrics.cpu", "*.acme.>", ">"):
        subscription = host.subscribe(pattern)
        acme.publish("metrics.cpu", b"x")
        assert publishes(host) == [("tenant.acme.metrics.cpu", b"x")]
        host.request(envelope.unsubscribe(id := host.id(), subscription), id)
        acme.publish("metrics.cpu", b"y")
        assert publishes(host) == []


def test_nobody_of_the_node_can_publish_where_tenants_streams_are_seen() -> None:
    world = World(EXPORTS)
    host = world.peer()
    host.publish("tenant.acme.metrics.cpu")
    (error,) = host.take()
    assert error_of(error)["code"] == 3004


def test_latest_works_for_shown_streams() -> None:
    world = World(EXPORTS, outbox_messages=100)
    host, acme = world.peer(), world.guest("acme")
    host.subscribe("tenant.>", latest=True)
    for n in range(500):
        acme.publish("metrics.cpu", b"%d" % n + bytes(1000))
    got = publishes(host)
    assert got[-1][1].startswith(b"499")
    assert len(got) < 200


# -- on behalf of -----------------------------------------------------------------------------------------------------

DELEGATION = """
allow publish,subscribe,call,serve > from host,guest
allow delegate storage.> from guest tenant=acme
export service cache.> from node to *
"""


def held_call(world: World, guest: Peer, worker: Peer) -> int:
    """The worker's id of a call of ``guest`` that it holds."""
    guest.call("cache.get", seconds=30)
    (request,) = worker.take()
    assert isinstance(request[1], int)
    return request[1]


def behalf(peer: Peer, subject: str, held: Any) -> int:
    id = peer.id()
    peer.send(envelope.call(id, subject, 1000, None, b"", held))
    return id


def test_a_worker_acts_for_the_caller_whose_call_it_holds() -> None:
    world = World(DELEGATION)
    worker, storage, guest = world.peer(), world.peer(), world.guest("acme")
    worker.serve("cache.>")
    storage.serve("storage.read")
    held = held_call(world, guest, worker)
    behalf(worker, "storage.read", held)
    (request,) = storage.take()
    assert storage.origins[-1] == [
        Kind.ORIGIN, worker.name, "host", "node", "host", 0, [guest.name, "guest", "acme", "vm-acme", 1],
    ]  # fmt: skip
    storage.send(envelope.reply(request[1], Status.OK, None, b"data"))
    assert worker.take()[0][2] == Status.OK


def test_the_chain_goes_on_to_who_is_behind_it() -> None:
    world = World(DELEGATION + "allow delegate deep.> from guest tenant=acme\n")
    worker, storage, deep, guest = world.peer(), world.peer(), world.peer(), world.guest("acme")
    worker.serve("cache.>")
    storage.serve("storage.read")
    deep.serve("deep.read")
    behalf(worker, "storage.read", held_call(world, guest, worker))
    behalf(storage, "deep.read", storage.take()[0][1])
    assert len(deep.take()) == 1
    assert deep.origins[-1] is not None
    assert deep.origins[-1][1] == storage.name
    assert deep.origins[-1][6][0] == guest.name


def test_calls_of_ones_own_between_those_on_behalf_keep_their_own_origin() -> None:
    world = World(DELEGATION)
    worker, storage, guest = world.peer(), world.peer(), world.guest("acme")
    worker.serve("cache.>")
    storage.serve("storage.read")
    held = held_call(world, guest, worker)
    first, second, third = 70001, 70002, 70003
    worker.send(
        envelope.call(first, "storage.read", 1000, None, b""),
        envelope.call(second, "storage.read", 1000, None, b"", held),
        envelope.call(third, "storage.read", 1000, None, b""),
    )
    assert len(storage.take()) == 3
    assert [len(origin or ()) for origin in storage.origins[-3:]] == [6, 7, 6]


@pytest.mark.parametrize("held", [0, 1, 99999, "1", -1, True, b"x", [1]])
def test_nobody_acts_for_a_call_that_he_does_not_hold(held: object) -> None:
    world = World(DELEGATION)
    worker, storage = world.peer(), world.peer()
    storage.serve("storage.read")
    behalf(worker, "storage.read", held)
    (reply,) = worker.take()
    assert reply[2] == Status.DENIED
    assert storage.take() == []


def test_a_finished_call_is_nobodys_to_act_for() -> None:
    world = World(DELEGATION)
    worker, storage, guest = world.peer(), world.peer(), world.guest("acme")
    worker.serve("cache.>")
    storage.serve("storage.read")
    held = held_call(world, guest, worker)
    worker.send(envelope.reply(held, Status.OK, None, b""))
    behalf(worker, "storage.read", held)
    (reply,) = worker.take()
    assert reply[2] == Status.DENIED


def test_a_caller_that_left_has_no_rights_left_to_act_on() -> None:
    world = World(DELEGATION)
    worker, storage, guest = world.peer(), world.peer(), world.guest("acme")
    worker.serve("cache.>")
    storage.serve("storage.read")
    held = held_call(world, guest, worker)
    world.bus.remove_unit("vm-acme", world.now)
    worker.take()
    behalf(worker, "storage.read", held)
    assert worker.take()[0][2] == Status.DENIED


def test_both_the_worker_and_whom_it_acts_for_are_asked_about() -> None:
    world = World(
        DELEGATION.replace("from host,guest", "from guest") + "allow call,serve cache.>,storage.> from host\n"
    )
    worker, storage, guest, other = world.peer(), world.peer(), world.guest("acme"), world.guest("globex")
    worker.serve("cache.>")
    storage.serve("storage.read")
    # globex may not be acted for; acme may, but not on this subject; and the worker itself may not call that one.
    for caller, subject in ((other, "storage.read"), (guest, "cache.other"), (guest, "deep.read")):
        behalf(worker, subject, held_call(world, caller, worker))
        assert [message[2] for message in worker.take()] == [Status.DENIED]
    assert storage.take() == []


# -- units ------------------------------------------------------------------------------------------------------------


def test_removing_a_unit_ends_all_it_has_and_says_what_that_was() -> None:
    world = World(EXPORTS)
    worker, host = world.peer(), world.peer()
    worker.serve("cache.>")
    one, two = world.guest("acme", "vm-1"), world.guest("acme", "vm-1")
    three = world.guest("acme", "vm-2")
    one.subscribe("a")
    two.serve("s")
    one.call("cache.get")
    waiting = three.call("s")
    three.publish("a", bytes(100), times=3)
    receipt = world.bus.remove_unit("vm-1", world.now).describe()
    assert receipt | {"queued_bytes": 0} == {
        "unit": "vm-1", "tenant": "acme", "generation": 1, "endpoints": 2, "connections": 0, "subscriptions": 1,
        "services": 1, "calls_abandoned": 1, "calls_unknown": 1, "queued_messages": 4, "queued_bytes": 0,
        "held_bytes": 0,
    }  # fmt: skip
    assert receipt["queued_bytes"] > 300
    (reply,) = three.take()
    assert reply[1:3] == [waiting, Status.UNKNOWN]
    for peer in (one, two):
        (bye,) = peer.take()
        assert error_of(bye)["code"] == 3009
        peer.leave()
    assert [row["endpoint"] for row in host.ask("$bus.list")["endpoints"]] == [worker.name, host.name, three.name]
    three.leave()
    worker.leave()
    host.leave()
    for ledger in world.bus.ledgers.values():
        assert (ledger.used, ledger.actors) == (0, 0)


def test_an_earlier_life_of_a_unit_is_refused() -> None:
    world = World()
    bus = world.bus
    bus.add_unit(Unit("vm-1", "acme", 7))
    old = Principal("guest", "acme", "vm-1", 7)
    Peer(world, old)
    with pytest.raises(BusError, match="stands in generation 7"):
        bus.add_unit(Unit("vm-1", "acme", 8))
    bus.remove_unit("vm-1", world.now)
    with pytest.raises(BusError, match="not later than 7"):
        bus.add_unit(Unit("vm-1", "acme", 7))
    bus.add_unit(Unit("vm-1", "globex", 8))
    for stale in (old, Principal("guest", "acme", "vm-1", 8), Principal("guest", "globex", "vm-1", 7)):
        with pytest.raises(BusError, match="unit-unknown"):
            bus.attach(stale, world.now)
    Peer(world, Principal("guest", "globex", "vm-1", 8))


# -- rights that are withdrawn ----------------------------------------------------------------------------------------


def test_a_withdrawn_right_ends_what_rested_on_it_and_what_was_queued() -> None:
    world = World()
    reader, writer, worker = world.peer(), world.peer(), world.peer()
    secret, plain = reader.subscribe("secret.>"), reader.subscribe("plain.>")
    service = worker.serve("s")
    writer.publish("secret.a", b"no")
    writer.publish("plain.a", b"yes")
    writer.send(envelope.publish("plain.b", None, b"yes") + envelope.publish("secret.b", None, b"no"))
    policy = made("allow publish,call > from host\nallow subscribe plain.> from host\n")
    assert world.bus.apply_policy(policy, world.now) == 2
    got = reader.take()
    assert [message[1] for message in got if message[0] == Kind.PUBLISH] == ["plain.a", "plain.b"]
    (error,) = (message for message in got if message[0] == Kind.ERROR)
    assert error[1] == secret
    assert error_of(error)["code"] == 3010
    assert [message[:2] for message in worker.take()] == [[Kind.ERROR, service]]
    writer.publish("secret.a", b"no")
    writer.publish("plain.a", b"still")
    assert publishes(reader) == [("plain.a", b"still")]
    assert list(reader.session.subscriptions) == [plain]
    writer.call("s")
    assert writer.take()[0][2] == Status.NO_RESPONDERS
    assert world.statistics().dropped_messages == {("host", "withdrawn"): 2}


def test_an_export_that_is_withdrawn_ends_at_once_and_what_was_queued_with_it() -> None:
    world = World(EXPORTS)
    host, acme = world.peer(), world.guest("acme")
    host.subscribe(">")
    acme.publish("metrics.cpu", b"old")
    world.bus.apply_policy(made(OPEN), world.now)
    acme.publish("metrics.cpu", b"new")
    assert publishes(host) == []
    world.bus.apply_policy(made(EXPORTS), world.now)
    acme.publish("metrics.cpu", b"again")
    assert publishes(host) == [("tenant.acme.metrics.cpu", b"again")]


def test_a_right_to_publish_or_call_that_is_withdrawn_is_gone_for_warm_subjects_too() -> None:
    world = World()
    peer, worker = world.peer(), world.peer()
    worker.serve("s")
    peer.publish("a")
    peer.call("s")
    assert len(worker.take()) == 1
    world.bus.apply_policy(made("allow serve > from host\n"), world.now)
    peer.publish("a")
    peer.call("s")
    refused, reply = peer.take()
    assert error_of(refused)["code"] == 3004
    assert reply[2] == Status.DENIED
    assert worker.take() == []


# -- what policy does not allow ---------------------------------------------------------------------------------------


def test_without_a_rule_nothing_is_allowed_and_the_refusal_says_why() -> None:
    world = World("allow call $bus.ping from host\n")
    peer = world.peer()
    peer.publish("a")
    (error,) = peer.take()
    assert error_of(error)["code"] == 3004
    assert "publish 'a' is denied" in error_of(error)["text"]
    for request in (envelope.subscribe(1, "a", {}), envelope.serve(2, "a", {})):
        assert error_of(peer.request(request, request[2]))["code"] == 3004
    assert peer.request(envelope.call(3, "a", 1000, None, b""), 3)[2] == Status.DENIED
    assert peer.request(envelope.call(4, "$bus.list", 1000, None, b""), 4)[2] == Status.DENIED
    assert peer.ask("$bus.ping")["endpoint"] == peer.name
    assert world.statistics().calls["denied"] == 2


def test_what_is_allowed_across_a_boundary_is_written_down_once_and_every_denial() -> None:
    world = World(EXPORTS.replace("subscribe,", "", 1))
    worker, guest = world.peer(), world.guest("acme")
    worker.serve("cache.>")
    for _ in range(3):
        guest.call("cache.get")
    guest.send(envelope.subscribe(guest.id(), "secret", {}))
    records = [record for record in world.bus.audit.take() if record["event"] in ("allowed", "denied")]
    assert [(record["event"], record["verb"], record["subject"]) for record in records] == [
        ("allowed", "call", "cache.get"),
        ("denied", "subscribe", "secret"),
    ]
    assert records[0]["endpoint"] == guest.name
