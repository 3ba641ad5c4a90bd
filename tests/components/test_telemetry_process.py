"""Telemetry as a process of its own: ``busd component run telemetry``."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import busclient
from tests.support import START_SECONDS, RunningNode, environment, running_node

TELEMETRY = [sys.executable, "-m", "busd", "component", "run", "telemetry"]


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


def configured(folder: Path, interval: str) -> str:
    """A configuration file with ``interval``, as TOML has it."""
    path = folder / "telemetry.toml"
    path.write_text(f"[config]\ninterval = {interval}\n")
    return str(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_its_own_process_ends_cleanly_on_a_signal(
    shared_node: RunningNode, tmp_path: Path, number: signal.Signals
) -> None:
    options = ("--config", configured(tmp_path, "0.1"), "--bus", shared_node.url)
    with program(*TELEMETRY, *options, stderr=subprocess.PIPE) as process:
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


@pytest.mark.parametrize("interval", ["0", "0.01", "3601", '"often"', "nan", "-1"])
def test_an_interval_out_of_range_is_refused(shared_node: RunningNode, tmp_path: Path, interval: str) -> None:
    done = run("--config", configured(tmp_path, interval), "--bus", shared_node.url)
    assert done.returncode == 2
    assert "BUS-7002" in done.stderr
    assert f"config of component 'telemetry' in {tmp_path}/telemetry.toml: interval: expected float" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_says_how_it_ends() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "--config" in done.stdout
    assert "SIGTERM" in done.stdout
