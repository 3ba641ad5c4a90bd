"""What a crash, a stop or another process leaves, and what the next start makes of it."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from busd.components.deletion.filters import Filter
from busd.components.deletion.jobs import Jobs
from busd.components.deletion.roots import Roots
from busd.components.deletion.survey import Survey
from busd.components.deletion.tombstone import SYNC_POINTS, Tombstone
from busproto.errors import BusError
from tests.components.deletion_jobs_world import (
    ACME,
    BETA,
    SECONDS,
    World,
    ask,
    names,
    until,
    until_so,
    until_true,
    world,
)
from tests.components.test_deletion_jobs import HELD, _refuses, code, running

DONE = tuple(point for point in SYNC_POINTS if point not in {"restoring", "put-back"})


def crash(made: World, do: Callable[[Jobs], None], point: str, **options: Any) -> None:
    """Another process does so, and ends without a word when it comes to ``point``."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(int(SECONDS))

            def die(at: str) -> None:
                if at == point:
                    os._exit(9)

            jobs = made.make(sync=die, **options)
            jobs.start()
            do(jobs)
            until_true(lambda: False)
        finally:
            os._exit(1)  # it never came there
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9, point


def only(jobs: Jobs) -> str:
    """The id of the only job."""
    (one,) = jobs.list("node", all=True)
    return one.job


class TestCrash:
    @pytest.mark.parametrize("journal", [True, False])
    @pytest.mark.parametrize("point", [*DONE, "noted", "walked"])
    def test_at_each_point_it_is_ended_by_the_next(self, tmp_path: Path, point: str, journal: bool) -> None:
        with world(tmp_path) as made:
            size = made.tree("old", 5, 5)
            made.tree("beside")
            beside = names(made.data / "beside")
            crash(made, lambda jobs: void(jobs.submit(ACME, ask())), point)
            jobs = made.start() if journal else made.start(tmp_path / "another")
            if not journal and point in {"manifest-written", "manifest-synced", "manifest-removed"}:
                # Nothing had been moved, and nobody been told; or all was over.
                assert jobs.list("node", all=True) == []
                assert (made.data / "old").exists() == (point != "manifest-removed")
            else:
                job = only(jobs)
                last = until(jobs, job, "done")
                assert last.finished == made.now
                assert last.name_free
                assert 1 <= last.removed <= size
                proof = jobs.report(ACME, job).proof
                assert proof is not None
                assert proof.gone
                assert not (made.data / "old").exists()
                expected = [] if journal and point == "manifest-removed" else ["ended"]
                assert made.events(job) == expected
            assert made.left() == []
            assert jobs.quarantined == []
            assert names(made.data / "beside") == beside

    @pytest.mark.parametrize("fields", [{"in_place": True}, {"filter": Filter(glob=b"**")}, {"max_entries": 100}])
    def test_what_has_no_tombstone_goes_on_by_the_journal(self, tmp_path: Path, fields: dict[str, Any]) -> None:
        with world(tmp_path) as made:
            made.tree("old", 5, 5)
            crash(made, lambda jobs: void(jobs.submit(ACME, ask(**fields))), "walked")
            jobs = made.start()
            job = only(jobs)
            last = until(jobs, job, "done")
            assert last.attempts == 2
            assert names(made.data / "old")["f0"] == 0
            assert made.events(job) == ["ended"]

    def test_while_it_counts(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            size = made.tree("old")

            def do(jobs: Jobs) -> None:
                Survey.run = lambda self: os._exit(9)  # type: ignore[method-assign]
                jobs.submit(ACME, ask(dry_run=True))

            crash(made, do, "never")
            jobs = made.start()
            job = only(jobs)
            assert until(jobs, job, "done").seen == size - 1

    @pytest.mark.parametrize("point", ["restoring", "put-back"])
    @pytest.mark.parametrize("journal", [True, False])
    def test_while_it_is_put_back(self, tmp_path: Path, point: str, journal: bool) -> None:
        with world(tmp_path) as made:
            made.tree("old")
            before = names(made.data / "old")

            def do(jobs: Jobs) -> None:
                job = jobs.submit(ACME, ask(grace_seconds=1000)).job
                until(jobs, job, "grace")
                jobs.undelete(ACME, job)

            crash(made, do, point)
            jobs = made.start() if journal else made.start(tmp_path / "another")
            job = only(jobs)
            last = jobs.progress(ACME, job)
            assert (last.state, last.name_free, last.until, last.finished) == ("cancelled", False, 0.0, made.now)
            assert names(made.data / "old") == before
            assert made.left() == []
            assert made.events(job) == ["ended"]
            assert code(jobs.resume, ACME, job) == 9006

    @pytest.mark.parametrize("journal", [True, False])
    def test_while_it_is_put_back_and_something_else_came_there(self, tmp_path: Path, journal: bool) -> None:
        """It is told as failed; once the place is free it can be put back."""
        with world(tmp_path) as made:
            made.tree("old")

            def do(jobs: Jobs) -> None:
                job = jobs.submit(ACME, ask(grace_seconds=1000)).job
                until(jobs, job, "grace")
                jobs.undelete(ACME, job)

            crash(made, do, "restoring")
            (made.data / "old").write_bytes(b"new")
            jobs = made.start() if journal else made.start(tmp_path / "another")
            job = only(jobs)
            report = jobs.report(ACME, job)
            assert (report.progress.state, report.code) == ("failed", 9003)
            assert (made.data / os.fsdecode(report.left_at) / "tree/d0/f0").exists()
            assert code(jobs.cancel, ACME, job, "restore") == 9003
            (made.data / "old").unlink()
            jobs.cancel(ACME, job, "restore")
            assert sum(names(made.data / "old").values()) == 15
            assert made.left() == []


def void(_: object) -> None:
    """Nothing is made of it."""


class TestStop:
    @pytest.mark.parametrize("fields", [{}, {"in_place": True}, {"filter": Filter(glob=b"**")}, {"count": True}])
    def test_in_the_middle_and_on(self, tmp_path: Path, fields: dict[str, Any]) -> None:
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, size = running(made, jobs, **fields)
            jobs.stop()
            assert jobs.progress(ACME, job.job).state == "queued"
            again = made.start(workers=1)
            until_so(again, job.job, lambda progress: progress.attempts == 2)
            assert again.progress(ACME, job.job).removed >= job.removed
            assert again.report(ACME, job.job).request.files_per_second == HELD
            again.change(ACME, job.job, files_per_second=None)
            last = until(again, job.job, "done")
            assert last.removed == (50 if "filter" in fields else size)
            assert made.events(job.job) == ["submitted", "changed", "ended"]

    def test_twice_and_without_a_start(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.make()
            jobs.stop()
            jobs.stop()
            made.start().stop()

    def test_states_that_wait_wait_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with world(tmp_path) as made:
            jobs = made.start(workers=1, jobs_per_tenant=9)
            ids: dict[str, str] = {}
            for state in ("paused", "cancelled", "failed", "parked", "grace", "queued"):
                made.tree(state)
                if state in {"failed", "parked"}:
                    number = errno.EPERM if state == "failed" else errno.EBUSY
                    monkeypatch.setattr(os, "unlink", _refuses(number, "f1"))
                job = ids[state] = jobs.submit(ACME, ask(state, grace_seconds=100 if state == "grace" else 0)).job
                if state in {"failed", "parked", "grace"}:
                    until(jobs, job, state)
                    monkeypatch.undo()
                elif state in {"paused", "cancelled"}:
                    until(jobs, job, "done")
                    made.tree(state)
                    job = ids[state] = jobs.submit(ACME, ask(state, files_per_second=0.0)).job
                    (jobs.pause if state == "paused" else jobs.cancel)(ACME, job)
                else:
                    until(jobs, job, "done")
            before = {state: jobs.report(ACME, job) for state, job in ids.items() if state != "queued"}
            jobs.stop()
            again = made.start()
            assert {state: again.report(ACME, ids[state]) for state in before} == before
            made.now += 100
            assert until(again, ids["grace"], "done").removed == 16
            assert until(again, ids["parked"], "done").removed == 16
            for state in ("paused", "cancelled", "failed"):
                again.resume(ACME, ids[state])
                if state != "failed":
                    again.change(ACME, ids[state], files_per_second=None)
                assert until(again, ids[state], "done").removed == 16
            assert made.left() == []

    def test_listed_only(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, size = running(made, jobs)
            made.tree("grace")
            grace = jobs.submit(ACME, ask("grace", grace_seconds=100)).job
            until(jobs, grace, "grace")
            jobs.stop()
            again = made.start(recover=False)
            listed = {one.job: (one.state, one.reason) for one in again.list(ACME)}
            assert listed == {job.job: ("paused", "left by an earlier run"), grace: ("grace", "")}
            again.resume(ACME, job.job)
            again.change(ACME, job.job, files_per_second=None)
            last = until(again, job.job, "done")
            assert (last.removed, last.reason) == (size, "")


class TestManifestOnly:
    def test_what_was_asked_comes_from_it(self, tmp_path: Path) -> None:
        """The journal is lost. Who, what, the rates, the limits and the grace period are in the tombstone."""
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, size = running(made, jobs, max_entries=56, count=True)
            made.tree("grace")
            grace = jobs.submit(BETA, ask("grace", grace_seconds=100)).job
            before = until(jobs, grace, "grace")
            jobs.stop()
            shutil.rmtree(made.state)
            again = made.start(workers=1)
            after = until(again, grace, "grace")
            assert (after.state, after.until, after.submitted, after.path) == (
                "grace",
                before.until,
                before.submitted,
                b"grace",
            )
            request = again.report(ACME, job.job).request
            assert (request.files_per_second, request.max_entries, request.count) == (HELD, 56, True)
            assert again.undelete(BETA, grace).state == "cancelled"
            again.change(ACME, job.job, files_per_second=None)
            assert until(again, job.job, "done").removed == size - job.removed

    def test_what_is_no_jobs_is_not_touched(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start()
            made.tree("old")
            until(jobs, jobs.submit(ACME, ask()).job, "done")
            jobs.stop()
            area = made.data / ".busd-tombstones" / ACME
            made.tree(".busd-tombstones/acme/planted/tree")
            (area / "file").write_bytes(b"!")
            before = names(area)
            again = made.start()
            assert sorted(os.path.basename(one.place) for one in again.quarantined) == [b"file", b"planted"]
            assert all(one.root == "data" and one.reason for one in again.quarantined)
            assert names(area) == before
            assert again.list("node") == []


class TestLost:
    def test_a_root_that_is_not_configured(self, tmp_path: Path) -> None:
        """Its jobs wait, in the journal and on the disk."""
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, size = running(made, jobs)
            jobs.stop()
            before = names(made.data)
            without = made.start(roots=Roots([]))
            assert without.list("node", all=True) == []
            without.stop()
            assert names(made.data) == before
            again = made.start()
            again.change(ACME, job.job, files_per_second=None)
            assert until(again, job.job, "done").removed == size

    def test_a_tombstone_that_somebody_removed(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, _ = running(made, jobs)
            jobs.stop()
            shutil.rmtree(made.data / ".busd-tombstones" / ACME / job.job)
            again = made.start()
            report = again.report(ACME, job.job)
            assert (report.progress.state, report.code) == ("failed", 9003)
            assert report.progress.finished
            assert made.events(job.job)[-1] == "ended"
            assert code(again.resume, ACME, job.job) == 9006

    def test_one_tenants_area_that_cannot_be_looked_at(self, tmp_path: Path) -> None:
        """Others' jobs go on."""
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            running(made, jobs)
            size = made.tree("theirs")
            theirs = jobs.submit(BETA, ask("theirs", files_per_second=0.0)).job
            jobs.stop()
            os.chmod(made.data / ".busd-tombstones" / ACME, 0o755)
            again = made.start()
            again.change(BETA, theirs, files_per_second=None)
            assert until(again, theirs, "done").removed == size

    def test_a_tombstone_that_cannot_be_opened_at_the_start(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No job is left as if it were at work: it has failed, and can be resumed."""
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, size = running(made, jobs)
            record = (made.state / f"{job.job}.job").read_bytes()
            jobs.stop()
            (made.state / f"{job.job}.job").write_bytes(record)  # as a crash leaves it: "running"

            def refuse(self: Tombstone) -> bool:
                raise BusError(9008, path="here", reason="EMFILE")

            monkeypatch.setattr(Tombstone, "claim", refuse)
            again = made.start()
            monkeypatch.undo()
            assert again.progress(ACME, job.job).state == "failed"
            assert again.quarantined == []
            assert not again._scheduler.jobs[job.job].busy
            assert made.events(job.job)[-1] == "ended"
            again.resume(ACME, job.job)
            again.change(ACME, job.job, files_per_second=None)
            assert until(again, job.job, "done").removed >= size - job.removed

    def test_in_place_and_gone_before_it_was_noted(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, _ = running(made, jobs, in_place=True)
            jobs.stop()
            shutil.rmtree(made.data / "old")
            again = made.start()
            last = until(again, job.job, "done")
            proof = again.report(ACME, job.job).proof
            assert proof is not None
            assert (proof.gone, proof.basis) == (True, "name")
            assert last.name_free


class TestSeveralProcesses:
    def test_a_local_one_beside_a_node(self, tmp_path: Path) -> None:
        """Each starts while the other is at work; neither touches what the other has."""
        with world(tmp_path) as made:
            node = made.start(workers=1)
            theirs, size = running(made, node, "theirs")
            local = made.start(memory=True, local=True, workers=1)
            assert local.list("node", all=True) == []
            assert local.quarantined == []
            mine, _ = running(made, local, "mine")
            made.tree("paused")
            paused = local.submit(ACME, ask("paused", files_per_second=0.0)).job
            local.pause(ACME, paused)
            made.tree("kept")
            kept = local.submit(ACME, ask("kept", files_per_second=0.0)).job
            local.cancel(ACME, kept)
            before = names(made.data)
            another = made.start(memory=True, local=True)
            assert another.list("node", all=True) == []
            node.stop()
            node = made.start()
            until_so(node, theirs.job, lambda progress: progress.attempts == 2)
            assert [one.job for one in node.list("node", all=True)] == [theirs.job]
            assert sum(names(made.data).values()) >= sum(before.values()) - size
            for job in (mine.job, paused, kept):
                local.cancel(ACME, job, "restore")
            node.change(ACME, theirs.job, files_per_second=None)
            assert until(node, theirs.job, "done").removed == size

    @pytest.mark.parametrize("by_node", [False, True])
    def test_what_a_dead_local_one_left(self, tmp_path: Path, by_node: bool) -> None:
        with world(tmp_path) as made:
            size = made.tree("old", 5, 5)
            crash(made, lambda jobs: void(jobs.submit(ACME, ask())), "noted", memory=True, local=True)
            assert len(made.left()) == 1
            jobs = made.start() if by_node else made.start(memory=True, local=True)
            job = only(jobs)
            assert until(jobs, job, "done").removed == size
            assert made.left() == []

    def test_what_a_dead_node_left_is_no_local_ones(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            made.tree("old")
            crash(made, lambda jobs: void(jobs.submit(ACME, ask())), "noted")
            local = made.start(memory=True, local=True)
            assert local.list("node", all=True) == []
            assert len(made.left()) == 1
            jobs = made.start()
            assert until(jobs, only(jobs), "done").removed == 16

    def test_another_process_at_work_on_a_job_of_the_journal(self, tmp_path: Path) -> None:
        """It waits until that has ended, and finds it gone then."""
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, size = running(made, jobs)
            jobs.stop()
            (made.state / f"{job.job}.job").rename(tmp_path / "journal")
            other = made.start(tmp_path / "another", workers=1)
            until_so(other, job.job, lambda progress: bool(progress.held_back_by))
            (tmp_path / "journal").rename(made.state / f"{job.job}.job")
            again = made.start()
            assert until(again, job.job, "parked").reason == "another process works on it"
            assert code(again.cancel, ACME, job.job, "restore") == 9008
            theirs = other.progress(ACME, job.job).removed
            other.stop()
            made.now += 5
            again.change(ACME, job.job, files_per_second=None)
            assert until(again, job.job, "done").removed == size - theirs
