"""One job as it is at this moment: what is noted of it, and what of it lives in this process."""

import math
import threading
from collections import deque
from typing import Final, Literal

from busd.components.deletion.gate import OpenGate
from busd.components.deletion.gates import JobGate
from busd.components.deletion.progress import FINAL, Progress, Report
from busd.components.deletion.record import Record
from busd.components.deletion.roots import Root
from busd.components.deletion.survey import Survey
from busd.components.deletion.tally import Counts
from busd.components.deletion.tombstone import Tombstone
from busd.components.deletion.walk import Removal
from busproto.errors import BusError

__all__ = ["Job", "Wish", "add"]

Wish = Literal["pause", "stop", "keep", "restore", "abandon"]
"""What the thread that has a job is to do with it at the next batch's end; "stop": this process ends."""

RATE_SECONDS: Final = 5.0
"""Over which a rate is taken: shorter and it jumps with every directory, longer and it lags behind a change."""


class Job:
    """One job. The lock of its `Jobs` guards all of it; what a thread does with a tombstone is that thread's alone.

    Attributes:
        record: what is noted.
        root: where it is.
        tombstone: what is buried of it; None if nothing is, or not any more.
        gate: of the walk under way; counting: what stops a count; walk, survey: what is under way.
        busy: whether a thread has it.
        wish: what that thread is asked to do.
        fulfilled: how often its threads have done each wish.
        refusal: why the latest wish could not be fulfilled.
        version: goes up when its state changes.
        writing: held while it is written into the journal.
    """

    def __init__(self, record: Record, root: Root) -> None:
        self.record = record
        self.root = root
        self.tombstone: Tombstone | None = None
        self.gate: JobGate | None = None
        self.counting: OpenGate | None = None
        self.walk: Removal | None = None
        self.survey: Survey | None = None
        self.busy = False
        self.wish: Wish | None = None
        self.version = 0
        self.fulfilled: dict[Wish | None, int] = {}
        self.refusal: BusError | None = None
        self.writing = threading.Lock()
        self._samples: deque[tuple[float, int]] = deque()

    @property
    def final(self) -> bool:
        """Whether it has ended, for now."""
        return self.record.state in FINAL

    @property
    def waits(self) -> bool:
        """Whether it counts as backlog: it is not over, or what it took away still lies there."""
        return not self.final or (self.tombstone is not None and self.record.state != "done")

    @property
    def place(self) -> bytes:
        """Where what is buried of it lies, below the root; empty if nothing is."""
        return b"" if self.tombstone is None else self.tombstone.place

    def due(self, now: float) -> bool:
        """Whether it has waited as long as it was to; ``now`` in seconds since 1970."""
        record = self.record
        if self.busy or record.state not in {"parked", "grace"}:
            return False
        return now >= (record.next_try if record.state == "parked" else record.until)

    def interrupt(self, wish: Wish) -> None:
        """Ask the thread that has it to stop at the next batch's end, and then do ``wish``."""
        self.wish = wish
        if self.gate is not None:
            self.gate.cancel()
        if self.counting is not None:
            self.counting.cancel()

    # -- figures --------------------------------------------------------------------------------------------------

    def counts(self) -> Record:
        """The record with what the walk under way has done so far."""
        walk = self.walk
        record = Record(**{name: getattr(self.record, name) for name in Record.__struct_fields__})
        if walk is not None:
            add(record, walk.tally().snapshot())
        return record

    def sample(self, now: float) -> None:
        """Take down how far it is; ``now`` in seconds that never go back."""
        self._samples.append((now, self._done()))
        while now - self._samples[0][0] > RATE_SECONDS:
            self._samples.popleft()

    def fresh(self) -> None:
        """Something new begins, of which the rate so far says nothing."""
        self._samples.clear()

    def _done(self) -> int:
        if self.survey is not None:
            return self.survey.found().entries
        record = self.record
        done = record.files + record.directories
        return done + (self.walk.tally().removed if self.walk is not None else 0)

    def _rate(self) -> float:
        if len(self._samples) < 2:
            return 0.0
        (first, before), (last, after) = self._samples[0], self._samples[-1]
        return max(0.0, (after - before) / (last - first)) if last > first else 0.0

    def progress(self) -> Progress:
        """How far it is."""
        record = self.counts()
        removed = record.files + record.directories
        stays = sum(map(sum, (record.failed.values(), record.parked.values(), record.spared.values())))
        seen = removed + record.held + stays
        found = self.survey.found() if self.survey is not None else None
        if found is not None:
            seen = found.entries
        elif record.found is not None and record.mode == "survey":
            seen = record.found.entries
        expected = None
        if record.found is not None and record.mode != "survey":
            # The directory itself is not in what is below it.
            expected = record.found.entries + (record.directory and record.filter is None)
        at_work = record.state in {"running", "counting"}
        rate = self._rate() if at_work else 0.0
        eta = None
        if expected is not None and not self.final and found is None:
            # What a filter spares is not in what is expected.
            left = max(0, expected - removed - stays - record.held + sum(record.spared.values()))
            eta = 0.0 if left == 0 else left / rate if rate > 0 else None
        return Progress(
            job=record.job,
            tenant=record.tenant,
            root=record.root,
            path=record.path,
            state=record.state,
            mode=record.mode,
            reason=record.reason,
            name_free=record.name_free,
            seen=seen,
            removed=removed,
            files=record.files,
            directories=record.directories,
            bytes=record.bytes,
            held=record.held,
            failed=record.failed,
            parked=record.parked,
            spared=record.spared,
            rate=round(rate, 1),
            expected=expected,
            eta_seconds=None if eta is None or not math.isfinite(eta) else round(eta, 1),
            held_back_by=self.gate.reason() if self.gate is not None and at_work else "",
            submitted=record.submitted,
            started=record.started,
            finished=record.finished,
            until=record.until,
            next_try=record.next_try,
            attempts=record.attempts,
        )

    def report(self) -> Report:
        """What it has come to."""
        record = self.counts()
        return Report(
            progress=self.progress(),
            request=record.request,
            proof=record.proof,
            failures=record.failures,
            stays=record.stays,
            plan=record.plan,
            found=record.found,
            recovered=record.recovered,
            left_at=record.left_at,
            code=record.code,
            error=record.error,
        )


def add(record: Record, counts: Counts) -> None:
    """Add a walk to what is noted: what was removed to what was; what stays is what this walk left."""
    record.files += counts.files
    record.directories += counts.directories
    record.bytes += counts.bytes
    record.held = counts.held
    record.failed = counts.failed
    record.parked = counts.parked
    record.spared = counts.spared
    record.failures = counts.failures
    record.stays = counts.stays
