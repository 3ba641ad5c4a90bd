"""How patterns stand to each other: against all subjects of a small alphabet."""

from itertools import product

import pytest

from busproto.errors import BusError
from busproto.subjects import Relation, check_pattern, check_subject, common, covers, matches, overlaps, relate


def is_valid(check: object, text: str) -> bool:
    try:
        check(text)  # type: ignore[operator]
    except BusError:
        return False
    return True


def texts(alphabet: str, longest: int) -> list[str]:
    words = alphabet.split()
    return [".".join(tokens) for length in range(1, longest + 1) for tokens in product(words, repeat=length)]


PATTERNS = [text for text in texts("a b $bus * >", 3) if is_valid(check_pattern, text)]
SUBJECTS = [text for text in texts("a b c $bus", 4) if is_valid(check_subject, text)]
MATCHED = {pattern: frozenset(s for s in SUBJECTS if matches(pattern, s)) for pattern in PATTERNS}
"""c stands for every name that no pattern has, and four tokens for every length above three."""


def test_the_enumeration_is_one() -> None:
    assert len(PATTERNS) == 69
    assert len(SUBJECTS) == 160
    assert all(MATCHED.values())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_relations_are_those_of_the_sets_of_subjects(pattern: str) -> None:
    for other in PATTERNS:
        mine, theirs = MATCHED[pattern], MATCHED[other]
        assert covers(pattern, other) == (theirs <= mine), other
        assert overlaps(pattern, other) == bool(mine & theirs), other
        shared = common(pattern, other)
        if shared is None:
            assert not mine & theirs, other
        else:
            check_pattern(shared)
            assert frozenset(s for s in SUBJECTS if matches(shared, s)) == mine & theirs, (other, shared)


@pytest.mark.parametrize(
    ("pattern", "other", "relation", "shared"),
    [
        (">", "a", Relation.COVERS, "a"),
        (">", "$bus.ping", Relation.APART, None),
        ("*.ping", "$bus.ping", Relation.APART, None),
        ("$bus.>", "$bus.endpoints.*", Relation.COVERS, "$bus.endpoints.*"),
        ("$bus.>", "$bus", Relation.APART, None),
        ("a.>", ">", Relation.OVERLAPS, "a.>"),
        ("a.*", "a.>", Relation.OVERLAPS, "a.*"),
        ("*.b", "a.>", Relation.OVERLAPS, "a.b"),
        ("a.*.>", "*.b.>", Relation.OVERLAPS, "a.b.>"),
        ("a.>", "a", Relation.APART, None),
        ("a.*", "a.b.c", Relation.APART, None),
        (".".join("a" * 15) + ".>", ".".join("a" * 15) + ".*", Relation.COVERS, ".".join("a" * 15) + ".*"),
    ],
)
def test_relations_by_example(pattern: str, other: str, relation: Relation, shared: str | None) -> None:
    assert relate(pattern.split("."), other.split(".")) is relation
    assert common(pattern, other) == common(other, pattern) == shared
