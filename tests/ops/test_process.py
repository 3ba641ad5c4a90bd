"""The node as a process, with a node that is made for the test: signals, its one line at start and one at stop."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support import environment

PROGRAM = """
import asyncio, sys
import busd.ops.process as process
from busd.__main__ import main
from busd.ops.config import from_program, resolve
from busd.ops.descriptors import Descriptors
from busproto.errors import BusError, Code
from tests.ops.fakes import FakeNode

class Node(FakeNode):
    async def start(self):
        {start}
        await super().start()
    async def stop(self):
        print("stopping", flush=True)
        {stop}
        await super().stop()

{before}
config = resolve(from_program({{"log.format": "json", "loop": sys.argv[1], "drain.grace_seconds": 0.2}}), {{}})
sys.exit(process.run(config, Node))
"""


@contextmanager
def daemon(
    loop: str = "asyncio", *, start: str = "pass", stop: str = "pass", before: str = ""
) -> Iterator[subprocess.Popen[str]]:
    program = PROGRAM.format(start=start, stop=stop, before=before)
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, loop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def next_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stderr is not None
    line = process.stderr.readline()
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def rest(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    _, errors = process.communicate(timeout=30)
    return [json.loads(line) for line in errors.splitlines()]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_with_one_line_at_start_and_one_at_stop(loop: str, number: signal.Signals) -> None:
    with daemon(loop) as process:
        started = next_line(process)
        del started["time"]
        assert started == {
            "level": "info",
            "event": "started",
            "logger": "busd",
            "version": "9.9.9",
            "node": "n1",
            "pid": process.pid,
            "socket": "unix:///run/busd/host.sock",
            "http": "http://127.0.0.1:9850",
            "endpoints": 16384,
            "loop": "uvloop",
            "audit": f"211:{'ab' * 32}",
        }
        process.send_signal(number)
        (stopped,) = rest(process)
        assert process.returncode == 0
        assert (stopped["event"], stopped["level"], stopped["signal"]) == ("stopped", "info", number.name)
        assert stopped["uptime_seconds"] == 12.5
        assert 0 <= stopped["drain_seconds"] < 5
        assert stopped["audit"] == f"211:{'ab' * 32}"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(loop: str, second: signal.Signals) -> None:
    with daemon(loop, stop="await asyncio.sleep(60)") as process:
        assert next_line(process)["event"] == "started"
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(second)
        (line,) = rest(process)
        assert process.returncode == 128 + second
        assert (line["event"], line["level"], line["signal"]) == ("ended-at-once", "warning", second.name)


def test_a_node_that_does_not_stop_is_ended_with_status_1() -> None:
    with daemon(stop="await asyncio.sleep(60)", before="process.STOP_MARGIN = 0.1") as process:
        assert next_line(process)["event"] == "started"
        process.send_signal(signal.SIGTERM)
        (line,) = rest(process)
        assert process.returncode == 1
        assert (line["event"], line["level"], line["signal"]) == ("stop-overdue", "error", "SIGTERM")
        assert line["seconds"] >= 0.3


def test_too_few_descriptors_are_told_with_the_cure() -> None:
    with daemon(start="self.set(endpoints_limit=896, descriptors=Descriptors(1024, 1024, 1024))") as process:
        short, started = next_line(process), next_line(process)
        assert (short["event"], short["level"]) == ("descriptors-short", "warning")
        assert (short["wanted"], short["endpoints"], short["descriptors"]) == (16384, 896, 1024)
        assert "LimitNOFILE=" in short["cure"]
        assert (started["event"], started["endpoints"]) == ("started", 896)


def test_a_bug_is_logged_once_and_counted_and_the_node_goes_on() -> None:
    bug = """
        def broken():
            raise ZeroDivisionError("made for the test")
        for _ in range(100):
            asyncio.get_running_loop().call_soon(broken)
"""
    with daemon(start=bug) as process:
        lines = {line["event"]: line for line in (next_line(process), next_line(process))}
        fault = lines["internal-error"]
        assert fault["level"] == "error"
        assert fault["error"] == "ZeroDivisionError('made for the test')"
        assert "repeated" not in fault
        assert "started" in lines
        process.send_signal(signal.SIGTERM)
        counted, stopped = rest(process)
        assert process.returncode == 0
        assert (counted["event"], counted["repeated"]) == ("internal-error", 99)
        assert stopped["event"] == "stopped"


def test_a_node_that_cannot_start_is_code_reason_and_cure_and_status_1() -> None:
    program = """
import sys, types
from tests.ops.fakes import FakeNode
from busproto.errors import BusError, Code
class Node(FakeNode):
    async def start(self):
        raise BusError(Code.LISTEN_FAILED, address="unix:///x", reason="made for the test")
sys.modules["busd.node"] = types.SimpleNamespace(Node=Node)
from busd.__main__ import main
sys.exit(main(["run"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment(), timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "BUS-7005 listen-failed: cannot listen on unix:///x: made for the test",
        "Choose another address, or stop what uses it.",
    ]
