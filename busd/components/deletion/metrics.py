"""The deletion component's own metrics."""

import errno
from collections import Counter
from typing import Final, get_args

from busd.components.deletion.progress import FINAL, State
from busd.components.deletion.statistics import DeletionStatistics
from busd.components.model import Figures, Metric

__all__ = ["KINDS", "METRICS", "figures"]

STATES: Final[tuple[State, ...]] = get_args(State)

WAITING: Final[tuple[State, ...]] = ("queued", "counting", "running", "paused", "parked")
"""Of jobs that are not over. One in its grace period waits for nothing but its end."""

REASONS: Final = ("busy", "changed", "mount", "nfs", "stale")
"""Why an entry is parked: those of `tally.Counts`."""

KINDS: Final = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "permission"),
    errno.EROFS: "read-only",
    **dict.fromkeys((errno.EIO, errno.ENXIO, errno.ENODEV), "io"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "space"),
    **dict.fromkeys((errno.EBUSY, errno.ENOTEMPTY, errno.ETXTBSY), "busy"),
}
"""Kind of a failure, by errno; anything else is "other"."""

OTHER: Final = "other"

METRICS: Final = (
    Metric("entries_removed_total", "counter", "Files and directories removed, by jobs under way as well."),
    Metric("bytes_freed_total", "counter", "Bytes freed by that, where jobs measure them."),
    Metric("jobs", "gauge", "Jobs that are remembered, by state.", {"state": STATES}),
    Metric("backlog", "gauge", "Jobs that wait or are under way: queued, counting, running, paused and parked."),
    Metric("jobs_submitted_total", "counter", "Jobs taken."),
    Metric(
        "jobs_ended_total",
        "counter",
        "Times that jobs ended, by the state in which they did; one that is resumed ends again.",
        {"state": tuple(state for state in STATES if state in FINAL)},
    ),
    Metric(
        "failed_entries",
        "gauge",
        "Entries that jobs which are remembered could not remove, by kind of error.",
        {"kind": (*dict.fromkeys(KINDS.values()), OTHER)},
    ),
    Metric("parked_entries", "gauge", "Entries that these try again later, by reason.", {"reason": REASONS}),
    Metric("roots", "gauge", "Roots below which entries can be deleted."),
    Metric("roots_gone", "gauge", "Roots that are not where they were, or do not answer."),
    Metric("recording_failed", "gauge", "1 while what becomes of jobs cannot be written down."),
)


def figures(statistics: DeletionStatistics, *, recording_failed: bool) -> Figures:
    """The values of `METRICS`."""
    failed: Counter[str] = Counter()
    for number, count in statistics.failed.items():
        failed[KINDS.get(number, OTHER)] += count
    return {
        "entries_removed_total": statistics.removed + statistics.removed_under_way,
        "bytes_freed_total": statistics.bytes + statistics.bytes_under_way,
        "jobs": dict(statistics.jobs),
        "backlog": sum(statistics.jobs.get(state, 0) for state in WAITING),
        "jobs_submitted_total": statistics.submitted,
        "jobs_ended_total": dict(statistics.ended),
        "failed_entries": dict(failed),
        "parked_entries": {reason: count for reason, count in statistics.parked.items() if reason in REASONS},
        "roots": statistics.roots,
        "roots_gone": statistics.roots_gone,
        "recording_failed": int(recording_failed),
    }
