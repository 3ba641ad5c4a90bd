"""schemas/vectors/identity.json: whatever a client says of itself, the broker keeps to what it proved."""

from typing import Any

import pytest

from busd.core.principal import Principal
from busd.core.units import Unit
from busproto import envelope
from busproto.envelope import Kind
from tests.core.peer import HOST, OPEN, World, error_of
from tests.schemas.vectors_support import data_of, load, value_of

CASES: list[dict[str, Any]] = load("identity.json")["cases"]
GUEST = Principal("guest", "umbrella", "vm-1", 2, uid=1000, pid=7)


@pytest.mark.parametrize("principal", [HOST, GUEST], ids=["host", "guest"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_spoofed_origin_fields_change_nothing(case: dict[str, Any], principal: Principal) -> None:
    world = World()
    world.bus.add_unit(Unit("vm-1", "umbrella", 2))
    watcher = world.peer(principal=principal)
    watcher.subscribe(">")
    watcher.origins.clear()
    peer = world.peer(hello=False, principal=principal)
    if case["attached"]:
        peer.send(envelope.hello({}))
        peer.take()
    peer.send(data_of(case))
    got = peer.take()

    assert peer.session.principal == principal
    assert peer.session.claims == value_of(case["claims"])
    assert [error_of(each)["code"] for each in got if each[0] == Kind.BYE] == ([case["ends"]] if case["ends"] else [])
    assert peer.session.closing == (case["ends"] is not None)
    replies = [[each[1], each[2], error_of(each)["code"]] for each in got if each[0] == Kind.REPLY]
    assert replies == case["answers"]
    for welcome in (each for each in got if each[0] == Kind.WELCOME):
        assert welcome[2].startswith(f"{principal.boundary}-")
        assert {key: welcome[3][key] for key in ("boundary", "tenant", "unit", "generation")} == {
            "boundary": principal.boundary,
            "tenant": principal.tenant,
            "unit": principal.unit,
            "generation": principal.generation,
        }

    proven = [15, peer.session.name, principal.boundary, principal.tenant, principal.unit, principal.generation]
    delivered = [each for each in watcher.take() if each[0] == Kind.PUBLISH]
    assert len(delivered) == case["delivered"]
    assert watcher.origins == [proven] * case["delivered"]
    if peer.session.name:
        row = {each["endpoint"]: each for each in watcher.ask("$bus.list")["endpoints"]}.get(peer.session.name)
        shown = peer.session.principal.describe()
        assert row is None or (row["principal"], row["account"]) == (shown, peer.session.account.name)


@pytest.mark.parametrize("held", [True, False])
def test_the_chain_names_who_is_behind_a_call_only_while_it_is_held(held: bool) -> None:
    """The right way, for comparison: ``call-on-behalf`` and ``origin-on-behalf`` in envelopes.json."""
    world = World(OPEN + "export service front from node to *\n")
    worker, server = world.peer(), world.peer()
    worker.serve("front")
    server.serve("back")
    guest = world.guest("acme")
    guest.call("front")
    [call] = [each for each in worker.take() if each[0] == Kind.CALL]
    if not held:
        worker.send(envelope.reply(call[1], 0, None, b"\xc0"))
    worker.send(envelope.call(50, "back", 1000, None, b"\xc0", call[1]))
    reached = [each[2] for each in server.take() if each[0] == Kind.CALL]
    if not held:
        assert reached == []
        [denied] = [each for each in worker.take() if each[0] == Kind.REPLY]
        assert (denied[2], error_of(denied)["code"]) == (6, 3004)
        return
    behind = [guest.name, "guest", "acme", "vm-acme", 1]
    assert server.origins[-1] == [15, worker.name, "host", "node", "host", 0, behind]
    assert reached == ["back"]
