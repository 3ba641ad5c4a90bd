"""``$bus.explain``: the way of a message or call, as the path of a message would decide it, without going it."""

from dataclasses import asdict, replace
from typing import Any

import pytest

from busd.core.account import Rates
from busd.core.reasons import Drop
from tests.core.peer import HOST, Peer, World

POLICY = """
deny publish secret.> from guest
allow publish,subscribe,call,serve > from host,guest
allow call $bus.explain,$bus.stats from host,guest
allow call $bus.> from host uid=1000
export service cache.> from node to acme
export stream metrics.> from acme to node
"""

OTHER_USER = replace(HOST, uid=2000, gid=2000)


def traced(peer: Peer, subject: str, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = peer.ask("$bus.explain", {"subject": subject, **fields})
    return found


def test_a_message_s_way_names_sender_rule_receivers_and_what_becomes_of_it() -> None:
    world = World(POLICY)
    sender, receiver = world.peer(component="sender"), world.peer(component="reads")
    receiver.subscribe("a.*")
    found = traced(sender, "a.b")
    assert (found["allowed"], found["rule"]) == (True, "10-test.policy:3")
    assert found["rule_text"] == "allow publish,subscribe,call,serve > from host,guest"
    stamped = {key: found["sender"][key] for key in ("endpoint", "boundary", "tenant", "unit", "generation")}
    assert list(stamped.values()) == [sender.name, "host", "node", "host", 0]
    (row,) = found["receivers"]
    assert (row["endpoint"], row["component"], row["pattern"], row["would_lose"]) == (
        receiver.name,
        "reads",
        "a.*",
        None,
    )
    assert (found["outcome"], found["reason"]) == ("delivered", "1 matching subscription of 1 endpoint")
    assert traced(sender, "x.y")["outcome"] == "nobody"


def test_a_denial_names_its_rule_and_nobody_else() -> None:
    world = World(POLICY)
    acme, host = world.guest("acme"), world.peer()
    acme.subscribe("secret.>")
    found = traced(acme, "secret.key")
    assert (found["outcome"], found["rule"], found["receivers"]) == ("denied", "10-test.policy:2", [])
    assert found["reason"] == "denied: denied by 10-test.policy:2"
    assert found["rule_text"] is None  # a rule may name other tenants
    assert traced(host, "secret.key", endpoint=acme.name)["rule_text"] == "deny publish secret.> from guest"


def test_what_no_rule_can_allow_is_denied_as_the_bus_denies_it() -> None:
    world = World()
    host = world.peer()
    for subject, why in (("tenant.acme.x", "under tenant. the node sees"), ("$bus.x", "only the broker publishes")):
        found = traced(host, subject)
        assert (found["outcome"], found["rule"]) == ("denied", "by design")
        assert why in found["reason"]


def test_others_are_traced_by_who_administers_the_node_only() -> None:
    world = World(POLICY)
    host, other, acme = world.peer(), world.peer(principal=OTHER_USER), world.guest("acme")
    assert traced(host, "a.b", endpoint=acme.name)["sender"]["tenant"] == "acme"
    assert traced(other, "a.b", endpoint=other.name)["outcome"] == "nobody"
    for asker in (other, acme):
        assert traced(asker, "a.b", endpoint=host.name)["code"] == 3004
    assert "no endpoint is called" in traced(host, "a.b", endpoint="host-99")["text"]


def test_who_the_node_s_receivers_are_is_shown_to_the_node_only() -> None:
    world = World(POLICY)
    acme, host = world.guest("acme"), world.peer()
    host.subscribe("tenant.acme.>")
    own = traced(acme, "metrics.cpu")
    assert (own["receivers"], own["outcome"]) == ([], "nobody")
    assert own["exports"] == ["10-test.policy:7 shows it to the node, as tenant.acme.metrics.cpu"]
    (row,) = traced(host, "metrics.cpu", endpoint=acme.name)["receivers"]
    assert (row["endpoint"], row["as"]) == (host.name, "tenant.acme.metrics.cpu")


def test_a_call_names_the_member_that_would_answer() -> None:
    world = World(POLICY)
    caller, one, two = world.guest("acme"), world.peer(component="cache"), world.peer()
    for peer in (one, two):
        peer.serve("cache.*")
    found = traced(caller, "cache.get", verb="call")
    assert found["outcome"] == "delivered"
    assert found["chosen"] in (one.name, two.name)
    assert "10-test.policy:6 offers it" in found["exports"][0]
    members = found["groups"][0]["members"]
    assert [member["chosen"] for member in members].count(True) == 1
    assert {member["held_calls"] for member in members} == {None}  # how busy the node's workers are is the node's
    seen = traced(one, "cache.get", verb="call", endpoint=caller.name)["groups"][0]["members"]
    assert seen[0]["held_calls"] == {"used": 0, "limit": 8192}
    assert traced(caller, "cache.get", verb="call")["chosen"] == found["chosen"]  # nobody's turn was used up


def test_a_call_that_waits_or_finds_no_room_is_said_to() -> None:
    world = World(calls=1)
    caller, responder = world.peer(), world.peer()
    responder.serve("a.b")
    unpin = world.bus.pin(["a.b"])
    assert traced(caller, "a.b", verb="call")["outcome"] == "waits"
    unpin(world.now)
    caller.call("a.b")
    found = traced(caller, "a.b", verb="call")
    assert found["outcome"] == "overloaded"
    assert "has as many calls in flight as it may (1)" in found["reason"]
    assert traced(caller, "a.c", verb="call")["outcome"] == "nobody"


@pytest.mark.parametrize(
    ("quotas", "size", "reason"),
    [
        ({"outbox_messages": 2}, 10, Drop.OUTBOX_MESSAGES),
        ({"outbox_bytes": 1000}, 800, Drop.OUTBOX_BYTES),
        ({"queued_bytes": 1}, 1 << 20, Drop.TENANT_BYTES),
    ],
)
def test_what_would_be_lost_is_what_is_lost(quotas: dict[str, Any], size: int, reason: Drop) -> None:
    world = World(**quotas)
    sender, slow = world.peer(), world.peer()
    slow.subscribe("a.>")
    for _ in range(2):
        sender.publish("a.b", b"")
    found = traced(sender, "a.b", size=size)
    assert [row["would_lose"] for row in found["receivers"]] == [str(reason)]
    assert found["outcome"] == "lost"
    assert f"1 of them would lose it ({reason})" in found["reason"]
    before = dict(world.statistics().dropped_messages)
    sender.publish("a.b", bytes(size))
    assert world.statistics().dropped_messages[("host", str(reason))] == before.get(("host", str(reason)), 0) + 1


def test_what_the_sender_has_left_is_shown() -> None:
    world = World(rates=Rates(messages=10, calls=5))
    acme = world.guest("acme")
    for _ in range(30):
        acme.publish("a.b")
    sender = traced(acme, "a.b")["sender"]
    assert sender["account"] == "tenant acme"
    assert sender["rates"]["messages"]["per_second"] == 10
    assert sender["rates"]["messages"]["left"] < 0
    assert sender["throttled"] == ["messages"]
    assert sender["charges"]["calls"] == {"used": 0, "limit": 4096}


def test_to_look_changes_nothing_for_who_is_looked_at() -> None:
    world = World(POLICY)
    asker, acme = world.peer(), world.guest("acme")
    receivers = [world.guest("acme", "vm-2"), world.guest("acme", "vm-3")]
    for receiver in receivers:
        receiver.subscribe("a.>")
        receiver.serve("work.*")
    everyone = [acme, *receivers]
    seen = [repr(peer.session.inspect(0.0)) for peer in everyone]
    figures = asdict(world.statistics())
    world.bus.audit.take()
    for subject, verb in (("a.b", "publish"), ("work.x", "call"), ("secret.x", "publish"), ("no.one", "call")):
        for _ in range(10):
            traced(asker, subject, verb=verb, endpoint=acme.name)
    assert [repr(peer.session.inspect(0.0)) for peer in everyone] == seen
    assert all(peer.take() == [] for peer in everyone)
    after = asdict(world.statistics())
    for field in ("dropped_messages", "denials", "quota_rejections", "refusals", "route_cache_misses"):
        assert after[field] == figures[field], field
    assert after["received_messages"]["guest"] == figures["received_messages"]["guest"]
    assert world.bus.audit.take() == []


def test_bad_questions_name_the_field() -> None:
    peer = World().peer()
    for fields, word in (
        ({"size": -1}, "size"),
        ({"size": 1 << 40}, "size"),
        ({"endpoint": 7}, "endpoint"),
        ({"verb": "subscribe"}, "verb"),
    ):
        assert word in traced(peer, "a.b", **fields)["text"]


def test_top_counts_what_each_endpoint_does_and_shows_tenants_their_own() -> None:
    world = World(POLICY.replace("$bus.explain,", "$bus.explain,$bus.top,"))
    host, acme, other = world.peer(component="node-agent", owner="ops"), world.guest("acme"), world.guest("globex")
    other.serve("work.x")
    other.call("work.x")
    acme.publish("secret.key")
    acme.take()
    rows = {row["endpoint"]: row for row in host.ask("$bus.top")["endpoints"]}
    assert (rows[host.name]["component"], rows[host.name]["owner"]) == ("node-agent", "ops")
    assert rows[acme.name]["denied"] == 1
    assert (rows[other.name]["called"], rows[other.name]["calls"], rows[other.name]["held_calls"]) == (1, 1, 1)
    assert rows[other.name]["fullest"][0] in ("calls", "held_calls", "services")
    assert rows[acme.name]["sent_messages"] == acme.session.received_messages
    assert [row["endpoint"] for row in acme.ask("$bus.top")["endpoints"]] == [acme.name]
    first = host.ask("$bus.top", {"limit": 2})
    rest = host.ask("$bus.top", {"after": first["next"]})
    assert [row["endpoint"] for row in (*first["endpoints"], *rest["endpoints"])] == list(rows)
    assert rest["next"] is None
