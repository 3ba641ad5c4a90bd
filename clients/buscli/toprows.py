"""What each endpoint does a second: two answers of ``$bus.top``, and the rows that follow from what grew between them.

A row is an endpoint, or all endpoints of one component, tenant or unit together.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from busclient import Bus

__all__ = ["Row", "Sample", "Totals", "rows_of", "sample", "totals_of"]

GROWING: Final = ("sent_messages", "sent_bytes", "got_messages", "got_bytes", "called", "lost", "denied")
"""Fields of an endpoint that only grow, in the order of `Row`'s rates."""

SEARCHED: Final = ("endpoint", "component", "owner", "purpose", "tenant", "unit", "account", "boundary")
"""Fields that ``--filter`` looks into."""

UNNAMED: Final = "?"
"""In place of a component or owner that is not claimed."""


@dataclass(slots=True)
class Sample:
    """All endpoints at one moment.

    Attributes:
        at: when each was looked at, by name, in seconds of the broker's clock.
        rows: what was said of it.
        stats: ``$bus.stats``; empty for whom policy does not let see it.
    """

    at: dict[str, float] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)


async def sample(bus: "Bus") -> Sample:
    """Look once. Raises as a call does."""
    from buscli.census import ask
    from busproto.errors import BusError, Code

    found = Sample()
    after: str | None = None
    while True:
        page = await ask(bus, "$bus.top", {"after": after} if after else {})
        for row in page["endpoints"]:
            found.rows[row["endpoint"]] = row
            found.at[row["endpoint"]] = page["at"]
        after = page["next"]
        if after is None:
            break
    try:
        found.stats = await ask(bus, "$bus.stats")
    except BusError as error:
        if error.code != Code.DENIED:  # by policy, or by the broker: a tenant sees its own endpoints and no totals
            raise
    return found


@dataclass(slots=True)
class Row:
    """One line of the table. Rates are a second."""

    name: str
    component: str
    owner: str
    place: str
    account: str
    endpoints: int = 0
    sends: float = 0.0
    sends_bytes: float = 0.0
    gets: float = 0.0
    gets_bytes: float = 0.0
    calls: float = 0.0
    lost: float = 0.0
    denied: float = 0.0
    queued: int = 0
    queued_bytes: int = 0
    fullest: tuple[str, int, int] | None = None
    throttled: tuple[str, ...] = ()

    def add(self, row: Mapping[str, Any], rates: Iterable[float]) -> None:
        """Count one endpoint in."""
        self.endpoints += 1
        sends, sends_bytes, gets, gets_bytes, calls, lost, denied = rates
        self.sends += sends
        self.sends_bytes += sends_bytes
        self.gets += gets
        self.gets_bytes += gets_bytes
        self.calls += calls
        self.lost += lost
        self.denied += denied
        self.queued += row["queued_messages"]
        self.queued_bytes += row["queued_bytes"]
        fullest = row["fullest"]
        if fullest is not None and _part(fullest) > self.fill:
            self.fullest = (fullest[0], fullest[1], fullest[2])
        if row["throttled"]:
            self.throttled = tuple(dict.fromkeys((*self.throttled, *row["throttled"])))

    @property
    def fill(self) -> float:
        """How full its fullest quota is, from 0 to 1."""
        return 0.0 if self.fullest is None else _part(self.fullest)

    def record(self) -> dict[str, Any]:
        """The row as one JSON object."""
        quota = None
        if self.fullest is not None:
            quota = dict(zip(("quota", "used", "limit"), self.fullest, strict=True))
        return {
            "name": self.name,
            "component": None if self.component == UNNAMED else self.component,
            "owner": None if self.owner == UNNAMED else self.owner,
            "place": self.place,
            "account": self.account,
            "endpoints": self.endpoints,
            "sends_per_second": round(self.sends, 3),
            "sends_bytes_per_second": round(self.sends_bytes, 3),
            "gets_per_second": round(self.gets, 3),
            "gets_bytes_per_second": round(self.gets_bytes, 3),
            "calls_per_second": round(self.calls, 3),
            "lost_per_second": round(self.lost, 3),
            "denied_per_second": round(self.denied, 3),
            "queued_messages": self.queued,
            "queued_bytes": self.queued_bytes,
            "fullest": quota,
            "throttled": list(self.throttled),
        }


def rows_of(before: Sample, after: Sample, *, by: str = "endpoint", wanted: str = "") -> list[Row]:
    """A row for each endpoint of ``after`` whose words hold ``wanted``, or for all that have ``by`` in common."""
    found: dict[str, Row] = {}
    wanted = wanted.casefold()
    for name, row in after.rows.items():
        if wanted and not any(wanted in str(row[key] or "").casefold() for key in SEARCHED):
            continue
        key = name if by == "endpoint" else str(row[by] or UNNAMED)
        party = found.get(key)
        if party is None:
            party = found[key] = _first(key, row)
        elif by != "endpoint":
            _widen(party, row)
        party.add(row, _rates(before, after, name))
    return list(found.values())


def _first(name: str, row: Mapping[str, Any]) -> Row:
    return Row(name, row["component"] or UNNAMED, row["owner"] or UNNAMED, _place(row), row["account"])


def _widen(party: Row, row: Mapping[str, Any]) -> None:
    """``party`` stands for ``row`` too: what they do not have in common is not one thing any more."""
    if party.component != (row["component"] or UNNAMED):
        party.component = "*"
    if party.owner != (row["owner"] or UNNAMED):
        party.owner = "*"
    if party.place != _place(row):
        party.place = "*"
    if party.account != row["account"]:
        party.account = "*"


def _place(row: Mapping[str, Any]) -> str:
    boundary, unit = str(row["boundary"]), row["unit"]
    return boundary if unit in (boundary, "") else f"{row['tenant']}/{unit}"


def _rates(before: Sample, after: Sample, name: str) -> list[float]:
    """How much of each came a second. An endpoint that is new did all of it since it came: unknown, so none."""
    was, now = before.rows.get(name), after.rows[name]
    if was is None:
        return [0.0] * len(GROWING)
    seconds = max(after.at[name] - before.at[name], 1e-6)
    # A count that went down was begun anew: the broker was started again, and the name is another's.
    return [max(0, now[key] - was[key]) / seconds for key in GROWING]


def _part(fullest: Iterable[Any]) -> float:
    _, used, limit = fullest
    return float(used / limit) if limit else 1.0


@dataclass(frozen=True, slots=True)
class Totals:
    """The node as a whole. Rates are a second."""

    node: str
    endpoints: int
    received: float
    delivered: float
    dropped: float
    denied: float
    queued: int
    lag: float | None
    """Seconds that the routing loop was late when it was last looked at; None where nothing says."""
    throttled: dict[str, int]
    """Accounts that have overdrawn a rate, by rate."""

    def record(self) -> dict[str, Any]:
        """The totals as a JSON object."""
        return {
            "node": self.node,
            "endpoints": self.endpoints,
            "received_per_second": round(self.received, 3),
            "delivered_per_second": round(self.delivered, 3),
            "dropped_per_second": round(self.dropped, 3),
            "denied_per_second": round(self.denied, 3),
            "queued_messages": self.queued,
            "loop_lag_seconds": self.lag,
            "throttled": self.throttled,
        }


def totals_of(before: Sample, after: Sample) -> Totals | None:
    """What changed of the node's own figures; None for whom policy does not let see them."""
    was, now = before.stats, after.stats
    if not was or not now:
        return None
    seconds = max(now["seconds"] - was["seconds"], 1e-6)

    def rate(field: str) -> float:
        return float(max(0, sum(now[field].values()) - sum(was[field].values())) / seconds)

    daemon = now.get("daemon") or {}
    return Totals(
        node=now["node"],
        endpoints=sum(now["endpoints"].values()),
        received=rate("received_messages"),
        delivered=rate("delivered_messages"),
        dropped=rate("dropped_messages"),
        denied=rate("denials"),
        queued=now["queued_messages"],
        lag=daemon["lag"]["last_seconds"] if daemon else None,
        throttled={name: count for name, count in daemon.get("throttled", {}).items() if count},
    )
