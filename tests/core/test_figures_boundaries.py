"""What there is by boundary, and what a tenant that is counted by itself did: right at every moment, without a walk."""

from busd.core.account import RATES, Rates
from busd.core.bus import Bus
from busd.core.principal import BOUNDARIES
from busd.core.quotas import SHARED, Quotas
from busproto import envelope
from tests.core.peer import OPEN, World, made

DENYING = """
allow subscribe,call $bus.> from host,guest
allow publish,subscribe a.> from guest
allow serve,call > from host
"""


def world_with(*tenants: str, policy: str = OPEN, rates: Rates = Rates(), **quotas: int) -> World:  # noqa: B008
    world = World(policy, rates)
    world.bus = Bus(
        node="test",
        software="busd/test",
        policy=made(policy),
        now=0.0,
        quotas=Quotas(**quotas),
        guest_rates=rates,
        tenants=tenants,
    )
    return world


def test_subscriptions_and_services_are_counted_where_they_stand() -> None:
    world = World()
    host, guest = world.peer(), world.guest("acme")
    id = guest.subscribe("a")
    guest.subscribe("b")
    host.serve("work")
    guest.serve("own")
    there = world.statistics().boundaries
    assert {name: (each.subscriptions, each.services) for name, each in there.items()} == {
        "guest": (2, 1),
        "host": (0, 1),
        "soc": (0, 0),
    }
    guest.send(envelope.unsubscribe(guest.id() + 100, id))
    host.send(envelope.drain(0))
    there = world.statistics().boundaries
    assert (there["guest"].subscriptions, there["host"].services) == (1, 0)
    host.leave()
    guest.leave()
    assert {(each.subscriptions, each.services) for each in world.statistics().boundaries.values()} == {(0, 0)}


def test_what_is_queued_is_counted_where_it_waits_until_it_is_taken_or_lost() -> None:
    world = World()
    sender, reader = world.peer(), world.guest("acme")
    other = world.guest("acme")
    for guest in (reader, other):
        guest.subscribe("a")
    assert world.statistics().boundaries["guest"].queued_messages == 0
    other.publish("a", times=5)
    waiting = world.statistics()
    assert (waiting.boundaries["guest"].queued_messages, waiting.boundaries["host"].queued_messages) == (10, 0)
    assert waiting.queued_messages == 10
    assert waiting.boundaries["guest"].queued_bytes == waiting.queued_bytes > 0
    world.bus.ready()  # whoever drives the bus has been told, and could not write yet
    assert world.statistics().queued_messages == 10
    reader.take()
    assert world.statistics().queued_messages == 5
    other.publish("a", times=2)  # it is behind already: nobody is woken for these
    assert world.statistics().queued_messages == 9
    other.leave()
    reader.take()
    assert world.statistics().queued_messages == 0
    sender.leave()


def test_handshakes_and_half_frames_are_counted_until_they_end() -> None:
    world = World()
    silent, half = world.peer(hello=False), world.peer()
    world.bus.hold(half.session, 700, world.now)
    host = world.statistics().boundaries["host"]
    assert (host.handshaking, host.held_bytes) == (1, 700)
    world.bus.hold(half.session, 900, world.now)
    assert world.statistics().boundaries["host"].held_bytes == 900
    world.advance(60)  # both are too late
    host = world.statistics().boundaries["host"]
    assert host.handshaking == 0
    for peer in (silent, half):
        peer.leave()
    assert world.statistics().boundaries["host"].held_bytes == 0


def test_endpoints_and_units_are_counted_by_boundary() -> None:
    world = World()
    peers = [world.peer(), world.guest("acme"), world.guest("acme", "vm-2"), world.peer(hello=False)]
    figures = world.statistics()
    assert figures.endpoints == {"guest": 2, "host": 1, "soc": 0}
    assert figures.units == {"guest": 2, "host": 0, "soc": 0}
    for peer in peers:
        peer.leave()
    world.bus.remove_unit("vm-2", world.now)
    figures = world.statistics()
    assert figures.endpoints == dict.fromkeys(BOUNDARIES, 0)
    assert figures.units["guest"] == 1


def test_remembered_subjects_are_let_go_with_who_asked_and_misses_never_fall() -> None:
    world = World()
    host, guest = world.peer(), world.guest("acme")
    guest.publish("a")
    guest.publish("b")
    host.call("nobody")
    before = world.statistics()
    assert before.route_cache_entries == 3
    guest.leave()
    after = world.statistics()
    assert after.route_cache_entries == 1
    assert after.route_cache_misses >= before.route_cache_misses >= 3


def test_denials_are_counted_by_boundary_as_well() -> None:
    world = World(DENYING)
    host, guest = world.peer(), world.guest("acme")
    guest.publish("secret")
    guest.call("work")
    host.publish("x")
    denied = {key: count for key, count in world.statistics().denials_by_boundary.items() if count}
    assert denied == {("guest", "publish"): 1, ("guest", "call"): 1, ("host", "publish"): 1}
    assert len(world.statistics().denials_by_boundary) == 15


def test_debts_are_counted_while_they_last_whoever_leaves() -> None:
    world = World(OPEN, Rates(messages=10, calls=10))
    guests = [world.guest(f"t{number}") for number in range(3)]
    for guest in guests[:2]:
        guest.publish("a", times=30)
    assert world.bus.throttled(world.now) == {**dict.fromkeys(RATES, 0), "messages": 2}
    guests[0].leave()
    assert world.bus.throttled(world.now)["messages"] == 2
    world.advance(1.0)
    assert world.bus.throttled(world.now)["messages"] == 2
    world.advance(1.5)
    assert world.bus.throttled(world.now) == dict.fromkeys(RATES, 0)


def test_a_tenant_that_is_listed_is_there_from_the_start_and_no_other_is() -> None:
    world = world_with("acme")
    world.guest("other").publish("a")
    [tenant] = world.statistics().tenants
    assert tenant == "acme"
    acme = world.statistics().tenants["acme"]
    assert acme.used == dict.fromkeys(SHARED, 0)
    assert set(acme.limits) == set(SHARED)
    assert min(acme.limits.values()) > 0
    assert (acme.received_messages, acme.delivered_bytes, acme.dropped_messages, acme.denials) == (0, 0, 0, 0)


def test_a_tenant_s_figures_are_of_all_its_endpoints_and_outlive_them() -> None:
    world = world_with("acme", policy=DENYING, outbox_messages=16)
    one, two = world.guest("acme", "vm-1"), world.guest("acme", "vm-2")
    two.subscribe("a.>")
    before = world.statistics().tenants["acme"]
    assert before.used["endpoints"] == 2
    assert before.used["subscriptions"] == 1
    one.publish("a.b", times=10)
    one.publish("a.b", times=10)  # there is no room for these
    one.publish("secret")
    one.take()
    assert len([message for message in two.take() if message[0] == envelope.Kind.PUBLISH]) == 10
    after = world.statistics().tenants["acme"]
    assert after.received_messages - before.received_messages == 21
    assert after.received_bytes > before.received_bytes
    assert after.delivered_messages - before.delivered_messages == 10
    assert after.delivered_bytes > before.delivered_bytes
    assert (after.dropped_messages, after.denials) == (10, 1)
    one.leave()
    two.leave()
    gone = world.statistics().tenants["acme"]
    assert (gone.received_messages, gone.dropped_messages) == (after.received_messages, 10)
    assert set(gone.used.values()) == {0}


def test_a_late_reply_of_a_tenant_is_its_loss() -> None:
    world = world_with("acme")
    guest = world.guest("acme")
    guest.send(envelope.reply(77, 0, None, b"\xc0"))
    assert world.statistics().tenants["acme"].dropped_messages == 1


def test_frames_that_were_timed_are_in_a_histogram_that_begins_at_20_us() -> None:
    world = World()
    for seconds in (5e-6, 30e-6, 2.0):
        world.bus.routed(seconds)
    timed = world.statistics().route_seconds
    assert (timed.bounds[0], timed.counts[:2], timed.count) == (20e-6, (1, 2), 3)
