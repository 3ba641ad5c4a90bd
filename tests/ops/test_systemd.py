"""What a service manager hears of a node: over a real datagram socket, from a real process or from the code itself."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from busd.ops.process import STOP_MARGIN
from busd.ops.status import NodeStatistics
from busd.ops.systemd import ServiceManager, status_line
from tests.ops.fakes import BUS, NODE, FakeNode, component
from tests.support import START_SECONDS, environment, wait_until


class Manager:
    """The socket that a service manager listens on."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.setblocking(False)

    def hear(self) -> list[str]:
        """Every assignment that has come so far, in order."""
        try:
            while True:
                self.heard += self._socket.recv(65536).decode().split("\n")
        except BlockingIOError:
            return self.heard

    def wait_for(self, assignment: str) -> None:
        wait_until(lambda: any(each.startswith(assignment) for each in self.hear()), what=assignment)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@busd-test-{os.getpid()}-{tmp_path.name}"
    with closing(Manager(address)) as made:
        yield made


@contextmanager
def busd(tmp_path: Path, *flags: str, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-W", "error", "-m", "busd", "--run-dir", str(tmp_path / "run"), "--http-listen", "off"]
    with subprocess.Popen([*command, *flags], env=environment(**variables), stderr=subprocess.PIPE, text=True) as node:
        try:
            yield node
        finally:
            node.kill()


def test_a_node_says_ready_how_it_is_that_it_turns_and_that_it_stops(manager: Manager, tmp_path: Path) -> None:
    with busd(tmp_path, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="200000") as node:
        manager.wait_for("READY=1")
        assert (tmp_path / "run" / "host.sock").exists()  # clients can attach by now
        assert manager.heard[0] == "READY=1"
        manager.wait_for("WATCHDOG=1")
        manager.wait_for("STATUS=")
        wait_until(lambda: manager.hear().count("WATCHDOG=1") >= 5, what="the watchdog is told again and again")
        node.terminate()
        assert node.wait(START_SECONDS) == 0
    heard = manager.hear()
    assert "0 guests" not in " ".join(heard)
    (status,) = [each for each in heard if each.startswith("STATUS=") and "endpoint" in each]
    assert status.endswith("0 messages/s")
    grace = 5.0
    stopping = heard.index("STOPPING=1")
    assert heard[stopping + 1] == f"EXTEND_TIMEOUT_USEC={(grace + STOP_MARGIN) * 1e6:.0f}"
    assert heard[stopping + 2].startswith("STATUS=draining")
    assert heard.count("READY=1") == heard.count("STOPPING=1") == 1


def test_a_loop_that_is_stuck_stops_the_watchdog(tmp_path: Path) -> None:
    program = """
import sys, time, asyncio
import busd.ops.process as process
from busd.node import Node
from busd.ops.config import from_program, resolve
class Stuck(Node):
    async def start(self):
        await super().start()
        asyncio.get_running_loop().call_later(0.5, time.sleep, 60)
sys.exit(process.run(resolve(from_program({"run_dir": sys.argv[1], "http.listen": "off"}), {}), Stuck))
"""
    with closing(Manager(str(tmp_path / "notify"))) as manager:
        variables = environment(NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="100000")
        with subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "run")], env=variables) as node:
            try:
                manager.wait_for("WATCHDOG=1")
                wait_until(lambda: _silent(manager, 1.0), what="nothing more is said")
                assert node.poll() is None
            finally:
                node.kill()


def _silent(manager: Manager, seconds: float) -> bool:
    """Whether nothing comes for ``seconds``, twenty times the watchdog's period."""
    before = len(manager.hear())
    time.sleep(seconds)
    return len(manager.hear()) == before


def test_a_loop_whose_timers_do_not_run_is_not_vouched_for(tmp_path: Path) -> None:
    async def scenario(age: float) -> list[str]:
        with closing(Manager(str(tmp_path / f"notify-{age}"))) as heard:
            environ = {"NOTIFY_SOCKET": heard.address, "WATCHDOG_USEC": "40000"}
            with closing(ServiceManager(environ)) as manager:
                manager.ready(lambda: NODE, lambda: age)
                await asyncio.sleep(0.2)
            return heard.hear()

    assert "WATCHDOG=1" in asyncio.run(scenario(0.0))
    assert "WATCHDOG=1" not in asyncio.run(scenario(0.02))  # as long as the time between two messages


def test_figures_that_cannot_be_had_are_no_reason_to_end_a_node_that_routes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("busd.ops.systemd.STATUS_SECONDS", 0.01)
    asked = 0

    def figures() -> NodeStatistics:
        nonlocal asked
        asked += 1
        if asked == 1:
            return NODE
        raise RuntimeError("no figures")

    async def scenario() -> list[str]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000"}
        with closing(Manager(environ["NOTIFY_SOCKET"])) as heard, closing(ServiceManager(environ)) as manager:
            manager.ready(figures, lambda: 0.0)
            async with asyncio.timeout(10):
                while asked < 5 or heard.hear().count("WATCHDOG=1") < 5:
                    await asyncio.sleep(0.01)
            return heard.hear()

    assert len([each for each in asyncio.run(scenario()) if each.startswith("STATUS=")]) == 1


def test_components_of_the_node_cannot_speak_for_it(tmp_path: Path) -> None:
    with closing(Manager(str(tmp_path / "notify"))) as manager:
        variables = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "60000000", "HOME": str(tmp_path)}
        with busd(tmp_path, "--components", "telemetry", "--log-format", "json", **variables) as node:
            manager.wait_for("READY=1")
            wait_until(lambda: _children(node.pid), what="the component's process")
            (child,) = _children(node.pid)
            names = {each.partition(b"=")[0] for each in Path(f"/proc/{child}/environ").read_bytes().split(b"\0")}
            assert b"HOME" in names
            assert names.isdisjoint({b"NOTIFY_SOCKET", b"WATCHDOG_USEC", b"WATCHDOG_PID"})


def _children(pid: int) -> list[int]:
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(word) for word in (thread / "children").read_text().split()]
        except OSError:  # the thread has ended
            continue
    return found


@pytest.mark.parametrize("address", ["", "relative/path", "vsock:2:1234"])
def test_without_a_socket_nothing_is_sent_and_nothing_runs(address: str) -> None:
    async def scenario() -> None:
        environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000"} if address else {}
        with closing(ServiceManager(environ)) as manager:
            node = FakeNode()
            manager.ready(node.statistics, node.stuck_seconds)
            await asyncio.sleep(0.05)
            manager.stopping(1.0)
            await asyncio.sleep(0.05)
            assert node.scrapes == 0
            assert environ == {}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("pid", "microseconds", "seconds"),
    [("", "10000000", 10.0), ("ours", "500000", 0.5), ("1", "500000", 0.0), ("", "", 0.0), ("", "-5", 0.0)],
)
def test_the_watchdog_is_that_of_this_process(pid: str, microseconds: str, seconds: float) -> None:
    pid = str(os.getpid()) if pid == "ours" else pid
    environ = {"WATCHDOG_PID": pid, "WATCHDOG_USEC": microseconds, "OTHER": "stays"}
    with closing(ServiceManager(environ)) as manager:
        assert manager.watchdog_seconds == seconds
    assert environ == {"OTHER": "stays"}


def test_a_manager_that_has_gone_or_is_slow_costs_the_node_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        heard = Manager(str(tmp_path / "notify"))
        filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        filler.setblocking(False)
        with closing(heard), closing(filler), closing(ServiceManager({"NOTIFY_SOCKET": heard.address})) as manager:
            with pytest.raises(BlockingIOError):
                while True:
                    filler.sendto(b"X=1", heard.address)
            began = time.monotonic()
            manager.ready(lambda: NODE, lambda: 0.0)
            assert time.monotonic() - began < 1.0
            assert "READY=1" not in heard.hear()  # there was no room; now there is
            async with asyncio.timeout(10):
                while "READY=1" not in heard.hear():
                    await asyncio.sleep(0.01)
            heard.close()
            manager.stopping(1.0)  # to nobody
            (tmp_path / "notify").unlink()
            manager.stopping(1.0)

    asyncio.run(scenario())


def test_the_status_line_is_what_an_operator_asks_first() -> None:
    one = replace(BUS, endpoints={"host": 1}, units={"guest": 0, "soc": 0})
    assert status_line(replace(NODE, bus=one), 0.2) == "1 endpoint, 0 messages/s"
    units = replace(BUS, endpoints={"host": 7, "guest": 5}, units={"guest": 3, "soc": 1})
    assert status_line(replace(NODE, bus=units), 1811.6) == "12 endpoints, 3 guests, 1 card, 1,812 messages/s"
    broken = {"cache": component("cache", state="failed", reason="no key\nREADY=1")}
    line = status_line(replace(NODE, bus=one, components=broken), 0.0)
    assert line == "1 endpoint, 0 messages/s; degraded: cache failed: no key READY=1"  # what it says stays one line


def test_a_node_that_cannot_start_is_never_ready(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    with closing(Manager(str(tmp_path / "notify"))) as manager:
        with busd(tmp_path, NOTIFY_SOCKET=manager.address) as node:
            assert node.wait(START_SECONDS) == 1
            assert node.stderr is not None
            assert "BUS-7004" in node.stderr.read()
        assert manager.hear() == []


def test_status_goes_on_once_the_figures_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busd.ops.systemd.STATUS_SECONDS", 0.01)
    figures = [replace(NODE, bus=replace(BUS, endpoints={"host": count}, units={})) for count in (1, 1, 2)]

    async def scenario() -> list[str]:
        with closing(Manager(str(tmp_path / "notify"))) as heard:
            with closing(ServiceManager({"NOTIFY_SOCKET": heard.address})) as manager:
                manager.ready(lambda: figures.pop(0) if len(figures) > 1 else figures[0], lambda: 0.0)
                async with asyncio.timeout(10):
                    while not any("2 endpoints" in each for each in heard.hear()):
                        await asyncio.sleep(0.01)
            return heard.hear()

    lines = [each for each in asyncio.run(scenario()) if each.startswith("STATUS=")]
    assert lines == [
        "STATUS=1 endpoint, 0 messages/s",
        "STATUS=2 endpoints, 0 messages/s",
    ]  # the same is not said twice
