"""The telemetry component: publishes a sample at every interval and answers ``telemetry.processes``."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

import msgspec
from msgspec import Meta

from busclient import BusError
from busd import __version__
from busd.components.model import Budget, Component, Event, Figures, Health, Manifest, Metric, Request
from busd.components.telemetry import figures
from busd.components.telemetry.figures import LIMIT_MAX
from busd.components.telemetry.processes import BUDGET_SECONDS, ProcessTable, Sort
from busd.components.telemetry.sampler import Sampler, SamplerStatistics
from busd.components.telemetry.text import NAME_CHARACTERS

__all__ = ["CPU", "DISK", "MEMORY", "NETWORK", "TOP", "Telemetry", "TelemetryStatistics"]

INTERVAL_SECONDS: Final = 1.0

PROCESSES_SHARE: Final = BUDGET_SECONDS
"""Share of one core that reading processes may take."""

PROCESSES_SECONDS_MAX: Final = 0.05
"""Longest that reading processes may hold up an answer, however long the interval."""

CPU: Final = Event("cpu", figures.Cpu)
MEMORY: Final = Event("memory", figures.Memory)
DISK: Final = Event("disk", figures.Disk)
NETWORK: Final = Event("network", figures.Network)
TOP: Final = Event("top", figures.Top)

_EVENTS: Final[dict[str, Event[Any]]] = {
    f"telemetry.{event.name}": event for event in (CPU, MEMORY, DISK, NETWORK, TOP)
}

_log = logging.getLogger("busd.components.telemetry")


@dataclass(frozen=True, slots=True)
class TelemetryStatistics:
    """What the telemetry component has done."""

    published: int
    """Messages published."""
    refused: int
    """Messages that could not be published: the broker refused them, or too much was unsent."""
    absences: int
    """Times that the bus was away when a sample was due."""
    late: int
    """Samples left out, because the one before came too late."""
    sampler: SamplerStatistics
    """The sampler's own."""


class Telemetry(Component):
    """This machine's figures, published at every interval, and its processes on request.

    Args:
        interval: seconds between samples.
    """

    manifest = Manifest(
        component="telemetry",
        version=__version__,
        owner="node",
        purpose="shows what this machine is doing",
        operations=(Request("processes"), *_EVENTS.values()),
        budget=Budget(memory_bytes=128 << 20, cpu_percent=50.0),
    )
    metrics = (
        Metric("samples_total", "counter", "Samples taken."),
        Metric("late_samples_total", "counter", "Samples left out, because the one before came too late."),
        Metric("messages_published_total", "counter", "Messages published."),
        Metric("messages_refused_total", "counter", "Messages that could not be published."),
        Metric(
            "unreadable_total",
            "counter",
            "Times that figures could not be read: this system has none, or keeps them from this user.",
            {"figure": tuple(event.name for event in _EVENTS.values())},
        ),
    )

    def __init__(self, *, interval: Annotated[float, Meta(ge=0.1, le=3600)] = INTERVAL_SECONDS) -> None:
        self._interval = interval
        budget = min(PROCESSES_SECONDS_MAX, PROCESSES_SHARE * interval)
        self._sampler = Sampler(processes=ProcessTable(budget=budget))
        self._wall: Callable[[], float] = time.time
        self._at = 0.0
        self._sampled: float | None = None
        self._readable = True
        self._told: set[str] = set()
        self._published = self._refused = self._absences = self._late = 0

    @classmethod
    def of(
        cls,
        sampler: Sampler,
        *,
        interval: float = INTERVAL_SECONDS,
        wall: Callable[[], float] = time.time,
    ) -> Self:
        """Telemetry of another machine than this one, or of a made one.

        Args:
            sampler: where the figures come from.
            interval: seconds between samples.
            wall: seconds since 1970.
        """
        telemetry = cls(interval=interval)
        telemetry._sampler, telemetry._wall = sampler, wall
        return telemetry

    async def start(self) -> None:
        """Read everything once: rates need two readings, and a call may come before the next."""
        self._sample()

    async def run(self) -> None:
        """Publish until cancelled. Raises BusError when the bus has ended for good."""
        if self._sampled is None or self.context.time() - self._sampled > self._interval:
            self._sample()  # it stood by, or was drained: what happened meanwhile is not what happens now
        due = self.context.time() + self._interval
        while True:
            await self.context.sleep(max(0.0, due - self.context.time()))
            bus = self.context.bus
            if bus is None or bus.state == "connected":
                await self._publish(self._sample())
            else:
                self._absences += 1
                await bus.connected()
                self._sample()  # start the counters again
            missed = math.floor((self.context.time() - due) / self._interval)
            self._late += max(0, missed)
            due += self._interval * (1 + max(0, missed))  # late once is not late for ever

    async def processes(
        self,
        *,
        sort: Sort = "cpu",
        limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = 10,
        name: Annotated[str, Meta(min_length=1, max_length=NAME_CHARACTERS)] | None = None,
    ) -> figures.Processes:
        """The largest processes of this machine, as they were at the last sample.

        Args:
            sort: by CPU or by memory.
            limit: most rows in the reply.
            name: a glob over process names; upper and lower case are alike.
        """
        table = self._sampler.processes
        matching, rows = table.top(sort, limit, name)
        return figures.Processes(
            at=round(self._at, 3),
            total=len(table),
            matching=matching,
            processes=tuple(figures.Process(**row) for row in rows),
        )

    def health(self) -> Health:
        """Not well when nothing of the machine could be read at the last sample."""
        if self._readable:
            return Health(True)
        subject, reason = next(iter(self._sampler.reasons.items()))
        return Health(False, f"no figures can be read; {subject}: {reason}")

    def _sample(self) -> dict[str, dict[str, Any]]:
        first = self._sampled is None
        self._at, self._sampled = self._wall(), self.context.time()
        payloads = self._sampler.sample(self._sampled, self._at)
        self._readable = first or bool(payloads)
        for subject, reason in self._sampler.reasons.items():
            self._tell(subject, "%s is not published: its figures cannot be read: %s", subject, reason)
        return payloads

    async def _publish(self, payloads: dict[str, dict[str, Any]]) -> None:
        for subject, payload in payloads.items():
            event = _EVENTS[subject]
            try:
                await self.context.publish(event, msgspec.convert(payload, event.type))
                self._published += 1
            except (BusError, msgspec.ValidationError) as error:
                self._refused += 1
                key = error.code if isinstance(error, BusError) else "invalid"
                self._tell(f"{subject} {key}", "a message on %s could not be published: %s", subject, error)

    def _tell(self, key: str, text: str, *values: object) -> None:
        """Log what is wrong, once: it is likely to be wrong again in a second."""
        if key not in self._told:
            self._told.add(key)
            _log.warning(text, *values)

    def figures(self) -> Figures:
        """Of `metrics`."""
        own = self.statistics()
        return {
            "samples_total": own.sampler.samples,
            "late_samples_total": own.late,
            "messages_published_total": own.published,
            "messages_refused_total": own.refused,
            "unreadable_total": {_EVENTS[subject].name: count for subject, count in own.sampler.failures.items()},
        }

    def statistics(self) -> TelemetryStatistics:
        """What this component has done so far. Its calls are counted by whoever runs it."""
        return TelemetryStatistics(
            published=self._published,
            refused=self._refused,
            absences=self._absences,
            late=self._late,
            sampler=self._sampler.statistics(),
        )
