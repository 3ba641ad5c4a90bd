"""What is looked at while the soak runs: processes from outside, counters from ``/metrics``."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression, median

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.bench.report import aligned_table
from tests.soak.house import House

MIB = 1 << 20
NODE = "node"

COUNTERS = (
    "busd_endpoints",
    "busd_subscriptions",
    "busd_queued_bytes",
    "busd_held_calls",
    "busd_route_cache_entries",
    "busd_audit_queued_records",
    "busd_messages_received_total",
    "busd_messages_delivered_total",
    "busd_messages_dropped_total",
    "busd_calls_total",
    "busd_denials_total",
    "busd_endpoint_departures_total",
    "busd_connections_refused_total",
    "busd_cache_evictions_total",
    "busd_deletion_entries_removed_total",
)
"""Of ``/metrics``, all labels added up."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one process takes."""

    rss: int
    descriptors: int
    threads: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment. ``processes``: by component, and ``node``."""

    at: float
    processes: dict[str, Footprint]
    tasks: int
    counters: dict[str, float]


def sample(house: House) -> Sample:
    """Look now. A component that is replaced at this moment is left out."""
    processes = {}
    for name, process in {NODE: psutil.Process(house.process.pid), **house.workers()}.items():
        with contextlib.suppress(psutil.Error), process.oneshot():
            processes[name] = Footprint(process.memory_info().rss, process.num_fds(), process.num_threads())
    counters = dict.fromkeys(COUNTERS, 0.0)
    for family in text_string_to_metric_families(house.page("/metrics")):
        for each in family.samples:
            if each.name in counters:
                counters[each.name] += each.value
    return Sample(time.monotonic(), processes, house.ask("tasks"), counters)


Series = Sequence[tuple[float, float]]
"""Moments and values."""


def fifths(series: Series) -> tuple[float, float, float]:
    """Medians of the first, the middle and the last fifth: what single peaks do not move."""
    values = [value for _, value in series]
    size = max(1, len(values) // 5)
    middle = (len(values) - size) // 2
    return median(values[:size]), median(values[middle : middle + size]), median(values[-size:])


def floors(series: Series) -> tuple[float, float]:
    """What the lowest tenth of the first fifth stays below, and of the last: what a leak raises, whatever floods take
    in between and is given back."""
    values = [value for _, value in series]
    size = max(1, len(values) // 5)
    first, last = sorted(values[:size]), sorted(values[-size:])
    return first[size // 10], last[size // 10]


def slope_per_hour(series: Series) -> float:
    """Growth in an hour, of the straight line through all of ``series``."""
    if len(series) < 2:
        return 0.0
    return 3600.0 * linear_regression([at for at, _ in series], [value for _, value in series]).slope


def footprints(samples: Sequence[Sample]) -> dict[str, Series]:
    """What each process takes in the course of time, by process and figure."""
    found: dict[str, list[tuple[float, float]]] = {}
    for each in samples:
        for name, footprint in each.processes.items():
            found.setdefault(f"{name} RSS, MiB", []).append((each.at, footprint.rss / MIB))
            found.setdefault(f"{name} descriptors", []).append((each.at, footprint.descriptors))
            found.setdefault(f"{name} threads", []).append((each.at, footprint.threads))
        found.setdefault(f"{NODE} tasks", []).append((each.at, each.tasks))
    return dict(found)


def table(samples: Sequence[Sample]) -> str:
    """All figures at the start, in the middle and at the end, and their slope per hour."""
    series = footprints(samples)
    for name in COUNTERS:
        series[name] = [(each.at, each.counters[name]) for each in samples]
    lines: list[tuple[str, ...]] = [("figure", "start", "middle", "end", "per hour")]
    for name, values in series.items():
        lines.append((name, *(f"{value:,.1f}" for value in fifths(values)), f"{slope_per_hour(values):+,.1f}"))
    return aligned_table(lines, left=(0,))
