"""A node that only says what it is told to say."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from busd.components.supervisor.ownmetrics import OwnMetric
from busd.components.supervisor.statistics import ComponentStatistics, OperationTotals
from busd.core.histogram import Histogram
from busd.core.policy import PolicyStatistics
from busd.core.reasons import Departure, Drop
from busd.core.statistics import BoundaryStatistics, BusStatistics, TenantStatistics
from busd.edge.curvestatistics import CurveStatistics
from busd.edge.zap import ZapStatistics
from busd.ops.auditfile import AuditStatistics
from busd.ops.config import Config
from busd.ops.descriptors import Descriptors
from busd.ops.lag import LagStatistics
from busd.ops.policyadmin import PolicyAdminStatistics
from busd.ops.status import EdgeStatistics, NodeStatistics, State


def histogram(*seconds: float) -> Histogram:
    made = Histogram()
    for each in seconds:
        made.observe(each)
    return made


BUS = BusStatistics(
    endpoints={"host": 7, "guest": 2},
    subscriptions=11,
    services=3,
    boundaries={
        "guest": BoundaryStatistics(0, 2, 1, 3, 100, 0),
        "host": BoundaryStatistics(1, 9, 2, 2, 500, 53),
    },
    tenants={},
    units={"guest": 59, "soc": 61},
    accounts=67,
    used={("calls", "node"): 71, ("calls", "others"): 73, ("queued_bytes", "others"): 79},
    limits={"calls": 65536, "queued_bytes": 1 << 30},
    calls_in_flight=4,
    monitors=2,
    waiting_calls=0,
    held_calls=6,
    queued_messages=5,
    queued_bytes=600,
    received_messages={"host": 1000},
    received_bytes={"host": 20000},
    delivered_messages={"host": 3000, "soc": 1},
    delivered_bytes={"host": 60000, "soc": 20},
    dropped_messages={("guest", str(Drop.OUTBOX_BYTES)): 13},
    departures={("host", str(Departure.BYE)): 17},
    calls={"reply": 19, "timeout": 1},
    refusals={"subject-invalid": 23},
    quota_rejections={"subscriptions": 29},
    denials={"subscribe": 83},
    denials_by_boundary={("guest", "subscribe"): 80, ("host", "subscribe"): 3},
    withdrawn_rights=89,
    skipped_envelopes=31,
    route_cache_entries=37,
    route_cache_misses=41,
    call_seconds=histogram(0.00003, 0.0004, 0.0004, 100.0).statistics(),
    route_seconds=histogram(0.000015, 0.00004).statistics(),
)

TENANT = TenantStatistics(
    used={"calls": 281, "queued_bytes": 283},
    limits={"calls": 293, "queued_bytes": 307},
    received_messages=311,
    received_bytes=313,
    delivered_messages=317,
    delivered_bytes=331,
    dropped_messages=337,
    denials=347,
)
"""Figures of one tenant."""


HTTP = SimpleNamespace(
    connections=367,
    connections_limit=373,
    requests=379,
    foreign_hosts=383,
    foreign_sites=389,
    evicted=397,
    viewers_evicted=401,
    viewers=409,
)
"""Figures of the HTTP server."""


def operation(calls: int, *seconds: float, in_flight: int = 0, errors: dict[str, int] | None = None) -> OperationTotals:
    """Figures of one operation of which calls took ``seconds``."""
    buckets = tuple((bound, sum(each <= bound for each in seconds)) for bound in (0.0001, 0.001, 1.0))
    return OperationTotals(calls, in_flight, errors or {}, len(seconds), sum(seconds), buckets)


def component(name: str = "telemetry", **changes: Any) -> ComponentStatistics:
    """Figures of one component."""
    figures = {
        "name": name,
        "state": "ready",
        "reason": "",
        "placement": "host",
        "supervised": True,
        "restarts": 241,
        "cut_off": 251,
        "memory_bytes": 257 << 20,
        "cpu_percent": 2.63,
        "budget_memory_bytes": 512 << 20,
        "budget_cpu_percent": 100.0,
        "operations": {"processes": operation(269, 0.00003, 0.0004, in_flight=2, errors={"2008": 271})},
        "log_lines": 277,
        "healthy": True,
        "metrics": (
            OwnMetric("samples_total", "counter", "Samples taken.", (), {(): 349}),
            OwnMetric("unreadable_total", "counter", "Not read.", ("figure",), {("cpu",): 353, ("disk",): 0}),
        ),
        "metrics_refused": 359,
    }
    return ComponentStatistics(**{**figures, **changes})


NODE = NodeStatistics(
    node="n1",
    version="9.9.9",
    protocol=1,
    python="3.11.0",
    loop="uvloop",
    pid=4711,
    state=State.READY,
    uptime_seconds=12.5,
    run_dir="/run/busd",
    addresses={"host": "unix:///run/busd/host.sock", "http": "http://127.0.0.1:9850"},
    endpoints_limit=16384,
    components={"telemetry": component()},
    bus=BUS,
    throttled={"calls": 97},
    policy=PolicyAdminStatistics(
        "built-in", PolicyStatistics("ab" * 8, 1, 101, 103, 107), {"ok": 109, "failed": 113}, True, 1.7e9
    ),
    edge=EdgeStatistics(
        accepted={"host": 43}, refused={("host", "user"): 47}, handshaking={"host": 1}, held_bytes={"host": 53}
    ),
    lag=LagStatistics(0.0002, 0.5, 0.05, histogram(0.0002, 0.5).statistics()),
    descriptors=Descriptors(1024, 524288, 524288),
    configured={"node.name": "flag --node-name"},
    libzmq="4.3.5",
    audit=AuditStatistics("/var/lib/busd/audit", 2, 211, "ab" * 32, 223, 239, 227, 229, 233, "No space left on device"),
    soc=CurveStatistics(
        boundary="soc",
        address="tcp://10.0.0.1:9851",
        state="listening",
        accepted=127,
        attached=131,
        refused={"unproven": 137},
        unproven=139,
        open=149,
        handshaking=151,
        held_bytes=157,
        lease_expiries=163,
        discarded=167,
        late_wakeups=173,
        zap=ZapStatistics(requests=179, denied=181, malformed=191, last_denied="k" * 40),
    ),
)


class FakeNode:
    """What ops needs of a node: start, stop, and statistics that a test sets."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config
        self.figures = replace(NODE, pid=os.getpid())
        self.scrapes = 0

    def set(self, **changes: Any) -> None:
        self.figures = replace(self.figures, **changes)

    async def start(self) -> None:
        self.set(state=State.READY)

    async def stop(self) -> None:
        self.set(state=State.STOPPED)

    def stuck_seconds(self) -> float:
        return self.figures.lag.age_seconds

    def statistics(self) -> NodeStatistics:
        self.scrapes += 1
        return self.figures


@contextmanager
def closing(*things: Any) -> Iterator[None]:
    """Close ``things`` at the end, whatever happened."""
    try:
        yield
    finally:
        for thing in things:
            thing.close()
