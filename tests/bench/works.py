"""The works of the benchmark, their figures, and the bars that design and issues set for them."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a work."""

    key: str
    """Its name in a client's result."""
    name: str
    """Its name in the table."""
    unit: str
    better: Literal["lower", "higher"]
    bars: dict[str, float] = field(default_factory=dict)
    """What busd's figure, divided by that of the peer named, must reach (``higher``) or stay within (``lower``)."""
    ceiling: float | None = None
    """What busd's figure itself must stay within."""


@dataclass(frozen=True, slots=True)
class Work:
    """One thing that is measured, with every peer that can do it."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    peers: tuple[str, ...]
    subscribers: int = 0
    """Subscribed connections, where the work publishes."""
    processes: int = 1
    """Processes that the subscribers are spread over."""
    window: int = 0
    """Messages that may be on their way to a subscriber: below every peer's default queue, so that none loses any."""
    chunk: int = 0
    """Messages published before the publisher lets its event loop turn."""
    in_flight: int = 1
    """Calls at a time, where the work calls."""
    rounds: int | None = None
    """Rounds if not those of the command line."""


WORKS = (
    Work(
        "latency",
        "call round trip, one at a time",
        (
            Figure("p50", "call p50", "us", "lower", {"nats": 0.5}),
            Figure("p90", "call p90", "us", "lower"),
            Figure("p99", "call p99", "us", "lower"),
        ),
        ("busd", "nats"),
    ),
    Work(
        "calls",
        "calls, 64 in flight",
        (
            Figure("rate", "calls/s, 64 in flight", "/s", "higher", {"nats": 3.0}),
            Figure("cpu", "CPU of a call, all processes", "us", "lower"),
        ),
        ("busd", "nats"),
        in_flight=64,
    ),
    Work(
        "pubsub",
        "publish and subscribe, 1 to 1",
        (
            Figure("rate", "messages/s, 1 to 1", "/s", "higher", {"nats": 2.5, "redis": 4.0, "zenoh": 1.0}),
            Figure("cpu", "CPU of a message, all processes", "us", "lower"),
        ),
        ("busd", "nats", "redis", "zenoh"),
        subscribers=1,
        window=16384,
        chunk=256,
    ),
    Work(
        "fanout",
        "publish and subscribe, 1 to 48",
        (
            Figure("rate", "deliveries/s, 1 to 48", "/s", "higher", {"nats": 5.0}),
            Figure("cpu", "CPU of a delivery, all processes", "us", "lower"),
        ),
        ("busd", "nats"),
        subscribers=48,
        window=1024,
        chunk=64,
    ),
    Work(
        "attach",
        "endpoints attached",
        (
            Figure("seconds", "attach {endpoints:,} endpoints", "s", "lower", ceiling=10.0),
            Figure("rss", "broker RSS per endpoint", "KiB", "lower", ceiling=24.0),
        ),
        ("busd", "nats"),
        rounds=3,
    ),
)
"""In the order in which they run and are shown."""
