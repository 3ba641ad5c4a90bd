"""serial:// addresses in the SDK: a real node at the far end of a pseudo-terminal."""

import asyncio
import fcntl
import os
import pty
import termios
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import busclient
from busclient import BusError, Call, Code, Gap, NotConnected
from busclient.serialtransport import SerialTransport
from busproto.serial import SerialLine
from tests.clients.line_support import Line
from tests.support import RunningNode, wait_until

Run = Callable[[Coroutine[Any, Any, Any]], Any]

SECONDS = 30.0
MANIFEST: dict[str, Any] = {"component": "guest-agent", "owner": "tests", "purpose": "tries a serial line"}


def on_asyncio(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(work, SECONDS))


def on_uvloop(work: Coroutine[Any, Any, Any]) -> Any:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(work, SECONDS))


@pytest.fixture(params=[on_asyncio, on_uvloop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on one of the two event loops."""
    runner: Run = request.param
    return runner


@pytest.fixture
def line(shared_node: RunningNode) -> Iterator[Line]:
    with Line(shared_node.url.removeprefix("unix://")) as made:
        yield made


async def echo(call: Call) -> Any:
    return call.payload


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


def refused(url: str, run: Run) -> BusError:
    async def main() -> None:
        async with busclient.connect(url, **MANIFEST):
            pass

    with pytest.raises(BusError) as caught:
        run(main())
    return caught.value


def test_everything_crosses_a_line(line: Line, run: Run) -> None:
    async def main() -> None:
        async with (
            busclient.connect(f"serial://{line.device}", **MANIFEST) as bus,
            bus.serve("se1.echo", echo),
            bus.subscribe("se1.sub") as sub,
        ):
            for payload in (b"", os.urandom(100), os.urandom(300_000), b"\xc0\xdb" * 5000):
                assert (await bus.call("se1.echo", payload)).payload == payload
                await bus.publish("se1.sub", payload)
                assert (await anext(sub)).payload == payload
            replies = await asyncio.gather(*[bus.call("se1.echo", n) for n in range(200)])
            assert [reply.payload for reply in replies] == list(range(200))

    run(main())
    wait_until(lambda: not line.session, what="the end of the session")
    assert line.sessions == 1


def test_one_session_after_another(line: Line) -> None:
    for _ in range(3):
        with busclient.blocking.connect(f"serial://{line.device}", **MANIFEST) as bus:
            assert bus.call("$bus.ping").payload["endpoint"]
    assert line.sessions == 3
    assert len(set(line.tokens)) == 3


def test_what_an_earlier_program_left_on_the_line_is_skipped(line: Line, run: Run) -> None:
    old = SerialLine("broker")
    line.type(b"\r\nlogin: " + old.accept(b"old-one!") + old.data(b"for someone else") + b"\xc0half a rec")
    test_everything_crosses_a_line(line, run)


def test_the_broker_may_come_later(line: Line, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busclient.serialtransport.START_SECONDS", 0.05)
    line.deaf = True

    async def main() -> None:
        asyncio.get_running_loop().call_later(0.3, setattr, line, "deaf", False)
        async with busclient.connect(f"serial://{line.device}", **MANIFEST) as bus:
            assert (await bus.call("$bus.ping")).payload["endpoint"]

    run(main())


def test_nobody_answers(line: Line, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busclient.connector.HANDSHAKE_SECONDS", 0.2)
    line.deaf = True
    assert refused(f"serial://{line.device}", run).code == Code.HANDSHAKE_TIMEOUT
    with open(line.device, "rb") as again:  # and the line is free again
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("how", ["broker replaced", "bytes flipped", "bytes lost", "reset"])
def test_a_lost_session_is_a_lost_link_and_comes_back(line: Line, run: Run, how: str) -> None:
    def spoil_once(data: bytes) -> bytes:
        line.spoil = lambda data: data
        if how == "bytes flipped":
            return data[:10] + bytes((data[10] ^ 1,)) + data[11:]
        return data[:4] + data[8:]

    async def main() -> None:
        async with (
            busclient.connect(f"serial://{line.device}", **MANIFEST) as bus,
            bus.serve("se2.echo", echo),
            bus.subscribe("se2.sub", gaps="yield") as sub,
        ):
            assert (await bus.call("se2.echo", 1)).payload == 1
            if how == "broker replaced":
                line.replace_broker()
            elif how == "reset":
                line.type(SerialLine("broker").reset(b"for this test"))
            else:
                line.spoil = spoil_once
            with pytest.raises((busclient.UnknownOutcome, NotConnected)):
                while True:
                    await bus.call("se2.echo", 2, timeout=5.0)
            await bus.connected()
            assert (await bus.call("se2.echo", 3)).payload == 3
            assert isinstance(await anext(sub), Gap)
            assert bus.statistics().connects == 2

    run(main())
    assert line.sessions == 2


def test_a_publisher_waits_for_a_line_that_takes_no_more(line: Line, run: Run) -> None:
    async def main() -> None:
        async with busclient.connect(f"serial://{line.device}", **MANIFEST) as bus:
            line.frozen = True
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    while True:
                        await bus.publish("se3.x", bytes(50_000))
            link = bus._connection.link
            assert link is not None
            assert link.paused
            assert link.unsent_bytes < 1_000_000
            line.frozen = False
            await bus.flush()
            assert not link.paused

    run(main())


def test_a_line_that_takes_no_more_does_not_hold_up_the_end(line: Line, run: Run) -> None:
    async def main() -> None:
        bus = await busclient.connect(f"serial://{line.device}", **MANIFEST).open()
        line.frozen = True
        bus.publish_nowait("se4.x", bytes(1_000_000))
        async with asyncio.timeout(5):
            await bus._connection.close()

    run(main())


def test_a_line_has_one_user(line: Line, run: Run) -> None:
    with busclient.blocking.connect(f"serial://{line.device}", **MANIFEST) as bus:
        error = refused(f"serial://{line.device}", run)
        assert isinstance(error, NotConnected)
        assert "another program uses this line" in error.text or "busy" in error.text  # with and without CAP_SYS_ADMIN
        assert bus.call("$bus.ping").payload["endpoint"]


def test_terminals_become_raw_and_are_given_back(line: Line, run: Run) -> None:
    with open(line.device, "rb", buffering=0) as terminal:
        assert termios.tcgetattr(terminal)[3] & termios.ECHO
        test_everything_crosses_a_line(line, run)
        assert not termios.tcgetattr(terminal)[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
    os.close(os.open(line.device, os.O_RDWR | os.O_NOCTTY))


def test_what_is_no_device(tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "there is no such device" in refused(f"serial://{tmp_path}/none", run).text
    assert "it is not a serial device" in refused(f"serial://{tmp_path}/file", run).text
    assert refused(f"serial://{tmp_path}", run).code == Code.NOT_CONNECTED


def test_the_other_side_of_the_line_goes_away(run: Run) -> None:
    far, near = pty.openpty()
    device = os.ttyname(near)

    async def main() -> None:
        asyncio.get_running_loop().call_later(0.1, os.close, far)
        async with busclient.connect(f"serial://{device}", **MANIFEST):
            pass

    with pytest.raises(NotConnected):
        run(main())
    os.close(near)


class Seen(asyncio.Protocol):
    def __init__(self) -> None:
        self.data = b""
        self.ended: list[Exception | None] = []
        self.paused: list[bool] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def pause_writing(self) -> None:
        self.paused.append(True)

    def resume_writing(self) -> None:
        self.paused.append(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.append(exc)


def test_it_is_a_transport_as_others_are(run: Run) -> None:
    """With a broker of our own at the far end: flow control in both directions, the end in order, the end at once."""
    far, near = pty.openpty()
    os.set_blocking(far, False)
    broker = SerialLine("broker")

    async def session() -> tuple[SerialTransport, Seen]:
        seen = Seen()
        transport = SerialTransport(os.ttyname(near), seen)
        begun = asyncio.create_task(transport.begin())
        await asyncio.sleep(0)
        (event,) = await read(1)
        os.write(far, broker.accept(event[1]))
        await begun
        return transport, seen

    async def read(count: int) -> list[tuple[str, bytes]]:
        events: list[tuple[str, bytes]] = []
        async with asyncio.timeout(SECONDS):
            while len(events) < count:
                try:
                    events += broker.receive(os.read(far, 65536))
                except BlockingIOError:
                    await asyncio.sleep(0.001)
        return events

    async def main() -> None:
        transport, seen = await session()
        assert seen.transport is transport
        assert transport.get_extra_info("device") == os.ttyname(near)
        assert not transport.can_write_eof()
        transport.set_write_buffer_limits(high=1000)
        assert transport.get_write_buffer_limits() == (250, 1000)
        payload = os.urandom(200_000)
        transport.write(payload)
        assert transport.get_write_buffer_size() > 1000
        transport.close()
        transport.write(b"too late")
        assert transport.is_closing()
        events: list[tuple[str, bytes]] = []
        while not events or events[-1][0] != "end":
            events += await read(1)
        assert b"".join(body for kind, body in events if kind == "data") == payload
        await until(lambda: seen.ended == [None])
        assert seen.paused[:1] == [True]

        transport, seen = await session()
        transport.pause_reading()
        os.write(far, broker.data(b"later"))
        await asyncio.sleep(0.05)
        assert seen.data == b""
        assert not transport.is_reading()
        transport.resume_reading()
        await until(lambda: seen.data == b"later")
        other = Seen()
        transport.set_protocol(other)
        assert transport.get_protocol() is other
        os.write(far, broker.data(b"x") + broker.end())
        await until(lambda: other.ended == [None])
        assert other.data == b"x"

        transport, seen = await session()
        os.write(far, broker.reset(b"out of it"))
        await until(lambda: bool(seen.ended))
        assert "the session on the line was lost: out of it" in str(seen.ended[0])
        transport.abort()
        assert len(seen.ended) == 1

    try:
        run(main())
    finally:
        os.close(far)
        os.close(near)
