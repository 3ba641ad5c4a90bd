"""Measure what 42 guests of seven tenants, and the node itself, notice while an eighth tenant attacks the broker.

Usage: ``tests/bench/hostile.py [--only ATTACK]... [--seconds N] [--quick] [--json FILE]``

Every attack stands between two quiet phases of the same run, which are what it is compared with. A bar that is missed
is shown and fails nothing; a measurement that does not come about exits 1. README.md beside this file says how.
"""

import argparse
import asyncio
import datetime
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import quantiles
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "schemas"), str(ROOT / "clients")]

import busclient  # noqa: E402
from tests.bench.attacks import ATTACKS, QUIET  # noqa: E402
from tests.bench.peers.busd import BusdPeer  # noqa: E402
from tests.bench.processes import BenchError, Broker, Children  # noqa: E402
from tests.bench.report import aligned_table  # noqa: E402
from tests.bench.run import machine  # noqa: E402

TENANTS = 8
UNITS = 6
"""Of each tenant."""

HOSTILE = "t0"
"""The tenant that attacks."""

KINDS = {
    "own": "calls of seven tenants' guests within their tenant",
    "node": "their calls of a service of the node",
    "host": "calls of the node's own programs among themselves",
}
"""What is measured."""

BAR = 2.0
"""p99 under attack, divided by p99 when it is quiet, must not be more."""

LATER_BAR = 1.2
"""What the bar shall become."""

RECOVERY_SECONDS = 30.0
"""For everything that the tenant held to be free again."""

SAMPLE_SECONDS = 0.05
"""Between two looks at the broker's memory."""

STANDSTILL_SECONDS = 0.5
"""This process only waits. When it is that late, nobody was measured."""

ATTEMPTS = 5
"""At a phase in which the machine does not stand still."""

LINE_BYTES = 1 << 26
"""One line of a child: the latencies of a phase."""

MIB = 1 << 20

POLICY = """\
export service node.> from node to *
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how much."""

    seconds: float = 4.0
    """Of an attack."""
    quiet: float = 3.0
    """Of each quiet phase."""
    guest_rate: float = 500.0
    """Calls a second of all quiet guests together."""
    host_rate: float = 100.0
    """Calls a second of the node's own programs."""


QUICK = Settings(seconds=0.5, quiet=0.5, guest_rate=200.0, host_rate=50.0)
"""Enough to see that everything works, too little to tell anything."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Calls of one kind in some phases."""

    count: int
    p50: float
    """Seconds."""
    p99: float
    """Seconds."""

    @classmethod
    def of(cls, seconds: list[float]) -> Self:
        if len(seconds) < 2:
            raise BenchError("fewer than two calls were due in a phase: make it longer")
        cuts = quantiles(seconds, n=100, method="inclusive")
        return cls(len(seconds), cuts[49], cuts[98])


@dataclass(frozen=True, slots=True)
class Row:
    """One attack and what the others noticed."""

    attack: str
    what: str
    rate: float
    """What the attacker did, a second."""
    unit: str
    quiet: dict[str, Latency]
    hostile: dict[str, Latency]
    errors: list[str]
    """Of the others."""
    rss_peak: int
    """Bytes that the broker had more at most."""
    rss_left: int
    """Bytes that it had more afterwards."""
    recovered: float | None
    """Seconds until nothing of the attack was left; None if something was."""
    left: dict[str, Any]
    """What was left then."""

    @property
    def ratios(self) -> dict[str, float]:
        return {kind: self.hostile[kind].p99 / self.quiet[kind].p99 for kind in KINDS}

    @property
    def met(self) -> bool:
        return max(self.ratios.values()) <= BAR and not self.errors and self.recovered is not None


class HostileNode(BusdPeer):
    """busd in its defaults, with a policy that exports what the tenants call."""

    def command(self, directory: Path) -> list[str]:
        policy = directory / "policy.d"
        shutil.copytree(ROOT / "busd" / "ops" / "policy.d", policy)
        policy.chmod(0o755)
        (policy / "60-bench.policy").write_text(POLICY)
        return [*super().command(directory), "--policy-dir", str(policy), "--http-listen", "off"]


class Child:
    """A process of the benchmark that is spoken to in lines of JSON."""

    def __init__(self, module: str, process: asyncio.subprocess.Process) -> None:
        self._module = module
        self._process = process

    @classmethod
    async def start(cls, children: Children, module: str, spec: dict[str, Any]) -> Self:
        """Start it; `heard` tells when it is ready."""
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-P", "-m", f"tests.bench.{module}", json.dumps(spec)]
        return cls(module, await children.start(command, stdin=pipe, stdout=pipe, limit=LINE_BYTES))

    def say(self, value: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value).encode() + b"\n")

    async def heard(self) -> dict[str, Any]:
        """The next thing it says."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise BenchError(f"{self._module} ended with exit code {await self._process.wait()}")
        said: dict[str, Any] = json.loads(line)
        return said

    async def end(self) -> None:
        """Close its standard input, at which it ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


@dataclass(slots=True)
class Phase:
    """A stretch of time, and what became of the calls that were due in it."""

    begin: float
    end: float
    latencies: dict[str, list[float]]
    errors: list[str]


class Memory:
    """The most that the broker's memory was while this stood."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.before = self.peak = broker.resident_bytes()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, self._broker.resident_bytes())
            await asyncio.sleep(SAMPLE_SECONDS)


class Standstill:
    """Notices when the whole machine stands still: a virtual one that is paused, for instance."""

    async def __aenter__(self) -> Self:
        self.longest = 0.0
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(SAMPLE_SECONDS)
            self.longest = max(self.longest, time.monotonic() - before)


class Run:
    """One node with its guests, and one attack after another."""

    def __init__(self, settings: Settings, attacks: list[str]) -> None:
        self.settings = settings
        self.attacks = attacks
        self.rows: list[Row] = []
        self.idle: dict[str, Latency] = {}
        """Calls on a machine that does nothing else."""

    async def run(self, directory: Path) -> None:
        """Do all of it; ``rows`` grows as attacks end."""
        async with Children() as children:
            self._children = children
            self._broker = await Broker.start(children, HostileNode(), directory / "node")
            url = self._broker.url
            async with busclient.connect(
                url, component="bench", owner="bench", purpose="adds guests and reads figures"
            ) as self._bus:
                quiet, self._hostile_paths = await self._add_guests(directory)
                self._neighbours = [
                    await Child.start(children, "neighbours", spec)
                    for spec in (
                        {"role": "host", "rate": self.settings.host_rate, "path": url.removeprefix("unix://")},
                        {"role": "guests", "rate": self.settings.guest_rate, "units": quiet},
                    )
                ]
                for child in self._neighbours:
                    await child.heard()
                await asyncio.sleep(self.settings.quiet)  # to warm up
                self._before = await self._standing()
                begin = time.monotonic()
                await asyncio.sleep(self.settings.quiet)
                idle = await self._phase(begin, begin + self.settings.quiet)
                self.idle = {kind: Latency.of(idle.latencies[kind]) for kind in KINDS}
                before = await self._quiet()
                for name in self.attacks:
                    print(f"{name}: {ATTACKS[name].what}", file=sys.stderr, flush=True)
                    row, before = await self._attack(name, before)
                    self.rows.append(row)
                    ratios = ", ".join(f"{kind} {ratio:.2f}x" for kind, ratio in row.ratios.items())
                    print(f"  p99 {ratios}; {len(row.errors)} errors", file=sys.stderr, flush=True)
                    self._broker.check()

    async def _add_guests(self, directory: Path) -> tuple[list[list[str]], list[str]]:
        """The quiet units, and the sockets of the hostile ones."""
        quiet, hostile = [], []
        for tenant in (f"t{number}" for number in range(TENANTS)):
            for number in range(UNITS):
                unit = f"{tenant}-vm-{number}"
                request: dict[str, Any] = {"name": unit, "tenant": tenant, "socket": str(directory / unit)}
                if tenant == HOSTILE:
                    request["any_process"] = True  # a new one for each attack
                row = (await self._bus.call("$bus.admin.guest.add", request)).payload
                if tenant == HOSTILE:
                    hostile.append(row["address"])
                else:
                    quiet.append([tenant, unit, row["address"]])
        return quiet, hostile

    async def _attack(self, name: str, before: Phase) -> tuple[Row, Phase]:
        """One attack, with the quiet phase ``before`` it; also the quiet phase after it."""
        attack = ATTACKS[name]
        async with Memory(self._broker) as memory:
            hostile, done = await self._beside(name, self.settings.seconds)
            recovered, left = await self._recovered()
        after = await self._quiet()
        quiet = {kind: Latency.of(before.latencies[kind] + after.latencies[kind]) for kind in KINDS}
        row = Row(
            attack=name,
            what=attack.what,
            rate=done["count"] / done["seconds"],
            unit=attack.unit,
            quiet=quiet,
            hostile={kind: Latency.of(hostile.latencies[kind]) for kind in KINDS},
            errors=hostile.errors + after.errors,
            rss_peak=memory.peak - memory.before,
            rss_left=self._broker.resident_bytes() - memory.before,
            recovered=recovered,
            left=left,
        )
        return row, after

    async def _quiet(self) -> Phase:
        """A phase in which the tenant's process works as hard, and lets the broker be."""
        return (await self._beside(QUIET, self.settings.quiet))[0]

    async def _beside(self, attack: str, seconds: float) -> tuple[Phase, dict[str, float]]:
        """What became of the others' calls during ``attack``, and what the attacker says that it did."""
        for _ in range(ATTEMPTS):
            async with Standstill() as standstill:
                phase, done = await self._once_beside(attack, seconds)
            if standstill.longest < STANDSTILL_SECONDS:
                return phase, done
            print(f"  the machine stood still for {standstill.longest:.1f} s: again", file=sys.stderr, flush=True)
        raise BenchError(f"{attack}: the machine stood still in each of {ATTEMPTS} attempts")

    async def _once_beside(self, attack: str, seconds: float) -> tuple[Phase, dict[str, float]]:
        spec = {"attack": attack, "paths": self._hostile_paths, "seconds": seconds}
        attacker = await Child.start(self._children, "attacker", spec)
        await attacker.heard()
        begin = time.monotonic()
        attacker.say("go")
        done = await attacker.heard()
        phase = await self._phase(begin, begin + seconds)
        await attacker.end()
        return phase, done

    async def _phase(self, begin: float, end: float) -> Phase:
        """What became of the calls that were due in that time."""
        phase = Phase(begin, end, {kind: [] for kind in KINDS}, [])
        for child in self._neighbours:
            child.say({"from": begin, "to": end})
        for child in self._neighbours:
            report = await child.heard()
            for kind, latencies in report["latencies"].items():
                phase.latencies[kind] += latencies
            phase.errors += report["errors"]
        return phase

    async def _standing(self) -> dict[str, Any]:
        """What an attack must leave as it was: standing things of everybody, and all that the hostile tenant holds."""
        stats = (await self._bus.call("$bus.stats")).payload
        listed = (await self._bus.call("$bus.list", {"limit": 1, "accounts": True})).payload
        accounts = {row["account"]: row for row in listed["accounts"]}
        hostile = accounts.get(f"tenant {HOSTILE}", {"connections": 0, "charges": {}})
        return {
            "endpoints": sum(stats["endpoints"].values()),
            "subscriptions": stats["subscriptions"],
            "services": stats["services"],
            "connections": hostile["connections"],
            **{resource: charge["used"] for resource, charge in hostile["charges"].items() if charge["used"]},
        }

    async def _recovered(self) -> tuple[float | None, dict[str, Any]]:
        """How long it took until all was as before the first attack; else None and what is left."""
        begin = time.monotonic()
        while (now := await self._standing()) != self._before:
            if time.monotonic() - begin > RECOVERY_SECONDS:
                return None, {key: value for key, value in now.items() if self._before.get(key) != value}
            await asyncio.sleep(SAMPLE_SECONDS)
        return time.monotonic() - begin, {}

    def as_json(self) -> dict[str, Any]:
        """The results; README.md beside this file describes them."""
        return {
            "format": 1,
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "settings": asdict(self.settings),
            "machine": machine(),
            "bars": {"p99_ratio": BAR, "p99_ratio_later": LATER_BAR, "errors": 0},
            "idle": {kind: asdict(latency) for kind, latency in self.idle.items()},
            "attacks": [{**asdict(row), "ratios": row.ratios, "met": row.met} for row in self.rows],
        }


HEADINGS = (
    *("attack", "a second", ""),
    *(heading for kind in KINDS for heading in (f"{kind} p99", "under", "")),
    *("errors", "RSS", "left", "back in", ""),
)


def table(rows: Iterable[Row]) -> str:
    """The rows as text: latencies in milliseconds, memory in MiB."""
    lines: list[tuple[str, ...]] = [HEADINGS]
    for row in rows:
        cells = [row.attack, f"{row.rate:,.0f}", row.unit]
        for kind in KINDS:
            cells += [_ms(row.quiet[kind].p99), _ms(row.hostile[kind].p99), f"{row.ratios[kind]:.2f}x"]
        cells += [str(len(row.errors)), f"+{row.rss_peak / MIB:.0f}", f"+{row.rss_left / MIB:.0f}"]
        cells += ["never" if row.recovered is None else f"{row.recovered:.1f} s", "met" if row.met else "MISSED"]
        lines.append(tuple(cells))
    return aligned_table(lines, left=(0, 2, len(HEADINGS) - 1))


LEGEND = f"""\
p99 in ms, quiet and under attack: {"; ".join(f"{kind}: {what}" for kind, what in KINDS.items())}.
Quiet: the hostile tenant's process keeps a processor busy, as it does when it attacks, and lets the broker be.
RSS: MiB that the broker had more, at most and afterwards. back in: until nothing was left of what the tenant held.
Bar: each p99 <= {BAR:g}x quiet ({LATER_BAR:g}x later), no error, all back. Attackers run only when a processor is idle
(SCHED_IDLE, else nice 19): measured is how the broker shares itself out, not how the kernel shares processors."""


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f}"


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure what others notice while one tenant attacks the broker.")
    names = list(ATTACKS)
    parser.add_argument("--only", action="append", choices=names, metavar="ATTACK", help=f"of {', '.join(names)}")
    parser.add_argument("--seconds", type=float, help=f"of each attack (default {Settings().seconds:g})")
    parser.add_argument("--quick", action="store_true", help="half a second each: shows that it works, not how well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go (default bench-results/)")
    return parser


async def interruptible(run: Run, directory: Path) -> None:
    """``run``, ended by SIGTERM as by Ctrl-C: the children first."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await run.run(directory)


def main() -> int:
    """The command line; exit 0 when everything was measured, 1 when not, 2 on a bad option, 130 when interrupted."""
    options = command_line().parse_args()
    settings = QUICK if options.quick else Settings()
    try:
        if options.seconds is not None:
            if options.seconds <= 0:
                raise BenchError("seconds must be above 0")
            settings = replace(settings, seconds=options.seconds)
        run = Run(settings, options.only or list(ATTACKS))
        with tempfile.TemporaryDirectory(prefix="busd-hostile-") as directory:
            asyncio.run(interruptible(run, Path(directory)))
    except BenchError as error:
        print(f"bench-hostile: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("bench-hostile: interrupted", file=sys.stderr)
        return 130
    results = run.as_json()
    print(table(run.rows))
    print(LEGEND)
    print("machine idle:", ", ".join(f"{kind} p99 {_ms(latency.p99)}" for kind, latency in run.idle.items()))
    for row in run.rows:
        for said in sorted(set(row.errors)):
            print(f"{row.attack}: {row.errors.count(said)} x {said}")
        if row.left:
            print(f"{row.attack}: left over: {row.left}")
    path = options.json or ROOT / "bench-results" / f"hostile-{results['at'].replace(':', '')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"results: {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
