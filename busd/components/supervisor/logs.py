"""What components write to standard output and error: cut into lines, kept in a ring, let through at a bounded rate.

A component may write without end. What is read of it, what is kept and what reaches the node's log are three bounds of
their own, and what falls away is counted.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

__all__ = ["Line", "Ring", "Sieve", "Splitter"]

RING_LINES: Final = 1000
"""Lines that are kept of one component: with the next bound, 4 MiB at most."""

LINE_BYTES: Final = 4096
"""Of one line; the rest is cut off and counted."""

NOTE_BYTES: Final = 32
"""Kept free in a line that is cut for saying so."""

ANSWER_BYTES: Final = 1 << 20
"""Text in one answer: it must fit into the outbox of who asked, beside other things."""

LOGGED_PER_SECOND: Final = 20.0
"""Lines of one component that reach the node's log."""

LOGGED_AT_ONCE: Final = 100.0
"""As many at once: a traceback, a start that has much to say."""


class Splitter:
    """Cuts a stream of bytes into lines of at most 4 KiB; of a longer one the beginning is kept."""

    __slots__ = ("_cut", "_held")

    def __init__(self) -> None:
        self._held = b""
        self._cut = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, without their ends."""
        *whole, rest = data.split(b"\n")
        lines = []
        for part in whole:
            self._take(part)
            lines.append(self._line())
        self._take(rest)
        return lines

    def end(self) -> list[bytes]:
        """The stream has ended: what it held of a line without an end."""
        return [self._line()] if self._held or self._cut else []

    def _take(self, part: bytes) -> None:
        room = LINE_BYTES - len(self._held)
        self._held += part[:room]
        self._cut += max(0, len(part) - room)

    def _line(self) -> bytes:
        line, cut = self._held, self._cut
        self._held, self._cut = b"", 0
        if not cut:
            return line.removesuffix(b"\r")
        kept = line[: LINE_BYTES - NOTE_BYTES]
        return kept + b" ...(+%d bytes)" % (cut + len(line) - len(kept))


class Line(NamedTuple):
    """One line of a component's output."""

    seq: int
    """Its number, from 1 since the node started."""
    at: float
    """When it was read, seconds since 1970."""
    stream: str
    """``stdout``, ``stderr``, or ``busd`` for what the supervisor noted in between."""
    pid: int
    data: bytes

    def row(self) -> dict[str, Any]:
        """The line as a plain map; bytes that are no UTF-8 are replaced."""
        text = self.data.decode("utf-8", "replace")
        return {"seq": self.seq, "at": self.at, "stream": self.stream, "pid": self.pid, "text": text}


class Ring:
    """The last 1000 lines of one component, over all its instances."""

    __slots__ = ("_lines", "count")

    def __init__(self) -> None:
        self._lines: deque[Line] = deque(maxlen=RING_LINES)
        self.count = 0
        """Lines that came since it was made."""

    def add(self, stream: str, pid: int, lines: list[bytes], at: float) -> None:
        """Keep ``lines``, read at ``at`` from ``stream`` of process ``pid``."""
        first = self.count + 1
        self.count += len(lines)
        skip = max(0, len(lines) - RING_LINES)  # a flood: what would be pushed out at once is not even made
        self._lines.extend(
            Line(first + index, at, stream, pid, line[:LINE_BYTES])
            for index, line in enumerate(lines[skip:], start=skip)
        )

    def read(self, after: int | None, limit: int) -> dict[str, Any]:
        """At most ``limit`` lines behind number ``after``; the newest ones if that is None.

        Returns ``lines``; ``next``, to be given as ``after`` for the lines that follow; and ``lost``, how many lines
        behind ``after`` have fallen out of the ring.
        """
        if after is None:
            newest = _fitting(line for index, line in enumerate(reversed(self._lines)) if index < limit)
            return _answer(newest[::-1], self.count, 0)
        after = min(after, self.count)  # of an earlier life of the node: begin with what comes next
        following = _fitting(line for line in self._lines if line.seq > after)[:limit]
        lost = max(0, self.count - len(self._lines) - after)
        return _answer(following, following[-1].seq if following else self.count, lost)


def _fitting(lines: Iterable[Line]) -> list[Line]:
    fitting, size = [], 0
    for line in lines:
        size += len(line.data)
        if size > ANSWER_BYTES:
            break
        fitting.append(line)
    return fitting


def _answer(lines: list[Line], following: int, lost: int) -> dict[str, Any]:
    return {"lines": [line.row() for line in lines], "next": following, "lost": lost}


class Sieve:
    """Lets 20 lines/s, 100 at once, through to the node's log, and counts the others. Pure: the time is an argument."""

    __slots__ = ("_at", "_room", "held_back")

    def __init__(self) -> None:
        self._at: float | None = None
        self._room = LOGGED_AT_ONCE
        self.held_back = 0
        """Lines that did not pass since ``report`` was last asked."""

    def let(self, count: int, now: float) -> int:
        """How many of ``count`` lines may pass at ``now``."""
        if self._at is not None:
            self._room = min(LOGGED_AT_ONCE, self._room + (now - self._at) * LOGGED_PER_SECOND)
        self._at = now
        passing = min(count, int(self._room))
        self._room -= passing
        self.held_back += count - passing
        return passing

    def report(self) -> int:
        """How many lines were held back since this was last asked."""
        held_back, self.held_back = self.held_back, 0
        return held_back
