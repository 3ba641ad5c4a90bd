"""The services that the broker itself answers under ``$bus.``: nothing about the bus is told out of band."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from busd.core.figures import figures
from busd.core.session import OWNERSHIP, Session
from busd.core.tracing import ADMINISTERS, Question, administers, trace
from busproto.errors import BusError, Code
from busproto.limits import PAYLOAD_BYTES
from busproto.subjects import check_subject, overlaps

if TYPE_CHECKING:
    from busd.core.bus import Bus

PAGE: Final = 500
"""Endpoints in one answer of ``$bus.list`` unless the request asks for fewer: about 250 KiB."""

PAGE_TOP: Final = 250
"""Endpoints in one answer of ``$bus.top``: some 2 ms of work."""

PAGE_FLOWS: Final = 2000
"""Flows after which an answer of ``$bus.map`` ends, though it has fewer endpoints."""

BROKER: Final = "$bus"
"""The endpoint that the broker itself is."""

OUTSIDE: Final = ("component", "version", "purpose", "state", "serves", "publishes")
"""What of a component is told to those who may call it and do not own it."""


class Request:
    """The map that a caller sent, read field by field with an error that names the field."""

    __slots__ = ("_fields", "_subject")

    def __init__(self, subject: str, value: Any) -> None:
        """Raises BusError 2008 unless ``value`` is a map or None."""
        self._subject = subject
        if value is not None and not isinstance(value, dict):
            raise self.error("the request must be a map")
        self._fields: dict[Any, Any] = value or {}

    @property
    def fields(self) -> dict[Any, Any]:
        """All of it, for whoever validates it as a whole."""
        return self._fields

    def error(self, reason: str) -> BusError:
        """The error for a request that is not valid because of ``reason``."""
        return BusError(Code.REQUEST_INVALID, subject=self._subject, reason=reason)

    def text(self, field: str) -> str:
        """The string ``field``, which must be there."""
        value = self._fields.get(field)
        if not isinstance(value, str):
            raise self.error(f"{field} must be a string")
        return value

    def optional_text(self, field: str) -> str | None:
        """The string ``field``, or None if it is not there."""
        return None if self._fields.get(field) is None else self.text(field)

    def flag(self, field: str) -> bool:
        """The boolean ``field``; False if it is not there."""
        value = self._fields.get(field, False)
        if not isinstance(value, bool):
            raise self.error(f"{field} must be true or false")
        return value

    def count(self, field: str, limit: int) -> int:
        """The integer ``field`` from 1 to ``limit``; ``limit`` if it is not there."""
        value = self._fields.get(field, limit)
        if type(value) is not int or not 1 <= value <= limit:
            raise self.error(f"{field} must be an integer from 1 to {limit}")
        return value

    def optional_number(self, field: str, least: int, most: int) -> int | None:
        """The integer ``field`` from ``least`` to ``most``, or None if it is not there."""
        value = self._fields.get(field)
        if value is not None and (type(value) is not int or not least <= value <= most):
            raise self.error(f"{field} must be an integer from {least} to {most}")
        return value

    def has(self, field: str) -> bool:
        """Whether ``field`` is there."""
        return self._fields.get(field) is not None

    def only(self, *fields: str) -> None:
        """Refuse every field but ``fields``: for requests where one that was misspelt must not pass unseen."""
        for field in self._fields:
            if field not in fields:
                raise self.error(f"there is no field {str(field)[:80]!a}; there are {', '.join(fields)}")


def ping(bus: "Bus", session: Session, request: Any, now: float) -> dict[str, Any]:
    """Answers anything with who asked and where it got to."""
    return {"endpoint": session.name, "node": bus.node}


def list_endpoints(bus: "Bus", session: Session, request: Any, now: float) -> dict[str, Any]:
    """A page of the census, and on request those that left, and who pays for what. A tenant sees its own only."""
    fields = Request("$bus.list", request)
    departed = fields.flag("departed")
    tenant = _sees(session)
    page, following = bus.census.after(fields.optional_text("after"), fields.count("limit", PAGE), tenant)
    return {
        "endpoints": [endpoint.describe(now) for endpoint in page],
        "next": following,
        "departed": bus.census.departed(now, tenant) if departed else [],
        "refused": bus.census.refused(now, tenant) if departed else [],
        "accounts": bus.accounts(session, now) if fields.flag("accounts") else [],
    }


def inspect(bus: "Bus", session: Session, request: Any, now: float) -> dict[str, Any]:
    """Everything about one endpoint."""
    fields = Request("$bus.inspect", request)
    name = fields.text("endpoint")
    endpoint = bus.census.find(name, _sees(session))
    if endpoint is None:
        raise fields.error(f"no endpoint is called {name[:80]!a}")
    return endpoint.inspect(now)


def stats(bus: "Bus", session: Session, request: Any, now: float) -> dict[str, Any]:
    """The counters of the whole broker, for the node; keys of two parts are joined with a slash."""
    if _sees(session) is not None:
        reason = "they are of all tenants together; $bus.inspect has an endpoint's own"
        raise BusError(Code.DENIED, action="call", subject="$bus.stats", reason=reason)
    return {
        "node": bus.node,
        "broker": bus.software,
        "seconds": now - bus.started,
        **{name: _flat(value) for name, value in asdict(bus.statistics()).items()},
        "daemon": bus.daemon(),
    }


def explain(bus: "Bus", session: Session, request: Any, now: float) -> dict[str, Any]:
    """What would become of a message or call on a subject: of the asker, or for the node's administration of another.

    Delivers nothing. README of schemas, "What the broker serves".
    """
    fields = Request("$bus.explain", request)
    subject = fields.text("subject")
    verb = fields.optional_text("verb") or "publish"
    size = fields.optional_number("size", 0, PAYLOAD_BYTES) or 0
    name = fields.optional_text("endpoint")
    check_subject(subject)
    if verb not in ("publish", "call"):
        raise fields.error("verb must be publish or call")
    sender = session
    if name is not None and name != session.name:
        if not administers(session):
            reason = f"who may not call {ADMINISTERS} is told about itself only"
            raise BusError(Code.DENIED, action="trace", subject=subject, reason=reason)
        other = bus.census.find(name)
        if other is None:
            raise fields.error(f"no endpoint is called {name[:80]!a}")
        sender = other
    return trace(bus, session, sender, Question(verb, subject, size, frozenset(SERVICES)), now)


def components(bus: "Bus", session: Session, request: Any, now: float) -> dict[str, Any]:
    """The node's components, or the one that the request names. A tenant sees what is offered to it, from outside."""
    fields = Request("$bus.components", request)
    name = fields.optional_text("component")
    rows = [row for key, row in bus.components.items() if name in (None, key)]
    if _sees(session) is not None:
        offered = session.space.offered
        rows = [
            {field: row[field] for field in OUTSIDE if field in row}
            for row in rows
            if any(overlaps(pattern, served) for pattern in offered for served in row.get("serves", ()))
        ]
    if name is not None and not rows:
        raise fields.error(f"there is no component {name[:80]!a}")
    return {"components": rows}


def top(bus: "Bus", session: Session, request: Any, now: float) -> dict[str, Any]:
    """A page of the endpoints, each with what it has done so far. A tenant sees its own only."""
    fields = Request("$bus.top", request)
    page, following = bus.census.after(fields.optional_text("after"), fields.count("limit", PAGE_TOP), _sees(session))
    return {"at": now, "endpoints": [figures(endpoint, now) for endpoint in page], "next": following}


def map_traffic(bus: "Bus", session: Session, request: Any, now: float) -> dict[str, Any]:
    """A page of the endpoints, and how much each sent to which other since it came. For the node."""
    if _sees(session) is not None:
        reason = "it is of all tenants together"
        raise BusError(Code.DENIED, action="call", subject="$bus.map", reason=reason)
    fields = Request("$bus.map", request)
    page, following = bus.census.after(fields.optional_text("after"), fields.count("limit", PAGE))
    endpoints: list[dict[str, Any]] = []
    flows: list[dict[str, Any]] = []
    for endpoint in page:
        principal = endpoint.principal
        claims = {claim: endpoint.claims.get(claim) for claim in OWNERSHIP}
        place = {"boundary": principal.boundary, "tenant": principal.tenant, "unit": principal.unit}
        endpoints.append({"endpoint": endpoint.name, **claims, **place})
        flows += [
            {"from": endpoint.name, "to": to, "kind": kind, "subject": subject, "messages": messages}
            for (to, kind, subject), messages in endpoint.traffic.flows().items()
            if to == BROKER or bus.census.find(to) is not None
        ]
        if len(flows) >= PAGE_FLOWS:
            following = endpoint.name if endpoint is not page[-1] else following
            break
    return {"at": now, "endpoints": endpoints, "flows": flows, "next": following}


SERVICES: Final[dict[str, Callable[["Bus", Session, Any, float], dict[str, Any]]]] = {
    "$bus.ping": ping,
    "$bus.list": list_endpoints,
    "$bus.inspect": inspect,
    "$bus.stats": stats,
    "$bus.explain": explain,
    "$bus.components": components,
    "$bus.map": map_traffic,
    "$bus.top": top,
}
"""What answers each subject."""


def _sees(session: Session) -> str | None:
    """The tenant whose endpoints ``session`` may see; None, all of them, for the node."""
    return None if session.principal.is_node else session.principal.tenant


def _flat(value: Any) -> Any:
    """``value`` with keys that every msgpack reader can hold."""
    if isinstance(value, dict):
        return {"/".join(map(str, key)) if isinstance(key, tuple) else str(key): _flat(v) for key, v in value.items()}
    return list(value) if isinstance(value, tuple) else value
