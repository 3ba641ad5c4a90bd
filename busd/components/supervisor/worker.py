"""A component's process, from the node's side: started, listened to, ended."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

import psutil

from busd.components.supervisor.logs import Splitter

__all__ = ["STOP_SECONDS", "Launch", "Lines", "Worker", "launch"]

STOP_SECONDS: Final = 8.0
"""From SIGTERM to SIGKILL: a runner gives the calls that it holds 5 s, and then stops its component."""

READ_BYTES_PER_SECOND: Final = 1 << 20
"""Output that is read of one stream: what it costs the node is bounded. Who writes more waits, as on a terminal."""

REST_SECONDS: Final = 0.5
"""For the rest of the output when the process has ended: a child that it left may hold the pipe open for ever."""

_STREAMS: Final = {1: "stdout", 2: "stderr"}

Lines = Callable[[str, list[bytes]], None]
"""Takes lines of ``stdout`` or ``stderr``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What is to be started."""

    component: str
    arguments: Sequence[str]
    """For ``busd component run``."""
    path: Sequence[str] = ()
    """Directories of modules."""

    def command(self) -> tuple[str, ...]:
        """The program and its arguments."""
        return (sys.executable, "-m", "busd", "component", "run", *self.arguments)

    def environment(self) -> Mapping[str, str]:
        """This process's, with ``path`` before everything, and output that comes when it is written."""
        path = [*self.path, *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "PYTHONUNBUFFERED": "1", **({"PYTHONPATH": os.pathsep.join(path)} if path else {})}


class Worker(asyncio.SubprocessProtocol):
    """One process with a component. Made by `launch`; it ends when the node does, however the node ends."""

    def __init__(self, component: str, lifeline: int, lines: Lines) -> None:
        self.component = component
        self.pid = 0
        self.why = ""
        """Why it is being ended, if that is for a fault of its own."""
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Its exit status, or the negative number of the signal that ended it."""
        self._loop = asyncio.get_running_loop()
        self._lifeline = lifeline
        self._lines = lines
        self._splitters = {fd: Splitter() for fd in _STREAMS}
        self._open = set(_STREAMS)
        self._rest: asyncio.TimerHandle | None = None
        self._transport: asyncio.SubprocessTransport
        self._measured: psutil.Process | None = None
        self._started = time.monotonic()
        self._until: float | None = None

    @property
    def seconds(self) -> float:
        """How long it has run, or ran."""
        return (time.monotonic() if self._until is None else self._until) - self._started

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._until is None

    def measure(self) -> tuple[int, float] | None:
        """Bytes in RAM and seconds of CPU time used, as the system has them; None if the process is gone."""
        if self._until is not None:
            return None
        try:
            if self._measured is None:
                self._measured = psutil.Process(self.pid)
            with self._measured.oneshot():
                times = self._measured.cpu_times()
                return int(self._measured.memory_info().rss), times.user + times.system
        except psutil.Error:
            return None

    async def wait(self) -> int:
        """Wait until it has ended; its exit status, or the negative number of the signal that ended it."""
        return await asyncio.shield(self.ended)

    async def stop(self, grace: float = STOP_SECONDS) -> int:
        """End it: SIGTERM, and SIGKILL after ``grace`` seconds. Returns what `wait` does."""
        if self._until is None:
            with contextlib.suppress(ProcessLookupError):
                self._transport.terminate()
        try:
            async with asyncio.timeout(grace):
                return await self.wait()
        except TimeoutError:
            self.kill()
            return await self.wait()

    def kill(self) -> None:
        """End it at once, with the processes that it has started."""
        if self._until is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                self._transport.kill()
            else:
                os.killpg(self.pid, signal.SIGKILL)  # it leads a session of its own

    # -- what the loop calls ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The process runs."""
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self.pid = self._transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """It has written; read on when that much may have been written."""
        self._lines(_STREAMS[fd], self._splitters[fd].feed(data))
        pipe = cast(asyncio.ReadTransport | None, self._transport.get_pipe_transport(fd))
        if pipe is not None and self._until is None:
            pipe.pause_reading()
            self._loop.call_later(len(data) / READ_BYTES_PER_SECOND, _resume, pipe)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """It writes there no more."""
        self._open.discard(fd)
        if not self._open and self._until is not None:
            self._finish()

    def process_exited(self) -> None:
        """It has ended. Its last words may still be in the pipes."""
        self._until = time.monotonic()
        os.close(self._lifeline)
        if self._open:
            self._rest = self._loop.call_later(REST_SECONDS, self._finish)
        else:
            self._finish()

    def _finish(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
        if not self.ended.done():
            for fd, splitter in self._splitters.items():
                if rest := splitter.end():
                    self._lines(_STREAMS[fd], rest)
            status = self._transport.get_returncode()
            self.ended.set_result(-1 if status is None else status)
            self._transport.close()


def _resume(pipe: asyncio.ReadTransport) -> None:
    if not pipe.is_closing():
        pipe.resume_reading()


async def launch(what: Launch, lines: Lines) -> Worker:
    """Start the process of a component; ``lines`` gets what it writes.

    Its standard input is a pipe that nothing is written to: when the node is gone, even by SIGKILL, the pipe ends and
    so does the worker (``--until-eof``). It has a session of its own: Ctrl-C ends the node, and the node ends it.

    Raises OSError when no process can be started.
    """
    its_end, lifeline = os.pipe()
    try:
        _, worker = await asyncio.get_running_loop().subprocess_exec(
            lambda: Worker(what.component, lifeline, lines),
            *what.command(),
            stdin=its_end,
            env=what.environment(),
            start_new_session=True,
        )
    except BaseException:
        os.close(lifeline)
        raise
    finally:
        os.close(its_end)
    return worker
