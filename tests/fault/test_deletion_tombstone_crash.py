"""Tombstones and kill -9: at each named point, and before each single call that changes the disk.

Afterwards a tree is whole at its place, or it is in its tombstone with a valid manifest, or it is wholly gone; nothing
outside was touched; and however often recovery is done, and cut off itself, it ends the same.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from busd.components.deletion.area import Area
from busd.components.deletion.target import TOMBSTONES
from busd.components.deletion.tombstone import SYNC_POINTS, State
from tests.components.tombstone_world import TENANT, bury, grave_of, open_root, picture, plant
from tests.fault import tombstone_victim

MOST_CALLS = 200
"""A whole life has some forty calls that change the disk; a sweep that does not end there is broken."""


class Victim:
    """A process that does as it is told, and is killed in the middle of it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def does(self, work: str, kill: str, directory: Path) -> bool:
        """Let it do ``work`` and be killed at ``kill``; whether it was."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{work} {kill} {directory}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        assert answer in {"killed", "done"}, answer
        return answer == "killed"


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    home = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{home}:{home / 'schemas'}:{home / 'clients'}"}
    process = subprocess.Popen(
        [sys.executable, tombstone_victim.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    with process:
        try:
            yield Victim(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                assert process.wait(10) == 0
            finally:
                process.kill()


class World:
    """A root with a tree to delete, and what must stay as it is."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        open_root(directory).close()
        plant(directory)
        self.place = directory / "jobs" / "old"
        self.inode = self.place.stat().st_ino
        self._tree = picture(self.place)
        self._outside = self._beside()

    def _beside(self) -> list[str]:
        return [picture(self.directory / name) for name in ("beside", "outside")]

    @property
    def whole(self) -> bool:
        """Whether the tree is at its place as it was."""
        return self.place.exists() and (self.place.stat().st_ino, picture(self.place)) == (self.inode, self._tree)

    def check(self) -> State | None:
        """What must hold at any moment. The state of the tombstone; None if there is none."""
        assert self._beside() == self._outside
        assert (self.directory / "jobs" / "single").read_bytes() == b"alone"
        # Not "in part": either nothing is at the place, or all of it.
        assert self.whole or not self.place.exists()
        root = open_root(self.directory)
        try:
            found = Area(root, TENANT).scan()
            assert len(found) <= 1
            for tombstone in found:
                with tombstone:
                    self._check_state(tombstone.state)
                    assert tombstone.manifest.inode == self.inode
                    assert tombstone.manifest.path == b"jobs/old"
                    if tombstone.state == "buried":
                        assert os.fstat(tombstone.directory or -1).st_ino == self.inode
                return tombstone.state
            return None
        finally:
            root.close()

    def _check_state(self, state: State) -> None:
        assert state in {"buried", "restoring", "not-begun", "done", "restored"}
        assert self.whole == (state in {"not-begun", "restored"})

    def buried_whole(self) -> bool:
        """Whether the tree in the tombstone is as it was."""
        root = open_root(self.directory)
        try:
            return picture(grave_of(root) / "tree") == self._tree
        finally:
            root.close()

    def ended(self) -> None:
        """Recovery is over: nothing is left to do, and nothing of it is left."""
        assert self.check() is None
        area = self.directory / os.fsdecode(TOMBSTONES) / TENANT
        assert not area.exists() or os.listdir(area) == []


AFTER_A_KILL: dict[str, State | None] = {
    "manifest-written": None,
    "manifest-synced": "not-begun",
    "renamed": "buried",
    "parents-synced": "buried",
    "emptied": "buried",
    "ending": "buried",
    "removed": "done",
    "manifest-removed": None,
    "restoring": "restoring",
    "put-back": "restored",
}


def test_every_point_is_killed_at() -> None:
    assert set(AFTER_A_KILL) == set(SYNC_POINTS)


@pytest.mark.parametrize("point", SYNC_POINTS)
def test_killed_at_a_named_point(victim: Victim, tmp_path: Path, point: str) -> None:
    world = World(tmp_path / "root")
    work = "restore" if point in {"restoring", "put-back"} else "delete"
    assert victim.does(work, point, world.directory)
    for _ in range(2):  # looking changes nothing
        assert world.check() == AFTER_A_KILL[point]
    if point in {"renamed", "parents-synced", "restoring"}:
        assert world.buried_whole()
    before = world.whole
    for _ in range(2):
        assert not victim.does("recover", "never", world.directory)
        world.ended()
        assert world.whole == (before or point == "restoring")


@pytest.mark.parametrize("first", ["renamed", "emptied", "ending", "removed", "restoring", "put-back"])
def test_killed_again_at_each_point_of_the_recovery(victim: Victim, tmp_path: Path, first: str) -> None:
    work = "restore" if first in {"restoring", "put-back"} else "delete"
    for second in SYNC_POINTS[4:]:
        world = World(tmp_path / second)
        assert victim.does(work, first, world.directory)
        victim.does("recover", second, world.directory)
        world.check()
        assert not victim.does("recover", "never", world.directory)
        world.ended()
        assert world.whole == (work == "restore")


@pytest.mark.parametrize("work", ["delete", "restore"])
def test_killed_before_each_call_that_changes_the_disk(victim: Victim, tmp_path: Path, work: str) -> None:
    seen: set[State | None] = set()
    for count in range(1, MOST_CALLS):
        world = World(tmp_path / str(count))
        killed = victim.does(work, str(count), world.directory)
        state = world.check()
        seen.add(state)
        # The recovery is killed, too, each time somewhere else, and then once more before it may end.
        for again in (1 + count * 5 % 17, 1 + count * 3 % 7):
            victim.does("recover", str(again), world.directory)
            world.check()
        assert not victim.does("recover", "never", world.directory)
        world.ended()
        if not killed:
            break
    else:
        pytest.fail("it never came to an end")
    assert count > 20
    assert seen == {None, "not-begun", "buried"} | ({"done"} if work == "delete" else {"restoring", "restored"})
    assert world.whole == (work == "restore")


def test_recovery_leaves_in_quarantine_what_it_does_not_know(victim: Victim, tmp_path: Path) -> None:
    world = World(tmp_path / "root")
    root = open_root(world.directory)
    try:
        bury(root).close()
        grave = grave_of(root)
        (grave / "manifest").write_bytes(b"busd tombstone\n\0 and no more")
        before = picture(grave)
        for kill in ("never", "1", "never"):
            assert not victim.does("recover", kill, world.directory)
            assert picture(grave) == before
        [tombstone] = Area(root, TENANT).scan()
        assert tombstone.state == "quarantined"
    finally:
        root.close()
