"""One sample of the whole machine: every published payload by its subject."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import psutil

from busd.components.telemetry.machine import Cpu, Disk, Memory, Network
from busd.components.telemetry.processes import ProcessTable, ProcessTableStatistics

__all__ = ["Sampler", "SamplerStatistics", "SUBJECTS", "TOP"]

SUBJECTS: Final = ("telemetry.cpu", "telemetry.memory", "telemetry.disk", "telemetry.network", "telemetry.top")
"""What is published, in this order."""

TOP: Final = 5
"""Processes by CPU and by memory in ``telemetry.top``; ``telemetry.processes`` gives more on request."""


@dataclass(frozen=True, slots=True)
class SamplerStatistics:
    """What a sampler has done."""

    samples: int
    """Samples taken."""
    failures: dict[str, int]
    """Payloads that could not be read, by subject: the system has no such figures, or keeps them from this user."""
    processes: ProcessTableStatistics
    """The process table's own."""


class Sampler:
    """Reads the machine's figures. The first sample only starts the counters: rates need two.

    Args:
        source: psutil, or what stands in for it.
        processes: the process table to keep; a new one on ``source`` if None.
    """

    def __init__(self, source: Any = psutil, *, processes: ProcessTable | None = None) -> None:
        self.processes = ProcessTable(source) if processes is None else processes
        self._readers: dict[str, Callable[[float], dict[str, Any] | None]] = dict(
            zip(
                SUBJECTS,
                (Cpu(source).read, Memory(source).read, Disk(source).read, Network(source).read, self._top),
                strict=True,
            )
        )
        self._last: float | None = None
        self._samples = 0
        self._failures = dict.fromkeys(SUBJECTS, 0)
        self.reasons: dict[str, str] = {}
        """Why a subject's payload was last missing."""

    def sample(self, now: float, at: float) -> dict[str, dict[str, Any]]:
        """The payloads by subject, each with ``at`` (seconds since 1970) and ``interval`` (seconds its rates hold for).

        Args:
            now: monotonic time, in seconds.
            at: the same instant as the wall clock says it.

        Returns nothing for the first sample. A subject that cannot be read is left out and counted; the others stand.
        """
        last, self._last = self._last, now
        self._samples += 1
        payloads = {}
        for subject, read in self._readers.items():
            try:
                with warnings.catch_warnings():  # psutil warns where it makes do without a file; the figures stand
                    warnings.simplefilter("ignore", RuntimeWarning)
                    payload = read(now)
            except (OSError, psutil.Error, NotImplementedError) as error:
                self._failures[subject] += 1
                self.reasons[subject] = str(error) or type(error).__name__
                continue
            if payload is not None and last is not None:
                payloads[subject] = {"at": round(at, 3), "interval": round(now - last, 3), **payload}
        return payloads

    def _top(self, now: float) -> dict[str, Any]:
        self.processes.refresh(now)
        return {
            "processes": len(self.processes),
            "by_cpu": self.processes.top("cpu", TOP)[1],
            "by_memory": self.processes.top("memory", TOP)[1],
        }

    def statistics(self) -> SamplerStatistics:
        """What this sampler has done so far."""
        return SamplerStatistics(
            samples=self._samples, failures=dict(self._failures), processes=self.processes.statistics()
        )
