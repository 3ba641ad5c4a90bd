"""One run of ``bus delete PATH``: from a command line to a job that has ended, or that the node goes on with."""

import asyncio
import os
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from buscli import deletionhandle
from buscli.asking import agreed, somebody_there
from buscli.deletioncommand import DeletionCommand
from buscli.deletionjson import jsonable
from buscli.deletionpath import Place, absolute, local_place, near_verb, place_of
from buscli.deletionplan import plan_lines, question
from buscli.deletionvalues import filters
from buscli.deletionwatch import Following
from buscli.deletionwords import roots_of
from buscli.exits import Exit
from buscli.output import printable
from buscli.parser import UsageError

__all__ = ["Deletion"]

_FIELDS: Final = {
    "rate": "files_per_second",
    "byte_rate": "bytes_per_second",
    "max_entries": "max_entries",
    "max_bytes": "max_bytes",
}
"""Options, and the field of a request that each is."""


class Deletion(DeletionCommand):
    """What one command line asks for. Raises UsageError for one that contradicts itself."""

    def __init__(self, args: Namespace) -> None:
        super().__init__(args)
        self._asks = not args.yes and not args.dry_run
        self._submitting = False
        self._check()
        self._filter = _filters(args.filter or ())
        self._place: Place | None = None
        if args.local:
            self._directory, self._place = local_place(args.PATH)

    def _check(self) -> None:
        """Raise UsageError for what does not go together, before a bus is looked for."""
        args = self._args
        named = [name for name in ("PATH", "root", "path", "filter", "dry_run", "local") if getattr(args, name)]
        if args.plan is not None and named:
            said = named[0] if named[0] == "PATH" else f"--{named[0].replace('_', '-')}"
            raise _wrong(f"--plan says what is to go, and {said} says it again", f"bus delete --plan {args.plan}")
        if args.plan is None and args.PATH is None and (args.root is None or args.path is None):
            half = "--root and --path go together" if args.root or args.path else "what is to be deleted?"
            raise _wrong(half, "bus delete PATH", "bus delete --root ROOT --path PATH", "bus delete --help")
        if args.PATH is not None and (args.root is not None or args.path is not None):
            raise _wrong("PATH and --root with --path are two places", "bus delete --root ROOT --path PATH")
        if args.PATH is not None and "/" not in args.PATH and near_verb(args.PATH) == [f"bus delete {args.PATH}"]:
            raise _wrong(f"'{args.PATH}' is a command, too", f"bus delete ./{args.PATH}", f"bus delete {args.PATH}")
        if args.local and args.PATH is None:
            raise _wrong("--local takes a PATH", "bus delete PATH --local")
        if args.local and args.detach:
            raise _wrong("with --local this process deletes: nothing goes on without it", "bus delete PATH --detach")
        if args.local and args.grace:
            raise _wrong("--grace needs a node: this process ends before it does", "bus delete PATH --grace TIME")
        if args.grace and (args.filter or args.in_place):
            raise _wrong(
                "what is deleted in place cannot be had back: --grace goes with neither --filter nor --in-place"
            )
        if args.dry_run and args.grace:
            raise _wrong("a dry run deletes nothing: --grace does not go with it")
        if args.slack is not None and not (self._asks or args.plan):
            raise _wrong("--slack is for a plan: nothing is compared here", "bus delete --plan ID --slack PERCENT")
        if args.PATH is not None:
            absolute(args.PATH)
        if self._asks and not somebody_there():
            raise _wrong(
                "nobody can be asked here: standard input or error is no terminal",
                "--yes, to delete without being asked",
                "--dry-run, to see what would be deleted",
            )

    def _broken_off(self, error: BaseException) -> None:
        super()._broken_off(error)
        if self._following is None and self._submitting and isinstance(error, asyncio.CancelledError):
            self._output.note("it may have been begun already")
            place = f" --local {self._local_text}" if self._args.local else ""
            self._output.note(f"  try: bus delete list{place}")

    @asynccontextmanager
    async def _on_node(self) -> AsyncIterator[Any]:
        args = self._args
        about = args.plan or args.PATH or f"{args.root}:{args.path}"
        if args.PATH is not None and not deletionhandle.shares_files(args.bus):
            raise _wrong(
                "PATH is one of this machine, and this bus may be another's", "bus delete --root ROOT --path PATH"
            )
        async with deletionhandle.on_node(args, self._output, printable(about), lasting=not args.detach) as handle:
            self._roots = await roots_of(handle)
            if args.PATH is not None:
                self._place = place_of(args.PATH, self._roots)
            elif args.plan is None:
                path = os.fsencode(args.path)
                self._place = Place(args.root, path, path)
            yield handle

    async def _run(self, handle: Any) -> int:
        args = self._args
        if args.dry_run:
            return await self._dry_run(handle)
        if not self._asks:
            wanted = {"plan": args.plan} if args.plan is not None else self._target()
            counted = {"count": True} if self._output.interactive else {}
            return await self._carry_out(handle, {**wanted, **counted})
        plan = args.plan
        if plan is None:
            report = await self._look(handle)
            if report.progress.state != "done":
                return self._finish(report)
            plan = report.progress.job
        else:
            report = await handle.report(plan)
        if report.plan is None:
            raise _wrong(f"job {plan} is no dry run that has ended: there is no plan", f"bus delete report {plan}")
        named = self._named(report.plan)
        for line in (named, *(f"  {line}" for line in plan_lines(report.plan))):
            self._output.note(line)
        if not report.plan.entries and report.plan.filter is not None:
            return Exit.OK
        if not await agreed(self._output, question(report.plan, named)):
            self._output.note("nothing was deleted")
            return Exit.CANCELLED
        return await self._carry_out(handle, {"plan": plan, "count": True})

    async def _dry_run(self, handle: Any) -> int:
        if self._args.detach:
            return await self._detached(handle, {**self._target(), "dry_run": True})
        report = await self._look(handle, records=not self._output.human)
        named, output = self._named(report.progress), self._output
        if report.progress.state != "done" or report.plan is None:
            return self._finish(report)
        if not output.human:
            output.record(jsonable(report))
            return Exit.OK
        for line in (named, *(f"  {line}" for line in plan_lines(report.plan))):
            output.line(printable(line))
        if not self._args.local:
            output.line(f"  to delete just that: bus delete --plan {printable(report.plan.id)}")
        return Exit.OK

    async def _look(self, handle: Any, *, records: bool = False) -> Any:
        """The report of a dry run. It goes with who asked for it: nobody else would read what it finds."""
        progress = await handle.submit(**self._target(), dry_run=True, **self._limits("max_entries", "max_bytes"))
        following = Following(handle, self._output, records=records, patience=self._patience)
        try:
            await following.follow(progress)
        except asyncio.CancelledError:
            await _cancel(handle, progress.job)
            raise
        return await handle.report(progress.job)

    async def _carry_out(self, handle: Any, wanted: dict[str, Any]) -> int:
        args = self._args
        wanted = {**wanted, **self._limits(*_FIELDS)}
        if args.grace is not None:
            wanted["grace_seconds"] = args.grace
        if args.in_place:
            wanted["in_place"] = True
        if args.slack is not None:
            wanted["slack_percent"] = args.slack
        if args.detach:
            return await self._detached(handle, wanted)
        self._submitting = True
        return await self._follow(handle, await handle.submit(**wanted))

    async def _detached(self, handle: Any, wanted: dict[str, Any]) -> int:
        self._submitting = True
        progress = await handle.submit(**wanted)
        self._submitting = False
        if not self._output.human:
            self._output.record(jsonable(progress))
        else:
            self._output.line(f"{printable(self._named(progress))}: job {printable(progress.job)}")
            self._output.line(f"  try: bus delete watch {printable(progress.job)}")
        return Exit.OK

    def _target(self) -> dict[str, Any]:
        assert self._place is not None
        wanted: dict[str, Any] = {"root": self._place.root, "path": self._place.path}
        return {**wanted, "filter": self._filter} if self._filter else wanted

    def _limits(self, *names: str) -> dict[str, Any]:
        fields = {name: _FIELDS.get(name, name) for name in names}
        return {field: value for name, field in fields.items() if (value := getattr(self._args, name)) is not None}


async def _cancel(handle: Any, job: str) -> None:
    """Cancel a job that nobody is interested in any more, as far as that can be done."""
    from busproto.errors import BusError

    try:
        await handle.cancel(job, how="abandon")
    except BusError:
        pass  # over already, or the bus is gone: it changes nothing


def _filters(pairs: Any) -> dict[str, str | bytes]:
    try:
        return filters(pairs)
    except ValueError as error:
        raise _wrong(str(error), "bus delete --help") from None


def _wrong(said: str, *cures: str) -> UsageError:
    return UsageError(f"bus delete: {said}", *(cures or ("bus delete --help",)))
