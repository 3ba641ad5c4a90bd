"""What one endpoint may hold, and the account of what it does hold."""

from dataclasses import dataclass
from typing import Final

from busproto.errors import BusError, Code
from busproto.limits import HANDSHAKE_SECONDS, MIB, PAYLOAD_BYTES


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
    control_bytes: int = MIB
    """Bytes of answers queued for one endpoint beyond its outbox, before it is cut off as not reading."""
    max_payload: int = PAYLOAD_BYTES
    """Bytes of one payload."""
    handshake_seconds: float = HANDSHAKE_SECONDS
    """From connection to hello."""
    departures: int = 200
    """Endpoints remembered after they left."""
    route_cache: int = 16384
    """Subjects of one tenant whose receivers are remembered."""


COUNTED: Final = ("subscriptions", "services", "calls", "held_calls")
"""The quotas that an account keeps; queued bytes and messages are kept by the outbox itself."""


class Account:
    """What one holder holds of each counted quota. Every take has its give; an account that ends is empty."""

    __slots__ = ("_quotas", "holder", "used")

    def __init__(self, holder: str, quotas: Quotas) -> None:
        self.holder = holder
        self.used: dict[str, int] = dict.fromkeys(COUNTED, 0)
        self._quotas = quotas

    def take(self, quota: str) -> None:
        """Charge one ``quota``. Raises BusError 4001 with quota, holder and numbers when it is used up."""
        used = self.used[quota]
        if used >= getattr(self._quotas, quota):
            raise BusError(Code.QUOTA_EXCEEDED, quota=quota, holder=self.holder, used=used, limit=self.limit(quota))
        self.used[quota] = used + 1

    def give(self, quota: str) -> None:
        """Release one ``quota`` that was taken."""
        assert self.used[quota] > 0, f"{self.holder} released a {quota} it does not hold"
        self.used[quota] -= 1

    def limit(self, quota: str) -> int:
        """How many of ``quota`` the holder may have."""
        return int(getattr(self._quotas, quota))

    def describe(self) -> dict[str, dict[str, int]]:
        """Used and limit of each quota, as ``$bus.inspect`` shows them."""
        return {quota: {"used": used, "limit": self.limit(quota)} for quota, used in self.used.items()}
