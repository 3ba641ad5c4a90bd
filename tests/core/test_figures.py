"""What the bus counts of identity, policy and shared resources: figures that metrics and ``$bus.stats`` show."""

import pytest

from busd.core.account import RATES, Rates
from busd.core.principal import Principal
from busd.core.quotas import SHARED
from busd.core.rules import VERBS
from busd.core.units import Unit
from busproto import envelope
from tests.core.peer import OPEN, World, made

LISTED = "allow subscribe,call $bus.> from host,guest\nallow call work from host,guest\nallow serve work from host\n"


def test_denials_are_counted_by_verb_once_each() -> None:
    world = World(LISTED)
    host = world.peer()
    host.serve("work")
    guest = world.guest("acme")
    assert world.statistics().denials == dict.fromkeys(VERBS, 0)
    guest.call("secret")
    guest.call("secret")
    guest.publish("a")
    guest.send(envelope.subscribe(50, "b.>", {}) + envelope.serve(51, "c", {}))
    host.publish("tenant.acme.a")  # nobody may, whatever policy says
    assert world.statistics().denials == {"publish": 2, "subscribe": 1, "call": 2, "serve": 1, "delegate": 0}
    guest.take()


def test_a_call_on_behalf_of_nothing_is_a_denial_that_is_counted_and_paid_for() -> None:
    world = World(OPEN, rates=Rates(denials=2))
    guest = world.guest("acme")
    for _ in range(4):
        guest.send(envelope.call(guest.id(), "a", 1000, None, b"\xc0", 77))
    assert world.statistics().denials["call"] == 4
    assert world.bus.throttled(world.now) == {**dict.fromkeys(RATES, 0), "denials": 1}
    assert guest.session.account.debts(world.now) == ["denials"]
    world.advance(10.0)
    assert world.bus.throttled(world.now) == dict.fromkeys(RATES, 0)


def test_delegation_that_is_denied_is_counted_as_that() -> None:
    world = World(
        "allow call,serve > from host\nallow call front from guest\nallow call $bus.> from host,guest\n"
        "export service front from node to *\n"
    )
    worker = world.peer()
    worker.serve("front")
    guest = world.guest("acme")
    guest.call("front")
    [call] = [each for each in worker.take() if each[0] == envelope.Kind.CALL]
    worker.send(envelope.call(50, "back", 1000, None, b"\xc0", call[1]))
    assert world.statistics().denials == {**dict.fromkeys(VERBS, 0), "delegate": 1}


def test_units_accounts_and_withdrawn_rights() -> None:
    world = World(OPEN)
    assert (world.statistics().units, world.statistics().accounts) == ({"guest": 0, "host": 0, "soc": 0}, 0)
    host, guest = world.peer(), world.guest("acme")
    world.guest("acme", unit="vm-2")
    world.bus.add_unit(Unit("card", "node", 1, "soc"))
    card = world.peer(principal=Principal("soc", "node", "card", 1))
    figures = world.statistics()
    assert (figures.units, figures.accounts) == ({"guest": 2, "host": 0, "soc": 1}, 2)
    guest.subscribe("a.>")
    card.serve("b")
    host.subscribe("a.>")
    world.bus.apply_policy(made("allow subscribe,call,publish > from host\n"), world.now)
    assert world.statistics().withdrawn_rights == 2
    world.bus.remove_unit("vm-2", world.now)
    host.leave()
    card.leave()
    guest.leave()
    figures = world.statistics()
    assert (figures.units, figures.accounts) == ({"guest": 1, "host": 0, "soc": 1}, 1)


def test_shared_resources_by_who_uses_them() -> None:
    world = World(OPEN + "export service work from node to *\n", node_calls=100)
    figures = world.statistics()
    assert set(figures.limits) == set(SHARED)
    assert figures.limits["calls"] == 100
    assert figures.used == {(resource, holder): 0 for resource in SHARED for holder in ("node", "others")}
    host, server, guest = world.peer(), world.peer(), world.guest("acme")
    server.serve("work")
    guest.subscribe("a")
    for _ in range(3):
        host.call("work", seconds=60)
    guest.call("work", seconds=60)
    figures = world.statistics()
    assert {key: used for key, used in figures.used.items() if used} == {
        ("endpoints", "node"): 2,
        ("endpoints", "others"): 1,
        ("services", "node"): 1,
        ("subscriptions", "others"): 1,
        ("calls", "node"): 3,
        ("calls", "others"): 1,
    }
    rows = {row["account"]: row for row in host.ask("$bus.list", {"accounts": True})["accounts"]}
    assert {name: row["charges"]["calls"]["used"] for name, row in rows.items()} == {"node": 3, "tenant acme": 1}
    assert rows["node"]["charges"]["calls"]["limit"] == 99  # all but what the tenant has
    [own] = guest.ask("$bus.list", {"accounts": True})["accounts"]
    assert own == {**rows["tenant acme"], "seconds": pytest.approx(own["seconds"])}


def test_a_tenant_is_not_told_the_figures_of_all() -> None:
    error = World(OPEN).guest("acme").ask("$bus.stats")
    assert (error["name"], error["fields"]["subject"]) == ("denied", "$bus.stats")
