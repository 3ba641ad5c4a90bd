"""The survey says what a removal would take, whatever the shape of the tree, stays small, and changes nothing."""

import contextlib
import errno
import fcntl
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from busd.components.deletion import survey as module
from busd.components.deletion.cancelled import Cancelled
from busd.components.deletion.claim import claim, release
from busd.components.deletion.entry import Entry
from busd.components.deletion.filters import Filter
from busd.components.deletion.found import Found
from busd.components.deletion.gate import Gate, OpenGate
from busd.components.deletion.options import WalkOptions
from busd.components.deletion.survey import Survey
from busd.components.deletion.tally import KEPT
from busd.components.deletion.walk import Removal
from tests.components.deletion_world import Recorder, chain, descriptors, growth, with_mounts

FLAGS = os.O_RDONLY | os.O_DIRECTORY


def look(
    tree: Path,
    *,
    gate: Gate | None = None,
    accept: Callable[[Entry], str | None] | None = None,
    workers: int = 2,
) -> Found:
    """Survey ``tree``; checks that all is counted once and that no descriptor stays open."""
    before = descriptors()
    fd = os.open(tree, FLAGS)
    try:
        one = Survey(fd, gate=gate or OpenGate(), accept=accept, workers=workers)
        found = one.run()
        assert one.found() == found
    finally:
        os.close(fd)
    assert descriptors() == before
    stays = sum(found.spared.values()) + sum(found.unreadable.values()) + found.held + found.mounts
    assert found.seen == found.entries + stays
    assert found.entries == found.files + found.directories + found.links + found.others
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    made.mkdir()
    return made


def bushes(tree: Path, seed: int) -> None:
    """Some directories in one another with files of all kinds."""
    dice = random.Random(seed)
    places = [tree]
    for number in range(120):
        place = dice.choice(places)
        kind = dice.randrange(6)
        if kind < 3:
            (place / f"f{number}").write_bytes(b"x" * dice.choice([0, 5, 5000]))
        elif kind == 3:
            (place / f"l{number}").symlink_to("nowhere")
        else:
            (place / f"d{number}").mkdir()
            places.append(place / f"d{number}")


# What is counted.


def test_an_empty_directory(tree: Path) -> None:
    assert look(tree) == Found()


def test_all_kinds_are_counted_and_no_link_is_followed(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "more").mkdir(parents=True)
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "file").write_bytes(b"x" * 5000)
    (tree / "a" / os.fsdecode(b"\xff\n")).write_bytes(b"")
    (tree / "link").symlink_to(outside)
    (tree / "loop").symlink_to(".")
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(tree):
        server.bind("socket")
    os.utime(tree / "a" / "file", (5.0, 7.5))
    os.utime(tree / "fifo", (5.0, 4e9))
    found = look(tree)
    assert (found.entries, found.files, found.directories, found.links, found.others) == (8, 2, 2, 2, 2)
    assert (found.apparent, found.oldest, found.newest) == (5000, 7.5, 4e9)
    assert (found.deepest, found.largest) == (2, 5)
    assert sorted(os.listdir(tree)) == ["a", "fifo", "link", "loop", "socket"]


def test_bytes_are_those_of_du(tree: Path) -> None:
    bushes(tree, 1)
    with open(tree / "sparse", "wb") as sparse:
        sparse.truncate(1 << 40)
    os.link(tree / "sparse", tree / "again")
    (tree / "two").write_bytes(b"x" * 50_000)
    os.link(tree / "two", tree / "other")
    found = look(tree)
    du = subprocess.run(["du", "-s", "-B1", str(tree)], check=True, capture_output=True, text=True)
    own = tree.stat().st_blocks * 512
    assert found.bytes + found.linked_bytes + found.directory_bytes + own == int(du.stdout.split()[0])
    assert (found.linked, found.linked_bytes) == (4, (tree / "two").stat().st_blocks * 512)


def test_of_what_has_names_elsewhere_only_the_share_is_counted(tree: Path, tmp_path: Path) -> None:
    (tree / "held").write_bytes(b"x" * 50_000)
    size = (tree / "held").stat().st_blocks * 512
    os.link(tree / "held", tmp_path / "outside")
    found = look(tree)
    assert (found.bytes, found.linked, found.linked_bytes) == (0, 1, size // 2)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("filtered", [False, True])
def test_it_says_what_a_removal_does(tree: Path, workers: int, filtered: bool) -> None:
    bushes(tree, workers)

    def odd(entry: Entry) -> str | None:
        number = int(entry.name[1:])
        return None if number % 5 else "fifth"

    accept = odd if filtered else None
    found = look(tree, accept=accept, workers=workers)
    before = sorted(os.walk(tree))
    assert sorted(os.walk(tree)) == before
    fd = os.open(tree, FLAGS)
    try:
        options = WalkOptions(measure=True)
        counts = Removal(fd, hoist=None, gate=OpenGate(), options=options, accept=accept).run().snapshot()
    finally:
        os.close(fd)
    assert (found.seen, found.entries, found.directories) == (counts.seen, counts.removed, counts.directories)
    assert (found.spared, found.held, found.bytes) == (counts.spared, counts.held, counts.bytes)
    assert bool(found.spared) == bool(found.held) == filtered


def test_a_filter_lets_files_go_and_says_why_others_stay(tree: Path) -> None:
    (tree / "d").mkdir()
    for name in ("old", "new", "big"):
        (tree / "d" / name).write_bytes(b"x" * (9000 if name == "big" else 1))
    for name in ("old", "big"):
        os.utime(tree / "d" / name, (1.0, 1.0))
    wanted = Filter(older_than=0.0, smaller_than=5000, glob=b"d/*")
    asked = (tree / "d" / "new").stat().st_ctime + 1
    os.utime(tree / "d" / "new", (1.0, asked + 5))
    found = look(tree, accept=lambda entry: wanted.spares(entry, asked))
    assert (found.entries, found.files, found.apparent) == (1, 1, 1)
    assert found.spared == {"young": 1, "size": 1, "directory": 1}
    assert (found.seen, found.oldest, found.newest) == (4, 1.0, 1.0)


# Shapes.


def test_a_hundred_thousand_names_in_one_directory(tree: Path) -> None:
    fd = os.open(tree, FLAGS)
    for number in range(100_000):
        if number % 30_000 == 0:
            os.close(os.open(f"n{number}", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
            first = number
        else:
            os.link(f"n{first}", f"n{number}", src_dir_fd=fd, dst_dir_fd=fd)
    os.close(fd)
    found = look(tree)
    assert (found.files, found.linked, found.largest, found.deepest) == (100_000, 100_000, 100_000, 1)


@pytest.mark.parametrize("stops", [True, False])
@pytest.mark.parametrize("workers", [1, 3])
def test_listings_are_stopped_or_made_again_while_many_directories_wait(
    tree: Path, monkeypatch: pytest.MonkeyPatch, stops: bool, workers: int
) -> None:
    for number in range(300):
        (tree / f"d{number}").mkdir()
        (tree / f"f{number}").touch()
        if number % 30 == 0:
            for more in range(40):
                (tree / f"d{number}" / f"e{more}").mkdir()
    for name, value in (("_LISTING", 64), ("_WAITING", 16), ("_MANY", 100), ("_STINGY_LISTING", 8), ("_STINGY", 4)):
        monkeypatch.setattr(module, name, value)
    most = 0
    real = Survey._adopt

    def adopt(self: Survey, *arguments: Any, **named: Any) -> None:
        nonlocal most
        real(self, *arguments, **named)
        most = max(most, self._waiting)

    monkeypatch.setattr(Survey, "_adopt", adopt)
    if not stops:
        monkeypatch.setattr(Survey, "_stop", lambda *_: False)
    found = look(tree, workers=workers)
    assert (found.directories, found.files, found.entries) == (700, 300, 1000)
    assert (found.largest, found.deepest) == (600, 2)
    assert 0 < most <= 16 + 64 + workers * (16 + 64)


CHAIN = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
sys.setrecursionlimit(100)
from busd.components.deletion.gate import OpenGate
from busd.components.deletion import survey
from busd.components.deletion.survey import Survey
from busd.components.deletion.walk import Removal
depth, comb, workers = int(sys.argv[1]), sys.argv[2] == "comb", int(sys.argv[3])
os.mkdir("tree"), os.mkdir("area")
area, tree = os.open("area", os.O_RDONLY), os.open("tree", os.O_RDONLY)
fd = os.dup(tree)
for level in range(depth):
    os.mkdir("d", dir_fd=fd)
    if comb:
        os.mkdir("e", dir_fd=fd)
    below = os.open("d", os.O_RDONLY, dir_fd=fd)
    os.close(fd)
    fd = below
os.close(fd)
# The way down first, whatever the file system lists first: all siblings wait until it has been gone.
listed = survey._directories
survey._directories = lambda batch: sorted(listed(batch), key=lambda key: key[1])
opens, real = 0, os.open
def counting(*arguments, **named):
    global opens
    opens += 1
    return real(*arguments, **named)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
os.open = counting
found = Survey(tree, gate=OpenGate(), workers=workers).run()
os.open = real
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
assert Removal(tree, hoist=area, gate=OpenGate()).run().directories == found.directories
print(found.directories, found.deepest, sum(found.unreadable.values()), opens, grown)
"""


def run_chain(directory: Path, *words: str) -> list[int]:
    home = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{home}:{home / 'schemas'}:{home / 'clients'}"}
    command = [sys.executable, "-c", CHAIN, *words]
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize(
    ("workers", "depth"), [("1", 3000), ("2", 3000), pytest.param("2", 100_000, marks=pytest.mark.slow)]
)
def test_a_chain_is_opened_once_with_few_descriptors(tree: Path, depth: int, workers: str) -> None:
    directories, deepest, unreadable, opens, grown = run_chain(tree, str(depth), "chain", workers)
    assert (directories, deepest, unreadable) == (depth, depth, 0)
    assert opens <= depth + 20
    assert grown <= 8 + 60 * depth // 100_000  # MiB


@pytest.mark.parametrize("depth", [3000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_coming_back_up_a_comb_opens_n_log_n(tree: Path, depth: int) -> None:
    directories, deepest, unreadable, opens, _ = run_chain(tree, str(depth), "comb", "1")
    assert (directories, deepest, unreadable) == (2 * depth, depth, 0)
    assert opens <= 2 * depth + depth * depth.bit_length()


def test_a_filter_in_a_chain_longer_than_any_path(tree: Path) -> None:
    longest = 0

    def accept(entry: Entry) -> str | None:
        nonlocal longest
        longest = max(longest, len(entry.path))
        return None

    fd = os.open(tree, FLAGS)
    try:
        with chain(fd, 200, b"n" * 200):
            found = look(tree, accept=accept)
    finally:
        os.close(fd)
    assert (found.directories, longest) == (200, 200 * 201 - 1)


@pytest.mark.alone
def test_twice_as_many_names_take_about_twice_as_long(tree: Path) -> None:
    def prepare(names: int) -> None:
        for number in range(len(os.listdir(tree)), names):
            (tree / f"{number}").touch()

    assert growth(prepare, lambda: look(tree, workers=1)) < 2.6


# The gate.


def test_the_gate_is_asked_for_each_batch_and_each_directory(tree: Path) -> None:
    for number in range(1000):
        (tree / f"{number}").touch()
    for number in range(10):
        (tree / f"d{number}").mkdir()
    gate = Recorder()
    found = look(tree, gate=gate)
    assert sum(gate.batches) == found.entries + 1 == 1011  # and the root
    assert max(gate.batches) == 256
    assert sorted(gate.batches) == sorted(gate.ended)
    assert gate.size == 0, "nothing is freed"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_survey_that_is_cancelled_ends_at_a_batch_and_says_what_it_found(tree: Path, workers: int) -> None:
    for number in range(1000):
        (tree / f"{number}").touch()
    for number in range(50):
        (tree / f"d{number}").mkdir()
    before = descriptors()
    fd = os.open(tree, FLAGS)
    one = Survey(fd, gate=Recorder(cancel_after=3), workers=workers)
    with pytest.raises(Cancelled):
        one.run()
    os.close(fd)
    assert descriptors() == before
    assert one.found().files == 512
    with pytest.raises(ValueError, match="at least 1"):
        Survey(fd, gate=OpenGate(), workers=0)


def test_what_was_found_so_far_is_told_from_another_thread(tree: Path) -> None:
    for number in range(600):
        (tree / f"{number}").touch()
    told: list[Found] = []

    class Teller(OpenGate):
        def enter(self, files: int, size: int) -> None:
            asker = threading.Thread(target=lambda: told.append(one.found()))
            asker.start()
            asker.join()

    fd = os.open(tree, FLAGS)
    one = Survey(fd, gate=Teller(), workers=1)
    one.run()
    os.close(fd)
    assert [found.files for found in told] == [0, 0, 256, 512]


# What somebody changes meanwhile.


def test_what_is_gone_is_not_counted(tree: Path) -> None:
    (tree / "d" / "e").mkdir(parents=True)
    for name in ("one", "two"):
        (tree / name).touch()

    def meanwhile() -> None:
        (tree / "one").unlink()
        shutil.rmtree(tree / "d")

    assert look(tree, gate=Recorder(first=meanwhile)).entries == 1


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_directory_that_becomes_something_else_is_not_entered(tree: Path, tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    (outside / "more").mkdir(parents=True)
    (tree / "d" / "e").mkdir(parents=True)
    for name in ("one", "two"):
        (tree / name).touch()

    def meanwhile() -> None:
        (tree / "d").rename(tmp_path / "away")
        if kind == "link":
            (tree / "d").symlink_to(outside)
        else:
            (tree / "d").write_text("")

    found = look(tree, gate=Recorder(first=meanwhile))
    assert (found.entries, found.directories) == (3, 0)
    assert (found.links, found.files) == ((1, 2) if kind == "link" else (0, 3))


def test_what_was_moved_away_while_it_was_closed_is_not_looked_for_elsewhere(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tree
    for _ in range(60):
        path = path / "d"
        (path / "e").mkdir(parents=True)
        (path / "e" / "f").touch()
    listed = module._directories
    monkeypatch.setattr(module, "_directories", lambda batch: sorted(listed(batch), key=lambda key: key[1]))
    monkeypatch.setattr(module, "budget", lambda _: 16)
    away = tree.parent / "away"

    class Mover(OpenGate):
        def enter(self, files: int, size: int) -> None:
            if not away.exists() and one.found().deepest >= 60:
                (tree / "d" / "d").rename(away)
                (tree / "d" / "d" / "d" / "e").mkdir(parents=True)  # others of the same names

    fd = os.open(tree, FLAGS)
    before = descriptors()
    one = Survey(fd, gate=Mover(), workers=1)
    found = one.run()
    assert descriptors() == before
    os.close(fd)
    assert set(found.unreadable) == {errno.ESTALE}
    assert 20 < found.unreadable[errno.ESTALE] < 60  # those that were still open are known
    assert found.files + found.unreadable[errno.ESTALE] == 60


# Faults.


def failing(patch: pytest.MonkeyPatch, name: str, number: int, times: int = 1_000_000) -> None:
    """Let the next so many opens of ``name`` fail."""
    real = os.open
    left = times

    def faulty(path: Any, *arguments: Any, **named: Any) -> int:
        nonlocal left
        if path == name and left:
            left -= 1
            raise OSError(number, os.strerror(number))
        return real(path, *arguments, **named)

    patch.setattr(os, "open", faulty)


def ill(tree: Path) -> None:
    for name in ("good", "bad"):
        (tree / "ill" / name).mkdir(parents=True)
        (tree / "ill" / name / "file").touch()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOMEM])
def test_a_directory_that_cannot_be_opened_is_told(tree: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    ill(tree)
    with monkeypatch.context() as patch:
        failing(patch, "bad", number)
        found = look(tree)
    assert (found.entries, found.held, found.unreadable) == (2, 1, {number: 1})
    assert [(failure.path, failure.errno, failure.step) for failure in found.failures] == [(b"ill/bad", number, "open")]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_without_descriptors_it_waits_and_then_says_so(
    tree: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    ill(tree)
    monkeypatch.setattr(module, "_PAUSE", 0.001)
    with monkeypatch.context() as patch:
        failing(patch, "bad", number, times=3)
        assert look(tree).entries == 5
    with monkeypatch.context() as patch:
        failing(patch, "bad", number)
        found = look(tree)
    assert (found.entries, found.unreadable) == (2, {number: 1})


@pytest.mark.parametrize("after", [0, 2])
def test_a_listing_that_breaks_off_is_told(tree: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    ill(tree)
    for number in range(5):
        (tree / "ill" / "bad" / f"{number}").touch()
    real, inode = os.scandir, (tree / "ill" / "bad").stat().st_ino

    class Broken:
        def __init__(self, fd: int) -> None:
            self._inner = real(fd)
            self._left = after

        def __iter__(self) -> Iterator[os.DirEntry[str]]:
            return self

        def __next__(self) -> os.DirEntry[str]:
            if not self._left:
                raise OSError(errno.EIO, "no")
            self._left -= 1
            return next(self._inner)

        def close(self) -> None:
            self._inner.close()

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda fd: Broken(fd) if os.fstat(fd).st_ino == inode else real(fd))
        found = look(tree)
    assert (found.files, found.directories, found.held) == (1 + after, 1, 1)
    assert [(failure.path, failure.step) for failure in found.failures] == [(b"ill/bad", "read")]


def test_many_that_cannot_be_read_are_counted_and_a_hundred_are_told(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(300):
        (tree / f"{number}").mkdir()
        (tree / f"{number}" / "bad").mkdir()
    with monkeypatch.context() as patch:
        failing(patch, "bad", errno.EACCES)
        found = look(tree, workers=3)
    assert (found.unreadable, len(found.failures), found.held) == ({errno.EACCES: 300}, KEPT, 300)


MOUNTS = """
from busd.components.deletion.gate import OpenGate
from busd.components.deletion.survey import Survey
for name in ("tmpfs", "bind", "outside/more", "deep/er"):
    (here / "tree" / name if "outside" not in name else here / name).mkdir(parents=True)
(here / "tree/onto").touch()
(here / "outside/file").touch()
mount("-t", "tmpfs", "none", str(here / "tree/tmpfs"))
(here / "tree/tmpfs/inside").touch()
mount("--bind", str(here / "outside"), str(here / "tree/bind"))
mount("--bind", str(here / "outside/file"), str(here / "tree/onto"))
mount("-t", "tmpfs", "none", str(here / "tree/deep/er"))
for number in range(110):
    (here / "tree/deep" / f"m{number}").mkdir()
    mount("--bind", str(here / "outside"), str(here / "tree/deep" / f"m{number}"))
fd = os.open(here / "tree", os.O_RDONLY)
found = Survey(fd, gate=OpenGate()).run()
print(found.entries, found.held, found.mounts, len(found.mount_paths), found.seen)
print(sorted(path.decode() for path in found.mount_paths if b"/m" not in path))
"""


def test_mounts_are_listed_and_not_entered(tmp_path: Path) -> None:
    first, second = with_mounts(MOUNTS, tmp_path).splitlines()
    assert first == "0 1 114 100 115"
    assert set(second[1:-1].replace("'", "").split(", ")) <= {"bind", "deep/er", "onto", "tmpfs"}


# Locks.


@contextlib.contextmanager
def holder(directory: Path, kind: int) -> Iterator[None]:
    """Another process that holds ``directory``."""
    script = "import fcntl, os, sys; fd = os.open(sys.argv[1], 0); fcntl.flock(fd, int(sys.argv[2])); print(); input()"
    command = [sys.executable, "-c", script, str(directory), str(kind)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        try:
            yield
        finally:
            process.stdin.write("\n")
            process.stdin.close()


def remove(tree: Path, accept: Callable[[Entry], str | None] | None) -> tuple[int, dict[str, int], int]:
    fd = os.open(tree, FLAGS)
    try:
        counts = Removal(fd, hoist=None, gate=OpenGate(), accept=accept).run().snapshot()
    finally:
        os.close(fd)
    return counts.removed, counts.spared, counts.held


@pytest.mark.parametrize("kind", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_a_directory_that_somebody_holds_is_spared_with_all_below(tree: Path, kind: int) -> None:
    for place in ("a/held/below", "a/free"):
        (tree / place).mkdir(parents=True)
        (tree / place / "file").touch()
    with holder(tree / "a" / "held", kind):
        found = look(tree, accept=lambda _: None)
        assert (found.entries, found.spared, found.held) == (2, {"locked": 1}, 1)
        assert look(tree).entries == 6  # without a filter nobody asks
        assert remove(tree, lambda _: None) == (2, {"locked": 1}, 1)
        assert (tree / "a" / "held" / "below" / "file").exists()
    assert remove(tree, lambda _: None) == (4, {}, 0)


def test_if_somebody_holds_the_directory_itself_nothing_goes(tree: Path) -> None:
    (tree / "file").touch()
    with holder(tree, fcntl.LOCK_SH):
        found = look(tree, accept=lambda _: None)
        assert (found.entries, found.spared) == (0, {"locked": 1})
        assert remove(tree, lambda _: None) == (0, {"locked": 1}, 0)
    assert os.listdir(tree) == ["file"]


def test_a_survey_holds_no_directory_and_a_removal_those_that_it_is_in(tree: Path) -> None:
    (tree / "d").mkdir()
    (tree / "d" / "file").touch()
    tried: list[bool] = []

    class Other(OpenGate):
        def enter(self, files: int, size: int) -> None:
            for place in (tree, tree / "d"):
                fd = os.open(place, FLAGS)
                tried.append(claim(fd))
                release(fd)
                os.close(fd)

    look(tree, gate=Other(), accept=lambda _: None)
    assert set(tried) == {True}
    tried.clear()
    fd = os.open(tree, FLAGS)
    Removal(fd, hoist=None, gate=Other(), accept=lambda entry: "stays" if entry.name == b"d" else None).run()
    assert tried == [False, False]  # before its file
    again = os.open(tree, FLAGS)
    assert claim(again)  # what was locked through the caller's descriptor is so no longer
    os.close(again)
    os.close(fd)


def test_where_there_are_no_locks_nobody_holds_one(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EBADF, "NFS")

    (tree / "d").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        assert look(tree, accept=lambda _: None).entries == 1
