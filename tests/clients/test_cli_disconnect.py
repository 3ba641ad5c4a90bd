"""``bus disconnect``, and the three commands with which an operator finds who floods the bus and ends it."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from buscli.exits import Exit
from busproto.errors import Code
from tests.clients.cli_support import SECONDS, Cli
from tests.support import RunningNode, environment, wait_until

FLOODER = """\
import asyncio, busclient, sys, time

async def main():
    while True:  # it does not take no for an answer
        try:
            async with busclient.connect(sys.argv[1], component="noisy", owner="team-x", purpose="floods") as bus:
                print(bus.endpoint, flush=True)
                while True:
                    for _ in range(50):
                        bus.publish_nowait("metrics.noise", {"n": 1})
                    await bus.flush()
                    await asyncio.sleep(0.01)
        except Exception as error:
            print(getattr(error, "code", error), flush=True)
            await asyncio.sleep(0.1)

asyncio.run(main())
"""


@contextlib.contextmanager
def flooding(url: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that floods the bus, and attaches again when it was cut off."""
    pipes = {"stdout": subprocess.PIPE, "env": environment(), "text": True}
    with subprocess.Popen([sys.executable, "-c", FLOODER, url], **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def bus(shared_node: RunningNode) -> Cli:
    return Cli(shared_node.url, NO_COLOR="1")


def attached(bus: Cli) -> set[str]:
    return {row["endpoint"] for row in bus.records("list") if row["claims"].get("component") == "noisy"}


def told(bus: Cli) -> dict[str, str]:
    """What those were told that were cut off, by endpoint."""
    rows = bus.records("list", "--departed")
    return {row["endpoint"]: row["error"]["text"] for row in rows if row["reason"] == "cut-off"}


def test_three_commands_find_who_floods_the_bus_whose_it_is_and_end_it(bus: Cli, shared_node: RunningNode) -> None:
    with bus.subscribed("quiet.x", subject="quiet.x"), flooding(shared_node.url) as flooder:
        assert flooder.stdout is not None
        name = flooder.stdout.readline().strip()
        # Who floods it?
        first, *_ = bus.records("top", "--once", "--seconds", "500ms")
        assert (first["name"], first["component"]) == (name, "noisy")
        assert first["sends_per_second"] > 100
        # Whose is it?
        (found,) = bus.records("inspect", first["name"])
        assert (found["claims"]["owner"], found["principal"]["pid"]) == ("team-x", flooder.pid)
        # Cut it off, and keep it out.
        words = ("disconnect", first["name"], "--block", "10m", "--reason", "floods metrics.noise", "--yes")
        (ended,) = bus.records(*words)
        assert ended["ended"] == [name]
        assert ended["block"]["pid"] == flooder.pid
        assert [flooder.stdout.readline().strip() for _ in range(3)] == [str(int(Code.DISCONNECTED))] * 3
        assert attached(bus) == set()
        wait_until(lambda: name in told(bus), what="it has left")
        assert "floods metrics.noise" in told(bus)[name]
        assert bus.records("top", "--once", "--seconds", "500ms", "--filter", "noisy")[:-1] == []
        # What is kept out is listed, and let in again.
        (block,) = bus.records("disconnect", "--list")
        assert (block["endpoint"], block["reason"]) == (name, "floods metrics.noise")
        bus.records("disconnect", "--unblock", name)
        wait_until(lambda: attached(bus), what="it is let in again")
        assert bus.records("disconnect", "--list") == []


def test_the_audit_log_names_who_did_it(bus: Cli, shared_node: RunningNode) -> None:
    with bus.subscribed("d1.x", subject="d1.x") as sub:
        (name,) = [row["endpoint"] for row in bus.records("list") if row["principal"]["pid"] == sub.pid]
        bus.records("disconnect", name, "--yes", "--reason", "a test")
        assert sub.wait(SECONDS) != 0
        assert sub.stderr is not None
        assert b"the operator of the node cut this endpoint off: a test" in sub.stderr.read()
    folder = str(Path(shared_node.url.removeprefix("unix://")).parent / "audit")

    def written() -> bool:
        return any(
            name in json.dumps(row)
            for row in bus.records("audit", "show", "--dir", folder)
            if "disconnect" in json.dumps(row)
        )

    wait_until(written, what="the record")


def test_it_asks_on_a_terminal_and_says_whom_it_means(bus: Cli) -> None:
    with bus.subscribed("d2.x", subject="d2.x") as sub:
        (name,) = [row["endpoint"] for row in bus.records("list") if row["principal"]["pid"] == sub.pid]
        code, shown = bus.on_terminal("disconnect", name, "--block", "90s", typed=b"n\n")
        assert code == Exit.CANCELLED
        assert f"cut off {name} (bus-cli, owned by " in shown
        assert f"process {sub.pid}) and keep this process out for 1m 30s? [y/N]" in shown
        assert sub.poll() is None
        code, shown = bus.on_terminal("disconnect", name, "--block", "90s", typed=b"y\n")
        assert code == Exit.OK
        assert f"cut off: {name}\n" in shown
        assert f"to let it in before: bus disconnect --unblock {name}\n" in shown
        assert sub.wait(SECONDS) != 0
    _, shown = bus.on_terminal("disconnect", "--list")
    assert name in shown
    _, shown = bus.on_terminal("disconnect", "--unblock", name)
    assert "is let in again" in shown


def test_without_a_terminal_it_does_not_ask_and_does_nothing(bus: Cli) -> None:
    with bus.subscribed("d3.x", subject="d3.x") as sub:
        (name,) = [row["endpoint"] for row in bus.records("list") if row["principal"]["pid"] == sub.pid]
        ended = bus("disconnect", name)
        assert ended.returncode == Exit.USAGE
        assert b"nobody can be asked here" in ended.stderr
        assert f"try: bus inspect {name}, to see who that is" in ended.stderr.decode()
        assert sub.poll() is None


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), Exit.USAGE, "which endpoint?"),
        (("host-1", "--list"), Exit.USAGE, "are three different things"),
        (("--list", "--block", "1m"), Exit.USAGE, "--block and --reason are about an ENDPOINT"),
        (("host-1", "--block", "25h"), Exit.USAGE, "--block is from 1s to 24h, and this is 1d 1h"),
        (("host-1", "--reason", "x" * 257), Exit.USAGE, "at most 256 bytes"),
        (("host-99999", "--yes"), Exit.FAILED, "no endpoint is called 'host-99999'"),
        (("--unblock", "host-99999"), Exit.FAILED, "nothing is blocked under the name 'host-99999'"),
    ],
)
def test_what_cannot_be_done_is_said(bus: Cli, words: tuple[str, ...], code: Exit, said: str) -> None:
    ended = bus("disconnect", *words)
    assert (ended.returncode, ended.stdout) == (code, b"")
    assert said in ended.stderr.decode()


def test_a_name_that_nobody_has_leads_to_no_other_endpoint(bus: Cli) -> None:
    said = bus("disconnect", "host-10", "--yes").stderr.decode()  # close to host-1, which is busd itself
    assert "no endpoint is called 'host-10'" in said
    assert "bus disconnect host-" not in said


def test_what_belongs_to_busd_itself_is_not_cut_off(bus: Cli) -> None:
    (name,) = [row["endpoint"] for row in bus.records("list") if row["claims"].get("component") == "supervisor"]
    ended = bus("disconnect", name, "--yes")
    assert (ended.returncode, ended.stdout) == (Exit.FAILED, b"")
    assert f"bus disconnect: {name} belongs to busd itself" in ended.stderr.decode()
    assert name in [row["endpoint"] for row in bus.records("list")]


def test_when_nothing_is_kept_out_that_is_said(bus: Cli) -> None:
    code, shown = bus.on_terminal("disconnect", "--list")
    assert (code, shown.splitlines()[-1]) == (Exit.OK, "nothing is kept out")


def test_a_component_s_name_leads_to_its_endpoints(bus: Cli) -> None:
    ended = bus("disconnect", "supervisor", "--yes")
    assert ended.returncode == Exit.FAILED
    assert "try: bus disconnect host-1\n" in ended.stderr.decode()
