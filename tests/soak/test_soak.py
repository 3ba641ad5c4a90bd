"""The soak in its short form, and its judgement of figures that are made up."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.soak.actor import PROBLEMS, Tally
from tests.soak.samples import COUNTERS, MIB, Footprint, Sample, fifths, slope_per_hour, table
from tests.soak.soak import ACTORS
from tests.soak.verdict import LATE, Quiet, differs, grown, late, nameless, types_grown
from tests.support import ROOT

SECONDS = 25
SHORT_FLOODS = ("publish", "calls-nobody", "denied")
"""Of so short a soak: others fill buffers to their quotas, which shows as growth until all have had their turn."""


@pytest.mark.alone
@pytest.mark.timeout(240)
def test_a_node_that_is_kept_busy_ends_as_it_began(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    command = [sys.executable, str(ROOT / "tests/soak/soak.py"), "--seconds", str(SECONDS), "--interval", "0.5"]
    command += [word for name in SHORT_FLOODS for word in ("--flood", name)]
    ended = subprocess.run([*command, "--json", str(told)], capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    document = json.loads(told.read_text())
    assert document["problems"] == []
    assert document["done"].keys() == ACTORS.keys()
    assert all(sum(done.values()) for done in document["done"].values()), document["done"]
    assert document["done"]["caller"]["replies"] > 100
    assert len(document["samples"]) > 10


# -- its judgement ----------------------------------------------------------------------------------------------------


def series(*mib: float, name: str = "node", descriptors: int = 60) -> list[Sample]:
    """A sample each minute in which process ``name`` has these MiB."""
    made = []
    for minute, size in enumerate(mib):
        footprint = Footprint(int(size * MIB), descriptors, 5)
        made.append(Sample(60.0 * minute, {name: footprint}, 7, dict.fromkeys(COUNTERS, 0.0)))
    return made


@pytest.mark.parametrize(("name", "by"), [("node", 80.0), ("cache", 10.0)])
def test_memory_that_grows_is_named(name: str, by: float) -> None:
    (found,) = grown(series(*(50 + by * minute / 24 for minute in range(30)), name=name))
    assert found.startswith(f"memory: {name} grew from ")
    assert "MiB an hour" in found


def test_memory_that_is_flat_or_has_peaks_is_not() -> None:
    assert grown(series(*[50.0, 50.5] * 15)) == []
    assert grown(series(*[50.0] * 25, *[500.0] * 4, 50.0)) == [], "a flood at the end"


def test_figures_are_medians_and_slopes_those_of_a_line() -> None:
    points = [(60.0 * minute, 10.0 + minute) for minute in range(20)]
    assert fifths(points) == (11.5, 19.5, 27.5)
    assert slope_per_hour(points) == pytest.approx(60.0)
    assert slope_per_hour(points[:1]) == 0.0


def quiet(tasks: int = 7, endpoints: int = 9, **processes: Footprint) -> Quiet:
    return Quiet({"endpoints": endpoints}, processes, tasks)


WAS = quiet(node=Footprint(50 * MIB, 60, 9))


@pytest.mark.parametrize(
    ("after", "names"),
    [
        (quiet(node=Footprint(50 * MIB, 61, 9)), "descriptors: node had 60, and has 61"),
        (quiet(node=Footprint(50 * MIB, 60, 10)), "threads: node had 9, and has 10"),
        (quiet(8, node=Footprint(50 * MIB, 60, 9)), "tasks: the node had 7, and has 8"),
        (quiet(endpoints=10, node=Footprint(50 * MIB, 60, 9)), "standing: "),
        (quiet(), "processes: node has gone"),
        (replace(WAS, in_use=13 * MIB), "memory: the node had 0.0 MiB in use, and has 13.0"),
        (replace(WAS, blocks=30_000), "memory: the node had 0 blocks, and has 30,000"),
        (replace(WAS, malloc=5 * MIB), "memory: the node had 0.0 MiB from malloc, and has 5.0"),
    ],
)
def test_what_was_not_given_back_is_named(after: Quiet, names: str) -> None:
    (found,) = differs(WAS, after)
    assert found.startswith(names)
    assert differs(WAS, WAS) == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ({"level": "error", "event": "component-failed", "component": "cache"}, False),
        ({"level": "error", "event": "policy-error", "where": "10-a.policy:3", "reason": "..."}, False),
        ({"level": "warning", "event": "connection-failed"}, False),
        ({"level": "info", "event": "component-output", "component": "cache", "line": "a word"}, False),
        ({"level": "error", "event": "message", "text": "Exception in callback"}, True),
        ({"level": "error", "event": "internal-error", "unit": "vm-1"}, True),
        ({"level": "info", "event": "component-output", "component": "cache", "line": "Traceback (most"}, True),
        ({"level": "error", "event": "not-json", "text": "Fatal Python error"}, True),
    ],
)
def test_error_lines_name_a_culprit(line: dict[str, Any], wrong: bool) -> None:
    assert bool(nameless([line])) is wrong


def test_one_that_is_kept_waiting_often_is_named() -> None:
    assert late("visitor", {"left": 100, LATE: 8}) == []
    (found,) = late("visitor", {"left": 100, LATE: 9})
    assert found.startswith("visitor: it was kept waiting 9 times")


def test_what_became_more_is_told() -> None:
    assert types_grown({"Session": 10, "dict": 500}, {"Session": 1010, "dict": 510}) == ["Session +1,000"]


def test_problems_are_told_in_full_up_to_a_number() -> None:
    tally = Tally()
    for number in range(PROBLEMS + 5):
        tally.problem(str(number))
    assert (len(tally.problems), tally.done["problems"]) == (PROBLEMS, PROBLEMS + 5)


def test_the_table_has_every_figure() -> None:
    shown = table(series(*[50.0] * 10))
    assert "node RSS, MiB" in shown
    assert "busd_endpoints" in shown
