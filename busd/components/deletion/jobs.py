"""Deletion jobs: many of them, of many tenants, each carried out by threads of its own.

A tenant has so many under way at a time; its others wait. Between tenants the gates share each file system, so nobody
waits for another's ten million files. What a crash leaves is found at the next start: see `recovery`.
"""

import builtins
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import Any, Self

import msgspec

from busd.components.deletion.area import Area
from busd.components.deletion.audit import AuditRecord, Event
from busd.components.deletion.gates import Gates
from busd.components.deletion.governors import Governors
from busd.components.deletion.job import Job
from busd.components.deletion.journal import Journal, Memory
from busd.components.deletion.progress import Progress, Report, State
from busd.components.deletion.record import Record
from busd.components.deletion.recovery import Quarantined, recover
from busd.components.deletion.request import JobRequest
from busd.components.deletion.roots import NODE, Roots
from busd.components.deletion.scheduler import ALIVE, Scheduler, not_now
from busd.components.deletion.tombstone import Sync, nowhere
from busd.components.deletion.work import How, Work
from busproto.errors import BusError, Code

__all__ = ["How", "Jobs"]

_log = logging.getLogger("busd.components.deletion")


class Jobs:
    """All jobs below some roots. Every method may be called from any thread, and may block as long as the disk does.

    Args:
        roots: open; they stay the caller's.
        state: directory of the journal; None: without.
        jobs_per_tenant: that are under way at a time.
        workers: threads of each.
        backlog_jobs: that a tenant may have that are not over.
        kept: ended jobs of each tenant that are remembered.
        adaptive: whether each file system's rate is kept to what its neighbours bear.
        recover: whether what a crash left goes on at `start`; else it is listed as paused.
        local: whether this is a process that ends with its jobs, beside a node that may have the same roots.
        gates: the throttles.
        clock, now: seconds that never go back, and since 1970.
        audit: told of each submission and end, and of what is done to jobs in between.
        sync: told each point that a crash could come at.

    Raises BusError 9008: the state directory cannot be used, or another process has it.
    """

    def __init__(
        self,
        roots: Roots,
        state: Path | None = None,
        *,
        jobs_per_tenant: int = 2,
        workers: int = 2,
        backlog_jobs: int = 1000,
        kept: int = 200,
        adaptive: bool = True,
        recover: bool = True,
        local: bool = False,
        gates: Gates | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        audit: Callable[[AuditRecord], None] | None = None,
        sync: Sync = nowhere,
    ) -> None:
        self.roots = roots
        self.gates = gates or Gates()
        self._notes = Memory() if state is None else Journal(state)
        self._backlog = backlog_jobs
        self._recover = recover
        self._local = local
        self._now = now
        self._audit = audit
        self._audit_problem = ""
        self._sync = sync
        self._quarantined: list[Quarantined] = []
        self._scheduler = Scheduler(
            self._notes,
            self.gates,
            Governors(self.gates) if adaptive else None,
            per_tenant=jobs_per_tenant,
            kept=kept,
            clock=clock,
            now=now,
            ended=lambda job: self._tell(job, "ended"),
        )
        self._work = Work(self._scheduler, workers=workers, by="local" if local else "node", now=now, sync=sync)

    @property
    def problem(self) -> str:
        """Why the journal or the audit could not be written of late; empty if they could."""
        return self._scheduler.problem or self._audit_problem

    @property
    def quarantined(self) -> builtins.list[Quarantined]:
        """What lay, at the start, where jobs keep what they delete, and is no job's: it is never touched."""
        return self._quarantined.copy()

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Find what was begun before, and go on with it. Raises BusError 9008: the journal cannot be read."""
        jobs, self._quarantined = recover(
            self.roots,
            self._notes.load(),
            local=self._local,
            note=self._notes.write,
            now=self._now,
            sync=self._sync,
        )
        ended: list[Job] = []
        for job in jobs:
            if job.final and not job.record.finished:  # the start itself has found that it is over
                job.record.finished = self._now()
                ended.append(job)
            elif not self._recover and not job.final and job.record.until <= self._now():
                job.record.state, job.record.reason = "paused", "left by an earlier run"
        self._scheduler.start(jobs, self._work)
        for job in ended:
            self._tell(job, "ended")

    def stop(self) -> None:
        """Stop at the end of each batch. What is unfinished goes on at the next start."""
        self._scheduler.stop()
        if self._local:
            for root in self.roots.for_tenant(NODE):
                Area(root, NODE).tidy()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- verbs ----------------------------------------------------------------------------------------------------

    def submit(self, tenant: str, request: JobRequest) -> Progress:
        """Begin a job. Where nothing has to be looked at first, its name is free when this returns.

        Raises BusError: 9001, no such root for this tenant; 9002, 9003, 9008 as ``resolve``; 9005, no such plan; 9006,
        the plan is not ready; 9007, too many of the tenant's jobs wait.
        """
        record = Record(
            job=self._new_id(),
            tenant=tenant,
            request=request,
            root=request.root,
            path=request.path,
            filter=request.filter,
            submitted=self._now(),
        )
        if request.plan:
            planned = self._find(tenant, request.plan)
            if planned.record.mode != "survey" or planned.record.plan is None:
                raise not_now(planned, "carrying out its plan")
            record.plan = planned.record.plan
            record.root, record.path, record.filter = (
                planned.record.root,
                planned.record.path,
                planned.record.filter,
            )
        job = Job(record, self.roots.get(record.root, tenant))
        job.busy = True
        with self._work.find(job) as target:
            if record.plan is not None:
                record.plan.check(target)
            with self._scheduler.lock:
                if self._scheduler.stopping:
                    raise RuntimeError("these jobs have been stopped")
                self._admit(tenant)
                self._scheduler.jobs[record.job] = job
            try:
                self._scheduler.write(job)
                if self._work.at_once(job):
                    self._work.bury(job, target)
            except BaseException:
                self._scheduler.forget(job)
                raise
        if job.tombstone is not None and not self._local:
            job.tombstone.close()  # a thousand may wait; its descriptors are opened when it is its turn
        self._tell(job, "submitted")
        self._scheduler.free(job)
        return self.progress(tenant, record.job)

    def pause(self, tenant: str, job: str) -> Progress:
        """Stop it at the end of its batch, until it is resumed. Raises BusError 9005, 9006."""
        found = self._find(tenant, job)
        with self._scheduler.having(found, "pausing", {"queued", "parked"}, "pause") as mine:
            if mine:
                self._scheduler.note(found, state="paused")
        return self._told(tenant, found, "paused")

    def resume(self, tenant: str, job: str) -> Progress:
        """Go on with what is paused, cancelled but kept, or failed; try at once what is parked; end a grace period. Of
        what is under way nothing changes. Raises BusError 9005, 9006, 9007.
        """
        found = self._find(tenant, job)
        record = found.record
        if record.state in ALIVE:
            return self.progress(tenant, job)
        with self._scheduler.having(found, "resuming", {"paused", "parked", "grace", "failed", "cancelled"}):
            if record.mode == "tombstone" and found.tombstone is None:  # it was put back, or abandoned
                raise not_now(found, "resuming")
            if not found.waits:
                with self._scheduler.lock:
                    self._admit(tenant)
            if record.state == "grace":
                self._scheduler.note(found, until=0.0)
            again: dict[str, Any] = {"failed": {}, "failures": []}  # what fails again is counted again
            self._scheduler.note(found, state="queued", finished=0.0, code=0, error="", left_at=b"", parks=0, **again)
        return self._told(tenant, found, "resumed")

    def change(
        self,
        tenant: str,
        job: str,
        *,
        files_per_second: float | EllipsisType | None = ...,
        bytes_per_second: float | EllipsisType | None = ...,
    ) -> Progress:
        """Change its rates, at once. None: unbounded; 0: nothing begins. Raises BusError 9005, 9006; ValueError."""
        found = self._find(tenant, job)
        given = {"files_per_second": files_per_second, "bytes_per_second": bytes_per_second}
        rates = {name: rate for name, rate in given.items() if not isinstance(rate, EllipsisType)}
        with self._scheduler.lock:
            if found.final:
                raise not_now(found, "changing")
            # At once: a walk that begins before it is in the journal goes by it.
            request = found.record.request = msgspec.structs.replace(found.record.request, **rates)
            gate = found.gate
            if bytes_per_second is not ... and bytes_per_second is not None and found.walk is not None:
                found.walk.files.measure = True  # else no batch would have any
        if gate is not None:
            gate.change(files_per_second=files_per_second, bytes_per_second=bytes_per_second)
        self._scheduler.note(found, request=request)
        detail = ", ".join(f"{name}: {'none' if rate is None else rate}" for name, rate in rates.items())
        return self._told(tenant, found, "changed", detail)

    def cancel(self, tenant: str, job: str, how: How = "keep") -> Progress:
        """End it. Raises BusError: 9005; 9006, it is over, or nothing of it can be put back or left; 9003, 9008 if it
        cannot be put back: then what is left is kept.
        """
        found = self._find(tenant, job)
        states: set[State] = {"queued", "paused", "parked", "grace", "failed", "cancelled"}
        if not found.final:
            self._work.may_end(found, how)  # before its thread is asked, which would stop it
        over = False
        with self._scheduler.having(found, "cancelling", states, how) as mine:
            if mine:
                over = found.final
                if over and found.tombstone is None:
                    raise not_now(found, "cancelling")
                self._work.end(found, how)
            elif found.refusal is not None:
                raise found.refusal
        if mine and not over:
            self._tell(found, "ended")
        return self._told(tenant, found, "cancelled", how)

    def undelete(self, tenant: str, job: str) -> Progress:
        """Put back what is whole: in its grace period, or not begun. Raises BusError: 9005; 9006, not all is left; 9003
        if something else is at its place by now.
        """
        found = self._find(tenant, job)
        with self._scheduler.having(found, "undeleting", {"grace", "queued", "paused"}):
            record = found.record
            if found.tombstone is None or record.files + record.directories or record.lost:
                raise not_now(found, "undeleting")
            self._work.end(found, "restore")
        self._tell(found, "ended")
        return self._told(tenant, found, "undeleted")

    # -- looking --------------------------------------------------------------------------------------------------

    def progress(self, tenant: str, job: str) -> Progress:
        """How far it is. Raises BusError 9005."""
        found = self._find(tenant, job)
        with self._scheduler.lock:
            return found.progress()

    def report(self, tenant: str, job: str) -> Report:
        """What it has come to so far. Raises BusError 9005."""
        found = self._find(tenant, job)
        with self._scheduler.lock:
            return found.report()

    def wait(self, tenant: str, job: str, seconds: float) -> Progress:
        """Return when its state has changed, or after ``seconds``; at once if it has ended. Raises BusError 9005."""
        found = self._find(tenant, job)
        scheduler = self._scheduler
        with scheduler.lock:
            before = found.version
            scheduler.changed.wait_for(
                lambda: (found.final and not found.busy) or found.version != before or scheduler.stopping, seconds
            )
            return found.progress()

    def list(self, tenant: str, *, all: bool = False, limit: int = 100) -> builtins.list[Progress]:
        """The tenant's jobs that are not over, or all that are remembered; the latest first. The node sees all."""
        with self._scheduler.lock:
            mine = [job for job in self._scheduler.jobs.values() if tenant in {NODE, job.record.tenant}]
            found = [job for job in mine if all or job.waits]
            found.sort(key=lambda job: job.record.submitted, reverse=True)
            return [job.progress() for job in found[:limit]]

    def join(self, seconds: float) -> bool:
        """Wait until nothing is under way or about to be, for so long at most; whether it is so."""

        def idle() -> bool:
            return not any(job.busy or job.record.state in ALIVE for job in self._scheduler.jobs.values())

        with self._scheduler.lock:
            return self._scheduler.changed.wait_for(idle, seconds)

    # -- the rest -------------------------------------------------------------------------------------------------

    def _new_id(self) -> str:
        while (job := secrets.token_hex(5)) in self._scheduler.jobs:
            pass
        return job

    def _find(self, tenant: str, job: str) -> Job:
        with self._scheduler.lock:
            found = self._scheduler.jobs.get(job)
            if found is None or tenant not in {NODE, found.record.tenant}:
                raise BusError(Code.DELETION_JOB_UNKNOWN, job=job[:100])
            return found

    def _admit(self, tenant: str) -> None:
        """With the lock: whether one more may wait. Raises BusError 9007."""
        used = sum(1 for job in self._scheduler.jobs.values() if job.record.tenant == tenant and job.waits)
        if used >= self._backlog:
            raise BusError(Code.DELETION_BACKLOG, tenant=tenant, used=used, limit=self._backlog)

    def _told(self, tenant: str, job: Job, event: Event, detail: str = "") -> Progress:
        self._tell(job, event, detail)
        return self.progress(tenant, job.record.job)

    def _tell(self, job: Job, event: Event, detail: str = "") -> None:
        if self._audit is None:
            return
        with self._scheduler.lock:
            record = AuditRecord.of(event, job.report(), (job.record.device, job.record.inode), self._now(), detail)
        try:
            self._audit(record)
            self._audit_problem = ""
        except BusError as error:
            if self._audit_problem != error.text:
                _log.warning("the audit record cannot be written: %s", error.text)
            self._audit_problem = error.text
