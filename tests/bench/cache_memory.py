"""What an entry takes besides its value: growth of a process's memory, a fresh process for each cache.

As a module it is that process: ``python -m tests.bench.cache_memory CACHE ENTRIES`` prints bytes for each entry.
"""

import gc
import json
import subprocess
import sys
from typing import Any

import psutil

from busd.components.cache import Cache, CacheSettings, TenantSettings
from busd.components.cache.policy import POLICIES, PolicyName
from tests.bench.cache_process import PlainLRU
from tests.bench.processes import ROOT, environment

VALUE = 128
"""Bytes of each value, all of them different objects."""

ENTRIES = 200_000

CACHES = (*(f"busd {policy}" for policy in POLICIES), "busd lru, expiring", "cachetools", "OrderedDict")


def fill(cache: str, entries: int) -> dict[str, float]:
    """Bytes for each entry: what the process grew by, and what the tenant's quota was charged. In a fresh process."""
    charged = 0.0
    name = "user:%012d:profile"
    process = psutil.Process()
    if cache.startswith("busd"):
        policy: PolicyName = "lru" if "," in cache else cache.removeprefix("busd ")  # type: ignore[assignment]
        ttl = 3600.0 if "expiring" in cache else None
        settings = CacheSettings(usual=TenantSettings(quota=1 << 34, policy=policy))
        tenant = Cache.generated(settings, quiet=True).tenant("bench")
        tenant.set("warm", bytes(VALUE))
        gc.collect()
        before = process.memory_info().rss
        for number in range(entries):
            tenant.set(name % number, number.to_bytes(8, "big") * (VALUE // 8), ttl=ttl)
        charged = tenant.statistics().bytes / (entries + 1) - VALUE
    elif cache == "cachetools":
        from cachetools import LRUCache

        made: LRUCache[str, bytes] = LRUCache(2 * entries)
        before = process.memory_info().rss
        for number in range(entries):
            made[name % number] = number.to_bytes(8, "big") * (VALUE // 8)
    else:
        plain = PlainLRU(2 * entries)
        before = process.memory_info().rss
        for number in range(entries):
            plain.set(name % number, number.to_bytes(8, "big") * (VALUE // 8))
    gc.collect()
    return {"grown": (process.memory_info().rss - before) / entries - VALUE, "charged": charged}


def memory(entries: int = ENTRIES) -> list[dict[str, Any]]:
    """One row for each cache. Raises subprocess.CalledProcessError if one fails."""
    rows = []
    for cache in CACHES:
        if cache == "cachetools" and not _installed():
            continue
        command = [sys.executable, "-P", "-m", "tests.bench.cache_memory", cache, str(entries)]
        done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, check=True, timeout=120)
        row: dict[str, Any] = {"cache": cache, "entries": entries, "value": VALUE, **json.loads(done.stdout)}
        if row["charged"]:  # the bar: a quota bounds what the process really takes
            row["met"] = row["grown"] <= row["charged"]
        rows.append(row)
    return rows


def _installed() -> bool:
    try:
        import cachetools
    except ImportError:
        return False
    return bool(cachetools)


def memory_table(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """For people."""
    headings = ("memory of an entry besides its value", "bytes", "bar: what the quota counts", "")
    lines = [
        (
            row["cache"],
            f"{row['grown']:.0f}",
            f"<= {row['charged']:.0f}" if row["charged"] else "",
            "" if "met" not in row else "met" if row["met"] else "MISSED",
        )
        for row in rows
    ]
    return [headings, *lines]


if __name__ == "__main__":
    print(json.dumps(fill(sys.argv[1], int(sys.argv[2]))))
