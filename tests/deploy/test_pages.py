"""The pages of deploy/: every command of busd's that they name is one, and every place that they point to is there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from buscli.parser import Line, UsageError
from buscli.parser import parse as parse_command
from buscli.table import NAMES, load
from busd.__main__ import _parse
from busd.ops.keys import KEYS
from busproto.errors import BusError, Code
from tests.support import ROOT

DEPLOY = ROOT / "deploy"
PAGES = [
    *(DEPLOY / "README.md", DEPLOY / "RUNBOOK.md", DEPLOY / "guests/README.md", DEPLOY / "dpu/README.md"),
    DEPLOY / "prometheus/RUNBOOKS.md",
]
SPANS = re.compile(r"`([^`\n]+)`")
REFERENCES = {"bus guest add", "bus keys enroll", "bus inspect", "bus disconnect", "bus policy explain"}
"""Commands that are named without what they take."""


def commands(page: Path) -> Iterator[str]:
    """Every line that is typed, and every command in running text."""
    text = page.read_text()
    for block in re.findall(r"(?s)```sh\n(.*?)```", text):
        yield from block.splitlines()
    yield from (span for span in SPANS.findall(re.sub(r"(?s)```.*?```", "", text)) if " " in span)


def words_of(line: str, program: str) -> Iterator[list[str]]:
    """The arguments of each call of ``program`` in a line, which may be behind others (|, &&, exec, setpriv)."""
    for part in re.split(r"\s(?:\||\|\||&&)\s", re.sub(r"\s[<>]\s*\S+", "", line)):
        words = shlex.split(part.replace("PODNAME", "busd-x").replace("NAME", "name"))
        words = [re.sub(r"\$\(id -u \S+\)", "1000", word) for word in words]
        at = [index for index, word in enumerate(words) if re.fullmatch(rf"(/opt/busd[\w.-]*/bin/)?{program}", word)]
        wrapped = words[:1] and re.fullmatch(r"setpriv|podman|kubectl|test", words[0])
        if at and (at[0] == 0 or wrapped):
            yield words[at[-1] + 1 :]


def parse(words: list[str]) -> None:
    """Raise UsageError unless ``bus WORDS`` would be run."""
    line = Line(words)
    if line.command not in NAMES:
        raise UsageError(f"no such command: {line.command}")
    parse_command(load(line.command), line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_every_command_of_bus_is_one(page: Path) -> None:
    seen = 0
    for line in commands(page):
        for words in words_of(line, "bus"):
            if f"bus {' '.join(words)}" in REFERENCES:
                continue
            try:
                parse(words)
            except UsageError as error:
                pytest.fail(f"{line}: {error}")
            seen += 1
    assert seen >= 5


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda page: page.stem)
def test_every_command_of_busd_is_one(page: Path) -> None:
    seen = 0
    for line in commands(page):
        for words in words_of(line, "busd"):
            if words and words[0] in ("run", "check-config", "config"):
                _parse(words)
                seen += 1
    assert seen >= 2


def test_a_command_that_is_none_is_found() -> None:
    for line in ("bus polcy lint", "/opt/busd-0.2.0/bin/bus guest list --tenent x", "podman exec busd bus chek"):
        (words,) = words_of(line, "bus")
        with pytest.raises(UsageError):
            parse(words)
    (words,) = words_of("busd check-config --limits-endpoint 5", "busd")
    with pytest.raises(BusError):
        _parse(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        if anchor:
            headings = re.findall(r"(?m)^#+ (.+)$", other.read_text())
            anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
            assert anchor in anchors, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_every_key_code_and_file_that_is_named_is_there(page: Path) -> None:
    text = page.read_text()
    sections = {key.partition(".")[0] for key in KEYS if "." in key} - {"node", "http", "log"}
    for key in re.findall(rf"`((?:{'|'.join(sections)})\.(?!conf|toml)\w+)`", text):
        assert key in KEYS, key
    codes = {int(code) for code in Code}
    for number in re.findall(r"(?<![\d.:/])([1-9]\d{3})(?=[,)\s|])", text):
        if int(number) not in (5670, 9850, 9851, 1024, 4711, 4712):
            assert int(number) in codes, number
    for path in re.findall(r"(?<![\w/])(deploy/[\w./@-]+\w)", text):
        assert (ROOT / path).exists(), path


def test_every_file_is_on_a_page() -> None:
    text = "".join(page.read_text() for page in [*PAGES, DEPLOY / "container/Containerfile"])
    for folder in ("systemd", "container", "kubernetes", "guests", "dpu"):
        for path in (DEPLOY / folder).rglob("*"):
            if path.is_file() and path.suffix != ".md" and path.name not in ("kustomization.yaml", "namespace.yaml"):
                assert path.name in text, path
