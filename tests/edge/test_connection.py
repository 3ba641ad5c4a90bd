"""One connection on a real unix socket, on both event loops."""

import asyncio
import gc
import os
import time
from pathlib import Path

import pytest

from busd.core.account import Rates
from busd.core.principal import Principal
from busd.core.session import Session
from busd.core.units import Unit
from busd.edge.connection import Connection
from busproto import envelope
from busproto.envelope import Kind, Status
from busproto.zmtp import frame_header
from tests.bench.peers.busd import BusdHandshake
from tests.edge.raw import RawPeer, descriptors, listening, loops, run
from tests.support import no_collection

pytestmark = pytest.mark.parametrize("loop", sorted(loops()))


def test_publish_and_call_go_through(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s") as node:
            one, two = await node.peer(), await node.peer()
            two.send(envelope.subscribe(1, "a.>", {}), envelope.serve(2, "echo", {}))
            await two.expect(Kind.REPLY)
            await two.expect(Kind.REPLY)
            one.send(envelope.publish("a.b", None, b"hi"), envelope.call(1, "echo", 1000, None, b"?"))
            assert (await two.expect(Kind.PUBLISH))[3] == b"hi"
            request = await two.expect(Kind.CALL)
            two.send(envelope.reply(request[1], Status.OK, None, b"!"))
            assert await one.expect(Kind.REPLY) == [Kind.REPLY, 1, Status.OK, None, b"!"]
            one.close()
            two.close()

    run(main(), loop)


def test_what_arrives_together_leaves_together(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s") as node:
            sender, receiver = await node.peer(), await node.peer()
            receiver.send(envelope.subscribe(1, "a", {}))
            await receiver.expect(Kind.REPLY)
            for index in range(10):
                sender.send(envelope.publish("a", None, b"%d" % index))
            await sender.writer.drain()
            frames: list[bytes] = []
            while not frames:
                frames = receiver.zmtp.receive(await receiver.reader.read(1 << 16))
            assert len(frames) == 1
            assert frames[0].count(b"host-1") == 1

    run(main(), loop)


@pytest.mark.parametrize("size", [60_000, 65_536, 70_000, 300_000, 5_000_000])
def test_large_payloads_arrive_whole_and_in_order(tmp_path: Path, loop: str, size: int) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s") as node:
            sender, receiver = await node.peer(), await node.peer()
            receiver.send(envelope.subscribe(1, "a", {}))
            await receiver.expect(Kind.REPLY)
            body = os.urandom(1000) * (size // 1000)
            for number in (b"1", b"2"):
                sender.send(envelope.publish("a", None, number))
                sender.send(envelope.publish("a", None, number + body))
            sender.send(envelope.publish("a", None, b"end"))
            for number in (b"1", b"2"):
                assert (await receiver.expect(Kind.PUBLISH))[3] == number
                assert bytes((await receiver.expect(Kind.PUBLISH))[3]) == number + body
            assert (await receiver.expect(Kind.PUBLISH))[3] == b"end"

    run(main(), loop)


def test_a_guest_that_says_all_at_once_is_answered_in_order(tmp_path: Path, loop: str) -> None:
    """READY waited until all that had been read was handled, and what the bus had to say went ahead of it."""

    async def main() -> None:
        async with listening(tmp_path / "s", rates=Rates(loop=0.5)) as node:
            node.bus.add_unit(Unit("vm", "acme", 1))
            node.principal = Principal("guest", "acme", "vm", 1)
            for _ in range(5):
                reader, writer = await asyncio.open_unix_connection(str(node.path))
                client = BusdHandshake()
                calls = b"".join(envelope.call(n, "nobody", 1000, None, b"") for n in range(1, 20))
                writer.write(client.opening() + 30 * (frame_header(len(calls)) + calls))
                received = bytearray()
                while not client.attached(received):  # raises if anything comes before READY
                    received += await reader.readexactly(1)
                writer.transport.abort()

    run(main(), loop)


def test_bytes_one_by_one_are_understood(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s") as node:
            peer = await node.peer(hello=False)
            data = peer.zmtp.data_to_send()
            assert data == b""
            peer.send(envelope.hello({}))
            await peer.expect(Kind.WELCOME)
            body = envelope.ping(7)
            for byte in bytes((0, len(body))) + body:
                peer.writer.write(bytes((byte,)))
                await asyncio.sleep(0)
            assert await peer.expect(Kind.PONG) == [Kind.PONG, 7]

    run(main(), loop)


def test_violation_of_the_envelope_is_named_in_bye(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s") as node:
            peer = await node.peer()
            peer.send(b"\xc1")
            assert (await peer.ended())["code"] == 1010
            assert node.reports[0][0] == "endpoint-cut-off"
            assert node.reports[0][1]["uid"] == os.getuid()
            assert node.reports[0][1]["code"] == 1010

    run(main(), loop)


def test_violation_of_zmtp_is_named_in_bye_after_what_came_before(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s") as node:
            peer = await node.peer()
            body = envelope.ping(7)
            peer.writer.write(bytes((0, len(body))) + body + b"\x01\x05never")
            assert await peer.expect(Kind.PONG) == [Kind.PONG, 7]
            assert (await peer.ended())["code"] == 1006

    run(main(), loop)


def test_not_zmtp_is_closed(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s") as node:
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            rest = await reader.read()
            assert rest.startswith(b"\xff")
            writer.close()
            assert node.reports[0][1]["code"] == 1001

    run(main(), loop)


def test_silent_peer_is_cut_at_the_deadline(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s", handshake_seconds=0.1) as node:
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
            await reader.read()
            writer.close()
            ((name, fields),) = node.reports
            assert (name, fields["code"], fields["reason"]) == ("endpoint-cut-off", 1007, "handshake-timeout")
            assert "greeting" in fields["error"]

    run(main(), loop)


def test_peer_that_never_reads_its_bye_is_cut_anyway(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s") as node:
            sender, stuck = await node.peer(), await node.peer()
            stuck.send(envelope.subscribe(1, "a", {}))
            await stuck.expect(Kind.REPLY)
            stuck.reader._transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(40):
                sender.send(envelope.publish("a", None, b"x" * 100_000))
            await sender.writer.drain()
            sender.send(envelope.ping(1))
            await sender.expect(Kind.PONG)
            stuck.writer.write(b"\x00\x01\xc1")
            while node.admission.statistics().open > 1:
                await asyncio.sleep(0.01)
            assert node.reports[0][1]["code"] == 1010

    run(main(), loop)


def test_peer_that_reads_late_still_gets_its_bye(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s") as node:
            sender, late = await node.peer(), await node.peer()
            late.send(envelope.subscribe(1, "a", {}))
            await late.expect(Kind.REPLY)
            late.reader._transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(40):
                sender.send(envelope.publish("a", None, b"x" * 100_000))
            await sender.writer.drain()
            late.writer.write(b"\x00\x01\xc1")
            sender.send(envelope.ping(1))
            await sender.expect(Kind.PONG)
            late.reader._transport.resume_reading()  # type: ignore[attr-defined]
            while (message := await late.receive())[0] == Kind.PUBLISH:
                pass
            assert message[0] == Kind.BYE
            assert message[1]["code"] == 1010

    run(main(), loop)


def test_slow_reader_gets_its_gap_and_what_follows(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s", outbox_bytes=1 << 20) as node:
            sender, slow = await node.peer(), await node.peer()
            slow.send(envelope.subscribe(1, "a", {}))
            await slow.expect(Kind.REPLY)
            slow.reader._transport.pause_reading()  # type: ignore[attr-defined]
            published = 400
            for index in range(published):
                sender.send(envelope.publish("a", None, b"%06d" % index + b"x" * 10_000))
                if index % 20 == 0:
                    await sender.writer.drain()
            sender.send(envelope.ping(1))
            await sender.expect(Kind.PONG)
            (session,) = [session for session in node.bus.census if session.subscriptions]
            assert session.outbox.statistics().peak_bytes <= 1 << 20
            slow.reader._transport.resume_reading()  # type: ignore[attr-defined]
            delivered: list[int] = []
            while True:
                message = await slow.receive()
                if message[0] == Kind.GAP:
                    break
                delivered.append(int(message[3][:6]))
            assert delivered == list(range(len(delivered)))
            assert message == [Kind.GAP, 1, published - len(delivered), "outbox-bytes"]
            sender.send(envelope.publish("a", None, b"after"))
            assert (await slow.expect(Kind.PUBLISH))[3] == b"after"

    run(main(), loop)


def test_nothing_is_left_of_a_thousand_connections(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s") as node:
            warm = await node.peer()
            before = descriptors()
            for _ in range(20):
                peers: list[RawPeer] = [await node.peer() for _ in range(50)]
                for peer in peers:
                    peer.close()
                    await peer.writer.wait_closed()
            while node.admission.statistics().open > 1 or descriptors() > before:
                await asyncio.sleep(0.001)
            warm.send(envelope.ping(1))
            await warm.expect(Kind.PONG)
            assert node.bus.statistics().departures == {("host", "connection-lost"): 1000}

    run(main(), loop)


def test_pings_of_a_peer_that_does_not_read_pile_up_nowhere(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s") as node:
            watcher, flooder = await node.peer(), await node.peer()
            flooder.reader._transport.pause_reading()  # type: ignore[attr-defined]
            (connection,) = (c for c in node.admission._connections if c.session.name == "host-2")
            ping = b"\x04\x17\x04PING\x00\x00" + b"c" * 16
            for _ in range(40):
                flooder.writer.write(ping * 2000)
                await flooder.writer.drain()
            watcher.send(envelope.ping(1))
            await watcher.expect(Kind.PONG)
            assert connection._transport is not None
            assert connection._transport.get_write_buffer_size() < 512 * 1024

    run(main(), loop)


def test_quiet_bus_sleeps_after_a_quick_exchange(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s") as node:
            peer = await node.peer()
            (session,) = node.bus.census
            for number in range(1, 40):  # it may have polled in vain when the peer came, and lets some pass then
                node.pump.receive(session, [envelope.ping(number)])
            assert node.pump._polling
            for number in (1, 2):
                assert await peer.expect(Kind.PONG) == [Kind.PONG, number]
            await asyncio.sleep(0.05)
            assert not node.pump._polling
            busy = time.process_time()
            await asyncio.sleep(0.3)
            assert time.process_time() - busy < 0.1

    run(main(), loop)


@pytest.mark.parametrize("boundary", ["host", "guest"])
def test_a_connection_that_is_gone_leaves_no_garbage(tmp_path: Path, loop: str, boundary: str) -> None:
    """Megabytes of half a frame, charged to nobody any more, waited for a full collection."""

    def standing() -> list[object]:
        return [each for each in gc.get_objects() if isinstance(each, Connection | Session)]

    async def main() -> None:
        async with listening(tmp_path / "s", rates=Rates(loop=0.5)) as node:
            if boundary == "guest":
                node.bus.add_unit(Unit("vm", "acme", 1))
                node.principal = Principal("guest", "acme", "vm", 1)
            with no_collection():
                before = len(standing())
                peer = await node.peer()
                peer.send(envelope.serve(1, "a", {}), envelope.subscribe(2, "a", {}), envelope.publish("a", None, b""))
                for kind in (Kind.REPLY, Kind.REPLY, Kind.PUBLISH):
                    await peer.expect(kind)
                peer.writer.write(frame_header(1 << 20) + bytes(1 << 19))
                while not any(session.held_bytes for session in node.bus.census):
                    await asyncio.sleep(0.01)
                assert len(standing()) == before + 2
                peer.writer.transport.abort()
                while len(standing()) > before:
                    await asyncio.sleep(0.01)

    run(main(), loop)
