"""Patterns for paths, as bytes. Matching takes time in proportion to pattern times path, whatever they are.

Backtracking matchers take exponential time for a pattern such as ``*a*a*a*b``, and who asks for a deletion chooses
both sides. Here each part between two stars is looked for once, from the left: where it is found first leaves most
room for what follows, so there is never a reason to go back.
"""

import re
from functools import lru_cache
from typing import Final

__all__ = ["Glob", "compiled"]

LONGEST: Final = 4096
"""Bytes of a pattern: PATH_MAX."""

_ANYTHING: Final = rb"[^/]"


class Glob:
    """A compiled pattern for a relative path.

    ``*`` is any bytes but ``/``, ``?`` one such byte, ``[a-z]`` one of these, ``[!a-z]`` one that is none of these,
    ``\\`` takes the next byte as it is. ``**`` between slashes is any number of directories, none as well; at the end
    it is all that is below. Names that begin with a dot are names like others.
    """

    __slots__ = ("_head", "_middle", "_tail", "_whole", "pattern")

    def __init__(self, pattern: bytes) -> None:
        """Raises ValueError with what is wrong: a pattern that can match nothing is a mistake, not an empty answer."""
        self.pattern = pattern
        if not pattern or len(pattern) > LONGEST:
            raise ValueError(f"a pattern has 1 to {LONGEST} bytes, this one {len(pattern)}")
        if b"\0" in pattern:
            raise ValueError("no path has a NUL byte")
        parts = pattern.split(b"/")
        for part in parts:
            if part in (b"", b".", b".."):
                raise ValueError(f"no relative path has a part {part.decode()!r}")
        if parts[-1] == b"**":
            parts.append(b"*")  # what is below, and not the directory's own name
        # Two of them in a row are one.
        parts = [part for i, part in enumerate(parts) if i == 0 or part != b"**" or parts[i - 1] != b"**"]
        runs: list[list[re.Pattern[bytes]]] = [[]]
        for part in parts:
            if part == b"**":
                runs.append([])
            else:
                runs[-1].append(_segment(part))
        self._whole = len(runs) == 1
        self._head, self._tail = runs[0], runs[-1]
        self._middle = runs[1:-1]

    def __repr__(self) -> str:
        return f"Glob({self.pattern!r})"

    def matches(self, path: bytes) -> bool:
        """Whether the relative ``path`` as a whole is one that the pattern describes."""
        names = path.split(b"/")
        head, tail = self._head, self._tail
        if self._whole:
            return len(names) == len(head) and _all(head, names, 0)
        first, last = len(head), len(names) - len(tail)
        if first > last or not _all(tail, names, last) or not _all(head, names, 0):
            return False
        for run in self._middle:
            while first + len(run) <= last and not _all(run, names, first):
                first += 1
            first += len(run)
            if first > last:
                return False
        return True


@lru_cache(maxsize=256)
def compiled(pattern: bytes) -> Glob:
    """The pattern, compiled once. Raises ValueError as `Glob`."""
    return Glob(pattern)


def _all(run: list[re.Pattern[bytes]], names: list[bytes], at: int) -> bool:
    return all(segment.fullmatch(names[at + i]) for i, segment in enumerate(run))


def _segment(part: bytes) -> re.Pattern[bytes]:
    """What is between two slashes, as an expression that never goes back: all but the last run of bytes are atomic."""
    runs, at = [b""], 0
    while at < len(part):
        byte = part[at : at + 1]
        at += 1
        if byte == b"*":
            if runs[-1] or len(runs) == 1:  # `**` within a name is `*`
                runs.append(b"")
        elif byte == b"?":
            runs[-1] += _ANYTHING
        elif byte == b"[":
            one, at = _one_of(part, at)
            runs[-1] += one
        elif byte == b"\\":
            if at == len(part):
                raise ValueError("there is nothing after the last '\\'")
            runs[-1] += re.escape(part[at : at + 1])
            at += 1
        else:
            runs[-1] += re.escape(byte)
    if len(runs) == 1:
        return re.compile(runs[0], re.DOTALL)
    middle = b"".join(b"(?>.*?" + run + b")" for run in runs[1:-1])
    return re.compile(runs[0] + middle + b".*" + runs[-1], re.DOTALL)


def _one_of(part: bytes, at: int) -> tuple[bytes, int]:
    """A class whose bracket is before ``at``, as an expression; and where it ends."""
    negated = part[at : at + 1] in (b"!", b"^")
    at += negated
    ranges: list[tuple[int, int]] = []
    begin = at
    while True:
        if at >= len(part):
            raise ValueError("a '[' is not closed before the next '/' or the end")
        if part[at] == ord("]") and at > begin:
            break
        low, at = _member(part, at)
        high = low
        if part[at : at + 1] == b"-" and part[at + 1 : at + 2] not in (b"]", b""):
            high, at = _member(part, at + 1)
        if low > high:
            raise ValueError(f"the range {bytes([low])!r} to {bytes([high])!r} is empty")
        ranges.append((low, high))
    members = b"".join(b"\\x%02x-\\x%02x" % pair for pair in ranges)
    return b"[" + (b"^" if negated else b"") + members + b"]", at + 1


def _member(part: bytes, at: int) -> tuple[int, int]:
    if part[at : at + 1] == b"\\":
        at += 1
        if at == len(part):
            raise ValueError("there is nothing after the last '\\'")
    return part[at], at + 1
