"""A telemetry message as one line for people."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["size", "summary"]

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")


def size(count: float) -> str:
    """Bytes in the largest decimal unit that leaves a whole number: ``25.3 GB``, ``812 B``."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 or value >= 99.95 else f"{value:.1f} {_UNITS[unit]}"


def _cpu(payload: Mapping[str, Any]) -> str:
    cpus = payload["cpus"]
    each = f" ({' '.join(f'{percent:.0f}' for percent in cpus)})" if len(cpus) <= 16 else ""
    load = " ".join(f"{average:.2f}" for average in payload["load"])
    return f"{payload['percent']:.1f} % of {len(cpus)} CPUs{each}, load {load}"


def _memory(payload: Mapping[str, Any]) -> str:
    taken = payload["total_bytes"] - payload["available_bytes"]
    text = f"{size(taken)} of {size(payload['total_bytes'])} taken ({payload['percent']:.1f} %)"
    swap = payload["swap"]
    return f"{text}, swap {size(swap['used_bytes'])} of {size(swap['total_bytes'])}" if swap["total_bytes"] else text


def _disk(payload: Mapping[str, Any]) -> str:
    parts = [f"{mount['mount']} {mount['percent']:.0f} % full" for mount in payload["mounts"][:3]]
    parts += [
        f"{device['device']} reads {size(device['read_bytes_per_second'])}/s"
        f" writes {size(device['written_bytes_per_second'])}/s"
        for device in payload["devices"][:2]
    ]
    return ", ".join(parts) or "no disks"


def _network(payload: Mapping[str, Any]) -> str:
    parts = [
        f"{interface['interface']} in {size(interface['received_bytes_per_second'])}/s"
        f" out {size(interface['sent_bytes_per_second'])}/s"
        for interface in payload["busiest"][:2]
        if interface["received_bytes_per_second"] or interface["sent_bytes_per_second"]
    ]
    return f"{payload['interfaces']} interfaces: {', '.join(parts) or 'all silent'}"


def _top(payload: Mapping[str, Any]) -> str:
    parts = [
        f"{row['name']} {row['cpu_percent']:.1f} %"
        for row in payload["by_cpu"][:3]
        if row["cpu_percent"] is not None and row["name"]
    ]
    return f"{payload['processes']} processes" + (f"; most CPU: {', '.join(parts)}" if parts else "")


_WRITERS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "telemetry.cpu": _cpu,
    "telemetry.memory": _memory,
    "telemetry.disk": _disk,
    "telemetry.network": _network,
    "telemetry.top": _top,
}


def summary(subject: str, payload: Mapping[str, Any]) -> str:
    """Time of day, subject and the figures that matter; safe on a terminal.

    Raises KeyError for a subject that is not telemetry's.
    """
    clock = time.strftime("%H:%M:%S", time.localtime(payload["at"]))
    line = f"{clock}  {subject:<17}  {_WRITERS[subject](payload)}"
    return "".join(character if character.isprintable() else "?" for character in line)  # processes name themselves
