"""Shell completion: the walk over what was typed, and the scripts in real shells."""

import os
import pty
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select

import pytest

from buscli.completion import complete
from buscli.shells import FILE
from buscli.table import NAMES
from tests.clients.cli_support import SECONDS, Cli, script
from tests.support import RunningNode, environment, needs


def offers(*words: str) -> list[str]:
    return [offer.word for offer in complete(list(words))]


def test_commands_come_first() -> None:
    assert offers("") == list(NAMES)
    assert offers() == list(NAMES)
    assert offers("p") == ["pub", "ping", "policy"]
    assert offers("--json", "in") == ["inspect"]
    assert offers("--bus", "/x.sock", "sta") == ["stats"]
    assert offers("--bus=/x.sock", "sta") == ["stats"]


def test_every_offer_of_a_command_says_what_it_is() -> None:
    assert all(offer.says for offer in complete([""]))
    assert all(offer.says for offer in complete(["call", "-"]))


def test_options_of_the_command() -> None:
    assert offers("sub", "x", "--la") == ["--latest"]
    assert "--warn" in offers("check", "--")
    assert "--help" in offers("check", "--")
    assert "--latest" not in offers("check", "--")
    assert offers("--h") == ["--help"]


def test_values_of_options() -> None:
    assert offers("check", "--format", "") == ["text", "json", "nagios", "prometheus"]
    assert offers("check", "--format", "n") == ["nagios"]
    assert offers("check", "--format=n") == ["--format=nagios"]
    assert offers("pub", "x", "--file", "") == [FILE]
    assert offers("pub", "x", "-f", "") == [FILE]
    assert offers("--bus", "") == [FILE]
    assert offers("pub", "x", "--count", "") == []


def test_words_by_their_place() -> None:
    assert offers("completion", "z") == ["zsh"]
    assert offers("completion", "zsh", "") == []
    assert offers("help", "ser") == ["serve"]
    assert offers("errors", "no-") == ["no-responders"]
    assert offers("bench", "pub") == ["pubsub"]
    assert offers("bench", "--count", "5", "pub") == ["pubsub"], "the value of an option is no word"
    assert offers("nonsense", "") == []


def test_a_bus_that_is_not_there_offers_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BUS_URL", str(tmp_path / "no.sock"))
    assert offers("inspect", "") == []
    assert offers("call", "") == []
    monkeypatch.setenv("BUS_URL", "nonsense://")
    assert offers("call", "") == []


@pytest.fixture(scope="module")
def served(shared_node: RunningNode) -> Iterator[Cli]:
    """A node on which somebody serves completion.echo and completion.disk."""
    bus = Cli(shared_node.url)
    with (
        bus.serving("completion.echo", "--echo", subject="completion.echo"),
        bus.serving("completion.disk", "--echo", subject="completion.disk"),
        bus.serving("hostile.>", "--echo", subject="hostile.x"),
    ):
        yield bus


def test_names_on_the_bus(served: Cli, shared_node: RunningNode) -> None:
    bus = ("--bus", shared_node.url)
    assert offers("call", *bus, "completion.") == ["completion.disk", "completion.echo"]
    assert offers(*bus, "call", "completion.e") == ["completion.echo"]
    endpoints = offers("inspect", *bus, "")
    assert len(endpoints) >= 3
    assert all(name.startswith("host-") for name in endpoints)


def test_nothing_that_a_shell_would_act_on_is_offered(served: Cli, shared_node: RunningNode) -> None:
    assert "hostile.>" not in offers("call", "--bus", shared_node.url, "")


def test_guests_and_keys_by_name(shared_node: RunningNode, tmp_path: Path) -> None:
    bus = Cli(shared_node.url)
    place = tmp_path.resolve()
    bus.records("guest", "add", "vm-42", "--tenant", "acme", "--socket", str(place / "v.sock"))
    bus.records("keys", "new", "dpu0", "--out", str(place))
    bus.records("keys", "enroll", "dpu0", str(place / "dpu0.pub"))
    try:
        for verb in ("inspect", "remove"):
            assert offers("guest", verb, "--bus", shared_node.url, "v") == ["vm-42"]
        assert offers("keys", "revoke", "--bus", shared_node.url, "") == ["dpu0"]
        assert offers("guest", "add", "--bus", shared_node.url, "") == [], "a new name is nobody's yet"
    finally:
        bus.records("guest", "remove", "vm-42")
        bus.records("keys", "revoke", "dpu0")


def test_completion_does_not_offer_itself(served: Cli, shared_node: RunningNode) -> None:
    first, second = (offers("inspect", "--bus", shared_node.url, "") for _ in range(2))
    assert first == second, "its own endpoint has another name each time"


def surroundings(shell: str, directory: Path, url: str) -> dict[str, str]:
    """The environment of a shell in which there is a ``bus``."""
    needs(shell)
    script(directory)
    path = f"{directory}{os.pathsep}{os.environ['PATH']}"
    return environment(
        PATH=path, BUS_URL=url, HOME=str(directory), XDG_CONFIG_HOME=str(directory), INPUTRC="/dev/null", TERM="dumb"
    )


class Prompt:
    """An interactive shell on a terminal, at which somebody types."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._seen = b""

    def type(self, text: str, shows: str) -> None:
        """Type ``text``, until the terminal shows ``shows``, as a whole line so far; then wipe the line."""
        self._seen = b""
        os.write(self._leader, text.encode())
        end = time.monotonic() + SECONDS
        while not self._line().endswith(shows):
            assert time.monotonic() < end, f"{text!r} shows {self._line()!r} and not {shows!r}"
            if select([self._leader], [], [], 0.1)[0]:
                self._seen += os.read(self._leader, 65536)
        os.write(self._leader, b"\x15")

    def _line(self) -> str:
        """What was shown last, without what moves the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\x07\r]", "", self._seen.decode(errors="replace"))


@contextmanager
def prompt(shell: str, flags: list[str], setup: str, directory: Path, url: str) -> Iterator[Prompt]:
    """``shell`` on a terminal after ``setup``."""
    variables = {**surroundings(shell, directory, url), "COLUMNS": "200", "PS1": "$ "}
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [shell, *flags],
        env=variables,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=directory,
        start_new_session=True,
    ) as process:
        os.close(follower)
        try:
            typed = Prompt(leader)
            typed.type(f"{setup}; echo re''ady\r", "ready\n$ ")
            yield typed
        finally:
            process.kill()
            os.close(leader)


LINES = (
    ("bus pi\t", "bus ping "),
    ("bus policy ex\t", "bus policy explain "),
    ("bus sub --la\t", "bus sub --latest "),
    ("bus check --format n\t", "bus check --format nagios "),
    ("bus check --format=n\t", "bus check --format=nagios "),
    ("bus --json call completion.e\t", "bus --json call completion.echo "),
    ("bus pub x --file ano\t", "bus pub x --file another "),
    ("bus pub x --file=ano\t", "bus pub x --file=another "),
    ("bus list --bus unix://ROOM/oth\t", "bus list --bus unix://ROOM/other.sock "),
    ("bus component move x --to gue\t", "bus component move x --to guest:vm-"),
    ("bus component move x --to guest:vm-1\t", "bus component move x --to guest:vm-12 "),
)
"""What is typed, and what stands there then."""

PLACES = r"""
case $* in
    *--to*) printf 'guest:vm-12\tstands by\nguest:vm-22\n' | grep "^${!#}" ;;
    *) exec "$(dirname "$0")/real" "$@" ;;
esac
"""
"""A bus on which two components stand by: as many as it takes for a name with a colon that is not clear yet."""


def at_prompts(program: str) -> pytest.MarkDecorator:
    """Both shells that have prompts here, with what is typed so that they complete ``program``."""
    modules = "PS1='$ '; unset zle_bracketed_paste; unsetopt prompt_sp; autoload -Uz compinit; compinit -u; "
    shells = [
        ("bash", ["--norc", "--noprofile", "-i"], f"source <({program} completion bash)"),
        ("zsh", ["-f", "-i"], f"{modules}source <({program} completion zsh)"),
    ]
    return pytest.mark.parametrize(("shell", "flags", "setup"), shells, ids=["bash", "zsh"])


@at_prompts("bus")
def test_at_a_real_prompt(
    shell: str, flags: list[str], setup: str, served: Cli, shared_node: RunningNode, tmp_path: Path
) -> None:
    room = tmp_path.resolve()
    for name in ("another", "other.sock"):
        (room / name).touch()
    with prompt(shell, flags, setup, room, shared_node.url) as typed:
        script(room, "real")
        (room / "bus").write_text(f"#!/bin/bash\n{PLACES}")
        for text, shows in LINES:
            typed.type(text.replace("ROOM", str(room)), shows.replace("ROOM", str(room)))


def test_nothing_to_offer_leaves_the_line_alone(shared_node: RunningNode, tmp_path: Path) -> None:
    with prompt(
        "bash", ["--norc", "--noprofile", "-i"], "source <(bus completion bash)", tmp_path, "/no.sock"
    ) as typed:
        typed.type("bus inspect nobody\t\t.", "bus inspect nobody.")


ZSH = r"""
autoload -Uz compinit && compinit -u -d "$HOME/dump"
source <(bus completion zsh)
print -r -- ${_comps[bus]}
_describe() { shift; print -rl -- "${(@P)1}"; }
words=(bus pi) CURRENT=2; _bus
places() { print -r -- $'guest:vm-1\tcache: it stands by'; print -r -- guest:vm-2; }
words=(places '') CURRENT=2; _bus
"""


def in_shell(shell: str, program: str, directory: Path, url: str) -> str:
    """What ``program`` prints in ``shell``."""
    variables = surroundings(shell, directory, url)
    flags = {"zsh": ["-f"], "fish": ["--no-config"]}[shell]
    ended = subprocess.run(
        [shell, *flags, "-c", program], capture_output=True, text=True, timeout=SECONDS, env=variables, cwd=directory
    )
    assert ended.stderr == ""
    return ended.stdout


def test_zsh_shows_what_each_offer_is(shared_node: RunningNode, tmp_path: Path) -> None:
    shown = in_shell("zsh", ZSH, tmp_path, shared_node.url).splitlines()
    assert shown[:2] == ["_bus", "ping:measure round trips to the broker"]
    assert shown[2:] == [r"guest\:vm-1:cache: it stands by", r"guest\:vm-2"], "a colon ends the word unless escaped"


FISH = """
bus completion fish | source
touch another
complete --do-complete 'bus check --format n'
complete --do-complete 'bus check --format=n'
complete --do-complete 'bus call completion.e'
complete --do-complete 'bus pub x --file ano'
complete --do-complete 'bus pub x --file=ano'
complete --do-complete 'bus pi'
"""


def test_fish(served: Cli, shared_node: RunningNode, tmp_path: Path) -> None:
    shown = in_shell("fish", FISH, tmp_path, shared_node.url).splitlines()
    assert shown == [
        "nagios",
        "--format=nagios",
        "completion.echo",
        "another",
        "--file=another",
        "ping\tmeasure round trips to the broker",
    ]
