"""For the tests of components: the same test on a direct handle and on one over a bus in memory.

    @forms
    def test_it_tells_the_time(form: Form) -> None:
        async def main() -> None:
            clock = FakeClock()
            async with both_forms(Clock, form, clock=clock, zone="UTC") as handle:
                assert await handle.now() == 0.0
                await clock.advance(1.0)
        asyncio.run(main())

Needs pytest, and the package ``busd``.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, TypeVar, get_args

import pytest

from busclient.testing import FakeClock, MemoryBus, Node
from busd.components.model.component import Component, Context, configure
from busd.components.model.handle import TIMEOUT, attach_here, attach_to
from busd.components.model.lifecycle import Background, running
from busd.components.model.operation import compile_operations
from busd.components.model.serve import Offers, offer

__all__ = ["FakeClock", "Form", "both_forms", "forms"]

Form = Literal["direct", "bus"]
"""How the component is called."""

forms: Final = pytest.mark.parametrize("form", get_args(Form))
"""Runs a test twice, with ``form`` as ``direct`` and as ``bus``."""

C = TypeVar("C", bound=Component)


@asynccontextmanager
async def both_forms(
    component: type[C],
    form: Form,
    *,
    clock: FakeClock | None = None,
    timeout: float = TIMEOUT,  # noqa: ASYNC109  (of each call of the handle, not of this one)
    **config: Any,
) -> AsyncIterator[C]:
    """A handle of an instance of ``component`` with ``config``, in the form that the test is run in.

    Args:
        component: the class.
        form: ``direct``, or ``bus``: attached to a bus in memory as a runner would attach it, and called from another
            endpoint.
        clock: stands still until the test moves it; deadlines and ``context.time`` go by it. By default a new one.
        timeout: seconds that each call may take, on that clock.
    """
    clock = clock or FakeClock()
    if form == "direct":
        async with attach_here(component, timeout=timeout, config=config, clock=clock) as handle:
            yield handle
        return
    manifest = component.manifest
    said = {"component": manifest.component, "owner": manifest.owner, "purpose": manifest.purpose}
    async with MemoryBus(Node(clock), said) as bus:
        instance = configure(component, config)
        instance.context = Context(component, bus, clock=clock)
        operations = compile_operations(component).values()
        async with running(instance) as background, offer(bus, instance, operations) as offers:
            withdrawing = asyncio.create_task(_withdraw(background, offers))
            caller = await bus.connect(component="caller")
            try:
                async with attach_to(caller, component, timeout=timeout) as handle:
                    yield handle
            finally:
                withdrawing.cancel()


async def _withdraw(background: Background, offers: Offers) -> None:
    """What a runner does when the background work has failed: be gone."""
    await background.failed.wait()
    await offers.close(cancel=True)
