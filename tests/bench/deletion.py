"""Measure how fast busd removes trees, beside `rm -rf` and others, and what memory and neighbours pay for it.

Usage: ``tests/bench/deletion.py [--shape SHAPE]... [--peer PEER]... [--files N] [--rounds N] [--bytes N]
[--workers N] [--where DIR] [--memory] [--neighbour] [--seconds N] [--json FILE]``

Peers are interleaved, in another order each round; the table shows medians. A bar that is missed is shown and fails
nothing; a measurement that does not come about exits 1. README.md beside this file says how.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "schemas"), str(ROOT / "clients")]

from tests.bench.deletion_memory import memory, memory_table  # noqa: E402
from tests.bench.deletion_neighbour import neighbours, neighbours_table  # noqa: E402
from tests.bench.deletion_peers import PEERS, TREE, NotMeasured, clear, missing, remove  # noqa: E402
from tests.bench.deletion_trees import SHAPES, make  # noqa: E402
from tests.bench.report import aligned_table  # noqa: E402
from tests.bench.run import machine  # noqa: E402

BARS = {"flat": (0.85, 1.0), "tree": (1.5, 1.8)}
"""Times the files/s of `rm -rf`, at least: now, and then."""

NEIGHBOUR_BYTES = 4096
"""Of each file that goes beside a neighbour: what frees blocks hurts more than what frees names only."""


def throughput(
    where: Path, shapes: list[str], peers: list[str], *, files: int, size: int, rounds: int, workers: int
) -> list[dict[str, Any]]:
    """Each shape, removed by each peer in each round. Raises NotMeasured, OSError."""
    rows = []
    for shape in shapes:
        seconds: dict[str, list[float]] = {peer: [] for peer in peers}
        startups = []
        for number in range(rounds):
            turn = number % len(peers)
            for peer in peers[turn:] + peers[:turn]:
                make(where / TREE, shape, files, size)
                os.sync()
                outcome = remove(peer, where, workers=workers)
                clear(where)
                seconds[peer].append(outcome.seconds)
                if peer == "busd":
                    startups.append(outcome.startup)
        medians = {peer: median(each) for peer, each in seconds.items()}
        row: dict[str, Any] = {"shape": shape, "files": files, "bytes": size, "seconds": seconds, "medians": medians}
        if startups:
            row["startup"] = median(startups)
        if "busd" in medians and "rm" in medians:
            row["ratio"] = medians["rm"] / medians["busd"]
            if shape in BARS:
                row["met"] = row["ratio"] >= BARS[shape][0]
        rows.append(row)
    return rows


def throughput_table(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """For people."""
    table: list[tuple[str, ...]] = [
        ("shape", "peer", "s", "fastest", "slowest", "files/s", "x rm", "bar (aim)", "start-up s", "")
    ]
    for row in rows:
        rm = row["medians"].get("rm")
        for peer, seconds in row["medians"].items():
            ours = peer == "busd"
            bar = BARS.get(row["shape"]) if ours else None
            table.append(
                (
                    row["shape"],
                    peer,
                    f"{seconds:.2f}",
                    f"{min(row['seconds'][peer]):.2f}",
                    f"{max(row['seconds'][peer]):.2f}",
                    f"{row['files'] / seconds:,.0f}",
                    f"{rm / seconds:.2f}" if rm else "",
                    f">= {bar[0]:g} ({bar[1]:g})" if bar else "",
                    f"{row['startup']:.2f}" if ours else "",
                    "MISSED" if ours and not row.get("met", True) else "",
                )
            )
    return table


def command_line() -> argparse.ArgumentParser:
    """What may be said."""
    parser = argparse.ArgumentParser(description="measure deletion against rm -rf and others in one run")
    parser.add_argument("--shape", action="append", choices=SHAPES, help="flat and tree, if not given")
    parser.add_argument("--peer", action="append", choices=PEERS, help="all that are installed, if not given")
    parser.add_argument(
        "--files", type=positive, help="of each tree (200,000; --memory: 2,000,000; --neighbour: 120,000)"
    )
    parser.add_argument("--bytes", type=natural, help="of each file (0; --neighbour: 4096)")
    parser.add_argument("--rounds", type=positive, help="(5; --neighbour: 3)")
    parser.add_argument("--workers", type=positive, default=2, help="busd's threads (2)")
    parser.add_argument("--where", type=Path, help="directory to measure in (a new one where temporary files are)")
    parser.add_argument("--memory", action="store_true", help="how much the process grows, and whether time is linear")
    parser.add_argument("--neighbour", action="store_true", help="what an fsync beside it takes")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each phase of --neighbour (15)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    return parser


def natural(text: str) -> int:
    """Not below 0; raises ArgumentTypeError."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is below 0")
    return number


def positive(text: str) -> int:
    """Above 0; raises ArgumentTypeError."""
    if not natural(text):
        raise argparse.ArgumentTypeError("0 is too few")
    return int(text)


def run(options: argparse.Namespace, where: Path, beside: Path) -> dict[str, Any]:
    """Measure what was asked for and show it; the JSON."""
    result: dict[str, Any] = {"format": 1, "machine": machine()}
    shapes = options.shape or ["flat", "tree"]
    if options.memory:
        result["memory"] = memory(where, options.files or 2_000_000, tuple(shapes))
        print(aligned_table(memory_table(result["memory"]), (0, 8)))
    if options.neighbour:
        result["neighbour"] = neighbours(
            where,
            beside,
            shape=shapes[-1],
            files=options.files or 120_000,
            size=NEIGHBOUR_BYTES if options.bytes is None else options.bytes,
            seconds=options.seconds,
            rounds=options.rounds or 3,
        )
        print(aligned_table(neighbours_table(result["neighbour"]), (0, 8)))
    if not (options.memory or options.neighbour):
        peers = []
        for peer in options.peer or PEERS:
            reason = missing(peer)
            if reason is None:
                peers.append(peer)
            else:
                print(f"skipped {peer}: {reason}")
        result["throughput"] = throughput(
            where,
            shapes,
            peers,
            files=options.files or 200_000,
            size=options.bytes or 0,
            rounds=options.rounds or 5,
            workers=options.workers,
        )
        print(aligned_table(throughput_table(result["throughput"]), (0, 1, 9)))
        print("busd: from when it is ready until the tree is gone; its start-up, and a command's within its seconds")
    return result


def main() -> int:
    """The command line; exit 0 when everything was measured, 1 when not, 2 on a bad option."""
    options = command_line().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the trees go, as after Ctrl-C
    try:
        with tempfile.TemporaryDirectory(prefix="bench-deletion-", dir=options.where) as directory:
            where = Path(directory).resolve() / "trees"
            where.mkdir()
            result = run(options, where, where.parent / "neighbour")
    except (NotMeasured, OSError, ValueError) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
