"""The wheel and the source archive: what is in them, and what is not."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement

from busd import __version__
from tests.packaging.built import PACKAGES, build, clean, files_of, unpack
from tests.support import ROOT

INFO = f"busd-{__version__}.dist-info/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("built")


@pytest.fixture(scope="module")
def wheel(folder: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(build(ROOT, folder / "wheel", "wheel"))


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    """The source archive, unpacked."""
    return unpack(build(ROOT, folder / "sdist", "sdist"), folder / "source")


def test_the_wheel_holds_the_packages_whole_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    expected = {f"{package}/{name}" for package, path in PACKAGES.items() for name in files_of(path)}
    assert {name for name in names if not name.startswith(INFO)} == expected
    about = {name.removeprefix(INFO) for name in names - expected}
    assert about == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert not {name for name in names if name.startswith(("tests/", "deploy/"))}


def test_what_is_no_python_and_is_needed_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    for pattern in (
        r"busd/ops/console/static/index\.html",
        r"busd/ops/console/static/.*\.js",
        r"busd/ops/console/static/.*\.css",
        r"busd/ops/policy\.d/10-node\.policy",
        r"busd/ops/policy\.d/policy\.tests",
        r"buscli/templates/component/component\.py\.template",
    ):
        assert any(re.fullmatch(pattern, name) for name in names), pattern


def test_the_licence_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    assert wheel.read(f"{INFO}licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def test_metadata_is_valid_and_complete(wheel: zipfile.ZipFile) -> None:
    text = wheel.read(f"{INFO}METADATA")
    metadata = Metadata.from_email(text, validate=True)  # every rule of the core metadata specification
    assert (metadata.name, str(metadata.version)) == ("busd", __version__)
    assert (metadata.license_expression, metadata.license_files) == ("Apache-2.0", ["LICENSE"])
    assert str(metadata.requires_python) == ">=3.11"
    assert metadata.summary
    assert metadata.description_content_type == "text/markdown"
    assert message_from_string(text.decode()).get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    assert "Typing :: Typed" in (metadata.classifiers or [])
    assert metadata.provides_extra == ["cli", "node"]


def test_the_base_is_two_dependencies(wheel: zipfile.ZipFile) -> None:
    metadata = Metadata.from_email(wheel.read(f"{INFO}METADATA"), validate=True)
    base = {each.name for each in metadata.requires_dist or [] if holds(each, "")}
    assert base == {"msgpack", "pyzmq"}
    node = {each.name for each in metadata.requires_dist or [] if holds(each, "node")} - base
    assert {"uvloop", "cryptography", "prometheus-client", "aiohttp", "psutil", "msgspec"} == node
    assert {each.name for each in metadata.requires_dist or [] if holds(each, "cli")} - base == {"msgspec", "rich"}


def holds(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra, "sys_platform": "linux"})


def test_both_commands_are_there(wheel: zipfile.ZipFile) -> None:
    scripts = wheel.read(f"{INFO}entry_points.txt").decode()
    assert scripts.split("\n")[:3] == ["[console_scripts]", "bus = buscli.__main__:main", "busd = busd.__main__:main"]


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"].get("version") is None, "busd/__init__.py holds it: dynamic, and [tool.hatch.version]"
    assert project["tool"]["hatch"]["version"]["path"] == "busd/__init__.py"


def test_the_source_archive_is_enough_to_build_the_same_wheel(
    wheel: zipfile.ZipFile, source: Path, folder: Path
) -> None:
    again = zipfile.ZipFile(build(source, folder / "again", "wheel"))
    assert {info.filename: info.CRC for info in again.infolist()} == {
        info.filename: info.CRC for info in wheel.infolist()
    }


def test_the_source_archive_holds_all_that_the_repository_does(source: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout: what git would leave out is not known")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    kept = {name for name in listed if (ROOT / name).is_file() and not name.startswith((".ci/", ".git"))}
    assert kept <= files_of(source)
    assert files_of(source) - kept <= {"PKG-INFO", ".gitignore"}


@pytest.mark.slow
def test_the_source_archive_is_enough_to_test(source: Path) -> None:
    chosen = ["tests/test_layers.py", "tests/schemas/test_vectors.py", "tests/ops/test_command_line.py"]
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    rooms = os.pathsep.join(str(source / room) for room in ("schemas", "clients", ""))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *chosen],
        cwd=source,
        capture_output=True,
        text=True,
        env=clean(PYTHONPATH=rooms),
    )
    assert done.returncode == 0, done.stdout
