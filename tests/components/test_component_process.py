"""Components as processes: what the node starts and how it ends, and telemetry's own command line."""

import asyncio
import logging
import os
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
from busclient import BusError, Code
from busd.components import launch as launching
from busd.components.launch import available, check_name, launch
from tests.support import START_SECONDS, RunningNode, environment, running_node

TELEMETRY = [sys.executable, "-m", "busd.components.telemetry"]


@contextmanager
def program(*command: str, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """A program that is gone at the end of the block, whatever happens in it."""
    with subprocess.Popen(command, env=environment(), text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


async def served(url: str, *, present: bool) -> None:
    """Return once somebody serves (or nobody any longer serves) telemetry.processes."""
    async with busclient.connect(url, component="test") as bus, asyncio.timeout(START_SECONDS):
        while True:
            try:
                await bus.call("telemetry.processes", {"limit": 1})
                if present:
                    return
            except busclient.NoResponders:
                if not present:
                    return
            await asyncio.sleep(0.02)


async def departure(url: str, pid: int) -> str:
    """Why the endpoint of process ``pid`` left, as the census has it."""
    async with busclient.connect(url, component="test") as bus:
        departed = (await bus.call("$bus.list", {"departed": True})).payload["departed"]
    return next(str(row["reason"]) for row in departed if row["principal"]["pid"] == pid)


def test_names_are_checked_against_the_components_that_exist() -> None:
    assert "telemetry" in available()
    check_name("telemetry")
    with pytest.raises(BusError) as caught:
        check_name("telemetri")
    assert caught.value.code == Code.CONFIG_INVALID
    assert "there is no component 'telemetri'; the nearest is 'telemetry'" in caught.value.text
    for name in ("", "../telemetry", "launch", "__pycache__"):
        with pytest.raises(BusError):
            check_name(name)


def test_a_worker_starts_serves_and_stops(shared_node: RunningNode, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        worker = await launch("telemetry", shared_node.url)
        assert worker.statistics().status is None
        await served(shared_node.url, present=True)
        assert await worker.stop() == 0
        assert await worker.stop() == 0, "stopping twice is stopping"
        statistics = worker.statistics()
        assert (statistics.name, statistics.pid, statistics.status) == ("telemetry", worker.pid, 0)
        assert not psutil.pid_exists(worker.pid)
        await served(shared_node.url, present=False)
        assert await departure(shared_node.url, worker.pid) == "bye"

    asyncio.run(main())
    assert caplog.records == [], "a healthy worker is not worth a line"


def test_a_worker_that_dies_is_noted_once(shared_node: RunningNode, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        worker = await launch("telemetry", shared_node.url)
        await served(shared_node.url, present=True)
        os.kill(worker.pid, signal.SIGKILL)
        assert await worker.wait() == -signal.SIGKILL
        assert worker.statistics().status == -signal.SIGKILL
        assert await worker.stop() == -signal.SIGKILL

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert [(record.name, record.levelname) for record in caplog.records] == [("busd.components", "ERROR")]
    fields = caplog.records[0].__dict__["fields"]
    assert (caplog.records[0].__dict__["event"], fields["component"], fields["status"]) == (
        "component-ended",
        "telemetry",
        -signal.SIGKILL,
    )


def test_a_worker_that_does_not_end_is_killed(shared_node: RunningNode, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        worker = await launch("telemetry", shared_node.url)
        await served(shared_node.url, present=True)
        os.kill(worker.pid, signal.SIGSTOP)
        assert await worker.stop(grace=0.2) == -signal.SIGKILL
        assert not psutil.pid_exists(worker.pid)

    asyncio.run(main())
    assert [record.__dict__["event"] for record in caplog.records] == ["component-killed"]


def test_a_worker_ends_when_its_node_is_killed(shared_node: RunningNode) -> None:
    """Two telemetry components after the node's restart would publish everything twice."""
    source = (
        "import asyncio, sys\n"
        "from busd.components.launch import launch\n"
        "async def main():\n"
        "    print((await launch('telemetry', sys.argv[1])).pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with program(sys.executable, "-c", source, shared_node.url, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        asyncio.run(served(shared_node.url, present=True))
        parent.kill()
        worker.wait(START_SECONDS)
    asyncio.run(served(shared_node.url, present=False))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_its_own_process_ends_cleanly_on_a_signal(shared_node: RunningNode, number: signal.Signals) -> None:
    with program(*TELEMETRY, "--bus", shared_node.url, "--interval", "0.1", stderr=subprocess.PIPE) as process:
        asyncio.run(served(shared_node.url, present=True))
        process.send_signal(number)
        _, errors = process.communicate(timeout=START_SECONDS)
        assert (process.returncode, errors) == (0, "")
    asyncio.run(served(shared_node.url, present=False))


def test_it_comes_back_when_the_node_does(tmp_path: Path) -> None:
    with running_node(tmp_path) as first, program(*TELEMETRY, "--bus", first.url) as telemetry:
        asyncio.run(served(first.url, present=True))
        first.process.kill()
        first.process.wait(START_SECONDS)
        (tmp_path / "host.sock").unlink()
        with running_node(tmp_path) as second:
            asyncio.run(served(second.url, present=True))
            telemetry.terminate()
            assert telemetry.wait(START_SECONDS) == 0


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*TELEMETRY, *arguments], env=environment(), capture_output=True, text=True, timeout=START_SECONDS, check=False
    )


def test_without_a_bus_it_says_so_and_fails(tmp_path: Path) -> None:
    done = run("--bus", f"{tmp_path}/host.sock")
    assert done.returncode == 1
    assert "BUS-6001" in done.stderr
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("interval", ["0", "0.01", "3601", "often", "nan", "-1"])
def test_an_interval_out_of_range_is_refused(interval: str) -> None:
    done = run(f"--interval={interval}")
    assert done.returncode == 2
    assert f"'{interval}' is not a number of seconds from 0.1 to 3600" in done.stderr


def test_help_says_how_it_ends() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "--interval" in done.stdout
    assert "SIGTERM" in done.stdout


def test_the_names_are_the_packages_that_can_run() -> None:
    rooms = Path(launching.__file__).parent
    assert available() == sorted(path.name for path in rooms.iterdir() if (path / "__main__.py").is_file())
