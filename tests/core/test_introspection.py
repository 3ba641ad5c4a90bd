"""What the broker says of itself under $bus."""

from busd.core.traffic import FLOWS
from busproto import envelope
from busproto.envelope import Status
from tests.core.peer import World, error_of


def test_ping_answers_who_asked() -> None:
    peer = World().peer()
    assert peer.ask("$bus.ping", {"anything": 1}) == {"endpoint": peer.name, "node": "test"}


def test_list_keeps_claims_apart_from_proof() -> None:
    world = World()
    peer = world.peer(component="c", owner="o", purpose="p")
    world.advance(5.0)
    (row,) = peer.ask("$bus.list")["endpoints"]
    assert row["claims"] == {"component": "c", "owner": "o", "purpose": "p"}
    assert row["principal"]["uid"] == 1000
    assert row["seconds"] == 5.0


def test_list_comes_in_pages_that_miss_nobody() -> None:
    world = World()
    peers = [world.peer() for _ in range(25)]
    names: list[str] = []
    after = None
    while True:
        page = peers[0].ask("$bus.list", {"after": after, "limit": 10})
        names += [row["endpoint"] for row in page["endpoints"]]
        if (after := page["next"]) is None:
            break
        if after == "host-10":
            peers[9].leave()
    assert names == [f"host-{number}" for number in range(1, 26)]


def test_departed_are_told_with_reason_and_age() -> None:
    world = World()
    peer, gone = world.peer(), world.peer(component="short")
    gone.leave()
    world.advance(3.0)
    assert peer.ask("$bus.list")["departed"] == []
    (row,) = peer.ask("$bus.list", {"departed": True})["departed"]
    assert (row["endpoint"], row["reason"], row["ago"]) == (gone.name, "connection-lost", 3.0)
    assert row["claims"] == {"component": "short"}


def test_inspect_shows_what_an_endpoint_holds() -> None:
    world = World()
    peer, other = world.peer(), world.peer()
    subscription = other.subscribe("a.>", latest=True)
    service = other.serve("work", group="g")
    peer.call("work")
    told = peer.ask("$bus.inspect", {"endpoint": other.name})
    assert told["subscriptions"] == [{"id": subscription, "pattern": "a.>", "latest": True, "lost_unreported": 0}]
    assert told["serves"] == [{"id": service, "pattern": "work", "group": "g", "outstanding": 1}]
    assert told["held_calls"] == [{"subject": "work", "caller": peer.name, "on_behalf_of": None}]
    assert told["statistics"]["charges"]["subscriptions"] == {"used": 1, "limit": 1024}
    own = peer.ask("$bus.inspect", {"endpoint": peer.name})
    assert own["calls"][0]["responder"] == other.name


def test_stats_are_the_counters() -> None:
    world = World()
    peer = world.peer()
    peer.publish("a")
    peer.leave()
    peer = world.peer()
    told = peer.ask("$bus.stats")
    assert told["endpoints"] == {"guest": 0, "host": 1, "soc": 0}
    assert told["departures"] == {"host/connection-lost": 1}
    assert told["node"] == "test"


def test_explain_publish_names_receivers_and_patterns() -> None:
    world = World()
    peer, other = world.peer(), world.peer()
    other.subscribe("a.*")
    other.subscribe(">")
    told = peer.ask("$bus.explain", {"subject": "a.b"})
    assert {(row["endpoint"], row["pattern"]) for row in told["receivers"]} == {(other.name, "a.*"), (other.name, ">")}
    assert told["reason"] == "2 matching subscriptions of 1 endpoint"
    assert "nobody" in peer.ask("$bus.explain", {"subject": "x.y", "verb": "call"})["reason"]
    assert other.take() == []


def test_explain_call_names_the_group_that_gets_it() -> None:
    world = World()
    peer, exact, wild = world.peer(), world.peer(), world.peer()
    exact.serve("a.b")
    wild.serve("a.>")
    told = peer.ask("$bus.explain", {"subject": "a.b", "verb": "call"})
    assert [group["pattern"] for group in told["groups"]] == ["a.b", "a.>"]
    assert exact.name in told["reason"]
    assert "itself" in peer.ask("$bus.explain", {"subject": "$bus.list", "verb": "call"})["reason"]


def test_bad_requests_name_the_field() -> None:
    world = World()
    peer = world.peer()
    for subject, request, word in (
        ("$bus.list", {"departed": "yes"}, "departed"),
        ("$bus.list", {"limit": 0}, "limit"),
        ("$bus.list", {"limit": True}, "limit"),
        ("$bus.list", {"after": 7}, "after"),
        ("$bus.list", [1], "map"),
        ("$bus.inspect", {}, "endpoint"),
        ("$bus.inspect", {"endpoint": "host-99"}, "host-99"),
        ("$bus.explain", {"subject": "a..b"}, "empty"),
        ("$bus.explain", {"subject": "a", "verb": "sing"}, "verb"),
    ):
        told = peer.ask(subject, request)
        assert word in told["text"], (subject, request, told)


def test_undecodable_request_is_an_error_reply() -> None:
    peer = World().peer()
    reply = peer.request(envelope.call(1, "$bus.list", 100, None, b"\xc1"), 1)
    assert reply[2] == Status.ERROR
    assert error_of(reply)["code"] == 6002


def test_unknown_service_has_no_responders() -> None:
    peer = World().peer()
    assert peer.request(envelope.call(1, "$bus.nothing", 100, None, b""), 1)[2] == Status.NO_RESPONDERS


def test_request_too_large_for_any_service_is_refused_before_it_is_decoded() -> None:
    peer = World().peer()
    reply = peer.request(envelope.call(1, "$bus.ping", 100, None, b"\xdd\x00\x00\x10\x00" * 1000), 1)
    assert error_of(reply)["code"] == 2007
    wide = peer.request(envelope.call(2, "$bus.ping", 100, None, b"\xdc\x00\x41" + b"\xc0" * 65), 2)
    assert error_of(wide)["code"] == 6002


def test_map_counts_messages_by_receiver_and_the_pattern_that_it_has() -> None:
    world = World()
    sender = world.peer(component="agent", owner="team", purpose="tests")
    one, both, responder = world.peer(), world.peer(), world.peer()
    one.subscribe("t.a")
    both.subscribe("t.>")
    responder.serve("s.*")
    sender.publish("t.a", times=3)
    sender.publish("t.b")
    sender.call("s.x")
    answer = sender.ask("$bus.map")
    assert (answer["at"], answer["next"]) == (world.now, None)
    assert answer["endpoints"][0] == {
        "endpoint": sender.name,
        "component": "agent",
        "owner": "team",
        "purpose": "tests",
        "boundary": "host",
        "tenant": "node",
        "unit": "host",
    }
    flows = {(row["to"], row["kind"], row["subject"]): row["messages"] for row in answer["flows"]}
    assert {row["from"] for row in answer["flows"]} == {sender.name}
    assert flows == {
        (one.name, "publish", "t.a"): 3,
        (both.name, "publish", "t.>"): 4,
        (responder.name, "call", "s.*"): 1,
    }
    one.leave()
    world.peer().subscribe("t.>")
    sender.publish("t.a")
    left = {row["to"]: row["messages"] for row in sender.ask("$bus.map")["flows"] if row["kind"] == "publish"}
    assert left == {both.name: 5, "host-5": 1}


def test_map_stays_small_whatever_goes_where() -> None:
    world = World(subscriptions=2000)
    sender, receiver = world.peer(), world.peer()
    for number in range(FLOWS + 100):
        receiver.subscribe(f"t.{number}")
        sender.publish(f"t.{number}", times=2)
    rows = sender.ask("$bus.map")["flows"]
    assert len(rows) == FLOWS
    assert {row["messages"] for row in rows} == {2}
    assert rows[-1]["subject"] == f"t.{FLOWS + 99}"


def test_map_comes_in_pages_that_miss_nobody() -> None:
    world = World(subscriptions=2000)
    receiver = world.peer()
    receiver.subscribe("t")
    senders = [world.peer() for _ in range(9)]
    for sender in senders:
        sender.publish("t")
    seen: list[str] = []
    after = None
    while True:
        page = receiver.ask("$bus.map", {"after": after, "limit": 4})
        seen += [row["from"] for row in page["flows"]]
        if (after := page["next"]) is None:
            break
    assert seen == [sender.name for sender in senders]


def test_map_shows_a_tenants_stream_where_the_node_reads_it_and_is_for_the_node_only() -> None:
    policy = """
        allow publish,subscribe,call,serve > from host,guest
        allow call $bus.> from host,guest
        export stream metrics.> from acme to node
"""
    world = World(policy)
    reader, guest = world.peer(), world.guest("acme")
    reader.subscribe("tenant.acme.>")
    guest.publish("metrics.cpu")
    (row,) = reader.ask("$bus.map")["flows"]
    assert (row["from"], row["to"], row["subject"]) == (guest.name, reader.name, "tenant.acme.>")
    assert guest.ask("$bus.map")["code"] == 3004


def test_components_are_told_to_the_node_whole_and_to_tenants_as_far_as_they_are_offered() -> None:
    policy = """
        allow publish,subscribe,call,serve > from host,guest
        allow call $bus.> from host,guest
        export service cache.> from node to acme
"""
    world = World(policy)
    host, acme, globex = world.peer(), world.guest("acme"), world.guest("globex")
    cache = {"component": "cache", "state": "ready", "pid": 7, "serves": ["cache.get"], "publishes": [], "version": "1"}
    other = {"component": "deletion", "state": "ready", "pid": 8, "serves": ["deletion.submit"], "publishes": []}
    world.bus.components = {"cache": cache, "deletion": other}
    assert host.ask("$bus.components")["components"] == [cache, other]
    assert host.ask("$bus.components", {"component": "deletion"})["components"] == [other]
    assert acme.ask("$bus.components")["components"] == [{key: cache[key] for key in cache if key != "pid"}]
    assert globex.ask("$bus.components")["components"] == []
    for asks in (host, globex):
        error = asks.ask("$bus.components", {"component": "cashe"})
        assert error["code"] == 2008
        assert "there is no component 'cashe'" in error["text"]
