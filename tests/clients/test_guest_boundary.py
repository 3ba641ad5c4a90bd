"""Guests of a real node, with the SDK in them: what a program in a VM meets, from its attaching to its unit's end."""

import asyncio
import os
import pty
import select
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import busclient
from busproto.errors import BusError, Code
from tests.clients.cli_support import Cli
from tests.support import RunningNode, wait_until


@pytest.fixture
def bus(shared_node: RunningNode) -> Iterator[Cli]:
    cli = Cli(shared_node.url)
    yield cli
    for row in cli.records("guest", "list"):
        cli.records("guest", "remove", row["name"])


def attach(url: str, **options: Any) -> busclient.Bus:
    return busclient.connect(url, component="agent", owner="acme", purpose="tests the boundary", **options)


@contextmanager
def null_modem() -> Iterator[tuple[str, str]]:
    """Two terminals, each of which reads what is written to the other."""
    ends = [pty.openpty(), pty.openpty()]
    for _, follower in ends:
        tty.setraw(follower)
    leaders = [leader for leader, _ in ends]
    done, stop = os.pipe()

    def carry() -> None:
        while True:
            for ready in select.select([*leaders, done], [], [])[0]:
                if ready == done:
                    return
                data = os.read(ready, 4096)
                other = leaders[1 - leaders.index(ready)]
                while data:
                    data = data[os.write(other, data) :]

    carrier = threading.Thread(target=carry)
    carrier.start()
    try:
        yield os.ttyname(ends[0][1]), os.ttyname(ends[1][1])
    finally:
        os.write(stop, b".")
        carrier.join(10)
        for descriptor in (*sum(ends, ()), done, stop):
            os.close(descriptor)


async def exchange(guest: busclient.Bus) -> None:
    """Publish, subscribe, serve and call, all through one connection."""

    async def echo(call: busclient.Call) -> Any:
        return call.payload

    async with guest.subscribe("metrics.>") as metrics, guest.serve("echo", echo):
        await guest.publish("metrics.cpu", {"percent": 7, "raw": bytes(range(256)) * 100})
        message = await anext(aiter(metrics))
        assert message.payload["raw"] == bytes(range(256)) * 100
        assert message.origin is not None
        assert (message.origin.boundary, message.origin.tenant, message.origin.unit) == ("guest", "acme", "vm-1")
        assert (await guest.call("echo", [1, 2], timeout=5)).payload == [1, 2]


def test_program_in_a_guest_over_hybrid_vsock(bus: Cli, tmp_path: Path) -> None:
    (row,) = bus.records("guest", "add", "vm-1", "--tenant", "acme", "--socket", f"{tmp_path}/v")

    async def main() -> None:
        async with attach(f"unix://{row['address']}", reconnect=False) as guest:
            await exchange(guest)
            for forbidden in ("$bus.admin.guest.list", "$bus.stats", "$bus.admin.guest.remove"):
                with pytest.raises(BusError) as caught:
                    await guest.call(forbidden, {"name": "vm-1"}, timeout=5)
                assert caught.value.code == Code.DENIED
            (receipt,) = await asyncio.to_thread(bus.records, "guest", "remove", "vm-1")
            assert (receipt["unit"], receipt["endpoints"]) == ("vm-1", 1)
            while True:
                await guest.call("$bus.ping", timeout=1)

    with pytest.raises(BusError, match="generation 1 was removed"):
        asyncio.run(asyncio.wait_for(main(), 30))


def test_program_in_a_guest_over_a_serial_line(bus: Cli) -> None:
    with null_modem() as (host, inside):
        bus.records("guest", "add", "vm-1", "--tenant", "acme", "--device", host)
        wait_until(lambda: bus.records("guest", "list")[0]["state"] == "open")

        async def main() -> None:
            for _ in range(2):  # and the next program after it
                async with attach(f"serial://{inside}", reconnect=False) as guest:
                    await exchange(guest)

        asyncio.run(asyncio.wait_for(main(), 30))
        bus.records("guest", "remove", "vm-1")
