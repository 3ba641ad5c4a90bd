"""A terminal's whole screen: lines that are drawn where they changed, keys as they are typed, and all put back after.

Nothing is drawn but what changed, so a table that stands still costs nothing on a serial line either.
"""

import asyncio
import atexit
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any, Final, Self

from buscli.output import printable

__all__ = ["Screen"]

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[2J"
"""The other screen, without a cursor, empty: what stood on the first one comes back at the end."""

_LEAVE: Final = "\x1b[?25h\x1b[?1049l"

_KEY: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|\x1bO[A-Z]|.", re.S)
"""One key: an escape sequence, or a character."""


class Screen:
    """The screen, from entering ``with`` to leaving it. It is put back whatever ends the block, and at exit."""

    def __init__(self) -> None:
        self._drawn: list[str] = []
        self._size = (0, 0)
        self._kept: list[Any] | None = None
        self._entered = False

    def __enter__(self) -> Self:
        self._entered = True
        atexit.register(self.restore)
        if sys.platform != "win32":  # whose terminals are not set up like this: there Ctrl-C ends it
            import termios
            import tty

            self._kept = termios.tcgetattr(sys.stdin.fileno())
            tty.setcbreak(sys.stdin.fileno())
        self._write(_ENTER)
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()
        atexit.unregister(self.restore)

    def restore(self) -> None:
        """Put the terminal back as it was. Does nothing the second time."""
        if not self._entered:
            return
        self._entered = False
        try:
            self._write(_LEAVE)
        except OSError:  # the terminal has gone: there is nothing to put back
            pass
        if self._kept is not None and sys.platform != "win32":
            import termios

            try:
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._kept)
            except termios.error:
                pass

    def size(self) -> tuple[int, int]:
        """Columns and lines; 80 and 24 where the terminal does not say."""
        try:
            found = os.get_terminal_size(sys.stdout.fileno())
        except OSError:
            return 80, 24
        return found.columns or 80, found.lines or 24

    def draw(self, lines: list[str], *, bold: int = -1) -> None:
        """Show ``lines``, cut to the screen; the line with index ``bold`` stands out. Only what changed is written."""
        size = self.size()
        width, height = size
        lines = lines[:height]
        written = ""
        if size != self._size:
            self._size, self._drawn, written = size, [], "\x1b[2J"
        for number, line in enumerate(lines):
            if number >= len(self._drawn) or self._drawn[number] != line:
                text = printable(line)[:width]
                text = f"\x1b[7m{text.ljust(width)}\x1b[0m" if number == bold else text
                written += f"\x1b[{number + 1};1H{text}\x1b[K"
        self._drawn = lines
        if written:
            self._write(written)

    async def keys(self, typed: Callable[[str], bool], resized: Callable[[], None]) -> None:
        """Hand each key to ``typed`` until that returns False, and each change of size to ``resized``."""
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        if sys.platform == "win32":
            await over.wait()
            return

        def read() -> None:
            try:
                data = os.read(sys.stdin.fileno(), 1024)
            except OSError:
                data = b""
            if not data or not all(map(typed, _KEY.findall(data.decode("ascii", "ignore")))):
                loop.remove_reader(sys.stdin.fileno())
                over.set()

        loop.add_reader(sys.stdin.fileno(), read)
        loop.add_signal_handler(signal.SIGWINCH, resized)
        try:
            await over.wait()
        finally:
            loop.remove_reader(sys.stdin.fileno())
            loop.remove_signal_handler(signal.SIGWINCH)

    def _write(self, text: str) -> None:
        data = text.encode(errors="replace")
        while data:
            data = data[os.write(sys.stdout.fileno(), data) :]
