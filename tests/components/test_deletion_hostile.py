"""While somebody plays with the tree for all they are worth, a walk touches nothing outside of it, and ends.

``BUSD_ATTACK_SECONDS`` says how long the attacks last in all, by default 60.
"""

import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from busd.components.deletion.area import Area
from busd.components.deletion.entry import Entry
from busd.components.deletion.gate import OpenGate
from busd.components.deletion.newcomers import Newcomers
from busd.components.deletion.options import WalkOptions
from busd.components.deletion.system import born
from busd.components.deletion.tally import Counts
from busd.components.deletion.target import resolve
from busd.components.deletion.walk import Removal
from busproto.errors import BusError, Code
from tests.components.deletion_world import FLAGS, descriptors
from tests.components.tombstone_world import TENANT, manifest_of, open_root

SECONDS = float(os.environ.get("BUSD_ATTACK_SECONDS", "60"))
SHARES = 8  # tests among which that is divided
SHARE = SECONDS / SHARES
LONGEST_WALK = 30.0
"""Seconds after which a walk that has not ended counts as one that never does; the longest takes about two."""
MOST_LISTINGS = 20_000
"""Listings after which a walk that is attacked counts as one that turns in circles; the longest needs some hundreds."""

OPTIONS = WalkOptions(batch=16, listing=50, depth=3, rescans=3, backoff=0.002)
KINDS = ["leaves", "directories", "moves", "climbs", "feeds", "floods", "digs"]

bounded = pytest.mark.timeout(2 * SHARE + 90)


def grow(tree: Path, mark: str, breadth: int = 3, depth: int = 4) -> None:
    """Directories with files in them: the same names whatever the tree."""
    tree.mkdir()
    for number in range(breadth):
        (tree / f"f{number}").write_text(f"{mark} {number}")
        (tree / f"keep{number}").write_text(mark)
        if depth:
            grow(tree / f"d{number}", mark, breadth, depth - 1)


def fingerprint(directory: Path) -> str:
    """All that can be known of what lies below ``directory``: names, kinds, modes, inodes, links, times, contents."""
    found = hashlib.sha256()
    for here, names, files in os.walk(directory):
        names.sort()
        for name in ["", *sorted(names + files)]:
            path = os.path.join(here, name)
            status = os.lstat(path)
            what = (path, status.st_mode, status.st_ino, status.st_nlink, status.st_size, status.st_mtime_ns)
            found.update(repr((*what, status.st_ctime_ns, status.st_uid)).encode())
            if stat.S_ISREG(status.st_mode):
                found.update(Path(path).read_bytes())
    return found.hexdigest()


def test_a_fingerprint_tells_the_least_change(tmp_path: Path) -> None:
    grow(tmp_path / "one", "x", 2, 1)
    seen = {fingerprint(tmp_path / "one")}
    for change in (
        lambda file: file.write_text("y"),
        lambda file: file.chmod(0o600),
        lambda file: os.link(file, tmp_path / "link"),
        lambda file: os.utime(file, (0, 0)),
        lambda file: file.unlink(),
    ):
        change(tmp_path / "one" / "d1" / "f1")
        seen.add(fingerprint(tmp_path / "one"))
    assert len(seen) == 6


@contextmanager
def attack(base: Path, kinds: list[str], seed: int) -> Iterator[Counter[str]]:
    """Attack while the block runs; afterwards the counter says how often each kind succeeded."""
    script = Path(__file__).with_name("deletion_attacker.py")
    words = [sys.executable, str(script), str(seed), str(base), *kinds]
    done: Counter[str] = Counter()
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield done
            said, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    done.update(json.loads(said))


class Listings:
    """How many directories were listed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        real = os.scandir

        def counted(path: Any) -> Any:
            self.count += 1
            return real(path)

        patch.setattr(os, "scandir", counted)


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listings]:
    with monkeypatch.context() as patch:
        yield Listings(patch)


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """Where it happens; removed with all that the attacker left, which is too deep for Python."""
    place = tmp_path / "base"
    place.mkdir()
    (place / "attic").mkdir()
    (place / "aside").mkdir()
    (place / "plant").mkdir()
    grow(place / "outside", "precious")
    yield place
    (place / "hoist").mkdir(0o700, exist_ok=True)
    walk(place / "tree", place / "hoist", workers=2, slow=0) if (place / "tree").exists() else None
    subprocess.run(["rm", "-rf", str(place)], check=True, timeout=60)


class Slow(OpenGate):
    """A gate that holds each batch up for a while, so that there is time to attack in the middle of a walk."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def enter(self, files: int, size: int) -> None:
        super().enter(files, size)
        time.sleep(self._seconds)


def walk(
    tree: Path,
    hoist: Path | None,
    *,
    workers: int,
    accept: Callable[[Entry], str | None] | None = None,
    options: WalkOptions = OPTIONS,
    slow: float = 0.001,
) -> Counts:
    """One walk that must end by itself, with every entry counted once and no descriptor left."""
    before = descriptors()
    directory = os.open(tree, FLAGS | os.O_NOFOLLOW)
    private = None if hoist is None else os.open(hoist, FLAGS | os.O_NOFOLLOW)
    gate = Slow(slow)
    watchdog = threading.Timer(LONGEST_WALK, gate.cancel)
    watchdog.start()
    try:
        removal = Removal(directory, hoist=private, gate=gate, options=options, accept=accept, workers=workers)
        counts = removal.run().snapshot()  # Cancelled is a failure of the test
    finally:
        watchdog.cancel()
        watchdog.join()
        os.close(directory)
        if private is not None:
            os.close(private)
    assert descriptors() == before
    consistent(counts)
    return counts


def consistent(counts: Counts) -> None:
    outcomes = [*counts.failed.values(), *counts.parked.values(), *counts.spared.values()]
    assert counts.seen == counts.files + counts.directories + counts.held + sum(outcomes)


def keep(entry: Entry) -> str | None:
    return "kept" if entry.name.startswith(b"keep") and not stat.S_ISDIR(entry.mode) else None


@bounded
@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("mode", ["in place", "hoist", "filter"])
def test_nothing_outside_is_touched_and_every_walk_ends(
    base: Path, listings: Listings, mode: str, workers: int
) -> None:
    tree, area = base / "tree", base / "plant" / "hoist"
    area.mkdir(0o700)
    hoist = area if mode == "hoist" else None
    kinds = [*KINDS, "plants"] if mode == "hoist" else KINDS
    accept = keep if mode == "filter" else None
    grow(tree, "worthless")
    before = fingerprint(base / "outside")
    walks = 0
    with attack(base, kinds, seed=workers) as done:
        end = time.monotonic() + SHARE
        while time.monotonic() < end or walks < 2:
            listings.count = 0
            counts = walk(tree, hoist, workers=workers, accept=accept)
            assert listings.count < MOST_LISTINGS
            assert counts.failed == {}
            assert set(counts.parked) <= {"busy", "changed"}
            walks += 1
            # What was put aside must not fill the disk; it is attacked, too.
            consistent(walk(base / "attic", None, workers=workers, slow=0))
            # Made where nobody plays, or it would follow the links itself.
            grow(base / "fresh", "worthless", depth=3)
            os.rename(base / "fresh", tree / f"again{walks}")
    assert fingerprint(base / "outside") == before
    assert min(done[kind] for kind in kinds) > 0, done
    # Left alone, all of it goes.
    counts = walk(tree, hoist, workers=workers, accept=accept, slow=0)
    assert (counts.failed, counts.parked) == ({}, {})
    left = [name for _, _, files in os.walk(tree) for name in files]
    assert all(name.startswith("keep") for name in left)
    if mode != "filter":
        assert os.listdir(tree) == os.listdir(area) == []
    assert fingerprint(base / "outside") == before


FED = WalkOptions(batch=16, listing=100, depth=3, backoff=0.001, newcomers=2000)


@pytest.mark.parametrize("hoisting", [False, True], ids=["in place", "hoist"])
def test_a_chain_that_grows_as_fast_as_it_is_walked_does_not_keep_a_walk(
    base: Path, monkeypatch: pytest.MonkeyPatch, hoisting: bool
) -> None:
    tree, hoist, real = base / "tree", base / "hoist", os.scandir
    hoist.mkdir(0o700)
    grow(tree, "worthless", 2, 2)
    time.sleep(0.02)  # the clock of the file system is that of the last tick
    inner = {path.stat().st_ino for path in (tree, hoist)}

    def fed(path: Any) -> Any:
        if isinstance(path, int) and os.fstat(path).st_ino not in inner:
            with suppress(OSError):
                os.mkdir("deeper", dir_fd=path)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", fed)
        counts = walk(tree, hoist if hoisting else None, workers=2, options=FED, slow=0)
    # One in 256 is looked at; from 2000 on each new one is, and stays.
    assert counts.parked.keys() == {"busy"}
    assert counts.seen < 2000 + 2 * 256 + 100
    assert counts.failed == {}
    # Those that were there are walked to the end all the same.
    assert counts.files == 7 * 4
    assert walk(tree, hoist if hoisting else None, workers=2, options=FED, slow=0).parked == {}
    assert os.listdir(tree) == []


@pytest.mark.parametrize("hoisting", [False, True], ids=["in place", "hoist"])
def test_a_listing_that_never_ends_does_not_keep_a_walk(
    base: Path, monkeypatch: pytest.MonkeyPatch, hoisting: bool
) -> None:
    tree, hoist, real = base / "tree", base / "hoist", os.scandir
    hoist.mkdir(0o700)
    grow(tree, "worthless", 2, 2)
    (tree / "fed").mkdir()
    fed_inode, made = (tree / "fed").stat().st_ino, Counter[str]()
    time.sleep(0.02)

    class Endless(Iterator[os.DirEntry[str]]):
        def __init__(self, fd: int) -> None:
            self._fd = fd
            self._inner = real(fd)

        def __next__(self) -> os.DirEntry[str]:
            while True:
                entry = next(self._inner, None)
                if entry is not None:
                    return entry
                self.close()
                for _ in range(100):
                    made["files"] += 1
                    os.close(os.open(f"fed{made['files']}", os.O_CREAT | os.O_WRONLY, dir_fd=self._fd))
                self._inner = real(self._fd)

        def close(self) -> None:
            self._inner.close()

    def fed(path: Any) -> Any:
        return Endless(path) if isinstance(path, int) and os.fstat(path).st_ino == fed_inode else real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", fed)
        counts = walk(tree, hoist if hoisting else None, workers=2, options=FED, slow=0)
    assert counts.parked == {"busy": 1}
    assert [(stay.path, stay.reason) for stay in counts.stays] == [(b"fed", "busy")]
    assert made["files"] <= 2000 + 2 * 256 + 200
    assert (counts.failed, counts.held) == ({}, 0)
    assert os.listdir(tree) == ["fed"]


def test_what_was_there_before_is_no_newcomer_however_much_it_is(base: Path) -> None:
    tree = base / "tree"
    grow(tree, "worthless", 4, 4)
    time.sleep(0.02)
    counts = walk(tree, None, workers=2, options=WalkOptions(listing=10, batch=5, newcomers=0), slow=0)
    assert (counts.parked, os.listdir(tree)) == ({}, [])


@pytest.mark.parametrize("known", [True, False], ids=["born", "written"])
def test_when_something_was_made_is_not_for_its_owner_to_say(
    base: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    tree = base / "tree"
    (tree / "old").mkdir(parents=True)
    time.sleep(0.02)
    newcomers = Newcomers(limit=0)
    time.sleep(0.02)
    (tree / "new").mkdir()
    (tree / "forged").mkdir()
    os.utime(tree / "forged", (1, 1))
    fds = {name: os.open(tree / name, FLAGS) for name in ("old", "new", "forged")}
    try:
        if born(fds["old"]) is None:
            pytest.skip("this file system does not know when something was made")
        if not known:
            monkeypatch.setattr("busd.components.deletion.newcomers.born", lambda *_: None)
        assert {name: newcomers.new(fd) for name, fd in fds.items()} == {"old": False, "new": True, "forged": known}
    finally:
        for fd in fds.values():
            os.close(fd)


class Held(Slow):
    """A gate that is shut until the test opens it."""

    def __init__(self) -> None:
        super().__init__(0)
        self.reached = threading.Event()
        self.open = threading.Event()

    def enter(self, files: int, size: int) -> None:
        self.reached.set()
        assert self.open.wait(30)
        super().enter(files, size)


@contextmanager
def halted(tree: Path, hoist: Path | None = None, options: WalkOptions = OPTIONS) -> Iterator[list[Counts]]:
    """A walk that stands before its first batch while the block runs, and is done afterwards."""
    gate, found = Held(), list[Counts]()
    directory = os.open(tree, FLAGS)
    private = None if hoist is None else os.open(hoist, FLAGS)
    removal = Removal(directory, hoist=private, gate=gate, options=options, workers=1)
    thread = threading.Thread(target=lambda: found.append(removal.run().snapshot()))
    thread.start()
    try:
        assert gate.reached.wait(10)
        yield found
    finally:
        gate.open.set()
        thread.join(30)
        os.close(directory)
        if private is not None:
            os.close(private)
    consistent(found[0])


@pytest.mark.parametrize("hoisting", [False, True], ids=["in place", "hoist"])
def test_a_directory_that_is_moved_up_leads_nowhere(base: Path, hoisting: bool) -> None:
    """CVE-2002-0435: the walk is deep down when its directory is moved to where ".." is not what it was."""
    tree, hoist = base / "tree", base / "hoist"
    hoist.mkdir(0o700)
    (tree / "a" / "b" / "c").mkdir(parents=True)
    (tree / "a" / "b" / "c" / "file").touch()
    (base / "outside" / "a").mkdir()
    before = fingerprint(base / "outside")
    with halted(tree, hoist if hoisting else None, WalkOptions(depth=9)) as found:
        os.rename(tree / "a" / "b" / "c", base / "attic" / "c")
    assert fingerprint(base / "outside") == before
    assert os.listdir(tree) == []
    assert os.listdir(base / "attic" / "c") == []  # the file was in the tree when the walk came to it
    assert (found[0].files, found[0].directories) == (1, 2)


def test_what_is_moved_out_under_the_walk_is_told_and_holds_nothing_up(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directories that were closed to make room and are no longer there when they are to be opened again."""
    tree = base / "tree"
    monkeypatch.setattr("busd.components.deletion.walk.budget", lambda workers: 4)
    (tree / "x" / "/".join("d" * 30)).mkdir(parents=True)
    (tree / "x" / "/".join("d" * 30) / "file").touch()
    with halted(tree) as found:
        os.rename(tree / "x" / "d" / "d", base / "attic" / "d")
    assert found[0].parked.keys() == {"changed"}  # one for each directory that was out of reach
    assert (found[0].failed, found[0].held) == ({}, 0)
    assert os.listdir(tree) == []
    assert (base / "attic" / "d").is_dir()


def test_what_takes_the_place_of_a_directory_is_removed_for_itself(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name leads to a link to what is outside, or to another directory, by the time it is opened again."""
    tree = base / "tree"
    before = fingerprint(base / "outside")
    for what in ("link", "directory"):
        monkeypatch.setattr("busd.components.deletion.walk.budget", lambda workers: 4)
        (tree / "x" / "/".join("d" * 30)).mkdir(parents=True)
        (tree / "x" / "/".join("d" * 30) / "file").touch()
        with halted(tree) as found:
            os.rename(tree / "x" / "d", base / "attic" / what)
            if what == "link":
                (tree / "x" / "d").symlink_to(base / "outside")
            else:
                (tree / "x" / "d" / "new").mkdir(parents=True)
        assert found[0].parked.keys() == {"changed"}
        assert (found[0].failed, found[0].held) == ({}, 0)
        assert os.listdir(tree) == []
    assert fingerprint(base / "outside") == before


# Whole jobs.


def bury_and_remove(base: Path, job: str) -> str:
    """One job as a node does it, from the path to the end; what came of it."""
    root = open_root(base / "root")
    try:
        with resolve(root, b"jobs/old") as target:
            tombstone = Area.open(root, TENANT).bury(target, manifest_of(target, job))
        with tombstone:
            directory, hoist = tombstone.directory, tombstone.hoist
            if directory is not None:
                gate = Slow(0.0002)
                watchdog = threading.Timer(LONGEST_WALK, gate.cancel)
                watchdog.start()
                try:
                    consistent(Removal(directory, hoist=hoist, gate=gate, options=OPTIONS).run().snapshot())
                finally:
                    watchdog.cancel()
                    watchdog.join()
            proof = tombstone.finish()
            assert proof.gone
            return "done"
    except BusError as failed:
        return Code(failed.code).name
    finally:
        root.close()


def put(base: Path, number: int) -> None:
    """A new tree at ``root/jobs/old``, if there is none; not where ``jobs`` happens to lead at the moment."""
    fresh = base / f"fresh{number}"
    grow(fresh, "worthless", 2, 2)
    root = os.open(base / "root", FLAGS)
    try:
        jobs = os.open("jobs", FLAGS | os.O_NOFOLLOW, dir_fd=root)
        try:
            os.rename(fresh, "old", dst_dir_fd=jobs)
        finally:
            os.close(jobs)
    except OSError:
        os.rename(fresh, base / "attic" / fresh.name)
    finally:
        os.close(root)


@bounded
@pytest.mark.slow
@pytest.mark.parametrize("others", [["root"], ["root", "root", "plants"]], ids=["the way to it", "and in the area"])
def test_a_whole_job_touches_only_its_target(base: Path, others: list[str]) -> None:
    root = base / "root"
    root.mkdir()
    (root / "jobs").mkdir()
    (root / "other").mkdir()
    grow(root / "beside", "precious")
    (root / "beside" / "old").symlink_to("d0")
    grow(base / "outside" / "jobs", "precious")
    grow(base / "outside" / "old", "precious")
    grow(base / "outside" / "jobs" / "old", "precious")
    if "plants" in others:
        os.symlink(root / ".busd-tombstones" / TENANT, base / "plant" / "area")
    before = fingerprint(base / "outside"), fingerprint(root / "beside")
    outcomes = Counter[str]()
    descriptors_before = descriptors()
    with attack(base, others, seed=7) as done:
        end = time.monotonic() + SHARE
        number = 0
        while time.monotonic() < end or len(outcomes) < 2:
            number += 1
            put(base, number)
            outcomes[bury_and_remove(base, f"job-{number}")] += 1
            walk(base / "attic", None, workers=2, slow=0)
    assert (fingerprint(base / "outside"), fingerprint(root / "beside")) == before
    assert descriptors() == descriptors_before
    assert outcomes["done"] > 0
    assert set(outcomes) <= {"done", "DELETION_REFUSED", "DELETION_CHANGED", "DELETION_FAILED"}
    assert done["root"] > 0
    # What failed midway is known, and those that are buried go.
    with closing(open_root(root)) as opened:
        for tombstone in Area.open(opened, TENANT).scan():
            with tombstone:
                if tombstone.state == "buried":
                    assert tombstone.directory is not None
                    Removal(tombstone.directory, hoist=tombstone.hoist, gate=OpenGate()).run()
                    assert tombstone.finish().gone
                else:
                    # "quarantined": something else was taken away, and its place was no longer there to put it back to.
                    assert "plants" in others or tombstone.state in {"gone", "not-begun", "done", "quarantined"}
    assert (fingerprint(base / "outside"), fingerprint(root / "beside")) == before
