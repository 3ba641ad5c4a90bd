"""Answers calls with a command, an echo or a fixed reply: what ``bus serve`` does."""

import asyncio
from argparse import Namespace
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from buscli import body
from buscli.connection import attached, first_of, reader_gone
from buscli.exits import Exit
from buscli.output import Output, Style
from buscli.program import Program
from buscli.units import short
from busclient import Call, Reply
from busproto.errors import BusError

Answer = Callable[[Call], Awaitable[Any]]
"""What answers one call: returns the reply, or raises a BusError that is the error reply."""


def answer_of(args: Namespace) -> Answer:
    """What answers calls, as the arguments say. Raises UsageError."""
    if args.exec is not None:
        return Program(args.exec, raw=args.raw, timeout=args.timeout).answer
    if args.echo:
        return echo
    data = body.of_argument(args.reply, raw=args.raw, where="--reply")
    reply = Reply(data=data, headers={"datacontenttype": body.RAW_TYPE} if args.raw else None)

    async def fixed(call: Call) -> Reply:
        return reply

    return fixed


async def echo(call: Call) -> Reply:
    """The call's own body and headers, byte for byte."""
    return Reply(data=call.data, headers=dict(call.headers) or None)


class Responder:
    """One run of ``bus serve``: answers calls, shows each when it has ended, and counts them."""

    def __init__(self, args: Namespace) -> None:
        self._args = args
        self._answer = answer_of(args)
        self._output = Output.standard(force_json=args.json, no_color=args.no_color)
        self._left: int | None = args.count
        self._enough = asyncio.Event()

    async def run(self) -> int:
        """Serve until as many calls were answered as were asked for, or the service ends for another reason."""
        args, output = self._args, self._output
        async with attached(args, output, args.subject, reconnect=True) as bus:
            serving = bus.serve(args.subject, self._handle, group=args.group, concurrency=args.concurrency)
            async with serving as service:
                if output.interactive:
                    output.note(f"serving {args.subject}; Ctrl-C ends it")
                await first_of(self._enough.wait(), service.wait(), reader_gone())
        return Exit.OK

    async def _handle(self, call: Call) -> Any:
        start = perf_counter()
        outcome = "cancelled"
        try:
            result = await self._answer(call)
            outcome = "reply"
            return result
        except BusError as error:
            outcome = f"error {error.code}"
            raise
        finally:
            self._ended(call, outcome, perf_counter() - start)

    def _ended(self, call: Call, outcome: str, seconds: float) -> None:
        if not self._args.quiet:
            try:
                self._show(call, outcome, seconds)
            except BrokenPipeError:
                pass  # reader_gone ends the command; this call is answered all the same
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                self._enough.set()

    def _show(self, call: Call, outcome: str, seconds: float) -> None:
        caller = call.origin.endpoint if call.origin is not None else None
        output = self._output
        if output.human:
            colour = Style.GREEN if outcome == "reply" else Style.RED
            output.line(
                f"{output.styled(call.subject, Style.CYAN)} <- {output.styled(str(caller), Style.DIM)}: "
                f"{output.styled(outcome, colour)} in {short(seconds)}"
            )
        else:
            output.record({"subject": call.subject, "caller": caller, "outcome": outcome, "seconds": seconds})
        output.flush()
