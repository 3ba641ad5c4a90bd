"""``bus guest``: units on a real node, added, looked at and torn down from the command line."""

import json
import os
import re
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from buscli.exits import Exit
from buscli.parser import Line, parse
from buscli.table import load
from busd.edge.admission import Refusal
from tests.clients.cli_support import Cli, lines_of
from tests.support import ROOT, RunningNode, running_node, wait_until


@pytest.fixture
def bus(shared_node: RunningNode) -> Iterator[Cli]:
    """The command, on a node that has no guests before and after."""
    cli = Cli(shared_node.url)
    yield cli
    for row in cli.records("guest", "list"):
        cli.records("guest", "remove", row["name"])


def test_guest_is_added_listed_inspected_and_removed(bus: Cli, tmp_path: Path) -> None:
    (added,) = bus.records(
        *("guest", "add", "vm-1", "--tenant", "acme", "--socket", f"{tmp_path}/v", "--port", "7000"),
        *("--generation", "900", "--pid", str(os.getpid())),
    )
    assert (added["name"], added["tenant"], added["generation"]) == ("vm-1", "acme", 900)
    assert (added["way"], added["address"], added["state"]) == ("socket", f"{tmp_path}/v_7000", "listening")
    bus.records("guest", "add", "vm-2", "--tenant", "globex", "--connect", f"{tmp_path}/w", "--any-process")
    rows = bus.records("guest", "list")
    assert [(row["name"], row["generation"], row["endpoints"]) for row in rows] == [("vm-1", 900, 0), ("vm-2", 901, 0)]
    assert rows[1]["address"] == f"{tmp_path}/w"
    with socket.socket(socket.AF_UNIX) as guest:
        guest.connect(f"{tmp_path}/v_7000")
        wait_until(lambda: bus.records("guest", "inspect", "vm-1")[0]["connections"] == 1)
        (receipt,) = bus.records("guest", "remove", "vm-1")
    assert (receipt["unit"], receipt["generation"], receipt["connections"]) == ("vm-1", 900, 1)
    assert [row["name"] for row in bus.records("guest", "list")] == ["vm-2"]
    assert not (tmp_path / "v_7000").exists()


def test_table_says_what_keeps_a_guest_away(bus: Cli, shared_node: RunningNode, tmp_path: Path) -> None:
    bus.records("guest", "add", "vm-1", "--tenant", "acme", "--device", f"{tmp_path}/tty")
    plain = Cli(shared_node.url, NO_COLOR="1")
    status, shown = plain.on_terminal("guest", "list")
    assert status == Exit.OK
    heads, row = (line for line in shown.splitlines() if line.startswith(("guest", "vm-1")))
    assert heads.split() == [
        "guest",
        "tenant",
        "generation",
        "way",
        "in",
        "state",
        "age",
        "vmm",
        "endpoints",
        "refused",
    ]
    assert "no such file" in row
    status, shown = plain.on_terminal("guest", "inspect", "vm-1")
    assert status == Exit.OK
    assert "any_process: false" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add", "vm-1", "--socket", "/x/v"], "bus guest add: whose is it? --tenant is missing"),
        (["add", "vm-1", "--tenant", "acme"], "exactly one of --socket, --connect, --cid, --device"),
        (["add", "vm-1", "--tenant", "acme", "--cid", "3", "--socket", "/x"], "there is --socket and --cid"),
        (["add", "vm-1", "--tenant", "acme", "--socket", "/x", "--owner", "bob"], "'bob' is not a user id"),
        (["add", "vm-1", "--tenant", "acme", "--socket", "/x", "--port", "0"], "'0' must be at least 1"),
        (["ad", "vm-1"], "unknown command 'ad'"),
        ([], "which of add, remove, list, inspect?"),
    ],
)
def test_command_line_that_is_wrong_is_named(words: list[str], said: str) -> None:
    ended = Cli("/nowhere")("guest", *words)
    assert (ended.returncode, ended.stdout) == (Exit.USAGE, b"")
    assert said in ended.stderr.decode()
    assert "try: " in ended.stderr.decode()


def test_refusal_of_the_broker_has_cause_and_cure(bus: Cli, tmp_path: Path) -> None:
    add = ("guest", "add", "vm-1", "--tenant", "acme", "--connect", f"{tmp_path}/v")
    bus.records(*add)
    ended = bus(*add)
    assert ended.returncode == Exit.FAILED
    assert "BUS-3011" in ended.stderr.decode()
    assert "remove it first" in ended.stderr.decode()
    assert "try: bus guest list" in ended.stderr.decode()
    ended = bus("guest", "add", "vm-2", "--tenant", "acme", "--socket", f"{tmp_path}/absent/v")
    assert ended.returncode == Exit.FAILED
    assert f"directory {tmp_path}/absent does not exist" in ended.stderr.decode()


def test_unknown_guest_is_named_with_the_nearest(bus: Cli, tmp_path: Path) -> None:
    bus.records("guest", "add", "vm-42", "--tenant", "acme", "--connect", f"{tmp_path}/v")
    for action in ("remove", "inspect"):
        ended = bus("guest", action, "vm-24")
        assert ended.returncode == Exit.FAILED
        said = ended.stderr.decode()
        assert said.startswith(f"bus guest {action}: no guest is called 'vm-24'\n  try: bus guest {action} vm-42\n")
    assert len(bus.records("guest", "list")) == 1


def test_help_of_every_action_is_there(bus: Cli) -> None:
    for action in ("add", "remove", "list", "inspect"):
        ended = bus("guest", action, "--help")
        assert ended.returncode == 0
        assert b"examples:" in ended.stdout


def test_guests_outlive_the_broker(tmp_path: Path) -> None:
    """Also one that is killed: the next broker lets the same guests in, in the same generation."""
    run_dir = tmp_path / "run"
    with running_node(run_dir) as node:
        cli = Cli(node.url)
        cli.records("guest", "add", "vm-1", "--tenant", "acme", "--socket", f"{tmp_path}/v")
        (before,) = cli.records("guest", "list")
    assert not (tmp_path / "v_5670").exists()
    assert json.loads((run_dir / "units.json").read_text())["generation"] == before["generation"]
    with running_node(run_dir) as node:
        (after,) = Cli(node.url).records("guest", "list")
        assert (after["name"], after["generation"], after["state"]) == ("vm-1", before["generation"], "listening")
        with socket.socket(socket.AF_UNIX) as guest:
            guest.connect(f"{tmp_path}/v_5670")
            guest.settimeout(10)
            assert guest.recv(10)[:1] == b"\xff"  # a ZMTP greeting


def test_commands_of_the_page_on_boundaries_are_commands() -> None:
    page = (ROOT / "busd" / "edge" / "README.md").read_text()
    lines = [line for line in re.findall(r"(?m)^\$ bus (.*)$|`bus (guest [^`]*)`", page) for line in line if line]
    assert len(lines) >= 10
    for line in lines:
        words = shlex.split(re.sub(r"\b(N|UID)\b", "7", line.partition(" > ")[0]), comments=True)
        command = load(words[0])
        if command.actions and len(words) > 2:
            assert parse(command, Line(words)).action == words[1]
        elif command.actions:
            assert command.action(words[1]) is not None


def test_page_on_boundaries_names_every_refusal_and_state() -> None:
    page = (ROOT / "busd" / "edge" / "README.md").read_text()
    sources = "".join((ROOT / "busd" / "edge" / f"{name}.py").read_text() for name in ("hybrid", "serialport", "vsock"))
    states = set(re.findall(r'"state": "(\w+)"', sources)) | set(re.findall(r'describe\("(\w+)"', sources))
    assert states >= {"listening", "unreachable", "connected", "connecting", "opening"}
    for word in (*states, "waiting", "open", *Refusal):
        assert f"`{word}`" in page, word


def test_machine_form_is_one_line_a_guest(bus: Cli, tmp_path: Path) -> None:
    for number in range(3):
        bus.records("guest", "add", f"vm-{number}", "--tenant", "acme", "--connect", f"{tmp_path}/v{number}")
    ended = bus("guest", "list")
    assert [row["name"] for row in lines_of(ended.stdout)] == ["vm-0", "vm-1", "vm-2"]
