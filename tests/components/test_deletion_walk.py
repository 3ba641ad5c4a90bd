"""The walk removes what is there, whatever its shape, counts everything once, and stays small."""

import contextlib
import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busd.components.deletion.cancelled import Cancelled
from busd.components.deletion.entry import Entry
from busd.components.deletion.gate import Gate, OpenGate
from busd.components.deletion.options import WalkOptions
from busd.components.deletion.pool import Pool
from busd.components.deletion.tally import KEPT, LONGEST, Counts, Tally, cut
from busd.components.deletion.walk import Removal
from tests.components.deletion_world import Recorder, descriptors, growth

FLAGS = os.O_RDONLY | os.O_DIRECTORY
QUICK = WalkOptions(backoff=0.001)
DEEPEST = 100_000 if float(os.environ.get("BUSD_ATTACK_SECONDS", "60")) > 60 else 30_000  # the nightly run has time


def walk(
    tree: Path,
    *,
    hoist: bool = False,
    gate: Gate | None = None,
    options: WalkOptions = QUICK,
    accept: Callable[[Entry], str | None] | None = None,
    workers: int = 2,
) -> Counts:
    """Remove what is below ``tree``; checks that every entry is counted once and that no descriptor stays open."""
    area = tree.parent / f"{tree.name}.hoist"
    before = descriptors()
    fd = os.open(tree, FLAGS)
    private = None
    if hoist:
        area.mkdir(0o700, exist_ok=True)
        private = os.open(area, FLAGS)
    try:
        removal = Removal(fd, hoist=private, gate=gate or OpenGate(), options=options, accept=accept, workers=workers)
        counts = removal.run().snapshot()
    finally:
        os.close(fd)
        if private is not None:
            os.close(private)
    assert descriptors() == before
    outcomes = [*counts.failed.values(), *counts.parked.values(), *counts.spared.values()]
    assert counts.seen == counts.files + counts.directories + counts.held + sum(outcomes)
    if hoist and not os.listdir(area):
        area.rmdir()
    return counts


def chain(tree: Path, depth: int, name: bytes = b"d") -> None:
    """Directories in each other, ``depth`` deep, a file in each hundredth and at the end."""
    fd = os.open(tree, FLAGS)
    for level in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, FLAGS, dir_fd=fd)
        if level % 100 == 99 or level == depth - 1:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=below))
        os.close(fd)
        fd = below
    os.close(fd)


def flat(tree: Path, files: int) -> None:
    """Names in one directory. Hard links: ten times as fast to make as files."""
    fd = os.open(tree, FLAGS)
    first = -1
    for number in range(files):
        if number % 30_000 == 0:
            os.close(os.open(f"n{number}", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
            first = number
        else:
            os.link(f"n{first}", f"n{number}", src_dir_fd=fd, dst_dir_fd=fd)
    os.close(fd)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    made.mkdir()
    return made


@pytest.fixture(params=[False, True], ids=["in place", "hoist"])
def hoist(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# What is removed.


def test_an_empty_directory_has_nothing_to_remove(tree: Path, hoist: bool) -> None:
    counts = walk(tree, hoist=hoist)
    assert (counts.seen, tree.exists()) == (0, True)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_tree_goes_and_every_entry_is_counted(tree: Path, hoist: bool, workers: int) -> None:
    for one in range(5):
        for two in range(4):
            (tree / f"{one}" / f"{two}" / "empty").mkdir(parents=True)
            for file in range(7):
                (tree / f"{one}" / f"{two}" / f"{file}").write_text("x")
    counts = walk(tree, hoist=hoist, workers=workers)
    assert (counts.files, counts.directories, counts.seen) == (140, 45, 185)
    assert list(tree.iterdir()) == []


def test_links_go_and_what_they_name_stays(tree: Path, tmp_path: Path, hoist: bool) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (tree / "to-directory").symlink_to(outside)
    (tree / "to-file").symlink_to(outside / "kept")
    (tree / "dangling").symlink_to("nowhere")
    (tree / "loop").symlink_to("loop")
    (tree / "up").symlink_to("..")
    os.link(outside / "kept", tree / "hard")
    counts = walk(tree, hoist=hoist)
    assert (counts.files, counts.directories) == (6, 0)
    assert (outside / "kept").read_text() == "kept"
    assert (outside / "kept").stat().st_nlink == 1


def test_fifos_sockets_and_devices_go_without_being_opened(tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(tree):
        server.bind("socket")
    expected = 2
    with contextlib.suppress(PermissionError):  # devices are for root
        os.mknod(tree / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        expected += 1
    assert walk(tree).files == expected


def test_names_of_all_bytes(tree: Path, hoist: bool) -> None:
    names = [bytes([byte]) for byte in range(1, 256) if byte not in b"/."]
    names += [b"-rf", b"--", b"...", b"a\nb", b"\xff\xfe\x80", "\N{PILE OF POO}".encode(), b"n" * 255, b"\xc3(" * 127]
    base = os.fsencode(tree)
    for kind in (b"file", b"directory"):
        os.mkdir(base + b"/" + kind)
        for name in names:
            if kind == b"file":
                os.close(os.open(b"/".join((base, kind, name)), os.O_CREAT | os.O_WRONLY))
            else:
                os.mkdir(b"/".join((base, kind, name)))
    counts = walk(tree, hoist=hoist)
    assert (counts.files, counts.directories) == (len(names), len(names) + 2)


def test_bytes_are_counted_with_the_last_link(tree: Path, tmp_path: Path) -> None:
    (tree / "one").write_bytes(b"x" * 50_000)
    (tree / "two").write_bytes(b"x" * 50_000)
    os.link(tree / "two", tree / "again")
    (tree / "held").write_bytes(b"x" * 50_000)
    os.link(tree / "held", tmp_path / "outside")
    with open(tree / "sparse", "wb") as sparse:
        sparse.truncate(1 << 40)
    used = [(tree / name).stat().st_blocks * 512 for name in ("one", "two", "sparse")]
    gate = Recorder()
    counts = walk(tree, gate=gate, options=WalkOptions(measure=True))
    assert (counts.files, counts.bytes) == (5, sum(used))
    assert gate.size == used[0] + used[2]  # what is known before


def test_without_measuring_nothing_is_statted(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat(tree, 100)

    def refuse(*_: Any, **__: Any) -> os.stat_result:
        raise AssertionError("a stat")

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        counts = walk(tree)
    assert counts.files == 100


# The filter.


def test_a_filter_spares_and_keeps_the_directories_above(tree: Path) -> None:
    for place in ("a/b/keep", "a/b/go", "a/go", "c/go"):
        (tree / place).parent.mkdir(parents=True, exist_ok=True)
        (tree / place).write_text("")
    asked: list[bytes] = []

    def accept(entry: Entry) -> str | None:
        asked.append(entry.path)
        assert entry.name == entry.path.rsplit(b"/")[-1]
        assert (entry.inode, entry.mode) == (os.lstat(tree / os.fsdecode(entry.path))[1], entry.mode)
        return "wanted" if entry.name == b"keep" else None

    counts = walk(tree, accept=accept)
    assert sorted(str(path.relative_to(tree)) for path in tree.rglob("*")) == ["a", "a/b", "a/b/keep"]
    assert (counts.files, counts.directories, counts.held, counts.spared) == (3, 1, 2, {"wanted": 1})
    assert [(stay.path, stay.reason) for stay in counts.stays] == [(b"a/b/keep", "wanted")]
    assert Counter(asked)[b"a/go"] == 2  # before the gate, and just before it goes
    assert set(asked) == {b"a", b"a/b", b"c", b"a/b/keep", b"a/b/go", b"a/go", b"c/go"}


def test_a_filter_is_asked_about_directories(tree: Path) -> None:
    (tree / "stays" / "goes").mkdir(parents=True)
    counts = walk(tree, accept=lambda entry: "directory" if entry.name == b"stays" else None)
    assert (counts.directories, counts.spared, counts.held) == (1, {"directory": 1}, 0)
    assert os.listdir(tree) == ["stays"]


def test_what_changed_while_the_gate_was_shut_is_asked_about_again(tree: Path) -> None:
    (tree / "same").write_text("old")
    (tree / "other").write_text("old")
    (tree / "fresh").write_text("old")

    def meanwhile() -> None:
        (tree / "fresh").write_text("longer than before")
        (tree / "new").write_text("old")
        os.rename(tree / "new", tree / "other")

    counts = walk(tree, gate=Recorder(first=meanwhile), accept=lambda entry: None if entry.size == 3 else "size")
    assert (counts.files, counts.spared) == (1, {"size": 1, "changed": 1})
    assert sorted(os.listdir(tree)) == ["fresh", "other"]


def test_a_filter_and_a_place_to_rename_into_exclude_each_other(tree: Path) -> None:
    fd = os.open(tree, FLAGS)
    with pytest.raises(ValueError, match="filter"):
        Removal(fd, hoist=fd, gate=OpenGate(), accept=lambda _: None)
    os.close(fd)


# The gate.


@pytest.mark.parametrize("measure", [False, True])
def test_the_gate_is_asked_once_for_each_batch_and_told_of_its_end(tree: Path, hoist: bool, measure: bool) -> None:
    flat(tree, 3000)
    for number in range(10):
        (tree / f"d{number}").mkdir()
        (tree / f"d{number}" / "file").write_text("")
    gate = Recorder()
    counts = walk(tree, hoist=hoist, gate=gate, options=WalkOptions(measure=measure))
    assert sum(gate.batches) == counts.removed == 3020
    assert max(gate.batches) <= 256
    assert len(gate.batches) <= 3020 // 256 + 20
    assert sorted(gate.batches) == sorted(gate.ended)


def test_a_walk_that_is_cancelled_ends_at_a_batch_and_another_goes_on(tree: Path, hoist: bool) -> None:
    flat(tree, 1000)
    chain(tree, 40)
    before = descriptors()
    fd = os.open(tree, FLAGS)
    area = tree.parent / "tree.hoist"
    area.mkdir()
    private = os.open(area, FLAGS) if hoist else None
    removal = Removal(fd, hoist=private, gate=Recorder(cancel_after=3), options=QUICK)
    with pytest.raises(Cancelled):
        removal.run()
    done = removal.tally().removed
    assert 0 < done <= 3 * 256
    os.close(fd)
    if private is not None:
        os.close(private)
    assert descriptors() == before
    counts = walk(tree, hoist=hoist)
    assert done + counts.removed == 1041
    assert os.listdir(tree) == []
    assert not hoist or not area.exists()


# Shapes.


def test_a_hundred_thousand_names_in_one_directory(tree: Path) -> None:
    flat(tree, 100_000)
    assert walk(tree).files == 100_000


def test_a_thousand_directories_of_a_hundred(tree: Path, hoist: bool) -> None:
    for number in range(1000):
        (tree / f"{number}").mkdir()
        flat(tree / f"{number}", 100)
    counts = walk(tree, hoist=hoist)
    assert (counts.files, counts.directories) == (100_000, 1000)


def test_listings_stop_while_many_subdirectories_wait(tree: Path, hoist: bool) -> None:
    for number in range(3000):
        (tree / f"{number}").mkdir()
    flat(tree, 500)
    options = WalkOptions(listing=700)
    counts = walk(tree, hoist=hoist, options=options)
    assert (counts.files, counts.directories) == (500, 3000)


CHAIN = """
import os, resource, sys, threading
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
sys.setrecursionlimit(100)
from busd.components.deletion.gate import OpenGate
from busd.components.deletion.walk import Removal
depth, hoist = int(sys.argv[1]), sys.argv[2] == "hoist"
os.mkdir("tree"), os.mkdir("area")
tree = fd = os.open("tree", os.O_RDONLY)
for level in range(depth):
    os.mkdir("d", dir_fd=fd)
    below = os.open("d", os.O_RDONLY, dir_fd=fd)
    if fd != tree:
        os.close(fd)
    fd = below
os.close(os.open("end", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
os.close(fd)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
area = os.open("area", os.O_RDONLY)
tally = Removal(tree, hoist=area if hoist else None, gate=OpenGate()).run()
print(tally.files, tally.directories, tally.seen, len(os.listdir("tree")), len(os.listdir("area")))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    ("depth", "where"),
    [
        (3000, "hoist"),
        (3000, "place"),
        pytest.param(10_000, "place", marks=pytest.mark.slow),
        pytest.param(DEEPEST, "hoist", marks=pytest.mark.slow),
    ],
)
def test_a_chain_needs_few_descriptors_and_no_recursion(tmp_path: Path, depth: int, where: str) -> None:
    words = run_python(CHAIN, tmp_path, str(depth), where).split()
    assert words[:5] == ["1", str(depth), str(depth + 1), "0", "0"]
    assert int(words[5]) <= (32 if where == "place" else 8)  # MiB


def run_python(script: str, directory: Path, *arguments: str, user: int | None = None) -> str:
    home = Path(__file__).parents[2]
    paths = [str(home), str(home / "schemas"), str(home / "clients")]
    if user is not None:
        script = f"import os\nos.setgroups([]); os.setgid({user}); os.setuid({user})\n" + script
    # Imports come before the user changes: another user may not be able to read the code.
    head = f"import sys\nsys.path[:0] = {paths!r}\nimport resource, busd.components.deletion.walk\n"
    done = subprocess.run(
        [sys.executable, "-c", head + script, *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_chain_longer_than_any_path(tree: Path, hoist: bool) -> None:
    chain(tree, 60, b"n" * 200)
    counts = walk(tree, hoist=hoist)
    assert (counts.files, counts.directories) == (1, 60)


def test_the_memory_of_a_flat_directory_does_not_grow_with_it(tmp_path: Path) -> None:
    script = """
import os, threading, tracemalloc
from busd.components.deletion.gate import OpenGate
from busd.components.deletion.options import WalkOptions
from busd.components.deletion.walk import Removal

files, workers, late = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "late"
half = threading.Event()

class Gate(OpenGate):
    removed = 0
    def left(self, files_of_batch, seconds):
        self.removed += files_of_batch
        if self.removed >= files // 2:
            half.set()

class Late(threading.Condition):
    # Whoever was woken is not given a processor until the other has removed half of the files.
    def wait(self, timeout=None):
        super().wait(timeout)
        self.release()
        half.wait()
        self.acquire()

fd = os.open("tree", os.O_RDONLY)
tracemalloc.start()
removal = Removal(fd, hoist=None, gate=Gate(), options=WalkOptions(listing=2000), workers=workers)
if late:
    removal._pool._changed = Late()
removal.run()
print(tracemalloc.get_traced_memory()[1])
"""

    def peak(files: int, workers: int, wakes: str = "at once") -> int:
        (tmp_path / "tree").mkdir()
        flat(tmp_path / "tree", files)
        memory = int(run_python(script, tmp_path, str(files), str(workers), wakes))
        (tmp_path / "tree").rmdir()
        return memory

    small = peak(10_000, 1)
    assert peak(40_000, 1) < small * 1.05
    # The second worker has half the names of a listing while the first reads the next: no more, however late it wakes.
    assert peak(40_000, 2) < small * 1.3
    assert peak(40_000, 2, "late") < small * 1.3
    assert small < 1 << 20


@pytest.mark.alone
def test_twice_as_many_names_take_about_twice_as_long(tree: Path) -> None:
    assert growth(lambda names: flat(tree, names), lambda: walk(tree, workers=1)) < 2.6


# Faults.


class Faults:
    """Functions of ``os`` that fail for some names, each as often as it is told."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.calls: Counter[str] = Counter()

    def inject(self, function: str, number: int, name: str, *, times: int = 1_000_000) -> None:
        """Let ``function`` fail with errno ``number`` for ``name``, at its first ``times`` calls for that."""
        real = getattr(os, function)

        def faulty(path: Any, *arguments: Any, **named: Any) -> Any:
            if path == name:
                self.calls[function] += 1
                if self.calls[function] <= times:
                    raise OSError(number, os.strerror(number))
            return real(path, *arguments, **named)

        self._patch.setattr(os, function, faulty)

    def end(self) -> None:
        """Let everything work again."""
        self._patch.undo()

    def break_listing(self, tree: Path, after: int, number: int) -> None:
        """Let listings of ``tree`` fail after so many names."""
        real, inode = os.scandir, tree.stat().st_ino

        class Broken:
            def __init__(self, fd: int) -> None:
                self._inner = real(fd)
                self._left = after

            def __iter__(self) -> Iterator[os.DirEntry[str]]:
                return self

            def __next__(self) -> os.DirEntry[str]:
                if not self._left:
                    raise OSError(number, os.strerror(number))
                self._left -= 1
                return next(self._inner)

            def close(self) -> None:
                self._inner.close()

        def faulty(path: Any) -> Any:
            return Broken(path) if isinstance(path, int) and os.fstat(path).st_ino == inode else real(path)

        self._patch.setattr(os, "scandir", faulty)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    with monkeypatch.context() as patch:
        yield Faults(patch)


def damaged(tree: Path) -> None:
    """Two directories of three files, one of them with a bad file and a bad subdirectory."""
    for name in ("good", "ill"):
        (tree / name).mkdir()
        flat(tree / name, 3)
    (tree / "ill" / "bad").write_text("")
    (tree / "ill" / "worse").mkdir()


@pytest.mark.parametrize(
    "number",
    [errno.EIO, errno.EPERM, errno.EROFS, errno.EACCES, errno.ENOSPC, errno.ENOMEM, errno.EDQUOT, errno.EINTR],
)
@pytest.mark.parametrize(("function", "name"), [("unlink", "bad"), ("rmdir", "worse"), ("open", "worse")])
def test_a_failure_is_counted_once_and_the_rest_goes(
    tree: Path, faults: Faults, hoist: bool, function: str, name: str, number: int
) -> None:
    damaged(tree)
    faults.inject(function, number, name)
    counts = walk(tree, hoist=hoist)
    assert counts.failed == {number: 1}
    assert [(failure.path, failure.errno, failure.step) for failure in counts.failures] == [
        (b"ill/" + name.encode(), number, function)
    ]
    assert (counts.seen, counts.removed, counts.held, counts.parked) == (10, 8, 1, {})
    assert os.listdir(tree) == ["ill"]
    assert os.listdir(tree / "ill") == [name]


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.EBUSY, "busy"), (errno.ETXTBSY, "busy"), (errno.ESTALE, "stale")]
)
@pytest.mark.parametrize(("function", "name"), [("unlink", "bad"), ("rmdir", "worse"), ("open", "worse")])
def test_what_may_go_later_is_parked(
    tree: Path, faults: Faults, function: str, name: str, number: int, reason: str
) -> None:
    damaged(tree)
    faults.inject(function, number, name)
    counts = walk(tree)
    assert (counts.parked, counts.failed, counts.removed, counts.held) == ({reason: 1}, {}, 8, 1)
    assert [(stay.path, stay.reason) for stay in counts.stays] == [(b"ill/" + name.encode(), reason)]


@pytest.mark.parametrize(("function", "name"), [("unlink", "bad"), ("rmdir", "worse"), ("open", "worse")])
def test_what_is_gone_is_no_failure(tree: Path, faults: Faults, function: str, name: str) -> None:
    damaged(tree)
    real = getattr(os, function)

    def gone(path: Any, *arguments: Any, **named: Any) -> Any:
        if path == name:
            place = tree / "ill" / name
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(place) if place.is_dir() else Path.unlink(place)
            raise FileNotFoundError(errno.ENOENT, "gone")
        return real(path, *arguments, **named)

    faults._patch.setattr(os, function, gone)
    place = tree / "ill" / name
    # What removes behind the walk's back must not meet the fault itself.
    faults._patch.setattr(shutil, "rmtree", lambda path: subprocess.run(["rm", "-r", str(path)], check=True))
    faults._patch.setattr(Path, "unlink", lambda path: subprocess.run(["rm", str(path)], check=True))
    counts = walk(tree)
    assert not place.exists()
    assert (counts.failed, counts.parked, counts.removed, counts.seen) == ({}, {}, 9, 9)


@pytest.mark.parametrize(("after", "removed"), [(0, 5), (2, 7)])
def test_a_listing_that_breaks_off(tree: Path, faults: Faults, after: int, removed: int) -> None:
    damaged(tree)
    shutil.rmtree(tree / "ill" / "worse")
    (tree / "ill" / "more").write_text("")
    faults.break_listing(tree / "ill", after, errno.EIO)
    counts = walk(tree)
    assert counts.failed == {errno.EIO: 1}
    assert [(failure.path, failure.step) for failure in counts.failures] == [(b"ill", "read")]
    assert counts.removed == removed - 1  # three files and their directory, and what was listed
    assert len(os.listdir(tree / "ill")) == 5 - after


def test_a_listing_of_the_root_that_breaks_off(tree: Path, faults: Faults) -> None:
    flat(tree, 5)
    faults.break_listing(tree, 3, errno.EIO)
    counts = walk(tree)
    assert (counts.files, counts.failed) == (3, {errno.EIO: 1})
    assert [(failure.path, failure.step) for failure in counts.failures] == [(b"", "read")]


def test_a_listing_that_skips_names_is_made_again(tree: Path, faults: Faults) -> None:
    (tree / "d").mkdir()
    flat(tree / "d", 40)
    real, inode = os.scandir, (tree / "d").stat().st_ino
    rounds: list[int] = []

    class Short(Iterator[os.DirEntry[str]]):
        def __init__(self, fd: int) -> None:
            self._inner = real(fd)
            self._left = 15

        def __next__(self) -> os.DirEntry[str]:
            self._left -= 1
            if self._left < 0:
                raise StopIteration
            return next(self._inner)

        def close(self) -> None:
            self._inner.close()

    def short(path: Any) -> Any:
        if isinstance(path, int) and os.fstat(path).st_ino == inode:
            rounds.append(1)
            return Short(path)
        return real(path)

    faults._patch.setattr(os, "scandir", short)
    counts = walk(tree)
    assert (counts.files, counts.directories, len(rounds)) == (40, 1, 3)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_without_descriptors_it_waits_and_then_says_so(tree: Path, faults: Faults, number: int) -> None:
    damaged(tree)
    faults.inject("open", number, "worse", times=3)
    assert walk(tree).removed == 10
    damaged(tree)
    faults.calls.clear()
    faults.inject("open", number, "worse")
    counts = walk(tree)
    assert (counts.failed, counts.removed) == ({number: 1}, 8)


def test_where_listings_say_no_types_they_are_asked_for(tree: Path, faults: Faults) -> None:
    damaged(tree)
    real = os.scandir

    class Unknown(Iterator[Any]):
        def __init__(self, fd: int) -> None:
            self._inner = real(fd)

        def __next__(self) -> Any:
            entry = next(self._inner)

            class Blind:
                name = entry.name

                def is_dir(self, *, follow_symlinks: bool) -> bool:
                    raise OSError(errno.EIO, "no type")

                def inode(self) -> int:
                    return entry.inode()

            return Blind()

        def close(self) -> None:
            self._inner.close()

        def __enter__(self) -> "Unknown":
            return self

        def __exit__(self, *_: Any) -> None:
            self.close()

    faults._patch.setattr(os, "scandir", Unknown)
    counts = walk(tree)
    assert (counts.removed, counts.seen) == (10, 10)


def test_if_renaming_up_is_refused_all_goes_in_place(tree: Path, faults: Faults) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "no")

    chain(tree, 300)
    faults._patch.setattr(os, "rename", refuse)
    counts = walk(tree, hoist=True)
    assert (counts.files, counts.directories) == (3, 300)


def test_a_failure_deep_down_tells_the_place_where_it_was(tree: Path, faults: Faults) -> None:
    chain(tree, 30)
    faults.inject("unlink", errno.EIO, "file")
    counts = walk(tree, hoist=True)
    assert [failure.path for failure in counts.failures] == [b"d/" * 30 + b"file"]
    assert counts.directories + counts.held == 30
    assert counts.held == 30 - 3 * 8  # what hung above it is free of it where it was renamed up
    faults.end()
    shutil.rmtree(tree.parent / "tree.hoist")


def test_many_failures_are_counted_and_a_hundred_are_told(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat(tree, 1000)

    def refuse(path: Any, **_: Any) -> None:
        number = errno.EIO if path.endswith("0") else errno.EBUSY
        raise OSError(number, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        counts = walk(tree, workers=3)
    assert (counts.failed, counts.parked) == ({errno.EIO: 100}, {"busy": 900})
    assert (len(counts.failures), len(counts.stays)) == (KEPT, KEPT)


# The parts.


def test_tallies_add_up_and_keep_a_hundred_of_a_kind() -> None:
    one, two = Tally(), Tally()
    for number in range(80):
        one.fail(b"%d" % number, errno.EIO, "unlink")
        two.fail(b"%d" % number, errno.EIO, "unlink")
        two.park(b"%d" % number, "busy")
        two.spare(b"%d" % number, "young")
    one.files = two.files = two.directories = two.held = 7
    two.bytes = 9
    one.merge(two)
    counts = one.snapshot()
    assert counts.failed == {errno.EIO: 160}
    assert (len(counts.failures), len(counts.stays)) == (KEPT, 160)
    assert (counts.seen, counts.bytes, counts.removed) == (160 + 80 + 80 + 28, 9, 21)


def test_a_long_path_is_cut_in_the_middle() -> None:
    assert cut(b"a" * LONGEST) == b"a" * LONGEST
    short = cut(b"begin" + b"/x" * 5000 + b"end")
    assert len(short) <= LONGEST
    assert short.startswith(b"begin/x")
    assert short.endswith(b"/xend")


def test_a_pool_ends_with_what_a_task_raised() -> None:
    done: list[int] = []

    def work(worker: int, task: int) -> None:
        done.append(task)
        if task == 3:
            raise ZeroDivisionError
        pool.push([task + 1])

    pool: Pool[int] = Pool(work, 2)
    pool.push([0])
    with pytest.raises(ZeroDivisionError):
        pool.run()
    assert done == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="at least 1"):
        Pool(work, 0)


@settings(max_examples=30, deadline=None)
@given(
    places=st.lists(
        st.tuples(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.sampled_from("fdl")), max_size=30
    ),
    hoisted=st.booleans(),
    workers=st.integers(1, 3),
)
def test_any_tree_goes_whole(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[list[str], str]], hoisted: bool, workers: int
) -> None:
    tree = tmp_path_factory.mktemp("any") / "tree"
    tree.mkdir()
    for parts, kind in places:
        path = tree.joinpath(*parts)
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            (path if kind == "d" else path.parent).mkdir(parents=True, exist_ok=True)
            if kind == "f":
                path.touch()
            elif kind == "l":
                path.symlink_to(tree)
    expected = sum(len(directories) + len(files) for _, directories, files in os.walk(tree))
    options = WalkOptions(batch=2, listing=3, depth=2, backoff=0)
    counts = walk(tree, hoist=hoisted, options=options, workers=workers)
    assert (counts.seen, counts.removed) == (expected, expected)
    assert os.listdir(tree) == []
