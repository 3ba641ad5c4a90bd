"""The manual pages, read by the real groff, mandoc and man: complete, and without a word that these object to."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from buscli.exits import MEANINGS
from buscli.manpage import pages as bus_pages
from buscli.roff import Page, write_pages
from buscli.table import CONNECTION, FORM, NAMES, Command, load, members
from busd.commandline import EXAMPLES, STATUSES
from busd.components.runner.command import parser as component_parser
from busd.manpages import pages as node_pages
from busd.ops.keys import KEYS, Computed
from tests.clients.cli_support import Cli
from tests.ops.processes import busd
from tests.pages import blocks, page
from tests.support import ROOT, environment, needs

SOURCES = bus_pages() | node_pages()
NAMES_OF_PAGES = sorted(SOURCES)

OTHERS_READ_THEM = {"BUSD_REQUIRE_ALL", "BUSD_FUZZ_SECONDS", "BUSD_FUZZ_SEED", "BUSD_MODEL_EXAMPLES"}
OTHERS_READ_THEM |= {"BUSD_MODEL_STEPS", "BUSD_SOAK_SECONDS"}
"""Variables that the sources name and only tests read."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all pages, as man(1) wants it."""
    folder = tmp_path_factory.mktemp("man")
    write_pages(folder, SOURCES)
    return folder


def rendered(source: str, *, columns: int = 3000) -> str:
    """A page as groff shows it, without bold and underlining, a paragraph on one line."""
    needs("groff")
    command = ["groff", "-ww", "-man", "-Tutf8", "-P-cbou", f"-rLL={columns}n"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, encoding="utf-8", check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Every page as its reader sees it, white space folded."""
    return {name: re.sub(r"\s+", " ", rendered(source)) for name, source in SOURCES.items()}


def folded(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def path_of(folder: Path, name: str) -> Path:
    return folder / f"man{name[-1]}" / name


@pytest.mark.parametrize("name", NAMES_OF_PAGES)
def test_mandoc_groff_and_man_have_nothing_to_object_to(name: str, folder: Path) -> None:
    path = str(path_of(folder, name))
    for program in ("mandoc", "groff", "man"):
        needs(program)
    lint = subprocess.run(["mandoc", "-T", "lint", "-W", "style", path], capture_output=True, text=True)
    # A command line that is an example may be longer than 80 characters: it is to be copied as it is.
    assert [
        line for line in lint.stdout.splitlines() if "STYLE: input text line longer than 80 bytes" not in line
    ] == []
    for command in (["groff", "-ww", "-man", "-Tutf8", "-z", path], ["man", "--warnings=w", "-l", path]):
        done = subprocess.run(command, capture_output=True, text=True, env=environment(LC_ALL="C.UTF-8"))
        assert (done.returncode, done.stderr) == (0, "")


def test_man_finds_them_by_name(folder: Path) -> None:
    needs("man")
    for section, name in ((1, "bus"), (1, "bus-policy"), (1, "busd"), (5, "busd.toml")):
        done = subprocess.run(
            ["man", "-M", str(folder), str(section), name], capture_output=True, text=True, env=environment(LC_ALL="C")
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{name.upper()}({section})")


def commands() -> Iterator[tuple[str, Command]]:
    """Every command that can be run, with the name of its page."""
    for command in members():
        yield f"bus-{command.name.partition(' ')[0]}.1", command


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda value: getattr(value, "name", ""))
def test_all_of_a_command_is_on_its_page(name: str, command: Command, texts: dict[str, str]) -> None:
    text = texts[name]
    assert f"bus {command.name}" in text
    assert folded(command.description) in text
    assert f"{command.effect[1:]}." in text
    for argument in command.all_arguments():
        term = ", ".join(argument.spellings) if argument.is_option else argument.placeholder
        value = f" {argument.placeholder}" if argument.is_option and argument.takes_value else ""
        assert f" {term}{value} {folded(argument.explained)}" in text
    for example in command.examples:
        assert f"{example.says[1:]}: {folded(example.line)} " in text
    for code, meaning in command.exit_codes():
        assert f" {int(code)} {folded(meaning)} " in text
    assert f" bus {command.name} {command.help} " in texts["bus.1"]


def test_a_familys_own_words_are_on_its_page(texts: dict[str, str]) -> None:
    for command in map(load, NAMES):
        assert folded(command.description) in texts[f"bus-{command.name}.1"]
        assert f"bus-{command.name} - {command.help} SYNOPSIS" in texts[f"bus-{command.name}.1"]
        assert all(folded(example.line) in texts[f"bus-{command.name}.1"] for example in command.examples)
        assert f"bus-{command.name}(1)" in texts["bus.1"]


def test_what_all_commands_share_is_on_the_page_of_bus(texts: dict[str, str]) -> None:
    for argument in (*CONNECTION, *FORM):
        assert argument.name in texts["bus.1"]
        assert folded(argument.explained) in texts["bus.1"]
    assert all(f" {int(code)} {meaning} " in texts["bus.1"] for code, meaning in MEANINGS.items())


def variables(*rooms: str) -> set[str]:
    """The environment variables that the sources of some rooms look at or set."""
    sources = [path.read_text(encoding="utf-8") for room in rooms for path in (ROOT / room).rglob("*.py")]
    looked_up = r"(?:environ|env)(?:\.get\(|\[|\.pop\()\s*\"([A-Z_]+)\""
    found = {name for source in sources for name in re.findall(rf"{looked_up}|\"(BUSD?_[A-Z_]*[A-Z])\"", source)}
    found_names = {name for pair in found for name in pair if name}
    return {name for name in found_names if name not in OTHERS_READ_THEM}


def test_every_variable_is_on_a_page(texts: dict[str, str]) -> None:
    of_bus = variables("clients")
    of_node = variables("busd") | {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
    assert {"BUS_URL", "BUS_KEY", "NO_COLOR", "BUS_SUBJECT"} <= of_bus, "the search finds what there is"
    assert {"BUSD_CONFIG", "XDG_RUNTIME_DIR", "STATE_DIRECTORY"} <= of_node
    environment_of = {name: text.partition(" ENVIRONMENT ")[2] for name, text in texts.items()}
    assert {name for name in of_bus if not re.search(rf"\b{name}\b", environment_of["bus.1"])} == set()
    of_node -= {"BUS_COMPONENTS"}  # of programs that use components: bus(1)
    assert {name for name in of_node if not re.search(rf"\b{name}\b", environment_of["busd.1"])} == set()


def test_all_of_the_daemon_is_on_its_pages(texts: dict[str, str]) -> None:
    text = texts["busd.1"]
    for command in ("run", "check-config", "config show", "config explain", "config example", "component run", "man"):
        assert f" busd {command} " in text
    options = {word for said in (busd("--help").stdout, busd("run", "--help").stdout) for word in option_words(said)}
    options |= set(option_words(busd("config", "show", "--help").stdout))
    options |= set(option_words(component_parser()._actions[-1].choices["run"].format_help()))  # type: ignore[index]
    assert {"--origin", "--standby", "--limits-endpoints", "--version"} <= options
    assert {option for option in options - {"-h"} if f"{option} " not in text} == set()
    assert all(f" {status} {says}" in text for status, says in STATUSES)
    assert all(f": {line} " in text for line, _ in EXAMPLES)
    for key in KEYS.values():
        if isinstance(key.default, Computed) and isinstance(key.default.example, Path):
            assert f" {key.default.example} {key.name}: " in text


def option_words(text: str) -> list[str]:
    return re.findall(r"(?m)^ +(?:-h, )?(--?[a-z][a-z-]*)", text)


@pytest.mark.parametrize("name", KEYS)
def test_all_of_a_key_is_on_the_page_of_the_file(name: str, texts: dict[str, str]) -> None:
    key = KEYS[name]
    text = texts["busd.toml.5"]
    told = f" {key.field} {key.meaning} Takes {key.kind.takes}. Default: {key.default_text}. Why: {key.why} "
    assert f"{folded(told)}Variable {key.variable}, flag {key.flag}. " in text
    assert not key.section or f"[{key.section}] " in text


HOSTILE = (
    ".TH no 1",
    "'br",
    r"\fBnot bold\fR \*(lq \n(yr \X'ps: exec'",
    "a\\",
    "-x --long-option 'quoted' \"twice\" `back` ~ ^ | $HOME #! % {}",
    "grüße 時 🙂",
    ".",
    "..",
    "word .in the middle of .a line that is so long that it is wrapped, before one of .these words or after 'that one",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_is_taken_for_a_request(text: str) -> None:
    made = Page("x", 1, text, source=text)
    made.heading("PROSE")
    made.text(f"{text}\n\n{text}")
    made.items([("term", text)])
    made.heading("CODE")
    made.code(text)
    shown = rendered(made.source())
    prose, _, code = shown.partition("PROSE")[2].partition("CODE")
    assert prose.count(text) == 3
    assert f"    {text}\n" in code
    assert f"x - {text}\n" in shown
    lint = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning"], input=made.source(), capture_output=True, text=True
    )
    assert lint.stdout == ""


def test_the_date_can_be_given_so_that_a_build_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert bus_pages()["bus.1"].startswith('.TH "BUS" 1 1970-01-02 "busd ')


def test_bus_man_prints_a_page_and_writes_them_all(tmp_path: Path) -> None:
    bus = Cli("/nowhere.sock", SOURCE_DATE_EPOCH="0")
    printed = bus("man", "call").stdout.decode()
    assert printed.startswith('.TH "BUS\\-CALL" 1 1970-01-01 ')
    assert bus("man").stdout.startswith(b'.TH "BUS" 1 ')
    written = bus("man", "--dir", str(tmp_path / "share")).stdout.decode().split()
    assert {Path(name).name for name in written} == set(bus_pages())
    assert (tmp_path / "share" / "man1" / "bus-call.1").read_text() == printed


def test_busd_man_prints_a_page_and_writes_both(tmp_path: Path) -> None:
    assert busd("man").stdout.startswith('.TH "BUSD" 1 ')
    assert busd("man", "busd.toml").stdout.startswith('.TH "BUSD.TOML" 5 ')
    done = busd("man", "--dir", str(tmp_path))
    assert done.stdout.split() == [f"{tmp_path}/man1/busd.1", f"{tmp_path}/man5/busd.toml.5"]
    assert done.stderr == ""


def test_wrong_usage_is_refused_with_a_cure(tmp_path: Path) -> None:
    bus = Cli("/nowhere.sock")
    for words, says, cure in (
        (["man", "cal"], b"unknown command 'cal'", b"try: bus call"),
        (["man", "call", "--dir", str(tmp_path)], b"--dir writes every page", b"try: bus man --dir"),
    ):
        done = bus(*words)
        assert (done.returncode, done.stdout) == (2, b"")
        assert says in done.stderr
        assert cure in done.stderr
    (tmp_path / "file").touch()
    assert b"Not a directory" in bus("man", "--dir", str(tmp_path / "file")).stderr
    node = busd("man", "--dir", str(tmp_path / "file"))
    assert (node.returncode, node.stdout) == (1, "")
    assert "Not a directory" in node.stderr
    assert busd("man", "buds").returncode == 2


def test_on_a_terminal_the_page_is_shown_by_man() -> None:
    needs("man")
    code, shown = Cli("/nowhere.sock", PAGER="cat", MANPAGER="cat", GROFF_NO_SGR="1").on_terminal("man", "call")
    shown = re.sub(".\x08", "", shown)  # bold and underlined as on a typewriter
    assert code == 0
    assert "BUS-CALL(1)" in shown
    assert "--timeout" in shown
    assert ".TH" not in shown


def test_without_man_a_terminal_shows_the_source(tmp_path: Path) -> None:
    code, shown = Cli("/nowhere.sock", PATH=str(tmp_path)).on_terminal("man", "call")
    assert code == 0
    assert '.TH "BUS\\-CALL" 1' in shown
    assert os.listdir(tmp_path) == []


def test_what_the_readme_says_installs_them_for_a_user(tmp_path: Path) -> None:
    needs("man")
    text = page("clients/buscli/README.md").partition("## Manual pages and completion")[2]
    variables = environment(HOME=str(tmp_path), PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    subprocess.run(["bash", "-e", "-c", blocks(text, "sh")[0]], env=variables, cwd=tmp_path, check=True)
    share = tmp_path / ".local" / "share"
    shown = subprocess.run(
        ["man", "-w", "bus-call", "busd.toml"],
        env=variables | {"MANPATH": str(share / "man")},
        capture_output=True,
        text=True,
    )
    assert shown.stdout.split() == [f"{share}/man/man1/bus-call.1", f"{share}/man/man5/busd.toml.5"]
    load_it = f"source {share}/bash-completion/completions/bus; complete -p bus"
    loaded = subprocess.run(["bash", "--norc", "-c", load_it], env=variables, capture_output=True, text=True)
    assert loaded.stdout == "complete -F _bus bus\n"
