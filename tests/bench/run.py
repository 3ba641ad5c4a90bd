"""Measure busd against its peers, side by side in one run, and print the ratios.

Usage: ``tests/bench/run.py [--only WORK] [--peer PEER] [--rounds N] [--quick] [--json FILE]``

Every round measures each peer once, one after another, with the same payloads, windows and process counts: one broker,
one client process that sends, one that receives. A bar that is missed is shown and fails nothing; a measurement that
does not come about exits 1. A peer that is not installed is skipped with the reason; with ``BUSD_REQUIRE_ALL=1`` that
fails for the peers that the bars need.
"""

import argparse
import asyncio
import datetime
import json
import os
import platform
import signal
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "schemas"), str(ROOT / "clients")]

from tests.bench.client import loop_factory  # noqa: E402
from tests.bench.measure import Settings, fresh, measure  # noqa: E402
from tests.bench.peers.catalogue import PEERS  # noqa: E402
from tests.bench.processes import BenchError, Broker, Children  # noqa: E402
from tests.bench.report import Row, table  # noqa: E402
from tests.bench.works import WORKS, Work  # noqa: E402

QUICK = Settings(rounds=1, warmup=0.05, seconds=0.2, endpoints=200)
"""Enough to see that everything works, too little to tell anything."""


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure busd against its peers, side by side in one run.")
    names = [work.name for work in WORKS]
    parser.add_argument("--only", action="append", choices=names, metavar="WORK", help=f"of {', '.join(names)}")
    parser.add_argument("--peer", action="append", choices=list(PEERS), metavar="PEER", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, help=f"rounds of each work (default {Settings().rounds})")
    parser.add_argument("--seconds", type=float, help=f"timed seconds of a round (default {Settings().seconds})")
    parser.add_argument("--endpoints", type=int, help=f"endpoints to attach (default {Settings().endpoints})")
    parser.add_argument("--quick", action="store_true", help="one short round each: shows that it works, not how fast")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where the results go (default bench-results/TIME.json)"
    )
    return parser


def settings_of(options: argparse.Namespace) -> Settings:
    chosen = {name: getattr(options, name) for name in ("rounds", "seconds", "endpoints")}
    given = {name: value for name, value in chosen.items() if value is not None}
    if any(value <= 0 for value in given.values()):
        raise BenchError("rounds, seconds and endpoints must be above 0")
    return Settings(**{**asdict(QUICK if options.quick else Settings()), **given})


class Run:
    """One run over works and peers."""

    def __init__(self, works: list[Work], peers: list[str], settings: Settings) -> None:
        self.works = works
        self.settings = settings
        self.skipped = {name: reason for name in peers if (reason := PEERS[name].missing()) is not None}
        self.peers = [name for name in peers if name not in self.skipped]
        self.rows: list[Row] = []
        self._started = 0

    async def run(self, directory: Path) -> None:
        """Do the works one after another; ``rows`` grows as they end."""
        async with Children() as children:
            brokers: dict[str, Broker] = {}
            for work in self.works:
                for name in self._peers_of(work):
                    if work.name != "attach" and name not in brokers:
                        brokers[name] = await Broker.start(children, PEERS[name], self._new(directory))
                self.rows += await self._work(work, brokers, directory)

    def _peers_of(self, work: Work) -> list[str]:
        return [name for name in work.peers if name in self.peers]

    def _new(self, directory: Path) -> Path:
        self._started += 1
        return directory / str(self._started)

    async def _work(self, work: Work, brokers: dict[str, Broker], directory: Path) -> list[Row]:
        names = self._peers_of(work)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        rounds = min(self.settings.rounds, work.rounds or self.settings.rounds)
        for number in range(rounds):
            # Every second round the other way round: none is always the one that runs on a machine just warmed up.
            for name in names if number % 2 == 0 else reversed(names):
                print(f"{work.title}: round {number + 1} of {rounds}, {name}", file=sys.stderr, flush=True)
                if work.name == "attach":
                    result = await fresh(work, PEERS[name], self.settings, self._new(directory))
                else:
                    result = await measure(work, PEERS[name], brokers[name], self.settings)
                found[name].append(result)
        return [
            Row(
                work,
                replace(figure, name=figure.name.format(endpoints=self.settings.endpoints)),
                {name: [result[figure.key] for result in found[name]] for name in names},
            )
            for figure in work.figures
        ]

    def as_json(self) -> dict[str, Any]:
        """The results; tests/bench/README.md describes the layout."""
        return {
            "format": 1,
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "settings": asdict(self.settings),
            "machine": machine(),
            "peers": {
                **{name: {"version": PEERS[name].version()} for name in self.peers},
                **{name: {"skipped": reason} for name, reason in self.skipped.items()},
            },
            "figures": [row.as_json() for row in self.rows],
        }


def machine() -> dict[str, Any]:
    """What the figures depend on, and nothing that names the machine."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "loop": loop_factory().__module__,
    }


async def interruptible(run: Run, directory: Path) -> None:
    """``run``, ended by SIGTERM as by Ctrl-C: the children first."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await run.run(directory)


def main() -> int:
    """The command line; exit 0 when everything was measured, 1 when not, 2 on a bad option, 130 when interrupted."""
    options = command_line().parse_args()
    try:
        works = [work for work in WORKS if not options.only or work.name in options.only]
        run = Run(works, options.peer or list(PEERS), settings_of(options))
        for name, reason in run.skipped.items():
            print(f"skipped {name}: {reason}", file=sys.stderr)
            if PEERS[name].required and os.environ.get("BUSD_REQUIRE_ALL") == "1":
                raise BenchError(f"{name} is required (BUSD_REQUIRE_ALL=1)")
        with tempfile.TemporaryDirectory(prefix="busd-bench-") as directory:
            asyncio.run(interruptible(run, Path(directory)))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("bench: interrupted", file=sys.stderr)
        return 130
    results = run.as_json()
    print(table(run.rows))
    path = options.json or ROOT / "bench-results" / f"{results['at'].replace(':', '')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"results: {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
