"""What a neighbour on the same disk notices while a tree goes: see deletion_probe."""

import json
import os
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.bench.deletion_peers import ROOT, TREE, NotMeasured, clear, environment, remove
from tests.bench.deletion_trees import make

BAR: Final = 0.3
TARGET: Final = 0.1
"""p99 of an fsync beside busd with its defaults, divided by the same beside `rm -rf`."""

PHASES: Final = ("quiet", "rm", "busd", "busd unthrottled")

SETTLE_SECONDS: Final = 1.0
"""After everything was written back, before a phase."""


class Probe:
    """The neighbour at work."""

    def __init__(self, file: Path) -> None:
        command = [sys.executable, "-m", "tests.bench.deletion_probe", str(file)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self._process.kill()
            raise NotMeasured("the neighbour did not begin")

    def end(self) -> list[tuple[float, float]]:
        """What it felt, in the order of time. Raises NotMeasured if it failed."""
        said, _ = self._process.communicate(timeout=60)
        if self._process.returncode:
            raise NotMeasured("the neighbour failed")
        return [(due, seconds) for due, seconds in json.loads(said)]

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def neighbour(file: Path) -> Iterator[Probe]:
    """A probe that is gone afterwards, with its file."""
    probe = Probe(file)
    try:
        yield probe
    finally:
        probe.kill()
        file.unlink(missing_ok=True)


def phase(name: str, where: Path, beside: Path, shape: str, files: int, size: int, seconds: float) -> dict[str, Any]:
    """One phase of at most ``seconds``: what the neighbour felt, and how fast files went. Raises NotMeasured."""
    if name != "quiet":
        make(where / TREE, shape, files, size)
    os.sync()
    time.sleep(SETTLE_SECONDS)
    with neighbour(beside) as probe:
        time.sleep(SETTLE_SECONDS)
        begin = time.monotonic()
        why: dict[str, int] | None = None
        startup, removed = 0.0, 0
        if name == "quiet":
            time.sleep(seconds)
        elif name == "rm":
            outcome = remove("rm", where, seconds=seconds)
            removed = files - (sum(len(found) for _, _, found in os.walk(where)) if not outcome.done else 0)
        else:
            outcome = remove("busd", where, adaptive=name == "busd", seconds=seconds)
            startup, removed, why = outcome.startup, outcome.files, outcome.why
        took = seconds if name == "quiet" else outcome.seconds
        samples = probe.end()
    clear(where)
    begin += startup
    chosen = sorted(felt for _, felt in _between(samples, begin, begin + took))
    if not chosen:
        raise NotMeasured(f"{name}: over before the neighbour felt anything; more --files")
    return {
        "p50": chosen[len(chosen) // 2],
        "p99": chosen[min(len(chosen) - 1, len(chosen) * 99 // 100)],
        "max": chosen[-1],
        "seconds": took,
        "rate": removed / took,
        "why": why,
    }


def _between(samples: list[tuple[float, float]], begin: float, end: float) -> list[tuple[float, float]]:
    return samples[bisect_left(samples, (begin,)) : bisect_left(samples, (end,))]


def neighbours(
    where: Path, beside: Path, *, shape: str, files: int, size: int, seconds: float, rounds: int
) -> dict[str, Any]:
    """All phases, ``rounds`` times, each round in another order; medians. Raises NotMeasured, OSError."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in PHASES}
    for number in range(rounds):
        turn = number % len(PHASES)
        for name in PHASES[turn:] + PHASES[:turn]:
            found[name].append(phase(name, where, beside, shape, files, size, seconds))
    medians = {
        name: {key: median(one[key] for one in each) for key in ("p50", "p99", "max", "seconds", "rate")}
        for name, each in found.items()
    }
    ratios = {name: medians[name]["p99"] / medians["rm"]["p99"] for name in PHASES}
    return {"rounds": found, "medians": medians, "ratios": ratios, "met": ratios["busd"] <= BAR}


def neighbours_table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """For people."""
    table: list[tuple[str, ...]] = [
        ("while", "p50 ms", "p99 ms", "max ms", "p99 / rm's", "bar (aim)", "files/s", "s", "")
    ]
    for name in PHASES:
        figures = result["medians"][name]
        ours = name == "busd"
        table.append(
            (
                name,
                *(f"{figures[key] * 1000:.2f}" for key in ("p50", "p99", "max")),
                f"{result['ratios'][name]:.2f}",
                f"<= {BAR:g} ({TARGET:g})" if ours else "",
                f"{figures['rate']:,.0f}" if figures["rate"] else "",
                f"{figures['seconds']:.1f}",
                "MISSED" if ours and not result["met"] else "",
            )
        )
    return table
