"""``busd component run`` as a process on a real node: how it serves, how it ends, what it says when it cannot."""

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import busclient
from busclient import Bus, Code, ErrorReply
from tests.support import START_SECONDS, RunningNode, environment

INSTANCE = "00ff00ff00ff"
CONTROL = f"component.gauge.{INSTANCE}"

GAUGE = '''\
"""A component that a user might write."""

import asyncio
import os

from busd.components.model import Component, Manifest, Request


class Gauge(Component):
    manifest = Manifest(
        component="gauge", version="7", owner="tests", purpose="shows how a runner runs",
        operations=(Request("hello"), Request("slow"), Request("grow"), Request("calls")),
    )

    def __init__(self, greeting: str = "hello", trouble: str = "") -> None:
        self.greeting = greeting
        self.trouble = trouble
        self.answered = 0
        self.kept: list[bytearray] = []

    async def start(self) -> None:
        if self.trouble == "start":
            raise OSError("the sensor is not there")

    async def run(self) -> None:
        if self.trouble == "run":
            await asyncio.sleep(0.2)
            raise OSError("the sensor has fallen off")

    async def stop(self) -> None:
        if self.trouble == "stop":
            print("stopping", flush=True)
            await asyncio.sleep(60)

    async def hello(self, name: str) -> str:
        """A greeting."""
        return f"{self.greeting} {name} from {os.getpid()}"

    async def slow(self, seconds: float, n: int) -> int:
        """Gives ``n`` back after a while."""
        await asyncio.sleep(seconds)
        self.answered += 1
        return n

    async def grow(self, size: int) -> int:
        """Keeps as many bytes."""
        self.kept.append(bytearray(size))
        return len(self.kept)

    async def calls(self) -> int:
        """How many slow calls were answered."""
        return self.answered


class Wrong(Component):
    manifest = Manifest(
        component="wrong", version="1", owner="tests", purpose="is wrong", operations=(Request("hello"),)
    )

    async def hello(self, name) -> str:
        """Its parameter has no type."""
        return name


class Other:
    """No component."""
'''


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with the module ``gauge``, in which the runners are started."""
    (tmp_path / "gauge.py").write_text(GAUGE)
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "busd", "component", "run", *arguments]


@contextmanager
def running(home: Path, *arguments: str, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """A runner that is gone at the end of the block, whatever happens in it."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    with subprocess.Popen(command(*arguments), cwd=home, env=environment(), text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def run(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(*arguments),
        cwd=home,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )


async def answered(bus: Bus, subject: str, payload: Any, process: "subprocess.Popen[str]") -> Any:
    """The reply, as soon as there is somebody to give it."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                return (await bus.call(subject, payload)).payload
            except busclient.NoResponders:
                assert process.poll() is None, process.communicate()
                await asyncio.sleep(0.02)


def ends(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=START_SECONDS)
    return process.returncode, output, errors


def test_it_serves_says_who_it_is_and_ends_on_sigterm(shared_node: RunningNode, home: Path) -> None:
    (home / "gauge.toml").write_text('[config]\ngreeting = "good day"\n')
    arguments = ("gauge:Gauge", "--bus", shared_node.url, "--config", "gauge.toml", "--instance", INSTANCE)

    async def main() -> None:
        async with busclient.connect(shared_node.url, component="test") as bus:
            assert await answered(bus, "gauge.hello", {"name": "bus"}, process) == f"good day bus from {process.pid}"
            status = (await bus.call(CONTROL, {"do": "status"})).payload
            assert (status["state"], status["source"], status["pid"]) == ("ready", "gauge:Gauge", process.pid)
            assert psutil.Process(process.pid).memory_info().rss / 2 < status["memory_bytes"] < 1 << 30
            rows = (await bus.call("$bus.list")).payload["endpoints"]
            said = next(row["claims"] for row in rows if row["claims"].get("component") == "gauge")
            assert (said["owner"], said["purpose"], said["version"]) == ("tests", "shows how a runner runs", "7")
            assert said["serves"] == ["gauge.hello", "gauge.slow", "gauge.grow", "gauge.calls"]
            statuses = []
            async with bus.subscribe(f"{CONTROL}.status") as subscription, asyncio.timeout(START_SECONDS):
                async for message in subscription:
                    statuses.append(message.payload)
                    if len(statuses) == 2:
                        break
            assert 0.5 < statuses[1]["seconds"] - statuses[0]["seconds"] < 5
            assert statuses[1]["operations"]["hello"]["calls"] == 1

    with running(home, *arguments) as process:
        asyncio.run(main())
        process.terminate()
        assert ends(process) == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_calls_in_flight_are_answered_before_it_ends(
    shared_node: RunningNode, home: Path, number: signal.Signals
) -> None:
    async def main() -> None:
        async with busclient.connect(shared_node.url, component="test") as bus:
            await answered(bus, "gauge.hello", {"name": "bus"}, process)
            calls = [
                asyncio.create_task(bus.call("gauge.slow", {"seconds": 0.5, "n": n}, timeout=20)) for n in range(200)
            ]
            while (await bus.call(CONTROL, {"do": "status"})).payload["operations"]["slow"]["in_flight"] < 200:
                await asyncio.sleep(0.01)
            process.send_signal(number)
            assert [(await call).payload for call in calls] == list(range(200))

    with running(home, "gauge:Gauge", "--bus", shared_node.url, "--instance", INSTANCE) as process:
        asyncio.run(main())
        assert ends(process) == (0, "", "")


def test_a_standby_is_told_what_to_do(shared_node: RunningNode, home: Path) -> None:
    async def main() -> None:
        async with busclient.connect(shared_node.url, component="test") as bus:
            status = await answered(bus, CONTROL, {"do": "status"}, process)
            assert (status["state"], status["standby"]) == ("standby", True)
            for _ in range(2):
                for do, state in (("prepare", "prepared"), ("serve", "ready")):
                    assert (await bus.call(CONTROL, {"do": do})).payload["state"] == state
                assert (await bus.call("gauge.calls")).payload == 0
                slow = asyncio.create_task(bus.call("gauge.slow", {"seconds": 0.3, "n": 5}))
                while not (await bus.call(CONTROL, {"do": "status"})).payload["operations"]["slow"]["in_flight"]:
                    await asyncio.sleep(0.01)
                reply = (await bus.call(CONTROL, {"do": "drain"})).payload
                assert slow.done()
                assert ((await slow).payload, reply["state"]) == (5, None)
                assert (await bus.call(CONTROL, {"do": "resume"})).payload["state"] == "ready"
                assert (await bus.call("gauge.calls")).payload == 1, "the same component"
                assert (await bus.call(CONTROL, {"do": "stop"})).payload["state"] == "standby"
            with pytest.raises(busclient.NoResponders):
                await bus.call("gauge.calls")

    with running(home, "gauge:Gauge", "--bus", shared_node.url, "--instance", INSTANCE, "--standby") as process:
        asyncio.run(main())
        process.terminate()
        assert ends(process) == (0, "", "")


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [("start", "start: OSError: the sensor is not there"), ("run", "run: OSError: the sensor has fallen off")],
)
def test_a_component_that_fails_ends_it_with_the_reason(
    shared_node: RunningNode, home: Path, trouble: str, reason: str
) -> None:
    (home / "gauge.toml").write_text(f'[config]\ntrouble = "{trouble}"\n')
    done = run(home, "gauge:Gauge", "--bus", shared_node.url, "--config", "gauge.toml")
    assert done.returncode == 1
    assert f"BUS-3007 handler-failed: the responder failed: {reason}" in done.stderr
    assert "Traceback" in done.stderr, "of the component's own mistake, for its author"


def test_a_second_signal_ends_it_at_once(shared_node: RunningNode, home: Path) -> None:
    (home / "gauge.toml").write_text('[config]\ntrouble = "stop"\n')

    async def ready() -> None:
        async with busclient.connect(shared_node.url, component="test") as bus:
            await answered(bus, "gauge.hello", {"name": "bus"}, process)

    with running(home, "gauge:Gauge", "--bus", shared_node.url, "--config", "gauge.toml") as process:
        asyncio.run(ready())
        process.terminate()
        assert process.stdout is not None
        assert process.stdout.readline() == "stopping\n"
        process.terminate()
        assert process.wait(1.5) == -signal.SIGTERM


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_the_memory_limit_ends_an_allocation_and_not_the_component(shared_node: RunningNode, home: Path) -> None:
    async def main() -> None:
        async with busclient.connect(shared_node.url, component="test") as bus:
            await answered(bus, "gauge.hello", {"name": "bus"}, process)
            assert (await bus.call("gauge.grow", {"size": 1 << 20})).payload == 1
            with pytest.raises(ErrorReply) as caught:
                await bus.call("gauge.grow", {"size": 256 << 20})
            assert caught.value.code == Code.HANDLER_FAILED
            assert "MemoryError" in str(caught.value)
            assert (await bus.call("gauge.grow", {"size": 1 << 20})).payload == 2

    with running(home, "gauge:Gauge", "--bus", shared_node.url, "--memory-bytes", str(128 << 20)) as process:
        asyncio.run(main())
        process.terminate()
        status, _, errors = ends(process)
        assert status == 0
        assert "MemoryError" in errors


def test_it_ends_with_its_standard_input(shared_node: RunningNode, home: Path) -> None:
    async def ready() -> None:
        async with busclient.connect(shared_node.url, component="test") as bus:
            await answered(bus, "gauge.hello", {"name": "bus"}, process)

    options = ("gauge:Gauge", "--bus", shared_node.url, "--until-eof")
    with running(home, *options, stdin=subprocess.PIPE) as process:
        asyncio.run(ready())
        assert process.stdin is not None
        process.stdin.write("what is said there does not matter\n")
        process.stdin.flush()
        asyncio.run(ready())
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(START_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_input_that_cannot_be_watched_is_waited_for(shared_node: RunningNode, home: Path) -> None:
    """A file or /dev/null is no pipe: epoll refuses it."""
    options = ("gauge:Gauge", "--bus", shared_node.url, "--until-eof", "--standby")
    with running(home, *options) as process:
        assert ends(process) == (0, "", "")


def test_without_a_bus_it_says_so(home: Path) -> None:
    done = run(home, "gauge:Gauge", "--bus", f"{home}/host.sock")
    assert done.returncode == 1
    assert done.stderr.startswith(f"BUS-6001 not-connected: not connected to {home}/host.sock")
    assert "Traceback" not in done.stderr


def test_the_module_is_a_program_as_well(home: Path) -> None:
    program = [sys.executable, "-m", "busd.components.runner", "gauge:Gauge", "--bus", f"{home}/host.sock"]
    done = subprocess.run(
        program, cwd=home, env=environment(), capture_output=True, text=True, timeout=START_SECONDS, check=False
    )
    assert (done.returncode, done.stderr[:8]) == (1, "BUS-6001")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("gorge:Gauge", "8006 .*there is no module 'gorge'"),
        ("gauge:Gouge", "8006 .*has no 'Gouge'; its components: Gauge, Wrong"),
        ("gauge:Other", "8006 .*'Other' is not a subclass of Component"),
        ("gauge:Wrong", "8006 .*Wrong.hello: parameter 'name' has no annotation"),
        ("broken:Gauge", "8006 .*cannot be imported: No module named 'nothing_of_that_name'"),
        ("gauge:", "8006 .*module:Class"),
        ("../gauge:Gauge", "8006 .*module:Class"),
        ("telemetri", "8001 .*there is no component 'telemetri'; the nearest is 'telemetry'"),
    ],
)
def test_what_is_no_component_is_named(home: Path, source: str, reason: str) -> None:
    done = run(home, source, "--bus", "/nowhere")
    assert done.returncode == 2
    assert re.match(f"BUS-{reason}", done.stderr), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[config]\ngreeting = 3\n", "greeting: expected str, got int"),
        ("[config]\ngreting = 'x'\n", "greting: there is no such field"),
        ("greeting = 'x'\n", "greeting in gauge.toml: there is no such key"),
        ("config = 1\n", "config in gauge.toml: it must be a table"),
        ("[config\n", "this is not TOML"),
        (None, "No such file or directory"),
    ],
)
def test_a_configuration_that_is_not_right_is_named(
    shared_node: RunningNode, home: Path, text: str | None, key: str
) -> None:
    if text is not None:
        (home / "gauge.toml").write_text(text)
    done = run(home, "gauge:Gauge", "--bus", shared_node.url, "--config", "gauge.toml")
    assert done.returncode == 2
    assert done.stderr.startswith("BUS-7002 config-invalid: ")
    assert "gauge.toml" in done.stderr
    assert key in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("gauge:Gauge", "--memory-bytes", "1M"),
        ("gauge:Gauge", "--memory-bytes", "1000"),
        ("gauge:Gauge", "--instance", "XYZ"),
        ("gauge:Gauge", "--dance"),
        ("gauge:Gauge", "--bus", "ftp://nowhere"),
    ],
)
def test_wrong_usage_is_status_2(home: Path, options: tuple[str, ...]) -> None:
    done = run(home, *options)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_help_says_how_it_ends_and_what_its_status_means(home: Path) -> None:
    done = run(home, "--help")
    assert done.returncode == 0
    for word in ("MODULE:CLASS", "--standby", "--until-eof", "--memory-bytes", "SIGTERM", "exit status"):
        assert word in done.stdout
