"""Subscriptions printed as they come: what ``bus sub`` does."""

import asyncio
from argparse import Namespace
from datetime import UTC, datetime

from buscli.connection import attached, first_of, reader_gone
from buscli.exits import Exit
from buscli.messages import show_gap, show_message
from buscli.output import Output
from buscli.units import rfc3339
from busclient import Bus, Gap, Message
from busproto.subjects import matches


class Watch:
    """One run of ``bus sub``."""

    def __init__(self, args: Namespace) -> None:
        self._args = args
        self._output = Output.standard(force_json=args.json, no_color=args.no_color)
        self._patterns: list[str] = list(dict.fromkeys(args.pattern))
        self._left: int | None = args.count
        self._flushing = False

    async def run(self) -> int:
        args = self._args
        async with attached(args, self._output, " ".join(self._patterns), reconnect=True) as bus:
            work = [self._follow(bus, place) for place in range(len(self._patterns))]
            try:
                ended = await first_of(*work, reader_gone(), seconds=args.timeout)
            finally:
                self._output.flush()
        return Exit.OK if ended or args.count is None else Exit.TIMEOUT

    async def _follow(self, bus: Bus, place: int) -> None:
        """Print what one pattern brings, until as many messages were printed as were asked for."""
        pattern = self._patterns[place]
        async with bus.subscribe(pattern, latest=self._args.latest, gaps="yield") as subscription:
            async for item in subscription:
                if isinstance(item, Gap):
                    self._show_gap(item, pattern)
                elif self._is_wanted(item.subject, place):
                    if self._left == 0:
                        return  # another pattern brought the last one
                    self._show(item)
                    if self._left is not None:
                        self._left -= 1
                        if self._left == 0:
                            return

    def _is_wanted(self, subject: str, place: int) -> bool:
        """Whether to print a message that came for the pattern at ``place``.

        What matches several patterns comes once for each of them: the first one prints it.
        """
        earlier = self._patterns[:place]
        return not any(matches(pattern, subject) for pattern in (*earlier, *(self._args.exclude or ())))

    def _show(self, message: Message) -> None:
        if self._args.raw:
            self._output.raw(message.data + b"\n" if self._args.lines else message.data)
        else:
            show_message(self._output, message, _utc_now(), headers=self._args.headers)
        self._flush_soon()

    def _show_gap(self, gap: Gap, pattern: str) -> None:
        show_gap(self._output, gap, pattern, records=not self._args.raw)
        self._flush_soon()

    def _flush_soon(self) -> None:
        """Flush once for all that is at hand, not once for each message."""
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        try:
            self._output.flush()
        except BrokenPipeError:
            pass  # reader_gone ends the command


def _utc_now() -> str:
    """This moment, as RFC 3339 with microseconds."""
    return rfc3339(datetime.now(UTC))
