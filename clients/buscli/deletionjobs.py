"""``bus delete list``, ``watch``, ``report`` and the other verbs for jobs that there are already."""

import time
from argparse import Namespace
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from buscli import deletionhandle
from buscli.deletioncommand import DeletionCommand
from buscli.deletionjson import jsonable
from buscli.deletionpath import absolute, text_of
from buscli.deletionplan import plan_lines
from buscli.deletionreport import Outcome
from buscli.deletionvalues import shown_size
from buscli.deletionwords import errors, moment, reasons, roots_of
from buscli.exits import Exit
from buscli.output import printable
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


class Jobs(DeletionCommand):
    """One command line about jobs."""

    def __init__(self, args: Namespace) -> None:
        super().__init__(args)
        local = getattr(args, "local", None)
        if local is not None:
            self._directory = absolute(local)
        if args.action == "change" and args.rate is None and args.byte_rate is None and not args.unlimited:
            raise UsageError(
                "bus delete change: what is to change? --rate, --byte-rate or --unlimited is missing",
                f"bus delete change {args.job} --rate 1000",
            )

    @asynccontextmanager
    async def _on_node(self) -> AsyncIterator[Any]:
        args = self._args
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

    def _hint(self, verb: str) -> None:
        job = printable(self._args.job)
        where = f" --local {printable(self._local_text)}" if self._directory else ""
        if verb == "pause" or (verb == "cancel" and self._args.how == "keep"):
            self._output.line(f"  try: bus delete resume {job}{where}")
        elif verb == "resume":
            self._output.line(f"  try: bus delete watch {job}")
        elif verb == "cancel" and self._args.how == "abandon":
            self._output.line(f"  try: bus delete report {job}{where}")

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
