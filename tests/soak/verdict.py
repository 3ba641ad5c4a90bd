"""What must hold at the end: each function returns what does not, in words that name it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.soak.samples import MIB, NODE, Footprint, Sample, floors, footprints, slope_per_hour

CULPRITS = frozenset(
    {"boundary", "caller", "component", "endpoint", "path", "process", "tenant", "uid", "unit", "user", "where"}
)
"""Fields of a line of log that say whose fault it is: who attached, which component, which file and line."""

RSS_GROWTH = {NODE: 16.0}
"""MiB by which the floor of the last fifth may exceed that of the first, by process."""

WORKER_RSS_GROWTH = 8.0
"""The same for each component. Its instance is young at any time; what grows is what one hands to the next."""

QUIET_GROWTH = 12.0
"""MiB that the node may take more than before when it is left alone again. The allocator's pools are not packed any
tighter; what is really kept is counted."""

BLOCKS_GROWTH = 20_000
"""Objects' blocks that the node may have more than before, without garbage. Caches and logs that are bounded fill up:
8,000 in half an hour. If each endpoint that left had left one object, it would be 40,000."""

MALLOC_GROWTH = 4.0
"""MiB that C's allocator may have given out more than before."""

THREADS = 8
"""Threads of asyncio's pool, which come when they are first needed and stay: the processors' number and four, at
least."""


LATE = "kept waiting"
"""How an actor counts that it could not attach within the two seconds that a handshake may take."""

LATE_ALLOWED = 3
LATE_SHARE = 0.05
"""So many, and this share of what it does: a machine may stand still, and no machine is promised to a soak alone."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """What there is when nobody does anything: before the soak, once everything has run, and after it."""

    standing: Mapping[str, Any]
    """What is attached, and what each account holds."""
    processes: Mapping[str, Footprint]
    tasks: int
    in_use: int = 0
    """Bytes that the node takes once it has given back what is free."""
    blocks: int = 0
    """Blocks of memory that Python has given out in the node, once garbage was collected."""
    malloc: int = 0
    """Bytes that C's allocator has."""
    kinds: Mapping[str, int] = field(default_factory=dict)
    """The node's descriptors by what they are of."""


def grown(samples: Sequence[Sample]) -> list[str]:
    """Processes whose memory grows."""
    found = []
    for name, series in footprints(samples).items():
        process, _, figure = name.partition(" ")
        if not figure.startswith("RSS"):
            continue
        first, last = floors(series)
        bound = RSS_GROWTH.get(process, WORKER_RSS_GROWTH)
        if last - first > bound:
            slope = slope_per_hour(series)
            found.append(
                f"memory: {process} grew from {first:.1f} to {last:.1f} MiB at least, {slope:+.1f} MiB an hour; "
                f"{bound:g} MiB are allowed"
            )
    return found


def differs(before: Quiet, after: Quiet) -> list[str]:
    """What was not given back."""
    found = []
    if before.standing != after.standing:
        found.append(f"standing: before {before.standing}, after {after.standing}")
    for name, now in after.processes.items():
        was = before.processes.get(name)
        if was is None:
            continue
        if now.descriptors > was.descriptors:
            more = Counter(after.kinds) - Counter(before.kinds) if name == NODE else {}
            found.append(f"descriptors: {name} had {was.descriptors}, and has {now.descriptors}; more: {dict(more)}")
        if now.threads > max(was.threads, THREADS):
            found.append(f"threads: {name} had {was.threads}, and has {now.threads}")
    if after.in_use - before.in_use > QUIET_GROWTH * MIB:
        found.append(
            f"memory: the node had {before.in_use / MIB:.1f} MiB in use, and has {after.in_use / MIB:.1f}; "
            f"{QUIET_GROWTH:g} MiB more are allowed"
        )
    if after.blocks - before.blocks > BLOCKS_GROWTH:
        found.append(
            f"memory: the node had {before.blocks:,} blocks, and has {after.blocks:,}; "
            f"{BLOCKS_GROWTH:,} more are allowed"
        )
    if after.malloc - before.malloc > MALLOC_GROWTH * MIB:
        found.append(
            f"memory: the node had {before.malloc / MIB:.1f} MiB from malloc, and has {after.malloc / MIB:.1f}; "
            f"{MALLOC_GROWTH:g} MiB more are allowed"
        )
    found += [f"processes: {name} has gone" for name in before.processes.keys() - after.processes.keys()]
    if after.tasks > before.tasks:
        found.append(f"tasks: the node had {before.tasks}, and has {after.tasks}")
    return found


def late(name: str, done: Mapping[str, int]) -> list[str]:
    """An actor ``name`` that was kept waiting too often."""
    acts = sum(count for what, count in done.items() if what != LATE)
    if done.get(LATE, 0) <= LATE_ALLOWED + LATE_SHARE * acts:
        return []
    return [f"{name}: it was kept waiting {done[LATE]} times, and has done {acts} things"]


def nameless(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Error lines that name nobody, and bugs: a node's, a component's traceback, lines that are no JSON."""
    found = []
    for line in log:
        error = line.get("level") in ("error", "critical")
        if line["event"] in ("internal-error", "not-json", "stop-overdue"):
            found.append(f"log: {dict(line)}")
        elif error and not CULPRITS & line.keys():
            found.append(f"log: an error that names nobody: {dict(line)}")
        elif line["event"] == "component-output" and "Traceback" in str(line.get("line", "")):
            found.append(f"log: {line.get('component')} wrote a traceback: {dict(line)}")
    return found


def events(log: Sequence[Mapping[str, Any]]) -> Counter[tuple[str, str]]:
    """How often each event was logged, by level; those that a limiter counted included."""
    found: Counter[tuple[str, str]] = Counter()
    for line in log:
        found[str(line.get("level")), line["event"]] += int(line.get("repeated", 1))
    return found


def types_grown(before: Mapping[str, int], after: Mapping[str, int], least: int = 200) -> list[str]:
    """Types of which there are many more objects than before, the most first: where to look for what leaks."""
    more = {name: count - before.get(name, 0) for name, count in after.items()}
    return [f"{name} {count:+,}" for name, count in Counter(more).most_common(12) if count >= least]


def shown(quiet: Quiet) -> str:
    """In one line."""
    sizes = ", ".join(f"{name} {each.rss / MIB:.1f} MiB" for name, each in quiet.processes.items())
    return f"{sizes} (node {quiet.in_use / MIB:.1f} MiB in use); {quiet.tasks} tasks"
