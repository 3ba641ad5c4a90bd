"""asyncapi.yaml: well formed, complete, and true of what the broker really sends and accepts.

What is of components is in test_component_schemas.py.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from busd.core.account import RATES, Rates
from busd.core.introspection import SERVICES
from busd.core.principal import Principal
from busd.core.quotas import SHARED
from busd.core.reasons import Departure
from busd.core.rules import VERBS
from busd.core.session import OWNERSHIP
from busd.core.states import State
from busd.core.units import Unit
from busproto import envelope
from busproto.envelope import OUTCOMES, Kind, Status, unpack
from busproto.subjects import check_subject
from tests.core.peer import Peer, World

PATH = Path(__file__).parents[2] / "schemas" / "asyncapi.yaml"
DOCUMENT: dict[str, Any] = yaml.safe_load(PATH.read_text(encoding="utf-8"))
CHANNELS: dict[str, Any] = DOCUMENT["channels"]
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
BY_ADDRESS: dict[str, Any] = {channel["address"]: channel for channel in CHANNELS.values()}


def resolve(reference: str) -> Any:
    """What ``#/a/b/c`` points at. Raises KeyError."""
    value: Any = DOCUMENT
    for key in reference.removeprefix("#/").split("/"):
        value = value[key]
    return value


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for entry in value.values():
            yield from references(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from references(entry)


def validator(schema: dict[str, Any]) -> jsonschema.Draft7Validator:
    """For a schema whose references point into the document."""
    return jsonschema.Draft7Validator({**schema, "components": {"schemas": SCHEMAS}})


def schema_of(address: str, message: str) -> dict[str, Any]:
    payload: dict[str, Any] = resolve(BY_ADDRESS[address]["messages"][message]["$ref"])["payload"]
    return payload


def check(address: str, message: str, payload: Any) -> None:
    """Fail, naming the place, unless ``payload`` conforms to the message's schema."""
    faults = [
        f"{'/'.join(map(str, fault.absolute_path))}: {fault.message}"
        for fault in validator(schema_of(address, message)).iter_errors(payload)
    ]
    assert not faults, faults


def accepts(address: str, payload: Any) -> bool:
    return bool(validator(schema_of(address, "request")).is_valid(payload))


# -- the document ------------------------------------------------------------------------------------------------------


def test_every_reference_resolves() -> None:
    for reference in set(references(DOCUMENT)):
        assert resolve(reference) is not None


def test_everything_defined_is_used() -> None:
    used = set(references(DOCUMENT))
    for group in ("messages", "schemas"):
        for name in DOCUMENT["components"][group]:
            assert f"#/components/{group}/{name}" in used, name
    for name in CHANNELS:
        assert f"#/channels/{name}" in used, name


@pytest.mark.parametrize("name", CHANNELS)
def test_channel(name: str) -> None:
    channel = CHANNELS[name]
    check_subject(channel["address"])
    called = channel["x-busd"]["envelope"] == "call"
    assert called or channel["x-busd"]["envelope"] == "publish"
    assert (channel["x-busd"]["by"] == "broker") == channel["address"].startswith("$bus.")
    assert set(channel["messages"]) == ({"request", "reply", "error"} if called else set(channel["messages"]))
    operation = DOCUMENT["operations"][name]
    assert operation["action"] == ("receive" if called else "send")
    assert operation["channel"] == {"$ref": f"#/channels/{name}"}
    if called:
        assert operation["messages"] == [{"$ref": f"#/channels/{name}/messages/request"}]
        assert operation["reply"]["channel"] == operation["channel"]
        assert operation["reply"]["messages"] == [
            {"$ref": f"#/channels/{name}/messages/reply"},
            {"$ref": f"#/channels/{name}/messages/error"},
        ]


def test_document_says_what_it_is() -> None:
    assert DOCUMENT["asyncapi"] == "3.1.0"
    assert DOCUMENT["defaultContentType"] == "application/msgpack"
    assert set(DOCUMENT["operations"]) == set(CHANNELS)
    assert len(BY_ADDRESS) == len(CHANNELS)
    server = DOCUMENT["servers"]["host"]
    assert {"host", "protocol"} <= set(server)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_is_a_schema(name: str) -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMAS[name])
    assert set(SCHEMAS[name].get("required", ())) <= set(SCHEMAS[name].get("properties", SCHEMAS[name]))


def test_what_the_broker_serves_and_publishes_is_described() -> None:
    described = {address for address, channel in BY_ADDRESS.items() if channel["x-busd"]["by"] == "broker"}
    here = {address for address in described if not address.startswith("$bus.admin.")}  # those: test_asyncapi_admin.py
    assert here == {*SERVICES, "$bus.endpoints.attached", "$bus.endpoints.departed"}


def test_closed_sets_are_those_of_the_code() -> None:
    assert SCHEMAS["Departure"]["enum"] == [str(reason) for reason in Departure]
    assert SCHEMAS["State"]["enum"] == [str(state) for state in State]
    assert SCHEMAS["Stats"]["properties"]["calls"]["required"] == list(OUTCOMES.values())
    assert SCHEMAS["Shared"]["enum"] == list(SHARED)
    assert SCHEMAS["Throttled"]["items"]["enum"] == list(RATES)
    assert SCHEMAS["Verb"]["enum"] == list(VERBS)
    assert SCHEMAS["Unowned"]["items"]["enum"] == list(OWNERSHIP)
    assert SCHEMAS["Charges"]["propertyNames"]["enum"] == list(World().peer().session.charges())


def test_a_payload_that_does_not_conform_is_found() -> None:
    check("$bus.ping", "reply", {"endpoint": "host-1", "node": "n"})
    for payload in (None, {}, {"endpoint": "host-1", "node": "n", "more": 1}, {"endpoint": "x", "node": "n"}):
        with pytest.raises(AssertionError):
            check("$bus.ping", "reply", payload)


# -- what the broker really sends -----------------------------------------------------------------------------------


def ask(peer: Peer, subject: str, request: Any) -> tuple[int, Any]:
    """Status and payload of the reply to a call; everything else that came is dropped."""
    peer.take()
    id = 900_000 + len(peer.origins)
    peer.send(envelope.call(id, subject, 1000, None, envelope.pack(request)))
    [reply] = [got for got in peer.take() if got[0] == Kind.REPLY and got[1] == id]
    return reply[2], unpack(reply[4])


@pytest.fixture
def world() -> World:
    return World(outbox_messages=8)


@pytest.fixture
def busy(world: World) -> Peer:
    """An endpoint on a bus where everything that a reply can show has happened. Returns who asks."""
    asker = world.peer(component="asker", version="1", owner="tests", purpose="asks", needs=["$bus.>"])
    asker.send(envelope.subscribe(1, "$bus.endpoints.*", {}))
    server = world.peer(component="server", serves=["work.>"], publishes=["a.*"])
    server.send(envelope.serve(1, "work.*", {}) + envelope.serve(2, "work.fast", {"group": "quick"}))
    caller = world.peer()
    for id, subject in enumerate(["work.a", "work.fast", "nobody", "$bus.ping", "$bus.none", "Bad"], start=1):
        caller.send(envelope.call(id, subject, 60_000, None, b"\xc0"))
    caller.send(
        envelope.cancel(1) + envelope.subscribe(20, "a.>", {"latest": True}) + envelope.subscribe(21, "a.*", {})
    )
    for _ in range(12):
        server.send(envelope.publish("a.b", None, b"\xc0"))
    server.send(envelope.publish("A", None, b"\xc0") + envelope.unserve(3, 99) + bytes.fromhex("9240c0"))
    world.peer().send(envelope.bye(None))
    world.peer().leave()
    world.peer().send(b"\xc1")
    world.peer(hello=False)
    refused = world.peer(hello=False)
    refused.send(envelope.hello({"component": "No Name"}))
    holder = world.peer()
    holder.send(envelope.serve(1, "held", {}))
    caller.send(envelope.call(30, "held", 60_000, None, b"\xc0"))
    holder.leave()
    world.advance(5.0)
    for session in world.bus.ready():
        if session.closing:
            world.bus.detach(session, world.now)
    server.send(envelope.drain(1000))
    return asker


@pytest.mark.parametrize("subject", sorted(SERVICES))
def test_replies_of_an_empty_bus_conform(world: World, subject: str) -> None:
    peer = world.peer()
    request = {"endpoint": peer.name} if subject == "$bus.inspect" else {"subject": "a.b"}
    status, payload = ask(peer, subject, request)
    assert status == Status.OK
    check(subject, "reply", payload)


def test_replies_of_a_busy_bus_conform(busy: Peer) -> None:
    status, page = ask(busy, "$bus.list", {"departed": True})
    assert status == Status.OK
    check("$bus.list", "reply", page)
    left = [*page["departed"], *page["refused"]]
    assert {row["reason"] for row in left} >= {
        "bye",
        "connection-lost",
        "protocol-error",
        "handshake-timeout",
        "refused",
    }
    assert {row["error"] is None for row in left} == {True, False}
    for row in page["endpoints"]:
        status, inspection = ask(busy, "$bus.inspect", {"endpoint": row["endpoint"]})
        assert status == Status.OK
        check("$bus.inspect", "reply", inspection)
    status, stats = ask(busy, "$bus.stats", None)
    check("$bus.stats", "reply", stats)
    for counted in ("dropped_messages", "departures", "refusals", "call_seconds"):
        assert stats[counted], f"nothing was shown under {counted}"
    for request in (
        {"subject": "a.b"},
        {"subject": "work.fast", "verb": "call"},
        {"subject": "$bus.ping", "verb": "call"},
    ):
        status, explanation = ask(busy, "$bus.explain", request)
        check("$bus.explain", "reply", explanation)
    for subject in ("$bus.map", "$bus.components"):
        status, answer = ask(busy, subject, None)
        assert status == Status.OK
        check(subject, "reply", answer)
    status, page = ask(busy, "$bus.list", {"limit": 1})
    check("$bus.list", "reply", page)
    assert page["next"]


def test_replies_of_a_bus_with_tenants_conform() -> None:
    """Guests and cards, accounts that are held up, chains of calls, rights that policy denies."""
    world = World(
        "allow subscribe,call $bus.> from host,guest\nallow publish,call,serve,delegate > from host,soc\n"
        "allow call,delegate front,back from guest\nexport service front from node to *\n",
        rates=Rates(calls=1, denials=1),
    )
    host, worker, server = world.peer(), world.peer(component="w", owner="o", purpose="p"), world.peer()
    worker.serve("front")
    server.serve("back")
    guest = world.guest("acme")
    world.bus.add_unit(Unit("card", "node", 3, "soc"))
    world.peer(principal=Principal("soc", "node", "card", 3, key="k" * 40))
    for _ in range(3):
        guest.call("front", seconds=60)
    [call, *_] = [got for got in worker.take() if got[0] == Kind.CALL]
    worker.send(envelope.call(77, "back", 60_000, None, b"\xc0", call[1]))
    guest.call("secret")
    guest.call("secret")
    for asker in (host, guest):
        status, page = ask(asker, "$bus.list", {"accounts": True, "departed": True})
        assert status == Status.OK
        check("$bus.list", "reply", page)
        [account] = [row for row in page["accounts"] if row["account"] == "tenant acme"]
        assert account["throttled"] == ["calls", "denials"]
        [row] = [row for row in page["endpoints"] if row["endpoint"] == guest.name]
        assert (row["unowned"], row["throttled"]) == (["component", "owner", "purpose"], ["calls", "denials"])
    for peer in (worker, server, guest):
        status, inspection = ask(host, "$bus.inspect", {"endpoint": peer.name})
        check("$bus.inspect", "reply", inspection)
    status, inspection = ask(host, "$bus.inspect", {"endpoint": server.name})
    assert [held["on_behalf_of"] for held in inspection["held_calls"]] == [guest.name]
    status, stats = ask(host, "$bus.stats", None)
    check("$bus.stats", "reply", stats)
    assert (stats["units"], stats["denials"]["call"]) == ({"guest": 1, "host": 0, "soc": 1}, 2)
    status, error = ask(guest, "$bus.stats", None)
    check("$bus.stats", "error", error)
    assert error["code"] == 3004
    for subject, allowed, rule in (("front", True, "10-test.policy:3"), ("secret", False, "default")):
        status, explanation = ask(guest, "$bus.explain", {"subject": subject, "verb": "call"})
        check("$bus.explain", "reply", explanation)
        assert (explanation["allowed"], explanation["rule"]) == (allowed, rule)
    world.bus.remove_unit("card", world.now)
    for session in world.bus.ready():
        if session.closing:
            world.bus.detach(session, world.now)
    status, page = ask(host, "$bus.list", {"departed": True})
    check("$bus.list", "reply", page)
    assert [row["reason"] for row in page["departed"]] == ["unit-removed"]


def test_presence_conforms(world: World) -> None:
    watcher = world.peer()
    watcher.send(envelope.subscribe(1, "$bus.endpoints.*", {}))
    watcher.take()
    world.peer(component="comes", owner="tests").leave()
    attached, departed = (got for got in watcher.take() if got[0] == Kind.PUBLISH)
    check(attached[1], "event", unpack(attached[3]))
    check(departed[1], "event", unpack(departed[3]))
    assert [attached[1], departed[1]] == ["$bus.endpoints.attached", "$bus.endpoints.departed"]


REQUESTS: dict[str, list[Any]] = {
    "$bus.ping": [None, {}, 1, "x", [1]],
    "$bus.stats": [None, {}, 1],
    "$bus.list": [
        None, {}, {"departed": True}, {"limit": 1}, {"limit": 500}, {"after": "host-1"}, {"after": None}, {"new": 1},
        1, [], "host-1", {"departed": 1}, {"departed": None}, {"limit": 0}, {"limit": 501}, {"limit": True},
        {"limit": "1"}, {"limit": None}, {"after": 1}, {"accounts": True}, {"accounts": 1}, {"accounts": None},
    ],
    "$bus.inspect": [
        {"endpoint": "host-1"}, {"endpoint": "host-1", "new": 1},
        None, {}, {"endpoint": None}, {"endpoint": 1}, "host-1",
    ],
    "$bus.map": [
        None, {}, {"limit": 1}, {"after": "host-1"}, {"after": None}, {"new": 1},
        1, {"limit": 0}, {"limit": 501}, {"after": 1},
    ],
    "$bus.components": [None, {}, {"component": None}, {"new": 1}, 1, {"component": 1}],
    "$bus.explain": [
        {"subject": "a"}, {"subject": "a", "verb": "call"}, {"subject": "a", "verb": "publish"},
        {"subject": "a", "verb": None},
        None, {}, {"subject": None}, {"subject": 1}, {"subject": "a", "verb": "send"}, {"subject": "a", "verb": 1}, "a",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("subject", "request_"),
    [(subject, request) for subject, requests in REQUESTS.items() for request in requests],
    ids=repr,
)
def test_broker_accepts_what_the_schema_accepts(world: World, subject: str, request_: Any) -> None:
    status, payload = ask(world.peer(), subject, request_)
    assert (status == Status.OK) == accepts(subject, request_)
    check(subject, "reply" if status == Status.OK else "error", payload)


@pytest.mark.parametrize("subject", ["nobody", "$bus.none", "Bad"])
def test_refused_calls_carry_an_error_body(world: World, subject: str) -> None:
    status, payload = ask(world.peer(), subject, None)
    assert status in (Status.ERROR, Status.NO_RESPONDERS)
    check("$bus.ping", "error", payload)
