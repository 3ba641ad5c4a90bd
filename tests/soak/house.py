"""The node that is soaked: its configuration, its process and log, what it holds, and what it leaves behind."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import busclient
from tests.fault.guests import add_guest
from tests.support import ROOT, START_SECONDS, environment, wait_until

COMPONENTS = ("telemetry", "deletion", "cache")

GUESTS = {"acme-1": "acme", "globex-1": "globex", "hostile-1": "hostile", "hostile-2": "hostile"}
"""Units that stay, and whose they are."""

HOSTILE = ("hostile-1", "hostile-2")

GRACE_SECONDS = 3.0
"""``drain.grace_seconds``: what calls in flight get when the node is stopped."""

STOP_SECONDS = GRACE_SECONDS + 15.0
"""What busd itself promises to need at most: its grace, and 15 s for the rest."""

EXPORTS = """\
export service cache.> from node to *
export service node.> from node to *
"""

CACHE = """\
[config]
state = "off"
key.generate = true
[[config.tenants]]
name = "acme"
quota = 262144
[[config.tenants]]
name = "node"
quota = 262144
policy = "sieve"
"""
"""Shares so small that entries are evicted all the time."""

DELETION = """\
[config]
state = "{state}"
[[config.roots]]
id = "scratch"
path = "{scratch}"
"""


class SoakError(Exception):
    """The soak cannot go on."""


@dataclass
class House:
    """A node that runs, and its surroundings in ``home``."""

    home: Path
    process: "subprocess.Popen[str]"
    log: list[dict[str, Any]] = field(default_factory=list)
    """Lines of the node's log so far; one that is not JSON has the event ``not-json``."""
    addresses: dict[str, str] = field(default_factory=dict)
    """The URL by which each unit's endpoints come in."""
    seen: set[psutil.Process] = field(default_factory=set)
    """Processes of components, those that were replaced included."""

    @property
    def url(self) -> str:
        """Where the host's own programs attach."""
        return f"unix://{self.home / 'run' / 'host.sock'}"

    @property
    def policy(self) -> Path:
        return self.home / "policy.d"

    @property
    def scratch(self) -> Path:
        return self.home / "scratch"

    @property
    def hostile_sockets(self) -> list[str]:
        return [self.addresses[unit].removeprefix("unix://") for unit in HOSTILE]

    @property
    def http(self) -> tuple[str, int]:
        """Where metrics and console are."""
        host, _, port = next(line["http"] for line in self.log if line["event"] == "started")[7:].rpartition(":")
        return host, int(port)

    async def furnish(self, bus: busclient.Bus) -> None:
        """Let the units in that stay."""
        for unit, tenant in GUESTS.items():
            self.addresses[unit] = "unix://" + await add_guest(bus, self.home, tenant, unit)

    def page(self, path: str) -> str:
        """A page of the node's HTTP. Raises SoakError unless it answers 200."""
        connection = http.client.HTTPConnection(*self.http, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read().decode()
        finally:
            connection.close()
        if answer.status != 200:
            raise SoakError(f"{path} answers {answer.status}: {body[:200]}")
        return body

    def ask(self, question: str) -> Any:
        """What `observed` answers: ``tasks`` or ``types``."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(question, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SoakError(f"the node ended with status {self.process.wait(10)}")
        return json.loads(line)

    def descriptors(self) -> Counter[str]:
        """The node's descriptors: how many sockets, pipes, and which files."""
        found: Counter[str] = Counter()
        for path in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found[os.readlink(path).partition(":[")[0]] += 1
        return found

    def workers(self) -> dict[str, psutil.Process]:
        """The processes of components, by component: while one is replaced the older, as the new one still starts. One
        that ends meanwhile is left out.
        """
        found: dict[str, psutil.Process] = {}
        for child in sorted(psutil.Process(self.process.pid).children(), key=psutil.Process.create_time):
            with contextlib.suppress(psutil.NoSuchProcess, ValueError):
                command = child.cmdline()
                source = command[command.index("run") + 1]
                self.seen.add(child)
                found.setdefault(next(name for name in COMPONENTS if f".{name}." in f".{source}."), child)
        return found

    def stop(self) -> tuple[int | None, float]:
        """Ask the node to end; its exit status (None: it did not in time) and the seconds that it took."""
        asked = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            status: int | None = self.process.wait(STOP_SECONDS + 10.0)
        except subprocess.TimeoutExpired:
            status = None
        return status, time.monotonic() - asked

    def left(self) -> list[str]:
        """What the node left behind and should not have, after it ended."""
        found = [f"process {each.pid} of a component" for each in self.seen if each.is_running()]
        found += [f"socket {path.relative_to(self.home)}" for path in self.home.rglob("*") if path.is_socket()]
        others = {path.name for path in (self.home / "run").iterdir()} - {"busd.lock", "units.json"}
        found += [f"run/{name}" for name in sorted(others)]
        stayed = set(os.listdir(self.scratch)) - {".busd-tombstones"}
        found += [f"scratch/{name}, which was to be deleted" for name in sorted(stayed)]
        return found

    def read_log(self) -> None:
        """Take down the log until the node ends; for a thread."""
        assert self.process.stderr is not None
        for text in self.process.stderr:
            try:
                self.log.append(json.loads(text))
            except ValueError:
                self.log.append({"event": "not-json", "level": "error", "text": text.rstrip()})


@contextmanager
def house(home: Path) -> Iterator[House]:
    """A node with all components in ``home``, until the end of the block; what of it still runs then is killed."""
    settings, policy = home / "components.d", home / "policy.d"
    for path in (settings, home / "scratch"):
        path.mkdir(mode=0o755)
    shutil.copytree(ROOT / "busd/ops/policy.d", policy)
    (policy / "50-exports.policy").write_text(EXPORTS)
    (settings / "cache.toml").write_text(CACHE)
    (settings / "deletion.toml").write_text(DELETION.format(state=home / "deletion", scratch=home / "scratch"))
    for path in (policy, *policy.iterdir(), *settings.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    flags = {
        "run-dir": home / "run",
        "http-listen": "127.0.0.1:0",
        "components": ",".join(COMPONENTS),
        "component-dir": settings,
        "policy-dir": policy,
        "audit-dir": home / "audit",
        "metrics-tenants": "acme,globex",
        "drain-grace-seconds": GRACE_SECONDS,
        "log-format": "json",
    }
    command = [sys.executable, "-W", "error", "-m", "tests.soak.observed", "run"]
    for name, value in flags.items():
        command += [f"--{name}", str(value)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment(), cwd=home, **pipes) as process:
        made = House(home, process)
        reader = threading.Thread(target=made.read_log)
        reader.start()
        try:
            wait_until(
                lambda: made.log or process.poll() is not None, START_SECONDS, what="the node's first line of log"
            )
            if process.poll() is not None or made.log[0]["event"] != "started":
                raise SoakError(f"the node did not start: {made.log}")
            yield made
        finally:
            if process.poll() is None:
                process.kill()  # its components end with it: they see the end of their standard input
            reader.join(30)
