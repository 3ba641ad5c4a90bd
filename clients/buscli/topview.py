"""The table of ``bus top`` as lines of text that fit a terminal."""

from collections.abc import Sequence
from typing import Final

from buscli.output import printable
from buscli.topcolumns import COLUMNS, Column, quantity
from buscli.toprows import Row, Totals
from buscli.units import short

__all__ = ["head", "table"]

GAP: Final = "  "

FIGURE: Final = 5
"""Characters that a figure has room for at least: columns must not move to and fro while it is read."""


def head(totals: Totals | None, shown: int, of: int) -> str:
    """One line: the node as a whole, and how many rows of how many stand below it."""
    rows = f"{shown} of {of} rows" if shown < of else f"{of} row{'' if of == 1 else 's'}"
    if totals is None:
        return f"{rows}; the node's totals are not shown to a tenant"
    lag = "?" if totals.lag is None else short(totals.lag).replace(" ", "")
    slow = f"{sum(totals.throttled.values())} ({', '.join(totals.throttled)})" if totals.throttled else "0"
    rates = (("in", totals.received), ("out", totals.delivered), ("dropped", totals.dropped), ("denied", totals.denied))
    said = "  ".join(f"{what} {_figure(rate)}/s" for what, rate in rates)
    queued = _figure(totals.queued)
    node = f"{printable(totals.node)}: {totals.endpoints:,} endpoints"
    line = f"{node}  {said}  queued {queued}  lag {lag}  throttled {slow}"
    return line if shown == of == totals.endpoints else f"{line}  {rows}"


def _figure(value: float) -> str:
    return quantity(value).replace("-", "0")


def table(rows: Sequence[Row], sorted_by: Column, width: int | None) -> list[str]:
    """A line of titles (the one that is sorted by in brackets) and a line for each row.

    Where ``width`` (None: there is no bound) has no room for all, the columns that matter least are left out; what is
    left of a name that is too long ends in a tilde.
    """
    columns = list(COLUMNS)
    cells = {column.name: [_cell(column, row) for row in rows] for column in columns}
    titles = {column.name: f"[{column.title}]" if column is sorted_by else column.title for column in columns}
    widths = {
        column.name: max(len(titles[column.name]), *map(len, cells[column.name]), 0 if column.widest else FIGURE)
        for column in columns
    }
    while width is not None and sum(widths[c.name] for c in columns) + len(GAP) * (len(columns) - 1) > width:
        spare = [column for column in columns if column.weight and column is not sorted_by]
        if not spare:
            break
        columns.remove(min(spare, key=lambda column: column.weight))
    lines = [GAP.join(_set(titles[c.name], c, widths[c.name]) for c in columns)]
    lines += [GAP.join(_set(cells[c.name][place], c, widths[c.name]) for c in columns) for place in range(len(rows))]
    return [line.rstrip() if width is None else line[:width].rstrip() for line in lines]


def _cell(column: Column, row: Row) -> str:
    text = printable(column.text(row))
    return text[: column.widest - 1] + "~" if column.widest and len(text) > column.widest else text


def _set(text: str, column: Column, width: int) -> str:
    return text.ljust(width) if column.widest else text.rjust(width)
