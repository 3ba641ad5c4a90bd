"""The deletion component: trees below the operator's roots, deleted for whoever may, as jobs that outlive it."""

import asyncio
import builtins
import os
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from busd import __version__
from busd.components.deletion.aside import Aside
from busd.components.deletion.audit import AuditLog, AuditRecord, asking
from busd.components.deletion.filters import Filter
from busd.components.deletion.jobs import How, Jobs
from busd.components.deletion.metrics import METRICS, figures
from busd.components.deletion.progress import Progress, Report
from busd.components.deletion.request import Amount, JobRequest, Rate
from busd.components.deletion.rootinfo import RootInfo, RootWatch
from busd.components.deletion.roots import NODE
from busd.components.deletion.settings import (
    FilterText,
    RootConfig,
    open_roots,
    root_settings,
)
from busd.components.deletion.statistics import DeletionStatistics, Totals
from busd.components.deletion.watches import Watches
from busd.components.model import Budget, Component, Figures, Health, Manifest, Request, Stream, current_caller
from busd.components.statefolder import default_state, state_folder
from busd.components.who import Who
from busproto.errors import BusError, Code

__all__ = ["Deletion", "DeletionStatistics", "RootInfo"]

LIST_MAX: Final = 1000
"""Jobs in one answer."""

ALL: Final = 1 << 30
"""More jobs than there are."""

COUNT_SECONDS: Final = 1.0
"""Between two counts for its metrics; and fifty times as long as one takes, if that is more."""

ROOT_GONE: Final = "another directory or file system is at its path by now, or none"
"""What a tenant is told of a root that is not what it was; the path is the node's own affair."""

RootInfos = list[RootInfo]  # the component has an operation of the name list
States = dict[str, Progress | Exception]
Ids = list[str]

JobId = Annotated[str, Meta(min_length=1, max_length=100)]

T = TypeVar("T")


class Deletion(Component):
    """Deletes trees below the operator's roots, without following a link out of them and without disturbing others.

    Args:
        roots: the directories below which deletion is allowed.
        state: absolute path of the folder for the journal and the audit of jobs; empty: ``deletion`` beneath the
            node's state; "off": none, and jobs are known only as long as this process lives. None, for a program's own
            deletions: the same, and roots may be this user's home.
        jobs_per_tenant: jobs of one tenant that are under way at a time; its others wait.
        workers: threads of each.
        backlog_jobs: jobs of one tenant that are not over; more are refused.
        adaptive: whether each file system's rate is kept to what its neighbours bear.
        recover: whether what an earlier process left goes on; else it is listed as paused.
    """

    manifest = Manifest(
        component="deletion",
        version=__version__,
        owner="node",
        purpose="deletes large trees within bounds, and tells exactly what stays",
        operations=(
            *map(Request, ("submit", "pause", "resume", "change", "cancel", "undelete", "list", "report", "roots")),
            Stream("watch"),
        ),
        placements=("host",),  # what it moves away from keeps its disks, and the jobs on them
        budget=Budget(memory_bytes=256 << 20, cpu_percent=100.0 * (os.cpu_count() or 1)),
    )
    metrics = METRICS

    def __init__(
        self,
        *,
        roots: Annotated[list[RootConfig], Meta(max_length=256)] = [],  # noqa: B006  (it is read only)
        state: str | None = "",
        jobs_per_tenant: Annotated[int, Meta(ge=1, le=64)] = 2,
        workers: Annotated[int, Meta(ge=1, le=64)] = 2,
        backlog_jobs: Annotated[int, Meta(ge=1, le=100_000)] = 1000,
        adaptive: bool = True,
        recover: bool = True,
    ) -> None:
        local = state is None  # a program's own, beside a node that may have the same roots
        self._settings = root_settings(roots, personal=local)
        self._folder = state_folder(state, os.environ, "deletion")
        self._options: dict[str, Any] = {
            "jobs_per_tenant": jobs_per_tenant,
            "workers": workers,
            "backlog_jobs": backlog_jobs,
            "adaptive": adaptive,
            "recover": recover,
            "local": local,
        }
        self._audit = None if self._folder is None else AuditLog(self._folder / "audit")
        self._totals = Totals()
        self._figures: Figures = {}
        self._aside = Aside()
        self._watches = Watches(self._look)
        self._roots: RootWatch | None = None
        self._jobs: asyncio.Future[Jobs] | None = None
        self._ending: asyncio.Future[None] | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the roots. Raises BusError 7002 that names the one that cannot be."""
        protected = [default_state(os.environ), *([] if self._folder is None else [self._folder])]
        roots = await self._aside.run(NODE, partial(open_roots, self._settings, protected))
        self._roots = RootWatch(roots, self._aside)
        self._jobs = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Carry out the jobs, those that an earlier process left among them, until cancelled.

        Raises BusError 9008 when the state folder cannot be used, or another process has it.
        """
        if self._ending is not None:
            await asyncio.shield(self._ending)  # it was drained, and is to go on
        coming = self._coming()
        self._watches.begin()
        beginning = asyncio.ensure_future(self._aside.run("", self._begun))
        jobs: Jobs | None = None
        counting: asyncio.Future[None] | None = None
        try:
            jobs = await asyncio.shield(beginning)
            coming.set_result(jobs)
            counting = asyncio.ensure_future(self._count_on())
            await self._opened().run()
        except Exception as error:
            if not coming.done():
                coming.set_exception(error)
                coming.exception()  # it is raised here as well, whether or not a call waits
            raise
        finally:
            if counting is not None:
                counting.cancel()
            self.draining()
            self._ending = asyncio.ensure_future(self._end(beginning))
            await asyncio.shield(self._ending)

    async def stop(self) -> None:
        """Stop what is under way at the end of its batch, and close the roots."""
        await self._watches.close()
        if self._ending is not None:
            await asyncio.shield(self._ending)
        if self._roots is not None:
            self._roots.close()

    def draining(self) -> None:
        """End the streams: their jobs go on in the next instance, where they can be watched again."""
        self._watches.end()

    def health(self) -> Health:
        """Not well while a root is not where it was, or the state folder cannot be written."""
        if self._roots is not None and self._roots.gone:
            id, problem = next(iter(self._roots.gone.items()))
            return Health(False, f"root {id}: {problem}")
        jobs = self._there()
        if jobs is not None and jobs.problem:
            return Health(False, f"what becomes of jobs cannot be written down: {jobs.problem}")
        if self._audit is not None and self._audit.problem:
            return Health(False, f"the audit record cannot be written: {self._audit.problem}")
        if not self._settings:
            return Health(True, "there are no roots: nothing can be deleted; set them in deletion.toml")
        if jobs is not None and (quarantined := len(jobs.quarantined)):
            return Health(True, f"{quarantined} things lie where jobs keep what they delete, and are none of theirs")
        return Health(True)

    def _opened(self) -> RootWatch:
        assert self._roots is not None, "it was started"
        return self._roots

    def _coming(self) -> "asyncio.Future[Jobs]":
        """The jobs that are to come; those of before are gone."""
        if self._jobs is None or self._jobs.done():
            self._jobs = asyncio.get_running_loop().create_future()
        return self._jobs

    def _there(self) -> Jobs | None:
        jobs = self._jobs
        return jobs.result() if jobs is not None and jobs.done() and jobs.exception() is None else None

    def _begun(self) -> Jobs:
        folder = None if self._folder is None else self._folder / "jobs"
        jobs = Jobs(self._opened().roots, folder, audit=self._note, **self._options)
        try:
            jobs.start()
            self._totals.found(jobs.list(NODE, all=True, limit=ALL))
        except BaseException:
            jobs.stop()
            raise
        return jobs

    async def _end(self, beginning: "asyncio.Future[Jobs]") -> None:
        """Stop the jobs, even those that are only just being found."""
        self._coming()
        await asyncio.wait([beginning])
        if beginning.exception() is None:
            await self._aside.run("", beginning.result().stop)
        self._ending = None

    # -- operations ---------------------------------------------------------------------------------------------------

    async def submit(
        self,
        *,
        root: Annotated[str, Meta(max_length=64)] = "",
        path: bytes = b"",
        text: str = "",
        dry_run: bool = False,
        plan: Annotated[str, Meta(max_length=100)] = "",
        slack_percent: Annotated[float, Meta(ge=0, le=1000)] = 0.0,
        filter: FilterText | None = None,
        count: bool = False,
        max_entries: Amount | None = None,
        max_bytes: Amount | None = None,
        files_per_second: Rate | None = None,
        bytes_per_second: Rate | None = None,
        grace_seconds: Annotated[float, Meta(ge=0, le=31_622_400)] = 0.0,
        in_place: bool = False,
    ) -> Progress:
        """Begin to delete what is at a path below a root, and say how far that is: its name is free at once, if nothing
        has to be looked at first.

        Args:
            root: id of the root.
            path: below the root, as the file system has it.
            text: the path as text, instead.
            dry_run: look only; the report has a plan.
            plan: id of a dry run whose plan is to be carried out. With it, what says what goes is left out.
            slack_percent: by how much the tree may have grown since the plan was made.
            filter: only what it lets go is removed, in place.
            count: count first, so that progress has an end.
            max_entries: remove nothing if there are more, and stop if more came.
            max_bytes: the same for bytes.
            files_per_second: most of them; 0: paused.
            bytes_per_second: most of them; 0: paused.
            grace_seconds: for so long it can be had back by undelete.
            in_place: remove it where it is, without renaming it first.
        """
        if path and text:
            raise _invalid("text: the path is given already")
        try:
            request = JobRequest(
                root=root,
                path=path or text.encode("utf-8", "surrogateescape"),
                dry_run=dry_run,
                plan=plan,
                slack_percent=slack_percent,
                filter=None if filter is None else Filter.parse(msgspec.structs.asdict(filter)),
                count=count,
                max_entries=max_entries,
                max_bytes=max_bytes,
                files_per_second=files_per_second,
                bytes_per_second=bytes_per_second,
                grace_seconds=grace_seconds,
                in_place=in_place,
            )
        except ValueError as error:
            raise _invalid(str(error)) from None
        return await self._for_caller(lambda jobs, tenant: self._submit(jobs, tenant, request))

    def _submit(self, jobs: Jobs, tenant: str, request: JobRequest) -> Progress:
        root = request.root or jobs.progress(tenant, request.plan).root
        try:
            self._opened().roots.get(root, tenant).check()
        except BusError as error:
            if error.code != Code.DELETION_CHANGED or tenant == NODE:
                raise
            raise BusError(Code.DELETION_CHANGED, path=f"root {root}", reason=ROOT_GONE) from None
        return jobs.submit(tenant, request)

    async def watch(self, job: JobId) -> AsyncIterator[Progress]:
        """How far a job is: at once, at each change of its state, and each second, until its state is final.

        If it ends before, the component is being replaced or stopped: the job goes on, and can be watched again.

        Args:
            job: its id.
        """
        first = await self._for_caller(lambda jobs, tenant: jobs.progress(tenant, job))
        watching = self._watches.watch(first)
        try:
            async for progress in watching:
                yield progress
        finally:
            await watching.aclose()

    async def pause(self, job: JobId) -> Progress:
        """Stop a job at the end of its batch, until it is resumed. Of one that is paused nothing changes.

        Args:
            job: its id.
        """
        return await self._for_caller(partial(_pause, job=job))

    async def resume(self, job: JobId) -> Progress:
        """Go on with a job that is paused, cancelled but kept, or failed; try at once what is parked.

        Args:
            job: its id.
        """
        return await self._for_caller(lambda jobs, tenant: jobs.resume(tenant, job))

    async def change(
        self,
        job: JobId,
        *,
        files_per_second: Rate | None = None,
        bytes_per_second: Rate | None = None,
        unlimited: bool = False,
    ) -> Progress:
        """Change how fast a job goes, at once.

        Args:
            job: its id.
            files_per_second: from now on; 0: nothing begins. None: as before.
            bytes_per_second: the same for bytes.
            unlimited: what is None is no limit any more, and not as before.
        """
        given = {"files_per_second": files_per_second, "bytes_per_second": bytes_per_second}
        rates: dict[str, Any] = {name: rate for name, rate in given.items() if rate is not None or unlimited}
        return await self._for_caller(lambda jobs, tenant: jobs.change(tenant, job, **rates))

    async def cancel(self, job: JobId, how: How = "keep") -> Progress:
        """End a job.

        Args:
            job: its id.
            how: what becomes of what is left. keep: it stays set aside, and the job can be resumed. restore: it is put
                back. abandon: it stays where it is for good; the report says where.
        """
        return await self._for_caller(lambda jobs, tenant: jobs.cancel(tenant, job, how))

    async def undelete(self, job: JobId) -> Progress:
        """Put back what is in its grace period.

        Args:
            job: its id.
        """
        return await self._for_caller(lambda jobs, tenant: jobs.undelete(tenant, job))

    async def list(self, *, all: bool = False, limit: Annotated[int, Meta(ge=1, le=LIST_MAX)] = 100) -> list[Progress]:
        """The caller's jobs, newest first; the node sees everybody's.

        Args:
            all: also those that are over.
            limit: most of them.
        """
        return await self._for_caller(lambda jobs, tenant: jobs.list(tenant, all=all, limit=limit))

    async def report(self, job: JobId) -> Report:
        """What a job has come to so far: what is gone, what stays, why and where.

        Args:
            job: its id.
        """
        return await self._for_caller(lambda jobs, tenant: jobs.report(tenant, job))

    async def roots(self) -> RootInfos:
        """The roots below which the caller may delete, by id."""
        return self._opened().info(Who.behind(current_caller()).tenant)

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _for_caller(self, call: Callable[[Jobs, str], T]) -> T:
        """What ``call`` gives for the caller's tenant, once there are jobs, in a thread."""
        assert self._jobs is not None, "it was started"
        who = Who.behind(current_caller())
        jobs = await asyncio.shield(self._jobs)
        before = asking.set(who)
        try:
            return await self._aside.run(who.tenant, partial(call, jobs, who.tenant))
        finally:
            asking.reset(before)

    async def _look(self, ids: Ids) -> States:
        """How far the jobs ``ids`` are."""

        def look(jobs: Jobs) -> States:
            found: States = {}
            for id in ids:
                try:
                    found[id] = jobs.progress(NODE, id)
                except BusError as error:
                    found[id] = error
            return found

        jobs = self._there()
        return {} if jobs is None else await self._aside.run("", partial(look, jobs))

    def _note(self, record: AuditRecord) -> None:
        """Write down what the jobs tell. Raises BusError 7011 if that cannot be done. In any thread."""
        self._totals.add(record)
        if self._audit is not None:
            self._audit.write(record)

    async def _count_on(self) -> None:
        """Keep the figures fresh: in a thread, for a list of jobs may take as long as a disk does."""
        jobs = self._there()
        assert jobs is not None, "they were begun"
        while True:
            began = time.monotonic()
            try:
                listed = await self._aside.run("", partial(jobs.list, NODE, all=True, limit=ALL))
            except RuntimeError:  # no thread can be had: they stay as they are
                pass
            else:
                failed = bool(jobs.problem or (self._audit is not None and self._audit.problem))
                self._figures = figures(self._statistics(listed), recording_failed=failed)
            await asyncio.sleep(max(COUNT_SECONDS, 50 * (time.monotonic() - began)))

    def figures(self) -> Figures:
        """Of `metrics`, as they were some seconds ago."""
        return self._figures

    def statistics(self) -> DeletionStatistics:
        """What this component has done so far. Its calls are counted by whoever runs it. May take as long as a list."""
        jobs = self._there()
        return self._statistics([] if jobs is None else jobs.list(NODE, all=True, limit=ALL))

    def _statistics(self, listed: builtins.list[Progress]) -> DeletionStatistics:
        roots = self._roots
        return self._totals.statistics(
            listed,
            roots=len(self._settings),
            roots_gone=0 if roots is None else len(roots.gone),
            watched=self._watches.count,
            calls=self._aside.waiting,
        )


def _pause(jobs: Jobs, tenant: str, job: str) -> Progress:
    progress = jobs.progress(tenant, job)
    return progress if progress.state == "paused" else jobs.pause(tenant, job)


def _invalid(reason: str) -> BusError:
    return BusError(Code.REQUEST_INVALID, subject="deletion.submit", reason=reason)
