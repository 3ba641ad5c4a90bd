"""asyncapi.yaml: what a real node answers under ``$bus.admin.``, and which requests it takes."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import busclient
from busclient.errors import ErrorReply
from busd.components.supervisor.admin import ComponentAdmin
from busd.core.introspection import Request
from busd.core.policy import parse
from busd.core.principal import Principal
from busd.core.rules import PolicyFile
from busd.core.tap import MONITOR
from busd.edge import guestrequest
from busd.edge.admission import Refusal
from busd.edge.endpoints import EndpointAdministration
from busd.edge.guests import Guests
from busd.edge.keyadmin import KeyAdministration
from busd.ops.policyadmin import PolicyAdmin
from busproto.errors import BusError
from tests.schemas.test_asyncapi import BY_ADDRESS, SCHEMAS, accepts, check
from tests.support import RunningNode, environment, running_node

KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
"""The client's public key in ZeroMQ RFC 26's example of Z85."""

ADMIN = {address for address in BY_ADDRESS if address.startswith("$bus.admin.")}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    home = tmp_path_factory.mktemp("node")
    policy = home / "policy.d"
    policy.mkdir(mode=0o755)
    (policy / "10-all.policy").write_text(
        "allow publish,subscribe,call,serve,delegate > from host\nallow subscribe,call $bus.> from host\n"
        "deny call secret from guest\nallow subscribe,call a.* from guest tenant=acme\n"
    )
    flags = ("--policy-dir", str(policy), "--soc-listen", "127.0.0.1:0", "--soc-keys-dir", str(home / "keys"))
    with running_node(home / "run", *flags) as running:
        yield running


class Asking:
    """One endpoint that asks, and checks every answer against the document."""

    def __init__(self, bus: busclient.Bus) -> None:
        self.bus = bus
        self.asked: set[str] = set()

    async def __call__(self, service: str, request: Any = None) -> Any:
        """The answer, which must conform."""
        subject = f"$bus.admin.{service}"
        assert accepts(subject, request), request
        answer = (await self.bus.call(subject, request)).payload
        check(subject, "reply", answer)
        self.asked.add(subject)
        return answer

    async def refused(self, service: str, request: Any = None) -> int:
        """The code with which it is refused; the error must conform."""
        subject = f"$bus.admin.{service}"
        with pytest.raises(ErrorReply) as refusal:
            await self.bus.call(subject, request)
        check(subject, "error", refusal.value.body())
        return int(refusal.value.code)


def test_every_service_is_described_and_no_other() -> None:
    served: set[str] = set()
    for owner in (Guests, KeyAdministration, EndpointAdministration, PolicyAdmin, ComponentAdmin):
        served |= set(object.__new__(owner).services())  # type: ignore[attr-defined]
    assert served | {MONITOR} == ADMIN


def test_what_a_node_answers_conforms(node: RunningNode, tmp_path: Path) -> None:
    async def main() -> None:
        async with busclient.connect(node.url, component="test", owner="tests", purpose="asks") as bus:
            ask = Asking(bus)
            await _guests(ask, tmp_path)
            await _keys(ask)
            await _endpoints(ask, node.url)
            await _monitor(ask)
            await _policy(ask)
            await _components(ask)
            # A component moves to a card or a guest only; what comes back is what a replacement brings.
            assert ask.asked | {"$bus.admin.component.move"} == ADMIN

    asyncio.run(main())


async def _guests(ask: Asking, tmp_path: Path) -> None:
    listening = {"name": "vm-1", "tenant": "acme", "socket": f"{tmp_path}/v", "any_process": True}
    assert (await ask("guest.add", listening))["state"] == "listening"
    held = {"name": "vm-2", "tenant": "acme", "generation": 70, "connect": f"{tmp_path}/w", "pid": os.getpid()}
    assert (await ask("guest.add", held))["vmm"]["pid"] == os.getpid()
    await ask("guest.add", {"name": "vm-3", "tenant": "globex", "device": f"{tmp_path}/tty", "port": None})
    assert await ask.refused("guest.add", listening) == 3011
    async with busclient.connect(f"unix://{tmp_path}/v_5670", component="agent") as guest, guest.subscribe("a.*"):
        assert (await ask("guest.inspect", {"name": "vm-1"}))["attached"] == [guest.endpoint]
        states = {row["name"]: row for row in (await ask("guest.list"))["guests"]}
        assert states["vm-2"]["error"]
        assert states["vm-1"]["endpoints"] == 1
        page = await ask("guest.list", {"limit": 2})
        assert (await ask("guest.list", {"after": page["next"]}))["guests"][0]["name"] == "vm-3"
        receipt = await ask("guest.remove", {"name": "vm-1"})
    assert (receipt["endpoints"], receipt["subscriptions"]) == (1, 1)
    assert await ask.refused("guest.inspect", {"name": "vm-1"}) == 3009
    for name in ("vm-2", "vm-3"):
        await ask("guest.remove", {"name": name})


async def _keys(ask: Asking) -> None:
    assert (await ask("keys.list"))["broker"]["state"] == "listening"
    await ask("keys.enroll", {"name": "card-0", "key": KEY})
    assert await ask.refused("keys.enroll", {"name": "card-1", "key": KEY}) == 3012
    [row] = (await ask("keys.list", {}))["keys"]
    assert (row["name"], row["tenant"], row["last_seen_seconds"]) == ("card-0", "node", None)
    assert (await ask("keys.revoke", {"name": "card-0"}))["key"] == KEY
    assert await ask.refused("keys.revoke", {"name": "card-0"}) == 2008


async def _endpoints(ask: Asking, url: str) -> None:
    async with busclient.connect(url, component="other", reconnect=False) as other:
        gone = await ask("endpoint.disconnect", {"endpoint": other.endpoint, "reason": "a test", "block_seconds": None})
    assert (gone["ended"], gone["block"]) == ([other.endpoint], None)
    assert await ask("endpoint.blocks") == {"blocks": []}
    own = {"endpoint": ask.bus.endpoint, "block_seconds": 60}
    assert await ask.refused("endpoint.disconnect", own) == 2008  # it would shut out who asks
    for wrong in ({}, {"endpoint": 1}, {**own, "block_seconds": 0}, {**own, "block_seconds": 86401}, {**own, "now": 1}):
        assert not accepts("$bus.admin.endpoint.disconnect", wrong), wrong
        assert await ask.refused("endpoint.disconnect", wrong) == 2008
    assert await ask.refused("endpoint.unblock", {"endpoint": other.endpoint}) == 2008
    script = f"import busclient.blocking as b, time\nwith b.connect({url!r}, component='agent'): time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], env=environment()) as agent:
        try:
            name = await _endpoint_of(ask.bus, agent.pid)
            blocked = await ask("endpoint.disconnect", {"endpoint": name, "block_seconds": 60})
            assert blocked["block"]["pid"] == agent.pid
            assert [row["endpoint"] for row in (await ask("endpoint.blocks"))["blocks"]] == [name]
            assert (await ask("endpoint.unblock", {"endpoint": name}))["endpoint"] == name
        finally:
            agent.kill()


async def _endpoint_of(bus: busclient.Bus, pid: int) -> str:
    async with asyncio.timeout(20):
        while True:
            rows = (await bus.call("$bus.list", {})).payload["endpoints"]
            for row in rows:
                if row["principal"]["pid"] == pid:
                    return str(row["endpoint"])
            await asyncio.sleep(0.02)


async def _monitor(ask: Asking) -> None:
    """What parts there are (tests/core/test_taps.py checks all kinds of them), and the row in the census."""
    request = {"payload": 3}
    assert accepts(MONITOR, request)
    # The calls are $bus.inspect and one that nobody serves.
    expected = ["began", "publish", "call", "reply", "call", "reply"]
    got: list[str] = []
    async with ask.bus.stream(MONITOR, request, timeout=60) as parts, ask.bus.subscribe("x.y"):
        async for part in parts:
            check(MONITOR, "reply", part.payload)
            got.append(part.payload["kind"])
            if len(got) == 1:
                ask.bus.publish_nowait("x.y", "hello", headers={"a": 1})
                row = (await ask.bus.call("$bus.inspect", {"endpoint": ask.bus.endpoint})).payload
                check("$bus.inspect", "reply", row)
                assert row["monitoring"][0]["payload"] == 3
                with pytest.raises(BusError):
                    await ask.bus.call("nobody.serves.this")
            if len(got) == len(expected):
                break
    assert sorted(got) == sorted(expected)
    check("$bus.list", "reply", (await ask.bus.call("$bus.list", {})).payload)
    for wrong in ({"patterns": "a"}, {"kinds": ["all"]}, {"payload": -1}, {"payload": 65537}, {"tenant": "A"}):
        assert not accepts(MONITOR, wrong), wrong
        assert await ask.refused("monitor", wrong) == 2008
    ask.asked.add(MONITOR)


async def _policy(ask: Asking) -> None:
    shown = await ask("policy.show")
    assert (shown["rules"], shown["errors"]) == (4, [])
    assert (await ask("policy.reload"))["digest"] == shown["digest"]
    told = await ask("policy.explain", {"verb": "call", "subject": "a.b", "from": "guest tenant=acme"})
    assert (told["allowed"], told["where"]) == (True, "10-all.policy:4")
    told = await ask("policy.explain", {"verb": "call", "subject": "secret", "from": "guest tenant=acme unit=vm-1"})
    assert not told["allowed"]
    assert told["change"] or told["advice"]
    told = await ask("policy.explain", {"verb": "subscribe", "subject": "x.>", "endpoint": ask.bus.endpoint})
    assert told["principal"]["pid"] == os.getpid()
    told = await ask("policy.explain", {"verb": "publish", "subject": "b", "from": "guest tenant=acme"})
    assert told["where"] == "default"
    assert await ask.refused("policy.explain", {"verb": "call", "subject": "a", "endpoint": "host-99999"}) == 2008


async def _components(ask: Asking) -> None:
    gauge = {"component": "telemetry"}
    assert (await ask("component.start", gauge))["state"] == "ready"
    assert (await ask("component.health", gauge))["health"]["ok"]
    taken = await ask("component.replace", {**gauge, "seconds": 2.5, "source": None})
    assert (taken["from"], taken["to"], taken["state_lost"]) == ("host", "host", False)
    page = await ask("component.logs", {**gauge, "limit": 1})
    assert (await ask("component.logs", {**gauge, "after": page["next"]}))["lines"] == []
    assert await ask.refused("component.replace", {**gauge, "source": "no.such:Thing"}) == 8005
    assert await ask.refused("component.move", {**gauge, "to": "soc"}) == 8002
    assert await ask.refused("component.move", {**gauge, "to": "host"}) == 8003
    for verb, wrong in (
        ("start", {}),
        ("start", {"component": 1}),
        ("stop", {**gauge, "now": True}),
        ("replace", {**gauge, "seconds": 0}),
        ("replace", {**gauge, "seconds": 601}),
        ("move", gauge),
        ("move", {**gauge, "to": None}),
        ("logs", {**gauge, "limit": 0}),
        ("logs", {**gauge, "after": -1}),
    ):
        assert not accepts(f"$bus.admin.component.{verb}", wrong), wrong
        assert await ask.refused(f"component.{verb}", wrong) == 2008
    assert (await ask("component.stop", gauge))["state"] == "stopped"
    assert await ask.refused("component.replace", gauge) == 8003
    assert await ask.refused("component.start", {"component": "telemetri"}) == 8001


# -- what is accepted -------------------------------------------------------------------------------------------------

ADD = {"name": "vm-1", "tenant": "acme"}


@pytest.mark.parametrize(
    "request_",
    [
        {**ADD, "socket": "/v"},
        {**ADD, "connect": "/v/w", "port": 1},
        {**ADD, "device": "/dev/tty"},
        {**ADD, "cid": 3},
        {**ADD, "socket": "/v", "generation": 1, "owner": 0, "pid": 1},
        {**ADD, "socket": "/v", "any_process": True},
        {**ADD, "socket": "/v", "any_process": False, "pid": 5},
        {**ADD, "socket": "/v", "cid": None, "port": None},
        {**ADD, "cid": 4294967294, "generation": 2**53 - 1, "pid": None},
        None,
        {},
        ADD,
        {"name": "vm-1", "socket": "/v"},
        {"tenant": "acme", "socket": "/v"},
        {**ADD, "socket": "/v", "connect": "/w"},
        {**ADD, "socket": "/v", "new": 1},
        {**ADD, "socket": "v"},
        {**ADD, "socket": 1},
        {**ADD, "socket": ""},
        {**ADD, "device": "tty"},
        {**ADD, "name": "host", "socket": "/v"},
        {**ADD, "tenant": "node", "socket": "/v"},
        {**ADD, "name": "VM", "socket": "/v"},
        {**ADD, "name": "a" * 65, "socket": "/v"},
        {**ADD, "tenant": "../x", "socket": "/v"},
        {**ADD, "name": "vm\u0430", "socket": "/v"},
        {**ADD, "cid": 0},
        {**ADD, "cid": 2},
        {**ADD, "cid": -1},
        {**ADD, "cid": 2**32 - 1},
        {**ADD, "cid": "3"},
        {**ADD, "cid": True},
        {**ADD, "cid": 3, "port": 5},
        {**ADD, "cid": 3, "owner": 0},
        {**ADD, "cid": 3, "pid": 9},
        {**ADD, "device": "/t", "port": 5},
        {**ADD, "socket": "/v", "port": 0},
        {**ADD, "socket": "/v", "port": 2**32 - 1},
        {**ADD, "socket": "/v", "generation": 0},
        {**ADD, "socket": "/v", "generation": 2**53},
        {**ADD, "socket": "/v", "pid": 0},
        {**ADD, "socket": "/v", "pid": 2**31},
        {**ADD, "socket": "/v", "any_process": True, "pid": 5},
        {**ADD, "socket": "/v", "any_process": 1},
        {**ADD, "socket": "/v", "owner": -1},
        {**ADD, "cid": 3, "any_process": True},
    ],
    ids=repr,
)
def test_a_guest_is_read_as_the_schema_has_it(request_: Any) -> None:
    try:
        guestrequest.read(Request("$bus.admin.guest.add", request_))
        read = True
    except BusError:
        read = False
    assert read == accepts("$bus.admin.guest.add", request_)


@pytest.mark.parametrize(
    "request_",
    [
        {"verb": "call", "subject": "a", "from": "guest tenant=acme"},
        {"verb": "serve", "subject": "a.>", "endpoint": "host-1"},
        {"verb": "call", "subject": "a", "from": "guest tenant=acme", "endpoint": None},
        {"verb": "call", "subject": "a", "from": "host", "new": 1},
        None,
        {},
        {"verb": "call", "subject": "a"},
        {"verb": "send", "subject": "a", "from": "host"},
        {"verb": "call", "from": "host"},
        {"subject": "a", "from": "host"},
        {"verb": "call", "subject": "a", "from": "host", "endpoint": "host-1"},
        {"verb": "call", "subject": 1, "from": "host"},
        {"verb": "call", "subject": "a", "from": 1},
    ],
    ids=repr,
)
def test_a_question_about_policy_is_read_as_the_schema_has_it(request_: Any, tmp_path: Path) -> None:
    policy = parse([PolicyFile("10-a.policy", "allow call a from host\n")], self_uid=1)
    known = {"host-1": Principal("host", "node", "host", 0, uid=1)}
    admin = PolicyAdmin(tmp_path, lambda: policy, lambda _: 0, known.get)

    async def ask() -> bool:
        try:
            answer = await admin.explain(Request("$bus.admin.policy.explain", request_), known["host-1"])
        except BusError:
            return False
        check("$bus.admin.policy.explain", "reply", answer)
        return True

    assert asyncio.run(ask()) == accepts("$bus.admin.policy.explain", request_)


WRONG: tuple[Any, ...] = ([], "x", 1, {"name": 1, "after": 1, "verb": 1, "new": 1})


@pytest.mark.parametrize("service", sorted(ADMIN))
def test_a_request_that_the_schema_does_not_have_is_refused_by_the_node(service: str, node: RunningNode) -> None:
    async def main() -> None:
        async with busclient.connect(node.url, component="test", owner="tests", purpose="asks") as bus:
            ask = Asking(bus)
            for wrong in WRONG:
                if not accepts(service, wrong):
                    assert await ask.refused(service.removeprefix("$bus.admin."), wrong) == 2008

    asyncio.run(main())


def test_closed_sets_are_those_of_the_code() -> None:
    assert SCHEMAS["Refusals"]["propertyNames"]["enum"] == [str(each) for each in Refusal]
    assert SCHEMAS["Way"]["enum"] == list(guestrequest.WAYS)
