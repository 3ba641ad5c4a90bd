"""The cache in process: busd's sealed cache with each algorithm, beside caches that keep plain values."""

from collections import OrderedDict
from collections.abc import Callable
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import Any

from busd.components.cache import Cache, CacheSettings, Keyring, RootKey, TenantSettings
from busd.components.cache.datakey import ALGORITHMS, Algorithm

SIZES = (64, 1024, 16 << 10, 1 << 20)
"""Bytes of a value."""

WORKS = ("get-hit", "get-miss", "set")

BARS: dict[tuple[str, int], tuple[float, float]] = {("get-hit", 1024): (250_000, 400_000)}
"""Operations a second of busd with its usual algorithm, at least: now, and then."""

MOST_BYTES = 64 << 20
"""Of all values: half of what the caches may hold, so none of them evicts."""

NAMES = 1000
"""That are asked for in turn, where so many values fit."""

SLICE_SECONDS = 0.15
"""That one measurement takes, and as long again for its percentiles."""

BATCH = 64
"""Operations between two looks at the clock."""

LARGE = 16 << 10
"""Bytes above which one operation is worth a look at the clock."""

Operation = Callable[[int], object]


class PlainLRU:
    """What one writes by hand: an OrderedDict, the one that was used last at its end."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[str, bytes] = OrderedDict()

    def get(self, name: str) -> bytes | None:
        value = self._values.get(name)
        if value is not None:
            self._values.move_to_end(name)
        return value

    def set(self, name: str, value: bytes) -> None:
        self._values[name] = value
        self._values.move_to_end(name)
        if len(self._values) > self._most:
            self._values.popitem(last=False)


def subjects() -> dict[str, Callable[[], tuple[Callable[[str], Any], Callable[[str, bytes], Any]]]]:
    """By name, what makes a cache: its get and its set. Without cachetools if that is not installed."""

    def sealed(algorithm: Algorithm) -> Callable[[], tuple[Callable[[str], Any], Callable[[str, bytes], Any]]]:
        def make() -> tuple[Callable[[str], Any], Callable[[str, bytes], Any]]:
            keyring = Keyring(RootKey.generated(quiet=True), algorithm=algorithm)
            tenant = Cache(keyring, CacheSettings(usual=TenantSettings(quota=2 * MOST_BYTES))).tenant("bench")
            return tenant.get, tenant.set

        return make

    def ordered() -> tuple[Callable[[str], Any], Callable[[str, bytes], Any]]:
        plain = PlainLRU(2 * NAMES)
        return plain.get, plain.set

    made = {f"busd {algorithm}": sealed(algorithm) for algorithm in ALGORITHMS}
    try:
        from cachetools import LRUCache
    except ImportError:
        pass
    else:

        def tools() -> tuple[Callable[[str], Any], Callable[[str, bytes], Any]]:
            cache: LRUCache[str, bytes] = LRUCache(2 * NAMES)
            return cache.get, cache.__setitem__

        made["cachetools"] = tools
    made["OrderedDict"] = ordered
    return made


def operation(work: str, size: int, get: Callable[[str], Any], put: Callable[[str, bytes], Any]) -> Operation:
    """One operation by its number; the cache is filled. Raises ValueError if it does not do what it is to do."""
    count = min(NAMES, MOST_BYTES // size)
    names = [f"user:{number}:profile" for number in range(count)]
    values = [number.to_bytes(8, "big") * (size // 8) for number in range(count)]
    for name, value in zip(names, values, strict=True):
        put(name, value)
    if get(names[-1]) != values[-1] or get("absent") is not None:
        raise ValueError("the cache does not give what was put in")
    if work == "get-hit":
        return lambda number: get(names[number % count])
    if work == "get-miss":
        absent = [f"absent:{number}" for number in range(count)]
        return lambda number: get(absent[number % count])
    return lambda number: put(names[number % count], values[number % count])


def measure(do: Operation, seconds: float, batch: int) -> dict[str, float]:
    """Operations a second, and the median and 99th percentile of one in microseconds. At least ``batch`` of them."""
    number = 0
    start = now = perf_counter()
    while not number or now < start + seconds:
        for _ in range(batch):
            do(number)
            number += 1
        now = perf_counter()
    rate = number / (now - start)
    each: list[int] = []
    start = now
    while not each or perf_counter() < start + seconds:
        for _ in range(batch):
            before = perf_counter_ns()
            do(number)
            each.append(perf_counter_ns() - before)
            number += 1
    each.sort()
    return {"rate": rate, "p50": each[len(each) // 2] / 1000, "p99": each[len(each) * 99 // 100] / 1000}


def in_process(rounds: int, seconds: float = SLICE_SECONDS) -> list[dict[str, Any]]:
    """One row for each work, size and cache; every cache is measured in each round, in another order each time."""
    made = subjects()
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        for work in WORKS:
            if work == "get-miss" and size != 1024:
                continue  # there is no value that it could depend on
            operations = {name: operation(work, size, *make()) for name, make in made.items()}
            found: dict[str, list[dict[str, float]]] = {name: [] for name in made}
            order = list(made)
            for turn in range(rounds):
                for name in order[turn % len(order) :] + order[: turn % len(order)]:
                    found[name].append(measure(operations[name], seconds, BATCH if size <= LARGE else 1))
            medians = {
                name: {key: median(each[key] for each in results) for key in ("rate", "p50", "p99")}
                for name, results in found.items()
            }
            for name, figures in medians.items():
                row: dict[str, Any] = {"work": work, "bytes": size, "cache": name, **figures, "rounds": found[name]}
                if name.startswith("busd"):
                    row["ratios"] = {
                        other: figures["rate"] / theirs["rate"]
                        for other, theirs in medians.items()
                        if not other.startswith("busd")
                    }
                if name == f"busd {ALGORITHMS[0]}" and (bar := BARS.get((work, size))) is not None:
                    row.update(bar=bar[0], aim=bar[1], met=figures["rate"] >= bar[0])
                rows.append(row)
    return rows


def process_table(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """For people."""
    table: list[tuple[str, ...]] = [
        ("in process", "bytes", "cache", "ops/s", "p50 us", "p99 us", "x cachetools", "x OrderedDict", "bar (aim)", "")
    ]
    for row in rows:
        ratios = row.get("ratios", {})
        table.append(
            (
                row["work"],
                f"{row['bytes']:,}",
                row["cache"],
                f"{row['rate']:,.0f}",
                f"{row['p50']:.2f}",
                f"{row['p99']:.2f}",
                *(f"{ratios[other]:.3f}" if other in ratios else "" for other in ("cachetools", "OrderedDict")),
                f">= {row['bar']:,.0f} ({row['aim']:,.0f})" if "bar" in row else "",
                "" if "bar" not in row else "met" if row["met"] else "MISSED",
            )
        )
    return table
