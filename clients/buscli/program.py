"""A shell command that answers calls: one process group for each call, bounded in time, output and life."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from typing import TYPE_CHECKING, Any, Final

from buscli import body
from buscli.jsonform import to_json
from buscli.output import printable
from buscli.parser import UsageError
from busproto.errors import BusError, Code
from busproto.limits import PAYLOAD_BYTES

if TYPE_CHECKING:
    from busclient import Call, Reply

TAIL_BYTES: Final = 1000
"""How much of the end of a command's standard error an error reply carries."""

STOP_SECONDS: Final = 1.0
"""From SIGTERM to SIGKILL for a command that nobody waits for any more."""

CHUNK_BYTES: Final = 64 * 1024

_NOT_IN_VARIABLES: Final = re.compile("[^A-Z0-9_]")


class Program:
    """Answers calls by running ``command`` with ``/bin/sh``. See ``bus serve --help`` for what the command meets."""

    def __init__(self, command: str, *, raw: bool, timeout: float) -> None:
        self._command = command
        self._raw = raw
        self._timeout = timeout

    async def answer(self, call: "Call") -> "Reply":
        """Run the command for one call. Returns the reply; raises BusError 3007 when the command fails."""
        given = self._input(call)
        process = await self._start(call)
        try:
            async with asyncio.timeout(self._timeout):
                printed, complaint = await _converse(process, given)
        except TimeoutError:
            await _end(process)
            raise _failed(f"no result after {self._timeout:g} s") from None
        except BaseException:  # cancelled, or it printed too much
            await _end(process)
            raise
        if process.returncode != 0:
            raise _failed(_verdict(process.returncode or 0, complaint), exit_status=process.returncode)
        return self._reply(printed)

    async def _start(self, call: "Call") -> Process:
        shell = ("/bin/sh", "-c", self._command)
        try:
            return await asyncio.create_subprocess_exec(
                *shell, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment(call), start_new_session=True
            )
        except OSError as error:
            raise _failed(f"the command cannot be started: {error}") from None

    def _input(self, call: "Call") -> bytes:
        if self._raw:
            return call.data
        return json.dumps(to_json(call.payload), ensure_ascii=False).encode() + b"\n"

    def _reply(self, printed: bytes) -> "Reply":
        from busclient import Reply

        if self._raw:
            return Reply(data=printed, headers={"datacontenttype": body.RAW_TYPE})
        try:
            return Reply(data=body.of_bytes(printed, raw=False, where="what the command printed"))
        except UsageError as error:
            raise _failed(str(error)) from None


def environment(call: "Call") -> dict[str, str]:
    """This process's variables, and those that say what the call is about.

    BUS_HEADER_ variables of this process itself are left out: the command must not take them for the caller's.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("BUS_HEADER_")}
    variables["BUS_SUBJECT"] = call.subject
    variables["BUS_CALLER"] = call.origin.endpoint if call.origin is not None else ""
    for name, value in call.headers.items():
        text = value if isinstance(value, str) else json.dumps(to_json(value))
        variables["BUS_HEADER_" + _NOT_IN_VARIABLES.sub("_", name.upper())] = text.replace("\0", "")
    return variables


async def _converse(process: Process, given: bytes) -> tuple[bytes, bytes]:
    """Give the command its input; what it printed, and the end of its complaints. Raises BusError for too much."""
    feeding = asyncio.create_task(_feed(process, given))
    complaining = asyncio.create_task(_tail(process))
    try:
        printed = await _read_reply(process)
        complaint = await complaining
        await feeding
        await process.wait()
    finally:
        for task in (feeding, complaining):
            task.cancel()
    return printed, complaint


async def _feed(process: Process, given: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a command need not read its input
        process.stdin.write(given)
        await process.stdin.drain()
    process.stdin.close()


async def _read_reply(process: Process) -> bytes:
    assert process.stdout is not None
    printed = bytearray()
    while chunk := await process.stdout.read(CHUNK_BYTES):
        printed += chunk
        if len(printed) > PAYLOAD_BYTES:
            raise _failed(f"the command printed more than {PAYLOAD_BYTES} bytes")
    return bytes(printed)


async def _tail(process: Process) -> bytes:
    """Pass the command's complaints on to our own standard error, and keep their end."""
    assert process.stderr is not None
    tail = b""
    while chunk := await process.stderr.read(CHUNK_BYTES):
        text = chunk.decode(errors="backslashreplace")  # the caller may have chosen what stands in it
        sys.stderr.write("\n".join(map(printable, text.split("\n"))))
        sys.stderr.flush()
        tail = (tail + chunk)[-TAIL_BYTES:]
    return tail


async def _end(process: Process) -> None:
    """See to it that nothing of the command's process group is left.

    The command itself may have ended already: what it started holds its output open.
    """
    _signal_group(process)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        _signal_group(process, kill=True)
        await process.wait()


def _signal_group(process: Process, *, kill: bool = False) -> None:
    with contextlib.suppress(ProcessLookupError):  # the whole group has ended
        if sys.platform == "win32":  # no groups, and no signal but the end
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL if kill else signal.SIGTERM)


def _verdict(status: int, complaint: bytes) -> str:
    how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    said = complaint.decode(errors="replace").strip()
    return f"the command {how}: {said}" if said else f"the command {how}"


def _failed(reason: str, **fields: Any) -> BusError:
    return BusError(Code.HANDLER_FAILED, reason=reason, **fields)
