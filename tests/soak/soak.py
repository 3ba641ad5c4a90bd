"""Keep a real node busy for a while, with agents that come and go, floods, reloads and replacements, and see that it
ends as it began.

Usage: ``tests/soak/soak.py [--minutes N | --seconds N] [--seed N] [--only ACTOR]... [--flood ATTACK]... [--json FILE]``

Two rounds of the same actors: a first one, a fifth of the time or until each flood has had its turn, in which all is
allocated that is allocated once; then the node is left alone and measured, and the second one begins. At the end it is
left alone and measured again: nothing may have been kept. Exits 1, and says what, if something was; 2 if the soak could
not be made.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "schemas"), str(ROOT / "clients")]

import busclient  # noqa: E402
from tests.fault.guests import standing  # noqa: E402
from tests.soak import operations, traffic  # noqa: E402
from tests.soak.actor import SECONDS, Actor, Tally  # noqa: E402
from tests.soak.house import COMPONENTS, STOP_SECONDS, House, SoakError, house  # noqa: E402
from tests.soak.samples import MIB, NODE, Sample, sample, table  # noqa: E402
from tests.soak.verdict import Quiet, differs, events, grown, late, nameless, shown, types_grown  # noqa: E402

Made = Callable[[House, Tally, random.Random, asyncio.Event], Actor]

ACTORS: dict[str, tuple[Made, int]] = {
    "echo": (traffic.Echo, 1),
    "caller": (traffic.Caller, 1),
    "publisher": (traffic.Publisher, 1),
    "visitor": (traffic.Visitor, 3),
    "mortal": (traffic.Mortal, 1),
    "slow-reader": (traffic.SlowReader, 1),
    "flooder": (partial(traffic.Flooder, attacks=traffic.FLOODS), 1),
    "policy": (operations.PolicyReloader, 1),
    "replacer": (operations.Replacer, 1),
    "units": (operations.UnitChanger, 1),
    "scraper": (operations.Scraper, 1),
    "viewer": (operations.Viewer, 1),
    "deleter": (operations.Deleter, 1),
    "cache": (operations.CacheUser, 1),
    "watcher": (operations.Watcher, 1),
}
"""By name, and how many of each."""

WARM_SHARE = 0.2
"""Of the time, for the first round; but it goes on until each flood has had its turn."""

SETTLE_SECONDS = 60.0
"""For what is left of the last flood to be worked off."""


class Soak:
    """One run. ``problems`` is what must not be."""

    def __init__(self, home: House, options: argparse.Namespace, seed: int) -> None:
        self.house = home
        self.seed = seed
        self.interval: float = options.interval
        self.actors = {name: made for name, made in ACTORS.items() if name in (options.only or ACTORS)}
        self.floods: Sequence[str] = options.flood or traffic.FLOODS
        if "flooder" in self.actors:
            self.actors["flooder"] = (partial(traffic.Flooder, attacks=self.floods), 1)
        self.tallies = {name: Tally() for name in self.actors}
        self.samples: list[Sample] = []
        self._tell_at = 0.0
        self.problems: list[str] = []
        self.objects: list[dict[str, Any]] = []
        """What `observed` says of them, before and after."""

    async def run(self, seconds: float) -> None:
        """Both rounds, what is to be measured around them, and the end of the node."""
        async with busclient.connect(self.house.url, component="soak", owner="soak", purpose="looks on") as bus:
            await self.house.furnish(bus)
            await self._components(bus)
            start = await standing(bus)
            await self._round(WARM_SHARE * seconds, 0)
            before = await self._quiet(bus, start)
            print(f"warm: {shown(before)}", flush=True)
            self.samples.clear()
            await self._round((1 - WARM_SHARE) * seconds, 1)
            after = await self._quiet(bus, before.standing)
            print(f"after: {shown(after)}", flush=True)
            self.problems += grown(self.samples) + differs(before, after)
            await self._end(bus)
        for name, tally in self.tallies.items():
            self.problems += [f"{name}: {text}" for text in tally.problems] + late(name, tally.done)
            if not tally.done.total():
                self.problems.append(f"{name}: did nothing")

    async def _components(self, bus: busclient.Bus) -> None:
        async with asyncio.timeout(SECONDS):
            while True:
                rows = (await bus.call("$bus.components", timeout=SECONDS)).payload["components"]
                if sorted(row["component"] for row in rows if row["state"] == "ready") == sorted(COMPONENTS):
                    return
                await asyncio.sleep(0.1)

    async def _round(self, seconds: float, number: int) -> None:
        over = asyncio.Event()
        acting = {}
        for name, (make, count) in self.actors.items():
            for which in range(count):
                chance = random.Random(f"{self.seed}/{number}/{name}/{which}")
                actor = make(self.house, self.tallies[name], chance, over)
                acting[asyncio.create_task(actor.run())] = name
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end or not (number or self._flooded()):
                self.samples.append(await asyncio.to_thread(sample, self.house))
                self._tell()
                if self.house.process.poll() is not None:
                    raise SoakError(f"the node ended with status {self.house.process.returncode}")
                await asyncio.sleep(min(self.interval, max(0.0, end - time.monotonic())))
        finally:
            over.set()
            _, stuck = await asyncio.wait(acting, timeout=4 * SECONDS)
            for task in stuck:
                self.problems.append(f"{acting[task]}: it is stuck at {task.get_stack()[-1:]}")
                task.cancel()

    def _tell(self) -> None:
        """A line every minute: half an hour is long."""
        now = self.samples[-1]
        if now.at >= self._tell_at and NODE in now.processes:
            self._tell_at = now.at + 60.0
            counts = (now.counters["busd_calls_total"], now.counters["busd_endpoint_departures_total"])
            calls, departures = (f"{count:,.0f}" for count in counts)
            size = now.processes[NODE].rss / MIB
            print(f"{time.strftime('%H:%M:%S')} node {size:.0f} MiB, {calls} calls, {departures} left", flush=True)

    def _flooded(self) -> bool:
        """Whether each flood has had its turn: what they make the node allocate is allocated by then."""
        flooder = self.tallies.get("flooder")
        return flooder is None or flooder.done[traffic.FLOODED] >= len(self.floods)

    async def _quiet(self, bus: busclient.Bus, wanted: object) -> Quiet:
        """What there is as soon as it is ``wanted`` and two looks see the same, or when that has taken too long."""
        end = time.monotonic() + SETTLE_SECONDS
        last: Quiet | None = None
        while True:
            await asyncio.sleep(2.0)
            look = await asyncio.to_thread(sample, self.house)
            held = (await bus.call("$bus.stats", timeout=SECONDS)).payload["held_calls"]
            found = Quiet({**await standing(bus), "held_calls": held}, look.processes, look.tasks)
            same = last is not None and _counts(found) == _counts(last)
            ready = {**found.standing} == {"held_calls": 0, **dict(wanted)}  # type: ignore[call-overload]
            if (same and ready and len(found.processes) == 1 + len(COMPONENTS)) or time.monotonic() > end:
                in_use = await asyncio.to_thread(self.house.ask, "small")
                objects = await asyncio.to_thread(self.house.ask, "types")
                self.objects.append(objects)
                kinds = self.house.descriptors()
                return replace(found, in_use=in_use, blocks=objects["blocks"], malloc=objects["malloc"], kinds=kinds)
            last = found

    async def _end(self, bus: busclient.Bus) -> None:
        """Stop the node while someone is attached and a call is held for ever: its grace is all that it may take."""

        async def never(call: busclient.Call) -> None:
            await asyncio.Event().wait()

        async with (
            busclient.connect(self.house.url, component="soak-holder", owner="soak", purpose="never answers") as holder,
            holder.serve("node.never", never),
        ):
            held = asyncio.create_task(bus.call("node.never", timeout=600))
            await asyncio.sleep(0.2)
            self.house.workers()
            status, seconds = await asyncio.to_thread(self.house.stop)
            print(f"stopped: status {status} after {seconds:.1f} s", flush=True)
            if status != 0 or seconds > STOP_SECONDS:
                self.problems.append(f"stop: status {status} after {seconds:.1f} s; {STOP_SECONDS:g} s are allowed")
            try:
                await asyncio.wait_for(held, SECONDS)
                self.problems.append("stop: a call that nobody answers was answered")
            except TimeoutError:
                self.problems.append("stop: a call had no outcome")
            except busclient.BusError as error:
                print(f"the call that was held ended with {error.name}", flush=True)


def _counts(quiet: Quiet) -> object:
    return quiet.standing, quiet.tasks, {name: each.descriptors for name, each in quiet.processes.items()}


def audit_of(home: House) -> list[str]:
    """What is wrong with the audit log."""
    command = [sys.executable, "-m", "buscli", "audit", "verify", "--dir", str(home.home / "audit")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return [] if ended.returncode == 0 else [f"audit: {ended.stdout}{ended.stderr}"]


def report(soak: Soak, log: list[dict[str, object]]) -> None:
    """What was done, looked at and logged."""
    print(f"\n{table(soak.samples)}\n\ndone:")
    for name, tally in soak.tallies.items():
        print(f"  {name}: " + ", ".join(f"{what} {count:,}" for what, count in sorted(tally.done.items())))
    print("logged:")
    for (level, event), count in sorted(events(log).items()):
        print(f"  {level} {event} {count:,}")
    before, after = soak.objects
    print("objects that became more: " + ", ".join(types_grown(before["types"], after["types"])))
    print(f"garbage, {sum(after['garbage'].values()):,} objects: " + ", ".join(types_grown({}, after["garbage"])))
    for when, found in (("before", before), ("after", after)):
        sizes = f"{found['in_use'] / MIB:.1f} MiB in use, {found['malloc'] / MIB:.1f} MiB of them from malloc"
        print(f"without it, {when}: {found['blocks']:,} blocks of Python's, {sizes}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(description="Keep a node busy for a while, and see that it ends as it began.")
    parser.add_argument("--minutes", type=float, default=30.0, help="both rounds together (default 30)")
    parser.add_argument("--seconds", type=float, help="instead of minutes")
    parser.add_argument("--seed", type=int, help="the same order of events as in another run, as far as clocks allow")
    parser.add_argument(
        "--only", action="append", choices=list(ACTORS), metavar="ACTOR", help=f"of {', '.join(ACTORS)}"
    )
    ways = f"a way to flood, of {', '.join(traffic.FLOODS)} (default all)"
    parser.add_argument("--flood", action="append", choices=traffic.FLOODS, metavar="ATTACK", help=ways)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two samples (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where samples, tallies and problems go")
    options = parser.parse_args(arguments)
    seconds = 60 * options.minutes if options.seconds is None else options.seconds
    if seconds <= 0 or options.interval <= 0:
        parser.error("minutes, seconds and interval must be above 0")
    seed = int.from_bytes(os.urandom(4)) if options.seed is None else options.seed
    print(f"{seconds:g} s, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="busd-soak-") as directory:
        try:
            with house(Path(directory)) as home:
                soak = Soak(home, options, seed)
                asyncio.run(soak.run(seconds))
            problems = soak.problems + nameless(home.log) + [f"left: {each}" for each in home.left()] + audit_of(home)
        except (SoakError, OSError, busclient.BusError) as error:
            print(f"soak: {error}", file=sys.stderr)
            return 2
        report(soak, home.log)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        done = {name: dict(tally.done) for name, tally in soak.tallies.items()}
        document = {"seed": seed, "seconds": seconds, "problems": problems, "done": done, "log": home.log}
        document["objects"] = soak.objects
        document["samples"] = [asdict(each) for each in soak.samples]
        options.json.write_text(json.dumps(document, default=str))
    for problem in problems:
        print(f"FAILED: {problem}")
    print("it ended as it began" if not problems else f"{len(problems)} things are not as they should be")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
