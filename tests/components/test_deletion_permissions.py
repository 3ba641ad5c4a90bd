"""Directories that deny their owner, what belongs to others, and what the file system holds fast."""

import array
import errno
import fcntl
import os
import stat
import struct
from pathlib import Path

import pytest

from busd.components.deletion.entry import Entry
from busd.components.deletion.gate import OpenGate
from busd.components.deletion.options import WalkOptions
from busd.components.deletion.tally import Counts
from busd.components.deletion.walk import Removal
from tests.components.deletion_world import FLAGS, descriptors, needs_root
from tests.components.test_deletion_walk import run_python

NOBODY = 65534
GET, SET, IMMUTABLE, APPEND = 0x80086601, 0x40086602, 0x10, 0x20  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS

WALK = """
import os, stat
from busd.components.deletion.gate import OpenGate
from busd.components.deletion.options import WalkOptions
from busd.components.deletion.walk import Removal

def walk(chmod, hoist=None, accept=None, gate=None, **options):
    fd = os.open("tree", os.O_RDONLY | os.O_DIRECTORY)
    private = None if hoist is None else os.open(hoist, os.O_RDONLY | os.O_DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    options = WalkOptions(chmod=chmod, backoff=0.001, **options)
    try:
        removal = Removal(fd, hoist=private, gate=gate or OpenGate(), options=options, accept=accept)
        counts = removal.run().snapshot()
    finally:
        assert len(os.listdir("/proc/self/fd")) == before
        os.close(fd)
        if private is not None:
            os.close(private)
    sums = [*counts.failed.values(), *counts.parked.values(), *counts.spared.values()]
    assert counts.seen == counts.files + counts.directories + counts.held + sum(sums), counts
    return counts

def mode(path):
    return oct(stat.S_IMODE(os.stat(path).st_mode))
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory of another user's, where the tests are root and their children are not."""
    needs_root()
    for path in [tmp_path, *tmp_path.parents][:-2]:  # the other user has to come here
        path.chmod(path.stat().st_mode | 0o011)
    home = tmp_path / "home"
    (home / "tree").mkdir(parents=True)
    (home / "hoist").mkdir(mode=0o700)
    return home


def give(home: Path) -> None:
    """All in ``home`` to nobody."""
    for path in [home, *home.rglob("*")]:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def run(home: Path, script: str) -> None:
    """Run ``script`` as nobody; it prints "done" at its end."""
    assert run_python(WALK + script + "\nprint('done')\n", home, user=NOBODY) == "done\n"


def plant(home: Path) -> None:
    """Closed directories of all kinds: with a file and a subdirectory in each."""
    modes = {"zero": 0, "write": 0o200, "read": 0o400, "enter": 0o100, "look": 0o500}
    for name in modes:
        below = home / "tree" / name / "below"
        below.mkdir(parents=True)
        (home / "tree" / name / "file").write_text("x")
        (below / "file").write_text("x")
    give(home)
    for name, mode in modes.items():
        (home / "tree" / name / "below").chmod(mode)
        (home / "tree" / name).chmod(mode)


@pytest.mark.parametrize("hoist", ["None", "'hoist'"])
@pytest.mark.parametrize("measure", [False, True])
def test_closed_directories_go_where_their_mode_may_be_changed(place: Path, hoist: str, measure: bool) -> None:
    plant(place)
    run(
        place,
        f"""
counts = walk(True, hoist={hoist}, depth=1, measure={measure})
assert (counts.files, counts.directories, counts.failed, counts.parked) == (10, 10, {{}}, {{}}), counts
assert os.listdir("tree") == os.listdir("hoist") == []
""",
    )


def test_closed_directories_go_by_a_filter_too(place: Path) -> None:
    """Which sees them as they were: opening one up must not make it look young, or open."""
    plant(place)
    for path in [place / "tree", *(place / "tree").rglob("*")]:
        os.utime(path, (1, 1))
    run(
        place,
        """
import time
time.sleep(0.05)
begun, asked = time.time() - 0.02, {}
def accept(entry):
    if stat.S_ISDIR(entry.mode) and entry.name != b"below":
        asked[entry.name] = entry.mode & 0o777
        assert entry.ctime < begun, entry
    return None
counts = walk(True, accept=accept)
assert (counts.files, counts.directories, counts.failed, counts.spared) == (10, 10, {}, {}), counts
assert asked == {b"zero": 0, b"write": 0o200, b"read": 0o400, b"enter": 0o100, b"look": 0o500}, asked
""",
    )


@pytest.mark.parametrize("hoist", ["None", "'hoist'"])
def test_without_that_they_are_counted_and_as_they_were(place: Path, hoist: str) -> None:
    plant(place)
    run(
        place,
        f"""
before = {{name: mode("tree/" + name) for name in os.listdir("tree")}}
counts = walk(False, hoist={hoist}, depth=1)
assert set(counts.failed) == {{13}} and counts.parked == {{}}, counts
# Those that cannot be read count as one; of the others each entry does, and below is tried on its own.
steps = sorted((failure.path, failure.step) for failure in counts.failures)
assert steps == [
    (b"enter", "open"), (b"look/below/file", "unlink"), (b"look/file", "unlink"),
    (b"read/below", "open"), (b"read/file", "unlink"), (b"write", "open"), (b"zero", "open"),
], steps
assert {{name: mode("tree/" + name) for name in os.listdir("tree")}} == before
""",
    )


def test_what_stays_gets_its_mode_back(place: Path) -> None:
    """Directories that were opened up and in which something stays: for the filter, or somebody else's."""
    plant(place)
    (place / "tree" / "foreign" / "below").mkdir(parents=True)
    (place / "tree" / "foreign" / "below" / "file").touch()  # root's
    os.chown(place / "tree" / "foreign", NOBODY, NOBODY)
    (place / "tree" / "foreign").chmod(0o401)
    run(
        place,
        """
names = ["zero", "write", "read", "enter", "look"]
before = {name: mode("tree/" + name) for name in [*names, "foreign"]}
counts = walk(True, accept=lambda entry: "kept" if entry.path.endswith(b"below/file") else None)
assert (counts.spared, counts.held, counts.files, counts.directories) == ({"kept": 6}, 12, 5, 0), counts
assert {name: mode("tree/" + name) for name in before} == before
for name in names:
    os.chmod("tree/" + name, 0o700)
    assert mode(f"tree/{name}/below") == before[name], name
    os.chmod("tree/" + name, int(before[name], 8))
counts = walk(True)
assert (counts.files, counts.directories, counts.held, counts.failed) == (5, 10, 2, {13: 1}), counts
assert os.listdir("tree") == ["foreign"] and mode("tree/foreign") == before["foreign"]
""",
    )


def test_a_walk_that_is_cancelled_gives_the_modes_back(place: Path) -> None:
    plant(place)
    run(
        place,
        """
from busd.components.deletion.cancelled import Cancelled
class Ends(OpenGate):
    left_to_go = 4
    def enter(self, files, size):
        self.left_to_go -= 1
        if self.left_to_go < 0:
            raise Cancelled
before = {name: mode("tree/" + name) for name in os.listdir("tree")}
try:
    walk(True, gate=Ends(), batch=1)
    raise AssertionError("it was not cancelled")
except Cancelled:
    pass
assert {name: mode("tree/" + name) for name in os.listdir("tree")}.items() <= before.items()
assert walk(True).failed == {} and os.listdir("tree") == []
""",
    )


def test_a_chain_of_closed_directories_needs_few_descriptors(place: Path) -> None:
    give(place)
    run(
        place,
        """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
def chain(end):
    at, fds = "tree", []
    fd = os.open("tree", os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", 0o700, dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        if len(fds) >= 1:
            os.chmod(fd, 0)
        fds.append(fd)
        os.close(fd)
        fd = below
    if end:
        os.close(os.open("kept", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
chain(False)
counts = walk(True)
assert (counts.directories, counts.failed) == (300, {}), counts
chain(True)
counts = walk(True, accept=lambda entry: "kept" if entry.name == b"kept" else None)
assert (counts.spared, counts.held, counts.failed) == ({"kept": 1}, 300, {}), counts
at = os.open("tree/d", os.O_PATH)  # each has its mode back, the last was open from the beginning
for _ in range(298):
    assert stat.S_IMODE(os.fstat(at).st_mode) == 0
    os.chmod(f"/proc/self/fd/{at}", 0o700)
    below = os.open("d", os.O_PATH, dir_fd=at)
    os.close(at)
    at = below
os.close(at)
assert walk(True).failed == {} and os.listdir("tree") == []
""",
    )


def test_in_a_sticky_directory_what_is_others_stays(place: Path) -> None:
    sticky = place / "tree" / "sticky"
    (sticky / "full").mkdir(parents=True)
    (sticky / "roots").write_text("x")
    (sticky / "full" / "roots").write_text("x")
    sticky.chmod(0o1777)
    (sticky / "own").write_text("x")
    for path in (place, place / "tree", sticky / "own"):
        os.chown(path, NOBODY, NOBODY)
    run(
        place,
        """
counts = walk(True)
assert (counts.files, counts.held, counts.parked) == (1, 2, {}), counts
assert sorted((failure.path, failure.errno, failure.step) for failure in counts.failures) == [
    (b"sticky/full/roots", 13, "unlink"), (b"sticky/roots", 1, "unlink"),
], counts
assert mode("tree/sticky") == "0o1777"
""",
    )


# As root.


def walk(tree: Path, accept: bool = False, **options: bool) -> Counts:
    """One walk with and without a filter; checks the sums and the descriptors."""
    before = descriptors()
    fd = os.open(tree, FLAGS)
    try:
        everything = (lambda _: None) if accept else None
        counts = Removal(fd, hoist=None, gate=OpenGate(), options=WalkOptions(**options), accept=everything).run()
    finally:
        os.close(fd)
    assert descriptors() == before
    found = counts.snapshot()
    outcomes = [*found.failed.values(), *found.parked.values(), *found.spared.values()]
    assert found.seen == found.files + found.directories + found.held + sum(outcomes)
    return found


def hold(path: Path, flag: int) -> None:
    """Set or clear (0) the flag that holds ``path`` fast. Skips where the file system has none."""
    fd = os.open(path, os.O_RDONLY)
    try:
        flags = array.array("L", [0])
        fcntl.ioctl(fd, GET, flags)
        flags[0] = (flags[0] & ~(IMMUTABLE | APPEND)) | flag
        fcntl.ioctl(fd, SET, flags)
    except OSError as failed:
        pytest.skip(f"no such flags here: {failed.strerror}")
    finally:
        os.close(fd)


@pytest.mark.parametrize("flag", [IMMUTABLE, APPEND], ids=["immutable", "append"])
@pytest.mark.parametrize("way", ["plain", "measure", "filter"])
def test_what_is_held_fast_is_counted_once_and_stays(tmp_path: Path, flag: int, way: str) -> None:
    needs_root()
    tree = tmp_path / "tree"
    for name in ("a", "b", "c"):
        (tree / name / "sub").mkdir(parents=True)
        (tree / name / "file").write_text("x")
    held = [tree / "a" / "file", tree / "b" / "sub", tree / "c"]
    for path in held:
        hold(path, flag)
    try:
        counts = walk(tree, way == "filter", measure=way == "measure", chmod=True)
        # Of c neither the file nor the directory in it goes; that c stays is no more than their doing.
        assert counts.failed == {errno.EPERM: 4}
        assert sorted((failure.path, failure.step) for failure in counts.failures) == [
            (b"a/file", "unlink"),
            (b"b/sub", "rmdir"),
            (b"c/file", "unlink"),
            (b"c/sub", "rmdir"),
        ]
        assert (counts.files, counts.directories, counts.held, counts.parked) == (1, 1, 3, {})
    finally:
        for path in held:
            hold(path, 0)
    assert (walk(tree).failed, os.listdir(tree)) == ({}, [])


def test_an_immutable_tree_that_is_empty_stays(tmp_path: Path) -> None:
    needs_root()
    (tmp_path / "tree" / "empty").mkdir(parents=True)
    hold(tmp_path / "tree" / "empty", IMMUTABLE)
    try:
        counts = walk(tmp_path / "tree")
        assert (counts.failed, counts.held, counts.seen) == ({errno.EPERM: 1}, 0, 1)
    finally:
        hold(tmp_path / "tree" / "empty", 0)


def test_attributes_and_access_lists_hold_nothing_up(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    (tree / "a" / "file").write_text("x")
    # Version 2; the owner nothing, user 65534 all, group and mask and others nothing (acl(5)).
    entries = [(1, 0, 0xFFFFFFFF), (2, 7, NOBODY), (4, 0, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)]
    access = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        for path in (tree / "a", tree / "a" / "file"):
            os.setxattr(path, "user.note", b"x" * 1000)
            os.setxattr(path, "system.posix_acl_access", access)
        os.setxattr(tree / "a", "system.posix_acl_default", access)
    except OSError as failed:
        pytest.skip(f"no such attributes here: {failed.strerror}")
    counts = walk(tree, chmod=True)
    assert (counts.files, counts.directories, counts.failed) == (1, 1, {})


def test_a_filter_sees_a_directory_as_it_was_for_root_too(tmp_path: Path) -> None:
    (tmp_path / "tree" / "closed").mkdir(parents=True)
    (tmp_path / "tree" / "closed").chmod(0)
    asked: list[int] = []

    def accept(entry: Entry) -> str | None:
        asked.append(stat.S_IMODE(entry.mode))
        return "kept"

    fd = os.open(tmp_path / "tree", FLAGS)
    Removal(fd, hoist=None, gate=OpenGate(), options=WalkOptions(chmod=True), accept=accept).run()
    os.close(fd)
    assert asked == [0]
    assert stat.S_IMODE((tmp_path / "tree" / "closed").stat().st_mode) == 0
