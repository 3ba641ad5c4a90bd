"""The component model: portable parts with typed operations, called directly or over the bus, by the same handle.

    class Clock(Component):
        manifest = Manifest(
            component="clock", version="1", owner="platform", purpose="tells the time",
            operations=(Request("now"), Stream("ticks"), STRUCK := Event("struck", int)),
        )

        async def now(self, zone: str = "UTC") -> float:
            '''Seconds since 1970.'''
            ...

    async with attach(Clock) as clock:              # in this process; or attach(Clock, bus=bus): wherever it runs
        await clock.now(zone="UTC")
        async for tick in within(clock, 60.0).ticks(): ...
        async with subscribe(clock, STRUCK) as strikes: ...

`load` finds a class by its name, `invoke` runs one operation, `offer` serves a component's operations on a bus.
`busd.components.model.testing` runs a test in both forms.
"""

from busd.components.model.caller import LOCAL, Caller, call_on_behalf, caller_of, current_caller
from busd.components.model.codec import Codec, explain
from busd.components.model.component import Component, Context, Health, configure
from busd.components.model.handle import attach, handle_statistics, on_behalf, subscribe, within
from busd.components.model.invoke import invoke, invoke_stream
from busd.components.model.load import load, source_of
from busd.components.model.manifest import Budget, Manifest, Placement
from busd.components.model.metric import Figures, Metric
from busd.components.model.operation import (
    Declaration,
    Event,
    Operation,
    Request,
    Stream,
    codec_of,
    compile_operations,
)
from busd.components.model.serve import Offers, offer
from busd.components.model.statistics import OperationStatistics

__all__ = [
    "LOCAL",
    "Budget",
    "Caller",
    "Codec",
    "Component",
    "Context",
    "Declaration",
    "Event",
    "Figures",
    "Health",
    "Manifest",
    "Metric",
    "Offers",
    "Operation",
    "OperationStatistics",
    "Placement",
    "Request",
    "Stream",
    "attach",
    "call_on_behalf",
    "caller_of",
    "codec_of",
    "compile_operations",
    "configure",
    "current_caller",
    "explain",
    "handle_statistics",
    "invoke",
    "invoke_stream",
    "load",
    "offer",
    "on_behalf",
    "source_of",
    "subscribe",
    "within",
]
