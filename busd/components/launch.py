"""Starts components as processes of their own and ends them: the node's side of a worker."""

import asyncio
import contextlib
import difflib
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from busproto.errors import BusError, Code

__all__ = ["available", "check_name", "launch", "Worker", "WorkerStatistics"]

STOP_SECONDS: Final = 5.0
"""From SIGTERM to SIGKILL."""

_log = logging.getLogger("busd.components")


def available() -> list[str]:
    """Names of the components that can run as a process: the packages beside this module that have a ``__main__``."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/__main__.py"))


def check_name(name: str) -> None:
    """Raises BusError CONFIG_INVALID if there is no component ``name``; it says which come nearest."""
    names = available()
    if name in names:
        return
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
    reason = f"there is no component '{name}'; the nearest is '{nearest}', and there are: {', '.join(names)}"
    raise BusError(Code.CONFIG_INVALID, key="components", where="", reason=reason)


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """What became of a worker."""

    name: str
    """Its component."""
    pid: int
    """Its process."""
    seconds: float
    """How long it has run, or ran."""
    status: int | None
    """None while it runs; then its exit status, or the negative number of the signal that ended it."""


class Worker:
    """One component's process. Made by ``launch``; it ends when its node does, however the node ends."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, lifeline: int) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._lifeline = lifeline
        self._started = time.monotonic()
        self._ended: float | None = None
        self._stopping = False
        self._watch = asyncio.create_task(self._note_the_end())

    async def _note_the_end(self) -> int:
        status = await self._process.wait()
        self._ended = time.monotonic()
        os.close(self._lifeline)
        if not self._stopping:
            self._log("component-ended", status=status, cure="restart busd to start it again")
        return status

    async def wait(self) -> int:
        """Wait until the process has ended; its exit status, or the negative number of the signal that ended it."""
        return await asyncio.shield(self._watch)

    async def stop(self, grace: float = STOP_SECONDS) -> int:
        """End the process: SIGTERM, and SIGKILL after ``grace`` seconds. Returns its status, as ``wait`` does."""
        self._stopping = True
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            self._process.terminate()
        try:
            async with asyncio.timeout(grace):
                return await self.wait()
        except TimeoutError:
            self._log("component-killed", reason=f"it did not end within {grace:g} s of SIGTERM")
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            return await self.wait()

    def _log(self, event: str, **fields: object) -> None:
        fields = {"component": self.name, "pid": self.pid, **fields}
        _log.error("%s %s", event, fields, extra={"event": event, "fields": fields})

    def statistics(self) -> WorkerStatistics:
        """Name, process, age and status."""
        until = time.monotonic() if self._ended is None else self._ended
        return WorkerStatistics(self.name, self.pid, until - self._started, self._process.returncode)


async def launch(name: str, url: str) -> Worker:
    """Start the component ``name`` as a process that attaches to the bus at ``url``.

    Its output goes where this process's goes. Its standard input is a pipe that nothing is written to: when the node
    is gone, even by SIGKILL, the pipe ends and so does the worker (``--until-eof``). It has a session of its own, so
    that Ctrl-C ends the node and the node ends it.

    Raises BusError CONFIG_INVALID for a name that does not exist.
    """
    check_name(name)
    command = (sys.executable, "-m", f"busd.components.{name}", "--bus", url, "--until-eof")
    its_end, lifeline = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=its_end, start_new_session=True)
    except BaseException:
        os.close(lifeline)
        raise
    finally:
        os.close(its_end)
    return Worker(name, process, lifeline)
