"""``bus delete list``, ``watch``, ``report`` and the other verbs for jobs that there are already."""

import asyncio
import shlex
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from buscli import deletionhandle
from buscli.deletionjson import jsonable
from buscli.deletionpath import absolute, text_of
from buscli.deletionplan import plan_lines
from buscli.deletionreport import Outcome
from buscli.deletionrun import finish, left_running
from buscli.deletionvalues import shown_size
from buscli.deletionwatch import Following
from buscli.deletionwords import errors, location, moment, reasons, roots_of
from buscli.exits import Exit
from buscli.output import Output, printable
from buscli.parser import UsageError
from buscli.units import duration

__all__ = ["Jobs"]

_DONE: Final = {
    "pause": "is paused",
    "resume": "goes on",
    "change": "goes at the new rate",
    "cancel": "is cancelled",
    "undelete": "is back at its place",
}


class Jobs:
    """One command line about jobs."""

    def __init__(self, args: Namespace) -> None:
        self._args = args
        self._output = Output.standard(force_json=args.json, no_color=args.no_color)
        local = getattr(args, "local", None)
        self._directory = absolute(local) if local is not None else b""
        self._roots: dict[str, bytes] = {}
        self._following: Following | None = None
        if args.action == "change" and args.rate is None and args.byte_rate is None and not args.unlimited:
            raise UsageError(
                "bus delete change: what is to change? --rate, --byte-rate or --unlimited is missing",
                f"bus delete change {args.job} --rate 1000",
            )

    async def run(self) -> int:
        try:
            async with self._opened() as handle:
                return await self._run(handle)
        except (asyncio.CancelledError, Exception) as error:
            if self._following is not None:
                left_running(self._output, self._following, text_of(self._directory), error)
            raise

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Any]:
        args = self._args
        if self._directory:
            async with deletionhandle.here(self._directory, recover=False) as handle:
                self._roots = {deletionhandle.LOCAL_ROOT: self._directory}
                yield handle
            return
        about = getattr(args, "job", "")
        async with deletionhandle.on_node(args, self._output, about, lasting=args.action == "watch") as handle:
            if self._output.human and args.action != "roots":
                self._roots = await roots_of(handle)
            yield handle

    async def _run(self, handle: Any) -> int:
        args, output = self._args, self._output
        match args.action:
            case "list":
                self._show_list(await handle.list(all=args.all, limit=args.limit))
            case "roots":
                self._show_roots(await handle.roots())
            case "report":
                self._show_report(await handle.report(args.job))
            case "watch":
                return await self._follow(handle, (await handle.report(args.job)).progress)
            case "resume" if self._directory:
                return await self._follow(handle, await handle.resume(args.job))
            case verb:
                progress = await self._act(handle, verb)
                if not output.human:
                    output.record(jsonable(progress))
                else:
                    output.line(printable(f"job {progress.job} ({self._named(progress)}) {_DONE[verb]}"))
                    self._hint(verb)
        return Exit.OK

    async def _act(self, handle: Any, verb: str) -> Any:
        args = self._args
        match verb:
            case "change":
                given = {"files_per_second": args.rate, "bytes_per_second": args.byte_rate}
                return await handle.change(args.job, **given, unlimited=args.unlimited)
            case "cancel":
                return await handle.cancel(args.job, how=args.how)
            case _:
                return await getattr(handle, verb)(args.job)

    async def _follow(self, handle: Any, progress: Any) -> int:
        output = self._output
        patience = 0.0 if self._directory else deletionhandle.PATIENCE
        self._following = Following(handle, output, records=not output.human, patience=patience)
        self._following.job = progress.job
        await self._following.follow(progress)
        report = await handle.report(progress.job)
        return finish(output, report, self._named(report.progress), self._local_text)

    def _hint(self, verb: str) -> None:
        job = printable(self._args.job)
        where = f" --local {printable(self._local_text)}" if self._directory else ""
        if verb == "pause" or (verb == "cancel" and self._args.how == "keep"):
            self._output.line(f"  try: bus delete resume {job}{where}")
        elif verb == "resume":
            self._output.line(f"  try: bus delete watch {job}")
        elif verb == "cancel" and self._args.how == "abandon":
            self._output.line(f"  try: bus delete report {job}{where}")

    def _named(self, progress: Any) -> str:
        return location(progress.root, progress.path, self._roots)

    @property
    def _local_text(self) -> str:
        return shlex.quote(text_of(self._directory)) if self._directory else ""

    # -- tables -------------------------------------------------------------------------------------------------------

    def _show_list(self, jobs: Sequence[Any]) -> None:
        output = self._output
        if not output.human:
            for progress in jobs:
                output.record(jsonable(progress))
            return
        if not jobs:
            output.line("there are no jobs" + ("" if self._args.all else " that are not over; --all shows the others"))
            return
        output.table(
            ("job", "tenant", "what", "state", "deleted", "of", "rate", "left", "since", "remarks"),
            [
                (
                    progress.job,
                    progress.tenant,
                    self._named(progress),
                    progress.state,
                    f"{progress.removed:,}",
                    "-" if progress.expected is None else f"{progress.expected:,}",
                    f"{progress.rate:,.0f}/s" if progress.rate else "-",
                    "-" if progress.eta_seconds is None else duration(progress.eta_seconds),
                    moment(progress.submitted),
                    _remarks(progress) or "-",
                )
                for progress in jobs
            ],
        )

    def _show_report(self, report: Any) -> None:
        output = self._output
        if not output.human:
            output.record(jsonable(report))
            return
        progress = report.progress
        Outcome(report, self._named(progress), self._local_text).show(output)
        if report.plan is not None:
            for line in plan_lines(report.plan):
                output.line(f"  {printable(line)}")
            if progress.mode == "survey":
                output.line(f"  to delete just that: bus delete --plan {printable(report.plan.id)}")
        asked = f"job {progress.job} of {progress.tenant}, asked for {moment(progress.submitted)}"
        output.line(f"  {printable(asked)}")

    def _show_roots(self, roots: Sequence[Any]) -> None:
        output = self._output
        if not output.human:
            for root in roots:
                output.record(jsonable(root))
            return
        if not roots:
            output.line(
                "there are no deletion roots for you: the node's operator sets them (config of component deletion)"
            )
            return
        output.table(
            ("root", "path", "tenants", "least depth", "entries", "bytes"),
            [
                (
                    root.id,
                    text_of(root.path if isinstance(root.path, bytes) else root.path.encode(errors="surrogateescape"))
                    if root.path
                    else "-",
                    ", ".join(getattr(root, "tenants", None) or ()) or "-",
                    getattr(root, "min_depth", None) or "-",
                    "-" if root.max_entries is None else f"at most {root.max_entries:,}",
                    "-" if root.max_bytes is None else f"at most {shown_size(root.max_bytes)}",
                )
                for root in roots
            ],
        )


def _remarks(progress: Any) -> str:
    remarks = [progress.reason, reasons(progress.parked), errors(progress.failed)]
    if progress.held_back_by:
        remarks.append(f"held back by {progress.held_back_by}")
    if progress.until:
        remarks.append(f"can be had back until {moment(progress.until)}")
    if progress.next_try:
        remarks.append(f"tried again in {duration(max(0.0, progress.next_try - time.time()))}")
    return "; ".join(dict.fromkeys(filter(None, remarks)))
