"""A question that is asked on the terminal before something is done that cannot be undone."""

import asyncio
import sys

from buscli.output import Output, printable

__all__ = ["agreed", "somebody_there"]


def somebody_there() -> bool:
    """Whether there is anybody to ask: standard input and error are a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


async def agreed(output: Output, text: str) -> bool:
    """Ask on the terminal; whether the answer is yes. Anything else, and the end of the input, is no."""
    output.flush()
    sys.stderr.write(printable(text))
    sys.stderr.flush()
    answer = await _line()
    if not answer.endswith("\n"):
        sys.stderr.write("\n")
    return answer.strip().lower() in ("y", "yes")


async def _line() -> str:
    """A line of standard input. Ctrl-C ends the wait: a read in the loop's own thread would not notice it."""
    if sys.platform == "win32":  # whose loop cannot wait for a terminal
        return sys.stdin.readline()
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return sys.stdin.readline()
