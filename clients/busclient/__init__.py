"""The SDK of busd: publish and subscribe, call and serve, from asyncio or from plain blocking code.

    async with busclient.connect(component="demo", owner="platform", purpose="shows the SDK") as bus:
        await bus.publish("demo.tick", {"n": 1})

`busclient.blocking` is the same for scripts and threads, `busclient.testing` is a bus in memory with a clock that a
test moves. ``README.md`` beside this file is the guide.
"""

from busclient import blocking
from busclient.bus import Bus, BusStatistics, connect
from busclient.errors import (
    BusError,
    CallTimeout,
    Cancelled,
    Closed,
    Code,
    ConnectionLost,
    Denied,
    ErrorReply,
    Gap,
    NoResponders,
    NotConnected,
    Overloaded,
    PayloadTooLarge,
    UnknownOutcome,
)
from busclient.message import Call, Message, Origin, Reply
from busclient.service import Handler, Service, ServiceStatistics
from busclient.stream import Stream
from busclient.subscription import Subscription, SubscriptionStatistics

__all__ = [
    "connect",
    "blocking",
    "Bus",
    "BusStatistics",
    "Call",
    "Handler",
    "Message",
    "Origin",
    "Reply",
    "Service",
    "ServiceStatistics",
    "Stream",
    "Subscription",
    "SubscriptionStatistics",
    "BusError",
    "CallTimeout",
    "Cancelled",
    "Closed",
    "Code",
    "ConnectionLost",
    "Denied",
    "ErrorReply",
    "Gap",
    "NoResponders",
    "NotConnected",
    "Overloaded",
    "PayloadTooLarge",
    "UnknownOutcome",
]
