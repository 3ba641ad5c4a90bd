"""Prometheus metrics, read from ``statistics()`` at the moment of a scrape.

Counters live in the broker and only grow: sums over live objects would fall when one leaves (rabbitmq-server #2783).
Labels have closed sets of values (``DOMAINS``): an endpoint's or a subject's name as a label would make a new series
for each (the NATS exporter's #376). Every value is there from the start, at 0, so that a rate sees its first step.
Those of components are in ``busd.ops.componentmetrics``, and those of tenants in ``busd.ops.tenantmetrics``: theirs
are names that an operator configured.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from busd.core.account import RATES
from busd.core.principal import BOUNDARIES
from busd.core.quotas import COUNTED, SHARED
from busd.core.reasons import Departure, Drop
from busd.core.rules import VERBS
from busd.core.statistics import HistogramStatistics
from busd.ops.componentmetrics import COMPONENT_FAMILIES, component_metrics, own_metrics
from busd.ops.page import write_page
from busd.ops.policyadmin import RELOADS
from busd.ops.processmetrics import ProcessMetrics
from busd.ops.status import HttpFigures, NodeStatistics, Observed, State
from busd.ops.tenantmetrics import TENANT_FAMILIES, tenant_metrics
from busproto.envelope import OUTCOMES
from busproto.errors import ENTRIES, Code

__all__ = ["DOMAINS", "FAMILIES", "Metrics"]

Figures = int | float | Mapping[Any, int] | HistogramStatistics | None
"""None: this node has no such part, and so no sample."""

DOMAINS: Final[Mapping[str, tuple[str, ...]]] = {
    "boundary": BOUNDARIES,
    "drop": tuple(Drop),
    "departure": tuple(Departure),
    "refusal": (
        *("descriptors", "endpoints", "user", "identity", "unit", "rate", "draining"),
        *("connections", "address", "silent", "held", "closed", "unproven"),
    ),
    "outcome": tuple(OUTCOMES.values()),
    "error": tuple(
        entry.name
        for entry in ENTRIES.values()
        if entry.blame in ("peer", "caller", "capacity", "broker") or entry.number == Code.COMPONENT_STOPPED
    ),
    "resource": COUNTED,
    "shared": SHARED,
    "holder": ("node", "others"),
    "rate": RATES,
    "verb": VERBS,
    "result": RELOADS,
    "unwanted": ("host", "site", "evicted", "viewer"),
}
"""Closed sets that label values come from. ``reason`` is a drop, departure, refusal or error; of refusals the second
row is for TCP only. ``resource`` is a quota, or one of the ``shared``."""


class Family(NamedTuple):
    """One metric."""

    name: str
    """As it is scraped, with the ``_total`` of a counter."""
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    """What it counts, with its unit."""
    read: Callable[[NodeStatistics], Figures]
    """Its value, or its values by label values."""
    labels: Mapping[str, str] = {}
    """Label names, and the domain that each takes its values from."""


BUILD_LABELS: Final = ("version", "protocol", "python", "loop", "libzmq")
"""Labels of busd_build_info: fields of the node's statistics, one value each in a process's life."""

LISTENING: Final = "listening"
"""State of a SoC listener that is open."""

_BOUNDARY: Final = {"boundary": "boundary"}


def _unwanted(http: HttpFigures) -> dict[str, int]:
    return {
        "host": http.foreign_hosts,
        "site": http.foreign_sites,
        "evicted": http.evicted,
        "viewer": http.viewers_evicted,
    }


FAMILIES: Final = (
    Family("busd_ready", "gauge", "1 if clients can attach and call.", lambda s: int(s.state == State.READY)),
    Family("busd_uptime_seconds", "gauge", "Seconds since the node started.", lambda s: s.uptime_seconds),
    Family("busd_endpoints", "gauge", "Attached endpoints.", lambda s: s.bus.endpoints, _BOUNDARY),
    Family("busd_endpoints_limit", "gauge", "Endpoints that can be attached at once.", lambda s: s.endpoints_limit),
    Family(
        "busd_subscriptions",
        "gauge",
        "Standing subscriptions, by boundary of the subscriber.",
        lambda s: {boundary: each.subscriptions for boundary, each in s.bus.boundaries.items()},
        _BOUNDARY,
    ),
    Family(
        "busd_services",
        "gauge",
        "Standing offers to serve, by boundary of who serves.",
        lambda s: {boundary: each.services for boundary, each in s.bus.boundaries.items()},
        _BOUNDARY,
    ),
    Family("busd_units", "gauge", "Units (VMs, containers, cards) that may attach.", lambda s: s.bus.units, _BOUNDARY),
    Family(
        "busd_accounts",
        "gauge",
        "Payers with a connection: the node itself, tenants, other users of the host.",
        lambda s: s.bus.accounts,
    ),
    Family(
        "busd_accounts_throttled",
        "gauge",
        "Accounts that are held up because they were faster than a rate allows, by rate.",
        lambda s: s.throttled,
        {"rate": "rate"},
    ),
    Family(
        "busd_resource_used",
        "gauge",
        "What is used of each resource that all share, by the node itself and by all others together.",
        lambda s: s.bus.used,
        {"resource": "shared", "holder": "holder"},
    ),
    Family(
        "busd_resource_limit",
        "gauge",
        "How much there is of each resource that all share.",
        lambda s: s.bus.limits,
        {"resource": "shared"},
    ),
    Family("busd_calls_in_flight", "gauge", "Calls without a final reply.", lambda s: s.bus.calls_in_flight),
    Family("busd_monitors", "gauge", "Calls that show somebody what passes (bus monitor).", lambda s: s.bus.monitors),
    Family(
        "busd_calls_waiting", "gauge", "Calls that wait for a component's hand-over.", lambda s: s.bus.waiting_calls
    ),
    Family(
        "busd_held_calls",
        "gauge",
        "Calls that responders hold, those that nobody waits for any more included.",
        lambda s: s.bus.held_calls,
    ),
    Family(
        "busd_queued_messages",
        "gauge",
        "Envelopes waiting in outboxes, by boundary of the receiver.",
        lambda s: {boundary: each.queued_messages for boundary, each in s.bus.boundaries.items()},
        _BOUNDARY,
    ),
    Family(
        "busd_queued_bytes",
        "gauge",
        "Bytes waiting in outboxes, by boundary of the receiver.",
        lambda s: {boundary: each.queued_bytes for boundary, each in s.bus.boundaries.items()},
        _BOUNDARY,
    ),
    Family(
        "busd_messages_received_total",
        "counter",
        "Envelopes received, by boundary of the sender.",
        lambda s: s.bus.received_messages,
        _BOUNDARY,
    ),
    Family(
        "busd_received_bytes_total",
        "counter",
        "Bytes of the frames received, by boundary of the sender.",
        lambda s: s.bus.received_bytes,
        _BOUNDARY,
    ),
    Family(
        "busd_messages_delivered_total",
        "counter",
        "Envelopes handed to the transport, by boundary of the receiver.",
        lambda s: s.bus.delivered_messages,
        _BOUNDARY,
    ),
    Family(
        "busd_delivered_bytes_total",
        "counter",
        "Bytes handed to the transport, by boundary of the receiver.",
        lambda s: s.bus.delivered_bytes,
        _BOUNDARY,
    ),
    Family(
        "busd_messages_dropped_total",
        "counter",
        "Messages lost, by boundary of the receiver and reason. The receiver was told of each by a gap, or left.",
        lambda s: s.bus.dropped_messages,
        {"boundary": "boundary", "reason": "drop"},
    ),
    Family(
        "busd_endpoint_departures_total",
        "counter",
        "Endpoints gone, by boundary and reason.",
        lambda s: s.bus.departures,
        {"boundary": "boundary", "reason": "departure"},
    ),
    Family("busd_calls_total", "counter", "Calls ended, by outcome.", lambda s: s.bus.calls, {"outcome": "outcome"}),
    Family(
        "busd_refusals_total",
        "counter",
        "Envelopes refused, by name of the error (bus errors lists them).",
        lambda s: s.bus.refusals,
        {"reason": "error"},
    ),
    Family(
        "busd_skipped_envelopes_total",
        "counter",
        "Envelopes of kinds that this version does not know and may skip.",
        lambda s: s.bus.skipped_envelopes,
    ),
    Family(
        "busd_quota_rejections_total",
        "counter",
        "Requests refused because a quota was used up, by quota.",
        lambda s: s.bus.quota_rejections,
        {"resource": "resource"},
    ),
    Family(
        "busd_denials_total",
        "counter",
        "Requests that policy did not allow, by boundary of who asked and verb.",
        lambda s: s.bus.denials_by_boundary,
        {"boundary": "boundary", "verb": "verb"},
    ),
    Family(
        "busd_withdrawn_rights_total",
        "counter",
        "Subscriptions and offers to serve that ended because policy was changed.",
        lambda s: s.bus.withdrawn_rights,
    ),
    Family("busd_policy_rules", "gauge", "Rules in effect.", lambda s: s.policy.current.rules),
    Family("busd_policy_exports", "gauge", "Exports in effect.", lambda s: s.policy.current.exports),
    Family(
        "busd_policy_errors",
        "gauge",
        "Errors in the policy in effect. With any, it denies what comes after the first file that has one.",
        lambda s: s.policy.current.errors,
    ),
    Family(
        "busd_policy_reloads_total",
        "counter",
        "Reloads of the policy, by result. After one that failed, what was in effect still is.",
        lambda s: s.policy.reloads,
        {"result": "result"},
    ),
    Family(
        "busd_policy_last_reload_successful",
        "gauge",
        "1 if the last reload, or the load at the start, took the policy on disk without an error in it.",
        lambda s: int(s.policy.reloaded),
    ),
    Family(
        "busd_policy_last_reload_success_timestamp_seconds",
        "gauge",
        "When one last did, in seconds since 1970; 0: never.",
        lambda s: s.policy.reloaded_at,
    ),
    Family(
        "busd_route_cache_entries",
        "gauge",
        "Subjects whose receivers are known without a look-up.",
        lambda s: s.bus.route_cache_entries,
    ),
    Family(
        "busd_route_cache_misses_total",
        "counter",
        "Subjects whose receivers had to be looked up.",
        lambda s: s.bus.route_cache_misses,
    ),
    Family(
        "busd_route_duration_seconds",
        "histogram",
        "Seconds from a frame's arrival until all of it was in outboxes, its turn included; of one read in 61.",
        lambda s: s.bus.route_seconds,
    ),
    Family(
        "busd_call_duration_seconds",
        "histogram",
        "Seconds from a call's arrival to its final reply.",
        lambda s: s.bus.call_seconds,
    ),
    Family("busd_connections_accepted_total", "counter", "Connections accepted.", lambda s: s.edge.accepted, _BOUNDARY),
    Family(
        "busd_connections_refused_total",
        "counter",
        "Connections refused before they could say a word, by boundary and reason.",
        lambda s: s.edge.refused,
        {"boundary": "boundary", "reason": "refusal"},
    ),
    Family(
        "busd_connections_handshaking",
        "gauge",
        "Connections that have not said hello.",
        lambda s: s.edge.handshaking,
        _BOUNDARY,
    ),
    Family(
        "busd_held_bytes",
        "gauge",
        "Bytes of half-received frames, by boundary of the sender.",
        lambda s: s.edge.held_bytes,
        _BOUNDARY,
    ),
    Family(
        "busd_audit_records_total",
        "counter",
        "Audit records written and synced.",
        lambda s: s.audit.records if s.audit else 0,
    ),
    Family(
        "busd_audit_bytes_total",
        "counter",
        "Bytes of the audit records written.",
        lambda s: s.audit.bytes if s.audit else 0,
    ),
    Family(
        "busd_audit_failures_total",
        "counter",
        "Attempts to write audit records that failed.",
        lambda s: s.audit.failures if s.audit else 0,
    ),
    Family(
        "busd_audit_records_lost_total",
        "counter",
        "Audit records that there was no room for while they could not be written.",
        lambda s: s.audit.lost if s.audit else 0,
    ),
    Family(
        "busd_audit_queued_records",
        "gauge",
        "Audit records that wait to be written.",
        lambda s: s.audit.queued if s.audit else 0,
    ),
    Family(
        "busd_audit_failing",
        "gauge",
        "1 while audit records cannot be written.",
        lambda s: int(bool(s.audit and s.audit.error)),
    ),
    Family(
        "busd_soc_listening",
        "gauge",
        "1 while the SoC listener lets keys in; 0 once it has closed, as it does when its ZAP handler does not answer.",
        lambda s: int(s.soc.state == LISTENING) if s.soc else None,
    ),
    Family(
        "busd_soc_handshakes_failed_total",
        "counter",
        "Handshakes at the SoC listener that failed: no CURVE, a wrong server key, a key not enrolled, or not in time.",
        lambda s: s.soc.unproven if s.soc else None,
    ),
    Family(
        "busd_soc_keys_asked_total",
        "counter",
        "Keys that the ZAP handler was asked about.",
        lambda s: s.soc.zap.requests if s.soc else None,
    ),
    Family(
        "busd_soc_keys_denied_total",
        "counter",
        "Keys that the ZAP handler did not let in.",
        lambda s: s.soc.zap.denied if s.soc else None,
    ),
    Family(
        "busd_soc_questions_malformed_total",
        "counter",
        "Questions to the ZAP handler that were not as RFC 27 has them, or could not be decided; denied too.",
        lambda s: s.soc.zap.malformed if s.soc else None,
    ),
    Family(
        "busd_soc_lease_expiries_total",
        "counter",
        "Sessions of cards that ended because nothing came any more.",
        lambda s: s.soc.lease_expiries if s.soc else None,
    ),
    Family(
        "busd_soc_discarded_messages_total",
        "counter",
        "Messages, and parts of messages, from cards that were dropped: cut off, or more than one part.",
        lambda s: s.soc.discarded if s.soc else None,
    ),
    Family(
        "busd_soc_late_wakeups_total",
        "counter",
        "Times that a message waited at the SoC listener and libzmq had not said so.",
        lambda s: s.soc.late_wakeups if s.soc else None,
    ),
    Family(
        "busd_loop_lag_seconds",
        "histogram",
        "Seconds that the event loop called a timer after its time, sampled ten times a second.",
        lambda s: s.lag.samples,
    ),
    Family(
        "busd_http_connections",
        "gauge",
        "Connections open at the HTTP listener.",
        lambda s: s.http.connections if s.http else None,
    ),
    Family(
        "busd_http_connections_limit",
        "gauge",
        "Connections that can be open there at once.",
        lambda s: s.http.connections_limit if s.http else None,
    ),
    Family(
        "busd_http_requests_total",
        "counter",
        "Requests answered, whatever the answer.",
        lambda s: s.http.requests if s.http else None,
    ),
    Family(
        "busd_http_refused_total",
        "counter",
        "Requests refused for their Host (host) or for a page of another site (site), connections closed for a newer "
        "one (evicted), streams cut off because they were not read (viewer).",
        lambda s: _unwanted(s.http) if s.http else None,
        {"reason": "unwanted"},
    ),
    Family(
        "busd_http_viewers",
        "gauge",
        "Streams of the console that are open.",
        lambda s: s.http.viewers if s.http else None,
    ),
    Family(
        "busd_components_supervised",
        "gauge",
        "1 while the node watches its components; 0 if policy, or the loss of its own session, keeps it from that.",
        lambda s: int(not s.unsupervised),
    ),
)


TAKEN: Final = frozenset(
    {"busd_build_info", *(family.name for family in (*FAMILIES, *COMPONENT_FAMILIES, *TENANT_FAMILIES))}
)
"""Names that no metric of a component's own can have."""


class Metrics:
    """The node's metrics, and those of its process (``process_*``), read when a page is asked for."""

    def __init__(self, source: Observed, http: Callable[[], HttpFigures] | None = None) -> None:
        """``source`` is the node, ``http`` has the figures of the server that asks."""
        self._source = source
        self._http = http
        self._process = ProcessMetrics()
        self._clashes: Counter[str] = Counter()
        self._one_at_a_time = asyncio.Lock()

    async def render(self, accept: str = "") -> tuple[bytes, str]:
        """The page and its content type: Prometheus text, or OpenMetrics if ``accept`` (the header) asks for it."""
        async with self._one_at_a_time:  # each has its turn of the loop, and together they have no more
            process = await self._process.collect()
            return await write_page(itertools.chain(self._collect(), process), accept)

    def _collect(self) -> Iterator[Metric]:
        statistics = self._source.statistics()
        if self._http is not None:
            statistics = replace(statistics, http=self._http())
        info = GaugeMetricFamily("busd_build_info", "Versions of this busd; always 1.", labels=list(BUILD_LABELS))
        info.add_metric([str(getattr(statistics, label)) for label in BUILD_LABELS], 1)
        yield info
        for family in FAMILIES:
            figures = family.read(statistics)
            if figures is not None:
                yield _family(family, figures)
        yield from tenant_metrics(statistics.bus.tenants)
        own = own_metrics(statistics.components.values(), TAKEN, self._clashes)
        yield from component_metrics(statistics.components.values(), self._clashes)
        yield from own


def _family(family: Family, figures: int | float | Mapping[Any, int] | HistogramStatistics) -> Metric:
    if isinstance(figures, HistogramStatistics):
        buckets = [(repr(bound), float(count)) for bound, count in zip(figures.bounds, figures.counts, strict=True)]
        return HistogramMetricFamily(
            family.name, family.help, buckets=[*buckets, ("+Inf", figures.count)], sum_value=figures.sum
        )
    make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = make(family.name, family.help, labels=list(family.labels))
    if not isinstance(figures, Mapping):
        metric.add_metric([], figures)
        return metric
    values = dict.fromkeys(itertools.product(*(DOMAINS[domain] for domain in family.labels.values())), 0)
    values |= {key if isinstance(key, tuple) else (key,): count for key, count in figures.items()}
    for labels, count in values.items():
        metric.add_metric([str(label) for label in labels], count)
    return metric
