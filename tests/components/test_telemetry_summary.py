"""One line for people, from payloads that the sampler makes."""

import pytest

from busd.components.telemetry.sampler import SUBJECTS, Sampler
from busd.components.telemetry.summary import size, summary
from tests.components.fake_psutil import CpuTimes, FakeProcess, FakePsutil, Io, Nic, Partition, Usage


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_940, "99.9 kB"),
        (99_960, "100 kB"),
        (999_600, "1.0 MB"),
        (25_276_502_016, "25.3 GB"),
        (3e18, "3000 PB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def test_each_subject_has_its_line() -> None:
    source = FakePsutil()
    source.nics = {"eth0": Nic()}
    source.disks = {"sda": Io(1, 1)}
    source.partitions = [Partition("/dev/sda1", "/", "ext4")]
    source.usages = {"/": Usage(100, 25, 75)}
    process = source.add(FakeProcess(1, "worker"))
    sampler = Sampler(source)
    sampler.sample(0.0, 0.0)
    source.cpus = [CpuTimes(user=1, idle=3)]
    source.nics = {"eth0": Nic(bytes_recv=1500)}
    source.disks = {"sda": Io(2, 2, 2000, 40)}
    process.cpu = 0.5
    lines = [summary(subject, payload)[10:] for subject, payload in sampler.sample(1.0, 0.0).items()]
    assert lines == [
        "telemetry.cpu      25.0 % of 1 CPUs (25), load 0.50 0.25 0.12",
        "telemetry.memory   250 B of 1.0 kB taken (25.0 %)",
        "telemetry.disk     / 25 % full, sda reads 2.0 kB/s writes 40 B/s",
        "telemetry.network  1 interfaces: eth0 in 1.5 kB/s out 0 B/s",
        "telemetry.top      1 processes; most CPU: worker 50.0 %",
    ]
    assert len(lines) == len(SUBJECTS)


def test_a_machine_with_nothing_to_say() -> None:
    sampler = Sampler(FakePsutil())
    sampler.sample(0.0, 0.0)
    payloads = sampler.sample(1.0, 0.0)
    assert summary("telemetry.disk", payloads["telemetry.disk"]).endswith("no disks")
    assert summary("telemetry.network", payloads["telemetry.network"]).endswith("0 interfaces: all silent")
    assert summary("telemetry.top", payloads["telemetry.top"]).endswith("  0 processes")
    assert summary("telemetry.cpu", payloads["telemetry.cpu"] | {"cpus": [1.0] * 64}).endswith(
        "of 64 CPUs, load 0.50 0.25 0.12"
    )


def test_a_process_name_cannot_drive_the_terminal() -> None:
    payload = {"at": 0.0, "processes": 1, "by_cpu": [{"name": "evil\x1b[2J\n\u202e", "cpu_percent": 1.0}]}
    assert summary("telemetry.top", payload).endswith("evil?[2J?? 1.0 %")


def test_another_subject_is_refused() -> None:
    with pytest.raises(KeyError):
        summary("demo.tick", {"at": 0.0})
