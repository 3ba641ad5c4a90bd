"""Carrying out one job: find it, look at it, take it away, empty it, and see that it is gone.

Every step leaves the disk so that the next process can go on from there. A step that is asked to stop does so by
`Cancelled`, at the end of a batch.
"""

import errno
import os
import time
from collections.abc import Callable
from typing import Any, Final, Literal, Protocol

from busd.components.deletion.area import Area
from busd.components.deletion.cancelled import Cancelled
from busd.components.deletion.entry import entry_of, freed
from busd.components.deletion.files import Accept
from busd.components.deletion.found import Found
from busd.components.deletion.gate import Gate, OpenGate
from busd.components.deletion.gates import JobGate
from busd.components.deletion.ground import O_DIRECTORY, CannotBury, why
from busd.components.deletion.job import Job
from busd.components.deletion.limited import Limited
from busd.components.deletion.manifest import Manifest, Option
from busd.components.deletion.options import WalkOptions
from busd.components.deletion.plan import Plan
from busd.components.deletion.shown import shown
from busd.components.deletion.survey import Survey
from busd.components.deletion.system import O_SAFE, idle_io
from busd.components.deletion.tally import Counts, Failure
from busd.components.deletion.target import Target, resolve
from busd.components.deletion.tombstone import NotEmpty, Proof, Sync, Tombstone, nowhere
from busd.components.deletion.walk import Removal
from busproto.errors import BusError, Code

__all__ = ["Desk", "How", "Work"]

How = Literal["keep", "restore", "abandon"]
"""What becomes of what is left of a cancelled job. keep: it stays, out of the way, and the job can be resumed.
restore: it is put back. abandon: it stays where it is for good; the report says where."""

ROUNDS: Final = 3
"""Walks of a tree that turns out not to be empty after each, before it is left for later."""

PARK_SECONDS: Final = 5.0
PARK_LONGEST: Final = 3600.0
"""Until a parked job is tried again: doubled each time. What holds it may be a program that runs for a day."""


class Desk(Protocol):
    """Where a job's thread takes what it needs and says how far it is. See `Jobs`."""

    def note(self, job: Job, **changes: Any) -> None:
        """Change the job's record, tell who waits, and have it in the journal."""
        ...

    def begin(self, job: Job) -> JobGate:
        """The gate for a walk. Raises Cancelled if something else is wished."""
        ...

    def over(self, job: Job) -> None:
        """The walk is over: its gate is closed and its counts are in the record."""
        ...


def _least(*limits: int | None) -> int | None:
    """The least of the limits; None if there is none."""
    return min((limit for limit in limits if limit is not None), default=None)


class Work:
    """How jobs are carried out; the same for all of a `Jobs`. Every method is for the thread that has the job.

    Args:
        desk: whose jobs they are.
        workers: threads of a walk.
        by: who leaves tombstones: "node", or "local" for a process that ends with its jobs.
        now: seconds since 1970.
        sync: told each point that a crash could come at, those of `tombstone.SYNC_POINTS` and "noted", "walked".
    """

    def __init__(
        self,
        desk: Desk,
        *,
        workers: int,
        by: str,
        now: Callable[[], float] = time.time,
        sync: Sync = nowhere,
    ) -> None:
        self._desk = desk
        self._workers = workers
        self._by = by
        self._now = now
        self._sync = sync

    # -- beginning ------------------------------------------------------------------------------------------------

    def find(self, job: Job) -> Target:
        """The job's target; what it is, is noted at the first time and must be the same later. The caller's to close.

        Raises BusError 9002, 9003, 9008.
        """
        record = job.record
        target = resolve(job.root, record.path)
        if record.inode and (target.device, target.inode) != (record.device, record.inode):
            target.close()
            reason = "something else is there than when the job was submitted"
            raise BusError(Code.DELETION_CHANGED, path=shown(target.path), reason=reason)
        record.device, record.inode, record.directory = target.device, target.inode, target.directory
        return target

    def at_once(self, job: Job) -> bool:
        """Whether nothing has to be looked at before the name is taken away."""
        request = job.record.request
        limits = self._limits(job)
        look = request.dry_run or request.plan or job.record.filter is not None or request.in_place
        return not look and limits == (None, None)

    def bury(self, job: Job, target: Target) -> None:
        """Take the target away; note that it goes in place if that cannot be. Raises BusError as `Area.bury` does."""
        record = job.record
        request = record.request
        until = self._now() + request.grace_seconds if request.grace_seconds else 0.0
        options: dict[str, Option] = {
            "by": self._by,
            "submitted": record.submitted,
            "files_per_second": request.files_per_second,
            "bytes_per_second": request.bytes_per_second,
            "max_entries": request.max_entries,
            "max_bytes": request.max_bytes,
            "count": request.count,
        }
        manifest = Manifest(
            job=record.job,
            tenant=record.tenant,
            root=job.root.id,
            path=target.path,
            device=target.device,
            inode=target.inode,
            directory=target.directory,
            created=self._now(),
            until=until,
            options=options,
        )
        try:
            job.tombstone = Area.open(job.root, record.tenant).bury(target, manifest, self._sync)
        except CannotBury as reason:
            if request.grace_seconds:
                # Whoever counts on having it back must not find that it cannot be.
                text = f"it cannot be kept for a grace period: {reason.reason}"
                raise BusError(Code.DELETION_REFUSED, path=shown(target.path), reason=text) from reason
            why_so = f"in place: {reason.reason}"
            self._desk.note(job, mode="in-place", begun=True, in_place=why_so, reason=why_so)
            return
        # At once, and not when its thread gets there: who asks for it and regrets it may not have to wait.
        state = "grace" if until else record.state
        self._desk.note(job, mode="tombstone", begun=True, name_free=True, until=until, state=state)
        self._sync("noted")

    def run(self, job: Job) -> None:
        """Carry it out until it has ended or has to wait. Raises BusError (it has failed), Cancelled."""
        try:
            self._carry_out(job)
        finally:
            self._let_go(job)

    def _let_go(self, job: Job) -> None:
        """A thousand may wait: their descriptors are opened when they are needed. A process that ends with its jobs
        keeps them, as they are what tells others that it is there.
        """
        if job.tombstone is not None and self._by == "node":
            job.tombstone.close()

    def _carry_out(self, job: Job) -> None:
        idle_io()
        record = job.record
        if not record.begun:
            self._begin(job)
        if job.final:
            return
        if record.until > self._now():
            self._desk.note(job, state="grace")
        elif job.tombstone is not None:
            self._empty(job, job.tombstone)
        else:
            self._in_place(job)

    def _begin(self, job: Job) -> None:
        request = job.record.request
        with self.find(job) as target:
            if request.dry_run or request.plan or self._limits(job) != (None, None):
                found = self._look(job, target)
                self._desk.note(job, found=found)
                if request.dry_run:
                    plan = Plan.of(job.record.job, target, found, job.record.filter, self._now())
                    self._desk.note(job, mode="survey", state="done", plan=plan)
                    return
                if job.record.plan is not None:
                    job.record.plan.check(target, found, slack_percent=request.slack_percent)
                self._refuse_excess(job, found)
            if job.record.filter is not None or request.in_place:
                mode = "filter" if job.record.filter is not None else "in-place"
                self._desk.note(job, mode=mode, begun=True)
            else:
                self.bury(job, target)

    def _limits(self, job: Job) -> tuple[int | None, int | None]:
        request, settings = job.record.request, job.root.settings
        return _least(request.max_entries, settings.max_entries), _least(request.max_bytes, settings.max_bytes)

    def _refuse_excess(self, job: Job, found: Found) -> None:
        entries, size = self._limits(job)
        there = found.entries + (job.record.directory and job.record.filter is None)
        for what, used, limit in (
            ("entries that a job may remove", there, entries),
            ("bytes that a job may free", found.bytes, size),
        ):
            if limit is not None and used > limit:
                raise BusError(Code.DELETION_LIMIT, what=what, used=used, limit=limit)

    def end(self, job: Job, how: How) -> None:
        """Cancel it. Raises BusError: 9006, there is nothing to put back or to leave; 9003, 9008, it cannot be."""
        tombstone = job.tombstone
        if tombstone is None:
            self.may_end(job, how)
            self._desk.note(job, state="cancelled")
            return
        if not tombstone.claim():
            raise BusError(Code.DELETION_FAILED, path=job.record.job, reason="another process works on it")
        try:
            if how == "restore":
                over = {
                    "state": "cancelled",
                    "reason": "it was put back",
                    "name_free": False,
                    "left_at": b"",
                    "until": 0.0,
                }
                kept = tombstone.restore(lambda: self._desk.note(job, **over))
                job.tombstone = None
                self._desk.note(job, recovered=kept or b"")
            elif how == "abandon":
                place = tombstone.place
                tombstone.abandon()
                job.tombstone = None
                self._desk.note(job, state="cancelled", reason="it was abandoned", left_at=place)
            else:
                self._desk.note(job, state="cancelled", left_at=tombstone.place)
        finally:
            self._let_go(job)

    def may_end(self, job: Job, how: How) -> None:
        """Raises BusError 9006: it goes in place, and so there is nothing to put back or to leave."""
        if how != "keep" and job.record.begun and job.record.mode != "tombstone":
            verb = "putting back" if how == "restore" else "abandoning"
            raise BusError(Code.DELETION_JOB_STATE, job=job.record.job, verb=verb, state="in place")

    # -- counting -------------------------------------------------------------------------------------------------

    def _look(self, job: Job, target: Target) -> Found:
        if not target.directory:
            status = target.check()
            accept = self._accept(job)
            spared = accept(entry_of(target.name, target.name, status)) if accept is not None else None
            return Found.of(status) if spared is None else Found(seen=1, spared={spared: 1})
        fd = _open(target)
        try:
            return self._count(job, fd)
        finally:
            os.close(fd)

    def _count(self, job: Job, directory: int) -> Found:
        gate = OpenGate()
        survey = Survey(directory, gate=gate, accept=self._accept(job), workers=self._workers)
        before = job.record.state
        job.fresh()
        job.counting, job.survey = gate, survey
        try:
            self._desk.note(job, state="counting")
            if job.wish is not None:
                raise Cancelled
            return survey.run()
        finally:
            job.counting = job.survey = None
            job.fresh()
            self._desk.note(job, state=before)

    def _accept(self, job: Job) -> Accept | None:
        chosen = job.record.filter
        if chosen is None:
            return None
        now = self._now
        return lambda entry: chosen.spares(entry, now())

    # -- removing -------------------------------------------------------------------------------------------------

    def _empty(self, job: Job, tombstone: Tombstone) -> None:
        """Walk what is buried, and end it."""
        record = job.record
        if not tombstone.claim():
            self._park(job, "another process works on it")
            return
        directory = tombstone.directory
        size = 0 if directory is not None else freed(tombstone.status())
        reason = ""
        if directory is not None and record.request.count and record.found is None:
            self._desk.note(job, found=self._count(job, directory))
        for _ in range(ROUNDS):
            if directory is not None:
                counts = self._walk(job, directory, tombstone.hoist)
                self._sync("walked")
                if self._stays(job, counts, tombstone.place):
                    return
            try:
                tombstone.finish(lambda proof: self._finished(job, proof, size))
            except NotEmpty as left:
                reason = str(left.fields.get("reason", ""))
                continue
            except BusError:
                if job.final:  # it is done, and only the empty tombstone could not be removed: a scan will
                    break
                raise
            break
        else:
            self._park(job, f"busy: {reason}")
            return
        tombstone.close()
        job.tombstone = None

    def _finished(self, job: Job, proof: Proof, size: int) -> None:
        record = job.record
        one = {"directories": record.directories + 1} if record.directory else {"files": record.files + 1}
        self._desk.note(job, state="done", proof=proof, bytes=record.bytes + size, name_free=True, left_at=b"", **one)

    def _in_place(self, job: Job) -> None:
        record = job.record
        try:
            target = self.find(job)
        except BusError as failed:
            if isinstance(failed.__cause__, FileNotFoundError) and record.attempts > 1:
                # An earlier try removed it, and its process ended before it could say so.
                self._desk.note(job, state="done", proof=Proof(gone=True, basis="name", links=None), name_free=True)
                return
            raise
        with target:
            if not target.directory:
                self._remove_one(job, target)
                return
            fd = _open(target)
            try:
                self._empty_in_place(job, target, fd)
            finally:
                os.close(fd)

    def _empty_in_place(self, job: Job, target: Target, fd: int) -> None:
        accept = self._accept(job)
        if job.record.request.count and job.record.found is None:
            self._desk.note(job, found=self._count(job, fd))
        for _ in range(ROUNDS):
            counts = self._walk(job, fd, None, accept)
            self._sync("walked")
            if self._stays(job, counts, b""):
                return
            if accept is not None:
                self._desk.note(job, state="done")
                return
            target.check()
            try:
                os.rmdir(target.name, dir_fd=target.parent)
            except OSError as failed:
                if failed.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                    continue
                raise BusError(Code.DELETION_FAILED, path=shown(target.path), reason=why(failed)) from failed
            links = os.fstat(fd).st_nlink
            self._finished(job, Proof(gone=links == 0, basis="descriptor", links=links), 0)
            return
        self._park(job, "busy: something came into it after it was emptied")

    def _remove_one(self, job: Job, target: Target) -> None:
        """What is no directory, in place."""
        status = target.check()
        accept = self._accept(job)
        spared = accept(entry_of(target.name, target.name, status)) if accept is not None else None
        if spared is not None:
            self._desk.note(job, state="done", spared={spared: 1})
            return
        try:
            os.unlink(target.name, dir_fd=target.parent)
        except OSError as failed:
            raise BusError(Code.DELETION_FAILED, path=shown(target.path), reason=why(failed)) from failed
        links = status.st_nlink - 1
        self._finished(job, Proof(gone=True, basis="name", links=links), freed(status))

    def _walk(self, job: Job, directory: int, hoist: int | None, accept: Accept | None = None) -> Counts:
        """One walk; its counts are in the record after it. Raises Cancelled, BusError 9004."""
        request = job.record.request
        entries, size = self._limits(job)
        inner = self._desk.begin(job)
        gate: Gate = inner
        limited: Limited | None = None
        if (entries, size) != (None, None):
            # What earlier walks removed counts: the limit is the job's.
            before = job.record.files + job.record.directories
            # The directory itself goes last, past this gate.
            before += job.record.directory and accept is None
            left = None if entries is None else max(0, entries - before)
            gate = limited = Limited(inner, left, None if size is None else max(0, size - job.record.bytes))
        measure = size is not None or request.bytes_per_second is not None or request.count
        options = WalkOptions(chmod=job.root.settings.chmod, measure=measure)
        walk = Removal(directory, hoist=hoist, gate=gate, options=options, accept=accept, workers=self._workers)
        job.walk = walk
        try:
            return walk.run().snapshot()
        except Cancelled:
            if limited is not None and limited.exceeded is not None:
                raise limited.exceeded from None
            raise
        finally:
            self._desk.over(job)

    # -- what stays -----------------------------------------------------------------------------------------------

    def _stays(self, job: Job, counts: Counts, place: bytes) -> bool:
        """Whether something stays after a walk that was to take all; then the job is parked or has failed."""
        if counts.parked:
            self._park(job, ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.parked.items())))
            return True
        if counts.failed:
            first: Failure = counts.failures[0]
            number = sum(counts.failed.values())
            what = f"{number} could not be removed, the first at {shown(first.path) or '.'}: {os.strerror(first.errno)}"
            code = int(Code.DELETION_FAILED)
            self._desk.note(job, state="failed", reason=what, code=code, error=what, left_at=place)
            return True
        return False

    def _park(self, job: Job, reason: str) -> None:
        parks = job.record.parks
        wait = min(PARK_LONGEST, PARK_SECONDS * 2 ** min(20, parks))
        next_try = self._now() + wait
        self._desk.note(job, state="parked", reason=reason, next_try=next_try, parks=parks + 1, left_at=job.place)


def _open(target: Target) -> int:
    """The target, a directory, for reading. Raises BusError 9003, 9008."""
    try:
        fd = os.open(target.name, os.O_RDONLY | O_DIRECTORY | O_SAFE, dir_fd=target.parent)
    except OSError as failed:
        target.check()
        raise BusError(Code.DELETION_FAILED, path=shown(target.path), reason=why(failed)) from failed
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino) != target.key:
        os.close(fd)
        raise BusError(Code.DELETION_CHANGED, path=shown(target.path), reason="something else is there by now")
    return fd
