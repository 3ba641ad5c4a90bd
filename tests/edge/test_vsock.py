"""AF_VSOCK: the CID decides, and one that is used again is a stranger until a unit has it.

Where the kernel has no vsock_loopback a unix socket stands in whose peers are given CIDs; everything else is real.
"""

import asyncio
import os
import socket
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from busd.core.tokenbucket import TokenBucket
from busd.edge.vsock import VsockListener, as_stream, listen_vsock
from busproto import envelope
from busproto.envelope import Kind
from busproto.errors import BusError, Code
from tests.edge.raw import RawPeer, loops, run
from tests.edge.vmm import GuestNode, guest_node, until

both = pytest.mark.parametrize("loop", sorted(loops()))

HAS_LOOPBACK = os.path.exists("/sys/module/vsock_loopback")
PORT = 56700


class PlayedPeer(socket.socket):
    """An accepted connection that says it comes from a CID."""

    cid = 0

    def getpeername(self) -> Any:
        return (self.cid, 1024)


class PlayedListener(socket.socket):
    """A listener on a unix socket whose connections come from the CIDs in ``cids``, in order."""

    def __init__(self, path: Path) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self.path = path
        self.cids: deque[int] = deque()
        self.bind(str(path))
        self.listen(128)
        self.setblocking(False)

    def accept(self) -> tuple[socket.socket, Any]:
        accepted, _ = super().accept()
        peer = PlayedPeer(fileno=accepted.detach())
        peer.cid = self.cids.popleft()
        return peer, peer.getpeername()

    def connect_from(self, cid: int) -> socket.socket:
        """The guest's end of a connection from ``cid``, which waits in the kernel."""
        self.cids.append(cid)
        guest = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        guest.connect(str(self.path))
        guest.setblocking(False)
        return guest


async def endpoint(guest: socket.socket) -> RawPeer:
    """``guest`` once it has said hello."""
    reader, writer = await asyncio.open_unix_connection(sock=guest)
    peer = RawPeer(reader, writer)
    peer.send(envelope.hello({}))
    await peer.expect(Kind.WELCOME)
    return peer


async def is_closed(guest: socket.socket) -> bool:
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(guest, 64), 5) == b""
    except ConnectionError:
        return True
    finally:
        guest.close()


def played(listener: socket.socket) -> Any:
    return lambda report: VsockListener(listener, report)


async def refused_of(node: GuestNode, name: str) -> dict[str, int]:
    refused: dict[str, int] = (await node.row(name))["refused"]
    return refused


@both
def test_only_the_cid_of_a_unit_comes_in(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        line = PlayedListener(tmp_path / "line")
        async with guest_node(tmp_path, vsock=played(line)) as node:
            row = await node.add("vm-1", cid=42)
            assert (row["address"], row["state"], row["vmm"]) == ("vsock cid 42", "listening", None)
            await node.add("vm-2", "globex", cid=43)
            one, two = await endpoint(line.connect_from(42)), await endpoint(line.connect_from(43))
            assert await is_closed(line.connect_from(44))
            assert await is_closed(line.connect_from(2))
            found = {session.principal.unit: session.principal for session in node.bus.census}
            assert {unit: (who.tenant, who.cid, who.pid) for unit, who in found.items()} == {
                "vm-1": ("acme", 42, None),
                "vm-2": ("globex", 43, None),
            }
            assert [fault["cid"] for fault in node.faults("connection-refused")] == [44, 2]
            assert node.guests.statistics().refused == {"unit": 2}
            for peer in (one, two):
                peer.send(envelope.ping(1))
                await peer.expect(Kind.PONG)

    run(main(), loop)


@both
def test_cid_that_is_used_again_is_another_life(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        line = PlayedListener(tmp_path / "line")
        async with guest_node(tmp_path, vsock=played(line)) as node:
            await node.add("vm-1", cid=42)
            await node.add("vm-9", cid=99)
            peer = await endpoint(line.connect_from(42))
            waiting = [line.connect_from(42), line.connect_from(99), line.connect_from(42)]
            receipt = await node.ask("remove", name="vm-1")
            assert (receipt["endpoints"], receipt["refused_waiting"]) == (1, 2)
            late = line.connect_from(42)  # after the removal, and before the next unit has this cid
            assert (await node.add("vm-2", "globex", cid=42))["generation"] == 3
            assert (await peer.ended())["code"] == Code.UNIT_UNKNOWN
            for each in (waiting[0], waiting[2], late):
                assert await is_closed(each)
            await endpoint(waiting[1])  # who waited beside them came in
            await endpoint(line.connect_from(42))
            found = [(session.principal.unit, session.principal.tenant) for session in node.bus.census]
            assert found == [("vm-9", "acme"), ("vm-2", "globex")]

    run(main(), loop)


def test_a_cid_belongs_to_one_unit(tmp_path: Path) -> None:
    async def main() -> None:
        async with guest_node(tmp_path, vsock=played(PlayedListener(tmp_path / "line"))) as node:
            await node.add("vm-1", cid=42)
            with pytest.raises(BusError, match="cid 42 is that of unit 'vm-1'"):
                await node.add("vm-2", cid=42)
            assert len(node.bus.units) == 1

    run(main(), "asyncio")


def test_storm_from_one_cid_does_not_hold_up_another(tmp_path: Path) -> None:
    async def main() -> None:
        line = PlayedListener(tmp_path / "line")
        bucket = lambda: TokenBucket(rate=1, burst=3)  # noqa: E731
        async with guest_node(tmp_path, vsock=played(line), connects=bucket) as node:
            await node.add("vm-1", cid=42)
            await node.add("vm-2", cid=43)
            storm = [line.connect_from(42) for _ in range(20)]
            await endpoint(line.connect_from(43))
            assert (await refused_of(node, "vm-1"))["rate"] >= 15
            assert await refused_of(node, "vm-2") == {}
            for each in storm:
                each.close()

    run(main(), "asyncio")


def test_restarted_broker_knows_its_cids(tmp_path: Path) -> None:
    async def main() -> None:
        async with guest_node(tmp_path, vsock=played(PlayedListener(tmp_path / "one"))) as node:
            await node.add("vm-1", cid=42)
        line = PlayedListener(tmp_path / "two")
        async with guest_node(tmp_path, vsock=played(line)) as node:
            await endpoint(line.connect_from(42))
        async with guest_node(tmp_path) as node:
            assert "does not listen on AF_VSOCK" in node.faults("guest-not-restored")[0]["error"]

    run(main(), "asyncio")


@both
def test_stream_of_another_family_runs_on_every_loop(loop: str) -> None:
    """uvloop's connect_accepted_socket refuses AF_VSOCK; a TCP socket stands in for one."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as far:
            far.connect(listener.getsockname())
            peer = listener.accept()[0]
            peer.setblocking(False)
            echoed = asyncio.get_running_loop().create_future()

            class Echo(asyncio.Protocol):
                def connection_made(self, transport: asyncio.BaseTransport) -> None:
                    self.transport = transport

                def data_received(self, data: bytes) -> None:
                    self.transport.write(data)  # type: ignore[attr-defined]
                    self.transport.close()

                def connection_lost(self, exc: Exception | None) -> None:
                    echoed.set_result(exc)

            await asyncio.get_running_loop().connect_accepted_socket(Echo, as_stream(peer))
            far.sendall(b"hello")
            assert await echoed is None
            assert far.recv(100) == b"hello"

    run(main(), loop)


def test_system_without_af_vsock_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_VSOCK", raising=False)
    with pytest.raises(BusError, match="this system has no AF_VSOCK") as caught:
        listen_vsock(PORT)
    assert caught.value.code == Code.LISTEN_FAILED


def test_kernel_without_af_vsock_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "AF_VSOCK", 12345, raising=False)
    with pytest.raises(BusError, match="load vhost_vsock"):
        listen_vsock(PORT)


@pytest.mark.skipif(not HAS_LOOPBACK, reason="this kernel has not loaded vsock_loopback")
@both
def test_real_vsock_through_the_loopback_device(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        def listener(report: Any) -> VsockListener:
            return VsockListener(listen_vsock(PORT), report)

        async with guest_node(tmp_path, vsock=listener) as node:
            stranger = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            stranger.connect((1, PORT))
            stranger.setblocking(False)
            assert await is_closed(stranger)
            await node.add("vm-1", cid=1)
            guest = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            guest.connect((1, PORT))
            guest.setblocking(False)
            peer = await endpoint(as_stream(guest))
            peer.send(envelope.ping(1))
            await peer.expect(Kind.PONG)
            await until(lambda: node.guests.statistics().accepted == 1)

    run(main(), loop)


@pytest.mark.skipif(HAS_LOOPBACK, reason="this kernel has vsock_loopback")
def test_loopback_cid_needs_the_loopback_device(tmp_path: Path) -> None:
    async def main() -> None:
        async with guest_node(tmp_path, vsock=played(PlayedListener(tmp_path / "line"))) as node:
            with pytest.raises(BusError, match="has not loaded vsock_loopback"):
                await node.add("vm-1", cid=1)

    run(main(), "asyncio")
