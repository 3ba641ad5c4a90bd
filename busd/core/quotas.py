"""What one endpoint may hold, and what the node has for all."""

from dataclasses import dataclass
from typing import Final

from busproto.errors import BusError, Code
from busproto.limits import HANDSHAKE_SECONDS, MIB, PAYLOAD_BYTES

SHARED: Final = ("endpoints", "subscriptions", "services", "calls", "queued_bytes", "held_bytes")
"""Resources of the node that all who are attached share."""

COUNTED: Final = (
    "subscriptions",
    "services",
    "calls",
    "held_calls",
    "control_bytes",
    "monitors",
    *(f"node_{resource}" for resource in SHARED),
)
"""The quotas whose using up is told to whoever did it: labels of metrics."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """Bounds that an operator can set. The protocol's own ceilings are in ``busproto.limits``."""

    endpoints: int = 16384
    """Connections to the broker, said hello or not."""
    subscriptions: int = 1024
    """Subscriptions of one endpoint."""
    services: int = 256
    """Patterns that one endpoint serves."""
    calls: int = 4096
    """Calls that one endpoint has in flight as their caller."""
    held_calls: int = 8192
    """Calls that one endpoint holds as their responder, those that nobody waits for any more included. Callers share
    them fairly: the first may have half."""
    outbox_bytes: int = 32 * MIB
    """Bytes queued for one endpoint. More than the largest payload, or that could never be delivered."""
    outbox_messages: int = 65536
    """Messages queued for one endpoint."""
    control_bytes: int = 8 * MIB
    """Bytes of answers queued for one endpoint beyond its outbox, before it is cut off as not reading. More than one
    read of its socket (256 KiB) can cause: 26,000 of the smallest calls that nobody serves are answered by 7 MB."""
    max_payload: int = PAYLOAD_BYTES
    """Bytes of one payload."""
    handshake_seconds: float = HANDSHAKE_SECONDS
    """From connection to hello."""
    frame_seconds: float = 30.0
    """From a frame's first byte to its last. Long enough for a process that was stopped for a while."""
    held_bytes: int = 256 * MIB
    """Bytes of half-received frames, of all connections together; one alone may have a frame's 16 MiB."""
    queued_bytes: int = 1024 * MIB
    """Bytes of room for what is queued, of all endpoints together beyond 64 KiB each."""
    node_subscriptions: int = 1 << 18
    """Subscriptions of all endpoints together."""
    node_services: int = 1 << 16
    """Patterns that are served, of all endpoints together."""
    node_calls: int = 1 << 16
    """Calls in flight, of all endpoints together, as far as tenants have a share of them."""
    tenant_envelopes: int = 1024
    """Envelopes in one frame from a tenant: what is decoded in one go keeps others waiting."""
    departures: int = 200
    """Endpoints remembered after they left."""
    route_cache: int = 16384
    """Subjects whose receivers are remembered for one identity of the node."""
    tenant_route_cache: int = 1024
    """The same for one identity of a tenant. One subject of the longest takes 6 KiB."""

    def check(self, quota: str, used: int, holder: str, seconds: float) -> None:
        """Raise BusError 4001 if ``holder`` has ``used`` all it may of ``quota``; ``seconds`` is since when it does."""
        limit = getattr(self, quota)
        if used >= limit:
            raise exceeded(quota, used, limit, holder, seconds)


def exceeded(quota: str, used: int, limit: int, holder: str, seconds: float) -> BusError:
    """The error that says which quota is used up, who holds it, and since when."""
    since = f", the oldest for {seconds:.1f} s"
    return BusError(Code.QUOTA_EXCEEDED, quota=quota, holder=holder, used=used, limit=limit, since=since)
