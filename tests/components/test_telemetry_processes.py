"""The process table: who is largest, what vanishes, what is denied, and what a refresh may cost."""

from itertools import count

import psutil
import pytest

from busd.components.telemetry.processes import ProcessTable
from tests.components.fake_psutil import FakeProcess, FakePsutil


def refreshed(source: FakePsutil, *times: float) -> ProcessTable:
    table = ProcessTable(source, timer=lambda: 0.0)
    for now in times:
        table.refresh(now)
    return table


def test_cpu_percent_holds_between_a_process_own_two_readings() -> None:
    source = FakePsutil()
    busy = source.add(FakeProcess(2, "busy", cpu=5.0, rss=10))
    table = refreshed(source, 100.0)
    assert table.top("cpu", 5)[1][0]["cpu_percent"] is None
    busy.cpu = 6.0
    table.refresh(104.0)
    assert table.top("cpu", 5) == (
        1,
        [
            {
                "pid": 2,
                "name": "busy",
                "cpu_percent": 25.0,
                "rss_bytes": 10,
                "ppid": 1,
                "user": "user0",
                "threads": 3,
            }
        ],
    )


def test_order_limit_and_name() -> None:
    source = FakePsutil()
    for pid, name, cpu, rss in [(1, "init", 0.0, 30), (2, "Web-1", 2.0, 10), (3, "web-2", 1.0, 20)]:
        source.add(FakeProcess(pid, name, rss=rss)).cpu = cpu
    table = refreshed(source, 0.0)
    for process in source.processes.values():
        process.cpu *= 2
    table.refresh(1.0)
    assert [row["pid"] for row in table.top("cpu", 5)[1]] == [2, 3, 1]
    assert [row["pid"] for row in table.top("memory", 2)[1]] == [1, 3]
    matching, rows = table.top("memory", 1, "WEB-*")
    assert matching == 2
    assert [row["name"] for row in rows] == ["web-2"]
    assert table.top("cpu", 5, "nothing") == (0, [])


def test_processes_that_vanish_at_any_moment_are_dropped() -> None:
    source = FakePsutil()
    for pid, moment in enumerate(("open", "name", "cpu_times", "memory_info"), start=10):
        source.add(FakeProcess(pid)).fails[moment] = psutil.NoSuchProcess(pid)
    source.add(FakeProcess(1, "stays"))
    table = refreshed(source, 0.0)
    assert len(table) == 1
    del source.processes[1]
    table.refresh(1.0)
    assert len(table) == 0
    assert table.top("cpu", 5) == (0, [])


def test_a_process_that_goes_between_refresh_and_report_keeps_what_was_read() -> None:
    source = FakePsutil()
    source.add(FakeProcess(5, "gone", rss=7)).fails["num_threads"] = psutil.NoSuchProcess(5)
    [row] = refreshed(source, 0.0).top("memory", 1)[1]
    assert row["rss_bytes"] == 7
    assert row["threads"] is None
    assert row["user"] is None


def test_denied_figures_are_none_and_sort_last() -> None:
    source = FakePsutil()
    source.add(FakeProcess(1, "secret", rss=1000)).fails["memory_info"] = psutil.AccessDenied(1)
    source.add(FakeProcess(2, "closed")).fails["open"] = psutil.AccessDenied(2)
    source.add(FakeProcess(3, "open", rss=1))
    table = refreshed(source, 0.0, 1.0)
    rows = table.top("memory", 5)[1]
    assert rows[0]["pid"] == 3
    assert {row["pid"] for row in rows[1:]} == {1, 2}
    assert all(row["rss_bytes"] is None and row["cpu_percent"] is None for row in rows[1:])
    statistics = table.statistics()
    assert statistics.unreadable == 4
    assert statistics.processes == 3


def test_a_reused_pid_is_a_new_process() -> None:
    source = FakePsutil()
    source.add(FakeProcess(9, "old", cpu=50.0))
    table = refreshed(source, 0.0, 1.0)
    source.add(FakeProcess(9, "new", cpu=1.0))
    # The table still holds the old handle, which by now reads the new process: less CPU time than before.
    table._entries[9].process = source.processes[9]
    opened = source.opened
    table.refresh(2.0)
    assert table.top("cpu", 1)[1][0]["cpu_percent"] is None
    table.refresh(3.0)
    assert source.opened == opened + 1
    assert table.top("cpu", 1)[1][0]["name"] == "new"
    assert table.top("cpu", 1)[1][0]["cpu_percent"] == 0.0


def test_a_refresh_ends_when_its_budget_is_spent_and_the_next_goes_on_from_there() -> None:
    source = FakePsutil()
    for pid in range(1, 11):
        source.add(FakeProcess(pid))
    ticks = count()
    table = ProcessTable(source, budget=4.0, timer=lambda: float(next(ticks)))  # every process costs one
    read = []
    for now in range(5):
        table.refresh(float(now))
        read.append([pid for pid, process in source.processes.items() if process.asked])
        for process in source.processes.values():
            process.asked.clear()
    assert read == [[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 9, 10], [3, 4, 5, 6], [7, 8, 9, 10]]
    statistics = table.statistics()
    assert statistics.unfinished == 5
    assert statistics.readings == 20
    assert len(table) == 10, "all are counted, read or not"


def test_a_budget_of_nothing_still_reads_one() -> None:
    source = FakePsutil()
    source.add(FakeProcess(1))
    source.add(FakeProcess(2))
    table = ProcessTable(source, budget=0.0)
    table.refresh(0.0)
    table.refresh(1.0)
    assert table.statistics().readings == 2
    assert table.top("cpu", 5)[0] == 2


def test_details_are_read_for_reported_rows_only_and_once_a_refresh() -> None:
    source = FakePsutil()
    for pid in range(1, 4):
        source.add(FakeProcess(pid, rss=pid))
    table = refreshed(source, 0.0)
    table.top("memory", 1)
    table.top("memory", 1)
    assert [process.asked.count("ppid") for process in source.processes.values()] == [0, 0, 1]
    assert [process.asked.count("username") for process in source.processes.values()] == [0, 0, 1]
    table.refresh(1.0)
    table.top("memory", 3)
    assert [process.asked.count("ppid") for process in source.processes.values()] == [1, 1, 2]
    asked = [process.asked.count("username") for process in source.processes.values()]
    assert asked == [0, 0, 1], "one user's name is looked up once"


def test_a_name_is_cut() -> None:
    source = FakePsutil()
    source.add(FakeProcess(1, "x" * 100_000))
    assert refreshed(source, 0.0).top("cpu", 1)[1][0]["name"] == "x" * 128


def test_unread_processes_are_not_reported() -> None:
    source = FakePsutil()
    source.add(FakeProcess(1))
    source.add(FakeProcess(2))
    table = ProcessTable(source, budget=0.0)
    table.refresh(0.0)
    assert table.top("cpu", 5)[0] == 1


@pytest.mark.parametrize(
    ("pattern", "matching"), [("[", 0), ("[!", 0), ("***", 1), ("p?o[a-d]", 1), ("*" * 30 + "x", 0), ("PROC", 1)]
)
def test_any_text_is_a_pattern(pattern: str, matching: int) -> None:
    source = FakePsutil()
    source.add(FakeProcess(1, "proc"))
    assert refreshed(source, 0.0).top("cpu", 5, pattern)[0] == matching
