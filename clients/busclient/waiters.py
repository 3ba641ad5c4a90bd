"""Tasks that wait for something to be in a queue."""

import asyncio

__all__ = ["Waiters"]


class Waiters:
    """Any number of tasks that wait for the same thing; all are woken and look for themselves."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Wait for the next `wake`."""
        future = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        await future

    def wake(self) -> None:
        """Let everyone who waits go on."""
        futures, self._futures = self._futures, []
        for future in futures:
            if not future.done():
                future.set_result(None)
