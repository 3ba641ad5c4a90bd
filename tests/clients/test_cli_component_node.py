"""``bus component`` and ``bus map`` on a real node, with a component that ``bus component new`` wrote."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from buscli.exits import Exit
from buscli.scaffold import write_component
from tests.clients.cli_support import SECONDS, Cli, lines_of
from tests.support import environment, running_node, wait_until


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """The command on a node that runs component ``tally``, and could run ``broken``."""
    home = tmp_path_factory.mktemp("components")
    settings = home / "components.d"
    settings.mkdir(mode=0o755)
    for name in ("tally", "broken"):
        write_component(name, str(home), "platform")
        (home / name / f"{name}.toml").rename(settings / f"{name}.toml")
        (settings / f"{name}.toml").chmod(0o644)
    path = home / "broken" / "component.py"
    path.write_text(
        path.read_text().replace(
            "self._total = 0", "print('no sensor here', flush=True)\n        raise ValueError('none')"
        )
    )
    with running_node(home / "run", "--component-dir", str(settings), "--components", "tally") as node:
        cli = Cli(node.url)
        wait_until(lambda: cli.records("component", "list")[0]["state"] == "ready", what="tally is ready")
        yield cli


def total(bus: Cli) -> int:
    """Add one, and what it comes to."""
    (reply,) = bus.records("call", "tally.add")
    return int(reply["total"])


def test_it_is_listed_with_owner_and_purpose(bus: Cli) -> None:
    (row,) = bus.records("component", "list")
    assert (row["component"], row["owner"], row["placement"]) == ("tally", "platform", "host")
    assert row["purpose"] == "counts, as an example of a component"
    status, shown = bus.on_terminal("component", "list", "--no-color")
    assert status == Exit.OK
    assert "tally" in shown
    assert "/128 MiB" in shown, "the budget of its settings"
    status, shown = bus.on_terminal("component", "inspect", "tally", "--no-color")
    assert status == Exit.OK
    assert "tally 0.1.0 is ready" in shown
    assert "tally.component:Tally" in shown
    assert bus("component", "health", "tally").returncode == Exit.OK


def test_it_is_replaced_and_keeps_what_it_counted(bus: Cli) -> None:
    before = total(bus)
    (receipt,) = bus.records("component", "replace", "tally", "--seconds", "5s")
    assert (receipt["from"], receipt["to"], receipt["state_lost"]) == ("host", "host", False)
    assert receipt["state_bytes"] > 0
    assert total(bus) == before + 1
    assert bus.records("component", "inspect", "tally")[0]["instance"] == receipt["instance"]
    status, shown = bus.on_terminal("component", "replace", "tally", "--no-color")
    assert status == Exit.OK
    assert "tally runs at host now: instance" in shown


def test_it_is_stopped_and_started(bus: Cli) -> None:
    (row,) = bus.records("component", "stop", "tally")
    assert row["state"] == "stopped"
    assert bus("call", "tally.add").returncode == Exit.NO_RESPONDERS
    assert bus("component", "health").returncode == Exit.FAILED
    (row,) = bus.records("component", "start", "tally")
    assert row["state"] == "ready"
    assert total(bus) == 1


def test_what_cannot_be_done_is_refused_with_its_cure(bus: Cli) -> None:
    for words, code, said in (
        (("move", "tally", "--to", "soc"), "BUS-8002", "stands by at soc"),
        (("move", "tally", "--to", "host"), "BUS-8003", "at host already"),
        (("replace", "tally", "--source", "nowhere:Nothing"), "BUS-8005", "failed at prepare"),
        (
            ("replace", "talyl"),
            "bus component replace",
            "no component is called 'talyl'\n  try: bus component replace tally",
        ),
    ):
        ended = bus("component", *words)
        assert ended.returncode == Exit.FAILED
        assert ended.stdout == b""
        assert ended.stderr.decode().startswith(code)
        assert said in ended.stderr.decode()
        assert "\n  try: " in ended.stderr.decode()
    assert bus("component", "health", "tally").returncode == Exit.OK, "the old one serves"


def test_one_that_cannot_start_says_why_and_its_log_says_more(bus: Cli) -> None:
    ended = bus("component", "start", "broken")
    assert ended.returncode == Exit.FAILED
    assert lines_of(ended.stdout)[0]["state"] == "failed"
    assert "bus component start: broken does not serve: " in ended.stderr.decode()
    assert "try: bus component logs broken" in ended.stderr.decode()
    lines = bus.records("component", "logs", "broken")
    assert {line["text"] for line in lines if line["stream"] == "stdout"} == {"no sensor here"}
    assert any("none" in line["text"] for line in lines if line["stream"] == "stderr")
    assert len(bus.records("component", "logs", "broken", "--lines", "2")) == 2
    bus.records("component", "stop", "broken")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_log_is_followed_until_it_is_stopped(bus: Cli, number: signal.Signals) -> None:
    with bus.running("component", "logs", "tally", "--follow", "--lines", "1") as following:
        assert following.stdout is not None
        following.stdout.readline()
        bus.records("component", "replace", "tally")
        while "took over" not in json.loads(following.stdout.readline())["text"]:
            pass
        following.send_signal(number)
        assert following.wait(SECONDS) == Exit.OK


def test_a_log_is_followed_until_nobody_reads_it(bus: Cli) -> None:
    with bus.running("component", "logs", "tally", "--follow") as following:
        assert following.stdout is not None
        following.stdout.readline()
        following.stdout.close()
        assert following.wait(SECONDS) == Exit.BROKEN_PIPE


def test_one_that_is_run_by_hand_is_listed_and_told_apart(bus: Cli, tmp_path: Path) -> None:
    write_component("manual", str(tmp_path), "me")
    command = [sys.executable, "-m", "busd", "component", "run", "manual.component:Manual"]
    variables = environment(BUS_URL=bus.environment["BUS_URL"])
    with subprocess.Popen(command, cwd=tmp_path, env=variables, stdin=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: b'"manual"' in bus("component", "list").stdout or process.poll() is not None)
            wait_until(lambda: bus("component", "health", "manual").returncode == Exit.OK, what="it is well")
            (row,) = bus.records("component", "inspect", "manual")
            assert (row["supervised"], row["owner"]) == (False, "me")
            assert "run by hand" in bus.on_terminal("component", "list")[1]
            assert "run by hand" in bus("component", "stop", "manual").stderr.decode()
        finally:
            process.terminate()
            assert process.wait(SECONDS) == 0


def test_the_map_shows_it_to_a_newcomer(bus: Cli) -> None:
    with bus.subscribed("tally.>", subject="tally.counted"):
        total(bus)
        status, shown = bus.on_terminal("map", "--seconds", "100ms", "--component", "tally", "--no-color")
        assert status == Exit.OK
        assert "tally: counts, as an example of a component\n  owner platform; 1 endpoint: host" in shown
        rows = [" ".join(line.split()) for line in shown.splitlines()]
        assert any(row.startswith("publishes to bus-cli tally.> ") for row in rows)
        (found,) = bus.records("map", "--seconds", "100ms")
        names = {row["endpoint"]: row["component"] for row in found["endpoints"]}
        assert any(
            (names[each["from"]], each["kind"], each["subject"]) == ("tally", "publish", "tally.>")
            for each in found["flows"]
        )
    graph = bus("map", "--seconds", "100ms", "--dot").stdout.decode()
    assert graph.startswith("digraph bus {\n")
    assert "counts, as an example of a component" in graph


def test_completion_offers_its_name(bus: Cli) -> None:
    url = bus.environment["BUS_URL"]
    ended = bus("__complete", "component", "--bus", url, "inspect", "ta")
    assert ended.stdout.decode() == "tally\tcounts, as an example of a component\n"
    assert bus("__complete", "map", "--component", "ta").stdout.startswith(b"tally\t")
