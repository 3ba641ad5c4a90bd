"""The cache over the bus, beside plaintext Redis: 64 requests under way, from as many client processes."""

import asyncio
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from tests.bench.cache_peers import PEERS
from tests.bench.processes import BenchError, Broker, Children

SIZES = (1024, 64, 16 << 10, 128 << 10)
"""Bytes of a value; the first is the one that the bar is for."""

WORKS = ("get-hit", "get-miss", "set", "get-many")
"""get-many: 64 names in one call, one call under way; Redis: MGET."""

IN_FLIGHT = 64

BARS: dict[tuple[str, int], tuple[float, float]] = {("get-hit", 1024): (2.5, 4.0)}
"""Times the operations a second of Redis, at least: now, and then."""

WARM_SECONDS = 0.3
GRACE_SECONDS = 60.0
"""What one measurement may take beyond its time."""


class CacheClient:
    """The parent's end of one client process."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._name = name

    @classmethod
    async def start(cls, children: Children, spec: dict[str, Any]) -> "CacheClient":
        """Start one, and wait until it has filled its cache. Raises BenchError."""
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-P", "-m", "tests.bench.cache_client", json.dumps(spec)]
        client = cls(await children.start(command, stdin=pipe, stdout=pipe), spec["peer"])
        await client._answer("ready")
        return client

    async def run(self, work: str, seconds: float) -> dict[str, float]:
        """Have it work. Raises BenchError with its words."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"work": work, "seconds": seconds}).encode() + b"\n")
        result: dict[str, float] = await self._answer("result")
        return result

    async def _answer(self, key: str) -> Any:
        assert self._process.stdout is not None
        async with asyncio.timeout(GRACE_SECONDS):
            line = await self._process.stdout.readline()
        said: dict[str, Any] = json.loads(line) if line else {"error": "ended without a word"}
        if key not in said:
            raise BenchError(f"{self._name}: {said.get('error')}")
        return said[key]


def missing(peer: str) -> str | None:
    """Why ``peer`` cannot be measured here."""
    return PEERS[peer].server.missing()


def version(peer: str) -> str:
    """What ``peer`` is."""
    return PEERS[peer].server.version()


def chosen() -> tuple[list[str], dict[str, str]]:
    """The peers that are here, and why others are not. Raises BenchError with BUSD_REQUIRE_ALL=1 if one is not."""
    absent = {name: reason for name in PEERS if (reason := missing(name)) is not None}
    if absent and os.environ.get("BUSD_REQUIRE_ALL") == "1":
        raise BenchError("; ".join(f"{name} is required: {reason}" for name, reason in absent.items()))
    return [name for name in PEERS if name not in absent], absent


async def over_the_bus(
    directory: Path, peers: list[str], *, rounds: int, seconds: float, clients: int = 1, sizes: tuple[int, ...] = SIZES
) -> list[dict[str, Any]]:
    """One row for each work and size; peers by turns in each round. Raises BenchError."""
    rows = []
    async with Children() as children:
        servers = {
            name: await Broker.start(children, PEERS[name].server, directory / name.replace(" ", "-")) for name in peers
        }
        for size in sizes:
            async with Children() as own:
                spec = {"size": size, "in_flight": IN_FLIGHT // clients}
                started = {
                    name: [
                        await CacheClient.start(own, {**spec, "peer": name, "url": servers[name].url})
                        for _ in range(clients)
                    ]
                    for name in peers
                }
                rows += [
                    await _work(work, size, started, servers, rounds=rounds, seconds=seconds)
                    for work in WORKS
                    if size == SIZES[0] or work in ("get-hit", "set")
                ]
    return rows


async def _work(
    work: str,
    size: int,
    clients: dict[str, list[CacheClient]],
    servers: dict[str, Broker],
    *,
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in clients}
    for turn in range(rounds):
        for name in clients if turn % 2 == 0 else reversed(clients):
            await asyncio.gather(*(each.run(work, WARM_SECONDS) for each in clients[name]))
            before = _cpu(servers[name])
            results = await asyncio.gather(*(each.run(work, seconds) for each in clients[name]))
            servers[name].check()
            rate = sum(each["rate"] for each in results)
            count = sum(each["count"] for each in results)
            used = _cpu(servers[name]) - before
            found[name].append(
                {
                    "rate": rate,
                    "p50": median(each["p50"] for each in results),
                    "p99": max(each["p99"] for each in results),
                    "server": used / count * 1e6,
                    "client": sum(each["cpu"] for each in results) / count * 1e6,
                }
            )
    medians = {
        name: {key: median(each[key] for each in results) for key in results[0]} for name, results in found.items()
    }
    row: dict[str, Any] = {"work": work, "bytes": size, "medians": medians, "rounds": found}
    if "redis" in medians:
        row["ratios"] = {
            name: each["rate"] / medians["redis"]["rate"] for name, each in medians.items() if name != "redis"
        }
        if (bar := BARS.get((work, size))) is not None and "busd" in row["ratios"]:
            row.update(bar=bar[0], aim=bar[1], met=row["ratios"]["busd"] >= bar[0])
    return row


def _cpu(server: Broker) -> float:
    """Processor seconds of a server with all its children: the component is one of the node."""
    process = psutil.Process(server.pid)
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def bus_table(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """For people."""
    headings = ("over the bus", "bytes", "peer", "ops/s", "p50 us", "p99 us", "server us", "client us", "x redis")
    table: list[tuple[str, ...]] = [(*headings, "bar (aim)", "")]
    for row in rows:
        for name, each in row["medians"].items():
            ratio = row.get("ratios", {}).get(name)
            ours = name == "busd" and "bar" in row
            table.append(
                (
                    row["work"],
                    f"{row['bytes']:,}",
                    name,
                    f"{each['rate']:,.0f}",
                    f"{each['p50']:,.0f}",
                    f"{each['p99']:,.0f}",
                    f"{each['server']:.1f}",
                    f"{each['client']:.1f}",
                    f"{ratio:.2f}" if ratio is not None else "",
                    f">= {row['bar']:g} ({row['aim']:g})" if ours else "",
                    "" if not ours else "met" if row["met"] else "MISSED",
                )
            )
    return table


def versions(peers: list[str], absent: dict[str, str]) -> dict[str, dict[str, str]]:
    """For the JSON."""
    made = {name: {"version": version(name)} for name in peers}
    cryptography = importlib.metadata.version("cryptography")
    for name in made:
        if name.startswith("busd"):
            made[name]["cryptography"] = cryptography
    return {**made, **{name: {"skipped": reason} for name, reason in absent.items()}}
