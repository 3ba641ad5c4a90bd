"""What deploy/README.md says about systemd is done: its commands on a machine, and then the units as they stand."""

import json
import re
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from buscli.shells import script
from tests.deploy.guide import BUS, answer, installed_machine, lines, unit
from tests.deploy.machine import Machine
from tests.deploy.units import UNITS, for_sandbox
from tests.support import ROOT, wait_until

RUNBOOK = (ROOT / "deploy" / "RUNBOOK.md").read_text()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with installed_machine(tmp_path_factory.mktemp("guide")) as made:
        yield made


def test_the_commands_install_what_the_unit_starts(installed: Machine) -> None:
    where = answer(installed, "/opt/busd/bin/python -c 'import busd, buscli; print(busd.__file__, buscli.__file__)'")
    assert all(path.startswith("/opt/busd") for path in where.split())
    assert answer(installed, "busd --version").startswith("busd ")
    assert installed.run("test", "-u", "/etc/busd").returncode == 1
    pages = installed.root / "usr/local/share/man"
    assert all((pages / name).is_file() for name in ("man1/bus-call.1", "man1/busd.1", "man5/busd.toml.5"))
    assert (installed.root / "usr/share/bash-completion/completions/busd").read_text() == script("bash", "busd")


def test_the_unit_runs_under_its_own_hardening(installed: Machine) -> None:
    with unit(installed, "busd.service") as process:
        check = json.loads(answer(installed, f"{BUS} check"))
        assert (check["state"], check["degraded"]) == ("OK", {})
        assert check["url"] == "unix:///run/busd/host.sock"
        wait_until(lambda: _state(installed, "telemetry") == "ready", what="telemetry")
        listed = map(json.loads, answer(installed, f"{BUS} list").splitlines())
        rows = {row["claims"]["component"]: row for row in listed}
        uid = int(answer(installed, "id -u busd"))
        for name in ("telemetry", "supervisor"):
            assert rows[name]["principal"]["uid"] == uid
            assert rows[name]["principal"]["started"]  # why ProtectProc=invisible is not in the unit
        # What it may not: write elsewhere, call what it needs not.
        status = Path(f"/proc/{process.pid}/status").read_text()
        fields = dict(re.findall(r"(\w+):\t(.*)", status))
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
        assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert fields["Uid"].split() == [str(uid)] * 4
        most = min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        assert re.search(rf"Max open files +{most} +{most} ", Path(f"/proc/{process.pid}/limits").read_text())
        # Reload, as the unit has it and as its user.
        assert json.loads(answer(installed, f"{BUS} policy reload"))["source"] == "built-in"
        # The bus's user owns it; others only learn that it is there.
        denied = installed.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", BUS, "list", cwd="/")
        assert denied.returncode == 5, denied.stderr
    assert (installed.root / "var/lib/busd/audit").stat().st_mode & 0o777 == 0o700
    assert (installed.root / "run/busd").is_dir()  # stays, for mounts and units.json
    assert not (installed.root / "run/busd/host.sock").exists()
    for line in lines("After the installation"):
        if "audit" in line:
            assert json.loads(answer(installed, line).splitlines()[-1])["ok"] is True


def test_what_root_kept_before_is_given_to_the_unit(installed: Machine) -> None:
    """Who tries busd as root first has an audit log that the unit's user cannot write."""
    installed.shell("install -d -o root -g root -m 0700 /var/lib/busd/audit")
    ended = installed.run(*installed.unit(for_sandbox("busd.service")), cwd="/")
    assert "BUS-7011" in ended.stderr
    (command,) = re.findall("`(chown [^`]+)`", (ROOT / "deploy" / "README.md").read_text())
    installed.shell(command)
    with unit(installed, "busd.service"):
        assert json.loads(answer(installed, f"{BUS} check"))["state"] == "OK"


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ("open('/etc/busd/x', 'w')", "Read-only file system"),
        ("import ctypes; ctypes.CDLL(None, use_errno=True).reboot(0); print('errno', ctypes.get_errno())", "errno 1\n"),
        ("import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", "Operation not permitted"),
        ("import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)", "Operation not permitted"),
        ("import os; os.chown('/run/busd', 0, 0)", "Operation not permitted"),
    ],
)
def test_what_the_unit_forbids_is_forbidden(installed: Machine, words: str, refused: str) -> None:
    """The filters of the test above are there: without this it could pass with none."""
    settings = for_sandbox("busd.service") | {"command": ["/opt/busd/bin/python", "-c", words]}
    ended = installed.run(*installed.unit(settings), cwd="/")
    assert refused in ended.stdout + ended.stderr


def test_every_library_of_the_node_works_without_memory_that_is_written_and_run(installed: Machine) -> None:
    """By the kernel's own PR_SET_MDWE, which systemd uses since 253; the unit's test above has 252's filter."""
    program = """
import ctypes, errno, mmap, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(65, 1, 0, 0, 0) != 0:
    sys.exit("no PR_SET_MDWE" if ctypes.get_errno() == errno.EINVAL else "refused")
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)
    sys.exit("not in effect")
except PermissionError:
    pass
import asyncio, uvloop, zmq, msgpack, msgspec, psutil, aiohttp, cffi
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
X25519PrivateKey.generate().exchange(X25519PrivateKey.generate().public_key())
assert AESGCM(bytes(16)).decrypt(bytes(12), AESGCM(bytes(16)).encrypt(bytes(12), b"x", None), None) == b"x"
zmq.curve_keypair()
asyncio.Runner(loop_factory=uvloop.new_event_loop).run(asyncio.sleep(0.01))
from busd.components.cache import Cache
tenant = Cache.generated(quiet=True).tenant("acme")
tenant.set("a", b"b")
print(tenant.get("a"))
"""
    ended = installed.run("/opt/busd/bin/python", "-c", program, cwd="/")
    if "no PR_SET_MDWE" in ended.stderr:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    assert ended.stdout == "b'b'\n", ended.stderr


def test_the_cache_gets_its_root_key_as_a_credential(installed: Machine) -> None:
    folder = installed.root / "etc/busd/components.d"
    folder.mkdir(exist_ok=True)
    (folder / "cache.toml").write_text('[config]\nlock_memory = true\n[config.key]\ncredential = "cache.key"\n')
    config = installed.root / "etc/busd/conf.d/cache.toml"
    config.parent.mkdir(exist_ok=True)
    config.write_text('components = ["cache"]\n')
    key = installed.root / "etc/busd/cache.key"
    assert key.stat().st_mode & 0o777 == 0o600
    try:
        with unit(installed, "busd.service", "cache.conf"):
            wait_until(lambda: _state(installed, "cache") == "ready", what="the cache")
            answer(installed, f"{BUS} cache set name value")
            assert "value" in answer(installed, f"{BUS} cache get name")
            assert _state(installed, "cache") == "ready"
    finally:
        config.unlink()


def _state(on: Machine, component: str) -> str:
    for row in map(json.loads, answer(on, f"{BUS} component list").splitlines()):
        if row["component"] == component:
            return str(row["state"])
    return ""


def _scratch(on: Machine) -> Path:
    """A root with another user's files, in a directory that only that user may enter."""
    on.shell(
        "rm -rf /srv/scratch; install -d -o busd -g busd /srv/scratch; install -d -o 4711 -m 0700 /srv/scratch/old;"
        "cd /srv/scratch/old; touch a b c; mkdir -m 0500 d; touch d/e; chown -R 4711 .; chmod 0500 d",
        cwd="/",
    )
    folder = on.root / "etc/busd/components.d"
    folder.mkdir(exist_ok=True)
    (folder / "deletion.toml").write_text('[[config.roots]]\nid = "scratch"\npath = "/srv/scratch"\nchmod = true\n')
    return on.root / "srv/scratch/old"


def test_deletion_as_a_unit_of_its_own_deletes_what_others_own(installed: Machine) -> None:
    old = _scratch(installed)
    with unit(installed, "busd.service"), unit(installed, "busd-deletion.service", wait=False):
        wait_until(lambda: installed.run(BUS, "delete", "roots", cwd="/").returncode == 0, what="deletion")
        answer(installed, f"{BUS} delete /srv/scratch/old --yes")
        assert not old.exists()


def test_deletion_with_the_drop_in_deletes_what_others_own(installed: Machine) -> None:
    old = _scratch(installed)
    config = installed.root / "etc/busd/conf.d/deletion.toml"
    config.parent.mkdir(exist_ok=True)
    config.write_text('components = ["deletion"]\n')
    try:
        with unit(installed, "busd.service", "deletion.conf"):
            wait_until(lambda: _state(installed, "deletion") == "ready", what="deletion")
            answer(installed, f"{BUS} delete /srv/scratch/old --yes")
            assert not old.exists()
    finally:
        config.unlink()


def test_without_the_drop_in_the_broker_cannot_delete_for_others(installed: Machine) -> None:
    """What the drop-in's warning rests on: the node by itself has no rights over others' files."""
    old = _scratch(installed)
    settings = for_sandbox("busd.service")
    settings["command"] = ["/opt/busd/bin/python", "-c", "import shutil; shutil.rmtree('/srv/scratch/old')"]
    ended = installed.run(*installed.unit(settings), cwd="/")
    assert "PermissionError" in ended.stderr or "Read-only" in ended.stderr
    assert old.exists()


def test_the_agent_of_the_example_attaches(installed: Machine) -> None:
    readme = (ROOT / "README.md").read_text()
    (program,) = re.findall(r"(?s)```python\n(# hello\.py\n.*?)```", readme)
    folder = installed.root / "opt/hello"
    folder.mkdir(exist_ok=True)
    (folder / "hello.py").write_text(program)
    policy = installed.root / "etc/busd/policy.d"
    policy.mkdir(exist_ok=True)
    try:
        for path in (ROOT / "busd" / "ops" / "policy.d").glob("*.policy"):
            (policy / path.name).write_text(path.read_text())
        shown = (UNITS / "hello-agent.service").read_text()
        (rule,) = re.findall(r"(?m)^#   (allow .*)$", shown)
        (add,) = re.findall(r"\((useradd [^)]*)\)", shown)
        installed.shell(add)
        number = answer(installed, "id -u hello").strip()
        (policy / "25-hello.policy").write_text(rule.replace("NUMBER", number) + "\n")
        with unit(installed, "busd.service"):
            settings = for_sandbox("hello-agent.service")
            words = ["setpriv", f"--reuid={settings['user']}", f"--regid={settings['user']}", "--clear-groups"]
            ended = installed.run(*words, *settings["command"], cwd="/", **settings["environment"])
            assert ended.stdout.splitlines()[0] == "replied: hello, bus", ended.stderr
            assert "from a host" in ended.stdout
    finally:
        for path in policy.iterdir():
            path.unlink()
        policy.rmdir()


@pytest.mark.slow
def test_an_upgrade_and_the_way_back_keep_the_guests(installed: Machine) -> None:
    """The runbook's steps, with this version as the new one as well."""

    def do(heading: str) -> None:
        for line in lines(heading, RUNBOOK):
            if not line.startswith("systemctl") and line != "bus check":
                installed.shell(line)
                if line.startswith("python3 -m venv "):
                    installed.lend_packages(line.split()[-1])

    def version() -> str:
        return str((installed.root / "opt/busd").readlink())

    installed.shell("install -d -o busd -m 0755 /run/busd-guests/vm-1", cwd="/")
    with unit(installed, "busd.service", "guests.conf"):
        answer(installed, f"{BUS} guest add vm-1 --tenant acme --socket /run/busd-guests/vm-1/v.sock")
        do("Upgrade")
        assert version() == "busd-0.2.0"
        assert json.loads(answer(installed, f"{BUS} check"))["state"] == "OK"  # the old one runs on, unharmed
    for heading, wanted in (("", "busd-0.2.0"), ("Roll back", "busd-0.1.0")):
        if heading:
            do(heading)
        with unit(installed, "busd.service", "guests.conf") as process:
            assert Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")[1] == b"/opt/busd/bin/busd"
            assert version() == wanted
            (guest,) = map(json.loads, answer(installed, f"{BUS} guest list").splitlines())
            assert (guest["name"], guest["generation"], guest["state"]) == ("vm-1", 1, "listening")
    (installed.root / "run/busd/units.json").unlink()
