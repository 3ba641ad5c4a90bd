"""What the deletion component has done, in numbers."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from busd.components.deletion.audit import REMEMBERED, AuditRecord
from busd.components.deletion.progress import Progress

__all__ = ["DeletionStatistics", "Totals"]


@dataclass(frozen=True, slots=True)
class DeletionStatistics:
    """What the deletion component has done since it was started, and what it has."""

    submitted: int
    """Jobs taken."""
    ended: Mapping[str, int]
    """Times that jobs ended, by the state in which they did. One that is resumed can end again."""
    removed: int
    """Entries removed by jobs that have ended."""
    bytes: int
    """Bytes freed by these, where they were measured."""
    removed_under_way: int
    """Entries removed by jobs that have not ended, or go on again, beyond what is in ``removed``."""
    bytes_under_way: int
    """The same of bytes."""
    jobs: Mapping[str, int]
    """Jobs that are remembered, by state."""
    failed: Mapping[int, int]
    """What these could not remove, by errno."""
    parked: Mapping[str, int]
    """What these try again later, by reason."""
    roots: int
    """Roots."""
    roots_gone: int
    """Roots that are not where they were."""
    watched: int
    """Streams that watch a job."""
    calls: int
    """Calls that wait for the disk."""


class Totals:
    """What audit records add up to. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._submitted = 0
        self._ended: Counter[str] = Counter()
        self._removed = 0
        self._bytes = 0
        self._counted: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """Of jobs that have ended, or were begun by an earlier process: nothing is counted twice."""

    def found(self, jobs: Iterable[Progress]) -> None:
        """``jobs`` were begun by an earlier process, which has counted what they have come to."""
        with self._lock:
            self._counted |= {progress.job: (progress.removed, progress.bytes) for progress in jobs}

    def add(self, record: AuditRecord) -> None:
        """Count what ``record`` tells."""
        with self._lock:
            if record.event == "submitted":
                self._submitted += 1
            elif record.event == "ended":
                removed, size = self._counted.get(record.job, (0, 0))
                self._counted[record.job] = (record.removed, record.bytes)
                if len(self._counted) > REMEMBERED:
                    self._counted.popitem(last=False)
                self._ended[record.state] += 1
                self._removed += record.removed - removed
                self._bytes += record.bytes - size

    def statistics(
        self, remembered: Iterable[Progress], *, roots: int, roots_gone: int, watched: int, calls: int
    ) -> DeletionStatistics:
        """All figures, with those of the jobs that are ``remembered``; what was counted of others is not needed."""
        remembered = list(remembered)
        states: Counter[str] = Counter()
        failed: Counter[int] = Counter()
        parked: Counter[str] = Counter()
        for progress in remembered:
            states[progress.state] += 1
            failed.update(progress.failed)
            parked.update(progress.parked)
        with self._lock:
            before = [self._counted.get(progress.job, (0, 0)) for progress in remembered]
            return DeletionStatistics(
                submitted=self._submitted,
                ended=dict(self._ended),
                removed=self._removed,
                bytes=self._bytes,
                removed_under_way=sum(max(0, p.removed - b[0]) for p, b in zip(remembered, before, strict=True)),
                bytes_under_way=sum(max(0, p.bytes - b[1]) for p, b in zip(remembered, before, strict=True)),
                jobs=dict(states),
                failed=dict(failed),
                parked=dict(parked),
                roots=roots,
                roots_gone=roots_gone,
                watched=watched,
                calls=calls,
            )
