"""Cutting endpoints off, and keeping them out: ``$bus.admin.endpoint.``, on a real node with a guest."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import busclient
from busclient.errors import ErrorReply
from busd.core.blocks import MOST, Barred, Block, Blocks
from busd.core.principal import Principal
from busproto.errors import BusError, Code
from tests.edge.curve_support import KeyPair
from tests.support import RunningNode, environment, running_node

POLICY = """\
allow publish,subscribe,call,serve > from host,guest,soc
allow subscribe,call $bus.> from host
allow call $bus.admin.> from guest
"""

AGENT = """\
import json, sys, time
import busclient.blocking
from busproto.errors import BusError

def say(**said):
    print(json.dumps(said), flush=True)

for line in sys.stdin:
    try:
        with busclient.blocking.connect(line.strip(), component="agent") as bus:
            say(endpoint=bus.endpoint)
            while True:
                bus.call("$bus.ping", timeout=5.0)
                time.sleep(0.01)
    except BusError as error:
        say(code=error.code, text=error.text)
"""
"""Attaches when it is told to, each time anew, and says what became of it. A process is what blocks are about."""


class Agent:
    """A process that attaches when it is told to."""

    def __init__(self, url: str) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.url = url
        self.process = subprocess.Popen([sys.executable, "-c", AGENT], env=environment(), text=True, **pipes)  # type: ignore[call-overload]

    async def attach(self) -> dict[str, Any]:
        """Attach; what it says: the endpoint, or why not."""
        self.process.stdin.write(f"{self.url}\n")
        self.process.stdin.flush()
        return await self.said()

    async def said(self) -> dict[str, Any]:
        """The next thing that it says."""
        line = await asyncio.to_thread(self.process.stdout.readline)
        found: dict[str, Any] = json.loads(line)
        return found


@contextlib.contextmanager
def agent(url: str) -> Iterator[Agent]:
    made = Agent(url)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    home = tmp_path_factory.mktemp("node")
    policy = home / "policy.d"
    policy.mkdir(mode=0o755)
    (policy / "10-all.policy").write_text(POLICY)
    flags = ("--soc-listen", "127.0.0.1:0", "--soc-keys-dir", str(home / "keys"))
    with running_node(home / "run", "--policy-dir", str(policy), *flags) as running:
        yield running


@pytest.fixture(scope="module")
def guest(node: RunningNode, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the bus in two guests of acme; ``{}`` is the number."""
    home = tmp_path_factory.mktemp("vm")

    async def add() -> None:
        async with busclient.connect(node.url, component="test") as bus:
            for number in (1, 2):
                fields = {"name": f"vm-{number}", "tenant": "acme", "socket": f"{home}/v{number}", "any_process": True}
                await bus.call("$bus.admin.guest.add", fields)

    asyncio.run(add())
    return f"unix://{home}/v{{}}_5670"


@contextlib.asynccontextmanager
async def operator(node: RunningNode) -> AsyncIterator[busclient.Bus]:
    async with busclient.connect(node.url, component="operator") as bus:
        yield bus


async def ask(bus: busclient.Bus, verb: str, **fields: Any) -> Any:
    return (await bus.call(f"$bus.admin.endpoint.{verb}", fields)).payload


async def refused(bus: busclient.Bus, verb: str, **fields: Any) -> BusError:
    with pytest.raises(BusError) as refusal:
        await bus.call(f"$bus.admin.endpoint.{verb}", fields)
    return refusal.value


async def departure(bus: busclient.Bus, name: str) -> dict[str, Any]:
    """What is kept of an endpoint that left, once its connection is gone."""
    async with asyncio.timeout(20):
        while True:
            rows = (await bus.call("$bus.list", {"departed": True})).payload["departed"]
            for row in rows:
                if row["endpoint"] == name:
                    return dict(row)
            await asyncio.sleep(0.02)


def records(node: RunningNode) -> list[dict[str, Any]]:
    """What the audit log says."""
    folder = Path(node.url.removeprefix("unix://")).parent / "audit"
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def test_who_is_cut_off_is_told_why_and_does_not_come_back_by_itself(node: RunningNode) -> None:
    async def main() -> None:
        async with operator(node) as bus, busclient.connect(node.url, component="noisy") as noisy:
            name = noisy.endpoint
            async with noisy.subscribe("a.*") as subscription:
                gone = await ask(bus, "disconnect", endpoint=name, reason="it floods metrics")
                assert gone == {"endpoint": name, "ended": [name], "block": None}
                with pytest.raises(BusError) as told:
                    await anext(subscription)
            assert told.value.code == Code.DISCONNECTED
            assert "it floods metrics" in told.value.text
            assert noisy.state == "closed"
            row = await departure(bus, name)
            assert (row["reason"], row["error"]["code"]) == ("cut-off", Code.DISCONNECTED)
            assert "it floods metrics" in row["error"]["text"]
            async with asyncio.timeout(20):
                while not (found := [each for each in records(node) if name in json.dumps(each)]):
                    await asyncio.sleep(0.05)
            assert any("endpoint.disconnect" in json.dumps(each) for each in found)
            assert "it floods metrics" in json.dumps(found)

    asyncio.run(main())


def test_a_block_keeps_the_process_out_and_no_other(node: RunningNode) -> None:
    async def main() -> None:
        with agent(node.url) as first, agent(node.url) as second:
            async with operator(node) as bus:
                name = (await first.attach())["endpoint"]
                gone = await ask(bus, "disconnect", endpoint=name, reason="enough", block_seconds=600)
                assert gone["ended"] == [name]
                assert gone["block"]["pid"] == first.process.pid
                assert (await first.said())["code"] == Code.DISCONNECTED
                again = await first.attach()
                assert again["code"] == Code.DISCONNECTED
                assert "enough; it is kept out for another" in again["text"]
                assert "endpoint" in await second.attach()  # of the same user
                (row,) = (await ask(bus, "blocks"))["blocks"]
                assert (row["endpoint"], row["component"], row["reason"]) == (name, "agent", "enough")
                assert 500 < row["seconds"] <= 600
                assert (await ask(bus, "unblock", endpoint=name))["endpoint"] == name
                assert (await ask(bus, "blocks"))["blocks"] == []
                assert "endpoint" in await first.attach()

    asyncio.run(main())


def test_a_block_of_a_guest_is_of_its_whole_unit(node: RunningNode, guest: str) -> None:
    async def main() -> None:
        async with (
            operator(node) as bus,
            busclient.connect(guest.format(1), component="one") as one,
            busclient.connect(guest.format(1), component="two") as two,
            busclient.connect(guest.format(2), component="other") as other,
        ):
            gone = await ask(bus, "disconnect", endpoint=one.endpoint, block_seconds=60)
            assert set(gone["ended"]) == {one.endpoint, two.endpoint}
            assert (gone["block"]["unit"], gone["block"]["pid"]) == ("vm-1", None)
            with pytest.raises(BusError) as kept_out:
                async with busclient.connect(guest.format(1), component="one"):
                    pass
            assert kept_out.value.code == Code.DISCONNECTED
            assert other.state == "connected"
            await ask(bus, "unblock", endpoint=gone["endpoint"])
            async with busclient.connect(guest.format(1), component="one") as back:
                assert back.endpoint

    asyncio.run(main())


def test_a_card_is_told_and_kept_out_too(node: RunningNode, tmp_path: Path) -> None:
    pair = KeyPair()
    key = tmp_path / "dpu0.key"
    key.write_text(pair.secret + "\n")
    key.chmod(0o600)

    async def main() -> None:
        async with operator(node) as bus:
            await bus.call("$bus.admin.keys.enroll", {"name": "dpu0", "key": pair.public})
            broker = (await bus.call("$bus.admin.keys.list")).payload["broker"]
            way = {"key": str(key), "server_key": broker["key"]}
            async with busclient.connect(broker["address"], component="card", **way) as card:
                async with card.subscribe("a.*") as subscription:
                    gone = await ask(bus, "disconnect", endpoint=card.endpoint, reason="noise", block_seconds=60)
                    assert (gone["block"]["boundary"], gone["block"]["unit"]) == ("soc", "dpu0")
                    with pytest.raises(BusError) as told:
                        await anext(subscription)
                assert (told.value.code, "noise" in told.value.text) == (Code.DISCONNECTED, True)
            with pytest.raises(BusError) as kept_out:
                async with busclient.connect(broker["address"], component="card", **way):
                    pass
            assert kept_out.value.code == Code.DISCONNECTED
            await ask(bus, "unblock", endpoint=gone["endpoint"])
            async with busclient.connect(broker["address"], component="card", **way) as back:
                assert back.endpoint

    asyncio.run(main())


def test_a_tenant_may_not_whatever_the_policy_says(node: RunningNode, guest: str) -> None:
    async def main() -> None:
        async with operator(node) as bus, busclient.connect(guest.format(2), component="evil") as evil:
            for verb, fields in (
                ("disconnect", {"endpoint": bus.endpoint}),
                ("unblock", {"endpoint": bus.endpoint}),
                ("blocks", {}),
            ):
                with pytest.raises(ErrorReply) as refusal:
                    await evil.call(f"$bus.admin.endpoint.{verb}", fields)
                assert refusal.value.code == Code.DENIED
            for service in ("guest.list", "guest.remove", "keys.list", "policy.show", "policy.reload", "nothing"):
                with pytest.raises(ErrorReply) as refusal:
                    await evil.call(f"$bus.admin.{service}", {"name": "vm-1"})
                assert refusal.value.code == Code.DENIED
            assert bus.state == "connected"

    asyncio.run(main())


def test_what_cannot_be_asked_for_names_the_field(node: RunningNode) -> None:
    async def main() -> None:
        async with operator(node) as bus:
            rows = (await bus.call("$bus.list", {})).payload["endpoints"]
            own = next(row["endpoint"] for row in rows if row["claims"].get("component") == "supervisor")
            for word, fields in (
                ("no endpoint is called", {"endpoint": "host-99999"}),
                ("block_seconds must be an integer", {"endpoint": bus.endpoint, "block_seconds": 86401}),
                ("at most 256 bytes", {"endpoint": bus.endpoint, "reason": "x" * 257}),
                ("that is who asks", {"endpoint": bus.endpoint, "block_seconds": 5}),
                ("belongs to busd itself", {"endpoint": own}),  # its supervisor would not come back
                ("belongs to busd itself", {"endpoint": own, "block_seconds": 5}),
                ("no field 'block'", {"endpoint": bus.endpoint, "block": 5}),
            ):
                error = await refused(bus, "disconnect", **fields)
                assert error.code == Code.REQUEST_INVALID
                assert word in error.text
            assert "nothing is blocked" in (await refused(bus, "unblock", endpoint="host-99999")).text
            assert bus.state == "connected"

    asyncio.run(main())


# -- blocks, by the clock ---------------------------------------------------------------------------------------------

PROCESS = Principal("host", "node", "host", 0, uid=7, gid=7, pid=100, started=5000)


def block(principal: Principal, endpoint: str, until: float) -> Block:
    barred = Barred.of(principal)
    assert barred is not None
    return Block(barred, endpoint, "noisy", "enough", "host uid 0", until)


def is_let_in(blocks: Blocks, principal: Principal, now: float) -> bool:
    try:
        blocks.check(principal, now)
    except BusError:
        return False
    return True


def test_a_block_ends_by_itself() -> None:
    blocks = Blocks()
    blocks.add(block(PROCESS, "host-1", 10.0), 0.0)
    assert not is_let_in(blocks, PROCESS, 9.9)
    assert is_let_in(blocks, PROCESS, 10.0)
    assert blocks.list(10.0) == []
    assert blocks.lift("host-1", 10.0) is None


@pytest.mark.parametrize("changed", [{"started": 5001}, {"pid": 101}, {"uid": 8}, {"started": None}])
def test_another_process_is_let_in(changed: dict[str, Any]) -> None:
    fields = {"uid": 7, "gid": 7, "pid": 100, "started": 5000, **changed}
    blocks = Blocks()
    blocks.add(block(PROCESS, "host-1", 10.0), 0.0)
    assert is_let_in(blocks, Principal("host", "node", "host", 0, **fields), 1.0)


def test_a_process_that_the_kernel_does_not_name_cannot_be_blocked() -> None:
    assert Barred.of(Principal("host", "node", "host", 0, uid=7, pid=100)) is None
    assert Barred.of(Principal("host", "node", "host", 0, uid=7, pid=0, started=1)) is None


def test_the_next_life_of_a_unit_is_kept_out_too() -> None:
    blocks = Blocks()
    blocks.add(block(Principal("guest", "acme", "vm-1", 3, pid=5), "guest-1", 10.0), 0.0)
    assert not is_let_in(blocks, Principal("guest", "acme", "vm-1", 4, pid=6), 1.0)
    assert is_let_in(blocks, Principal("guest", "acme", "vm-2", 1), 1.0)
    assert is_let_in(blocks, Principal("soc", "node", "vm-1", 1), 1.0)


def test_blocks_are_bounded_and_a_newer_one_takes_the_place_of_an_older() -> None:
    blocks = Blocks()
    for number in range(MOST):
        blocks.add(block(Principal("guest", "acme", f"vm-{number}", 1), f"guest-{number}", 100.0), 0.0)
    with pytest.raises(BusError) as full:
        blocks.add(block(PROCESS, "host-1", 10.0), 0.0)
    assert full.value.code == Code.QUOTA_EXCEEDED
    blocks.add(block(Principal("guest", "acme", "vm-0", 1), "guest-9999", 50.0), 0.0)
    assert blocks.list(0.0)[0].endpoint == "guest-9999"
    assert len(blocks.list(0.0)) == MOST
    blocks.add(block(PROCESS, "host-1", 200.0), 100.0)  # those that are over make room
    assert [each.endpoint for each in blocks.list(100.0)] == ["host-1"]
