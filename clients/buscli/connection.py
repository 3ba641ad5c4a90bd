"""Attaching to the bus for one command, and running that command on an event loop until it ends or is stopped."""

import asyncio
import os
import re
import signal
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from buscli.about import bus_version
from buscli.exits import Exit
from buscli.output import Output
from buscli.units import user_name

if TYPE_CHECKING:
    from busclient import Bus

COMPONENT: Final = "bus-cli"
"""What the census calls this program."""


@asynccontextmanager
async def attached(
    args: Namespace, output: Output, about: str = "", *, reconnect: bool = False, announce: bool = True
) -> "AsyncIterator[Bus]":
    """The bus that this command line means, attached. Says on a terminal which it is: never the wrong bus unseen.

    ``about`` is what the command is for, for the census: its subject or pattern, never a body. ``reconnect``: for
    commands that last; the others end when the connection does. ``announce``: say which bus it is.
    """
    import busclient

    purpose = f"bus {args.command_name} {about}".strip()[:256]
    bus = busclient.connect(
        args.bus,
        component=COMPONENT,
        owner=owner(),
        purpose=purpose,
        reconnect=reconnect,
        key=args.key,
        server_key=args.server_key,
    )
    async with bus:
        if announce and output.interactive:
            node, broker = (str(bus.welcome.get(name, "?")) for name in ("node", "broker"))
            output.note(f"-> {bus.url} (node {node}, {broker.replace('/', ' ')})")
        yield bus


def owner() -> str:
    """The user's name in the form of an owner's name; a claim, like all of a manifest."""
    if sys.platform == "win32":
        name = os.environ.get("USERNAME", "")
    else:
        name = str(user_name(os.getuid()))
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")[:64] or "operator"


def run(command: Coroutine[Any, Any, int], *, ends_well: bool = False) -> int:
    """Run ``command`` to its exit code. Ctrl-C and SIGTERM end it in order (it leaves the bus); a second one at once.

    ``ends_well``: being stopped is how this command normally ends, so the exit code is 0.
    """
    return asyncio.run(_until_stopped(command, ends_well=ends_well))


async def _until_stopped(command: Coroutine[Any, Any, int], *, ends_well: bool) -> int:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(command)
    stopped: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        stopped.append(number)
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)
        task.cancel()

    if sys.platform != "win32":  # whose loop handles no signals; there asyncio.run cancels at Ctrl-C
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not stopped and sys.platform != "win32":
            raise
    if ends_well:
        return Exit.OK
    return Exit.TERMINATED if stopped and stopped[0] is signal.SIGTERM else Exit.INTERRUPTED


async def first_of(*waits: Coroutine[Any, Any, Any], seconds: float | None = None) -> bool:
    """Wait until the first of ``waits`` ends, end the others, raise what it raised. False when ``seconds`` passed."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
    return bool(done)


async def reader_gone() -> None:
    """Wait until nobody can read standard output any more, then raise BrokenPipeError.

    It waits for ever if that is no pipe, and on Windows, where only writing tells.

    Without this ``bus sub 'x.>' | head -1`` would stay until the next message could not be written.
    """
    import stat

    loop = asyncio.get_running_loop()
    descriptor = sys.stdout.fileno()
    gone = asyncio.Event()
    if sys.platform == "win32" or not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        await gone.wait()
    # Nothing ever becomes readable on the writing end: epoll reports only that the other end was closed.
    loop.add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
    raise BrokenPipeError


def version_line() -> str:
    """What made this result, for benchmarks and checks."""
    from platform import python_version

    return f"bus {bus_version()}, Python {python_version()}"
