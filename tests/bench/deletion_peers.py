"""Who removes a tree in this benchmark: busd, and the commands that people use."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]

TREE: Final = "tree"
"""What the tree is called in the directory that is measured in."""

PEERS: Final = ("busd", "rm", "find", "rsync", "rmtree")

LONGEST_SECONDS: Final = 1800.0
"""For one removal; what takes longer hangs."""

_RMTREE: Final = "import shutil, sys; shutil.rmtree(sys.argv[1])"


class NotMeasured(Exception):  # noqa: N818 - what it says is why
    """A figure did not come about."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One removal. ``seconds`` are the command's wall time; busd's from when it is ready, and ``startup`` beside."""

    seconds: float
    startup: float = 0.0
    grown: int = 0
    files: int = 0
    done: bool = True
    why: dict[str, int] | None = None


def missing(peer: str) -> str | None:
    """Why ``peer`` cannot be measured here; None if it can."""
    command = {"rm": "rm", "find": "find", "rsync": "rsync"}.get(peer)
    return None if command is None or shutil.which(command) else f"{command} is not installed"


def environment() -> dict[str, str]:
    """So that a child finds busd whether or not it is installed."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "schemas", ROOT / "clients")))}


def remove(
    peer: str, where: Path, *, workers: int = 2, adaptive: bool = False, seconds: float | None = None
) -> Outcome:
    """Have ``peer`` remove the tree in ``where``, in a process of its own; after ``seconds``, if any, it is ended.

    Raises NotMeasured when it fails, or leaves something without having been ended.
    """
    if peer == "busd":
        found = _busd(where, workers=workers, adaptive=adaptive, seconds=seconds)
    else:
        found = _command(peer, where / TREE, seconds)
    if found.done and (where / TREE).exists():
        raise NotMeasured(f"{peer} left {where / TREE}")
    return found


def clear(where: Path) -> None:
    """Remove what is left in ``where``, tombstones too."""
    subprocess.run(["rm", "-rf", "--", *map(str, where.iterdir())], check=True)


def _busd(where: Path, *, workers: int, adaptive: bool, seconds: float | None) -> Outcome:
    spec = {
        "root": str(where),
        "name": TREE,
        "workers": workers,
        "adaptive": adaptive,
        "seconds": seconds,
        "begun": time.monotonic(),
    }
    command = [sys.executable, "-m", "tests.bench.deletion_busd", json.dumps(spec)]
    run = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False
    )
    if run.returncode:
        raise NotMeasured(f"busd: {run.stderr.strip()}")
    said: dict[str, Any] = json.loads(run.stdout)
    return Outcome(said["seconds"], said["startup"], said["grown"], said["files"], said["done"], said["why"])


def _command(peer: str, tree: Path, seconds: float | None) -> Outcome:
    empty = tree.parent / "empty"
    commands = {
        "rm": ["rm", "-rf", "--", str(tree)],
        "find": ["find", str(tree), "-delete"],
        "rsync": ["rsync", "-a", "--delete", f"{empty}/", f"{tree}/"],
        "rmtree": [sys.executable, "-c", _RMTREE, str(tree)],
    }
    if peer == "rsync":
        empty.mkdir()
    began = time.monotonic()
    with subprocess.Popen(commands[peer], stderr=subprocess.PIPE, text=True) as process:
        try:
            _, said = process.communicate(timeout=LONGEST_SECONDS if seconds is None else seconds)
            took, done = time.monotonic() - began, True
        except subprocess.TimeoutExpired:
            took, done = time.monotonic() - began, False
            process.send_signal(signal.SIGKILL)
            _, said = process.communicate()
    if done and process.returncode:
        raise NotMeasured(f"{peer}: {said.strip()}")
    if done and peer == "rsync":  # it empties directories, and leaves the one that it was given
        with suppress(OSError):
            tree.rmdir()
        empty.rmdir()
    return Outcome(took, done=done)
