"""Subjects and patterns: the grammar, what a match is, and a matcher that agrees with it at a bounded cost."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busproto.errors import BusError, Code
from busproto.limits import NAME_BYTES, SUBJECT_BYTES, SUBJECT_TOKENS
from busproto.subjects import (
    PatternTree,
    SubjectCache,
    check_name,
    check_pattern,
    check_subject,
    is_reserved,
    matches,
    specificity,
)
from tests.schemas.vectors_support import load
from tests.support import no_collection

GRAMMAR = load("subjects.json")["grammar"]
MATCHES = load("subjects.json")["matches"]

# Few tokens, so that random patterns and subjects meet.
TOKEN = st.sampled_from(["a", "b", "c", "ab", "0"])
SUBJECT = st.one_of(
    st.lists(TOKEN, min_size=1, max_size=5).map(".".join),
    st.lists(TOKEN, min_size=1, max_size=3).map(lambda tokens: ".".join(["$bus", *tokens])),
)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    first = draw(st.one_of(TOKEN, st.just("*"), st.just("$bus")))
    rest = draw(st.lists(st.one_of(TOKEN, st.just("*")), max_size=4))
    tail = draw(st.sampled_from([[], [">"]]))
    return draw(st.sampled_from([".".join([first, *rest, *tail]), ">"]))


PATTERN = patterns()


def refusal(check: Callable[[str], None], text: str) -> BusError | None:
    try:
        check(text)
    except BusError as error:
        return error
    return None


@pytest.mark.parametrize("case", GRAMMAR, ids=lambda case: ascii(case["text"])[:40])
def test_grammar(case: dict[str, Any]) -> None:
    as_subject = refusal(check_subject, case["text"])
    as_pattern = refusal(check_pattern, case["text"])
    assert (as_subject is None) == case["subject"]
    assert (as_pattern is None) == case["pattern"]
    assert as_subject is None or as_subject.code == Code.SUBJECT_INVALID
    assert as_pattern is None or as_pattern.code == Code.PATTERN_INVALID


@pytest.mark.parametrize(
    ("check", "text", "reason"),
    [
        (check_subject, "", "it is empty"),
        (check_subject, "a" * 256, f"256 characters, the limit is {SUBJECT_BYTES}"),
        (check_subject, ".".join("a" * 17), f"17 tokens, the limit is {SUBJECT_TOKENS}"),
        (check_subject, "a..b", "token 2 is empty"),
        (check_subject, "a.*", "token 2 is the wildcard *, which only a pattern may hold"),
        (check_subject, "a.B", "token 2 holds a character other than a-z, 0-9, - and _"),
        (check_pattern, "a.>.b", "> may only be the last token"),
        (check_pattern, "a.b*", "token 2 holds a character other than a-z, 0-9, - and _"),
    ],
)
def test_refusal_names_its_reason(check: Callable[[str], None], text: str, reason: str) -> None:
    error = refusal(check, text)
    assert error is not None
    assert error.fields["reason"] == reason


def test_refusal_repeats_hostile_text_short_and_escaped() -> None:
    error = refusal(check_subject, "\x1b[2J\n" + "é" * 10_000)
    assert error is not None
    assert len(error.fields["subject"]) < 400
    assert error.fields["subject"].isascii()
    assert error.fields["subject"].isprintable()


@given(st.text())
def test_any_text_is_accepted_or_refused_with_its_code(text: str) -> None:
    as_subject = refusal(check_subject, text)
    as_pattern = refusal(check_pattern, text)
    if as_subject is None:
        assert as_pattern is None, "every subject is a pattern"
        assert matches(text, text)


@pytest.mark.parametrize("case", MATCHES, ids=lambda case: case["pattern"])
def test_matches_table(case: dict[str, Any]) -> None:
    tree: PatternTree[str] = PatternTree()
    tree.add(case["pattern"], "it")
    for subject in case["yes"]:
        assert matches(case["pattern"], subject), subject
        assert tree.match(subject) == ["it"], subject
    for subject in case["no"]:
        assert not matches(case["pattern"], subject), subject
        assert tree.match(subject) == [], subject


def test_reserved_subjects_are_known() -> None:
    assert is_reserved("$bus.ping")
    assert is_reserved("$bus.>")
    assert not is_reserved("bus.ping")
    assert not is_reserved(">")


@given(st.lists(st.tuples(PATTERN, st.integers(0, 3)), max_size=20), SUBJECT)
def test_tree_agrees_with_the_definition(pairs: list[tuple[str, int]], subject: str) -> None:
    tree: PatternTree[int] = PatternTree()
    for pattern, value in pairs:
        tree.add(pattern, value)
    expected = [value for pattern, value in dict.fromkeys(pairs) if matches(pattern, subject)]
    assert sorted(tree.match(subject)) == sorted(expected)
    assert len(tree) == len(set(pairs))


@given(st.lists(st.tuples(st.booleans(), PATTERN, st.integers(0, 2)), max_size=40), SUBJECT)
def test_tree_after_any_additions_and_removals(steps: list[tuple[bool, str, int]], subject: str) -> None:
    tree: PatternTree[int] = PatternTree()
    model: set[tuple[str, int]] = set()
    for adding, pattern, value in steps:
        if adding:
            tree.add(pattern, value)
            model.add((pattern, value))
        else:
            assert tree.remove(pattern, value) == ((pattern, value) in model)
            model.discard((pattern, value))
        assert sorted(tree.at(pattern)) == sorted(held for stored, held in model if stored == pattern)
    assert sorted(tree.match(subject)) == sorted(value for pattern, value in model if matches(pattern, subject))
    assert len(tree) == len(model)


@given(st.lists(st.tuples(PATTERN, st.integers(0, 2)), max_size=30, unique=True))
def test_tree_emptied_holds_no_memory_of_what_it_held(pairs: list[tuple[str, int]]) -> None:
    tree: PatternTree[int] = PatternTree()
    for pattern, value in pairs:
        tree.add(pattern, value)
    for pattern, value in pairs:
        assert tree.remove(pattern, value)
    assert len(tree) == 0
    assert tree._root.is_empty()


def lines_run(work: Callable[[], object]) -> int:
    """Python lines that ``work`` runs: a cost that does not depend on the machine."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    previous = sys.gettrace()
    with no_collection():  # who is told of one (Hypothesis is) would be counted
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(previous)
    return count


def test_cost_of_a_match_does_not_grow_with_unrelated_patterns() -> None:
    def cost(unrelated: int) -> int:
        tree: PatternTree[int] = PatternTree()
        tree.add("telemetry.*.load", -1)
        tree.add("telemetry.>", -2)
        for number in range(unrelated):
            shape = ("other.n{}", "other.n{}.*", "telemetry.n{}.x", "n{}.>", "*.n{}")[number % 5]
            tree.add(shape.format(number), number)
        assert sorted(tree.match("telemetry.cpu.load")) == [-2, -1]
        return lines_run(lambda: tree.match("telemetry.cpu.load"))

    assert cost(100_000) <= cost(100)


def test_specificity_prefers_literals_from_the_left() -> None:
    ranked = ["a.b.c", "a.b.*", "a.b.>", "a.*.c", "a.*.*", "a.>", "*.b.c", "*.*.c", ">"]
    assert sorted(ranked, key=specificity, reverse=True) == ranked


@pytest.mark.parametrize("name", ["a", "cpu-agent_2", "0", "x" * NAME_BYTES])
def test_names(name: str) -> None:
    assert check_name(name) is None


@pytest.mark.parametrize("name", ["", "x" * (NAME_BYTES + 1), "A", "a.b", "a b", "a\n", "ä", None, 1, b"a"])
def test_names_refused(name: object) -> None:
    assert check_name(name)


@given(st.lists(st.one_of(SUBJECT, PATTERN.map(lambda pattern: "forget " + pattern)), max_size=60))
def test_cache_forgets_what_a_pattern_matches_and_nothing_else(steps: list[str]) -> None:
    cache: SubjectCache[int] = SubjectCache(limit=8)
    model: dict[str, int] = {}
    for number, step in enumerate(steps):
        if step.startswith("forget "):
            pattern = step.removeprefix("forget ")
            cache.forget(pattern)
            model = {subject: kept for subject, kept in model.items() if not matches(pattern, subject)}
        else:
            if step not in model and len(model) == 8:
                del model[next(iter(model))]
            cache.put(step, number)
            model[step] = number
        assert cache.decisions == model
        assert len(cache) == len(model)
