"""What the bus knows of its own work: frozen figures that metrics, `$bus.stats` and the command line read."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HistogramStatistics:
    """Observed durations, in cumulative buckets as Prometheus has them."""

    bounds: tuple[float, ...]
    """Upper bounds in seconds, ascending; the last bucket, +Inf, is ``count``."""
    counts: tuple[int, ...]
    """Observations at or below each bound."""
    count: int
    """All observations."""
    sum: float
    """Their sum in seconds."""


@dataclass(frozen=True, slots=True)
class BoundaryStatistics:
    """What there is of one boundary at this moment."""

    handshaking: int
    """Connections whose hello is waited for."""
    subscriptions: int
    """Standing subscriptions."""
    services: int
    """Standing offers to serve."""
    queued_messages: int
    """Envelopes waiting in outboxes."""
    queued_bytes: int
    """Their bytes."""
    held_bytes: int
    """Bytes of half-received frames."""


@dataclass(frozen=True, slots=True)
class TenantStatistics:
    """One tenant that is counted by itself. Its counters only grow, whoever of it comes and goes."""

    used: Mapping[str, int]
    """What it uses of each shared resource."""
    limits: Mapping[str, int]
    """The most that it may have of each at this moment, what it uses included."""
    received_messages: int
    """Envelopes that it sent."""
    received_bytes: int
    """Bytes of their frames."""
    delivered_messages: int
    """Envelopes handed to the transport for it."""
    delivered_bytes: int
    """Their bytes."""
    dropped_messages: int
    """Messages that it lost."""
    denials: int
    """Requests of it that policy did not allow."""


@dataclass(frozen=True, slots=True)
class BusStatistics:
    """The whole broker. Counters only grow; they belong to the broker and survive the endpoints that caused them."""

    endpoints: Mapping[str, int]
    """Attached endpoints, by boundary."""
    subscriptions: int
    """Standing subscriptions."""
    services: int
    """Standing offers to serve."""
    units: Mapping[str, int]
    """Units that may attach, by boundary."""
    accounts: int
    """Payers with a connection: the node itself, tenants, and users of the host whom the node does not belong to."""
    used: Mapping[tuple[str, str], int]
    """What is used of each shared resource, by resource and holder: ``node`` itself, or ``others``."""
    limits: Mapping[str, int]
    """How much there is of each shared resource."""
    boundaries: Mapping[str, BoundaryStatistics]
    """What there is, by boundary."""
    tenants: Mapping[str, TenantStatistics]
    """Of each tenant that is counted by itself."""
    calls_in_flight: int
    """Calls without a final reply."""
    monitors: int
    """Those of them that show somebody what passes."""
    waiting_calls: int
    """Those of them that wait while a component is handed over."""
    held_calls: int
    """Calls that responders hold, those nobody waits for any more included."""
    queued_messages: int
    """Envelopes waiting in outboxes."""
    queued_bytes: int
    """Their bytes."""
    received_messages: Mapping[str, int]
    """Envelopes received, by boundary."""
    received_bytes: Mapping[str, int]
    """Bytes of the frames received, by boundary."""
    delivered_messages: Mapping[str, int]
    """Envelopes handed to the transport, by boundary of the receiver."""
    delivered_bytes: Mapping[str, int]
    """Bytes handed to the transport, by boundary of the receiver."""
    dropped_messages: Mapping[tuple[str, str], int]
    """Messages lost, by boundary of the receiver and reason (``Drop``)."""
    departures: Mapping[tuple[str, str], int]
    """Endpoints gone, by boundary and reason (``Departure``)."""
    calls: Mapping[str, int]
    """Calls ended, by outcome."""
    refusals: Mapping[str, int]
    """Envelopes refused, by name of the error."""
    quota_rejections: Mapping[str, int]
    """Requests refused because a quota was used up, by quota."""
    denials: Mapping[str, int]
    """Requests that policy did not allow, by verb."""
    denials_by_boundary: Mapping[tuple[str, str], int]
    """The same by boundary of who asked, and verb."""
    withdrawn_rights: int
    """Subscriptions and offers to serve that ended because policy was changed."""
    skipped_envelopes: int
    """Envelopes of unknown kinds that may be skipped."""
    route_cache_entries: int
    """Subjects whose receivers are known without a look-up."""
    route_cache_misses: int
    """Subjects whose receivers had to be looked up."""
    call_seconds: HistogramStatistics
    """From a call's arrival to its final reply."""
    route_seconds: HistogramStatistics
    """From a frame's arrival until all of it was given to outboxes; of some frames only."""
