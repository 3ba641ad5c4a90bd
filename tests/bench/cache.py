"""Measure the cache: in process beside plain caches, over the bus beside Redis, hit ratios, and memory.

Usage: ``tests/bench/cache.py [--only PART]... [--rounds N] [--seconds N] [--clients N] [--json FILE]``

Peers are interleaved; the tables show medians. A bar that is missed is shown and fails nothing; a measurement that does
not come about exits 1. README.md beside this file says how.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "schemas"), str(ROOT / "clients")]

from tests.bench.cache_bus import SIZES, bus_table, chosen, over_the_bus, versions  # noqa: E402
from tests.bench.cache_memory import ENTRIES, memory, memory_table  # noqa: E402
from tests.bench.cache_process import SLICE_SECONDS, in_process, process_table  # noqa: E402
from tests.bench.cache_ratios import LENGTH, ratios, ratios_table  # noqa: E402
from tests.bench.client import loop_factory  # noqa: E402
from tests.bench.processes import BenchError  # noqa: E402
from tests.bench.report import aligned_table  # noqa: E402
from tests.bench.run import machine  # noqa: E402

PARTS = ("process", "bus", "ratios", "memory")
BUS_SECONDS = 2.0


def positive(text: str) -> int:
    """Above 0; raises ArgumentTypeError."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def duration(text: str) -> float:
    """Above 0; raises ArgumentTypeError."""
    number = float(text)
    if not 0 < number <= 600:
        raise argparse.ArgumentTypeError(f"{number:g} s is not above 0, and at most 600")
    return number


def command_line() -> argparse.ArgumentParser:
    """What may be said."""
    parser = argparse.ArgumentParser(description="measure the cache beside plain caches and Redis in one run")
    parser.add_argument("--only", action="append", choices=PARTS, help="all, if not given")
    parser.add_argument("--rounds", type=positive, default=5, help="of process and bus (5)")
    parser.add_argument(
        "--seconds", type=duration, help=f"of one measurement (process: {SLICE_SECONDS:g}, bus: {BUS_SECONDS:g})"
    )
    parser.add_argument("--clients", type=positive, default=1, help="client processes of each peer, over the bus (1)")
    parser.add_argument("--quick", action="store_true", help="one short round each: shows that it works, not how fast")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    return parser


def show(table: list[tuple[str, ...]], left: tuple[int, ...]) -> None:
    """Print one table and an empty line."""
    print(aligned_table(table, left), end="\n\n", flush=True)


def run(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Measure what was asked for and show it; the JSON."""
    result: dict[str, Any] = {"format": 1, "machine": machine()}
    parts = options.only or PARTS
    rounds = 1 if options.quick else options.rounds
    if "process" in parts:
        result["process"] = in_process(rounds, options.seconds or (0.01 if options.quick else SLICE_SECONDS))
        show(process_table(result["process"]), (0, 2, 9))
    if "bus" in parts:
        peers, absent = chosen()
        for name, reason in absent.items():
            print(f"skipped {name}: {reason}")
        seconds = options.seconds or (0.1 if options.quick else BUS_SECONDS)
        sizes = SIZES[:2] if options.quick else SIZES
        work = over_the_bus(directory, peers, rounds=rounds, seconds=seconds, clients=options.clients, sizes=sizes)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            result["bus"] = runner.run(work)
        result["peers"] = versions(peers, absent)
        show(bus_table(result["bus"]), (0, 2, 10))
        print("server us, client us: processor time for one operation, of all processes on that side\n")
    if "ratios" in parts:
        result["ratios"] = ratios(length=LENGTH // 20 if options.quick else LENGTH)
        show(ratios_table(result["ratios"]), (0, 7))
    if "memory" in parts:
        result["memory"] = memory(ENTRIES // 20 if options.quick else ENTRIES)
        show(memory_table(result["memory"]), (0, 3))
    return result


def main() -> int:
    """The command line; exit 0 when everything was measured, 1 when not, 2 on a bad option."""
    options = command_line().parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="bench-cache-") as directory:
            result = run(options, Path(directory))
    except (BenchError, OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
