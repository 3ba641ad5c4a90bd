"""Who is attached, and who was: names, claims, and why the last ones left."""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from busd.core.principal import BOUNDARIES
from busd.core.session import Session
from busproto.errors import BusError, Code
from busproto.limits import MANIFEST_SUBJECTS, PURPOSE_BYTES, VALUE_BYTES
from busproto.subjects import check_name, check_pattern

CLAIM_NAMES = ("component", "owner")
CLAIM_SUBJECTS = ("serves", "publishes", "needs")


class Census:
    """Endpoints by name in order of arrival, and the last departures."""

    __slots__ = ("_by_tenant", "_departed", "_endpoints", "_last", "_refused", "by_boundary")

    def __init__(self, departures: int) -> None:
        self._endpoints: dict[str, Session] = {}
        self._by_tenant: dict[str, dict[str, Session]] = {}
        """The same once more, for those who may see one tenant's only: a page of theirs costs what is on it."""
        self.by_boundary = dict.fromkeys(BOUNDARIES, 0)
        """How many there are."""
        self._departed: deque[dict[str, Any]] = deque(maxlen=departures)
        self._refused: deque[dict[str, Any]] = deque(maxlen=departures)
        self._last = 0

    def __len__(self) -> int:
        return len(self._endpoints)

    def name(self, boundary: str) -> str:
        """A name for a new endpoint: the boundary it came through, which is proven, and a number not used before."""
        self._last += 1
        return f"{boundary}-{self._last}"

    def enter(self, session: Session) -> None:
        """``session`` has said hello and has its name."""
        self._endpoints[session.name] = session
        self.by_boundary[session.principal.boundary] += 1
        self._by_tenant.setdefault(session.principal.tenant, {})[session.name] = session

    def leave(self, session: Session, now: float) -> bool:
        """``session`` is gone; False if it never was an endpoint. Those are kept apart: a flood must hide no other."""
        row = {
            "endpoint": session.name or None,
            "principal": session.principal.describe(),
            "claims": session.claims,
            "reason": str(session.departure),
            "error": session.error,
            "seconds": now - session.attached_at,
            "left_at": now,
            "received_messages": session.received_messages,
            "delivered_messages": session.outbox.delivered_messages,
            "lost_messages": session.outbox.lost,
        }
        if self._endpoints.pop(session.name, None) is None:
            self._refused.append(row)
            return False
        self.by_boundary[session.principal.boundary] -= 1
        tenant = session.principal.tenant
        del self._by_tenant[tenant][session.name]
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]
        self._departed.append(row)
        return True

    def find(self, name: str, tenant: str | None = None) -> Session | None:
        """The attached endpoint ``name``, of ``tenant`` if that is given."""
        return self._seen_by(tenant).get(name)

    def after(self, name: str | None, limit: int, tenant: str | None = None) -> tuple[list[Session], str | None]:
        """At most ``limit`` endpoints in order of arrival, from behind ``name``; and the name to go on from, if any."""
        following = iter(self._seen_by(tenant).values())
        if name is not None:
            following = self._behind(name, tenant)
        page = list(islice(following, limit + 1))
        return page[:limit], page[limit - 1].name if len(page) > limit else None

    def _behind(self, name: str, tenant: str | None) -> Iterator[Session]:
        """The endpoints that came after ``name``, which may have left. To pass over those before is quick."""
        seen = self._seen_by(tenant)
        if name in seen:
            items = iter(seen.items())
            for other, _ in items:
                if other == name:
                    break
            return (session for _, session in items)
        first = _number(name)
        return (session for session in seen.values() if _number(session.name) > first)

    def departed(self, now: float, tenant: str | None = None) -> list[dict[str, Any]]:
        """The last endpoints that left, latest first, with how long ago."""
        return _with_age(self._departed, now, tenant)

    def refused(self, now: float, tenant: str | None = None) -> list[dict[str, Any]]:
        """The last connections that never became endpoints, latest first, with how long ago."""
        return _with_age(self._refused, now, tenant)

    def _seen_by(self, tenant: str | None) -> dict[str, Session]:
        return self._endpoints if tenant is None else self._by_tenant.get(tenant, {})

    def names(self) -> list[str]:
        """Of all endpoints. For 10,000 it takes a tenth of the time that it takes to look at each."""
        return list(self._endpoints)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._endpoints.values())


def check_claims(manifest: dict[str, Any]) -> dict[str, Any]:
    """The claims in a ``manifest``, each within its bounds; what is not known is left out. Raises BusError 1016."""
    claims: dict[str, Any] = {}
    for key in CLAIM_NAMES:
        if manifest.get(key) is not None:
            if (reason := check_name(manifest[key])) is not None:
                raise BusError(Code.MANIFEST_INVALID, reason=f"{key} {reason}")
            claims[key] = manifest[key]
    for key, limit in (("version", 64), ("purpose", PURPOSE_BYTES)):
        if manifest.get(key) is not None:
            if not isinstance(manifest[key], str) or len(manifest[key].encode()) > min(limit, VALUE_BYTES):
                raise BusError(Code.MANIFEST_INVALID, reason=f"{key} must be a string of at most {limit} bytes")
            claims[key] = manifest[key]
    for key in CLAIM_SUBJECTS:
        patterns = manifest.get(key)
        if patterns is None:
            continue
        if not isinstance(patterns, list) or len(patterns) > MANIFEST_SUBJECTS:
            reason = f"{key} must be a list of at most {MANIFEST_SUBJECTS} patterns"
            raise BusError(Code.MANIFEST_INVALID, reason=reason)
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise BusError(Code.MANIFEST_INVALID, reason=f"{key} holds something that is not a string")
            try:
                check_pattern(pattern)
            except BusError as error:
                raise BusError(Code.MANIFEST_INVALID, reason=f"{key}: {error.text}") from None
        claims[key] = patterns
    return claims


def _number(name: str) -> int:
    """The number in an endpoint's name; names that are none come before all."""
    digits = name.rpartition("-")[2]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else 0


def _with_age(rows: deque[dict[str, Any]], now: float, tenant: str | None) -> list[dict[str, Any]]:
    return [
        {**{key: value for key, value in row.items() if key != "left_at"}, "ago": now - row["left_at"]}
        for row in reversed(rows)
        if tenant is None or row["principal"]["tenant"] == tenant
    ]
