"""The columns of ``bus top``: what each is called, shows, is sorted by, and when it is left out."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from buscli.units import binary_size

if TYPE_CHECKING:
    from buscli.toprows import Row

__all__ = ["BY", "COLUMNS", "SORTED_BY", "Column", "in_order", "quantity"]

BY: Final = ("endpoint", "component", "tenant", "unit")
"""What one row can stand for."""


def quantity(value: float) -> str:
    """A number in five characters at most: ``<0.1``, ``0.4``, ``12``, ``3.4k``, ``120k``, ``2.1M``; ``-`` for none."""
    if value <= 0:
        return "-"
    if value < 0.05:
        return "<0.1"
    units = ((999.5, 1.0, ""), (999.5e3, 1e3, "k"), (999.5e6, 1e6, "M"))
    divisor, unit = next(((divisor, unit) for limit, divisor, unit in units if value < limit), (1e9, "G"))
    scaled = value / divisor
    return f"{scaled:.1f}".removesuffix(".0") + unit if scaled < 9.95 else f"{scaled:.0f}{unit}"


class Column(NamedTuple):
    """One column of the table.

    Attributes:
        title: what stands above it.
        text: what stands in it.
        key: what it is sorted by.
        letter: what is typed to sort by it; "" if it cannot be.
        weight: how soon it is left out where there is no room, the smallest first; 0 is never.
        widest: characters, for names; 0 for figures, which stand to the right and are not cut.
    """

    name: str
    title: str
    text: Callable[["Row"], str]
    key: Callable[["Row"], Any]
    letter: str = ""
    weight: int = 0
    widest: int = 0


def _fullest(row: "Row") -> str:
    return "-" if row.fullest is None else f"{row.fullest[0]} {int(100 * row.fill)}%"


COLUMNS: Final = (
    Column("name", "NAME", lambda row: row.name, lambda row: row.name, "n", 0, 24),
    Column("component", "COMPONENT", lambda row: row.component, lambda row: row.component, "p", 9, 20),
    Column("owner", "OWNER", lambda row: row.owner, lambda row: row.owner, "o", 10, 16),
    Column("sends", "SENDS/s", lambda row: quantity(row.sends), lambda row: row.sends, "s"),
    Column("sends_bytes", "B/s", lambda row: quantity(row.sends_bytes), lambda row: row.sends_bytes, "S", 6),
    Column("gets", "GETS/s", lambda row: quantity(row.gets), lambda row: row.gets, "g"),
    Column("gets_bytes", "B/s", lambda row: quantity(row.gets_bytes), lambda row: row.gets_bytes, "G", 5),
    Column("calls", "CALLS/s", lambda row: quantity(row.calls), lambda row: row.calls, "c", 7),
    Column("lost", "LOST/s", lambda row: quantity(row.lost), lambda row: row.lost, "l"),
    Column("denied", "DENIED/s", lambda row: quantity(row.denied), lambda row: row.denied, "d", 8),
    Column("queued", "QUEUED", lambda row: quantity(row.queued), lambda row: row.queued, "u", 4),
    Column(
        "queued_bytes",
        "SIZE",
        lambda row: binary_size(row.queued_bytes).replace(" ", "") if row.queued_bytes else "-",
        lambda row: row.queued_bytes,
        "U",
        1,
    ),
    Column("fullest", "FULLEST", _fullest, lambda row: row.fill, "f", 3, 20),
    Column("account", "PAYS", lambda row: row.account, lambda row: row.account, "a", 2, 20),
    Column("place", "WHERE", lambda row: row.place, lambda row: row.place, "w", 2, 20),
    Column(
        "throttled", "THROTTLED", lambda row: ",".join(row.throttled) or "-", lambda row: len(row.throttled), "t", 3, 20
    ),
)
"""Every column, from left to right."""

SORTED_BY: Final = {column.name: column for column in COLUMNS}


def in_order(rows: "Iterable[Row]", column: Column, *, reverse: bool = False) -> "list[Row]":
    """``rows`` with the most first, names from A on; ``reverse`` turns that round. Among equals who sends most."""
    found = sorted(rows, key=lambda row: (-row.sends, -row.gets, row.name))
    downwards = column.widest == 0 or column.name in ("fullest", "throttled")
    return sorted(found, key=column.key, reverse=downwards != reverse)
