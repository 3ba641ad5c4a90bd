"""Rates, turns and gates: on made time, and a little with real threads."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busd.components.deletion.cancelled import Cancelled
from busd.components.deletion.gates import Gates, JobGate
from busd.components.deletion.throttle import BURST_SECONDS, Bucket, Throttle
from busd.components.deletion.turnstile import KEPT, Lane, Ticket, Turnstile
from tests.support import wait_until

Pass = tuple[float, Lane, int, int]


class World:
    """Jobs that always have a next batch, on a clock that jumps to when something can begin or end."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.turnstile = Turnstile()
        self.passes: list[Pass] = []
        self.system = Throttle("file system")
        self.tenants: dict[str, Throttle] = {}
        self._owner: dict[Ticket, int] = {}
        self._sources: list[tuple[Lane, Callable[[], tuple[int, int] | None], float]] = []
        self._ending: list[tuple[float, int, Lane, int]] = []  # when, source, lane, files

    def lane(self, tenant: str, job: Throttle | None = None, system: Throttle | None = None) -> Lane:
        shared = self.tenants.setdefault(tenant, Throttle("tenant"))
        return Lane(tenant, job or Throttle(), (shared, system or self.system))

    def job(self, lane: Lane, batches: Iterable[tuple[int, int]], *, threads: int = 1, takes: float = 0.001) -> None:
        source = iter(batches)
        for _ in range(threads):
            self._sources.append((lane, lambda: next(source, None), takes))
            self._offer(len(self._sources) - 1)

    def _offer(self, source: int) -> None:
        lane, batch, _ = self._sources[source]
        each = batch()
        if each is not None:
            ticket = Ticket(lane, *each)
            self.turnstile.add(ticket)
            self._owner[ticket] = source

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            begun, when = self.turnstile.advance(self.now)
            for ticket in begun:
                source = self._owner.pop(ticket)
                self.passes.append((self.now, ticket.lane, ticket.files, ticket.size))
                self._ending.append((self.now + self._sources[source][2], source, ticket.lane, ticket.files))
            upcoming = min([when, *(end for end, *_ in self._ending)])
            if upcoming > until:
                self.now = until
                return
            self.now = max(self.now, upcoming)
            for each in [each for each in self._ending if each[0] <= self.now]:
                self._ending.remove(each)
                for throttle in each[2].throttles:
                    throttle.end(each[3])
                self._offer(each[1])

    def files(self, lane: Lane | None = None, since: float = 0.0) -> int:
        return sum(files for at, by, files, _ in self.passes if at >= since and lane in (None, by))


def forever(files: int, size: int = 0) -> Iterable[tuple[int, int]]:
    while True:
        yield files, size


def jain(shares: list[float]) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


# The bucket


@pytest.mark.parametrize("rate", [-1.0, math.nan, math.inf])
def test_what_is_no_rate(rate: float) -> None:
    with pytest.raises(ValueError, match="has to be 0 or more"):
        Bucket(rate)
    with pytest.raises(ValueError):
        Bucket(1.0).change(rate, 0.0)
    with pytest.raises(ValueError):
        Throttle(files_in_flight=rate)


def test_unbounded_passes_and_zero_does_not() -> None:
    assert Bucket(None).ready_at(1e12, 5.0) == 5.0
    assert Bucket(0).ready_at(1, 5.0) == math.inf


def test_what_is_larger_than_the_burst_passes_once_and_is_paid_for() -> None:
    bucket = Bucket(100.0)
    assert bucket.ready_at(256, 0.0) == 0.0
    bucket.spend(256, 0.0)
    assert bucket.ready_at(1, 0.0) == pytest.approx((256 - 25 + 1) / 100)
    assert bucket.ready_at(256, 0.0) == pytest.approx(2.56)
    assert bucket.ready_at(0, 0.0) == 0.0  # an empty file waits for no bytes


def test_a_slower_rate_makes_no_debt_longer_and_a_faster_one_pays_it_faster() -> None:
    bucket = Bucket(1000.0)
    bucket.spend(1250, 0.0)  # 1 s of debt
    bucket.change(1.0, 0.0)
    assert bucket.ready_at(0.001, 0.0) == pytest.approx(1.001)
    bucket.change(1000.0, 0.0)
    assert bucket.ready_at(1, 0.0) < 0.01
    bucket.change(0, 0.5)
    assert bucket.ready_at(1, 100.0) == math.inf
    bucket.change(1000.0, 100.0)
    assert bucket.ready_at(1, 100.0) == pytest.approx(100.001)  # nothing was saved up while nothing passed


def test_a_limit_on_what_was_unbounded_begins_with_nothing_saved() -> None:
    bucket = Bucket(None)
    bucket.spend(1e9, 0.0)
    bucket.change(10.0, 5.0)
    assert bucket.ready_at(1, 5.0) == pytest.approx(5.1)
    bucket.change(None, 5.0)
    assert bucket.ready_at(1e9, 5.0) == 5.0


COSTS = st.floats(0.0, 400.0)
STEPS = st.lists(st.tuples(st.floats(0.0, 3.0), COSTS), min_size=1, max_size=60)


@given(rate=st.floats(0.5, 5000.0), steps=STEPS)
def test_never_more_than_rate_and_burst_in_any_window(rate: float, steps: list[tuple[float, float]]) -> None:
    bucket, now = Bucket(rate), 10.0
    passed: list[tuple[float, float]] = []
    for pause, cost in steps:
        now = max(now + pause, bucket.ready_at(cost, now + pause))
        assert bucket.ready_at(cost, now) <= now
        bucket.spend(cost, now)
        passed.append((now, cost))
    for i, (began, _) in enumerate(passed):
        total = largest = 0.0
        for at, cost in passed[i:]:
            total, largest = total + cost, max(largest, cost)
            assert total <= rate * (at - began) + max(rate * BURST_SECONDS, largest) + 1e-3


@given(
    changes=st.lists(st.tuples(st.floats(0.01, 2.0), st.sampled_from([0, 10.0, 200.0, 3000.0])), max_size=12),
    batch=st.integers(1, 256),
)
def test_never_more_than_the_rates_of_the_time_whatever_is_changed(
    changes: list[tuple[float, float]], batch: int
) -> None:
    throttle, now = Throttle(files_per_second=200.0), 10.0
    rate, allowed, passed, burst = 200.0, 0.0, 0, 200.0 * BURST_SECONDS
    for seconds, new in [*changes, (1.0, 10.0)]:
        end = now + seconds
        while (when := throttle.ready_at(batch, 0, now)) <= end:
            allowed += (when - now) * rate
            now = when
            throttle.begin(batch, 0, now)
            throttle.end(batch)
            passed += batch
            assert passed <= allowed + max(burst, batch) + batch * len(changes) + 1e-3
        allowed += (end - now) * rate
        now, rate = end, new
        throttle.change_files(new, now)


# One job


@pytest.mark.parametrize(("rate", "batch"), [(1000.0, 256), (1000.0, 10), (100.0, 256), (30_000.0, 256), (7.0, 1)])
def test_a_rate_is_kept_and_used(rate: float, batch: int) -> None:
    """Elapsed > 0.9 x expected; and each window of several batches has between half the limit and the limit."""
    world = World()
    files = int(rate * 30) // batch * batch
    world.job(world.lane("a", Throttle(files_per_second=rate)), [(batch, 0)] * (files // batch), threads=4)
    world.run(100.0)
    assert world.files() == files
    first, last = world.passes[0][0], world.passes[-1][0]
    assert 0.9 * files / rate < last - first <= files / rate
    window = max(1.0, 4 * batch / rate)
    began = [at for at, *_ in world.passes if at >= first + BURST_SECONDS + batch / rate and at + window < last]
    highest = max(world.files(None, at) - world.files(None, at + window) for at in began)
    assert rate * window / 2 <= highest <= rate * window + batch
    assert all(at <= later for (at, *_), (later, *_) in zip(world.passes, world.passes[1:], strict=False))


def test_bytes_are_rationed_beside_files() -> None:
    world = World()
    lane = world.lane("a", Throttle(files_per_second=1000.0, bytes_per_second=1e6))
    world.job(lane, [(10, 100_000)] * 200)
    world.run(21.0)
    assert 0.9 * 20 < world.passes[-1][0] - world.passes[0][0] <= 20
    world.job(lane, forever(10, 0))  # empty files have the files' rate
    since = world.now
    world.run(10.0)
    assert 9000 < world.files(lane, since) <= 10_250


@pytest.mark.parametrize("limit", [64, 100, 1000])
def test_in_flight_reaches_half_the_limit_and_never_exceeds_it(limit: int) -> None:
    world = World()
    world.system.change_in_flight(limit)
    for tenant in "ab":
        world.job(world.lane(tenant), [(1 + i % 32, 0) for i in range(200)], threads=60, takes=1.0)
    world.run(500.0)
    assert limit / 2 <= world.system.peak <= limit
    assert len(world.passes) == 400


def test_a_batch_larger_than_what_may_be_in_flight_goes_alone() -> None:
    world = World()
    world.system.change_in_flight(10)
    world.job(world.lane("a"), [(256, 0)] * 4, threads=4, takes=1.0)
    world.run(3.5)
    assert [at - 1000.0 for at, *_ in world.passes] == [0.0, 1.0, 2.0, 3.0]


def test_live_changes_hold_at_once() -> None:
    world = World()
    job = Throttle(files_per_second=10.0)
    world.job(world.lane("a", job), forever(1), threads=2)
    world.run(10.0)
    slow = world.files()
    job.change_files(10_000.0, world.now)
    world.run(10.0)
    fast = world.files() - slow
    job.change_files(10.0, world.now)
    world.run(10.0)
    assert slow <= 103
    assert fast > 15_000  # two threads, a millisecond a batch
    assert world.files() - slow - fast <= 103


def test_zero_pauses_and_a_pause_keeps_the_limit() -> None:
    world = World()
    job = Throttle(files_per_second=100.0)
    world.job(world.lane("a", job), forever(5))
    world.run(1.0)
    job.change_files(0, world.now)
    before = world.files()
    world.run(1000.0)
    assert world.files() == before
    job.change_files(100.0, world.now)
    job.paused = True
    world.run(1000.0)
    assert world.files() == before
    job.paused = False
    world.run(1.0)
    assert 90 <= world.files() - before <= 130  # what was not used in the pauses is not saved


def test_a_low_limit_stops_no_progress() -> None:
    world = World()
    world.job(world.lane("a", Throttle(files_per_second=0.5, bytes_per_second=1.0)), forever(256, 300))
    world.run(2000.0)
    assert len(world.passes) == 4


# Several jobs


def test_two_tenants_share_fairly_whatever_they_bring() -> None:
    world = World()
    world.system.change_files(5000.0, world.now)
    many = [world.lane("greedy") for _ in range(6)]
    for lane in many:
        world.job(lane, forever(256), threads=8)
    modest = world.lane("modest")
    world.job(modest, forever(16), takes=0.0005)
    world.run(60.0)
    shares = [float(sum(world.files(lane) for lane in many)), float(world.files(modest))]
    assert jain(shares) >= 0.95, shares
    assert jain([float(world.files(lane)) for lane in many]) >= 0.95
    assert sum(shares) > 0.9 * 60 * 5000


def test_fair_in_bytes_where_bytes_are_scarce() -> None:
    world = World()
    world.system.change_bytes(1e8, world.now)
    world.system.change_files(1e5, world.now)
    large, small = world.lane("large"), world.lane("small")
    world.job(large, forever(1, 20_000_000), threads=4)
    world.job(small, forever(256, 256_000), threads=2)
    world.run(60.0)
    freed = [float(sum(size for _, by, _, size in world.passes if by is lane)) for lane in (large, small)]
    assert jain(freed) >= 0.95, freed


def test_a_new_job_for_each_batch_is_no_way_past_others() -> None:
    world = World()
    world.system.change_files(1000.0, world.now)
    steady = world.lane("steady")
    world.job(steady, forever(50))
    for _ in range(2000):
        lane = world.lane("churn")
        world.job(lane, [(50, 0)])
    world.run(30.0)
    total = world.files()
    assert jain([float(world.files(steady)), float(total - world.files(steady))]) >= 0.95


def test_who_has_less_by_their_own_limit_leaves_the_rest_to_others() -> None:
    world = World()
    world.system.change_files(1000.0, world.now)
    bounded, free = world.lane("bounded", Throttle(files_per_second=50.0)), world.lane("free")
    world.job(bounded, forever(10), threads=2)
    world.job(free, forever(64), threads=2)
    world.run(60.0)
    assert 0.9 * 50 * 60 < world.files(bounded) <= 50 * 61
    assert world.files(free) > 0.9 * 950 * 60


def test_a_large_batch_is_not_passed_by_small_ones_for_ever() -> None:
    world = World()
    world.system.change_files(100.0, world.now)
    world.job(world.lane("small"), forever(1), threads=8)
    world.run(1.0)
    big = world.lane("big")
    world.job(big, forever(256))
    world.run(60.0)
    assert world.files(big) >= 0.4 * 60 * 100


def test_a_paused_tenant_and_a_paused_job_hold_nobody_else_up() -> None:
    world = World()
    world.system.change_files(1000.0, world.now)
    stopped, other, job = world.lane("a"), world.lane("b"), world.lane("b", Throttle(files_per_second=0))
    world.tenants["a"].paused = True
    for lane in (stopped, job, other):
        world.job(lane, forever(10), threads=3)
    world.run(10.0)
    assert world.files(stopped) == world.files(job) == 0
    assert world.files(other) > 9000


def test_a_tenants_limit_is_over_all_its_jobs_and_file_systems() -> None:
    world = World()
    world.tenants["a"] = Throttle("tenant", files_per_second=100.0)
    lanes = [world.lane("a"), world.lane("a"), world.lane("a", system=Throttle("file system"))]
    for lane in lanes:
        world.job(lane, forever(10), threads=2)
    world.run(60.0)
    assert 0.9 * 6000 < world.files() <= 6100
    assert all(world.files(lane) > 1000 for lane in lanes)


def test_who_was_away_has_no_arrears() -> None:
    world = World()
    world.system.change_files(1000.0, world.now)
    first, second = world.lane("first"), world.lane("second")
    world.job(first, forever(20), threads=2)
    world.run(100.0)
    world.job(second, forever(20), threads=2)
    since = world.now
    world.run(10.0)
    assert jain([float(world.files(lane, since)) for lane in (first, second)]) >= 0.95


def test_what_is_remembered_of_tenants_is_bounded() -> None:
    world = World()
    for number in range(3 * KEPT):
        lane = world.lane(f"t{number}")
        world.job(lane, [(1, 0)])
        world.run(0.01)
        world.turnstile.forget(lane)
    assert world.files() == 3 * KEPT
    assert len(world.turnstile) == 0
    kept = [value for value in vars(world.turnstile).values() if isinstance(value, dict)]
    assert all(len(each) <= KEPT + 2 for each in kept)


# The gate, with threads


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


class Worker:
    """A thread that enters a gate once."""

    def __init__(self, gate: JobGate, files: int = 1, size: int = 0) -> None:
        self.outcome = ""
        self._thread = threading.Thread(target=self._run, args=(gate, files, size), daemon=True)
        self._thread.start()

    def _run(self, gate: JobGate, files: int, size: int) -> None:
        try:
            gate.enter(files, size)
            self.outcome = "in"
        except Cancelled:
            self.outcome = "cancelled"

    def join(self) -> str:
        self._thread.join(10.0)
        assert not self._thread.is_alive()
        return self.outcome


def waiting(gates: Gates, count: int) -> None:
    wait_until(lambda: len(gates._waiters) == count, what=f"{count} that wait")


def test_a_waiter_goes_when_the_clock_says_so() -> None:
    clock = Clock()
    gates = Gates(clock=clock)
    with gates.open("a", 1, files_per_second=100.0) as gate:
        gate.enter(256, 0)
        gate.left(256, 0.1)
        assert gate.reason() == ""
        worker = Worker(gate)
        waiting(gates, 1)
        wait_until(lambda: gate.reason() == "job: limit")
        clock.now += 2.31
        gates.look()
        assert worker.outcome == ""
        clock.now += 0.02
        gates.look()
        assert worker.join() == "in"
        clock.now += 2.0
        assert gate.reason() == ""


@pytest.mark.parametrize("paused", ["job", "tenant", "file system"])
def test_cancelling_wakes_all_at_once(paused: str) -> None:
    gates = Gates()
    gate, other = gates.open("a", 1), gates.open("b", 2)
    throttle = {"job": gate.throttle, "tenant": gates.tenant("a"), "file system": gates.system(1)}[paused]
    gates.change(throttle, paused=True)
    workers = [Worker(gate) for _ in range(4)]
    waiting(gates, 4)
    assert gate.reason() == f"{paused}: paused"
    other.enter(1, 1)  # nothing of the others' concern
    other.left(1, 0.0)
    began = time.monotonic()
    gate.cancel()
    assert [worker.join() for worker in workers] == ["cancelled"] * 4
    assert time.monotonic() - began < 2.0
    waiting(gates, 0)
    with pytest.raises(Cancelled):
        gate.enter(1, 0)
    gate.close()
    gate.close()
    other.close()


def test_a_change_wakes_who_waits() -> None:
    gates = Gates()
    with gates.open("a", 1, files_per_second=0) as gate:
        worker = Worker(gate, 1000, 1 << 40)
        waiting(gates, 1)
        with pytest.raises(ValueError):
            gates.change(gate.throttle, files_per_second=5.0, bytes_per_second=-1)
        assert gate.throttle.files_per_second == 0
        gate.change(files_per_second=5.0)
        assert worker.join() == "in"
        gate.change(paused=True)
        assert gate.throttle.files_per_second == 5.0


def test_who_leaves_lets_the_next_in_and_a_closed_gate_holds_nothing() -> None:
    gates = Gates()
    system = gates.system(1)
    gates.change(system, files_in_flight=10)
    first, second = gates.open("a", 1), gates.open("b", 1)
    first.enter(8, 0)
    worker = Worker(second, 8)
    waiting(gates, 1)
    first.left(3, 0.1)  # it met fewer than it asked for
    assert worker.join() == "in"
    assert (system.in_flight, system.batches) == (8, 1)
    worker = Worker(first, 8)
    waiting(gates, 1)
    second.close()  # its thread died
    assert worker.join() == "in"
    first.left(8, 0.0)
    first.left(8, 0.0)  # once too often
    assert (system.in_flight, system.batches) == (0, 0)
    first.close()


def test_listeners_hear_each_batch() -> None:
    gates = Gates()
    heard: deque[tuple[int, float]] = deque()
    gates.listen(gates.system(1), lambda files, seconds: heard.append((files, seconds)))
    with gates.open("a", 1) as gate, gates.open("a", 2) as elsewhere:
        for each in (gate, elsewhere):
            each.enter(3, 0)
            each.left(3, 0.5)
        gates.listen(gates.system(1), None)
        gate.enter(4, 0)
        gate.left(4, 0.5)
    assert list(heard) == [(3, 0.5)]


def test_real_threads_keep_a_rate_share_it_and_leave_nothing_behind() -> None:
    gates = Gates()
    gates.change(gates.system(1), files_per_second=2000.0)
    counts = {"a": 0, "b": 0}
    lock = threading.Lock()
    jobs = {tenant: gates.open(tenant, 1) for tenant in counts}

    def work(tenant: str, batch: int) -> None:
        gate = jobs[tenant]
        try:
            while True:
                gate.enter(batch, 0)
                with lock:
                    counts[tenant] += batch
                gate.left(batch, 0.0)
        except Cancelled:
            pass

    began = time.monotonic()
    threads = [threading.Thread(target=work, args=args) for args in [("a", 50)] * 6 + [("b", 20)] * 2]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    for gate in jobs.values():
        gate.cancel()
    elapsed = time.monotonic() - began
    for thread in threads:
        thread.join(10.0)
        assert not thread.is_alive()
    assert sum(counts.values()) <= 2000 * elapsed + 2000 * BURST_SECONDS
    assert sum(counts.values()) >= 2000 * 1.5 * 0.5  # on a busy machine too
    assert jain([float(count) for count in counts.values()]) >= 0.95, counts
    assert not gates._waiters
    assert gates.system(1).in_flight == 0
    for gate in jobs.values():
        gate.close()


def test_a_batch_is_small_where_the_rate_is_low() -> None:
    gates = Gates()
    with gates.open("a", 1) as gate:
        assert gate.batch() == 256
        gates.change(gates.system(1), files_per_second=4000.0)
        assert gate.batch() == 32
        gates.change(gates.tenant("a"), files_per_second=1e6)
        assert gate.batch() == 32, "the lowest of the rates"
        gate.change(files_per_second=10.0)
        assert gate.batch() == 16
        gate.change(files_per_second=0)
        assert gate.batch() == 32, "nothing begins: what counts is what comes after"
