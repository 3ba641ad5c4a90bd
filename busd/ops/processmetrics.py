"""Prometheus metrics of the process, by the names that all clients of Prometheus have for them.

prometheus_client's own collector counts descriptors by listing them: with ten thousand that is 20 ms, and in a thread
it takes the interpreter's lock from the loop once for each.
"""

import asyncio
import os
import resource
from contextlib import suppress
from itertools import islice
from typing import Final

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from busd.ops.descriptors import soft_limit

__all__ = ["ProcessMetrics", "known_descriptors", "list_descriptors"]

DESCRIPTORS: Final = "/proc/self/fd"

AT_ONCE: Final = 128
"""Descriptors that are counted in one go: 0.1 ms."""


class ProcessMetrics:
    """What this process takes of the machine."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._started = self._process.create_time()

    async def collect(self) -> list[Metric]:
        """The metrics of this moment. What must be read from a file is left out if there is no descriptor for that."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu = used.ru_utime + used.ru_stime
        metrics: list[Metric] = [
            GaugeMetricFamily("process_start_time_seconds", "Start of the process, seconds since 1970.", self._started),
            CounterMetricFamily("process_cpu_seconds_total", "User and system CPU time in seconds.", cpu),
            GaugeMetricFamily("process_max_fds", "File descriptors that can be open.", soft_limit()),
        ]
        with suppress(OSError):
            count = known_descriptors() or await list_descriptors()
            metrics.append(GaugeMetricFamily("process_open_fds", "Open file descriptors.", count))
        with suppress(OSError):
            memory = self._process.memory_info()
            virtual, resident = memory.vms, memory.rss
            metrics.append(GaugeMetricFamily("process_virtual_memory_bytes", "Virtual memory in bytes.", virtual))
            metrics.append(GaugeMetricFamily("process_resident_memory_bytes", "Resident memory in bytes.", resident))
        return metrics


def known_descriptors() -> int:
    """How many file descriptors this process has open; 0 where the system does not say so: Linux before 6.2."""
    return os.stat(DESCRIPTORS).st_size


async def list_descriptors() -> int:
    """The same on any Linux. Gives way to the loop."""
    with os.scandir(DESCRIPTORS) as entries:
        count = -1  # the list's own
        while found := sum(1 for _ in islice(entries, AT_ONCE)):
            count += found
            await asyncio.sleep(0)
    return count
