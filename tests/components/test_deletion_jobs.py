"""Deletion jobs: their states, and what each verb does in each of them."""

import errno
import itertools
import os
import random
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from busd.components.deletion.governors import Governors
from busd.components.deletion.jobs import Jobs
from busd.components.deletion.progress import Progress
from busd.components.deletion.roots import Root
from busd.components.deletion.survey import Survey
from busd.components.deletion.system import rename_new
from busd.components.deletion.tombstone import SYNC_POINTS, Tombstone
from busproto.errors import BusError
from tests.components.deletion_jobs_world import ACME, BETA, World, ask, names, until, until_so, until_true, world

HELD = 5.0
"""Files a second, of a clock that stands still: one batch goes, the next waits."""


def code(call: Any, *arguments: Any, **named: Any) -> int:
    """The code of the BusError that ``call`` raises; 0 if it raises none."""
    try:
        call(*arguments, **named)
    except BusError as error:
        return int(error.code)
    return 0


def running(made: World, jobs: Jobs, name: str = "old", **fields: Any) -> tuple[Progress, int]:
    """A job that has removed one directory of five and waits at the gate; and how many entries its tree had."""
    size = made.tree(name, 5, 10)
    job = jobs.submit(ACME, ask(name, files_per_second=HELD, **fields))
    return until_so(jobs, job.job, lambda progress: bool(progress.removed and progress.held_back_by)), size


class TestLife:
    def test_from_submission_to_done(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            size = made.tree("old")
            jobs = made.start()
            first = jobs.submit(ACME, ask())
            assert first.name_free
            assert not (made.data / "old").exists()
            assert (first.state, first.mode, first.submitted) in {
                (state, "tombstone", made.now) for state in ("queued", "running", "done")
            }
            last = until(jobs, first.job, "done")
            assert (last.removed, last.seen, last.files, last.directories) == (size, size, 12, 4)
            assert last.finished == made.now
            assert last.attempts == 1
            report = jobs.report(ACME, first.job)
            assert report.proof is not None
            assert report.proof.gone
            assert report.proof.links == 0
            assert (report.left_at, report.code, report.failures) == (b"", 0, [])
            assert made.left() == []
            assert made.events(first.job) == ["submitted", "ended"]

    @pytest.mark.parametrize("kind", ["file", "link", "fifo", "socket", "empty"])
    @pytest.mark.parametrize("fields", [{}, {"in_place": True}, {"max_entries": 1}, {"count": True}])
    def test_each_kind_of_target(self, tmp_path: Path, kind: str, fields: dict[str, Any]) -> None:
        with world(tmp_path) as made:
            made.tree("beside")
            target = made.data / "one"
            if kind == "file":
                target.write_bytes(b"x" * 5000)
            elif kind == "link":
                target.symlink_to("beside")
            elif kind == "fifo":
                os.mkfifo(target)
            elif kind == "socket":
                with socket.socket(socket.AF_UNIX) as one:
                    one.bind(os.path.relpath(target))
            else:
                target.mkdir()
            before = names(made.data)
            jobs = made.start()
            job = jobs.submit(ACME, ask("one", **fields)).job
            last = until(jobs, job, "done")
            assert (last.removed, last.seen, last.directories) == (1, 1, int(kind == "empty"))
            assert kind != "file" or last.bytes >= 4096
            proof = jobs.report(ACME, job).proof
            assert proof is not None
            assert proof.gone
            before.subtract(["one"])
            after = names(made.data)
            after.subtract(name for name in (".busd-tombstones", ACME) if name in after)
            assert +before == +after

    def test_a_file_with_another_name_frees_nothing(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            (made.data / "one").write_bytes(b"x" * 5000)
            os.link(made.data / "one", made.data / "other")
            jobs = made.start()
            for name, fields in (("one", {}), ("other", {"in_place": True})):
                job = jobs.submit(ACME, ask(name, **fields)).job
                last = until(jobs, job, "done")
                proof = jobs.report(ACME, job).proof
                assert proof is not None
                assert (last.bytes > 0, proof.links) == ((False, 1) if name == "one" else (True, 0))

    def test_counted_first(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, size = running(made, jobs, count=True)
            assert (job.expected, job.eta_seconds) == (size, None)  # nothing goes, so nobody can say when it ends
            # A rate is taken between two looks at the jobs' clock, which is the real one here.
            jobs.change(ACME, job.job, files_per_second=None)
            last = until(jobs, job.job, "done")
            assert (last.expected, last.removed, last.eta_seconds) == (size, size, None)
            found = jobs.report(ACME, job.job).found
            assert found is not None
            assert found.entries == size - 1
            assert found.files == 50

    def test_rate_and_time_left(self, tmp_path: Path) -> None:
        """Batches of 11 as the clock lets them; the rate and the time left come from the same clock."""
        with world(tmp_path) as made:
            jobs = made.start(workers=1, clock=lambda: made.clock)
            job, size = running(made, jobs, count=True)

            def moved(progress: Progress) -> bool:
                if progress.removed < 33:
                    made.clock += 0.05
                    jobs.gates.look()
                return progress.rate > 0

            seen = until_so(jobs, job.job, moved)
            assert seen.eta_seconds is not None
            assert seen.expected == size
            assert seen.eta_seconds == pytest.approx((size - seen.removed) / seen.rate, rel=0.2)

    def test_progress_never_goes_back(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            size = made.tree("old", 60, 60)
            jobs = made.start()
            job = jobs.submit(ACME, ask()).job
            seen: list[Progress] = []
            stopped = threading.Event()

            def look() -> None:
                while not stopped.is_set():
                    seen.append(jobs.progress(ACME, job))

            watcher = threading.Thread(target=look)
            watcher.start()
            try:
                for _ in range(3):  # each pause ends a walk and begins another
                    if not code(jobs.pause, ACME, job):
                        jobs.resume(ACME, job)
                until(jobs, job, "done")
            finally:
                stopped.set()
                watcher.join()
            figures = [(progress.removed, progress.files, progress.directories, progress.seen) for progress in seen]
            for before, after in itertools.pairwise(figures):
                assert all(one <= other for one, other in zip(before, after, strict=True))
            assert jobs.progress(ACME, job).removed == size

    def test_wait_wakes_on_a_change_and_returns_at_once_when_over(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, _ = running(made, jobs)
            woken: list[Progress] = []
            waiter = threading.Thread(target=lambda: woken.append(jobs.wait(ACME, job.job, 60)))
            waiter.start()
            until_true(lambda: len(jobs._scheduler.changed._waiters) > 1)  # type: ignore[attr-defined]
            jobs.pause(ACME, job.job)
            waiter.join(10)
            assert not waiter.is_alive()
            assert woken[0].job == job.job
            jobs.cancel(ACME, job.job)
            assert jobs.wait(ACME, job.job, 60).state == "cancelled"
            assert jobs.wait(ACME, job.job, 60).state == "cancelled"

    def test_two_jobs_on_one_path_and_on_nested_ones(self, tmp_path: Path) -> None:
        """Whoever buries it has it; for the other there is nothing, or something new, of that name."""
        with world(tmp_path) as made:
            made.tree("outer/inner")
            jobs = made.start(workers=1)
            inner = jobs.submit(ACME, ask("outer/inner", files_per_second=0.0))
            assert code(jobs.submit, BETA, ask("outer/inner")) == 9002
            outer = jobs.submit(BETA, ask("outer"))
            until(jobs, outer.job, "done")
            # It cannot be put back where there is no directory; nothing is lost.
            assert code(jobs.cancel, ACME, inner.job, "restore") == 9003
            assert jobs.progress(ACME, inner.job).state == "cancelled"
            (made.data / "outer").mkdir()
            assert jobs.cancel(ACME, inner.job, "restore").state == "cancelled"
            assert names(made.data / "outer/inner")["f0"] == 3

    def test_two_jobs_never_have_one_id(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn = iter(["00000000aa", "00000000aa", "00000000bb"])
        monkeypatch.setattr(secrets, "token_hex", lambda size: next(drawn))
        with world(tmp_path) as made:
            made.tree("one")
            made.tree("two")
            jobs = made.start()
            for name, job in (("one", "00000000aa"), ("two", "00000000bb")):
                assert jobs.submit(ACME, ask(name)).job == job
            for job in ("00000000aa", "00000000bb"):
                until(jobs, job, "done")
            assert made.left() == []

    def test_in_place_twice(self, tmp_path: Path) -> None:
        """The second finds what the first has left, or nothing; both end."""
        with world(tmp_path) as made:
            size = made.tree("old", 20, 20)
            jobs = made.start(jobs_per_tenant=2)
            both = [jobs.submit(ACME, ask(in_place=True, files_per_second=0.0)).job for _ in range(2)]
            for job in both:
                until_so(jobs, job, lambda progress: progress.state == "running" and bool(progress.held_back_by))
            for job in both:
                jobs.change(ACME, job, files_per_second=None)
            ends = [until(jobs, job, "done", "failed") for job in both]
            assert "done" in {end.state for end in ends}
            assert not (made.data / "old").exists()
            assert sum(end.removed for end in ends) == size


class TestVerbs:
    STATES = ("queued", "running", "paused", "parked", "grace", "done", "cancelled", "abandoned", "failed")
    ALLOWED = {
        "pause": {"queued", "running", "parked"},
        "resume": {"queued", "running", "paused", "parked", "grace", "cancelled", "failed"},
        "keep": {"queued", "running", "paused", "parked", "grace", "cancelled", "failed"},
        "restore": {"queued", "running", "paused", "parked", "grace", "cancelled", "failed"},
        "abandon": {"queued", "running", "paused", "parked", "grace", "cancelled", "failed"},
        "undelete": {"grace", "queued"},
        "change": {"queued", "running", "paused", "parked", "grace"},
    }

    @pytest.mark.parametrize("state", STATES)
    @pytest.mark.parametrize("verb", sorted(ALLOWED))
    def test_each_verb_in_each_state(
        self, tmp_path: Path, state: str, verb: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with world(tmp_path) as made:
            jobs, job = self.bring(made, state, monkeypatch)
            monkeypatch.undo()
            calls: dict[str, Any] = {
                "pause": lambda: jobs.pause(ACME, job),
                "resume": lambda: jobs.resume(ACME, job),
                "undelete": lambda: jobs.undelete(ACME, job),
                "change": lambda: jobs.change(ACME, job, files_per_second=HELD),
                **{how: (lambda how=how: jobs.cancel(ACME, job, how)) for how in ("keep", "restore", "abandon")},
            }
            before = jobs.progress(ACME, job)
            started = time.monotonic()
            said = code(calls[verb])
            assert time.monotonic() - started < 15  # it was not waited for what never comes
            after = jobs.progress(ACME, job)
            if state not in self.ALLOWED[verb]:
                assert (said, after.state) == (9006, before.state)
                return
            assert said == 0
            expected: dict[str, set[str]] = {
                "pause": {"paused"},
                "resume": {"queued", "running", "done"},
                "change": {before.state},
            }
            assert after.state in expected.get(verb, {"cancelled"})
            if verb in {"restore", "undelete"}:
                assert (made.data / "old").is_dir()
                assert not after.name_free
                assert made.left() == [name for name in made.left() if job not in name]
            if verb == "abandon":
                left_at = jobs.report(ACME, job).left_at
                assert (made.data / os.fsdecode(left_at) / "tree").is_dir()

    def bring(self, made: World, state: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Jobs, str]:
        """A job in ``state``."""
        jobs = made.start(workers=1, jobs_per_tenant=1)
        if state == "queued":
            running(made, jobs, "first")
            made.tree("old")
            return jobs, jobs.submit(ACME, ask()).job
        if state == "grace":
            made.tree("old")
            job = jobs.submit(ACME, ask(grace_seconds=100)).job
            until(jobs, job, "grace")
            return jobs, job
        if state in {"parked", "failed"}:
            made.tree("old")
            number = errno.EBUSY if state == "parked" else errno.EPERM
            monkeypatch.setattr(os, "unlink", _refuses(number, "f2"))
            job = jobs.submit(ACME, ask()).job
            until(jobs, job, state)
            return jobs, job
        job = running(made, jobs)[0].job
        if state == "paused":
            jobs.pause(ACME, job)
        elif state == "cancelled":
            jobs.cancel(ACME, job)
        elif state == "abandoned":
            jobs.cancel(ACME, job, "abandon")
        elif state == "done":
            jobs.change(ACME, job, files_per_second=None)
            until(jobs, job, "done")
        return jobs, job

    def test_unknown_jobs(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start()
            for call in (jobs.pause, jobs.resume, jobs.cancel, jobs.undelete, jobs.progress, jobs.report, jobs.change):
                assert code(call, ACME, "nothing") == 9005
            assert code(jobs.wait, ACME, "nothing", 1) == 9005

    def test_in_place_is_neither_put_back_nor_left(self, tmp_path: Path) -> None:
        """And who asks for that in vain has not stopped it."""
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, size = running(made, jobs, in_place=True)
            for how in ("restore", "abandon"):
                assert code(jobs.cancel, ACME, job.job, how) == 9006
                assert jobs.progress(ACME, job.job).state == "running"
            assert code(jobs.undelete, ACME, job.job) == 9006
            assert jobs.cancel(ACME, job.job).state == "cancelled"
            assert (made.data / "old").is_dir()
            assert jobs.report(ACME, job.job).left_at == b""
            jobs.change(ACME, jobs.resume(ACME, job.job).job, files_per_second=None)
            assert until(jobs, job.job, "done").removed == size

    def test_pause_and_resume_lose_no_count(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, size = running(made, jobs)
            paused = jobs.pause(ACME, job.job)
            assert (paused.state, paused.removed, paused.held_back_by) == ("paused", job.removed, "")
            again = jobs.resume(ACME, job.job)
            assert again.removed == job.removed
            jobs.change(ACME, job.job, files_per_second=None)
            last = until(jobs, job.job, "done")
            assert (last.removed, last.attempts) == (size, 2)

    def test_paused_jobs_have_no_descriptors(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, _ = running(made, jobs)
            jobs.pause(ACME, job.job)
            tombstone = jobs._scheduler.jobs[job.job].tombstone
            assert tombstone is not None
            assert not tombstone._opened
            assert tombstone._grave < 0

    def test_restore_puts_back_what_is_left(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, _ = running(made, jobs)
            last = jobs.cancel(ACME, job.job, "restore")
            assert (last.state, last.removed, last.name_free) == ("cancelled", job.removed, False)
            left = names(made.data / "old")
            assert sum(left.values()) == 55 - last.removed
            assert made.left() == []
            assert made.events(job.job) == ["submitted", "ended", "cancelled"]
            assert code(jobs.resume, ACME, job.job) == 9006

    def test_restore_has_what_was_hoisted_in_recovered(self, tmp_path: Path) -> None:
        """Deeper than eight levels, directories are renamed up: nobody knows any more where they were."""
        with world(tmp_path) as made:
            deep = made.data / "old" / "/".join("abcdefghijkl")
            deep.mkdir(parents=True)
            for one in range(5):
                (deep / f"d{one}").mkdir()
                (deep / f"d{one}" / "file").write_bytes(b"precious")
            jobs = made.start(workers=1)
            job = jobs.submit(ACME, ask(files_per_second=1.0))
            seen = until_so(jobs, job.job, lambda progress: bool(progress.removed and progress.held_back_by))
            jobs.cancel(ACME, job.job, "restore")
            report = jobs.report(ACME, job.job)
            assert report.recovered == b"recovered-" + job.job.encode()
            kept = made.data / "old" / os.fsdecode(report.recovered)
            assert names(kept)["file"] == 5 - seen.files

    def test_abandoned_is_never_resumed(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, _ = running(made, jobs)
            jobs.cancel(ACME, job.job, "abandon")
            place = jobs.report(ACME, job.job).left_at
            before = names(made.data)
            assert code(jobs.resume, ACME, job.job) == 9006
            jobs.stop()
            again = made.start(workers=1)
            assert [(one.place, one.reason) for one in again.quarantined] == [(place, "its job was abandoned")]
            assert again.progress(ACME, job.job).state == "cancelled"
            assert code(again.resume, ACME, job.job) == 9006
            assert names(made.data) == before

    def test_undelete_only_in_the_grace_period(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            size = made.tree("old")
            inode = (made.data / "old").stat().st_ino
            jobs = made.start()
            job = jobs.submit(ACME, ask(grace_seconds=100)).job
            waits = until(jobs, job, "grace")
            assert (waits.until, waits.name_free, waits.removed) == (made.now + 100, True, 0)
            jobs.undelete(ACME, job)
            assert (made.data / "old").stat().st_ino == inode
            assert sum(names(made.data / "old").values()) == size - 1
            assert made.events(job) == ["submitted", "ended", "undeleted"]
            job = jobs.submit(ACME, ask(grace_seconds=100)).job
            until(jobs, job, "grace")
            made.now += 99
            assert jobs.wait(ACME, job, 0.6).state == "grace"
            made.now += 1
            last = until(jobs, job, "done")
            assert last.removed == size
            assert code(jobs.undelete, ACME, job) == 9006

    def test_resume_ends_the_grace_period_also_for_the_next_start(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            made.tree("old")
            jobs = made.start()
            job = jobs.submit(ACME, ask(grace_seconds=100, files_per_second=0)).job
            until(jobs, job, "grace")
            jobs.resume(ACME, job)
            until(jobs, job, "running")
            jobs.stop()
            again = made.start()
            assert until(again, job, "running").until == 0
            again.change(ACME, job, files_per_second=None)
            until(again, job, "done")
            assert made.left() == []

    @pytest.mark.parametrize("grace", [True, False])
    def test_put_back_where_something_else_is(self, tmp_path: Path, grace: bool) -> None:
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            if grace:
                made.tree("old", 5, 10)
                job = jobs.submit(ACME, ask(grace_seconds=100)).job
                until(jobs, job, "grace")
            else:
                job = running(made, jobs)[0].job
            (made.data / "old").write_bytes(b"new")
            before = names(made.data)
            assert code(jobs.undelete if grace else jobs.cancel, ACME, job, *([] if grace else ["restore"])) == 9003
            after = jobs.progress(ACME, job)
            assert after.state == ("grace" if grace else "cancelled")
            assert (made.data / "old").read_bytes() == b"new"
            assert names(made.data) == before
            if not grace:
                report = jobs.report(ACME, job)
                assert os.fsdecode(report.left_at) == f".busd-tombstones/{ACME}/{job}"
                assert "at its place" in after.reason
            (made.data / "old").unlink()
            jobs.cancel(ACME, job, "restore")
            assert (made.data / "old").is_dir()
            assert made.left() == []
            assert made.events(job).count("ended") == 1

    def test_at_the_instant_it_ends(self, tmp_path: Path) -> None:
        """Whatever comes while its thread ends waits for that, and is then told that it is over."""
        with world(tmp_path) as made:
            at, go = threading.Event(), threading.Event()

            def sync(point: str) -> None:
                if point == "removed":
                    at.set()
                    assert go.wait(20)

            made.tree("old")
            jobs = made.start(sync=sync)
            job = jobs.submit(ACME, ask()).job
            assert at.wait(20)
            said: list[int] = []
            calls: list[Any] = [lambda: jobs.cancel(ACME, job, "restore"), lambda: jobs.pause(ACME, job)]
            callers = [threading.Thread(target=lambda call=call: said.append(code(call))) for call in calls]
            for caller in callers:
                caller.start()
            until_true(lambda: jobs._scheduler.jobs[job].wish is not None)
            assert code(jobs.undelete, ACME, job) == 9006
            go.set()
            for caller in callers:
                caller.join(20)
            assert said == [9006, 9006]
            assert jobs.progress(ACME, job).state == "done"
            assert made.events(job) == ["submitted", "ended"]

    def test_several_ask_at_once(self, tmp_path: Path) -> None:
        """Whoever asks for the same has the same answer, and it is done once."""
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, _ = running(made, jobs)
            said: list[int] = []
            callers = [threading.Thread(target=lambda: said.append(code(jobs.pause, ACME, job.job))) for _ in range(4)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join(20)
            # Who came when it was paused already is told so.
            assert set(said) <= {0, 9006}
            assert 0 in said
            assert jobs.progress(ACME, job.job).state == "paused"

    def test_cancelled_while_it_counts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with world(tmp_path) as made:
            size = made.tree("old", 50, 5)
            before = names(made.data)
            jobs = made.start()
            at = threading.Event()
            whole = Survey.run

            def slow(self: Any) -> Any:
                at.set()
                until_true(lambda: jobs._scheduler.jobs[job].wish is not None)
                return whole(self)

            monkeypatch.setattr(Survey, "run", slow)
            job = ""
            job = jobs.submit(ACME, ask(max_entries=1000)).job
            assert at.wait(20)
            assert jobs.progress(ACME, job).state == "counting"
            assert jobs.cancel(ACME, job, "restore").state == "cancelled"
            assert names(made.data) == before
            monkeypatch.undo()
            jobs.resume(ACME, job)
            assert until(jobs, job, "done").removed == size


class TestInPlace:
    NUMBERS = (errno.EXDEV, errno.EACCES, errno.EBUSY, errno.ENOSPC)

    @pytest.mark.parametrize("number", NUMBERS)
    def test_where_nothing_can_be_buried(self, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        with world(tmp_path) as made:
            size = made.tree("old")
            move = rename_new

            def refuse(old: int, name: bytes, new: int, other: bytes) -> None:
                if other == b"tree":
                    raise OSError(number, os.strerror(number))
                move(old, name, new, other)

            monkeypatch.setattr("busd.components.deletion.area.rename_new", refuse)
            jobs = made.start(workers=1)
            first = jobs.submit(ACME, ask(files_per_second=0.0))
            assert not first.name_free
            assert (made.data / "old").exists()
            assert made.left() == []
            seen = until_so(jobs, first.job, lambda progress: progress.held_back_by == "job: paused")
            assert seen.mode == "in-place"
            assert errno.errorcode[number] in seen.reason
            jobs.change(ACME, first.job, files_per_second=None)
            last = until(jobs, first.job, "done")
            assert (last.removed, last.mode, last.reason, last.name_free) == (size, "in-place", seen.reason, True)
            proof = jobs.report(ACME, first.job).proof
            assert proof is not None
            assert proof.gone
            assert proof.basis == "descriptor"
            # Who counts on having it back is refused instead.
            made.tree("old")
            before = names(made.data)
            assert code(jobs.submit, ACME, ask(grace_seconds=10)) == 9002
            assert names(made.data) == before
            assert len(jobs.list(ACME, all=True)) == 1

    def test_asked_for(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            size = made.tree("old")
            jobs = made.start()
            job = jobs.submit(ACME, ask(in_place=True)).job
            last = until(jobs, job, "done")
            assert (last.removed, last.mode, last.reason) == (size, "in-place", "")
            assert not (made.data / ".busd-tombstones").exists()


class TestOdds:
    def test_sync_points_are_all_passed(self, tmp_path: Path) -> None:
        """Those of a job that is done and of one that is put back; a crash test goes by them."""
        with world(tmp_path) as made:
            passed: set[str] = set()
            made.tree("old")
            jobs = made.start(sync=passed.add)
            until(jobs, jobs.submit(ACME, ask()).job, "done")
            made.tree("old")
            job = jobs.submit(ACME, ask(grace_seconds=10)).job
            until(jobs, job, "grace")
            jobs.undelete(ACME, job)
            assert passed >= {*SYNC_POINTS, "noted", "walked"}

    def test_fifty_jobs_leave_nothing_open(self, tmp_path: Path) -> None:
        """`world` compares descriptors and threads."""
        with world(tmp_path) as made:
            jobs = made.start(adaptive=True, jobs_per_tenant=8, gates=None)  # a clock that goes
            for number in range(50):
                made.tree(f"old{number}", 2, 2)
            ids = [
                jobs.submit((ACME, BETA)[number % 2], ask(f"old{number}", in_place=number % 5 == 0)).job
                for number in range(50)
            ]
            for job in ids:
                assert until(jobs, job, "done").removed == 7
            assert made.left() == []
            assert sorted(record.event for record in made.told) == ["ended"] * 50 + ["submitted"] * 50

    def test_an_audit_that_cannot_be_written_is_a_problem_and_no_more(self, tmp_path: Path) -> None:
        def refuse(record: Any) -> None:
            raise BusError(9008, path="the audit record", reason="no space")

        with world(tmp_path) as made:
            made.tree("old")
            jobs = made.start(audit=refuse)
            until(jobs, jobs.submit(ACME, ask()).job, "done")
            assert "no space" in jobs.problem

    def test_a_thread_that_cannot_be_had(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The job waits, and begins as soon as there is one."""
        with world(tmp_path) as made:
            made.tree("old")
            jobs = made.start()
            begin = threading.Thread.start

            def refuse(self: threading.Thread) -> None:
                if self.name == "deletion-job":
                    raise RuntimeError("can't start new thread")
                begin(self)

            monkeypatch.setattr(threading.Thread, "start", refuse)
            job = jobs.submit(ACME, ask()).job
            assert jobs.wait(ACME, job, 0.3).state == "queued"
            monkeypatch.undo()
            until(jobs, job, "done")

    def test_a_governor_that_cannot_begin(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As without descriptors: the job fails, says why, and can be resumed."""
        with world(tmp_path) as made:
            made.tree("old")
            jobs = made.start(adaptive=True, gates=None)

            def refuse(self: Governors, root: Root) -> None:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

            monkeypatch.setattr(Governors, "take", refuse)
            job = jobs.submit(ACME, ask()).job
            assert "Too many open files" in until(jobs, job, "failed").reason
            monkeypatch.undo()
            jobs.resume(ACME, job)
            until(jobs, job, "done")

    def test_an_end_that_fails_in_a_way_nobody_knows(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The job is not left as if it were at work."""
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, size = running(made, jobs)

            def refuse(self: Tombstone, noted: object) -> None:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

            monkeypatch.setattr(Tombstone, "restore", refuse)
            assert code(jobs.cancel, ACME, job.job, "restore") == 9008
            assert jobs.progress(ACME, job.job).state == "cancelled"
            monkeypatch.undo()
            jobs.cancel(ACME, job.job, "restore")
            assert sum(names(made.data / "old").values()) == size - 1 - job.removed

    def test_many_verbs_at_once(self, tmp_path: Path) -> None:
        """From several threads, at random: at the end all that is not removed is there, and no job is stuck."""
        with world(tmp_path) as made:
            sizes = {f"t{number}": made.tree(f"t{number}", 4, 20) for number in range(8)}
            jobs = made.start(jobs_per_tenant=4, gates=None)
            kinds: tuple[dict[str, Any], ...] = ({}, {"grace_seconds": 0.1}, {"in_place": True}, {"max_entries": 1000})
            ids = {
                name: jobs.submit(ACME, ask(name, files_per_second=100.0, **kinds[number % 4])).job
                for number, name in enumerate(sizes)
            }
            end = time.monotonic() + 1.5
            strange: list[BaseException] = []

            def play(seed: int) -> None:
                chance = random.Random(seed)
                while time.monotonic() < end:
                    job = chance.choice(list(ids.values()))
                    calls: list[Any] = [jobs.pause, jobs.resume, jobs.resume, jobs.cancel, jobs.undelete]
                    if chance.random() < 0.1:
                        calls = [lambda tenant, job: jobs.cancel(tenant, job, "restore")]
                    try:
                        chance.choice(calls)(ACME, job)
                    except BusError as error:
                        if error.code != 9006:
                            strange.append(error)
                    except BaseException as error:
                        strange.append(error)

            players = [threading.Thread(target=play, args=(seed,)) for seed in range(4)]
            for player in players:
                player.start()
            for player in players:
                player.join()
            assert not strange
            made.now += 1
            for name, job in ids.items():
                code(jobs.resume, ACME, job)
                code(jobs.change, ACME, job, files_per_second=None)
                last = until(jobs, job, "done", "cancelled")
                there = made.data / name
                left = sum(names(there).values()) + 1 if there.exists() else 0
                assert (last.state == "done") == (left == 0)
                assert last.removed + left == sizes[name]
            assert made.left() == []


def _refuses(number: int, *refused: str) -> Any:
    """unlink(2) that fails for some names."""
    unlink = os.unlink

    def refuse(name: Any, **where: Any) -> None:
        if os.fspath(name) in refused:
            raise OSError(number, os.strerror(number))
        unlink(name, **where)

    return refuse
