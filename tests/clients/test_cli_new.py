"""``bus component new``: what it writes works, and nothing that is there is touched."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from buscli.__main__ import main
from buscli.exits import Exit
from buscli.scaffold import FILES, class_of, objection, write_component
from busd.components.model import load
from busd.components.supervisor.settings import read_settings
from tests.clients.cli_support import SECONDS, Cli
from tests.support import ROOT, RunningNode, environment, wait_until

LINES = 60
"""Of a component that a newcomer reads."""


def new(capsysbinary: pytest.CaptureFixture[bytes], *words: str) -> tuple[int, str, str]:
    code = main(["component", "new", *words])
    out, err = capsysbinary.readouterr()
    return code, out.decode(), err.decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A component that was just made."""
    write_component("room_sensor", str(tmp_path), "platform")
    return tmp_path / "room_sensor"


def in_folder(folder: Path, *command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run ``command`` of this Python in the directory that holds ``folder``, as a user would."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder.parent,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


# -- what is written --------------------------------------------------------------------------------------------------


def test_its_tests_pass_at_once_in_both_forms(folder: Path) -> None:
    ended = in_folder(folder, "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "room_sensor")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    passed = re.search(r"^(\d+) passed", ended.stdout, re.M)
    assert passed is not None
    functions = len(re.findall(r"^(?:async )?def test_", (folder / "test_component.py").read_text(), re.M))
    assert int(passed[1]) >= 2 * functions - 1 >= 7, "every test of an operation runs twice"


def test_two_of_them_are_tested_together(folder: Path) -> None:
    write_component("door", str(folder.parent), "platform")
    ended = in_folder(folder, "pytest", "-q", "-p", "no:cacheprovider", "room_sensor", "door")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_mistake_in_the_component_is_found_by_its_tests(folder: Path) -> None:
    path = folder / "component.py"
    path.write_text(path.read_text().replace("self._step * times", "self._step"))
    ended = in_folder(folder, "pytest", "-q", "-p", "no:cacheprovider", "room_sensor")
    assert ended.returncode == 1, ended.stdout


def test_it_is_clean_for_the_type_checker_and_the_linter(folder: Path) -> None:
    for command in (
        ("ruff", "check", "--config", str(ROOT / "pyproject.toml"), "room_sensor"),
        ("ruff", "format", "--check", "--config", str(ROOT / "pyproject.toml"), "room_sensor"),
        ("mypy", "--strict", "--cache-dir", os.devnull, "-p", "room_sensor"),
    ):
        ended = in_folder(
            folder, *command, MYPYPATH=os.pathsep.join(str(ROOT / room) for room in ("schemas", "clients", ""))
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_it_is_short_and_has_one_of_everything(folder: Path) -> None:
    source = (folder / "component.py").read_text()
    assert len(source.splitlines()) < LINES
    tree = ast.parse(source)
    called = [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert [called.count(kind) for kind in ("Request", "Stream", "Event")] == [1, 1, 1]
    assert {"__init__", "hand_over", "take_over"} <= {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_the_node_reads_its_settings_and_finds_its_class(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_settings("room_sensor", folder)
    assert settings.source == "room_sensor.component:RoomSensor"
    assert settings.path == (str(folder.parent),)
    assert settings.config == {"step": 1}
    monkeypatch.syspath_prepend(folder.parent)
    manifest = load(settings.source).manifest
    assert (manifest.component, manifest.owner) == ("room_sensor", "platform")
    assert manifest.serves == ("room_sensor.add", "room_sensor.steps")
    assert manifest.publishes == ("room_sensor.counted",)


def test_a_directory_with_any_name_is_written_into_the_settings(tmp_path: Path) -> None:
    odd = tmp_path / 'a "b" \\c\t'
    odd.mkdir()
    write_component("door", str(odd), "platform")
    assert read_settings("door", odd / "door").path == (str(odd),)


def test_the_page_says_how_to_run_replace_and_move_it(folder: Path) -> None:
    page = (folder / "README.md").read_text()
    for line in (
        "python -m pytest room_sensor",
        "busd component run room_sensor.component:RoomSensor --config room_sensor/room_sensor.toml",
        "bus component replace room_sensor",
        "bus component move room_sensor --to soc",
    ):
        assert line in page
    assert not [path for path in folder.iterdir() if "{{" in path.read_text() or "}}" in path.read_text()]


def test_every_template_is_written_and_is_in_the_package() -> None:
    templates = files("buscli") / "templates" / "component"
    assert {path.name for path in templates.iterdir()} == {f"{file}.template" for file in FILES}


def test_it_runs_on_a_node_as_its_page_says(folder: Path, shared_node: RunningNode) -> None:
    bus = Cli(shared_node.url)
    source = "room_sensor.component:RoomSensor"
    command = [sys.executable, "-m", "busd", "component", "run", source, "--config", "room_sensor/room_sensor.toml"]
    with subprocess.Popen(
        command, cwd=folder.parent, env=environment(BUS_URL=shared_node.url), stdin=subprocess.DEVNULL
    ) as process:
        try:
            wait_until(lambda: bus.is_known("room_sensor.add", call=True) or process.poll() is not None)
            assert bus.records("call", "room_sensor.add", '{"times": 3}') == [{"total": 3}]
            refused = bus("call", "room_sensor.add", '{"times": 0}')
            assert b"BUS-2008" in refused.stderr
            (found,) = bus.records("map", "--seconds", "10ms", "--component", "room_sensor")
            (sensor,) = [row for row in found["endpoints"] if row["component"] == "room_sensor"]
            assert sensor["purpose"] == "counts, as an example of a component"
        finally:
            process.terminate()
            assert process.wait(SECONDS) == 0


# -- the command ------------------------------------------------------------------------------------------------------


def test_what_was_made_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = new(capsysbinary, "door")
    assert code == Exit.OK
    found = json.loads(out)
    assert found["component"] == "door"
    assert found["class"] == "door.component:Door"
    assert sorted(found["files"]) == sorted(str(path) for path in (tmp_path / "door").iterdir())
    assert {Path(path).name for path in found["files"]} == {
        "__init__.py",
        "component.py",
        "test_component.py",
        "door.toml",
        "README.md",
    }


@pytest.mark.parametrize(
    ("name", "reason", "cure"),
    [
        ("Door", "may hold only a-z, 0-9, - and _", "bus component new door"),
        ("a.b", "may hold only a-z, 0-9, - and _", "bus component new thermometer"),
        ("../door", "may hold only a-z, 0-9, - and _", "bus component new thermometer"),
        ("/tmp/door", "may hold only", "bus component new thermometer"),
        ("", "must have 1 to 64 characters", "bus component new thermometer"),
        ("x" * 65, "must have 1 to 64 characters", "bus component new thermometer"),
        ("tür", "may hold only a-z, 0-9, - and _", "bus component new thermometer"),
        ("room-sensor", "a Python package too, whose name may not hold '-'", "bus component new room_sensor"),
        ("7up", "whose name begins with a letter", "bus component new thermometer"),
        ("_door", "whose name begins with a letter", "bus component new door"),
        ("class", "that is a word of the language", "bus component new thermometer"),
        ("json", "Python's own library has a module of that name", "bus component new thermometer"),
        ("busd", "a package of that name is needed to run it", "bus component new thermometer"),
        ("pytest", "a package of that name is needed to run it", "bus component new thermometer"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_and_said_why(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], name: str, reason: str, cure: str
) -> None:
    code, out, err = new(capsysbinary, name, "--in", str(tmp_path))
    assert (code, out) == (Exit.USAGE, "")
    assert reason in err
    assert err.endswith(f"  try: {cure}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_looks_like_an_option_is_refused_too(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert new(capsysbinary, "--door")[0] == Exit.USAGE
    assert objection("-door") is not None


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "link"])
def test_what_is_there_is_never_overwritten(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], kind: str
) -> None:
    target = tmp_path / "door"
    if kind == "file":
        target.write_text("mine")
    elif kind == "link":
        target.symlink_to(tmp_path / "nowhere")
    else:
        target.mkdir()
        if kind == "folder":
            (target / "component.py").write_text("mine")
    before = sorted((path, path.is_file() and path.read_text()) for path in tmp_path.rglob("*"))
    code, out, err = new(capsysbinary, "door", "--in", str(tmp_path))
    assert (code, out) == (Exit.FAILED, "")
    assert f"bus component new: {target} is there already; nothing is overwritten\n  try: " in err
    assert sorted((path, path.is_file() and path.read_text()) for path in tmp_path.rglob("*")) == before


def test_a_directory_that_is_not_there_is_named(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    code, _, err = new(capsysbinary, "door", "--in", str(tmp_path / "absent"))
    assert code == Exit.USAGE
    assert err == f"bus: {tmp_path / 'absent' / 'door'}: No such file or directory\n"


def test_nothing_is_left_of_what_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.write_text

    def fails(self: Path, *args: Any, **kwargs: Any) -> int:
        if self.name == "README.md":
            raise OSError(28, "No space left on device", str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(OSError, match="No space"):
        write_component("door", str(tmp_path), "platform")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("door", "Door"),
        ("room_sensor", "RoomSensor"),
        ("a2", "A2"),
        ("a__b_", "AB"),
        ("component", "ComponentComponent"),
        ("total", "TotalComponent"),
        ("none", "NoneComponent"),
    ],
)
def test_class_of(name: str, expected: str) -> None:
    assert class_of(name) == expected
