"""Starting ``python -m busd`` and programs that use its modules, apart from this machine's own configuration."""

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import environment


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``command`` to its end."""
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment(**variables), cwd="/", check=False
    )


def python(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program to its end."""
    return run(sys.executable, "-W", "error", "-c", program, **variables)


def busd(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return run(sys.executable, "-W", "error", "-m", "busd", *arguments, **variables)


class Daemon:
    """A running busd."""

    def __init__(self, run_dir: Path, process: subprocess.Popen[str]) -> None:
        self.run_dir = run_dir
        self.process = process
        self.started = self.line()

    def line(self) -> dict[str, Any]:
        """The next line of its log."""
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert line, f"busd ended with status {self.process.wait(10)} and said no more"
        parsed: dict[str, Any] = json.loads(line)
        return parsed

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, list[dict[str, Any]]]:
        """Send it a signal; its exit status and the rest of its log."""
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=30)
        return self.process.returncode, [json.loads(line) for line in log.splitlines()]

    def get(self, path: str) -> tuple[int, str]:
        """Ask its HTTP; status and body."""
        connection = http.client.HTTPConnection("localhost", timeout=10)
        connection.sock = self._connected()
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body

    def _connected(self) -> socket.socket:
        scheme, _, rest = self.started["http"].partition("://")
        if scheme == "http":
            host, _, port = rest.rpartition(":")
            return socket.create_connection((host, int(port)), timeout=10)
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(rest)
        return client


@contextmanager
def daemon(run_dir: Path, *flags: str, loop: str = "asyncio", listen: str = "127.0.0.1:0") -> Iterator[Daemon]:
    """Run busd in ``run_dir`` until the block ends. Its log is JSON on a pipe; a warning of Python's fails it."""
    command = [sys.executable, "-W", "error", "-m", "busd", "run", "--run-dir", str(run_dir), "--loop", loop]
    if listen:
        command += ["--http-listen", listen]
    process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True, env=environment(), cwd="/")
    try:
        yield Daemon(run_dir, process)
    finally:
        process.kill()
        process.communicate()
