"""Doing what deploy/README.md says: its commands on a machine, and then the units as they stand."""

import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.deploy.machine import Machine, machine
from tests.deploy.units import for_sandbox
from tests.support import ROOT, START_SECONDS, wait_until

GUIDE = (ROOT / "deploy" / "README.md").read_text()
BUS = "/usr/local/bin/bus"


def lines(heading: str, page: str = GUIDE) -> list[str]:
    """The commands of a section of a guide, in order."""
    (section,) = re.findall(rf"(?sm)^## {heading}$(.*?)(?=^## |\Z)", page)
    return [line for block in re.findall(r"(?s)```sh\n(.*?)```", section) for line in block.splitlines()]


@contextmanager
def installed_machine(folder: Path) -> Iterator[Machine]:
    """A machine on which the guide's commands have been run, but for systemctl's: no systemd runs there."""
    with machine(folder / "m") as made:
        done = []
        for line in lines("systemd"):
            if line.startswith("systemctl") or line == "bus check":
                continue
            made.shell(line)
            if line.startswith("python3 -m venv "):
                made.lend_packages(line.split()[-1])
            done.append(line.split()[0])
        assert done.count("install") >= 6
        assert {"python3", "/opt/busd-0.1.0/bin/pip", "systemd-sysusers", "systemd-tmpfiles", "busd"} <= set(done)
        yield made


@contextmanager
def unit(on: Machine, name: str, *dropins: str, wait: bool = True) -> Iterator["subprocess.Popen[str]"]:
    """A unit's ExecStart, running as the unit says, until the end of the block; then it must stop in order."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        address = f"/run/n{id(manager) % 100000}"  # 107 bytes are the most, the way to the machine included
        path = on.root / address.lstrip("/")
        manager.bind(str(path))
        path.chmod(0o666)
        manager.setblocking(False)
        words = on.unit(for_sandbox(name, *dropins))
        variables = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10000000"} if wait else {}
        with on.start(*words, errors=None, **variables) as process:
            try:
                if wait:
                    wait_until(lambda: process.poll() is not None or _says(manager, b"READY=1"), what="READY=1")
                assert process.poll() is None
                yield process
                process.send_signal(signal.SIGTERM)
                assert process.wait(START_SECONDS) == 0
            finally:
                process.kill()
                path.unlink()


def _says(manager: socket.socket, message: bytes) -> bool:
    try:
        return manager.recv(65536) == message
    except BlockingIOError:
        return False


def answer(on: Machine, line: str, user: str = "root") -> str:
    """What a command there prints, as ``user``."""
    words = shlex.split(line)
    if user != "root":
        words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *words]
    ended = on.run(*words, cwd="/")
    assert ended.returncode == 0, f"$ {line}\n{ended.stdout}{ended.stderr}"
    return ended.stdout
