"""A deletion followed until it ends: a line that is redrawn for a person, one JSON object a change for a program."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from buscli.componenthandle import within
from buscli.deletionjson import jsonable
from buscli.deletionvalues import shown_size
from buscli.deletionwords import entries
from buscli.output import Output
from buscli.progressbar import ProgressBar, terminal_width
from buscli.units import duration
from busproto.errors import BusError, Code

__all__ = ["OVER", "Following", "progress_bar"]

OVER: Final = frozenset({"done", "cancelled", "failed", "parked", "grace"})
"""States in which there is nothing to wait for: what comes next is somebody's decision, or far away."""

WATCH_SECONDS: Final = 24 * 3600.0
"""Longest that one call may take; a longer deletion takes several."""

PATIENCE: Final = 60.0
"""Seconds that the node, or the component on it, may be away: it is being replaced, and its jobs go on after that."""

PAUSE: Final = 0.25
"""Seconds between two attempts to find it again."""

REDRAW_SECONDS: Final = 0.1
"""Between two redraws: more often is flicker."""

_AWAY: Final = frozenset(
    {
        Code.NO_RESPONDERS,
        Code.UNKNOWN,
        Code.TIMEOUT,
        Code.CANCELLED,
        Code.NOT_CONNECTED,
        Code.DRAINING,
        Code.OVERLOADED,
        Code.QUOTA_EXCEEDED,
    }
)
"""Ways for a stream to end of which the job knows nothing."""

_DOING: Final = {
    "queued": "waiting for its turn",
    "counting": "counting",
    "running": "deleting",
    "paused": "paused",
    "parked": "in use",
    "grace": "set aside",
    "done": "done",
    "cancelled": "cancelled",
    "failed": "failed",
}


class Following:
    """One job and the progress that was seen of it.

    Attributes:
        job: its id; empty before `follow`.
        last: its latest progress; None before the first.
    """

    def __init__(
        self,
        handle: Any,
        output: Output,
        *,
        records: bool,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``records``: write JSON lines for a program. ``patience``: seconds that the component may be away."""
        self._handle = within(handle, WATCH_SECONDS)
        self._output = output
        self._records = records
        self._patience = patience
        self._clock = clock
        self._drawn = float("-inf")
        self.job = ""
        self.last: Any = None

    async def follow(self, progress: Any) -> Any:
        """Follow the job of ``progress`` until there is nothing more to wait for; its last progress.

        Raises BusError when the component was away for too long, and what it answers with.
        """
        self.job = progress.job
        self._show(progress)
        away_since: float | None = None
        try:
            while self.last.state not in OVER:
                before = self.last
                try:
                    await self._watch()
                except BusError as error:
                    now = self._clock()
                    away_since = now if away_since is None or self.last is not before else away_since
                    # What the component itself answers with is its last word, but for one that is being replaced.
                    replied = type(error).__name__ == "ErrorReply" and error.code not in (Code.DRAINING, Code.CANCELLED)
                    if replied or error.code not in _AWAY or now - away_since >= self._patience:
                        raise
                    self._output.progress(f"waiting for the node: {error}")
                    self._drawn = float("-inf")
                if self.last.state not in OVER:
                    await asyncio.sleep(PAUSE)
        finally:
            self._output.progress("")
        return self.last

    async def _watch(self) -> None:
        async with self._handle.watch(self.job) as parts:
            async for progress in parts:
                self._show(progress)
                if progress.state in OVER:
                    return

    def _show(self, progress: Any) -> None:
        if progress == self.last:
            return  # each watch begins with where it stands
        changed = self.last is None or progress.state != self.last.state
        self.last = progress
        if self._records:
            self._output.record(jsonable(progress))
            self._output.flush()
        elif self._output.interactive and (changed or self._clock() - self._drawn >= REDRAW_SECONDS):
            self._drawn = self._clock()
            self._output.progress(progress_bar(progress).line(terminal_width()))


def progress_bar(progress: Any) -> ProgressBar:
    """What of a job is worth a line."""
    looking = progress.mode == "survey" or progress.state == "counting"
    doing = "looking" if progress.mode == "survey" and progress.state == "running" else _DOING[progress.state]
    part = None
    done = progress.seen if looking else progress.removed
    facts = [entries(done)]
    if progress.expected is not None and not looking:
        part = min(1.0, progress.seen / progress.expected) if progress.expected else 1.0
        facts = [f"{done:,}/{entries(progress.expected)}"]
    if progress.bytes:
        facts.append(shown_size(progress.bytes))
    if progress.rate:
        facts.append(f"{progress.rate:,.0f}/s")
    if progress.eta_seconds is not None and progress.state in ("running", "counting"):
        facts.append(f"{duration(progress.eta_seconds)} left")
    if progress.reason and progress.state in ("parked", "paused", "failed"):
        facts.append(progress.reason)
    if progress.held_back_by:
        facts.append(f"held back by {progress.held_back_by}")
    if failed := sum(progress.failed.values()):
        facts.append(f"{failed:,} cannot be deleted")
    if progress.state == "queued":
        facts = []
    return ProgressBar(doing, part, facts)
