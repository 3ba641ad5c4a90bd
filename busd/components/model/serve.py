"""The serving side: a component's requests and streams, offered on a bus."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final, Self

from busclient import Bus, Call, Handler, Reply, Service
from busclient.message import NO_ORIGIN
from busd.components.model.caller import caller_of
from busd.components.model.component import Component
from busd.components.model.invoke import invoke, invoke_stream
from busd.components.model.operation import Operation

__all__ = ["CONCURRENCY", "Offers", "handler", "offer"]

CONCURRENCY: Final = 1024
"""Calls of one operation that run at a time. What an operation can bear is its own business: it is async."""


def offer(bus: Bus, component: Component, operations: Iterable[Operation]) -> "Offers":
    """Offer ``operations`` of ``component`` on ``bus``, from entering ``async with`` to leaving it."""
    return Offers(bus, component, operations)


class Offers:
    """The operations of one component on one bus: all of them, or none.

    Leaving takes the offers back and lets running calls finish; leaving through an exception cancels them.
    """

    def __init__(self, bus: Bus, component: Component, operations: Iterable[Operation]) -> None:
        self.services: Final = tuple(
            bus.serve(each.subject, handler(component, each), concurrency=CONCURRENCY) for each in operations
        )

    async def open(self) -> Self:
        """Offer them. Raises BusError, and offers none, when the broker refuses one.

        What is asked in one turn of the loop goes out in one frame, and the broker reads that in one go: whoever can
        call one of them can call all.
        """
        opening = [asyncio.ensure_future(service.open()) for service in self.services]
        try:
            for each in opening:
                await each
        except BaseException:
            for each in opening:
                each.cancel()
            for outcome in await asyncio.gather(*opening, return_exceptions=True):
                if isinstance(outcome, Service):
                    await outcome.close(cancel=True)
            raise
        return self

    async def close(self, *, cancel: bool = False) -> None:
        """Take no more calls, and wait until those that are here are answered (or, with ``cancel``, cancelled)."""
        await asyncio.gather(*(service.close(cancel=cancel) for service in self.services))

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, exc_type: type[BaseException] | None, *exc_info: object) -> None:
        await self.close(cancel=exc_type is not None)


def handler(component: Component, operation: Operation) -> Handler:
    """What answers the calls of one operation: for ``bus.serve``."""

    async def request(call: Call) -> Reply:
        data, _ = await invoke(component, operation, caller=caller_of(call), call=call)
        return Reply.received(data, None, NO_ORIGIN)  # as Reply(data=data), without its questions: a third of the time

    async def stream(call: Call) -> AsyncIterator[Reply]:
        parts = invoke_stream(component, operation, caller=caller_of(call), call=call)
        try:
            async for data, _ in parts:
                yield Reply(data=data)
        finally:
            await parts.aclose()

    return stream if operation.kind == "stream" else request
