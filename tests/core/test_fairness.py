"""What one tenant can take from others: a share, whatever it does; and the node's own part is never touched."""

from collections import Counter

import pytest

from busd.core.account import Account, Rates
from busd.core.principal import Principal
from busd.core.units import Unit
from busproto import envelope
from busproto.envelope import Kind, Status
from busproto.errors import BusError
from tests.core.peer import OPEN, Peer, World, error_of

EXPORTS = (
    OPEN
    + """
export service cache.> from node to *
export stream metrics.> from * to node
"""
)


def test_guests_can_take_half_of_the_connections_and_a_newcomer_a_share_of_the_rest() -> None:
    """Who floods is turned away first; the host has all that is left (dbus-broker's issue 435)."""
    world = World(endpoints=12)
    world.bus.add_unit(Unit("vm-1", "acme", 1))
    world.bus.add_unit(Unit("vm-2", "globex", 1))
    acme, globex = (Principal("guest", tenant, unit, 1) for tenant, unit in (("acme", "vm-1"), ("globex", "vm-2")))
    for _ in range(6):
        Peer(world, acme)
    with pytest.raises(BusError, match="tenant acme") as refusal:
        Peer(world, acme)
    assert refusal.value.fields["limit"] == 6
    for _ in range(2):
        Peer(world, globex)
    with pytest.raises(BusError, match="too-many-connections"):
        Peer(world, globex)
    for _ in range(4):
        world.peer()
    with pytest.raises(BusError, match="too-many-connections"):
        world.peer()
    assert world.statistics().quota_rejections == {"node_endpoints": 3}


def test_a_tenants_callers_together_have_a_share_of_what_a_service_holds() -> None:
    world = World(EXPORTS, held_calls=1024)
    worker = world.peer()
    worker.serve("cache.>")
    greedy = [world.guest("acme", f"vm-{n}") for n in range(3)]
    for _ in range(400):
        for peer in greedy:
            peer.call("cache.get")
    held = len(worker.session.held)
    assert 500 <= held <= 512
    refusals = [error_of(message) for peer in greedy for message in peer.take()]
    assert len(refusals) == 1200 - held
    assert all("held_calls" in refusal["text"] for refusal in refusals)
    other, host = world.guest("globex"), world.peer()
    for peer in (other, host):
        peer.call("cache.get")
        assert peer.take() == []


def test_one_caller_of_the_node_cannot_take_all_that_a_service_holds() -> None:
    world = World(held_calls=100, calls=1000)
    worker, greedy, other = world.peer(), world.peer(), world.peer()
    worker.serve("s")
    for _ in range(200):
        greedy.call("s")
    assert len(worker.session.held) == 50
    for _ in range(10):
        other.call("s")
    assert other.take() == []


def test_a_service_that_withholds_replies_is_no_reason_to_refuse_others() -> None:
    world = World(EXPORTS, held_calls=64)
    worker, victim = world.peer(), world.peer()
    worker.serve("cache.>")
    silent, asker = world.guest("acme", "vm-1"), world.guest("acme", "vm-2")
    silent.serve("never")
    for _ in range(100):
        asker.call("never", seconds=3600)
    victim.call("cache.get")
    assert len(worker.take()) == 1


def test_a_tenants_flood_takes_a_share_of_a_readers_queue_and_others_still_come_through() -> None:
    world = World(EXPORTS, outbox_bytes=1_000_000)
    host = world.peer()
    subscription = host.subscribe("tenant.>")
    loud, quiet = world.guest("acme"), world.guest("globex")
    for _ in range(2000):
        loud.publish("metrics.x", bytes(1000))
    quiet.publish("metrics.y", b"heard")
    assert 480_000 < host.session.outbox.bytes < 640_000
    messages = host.take()
    subjects = [message[1] for message in messages if message[0] == Kind.PUBLISH]
    assert subjects[-1] == "tenant.globex.metrics.y"
    (gap,) = (message for message in messages if message[0] == Kind.GAP)
    assert gap[1] == subscription
    assert gap[2] == 2000 - subjects.count("tenant.acme.metrics.x")
    assert gap[3] == "tenant-bytes"
    loud.publish("metrics.x", b"again")
    assert [message[3] for message in host.take()] == [b"again"]


def test_large_calls_of_a_tenant_take_a_share_of_a_responders_queue() -> None:
    world = World(EXPORTS, outbox_bytes=1_000_000)
    worker = world.peer()
    worker.serve("cache.>")
    loud, quiet = world.guest("acme"), world.guest("globex")
    for _ in range(20):
        loud.call("cache.set", bytes(100_000))
    outcomes = [message[2] for message in loud.take()]
    assert set(outcomes) == {Status.OVERLOADED}
    assert len(outcomes) == 20 - len(worker.session.held)
    assert 400_000 < worker.session.outbox.bytes < 600_000
    quiet.call("cache.set", bytes(100_000))
    assert quiet.take() == []
    worker.take()
    loud.call("cache.set", bytes(100_000))
    assert loud.take() == []


def test_what_waits_for_a_tenant_is_bounded_for_all_its_endpoints_together() -> None:
    world = World(queued_bytes=10_000_000, outbox_bytes=2_000_000)
    writer = world.guest("acme", "vm-0")
    readers = [world.guest("acme", f"vm-{n}") for n in range(1, 21)]
    for reader in readers:
        reader.subscribe("a")
    for _ in range(400):
        writer.publish("a", bytes(10_000))
    queued = sum(reader.session.outbox.bytes for reader in readers)
    assert queued <= 5_000_000 + 20 * 65536
    reasons = {message[3] for reader in readers for message in reader.take() if message[0] == Kind.GAP}
    assert "tenant-bytes" in reasons
    assert world.bus.ledgers["queued_bytes"].used == 0
    # The node's own readers had their quota all the while.
    host, reader = world.peer(), world.peer()
    reader.subscribe("a")
    for _ in range(150):
        host.publish("a", bytes(10_000))
    assert sum(message[0] == Kind.PUBLISH for message in reader.take()) == 150


def test_answers_that_are_not_read_are_bounded_for_a_tenant_as_a_whole() -> None:
    world = World(queued_bytes=2_000_000, control_bytes=1_000_000)
    peers = [world.guest("acme", f"vm-{n}") for n in range(20)]
    for _ in range(40):
        for peer in peers:
            if not peer.session.closing:
                peer.send(b"".join(envelope.call(peer.id(), "nobody", 1000, None, b"") for _ in range(100)))
    assert sum(peer.session.outbox.bytes for peer in peers) < 1_000_000 + 20 * 2 * 65536
    assert any(peer.session.closing for peer in peers)


def test_subscriptions_and_offers_of_a_tenant_are_bounded_together() -> None:
    world = World(node_subscriptions=100, node_services=10)
    peers = [world.guest("acme", f"vm-{n}") for n in range(10)]
    refused = 0
    for peer in peers:
        for n in range(8):
            refused += peer.request(envelope.subscribe(id := peer.id(), f"s.{n}", {}), id)[2] == Status.ERROR
    assert refused == 30
    for n, peer in enumerate(peers):
        reply = peer.request(envelope.serve(id := peer.id(), f"s.{n}", {}), id)
    assert error_of(reply)["fields"]["quota"] == "node_services"
    assert error_of(reply)["fields"]["holder"] == "tenant acme"
    assert error_of(reply)["fields"]["used"] == 5
    world.peer().subscribe("a")
    world.peer().serve("a")


# -- rates ------------------------------------------------------------------------------------------------------------


def test_each_rate_that_is_overdrawn_is_named_and_is_paid_with_time() -> None:
    world = World(rates=Rates(messages=100, bytes=100_000, calls=10, denials=5))
    guest, host = world.guest("acme"), world.peer()
    assert guest.session.account.debts(world.now) == []
    guest.publish("a", times=150)
    assert guest.session.account.debts(world.now) == ["messages"]
    assert guest.session.account.ready_at == pytest.approx(world.now + 0.51, abs=0.02)
    assert host.ask("$bus.inspect", {"endpoint": guest.name})["throttled"] == ["messages"]
    world.advance(2.0)
    assert guest.session.account.debts(world.now) == []
    guest.publish("a", bytes(300_000))
    assert guest.session.account.debts(world.now) == ["bytes"]
    world.advance(10.0)
    for _ in range(20):
        guest.call("nobody")
    assert guest.session.account.debts(world.now) == ["calls"]


def test_a_denial_costs_who_asks_for_it() -> None:
    world = World("allow publish a from guest\n", rates=Rates(denials=5))
    guest = world.guest("acme")
    for _ in range(20):
        guest.publish("b")
    assert guest.session.account.debts(world.now) == ["denials"]
    # The account outlives its connections: to reconnect pays nothing back.
    guest.leave()
    assert world.guest("acme").session.account.debts(world.now) == ["denials"]


def test_the_node_is_not_held_to_any_rate() -> None:
    world = World(rates=Rates(messages=1, bytes=1, calls=1, denials=1, loop=0.1))
    host = world.peer()
    host.publish("a", times=1000)
    assert not host.session.account.paced
    assert host.session.account.debts(world.now) == []


# -- small steps ------------------------------------------------------------------------------------------------------


def test_a_frame_can_be_handled_in_parts_with_the_same_outcome() -> None:
    world = World()
    peer, worker, reader = world.peer(), world.peer(), world.peer()
    worker.serve("s")
    reader.subscribe("a.>")
    ids = range(70000, 70100)
    frame = b"".join(
        envelope.call(id, "s", 1000, None, b"") + envelope.publish(f"a.{id}", None, b"x") * 3 for id in ids
    )
    done = world.bus.receive(peer.session, frame, world.now, 7)
    steps = 1
    while not done:
        done = world.bus.proceed(peer.session, world.now, 7)
        steps += 1
    assert steps >= 200 // 7
    assert len(worker.take()) == 100
    assert [message[1] for message in reader.take()] == [f"a.{id}" for id in ids for _ in range(3)]
    assert peer.take() == []


def test_refusals_are_told_once_however_a_frame_is_cut() -> None:
    for weight in (1, 2, 3, 1000):
        world = World()
        peer = world.peer()
        refused = (envelope.publish("No", None, b"") * 5 + envelope.publish("No.b", None, b"")) * 2
        done = world.bus.receive(peer.session, refused, world.now, weight)
        while not done:
            done = world.bus.proceed(peer.session, world.now, weight)
        told = Counter[str]()
        for message in peer.take():
            fields = error_of(message)["fields"]
            told[fields["subject"]] += fields.get("count", 1)
        assert told == {"No": 10, "No.b": 2}


def test_thousands_of_refused_messages_in_a_frame_are_one_answer_and_as_many_denials() -> None:
    world = World("allow publish a from guest\n", rates=Rates(denials=5))
    guest = world.guest("acme")
    guest.publish("b", times=1000)
    refusals = guest.take()
    assert len(refusals) < 5
    assert sum(error_of(refusal)["fields"].get("count", 1) for refusal in refusals) == 1000
    assert guest.session.account.ready_at > world.now + 180


def test_a_session_that_ends_in_the_middle_of_a_frame_has_nothing_left_to_do() -> None:
    world = World()
    peer = world.peer()
    frame = b"".join(envelope.call(id, "s", 1000, None, b"") for id in range(1, 50)) + envelope.bye(None)
    assert not world.bus.receive(peer.session, frame, world.now, 5)
    peer.leave()
    assert world.bus.proceed(peer.session, world.now, 5)
    assert peer.session.rest is None


def test_a_tenants_frame_of_too_many_envelopes_ends_its_session() -> None:
    world = World(tenant_envelopes=10)
    guest, host = world.guest("acme"), world.peer()
    for peer in (guest, host):
        peer.send(b"".join(envelope.publish(f"a.{n}", None, b"") for n in range(11)))
    assert guest.session.closing
    assert error_of(guest.take()[-1])["code"] == 1011
    assert not host.session.closing


def test_nobody_is_let_in_who_does_not_say_whose_he_is_where_that_is_required() -> None:
    world = World()
    world.bus.require_manifest = True
    peer = Peer(world)
    peer.send(envelope.hello({"component": "x"}))
    bye = error_of(peer.take()[-1])
    assert bye["code"] == 1018
    assert bye["fields"]["missing"] == "owner, purpose"
    other = world.peer(component="x", owner="me", purpose="to be seen")
    assert other.session.unowned() == []


def test_who_is_unowned_is_shown_where_no_manifest_is_required() -> None:
    world = World()
    world.peer(component="x")
    (row,) = world.peer(component="y", owner="me", purpose="looks").ask("$bus.list", {"limit": 1})["endpoints"]
    assert row["unowned"] == ["owner", "purpose"]


def test_what_holds_the_loop_for_long_is_dearer_than_the_same_in_small_steps() -> None:
    small = Account("tenant small", rates=Rates(loop=0.2), now=0.0)
    long = Account("tenant long", rates=Rates(loop=0.2), now=0.0)
    for step in range(100):
        small.take_time(100e-6, 0.0 + step * 100e-6)
    long.take_time(10e-3, 0.0)
    assert small.ready_at < 0.1
    assert long.ready_at == pytest.approx(10 * 10e-3 / 0.2, abs=0.03)
    longest = Account("tenant longest", rates=Rates(loop=0.2), now=0.0)
    longest.take_time(10.0, 0.0)
    assert longest.ready_at <= 50 * 10.0 / 0.2
