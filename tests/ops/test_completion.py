"""Completion of the daemon's command line. The shells themselves are those of ``bus``, whose scripts it has."""

from pathlib import Path

import pytest

from buscli.shells import FILE
from busd.commandline import COMMANDS
from busd.completion import complete
from busd.ops.keys import KEYS
from tests.clients.cli_support import script
from tests.clients.test_cli_completion import at_prompts, in_shell, prompt


def offers(*words: str) -> list[str]:
    return [offer.word for offer in complete(list(words))]


def test_commands_come_first_and_the_flags_of_run_are_there_without_it() -> None:
    assert offers("") == offers() == list(COMMANDS)
    assert offers("c") == ["check-config", "config", "component", "completion"]
    assert offers("--loop", "auto", "") == [], "a command comes first"
    assert {key.flag for key in KEYS.values()} <= set(offers("--")) == set(offers("run", "--")) | {"--version"}
    assert offers("--h") == ["--help", "--http-listen"]


def test_each_command_has_its_own_words() -> None:
    assert offers("config", "") == ["show", "explain", "example"]
    assert "--origin" in offers("config", "show", "--")
    assert "--origin" not in offers("check-config", "--")
    assert offers("config", "explain", "limits.c") == ["limits.connections_per_uid", "limits.calls_in_flight"]
    assert offers("config", "explain", "limits.calls_in_flight", "") == []
    assert offers("component", "") == ["run"]
    assert offers("component", "run", "") == ["cache", "deletion", "telemetry"]
    assert offers("component", "run", "telemetry", "--st") == ["--standby"]
    assert offers("man", "") == ["busd", "busd.toml"]
    assert offers("completion", "z") == ["zsh"]
    assert offers("nonsense", "") == []


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--loop", ""), ["auto", "uvloop", "asyncio"]),
        (("--loop=u",), ["--loop=uvloop"]),
        (("run", "--components", "t"), ["telemetry"]),
        (("--config", ""), [FILE]),
        (("--run-dir=",), [FILE]),
        (("component", "run", "x", "--config", ""), [FILE]),
        (("--limits-endpoints", ""), []),
    ],
)
def test_values_of_flags(words: tuple[str, ...], found: list[str]) -> None:
    assert offers(*words) == found


def test_what_is_offered_says_what_it_is() -> None:
    for words in ((), ("--",), ("config", "explain", "")):
        said = [offer.says for offer in complete([*words])]
        assert all(said)
        assert not any("(default" in each or "%%" in each or "\n" in each for each in said)


LINES = (
    ("busd che\t", "busd check-config "),
    ("busd --soc-l\t", "busd --soc-listen "),
    ("busd config explain soc.l\t", "busd config explain soc.listen "),
    ("busd --config ano\t", "busd --config another "),
    ("busd --loop=u\t", "busd --loop=uvloop "),
)
"""What is typed, and what stands there then."""


@at_prompts("busd")
def test_at_a_real_prompt(shell: str, flags: list[str], setup: str, tmp_path: Path) -> None:
    room = tmp_path.resolve()
    (room / "another").touch()
    script(room, "busd", "busd")
    with prompt(shell, flags, setup, room, "/no.sock") as typed:
        for text, shows in LINES:
            typed.type(text, shows)


def test_fish(tmp_path: Path) -> None:
    script(tmp_path.resolve(), "busd", "busd")
    program = "busd completion fish | source; complete --do-complete 'busd config explain soc.l'"
    (shown,) = in_shell("fish", program, tmp_path, "/no.sock").splitlines()
    assert shown.startswith("soc.listen\t")
