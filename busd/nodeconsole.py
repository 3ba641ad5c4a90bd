"""What the console asks components: over the bus, as an endpoint of its own that the census shows while somebody looks.

A component that does not run, or does not answer, is a note on the page. Nothing waits for it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import busclient
from busclient.errors import NoResponders
from busd.ops.console.services import ROWS, Answers, cache_row, job_row
from busproto.errors import BusError

__all__ = ["NodeServices"]

TIMEOUT: Final = 0.5
"""Seconds that a component has for its answer."""

OVER: Final = frozenset({"done", "cancelled", "failed"})
"""States of deletion jobs that are final."""


class NodeServices:
    """The ``Services`` of ``busd.ops.console``, on the node's own socket."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._bus: busclient.Bus | None = None

    async def ask(self) -> Answers:
        """What the deletion and the cache component say now. Raises nothing that the bus or they can cause."""
        notes: list[str] = []
        try:
            bus = await self._attached()
        except (BusError, OSError, TimeoutError) as error:
            return Answers((), (), (f"jobs and caches: the console is not attached to the bus: {_reason(error)}",))
        active, every, caches = await asyncio.gather(
            _list(bus, "deletion.list", {"limit": ROWS}, "jobs", notes),
            _list(bus, "deletion.list", {"limit": ROWS, "all": True}, "jobs", notes),
            _list(bus, "cache.all_stats", {"limit": ROWS}, "caches", notes),
        )
        jobs = {str(job.get("job")): job for job in (*active, *every)}
        first = sorted(jobs.values(), key=lambda job: job.get("state") in OVER)[:ROWS]
        return Answers(
            [job_row(job) for job in first], [cache_row(each) for each in caches], list(dict.fromkeys(notes))
        )

    async def close(self) -> None:
        """Leave the bus."""
        bus, self._bus = self._bus, None
        if bus is not None:
            await bus.__aexit__(None, None, None)

    async def _attached(self) -> busclient.Bus:
        if self._bus is None:
            bus = busclient.connect(
                self._url, component="console", owner="node", purpose="shows this node to whoever looks at its console"
            )
            async with asyncio.timeout(TIMEOUT):
                self._bus = await bus.__aenter__()
        return self._bus


async def _list(
    bus: busclient.Bus, subject: str, request: Mapping[str, Any], what: str, notes: list[str]
) -> Sequence[Mapping[str, Any]]:
    """The rows of an answer; [] and a note if there is none."""
    component = subject.partition(".")[0]
    try:
        reply = await bus.call(subject, request, timeout=TIMEOUT)
    except NoResponders:
        notes.append(f"{what}: no {component} component is attached")
        return []
    except (BusError, OSError) as error:
        notes.append(f"{what}: the {component} component does not answer: {_reason(error)}")
        return []
    rows = reply.payload if isinstance(reply.payload, list) else []
    return [row for row in rows[:ROWS] if isinstance(row, Mapping)]


def _reason(error: Exception) -> str:
    return f"no answer within {TIMEOUT} s" if isinstance(error, TimeoutError) else str(error)[:100]
