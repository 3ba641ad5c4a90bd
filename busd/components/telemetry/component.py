"""The bus part: publishes a sample at every interval and answers ``telemetry.processes``."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from busclient import Bus, BusError, Call
from busd import __version__
from busd.components.telemetry.processes import BUDGET_SECONDS, ProcessTable
from busd.components.telemetry.request import PROCESSES, ProcessesRequest
from busd.components.telemetry.sampler import SUBJECTS, Sampler, SamplerStatistics

__all__ = ["INTERVAL_SECONDS", "MANIFEST", "Telemetry", "TelemetryStatistics"]

MANIFEST: Final[dict[str, Any]] = {
    "component": "telemetry",
    "version": __version__,
    "owner": "node",
    "purpose": "shows what this machine is doing",
    "serves": [PROCESSES],
    "publishes": list(SUBJECTS),
}

INTERVAL_SECONDS: Final = 1.0

PROCESSES_SHARE: Final = BUDGET_SECONDS
"""Share of one core that reading processes may take."""

PROCESSES_SECONDS_MAX: Final = 0.05
"""Longest that reading processes may hold up an answer, however long the interval."""

_log = logging.getLogger("busd.components.telemetry")


@dataclass(frozen=True, slots=True)
class TelemetryStatistics:
    """What the telemetry component has done."""

    published: int
    """Messages published."""
    refused: int
    """Messages that could not be published: the broker refused them, or too much was unsent."""
    requests: int
    """Calls of ``telemetry.processes``."""
    bad_requests: int
    """Those that were not valid."""
    absences: int
    """Times that the bus was away when a sample was due."""
    sampler: SamplerStatistics
    """The sampler's own."""


class Telemetry:
    """The telemetry component on a bus. ``run`` does it all.

    Args:
        bus: an open connection; whoever opened it closes it.
        interval: seconds between samples.
        sampler: where the figures come from; by default this machine.
        wall: seconds since 1970.
        sleep: waits for so many seconds of ``bus.time``.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        interval: float = INTERVAL_SECONDS,
        sampler: Sampler | None = None,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._bus = bus
        self._interval = interval
        budget = min(PROCESSES_SECONDS_MAX, PROCESSES_SHARE * interval)
        self._sampler = sampler or Sampler(processes=ProcessTable(budget=budget))
        self._wall = wall
        self._sleep = sleep
        self._at = 0.0
        self._told: set[str] = set()
        self._published = self._refused = self._requests = self._bad_requests = self._absences = 0

    async def run(self) -> None:
        """Publish and answer until cancelled. Raises BusError when the bus has ended for good."""
        self._sample()
        async with self._bus.serve(PROCESSES, self.answer):
            due = self._bus.time() + self._interval
            while True:
                await self._sleep(max(0.0, due - self._bus.time()))
                if self._bus.state == "connected":
                    await self._publish(self._sample())
                else:
                    self._absences += 1
                    await self._bus.connected()
                    self._sample()  # what happened meanwhile is not what happens now: start the counters again
                missed = math.floor((self._bus.time() - due) / self._interval)
                due += self._interval * (1 + max(0, missed))  # late once is not late for ever

    async def answer(self, call: Call) -> dict[str, Any]:
        """The reply to a call of ``telemetry.processes``. Raises BusError REQUEST_INVALID, naming the field."""
        self._requests += 1
        try:
            request = ProcessesRequest.read(call.payload)
        except BusError:
            self._bad_requests += 1
            raise
        processes = self._sampler.processes
        matching, rows = processes.top(request.sort, request.limit, request.name)
        return {"at": round(self._at, 3), "total": len(processes), "matching": matching, "processes": rows}

    def _sample(self) -> dict[str, dict[str, Any]]:
        self._at = self._wall()
        payloads = self._sampler.sample(self._bus.time(), self._at)
        for subject, reason in self._sampler.reasons.items():
            self._tell(subject, "%s is not published: its figures cannot be read: %s", subject, reason)
        return payloads

    async def _publish(self, payloads: dict[str, dict[str, Any]]) -> None:
        for subject, payload in payloads.items():
            try:
                await self._bus.publish(subject, payload)
                self._published += 1
            except BusError as error:
                self._refused += 1
                self._tell(f"{subject} {error.code}", "a message on %s could not be published: %s", subject, error)

    def _tell(self, key: str, text: str, *values: object) -> None:
        """Log what is wrong, once: it is likely to be wrong again in a second."""
        if key not in self._told:
            self._told.add(key)
            _log.warning(text, *values)

    def statistics(self) -> TelemetryStatistics:
        """What this component has done so far."""
        return TelemetryStatistics(
            published=self._published,
            refused=self._refused,
            requests=self._requests,
            bad_requests=self._bad_requests,
            absences=self._absences,
            sampler=self._sampler.statistics(),
        )
