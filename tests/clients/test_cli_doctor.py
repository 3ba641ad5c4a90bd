"""``bus check --doctor``: each check well and unwell, on a real node, on made figures and on real files."""

import json
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from buscli import doctorhost
from buscli.doctor import RIGHTS, Finding, worst
from buscli.doctornode import CHECKS, Node, examine_node
from buscli.exits import Health
from buscli.listeners import listening, place_of
from buscli.toprows import Sample
from tests.clients.cli_support import Cli
from tests.clients.test_cli_top import said, sampled
from tests.support import RunningNode, running_node

LATE = "20s"
"""For a machine that is busy with other tests."""


@pytest.fixture
def bus(shared_node: RunningNode) -> Cli:
    return Cli(shared_node.url, NO_COLOR="1")


def examined(bus: Cli, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and each check by name."""
    ended = bus("check", "--doctor", "--timeout", LATE, *words)
    found = json.loads(ended.stdout)
    return ended.returncode, {check["check"]: check for check in found["checks"]}


def test_a_node_is_looked_at_from_all_sides(bus: Cli) -> None:
    code, found = examined(bus)
    assert set(CHECKS) <= set(found)
    assert {"bus", "time", "run", "sockets", "audit-file", "key-files", "root-keys", "disk"} <= set(found)
    amiss = {name: check for name, check in found.items() if check["state"] != "OK" and name not in ("lag", "disk")}
    assert amiss == {}, amiss  # lag and disk are this machine's
    assert code in (Health.OK, Health.WARNING, Health.CRITICAL)
    assert all(check["cure"] is None for check in found.values() if check["state"] == "OK")


def test_a_person_sees_a_line_for_each_and_a_verdict(bus: Cli) -> None:
    _, shown = bus.on_terminal("check", "--doctor", "--timeout", LATE)
    assert "OK        policy " in shown
    assert shown.rstrip().splitlines()[-1].partition(":")[0] in ("OK", "WARNING", "CRITICAL", "UNKNOWN")


def test_monitoring_reads_it(bus: Cli) -> None:
    shown = bus("check", "--doctor", "--timeout", LATE, "--format", "prometheus").stdout.decode()
    assert 'bus_doctor_state{check="policy"} 0\n' in shown
    shown = bus("check", "--doctor", "--timeout", LATE, "--format", "nagios").stdout.decode()
    assert shown.startswith("BUS ")
    assert len(shown.splitlines()) == 1


def test_without_a_bus_the_rest_is_looked_at(tmp_path: Path) -> None:
    with running_node(tmp_path / "n") as node:
        pass
    code, found = examined(Cli(node.url))
    assert code == Health.CRITICAL
    assert found["bus"]["state"] == "CRITICAL"
    assert found["node"]["state"] == "UNKNOWN"  # what it would have said is not known, and so not well
    assert "host.sock is not there" in found["run"]["text"]
    assert found["audit-file"]["state"] == "OK"
    assert found["disk"]["state"] in ("OK", "WARNING", "CRITICAL")


def test_a_bus_that_denies_is_not_said_to_be_absent(tmp_path: Path) -> None:
    policy = tmp_path / "policy.d"
    policy.mkdir(mode=0o755)
    (policy / "10-ping.policy").write_text("allow call $bus.ping from host\n")
    with running_node(tmp_path / "n", "--policy-dir", str(policy)) as node:
        code, found = examined(Cli(node.url))
        shown = Cli(node.url)("check", "--doctor", "--format", "text").stdout.decode()
    assert code == Health.UNKNOWN
    assert shown.count("'$bus.top' is denied") == 1, "one cause is told once"
    assert re.search(r"UNKNOWN +lag .*\n +the same: endpoints, policy, .*, lost\n +try: ", shown)
    assert "node" not in found
    for check in ("bus", "lag", "policy", "lost"):
        assert (found[check]["state"], "denied" in found[check]["text"]) == ("UNKNOWN", True), check
        assert found[check]["cure"] == RIGHTS
    assert found["versions"]["state"] == "OK"


def test_what_a_guest_may_not_see_is_unknown(tmp_path: Path) -> None:
    policy = tmp_path / "policy.d"
    policy.mkdir(mode=0o755)
    (policy / "10-all.policy").write_text(
        "allow publish,subscribe,call,serve > from host,guest\nallow call $bus.ping from guest\n"
        "allow subscribe,call $bus.> from host\n"
    )
    with running_node(tmp_path / "n", "--policy-dir", str(policy)) as node:
        vsock = tmp_path / "v"
        Cli(node.url).records("guest", "add", "vm-1", "--tenant", "acme", "--socket", str(vsock), "--any-process")
        _, found = examined(Cli(f"unix://{vsock}_5670"))
    assert found["bus"]["state"] == "OK"
    for check in ("lag", "endpoints", "policy", "components", "audit", "clock", "keys", "owners", "throttled", "lost"):
        assert found[check]["state"] == "UNKNOWN", check
        assert "denied" in found[check]["text"] or "does not" in found[check]["text"]
    for check in ("run", "disk"):  # its address is in no run directory of a node
        assert (found[check]["state"], "another machine" in found[check]["text"]) == ("UNKNOWN", True)


def test_a_policy_in_error_and_an_agent_without_owner_are_found(tmp_path: Path) -> None:
    policy = tmp_path / "policy.d"
    policy.mkdir(mode=0o755)
    (policy / "10-all.policy").write_text(
        "allow publish,subscribe,call,serve > from host\nallow subscribe,call $bus.> from host\n"
    )
    (policy / "20-bad.policy").write_text("allow everything\n")
    with running_node(tmp_path / "n", "--policy-dir", str(policy)) as node:
        bus = Cli(node.url)
        import asyncio

        import busclient

        async def main() -> tuple[int, dict[str, dict[str, Any]]]:
            async with busclient.connect(node.url, component="nobody-s"):
                return await asyncio.to_thread(examined, bus)

        code, found = asyncio.run(main())
    assert code == Health.CRITICAL
    assert found["policy"]["state"] == "CRITICAL"
    assert found["policy"]["cure"] == "bus policy lint, then bus policy reload"
    assert found["owners"]["state"] == "WARNING"
    assert "1 of " in found["owners"]["text"]


# -- what the node says -----------------------------------------------------------------------------------------------

DAEMON: dict[str, Any] = {
    "addresses": {"host": "unix:///x", "soc": "tcp://127.0.0.1:1"},
    "lag": {"last_seconds": 0.001, "peak_seconds": 0.1, "age_seconds": 0.05},
    "endpoints_limit": 1000,
    "endpoints_wanted": 1000,
    "descriptors": {"before": 1, "soft": 2000, "hard": 2000},
    "throttled": {},
    "policy": {
        "source": "built-in",
        "current": {"errors": 0, "rules": 9, "digest": "d"},
        "reloads": {"ok": 0, "failed": 0},
    },
    "audit": {"records": 7, "directory": "/a", "error": "", "lost": 0},
    "degraded": {},
    "clock_step_seconds": 0.1,
}
STATS: dict[str, Any] = {"endpoints": {"host": 10}, "dropped_messages": {"host/conflated": 5, "guest/outbox-bytes": 0}}
KEYS: dict[str, Any] = {"keys": [], "broker": {"state": "listening"}}


def node_of(*rows: dict[str, Any], **changed: Any) -> Node:
    node = Node()
    found: Sample = sampled(0.0, *(rows or (said("host-1"),)))
    found.stats = {**STATS, "daemon": {**DAEMON, **changed}}
    node.seen, node.keys = found, KEYS
    return node


def states(node: Node, broker: str = "busd/source") -> dict[str, Finding]:
    return {finding.check: finding for finding in examine_node(node, broker)}


def test_a_node_that_is_well_wants_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buscli.doctornode.bus_version", lambda: "1.2")
    found = states(node_of(), "busd/1.2")
    assert {name: each.state for name, each in found.items()} == dict.fromkeys(CHECKS, Health.OK)
    assert not any(each.cure for each in found.values())


@pytest.mark.parametrize(
    ("check", "state", "changed", "said_"),
    [
        ("lag", Health.WARNING, {"lag": {**DAEMON["lag"], "last_seconds": 0.06}}, "60.00 ms late"),
        ("lag", Health.CRITICAL, {"lag": {**DAEMON["lag"], "age_seconds": 3.0}}, "2.90 s late"),
        ("endpoints", Health.WARNING, {"endpoints_limit": 12}, "10 of 12"),
        ("endpoints", Health.CRITICAL, {"endpoints_limit": 10}, "10 of 10"),
        ("endpoints", Health.CRITICAL, {"endpoints_limit": 0}, "10 of 0"),
        ("endpoints", Health.WARNING, {"endpoints_wanted": 5000}, "too few for the 5,000"),
        (
            "policy",
            Health.CRITICAL,
            {"policy": {**DAEMON["policy"], "current": {"errors": 2, "rules": 1, "digest": "d"}}},
            "2 errors",
        ),
        (
            "policy",
            Health.WARNING,
            {"policy": {**DAEMON["policy"], "reloads": {"ok": 0, "failed": 1}}},
            "1 reloads failed",
        ),
        ("components", Health.WARNING, {"degraded": {"cache": "failed: no key"}}, "cache failed: no key"),
        ("audit", Health.CRITICAL, {"audit": {**DAEMON["audit"], "error": "No space left on device"}}, "No space left"),
        ("audit", Health.WARNING, {"audit": {**DAEMON["audit"], "lost": 3}}, "3 records were lost"),
        ("audit", Health.OK, {"audit": None}, "there is none"),
        ("clock", Health.WARNING, {"clock_step_seconds": -3600.0}, "-3600.0 s"),
        ("keys", Health.OK, {"addresses": {"host": "unix:///x"}}, "not open"),
    ],
)
def test_what_is_not_well_is_found(check: str, state: Health, changed: dict[str, Any], said_: str) -> None:
    found = states(node_of(**changed))[check]
    assert (found.state, bool(found.cure)) == (state, state is not Health.OK)
    assert said_ in found.text


def test_versions_that_differ_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buscli.doctornode.bus_version", lambda: "1.2")
    found = states(node_of(), "busd/1.1")["versions"]
    assert (found.state, "the command is 1.2, the node busd/1.1" in found.text) == (Health.WARNING, True)


def test_endpoints_that_want_attention_are_named() -> None:
    rows = [said(f"host-{number}", owner=None, lost=number) for number in range(6)]
    rows.append(said("guest-1", account="tenant acme", throttled=["messages"]))
    found = states(node_of(*rows))
    assert (
        "6 of 7 endpoints do not say whose they are and what for: host-0, host-1, host-2 and 3 more"
        in found["owners"].text
    )
    assert found["throttled"].text == "too fast, and read more slowly: tenant acme (messages)"
    assert found["lost"].text.startswith("messages lost for host-5 5, host-4 4, host-3 3 and 2 more")
    assert found["lost"].cure.startswith("bus inspect host-5")


def test_old_keys_are_named() -> None:
    node = node_of()
    node.keys = {**KEYS, "keys": [{"name": "dpu0", "enrolled_at": 0.0}, {"name": "dpu1", "enrolled_at": time.time()}]}
    found = states(node)["keys"]
    assert (found.state, "older than 365d 0h: dpu0" in found.text) == (Health.WARNING, True)
    node.keys, node.silence = None, {"keys": "denied"}
    assert states(node)["keys"].state is Health.UNKNOWN


def test_the_worst_decides_and_the_unknown_is_not_well() -> None:
    def of(*found: Health) -> Health:
        return worst([Finding("x", state, "") for state in found])

    assert of(Health.OK, Health.OK) is Health.OK
    assert of(Health.OK, Health.UNKNOWN) is Health.UNKNOWN
    assert of(Health.UNKNOWN, Health.WARNING) is Health.WARNING
    assert of(Health.WARNING, Health.CRITICAL, Health.UNKNOWN) is Health.CRITICAL
    assert of() is Health.UNKNOWN


# -- this machine -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory in which somebody listens."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    return folder


def here(folders: dict[str, Any], url: str = "unix:///x/host.sock") -> dict[str, Finding]:
    daemon = {"folders": {"audit": None, "keys": None, "components": None, **folders}}
    return {finding.check: finding for finding in doctorhost.examine_host(daemon, url)}


def test_sockets_that_nobody_listens_on_are_found_without_connecting(run_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as left:
        listener.bind(str(run_dir / "temporary"))
        listener.listen()
        os.rename(run_dir / "temporary", run_dir / "host.sock")  # as busd does
        found = here({"run": str(run_dir)})
        assert (found["sockets"].state, found["run"].state) == (Health.OK, Health.OK)
        assert place_of(run_dir / "host.sock") in listening()
        left.bind(str(run_dir / "vm-1.sock"))
        stale = here({"run": str(run_dir)})["sockets"]
        assert (stale.state, "vm-1.sock" in stale.text) == (Health.WARNING, True)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()  # nobody has connected


@pytest.mark.parametrize(
    ("mode", "state", "text"),
    [(0o755, Health.OK, "mode 0755"), (0o777, Health.CRITICAL, "others can put their own socket")],
)
def test_a_run_directory_that_others_can_write_is_critical(run_dir: Path, mode: int, state: Health, text: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run_dir / "host.sock"))
        run_dir.chmod(mode)
        found = here({"run": str(run_dir)})["run"]
    assert (found.state, text in found.text) == (state, True)


def test_a_run_directory_of_another_user_is_critical(run_dir: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run_dir / "host.sock"))
        os.chown(run_dir, 12345, 12345)
        found = here({"run": str(run_dir)})["run"]
    assert (found.state, f"chown 0 {run_dir}") == (Health.CRITICAL, found.cure)


def test_a_secret_key_that_others_can_read_is_critical(run_dir: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "broker.key").write_text("x" * 40)
    for mode, age, state in ((0o600, 0, Health.OK), (0o640, 0, Health.CRITICAL), (0o600, 400, Health.WARNING)):
        (keys / "broker.key").chmod(mode)
        then = time.time() - age * 86400
        os.utime(keys / "broker.key", (then, then))
        assert here({"run": str(run_dir), "keys": str(keys)})["key-files"].state is state


def test_a_root_key_that_others_can_read_is_critical(run_dir: Path, tmp_path: Path) -> None:
    key = tmp_path / "root.key"
    key.write_bytes(bytes(32))
    (tmp_path / "cache.toml").write_text(f'[config.key]\nfile = "{key}"\n')
    for mode, state in ((0o600, Health.OK), (0o644, Health.CRITICAL)):
        key.chmod(mode)
        assert here({"run": str(run_dir), "components": str(tmp_path)})["root-keys"].state is state
    key.unlink()
    missing = here({"run": str(run_dir), "components": str(tmp_path)})["root-keys"]
    assert (missing.state, str(key) in missing.text) == (Health.CRITICAL, True)
    (tmp_path / "cache.toml").write_text("[config")
    assert here({"run": str(run_dir), "components": str(tmp_path)})["root-keys"].state is Health.WARNING


def test_an_audit_log_that_was_changed_is_critical(tmp_path: Path) -> None:
    with running_node(tmp_path / "n"):
        pass
    audit = tmp_path / "n" / "audit"
    folders = {"run": str(tmp_path / "n"), "audit": str(audit)}
    assert here(folders)["audit-file"].state is Health.OK
    (file,) = audit.glob("*.jsonl")
    file.write_text(file.read_text().replace("broker-started", "broker-startet"))
    found = here(folders)["audit-file"]
    assert (found.state, "altered" in found.text) == (Health.CRITICAL, True)
    file.unlink()
    assert here(folders)["audit-file"].state is Health.UNKNOWN


@pytest.mark.parametrize(
    ("free", "inodes", "state"),
    [
        (50, 50, Health.OK),
        (5, 50, Health.WARNING),
        (1, 50, Health.CRITICAL),
        (50, 1, Health.CRITICAL),
        (50, None, Health.OK),
    ],
)
def test_a_full_disk_is_found(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, free: int, inodes: int | None, state: Health
) -> None:
    files = (0, 0) if inodes is None else (1000, 10 * inodes)
    figures = os.statvfs_result((4096, 4096, 1000, 10 * free, 10 * free, files[0], files[1], files[1], 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: figures)
    found = here({"run": str(run_dir)})["disk"]
    assert found.state is state
    assert bool(found.cure) == (state is not Health.OK)


def test_a_clock_before_the_release_is_critical(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert here({"run": str(run_dir)})["time"].state is Health.CRITICAL


def test_behind_a_network_the_machine_is_unknown() -> None:
    found = {each.check: each for each in doctorhost.examine_host(None, "tcp://192.0.2.1:5670")}
    assert (found["run"].state, found["disk"].state) == (Health.UNKNOWN, Health.UNKNOWN)
