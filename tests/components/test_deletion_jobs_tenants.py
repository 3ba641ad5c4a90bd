"""Many jobs of many tenants: whose turn it is, how many may wait, and that nobody sees another's."""

import errno
from pathlib import Path

import pytest

from busd.components.deletion.roots import Roots, RootSettings
from tests.components.deletion_jobs_world import ACME, BETA, World, ask, until, until_so, until_true, world
from tests.components.test_deletion_jobs import HELD, code, running


class TestTurns:
    def test_no_more_than_so_many_of_a_tenant_are_under_way(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(jobs_per_tenant=2, workers=1)
            mine = [running(made, jobs, f"mine{number}")[0].job for number in range(2)]
            for number in range(2, 5):
                made.tree(f"mine{number}")
                mine.append(jobs.submit(ACME, ask(f"mine{number}", files_per_second=0.0)).job)
            made.tree("theirs")
            # Another tenant has its own turns.
            until(jobs, jobs.submit(BETA, ask("theirs")).job, "done")
            assert [jobs.progress(ACME, job).state for job in mine] == ["running"] * 2 + ["queued"] * 3
            # Who pauses, ends or is put back makes room for the one that has waited longest.
            jobs.pause(ACME, mine[0])
            until(jobs, mine[2], "running")
            jobs.cancel(ACME, mine[1], "restore")
            until(jobs, mine[3], "running")
            assert jobs.progress(ACME, mine[4]).state == "queued"
            jobs.resume(ACME, mine[0])
            assert jobs.progress(ACME, mine[0]).state == "queued"

    def test_what_waits_holds_no_place(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(jobs_per_tenant=1, workers=1)
            for number in range(3):
                made.tree(f"grace{number}")
                until(jobs, jobs.submit(ACME, ask(f"grace{number}", grace_seconds=100)).job, "grace")
            paused = running(made, jobs, "paused")[0].job
            jobs.pause(ACME, paused)
            made.tree("last")
            until(jobs, jobs.submit(ACME, ask("last")).job, "done")

    def test_a_submission_that_fails_keeps_nobody_from_its_turn(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While it was looked at it counted as under way, and another ended meanwhile."""
        with world(tmp_path) as made:
            jobs = made.start(jobs_per_tenant=1, workers=1)
            first = running(made, jobs, "first")[0].job
            made.tree("second")
            second = jobs.submit(ACME, ask("second")).job
            made.tree("third")

            def refuse(*arguments: object) -> None:
                jobs.pause(ACME, first)
                raise OSError(errno.EXDEV, "no")

            monkeypatch.setattr("busd.components.deletion.area.rename_new", refuse)
            assert code(jobs.submit, ACME, ask("third", grace_seconds=10)) == 9002
            monkeypatch.undo()
            until(jobs, second, "done")

    @pytest.mark.parametrize("large", [10])
    def test_one_with_many_large_jobs_does_not_delay_anothers_small_one(self, tmp_path: Path, large: int) -> None:
        """Counted, not timed: the file system lets through 1,000 files a second of a clock that the test moves. When
        the small job of 13 entries is done, the large ones have had their share of what went meanwhile, and no more.
        """
        with world(tmp_path) as made:
            for number in range(large):
                made.tree(f"large{number}", 40, 50)
            made.tree("small", 3, 3)
            jobs = made.start(jobs_per_tenant=4, workers=1)
            throttle = jobs.gates.system(made.roots.get("data", ACME).device)
            jobs.gates.change(throttle, files_per_second=1000.0)
            mine = [jobs.submit(ACME, ask(f"large{number}")).job for number in range(large)]
            until_true(lambda: sum(1 for job in mine if jobs.progress(ACME, job).held_back_by) == 4)
            before = sum(jobs.progress(ACME, job).removed for job in mine)
            small = jobs.submit(BETA, ask("small")).job
            for _ in range(2000):
                if jobs.progress(BETA, small).state == "done":
                    break
                made.clock += 0.01
                jobs.gates.look()
                jobs.wait(BETA, small, 0.005)
            assert jobs.progress(BETA, small).state == "done"
            meanwhile = sum(jobs.progress(ACME, job).removed for job in mine) - before
            # At equal shares 13; four batches of 51 may have been before it, and as many between its own.
            assert meanwhile < 1500, meanwhile
            assert before + meanwhile < large * 2041 / 4
            for job in mine:
                jobs.cancel(ACME, job)

    def test_shares_of_a_throttled_disk_are_equal_whatever_the_number_of_jobs(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(jobs_per_tenant=4, workers=1)
            throttle = jobs.gates.system(made.roots.get("data", ACME).device)
            jobs.gates.change(throttle, files_per_second=0.0)
            for number in range(4):
                made.tree(f"acme{number}", 40, 20)
            made.tree("beta", 80, 20)
            mine = [jobs.submit(ACME, ask(f"acme{number}")).job for number in range(4)]
            theirs = jobs.submit(BETA, ask("beta")).job
            until_true(lambda: all(jobs.progress("node", job).held_back_by for job in [*mine, theirs]))
            jobs.gates.change(throttle, files_per_second=1000.0)

            def removed() -> tuple[int, int]:
                return sum(jobs.progress(ACME, job).removed for job in mine), jobs.progress(BETA, theirs).removed

            while sum(removed()) < 800:
                made.clock += 0.02
                jobs.gates.look()
                jobs.wait(BETA, theirs, 0.002)
            acme, beta = removed()
            assert acme <= 2 * beta + 100
            assert beta <= 2 * acme + 100


class TestBacklog:
    def test_a_full_backlog_is_that_tenants(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(backlog_jobs=3, jobs_per_tenant=1, workers=1)
            for number in range(5):
                made.tree(f"old{number}")
            made.tree("beta")
            mine = [jobs.submit(ACME, ask(f"old{number}", files_per_second=0.0)).job for number in range(3)]
            assert code(jobs.submit, ACME, ask("old3")) == 9007
            assert (made.data / "old3").exists()
            assert len(jobs.list(ACME, all=True)) == 3
            until(jobs, jobs.submit(BETA, ask("beta")).job, "done")
            # What is kept of a cancelled job lies there still, and counts.
            jobs.cancel(ACME, mine[2])
            assert code(jobs.submit, ACME, ask("old3")) == 9007
            jobs.cancel(ACME, mine[2], "restore")
            jobs.submit(ACME, ask("old3", files_per_second=0.0))
            assert code(jobs.submit, ACME, ask("old4")) == 9007

    def test_a_resumed_job_needs_room(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(backlog_jobs=1, workers=1)
            job = running(made, jobs, in_place=True)[0].job
            jobs.cancel(ACME, job)
            made.tree("other")
            other = jobs.submit(ACME, ask("other", files_per_second=0.0)).job
            assert code(jobs.resume, ACME, job) == 9007
            assert jobs.progress(ACME, job).state == "cancelled"
            jobs.cancel(ACME, other, "restore")
            assert jobs.resume(ACME, job).state in {"queued", "running"}


class TestWhose:
    def test_others_jobs_are_not_there(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            job = running(made, jobs)[0].job
            assert jobs.list(BETA, all=True) == []
            for call in (jobs.pause, jobs.resume, jobs.cancel, jobs.undelete, jobs.progress, jobs.report, jobs.change):
                assert code(call, BETA, job) == 9005
            assert code(jobs.wait, BETA, job, 0) == 9005
            assert jobs.progress(ACME, job).state == "running"
            assert [one.job for one in jobs.list("node")] == [job]
            assert jobs.cancel("node", job, "restore").tenant == ACME

    def test_roots_of_others_are_not_there(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            made.roots.close()
            made.roots = Roots.open([RootSettings(id="data", path=made.data, tenants=frozenset({BETA}))])
            made.tree("old")
            jobs = made.start()
            assert code(jobs.submit, ACME, ask()) == 9001
            assert (made.data / "old").exists()
            until(jobs, jobs.submit("node", ask()).job, "done")

    def test_tombstones_lie_apart(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start()
            ids = {}
            for tenant in (ACME, BETA, "node"):
                made.tree(tenant)
                ids[tenant] = jobs.submit(tenant, ask(tenant, files_per_second=0.0)).job
            assert made.left() == sorted(f"{tenant}/{job}" for tenant, job in ids.items())


class TestLists:
    def ended(self, made: World, number: int, kept: int) -> list[str]:
        jobs = made.start(kept=kept)
        found = []
        for _count in range(number):
            made.now += 1
            made.tree("old", 1, 1)
            found.append(jobs.submit(ACME, ask()).job)
            until(jobs, found[-1], "done")
        return found

    def test_the_latest_first_and_no_more_than_asked_for(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            found = self.ended(made, 4, 100)
            jobs = made._open[0]
            assert [one.job for one in jobs.list(ACME, all=True)] == found[::-1]
            assert [one.job for one in jobs.list(ACME, all=True, limit=2)] == found[:1:-1]
            assert jobs.list(ACME) == []
            made.now += 1
            made.tree("waits")
            waits = jobs.submit(ACME, ask("waits", files_per_second=0.0)).job
            assert [one.job for one in jobs.list(ACME)] == [waits]

    def test_so_many_ended_ones_are_kept_of_each_tenant(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(kept=2, workers=1)
            made.tree("beta")
            theirs = jobs.submit(BETA, ask("beta")).job
            until(jobs, theirs, "done")
            kept = running(made, jobs, "kept")[0].job
            jobs.cancel(ACME, kept)  # it can still be had back, and is not forgotten
            jobs.stop()
            found = self.ended(made, 4, 2)
            jobs = made._open[-1]
            assert {one.job for one in jobs.list("node", all=True)} == {theirs, kept, *found[2:]}
            assert code(jobs.report, ACME, found[0]) == 9005
            assert len(list(made.state.glob("*.job"))) == 4

    def test_rates_are_each_jobs_own(self, tmp_path: Path) -> None:
        with world(tmp_path) as made:
            jobs = made.start(workers=1)
            slow = running(made, jobs)[0].job
            size = made.tree("fast")
            fast = jobs.submit(ACME, ask("fast")).job
            assert until(jobs, fast, "done").removed == size
            assert until_so(jobs, slow, lambda progress: bool(progress.held_back_by)).removed < 2 * HELD + 11
