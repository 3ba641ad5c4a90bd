"""Whose turn it is: the threads that carry out jobs, what is noted of each, and the clock that parked ones wait for."""

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from typing import Any, Final

from busd.components.deletion.cancelled import Cancelled
from busd.components.deletion.gates import Gates, JobGate
from busd.components.deletion.governors import Governors
from busd.components.deletion.job import Job, Wish, add
from busd.components.deletion.journal import Notes
from busd.components.deletion.progress import FINAL, State
from busd.components.deletion.record import Record
from busd.components.deletion.tally import Failure
from busd.components.deletion.work import Work
from busproto.errors import BusError, Code

__all__ = ["ALIVE", "Scheduler", "not_now"]

ALIVE: Final[frozenset[State]] = frozenset({"queued", "counting", "running"})
"""While a job is at work, or will be as soon as it is its turn."""

_AGAIN: Final[frozenset[State]] = ALIVE | {"paused", "grace", "done"}
"""Where nothing is told of what kept it before."""

TICK_SECONDS: Final = 0.25
"""Between two looks at what is due and how fast it goes."""

SAVE_SECONDS: Final = 2.0
"""Between two times that the counts of a running job are noted; a crash loses so much of them, and of nothing else."""

STOP_SECONDS: Final = 30.0
"""To wait for a job to reach the end of its batch: 256 names on the slowest of disks."""

_log = logging.getLogger("busd.components.deletion")


def not_now(job: Job, verb: str) -> BusError:
    """BusError 9006: not while the job is at what it is at."""
    return BusError(Code.DELETION_JOB_STATE, job=job.record.job, verb=verb, state=job.record.state)


def _as_bus_error(job: Job, error: Exception) -> BusError:
    """``error`` as who asks is told of it."""
    if isinstance(error, BusError):
        return error
    reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    return BusError(Code.DELETION_FAILED, path=job.record.job, reason=reason)


class Scheduler:
    """The jobs of a `Jobs`, by id, and their threads. Thread-safe.

    Args:
        notes: the journal.
        gates: the throttles.
        governors: None: without.
        per_tenant: jobs of one tenant that are under way at a time.
        kept: ended jobs of one tenant that are remembered.
        clock, now: seconds that never go back, and since 1970.
        ended: told of each job that has ended, in its thread.

    Attributes:
        jobs: to be read and changed with ``lock`` held; so are the jobs.
        problem: why the journal could not be written of late; empty if it could.
    """

    def __init__(
        self,
        notes: Notes,
        gates: Gates,
        governors: Governors | None,
        *,
        per_tenant: int,
        kept: int,
        clock: Callable[[], float],
        now: Callable[[], float],
        ended: Callable[[Job], None],
    ) -> None:
        self.jobs: dict[str, Job] = {}
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.stopping = False
        self.problem = ""
        self.gates = gates
        self._notes = notes
        self._governors = governors
        self._most = per_tenant
        self._kept = kept
        self._clock = clock
        self._now = now
        self._ended = ended
        self._work: Work | None = None
        self._clockwork = threading.Thread(target=self._tick, name="deletion-clock", daemon=True)

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self, jobs: Iterable[Job], work: Work) -> None:
        """Begin with these jobs."""
        self._work = work
        with self.lock:
            self.jobs.update((job.record.job, job) for job in jobs)
            found = list(self.jobs.values())
        for job in found:
            self.write(job)
        self._clockwork.start()
        self.advance()

    def stop(self) -> None:
        """Stop each job at the end of its batch, or wait for it no longer than 30 s."""
        with self.lock:
            self.stopping = True
            busy = [job for job in self.jobs.values() if job.busy]
            for job in busy:
                job.interrupt("stop")
            self.changed.notify_all()
            self.changed.wait_for(lambda: not any(job.busy for job in busy), STOP_SECONDS)
        if self._clockwork.ident is not None:
            self._clockwork.join(STOP_SECONDS)
        if self._governors is not None:
            self._governors.stop()
        for job in self.jobs.values():
            if job.tombstone is not None and not job.busy:
                job.tombstone.close()
        self._notes.close()

    # -- having a job -----------------------------------------------------------------------------------------------

    @contextmanager
    def having(self, job: Job, verb: str, states: Set[State], wish: Wish | None = None) -> Iterator[bool]:
        """Have ``job`` for this thread: True. If a thread is at work on it, that is asked for ``wish``: False, once it
        has done that and ended; ``job.refusal`` says why if it could not.

        Raises BusError 9006: it is in none of ``states``, or a thread is at work on it and nothing is wished or it does
        not get there in 30 s (then what is wished is done when it does).
        """
        with self.lock:
            end = time.monotonic() + STOP_SECONDS
            before = job.fulfilled.get(wish, 0)
            while job.busy:
                if job.record.state in ALIVE:
                    if wish is None:
                        raise not_now(job, verb)
                    if job.wish != wish:
                        job.interrupt(wish)
                if not self.changed.wait(max(0.0, end - time.monotonic())):
                    raise not_now(job, verb)
            mine = job.fulfilled.get(wish, 0) == before
            if mine:
                if job.record.state not in states:
                    raise not_now(job, verb)
                job.busy = True
        if not mine:
            yield False
            return
        try:
            yield True
        finally:
            self.free(job)

    def free(self, job: Job) -> None:
        """The thread that had it has it no longer."""
        with self.lock:
            job.busy = False
            job.wish = None
            job.version += 1
            dropped = self._drop(job.record.tenant)
            self.changed.notify_all()
        for each in dropped:
            self._notes.forget(each)
        self.advance()

    def forget(self, job: Job) -> None:
        """It never was."""
        with self.lock:
            self.jobs.pop(job.record.job, None)
        self._notes.forget(job.record.job)
        self.advance()  # it may have kept another from its turn

    def _drop(self, tenant: str) -> list[str]:
        over = [job for job in self.jobs.values() if job.record.tenant == tenant and not job.waits and not job.busy]
        over.sort(key=lambda job: job.record.finished)
        names = [job.record.job for job in over[: max(0, len(over) - self._kept)]]
        for name in names:
            del self.jobs[name]
        return names

    # -- what the work asks for -----------------------------------------------------------------------------------

    def note(self, job: Job, **changes: Any) -> None:
        """See `work.Desk`. The journal has it before anybody else learns it: who is told that a job is done may go on
        from there, and a crash must not take that back.
        """
        with job.writing:
            with self.lock:
                changes = self._whole(job, changes)
                record = job.counts()
            _apply(record, changes)
            self._put(record)
            with self.lock:
                self._change(job, changes)

    def _change(self, job: Job, changes: dict[str, Any]) -> None:
        """With the lock: change the record, and tell who waits."""
        _apply(job.record, changes)
        job.version += 1
        self.changed.notify_all()

    def _whole(self, job: Job, changes: dict[str, Any]) -> dict[str, Any]:
        """``changes`` with what follows from them."""
        state = changes.get("state")
        if state in _AGAIN and "reason" not in changes:
            # Why it goes in place stays true; why it was parked or had failed does not.
            changes["reason"] = changes.get("in_place", job.record.in_place)
        if state in FINAL:
            changes["finished"] = self._now()
        if state is not None and state != "parked":
            changes["next_try"] = 0.0
        return changes

    def begin(self, job: Job) -> JobGate:
        """See `work.Desk`."""
        with self.lock:
            if job.wish is not None:
                raise Cancelled
            request = job.record.request
            gate = self.gates.open(
                job.record.tenant,
                job.root.device,
                files_per_second=request.files_per_second,
                bytes_per_second=request.bytes_per_second,
            )
            job.fresh()
            job.gate = gate
        return gate

    def over(self, job: Job) -> None:
        """See `work.Desk`."""
        with self.lock:
            walk, gate = job.walk, job.gate
            job.walk = job.gate = None
            if walk is not None:
                add(job.record, walk.tally().snapshot())
        if gate is not None:
            gate.close()

    def write(self, job: Job, *, sync: bool = True) -> None:
        """Have it in the journal as it is now."""
        with job.writing:
            with self.lock:
                if not sync and not job.busy:
                    return
                record = job.counts()
            self._put(record, sync=sync)

    def _put(self, record: Record, *, sync: bool = True) -> None:
        try:
            self._notes.write(record, sync=sync)
            self.problem = ""
        except BusError as error:
            # A full disk is what deletion is for: it goes on, and says that a crash would lose this.
            if self.problem != error.text:
                _log.warning("the journal cannot be written: %s", error.text)
            self.problem = error.text

    # -- threads --------------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Let those begin whose turn it is."""
        with self.lock:
            if self.stopping or self._work is None:
                return
            under_way: dict[str, int] = {}
            for job in self.jobs.values():
                if job.busy:
                    under_way[job.record.tenant] = under_way.get(job.record.tenant, 0) + 1
            for job in self.jobs.values():
                tenant = job.record.tenant
                if job.record.state == "queued" and not job.busy and under_way.get(tenant, 0) < self._most:
                    under_way[tenant] = under_way.get(tenant, 0) + 1
                    job.busy = True
                    job.wish = None
                    thread = threading.Thread(
                        target=self._run, args=(job, self._work), name="deletion-job", daemon=True
                    )
                    try:
                        thread.start()
                    except RuntimeError as error:  # no more threads can be had now: the clock tries again
                        job.busy = False
                        _log.warning("deletion job %s waits: %s", job.record.job, error)
                        return

    def _run(self, job: Job, work: Work) -> None:
        record = job.record
        governed = False
        try:
            if self._governors is not None:
                self._governors.take(job.root)
                governed = True
            self.note(job, state="running", started=record.started or self._now(), attempts=record.attempts + 1)
            work.run(job)
        except Cancelled:
            self._wished(job, work)
        except BusError as error:
            self._failed(job, error)
        except Exception as error:
            _log.exception("deletion job %s has failed", record.job)
            self._failed(job, _as_bus_error(job, error))
        finally:
            try:
                if self._governors is not None and governed:
                    self._governors.give(job.root)
                if job.final:
                    self._ended(job)
            finally:
                self.free(job)

    def _wished(self, job: Job, work: Work) -> None:
        wish = job.wish
        job.fulfilled[wish] = job.fulfilled.get(wish, 0) + 1
        job.refusal = None
        if wish is None or wish == "stop":
            self.note(job, state="queued")
        elif wish == "pause":
            self.note(job, state="paused")
        else:
            try:
                work.end(job, wish)
            except Exception as error:
                job.refusal = _as_bus_error(job, error)
                self.note(job, state="cancelled", reason=job.refusal.text, left_at=job.place)

    def _failed(self, job: Job, error: BusError) -> None:
        counted: dict[str, Any] = {}
        cause = error.__cause__
        if job.record.begun and isinstance(cause, OSError) and not job.record.failed:
            number = cause.errno or errno.EIO  # what was to go, itself
            failure = Failure(b"", number, "rmdir" if job.record.directory else "unlink")
            counted = {"failed": {number: 1}, "failures": [failure]}
        self.note(
            job, state="failed", reason=error.text, code=int(error.code), error=error.text, left_at=job.place, **counted
        )

    def _tick(self) -> None:
        saved = self._clock()
        while True:
            with self.lock:
                if self.stopping:
                    return
                at_work = [job for job in self.jobs.values() if job.busy]
                waiting = [job for job in self.jobs.values() if job.record.state in {"parked", "grace"}]
                left = not at_work and any(job.record.state == "queued" for job in self.jobs.values())
                self.changed.wait(TICK_SECONDS if at_work or waiting or left else None)
                now, clock = self._now(), self._clock()
                for job in at_work:
                    job.sample(clock)
                due = [job for job in waiting if job.due(now)]
                for job in due:
                    self._change(job, self._whole(job, {"state": "queued"}))
            for job in due:
                self.write(job)
            if due or left:
                self.advance()
            if clock - saved >= SAVE_SECONDS:
                saved = clock
                for job in at_work:
                    self.write(job, sync=False)


def _apply(record: Record, changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        setattr(record, name, value)
