"""What telemetry publishes and replies, as types. Units are in the names; README.md beside this says what they mean."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from busd.components.telemetry.machine import LISTED
from busd.components.telemetry.sampler import TOP

__all__ = [
    "LIMIT_MAX",
    "Cpu",
    "Device",
    "Disk",
    "Interface",
    "Memory",
    "Mount",
    "Network",
    "Process",
    "Processes",
    "Swap",
    "Top",
]

LIMIT_MAX: Final = 1000
"""Rows in one reply: about 100 KiB, and 50 ms to read what the table does not hold."""

At = Annotated[float, Meta(description="Seconds since 1970.")]
Interval = Annotated[float, Meta(ge=0, description="Seconds that the rates hold for.")]
Percent = Annotated[float, Meta(ge=0, le=100)]
Count = Annotated[int, Meta(ge=0)]


class Cpu(msgspec.Struct, frozen=True, kw_only=True):
    """CPU time of the whole machine and of each CPU, and the load averages over 1, 5 and 15 minutes."""

    at: At
    interval: Interval
    percent: Percent
    user_percent: Percent
    system_percent: Percent
    iowait_percent: Percent | None
    cpus: tuple[Percent, ...]
    load: Annotated[tuple[float, ...], Meta(min_length=3, max_length=3)]


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """Swap space."""

    total_bytes: Count
    used_bytes: Count
    percent: Percent


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Physical memory and swap; percent is what is not available."""

    at: At
    interval: Interval
    total_bytes: Count
    available_bytes: Count
    used_bytes: Count
    percent: Percent
    swap: Swap


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """Space on one local file system."""

    mount: str
    device: str
    type: str
    total_bytes: Count
    used_bytes: Count
    free_bytes: Count
    percent: Percent


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """What one block device reads and writes."""

    device: str
    reads_per_second: Count
    writes_per_second: Count
    read_bytes_per_second: Count
    written_bytes_per_second: Count


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """Local file systems and block devices, the largest and the busiest first."""

    at: At
    interval: Interval
    mounts: Annotated[tuple[Mount, ...], Meta(max_length=LISTED)]
    devices: Annotated[tuple[Device, ...], Meta(max_length=LISTED)]


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """What one network interface receives and sends."""

    interface: str
    received_bytes_per_second: Count
    sent_bytes_per_second: Count
    received_packets_per_second: Count
    sent_packets_per_second: Count
    errors_per_second: Count
    drops_per_second: Count


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """How many network interfaces there are, and the busiest of them."""

    at: At
    interval: Interval
    interfaces: Count
    busiest: Annotated[tuple[Interface, ...], Meta(max_length=LISTED)]


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process; nil is what the system does not let telemetry see."""

    pid: Count
    name: str
    cpu_percent: Annotated[float, Meta(ge=0, description="Of one CPU; nil until it was read twice.")] | None
    rss_bytes: Count | None
    ppid: Count | None
    user: str | None
    threads: Count | None


class Top(msgspec.Struct, frozen=True, kw_only=True):
    """How many processes there are, and the largest by CPU and by memory."""

    at: At
    interval: Interval
    processes: Count
    by_cpu: Annotated[tuple[Process, ...], Meta(max_length=TOP)]
    by_memory: Annotated[tuple[Process, ...], Meta(max_length=TOP)]


class Processes(msgspec.Struct, frozen=True, kw_only=True):
    """The processes asked for, largest first: how many there are in all, how many match, and those within the limit."""

    at: At
    total: Count
    matching: Count
    processes: Annotated[tuple[Process, ...], Meta(max_length=LIMIT_MAX)]
