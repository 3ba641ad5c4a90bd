"""Deletion jobs and kill -9: wherever their process ends, the next one goes on from there and ends the same.

What nobody asked to delete is byte for byte as it was, with its inodes; of what was to go nothing is left anywhere, and
what was to be kept is whole; whatever a caller was told of is known by its id, and its counts are true.
"""

import asyncio
import os
import random
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from busd.components.deletion.component import Deletion
from busd.components.deletion.jobs import Jobs
from busd.components.deletion.progress import FINAL, Report
from busd.components.deletion.request import JobRequest
from busd.components.deletion.tombstone import SYNC_POINTS
from busd.components.model import attach
from busproto.errors import BusError, Code
from tests.components.supervisor_world import run, world
from tests.fault.deletion_crash_world import FILES, Picture, Victim, World, a_victim, look, plant, reports, settle
from tests.fault.deletion_victim import KEPT_BYTES, MANY, TENANTS, WORK, open_roots, unsynced

BURY: Final = ("manifest-written", "manifest-synced", "renamed", "parents-synced", "noted")
WALK: Final = ("walked", "unlink:1", "unlink:6")
END: Final = ("emptied", "ending", "final", "removed", "manifest-removed")
PUT_BACK: Final = ("restoring", "put-back", "manifest-removed")

POINTS: Final[dict[str, tuple[str, ...]]] = {
    "tombstone": (*BURY, *WALK, *END),
    "file": (*BURY, *END),
    "in-place": (*WALK, "final"),
    "file-in-place": ("final",),
    "filter": WALK,
    "limited": (*BURY, *WALK, *END),
    "grace": BURY,
    "grace-over": ("renamed", "walked", "removed"),
    "undelete": (*BURY, *PUT_BACK),
    "paused": BURY,
    "restore": (*BURY, *PUT_BACK),
    "keep": BURY,
    "abandon": BURY,
    "dry-run": (),
    "plan": (*BURY, *WALK, *END),
}
"""What each work comes by."""

COUNTED: Final = ("noting", "noted", "acked")
"""What each work does several times: it is killed at each of them."""


@contextmanager
def killed_at(*where: str) -> Iterator[None]:
    """A failure in the block says where it was killed."""
    try:
        yield
    except Exception as failed:
        failed.add_note(f"killed at {', then at '.join(where)}")
        raise


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without fsync, as the victim: what is written outlives its process all the same."""
    monkeypatch.setattr(os, "fsync", unsynced)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, where there is such a thing: these tests make and remove tens of thousands of files, and
    what they look at is the same on any file system.
    """
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="busd-test-", dir=memory) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with a_victim() as one:
        yield one


def target_of(work: str) -> str:
    return "jobs/single" if work in {"file", "file-in-place"} else "jobs/old"


MOST_CALLS: Final = 400
"""A job has some sixty calls that change the disk; a sweep that does not end there is broken."""

REMOVE: Final = {"tombstone", "file", "in-place", "file-in-place", "limited", "grace-over", "plan"}
"""Works after which the tree is gone."""

WAIT: Final = {
    "grace": {"grace"},
    "undelete": {"grace", "cancelled"},
    "paused": {"running", "paused"},
    "restore": {"running", "cancelled"},
    "keep": {"running", "cancelled"},
    "abandon": {"running", "cancelled"},
}
"""What a job can be after a crash in works that remove nothing: as it was, or as it was asked to be."""

TOLD: Final = {
    "undelete": "cancelled",
    "pause": "paused",
    "restore": "cancelled",
    "keep": "cancelled",
    "abandon": "cancelled",
}
"""What it must be when the caller was told that it was so."""


class Aftermath:
    """What is found after a crash, and what becomes of it."""

    def __init__(self, world: World, work: str) -> None:
        self.world, self.work = world, work
        world.check_others()
        self.whole = world.where() is not None
        self.before = world.noted()
        self.told = world.acked()

    def resumes(self) -> None:
        """Go on from there, twice; all is as it must be, both times."""
        world = self.world
        with world.jobs() as jobs:
            found = reports(jobs)
            world.check_others()
            self._check_counts(found)
            self._check(found.copy())
        picture = self._all()
        with world.jobs() as jobs:
            again = reports(jobs)
            assert {job: over(report) for job, report in again.items()} == {
                job: over(report) for job, report in found.items()
            }
            assert self._all() == picture
            if self.work in WAIT:
                self._have_it_back(jobs, again)
        assert not list(world.state.glob("*.new"))
        assert not list(world.state.glob("*.broken"))

    def _all(self) -> Picture:
        return look(self.world.root)

    def _check_counts(self, found: dict[str, Report]) -> None:
        """Nothing was counted twice, and nothing that was noted is forgotten."""
        for job, report in found.items():
            progress, record = report.progress, self.before.get(job)
            assert progress.files <= self.world.files
            assert progress.directories <= self.world.directories
            if record is None:
                continue
            assert progress.files >= record.files
            assert progress.directories >= record.directories
            if record.state in FINAL:
                assert counts(report) == (record.state, record.files, record.directories, record.bytes)

    def _check(self, found: dict[str, Report]) -> None:
        world, work = self.world, self.work
        assert set(self.told) <= set(found)
        if work in {"dry-run", "plan"}:
            surveys = [job for job, report in found.items() if report.progress.mode == "survey"]
            for job in surveys:
                report = found.pop(job)
                assert (report.progress.state, report.error) == ("done", "")
                assert report.plan is not None
                assert report.plan.entries == len(world.tree) - 1
        if not found:
            assert world.where() == world.place
            assert world.left() == []
            return
        [report] = found.values()
        progress = report.progress
        assert (report.code, report.error) == (0, "")
        assert progress.submitted > 0
        if work in WAIT:
            self._check_kept(report)
        elif work == "filter":
            self._check_filtered(report)
        else:
            assert work in REMOVE
            assert progress.state == "done", report
            assert not os.path.lexists(world.place)
            assert world.left() == []
            assert progress.name_free
            assert report.proof is not None
            assert report.proof.gone
            assert (report.left_at, report.recovered) == (b"", b"")
            assert progress.started > 0
            assert progress.finished >= progress.submitted
            if self.whole:  # nothing was removed that was not counted
                assert (progress.files, progress.directories) == (world.files, world.directories)

    def _check_kept(self, report: Report) -> None:
        world, progress = self.world, report.progress
        [told] = [self.told.get(progress.job, [])]
        assert progress.state in WAIT[self.work], report
        assert progress.removed == 0
        for what, state in TOLD.items():
            assert what not in told or progress.state == state
        place = world.where()
        assert place is not None
        grave = world.area / "acme" / progress.job
        if progress.state == "cancelled":
            assert progress.finished >= progress.submitted
        if progress.state == "cancelled" and self.work in {"undelete", "restore"}:
            assert (place, progress.name_free, report.left_at) == (world.place, False, b"")
            assert world.left() == []
            return
        assert place == grave / "tree"
        assert progress.name_free
        assert world.left() == [f"acme/{progress.job}"]
        if progress.state == "cancelled":
            assert world.root / os.fsdecode(report.left_at) == grave

    def _check_filtered(self, report: Report) -> None:
        world, progress = self.world, report.progress
        assert progress.state == "done"
        assert progress.mode == "filter"
        assert world.left() == []
        stays = {name: found for name, found in world.tree.items() if keeps(found)}
        assert look(world.place) == stays
        assert progress.directories == 0
        assert progress.spared["size"] == FILES
        if self.whole:
            assert progress.files == len(world.tree) - len(stays)

    def _have_it_back(self, jobs: Jobs, found: dict[str, Report]) -> None:
        """What was kept can be had back; what was abandoned cannot."""
        world = self.world
        for job, report in found.items():
            state = report.progress.state
            if state == "grace":
                jobs.undelete("acme", job)
            elif state in {"running", "paused"} or self.work == "keep":
                jobs.cancel("acme", job, "restore")
            elif self.work == "abandon":
                [quarantined] = jobs.quarantined
                assert quarantined.place == report.left_at
                assert world.where() == world.root / os.fsdecode(report.left_at) / "tree"
                return
        assert world.where() == world.place
        assert world.left() == []
        world.check_others()


def over(report: Report) -> object:
    """What never changes any more of what has ended; of the rest, how it stands."""
    return report if report.progress.state in FINAL else report.progress.state


def counts(report: Report) -> tuple[str, int, int, int]:
    progress = report.progress
    return progress.state, progress.files, progress.directories, progress.bytes


def keeps(found: tuple[int, int, int, bytes]) -> bool:
    """Whether the filter's job leaves it: a directory, or a file that is small."""
    mode, _, _, content = found
    return mode & 0o170000 == 0o040000 or (mode & 0o170000 == 0o100000 and len(content) <= KEPT_BYTES)


def test_every_point_is_killed_at() -> None:
    named = {point for points in POINTS.values() for point in points}
    assert named == {*SYNC_POINTS, "noted", "walked", "unlink:1", "unlink:6", "final"}
    assert set(POINTS) == set(WORK) - {"many", "resume"}


@pytest.mark.parametrize("work", POINTS)
def test_killed_at_each_point(victim: Victim, disk: Path, work: str) -> None:
    for point in POINTS[work]:
        kill = point if ":" in point or point == "final" else f"sync:{point}"
        with killed_at(kill):
            world = World(disk / kill, target_of(work))
            assert victim.does(work, kill, world)
            Aftermath(world, work).resumes()


@pytest.mark.parametrize("work", POINTS)
def test_killed_at_each_note_and_each_answer(victim: Victim, disk: Path, work: str) -> None:
    for what in COUNTED:
        for number in range(1, 20):
            kill = f"{what}:{number}"
            with killed_at(kill):
                world = World(disk / kill, target_of(work))
                killed = victim.does(work, kill, world)
                Aftermath(world, work).resumes()
            if not killed:
                break
        assert 3 <= number < 15, f"{what} {number - 1} times"


SECOND: Final = {
    "tombstone": ("sync:renamed", "unlink:6", "sync:removed", "noted:4"),
    "in-place": ("unlink:6", "noting:4"),
    "limited": ("sync:manifest-synced",),
    "undelete": ("sync:restoring", "sync:put-back"),
    "abandon": ("noting:4",),
}
"""Where a first process was killed, before its successor is killed as well."""

AGAIN: Final = (
    "unlink:1",
    "sync:walked",
    "sync:emptied",
    "sync:ending",
    "final",
    "sync:removed",
    "sync:manifest-removed",
    "sync:put-back",
    "noting:1",
    "noted:1",
    "noted:2",
)


@pytest.mark.parametrize(("work", "first"), [(work, first) for work, points in SECOND.items() for first in points])
def test_killed_again_while_it_goes_on(victim: Victim, disk: Path, work: str, first: str) -> None:
    killed = set()
    for second in AGAIN:
        with killed_at(first, second):
            world = World(disk / second)
            assert victim.does(work, first, world)
            before = Aftermath(world, work)
            if victim.does("resume", second, world):
                killed.add(second)
            after = Aftermath(world, work)
            assert after.whole <= before.whole
            after.resumes()
    assert {"noting:1", "noted:1"} <= killed
    assert work == "abandon" or len(killed) > 2


@pytest.mark.parametrize("work", ["tombstone", "in-place", "undelete"])
def test_killed_before_each_call_that_changes_the_disk(victim: Victim, disk: Path, work: str) -> None:
    for count in range(1, MOST_CALLS, 3):
        with killed_at(f"call:{count}"):
            world = World(disk / str(count))
            killed = victim.does(work, f"call:{count}", world)
            # What goes on from there is killed, too, each time somewhere else.
            victim.does("resume", f"call:{1 + count * 5 % 29}", world)
            Aftermath(world, work).resumes()
        if not killed:
            break
    else:
        pytest.fail("it never came to an end")
    assert count > 30


def spoil(path: Path, how: str) -> None:
    """Have the file be what no crash of ours leaves, but a bad disk can."""
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        spoilt = {"empty": b"", "torn": data[: len(data) // 2], "flipped": bytes([*data[:-1], data[-1] ^ 1])}
        path.write_bytes(spoilt[how])


@pytest.mark.parametrize("how", ["missing", "empty", "torn", "flipped"])
@pytest.mark.parametrize("kill", ["sync:renamed", "sync:noted", "unlink:3", "sync:ending"])
def test_a_tree_without_a_manifest_is_left_alone(victim: Victim, disk: Path, kill: str, how: str) -> None:
    world = World(disk)
    assert victim.does("tombstone", kill, world)
    [job] = world.noted()
    grave = world.area / "acme" / job
    [manifest] = grave.glob("manifest*")
    spoil(manifest, how)
    before = look(world.area)
    for _ in range(2):
        with world.jobs() as jobs:
            [quarantined] = jobs.quarantined
            assert world.root / os.fsdecode(quarantined.place) == grave
            report = jobs.report("acme", job)
            assert report.progress.state == "failed"
            assert report.progress.finished > 0
            assert world.root / os.fsdecode(report.left_at) == grave
            assert quarantined.reason in report.error
            for verb in (jobs.undelete, jobs.resume, jobs.cancel):
                with pytest.raises(BusError) as refused:
                    verb("acme", job)
                assert refused.value.code == Code.DELETION_JOB_STATE
            settle(jobs)
        assert look(world.area) == before
        world.check_others()


@pytest.mark.parametrize("how", ["missing", "empty", "torn", "flipped"])
@pytest.mark.parametrize("kill", ["sync:renamed", "unlink:3", "sync:removed"])
def test_a_job_goes_on_by_its_tombstone_when_its_record_is_lost(
    victim: Victim, disk: Path, kill: str, how: str
) -> None:
    world = World(disk)
    assert victim.does("tombstone", kill, world)
    [job] = world.noted()
    spoil(world.state / f"{job}.job", how)
    (world.state / f"{job}.job.new").write_bytes(b"begun and")
    for _ in range(2):
        with world.jobs() as jobs:
            report = jobs.report("acme", job)
            assert (report.progress.state, report.progress.path) == ("done", b"jobs/old")
            assert report.proof is not None
            assert report.progress.removed <= len(world.tree)
            assert jobs.quarantined == []
        assert not os.path.lexists(world.place)
        assert world.left() == []
        assert not list(world.state.glob("*.new"))
        world.check_others()
    # One bit may leave it a record, if not the same; nothing is put aside for nothing.
    assert how == "flipped" or len(list(world.state.glob("*.broken"))) == (how != "missing")


def test_what_is_not_whole_is_not_undeleted(victim: Victim, disk: Path) -> None:
    world = World(disk)
    assert victim.does("tombstone", "unlink:3", world)
    [job] = world.noted()
    for _ in range(2):  # what is not known of it is not forgotten, either
        with open_roots(world.root) as roots, Jobs(roots, world.state, adaptive=False, recover=False) as jobs:
            assert jobs.progress("acme", job).state == "paused"
            with pytest.raises(BusError) as refused:
                jobs.undelete("acme", job)
            assert refused.value.code == Code.DELETION_JOB_STATE
    with open_roots(world.root) as roots, Jobs(roots, world.state, adaptive=False, recover=False) as jobs:
        jobs.cancel("acme", job, "restore")
        assert world.place.exists()
        assert world.left() == []
    world.check_others()


def test_what_the_walk_had_moved_is_put_back_and_named(victim: Victim, disk: Path) -> None:
    for count in range(6, 40):
        world = World(disk / str(count))
        assert victim.does("tombstone", f"unlink:{count}", world), "nothing was ever moved out of its place"
        [job] = world.noted()
        moved = os.listdir(world.area / "acme" / job / "hoist")
        if moved:
            break
    with open_roots(world.root) as roots, Jobs(roots, world.state, adaptive=False, recover=False) as jobs:
        jobs.cancel("acme", job, "restore")
        report = jobs.report("acme", job)
    assert os.listdir(world.place / os.fsdecode(report.recovered)) == moved
    assert world.left() == []
    world.check_others()
    # And the next job takes that, too.
    with open_roots(world.root) as roots, Jobs(roots, world.state, adaptive=False) as jobs:
        again = jobs.submit("acme", JobRequest(root="data", path=b"jobs/old")).job
        settle(jobs)
        assert jobs.progress("acme", again).state == "done"
    assert not world.place.exists()
    world.check_others()


def test_what_cannot_be_put_back_after_a_crash_is_kept_until_it_can_be(victim: Victim, disk: Path) -> None:
    world = World(disk)
    assert victim.does("undelete", "sync:restoring", world)
    [job] = world.noted()
    world.place.mkdir()
    for _ in range(2):
        with world.jobs() as jobs:
            report = jobs.report("acme", job)
            assert report.progress.state in {"failed", "cancelled"}
            assert world.where() == world.root / os.fsdecode(report.left_at) / "tree"
            assert list(world.place.iterdir()) == []
            with pytest.raises(BusError) as refused:
                jobs.cancel("acme", job, "restore")
            assert refused.value.code == Code.DELETION_CHANGED
    world.place.rmdir()
    with world.jobs() as jobs:
        assert jobs.progress("acme", job).state == "cancelled"
        assert world.where() == world.place
    assert world.left() == []
    world.check_others()


def test_something_new_at_the_place_is_not_touched(victim: Victim, disk: Path) -> None:
    for kill in ("sync:renamed", "unlink:3", "sync:removed"):
        with killed_at(kill):
            world = World(disk / kill)
            assert victim.does("tombstone", kill, world)
            world.place.mkdir()
            (world.place / "new").write_bytes(b"new")
            new = look(world.place)
            with world.jobs() as jobs:
                assert [each.progress.state for each in reports(jobs).values()] == ["done"]
            assert look(world.place) == new
            assert world.left() == []
            world.check_others()


def forest(root: Path) -> None:
    """A tree for each job of the work "many", all alike, and as many that nobody asked to delete."""
    for tenant in (*TENANTS, "mine"):
        for number in range(MANY):
            tree = root / tenant / str(number)
            (tree / "sub").mkdir(parents=True)
            for file in range(12):
                (tree / f"{file}").write_bytes(b"1")
            (tree / "sub" / "file").write_bytes(b"2")
            (tree / "sub" / "link").symlink_to(root / "mine")


FILES_OF_ONE, DIRECTORIES_OF_ONE = 14, 2


@pytest.mark.parametrize("seed", range(20))
def test_killed_at_any_moment(victim: Victim, disk: Path, seed: int) -> None:
    chance = random.Random(seed)
    world = World(disk, "mine/0", forest)
    mine = look(world.root / "mine")
    places = [(tenant, str(number)) for tenant in TENANTS for number in range(MANY)]
    trees = {(tenant, place): look(world.root / tenant / place) for tenant, place in places}
    victim.does("many", f"after:{chance.uniform(0.005, 0.35):.3f}", world)
    for _ in range(chance.randrange(3)):
        victim.does("resume", f"after:{chance.uniform(0.005, 0.15):.3f}", world)
    told, noted = world.acked(), world.noted()
    with world.jobs() as jobs:
        found = reports(jobs)
    assert set(told) <= set(found)
    for job, report in found.items():
        progress = report.progress
        assert progress.state == "done", report
        assert report.proof is not None
        assert progress.finished > 0
        assert progress.files <= FILES_OF_ONE
        assert progress.directories <= DIRECTORIES_OF_ONE
        if job in noted:
            assert progress.files >= noted[job].files
            assert progress.directories >= noted[job].directories
            if noted[job].state in FINAL:
                assert progress.removed == noted[job].files + noted[job].directories
        tenant, number = os.fsdecode(progress.path).split("/")
        assert tenant == progress.tenant
        assert not (world.root / progress.tenant / number).exists()
        del trees[tenant, number]
    for (tenant, place), tree in trees.items():  # those that it did not come to
        assert look(world.root / tenant / place) == tree
    assert look(world.root / "mine") == mine
    assert world.left() == []
    with world.jobs() as jobs:
        assert reports(jobs) == found


BIG_DIRECTORIES, BIG_FILES = 20, 1000


def big(root: Path) -> None:
    """20,000 files to be deleted, and a few beside them."""
    plant(root)
    for directory in range(BIG_DIRECTORIES):
        (root / "big" / f"{directory}").mkdir(parents=True)
        for file in range(BIG_FILES):
            os.close(os.open(root / "big" / f"{directory}" / f"{file}", os.O_WRONLY | os.O_CREAT))


def test_the_component_is_killed_twice_in_the_middle_of_a_big_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = World(tmp_path / "disk", "big", big)
    settings = f'[config]\nstate = "{here.state}"\nadaptive = false\n\n[[config.roots]]\nid = "data"\n'
    (tmp_path / "deletion.toml").write_text(f'{settings}path = "{here.root}"\n')

    async def main() -> None:
        killed: set[int] = set()
        async with world(tmp_path, None) as node:
            await node.admin("start", "deletion")
            async with attach(Deletion, bus=node.bus, where="bus") as deletion:
                row = await node.ready("deletion")
                job = (await deletion.submit(root="data", path=b"big", files_per_second=8000)).job
                for _ in range(2):
                    before = (await deletion.report(job)).progress
                    while (now := (await deletion.report(job)).progress).removed < before.removed + 1000:
                        assert now.state in {"queued", "running"}
                        await asyncio.sleep(0.02)
                    os.kill(row["pid"], signal.SIGKILL)
                    killed.add(row["pid"])
                    row = await node.until(lambda row: row["state"] == "ready" and row["pid"] not in killed, "deletion")
                    here.check_others()
                assert (await deletion.report(job)).request.files_per_second == 8000
                await deletion.change(job, unlimited=True)
                while (report := await deletion.report(job)).progress.state != "done":
                    assert report.progress.state in {"queued", "running"}, report
                    await asyncio.sleep(0.02)
        progress = report.progress
        assert report.proof is not None
        assert report.proof.gone
        assert progress.attempts == 3
        assert 0 < progress.files <= here.files
        assert progress.directories <= here.directories

    run(main, monkeypatch)
    assert not here.place.exists()
    assert here.left() == []
    here.check_others()
