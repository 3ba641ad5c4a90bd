"""Running the ``bus`` command as a user does: a process with pipes, or on a terminal."""

import asyncio
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Any

import busclient
from tests.support import RunningNode, environment, wait_until

BUS = [sys.executable, "-m", "buscli"]
SECONDS = 30.0
"""For a command to end, on a machine that is busy with other tests."""


class Cli:
    """The ``bus`` command against one bus."""

    def __init__(self, url: str, **variables: str) -> None:
        self.environment = environment(BUS_URL=url, **variables)

    def __call__(self, *words: str, stdin: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
        """Run it to its end; standard input is empty unless given."""
        return subprocess.run(
            [*BUS, *words],
            input=stdin if stdin is not None else b"",
            capture_output=True,
            timeout=SECONDS,
            env=self.environment,
        )

    def records(self, *words: str, stdin: bytes | None = None) -> list[Any]:
        """Run it, which must succeed; the JSON lines that it printed."""
        ended = self(*words, stdin=stdin)
        assert ended.returncode == 0, ended.stderr.decode()
        return lines_of(ended.stdout)

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        """Start it with pipes. The caller ends it; see `running`."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*BUS, *words], env=self.environment, **pipes)  # type: ignore[call-overload, no-any-return]

    @contextmanager
    def running(self, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
        """The command while it runs; killed at the end of the block if it still does."""
        with self.start(*words) as process:
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def serving(self, *words: str, subject: str) -> Iterator["subprocess.Popen[bytes]"]:
        """``bus serve`` with these words, from when the broker gives it calls."""
        with self.running("serve", *words) as process:
            wait_until(lambda: self.is_known(subject, call=True) or process.poll() is not None, what=f"serve {subject}")
            assert process.poll() is None, process.stderr.read() if process.stderr else b""
            yield process

    @contextmanager
    def subscribed(self, *words: str, subject: str) -> Iterator["subprocess.Popen[bytes]"]:
        """``bus sub`` with these words, from when the broker sends it what is published on ``subject``."""
        with self.running("sub", *words) as process:
            wait_until(lambda: self.is_known(subject) or process.poll() is not None, what=f"sub {subject}")
            assert process.poll() is None, process.stderr.read() if process.stderr else b""
            yield process

    def is_known(self, subject: str, *, call: bool = False) -> bool:
        """Whether the broker has somewhere to send ``subject`` to."""

        async def ask() -> Any:
            async with busclient.connect(self.environment["BUS_URL"], component="test") as bus:
                return await bus.call("$bus.explain", {"subject": subject, "verb": "call" if call else "publish"})

        return bool(asyncio.run(ask()).payload["groups" if call else "receivers"])

    def endpoint(self, pid: int) -> str:
        """The endpoint of a process on the host."""
        (name,) = [row["endpoint"] for row in self.records("list") if row["principal"]["pid"] == pid]
        return str(name)

    def on_terminal(self, *words: str, typed: bytes = b"") -> tuple[int, str]:
        """Run it with all three streams on a terminal; its exit code and all that was shown."""
        leader, follower = pty.openpty()
        with subprocess.Popen(
            [*BUS, *words],
            env={**self.environment, "TERM": "xterm", "COLUMNS": "160"},
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
        ) as process:
            os.close(follower)
            os.write(leader, typed)
            shown = _read_terminal(leader, process)
            os.close(leader)
            return process.wait(SECONDS), shown


def guest_of(node: RunningNode, directory: Path) -> Cli:
    """The command as a program in the guest vm-42 of acme has it, which is added; its socket is in ``directory``."""
    vsock = directory / "v"
    Cli(node.url).records("guest", "add", "vm-42", "--tenant", "acme", "--socket", str(vsock), "--any-process")
    return Cli(f"unix://{vsock}_5670", NO_COLOR="1")


def _read_terminal(leader: int, process: "subprocess.Popen[bytes]") -> str:
    shown = b""
    end = time.monotonic() + SECONDS
    try:
        while select([leader], [], [], max(0.0, end - time.monotonic()))[0]:
            shown += os.read(leader, 65536)
    except OSError:  # EIO: nobody has the terminal open any more
        return shown.decode().replace("\r\n", "\n")
    process.kill()
    raise AssertionError(f"did not end within {SECONDS} s: {shown!r}")


def lines_of(output: bytes) -> list[Any]:
    """The JSON values that stand on the lines of ``output``."""
    return [json.loads(line) for line in output.splitlines()]


def script(directory: Path, name: str = "bus", module: str = "buscli") -> Path:
    """An executable called ``name`` that is the command, for shells to find on PATH."""
    path = directory / name
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
    path.chmod(0o755)
    return path
