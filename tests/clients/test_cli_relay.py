"""``bus relay``: stock ZeroMQ programs through it to a real node."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import busclient
from busclient.blocking import connect
from busproto import envelope
from busproto.zmtp import ZmtpConnection, frame_header
from tests.clients.cli_support import SECONDS, Cli
from tests.clients.line_support import Line
from tests.conformance.dealer import CALL, PUBLISH, REPLY, SERVE, SUBSCRIBE, Dealer
from tests.support import RunningNode, running_node, wait_until

MIB = 1 << 20
MANIFEST: dict[str, Any] = {"component": "guest-agent", "owner": "tests", "purpose": "tries the relay"}


class Relayed:
    """A relay that runs: where programs connect to, and its process."""

    def __init__(self, path: Path, process: "subprocess.Popen[bytes]") -> None:
        self.path = path
        self.url = f"ipc://{path}"
        self.process = process

    def stop(self, number: int = signal.SIGTERM) -> str:
        """End it, which must go well; what it said on standard error."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == 0, said.decode()
        return said.decode()


@contextmanager
def relaying(directory: Path, to: str, *words: str) -> Iterator[Relayed]:
    """A relay until the end of the block."""
    path = directory / "relay.sock"
    bus = Cli("unix:///nowhere")
    with bus.running("relay", "--listen", f"ipc://{path}", "--to", to, *words) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready == {"event": "ready", "listen": f"ipc://{path}", "to": to, "pid": process.pid}
        yield Relayed(path, process)


def test_a_stock_dealer_is_an_endpoint_behind_a_relay(shared_node: RunningNode, tmp_path: Path) -> None:
    with relaying(tmp_path, shared_node.url) as relay, Dealer(relay.url, **MANIFEST) as one:
        with Dealer(relay.url, **MANIFEST) as two, connect(shared_node.url, **MANIFEST) as direct:
            assert len({one.name, two.name, direct.endpoint}) == 3
            one.send([SERVE, 1, "re1.echo", {}])
            one.expect(REPLY)
            two.send([CALL, 2, "re1.echo", 5000, None, envelope.pack("through two relays")])
            call = one.expect(CALL)
            one.send([REPLY, call.fields[1], 0, None, call.fields[5]])
            assert two.expect(REPLY).fields[4] == envelope.pack("through two relays")
            one.send([SUBSCRIBE, 3, "re1.sub", {}])
            one.expect(REPLY)
            payload = os.urandom(5 * MIB)
            direct.publish("re1.sub", payload)
            got = one.expect(PUBLISH)
            assert envelope.unpack(got.fields[3]) == payload
            assert got.origin == direct.endpoint
        said = relay.stop()
        assert said == ""
        assert not relay.path.exists()


def test_the_sdk_through_a_relay_and_statistics(shared_node: RunningNode, tmp_path: Path) -> None:
    with relaying(tmp_path, shared_node.url, "-v") as relay:
        with connect(f"unix://{relay.path}", **MANIFEST) as bus:
            assert bus.call("$bus.ping").payload["endpoint"]
        said = relay.stop(signal.SIGINT)
        assert "0 open, 1 accepted, 0 refused, 0 failed;" in said


def test_a_hundred_connections(shared_node: RunningNode, tmp_path: Path) -> None:
    async def one(url: str, number: int) -> int:
        async with busclient.connect(url, **MANIFEST) as bus, bus.subscribe(f"re2.n{number}") as sub:
            await together.wait()
            await bus.publish(f"re2.n{number}", number)
            return int((await anext(sub)).payload)

    async def main(url: str) -> None:
        assert await asyncio.wait_for(asyncio.gather(*[one(url, number) for number in range(100)]), SECONDS) == list(
            range(100)
        )

    together = asyncio.Barrier(100)
    with relaying(tmp_path, shared_node.url) as relay:
        asyncio.run(main(f"unix://{relay.path}"))


def raw(path: Path) -> socket.socket:
    """A program that speaks ZMTP by hand, as one in C would."""
    program = socket.socket(socket.AF_UNIX)
    program.settimeout(SECONDS)
    program.connect(str(path))
    return program


def test_a_program_that_ends_its_side_still_gets_what_comes(tmp_path: Path) -> None:
    """Half-close both ways, against a listener of our own."""
    with listening(tmp_path / "up.sock") as upstream, relaying(tmp_path, f"unix://{tmp_path}/up.sock") as relay:
        with raw(relay.path) as program:
            far, _ = upstream.accept()
            with far:
                program.sendall(b"question")
                program.shutdown(socket.SHUT_WR)
                assert read_all(far) == b"question"
                far.sendall(b"answer")
                far.shutdown(socket.SHUT_WR)
                assert read_all(program) == b"answer"
        with raw(relay.path) as program:
            far, _ = upstream.accept()
            far.sendall(b"last words")
            far.close()
            assert read_all(program) == b"last words"


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(SECONDS)
        listener.bind(str(path))
        listener.listen()
        yield listener


def read_all(peer: socket.socket) -> bytes:
    data = b""
    peer.settimeout(SECONDS)
    while piece := peer.recv(65536):
        data += piece
    return data


def test_nobody_reads_nobody_pays(tmp_path: Path) -> None:
    """A side that does not read is waited for; what the relay holds meanwhile is bounded."""
    count, payload = 8, bytes(MIB)
    with listening(tmp_path / "up.sock") as upstream, relaying(tmp_path, f"unix://{tmp_path}/up.sock") as relay:
        process = psutil.Process(relay.process.pid)
        pairs = []
        for _ in range(count):
            program = raw(relay.path)
            pairs.append((program, upstream.accept()[0]))
        before = process.memory_info().rss
        stuffed = []
        for pair in pairs:
            for end in pair:
                end.setblocking(False)
                stuffed.append(stuff(end, payload))
        grown = process.memory_info().rss - before
        assert max(stuffed) < 4 * MIB
        assert grown < count * 2 * 256 * 1024 + 4 * MIB
        # All of it arrives once someone reads.
        for (program, far), (up, down) in zip(pairs, zip(stuffed[::2], stuffed[1::2], strict=True), strict=True):
            assert len(drain(far, up)) == up
            assert len(drain(program, down)) == down
            program.close()
            far.close()


def stuff(end: socket.socket, payload: bytes) -> int:
    """Send until nothing more is taken for a while."""
    sent, quiet = 0, time.monotonic()
    while time.monotonic() - quiet < 0.1:
        try:
            sent += end.send(payload)
            quiet = time.monotonic()
        except BlockingIOError:
            time.sleep(0.005)
    return sent


def drain(end: socket.socket, count: int) -> bytes:
    data = bytearray()
    end.settimeout(SECONDS)
    while len(data) < count:
        data += end.recv(65536)
    return bytes(data)


def test_the_broker_is_killed_and_comes_back(tmp_path: Path) -> None:
    run_dir = tmp_path / "node"
    with relaying(tmp_path, f"unix://{run_dir}/host.sock") as relay, ExitStack() as stack:
        with running_node(run_dir) as node:
            bus = stack.enter_context(connect(f"unix://{relay.path}", **MANIFEST))
            assert bus.call("$bus.ping").payload["endpoint"]
            node.process.kill()
            node.process.wait()
        with raw(relay.path) as program:  # closed at once
            assert program.recv(1) == b""
        with running_node(run_dir):
            wait_until(lambda: bus.state == "connected", what="the reconnect")
            assert bus.call("$bus.ping").payload["endpoint"]
        said = relay.stop()
        assert f"bus relay: a connection was closed: unix://{run_dir}/host.sock" in said
        assert len(said.splitlines()) < 10  # though it tried many times


def test_a_serial_line_carries_one(shared_node: RunningNode, tmp_path: Path) -> None:
    with Line(shared_node.url.removeprefix("unix://")) as line:
        with relaying(tmp_path, f"serial://{line.device}") as relay:
            with Dealer(relay.url, **MANIFEST) as one:
                with raw(relay.path) as second:
                    assert second.recv(1) == b""
                one.send([SERVE, 1, "re3.x", {}])
                one.expect(REPLY)
            wait_until(lambda: not line.session, what="the end of the session")
            with Dealer(relay.url, **MANIFEST) as two:
                assert two.name
            assert "a connection was refused: 1 open (the line carries one)" in relay.stop()
        assert line.sessions == 2


def test_more_than_may_be(shared_node: RunningNode, tmp_path: Path) -> None:
    with relaying(tmp_path, shared_node.url, "--connections", "2") as relay:
        with connect(f"unix://{relay.path}", **MANIFEST), connect(f"unix://{relay.path}", **MANIFEST):
            for _ in range(20):
                with raw(relay.path) as third:
                    assert third.recv(1) == b""
        said = relay.stop()
        assert said.count("a connection was refused: 2 open (--connections 2)") == 1


def test_permissions_and_who_is_there_already(shared_node: RunningNode, tmp_path: Path) -> None:
    bus = Cli("unix:///nowhere")
    words = ("relay", "--listen", str(tmp_path / "relay.sock"), "--to", shared_node.url)
    with relaying(tmp_path, shared_node.url, "--mode", "0600") as relay:
        assert stat.S_IMODE(relay.path.stat().st_mode) == 0o600
        ended = bus(*words)
        assert ended.returncode == 1
        assert b"BUS-7005 listen-failed" in ended.stderr
        assert b"another process listens on it" in ended.stderr
        relay.process.kill()
        relay.process.wait()
        assert relay.path.exists()
    with relaying(tmp_path, shared_node.url) as relay:  # a dead one is replaced
        assert stat.S_IMODE(relay.path.stat().st_mode) == 0o660
        relay.path.unlink()
        relay.path.write_text("someone else's")
        relay.stop()
        assert relay.path.read_text() == "someone else's"
    ended = bus(*words)
    assert ended.returncode == 1
    assert b"something that is not a socket is there" in ended.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--to", "unix:///x"), "--listen is missing"),
        (("--listen", "/x"), "--to is missing"),
        (("--listen", "vsock://2:3", "--to", "unix:///x"), "unix sockets only"),
        (("--listen", "ipc://x", "--to", "unix:///x"), "three slashes"),
        (("--listen", "ipc://@x", "--to", "unix:///x"), "three slashes"),
        (("--listen", "/x", "--to", "tcp://h:5"), "libzmq can connect to tcp:// itself"),
        (("--listen", "/x", "--to", "vsock://h:5"), "the CID 'h' is not a number"),
        (("--listen", "ipc:///x", "--to", "unix:///x"), "the relay would connect to itself"),
        (("--listen", "/x", "--to", "unix:///y", "--mode", "888"), "'888' is not a mode"),
        (("--listen", "/x", "--to", "unix:///y", "--connections", "0"), "must be at least 1"),
    ],
)
def test_what_it_does_not_take(words: tuple[str, ...], reason: str) -> None:
    ended = Cli("unix:///nowhere")("relay", *words)
    assert ended.returncode == 2
    assert reason in ended.stderr.decode()


def test_the_end_of_a_busy_relay(tmp_path: Path) -> None:
    """SIGTERM while data flows and nobody reads: it ends within seconds, with everything closed."""
    with listening(tmp_path / "up.sock") as upstream, relaying(tmp_path, f"unix://{tmp_path}/up.sock") as relay:
        with raw(relay.path) as program:
            far, _ = upstream.accept()
            program.setblocking(False)
            stuff(program, bytes(MIB))
            start = time.monotonic()
            relay.stop()
            assert time.monotonic() - start < 10
            with far:
                assert read_all(far)
        assert not relay.path.exists()


def test_zmtp_by_hand(shared_node: RunningNode, tmp_path: Path) -> None:
    """A client with nothing but a socket: the bytes pass as they are."""
    with relaying(tmp_path, shared_node.url) as relay, raw(relay.path) as program:
        zmtp = ZmtpConnection("client", socket_type="DEALER", peers=frozenset({"ROUTER"}))
        program.sendall(zmtp.data_to_send())
        while not zmtp.ready:
            zmtp.receive(program.recv(4096))
            program.sendall(zmtp.data_to_send())
        hello = envelope.hello(MANIFEST)
        for byte in frame_header(len(hello)) + hello:  # one at a time
            program.sendall(bytes((byte,)))
        frames: list[bytes] = []
        while not frames:
            frames += zmtp.receive(program.recv(4096))
        assert frames[0][1] == envelope.Kind.WELCOME


def test_programs_that_come_while_the_relay_waits_for_the_broker(tmp_path: Path) -> None:
    """Connections that nobody answers are closed after the handshake's time, and others are served meanwhile."""
    silent = tmp_path / "up.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(silent))
        listener.listen(0)
        with relaying(tmp_path, f"unix://{silent}") as relay:
            fill = [raw_now(silent) for _ in range(3)]
            ends: list[bytes] = []
            with raw(relay.path) as one:
                thread = threading.Thread(target=lambda: ends.append(one.recv(1)))
                thread.start()
                thread.join(SECONDS)
            assert ends == [b""]
            for each in fill:
                each.close()
            assert "no answer in 2 s" in relay.stop()


def raw_now(path: Path) -> socket.socket:
    program = socket.socket(socket.AF_UNIX)
    program.setblocking(False)
    program.connect_ex(str(path))
    return program
