"""CPU, memory, disk and network figures: the arithmetic on a made machine, and the sense of it on this one."""

import json
import os
import time

import psutil
import pytest

from busd.components.telemetry.machine import LISTED, Cpu, Disk, Memory, Network, per_second
from busd.components.telemetry.processes import ProcessTable
from busd.components.telemetry.sampler import SUBJECTS, Sampler
from tests.components.fake_psutil import CpuTimes, FakePsutil, Io, Nic, Partition, Usage


def test_the_first_reading_of_a_counter_has_no_rates() -> None:
    source = FakePsutil()
    assert Cpu(source).read(0.0) is None
    assert Disk(source).read(0.0) is None
    assert Network(source).read(0.0) is None


def test_cpu_percent_is_of_the_time_between_two_readings() -> None:
    source = FakePsutil()
    source.cpus = [CpuTimes(user=100, idle=100), CpuTimes(idle=50)]
    cpu = Cpu(source)
    cpu.read(0.0)
    source.cpus = [
        CpuTimes(user=103, nice=1, system=1, idle=104, iowait=1),
        CpuTimes(idle=60),
    ]
    figures = cpu.read(10.0)
    assert figures == {
        "percent": 25.0,
        "user_percent": 20.0,
        "system_percent": 5.0,
        "iowait_percent": 5.0,
        "cpus": [50.0, 0.0],
        "load": [0.5, 0.25, 0.12],
    }


def test_a_virtual_cpu_is_not_counted_twice() -> None:
    source = FakePsutil()
    cpu = Cpu(source)
    cpu.read(0.0)
    source.cpus = [CpuTimes(user=5, guest=5, idle=5)]
    figures = cpu.read(10.0)
    assert figures is not None
    assert figures["percent"] == 50.0


def test_cpus_may_come_and_go_between_readings() -> None:
    source = FakePsutil()
    source.cpus = [CpuTimes(idle=1)] * 2
    cpu = Cpu(source)
    cpu.read(0.0)
    source.cpus = [CpuTimes(idle=1, user=1)]
    figures = cpu.read(1.0)
    assert figures is not None
    assert figures["cpus"] == [100.0]
    source.cpus = [CpuTimes(idle=2, user=1)] * 4
    figures = cpu.read(2.0)
    assert figures is not None
    assert figures["cpus"] == [0.0]


def test_cpu_clocks_that_stand_still_or_go_back_give_zero() -> None:
    source = FakePsutil()
    source.cpus = [CpuTimes(user=10, idle=10)]
    cpu = Cpu(source)
    cpu.read(0.0)
    source.cpus = [CpuTimes(user=9, idle=9)]
    figures = cpu.read(1.0)
    assert figures is not None
    assert figures["percent"] == 0.0
    assert figures["cpus"] == [0.0]


def test_memory_without_swap() -> None:
    assert Memory(FakePsutil()).read(0.0) == {
        "total_bytes": 1000,
        "available_bytes": 750,
        "used_bytes": 200,
        "percent": 25.0,
        "swap": {"total_bytes": 0, "used_bytes": 0, "percent": 0.0},
    }


def test_disk_rates_and_space() -> None:
    source = FakePsutil()
    source.disks = {"sda": Io(10, 10, 1000, 1000), "idle": Io(), "loop0": Io(1, 0, 1, 0)}
    source.partitions = [
        Partition("/dev/sda1", "/var/lib/pods/1", "ext4"),
        Partition("/dev/sda1", "/", "ext4"),
        Partition("/dev/sda1", "/etc/hosts", "ext4"),
        Partition("/dev/loop0", "/snap/x", "squashfs"),
        Partition("/dev/sdb1", "/secret", "ext4"),
        Partition("/dev/sdc1", "/big", "xfs"),
    ]
    source.usages = {
        "/": Usage(1000, 600, 200),
        "/secret": PermissionError(13, "denied"),
        "/big": Usage(9000, 0, 9000),
    }
    disk = Disk(source)
    disk.read(100.0)
    source.disks = {"sda": Io(20, 10, 1000, 5000), "idle": Io(), "loop0": Io(1, 0, 1, 0), "new": Io(5, 5, 5, 5)}
    figures = disk.read(102.0)
    assert figures is not None
    assert figures["devices"] == [
        {
            "device": "sda",
            "reads_per_second": 5,
            "writes_per_second": 0,
            "read_bytes_per_second": 0,
            "written_bytes_per_second": 2000,
        },
        {
            "device": "loop0",
            "reads_per_second": 0,
            "writes_per_second": 0,
            "read_bytes_per_second": 0,
            "written_bytes_per_second": 0,
        },
    ]
    assert [(m["mount"], m["percent"]) for m in figures["mounts"]] == [("/big", 0.0), ("/", 75.0)]


def test_a_machine_without_disks() -> None:
    source = FakePsutil()
    source.disks = None
    disk = Disk(source)
    disk.read(0.0)
    assert disk.read(1.0) == {"mounts": [], "devices": []}


def test_network_rates_busiest_first_and_bounded() -> None:
    source = FakePsutil()
    source.nics = {f"tap{n}": Nic() for n in range(LISTED + 10)}
    network = Network(source)
    network.read(0.0)
    source.nics["tap7"] = Nic(
        bytes_sent=200, bytes_recv=100, packets_sent=20, packets_recv=10, errin=2, errout=2, dropin=4, dropout=4
    )
    source.nics["new0"] = Nic(bytes_sent=10**9)
    figures = network.read(2.0)
    assert figures is not None
    assert figures["interfaces"] == LISTED + 11
    assert len(figures["busiest"]) == LISTED
    assert figures["busiest"][0] == {
        "interface": "tap7",
        "received_bytes_per_second": 50,
        "sent_bytes_per_second": 100,
        "received_packets_per_second": 5,
        "sent_packets_per_second": 10,
        "errors_per_second": 2,
        "drops_per_second": 4,
    }


@pytest.mark.parametrize(("new", "old", "seconds", "rate"), [(10, 0, 2, 5), (0, 10, 1, 0), (10, 0, 0, 0), (3, 0, 2, 2)])
def test_per_second(new: float, old: float, seconds: float, rate: int) -> None:
    assert per_second(new, old, seconds) == rate


def test_what_cannot_be_read_is_left_out_counted_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    source = FakePsutil()
    sampler = Sampler(source)
    assert sampler.sample(10.0, 1000.0) == {}

    def denied(**_: object) -> None:
        raise PermissionError(13, "denied", "/proc/diskstats")

    monkeypatch.setattr(source, "disk_io_counters", denied)
    payloads = sampler.sample(11.5, 1001.5)
    assert list(payloads) == [subject for subject in SUBJECTS if subject != "telemetry.disk"]
    assert payloads["telemetry.memory"]["at"] == 1001.5
    assert payloads["telemetry.memory"]["interval"] == 1.5
    assert sampler.statistics().failures["telemetry.disk"] == 1
    assert "/proc/diskstats" in sampler.reasons["telemetry.disk"]
    monkeypatch.undo()
    assert "telemetry.disk" in sampler.sample(12.5, 1002.5)


def test_figures_of_this_machine_are_sane() -> None:
    table = ProcessTable(budget=60.0)
    sampler = Sampler(processes=table)
    sampler.sample(time.monotonic(), time.time())
    busy_until = time.process_time() + 0.2
    while time.process_time() < busy_until:
        pass
    payloads = sampler.sample(time.monotonic(), time.time())
    assert list(payloads) == list(SUBJECTS)
    cpu, memory, disk, top = (payloads[f"telemetry.{name}"] for name in ("cpu", "memory", "disk", "top"))

    assert abs(cpu["at"] - time.time()) < 5
    assert cpu["interval"] >= 0.2
    assert len(cpu["cpus"]) == psutil.cpu_count()
    assert 0 < cpu["percent"] <= 100
    assert 0 < max(cpu["cpus"]) <= 100
    assert 0 < memory["available_bytes"] < memory["total_bytes"]
    for mount in disk["mounts"]:
        assert mount["used_bytes"] + mount["free_bytes"] <= mount["total_bytes"]
    assert top["processes"] == len(table) >= 1
    own = next(row for row in table.top("cpu", len(table))[1] if row["pid"] == os.getpid())
    spent = own["cpu_percent"] / 100 * cpu["interval"]
    assert 0.15 <= spent < 60, "the loop above took 0.2 s of CPU"
    assert own["rss_bytes"] > 1_000_000
    assert own["ppid"] == os.getppid()
    assert own["threads"] >= 1
    assert own["user"] == psutil.Process().username()
    for subject, payload in payloads.items():
        assert len(json.dumps(payload)) < 64 * 1024, subject
