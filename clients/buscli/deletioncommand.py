"""What every ``bus delete`` is: a handle of the component, perhaps a job that is watched, and how that ends."""

import asyncio
import shlex
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from buscli import deletionhandle
from buscli.deletionjson import jsonable
from buscli.deletionpath import text_of
from buscli.deletionreport import Outcome
from buscli.deletionwatch import OVER, Following
from buscli.deletionwords import location
from buscli.exits import Exit
from buscli.output import Output

__all__ = ["DeletionCommand"]


class DeletionCommand(ABC):
    """One command line. A kind of it says which handle on a node it wants, and what it does with it."""

    def __init__(self, args: Namespace) -> None:
        self._args = args
        self._output = Output.standard(force_json=args.json, no_color=args.no_color)
        self._roots: dict[str, bytes] = {}
        self._directory = b""
        """The root in this process; empty: it is about a node."""
        self._following: Following | None = None

    async def run(self) -> int:
        """Do it; the exit code."""
        try:
            async with self._opened() as handle:
                return await self._run(handle)
        except (asyncio.CancelledError, Exception) as error:
            # Behind the handle's end: in this process the job has stopped by now.
            self._broken_off(error)
            raise

    @abstractmethod
    async def _run(self, handle: Any) -> int:
        """What is done with the handle; the exit code."""

    @abstractmethod
    def _on_node(self) -> AbstractAsyncContextManager[Any]:
        """The handle on a node."""

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Any]:
        if self._directory:
            async with deletionhandle.here(self._directory, recover=False) as handle:
                self._roots = {deletionhandle.LOCAL_ROOT: self._directory}
                yield handle
        else:
            async with self._on_node() as handle:
                yield handle

    # -- watching -----------------------------------------------------------------------------------------------------

    async def _follow(self, handle: Any, progress: Any) -> int:
        """Watch a job to its end, and tell what it has come to; the exit code."""
        output = self._output
        self._following = Following(handle, output, records=not output.human, patience=self._patience)
        self._following.job = progress.job
        await self._following.follow(progress)
        return self._finish(await handle.report(progress.job))

    def _finish(self, report: Any) -> int:
        """Tell what a job has come to, and what to do about it; the exit code."""
        outcome = Outcome(report, self._named(report.progress), self._local_text)
        if self._output.human:
            outcome.show(self._output)
        else:
            self._output.record(jsonable(report))
            outcome.note(self._output)
        return outcome.exit

    def _broken_off(self, error: BaseException) -> None:
        """Say what becomes of the job that is not watched to its end because of ``error``, if something does."""
        if self._following is None:
            return
        output, job, last = self._output, self._following.job, self._following.last
        if (last is not None and last.state in OVER) or getattr(error, "exit", None) == Exit.NO_SUCH:
            return
        # Ctrl-C, or nobody reads the progress any more: somebody's own wish.
        interrupted = isinstance(error, asyncio.CancelledError | BrokenPipeError)
        if not self._directory:
            known = f"job {job} goes on without you" if interrupted else f"job {job} may go on: it was lost sight of"
            output.note(known)
            output.note(f"  try: bus delete watch {job}")
            output.note(f"  try: bus delete cancel {job}")
            return
        output.note(f"stopped after {last.removed if last is not None else 0:,} entries")
        if last is not None and last.mode in ("in-place", "filter"):
            output.note("  try: the same command again, which goes on where this one stopped")
        else:
            output.note(f"  try: bus delete resume {job} --local {self._local_text}")
            output.note(f"  try: bus delete cancel {job} --how restore --local {self._local_text}")

    # -- words --------------------------------------------------------------------------------------------------------

    def _named(self, place: Any) -> str:
        """What a job or a plan is about, for people."""
        return location(place.root, place.path, self._roots)

    @property
    def _local_text(self) -> str:
        """The root in this process, as one types it; empty: it is about a node."""
        return shlex.quote(text_of(self._directory)) if self._directory else ""

    @property
    def _patience(self) -> float:
        return 0.0 if self._directory else deletionhandle.PATIENCE
