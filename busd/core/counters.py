"""What the broker counts. Counters belong to the broker, not to the endpoints that cause them: they never go down."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from busd.core.histogram import Histogram
from busd.core.principal import BOUNDARIES
from busd.core.reasons import Departure, Drop
from busd.core.rules import VERBS
from busproto.envelope import OUTCOMES
from busproto.errors import BusError, Code


class TenantCounters:
    """Totals of one tenant since the broker started: of what its endpoints sent, got, lost and were denied."""

    __slots__ = ("delivered_bytes", "delivered_messages", "denied", "dropped", "received_bytes", "received_messages")

    def __init__(self) -> None:
        self.received_messages = self.received_bytes = 0
        self.delivered_messages = self.delivered_bytes = 0
        self.dropped = self.denied = 0

    def receive(self, messages: int, size: int) -> None:
        """It sent a frame of ``size`` bytes."""
        self.received_messages += messages
        self.received_bytes += size

    def deliver(self, messages: int, size: int) -> None:
        """It was sent a frame of ``size`` bytes."""
        self.delivered_messages += messages
        self.delivered_bytes += size


class Counters:
    """Totals since the broker started, and what there is by boundary: nobody counts ten thousand endpoints for them."""

    __slots__ = (
        "call_seconds",
        "calls",
        "delivered_bytes",
        "delivered_messages",
        "denials",
        "departures",
        "dropped",
        "handshaking",
        "held_bytes",
        "quota_rejections",
        "received_bytes",
        "received_messages",
        "refusals",
        "route_seconds",
        "skipped",
        "tenants",
        "withdrawn",
    )

    def __init__(self, tenants: Iterable[str] = ()) -> None:
        """``tenants`` are those that are counted each by itself."""
        self.received_messages = dict.fromkeys(BOUNDARIES, 0)
        self.received_bytes = dict.fromkeys(BOUNDARIES, 0)
        self.delivered_messages = dict.fromkeys(BOUNDARIES, 0)
        self.delivered_bytes = dict.fromkeys(BOUNDARIES, 0)
        self.dropped: Counter[tuple[str, Drop]] = Counter()
        """By the receiver's boundary and reason."""
        self.departures: Counter[tuple[str, Departure]] = Counter()
        """By boundary and reason."""
        self.calls = dict.fromkeys(OUTCOMES.values(), 0)
        """Calls ended, by outcome."""
        self.denials = {(boundary, verb): 0 for boundary in BOUNDARIES for verb in VERBS}
        """Requests that policy did not allow, by boundary of who asked and verb."""
        self.handshaking = dict.fromkeys(BOUNDARIES, 0)
        """Connections whose hello is waited for."""
        self.held_bytes = dict.fromkeys(BOUNDARIES, 0)
        """Bytes of half-received frames."""
        self.tenants: Final = {tenant: TenantCounters() for tenant in tenants}
        """Those that are counted each by itself."""
        self.withdrawn = 0
        """Subscriptions and offers to serve that ended because their right was taken back."""
        self.refusals: Counter[str] = Counter()
        """Envelopes refused, by name of the error."""
        self.quota_rejections: Counter[str] = Counter()
        """Requests refused for a quota, by quota."""
        self.skipped = 0
        """Envelopes of a kind that may be skipped, and was."""
        self.call_seconds = Histogram()
        self.route_seconds = Histogram()

    def refuse(self, error: BusError) -> None:
        """Count a refusal by its error, and by the quota if one was used up."""
        self.refusals[error.name] += 1
        if error.code == Code.QUOTA_EXCEEDED:
            self.count_quota(error)

    def count_quota(self, error: BusError) -> None:
        """Count the quota that ``error`` says is used up."""
        self.quota_rejections[str(error.fields["quota"])] += 1
