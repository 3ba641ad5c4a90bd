"""What the tests of deletion jobs and kill -9 share: a victim, and a root with a tree to delete amid what must stay."""

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from busd.components.deletion.jobs import Jobs
from busd.components.deletion.progress import FINAL, Report
from busd.components.deletion.record import Record
from busd.components.deletion.target import TOMBSTONES
from tests.fault import deletion_victim
from tests.fault.deletion_victim import Order, open_roots, settled

DEEP: Final = 10
"""Levels of the tree: more than the walk keeps in their place."""

FILES: Final = 4
"""Of each kind in the tree."""

SECONDS: Final = 20.0
"""Nothing here takes longer than this unless it is broken."""

Picture = dict[bytes, tuple[int, int, int, bytes]]


class Victim:
    """A process that does as it is told, and is killed in the middle of it."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def does(self, work: str, kill: str, world: "World") -> bool:
        """Let it do ``work`` and be killed at ``kill``; whether it was."""
        order = Order(work, kill, str(world.root), str(world.state), str(world.acks))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        assert answer in {b"killed", b"done"}, answer
        return answer == b"killed"


@contextmanager
def a_victim() -> Iterator[Victim]:
    """A victim, which is gone afterwards."""
    home = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{home}:{home / 'schemas'}:{home / 'clients'}"}
    command = [sys.executable, deletion_victim.__file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        try:
            yield Victim(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                assert process.wait(SECONDS) == 0
            finally:
                process.kill()


def look(directory: Path, skip: Iterable[Path] = ()) -> Picture:
    """``directory`` and what lies below it, but ``skip``: mode, owner, inode, and content or where a link leads."""
    left_out = {os.fsencode(path) for path in skip}
    found: Picture = {}

    def add(path: bytes) -> None:
        if path in left_out:
            return
        status = os.lstat(path)
        content = b""
        if stat.S_ISREG(status.st_mode):
            content = Path(os.fsdecode(path)).read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        name = os.path.relpath(path, os.fsencode(directory))
        found[name] = (status.st_mode, status.st_uid, status.st_ino, content)
        if stat.S_ISDIR(status.st_mode):
            for below in os.listdir(path):
                add(os.path.join(path, below))

    add(os.fsencode(directory))
    return found


def plant(root: Path) -> None:
    """``jobs/old`` and ``jobs/single``, to be deleted; and beside them what is like them, and what links of theirs lead
    to.
    """
    (root / "outside").mkdir(parents=True)
    (root / "outside" / "precious").write_bytes(b"outside")
    (root / "outside" / "precious").chmod(0o600)
    for tree in ("jobs/old", "jobs/older"):
        place = root / tree
        deep = place.joinpath(*["d"] * DEEP)
        deep.mkdir(parents=True)
        for number in range(FILES):
            (place / f"drop-{number}").write_bytes(b"drop")
            (place / f"keep-{number}").write_bytes(b"k")
        (deep / "drop").write_bytes(b"deep")
        (place / "empty").mkdir(mode=0o750)
        (place / "link").symlink_to(root / "outside")
        os.link(root / "outside" / "precious", place / "second-name")
        (root / f"{tree}-file").write_bytes(tree.encode())
    (root / "old").mkdir()
    for name in ("single", "singles"):
        (root / "jobs" / name).write_bytes(b"alone")


class World:
    """A root, what is to be deleted there, and what is to stay as it is whatever happens.

    Attributes:
        tree: what is to be deleted, as it was.
        files, directories: how many of them there are in it.
    """

    def __init__(self, directory: Path, target: str = "jobs/old", planting: Callable[[Path], None] = plant) -> None:
        self.root, self.state, self.acks = directory / "root", directory / "state", directory / "acks"
        directory.mkdir(exist_ok=True)
        planting(self.root)
        self.place = self.root / target
        self.area = self.root / os.fsdecode(TOMBSTONES)
        self.tree = look(self.place)
        self.directories = sum(1 for mode, *_ in self.tree.values() if stat.S_ISDIR(mode))
        self.files = len(self.tree) - self.directories
        self._others = self._beside()

    def _beside(self) -> Picture:
        return look(self.root, [self.place, self.area])

    def check_others(self) -> None:
        """What nobody asked to delete is as it was."""
        assert self._beside() == self._others

    def where(self) -> Path | None:
        """Where the tree is, whole; None if it is not whole anywhere."""
        for place in (self.place, *self.area.glob("*/*/tree")):
            if os.path.lexists(place) and look(place) == self.tree:
                return place
        return None

    def left(self) -> list[str]:
        """What lies where jobs keep what they delete."""
        names: list[str] = []
        if self.area.exists():
            names = [str(path.relative_to(self.area)) for tenant in self.area.iterdir() for path in tenant.iterdir()]
        return sorted(names)

    def acked(self) -> dict[str, list[str]]:
        """What the victim's caller was told, of each job."""
        told: dict[str, list[str]] = {}
        for line in self.acks.read_text().splitlines() if self.acks.exists() else ():
            job, what = line.split(" ")
            told.setdefault(job, []).append(what)
        return told

    def noted(self) -> dict[str, Record]:
        """What is in the journal."""
        files = self.state.glob("*.job")
        return {file.stem: msgspec.msgpack.decode(file.read_bytes(), type=Record) for file in files}

    @contextmanager
    def jobs(self) -> Iterator[Jobs]:
        """The jobs of the process that comes after the victim, settled."""
        with open_roots(self.root) as roots, Jobs(roots, self.state, adaptive=False) as jobs:
            settle(jobs)
            yield jobs


def settle(jobs: Jobs) -> None:
    """Return when nothing of the jobs changes any more."""
    end = time.monotonic() + SECONDS
    for progress in jobs.list("node", all=True, limit=1000):
        while not settled(report := jobs.report("node", progress.job)):
            assert time.monotonic() < end, report
            jobs.wait("node", progress.job, 0.01)
        if report.progress.state in FINAL:
            jobs.wait("node", progress.job, SECONDS)  # until its thread has done with it, too


def reports(jobs: Jobs) -> dict[str, Report]:
    """Those of all jobs."""
    return {each.job: jobs.report("node", each.job) for each in jobs.list("node", all=True, limit=1000)}
