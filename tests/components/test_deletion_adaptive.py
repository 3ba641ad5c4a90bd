"""The rate that a disk bears: decisions on made time; the canary, the pressure and the governor on real files."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from busd.components.deletion.adaptive import (
    CEILING,
    FIRST,
    FLOOR,
    OTHERS,
    OTHERS_SECONDS,
    PERIOD_SECONDS,
    POLITE,
    UNKNOWN_SECONDS,
    Controller,
    Decision,
    Thresholds,
)
from busd.components.deletion.canary import CANARY_NAME, SHORTEST_SECONDS, Canary, Pressure
from busd.components.deletion.flushes import Flushes
from busd.components.deletion.gates import Gates
from busd.components.deletion.governor import Governor
from tests.support import wait_until


class Disk:
    """A disk beside which a controller works: what it is told, twice a second; the canary once a second."""

    def __init__(self, controller: Controller | None = None) -> None:
        self.controller = controller or Controller()
        self.now = 100.0
        self.canary: Callable[[float], float] = lambda rate: 0.005
        """Seconds of an fsync, by files a second."""
        self.own: Callable[[float], float] = lambda rate: 0.00002
        self.percent: Callable[[float], float | None] = lambda rate: None
        self.demand = 1e9
        self.decision = self.controller.decide(self.now)
        self._next_canary = self.now
        self._returns: tuple[float, float] | None = None

    @property
    def rate(self) -> float:
        return self.decision.files_per_second

    def run(self, seconds: float) -> list[Decision]:
        made = []
        for _ in range(round(seconds / PERIOD_SECONDS)):
            done = min(self.rate, self.demand) * PERIOD_SECONDS
            if self.now >= self._next_canary and self._returns is None:
                self._returns = (self.now, self.canary(self.rate))
            self.now += PERIOD_SECONDS
            if self._returns is not None:
                began, lasts = self._returns
                self.controller.canary(min(lasts, self.now - began), began)
                if began + lasts <= self.now:
                    self._returns, self._next_canary = None, began + max(1.0, lasts)
            if done >= 1:
                for _ in range(10):
                    self.controller.took(max(1, round(done / 10)), self.own(self.rate) * max(1, round(done / 10)))
            self.controller.pressure(self.percent(self.rate))
            self.decision = self.controller.decide(self.now)
            made.append(self.decision)
        return made


def test_it_doubles_to_the_ceiling_while_nothing_speaks_against_it() -> None:
    disk = Disk()
    assert disk.decision == Decision(FIRST, "")
    disk.run(0.5)
    assert disk.rate == 2 * FIRST
    disk.run(10.0)
    assert disk.decision == Decision(CEILING, "")


def test_more_is_not_allowed_to_who_does_not_use_what_there_is() -> None:
    disk = Disk()
    disk.demand = 3000.0
    disk.run(60.0)
    assert disk.decision == Decision(FIRST, "")


def test_a_slow_canary_lowers_the_rate_within_two_seconds_and_it_recovers() -> None:
    disk = Disk()
    disk.demand = 50_000.0
    disk.run(20.0)
    before = disk.rate
    disk.canary = lambda rate: 0.4
    fallen = disk.run(2.0)
    assert disk.rate <= 0.5 * min(before, disk.demand)
    assert fallen[-1].why == "canary"
    disk.run(30.0)
    assert disk.decision == Decision(FLOOR, "canary")
    disk.canary = lambda rate: 0.005
    disk.run(15.0)
    assert disk.rate >= 0.9 * min(before, disk.demand)
    disk.run(15.0)
    assert disk.decision.why == ""


def test_an_fsync_that_does_not_return_is_heard_while_it_lasts() -> None:
    disk = Disk()
    disk.run(10.0)
    disk.canary = lambda rate: 1e9
    disk.run(2.0)
    assert disk.rate <= CEILING / 4
    disk.run(20.0)
    assert disk.decision == Decision(FLOOR, "canary")


def test_one_slow_fsync_is_one_cut() -> None:
    disk = Disk()
    disk.run(10.0)
    slow = iter([0.2])
    disk.canary = lambda rate: next(slow, 0.005)
    disk.run(2.5)
    assert CEILING / 2 <= disk.rate <= CEILING * 0.7
    disk.run(10.0)
    assert disk.decision == Decision(CEILING, "")


def test_it_settles_near_what_the_disk_bears() -> None:
    """A disk whose neighbours feel more than 4,000 files a second: no higher for long, and no lower either."""
    disk = Disk()
    disk.canary = lambda rate: 0.005 if rate <= 4000 else 0.3
    disk.run(60.0)
    made = [decision.files_per_second for decision in disk.run(120.0)]
    mean = sum(made) / len(made)
    assert 1500 <= mean <= 5000, mean
    assert sum(rate > 8000 for rate in made) <= 0.05 * len(made)


class Quick:
    """A disk whose fsyncs are quick, so that the canary writes as often as it does at most."""

    def __init__(self, felt: Callable[[float, int], float]) -> None:
        """``felt``: seconds of an fsync, by files a second and its number."""
        self.controller = Controller()
        self.felt = felt
        self.now, self.number = 100.0, 0
        for _ in range(5):
            self.now += 0.001
            self._write(0.0)
        self._next = self.now + SHORTEST_SECONDS
        self.rate = self.controller.decide(self.now).files_per_second

    def run(self, seconds: float, most: float = 40_000.0) -> list[float]:
        """The rates; it removes ``most`` at most."""
        made = []
        for _ in range(round(seconds / PERIOD_SECONDS)):
            used = min(self.rate, most)
            end = self.now + PERIOD_SECONDS
            while self._next < end - 1e-6:
                self.now = self._next
                self._write(used)
                self._next += SHORTEST_SECONDS
            self.now = end
            self.controller.took(round(used * PERIOD_SECONDS), 0.001)
            self.rate = self.controller.decide(self.now).files_per_second
            made.append(min(self.rate, most))
        return made

    def _write(self, rate: float) -> None:
        self.number += 1
        self.controller.canary(self.felt(rate, self.number), self.now)


def test_on_a_quick_disk_a_few_milliseconds_are_slow() -> None:
    disk = Quick(lambda rate, _: 0.0003 if rate <= 8000 else 0.006)
    disk.run(20.0)
    made = disk.run(60.0)
    assert 3000 <= sum(made) / len(made) <= 9000
    assert max(made) <= 16_000


def test_one_slow_fsync_in_ten_is_no_sign() -> None:
    disk = Quick(lambda _, number: 0.03 if number % 10 == 0 else 0.0003)
    assert min(disk.run(30.0)[1:]) == 40_000.0


def test_what_is_slow_whatever_we_do_costs_little() -> None:
    """Beside programs that keep the processors busy, from some time on."""
    disk = Quick(lambda _, number: 0.0003 if number < 60 else 0.006)
    disk.run(30.0)
    made = disk.run(30.0)
    assert min(made) >= 10_000


def test_own_latency_speaks_at_the_95th_percentile() -> None:
    disk = Disk()
    disk.run(5.0)
    disk.own = lambda rate: 0.02
    disk.run(0.5)
    assert disk.decision.why == "own latency"
    controller = Controller()
    controller.decide(0.0)
    for _ in range(96):
        controller.took(100, 100 * 0.00002)
    for _ in range(4):
        controller.took(100, 100 * 0.5)  # one in twenty five is slow
    assert controller.decide(0.5).why == ""
    for _ in range(93):
        controller.took(100, 100 * 0.00002)
    for _ in range(7):
        controller.took(100, 100 * 0.5)
    assert controller.decide(1.0).why == "own latency"


def test_a_disk_that_is_slow_without_us_is_measured_by_that() -> None:
    disk = Disk()
    disk.canary = lambda rate: 0.08 if rate < 50_000 else 0.3
    disk.own = lambda rate: 0.003
    disk.demand = 60_000.0
    disk.run(15.0)
    assert disk.decision.why in ("canary", "own latency")
    disk.run(60.0)
    assert disk.rate >= 10_000


def test_a_disk_that_others_keep_busy_is_left_to_them_until_they_go() -> None:
    disk = Disk()
    disk.canary = lambda rate: 0.15 + rate / 10_000
    disk.run(60.0)
    assert all(decision.files_per_second <= 2000 for decision in disk.run(60.0))
    disk.canary = lambda rate: 0.005
    disk.run(30.0)
    assert disk.rate >= FIRST


def test_pressure_cuts_once_while_it_falls_and_again_when_it_lasts() -> None:
    disk = Disk()
    disk.run(10.0)
    start = disk.now
    disk.percent = lambda rate: 60.0 * 0.95 ** (2 * (disk.now - start))
    disk.run(3.0)
    assert disk.decision.why == "pressure"
    assert disk.rate == CEILING / 2
    disk.run(20.0)
    assert disk.decision == Decision(CEILING, "")
    disk.percent = lambda rate: 80.0
    disk.run(30.0)
    assert disk.rate <= CEILING / 32


def test_it_never_falls_below_the_floor_and_idling_changes_nothing() -> None:
    disk = Disk()
    disk.canary = lambda rate: 1.0
    disk.demand = 0.0
    disk.run(60.0)
    assert disk.rate == FLOOR
    disk.canary = lambda rate: 0.005
    disk.run(60.0)
    assert disk.rate >= FIRST


@pytest.mark.parametrize(("limit", "expected"), [(100.0, Decision(100.0, "limit")), (0.0, Decision(0.0, "paused"))])
def test_a_limit_holds_at_once_and_is_named(limit: float, expected: Decision) -> None:
    disk = Disk()
    disk.run(3.0)
    disk.controller.limit = limit
    assert disk.controller.decide(disk.now) == expected
    disk.run(3.0)
    assert disk.decision == expected
    disk.controller.limit = None
    assert disk.controller.decide(disk.now).files_per_second >= FIRST


def test_asked_more_often_it_says_the_same() -> None:
    controller = Controller(thresholds=Thresholds(canary_seconds=0.01))
    first = controller.decide(0.0)
    controller.canary(5.0, 0.0)
    assert controller.decide(0.4) == first
    assert controller.decide(0.5).files_per_second == FIRST / 2
    assert controller.decide(0.6) == controller.decide(0.9)
    controller.took(0, 5.0)  # a batch in which all was gone already


# The canary


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def test_a_canary_writes_measures_and_leaves_nothing(directory: int, tmp_path: Path) -> None:
    written: list[bytes] = []

    def sync(file: int) -> None:
        os.fsync(file)
        written.append(os.pread(file, 8192, 0))

    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    canary = Canary(directory, period=0.01, sync=sync)
    assert canary.read() is None
    canary.start()
    wait_until(lambda: len(written) >= 3)
    wait_until(lambda: canary.read() is not None)
    began, seconds = canary.read() or (0.0, 0.0)
    assert 0 <= seconds < 20
    assert 0 < began <= time.monotonic()
    canary.stop()
    assert {len(each) for each in written} == {4096}
    assert written[0] != written[1]
    assert os.listdir(tmp_path) == []
    assert canary.problem == ""
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_quick_canary_writes_five_times_before_the_job_begins_and_then_each_0_4_s(directory: int) -> None:
    canary = Canary(directory, sync=lambda file: None)
    canary.start()
    try:
        first = canary.recent()
        assert len(first) == 5
        assert canary.recent() == first[-1:]
        wait_until(lambda: (canary.read() or first[-1])[0] > first[-1][0])
        assert (canary.read() or first[-1])[0] - first[-1][0] >= SHORTEST_SECONDS
    finally:
        canary.stop()


def test_a_canary_that_hangs_says_so_and_can_be_left(directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busd.components.deletion.canary.STOP_SECONDS", 0.05)
    release = threading.Event()
    canary = Canary(directory, period=0.01, sync=lambda file: void(release.wait(30.0)))
    canary.start()
    wait_until(lambda: (canary.read() or (0.0, 0.0))[1] > 0.02)
    first = (canary.read() or (0.0, 0.0))[1]
    wait_until(lambda: (canary.read() or (0.0, 0.0))[1] > first)
    canary.stop()
    release.set()
    canary._thread.join(10.0)
    assert not canary._thread.is_alive()


def void(value: object) -> None:
    pass


def test_a_canary_that_cannot_write_has_no_figures_and_says_why(directory: int, tmp_path: Path) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    canary = Canary(directory, period=0.01, sync=full)
    canary.start()
    wait_until(lambda: canary.problem)
    assert canary.problem == "No space left on device"
    assert canary.read() is None
    canary.stop()


def test_a_canary_that_was_never_started_can_be_stopped(directory: int) -> None:
    Canary(directory).stop()


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "fifo", "directory"])
def test_a_canary_writes_to_nothing_that_somebody_put_there(kind: str, directory: int, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    trap = tmp_path / CANARY_NAME.decode()
    if kind == "symlink":
        trap.symlink_to(victim)
    elif kind == "hardlink":
        trap.hardlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(trap)
    else:
        trap.mkdir()
    canary = Canary(directory, period=0.01)
    canary.start()
    wait_until(lambda: canary.problem)
    canary.stop()
    assert victim.read_bytes() == b"precious"
    assert os.path.lexists(trap)


def test_what_an_earlier_life_left_is_used_again(directory: int, tmp_path: Path) -> None:
    (tmp_path / CANARY_NAME.decode()).write_bytes(b"old")
    canary = Canary(directory, period=0.01)
    canary.start()
    wait_until(lambda: canary.read() is not None)
    canary.stop()
    assert os.listdir(tmp_path) == []


# The pressure


@pytest.mark.parametrize(
    ("text", "percent"),
    [
        ("some avg10=12.34 avg60=0.06 avg300=0.06 total=80526829\nfull avg10=99.00 avg60=0 total=1\n", 12.34),
        ("some avg10=100.00 avg60=0.00\n", 100.0),
        ("full avg10=5.00 avg60=0.00\n", None),
        ("some avg10=x\n", None),
        ("", None),
    ],
)
def test_pressure(text: str, percent: float | None, tmp_path: Path) -> None:
    (tmp_path / "io").write_text(text)
    assert Pressure(str(tmp_path / "io")).read() == percent


def test_no_pressure_where_there_is_none(tmp_path: Path) -> None:
    assert Pressure(str(tmp_path / "absent")).read() is None


# The governor


def test_a_governor_lowers_and_raises_a_real_throttle(directory: int) -> None:
    """The canary's delay is made; what follows is in real time."""
    gates, delay = Gates(), 0.0
    system = gates.system(1)
    canary = Canary(directory, period=0.2, sync=lambda file: time.sleep(delay))
    governor = Governor(gates, system, Controller(), canary=canary)
    governor.start()
    try:
        assert system.files_per_second == FIRST
        assert system.why == "finding its rate"
        wait_until(lambda: canary.read() is not None)
        delay = 0.2
        began = time.monotonic()
        wait_until(lambda: (system.files_per_second or 0) <= FIRST / 2)
        assert time.monotonic() - began < 2.0 + 1.0  # and what a busy machine takes
        assert system.why == "canary"
        delay = 0.0
        wait_until(lambda: system.why == "finding its rate")
        assert (system.files_per_second or 0) >= FIRST * 0.9
        governor.limit(0)
        assert system.stopped
        governor.limit(7.0)
        assert (system.files_per_second, system.why) == (7.0, "limit")
        with pytest.raises(ValueError):
            governor.limit(-1.0)
    finally:
        governor.stop()
    assert not any(thread.name.startswith("deletion-") for thread in threading.enumerate())


def test_a_governor_hears_its_file_systems_batches() -> None:
    gates, now = Gates(), 0.0
    governor = Governor(gates, gates.system(1), Controller(), clock=lambda: now, pressure=Pressure("/nonexistent"))
    gates.listen(gates.system(1), governor._took)
    governor.decide()
    with gates.open("a", 1) as gate:
        gate.enter(10, 0)
        gate.left(10, 5.0)
    now = 0.5
    assert governor.decide().why == "own latency"
    governor.stop()


# Neighbours who fsync


def test_beside_somebody_who_waits_for_the_disk_it_is_polite_at_once_and_for_a_while() -> None:
    disk = Disk()
    disk.run(10.0)
    assert disk.rate == CEILING
    disk.controller.others(OTHERS - 0.1, disk.now)
    assert disk.controller.decide(disk.now).files_per_second == CEILING
    disk.controller.others(OTHERS, disk.now)
    assert disk.controller.decide(disk.now) == Decision(POLITE, "neighbours"), "not only with the next decision"
    disk.run(OTHERS_SECONDS - PERIOD_SECONDS)
    assert disk.decision == Decision(POLITE, "neighbours")
    disk.run(PERIOD_SECONDS)
    assert disk.rate > POLITE


def test_until_somebody_has_looked_it_is_as_if_others_were_there() -> None:
    controller = Controller()
    controller.unknown(0.0)
    assert controller.decide(0.0) == Decision(POLITE, "neighbours")
    assert controller.decide(UNKNOWN_SECONDS).files_per_second == FIRST


def test_where_nobody_waits_an_fsync_that_is_slow_beside_us_is_nobodys() -> None:
    disk = Quick(lambda rate, _: 0.0003 if rate <= 8000 else 0.006)
    disk.controller.others(0.0, disk.now)
    disk.run(10.0)
    assert disk.rate >= 100_000
    disk.controller.others(OTHERS, disk.now)
    disk.run(2.0)
    assert disk.rate <= POLITE


def test_a_limit_below_that_stays_the_reason() -> None:
    controller = Controller(limit=100.0)
    controller.others(50.0, 0.0)
    assert controller.decide(0.0) == Decision(100.0, "limit")
    controller.limit = POLITE * 2
    assert controller.decide(0.0) == Decision(POLITE, "neighbours")
    controller.limit = 0
    assert controller.decide(0.0) == Decision(0.0, "paused")


def diskstats(path: Path, flushes: int, *, device: str = "8 1") -> str:
    """A file as /proc/diskstats, with two devices; its path."""
    rest = " ".join(["7"] * 15)
    path.write_text(f"   8       0 sda {rest} 999 5\n   {device.replace(' ', '       ')} sda1 {rest} {flushes} 5\n")
    return str(path)


def test_flushes_are_those_of_the_device(tmp_path: Path) -> None:
    device = os.makedev(8, 1)
    path = tmp_path / "diskstats"
    assert Flushes(device, diskstats(path, 42)).read() == 42
    assert Flushes(os.makedev(8, 2), str(path)).read() is None
    assert Flushes(device, diskstats(path, 0)).read() is None, "it has nothing to flush, and is not asked to"
    path.write_text("   8       1 sda1 1 2 3\n")  # Linux before 5.5
    assert Flushes(device, str(path)).read() is None
    path.write_text("   8       1 sda1 " + " ".join(["x"] * 17) + "\n")
    assert Flushes(device, str(path)).read() is None
    assert Flushes(device, str(tmp_path / "absent")).read() is None


def test_a_governor_hears_others_and_not_its_own_canary(tmp_path: Path, directory: int) -> None:
    gates, now, path = Gates(), 0.0, tmp_path / "diskstats"
    canary = Canary(directory)
    flushes = Flushes(os.makedev(8, 1), diskstats(path, 1000))
    governor = Governor(gates, gates.system(1), Controller(), canary=canary, flushes=flushes, clock=lambda: now)
    count = 1000
    for number in range(1, 12):
        now = number / 10
        if number % 3 == 0:
            canary.writes += 1
        count += 3 * (number % 3 == 1)  # they come late
        diskstats(path, count)
        assert governor.decide().files_per_second >= FIRST, "all of them were the canary's"
    diskstats(path, count + 50)
    now = 1.2
    assert governor.decide().files_per_second >= FIRST, "once is not somebody who waits"
    for number in range(13, 24):
        now, count = number / 10, count + 1
        diskstats(path, count + 50)
        governor.decide()
    assert governor.decide() == Decision(POLITE, "neighbours")
    canary.stop()
    governor.stop()
