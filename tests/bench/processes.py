"""Child processes of the benchmark: brokers and clients, every one of them ended and reaped."""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.bench.peers.peer import Peer

ROOT = Path(__file__).resolve().parents[2]
"""The checkout that is measured: the one this file is in, whatever is installed."""

START_SECONDS = 15.0
"""From starting a broker to its first accepted connection."""

STOP_SECONDS = 5.0
"""From SIGTERM to SIGKILL."""


class BenchError(Exception):
    """A measurement that did not come about."""


def environment() -> dict[str, str]:
    """The children's: this checkout first on the path to import from, and nothing that changes busd's defaults."""
    paths = [str(ROOT), str(ROOT / "schemas"), str(ROOT / "clients"), os.environ.get("PYTHONPATH", "")]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BUSD_", "BUS_"))}
    return {**inherited, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _die_with_parent() -> None:
    """In the child, before exec: be killed when the benchmark itself is (Linux prctl PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Send a signal; not by ``Process.send_signal``, which reaps the child behind asyncio's back if it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)


class Children:
    """The processes started in an ``async with`` block; none outlives it."""

    def __init__(self) -> None:
        self._processes: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = [process for process in self._processes if process.returncode is None]
        for process in running:
            _signal(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                for process in running:
                    await process.wait()
        except TimeoutError:
            pass
        finally:
            stubborn = [process for process in running if process.returncode is None]
            for process in stubborn:
                _signal(process, signal.SIGKILL)
            for process in stubborn:
                await process.wait()

    async def start(self, command: list[str], **streams: Any) -> asyncio.subprocess.Process:
        """Start ``command`` in a session of its own: Ctrl-C reaches the benchmark, which ends its children in order."""
        process = await asyncio.create_subprocess_exec(
            *command, env=environment(), start_new_session=True, preexec_fn=_die_with_parent, **streams
        )
        self._processes.append(process)
        return process


class Client:
    """The parent's end of one client process."""

    def __init__(self, role: str, process: asyncio.subprocess.Process) -> None:
        self._role = role
        self._process = process

    @classmethod
    async def start(cls, children: Children, spec: dict[str, Any]) -> Self:
        """Start the client process that ``spec`` describes and wait until it is set up."""
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-P", "-m", "tests.bench.client", json.dumps(spec)]
        client = cls(spec["role"], await children.start(command, stdin=pipe, stdout=pipe))
        await client.ready()
        return client

    async def ready(self) -> None:
        """Wait until the client waits for its parent."""
        if "ready" not in await self._read():
            raise BenchError(f"{self._role}: ended before it was told to")

    def go(self) -> None:
        """Let the client go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")

    async def result(self) -> dict[str, float]:
        """Wait for the client's result; raises BenchError with the client's words when it failed."""
        outcome = await self._read()
        await self._process.wait()
        result: dict[str, float] = outcome["result"]
        return result

    async def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise BenchError(f"{self._role}: ended without a result (exit {await self._process.wait()})")
        outcome: dict[str, Any] = json.loads(line)
        if "error" in outcome:
            raise BenchError(f"{self._role}: {outcome['error']}")
        return outcome


class Broker:
    """One running broker of a peer, with a directory of its own."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, log: Path) -> None:
        self.pid = process.pid
        self.url = url
        self._process = process
        self._log = log

    def check(self) -> None:
        """Raise BenchError with the broker's last words if it has ended."""
        if self._process.returncode is not None:
            words = self._log.read_text(errors="replace")[-2000:]
            raise BenchError(f"the broker ended with exit code {self._process.returncode}: {words}")

    @classmethod
    async def start(cls, children: Children, peer: Peer, directory: Path) -> Self:
        """Start ``peer``'s broker in ``directory`` and wait until it accepts connections."""
        directory.mkdir()
        log = directory / "broker.log"
        with log.open("wb") as output:
            process = await children.start(peer.command(directory), stdout=output, stderr=output)
        try:
            async with asyncio.timeout(START_SECONDS):
                while (url := peer.address(directory)) is None and process.returncode is None:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            url = None
        broker = cls(process, url or "", log)
        broker.check()
        if url is None:
            raise BenchError(f"{peer.name}: the broker does not accept connections after {START_SECONDS:g} s")
        return broker

    def cpu_seconds(self) -> float:
        """Processor time that it has used."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def resident_bytes(self) -> int:
        """Its resident set size."""
        size: int = psutil.Process(self.pid).memory_info().rss
        return size
