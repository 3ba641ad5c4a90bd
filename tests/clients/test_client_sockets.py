"""The SDK on a real node over a real socket, on asyncio's event loop and on uvloop's."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import busclient
from busclient import Bus, BusError, Call, Code, Gap, NotConnected, Overloaded, UnknownOutcome
from busclient.link import Link, LinkReceiver
from busproto import envelope
from busproto.zmtp import ZmtpConnection, frame_header
from tests.support import RunningNode, environment, wait_until

Run = Callable[[Coroutine[Any, Any, None]], None]

SECONDS = 20.0
"""No test here takes longer; the machine may be busy."""


def on_asyncio(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(asyncio.wait_for(work, SECONDS))


def on_uvloop(work: Coroutine[Any, Any, None]) -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(work, SECONDS))


@pytest.fixture(params=[on_asyncio, on_uvloop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on one of the two event loops."""
    runner: Run = request.param
    return runner


async def echo(call: Call) -> Any:
    return call.payload


# -- the whole of it --------------------------------------------------------------------------------------------------


def test_everything_once(shared_node: RunningNode, run: Run) -> None:
    async def count(call: Call) -> AsyncIterator[int]:
        for n in range(call.payload):
            yield n

    async def main() -> None:
        async with (
            busclient.connect(shared_node.url, component="one", owner="tests") as one,
            busclient.connect(shared_node.url.removeprefix("unix://"), component="two") as two,
        ):
            assert one.endpoint != two.endpoint
            async with one.subscribe("t1.>") as sub, two.serve("t1.echo", echo), two.serve("t1.count", count):
                for n in range(1000):
                    await two.publish("t1.n", n)
                assert [(await anext(sub)).payload for _ in range(1000)] == list(range(1000))
                assert (await one.call("t1.echo", {"a": 1}, timeout=5.0)).payload == {"a": 1}
                replies = await asyncio.gather(*[one.call("t1.echo", n) for n in range(500)])
                assert [reply.payload for reply in replies] == list(range(500))
                assert [part.payload async for part in one.stream("t1.count", 2000)] == list(range(2000))
                async for part in one.stream("t1.count", 100_000):
                    if part.payload == 3:
                        break
                listed = (await one.call("$bus.list")).payload["endpoints"]
                assert {one.endpoint, two.endpoint} <= {row["endpoint"] for row in listed}
                assert {"one", "two"} <= {row["claims"].get("component") for row in listed}

    run(main())


@pytest.mark.parametrize("size", [100, 65_000, 66_000, 300_000, 16 * 1024 * 1024 - 16])
def test_payloads_of_every_size_cross_whole(shared_node: RunningNode, run: Run, size: int) -> None:
    async def main() -> None:
        payload = os.urandom(1000) * (size // 1000 + 1)
        payload = payload[:size]
        async with (
            busclient.connect(shared_node.url) as bus,
            bus.serve("t2.echo", echo),
            bus.subscribe("t2.sub") as sub,
        ):
            assert (await bus.call("t2.echo", payload)).payload == payload
            await bus.publish("t2.sub", payload)
            await bus.publish("t2.sub", "after it")
            assert (await anext(sub)).data == envelope.pack(payload)
            assert (await anext(sub)).payload == "after it"

    run(main())


def test_a_publisher_waits_for_a_connection_that_takes_no_more(shared_node: RunningNode, run: Run) -> None:
    async def main() -> None:
        async with busclient.connect(shared_node.url) as bus:
            shared_node.process.send_signal(signal.SIGSTOP)  # nobody reads
            try:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        while True:
                            await bus.publish("t3.x", bytes(50_000))
                with pytest.raises(Overloaded) as caught:
                    while True:
                        bus.publish_nowait("t3.x", bytes(1_000_000))
                assert caught.value.fields["used"] > caught.value.fields["limit"] == 32 << 20
                with pytest.raises(busclient.CallTimeout):
                    await bus.call("t3.y", timeout=0.2)
            finally:
                shared_node.process.send_signal(signal.SIGCONT)
            await bus.flush()
            assert (await bus.call("$bus.ping")).payload["node"]

    run(main())


def test_a_timeout_is_kept_when_the_broker_hangs(shared_node: RunningNode, run: Run) -> None:
    async def main() -> None:
        async with busclient.connect(shared_node.url) as bus:
            shared_node.process.send_signal(signal.SIGSTOP)
            try:
                start = bus.time()
                with pytest.raises(busclient.CallTimeout):
                    await bus.call("$bus.ping", timeout=0.3)
                assert 0.3 <= bus.time() - start < 2.0
            finally:
                shared_node.process.send_signal(signal.SIGCONT)
            assert (await bus.call("$bus.ping")).payload["node"]

    run(main())


def test_a_program_that_computed_for_a_while_does_not_lose_the_time_of_its_next_call(
    shared_node: RunningNode, run: Run
) -> None:
    import time

    async def main() -> None:
        async with busclient.connect(shared_node.url) as bus:
            time.sleep(0.6)  # uvloop's own clock stands still meanwhile
            await bus.call("$bus.ping", timeout=0.3)

    run(main())


def test_messages_are_lost_only_with_a_gap_when_the_program_does_not_read(shared_node: RunningNode, run: Run) -> None:
    async def main() -> None:
        async with (
            busclient.connect(shared_node.url) as sender,
            busclient.connect(shared_node.url) as receiver,
            receiver.subscribe("t4.x", gaps="yield", max_pending=100) as sub,
        ):
            for n in range(1000):
                await sender.publish("t4.x", n)
            await sender.flush()
            await receiver.flush()
            received: list[int] = []
            lost = 0
            while len(received) + lost < 1000:
                item = await anext(sub)
                if isinstance(item, Gap):
                    assert item.count is not None
                    assert item.reason == "local-queue"
                    lost += item.count
                else:
                    received.append(item.payload)
            assert received == list(range(100))
            assert lost == 900

    run(main())


def test_a_stream_that_is_dropped_by_another_thread_is_cancelled_all_the_same(
    shared_node: RunningNode, run: Run
) -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def forever(call: Call) -> AsyncIterator[int]:
            try:
                while True:
                    yield 1
                    await asyncio.sleep(0.001)
            finally:
                ended.set()

        async with busclient.connect(shared_node.url) as bus, bus.serve("t5.forever", forever):
            streams = [bus.stream("t5.forever")]
            await anext(streams[0])
            thread = threading.Thread(target=streams.clear)
            thread.start()
            thread.join()
            await ended.wait()

    run(main())


# -- no bus there -----------------------------------------------------------------------------------------------------


def refused(url: str, run: Run) -> BusError:
    async def main() -> None:
        async with busclient.connect(url):
            pass

    with pytest.raises(BusError) as caught:
        run(main())
    return caught.value


def test_no_such_socket(tmp_path: Path, run: Run) -> None:
    error = refused(f"unix://{tmp_path}/none.sock", run)
    assert isinstance(error, NotConnected)
    assert "no such socket" in error.text
    assert str(tmp_path) in error.text
    assert "busd run" in error.cure


def test_nobody_listens(tmp_path: Path, run: Run) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "old.sock"))
    error = refused(str(tmp_path / "old.sock"), run)
    assert isinstance(error, NotConnected)
    assert "nobody listens" in error.text


def test_a_file_that_is_no_socket(tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").write_text("hello")
    assert isinstance(refused(str(tmp_path / "file"), run), NotConnected)


def test_no_permission(run: Run) -> None:
    async def forbidden(url: str, receiver: LinkReceiver) -> Link:
        raise PermissionError(errno.EACCES, "Permission denied")  # what connect(2) gives anyone but root

    async def main() -> None:
        with pytest.raises(NotConnected, match="this user may not connect"):
            await Bus("unix:///run/busd/host.sock", {}, connector=forbidden).open()

    run(main())


class listening:  # noqa: N801  (a context manager)
    """A unix socket whose peers are handled by ``handle`` in a thread; by nobody, if None."""

    def __init__(self, path: Path, handle: Callable[[socket.socket], None] | None = None, backlog: int = 5) -> None:
        self._path = path
        self._handle = handle
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(backlog)
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        assert self._handle is not None
        try:
            while True:
                peer, _ = self._socket.accept()
                with peer:
                    self._handle(peer)
        except OSError:
            return

    def __enter__(self) -> Path:
        if self._handle is not None:
            self._thread.start()
        return self._path

    def __exit__(self, *exc_info: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._handle is not None:
            self._thread.join()


def test_the_other_side_is_something_else(tmp_path: Path, run: Run) -> None:
    def http(peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" + bytes(64))
        peer.recv(1000)

    with listening(tmp_path / "s.sock", http) as path:
        error = refused(str(path), run)
        assert error.code == Code.ZMTP_GREETING


def test_the_other_side_hangs_up(tmp_path: Path, run: Run) -> None:
    with listening(tmp_path / "s.sock", lambda peer: None) as path:
        assert isinstance(refused(str(path), run), NotConnected)


def test_the_other_side_says_nothing(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busclient.connector.HANDSHAKE_SECONDS", 0.2)
    with listening(tmp_path / "s.sock") as path:
        error = refused(str(path), run)
        assert error.code == Code.HANDSHAKE_TIMEOUT


def test_the_listeners_backlog_is_full(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busclient.connector.HANDSHAKE_SECONDS", 0.2)
    with listening(tmp_path / "s.sock", backlog=0) as path:
        waiting = []
        for _ in range(3):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            try:
                client.connect(str(path))
            except BlockingIOError:
                pass
            waiting.append(client)
        error = refused(str(path), run)
        assert error.code == Code.HANDSHAKE_TIMEOUT
        for client in waiting:
            client.close()


def speak(peer: socket.socket, *frames: bytes) -> None:
    """Be a broker that sends ``frames`` after the client's hello, then waits for its end."""
    zmtp = ZmtpConnection("server", socket_type="ROUTER", peers=frozenset({"DEALER"}))
    peer.sendall(zmtp.data_to_send())
    while not zmtp.receive(peer.recv(10_000)):
        peer.sendall(zmtp.data_to_send())
    for frame in frames:
        peer.sendall(frame_header(len(frame)) + frame)
    while peer.recv(10_000):
        pass


def test_the_broker_refuses_this_client(tmp_path: Path, run: Run) -> None:
    body = BusError(Code.TOO_MANY_CONNECTIONS, used=5, limit=5, holder="node").body()
    with listening(tmp_path / "s.sock", lambda peer: speak(peer, envelope.bye(body))) as path:
        error = refused(str(path), run)
        assert error.code == Code.TOO_MANY_CONNECTIONS
        assert "5 of the 5" in error.text


def test_the_broker_speaks_another_version(tmp_path: Path, run: Run) -> None:
    with listening(tmp_path / "s.sock", lambda peer: speak(peer, envelope.welcome(99, "e", {}))) as path:
        error = refused(str(path), run)
        assert "protocol version 99" in error.text


def test_the_broker_breaks_zmtp_in_the_middle(tmp_path: Path, run: Run) -> None:
    def handle(peer: socket.socket) -> None:
        zmtp = ZmtpConnection("server", socket_type="ROUTER", peers=frozenset({"DEALER"}))
        peer.sendall(zmtp.data_to_send())
        while not zmtp.receive(peer.recv(10_000)):
            peer.sendall(zmtp.data_to_send())
        welcome = envelope.welcome(1, "e", {})
        peer.sendall(frame_header(len(welcome)) + welcome)
        peer.recv(10_000)
        peer.sendall(b"\xf8" * 20)
        while peer.recv(10_000):
            pass

    async def main(path: Path) -> None:
        async with busclient.connect(str(path), reconnect=False) as bus:
            with pytest.raises(UnknownOutcome):
                await bus.call("a")
            assert bus.state == "closed"

    with listening(tmp_path / "s.sock", handle) as path:
        run(main(path))


# -- a broker that is killed ------------------------------------------------------------------------------------------


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


def start_node(run_dir: Path) -> "subprocess.Popen[bytes]":
    """``busd run``, returned when it listens."""
    command = [sys.executable, "-m", "busd", "run", "--run-dir", str(run_dir), "--http-listen", "off"]
    command += ["--manifest", "allow"]
    process = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: listens(run_dir / "host.sock") or process.poll() is not None, what="the node")
    assert process.poll() is None
    return process


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def test_kill_minus_9_and_restart_under_traffic(run_dir: Path, run: Run) -> None:
    """Clients are back within a second of its return, and every call has ended in a definite outcome."""
    outcomes: dict[str, int] = {}

    async def caller(bus: busclient.Bus, until: asyncio.Event) -> None:
        while not until.is_set():
            try:
                await bus.call("t.echo", 1, timeout=5.0)
                name = "reply"
            except BusError as error:
                name = type(error).__name__
            outcomes[name] = outcomes.get(name, 0) + 1
            if bus.state != "connected":
                await bus.connected()

    async def main() -> None:
        process = await asyncio.to_thread(start_node, run_dir)
        done = asyncio.Event()
        url = f"unix://{run_dir}/host.sock"
        try:
            async with (
                busclient.connect(url, component="caller") as bus,
                busclient.connect(url, component="responder") as responder,
                busclient.connect(url, component="hanging") as hanging,
                responder.serve("t.echo", echo),
                hanging.serve("t.hang", hang),
                bus.subscribe("t.tick", gaps="yield") as sub,
            ):
                callers = [asyncio.create_task(caller(bus, done)) for _ in range(20)]
                hung = [asyncio.create_task(bus.call("t.hang", timeout=60.0)) for _ in range(5)]
                await asyncio.sleep(0.3)
                process.kill()
                await asyncio.to_thread(process.wait)
                ended = await asyncio.gather(*hung, return_exceptions=True)
                assert [type(outcome) for outcome in ended] == [UnknownOutcome] * 5
                assert (bus.state, responder.state) == ("reconnecting", "reconnecting")
                process = await asyncio.to_thread(start_node, run_dir)
                async with asyncio.timeout(1.0):
                    await bus.connected()
                    await responder.connected()
                await bus.call("t.echo", 2)
                gap = await anext(sub)
                assert isinstance(gap, Gap)
                await responder.publish("t.tick", "again")
                message = await anext(sub)
                assert not isinstance(message, Gap)
                assert message.payload == "again"
                done.set()
                await asyncio.gather(*callers)
                assert bus.statistics().calls_in_flight == 0
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)

    run(main())
    assert outcomes["reply"] > 20
    assert outcomes["UnknownOutcome"] >= 1
    assert set(outcomes) <= {"reply", "UnknownOutcome", "NotConnected", "NoResponders"}


async def hang(call: Call) -> None:
    await asyncio.Event().wait()


def test_a_node_that_stops_in_order_says_bye_and_clients_wait_for_the_next(run_dir: Path, run: Run) -> None:
    async def main() -> None:
        process = await asyncio.to_thread(start_node, run_dir)
        try:
            async with busclient.connect(f"unix://{run_dir}/host.sock") as bus, bus.serve("t.echo", echo):
                process.terminate()
                await asyncio.to_thread(process.wait)
                assert bus.state == "reconnecting"
                with pytest.raises(NotConnected):
                    await bus.publish("a")
                process = await asyncio.to_thread(start_node, run_dir)
                async with asyncio.timeout(1.0):
                    await bus.connected()
                assert (await bus.call("t.echo", 3)).payload == 3
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)

    run(main())
