"""What one endpoint may hold."""

from dataclasses import dataclass
from typing import Final

from busproto.errors import BusError, Code
from busproto.limits import HANDSHAKE_SECONDS, MIB, PAYLOAD_BYTES

COUNTED: Final = ("subscriptions", "services", "calls", "held_calls", "held_bytes", "control_bytes")
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
    held_calls: int = 4096
    """Calls that one endpoint holds as their responder, those that nobody waits for any more included."""
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
    departures: int = 200
    """Endpoints remembered after they left."""
    route_cache: int = 16384
    """Subjects of one tenant whose receivers are remembered."""

    def check(self, quota: str, used: int, holder: str) -> None:
        """Raise BusError 4001, with quota, holder and numbers, if ``holder`` has ``used`` all it may of ``quota``."""
        limit = getattr(self, quota)
        if used >= limit:
            raise BusError(Code.QUOTA_EXCEEDED, quota=quota, holder=holder, used=used, limit=limit)
