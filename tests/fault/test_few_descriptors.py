"""Few descriptors: guests are turned away before the node's own programs, by name, and nothing is lost for good."""

import asyncio
import os
import resource
import socket
from pathlib import Path
from typing import Any

import pytest

import busclient
from busclient.message import Call
from tests.fault.guests import add_guest, attach, close_all, standing
from tests.support import running_node

DESCRIPTORS = 192
"""128 of which the node keeps for what is no endpoint."""

TENANTS = 4
HOSTS = 8
"""The node's own programs that must get in although guests took all they could."""

RULES = """\
allow publish,subscribe,call,serve,delegate > from host uid=0,self
allow call,subscribe $bus.> from host uid=0,self
"""


async def echo(call: Call) -> Any:
    return call.payload


def open_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_guests_are_turned_away_first_and_the_nodes_own_programs_still_attach_and_call(tmp_path: Path) -> None:
    async def main(url: str, pid: int) -> None:
        async with busclient.connect(url, component="operator") as bus, bus.serve("node.echo", echo):
            before = await standing(bus)
            paths = [await add_guest(bus, tmp_path, f"t{n}", f"vm-{n}") for n in range(TENANTS)]
            guests: list[socket.socket] = []
            shares = []
            try:
                for path in paths:
                    mine: list[socket.socket] = []
                    while (peer := await asyncio.to_thread(attach, path)) is not None:
                        mine.append(peer)
                        assert len(mine) < DESCRIPTORS, "guests are never refused"
                    shares.append(len(mine))
                    guests += mine
                # Each has had its share of what was left, whoever came before it.
                assert all(shares)
                assert shares == sorted(shares, reverse=True)
                listed = (await bus.call("$bus.admin.guest.list", {})).payload["guests"]
                assert [row["refused"] for row in listed] == [{"endpoints": 1}] * TENANTS
                assert open_descriptors(pid) <= DESCRIPTORS
                for number in range(HOSTS):
                    async with busclient.connect(url, component="host", reconnect=False) as other:
                        assert (await other.call("node.echo", number)).payload == number
            finally:
                close_all(guests)
            await settled(bus, before)
            again = await asyncio.to_thread(attach, paths[-1])
            assert again is not None, "a guest must get in again when there is room"
            again.close()

    with running_node(tmp_path / "run", descriptors=DESCRIPTORS) as node:
        asyncio.run(asyncio.wait_for(main(node.url, node.process.pid), 60))


def test_reload_without_descriptors_keeps_the_policy_in_effect_and_a_connection_is_not_left_waiting(
    tmp_path: Path,
) -> None:
    policy = tmp_path / "policy.d"
    policy.mkdir(mode=0o755)
    (policy / "10-first.policy").write_text(RULES)

    async def main(url: str, pid: int) -> None:
        async with (
            busclient.connect(url, component="operator") as bus,
            busclient.connect(url, component="server") as server,
            server.serve("node.echo", echo),
        ):
            path = await add_guest(bus, tmp_path, "t0", "vm-0")
            shown = (await bus.call("$bus.admin.policy.show", {})).payload
            (policy / "20-second.policy").write_text("allow call $bus.ping from guest\n")
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_descriptors(pid), hard))
            with pytest.raises(busclient.BusError) as refused:
                await bus.call("$bus.admin.policy.reload", {})
            assert "Too many open files" in str(refused.value)
            assert (await bus.call("$bus.admin.policy.show", {})).payload["digest"] == shown["digest"]
            assert await asyncio.to_thread(attach, path) is None
            # The descriptor that the guests' listener gave up is the host's for the moment. Served or closed, but told.
            host = await asyncio.to_thread(attach, url.removeprefix("unix://"))
            assert await asyncio.to_thread(attach, path) is None
            if host is not None:
                host.close()
            assert (await bus.call("node.echo", "goes on")).payload == "goes on"
            (row,) = (await bus.call("$bus.admin.guest.list", {})).payload["guests"]
            assert row["refused"]["descriptors"] >= 1

            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
            async with busclient.connect(url, component="late") as late:
                assert (await late.call("node.echo", "back")).payload == "back"
            guest = await asyncio.to_thread(attach, path)
            assert guest is not None
            guest.close()
            await bus.call("$bus.admin.policy.reload", {})
            assert (await bus.call("$bus.admin.policy.show", {})).payload["digest"] != shown["digest"]

    with running_node(tmp_path / "run", "--policy-dir", str(policy)) as node:
        asyncio.run(asyncio.wait_for(main(node.url, node.process.pid), 60))


async def settled(bus: busclient.Bus, before: dict[str, Any]) -> None:
    """Return when what stands is what stood ``before``."""
    async with asyncio.timeout(20):
        while (now := await standing(bus)) != before:
            await asyncio.sleep(0.02)
    assert now == before
