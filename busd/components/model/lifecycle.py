"""A component's life around the time in which it is called, for those who run one in their own process."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from busd.components.model.caller import outside
from busd.components.model.component import Component

__all__ = ["Background", "running"]

_log = logging.getLogger("busd.components")


class Background:
    """The background work of a component: its `run`."""

    def __init__(self, component: Component) -> None:
        self.failure: BaseException | None = None
        """What ended it, if anything but its end did."""
        self.failed = asyncio.Event()
        """Set when there is a failure."""
        self._ending = False
        self._name = component.manifest.component
        self._task = asyncio.get_running_loop().create_task(component.run(), context=outside())
        self._task.add_done_callback(self._note)

    def _note(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            if self._ending:
                return
            self.failure = RuntimeError(f"run() of component '{self._name}' was cancelled from within")
        else:
            self.failure = task.exception()
        if self.failure is not None:
            self.failed.set()
            _log.error("run() of component '%s' failed", self._name, exc_info=self.failure)

    async def end(self) -> None:
        """Cancel it, and wait until it is over."""
        self._ending = True
        self._task.cancel()
        await asyncio.wait([self._task])


@asynccontextmanager
async def running(component: Component) -> AsyncIterator[Background]:
    """Start ``component``, let it run inside of ``async with``, and stop it.

    Raises what its `start` or `stop` raises, and at the end what its `run` failed with, if nothing else went wrong.
    """
    await component.start()
    try:
        background = Background(component)
        try:
            yield background
        finally:
            await background.end()
    finally:
        await component.stop()
    if background.failure is not None:
        raise background.failure
