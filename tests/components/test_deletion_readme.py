"""What the page of the deletion component says is so."""

import asyncio
import inspect
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest

from buscli.parser import Line, parse
from buscli.table import load
from busd.components.deletion import audit
from busd.components.deletion.component import LIST_MAX, Deletion
from busd.components.deletion.progress import State
from busd.components.model import configure
from busd.components.runner.config import read_config
from busd.components.supervisor.settings import read_settings
from busd.core.policy import parse as policy_of
from busd.core.rules import PolicyFile
from tests.components.deletion_component_world import SECONDS, config, on_bus, tree
from tests.pages import blocks, page, rows

PAGE = page("busd/components/deletion/README.md")


def test_the_configuration_it_shows_is_taken(tmp_path: Path) -> None:
    (shown,) = blocks(PAGE, "toml")
    (tmp_path / "deletion.toml").write_text(shown)
    settings = read_settings("deletion", tmp_path)
    assert settings.config == read_config(tmp_path / "deletion.toml")
    configure(Deletion, settings.config)
    roots = tomllib.loads(shown)["config"]["roots"]
    assert [root["id"] for root in roots] == ["scratch", "builds"]
    defaults = {name: each.default for name, each in inspect.signature(Deletion).parameters.items()}
    for name in ("jobs_per_tenant", "workers", "backlog_jobs", "adaptive"):
        assert settings.config[name] == defaults[name], f"{name} is shown with its default"


def test_the_operations_and_fields_it_lists_are_there() -> None:
    assert {row[0].strip("`") for row in rows(PAGE, "subject")} == set(Deletion.manifest.serves)
    fields = [name for row in rows(PAGE, "field") for name in re.findall(r"`(\w+)`", row[0])]
    assert fields == list(inspect.signature(Deletion.submit).parameters)[1:]
    for subject, takes, _ in rows(PAGE, "subject"):
        name = subject.strip("`").removeprefix("deletion.")
        if name != "submit":
            parameters = list(inspect.signature(getattr(Deletion, name)).parameters)[1:]
            named = re.findall(r"`(\w+)`", takes)
            assert named == parameters, name
    assert f"1 to {LIST_MAX}, default 100" in PAGE


def test_the_states_and_numbers_it_lists_are_there() -> None:
    assert [row[0].strip("`") for row in rows(PAGE, "state")] == list(get_args(State))
    assert audit.KEEP == 4
    assert audit.FILE_BYTES == 8 << 20
    assert "four of 8 MiB" in PAGE
    assert Deletion.manifest.budget.memory_bytes == 256 << 20
    assert Deletion.manifest.placements == ("host",)


@pytest.mark.parametrize("attached", [False, True])
def test_the_program_it_shows_runs(attached: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(blocks(PAGE, "python")[0], names)
    settings = config(tmp_path)
    tree(tmp_path / "scratch" / "acme" / "old")

    async def main() -> None:
        async with asyncio.timeout(SECONDS):
            if not attached:
                await names["main"](config=settings)
                return
            async with on_bus(settings) as bus:
                await names["main"](bus=await bus.connect(component="program"))

    asyncio.run(main())
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "done Proof(gone=True, basis='descriptor', links=0) [] []"
    assert not (tmp_path / "scratch" / "acme" / "old").exists()


def test_the_library_it_shows_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree(tmp_path / "build")
    monkeypatch.chdir(tmp_path)
    exec(blocks(PAGE, "python")[1], {})
    assert capsys.readouterr().out == "5\n"
    assert list(tmp_path.iterdir()) == []


def test_the_commands_it_shows_are_there() -> None:
    lines = [line.partition("#")[0].strip() for line in blocks(PAGE, "sh")[0].splitlines()]
    lines += re.findall(r"`(bus [^`]+)`", PAGE)
    typed = [shlex.split(line)[1:] for line in lines if line != "bus delete"]
    assert len(typed) >= 6
    for words in typed:
        line = Line(words)
        parse(load(line.command), line)


def test_the_policy_it_shows_is_one() -> None:
    (shown,) = [block for block in blocks(PAGE) if block.startswith("export ")]
    policy = policy_of([PolicyFile("60-deletion.policy", shown)], self_uid=0, source="test")
    assert not policy.errors
