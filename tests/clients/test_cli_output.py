"""Output: people get text that cannot drive their terminal, programs get JSON lines."""

import builtins
import io
import json
from typing import Any

import pytest

from buscli.output import Output, Style, json_text, printable, wants_colour

HOSTILE = "\x1b]0;owned\x07\x9b31m\x7f\u202egnp.exe\u2066\r\n\ttab"


def output(*, human: bool, colour: bool = False) -> tuple[Output, io.BytesIO, io.StringIO]:
    stdout, stderr = io.BytesIO(), io.StringIO()
    return Output(stdout, stderr, human=human, colour=colour), stdout, stderr


def is_safe(text: str) -> bool:
    return all(character == "\n" or (character.isprintable()) for character in text)


def test_nothing_foreign_can_drive_a_terminal() -> None:
    shown = printable(HOSTILE)
    assert is_safe(shown)
    assert "\n" not in shown
    assert "owned" in shown
    assert "\\u001b" in shown


def test_json_is_safe_on_a_terminal_and_still_the_same_json() -> None:
    for indent in (None, 2):
        text = json_text({"text": HOSTILE, HOSTILE: ["grüße 🚌"]}, indent=indent)
        assert is_safe(text)
        assert json.loads(text) == {"text": HOSTILE, HOSTILE: ["grüße 🚌"]}
        assert "grüße 🚌" in text


def test_records_are_one_line_each() -> None:
    out, stdout, _ = output(human=False)
    out.record({"a": "two\nlines"})
    out.record([1, None])
    out.flush()
    assert [json.loads(line) for line in stdout.getvalue().splitlines()] == [{"a": "two\nlines"}, [1, None]]


def test_json_never_says_nan() -> None:
    out, _, _ = output(human=False)
    with pytest.raises(ValueError):
        out.record(float("nan"))


def test_pretty_is_indented_for_people_only() -> None:
    for human, lines in ((True, 3), (False, 1)):
        out, stdout, _ = output(human=human)
        out.pretty({"a": 1})
        assert len(stdout.getvalue().splitlines()) == lines


def test_notes_go_to_standard_error_after_what_was_written() -> None:
    out, stdout, stderr = output(human=False)
    out.record(1)
    out.note(f"note {HOSTILE}")
    assert stdout.getvalue() == b"1\n"
    assert is_safe(stderr.getvalue())


def test_styled_is_plain_where_no_colour_is_wanted() -> None:
    assert output(human=True)[0].styled("x", Style.RED) == "x"
    assert output(human=True, colour=True)[0].styled("x\x1b", Style.RED) == "\x1b[31mx\\u001b\x1b[0m"
    assert output(human=False, colour=True)[0].styled("x", Style.RED) == "x"


@pytest.mark.parametrize(
    ("environment", "terminal", "no_color", "colour"),
    [
        ({"TERM": "xterm"}, True, False, True),
        ({"TERM": "xterm"}, True, True, False),
        ({"TERM": "xterm"}, False, False, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, False, True),
        ({"TERM": "dumb"}, True, False, False),
    ],
)
def test_when_colour_is_used(
    environment: dict[str, str], terminal: bool, no_color: bool, colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wants_colour(terminal, no_color) is colour


def without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "rich":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.parametrize("with_rich", [True, False])
def test_tables_show_every_cell_and_nothing_hostile(with_rich: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if with_rich:
        pytest.importorskip("rich")
    else:
        without_rich(monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    out, stdout, _ = output(human=True)
    out.table(("name", "n"), [("[red]markup[/red]", 5), (HOSTILE, None)])
    shown = stdout.getvalue().decode()
    assert is_safe(shown)
    assert "name" in shown.lower()
    assert "[red]markup[/red]" in shown
    assert "5" in shown


def test_plain_columns_line_up(monkeypatch: pytest.MonkeyPatch) -> None:
    without_rich(monkeypatch)
    out, stdout, _ = output(human=True)
    out.table(("a", "bb"), [("long cell", 1), ("x", 22)])
    assert stdout.getvalue().decode() == "A          BB\nlong cell  1\nx          22\n"


def test_a_table_without_rows_is_its_heading(monkeypatch: pytest.MonkeyPatch) -> None:
    without_rich(monkeypatch)
    out, stdout, _ = output(human=True)
    out.table(("a", "bb"), [])
    assert stdout.getvalue().decode() == "A  BB\n"


def test_names_are_not_folded_where_others_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "60")
    out, stdout, _ = output(human=True)
    columns = ("component", "age", "endpoint", "purpose", "quota")
    row = ("supervisor", "3h 20m", "host-12345", "keeps the components running, all of them", "subscriptions 2/1024")
    out.table(columns, [row], spare=("age", "quota", "purpose"))
    shown = stdout.getvalue().decode()
    assert all(len(line) <= 60 for line in shown.splitlines())
    assert "supervisor   host-12345   keeps the" in shown
    assert "purpose" in shown  # there is room for it without the two that go first
    assert ("age" in shown.split(), "quota" in shown) == (False, False)


def test_what_fits_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "100")
    out, stdout, _ = output(human=True)
    out.table(("a", "b"), [("x" * 40, "y" * 40)], spare=("b", "a"))
    assert f"{'x' * 40}   {'y' * 40}" in stdout.getvalue().decode()


def test_a_table_that_fits_nowhere_loses_no_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "20")
    out, stdout, _ = output(human=True)
    out.table(("one", "two", "three"), [("a" * 12, "b" * 12, "c" * 12)])
    shown = stdout.getvalue().decode()
    assert [shown.count(letter * 2) > 0 for letter in "abc"] == [True, True, True]
    assert sum(shown.count(letter) for letter in "bc") >= 24
