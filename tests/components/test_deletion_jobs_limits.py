"""What bounds a deletion job: limits, plans, filters, rates; and what of a tree cannot be removed."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from busd.components.deletion import work
from busd.components.deletion.filters import Filter
from busd.components.deletion.jobs import Jobs
from busd.components.deletion.progress import Progress
from busd.components.deletion.request import JobRequest
from busd.components.deletion.survey import Survey
from tests.components.deletion_jobs_world import ACME, BETA, ask, names, until, until_so, until_true, world
from tests.components.test_deletion_jobs import HELD, _refuses, code, running


def sums_up(progress: Progress) -> bool:
    """Whether what was seen is what was removed and what was not, and why."""
    stays = sum(sum(each.values()) for each in (progress.failed, progress.parked, progress.spared))
    return progress.seen == progress.removed + progress.held + stays


class TestLimits:
    @pytest.mark.parametrize("of_root", [False, True])
    @pytest.mark.parametrize("in_place", [False, True])
    def test_too_many_entries_and_nothing_is_touched(self, tmp_path: Path, of_root: bool, in_place: bool) -> None:
        settings: dict[str, Any] = {"max_entries": 15} if of_root else {}
        fields: dict[str, Any] = {"max_entries": 100 if of_root else 15}
        with world(tmp_path, **settings) as made:
            assert made.tree("old") == 16
            before = names(made.data)
            jobs = made.start()
            first = jobs.submit(ACME, ask(in_place=in_place, **fields))
            assert not first.name_free
            last = until(jobs, first.job, "failed")
            report = jobs.report(ACME, first.job)
            assert (report.code, last.removed, report.left_at) == (9004, 0, b"")
            assert "16" in last.reason
            assert "15" in last.reason
            assert names(made.data) == before
            (made.data / "old/d0/f0").unlink()
            jobs.resume(ACME, first.job)
            last = until(jobs, first.job, "done")
            assert last.removed == 15
            assert jobs.report(ACME, first.job).code == 0

    @pytest.mark.parametrize("of_root", [False, True])
    def test_too_many_bytes_and_nothing_is_touched(self, tmp_path: Path, of_root: bool) -> None:
        settings: dict[str, Any] = {"max_bytes": 12 * 4096 - 1} if of_root else {}
        with world(tmp_path, **settings) as made:
            made.tree("old")
            before = names(made.data)
            jobs = made.start()
            job = jobs.submit(ACME, ask(max_bytes=None if of_root else 12 * 4096 - 1)).job
            until(jobs, job, "failed")
            assert jobs.report(ACME, job).code == 9004
            assert names(made.data) == before
            if not of_root:
                assert until(jobs, jobs.submit(ACME, ask(max_bytes=1 << 30)).job, "done").bytes >= 12 * 4096

    @pytest.mark.parametrize("entries", [True, False])
    def test_a_hard_stop_when_more_came(self, tmp_path: Path, entries: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between the count and the walk: no more goes than may."""
        with world(tmp_path) as made:
            size = made.tree("old")
            whole = Survey.run

            def counted(self: Any) -> Any:
                found = whole(self)
                for number in range(300):
                    (made.data / "old/d1" / f"new{number}").write_bytes(b"x" * 10)
                return found

            monkeypatch.setattr(Survey, "run", counted)
            jobs = made.start(workers=1)
            fields: dict[str, Any] = {"max_entries": size} if entries else {"max_bytes": 12 * 4096}
            job = jobs.submit(ACME, ask(**fields)).job
            last = until(jobs, job, "failed")
            report = jobs.report(ACME, job)
            assert report.code == 9004
            assert sums_up(last)
            assert last.removed <= size
            assert last.bytes <= 12 * 4096 + (1 << 20 if entries else 0)
            left = made.data / os.fsdecode(report.left_at) / "tree"
            assert sum(names(left).values()) + last.removed == size - 1 + 300
            jobs.cancel(ACME, job, "restore")
            assert sum(names(made.data / "old").values()) + last.removed == size - 1 + 300

    def test_one_more_than_the_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The directory itself is one of those that may go."""
        with world(tmp_path) as made:
            (made.data / "old").mkdir()
            (made.data / "old/one").touch()
            whole = Survey.run

            def counted(self: Any) -> Any:
                found = whole(self)
                (made.data / "old/more").touch()
                return found

            jobs = made.start(workers=1)
            monkeypatch.setattr(Survey, "run", counted)
            job = jobs.submit(ACME, ask(max_entries=2)).job
            assert until(jobs, job, "failed").removed == 0
            monkeypatch.undo()
            jobs.cancel(ACME, job, "restore")
            (made.data / "old/more").unlink()
            assert until(jobs, jobs.submit(ACME, ask(max_entries=2)).job, "done").removed == 2


class TestRates:
    def test_rate_zero_holds_until_it_is_changed(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            size = made.tree("old")
            jobs = made.start()
            job = jobs.submit(ACME, ask(files_per_second=0.0)).job
            seen = until_so(jobs, job, lambda progress: bool(progress.held_back_by))
            assert (seen.held_back_by, seen.removed, seen.name_free) == ("job: paused", 0, True)
            made.clock += 10_000
            jobs.gates.look()
            assert jobs.progress(ACME, job).removed == 0
            jobs.change(ACME, job, files_per_second=1000.0)
            made.clock += 10_000
            jobs.gates.look()
            assert jobs.report(ACME, job).request.files_per_second == 1000.0
            assert until(jobs, job, "done").removed == size

    def test_a_slow_job_goes_faster_at_once(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, size = running(made, jobs)
            jobs.change(ACME, job.job, files_per_second=None)
            assert until(jobs, job.job, "done").removed == size
            assert made.events(job.job) == ["submitted", "changed", "ended"]
            assert [one.detail for one in made.told if one.event == "changed"] == ["files_per_second: none"]

    def test_bytes_of_a_job_that_was_not_measured(self, tmp_path: Path) -> None:
        """A rate of bytes that is set while it runs holds, though nobody asked for bytes before."""
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, _ = running(made, jobs)
            assert job.bytes == 0
            jobs.change(ACME, job.job, files_per_second=None, bytes_per_second=10.0)
            # The batch that waits has not been weighed; the next ones are.
            seen = until_so(jobs, job.job, lambda progress: progress.removed >= 22 and bool(progress.held_back_by))
            assert seen.held_back_by == "job: limit"
            assert seen.removed < 56
            jobs.change(ACME, job.job, bytes_per_second=None)
            assert until(jobs, job.job, "done").bytes > 0

    def test_what_cannot_be_a_rate(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(workers=1, jobs_per_tenant=1)
            job, _ = running(made, jobs)
            made.tree("second")
            queued = jobs.submit(ACME, ask("second"))
            for one in (job.job, queued.job):
                before = jobs.report(ACME, one).request
                for rate in (-1.0, float("nan"), float("inf"), 1e17):
                    with pytest.raises(ValueError):
                        jobs.change(ACME, one, files_per_second=rate)
                assert jobs.report(ACME, one).request == before

    def test_rates_of_what_waits(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(workers=1, jobs_per_tenant=1)
            job, _ = running(made, jobs)
            made.tree("second")
            queued = jobs.submit(ACME, ask("second")).job
            jobs.change(ACME, queued, files_per_second=0.0)
            jobs.cancel(ACME, job.job)
            until_so(jobs, queued, lambda progress: progress.held_back_by == "job: paused")


class TestPlans:
    def planned(self, jobs: Jobs, **fields: Any) -> str:
        job = jobs.submit(ACME, ask(dry_run=True, **fields)).job
        until(jobs, job, "done")
        return job

    def test_a_dry_run_touches_nothing_and_its_plan_is_carried_out(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            size = made.tree("old")
            before = names(made.data)
            jobs = made.start()
            dry = self.planned(jobs)
            seen = jobs.progress(ACME, dry)
            assert (seen.mode, seen.seen, seen.removed, seen.name_free) == ("survey", size - 1, 0, False)
            assert names(made.data) == before
            plan = jobs.report(ACME, dry).plan
            assert plan is not None
            assert (plan.id, plan.entries) == (dry, size - 1)
            job = jobs.submit(ACME, work_of(dry)).job
            last = until(jobs, job, "done")
            assert (last.root, last.path, last.removed, last.mode) == ("data", b"old", size, "tombstone")
            assert jobs.report(ACME, job).request.plan == dry

    def test_replaced_grown_and_gone(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            made.tree("old")
            jobs = made.start()
            dry = self.planned(jobs)
            (made.data / "old/d0/more").touch()
            before = names(made.data)
            job = jobs.submit(ACME, work_of(dry)).job
            until(jobs, job, "failed")
            assert jobs.report(ACME, job).code == 9003
            assert names(made.data) == before
            os.rename(made.data / "old", made.data / "other")
            assert code(jobs.submit, ACME, work_of(dry)) == 9002
            made.tree("old")
            assert code(jobs.submit, ACME, work_of(dry)) == 9003
            (made.data / "other").rename(made.data / "kept")
            assert sum(names(made.data / "kept").values()) == 16
            assert sum(names(made.data / "old").values()) == 15

    def test_slack(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            made.tree("old", 5, 20)
            jobs = made.start()
            dry = self.planned(jobs)
            for number in range(10):
                (made.data / f"old/more{number}").touch()
            strict = jobs.submit(ACME, work_of(dry, slack_percent=9)).job
            until(jobs, strict, "failed")
            job = jobs.submit(ACME, work_of(dry, slack_percent=10)).job
            assert until(jobs, job, "done").removed == 116

    def test_whose_and_what(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            made.tree("old")
            jobs = made.start()
            dry = self.planned(jobs)
            assert code(jobs.submit, BETA, work_of(dry)) == 9005
            assert code(jobs.submit, ACME, work_of("nothing")) == 9005
            job = jobs.submit("node", work_of(dry)).job
            until(jobs, job, "done")
            for one in (job, jobs.submit(ACME, self.another(made)).job):
                assert code(jobs.submit, "node", work_of(one)) == 9006

    def another(self, made: Any) -> Any:
        made.tree("another")
        return ask("another", files_per_second=0.0)

    def test_a_dry_run_that_was_cancelled_has_no_plan(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with world(tmp_path) as made:
            made.tree("old")
            jobs = made.start(jobs_per_tenant=1, workers=1)
            running(made, jobs, "first")
            dry = jobs.submit(ACME, ask(dry_run=True)).job
            jobs.cancel(ACME, dry)
            assert code(jobs.submit, ACME, work_of(dry)) == 9006

    def test_of_a_filter(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            made.tree("old")
            jobs = made.start()
            dry = self.planned(jobs, filter=Filter(glob=b"**/f[12]"))
            plan = jobs.report(ACME, dry).plan
            assert plan is not None
            assert plan.entries == 6
            job = jobs.submit(ACME, work_of(dry)).job
            last = until(jobs, job, "done")
            assert (last.mode, last.removed) == ("filter", 6)
            assert sums_up(last)
            assert names(made.data / "old") == {"d0": 1, "d1": 1, "d2": 1, "f0": 3, "f3": 3}


class TestFilters:
    def test_only_what_it_lets_go(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            size = made.tree("old")
            jobs = made.start()
            first = jobs.submit(ACME, ask(filter=Filter(glob=b"**/f1"), count=True))
            last = until(jobs, first.job, "done")
            assert (last.removed, last.name_free, last.mode, last.expected) == (3, False, "filter", 3)
            assert last.seen == size - 1
            assert sums_up(last)
            assert jobs.report(ACME, first.job).proof is None
            assert names(made.data / "old")["f1"] == 0

    def test_time_left_is_of_what_goes(self, tmp_path: Path) -> None:
        """What a filter spares is not counted as done."""
        with world(tmp_path) as made:
            made.tree("old", 5, 10)
            jobs = made.start(workers=1, clock=lambda: made.clock)
            job = jobs.submit(ACME, ask(filter=Filter(glob=b"d[1-4]/*"), count=True, files_per_second=HELD)).job

            def moved(progress: Progress) -> bool:
                if progress.removed < 30:
                    made.clock += 0.1
                    jobs.gates.look()
                return progress.removed == 30 and sum(progress.spared.values()) >= 10 and progress.rate > 0

            seen = until_so(jobs, job, moved)
            assert seen.expected == 40
            assert seen.eta_seconds == pytest.approx(10 / seen.rate, rel=0.1)
            jobs.change(ACME, job, files_per_second=None)
            assert until(jobs, job, "done").removed == 40

    @pytest.mark.parametrize("goes", [True, False])
    def test_of_a_single_file(self, tmp_path: Path, goes: bool) -> None:
        with world(tmp_path) as made:
            (made.data / "old").write_bytes(b"x" * (10 if goes else 1000))
            jobs = made.start()
            for fields in ({}, {"max_entries": 5}, {"dry_run": True}):
                if goes:
                    (made.data / "old").write_bytes(b"x" * 10)
                job = jobs.submit(ACME, ask(filter=Filter(smaller_than=100), **fields)).job
                last = until(jobs, job, "done")
                dry = bool(fields.get("dry_run"))
                assert (made.data / "old").exists() == (dry or not goes)
                assert last.removed == int(goes and not dry)

    def test_what_cannot_be_together(self) -> None:
        for fields in ({"filter": Filter(glob=b"a"), "grace_seconds": 1}, {"in_place": True, "grace_seconds": 1}):
            with pytest.raises(ValueError):
                ask(**fields)


class TestChanged:
    @pytest.mark.parametrize("fields", [{"in_place": True}, {"max_entries": 100}, {"dry_run": True}])
    def test_gone_or_swapped_before_its_turn(self, tmp_path: Path, fields: dict[str, Any]) -> None:
        with world(tmp_path) as made:
            jobs = made.start(workers=1, jobs_per_tenant=1)
            first, _ = running(made, jobs, "first")
            made.tree("gone")
            made.tree("swapped")
            gone, swapped = (jobs.submit(ACME, ask(name, **fields)).job for name in ("gone", "swapped"))
            os.rename(made.data / "gone", made.data / "elsewhere")
            os.rename(made.data / "swapped", made.data / "swapped-away")
            made.tree("swapped")
            before = names(made.data)
            jobs.pause(ACME, first.job)
            for job, number in ((gone, 9002), (swapped, 9003)):
                until(jobs, job, "failed")
                assert jobs.report(ACME, job).code == number
            assert names(made.data) == before


class TestWhatStays:
    @pytest.mark.parametrize("in_place", [False, True])
    def test_failures_are_told_once_and_resume_ends_it(
        self, tmp_path: Path, in_place: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with world(tmp_path) as made:
            size = made.tree("old")
            jobs = made.start(workers=1)
            monkeypatch.setattr(os, "unlink", _refuses(errno.EPERM, "f1", "f3"))
            job = jobs.submit(ACME, ask(in_place=in_place)).job
            for attempt in (1, 2):
                last = until(jobs, job, "failed")
                assert (last.failed, last.held, last.removed) == ({errno.EPERM: 6}, 3, 6)
                assert sums_up(last)
                assert last.seen == size - 1
                assert last.attempts == attempt
                report = jobs.report(ACME, job)
                assert report.code == 9008
                assert "Operation not permitted" in report.error
                assert sorted(one.path for one in report.failures) == [
                    f"d{one}/f{number}".encode() for one in range(3) for number in (1, 3)
                ]
                place = os.fsdecode(report.left_at) + "/tree" if report.left_at else "old"
                assert bool(report.left_at) != in_place
                assert sum(names(made.data / place).values()) == 9
                if attempt == 1:
                    jobs.resume(ACME, job)
                    until_so(jobs, job, lambda progress: progress.attempts == 2)
            monkeypatch.undo()
            jobs.resume(ACME, job)
            last = until(jobs, job, "done")
            report = jobs.report(ACME, job)
            assert (last.removed, last.failed, last.held, last.reason) == (size, {}, 0, "")
            assert (report.failures, report.code, report.error, report.left_at) == ([], 0, "", b"")

    def test_a_file_that_cannot_go(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with world(tmp_path) as made:
            (made.data / "old").write_bytes(b"x")
            jobs = made.start()
            unlink = os.unlink

            def refuse(name: Any, **where: Any) -> None:
                if name in {b"tree", b"old"}:
                    raise OSError(errno.EPERM, os.strerror(errno.EPERM))
                unlink(name, **where)

            for in_place in (False, True):
                monkeypatch.setattr(os, "unlink", refuse)
                job = jobs.submit(ACME, ask(in_place=in_place)).job
                last = until(jobs, job, "failed")
                assert "EPERM" in last.reason
                assert (last.removed, last.failed, last.seen) == (0, {errno.EPERM: 1}, 1)
                failures = jobs.report(ACME, job).failures
                assert [(each.path, each.errno, each.step) for each in failures] == [(b"", errno.EPERM, "unlink")]
                monkeypatch.undo()
                jobs.cancel(ACME, job, "restore") if not in_place else jobs.resume(ACME, job)
                assert in_place or (made.data / "old").read_bytes() == b"x"
            assert until(jobs, job, "done").failed == {}

    def test_parked_again_and_again_waits_longer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with world(tmp_path) as made:
            size = made.tree("old")
            jobs = made.start(workers=1)
            monkeypatch.setattr(os, "unlink", _refuses(errno.EBUSY, "f1"))
            job = jobs.submit(ACME, ask()).job
            waits = []
            for attempt in range(1, 13):
                until_true(lambda: jobs.progress(ACME, job).attempts == attempt)  # noqa: B023 - it is called now
                last = until(jobs, job, "parked")
                assert last.parked == {"busy": 3}
                assert last.reason == "busy: 3"
                assert sums_up(last)
                waits.append(last.next_try - made.now)
                made.now = last.next_try - 0.001
                assert jobs.wait(ACME, job, 0.01).state == "parked"
                if attempt == 12:
                    monkeypatch.undo()
                made.now = last.next_try
                with jobs._scheduler.lock:
                    jobs._scheduler.changed.notify_all()  # the clock looks at once, not in a quarter of a second
            assert waits == [min(3600.0, 5.0 * 2**count) for count in range(12)]
            last = until(jobs, job, "done")
            assert (last.removed, last.parked, last.next_try) == (size, {}, 0.0)

    def test_resume_tries_what_is_parked_at_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with world(tmp_path) as made:
            made.tree("old")
            jobs = made.start()
            monkeypatch.setattr(os, "unlink", _refuses(errno.EBUSY, "f1"))
            job = jobs.submit(ACME, ask()).job
            until(jobs, job, "parked")
            monkeypatch.undo()
            jobs.resume(ACME, job)
            until(jobs, job, "done")

    def test_a_writer_that_goes_on(self, tmp_path: Path) -> None:
        """It holds the directory, so it can always make more: the job parks, others go on; it ends after the writer."""
        with world(tmp_path) as made:
            made.tree("old", 1, 1)
            made.tree("other", 3, 3)
            held = os.open(made.data / "old", os.O_RDONLY | os.O_DIRECTORY)
            stopped = threading.Event()

            def write() -> None:
                number = 0
                while not stopped.is_set():
                    number += 1
                    try:
                        os.close(os.open(f"n{number}", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=held))
                    except FileNotFoundError:
                        return  # it was removed in a moment when it was empty: then all is over

            writers = [threading.Thread(target=write) for _ in range(2)]
            for writer in writers:
                writer.start()
            try:
                jobs = made.start(jobs_per_tenant=1)
                job = jobs.submit(ACME, ask()).job
                other = jobs.submit(ACME, ask("other")).job
                assert until(jobs, other, "done", seconds=60).removed == 13
                first = until(jobs, job, "parked", "done", seconds=60)
            finally:
                stopped.set()
                for writer in writers:
                    writer.join()
                os.close(held)
            if first.state == "parked":
                assert "busy" in first.reason
                assert first.next_try > made.now
                made.now = first.next_try
            last = until(jobs, job, "done")
            assert last.removed >= 3
            assert made.left() == []

    def test_something_comes_into_it_after_it_was_emptied(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In three walks of it each time: parked, and not tried for ever."""
        with world(tmp_path) as made:
            made.tree("old", 1, 1)
            held = os.open(made.data / "old", os.O_RDONLY | os.O_DIRECTORY)
            try:
                count = iter(range(1000))

                def sync(point: str) -> None:
                    if point == "walked" and made.now < 1_000_005:
                        os.close(os.open(f"n{next(count)}", os.O_CREAT | os.O_WRONLY, dir_fd=held))

                jobs = made.start(sync=sync)
                job = jobs.submit(ACME, ask()).job
                last = until(jobs, job, "parked")
                assert last.reason == "busy: something is left in it"
                assert next(count) == work.ROUNDS
                made.now = last.next_try
                assert until(jobs, job, "done").removed == 3 + work.ROUNDS
            finally:
                os.close(held)


def work_of(plan: str, **fields: Any) -> JobRequest:
    """A request to carry out a plan."""
    return JobRequest(plan=plan, **fields)
