"""A serial line to a guest: a pty, or the unix socket of a VMM's chardev; and all that a line can lose or repeat."""

import asyncio
import os
import pty
import socket
import tty
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from busd.core.tokenbucket import TokenBucket
from busproto import envelope
from busproto.envelope import Kind
from busproto.errors import BusError, Code
from busproto.serial import SerialLine
from tests.edge.raw import RawPeer, loops, run
from tests.edge.vmm import STEP_SECONDS, guest_node, until, until_state

both = pytest.mark.parametrize("loop", sorted(loops()))


class GuestLine:
    """The guest's end of a line, on a descriptor: the client role of `busproto.serial`, byte by byte in our hands."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.line = SerialLine("client")
        self.reader = asyncio.StreamReader()
        self.events: list[tuple[str, bytes]] = []
        self.reading = True
        self._out = b""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self._read)

    # What RawPeer needs of a writer.

    def write(self, data: bytes) -> None:
        self.write_raw(self.line.data(data))

    @property
    def transport(self) -> "GuestLine":
        return self

    def abort(self) -> None:
        """The kernel has nothing to be cut here; `close` is called by the test."""

    def write_raw(self, data: bytes) -> None:
        """Send ``data`` on the line as it is."""
        self._out += data
        self._flush()

    def stop_reading(self) -> None:
        self._loop.remove_reader(self.descriptor)

    def close(self) -> None:
        self._loop.remove_reader(self.descriptor)
        self._loop.remove_writer(self.descriptor)

    async def session(self, token: bytes = b"12345678") -> RawPeer:
        """A new session, and an endpoint on it."""
        self.reader = asyncio.StreamReader()
        self.write_raw(self.line.start(token))
        await self.wait_for("accepted")
        peer = RawPeer(self.reader, self)  # type: ignore[arg-type]
        peer.send(envelope.hello({}))
        await asyncio.wait_for(peer.expect(Kind.WELCOME), STEP_SECONDS)
        return peer

    async def wait_for(self, kind: str) -> bytes:
        """The body of the next event of that kind."""
        await until(lambda: any(event[0] == kind for event in self.events))
        index = next(index for index, event in enumerate(self.events) if event[0] == kind)
        body = self.events[index][1]
        del self.events[: index + 1]
        return body

    def _flush(self) -> None:
        try:
            self._out = self._out[os.write(self.descriptor, self._out) :]
        except BlockingIOError:
            pass
        if self._out:
            self._loop.add_writer(self.descriptor, self._flush)
        else:
            self._loop.remove_writer(self.descriptor)

    def _read(self) -> None:
        try:
            data = os.read(self.descriptor, 4096)
        except OSError:
            data = b""
        if not data:
            self.close()
            self.reader.feed_eof()
            return
        for kind, body in self.line.receive(data):
            if kind == "data":
                self.reader.feed_data(body)
            else:
                self.events.append((kind, body))
                if kind != "accepted":
                    self.reader.feed_eof()


@asynccontextmanager
async def pty_line() -> AsyncIterator[tuple[str, GuestLine]]:
    """A terminal whose other end the guest has: the path for busd, and the guest's end."""
    leader, follower = pty.openpty()
    tty.setraw(follower)
    line = GuestLine(leader)
    try:
        yield os.ttyname(follower), line
    finally:
        line.close()
        os.close(leader)
        os.close(follower)


class Chardev:
    """``-chardev socket,server=on``: a VMM that listens and takes one connection at a time."""

    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.listener.setblocking(False)
        self.sockets: list[socket.socket] = []

    async def opened(self) -> GuestLine:
        """The guest's end of the line that busd has opened."""
        peer, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(self.listener), STEP_SECONDS)
        self.sockets.append(peer)
        return GuestLine(peer.fileno())

    def close(self) -> None:
        for each in (*self.sockets, self.listener):
            each.close()


@both
def test_terminal_carries_an_endpoint(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with pty_line() as (path, line), guest_node(tmp_path) as node:
            row = await node.add("vm-1", device=path)
            assert (row["way"], row["address"], row["vmm"]) == ("device", path, None)
            await until_state(node, "vm-1", state="open")
            peer = await line.session()
            (session,) = node.bus.census
            assert (session.principal.boundary, session.principal.unit) == ("guest", "vm-1")
            assert session.principal.pid is None
            body = bytes(range(256)) * 400  # every byte that SLIP and terminals give a meaning to
            peer.send(envelope.subscribe(1, "a", {}), envelope.publish("a", None, body))
            await peer.expect(Kind.REPLY)
            assert (await asyncio.wait_for(peer.expect(Kind.PUBLISH), STEP_SECONDS))[3] == body
            assert (await node.row("vm-1"))["state"] == "connected"

    run(main(), loop)


@both
def test_line_of_a_chardev_is_held_by_its_vmm(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        chardev = Chardev(tmp_path / "c")
        async with guest_node(tmp_path) as node:
            await node.add("vm-1", device=tmp_path / "c")
            line = await chardev.opened()
            peer = await line.session()
            (session,) = node.bus.census
            assert session.principal.pid == os.getpid()
            assert (await node.row("vm-1"))["vmm"]["pid"] == os.getpid()
            peer.send(envelope.ping(1))
            await peer.expect(Kind.PONG)
            line.close()
        chardev.close()

    run(main(), loop)


@both
def test_new_start_ends_the_session_before(tmp_path: Path, loop: str) -> None:
    """The program in the guest was killed in the middle of a record, and started again."""

    async def main() -> None:
        async with pty_line() as (path, line), guest_node(tmp_path) as node:
            await node.add("vm-1", device=path)
            await until_state(node, "vm-1", state="open")
            await line.session()
            line.write_raw(line.line.data(b"x" * 1000)[:500])
            peer = await line.session(b"abcdefgh")
            peer.send(envelope.ping(1))
            await peer.expect(Kind.PONG)
            await until(lambda: len(list(node.bus.census)) == 1)
            assert node.guests.statistics().accepted == 2

    run(main(), loop)


@both
@pytest.mark.parametrize(
    "noise", [b"\xc0\xc0\xff" * 300, b"login: ", b"\xc0D\x00\x00\x00\x00garbage\xc0", b"A" * 50_000]
)
def test_noise_before_and_within_a_session_is_got_over(tmp_path: Path, loop: str, noise: bytes) -> None:
    async def main() -> None:
        async with pty_line() as (path, line), guest_node(tmp_path) as node:
            await node.add("vm-1", device=path)
            await until_state(node, "vm-1", state="open")
            line.write_raw(noise)
            await line.session()
            line.events.clear()
            line.write_raw(noise + b"\xc0")
            assert await line.wait_for("reset")
            await until(lambda: not list(node.bus.census))
            peer = await line.session(b"abcdefgh")
            peer.send(envelope.ping(1))
            await peer.expect(Kind.PONG)

    run(main(), loop)


@both
def test_lost_and_doubled_records_end_the_session(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with pty_line() as (path, line), guest_node(tmp_path) as node:
            await node.add("vm-1", device=path)
            await until_state(node, "vm-1", state="open")
            for number, repeat in enumerate((0, 2)):
                await line.session(b"token--%d" % number)
                line.events.clear()
                line.write_raw(line.line.data(b"\x00") * repeat)
                if not repeat:
                    line.line.data(b"this record is lost")
                    line.write_raw(line.line.data(b"\x00"))
                assert b"lost" in await line.wait_for("reset")
                await until(lambda: not list(node.bus.census))

    run(main(), loop)


@both
def test_guest_that_ends_its_session_leaves(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with pty_line() as (path, line), guest_node(tmp_path) as node:
            await node.add("vm-1", device=path)
            await until_state(node, "vm-1", state="open")
            await line.session()
            line.write_raw(line.line.end())
            await until_state(node, "vm-1", state="open")
            assert not list(node.bus.census)

    run(main(), loop)


@both
def test_removal_says_bye_and_ends_the_session_on_the_line(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with pty_line() as (path, line), guest_node(tmp_path) as node:
            await node.add("vm-1", device=path)
            await until_state(node, "vm-1", state="open")
            peer = await line.session()
            receipt = await node.ask("remove", name="vm-1")
            assert receipt["endpoints"] == 1
            assert (await asyncio.wait_for(peer.ended(), STEP_SECONDS))["code"] == Code.UNIT_UNKNOWN
            await line.wait_for("end")
            await node.add("vm-2", "globex", device=path)
            await until_state(node, "vm-2", state="open")
            await line.session(b"abcdefgh")
            assert [session.principal.tenant for session in node.bus.census] == ["globex"]

    run(main(), loop)


def test_session_of_a_broker_that_was_killed_is_reset(tmp_path: Path) -> None:
    async def main() -> None:
        async with pty_line() as (path, line), guest_node(tmp_path) as node:
            killed = SerialLine("broker")
            killed.receive(line.line.start(b"12345678"))
            line.line.receive(killed.accept(b"12345678"))
            assert line.line.open
            await node.add("vm-1", device=path)
            assert await line.wait_for("reset") == b"the broker opened the line"

    run(main(), "asyncio")


@both
def test_guest_that_does_not_read_its_line_holds_up_only_itself(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with pty_line() as (path, line), guest_node(tmp_path, outbox_bytes=400_000) as node:
            await node.add("vm-1", device=path)
            await node.add("vm-2", device=tmp_path / "absent")
            await until_state(node, "vm-1", state="open")
            peer = await line.session()
            peer.send(envelope.subscribe(1, "a", {}))
            await peer.expect(Kind.REPLY)
            (session,) = node.bus.census
            line.stop_reading()
            for _ in range(200):
                peer.send(envelope.publish("a", None, b"x" * 8000))
            await until(lambda: session.outbox.lost)
            assert session.outbox.bytes <= 400_000
            receipt = await node.ask("remove", name="vm-1")
            assert receipt["queued_bytes"] > 300_000
            await until(lambda: node.guests.statistics().open == 0)

    run(main(), loop)


def test_storm_of_starts_is_slowed_down(tmp_path: Path) -> None:
    async def main() -> None:
        async with pty_line() as (path, line), guest_node(tmp_path, connects=bucket) as node:
            await node.add("vm-1", device=path)
            await until_state(node, "vm-1", state="open")
            for number in range(300):
                line.write_raw(line.line.start(b"%8d" % number))
                await asyncio.sleep(0.001)
            assert node.guests.statistics().accepted <= 3 + 20 * 3
            await until_state(node, "vm-1", state="open")

    def bucket() -> TokenBucket:
        return TokenBucket(rate=20, burst=3)

    run(main(), "asyncio")


@both
def test_line_that_is_not_there_is_waited_for(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            await node.add("vm-1", device=tmp_path / "c")
            row = await until_state(node, "vm-1", state="waiting")
            assert row["error"] == "no such file"
            chardev = Chardev(tmp_path / "c")
            line = await chardev.opened()
            await line.session()
            line.close()
            chardev.sockets.pop().close()
            row = await until_state(node, "vm-1", state="waiting")
            assert row["error"] == "the other side closed the line"
            line = await chardev.opened()
            await line.session()
            line.close()
        chardev.close()

    run(main(), loop)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_text(""), "neither a character device nor a socket"),
        (lambda path: path.mkdir(), "neither a character device nor a socket"),
        (lambda path: path.symlink_to("/dev/null"), "is a symbolic link; give /dev/null"),
        (lambda path: os.mkfifo(path), "neither a character device nor a socket"),
    ],
)
def test_what_is_no_line_is_named(tmp_path: Path, make: Any, said: str) -> None:
    async def main() -> None:
        make(tmp_path / "c")
        async with guest_node(tmp_path) as node:
            await node.add("vm-1", device=tmp_path / "c")
            row = await until_state(node, "vm-1", state="waiting")
            assert said in row["error"]

    run(main(), "asyncio")


def test_a_device_is_one_units(tmp_path: Path) -> None:
    async def main() -> None:
        async with pty_line() as (path, _), guest_node(tmp_path) as node:
            await node.add("vm-1", device=path)
            with pytest.raises(BusError, match="is the way in of unit 'vm-1'"):
                await node.add("vm-2", device=path)

    run(main(), "asyncio")
