"""The journal of deletion jobs: what it keeps, what it does not believe, and that jobs go on without it."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from busd.components.deletion.filters import Filter
from busd.components.deletion.journal import Journal
from busd.components.deletion.record import Record
from busd.components.deletion.request import JobRequest
from busproto.errors import BusError
from tests.components.deletion_jobs_world import ACME, ask, until, until_true, world
from tests.components.test_deletion_jobs import code, running


def record(job: str = "job-1", **fields: Any) -> Record:
    request = JobRequest(root="data", path=b"a/\xff", filter=Filter(glob=b"**/x"))
    return Record(job=job, tenant=ACME, request=request, root="data", path=b"a/\xff", **fields)


class TestJournal:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        one = Journal(tmp_path / "state" / "deep")
        first, second = record(files=3, failed={1: 2}, parked={"busy": 1}), record("job-2", until=5.5)
        for each in (first, second):
            one.write(each)
        first.files = 4
        one.write(first, sync=False)
        one.close()
        again = Journal(tmp_path / "state" / "deep")
        assert sorted(again.load(), key=lambda record: record.job) == [first, second]
        again.forget("job-1")
        again.forget("job-1")
        assert again.load() == [second]
        again.close()
        again.close()
        assert stat.S_IMODE((tmp_path / "state" / "deep").stat().st_mode) == 0o700

    def test_one_process_at_a_time(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            made.start()
            with pytest.raises(BusError, match="another process") as failed:
                made.make()
            assert failed.value.code == 9008
            assert str(made.state) in failed.value.text
            made._open[0].stop()
            made.start()

    def test_a_directory_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            assert code(Journal, path) == 9008

    @pytest.mark.parametrize(
        "broken",
        [
            b"",
            b"nothing",
            msgspec.msgpack.encode({"job": "job-1"}),
            msgspec.msgpack.encode(record("another")),
            msgspec.msgpack.encode(record())[:-5],
            msgspec.msgpack.encode({**msgspec.structs.asdict(record()), "state": "no state"}),
        ],
    )
    def test_what_is_broken_is_put_aside(self, tmp_path: Path, broken: bytes) -> None:
        one = Journal(tmp_path)
        one.write(record("good"))
        (tmp_path / "job-1.job").write_bytes(broken)
        (tmp_path / "job-3.job.new").write_bytes(b"half")
        (tmp_path / "not a job.job").write_bytes(msgspec.msgpack.encode(record("not a job")))
        (tmp_path / "link.job").symlink_to(tmp_path / "good.job")
        (tmp_path / "other").write_bytes(b"not ours")
        assert [each.job for each in one.load()] == ["good"]
        assert sorted(os.listdir(tmp_path)) == [
            "good.job",
            "job-1.job.broken",
            "link.job.broken",
            "not a job.job.broken",
            "other",
        ]
        assert (tmp_path / "job-1.job.broken").read_bytes() == broken
        one.close()

    def test_a_write_that_fails_leaves_what_was(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        one = Journal(tmp_path)
        one.write(record(files=1))

        def full(fd: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        assert code(one.write, record(files=2)) == 9008
        monkeypatch.undo()
        assert [each.files for each in one.load()] == [1]
        one.close()


class TestWithoutIt:
    def test_jobs_go_on_and_it_is_a_problem_until_it_can_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with world(tmp_path) as made:
            size = made.tree("old")
            jobs = made.start()
            replace = os.replace

            def full(*arguments: Any, **where: Any) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            monkeypatch.setattr(os, "replace", full)
            job = jobs.submit(ACME, ask()).job
            assert until(jobs, job, "done").removed == size
            assert "No space left" in jobs.problem
            assert str(made.state) in jobs.problem
            monkeypatch.setattr(os, "replace", replace)
            made.tree("old")
            until(jobs, jobs.submit(ACME, ask()).job, "done")
            assert jobs.problem == ""

    def test_its_directory_is_gone(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            made.tree("old")
            jobs = made.start()
            os.rename(made.state, tmp_path / "elsewhere")
            (tmp_path / "elsewhere").rmdir()
            job = jobs.submit(ACME, ask()).job
            until(jobs, job, "done")
            assert "No such file" in jobs.problem

    def test_a_broken_file_of_a_job_that_has_a_tombstone(self, tmp_path: Path) -> None:
        """The tombstone says enough."""
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job, size = running(made, jobs)
            jobs.stop()
            (made.state / f"{job.job}.job").write_bytes(b"\0" * 100)
            again = made.start()
            # What was removed before is known to the journal only.
            again.change(ACME, job.job, files_per_second=None)
            assert until(again, job.job, "done").removed == size - job.removed
            assert (made.state / f"{job.job}.job.broken").exists()

    def test_running_counts_are_noted_now_and_then(self, tmp_path: Path) -> None:
        """So that a crash loses little of them."""
        with world(tmp_path) as made:
            jobs = made.start(workers=1, clock=lambda: made.clock)
            job, _ = running(made, jobs)
            made.clock += 3

            def noted() -> bool:
                data = (made.state / f"{job.job}.job").read_bytes()
                return msgspec.msgpack.decode(data, type=Record).files == job.files

            until_true(noted)
