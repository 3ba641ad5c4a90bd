"""Shell completion: the walk over what was typed, and the scripts in real shells."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from buscli.completion import FILE, complete
from buscli.table import NAMES
from tests.clients.cli_support import SECONDS, Cli, script
from tests.support import RunningNode, environment


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
    assert offers("check", "--format", "=", "n") == ["nagios"], "as bash splits it"
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


def in_shell(shell: str, program: str, directory: Path, url: str) -> str:
    if shutil.which(shell) is None:
        if os.environ.get("BUSD_REQUIRE_ALL") and shell == "bash":
            pytest.fail(f"{shell} is not installed")
        pytest.skip(f"{shell} is not installed")
    script(directory)
    path = f"{directory}{os.pathsep}{os.environ['PATH']}"
    variables = environment(PATH=path, BUS_URL=url, HOME=str(directory), XDG_CONFIG_HOME=str(directory))
    flags = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    ended = subprocess.run(
        [shell, *flags, "-c", program], capture_output=True, text=True, timeout=SECONDS, env=variables, cwd=directory
    )
    assert ended.stderr == ""
    return ended.stdout


BASH = """
source <(bus completion bash)
try() {
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
    $(complete -p bus | sed 's/.*-F \\([^ ]*\\).*/\\1/') bus "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
    echo "${COMPREPLY[*]}"
}
compopt() { :; }
touch 'a file' another
try bus pi
try bus check --format ''
try bus check --format = na
try bus call completion.
try bus pub x --file a
"""


def test_bash(served: Cli, shared_node: RunningNode, tmp_path: Path) -> None:
    shown = in_shell("bash", BASH, tmp_path, shared_node.url).splitlines()
    assert shown[0] == "ping"
    assert shown[1] == "text json nagios prometheus"
    assert shown[2] == "nagios"
    assert shown[3] == "completion.disk completion.echo"
    assert sorted(shown[4].replace("a file", "a-file").split()) == ["a-file", "another"]


ZSH = r"""
autoload -Uz compinit && compinit -u -d "$HOME/dump"
source <(bus completion zsh)
print -r -- ${_comps[bus]}
_describe() { shift; print -rl -- "${(@P)1}"; }
_files() { print files; }
words=(bus check --format n) CURRENT=4; _bus
words=(bus call completion.e) CURRENT=3; _bus
words=(bus pub x --file '') CURRENT=5; _bus
words=(bus pi) CURRENT=2; _bus
places() { print -r -- $'guest:vm-1\tcache: it stands by'; print -r -- guest:vm-2; }
words=(places '') CURRENT=2; _bus
"""


def test_zsh(served: Cli, shared_node: RunningNode, tmp_path: Path) -> None:
    shown = in_shell("zsh", ZSH, tmp_path, shared_node.url).splitlines()
    assert shown[:5] == ["_bus", "nagios", "completion.echo", "files", "ping:measure round trips to the broker"]
    assert shown[5:] == [r"guest\:vm-1:cache: it stands by", r"guest\:vm-2"], "a colon ends the word unless escaped"


FISH = """
bus completion fish | source
complete --do-complete 'bus check --format n'
complete --do-complete 'bus call completion.e'
complete --do-complete 'bus pi'
"""


def test_fish(served: Cli, shared_node: RunningNode, tmp_path: Path) -> None:
    shown = in_shell("fish", FISH, tmp_path, shared_node.url).splitlines()
    assert shown == ["nagios", "completion.echo", "ping\tmeasure round trips to the broker"]
