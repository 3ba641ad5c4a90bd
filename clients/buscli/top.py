"""``bus top``: looking again and again, and showing what changed, on a terminal or once."""

import asyncio
import shutil
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Final

from buscli.connection import attached, first_of
from buscli.exits import Exit
from buscli.output import Output
from buscli.topcolumns import BY, COLUMNS, SORTED_BY, in_order
from buscli.toprows import Row, Sample, Totals, rows_of, sample, totals_of
from buscli.topscreen import Screen
from buscli.topview import head, table
from busclient.errors import CallTimeout, NotConnected

if TYPE_CHECKING:
    from busclient import Bus

SHARE: Final = 50
"""A look may take one part in so many of the time: on a node with thousands of endpoints it is taken less often."""

LEFT, RIGHT, UP, DOWN = "\x1b[D", "\x1b[C", "\x1b[A", "\x1b[B"


async def top(args: Namespace) -> int:
    """Show it in the way that was asked for; the exit code."""
    output = Output.standard(force_json=args.json, no_color=args.no_color)
    if args.once or args.text or args.json or not (output.human and sys.stdin.isatty()):
        async with attached(args, output) as bus:
            return await _once(args, output, bus)
    async with attached(args, output, reconnect=True, announce=False) as bus:
        return await Live(args, bus).run()


async def _once(args: Namespace, output: Output, bus: "Bus") -> int:
    before = await sample(bus)
    output.progress(f"looking for {args.seconds:g} s")
    try:
        await asyncio.sleep(args.seconds)
        after = await sample(bus)
    finally:
        output.progress("")
    column = SORTED_BY[args.sort]
    rows = in_order(rows_of(before, after, by=args.by, wanted=args.filter), column, reverse=args.reverse)
    shown, totals = rows[: args.limit], totals_of(before, after)
    if output.human or args.text:
        output.line(head(totals, len(shown), len(rows)))
        width = shutil.get_terminal_size().columns if output.human else None
        for line in table(shown, column, width):
            output.line(line)
        return Exit.OK
    for row in shown:
        output.record(row.record())
    if totals is not None:
        output.record({"totals": totals.record()})
    return Exit.OK


class Live:
    """The table on a terminal, until it is ended."""

    def __init__(self, args: Namespace, bus: "Bus") -> None:
        self._args = args
        self._bus = bus
        self._column = SORTED_BY[args.sort]
        self._reverse: bool = args.reverse
        self._by: str = args.by
        self._held = False
        self._first = 0
        self._trouble = ""
        self._rows: list[Row] = []
        self._totals: Totals | None = None
        self._seen: tuple[Sample, Sample] | None = None
        self._pause: float = args.seconds
        self._screen = Screen()

    async def run(self) -> int:
        """Look and draw; the exit code."""
        with self._screen as screen:
            await first_of(self._look_on(), screen.keys(self._typed, self._draw))
        return Exit.OK

    async def _look_on(self) -> None:
        loop = asyncio.get_running_loop()
        before: Sample | None = None
        welcome = self._bus.welcome
        self._draw()
        while True:
            begun = loop.time()
            try:
                after = await sample(self._bus)
            except (NotConnected, CallTimeout) as error:
                # The broker is being started again, or is busy: what is shown is old, and that is said.
                self._trouble, before = error.text, None
            else:
                self._trouble = ""
                if self._bus.welcome is not welcome:
                    # Another connection, and it may be another life of the broker: its names are others'.
                    welcome, before = self._bus.welcome, None
                if before is not None and not self._held:
                    self._seen = (before, after)
                    self._sum_up()
                before = after
            self._draw()
            self._pause = max(self._args.seconds, SHARE * (loop.time() - begun))
            await asyncio.sleep(self._pause if self._seen is not None else min(self._pause, 0.3))

    def _sum_up(self) -> None:
        if self._seen is not None:
            self._rows = rows_of(*self._seen, by=self._by, wanted=self._args.filter)
            self._totals = totals_of(*self._seen)

    def _typed(self, key: str) -> bool:
        """Do what ``key`` asks for; False if that is to end."""
        if key in ("q", "Q", "\x03", "\x04"):
            return False
        place = COLUMNS.index(self._column)
        if key in (LEFT, RIGHT):
            self._column = COLUMNS[(place + (1 if key == RIGHT else -1)) % len(COLUMNS)]
        elif key in (UP, DOWN):
            self._first = max(0, min(self._first + (1 if key == DOWN else -1), len(self._rows) - 1))
        elif key == "r":
            self._reverse = not self._reverse
        elif key == "b":
            self._by = BY[(BY.index(self._by) + 1) % len(BY)]
            self._first = 0
            self._sum_up()
        elif key == " ":
            self._held = not self._held
        else:
            self._column = next((each for each in COLUMNS if each.letter == key), self._column)
        self._draw()
        return True

    def _draw(self) -> None:
        width, height = self._screen.size()
        rows = in_order(self._rows, self._column, reverse=self._reverse)
        room = max(0, height - 3)
        shown = rows[self._first : self._first + room]
        notes = [self._trouble] if self._trouble else []
        notes += ["held: space goes on"] if self._held else []
        if self._seen is None and not notes:
            first = "looking ..."
        else:
            first = "; ".join((*notes, head(self._totals, len(shown), len(rows)))) if self._seen else notes[0]
        wanted = f", filter '{self._args.filter}'" if self._args.filter else ""
        last = (
            f"by {self._by}{wanted}, every {self._pause:.2g} s   q end  <- -> or letter sort  r reverse  b by  "
            "space hold"
        )
        lines = [first, *table(shown, self._column, width)]
        self._screen.draw([*lines, *[""] * (height - 1 - len(lines)), last], bold=1)
