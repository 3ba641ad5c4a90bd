"""The units, checked by systemd's own tools."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from busd.ops.config import resolve
from busd.ops.process import STOP_MARGIN
from tests.deploy.units import UNITS, last, read
from tests.support import ROOT, needs

SCORES = {"busd.service": 1.9, "busd-deletion.service": 1.2, "hello-agent.service": 2.2}
"""What `systemd-analyze security` may say at most, of 10; 252 says this. Less is safer."""

DROPINS = sorted(path.name for path in (UNITS / "busd.service.d").glob("*.conf"))


@pytest.fixture
def machine_root(tmp_path: Path) -> Path:
    """A root with the units, what they name, and the units that every machine has."""
    needs("systemd-analyze")
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    for unit in UNITS.glob("*.service"):
        shutil.copy(unit, units)
    for name in ("busd", "bus", "python"):
        program = tmp_path / "opt/busd/bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    theirs = tmp_path / "usr/lib/systemd/system"
    theirs.mkdir(parents=True)
    for target in Path("/usr/lib/systemd/system").glob("*.target"):
        if not target.is_symlink():
            shutil.copy(target, theirs)
    return tmp_path


def analyze(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemd-analyze", *map(str, words)], capture_output=True, text=True, timeout=60)


def with_dropin(root: Path, name: str) -> None:
    folder = root / "etc/systemd/system/busd.service.d"
    folder.mkdir(exist_ok=True)
    shutil.copy(UNITS / "busd.service.d" / name, folder)


@pytest.mark.parametrize("unit", SCORES)
def test_systemd_has_nothing_to_say_against_a_unit(machine_root: Path, unit: str) -> None:
    ended = analyze("verify", "--man=no", f"--root={machine_root}", f"/etc/systemd/system/{unit}")
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("name", DROPINS)
def test_nor_against_a_drop_in(machine_root: Path, name: str) -> None:
    with_dropin(machine_root, name)
    ended = analyze("verify", "--man=no", f"--root={machine_root}", "/etc/systemd/system/busd.service")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_check_finds_what_is_wrong(machine_root: Path) -> None:
    unit = machine_root / "etc/systemd/system/busd.service"
    unit.write_text(unit.read_text().replace("ProtectClock=yes", "ProtectClocks=yes"))
    ended = analyze("verify", "--man=no", f"--root={machine_root}", "/etc/systemd/system/busd.service")
    assert "ProtectClocks" in ended.stderr


@pytest.mark.parametrize(("unit", "score"), SCORES.items())
def test_its_exposure_is_no_more_than_this(machine_root: Path, unit: str, score: float) -> None:
    path = machine_root / "etc/systemd/system" / unit
    flags = ("--offline=true", f"--root={machine_root}", "--no-pager")
    ended = analyze("security", *flags, f"--threshold={score * 10:.0f}", path)
    assert ended.returncode == 0, ended.stdout
    (shown,) = re.findall(r"exposure level for \S+: ([\d.]+)", ended.stdout)
    assert float(shown) <= score
    assert f"{shown}" in (ROOT / "deploy" / "README.md").read_text() or unit == "hello-agent.service"
    # The threshold is what fails: the same unit without its hardening is over it.
    softer = [line for line in path.read_text().splitlines() if not line.startswith(("Protect", "Private", "Restrict"))]
    path.write_text("\n".join(softer))
    assert analyze("security", *flags, f"--threshold={score * 10:.0f}", path).returncode == 1


def test_what_the_drop_ins_add_is_what_they_say(machine_root: Path) -> None:
    """Capabilities and the network are there only with the drop-in that needs them."""
    assert read("busd.service")["CapabilityBoundingSet"] == read("busd.service")["AmbientCapabilities"] == []
    assert read("busd.service")["IPAddressAllow"] == ["localhost"]
    having = {
        name: sorted({word for each in read("busd.service", name)["AmbientCapabilities"] for word in each.split()})
        for name in DROPINS
    }
    assert having == {
        "cache.conf": [],
        "deletion.conf": ["CAP_DAC_OVERRIDE", "CAP_FOWNER"],
        "guests.conf": ["CAP_CHOWN"],
        "soc.conf": [],
    }


def test_the_times_of_the_unit_go_with_those_of_the_node() -> None:
    unit, config = read("busd.service"), resolve([], {})
    assert float(last(unit, "TimeoutStopSec")) >= config.drain.grace_seconds + STOP_MARGIN
    assert int(last(unit, "LimitNOFILE")) >= 2 * config.limits.endpoints
    assert last(unit, "RuntimeDirectoryPreserve") == "yes"  # units.json, and the mounts of containers
    assert last(unit, "KillMode") == "mixed"  # calls in flight are answered by components that still run


def test_sysusers_and_tmpfiles_are_taken_by_their_tools(tmp_path: Path) -> None:
    needs("systemd-sysusers")
    needs("systemd-tmpfiles")
    (tmp_path / "etc").mkdir()
    dry = ["systemd-sysusers", f"--root={tmp_path}", "--dry-run", str(UNITS / "sysusers.d/busd.conf")]
    assert "busd" in subprocess.run(dry, capture_output=True, text=True, check=True, timeout=60).stderr
    subprocess.run([word for word in dry if word != "--dry-run"], capture_output=True, check=True, timeout=60)
    (user,) = [line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("busd:")]
    assert user.split(":")[5:] == ["/var/lib/busd", "/usr/sbin/nologin"]
    create = ["systemd-tmpfiles", f"--root={tmp_path}", "--create", str(UNITS / "tmpfiles.d/busd.conf")]
    ended = subprocess.run(create, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    uid = int(user.split(":")[2])
    made = {path: (tmp_path / path).stat() for path in ("run/busd", "run/busd-guests", "etc/busd", "var/lib/busd")}
    assert {path: (found.st_uid, oct(found.st_mode & 0o7777)) for path, found in made.items()} == {
        "run/busd": (uid, "0o755"),
        "run/busd-guests": (0, "0o755"),
        "etc/busd": (0, "0o755"),
        "var/lib/busd": (uid, "0o700"),
    }
