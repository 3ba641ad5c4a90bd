"""Where results go: tables and text for people at a terminal, one JSON object a line for programs.

Everything that came from the bus may have been written by a hostile guest, so no control character of it ever reaches a
terminal: `printable` and `json_text` escape them.
"""

import contextlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Final, TextIO

_CONTROLS: Final = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
"""C0, DEL, C1 and what turns the direction of text: all that could drive a terminal or make it show another text."""

_UNSAFE: Final = re.compile(f"[{_CONTROLS}]")
_UNSAFE_IN_JSON: Final = re.compile(f"[{_CONTROLS.replace(chr(0) + '-' + chr(0x1F), '')}]")


def _escape(match: "re.Match[str]") -> str:
    return f"\\u{ord(match[0]):04x}"


def printable(text: str) -> str:
    """``text`` on one line, with every character that could drive a terminal escaped."""
    return _UNSAFE.sub(_escape, text)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """A JSON-ready value as text that is safe on a terminal (and still the same JSON)."""
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, indent=indent, separators=None if indent else (",", ":")
    )
    return _UNSAFE_IN_JSON.sub(_escape, text)


class Style:
    """SGR codes by meaning."""

    BOLD: Final = "1"
    DIM: Final = "2"
    RED: Final = "31"
    GREEN: Final = "32"
    YELLOW: Final = "33"
    CYAN: Final = "36"


def wants_colour(stream_is_terminal: bool, no_color: bool) -> bool:
    """Whether to colour: on a terminal that can, unless ``--no-color`` or NO_COLOR (https://no-color.org) says no."""
    if no_color or os.environ.get("NO_COLOR"):
        return False
    return stream_is_terminal and os.environ.get("TERM", "") != "dumb"


class Output:
    """The two standard streams of one command, and which form they take.

    Attributes:
        human: results are for a person: draw tables and text; otherwise write JSON lines.
    """

    def __init__(self, stdout: BinaryIO, stderr: TextIO, *, human: bool, colour: bool) -> None:
        self._stdout = stdout
        self._stderr = stderr
        self.human = human
        self._colour = colour

    @classmethod
    def standard(cls, *, force_json: bool = False, no_color: bool = False) -> "Output":
        """The process's own streams: for people when standard output is a terminal and JSON was not asked for."""
        terminal = sys.stdout.isatty()
        human = terminal and not force_json
        return cls(sys.stdout.buffer, sys.stderr, human=human, colour=wants_colour(terminal, no_color))

    def styled(self, text: str, style: str) -> str:
        """``text``, made printable, in a colour where colour is wanted."""
        text = printable(text)
        return f"\x1b[{style}m{text}\x1b[0m" if self._colour and self.human else text

    def line(self, text: str = "") -> None:
        """A line for people. The caller has made foreign parts of it `printable`."""
        self._stdout.write(f"{text}\n".encode(errors="backslashreplace"))

    def record(self, value: Any) -> None:
        """One JSON value on a line of its own."""
        self._stdout.write(f"{json_text(value)}\n".encode(errors="backslashreplace"))

    def pretty(self, value: Any) -> None:
        """One JSON value: indented for people, on one line for programs."""
        if self.human:
            self.line(json_text(value, indent=2))
        else:
            self.record(value)

    def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        self._stdout.write(data)

    def flush(self) -> None:
        """Hand everything written to the system. Raises BrokenPipeError when the reader has gone."""
        self._stdout.flush()

    def note(self, text: str) -> None:
        """A line on standard error: what a user must know that is not the result."""
        with contextlib.suppress(BrokenPipeError):  # who still reads this one is to be told; the other is met again
            self._stdout.flush()
        self._stderr.write(f"{printable(text)}\n")
        self._stderr.flush()

    def progress(self, text: str) -> None:
        """A line on standard error that the next one replaces, for a person who waits; "" takes it away."""
        if self.interactive:
            self._stderr.write(f"\r{printable(text)}\x1b[K")
            self._stderr.flush()

    @property
    def interactive(self) -> bool:
        """Whether a person reads standard error."""
        return self._stderr.isatty()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, spare: Sequence[str] = ()) -> None:
        """A table for people; drawn by rich where it is installed, in plain columns otherwise.

        Where the terminal has no room for all, columns named in ``spare`` are left out, the first of them first.
        """
        cells = [[printable("" if cell is None else str(cell)) for cell in row] for row in rows]
        drawn = _draw_rich(columns, cells, spare, colour=self._colour)
        self._stdout.write((drawn or _draw_plain(columns, cells)).encode(errors="backslashreplace"))


BETWEEN: Final = 3
"""Blanks between two columns, as rich draws them."""

NARROW: Final = 16
"""Characters of a column that is never folded: a name or figure in two pieces can neither be read nor copied."""

FOLDED: Final = 20
"""Characters that a wider column is left, before others are left out for it."""


def _draw_rich(columns: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str], *, colour: bool) -> str:
    """The table as rich draws it, fitted to the terminal; empty when rich is not installed."""
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return ""
    console = Console(force_terminal=colour, no_color=not colour, highlight=False, soft_wrap=False)
    widths = {name: max(map(len, column)) for name, *column in zip(columns, columns, *rows, strict=True)}
    left_out: set[str] = set()
    for name in spare:
        if _least(widths, left_out) <= console.width:
            break
        left_out.add(name)
    fits = _least(widths, left_out) <= console.width
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold" if colour else "")
    for name in columns:
        if name not in left_out:
            table.add_column(name, overflow="fold", no_wrap=fits and widths[name] <= NARROW)
    for row in rows:
        table.add_row(*(Text(cell) for name, cell in zip(columns, row, strict=True) if name not in left_out))
    with console.capture() as capture:
        console.print(table)
    return capture.get().strip("\n") + "\n"


def _least(widths: Mapping[str, int], left_out: set[str]) -> int:
    """How wide a table of columns with these ``widths`` must be to be readable."""
    shown = [width if width <= NARROW else min(width, FOLDED) for name, width in widths.items() if name not in left_out]
    return sum(shown) + BETWEEN * (len(shown) - 1)


def _draw_plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in ([name.upper() for name in columns], *rows)
    ]
    return "\n".join(lines) + "\n"
