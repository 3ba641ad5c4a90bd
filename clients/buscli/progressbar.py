"""One line that says how far something is, fitted to the width of a terminal."""

import os
import sys
from collections.abc import Sequence
from typing import Final

from buscli.output import printable

__all__ = ["ProgressBar", "bar", "terminal_width"]

WIDEST: Final = 24
NARROWEST: Final = 8
"""Characters of the bar itself."""


def bar(part: float, width: int) -> str:
    """``part`` (0 to 1) of ``width`` characters, between brackets. Full only when all is done."""
    part = min(1.0, max(0.0, part))
    filled = width if part >= 1 else min(width - 1, int(part * width))
    return "[" + "#" * filled + "-" * (width - filled) + "]"


def terminal_width() -> int:
    """Columns of the terminal that standard error is; COLUMNS in the environment stands above it, 80 is a guess."""
    try:
        columns = int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(sys.stderr.fileno()).columns
    except (ValueError, OSError):
        columns = 80
    return max(20, min(columns, 240))


class ProgressBar:
    """The parts of the line: a word for what goes on, how much of it is done, and what else is worth saying.

    Attributes:
        doing: "removing", "counting".
        part: 0 to 1 of all that there is; None if nobody knows how much that is.
        facts: most important first. What has no room is left out, from the end.
    """

    def __init__(self, doing: str, part: float | None, facts: Sequence[str]) -> None:
        self.doing = doing
        self.part = part
        self.facts = facts

    def line(self, width: int) -> str:
        """The line in at most ``width`` - 1 characters: one that fills a terminal to its edge may wrap."""
        room = width - 1
        shown = printable(self.doing)
        if self.part is not None:
            # Down, not to the nearest: 100 % of what is not done would be a lie.
            shown += f" {min(100, int(self.part * 100)):>3} %"
            spare = room - len(shown) - sum(len(printable(fact)) + 2 for fact in self.facts) - 3
            wide = min(WIDEST, max(NARROWEST, spare))
            if room - len(shown) - 3 >= NARROWEST:
                shown += f" {bar(self.part, min(wide, room - len(shown) - 3))}"
        for fact in map(printable, self.facts):
            if len(shown) + 2 + len(fact) > room:
                break
            shown += f"  {fact}"
        return shown[:room]
