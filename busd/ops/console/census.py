"""The census, searched and sorted; and all there is to know about one endpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from busd.core.bus import Bus
from busd.core.session import Session
from busd.core.traffic import WAYS, Flow
from busd.ops.console.endpoints import attached
from busd.ops.console.pace import Pace, most, page
from busd.ops.console.sample import Sample
from busd.ops.console.text import ITEMS, clean, shown

__all__ = ["ROWS", "SORTS", "Search", "describe_endpoint", "search"]

ROWS: Final = 200
"""Rows of one page."""

PATTERNS: Final = 5
"""Patterns of a service that are shown in a row."""

FLOWS: Final = 100
"""Flows of one endpoint that are shown."""


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for."""

    text: str = ""
    """That is in one of an endpoint's texts, whatever its case."""
    sort: str = ""
    """One of ``SORTS``; empty: in order of arrival."""
    descending: bool = False
    boundary: str = ""
    tenant: str = ""
    unit: str = ""
    component: str = ""
    """Those that say that they are this."""
    unowned: bool = False
    """Only those that do not say whose they are and what for."""
    offset: int = 0
    limit: int = 50


def _claim(name: str) -> Callable[[Session, float], Any]:
    return lambda session, now: str(session.claims.get(name) or "").casefold()


SORTS: Final[dict[str, Callable[[Session, float], Any]]] = {
    "endpoint": lambda session, now: (session.principal.boundary, int(session.name.rpartition("-")[2] or 0)),
    "boundary": lambda session, now: session.principal.boundary,
    "tenant": lambda session, now: session.principal.tenant,
    "unit": lambda session, now: session.principal.unit,
    "generation": lambda session, now: session.principal.generation,
    "component": _claim("component"),
    "version": _claim("version"),
    "owner": _claim("owner"),
    "purpose": _claim("purpose"),
    "age_seconds": lambda session, now: now - session.attached_at,
    "user": lambda session, now: -1 if session.principal.uid is None else session.principal.uid,
    "pid": lambda session, now: session.principal.pid or 0,
    "received_messages": lambda session, now: session.received_messages,
    "delivered_messages": lambda session, now: session.outbox.delivered_messages,
    "dropped_messages": lambda session, now: session.outbox.lost,
    "denied": lambda session, now: session.denied,
    "queued_messages": lambda session, now: session.outbox.messages,
    "queued_bytes": lambda session, now: session.outbox.bytes,
    "fullest": lambda session, now: _fullness(_fullest(session)),
    "subscriptions": lambda session, now: len(session.subscriptions),
}
"""Columns that rows can be sorted by."""


async def search(bus: Bus, wanted: Search, now: float, pace: Pace) -> dict[str, Any]:
    """A page of the endpoints that match, and how many do. In slices."""
    await pace.rest()
    needle = wanted.text.casefold()
    key = SORTS.get(wanted.sort) or (lambda session, now: 0)
    total = 0
    matching: list[tuple[Any, int, Session]] = []
    for session in attached(bus):
        total += 1
        if _matches(session, wanted, needle):
            matching.append((key(session, now), total, session))
        await pace.rest()
    rows = await page(matching, wanted.offset, wanted.limit, pace, descending=wanted.descending)
    found = []
    for session in rows:
        found.append(_row(session, now))
        await pace.rest()
    return {"total": total, "matching": len(matching), "rows": found}


async def describe_endpoint(
    bus: Bus, name: str, now: float, sample: Sample | None, pace: Pace
) -> dict[str, Any] | None:
    """Everything about endpoint ``name``; None if it is not attached. ``sample``: the last, for rates."""
    session = bus.census.find(name)
    if session is None:
        return None
    account = session.account
    shares = {
        f"node_{resource}": {"used": ledger.share(account.actor), "limit": ledger.most(account.actor)}
        for resource, ledger in bus.ledgers.items()
    }
    document: dict[str, Any] = clean(session.inspect(now, ITEMS))
    document["services"] = document["serves"]
    document["quotas"] = {**document["charges"], **shares}
    document["flows"] = await _flows(bus, session, sample, pace)
    return document


async def _flows(bus: Bus, session: Session, sample: Sample | None, pace: Pace) -> list[dict[str, Any]]:
    """What it sends, and what it gets from whom in the last second, as far as somebody looks; the busiest first."""
    for _ in range(WAYS):
        if not session.traffic.settle_one():
            break
        await pace.rest()
    found: list[tuple[str, Flow, float, int | None]] = []
    for flow, messages in session.traffic.settled.items():
        found.append((session.name, flow, 0.0 if sample is None else sample.rates.of(session.name, flow), messages))
    if sample is not None:
        for each in sample.rates.to(session.name):
            if each is None:
                await pace.rest()
            elif each[0] != session.name:
                found.append((*each, None))
    return [
        {
            "from": name,
            "to": flow.to,
            "other": _end(bus, flow.to if name == session.name else name),
            "kind": flow.kind,
            "subject": shown(flow.subject),
            "messages": messages,
            "per_second": None if sample is None else round(rate, 2),
        }
        for name, flow, rate, messages in await most(found, FLOWS, _busiest, pace)
    ]


def _busiest(found: tuple[str, Flow, float, int | None]) -> tuple[float, int, str, Flow]:
    name, flow, rate, messages = found
    return rate, messages or 0, name, flow


def _end(bus: Bus, name: str) -> dict[str, Any] | None:
    """Who is at the other end of a flow; None for the broker itself, and for one that left."""
    session = bus.census.find(name)
    if session is None:
        return None
    component, principal = session.claims.get("component"), session.principal
    return {"component": component, "tenant": shown(principal.tenant), "unit": shown(principal.unit)}


def _matches(session: Session, wanted: Search, needle: str) -> bool:
    principal, claims = session.principal, session.claims
    if wanted.boundary and principal.boundary != wanted.boundary:
        return False
    if wanted.tenant and principal.tenant != wanted.tenant:
        return False
    if wanted.unit and shown(principal.unit) != wanted.unit:
        return False
    if wanted.component and shown(claims.get("component") or "") != wanted.component:
        return False
    if wanted.unowned and not session.unowned():
        return False
    if not needle:
        return True
    texts = [session.name, principal.boundary, principal.tenant, principal.unit]
    texts += [claims[claim] for claim in ("component", "version", "owner", "purpose") if claims.get(claim)]
    texts += [service.pattern for service in session.services.values()]
    return needle in "\n".join(texts).casefold()


def _row(session: Session, now: float) -> dict[str, Any]:
    principal, claims, outbox = session.principal, session.claims, session.outbox
    return {
        "endpoint": session.name,
        "boundary": principal.boundary,
        "tenant": shown(principal.tenant),
        "unit": shown(principal.unit),
        "generation": principal.generation,
        **{claim: clean(claims.get(claim) or None) for claim in ("component", "version", "owner", "purpose")},
        "age_seconds": round(now - session.attached_at, 1),
        "user": principal.uid,
        "pid": principal.pid,
        "received_messages": session.received_messages,
        "delivered_messages": outbox.delivered_messages,
        "dropped_messages": outbox.lost,
        "denied": session.denied,
        "queued_messages": outbox.messages,
        "queued_bytes": outbox.bytes,
        "fullest": _fullest(session),
        "serves": sorted({shown(service.pattern) for service in session.services.values()})[:PATTERNS],
        "subscriptions": len(session.subscriptions),
    }


def _fullest(session: Session) -> dict[str, Any] | None:
    """The quota of its own that it has used up most; None while it uses nothing."""
    used = [{"resource": name, **charge} for name, charge in session.charges().items() if charge["used"]]
    return max(used, key=_fullness, default=None)


def _fullness(charge: dict[str, Any] | None) -> float:
    return 0.0 if charge is None else charge["used"] / max(charge["limit"], 1)
