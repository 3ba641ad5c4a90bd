"""Which processes there are and what each one uses, at a bounded cost however many there are.

Reading one process costs about 30 us (two files of /proc), so a node of ten thousand would take a third of a core once
a second. Each refresh therefore reads until its budget of CPU time is spent and the next one goes on from there; a
process's CPU percent holds over the time between *its own* two readings and so stays right.
"""

import fnmatch
import heapq
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import psutil

from busd.components.telemetry.text import readable

__all__ = ["ProcessTable", "ProcessTableStatistics", "Sort"]

Sort = Literal["cpu", "memory"]

BUDGET_SECONDS: Final = 0.008
"""CPU time of one refresh: 0.8 % of a core at one refresh a second, about 250 processes."""

USER_NAMES: Final = 4096
"""User names kept; resolving one may ask a directory service."""


@dataclass(frozen=True, slots=True)
class ProcessTableStatistics:
    """What a process table has done."""

    processes: int
    """Processes known now."""
    refreshes: int
    """Calls of ``refresh``."""
    readings: int
    """Processes read, over all refreshes."""
    unreadable: int
    """Readings that the system denied."""
    unfinished: int
    """Refreshes that spent their budget before they had read every process."""


class _Entry:
    """One process with its last reading."""

    __slots__ = ("_cpu_seconds", "_details", "at", "cpu_percent", "name", "pid", "process", "rss")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.process: Any = None
        self.name = ""
        self.at: float | None = None
        self.cpu_percent: float | None = None
        self.rss: int | None = None
        self._cpu_seconds = 0.0
        self._details: tuple[float, dict[str, Any]] | None = None

    def read(self, source: Any, now: float) -> None:
        """Read name, CPU time and memory. Raises ``psutil.NoSuchProcess`` and ``psutil.AccessDenied``."""
        last, self.at = self.at, now
        since, self.cpu_percent, self.rss = self._cpu_seconds, None, None
        if self.process is None:
            self.process = source.Process(self.pid)
        with self.process.oneshot():
            self.name = readable(self.process.name())
            times = self.process.cpu_times()
            self.rss = self.process.memory_info().rss
        self._cpu_seconds = times.user + times.system
        spent = self._cpu_seconds - since
        if spent < 0:  # less than before: the pid is another process's by now
            self.process = None
        elif last is not None and now > last:
            self.cpu_percent = round(100 * spent / (now - last), 1)

    def row(self, now: float, users: dict[int, str]) -> dict[str, Any]:
        """The process as it is reported. What only reported rows need is read here, at most once for each ``now``."""
        if self._details is None or self._details[0] != now:
            self._details = (now, _details(self.process, users))
        return {
            "pid": self.pid,
            "name": self.name,
            "cpu_percent": self.cpu_percent,
            "rss_bytes": self.rss,
            **self._details[1],
        }


class ProcessTable:
    """The machine's processes, refreshed a part at a time.

    Args:
        source: psutil, or what stands in for it.
        budget: CPU seconds that one ``refresh`` may spend; at least one process is read each time.
        timer: CPU seconds spent so far.
    """

    def __init__(
        self,
        source: Any = psutil,
        *,
        budget: float = BUDGET_SECONDS,
        timer: Callable[[], float] = time.process_time,
    ) -> None:
        self._source = source
        self._budget = budget
        self._timer = timer
        self._entries: OrderedDict[int, _Entry] = OrderedDict()  # in the order of their turns
        self._users: dict[int, str] = {}
        self._now = 0.0
        self._refreshes = self._readings = self._unreadable = self._unfinished = 0

    def __len__(self) -> int:
        return len(self._entries)

    def refresh(self, now: float) -> None:
        """Learn which processes came and went, and read those whose turn it is."""
        self._now = now
        self._refreshes += 1
        present = set(self._source.pids())
        for pid in self._entries.keys() - present:
            del self._entries[pid]
        for pid in sorted(present - self._entries.keys()):
            self._entries[pid] = _Entry(pid)
        until = self._timer() + self._budget
        for left in range(len(self._entries) - 1, -1, -1):
            self._read(next(iter(self._entries)), now)
            if left and self._timer() >= until:
                self._unfinished += 1
                break

    def _read(self, pid: int, now: float) -> None:
        """Read one process and let it wait for its next turn; drop it if it is gone."""
        self._entries.move_to_end(pid)
        self._readings += 1
        try:
            self._entries[pid].read(self._source, now)
        except psutil.NoSuchProcess:
            del self._entries[pid]
        except psutil.AccessDenied:
            self._unreadable += 1

    def top(self, sort: Sort, limit: int, name: str | None = None) -> tuple[int, list[dict[str, Any]]]:
        """How many processes match the glob ``name`` (upper and lower case alike), and the ``limit`` largest of them.

        A row: ``pid``, ``name``, ``cpu_percent`` (100 is one CPU; None until read twice), ``rss_bytes``, ``ppid``,
        ``user``, ``threads``. What the system does not let us see is None and sorts last.
        """
        wanted = None if name is None else name.lower()
        entries = [
            entry
            for entry in self._entries.values()
            if entry.at is not None and (wanted is None or fnmatch.fnmatchcase(entry.name.lower(), wanted))
        ]
        largest = heapq.nlargest(limit, entries, key=_by_cpu if sort == "cpu" else _by_memory)
        if len(self._users) > USER_NAMES:
            self._users.clear()
        return len(entries), [entry.row(self._now, self._users) for entry in largest]

    def statistics(self) -> ProcessTableStatistics:
        """What this table has done so far."""
        return ProcessTableStatistics(
            processes=len(self._entries),
            refreshes=self._refreshes,
            readings=self._readings,
            unreadable=self._unreadable,
            unfinished=self._unfinished,
        )


def _by_cpu(entry: _Entry) -> tuple[float, int]:
    return (-1.0 if entry.cpu_percent is None else entry.cpu_percent, entry.rss or 0)


def _by_memory(entry: _Entry) -> tuple[int, float]:
    return (-1 if entry.rss is None else entry.rss, entry.cpu_percent or 0.0)


def _details(process: Any, users: dict[int, str]) -> dict[str, Any]:
    details: dict[str, Any] = {"ppid": None, "user": None, "threads": None}
    if process is None:
        return details
    try:
        with process.oneshot():
            details["ppid"] = process.ppid()
            details["threads"] = process.num_threads()
            details["user"] = _user(process, users)
    except psutil.Error:  # gone, or not ours to see: what was read stands, the rest is unknown
        pass
    return details


def _user(process: Any, users: dict[int, str]) -> str:
    if not psutil.POSIX:
        return readable(process.username())
    uid = process.uids().real
    name = users.get(uid)
    if name is None:
        name = users[uid] = readable(process.username())
    return name
