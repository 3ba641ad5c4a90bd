"""However much there is to remove, a walk takes a bounded amount of memory, and time in proportion."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.bench.deletion_trees import make

HOME = Path(__file__).parents[2]

ENTRIES = 300_000

LINKS = 1000
"""Names of one file: it is names that a walk could keep too many of."""

MIB = 1 << 20

MOST_GROWN = 16 * MIB
"""Of the resident set: half of the bar that 2,000,000 have to meet. Measured with 2,000,000: 2.8 MiB
flat, 0.1 in a tree."""

ADDRESS_SPACE = 64 * MIB
"""More than the process has when it begins: coreutils gives `rm` 35 for 200,000, and two threads have stacks of 8 each,
and arenas."""

BAR_TWICE = 2.6
"""Times as long for twice as many."""

WALK = """
import json, os, resource, sys, threading, time
from busd.components.deletion.gate import OpenGate
from busd.components.deletion.walk import Removal

def resident(which):
    for line in open("/proc/self/status"):
        if line.startswith(which + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit("no " + which)

path, space = sys.argv[1], int(sys.argv[2])
os.mkdir(path + ".hoist", 0o700)
directory, hoist = os.open(path, os.O_RDONLY), os.open(path + ".hoist", os.O_RDONLY)
if space:
    resource.setrlimit(resource.RLIMIT_AS, (resident("VmSize") + space,) * 2)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = resident("VmRSS")
began = time.perf_counter()
counts = Removal(directory, hoist=hoist, gate=OpenGate(), workers=2).run().snapshot()
seconds = time.perf_counter() - began
assert os.listdir(directory) == os.listdir(hoist) == [], "something is left"
os.rmdir(path)
os.rmdir(path + ".hoist")
print(json.dumps({
    "files": counts.files, "directories": counts.directories, "failed": counts.failed, "parked": counts.parked,
    "seconds": seconds, "grown": resident("VmHWM") - before,
}))
"""

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how large a process is"),
    pytest.mark.timeout(60),
    pytest.mark.alone,
]


def walk(path: Path, files: int, *, space: int = 0) -> dict[str, Any]:
    """Remove the ``files`` (or directories) below ``path`` in a process that may grow by ``space`` bytes; 0: by any."""
    environment = {**os.environ, "PYTHONPATH": f"{HOME}:{HOME / 'schemas'}:{HOME / 'clients'}"}
    command = [sys.executable, "-c", WALK, str(path), str(space)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert files in (found["files"], found["directories"])
    assert (found["failed"], found["parked"]) == ({}, {})
    return found


@pytest.mark.parametrize("shape", ["flat", "tree"])
def test_memory_does_not_grow_with_what_is_removed(shape: str, tmp_path: Path) -> None:
    make(tmp_path / "tree", shape, ENTRIES, links=LINKS)
    assert walk(tmp_path / "tree", ENTRIES)["grown"] <= MOST_GROWN


@pytest.mark.parametrize("shape", ["flat", "wide", "deep"])
def test_little_address_space_is_enough(shape: str, tmp_path: Path) -> None:
    entries = 5_000 if shape == "deep" else 100_000
    make(tmp_path / "tree", shape, entries, links=LINKS)
    walk(tmp_path / "tree", entries, space=ADDRESS_SPACE)


@pytest.mark.parametrize(("shape", "entries"), [("flat", 30_000), ("wide", 4_000), ("deep", 1_000)])
def test_twice_as_much_takes_about_twice_as_long(shape: str, entries: int, tmp_path: Path) -> None:
    """Medians of three, taken by turns; once more if others had the processor meanwhile."""
    ratio = 0.0
    for _ in range(2):
        seconds: dict[int, list[float]] = {entries: [], 2 * entries: []}
        for _ in range(3):
            for files, taken in seconds.items():
                make(tmp_path / "tree", shape, files, links=LINKS)
                taken.append(walk(tmp_path / "tree", files)["seconds"])
        ratio = median(seconds[2 * entries]) / median(seconds[entries])
        if ratio < BAR_TWICE:
            return
    pytest.fail(f"{ratio:.2f} times as long")
