"""What every component's ``__main__`` shares: its command line, its end, its exit status."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from busproto.errors import BusError

__all__ = ["parser", "run"]


def parser(name: str, purpose: str) -> argparse.ArgumentParser:
    """The options that every component takes as a process."""
    options = argparse.ArgumentParser(
        prog=f"python -m busd.components.{name}",
        description=purpose,
        epilog="Ends on SIGTERM or SIGINT with status 0; with status 1 if the bus cannot be reached at the start.",
    )
    options.add_argument(
        "--bus",
        metavar="URL",
        help="the bus to attach to: unix:///path/host.sock or a path (default: BUS_URL, else this user's busd)",
    )
    options.add_argument(
        "--until-eof",
        action="store_true",
        help="also end when standard input does: the program that started it is gone",
    )
    return options


def run(main: Callable[[], Coroutine[Any, Any, None]], *, until_eof: bool = False) -> int:
    """Run ``main`` until SIGTERM, SIGINT or (``until_eof``) the end of standard input. Returns the exit status."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")  # warnings and worse, to standard error
    try:
        asyncio.run(_until_told(main, until_eof=until_eof))
    except BusError as error:
        print(f"{error}\n{error.cure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # where the loop cannot handle signals (Windows)
        pass
    return 0


async def _until_told(main: Callable[[], Coroutine[Any, Any, None]], *, until_eof: bool) -> None:
    loop = asyncio.get_running_loop()
    task = loop.create_task(main())
    if sys.platform != "win32":
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
    if until_eof:
        loop.add_reader(0, _cancel_at_eof, loop, task)
    await asyncio.wait([task])
    if until_eof:
        loop.remove_reader(0)
    if not task.cancelled():
        task.result()


def _cancel_at_eof(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    if not os.read(0, 4096):
        loop.remove_reader(0)  # the end stays readable: cancelling again and again would cut the clean-up short
        task.cancel()
