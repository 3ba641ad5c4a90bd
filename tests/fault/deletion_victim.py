"""A process that runs deletion jobs as a node does, and is killed where it is told to be.

    python deletion_victim.py

For each line of JSON on its standard input, an `Order`, it forks a child that does the work below a root and is killed
by SIGKILL in the middle of it. The answer is one line: "killed", "done", or what went wrong. It forks and not its
caller, which has threads.

Where a child is killed (``kill``):

    never           it lives
    sync:POINT      at a named sync point of the jobs or their tombstones
    unlink:N        in a walk, before its N-th file
    final           before the emptied tree, or the single file, is itself removed
    noting:N        in the journal, when a record is written and before it gets its name, for the N-th time
    noted:N         in the journal, when it has its name and before that is synced
    acked:N         when its caller was told of what it had asked for, for the N-th time
    call:N          before the N-th call that changes the disk
    after:SECONDS   from outside, so long after it began
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from busd.components.deletion import area, tombstone
from busd.components.deletion.filters import Filter
from busd.components.deletion.ground import TREE
from busd.components.deletion.jobs import Jobs
from busd.components.deletion.progress import FINAL, Report
from busd.components.deletion.request import JobRequest
from busd.components.deletion.roots import Roots, RootSettings

TENANTS: Final = ("acme", "globex")

CHANGING: Final = ("mkdir", "rmdir", "unlink", "rename", "replace", "write", "fsync", "chmod", "fchmod", "fchown")

LONG: Final = 3600.0
"""Seconds of a grace period that does not end in a test."""

KEPT_BYTES: Final = 2
"""A file of no more than so many bytes is not what the filter's job is for."""

MANY: Final = 12
"""Trees of each tenant."""

LIVES: Final = 20.0
"""Seconds that no child lives longer than, whatever happens."""

_write = os.write  # not the one that is counted


class Order(msgspec.Struct, frozen=True):
    """What to do: ``work`` is a key of WORK; ``root`` and ``state`` are directories, ``acks`` is a file for what the
    caller is told: lines of a job's id and what that is.
    """

    work: str
    kill: str
    root: str
    state: str
    acks: str


def open_roots(directory: str | Path) -> Roots:
    """The root ``data`` at ``directory``, for both tenants."""
    settings = RootSettings(id="data", path=Path(directory), tenants=frozenset(TENANTS))
    return Roots.open([settings])


def settled(report: Report) -> bool:
    """Whether nothing will change of it by itself for long: it is over, or it was to wait."""
    progress, request = report.progress, report.request
    if progress.state in FINAL or progress.state == "paused":
        return True
    if progress.state == "grace":
        return progress.until - time.time() > LONG / 2
    return request.files_per_second == 0.0 and progress.held_back_by != ""


class Caller:
    """Who has work done, and writes down what it was told."""

    def __init__(self, jobs: Jobs, acks: str, die: Callable[[str], None]) -> None:
        self.jobs = jobs
        self._acks = os.open(acks, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._die = die

    def ack(self, job: str, what: str) -> None:
        _write(self._acks, f"{job} {what}\n".encode())
        self._die("acked")

    def submit(self, path: bytes = b"", tenant: str = "acme", **fields: Any) -> str:
        """Have ``path`` deleted; the job's id."""
        root = "" if "plan" in fields else "data"
        job = self.jobs.submit(tenant, JobRequest(root=root, path=path, **fields)).job
        self.ack(job, "submit")
        return job

    def until(self, job: str) -> None:
        """Return when it has settled."""
        while not settled(report := self.jobs.report("node", job)):
            self.jobs.wait("node", job, 0.01)
        self.ack(job, report.progress.state)


def tombstone_job(caller: Caller) -> None:
    caller.until(caller.submit(b"jobs/old"))


def file(caller: Caller) -> None:
    caller.until(caller.submit(b"jobs/single"))


def in_place(caller: Caller) -> None:
    caller.until(caller.submit(b"jobs/old", in_place=True))


def file_in_place(caller: Caller) -> None:
    caller.until(caller.submit(b"jobs/single", in_place=True))


def filtered(caller: Caller) -> None:
    caller.until(caller.submit(b"jobs/old", filter=Filter(larger_than=KEPT_BYTES)))


def limited(caller: Caller) -> None:
    """One that is looked at first, and so buried by its own thread."""
    caller.until(caller.submit(b"jobs/old", max_entries=1000, count=True))


def grace(caller: Caller) -> str:
    job = caller.submit(b"jobs/old", grace_seconds=LONG)
    caller.until(job)
    return job


def grace_over(caller: Caller) -> None:
    caller.until(caller.submit(b"jobs/old", grace_seconds=0.01))


def undelete(caller: Caller) -> None:
    job = grace(caller)
    caller.jobs.undelete("acme", job)
    caller.ack(job, "undelete")


def held(caller: Caller) -> str:
    """One that has begun and removes nothing."""
    job = caller.submit(b"jobs/old", files_per_second=0.0)
    caller.until(job)
    return job


def paused(caller: Caller) -> None:
    job = held(caller)
    caller.jobs.pause("acme", job)
    caller.ack(job, "pause")


def restore(caller: Caller) -> None:
    job = held(caller)
    caller.jobs.cancel("acme", job, "restore")
    caller.ack(job, "restore")


def keep(caller: Caller) -> None:
    job = held(caller)
    caller.jobs.cancel("acme", job, "keep")
    caller.ack(job, "keep")


def abandon(caller: Caller) -> None:
    job = held(caller)
    caller.jobs.cancel("acme", job, "abandon")
    caller.ack(job, "abandon")


def dry_run(caller: Caller) -> str:
    job = caller.submit(b"jobs/old", dry_run=True)
    caller.until(job)
    return job


def plan(caller: Caller) -> None:
    caller.until(caller.submit(plan=dry_run(caller)))


def many(caller: Caller) -> None:
    """Jobs of two tenants and of every kind, as fast as they can be asked for."""
    kinds: list[dict[str, Any]] = [
        {},
        {"in_place": True},
        {"count": True},
        {"max_entries": 1000},
        {"grace_seconds": 0.05},
        {"files_per_second": 400.0},
    ]
    jobs = [
        caller.submit(f"{tenant}/{number}".encode(), tenant, **kinds[number % len(kinds)])
        for number in range(MANY)
        for tenant in TENANTS
    ]
    for job in jobs:
        caller.until(job)


def resume(caller: Caller) -> None:
    """What a node does that comes up, until it has no more to do."""
    for progress in caller.jobs.list("node", all=True, limit=1000):
        caller.until(progress.job)


WORK: Final[dict[str, Callable[[Caller], object]]] = {
    "tombstone": tombstone_job,
    "file": file,
    "in-place": in_place,
    "file-in-place": file_in_place,
    "filter": filtered,
    "limited": limited,
    "grace": grace,
    "grace-over": grace_over,
    "undelete": undelete,
    "paused": paused,
    "restore": restore,
    "keep": keep,
    "abandon": abandon,
    "dry-run": dry_run,
    "plan": plan,
    "many": many,
    "resume": resume,
}


def death(kill: str) -> Callable[[str], None]:
    """What is told each kind of moment, and ends the process at the one that ``kill`` names."""
    what, _, number = kill.partition(":")
    left = int(number) if number.isdigit() else 1

    def die(moment: str) -> None:
        nonlocal left
        if moment == what:
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return die


def unsynced(fd: Any) -> None:
    """An fsync that does nothing."""


def arm(die: Callable[[str], None]) -> None:
    """Have ``die`` told before each call that changes the disk, and of what kind it is."""
    unlink, rmdir, replace = os.unlink, os.rmdir, os.replace
    own = {TREE, b"old", b"single"}

    def unlinked(name: Any, **named: Any) -> None:
        # The walk has its names as text, and what is around it has bytes.
        die("unlink" if isinstance(name, str) and not name.endswith(".new") else "final" if name in own else "")
        unlink(name, **named)

    def emptied(name: Any, **named: Any) -> None:
        die("final" if name in own else "")
        rmdir(name, **named)

    def replaced(*names: Any, **named: Any) -> None:
        die("noting")
        replace(*names, **named)
        die("noted")

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            die("call")
            return real(*arguments, **named)

        return call

    # What is written outlives its process without it, and it takes longer than all else together.
    os.fsync = unsynced
    os.unlink, os.rmdir, os.replace = unlinked, emptied, replaced  # type: ignore[assignment]
    for name in CHANGING:
        setattr(os, name, counted(getattr(os, name)))
    for module in (area, tombstone):
        vars(module)["rename_new"] = counted(vars(module)["rename_new"])


def child(order: Order) -> None:
    die = death(order.kill)
    arm(die)
    point = order.kill.removeprefix("sync:")

    def sync(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    signal.alarm(int(LIVES))
    # One worker, so that calls come in one order; the clock's own writes come after two seconds.
    jobs = Jobs(open_roots(order.root), Path(order.state), workers=1, adaptive=False, sync=sync)
    jobs.start()
    WORK[order.work](Caller(jobs, order.acks, die))
    jobs.stop()


def main() -> None:
    for line in sys.stdin:
        order = msgspec.json.decode(line, type=Order)
        pid = os.fork()
        if pid == 0:
            try:
                child(order)
            except BaseException as failed:
                print(repr(failed), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        if order.kill.startswith("after:"):
            time.sleep(float(order.kill.partition(":")[2]))
            os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print({0: "done", -signal.SIGKILL: "killed"}.get(status, f"exit {status}"), flush=True)


if __name__ == "__main__":
    main()
