"""How often each policy hits on made traces, and what theory says of LRU."""

from typing import Any

from busd.components.cache.entry import Entry
from busd.components.cache.policy import POLICIES
from busd.components.cache.store import POLICIES as MAKERS
from busd.components.cache.store import TenantStore
from tests.components.cache_traces import che, loop, names, scanned, shifting, zipf

ITEMS = 10_000
LENGTH = 200_000
CAPACITIES = (100, 1_000)
"""Entries: 1 % and 10 % of the items."""

ALPHAS = (0.6, 0.8, 0.99, 1.1)
WARM = 20_000
"""Requests that fill the cache, and are not counted where theory is compared: it speaks of the long run."""

CHE_BAR = 0.01
"""How far LRU may be from Che's approximation."""


def hit_ratio(policy: Any, trace: list[int], capacity: int, warm: int = 0) -> float:
    """Of a tenant's store with room for ``capacity`` entries with empty records."""
    store = TenantStore(quota=capacity * MAKERS[policy](0).overhead, policy=policy, clock=lambda: 0.0)
    hits = 0
    for generation, key in enumerate(names(trace)):
        if store.get(key) is None:
            store.put(key, Entry(b"", generation))
        else:
            hits += generation >= warm
    return hits / (len(trace) - warm)


def ratios(items: int = ITEMS, length: int = LENGTH) -> list[dict[str, Any]]:
    """One row for each trace and capacity. The same from run to run."""
    rows = []
    for capacity in CAPACITIES:
        warm = min(WARM, length // 2)
        traces: list[tuple[str, list[int], int, float | None]] = [
            (f"Zipf {alpha:g}", zipf(items, alpha, length, 1), warm, che(items, alpha, capacity)) for alpha in ALPHAS
        ]
        traces += [
            ("Zipf 0.99, 20 % one-shot", scanned(items, 0.99, length, 2), 0, None),
            ("loop of 1.1 times the cache", loop(capacity * 11 // 10, length), 0, None),
            ("Zipf 0.99, shifting", shifting(items, 0.99, length, 3, every=length // 6), 0, None),
        ]
        for title, trace, skipped, theory in traces:
            row: dict[str, Any] = {"trace": title, "items": items, "requests": length, "capacity": capacity}
            for policy in POLICIES:
                row[policy] = hit_ratio(policy, trace, capacity, skipped)
            if theory is not None:
                row.update(che=theory, bar=CHE_BAR, met=abs(row["lru"] - theory) <= CHE_BAR)
            rows.append(row)
    return rows


def ratios_table(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """For people: per cent."""
    headings = ("hit ratio, %", "entries", *POLICIES, "Che, for lru", "bar", "")
    lines = [
        (
            row["trace"],
            f"{row['capacity']:,}",
            *(f"{100 * row[policy]:.1f}" for policy in POLICIES),
            f"{100 * row['che']:.1f}" if "che" in row else "",
            f"+- {100 * row['bar']:g}" if "bar" in row else "",
            "" if "met" not in row else "met" if row["met"] else "MISSED",
        )
        for row in rows
    ]
    return [headings, *lines]
