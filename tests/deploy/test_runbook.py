"""What deploy/RUNBOOK.md promises of a failure is what a real node does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.cli_support import Cli
from tests.support import ROOT, RunningNode, running_node, wait_until


def cli(node: RunningNode) -> Cli:
    return Cli(node.url)


def test_policy_that_locked_everybody_out_is_left_by_a_restart(tmp_path: Path) -> None:
    policy = tmp_path / "policy.d"
    shutil.copytree(ROOT / "busd/ops/policy.d", policy)
    flags = ("--policy-dir", str(policy))
    with running_node(tmp_path / "run", *flags) as node:
        bus = cli(node)
        (policy / "05-mine.policy").write_text("alow publish > from host\n")
        assert bus("policy", "reload").returncode != 0
        assert bus("check").returncode == 0  # a reload that fails keeps the old one
    with running_node(tmp_path / "run", *flags) as node:
        bus = cli(node)
        assert bus("list").returncode == 5
        assert b"3004" in bus("policy", "reload").stderr  # root included, and reload too
        linted = bus("policy", "lint", str(policy))
        assert linted.returncode != 0
        assert b"05-mine.policy" in linted.stdout + linted.stderr
        subject = "$bus.admin.policy.reload"
        explained = bus("policy", "explain", "call", subject, "--from", "host uid=0", "--policy", str(policy))
        assert json.loads(explained.stdout)["allowed"] is False
    (policy / "05-mine.policy").unlink()
    with running_node(tmp_path / "run", *flags) as node:
        assert cli(node)("list").returncode == 0


def test_a_broker_key_that_was_taken_away_is_made_anew_and_enrolments_stay(tmp_path: Path) -> None:
    keys = tmp_path / "run" / "keys"

    def broker(bus: Cli) -> str:
        return bus("keys", "broker").stdout.decode().strip()

    with running_node(tmp_path / "run", "--soc-listen", "127.0.0.1:0") as node:
        bus = cli(node)
        assert bus("keys", "new", "dpu0", "--out", str(tmp_path)).returncode == 0
        assert bus("keys", "enroll", "dpu0", str(tmp_path / "dpu0.pub")).returncode == 0
        first = broker(bus)
    for name in ("broker.key", "broker.pub"):
        (keys / name).rename(tmp_path / name)
    with running_node(tmp_path / "run", "--soc-listen", "127.0.0.1:0") as node:
        bus = cli(node)
        assert len(broker(bus)) == len(first) == 40
        assert broker(bus) != first
        (enrolled,) = bus.records("keys", "list")
        assert (enrolled["name"], enrolled["last_seen_seconds"]) == ("dpu0", None)


@pytest.mark.parametrize(
    ("what", "number"),
    [
        (lambda run: (run / "busd.toml").write_text("[limits]\nendpoint = 5\n"), "7001"),
        (lambda run: (run / "busd.toml").write_text("[limits]\nendpoints = 0\n"), "7002"),
        (lambda run: run.chmod(0o777), "7004"),
        (lambda run: (run / "audit").mkdir(mode=0o755), "7011"),
        (lambda run: (run / "keys").mkdir(mode=0o755), "7020"),
        (lambda run: (run / "host.sock").write_text(""), "7005"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_node_that_does_not_start_says_the_number_of_the_table(
    tmp_path: Path, what: Callable[[Path], object], number: str
) -> None:
    from tests.ops.processes import busd

    run = tmp_path / "run"
    run.mkdir(mode=0o755)
    what(run)
    config = run / "busd.toml"
    flags = ("--config", str(config)) if config.exists() else ()
    ended = busd("run", "--run-dir", str(run), "--http-listen", "off", *flags)
    assert f"BUS-{number}" in ended.stderr, ended.stderr
    assert ended.returncode == (2 if number in ("7001", "7002") else 1)  # 2: RestartPreventExitStatus of the unit
    table = (ROOT / "deploy/RUNBOOK.md").read_text()
    assert number in table


def test_a_second_node_is_told_who_has_the_directory(tmp_path: Path) -> None:
    from tests.ops.processes import busd

    with running_node(tmp_path / "run") as node:
        ended = busd("run", "--run-dir", str(tmp_path / "run"), "--http-listen", "off")
        assert "BUS-7003" in ended.stderr
        assert str(node.process.pid) in ended.stderr


def test_a_socket_that_was_removed_is_back_after_a_restart(tmp_path: Path) -> None:
    with running_node(tmp_path / "run") as node:
        (tmp_path / "run/host.sock").unlink()
        said = cli(node)("check")
        assert said.returncode == 2
        assert json.loads(said.stdout)["url"] == node.url  # it prints where it looked
    with running_node(tmp_path / "run") as node:
        assert cli(node)("check").returncode == 0


def test_a_flood_is_found_and_cut_off_with_the_commands_of_the_page(tmp_path: Path) -> None:
    with running_node(tmp_path / "run") as node:
        bus = cli(node)
        with bus.running("pub", "flood.here", "--count", "1000000", "--rate", "2000", "x"):
            wait_until(lambda: _sender(bus), what="the sender in bus top")
            name = _sender(bus)
            assert bus.records("inspect", name)[0]["claims"]["owner"]
            ended = bus("disconnect", name, "--block", "1h", "--reason", "floods telemetry", "--yes")
            assert ended.returncode == 0, ended.stderr
            wait_until(lambda: _sender(bus) != name, what="its end")
        departed = [row["endpoint"] for row in bus.records("list", "--departed")]
        assert name in departed


def _sender(bus: Cli) -> str:
    """The endpoint that sends most, by ``bus top --once``; empty while nobody sends much."""
    rows = [row for row in bus.records("top", "--once") if "name" in row]
    return str(rows[0]["name"]) if rows and rows[0]["sends_per_second"] > 500 else ""
