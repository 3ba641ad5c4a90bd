"""Fuzzing of subjects and patterns.

The invariant: for any text, ``check_subject`` and ``check_pattern`` return None or raise BusError 2001 or 2002, never
another exception, and agree with the grammar written down here a second time; every subject is a pattern; for accepted
ones ``matches`` agrees with the definition by regular expression below, and ``PatternTree`` and ``SubjectCache`` with
``matches``; removing what was added leaves nothing; none of it takes longer than 5 ms.
"""

import re
from collections.abc import Callable, Hashable
from functools import partial

import pytest

from busproto.errors import BusError, Code
from busproto.limits import SUBJECT_BYTES, SUBJECT_TOKENS
from busproto.subjects import PatternTree, SubjectCache, check_pattern, check_subject, is_reserved, matches
from tests.fuzz import driver
from tests.schemas.vectors_support import load

pytestmark = pytest.mark.timeout(driver.TIMEOUT)

LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
SECONDS_EACH = 0.005


def is_subject(text: str) -> bool:
    """The grammar of schemas/README.md, token by token."""
    tokens = text.split(".")
    return (
        len(text.encode("utf-8", "surrogatepass")) <= SUBJECT_BYTES
        and len(tokens) <= SUBJECT_TOKENS
        and all(
            token and (LETTERS.issuperset(token) or (at == 0 and token == "$bus")) for at, token in enumerate(tokens)
        )
    )


def is_pattern(text: str) -> bool:
    tokens = text.split(".")
    tail = tokens[:-1] if tokens[-1] == ">" else tokens
    plain = ["x" if token == "*" else token for token in tail] + ["x"] * (len(tokens) - len(tail))
    return len(text.encode("utf-8", "surrogatepass")) <= SUBJECT_BYTES and is_subject(".".join(plain))


def expected(pattern: str, subject: str) -> bool:
    """Matching by definition: ``*`` is one token, a last ``>`` one or more, ``$bus`` only by name."""
    if subject.split(".")[0] == "$bus" and pattern.split(".")[0] != "$bus":
        return False
    parts = [r"[^.]+" if token == "*" else r"[^.]+(?:\.[^.]+)*" if token == ">" else re.escape(token)
             for token in pattern.split(".")]  # fmt: skip
    return re.fullmatch(r"\.".join(parts), subject) is not None


def refusal_of(check: Callable[[str], None], text: str) -> int | None:
    """The code that ``text`` is refused with."""
    try:
        check(text)
    except BusError as error:
        refusal = error
    else:
        return None
    # What a stranger sent is repeated short and without control characters.
    assert refusal.text.isascii()
    assert refusal.text.isprintable()
    assert len(refusal.text) < 1000
    return refusal.code


def judge(data: bytes) -> Hashable:
    """Lines of text: the first half patterns, the others subjects."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    patterns: list[str] = []
    subjects: list[str] = []
    for line in lines:
        assert driver.cpu_seconds(partial(refusal_of, check_pattern, line), SECONDS_EACH) < SECONDS_EACH
        subject_code, pattern_code = refusal_of(check_subject, line), refusal_of(check_pattern, line)
        assert subject_code == (None if is_subject(line) else Code.SUBJECT_INVALID)
        assert pattern_code == (None if is_pattern(line) else Code.PATTERN_INVALID)
        assert subject_code is not None or pattern_code is None
        if subject_code is None:
            subjects.append(line)
            assert is_reserved(line) == (line.split(".")[0] == "$bus")
        if pattern_code is None:
            patterns.append(line)
    found = check_matching(patterns[:12], subjects[:12])
    return len(patterns).bit_length(), len(subjects).bit_length(), found.bit_length()


def check_matching(patterns: list[str], subjects: list[str]) -> int:
    """How many pairs match, when all ways of matching agree."""
    tree: PatternTree[int] = PatternTree()
    for index, pattern in enumerate(patterns):
        tree.add(pattern, index)
        tree.add(pattern, index)
    assert len(tree) == len(patterns)
    found = 0
    for subject in subjects:
        right = [index for index, pattern in enumerate(patterns) if expected(pattern, subject)]
        assert [index for index, pattern in enumerate(patterns) if matches(pattern, subject)] == right
        assert sorted(tree.match(subject)) == right
        found += len(right)
    for pattern in patterns:
        cache: SubjectCache[bool] = SubjectCache(1000)
        for subject in subjects:
            cache.put(subject, True)
        cache.forget(pattern)
        assert set(cache.decisions) == {subject for subject in subjects if not expected(pattern, subject)}
    for index, pattern in enumerate(patterns):
        assert tree.remove(pattern, index)
        assert not tree.remove(pattern, index)
    assert len(tree) == 0
    assert tree._root.is_empty()
    return found


def corpus() -> list[bytes]:
    document = load("subjects.json")
    words = [str(case["text"]) for case in document["grammar"] if isinstance(case.get("text"), str)]
    pairs = ["\n".join([case["pattern"], *case["yes"], *case["no"]]) for case in document["matches"]]
    return [
        *(word.encode("utf-8", "surrogatepass") for word in words),
        *(pair.encode() for pair in pairs),
        "\n".join(pairs).encode(),
        b"a.b.c\na.*.c\na.>\n>\n*\na.b.>\n*.*.*\n$bus.ping\n$bus.*\n$bus.>\n*.ping\na.b",
        b"a." * 15 + b"a\n" + b"a." * 16 + b"a",
        b"x" * 255 + b"\n" + b"x" * 256,
    ]


TOKENS = [b".", b"*", b">", b"\n", b"$bus", b"$", b"$bus.", b".>", b".*", b"*.", b"a.", b"A", b"\n>\n", b" ", b"\0",
          "\u00e4".encode(), "\u0661".encode(), "\u212a".encode(), b"\xff", b"\r"]  # fmt: skip


def test_any_text() -> None:
    report = driver.run("subjects", judge, corpus(), 3000, TOKENS)
    assert report.endings > 20
