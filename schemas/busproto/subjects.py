"""Subjects, patterns, and the one matcher that broker and SDK share.

A subject is dot-separated tokens of ``a-z 0-9 - _``. In a pattern a token may be ``*`` (any one token) and the last may
be ``>`` (one or more tokens). Subjects under ``$bus.`` are the broker's own: no wildcard in first place reaches them.
"""

import re
from collections.abc import Hashable, Iterator, Sequence
from enum import IntEnum
from typing import Final, Generic, TypeVar

from busproto.errors import BusError, Code
from busproto.limits import NAME_BYTES, SUBJECT_BYTES, SUBJECT_TOKENS

__all__ = [
    "PatternTree",
    "Relation",
    "SharedSize",
    "SubjectCache",
    "check_name",
    "check_pattern",
    "check_subject",
    "common",
    "covers",
    "is_reserved",
    "matches",
    "overlaps",
    "relate",
    "specificity",
]

RESERVED: Final = "$bus"

_TOKEN: Final = re.compile(r"[a-z0-9_-]+", re.ASCII)
_SUBJECT: Final = re.compile(r"(?:\$bus|[a-z0-9_-]+)(?:\.[a-z0-9_-]+)*", re.ASCII)
_PATTERN: Final = re.compile(
    r"(?:(?:\$bus|\*|[a-z0-9_-]+)(?:\.(?:\*|[a-z0-9_-]+))*(?:\.>)?|>)",
    re.ASCII,
)

Value = TypeVar("Value", bound=Hashable)
Decision = TypeVar("Decision")


def check_subject(subject: str) -> None:
    """Raise BusError 2001 naming the reason unless ``subject`` is a subject. ``$bus.`` subjects pass."""
    if len(subject) > SUBJECT_BYTES or subject.count(".") >= SUBJECT_TOKENS or _SUBJECT.fullmatch(subject) is None:
        raise BusError(Code.SUBJECT_INVALID, subject=_shown(subject), reason=_reason(subject, wildcards=False))


def check_pattern(pattern: str) -> None:
    """Raise BusError 2002 naming the reason unless ``pattern`` is a pattern (every subject is one)."""
    if len(pattern) > SUBJECT_BYTES or pattern.count(".") >= SUBJECT_TOKENS or _PATTERN.fullmatch(pattern) is None:
        raise BusError(Code.PATTERN_INVALID, subject=_shown(pattern), reason=_reason(pattern, wildcards=True))


def check_name(name: object) -> str | None:
    """Why ``name`` is not a component, owner, group, tenant or unit name; None if it is one."""
    if not isinstance(name, str):
        return "must be a string"
    if not 0 < len(name) <= NAME_BYTES:
        return f"must have 1 to {NAME_BYTES} characters"
    if _TOKEN.fullmatch(name) is None:
        return "may hold only a-z, 0-9, - and _"
    return None


def is_reserved(subject: str) -> bool:
    """Whether ``subject`` (or pattern) lies under ``$bus.``, where only the broker publishes and serves."""
    return subject.startswith(RESERVED)


def matches(pattern: str, subject: str) -> bool:
    """Whether ``subject`` matches ``pattern``; both must be valid. The definition that the tree is tested against."""
    if pattern == subject:
        return True
    wanted = pattern.split(".")
    tokens = subject.split(".")
    if tokens[0] == RESERVED and wanted[0] != RESERVED:
        return False
    for index, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > index
        if index >= len(tokens) or token not in ("*", tokens[index]):
            return False
    return len(tokens) == len(wanted)


class Relation(IntEnum):
    """How the subjects that match one pattern stand to those that match another."""

    APART = 0
    """No subject matches both."""
    OVERLAPS = 1
    """Some subject matches both."""
    COVERS = 2
    """Every subject that matches the other matches this one."""


def relate(pattern: Sequence[str], other: Sequence[str]) -> Relation:
    """How ``pattern`` stands to ``other``, both split at their dots; both must be valid."""
    if (pattern[0] == RESERVED) != (other[0] == RESERVED):
        return Relation.APART
    relation = Relation.COVERS
    for token, theirs in zip(pattern, other, strict=False):
        if token == ">":
            return relation
        if theirs == ">":
            return Relation.OVERLAPS
        if token not in (theirs, "*"):
            if theirs != "*":
                return Relation.APART
            relation = Relation.OVERLAPS
    return relation if len(pattern) == len(other) else Relation.APART


def covers(pattern: str, other: str) -> bool:
    """Whether every subject that matches the pattern ``other`` matches ``pattern``; both must be valid."""
    return relate(pattern.split("."), other.split(".")) is Relation.COVERS


def overlaps(pattern: str, other: str) -> bool:
    """Whether some subject matches both patterns; both must be valid."""
    return relate(pattern.split("."), other.split(".")) is not Relation.APART


def common(pattern: str, other: str) -> str | None:
    """The pattern of exactly the subjects that match both; None if there are none. Both must be valid."""
    left, right = pattern.split("."), other.split(".")
    if relate(left, right) is Relation.APART:
        return None
    if left[-1] == ">" and (right[-1] != ">" or len(left) < len(right)):
        left, right = right, left
    # Now ``left`` is the one that says how far the subjects reach; ``right`` may end earlier, with >.
    rest = right[:-1] if right[-1] == ">" else right
    tokens = [theirs if token in ("*", ">") else token for token, theirs in zip(left, rest, strict=False)]
    return ".".join([*tokens, *left[len(tokens) :]])


def specificity(pattern: str) -> tuple[int, ...]:
    """Sort key: of the patterns that match one subject the most specific has the greatest (README, "Call")."""
    return tuple(0 if token == ">" else 1 if token == "*" else 2 for token in pattern.split("."))


def _shown(text: str) -> str:
    """``text`` as an error may repeat it: short, and without control characters or look-alikes."""
    return ascii(text[:80])[1:-1] + ("..." if len(text) > 80 else "")


def _reason(text: str, *, wildcards: bool) -> str:
    if not text:
        return "it is empty"
    if len(text) > SUBJECT_BYTES:
        return f"{len(text)} characters, the limit is {SUBJECT_BYTES}"
    tokens = text.split(".")
    if len(tokens) > SUBJECT_TOKENS:
        return f"{len(tokens)} tokens, the limit is {SUBJECT_TOKENS}"
    for index, token in enumerate(tokens):
        place = f"token {index + 1}"
        if not token:
            return f"{place} is empty"
        if token in ("*", ">") and not wildcards:
            return f"{place} is the wildcard {token}, which only a pattern may hold"
        if token == ">" and index != len(tokens) - 1:
            return "> may only be the last token"
        if token not in ("*", ">") and _TOKEN.fullmatch(token) is None and not (index == 0 and token == RESERVED):
            return f"{place} holds a character other than a-z, 0-9, - and _"
    return "it does not follow the grammar"


class _Node(Generic[Value]):
    """One token's place in the tree. ``tail`` holds the values of patterns that end here with ``>``."""

    __slots__ = ("children", "tail", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[Value]] = {}
        self.values: dict[Value, None] = {}
        self.tail: dict[Value, None] = {}

    def is_empty(self) -> bool:
        return not (self.children or self.values or self.tail)


class PatternTree(Generic[Value]):
    """Patterns with values; finds the values of all patterns that match a subject.

    A tree by token, so a look-up touches only nodes on the subject's own path: at most two branches a token (the token
    and ``*``), whatever number of other patterns there is. Values are hashable; one pattern can hold many.
    """

    __slots__ = ("_count", "_root")

    def __init__(self) -> None:
        self._root: _Node[Value] = _Node()
        self._count = 0

    def __len__(self) -> int:
        """How many (pattern, value) pairs the tree holds."""
        return self._count

    def add(self, pattern: str, value: Value) -> None:
        """Store ``value`` under the valid ``pattern``. Adding the same pair again changes nothing."""
        values = self._locate(pattern, create=True)
        assert values is not None
        if value not in values:
            values[value] = None
            self._count += 1

    def remove(self, pattern: str, value: Value) -> bool:
        """Take ``value`` away from ``pattern``; False if it was not there. Empty branches are pruned."""
        values = self._locate(pattern, create=False)
        if values is None or value not in values:
            return False
        del values[value]
        self._count -= 1
        if not values:
            self._prune(pattern)
        return True

    def at(self, pattern: str) -> list[Value]:
        """The values stored under exactly this pattern."""
        values = self._locate(pattern, create=False)
        return list(values) if values else []

    def match(self, subject: str) -> list[Value]:
        """The values of every pattern that matches the valid ``subject``; a value stored under two comes twice."""
        found: list[Value] = []
        frontier = [self._root]
        tokens = subject.split(".")
        wildcards = tokens[0] != RESERVED
        for token in tokens:
            following: list[_Node[Value]] = []
            for node in frontier:
                children = node.children
                if wildcards:
                    if node.tail:
                        found.extend(node.tail)
                    if "*" in children:
                        following.append(children["*"])
                if token in children:
                    following.append(children[token])
            if not following:
                return found
            frontier = following
            wildcards = True
        for node in frontier:
            found.extend(node.values)
        return found

    def _locate(self, pattern: str, *, create: bool) -> dict[Value, None] | None:
        node = self._root
        for token in pattern.split("."):
            if token == ">":
                return node.tail
            child = node.children.get(token)
            if child is None:
                if not create:
                    return None
                child = node.children[token] = _Node()
            node = child
        return node.values

    def _prune(self, pattern: str) -> None:
        path: list[tuple[_Node[Value], str]] = []
        node = self._root
        for token in pattern.split("."):
            if token == ">":
                break
            path.append((node, token))
            node = node.children[token]
        for parent, token in reversed(path):
            if not parent.children[token].is_empty():
                return
            del parent.children[token]


class _Branch:
    """One token's place among the cached subjects; ``ends`` says that a cached subject ends here."""

    __slots__ = ("children", "ends")

    def __init__(self) -> None:
        self.children: dict[str, _Branch] = {}
        self.ends: str | None = None

    def subjects(self) -> Iterator[str]:
        """Every cached subject at or below this place."""
        stack: list[_Branch] = [self]
        while stack:
            branch = stack.pop()
            if branch.ends is not None:
                yield branch.ends
            stack.extend(branch.children.values())


class SharedSize:
    """How many decisions several caches hold together."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries = 0


class SubjectCache(Generic[Decision]):
    """Decisions by subject, bounded, and forgotten exactly: a change to a pattern drops what that pattern matches.

    Subjects are also kept as a tree, so ``forget(pattern)`` walks only the subjects it concerns. When the cache is full
    the oldest entry goes: a sender of ever new subjects costs look-ups, not memory.
    """

    __slots__ = ("_limit", "_root", "_size", "decisions")

    def __init__(self, limit: int, size: "SharedSize | None" = None) -> None:
        """At most ``limit`` decisions. ``size`` is that of several caches together."""
        self._size = SharedSize() if size is None else size
        self.decisions: dict[str, Decision] = {}
        """The cache itself: the path of a message reads it without a call. Write only through ``put``."""
        self._root = _Branch()
        self._limit = limit

    def __len__(self) -> int:
        return len(self.decisions)

    def put(self, subject: str, decision: Decision) -> None:
        """Remember ``decision`` for ``subject``."""
        if subject not in self.decisions:
            if len(self.decisions) >= self._limit:
                self._discard(next(iter(self.decisions)))
            branch = self._root
            for token in subject.split("."):
                child = branch.children.get(token)
                if child is None:
                    child = branch.children[token] = _Branch()
                branch = child
            branch.ends = subject
            self._size.entries += 1
        self.decisions[subject] = decision

    def clear(self) -> None:
        """Drop every decision."""
        self._size.entries -= len(self.decisions)
        self.decisions.clear()
        self._root = _Branch()

    def forget(self, pattern: str) -> None:
        """Drop every decision whose subject matches ``pattern``."""
        if "*" not in pattern and ">" not in pattern:
            if pattern in self.decisions:
                self._discard(pattern)
            return
        for subject in list(self._matching(pattern)):
            self._discard(subject)

    def _matching(self, pattern: str) -> Iterator[str]:
        frontier = [self._root]
        for index, token in enumerate(pattern.split(".")):
            following: list[_Branch] = []
            for branch in frontier:
                if token not in ("*", ">"):
                    if token in branch.children:
                        following.append(branch.children[token])
                else:
                    following.extend(child for key, child in branch.children.items() if index > 0 or key != RESERVED)
            if token == ">":
                for branch in following:
                    yield from branch.subjects()
                return
            frontier = following
        for branch in frontier:
            if branch.ends is not None:
                yield branch.ends

    def _discard(self, subject: str) -> None:
        del self.decisions[subject]
        self._size.entries -= 1
        path: list[tuple[_Branch, str]] = []
        branch = self._root
        for token in subject.split("."):
            path.append((branch, token))
            branch = branch.children[token]
        branch.ends = None
        for parent, token in reversed(path):
            child = parent.children[token]
            if child.children or child.ends is not None:
                return
            del parent.children[token]
