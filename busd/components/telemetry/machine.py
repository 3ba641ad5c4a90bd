"""What the machine as a whole is doing: CPU, memory, disks and network, each as one payload map.

Pure figures, nothing of the bus: a reading is a call with ``now``, and rates hold between that call and the one before.
Units are in the names: ``bytes``, ``_per_second``, and ``percent`` (0 to 100; a CPU's percent is of that CPU).
"""

from collections.abc import Iterable
from typing import Any, Final

import psutil

from busd.components.telemetry.text import readable

__all__ = ["Cpu", "Disk", "Memory", "Network", "LISTED", "per_second"]

LISTED: Final = 64
"""Most disks, mounts or interfaces in one payload, busiest or largest first: a node of many guests has thousands."""

PATH_CHARACTERS: Final = 4096
"""PATH_MAX: what a mount's path has at most."""

IMAGE_FILESYSTEMS: Final = frozenset({"squashfs", "erofs", "iso9660", "udf", "cramfs"})
"""Read-only images: always 100 % full, and that means nothing."""

IDLE_TIMES: Final = ("idle", "iowait")
GUEST_TIMES: Final = ("guest", "guest_nice")
"""Linux counts a virtual CPU's time in ``user`` and ``nice`` as well; counting it again would exceed the clock."""


def per_second(new: float, old: float, seconds: float) -> int:
    """How fast a counter grew. One that went backwards (wrapped, or its device was replaced) did not grow."""
    return round(max(0, new - old) / seconds) if seconds > 0 else 0


def _percent(part: float, whole: float) -> float:
    return round(min(100.0, max(0.0, 100.0 * part / whole)), 1) if whole > 0 else 0.0


class Cpu:
    """CPU time of the whole machine and of each CPU, and the load averages."""

    def __init__(self, source: Any = psutil) -> None:
        self._source = source
        self._last: list[dict[str, float]] = []

    def read(self, now: float) -> dict[str, Any] | None:
        """Figures since the last reading; None for the first, which has nothing to compare with.

        Returns ``percent``, ``user_percent``, ``system_percent`` and ``iowait_percent`` (None where there is none) over
        all CPUs; ``cpus``: each one's percent; ``load``: averages over 1, 5 and 15 minutes.
        """
        times = [t._asdict() for t in self._source.cpu_times(percpu=True)]
        last, self._last = self._last, times
        if not last:
            return None
        spent = [
            {key: max(0.0, value - old.get(key, 0.0)) for key, value in new.items()}
            for new, old in zip(times, last, strict=False)  # a CPU that came or went since has no pair
        ]
        total = {key: sum(cpu[key] for cpu in spent) for key in spent[0]} if spent else {}
        clock = self._clock(total)
        return {
            "percent": _percent(self._busy(total), clock),
            "user_percent": _percent(total.get("user", 0.0) + total.get("nice", 0.0), clock),
            "system_percent": _percent(total.get("system", 0.0), clock),
            "iowait_percent": _percent(total["iowait"], clock) if "iowait" in total else None,
            "cpus": [_percent(self._busy(cpu), self._clock(cpu)) for cpu in spent],
            "load": [round(average, 2) for average in self._source.getloadavg()],
        }

    @staticmethod
    def _clock(times: dict[str, float]) -> float:
        return sum(value for key, value in times.items() if key not in GUEST_TIMES)

    @classmethod
    def _busy(cls, times: dict[str, float]) -> float:
        return cls._clock(times) - sum(times.get(key, 0.0) for key in IDLE_TIMES)


class Memory:
    """Physical memory and swap."""

    def __init__(self, source: Any = psutil) -> None:
        self._source = source

    def read(self, now: float) -> dict[str, Any]:
        """Figures of this moment.

        Returns ``total_bytes``, ``available_bytes`` (what programs can get without swapping), ``used_bytes`` and
        ``percent`` (what is not available); ``swap``: ``total_bytes``, ``used_bytes``, ``percent``.
        """
        memory, swap = self._source.virtual_memory(), self._source.swap_memory()
        return {
            "total_bytes": memory.total,
            "available_bytes": memory.available,
            "used_bytes": memory.used,
            "percent": _percent(memory.total - memory.available, memory.total),
            "swap": {
                "total_bytes": swap.total,
                "used_bytes": swap.used,
                "percent": _percent(swap.used, swap.total),
            },
        }


class Disk:
    """Space on local file systems, and what block devices read and write."""

    def __init__(self, source: Any = psutil) -> None:
        self._source = source
        self._last: dict[str, Any] | None = None
        self._at = 0.0

    def read(self, now: float) -> dict[str, Any] | None:
        """Figures since the last reading; None for the first.

        Returns ``mounts``, one for each device: ``mount``, ``device``, ``type``, ``total_bytes``, ``used_bytes``,
        ``free_bytes``, ``percent``. Network file systems are left out: asking a dead one never returns.
        And ``devices``, those used since boot: ``device``, ``reads_per_second``, ``writes_per_second``,
        ``read_bytes_per_second``, ``written_bytes_per_second``.
        """
        counters = self._source.disk_io_counters(perdisk=True, nowrap=False) or {}
        last, self._last = self._last, counters
        seconds, self._at = now - self._at, now
        if last is None:
            return None
        devices = [
            {
                "device": readable(name),
                "reads_per_second": per_second(new.read_count, old.read_count, seconds),
                "writes_per_second": per_second(new.write_count, old.write_count, seconds),
                "read_bytes_per_second": per_second(new.read_bytes, old.read_bytes, seconds),
                "written_bytes_per_second": per_second(new.write_bytes, old.write_bytes, seconds),
            }
            for name, new in counters.items()
            if (old := last.get(name)) and (new.read_count or new.write_count)
        ]
        return {
            "mounts": _largest(self._mounts(), "total_bytes"),
            "devices": _largest(devices, "read_bytes_per_second", "written_bytes_per_second"),
        }

    def _mounts(self) -> list[dict[str, Any]]:
        shortest: dict[str, Any] = {}  # bind mounts show one device many times; its shortest path says most
        for partition in self._source.disk_partitions(all=False):
            known = shortest.get(partition.device)
            if partition.fstype not in IMAGE_FILESYSTEMS and (
                known is None or len(partition.mountpoint) < len(known.mountpoint)
            ):
                shortest[partition.device] = partition
        mounts = []
        for partition in shortest.values():
            try:
                usage = self._source.disk_usage(partition.mountpoint)
            except OSError:  # not ours to see, or unmounted since it was listed
                continue
            mounts.append(
                {
                    "mount": readable(partition.mountpoint, PATH_CHARACTERS),
                    "device": readable(partition.device, PATH_CHARACTERS),
                    "type": partition.fstype,
                    "total_bytes": usage.total,
                    "used_bytes": usage.used,
                    "free_bytes": usage.free,
                    "percent": _percent(usage.used, usage.used + usage.free),
                }
            )
        return mounts


class Network:
    """What each network interface receives and sends."""

    def __init__(self, source: Any = psutil) -> None:
        self._source = source
        self._last: dict[str, Any] | None = None
        self._at = 0.0

    def read(self, now: float) -> dict[str, Any] | None:
        """Figures since the last reading; None for the first.

        Returns ``interfaces``: how many there are; ``busiest``, a map for each: ``interface``, ``received_`` and
        ``sent_bytes_per_second``, ``received_`` and ``sent_packets_per_second``, ``errors_per_second``,
        ``drops_per_second``.
        """
        counters = self._source.net_io_counters(pernic=True, nowrap=False) or {}
        last, self._last = self._last, counters
        seconds, self._at = now - self._at, now
        if last is None:
            return None
        rows = [
            {
                "interface": readable(name),
                "received_bytes_per_second": per_second(new.bytes_recv, old.bytes_recv, seconds),
                "sent_bytes_per_second": per_second(new.bytes_sent, old.bytes_sent, seconds),
                "received_packets_per_second": per_second(new.packets_recv, old.packets_recv, seconds),
                "sent_packets_per_second": per_second(new.packets_sent, old.packets_sent, seconds),
                "errors_per_second": per_second(new.errin + new.errout, old.errin + old.errout, seconds),
                "drops_per_second": per_second(new.dropin + new.dropout, old.dropin + old.dropout, seconds),
            }
            for name, new in counters.items()
            if (old := last.get(name))
        ]
        busiest = _largest(rows, "received_bytes_per_second", "sent_bytes_per_second")
        return {"interfaces": len(counters), "busiest": busiest}


def _largest(rows: Iterable[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    """The first ``LISTED`` rows by the sum of ``keys``, largest first."""
    return sorted(rows, key=lambda row: sum(row[key] for key in keys), reverse=True)[:LISTED]
