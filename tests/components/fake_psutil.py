"""A machine for the sampler to read: every figure is what the test set."""

from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, NamedTuple

import psutil


class CpuTimes(NamedTuple):
    user: float = 0.0
    nice: float = 0.0
    system: float = 0.0
    idle: float = 0.0
    iowait: float = 0.0
    guest: float = 0.0


class Io(NamedTuple):
    read_count: int = 0
    write_count: int = 0
    read_bytes: int = 0
    write_bytes: int = 0


class Nic(NamedTuple):
    bytes_sent: int = 0
    bytes_recv: int = 0
    packets_sent: int = 0
    packets_recv: int = 0
    errin: int = 0
    errout: int = 0
    dropin: int = 0
    dropout: int = 0


class Partition(NamedTuple):
    device: str
    mountpoint: str
    fstype: str


class Usage(NamedTuple):
    total: int
    used: int
    free: int


class FakeProcess:
    """One process; ``fails`` is raised by the reading that it names."""

    def __init__(self, pid: int, name: str = "proc", *, cpu: float = 0.0, rss: int = 0, uid: int = 0) -> None:
        self.pid, self.cpu, self.rss, self.uid = pid, cpu, rss, uid
        self._name = name
        self.fails: dict[str, Exception] = {}
        self.asked: list[str] = []

    def oneshot(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if what in self.fails:
            raise self.fails[what]

    def name(self) -> str:
        self._ask("name")
        return self._name

    def cpu_times(self) -> Any:
        self._ask("cpu_times")
        return SimpleNamespace(user=self.cpu, system=0.0)

    def memory_info(self) -> Any:
        self._ask("memory_info")
        return SimpleNamespace(rss=self.rss)

    def ppid(self) -> int:
        self._ask("ppid")
        return 1

    def num_threads(self) -> int:
        self._ask("num_threads")
        return 3

    def uids(self) -> Any:
        self._ask("uids")
        return SimpleNamespace(real=self.uid)

    def username(self) -> str:
        self._ask("username")
        return f"user{self.uid}"


class FakePsutil:
    """The parts of psutil that the sampler uses."""

    def __init__(self) -> None:
        self.cpus = [CpuTimes()]
        self.disks: dict[str, Io] | None = {}
        self.nics: dict[str, Nic] = {}
        self.partitions: list[Partition] = []
        self.usages: dict[str, Usage | OSError] = {}
        self.processes: dict[int, FakeProcess] = {}
        self.opened = 0

    def add(self, process: FakeProcess) -> FakeProcess:
        self.processes[process.pid] = process
        return process

    def cpu_times(self, *, percpu: bool) -> list[CpuTimes]:
        assert percpu
        return list(self.cpus)

    def getloadavg(self) -> tuple[float, float, float]:
        return (0.5, 0.25, 0.125)

    def virtual_memory(self) -> Any:
        return SimpleNamespace(total=1000, available=750, used=200)

    def swap_memory(self) -> Any:
        return SimpleNamespace(total=0, used=0)

    def disk_io_counters(self, *, perdisk: bool, nowrap: bool) -> dict[str, Io] | None:
        assert perdisk
        assert not nowrap
        return self.disks

    def disk_partitions(self, *, all: bool) -> list[Partition]:
        assert not all, "network file systems can hang"
        return self.partitions

    def disk_usage(self, path: str) -> Usage:
        usage = self.usages[path]
        if isinstance(usage, OSError):
            raise usage
        return usage

    def net_io_counters(self, *, pernic: bool, nowrap: bool) -> dict[str, Nic]:
        assert pernic
        assert not nowrap
        return dict(self.nics)

    def pids(self) -> list[int]:
        return list(self.processes)

    def Process(self, pid: int) -> FakeProcess:
        self.opened += 1
        process = self.processes.get(pid)
        if process is None:
            raise psutil.NoSuchProcess(pid)
        if "open" in process.fails:
            raise process.fails["open"]
        return process
