"""One collector, however many look: it begins with the first viewer and ends with the last.

Whoever looks gets the newest document each second. One that does not take them misses documents, never holds more than
one of them, and is cut off by whoever writes to it.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from busd.core.bus import Bus
from busd.core.explanation import check_question, explain
from busd.ops.console.census import Search, describe_endpoint, search
from busd.ops.console.counts import Counts
from busd.ops.console.pace import Pace
from busd.ops.console.sample import Sample, take_sample
from busd.ops.console.services import Answers, Services
from busd.ops.console.state import StateWriter
from busd.ops.console.text import clean, shown
from busd.ops.status import NodeStatistics

__all__ = ["VIEWERS", "Console", "Looked", "Viewer"]

VIEWERS: Final = 8
"""Who can look at the same time. Each takes a copy of each document on its way: 0.3 MiB at most."""

INTERVAL_SECONDS: Final = 1.0
"""From one document to the next."""

LEAST_PAUSE_SECONDS: Final = 0.25
"""Between two documents, if collecting takes long."""

_log = logging.getLogger("busd.http")


class Looked(Protocol):
    """The node, as the console sees it."""

    @property
    def bus(self) -> Bus:
        """Its bus."""

    def statistics(self) -> NodeStatistics:
        """Its figures of this moment."""


class Viewer:
    """One who looks."""

    __slots__ = ("_document", "_event", "closed")

    def __init__(self) -> None:
        self._document: bytes | None = None
        self._event = asyncio.Event()
        self.closed = False

    def put(self, document: bytes) -> None:
        """``document`` is the newest: one that was not taken is forgotten."""
        self._document = document
        self._event.set()

    def close(self) -> None:
        """There will be no more."""
        self.closed = True
        self._event.set()

    async def next(self) -> bytes | None:
        """The newest document that was not taken yet, as soon as there is one; None when there are no more."""
        await self._event.wait()
        self._event.clear()
        document, self._document = self._document, None
        return None if self.closed else document


class _Collection:
    """What one run of the collector has, and whoever joins meanwhile is given."""

    __slots__ = ("answers", "document", "sample", "task")

    def __init__(self) -> None:
        self.document: bytes | None = None
        self.sample: Sample | None = None
        self.answers = Answers()
        self.task: asyncio.Task[None] | None = None


class Console:
    """What the console's pages ask for. Everything is for the loop of the bus."""

    def __init__(
        self,
        node: Looked,
        services: Callable[[], Services],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        interval: float = INTERVAL_SECONDS,
    ) -> None:
        """
        Args:
            node: what is looked at.
            services: makes whoever asks components, when somebody begins to look.
            clock: the bus's own, in seconds.
            wall: seconds since 1970.
            interval: seconds from one document to the next.
        """
        self._node = node
        self._services = services
        self._clock = clock
        self._wall = wall
        self._interval = interval
        self._viewers: dict[Viewer, None] = {}
        self._collection: _Collection | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        """Who walks over all endpoints: one at a time, so that however many ask the loop is held as for one."""
        self._closed = False
        self.documents = 0
        """Made so far."""

    @property
    def viewers(self) -> int:
        """Who looks now."""
        return len(self._viewers)

    @property
    def closed(self) -> bool:
        """Whether the node is stopping."""
        return self._closed

    def join(self) -> Viewer | None:
        """Somebody begins to look; None if there is no room, or the node is stopping. Ends with `leave`."""
        if self._closed or len(self._viewers) >= VIEWERS:
            return None
        viewer = Viewer()
        self._viewers[viewer] = None
        collection = self._collection
        if collection is None:
            collection = self._collection = _Collection()
            collection.task = asyncio.get_running_loop().create_task(self._run(collection))
        elif collection.document is not None:
            viewer.put(collection.document)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """``viewer`` looks no more; after the last nothing is collected, or kept."""
        self._viewers.pop(viewer, None)
        if not self._viewers:
            self._end()

    async def close(self) -> None:
        """Send all viewers away, at once, and leave nothing behind."""
        self._closed = True
        self._send_away()
        if self._ending:
            await asyncio.wait(self._ending)

    # -- what is asked for once ---------------------------------------------------------------------------------------

    async def census(self, wanted: Search) -> dict[str, Any]:
        """A page of the census."""
        async with self._turn:
            return await search(self._node.bus, wanted, self._clock(), Pace(self._clock))

    def departures(self) -> dict[str, Any]:
        """Who left last, latest first."""
        return {"rows": clean(self._node.bus.census.departed(self._clock()))}

    async def endpoint(self, name: str) -> dict[str, Any] | None:
        """Everything about one endpoint; None if it is not attached."""
        async with self._turn:
            sample = None if self._collection is None else self._collection.sample
            return await describe_endpoint(self._node.bus, name, self._clock(), sample, Pace(self._clock))

    def explain(self, verb: str, subject: str, endpoint: str) -> dict[str, Any]:
        """Why the policy decides as it does about an attached endpoint. Raises ValueError, with the reason."""
        check_question(verb, subject)
        principal = self._node.bus.find(endpoint)
        if principal is None:
            raise ValueError(f"no endpoint is called {shown(endpoint, 80)!a}")
        explanation: dict[str, Any] = clean(explain(self._node.bus.policy, principal, verb, subject).describe(), 512)
        return explanation

    # -- collecting ---------------------------------------------------------------------------------------------------

    def _send_away(self) -> None:
        for viewer in self._viewers:
            viewer.close()
        self._viewers.clear()
        self._end()

    def _end(self) -> None:
        collection, self._collection = self._collection, None
        if collection is not None and (task := collection.task) is not None:
            collection.task = None  # a task that was cancelled holds its frames, and they hold the collection
            if task is not asyncio.current_task():
                task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _run(self, collection: _Collection) -> None:
        """Collect until cancelled. What goes wrong in here ends the viewers' streams, and they may come again."""
        services = self._services()
        asking = asyncio.get_running_loop().create_task(self._ask(services, collection))
        counts = Counts()
        try:
            await self._collect(collection, counts)
        except Exception:
            _log.exception("the console's figures cannot be collected")
            self._send_away()  # whoever comes again, or comes now, begins anew
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await services.close()
            async with self._turn:  # an answer may be made from them
                pace = Pace(self._clock)
                if collection.sample is not None:
                    await collection.sample.discard(pace)
                await counts.discard(pace)

    async def _ask(self, services: Services, collection: _Collection) -> None:
        """Keep what components say up to date: it takes as long as it takes, and no document waits for it."""
        while True:
            collection.answers = await services.ask()
            await asyncio.sleep(self._interval)

    async def _collect(self, collection: _Collection, counts: Counts) -> None:
        writer = StateWriter()
        while True:
            begin = self._clock()
            async with self._turn:
                pace = Pace(self._clock)
                old = collection.sample
                sample = await take_sample(self._node.bus, counts, None if old is None else old.at, pace)
                collection.sample = sample
                if old is not None:
                    await old.discard(pace)
                node, components = self._node.statistics(), self._node.bus.components
                await pace.rest()
                document = await writer.write(sample, node, components, collection.answers, at=self._wall(), pace=pace)
            collection.document = document
            self.documents += 1
            for viewer in self._viewers:
                viewer.put(document)
            await asyncio.sleep(max(LEAST_PAUSE_SECONDS, self._interval - (self._clock() - begin)))
