"""Async tests on the bus in memory."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import busclient.testing
from busclient import Bus, Call
from busclient.testing import MemoryBus, settle

Test = Callable[[MemoryBus], Awaitable[None]]


def on_memory(**options: Any) -> Callable[[Test], Callable[[], None]]:
    """Run an async test on a bus in memory, and see that it leaves nothing behind in the broker."""

    def decorate(test: Test) -> Callable[[], None]:
        async def main() -> None:
            async with busclient.testing.bus(**options) as bus:
                await test(bus)
            await settle()
            statistics = bus.node.core.statistics()
            if bus.node.running:
                assert sum(statistics.endpoints.values()) == 0
                assert statistics.subscriptions == statistics.services == statistics.held_calls == 0
            assert len(asyncio.all_tasks()) == 1

        def run() -> None:
            asyncio.run(main(), debug=True)

        run.__name__ = test.__name__
        run.__doc__ = test.__doc__
        return run

    return decorate


async def echo(call: Call) -> Any:
    return call.payload


def state_of(bus: Bus) -> str:
    """``bus.state``, which mypy would take for a constant once it has been compared."""
    return bus.state
