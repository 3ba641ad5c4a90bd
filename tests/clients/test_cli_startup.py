"""The command starts quickly, because it imports what a command needs and nothing else."""

import os
import subprocess
import sys

import pytest

from buscli.exits import Exit
from tests.clients.cli_support import BUS, Cli
from tests.support import RunningNode, environment

HEAVY = {"asyncio", "msgpack", "rich", "zmq", "busclient", "subprocess", "ssl", "inspect", "shutil", "dataclasses"}


def imported(*words: str, url: str = "/nowhere/host.sock") -> set[str]:
    """The top-level modules that a command line imports."""
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "buscli", *words],
        capture_output=True,
        text=True,
        env=environment(BUS_URL=url),
        stdin=subprocess.DEVNULL,
    )
    lines = [line for line in ended.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


@pytest.mark.parametrize(
    "words",
    [["--help"], ["pub", "--help"], ["nonsense"], ["errors", "3001"], ["completion", "bash"], ["help", "--json"]],
)
def test_what_needs_no_bus_imports_nothing_for_one(words: list[str]) -> None:
    assert not imported(*words) & HEAVY


def test_a_piped_command_never_imports_rich(shared_node: RunningNode) -> None:
    for words in (["list"], ["call", "$bus.ping"], ["pub", "x", "1"], ["stats"]):
        assert not imported(*words, url=shared_node.url) & {"rich", "zmq"}


def cpu_seconds(*command: str, url: str) -> float:
    """CPU time of the cheapest of several runs: the machine's other work lengthens the time by the clock, not this."""
    times = []
    for _ in range(5):
        with subprocess.Popen(
            command, env=environment(BUS_URL=url), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        times.append(usage.ru_utime + usage.ru_stime)
    return min(times)


def test_it_starts_in_the_time_that_a_prompt_may_take(shared_node: RunningNode) -> None:
    """Bounds are above an empty Python's start, and about twice what was measured (help 50 ms, pub 100 ms)."""
    empty = cpu_seconds(sys.executable, "-c", "pass", url="")
    assert cpu_seconds(*BUS, "--help", url=shared_node.url) - empty < 0.15
    assert cpu_seconds(*BUS, "pub", "x", "1", url=shared_node.url) - empty < 0.25


def test_version_says_what_it_is() -> None:
    ended = Cli("/nowhere")("--version")
    assert ended.returncode == Exit.OK
    assert ended.stdout.decode().startswith("bus ")
    assert "(protocol 1, CPython 3." in ended.stdout.decode()


def test_the_module_and_the_function_are_the_same_command() -> None:
    from buscli.__main__ import main

    assert main(["errors", "3001"]) == Exit.OK
    assert main(["errors", "nothing-like-it"]) == Exit.USAGE


def test_help_into_a_closed_pipe_is_quiet() -> None:
    ended = subprocess.run(
        ["sh", "-c", f"{' '.join(BUS)} errors | head -1; {' '.join(BUS)} help --json | head -1"],
        env=environment(),
        capture_output=True,
    )
    assert ended.stderr == b""
    assert ended.stdout.count(b"\n") == 2


def test_output_that_cannot_be_written_is_an_error_not_a_traceback() -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run([*BUS, "errors"], env=environment(), stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == Exit.FAILED
    assert b"No space left on device" in ended.stderr
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_failure(closed: str, shared_node: RunningNode) -> None:
    line = f"{' '.join(BUS)} call '$bus.ping' {closed}"
    ended = subprocess.run(["sh", "-c", line], env=environment(BUS_URL=shared_node.url), capture_output=True)
    assert (ended.returncode, ended.stderr) == (Exit.OK, b"")
