"""One endpoint's figures as one flat row: what ``bus top`` makes rates of. Small, for there may be ten thousand."""

from typing import Any

from busd.core.session import Session


def figures(session: Session, now: float) -> dict[str, Any]:
    """Who it is, what it has done since it came (counters only grow), and what it holds now."""
    principal, claims, outbox = session.principal, session.claims, session.outbox
    return {
        "endpoint": session.name,
        "component": claims.get("component"),
        "owner": claims.get("owner"),
        "purpose": claims.get("purpose"),
        "boundary": principal.boundary,
        "tenant": principal.tenant,
        "unit": principal.unit,
        "account": session.account.name,
        "throttled": session.account.debts(now),
        "sent_messages": session.received_messages,
        "sent_bytes": session.received_bytes,
        "got_messages": outbox.delivered_messages,
        "got_bytes": outbox.delivered_bytes,
        "called": session.traffic.calls(),
        "lost": outbox.lost,
        "denied": session.denied,
        "calls": len(session.calls),
        "held_calls": len(session.held),
        "queued_messages": outbox.messages,
        "queued_bytes": outbox.bytes,
        "fullest": _fullest(session),
    }


def _fullest(session: Session) -> list[Any] | None:
    """The quota of its own that is used up most: name, used, limit; None if it uses nothing."""
    found: list[Any] | None = None
    most = 0.0
    for name, each in session.charges().items():
        used, limit = each["used"], each["limit"]
        part = used / limit if limit else 1.0
        if used and part > most:
            found, most = [name, used, limit], part
    return found
