"""Components on a real node: they come up, are counted, administered and written down, and leave nothing behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

import busclient
from busclient import Bus
from busproto.errors import BusError, Code
from tests.ops.processes import Daemon, daemon
from tests.support import START_SECONDS, environment

T = TypeVar("T")

GAUGE = '''
import asyncio, os
from busd.components.model import Component, Manifest, Request

class Gauge(Component):
    """A gauge that is set by its configuration."""

    manifest = Manifest(
        component="gauge", version="{version}", owner="house", purpose="shows a number",
        operations=(Request("read"), Request("say"), Request("wait"), Request("leave")),
    )

    def __init__(self, *, value: int = 1, broken: bool = False) -> None:
        self.value = value
        self.broken = broken

    async def start(self) -> None:
        if self.broken:
            raise RuntimeError("the sensor is unplugged")

    async def read(self, times: int = 1) -> int:
        """What it shows."""
        return self.value * times

    async def say(self, text: str) -> None:
        """Write a line to standard output."""
        print(text)

    async def wait(self, seconds: float) -> None:
        """Take time."""
        await asyncio.sleep(seconds)

    async def leave(self) -> None:
        """End the process, as a crash would."""
        os._exit(3)
'''


class House:
    """A node with a folder of components of its own."""

    def __init__(self, path: Path) -> None:
        self.run_dir = path / "run"
        self.folder = path / "components.d"
        self.folder.mkdir()
        self.code = path / "code"
        self.code.mkdir()
        self.publish_code("1.0")
        self.configure(value=7)

    def publish_code(self, version: str) -> None:
        file = self.code / "gauge.py"
        file.write_text(GAUGE.format(version=version))
        # Bytecode is that of a file of this size and second: one that was replaced within a second would not be seen.
        written = int(float(version) * 1000)
        os.utime(file, (written, written))

    def configure(self, restarts: int = 5, **config: object) -> None:
        lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in config.items())
        text = f'source = "gauge:Gauge"\npath = ["{self.code}"]\n[config]\n{lines}[restarts]\nlimit = {restarts}\n'
        (self.folder / "gauge.toml").write_text(text)

    @contextmanager
    def node(self, *flags: str) -> Iterator[Daemon]:
        """The node, running, with the component; no process of it may be left."""
        with daemon(self.run_dir, "--components", "gauge", "--component-dir", str(self.folder), *flags) as node:
            family = psutil.Process(node.process.pid)
            try:
                yield node
            finally:
                children = family.children(recursive=True) if family.is_running() else []
                node.process.kill()
                _, alive = psutil.wait_procs(children, START_SECONDS)
                for process in alive:
                    process.kill()
            assert not alive, "a component outlives its node"

    def audit(self) -> list[dict[str, Any]]:
        """Every record of the audit, in order."""
        files = sorted((self.run_dir / "audit").glob("*.jsonl")) or sorted((self.run_dir / "audit").glob("audit*"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def on(node: Daemon, use: Callable[[Bus], Awaitable[T]]) -> T:
    """What ``use`` of a connection to ``node`` returns."""

    async def main() -> T:
        url = node.started["socket"]
        async with asyncio.timeout(60), busclient.connect(url, component="test", owner="tests", purpose="asks") as bus:
            return await use(bus)

    return asyncio.run(main())


async def row(bus: Bus, name: str = "gauge") -> dict[str, Any]:
    rows = (await bus.call("$bus.components", {})).payload["components"]
    return next((row for row in rows if row["component"] == name), {})


async def until(bus: Bus, is_so: Callable[[dict[str, Any]], bool], name: str = "gauge") -> dict[str, Any]:
    """The row of the component as soon as ``is_so``."""
    found = await row(bus, name)
    try:
        async with asyncio.timeout(START_SECONDS):
            while not is_so(found):
                await asyncio.sleep(0.02)
                found = await row(bus, name)
    except TimeoutError:
        pytest.fail(f"it did not come to that: {found}")
    return found


async def ready(bus: Bus) -> dict[str, Any]:
    return await until(bus, lambda row: row.get("state") == "ready")


async def do(bus: Bus, verb: str, **request: object) -> Any:
    return (await bus.call(f"$bus.admin.component.{verb}", {"component": "gauge", **request}, timeout=30)).payload


def metrics(node: Daemon) -> dict[tuple[str, ...], float]:
    """Samples of components: name and values of the labels."""
    return {
        (sample.name.removeprefix("busd_component_"), *(sample.labels[name] for name in sorted(sample.labels))): (
            sample.value
        )
        for family in text_string_to_metric_families(node.get("/metrics")[1])
        for sample in family.samples
        if sample.name.startswith("busd_component_")
    }


def test_a_configured_component_comes_up_and_is_counted(house: House) -> None:
    async def use(bus: Bus) -> None:
        await ready(bus)
        assert (await bus.call("gauge.read", {"times": 6})).payload == 42
        for _ in range(2):
            with pytest.raises(BusError) as caught:
                await bus.call("gauge.read", {"times": "six"})
            assert caught.value.code == Code.REQUEST_INVALID
        found = await until(bus, lambda row: row["operations"]["read"]["calls"] == 3)
        assert (found["version"], found["owner"], found["supervised"], found["placement"]) == (
            "1.0",
            "house",
            True,
            "host",
        )

    with house.node() as node:
        on(node, use)
        samples = metrics(node)
        assert samples["up", "gauge", "host"] == 1
        assert samples["calls_total", "gauge", "read"] == 3
        assert samples["errors_total", "2008", "gauge", "read"] == 2
        assert samples["calls_in_flight", "gauge", "read"] == 0
        assert samples["call_seconds_count", "gauge", "read"] == 3
        assert samples["call_seconds_bucket", "gauge", "+Inf", "read"] == 3
        assert samples["restarts_total", "gauge"] == 0
        assert 1 << 20 < samples["memory_bytes", "gauge"] < 1 << 30
        status = json.loads(node.get("/statusz")[1])
        assert status["components"]["gauge"]["state"] == "ready"
        assert status["degraded"] == {}
        assert node.get("/readyz") == (200, '{"ready": true}')


def test_it_is_stopped_started_and_replaced_and_that_is_in_the_audit(house: House) -> None:
    async def use(bus: Bus) -> None:
        first = await ready(bus)
        await bus.call("gauge.read", {})
        await do(bus, "stop")
        with pytest.raises(busclient.NoResponders):
            await bus.call("gauge.read", {})
        assert (await row(bus))["state"] == "stopped"
        await do(bus, "start")
        second = await ready(bus)
        assert second["pid"] != first["pid"]
        await bus.call("gauge.read", {})
        house.publish_code("2.0")
        house.configure(value=8)
        await do(bus, "replace")
        third = await until(bus, lambda row: row["version"] == "2.0" and row["state"] == "ready")
        assert third["pid"] != second["pid"]
        assert (await bus.call("gauge.read", {})).payload == 8, "settings are read anew"
        await until(bus, lambda row: row["operations"]["read"]["calls"] == 3)

    with house.node() as node:
        on(node, use)
        assert metrics(node)["calls_total", "gauge", "read"] == 3, "of all instances together"
        assert node.get("/readyz") == (200, '{"ready": true}')
        assert node.end()[0] == 0
    acts = [record for record in house.audit() if record["event"] == "act"]
    assert [(act["what"].rpartition(".")[2], act["outcome"]) for act in acts] == [
        ("stop", "ok"),
        ("start", "ok"),
        ("replace", "ok"),
    ], acts
    assert all(act["facts"]["component"] == "gauge" for act in acts)


def test_calls_wait_while_it_is_replaced_and_none_fails(house: House) -> None:
    async def use(bus: Bus) -> None:
        await ready(bus)
        over = asyncio.Event()
        answers: list[int] = []

        async def ask() -> None:
            while not over.is_set():
                answers.append((await bus.call("gauge.read", {})).payload)

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(ask())
            house.configure(value=8)
            await do(bus, "replace")
            await asyncio.sleep(0.05)
            over.set()
        assert {7, 8} <= set(answers)
        assert len(answers) > 20

    with house.node() as node:
        on(node, use)


def test_an_unknown_component_is_refused_with_the_nearest(house: House) -> None:
    async def use(bus: Bus) -> None:
        for verb in ("start", "stop", "replace", "health", "logs"):
            with pytest.raises(BusError) as caught:
                await do(bus, verb, component="gouge")
            assert (caught.value.code, caught.value.fields["nearest"]) == (Code.COMPONENT_UNKNOWN, "gauge"), verb

    with house.node() as node:
        on(node, use)


def test_one_that_crashes_is_started_again_and_counted(house: House) -> None:
    async def use(bus: Bus) -> None:
        first = await ready(bus)
        with pytest.raises(busclient.UnknownOutcome):
            await bus.call("gauge.leave", {})
        again = await until(bus, lambda row: row["restarts"] == 1 and row["state"] == "ready")
        assert again["pid"] != first["pid"]
        assert (await bus.call("gauge.read", {})).payload == 7

    with house.node() as node:
        on(node, use)
        assert metrics(node)["restarts_total", "gauge"] == 1


def test_one_that_has_failed_leaves_the_node_ready_and_is_named(house: House) -> None:
    house.configure(restarts=0, broken=True)

    async def use(bus: Bus) -> None:
        await until(bus, lambda row: row.get("state") == "failed")

    def check(*flags: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "buscli", "check", "--json", "--timeout", "20s", *flags]
        variables = environment(BUS_URL=node.started["socket"])
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)

    with house.node() as node:
        on(node, use)
        status, body = node.get("/readyz")
        degraded = json.loads(body)["degraded"]
        assert (status, list(degraded)) == (200, ["gauge"])
        assert degraded["gauge"].startswith("failed: ")
        assert metrics(node)["up", "gauge", "host"] == 0
        checked = check()
        assert (checked.returncode, json.loads(checked.stdout)["degraded"]) == (0, degraded)
        checked = check("--components")
        assert (checked.returncode, json.loads(checked.stdout)["state"]) == (1, "WARNING")
        house.configure(value=9)
        on(node, lambda bus: do(bus, "start"))
        on(node, ready)
        assert node.get("/readyz") == (200, '{"ready": true}')


def test_what_it_writes_comes_labelled_in_the_log_and_is_kept(house: House) -> None:
    async def use(bus: Bus) -> int:
        pid = (await ready(bus))["pid"]
        await bus.call("gauge.say", {"text": "the needle moves"})
        async with asyncio.timeout(START_SECONDS):
            while not (logs := await do(bus, "logs"))["lines"]:
                await asyncio.sleep(0.02)
        (line,) = logs["lines"]
        assert (line["stream"], line["text"]) == ("stdout", "the needle moves")
        assert isinstance(pid, int)
        return pid

    with house.node() as node:
        pid = on(node, use)
        status, log = node.end()
    assert status == 0
    (line,) = [line for line in log if line["event"] == "component-output"]
    assert (line["component"], line["pid"], line["stream"], line["text"]) == (
        "gauge",
        pid,
        "stdout",
        "the needle moves",
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_when_the_node_does_however_that_ends(number: signal.Signals, house: House) -> None:
    """Two of it after the node's restart would answer everything twice."""
    with house.node() as node:
        process = psutil.Process(on(node, ready)["pid"])
        node.process.send_signal(number)
        node.process.communicate(timeout=START_SECONDS)
        process.wait(START_SECONDS)


@pytest.mark.slow
def test_a_call_that_it_works_on_is_answered_before_the_node_ends(house: House) -> None:
    """The supervisor took the refusals of a draining node for a component that hangs, and cut it off after 8 s."""

    async def use(bus: Bus) -> None:
        await ready(bus)
        call = asyncio.create_task(bus.call("gauge.wait", {"seconds": 9.0}, timeout=30))
        await until(bus, lambda row: row["operations"]["wait"]["in_flight"] == 1)
        node.process.send_signal(signal.SIGTERM)
        assert (await call).payload is None

    with house.node("--drain-grace-seconds", "20") as node:
        on(node, use)
        _, errors = node.process.communicate(timeout=START_SECONDS)
        assert (node.process.returncode, [json.loads(line)["event"] for line in errors.splitlines()]) == (
            0,
            ["stopped"],
        )


def test_a_node_with_a_healthy_component_logs_its_start_and_its_stop(house: House) -> None:
    with house.node() as node:
        on(node, ready)
        status, log = node.end()
    assert (status, [line["event"] for line in log]) == (0, ["stopped"])


def test_a_policy_that_keeps_the_node_from_watching_leaves_a_bus_and_is_told(house: House, tmp_path: Path) -> None:
    policy = tmp_path / "policy.d"
    policy.mkdir()
    (policy / "10-test.policy").write_text("allow publish,subscribe,call,serve demo.> from host\n")
    flags = ["--component-dir", str(house.folder), "--policy-dir", str(policy), "--components", "gauge"]
    with daemon(house.run_dir, *flags) as node:
        told, node.started = node.started, node.line()
        assert (told["event"], told["level"]) == ("components-not-kept", "error")
        assert "component.*.*.status" in told["reason"]
        status, body = node.get("/readyz")
        assert (status, json.loads(body)["degraded"]) == (200, {"supervisor": told["reason"]})
        assert on(node, _echo) == "hello"
        assert node.end()[0] == 0


async def _echo(bus: Bus) -> Any:
    async def answer(call: busclient.Call) -> Any:
        return call.payload

    async with bus.serve("demo.echo", answer):
        return (await bus.call("demo.echo", "hello")).payload
