"""What the tests of the package share: the two archives, as a release makes them, and environments of nothing else."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

import pytest

from tests.support import ROOT, environment

__all__ = ["PACKAGES", "Installed", "build", "files_of", "install", "unpack"]

PACKAGES: Final = {
    "busproto": ROOT / "schemas" / "busproto",
    "busd": ROOT / "busd",
    "busclient": ROOT / "clients" / "busclient",
    "buscli": ROOT / "clients" / "buscli",
}
"""The packages that users import, and where they are in the checkout."""

_PIP: Final = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]


def build(tree: Path, folder: Path, target: str) -> Path:
    """Build ``wheel`` or ``sdist`` from ``tree`` into ``folder``. Returns the archive."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder), "-t", target]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, env=clean())
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return made


def clean(**variables: str) -> dict[str, str]:
    """An environment in which the checkout is not found."""
    kept = {name: value for name, value in environment().items() if name not in ("PYTHONPATH", "MYPYPATH")}
    return {**kept, **variables}


def files_of(package: Path) -> set[str]:
    """Every file of ``package`` that a wheel must hold, by its path in the package."""
    caches = ("__pycache__", ".mypy_cache")
    found = (path for path in package.rglob("*") if path.is_file() and not set(caches) & set(path.parts))
    return {path.relative_to(package).as_posix() for path in found}


def unpack(sdist: Path, folder: Path) -> Path:
    """Unpack ``sdist`` below ``folder``. Returns its one directory."""
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):  # since Python 3.11.4; later ones warn where none is named
            archive.extractall(folder, filter="data")
        else:
            archive.extractall(folder)
    (directory,) = folder.iterdir()
    return directory


class Installed:
    """A virtual environment that holds nothing but what was installed into it: no checkout, and not even pip."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.python = folder / "bin" / "python"

    def run(self, *command: str, cwd: Path | None = None, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run a program of the environment to its end, in a directory that is not the checkout."""
        program = str(self.folder / "bin" / command[0])
        return subprocess.run(
            [program, *command[1:]],
            capture_output=True,
            text=True,
            timeout=100,
            stdin=subprocess.DEVNULL,
            cwd=cwd or self.folder,
            env=clean(**variables),
        )

    def distributions(self) -> set[str]:
        """The names of what is installed."""
        listed = subprocess.run(
            [*_PIP, "--python", str(self.python), "list", "--format=freeze"],
            capture_output=True,
            text=True,
            check=True,
            env=clean(),
        )
        return {line.partition("==")[0].partition(" @ ")[0] for line in listed.stdout.splitlines()}


def install(folder: Path, *what: str) -> Installed:
    """Install ``what`` into a new environment; skip the test where no package index can be reached."""
    made = Installed(folder)
    command = [*_PIP, "--python", str(made.python), "install", "--quiet", "--retries", "1", *what]
    done = subprocess.run(command, capture_output=True, text=True, env=clean(), cwd=folder)
    if done.returncode == 0:
        return made
    text = f"pip cannot install {', '.join(what)}: {done.stderr[-2000:]}"
    unreachable = any(sign in done.stderr for sign in ("ConnectionError", "NewConnectionError", "Temporary failure"))
    if unreachable and os.environ.get("BUSD_REQUIRE_ALL") != "1":
        pytest.skip(text)
    pytest.fail(text)
