"""The guests' units: what they say to the bus is said to a real node. The hypervisor is QEMU, or played by sockets."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.guide import BUS, answer, installed_machine, lines, unit
from tests.deploy.machine import Machine
from tests.support import ROOT, needs, wait_until

FOLDER = ROOT / "deploy" / "guests"
PAGE = (FOLDER / "README.md").read_text()
UNITS = sorted(path.name for path in FOLDER.glob("*.service"))
HYBRID = {"vm-firecracker@.service": "vm-42", "vm-cloud-hypervisor@.service": "vm-43"}
"""Units of hypervisors that connect to a socket of busd's, and the VM that each is shown with."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine on which both guides' commands have been run, but for systemctl's and those that need a VM."""
    with installed_machine(tmp_path_factory.mktemp("guests")) as made:
        for line in lines("The host", PAGE):
            if not line.startswith(("systemctl", "bus ")):
                made.shell(line)
        for name in ("vm-43", "vm-8"):
            made.shell(f"cp /etc/busd-guests/vm-42.conf /etc/busd-guests/{name}.conf")
        made.shell("echo CID=7 | cat /etc/busd-guests/vm-42.conf - > /etc/busd-guests/vm-7.conf")
        (shown,) = re.findall(r"(?s)```toml\n(.*?)```", PAGE)
        (made.root / "etc/busd/conf.d").mkdir()
        (made.root / "etc/busd/conf.d/vsock.toml").write_text(shown.replace("5670", "56701"))
        yield made


class Guest:
    """One instance of a unit: what systemd would run of it."""

    def __init__(self, on: Machine, unit: str, name: str) -> None:
        self._on = on
        self._name = name
        self._lines: list[tuple[str, str]] = []
        for line in (FOLDER / unit).read_text().splitlines():
            setting, _, value = line.partition("=")
            if setting.startswith("Exec"):
                self._lines.append((setting, value))
        text = (on.root / f"etc/busd-guests/{name}.conf").read_text()
        self._variables = dict(line.split("=", 1) for line in text.splitlines() if not line.startswith("#"))

    def words(self, value: str) -> list[str]:
        """A command line as systemd makes it: specifiers, variables, quotes."""
        text = value.lstrip("+-").replace("%i", self._name)
        for name, given in self._variables.items():
            text = text.replace(f"${{{name}}}", given)
        return [word.replace("$$", "$") for word in shlex.split(text)]

    def run(self, setting: str) -> None:
        """Run every command of ``setting``; those with + as root, which all of these are."""
        for each, value in self._lines:
            if each == setting:
                assert "+" in value[:2]
                ended = self._on.run(*self.words(value), cwd="/", **self._variables)
                assert ended.returncode == 0 or value.startswith("-"), f"{value}\n{ended.stderr}"

    @property
    def command(self) -> list[str]:
        (value,) = (value for setting, value in self._lines if setting == "ExecStart")
        return self.words(value)

    @contextmanager
    def started(self) -> Iterator[None]:
        """From before the hypervisor starts until it has ended."""
        self.run("ExecStartPre")
        try:
            yield
        finally:
            self.run("ExecStopPost")

    def row(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(answer(self._on, f"{BUS} guest inspect {self._name}"))
        return found


def as_user(name: str, *words: str) -> list[str]:
    return ["setpriv", f"--reuid={name}", f"--regid={name}", "--clear-groups", *words]


@pytest.mark.parametrize("name", UNITS)
def test_systemd_has_nothing_to_say_against_a_unit(tmp_path: Path, name: str) -> None:
    needs("systemd-analyze")
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    shutil.copy(FOLDER / name, units)
    shutil.copy(ROOT / "deploy/systemd/busd.service", units)
    programs = re.findall(r"(?m)^Exec\w+=[-+]*(/\S+)", (FOLDER / name).read_text())
    for program in [*programs, "/opt/busd/bin/busd", "/opt/busd/bin/bus"]:
        made = tmp_path / program.lstrip("/")
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text("#!/bin/sh\n")
        made.chmod(0o755)
    theirs = tmp_path / "usr/lib/systemd/system"
    theirs.mkdir(parents=True)
    for target in Path("/usr/lib/systemd/system").glob("*.target"):
        if not target.is_symlink():
            shutil.copy(target, theirs)
    instance = name.replace("@.", "@vm-42.")
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", f"/etc/systemd/system/{instance}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(("name", "vm"), HYBRID.items())
@pytest.mark.slow
def test_a_guest_attaches_as_the_unit_that_was_added_and_nobody_else_does(host: Machine, name: str, vm: str) -> None:
    guest = Guest(host, name, vm)
    with unit(host, "busd.service", "guests.conf"), guest.started():
        row = guest.row()
        assert (row["tenant"], row["state"], row["way"]) == ("acme", "listening", "socket")
        socket = row["address"]  # the file that both hypervisors connect to when the guest connects to CID 2
        assert socket == f"/run/busd-guests/{vm}/v.sock_5670"
        # Another user's process cannot even reach it; nor can another VM's hypervisor.
        for other in ("daemon", "vm-8"):
            ended = host.run(*as_user(other, BUS, "list", "--bus", f"unix://{socket}"), cwd="/")
            assert ended.returncode == 8, ended.stdout + ended.stderr
        # The hypervisor makes its own files there, as its user, and connects for the guest.
        host.shell(f"setpriv --reuid={vm} --regid={vm} --clear-groups touch /run/busd-guests/{vm}/v.sock")
        ended = host.run(*as_user(vm, BUS, "list", "--bus", f"unix://{socket}"), cwd="/")
        assert ended.returncode == 0, ended.stderr
        (mine,) = map(json.loads, ended.stdout.splitlines())  # it sees nobody but itself
        assert (mine["principal"]["boundary"], mine["principal"]["unit"]) == ("guest", vm)
        assert mine["principal"]["tenant"] == "acme"
        # That process was its hypervisor; another one of the same user is another life.
        ended = host.run(*as_user(vm, BUS, "list", "--bus", f"unix://{socket}"), cwd="/")
        assert ended.returncode == 8
        assert guest.row()["refused"] == {"unit": 1}
        # The VM is started again: the unit makes a new life of it.
        first = guest.row()["generation"]
        guest.run("ExecStopPost")
        guest.run("ExecStartPre")
        ended = host.run(*as_user(vm, BUS, "check", "--bus", f"unix://{socket}"), cwd="/")
        assert ended.returncode == 0, ended.stdout
        assert guest.row()["generation"] > first
    assert not (host.root / f"run/busd-guests/{vm}").exists()


def test_guests_stay_when_the_node_is_restarted(host: Machine) -> None:
    guest = Guest(host, "vm-firecracker@.service", "vm-42")
    with unit(host, "busd.service", "guests.conf"):
        guest.run("ExecStartPre")
        first = guest.row()["generation"]
    with unit(host, "busd.service", "guests.conf"):
        assert (guest.row()["generation"], guest.row()["state"]) == (first, "listening")
        guest.run("ExecStopPost")
        assert answer(host, f"{BUS} guest list") == ""


def test_qemu_with_virtio_serial_is_what_busd_connects_to(host: Machine) -> None:
    needs("qemu-system-x86_64")
    guest = Guest(host, "vm-qemu-serial@.service", "vm-8")
    with unit(host, "busd.service", "guests.conf"), guest.started():
        assert guest.row()["state"] in ("waiting", "connecting", "opening")  # nobody listens there yet
        command = _without_a_machine(guest.command)
        with host.start("sh", "-c", 'umask 0; exec "$@"', "sh", *as_user("vm-8", *command)) as qemu:
            try:
                wait_until(lambda: qemu.poll() is not None or guest.row()["state"] == "open", what="the line")
                assert qemu.poll() is None, qemu.stderr.read() if qemu.stderr else ""
                row = guest.row()
                assert row["vmm"]["uid"] == int(answer(host, "id -u vm-8"))
                assert row["vmm"]["pid"] == qemu.pid
            finally:
                qemu.kill()


def _without_a_machine(command: list[str]) -> list[str]:
    """QEMU's command without the disk and kernel that there are none of here, and standing still."""
    words = iter(command)
    kept: list[str] = []
    for word in words:
        if word in ("-kernel", "-append", "-drive"):
            next(words)
        else:
            kept.append(word.replace("accel=kvm", "accel=tcg"))
    return [*kept, "-S"]


def test_qemu_with_vsock_is_known_by_its_number(host: Machine) -> None:
    needs("qemu-system-x86_64")
    guest = Guest(host, "vm-qemu@.service", "vm-7")
    device = guest.command[guest.command.index("-device") + 1]
    assert device == "vhost-vsock-pci,guest-cid=7"
    name, _, property_ = device.partition(",")
    known = host.run("qemu-system-x86_64", "-device", f"{name},help", cwd="/").stdout
    assert f"{property_.partition('=')[0]}=<uint64>" in known
    if not Path("/dev/vsock").exists():
        pytest.skip("this kernel has no AF_VSOCK")
    with unit(host, "busd.service", "guests.conf"), guest.started():
        row = guest.row()
        assert (row["way"], row["state"], row["tenant"]) == ("cid", "listening", "acme")
        assert "7" in row["address"]
        again = host.run(BUS, "guest", "add", "vm-9", "--tenant", "globex", "--cid", "7", cwd="/")
        assert again.returncode != 0  # a number is one VM's


def test_firecrackers_file_and_unit_mean_the_same_socket() -> None:
    config = json.loads((FOLDER / "vm-42.json").read_text())
    assert set(config) == {"boot-source", "drives", "machine-config", "vsock"}
    assert set(config["vsock"]) == {"guest_cid", "uds_path"}
    assert config["vsock"]["guest_cid"] >= 3  # 0 to 2 are the hypervisor, this machine and the host
    unit = (FOLDER / "vm-firecracker@.service").read_text().replace("%i", "vm-42")
    assert f"--socket {config['vsock']['uds_path']} " in unit
    cloud = (FOLDER / "vm-cloud-hypervisor@.service").read_text()
    (given,) = re.findall(r"--vsock cid=\d+,socket=(\S+)", cloud)
    assert f"--socket {given} " in cloud


def test_what_the_page_does_by_hand_works(host: Machine) -> None:
    byhand = [line for line in lines("The host", PAGE) if line.startswith("bus guest")]
    assert len(byhand) == 4
    host.shell("install -d -o busd -g vm-42 -m 1770 /run/busd-guests/vm-42")
    with unit(host, "busd.service", "guests.conf"):
        for line in byhand[1:]:
            host.shell(line, cwd="/")
        assert host.shell(byhand[0], cwd="/") == ""
    host.shell("rm -rf /run/busd-guests/vm-42")


def test_the_guests_agent_is_told_an_address_that_there_is() -> None:
    from busclient.url import parse

    unit = (FOLDER / "inside" / "hello-agent.service").read_text()
    (url,) = re.findall(r"BUS_URL=(\S+)", unit)
    assert (parse(url).cid, parse(url).port) == (2, 5670)
    serial = re.findall(r"`(serial://\S+)`", PAGE)
    assert serial
    assert {parse(each).path for each in serial} == {"/dev/virtio-ports/busd"}
    assert "virtserialport,chardev=busd,name=busd" in (FOLDER / "vm-qemu-serial@.service").read_text()
