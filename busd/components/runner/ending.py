"""When a runner's process is told to end: by a signal, or by the end of its standard input."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

__all__ = ["told_to_end"]

_SIGNALS: Final = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGBREAK")  # the last is Windows' way for one process to have another end
    if hasattr(signal, name)
]

_INPUT: Final = 0
"""Standard input's descriptor."""


@contextmanager
def told_to_end(end: Callable[[], object], *, until_eof: bool = False) -> Iterator[None]:
    """Call ``end`` in the running event loop, once: on SIGTERM, SIGINT or (``until_eof``) the end of standard input.

    A second signal ends the process at once: what a component does at its end may hang.
    """
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    over = False

    def once() -> None:
        nonlocal over
        if not over:
            over = True
            end()

    def heard(number: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        loop.call_soon_threadsafe(once)

    for number in _SIGNALS:
        # Not the loop's own: it has none on Windows.
        signal.signal(number, heard)
    watching = until_eof and _watch_input(loop, once)
    try:
        yield
    finally:
        over = True
        if watching:
            loop.remove_reader(_INPUT)
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch_input(loop: asyncio.AbstractEventLoop, at_end: Callable[[], None]) -> bool:
    """Call ``at_end`` at the end of standard input. True if the loop watches it and has to be told to stop that."""

    def readable() -> None:
        if not os.read(_INPUT, 4096):
            loop.remove_reader(_INPUT)  # the end stays readable
            at_end()

    def read() -> None:
        try:
            while os.read(_INPUT, 4096):
                pass
        except OSError:
            pass  # closed, or no input at all: its end as well
        try:
            loop.call_soon_threadsafe(at_end)
        except RuntimeError:
            pass  # the loop has ended meanwhile

    try:
        loop.add_reader(_INPUT, readable)
    except (NotImplementedError, OSError, ValueError):
        # Windows has no such thing for pipes, and Linux none for files: a thread waits instead, and ends with us.
        threading.Thread(target=read, name="until-eof", daemon=True).start()
        return False
    return True
