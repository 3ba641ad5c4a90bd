"""What the kernel offers and what is done without it: both ways give the same results and the same refusals."""

import ctypes
import errno
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from busd.components.deletion import system
from busd.components.deletion.kernel import Kernel, OpenHow, Statx
from tests.components.deletion_world import FLAGS, chain, descriptors, needs_root, with_mounts

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
pytestmark = linux

NOTHING = frozenset[str]()


@pytest.fixture(params=["kernel", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test runs with the kernel's calls and without any of them."""
    if request.param == "python":
        monkeypatch.setattr(system, "_kernel", Kernel(NOTHING))
    return str(request.param)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[int]:
    """A descriptor of tmp_path; at the end none is left open."""
    before = descriptors()
    fd = os.open(tmp_path, FLAGS)
    yield fd
    os.close(fd)
    assert descriptors() == before


def refused(call: object, *arguments: object, **named: object) -> int:
    with pytest.raises(OSError) as caught:
        call(*arguments, **named)  # type: ignore[operator]
    return caught.value.errno or 0


# The kernel's calls.


def test_structures_have_the_sizes_of_the_kernel() -> None:
    assert ctypes.sizeof(OpenHow) == 24
    assert ctypes.sizeof(Statx) == 256
    assert Statx.attributes_mask.offset == 56
    assert Statx.mount.offset == 144


def test_a_kernel_of_this_age_has_all_calls() -> None:
    has = Kernel().has
    assert has <= {"openat2", "renameat2", "statx", "ioprio_set", "fstatfs"}
    if tuple(int(n) for n in os.uname().release.split(".")[:2]) >= (5, 8) and os.uname().machine == "x86_64":
        assert {"renameat2", "fstatfs"} <= has  # the others may be hidden by a filter of a container


def test_calls_that_are_not_wanted_are_not_there() -> None:
    assert Kernel(NOTHING).has == NOTHING
    assert Kernel(NOTHING).mount_mask == 0
    assert Kernel(frozenset({"openat2"})).has <= {"openat2"}


@pytest.mark.parametrize("machine", ["mips64", "i686", ""])
def test_an_unknown_machine_has_none(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert Kernel().has == NOTHING


def test_a_32_bit_interpreter_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    assert Kernel().has == NOTHING


def test_another_platform_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert Kernel().has == NOTHING


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_a_call_that_is_missing_or_filtered_is_left_out(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(self: Kernel, name: str, *arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Kernel, "call", call)
    assert Kernel().has == NOTHING


def test_a_library_that_cannot_be_loaded_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object, **named: object) -> object:
        raise OSError("no C library")

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert Kernel().has == NOTHING


def test_an_interrupted_call_is_made_again() -> None:
    kernel = Kernel()
    if "fstatfs" not in kernel.has:
        pytest.skip("no fstatfs here")
    codes = iter([errno.EINTR, errno.EINTR, 0])

    def syscall(*arguments: object) -> int:
        code = next(codes)
        ctypes.set_errno(code)
        return -1 if code else 7

    kernel._syscall = syscall
    assert kernel.call("fstatfs") == 7


# open_beneath.


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/b/file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "a/dangling").symlink_to("nowhere")
    (tmp_path / "a/up").symlink_to("../..")
    (tmp_path / "a/self").symlink_to("self")
    return tmp_path


@pytest.mark.parametrize("path", [b"a", b"a/b", b"a/b/c"])
def test_open_beneath_opens_directories(way: str, tree: Path, here: int, path: bytes) -> None:
    fd = system.open_beneath(here, path, FLAGS)
    assert os.path.samestat(os.fstat(fd), os.stat(os.path.join(os.fsencode(tree), path)))
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_open_beneath_opens_files_and_fifos_without_waiting(way: str, tree: Path, here: int) -> None:
    os.mkfifo(tree / "a/fifo")
    for path in (b"a/b/file", b"a/fifo"):
        os.close(system.open_beneath(here, path, os.O_RDONLY))


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/",
        b"//",
        b".",
        b"..",
        b"a/..",
        b"a/../a",
        b"./a",
        b"a/",
        b"/a",
        b"a//b",
        b"a\0",
        b"a/b\0/c",
        b"../../etc",
    ],
)
def test_open_beneath_takes_only_plain_paths(way: str, tree: Path, here: int, path: bytes) -> None:
    assert refused(system.open_beneath, here, path, FLAGS) == errno.EINVAL


@pytest.mark.parametrize("path", [b"link", b"link/b", b"a/up", b"a/up/etc", b"a/dangling", b"a/self", b"a/self/x"])
def test_open_beneath_goes_through_no_link(way: str, tree: Path, here: int, path: bytes) -> None:
    assert refused(system.open_beneath, here, path, os.O_RDONLY) == errno.ELOOP


def test_open_beneath_goes_through_no_link_of_the_process_file_system(way: str) -> None:
    proc = os.open("/proc/self", FLAGS)
    try:
        assert refused(system.open_beneath, proc, b"root/etc", os.O_RDONLY) == errno.ELOOP
        assert refused(system.open_beneath, proc, b"cwd", os.O_RDONLY) == errno.ELOOP
    finally:
        os.close(proc)


def test_open_beneath_looks_at_a_link_itself(way: str, tree: Path, here: int) -> None:
    fd = system.open_beneath(here, b"a/dangling", system.O_LOOK)
    assert os.path.samestat(os.fstat(fd), os.lstat(tree / "a/dangling"))
    os.close(fd)


def test_open_beneath_says_what_is_wrong(way: str, tree: Path, here: int) -> None:
    assert refused(system.open_beneath, here, b"a/none", FLAGS) == errno.ENOENT
    assert refused(system.open_beneath, here, b"none/b", FLAGS) == errno.ENOENT
    assert refused(system.open_beneath, here, b"a/b/file/x", FLAGS) == errno.ENOTDIR
    assert refused(system.open_beneath, here, b"a/b/file", FLAGS) == errno.ENOTDIR
    assert refused(system.open_beneath, here, b"a/" + b"n" * 256, FLAGS) == errno.ENAMETOOLONG
    assert refused(system.open_beneath, here, b"n" * 5000, FLAGS) == errno.ENAMETOOLONG


def test_open_beneath_creates_nothing(way: str, tree: Path, here: int) -> None:
    assert refused(system.open_beneath, here, b"new", os.O_RDWR | os.O_CREAT) == errno.EINVAL
    assert not (tree / "new").exists()


def test_open_beneath_says_that_its_directory_is_closed(way: str) -> None:
    assert refused(system.open_beneath, 999_999, b"a", FLAGS) == errno.EBADF


def test_open_beneath_opens_paths_that_are_too_long_for_one_call(way: str, tmp_path: Path, here: int) -> None:
    path = b"/".join([b"d" * 100] * 60)
    assert len(path) > 4096
    with chain(here, 60, b"d" * 100):
        os.close(system.open_beneath(here, path, FLAGS))
        assert refused(system.open_beneath, here, path + b"/none", FLAGS) == errno.ENOENT


def test_open_beneath_of_a_long_path_passes_no_link_either(way: str, tmp_path: Path, here: int) -> None:
    (tmp_path / "link").symlink_to("d" * 100)
    path = b"link/" + b"/".join([b"d" * 100] * 59)
    with chain(here, 60, b"d" * 100):
        assert refused(system.open_beneath, here, path, FLAGS) == errno.ELOOP


def test_open_beneath_gives_its_descriptors_back_when_it_fails_half_way(
    tree: Path, here: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "_kernel", Kernel(NOTHING))
    calls = iter(range(100))
    known = system.mount_of

    def mount_of(fd: int) -> int:
        if next(calls) == 2:
            raise OSError(errno.EIO, "the disk")
        return known(fd)

    monkeypatch.setattr(system, "mount_of", mount_of)
    before = descriptors()
    assert refused(system.open_beneath, here, b"a/b/c", FLAGS) == errno.EIO
    assert descriptors() == before


def test_both_ways_agree_on_any_path(tree: Path, here: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "a/b/c/back").symlink_to("../../..")
    random = Random(5)
    names = [
        b"a",
        b"b",
        b"c",
        b"file",
        b"link",
        b"up",
        b"self",
        b"dangling",
        b"back",
        b"none",
        b"..",
        b".",
        b"",
        b"\xff",
    ]
    paths = [b"/".join(random.choices(names, weights=[5, 5, 5] + [1] * 11, k=random.randint(1, 4))) for _ in range(400)]
    known, without = system._kernel, Kernel(NOTHING)
    seen = set()
    for path in paths:
        for flags in (os.O_RDONLY, FLAGS, system.O_LOOK, system.O_LOOK | os.O_DIRECTORY):
            results = []
            for kernel in (known, without):
                monkeypatch.setattr(system, "_kernel", kernel)
                try:
                    fd = system.open_beneath(here, path, flags)
                except OSError as failed:
                    results.append(-(failed.errno or 0))
                else:
                    results.append(os.fstat(fd).st_ino)
                    os.close(fd)
            assert results[0] == results[1], (path, flags, results)
            seen.add(min(results[0], 1))
    assert {1, -errno.ENOENT, -errno.ELOOP, -errno.ENOTDIR, -errno.EINVAL} <= seen


def test_open_beneath_without_a_descriptor_that_only_names(
    tree: Path, here: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS."""
    monkeypatch.setattr(system, "_kernel", Kernel(NOTHING))
    monkeypatch.setattr(system, "O_LOOK", 0)
    os.close(system.open_beneath(here, b"a/b/c", FLAGS))
    assert refused(system.open_beneath, here, b"link/b", FLAGS) == errno.ELOOP
    assert refused(system.open_beneath, here, b"a/up/x", FLAGS) == errno.ELOOP


# rename_new.


def test_rename_new_moves_files_and_directories_and_links(tree: Path, here: int) -> None:
    if "renameat2" not in system._kernel.has:
        pytest.skip("no renameat2 here")
    there = os.open(tree / "a", FLAGS)
    for index, name in enumerate((b"a/b/c", b"a/b/file", b"a/dangling")):
        folder, _, last = name.rpartition(b"/")
        source = os.open(tree / os.fsdecode(folder), FLAGS)
        before = os.stat(last, dir_fd=source, follow_symlinks=False)
        system.rename_new(source, last, there, b"new%d" % index)
        os.close(source)
        assert os.path.samestat(before, os.stat(b"new%d" % index, dir_fd=there, follow_symlinks=False))
    os.close(there)


def test_rename_new_moves_a_directory(way: str, tree: Path, here: int) -> None:
    system.rename_new(here, b"a", here, b"z")
    assert (tree / "z/b/file").read_bytes() == b"x"
    assert not (tree / "a").exists()


@pytest.mark.parametrize("there", ["empty directory", "full directory", "file", "dangling link", "link to a directory"])
@pytest.mark.parametrize("source", [b"a", b"plain"])
def test_rename_new_replaces_nothing(way: str, tree: Path, here: int, there: str, source: bytes) -> None:
    (tree / "plain").write_bytes(b"plain")
    new = tree / "new"
    if there == "empty directory":
        new.mkdir()
    elif there == "full directory":
        (new / "x").mkdir(parents=True)
    elif there == "file":
        new.write_bytes(b"kept")
    else:
        new.symlink_to("nowhere" if there == "dangling link" else "a")
    before = os.lstat(new)
    assert refused(system.rename_new, here, source, here, b"new") == errno.EEXIST
    assert os.path.samestat(before, os.lstat(new))
    assert (tree / os.fsdecode(source)).exists()


def test_rename_new_without_the_kernel_refuses_what_is_no_directory(
    tree: Path, here: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "_kernel", Kernel(NOTHING))
    (tree / "plain").write_bytes(b"plain")
    for name in (b"plain", b"link"):
        assert refused(system.rename_new, here, name, here, b"new") == errno.ENOSYS
        assert not os.path.lexists(tree / "new")
        assert os.path.lexists(tree / os.fsdecode(name))


def test_rename_new_where_the_file_system_has_no_such_flag(
    tree: Path, here: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(name: str, *arguments: object) -> int:
        raise OSError(errno.EINVAL, "as NFS says")

    kernel = Kernel(frozenset({"renameat2"}))
    monkeypatch.setattr(kernel, "call", call)
    kernel.has = frozenset({"renameat2"})
    monkeypatch.setattr(system, "_kernel", kernel)
    system.rename_new(here, b"a", here, b"z")
    assert (tree / "z/b/c").is_dir()


def test_rename_new_of_a_directory_into_itself(way: str, tree: Path, here: int) -> None:
    inside = os.open(tree / "a/b", FLAGS)
    assert refused(system.rename_new, here, b"a", inside, b"new") == errno.EINVAL
    os.close(inside)
    assert not (tree / "a/b/new").exists()


def test_rename_new_of_nothing_leaves_nothing(way: str, tree: Path, here: int) -> None:
    assert refused(system.rename_new, here, b"none", here, b"new") == errno.ENOENT
    assert not os.path.lexists(tree / "new")


@pytest.mark.parametrize("bad", [b"", b".", b"..", b"a/b", b"/", b"a\0"])
def test_rename_new_takes_names_not_paths(way: str, tree: Path, here: int, bad: bytes) -> None:
    assert refused(system.rename_new, here, bad, here, b"new") == errno.EINVAL
    assert refused(system.rename_new, here, b"a", here, bad) == errno.EINVAL
    assert (tree / "a/b/file").exists()


def test_rename_new_keeps_the_first_error_when_the_taken_name_is_used_meanwhile(
    tree: Path, here: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "_kernel", Kernel(NOTHING))
    known = os.rename

    def rename(*arguments: object, **named: object) -> None:
        (tree / "new/planted").mkdir()
        known(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "rename", rename)
    assert refused(system.rename_new, here, b"a", here, b"new") in {errno.ENOTEMPTY, errno.EEXIST}
    assert (tree / "a/b/file").exists()
    assert (tree / "new/planted").is_dir()


# Mounts.


def test_one_mount_has_one_number(way: str, tree: Path, here: int) -> None:
    fd = os.open(tree / "a/b", FLAGS)
    look = os.open(tree / "a/b/file", system.O_LOOK)
    proc = os.open("/proc", FLAGS)
    assert system.mount_of(fd) == system.mount_of(here) == system.mount_of(look)
    assert system.mount_of(proc) != system.mount_of(here)
    for one in (fd, look, proc):
        os.close(one)


def test_without_proc_the_device_is_the_mount(here: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "_kernel", Kernel(NOTHING))
    monkeypatch.setattr(system, "_mount_from_proc", lambda fd: None)
    assert system.mount_of(here) == os.fstat(here).st_dev


def test_a_mount_that_cannot_be_asked_for_is_not_guessed(here: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> object:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(system, "_kernel", Kernel(NOTHING))
    monkeypatch.setattr("builtins.open", full)
    assert refused(system.mount_of, here) == errno.EMFILE


@pytest.mark.parametrize("call", [system.mount_of, system.attributes, system.file_system])
def test_a_closed_descriptor_is_said(way: str, call: object) -> None:
    assert refused(call, 999_999) == errno.EBADF


def test_mount_roots_are_known(way: str, tree: Path, here: int) -> None:
    root = os.open("/", FLAGS)
    assert system.is_mount_root(root, b"proc")
    os.close(root)
    assert not system.is_mount_root(here, b"a")
    assert not system.is_mount_root(here, b"link")
    assert refused(system.is_mount_root, here, b"none") == errno.ENOENT
    assert refused(system.is_mount_root, here, b"a/b") == errno.EINVAL


def test_mount_roots_by_device(tree: Path, here: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "_kernel", Kernel(NOTHING))
    monkeypatch.setattr(system, "O_LOOK", 0)
    root = os.open("/", FLAGS)
    assert system.is_mount_root(root, b"proc")
    os.close(root)
    assert not system.is_mount_root(here, b"a")


MOUNTS = """
for name in ("store/sub", "bind", "memory", "over", "plain"):
    (here / "top" / name).mkdir(parents=True)
(here / "top/store/file").write_text("x")
(here / "top/over.txt").write_text("y")
mount("--bind", "top/store", "top/bind")
mount("-t", "tmpfs", "none", "top/memory")
mount("--bind", "top/over", "top/over")
mount("--bind", "top/store/file", "top/over.txt")
(here / "top/memory/in").mkdir()
fd = os.open("top", os.O_RDONLY)
for wanted in (None, {WANTED}):
    if wanted is not None:
        system._kernel = Kernel(wanted)
    for name in (b"bind", b"memory", b"over", b"over.txt"):
        assert system.is_mount_root(fd, name), name
        assert said(system.open_beneath, fd, name, os.O_RDONLY) == "Invalid cross-device link", name
        inner = system.open_beneath(fd, name, os.O_RDONLY, mounts=True)
        assert system.mount_of(inner) != system.mount_of(fd)
        os.close(inner)
    assert said(system.open_beneath, fd, b"bind/sub", os.O_RDONLY) == "Invalid cross-device link"
    assert said(system.open_beneath, fd, b"memory/in", os.O_RDONLY) == "Invalid cross-device link"
    assert said(system.rename_new, fd, b"memory", fd, b"gone") is not None
    for name in (b"store", b"plain"):
        assert not system.is_mount_root(fd, name), name
    inner = system.open_beneath(fd, b"memory", os.O_RDONLY, mounts=True)
    assert system.file_system(inner) == "tmpfs"
    os.close(inner)
print("done")
"""


@pytest.mark.parametrize("wanted", ["frozenset()", "frozenset({'openat2'})", "frozenset({'statx'})"])
def test_mounts_below_are_seen_and_not_entered(wanted: str, tmp_path: Path) -> None:
    assert with_mounts(MOUNTS.replace("{WANTED}", wanted), tmp_path) == "done\n"
    assert (tmp_path / "top/store/file").read_text() == "x"


# Attributes, file systems, and the manner of the disk's use.


def test_plain_files_have_no_attributes(way: str, tree: Path, here: int) -> None:
    assert system.attributes(here) == frozenset()
    for name in (b"a", b"link"):
        assert system.attributes(here, name) == frozenset()
    assert refused(system.attributes, here, b"none") == errno.ENOENT
    assert refused(system.attributes, here, b"a/b") == errno.EINVAL
    os.mkfifo(tree / "fifo")
    assert system.attributes(here, b"fifo") == frozenset()


@pytest.mark.parametrize(("letter", "word"), [("i", "immutable"), ("a", "append")])
def test_what_cannot_be_changed_is_known(way: str, tree: Path, here: int, letter: str, word: str) -> None:
    needs_root()
    names = [tree / "a/b/file", tree / "a/b/c"]
    if subprocess.run(["chattr", f"+{letter}", *names], capture_output=True, check=False).returncode != 0:
        pytest.skip("this file system has no such attributes")
    try:
        directory = os.open(tree / "a/b", FLAGS)
        assert system.attributes(directory, b"file") == {word}
        assert system.attributes(directory, b"c") == {word}
        look = os.open(b"c", system.O_LOOK | os.O_DIRECTORY, dir_fd=directory)
        real = os.open(b"file", os.O_RDONLY, dir_fd=directory)
        assert system.attributes(look) == system.attributes(real) == {word}
        for fd in (directory, look, real):
            os.close(fd)
    finally:
        subprocess.run(["chattr", f"-{letter}", *names], check=True)


def test_file_systems_have_names(way: str, here: int) -> None:
    assert system.file_system(here) in {*system._MAGIC.values(), "other"}
    proc = os.open("/proc", FLAGS)
    assert system.file_system(proc) == "other"
    os.close(proc)
    memory = Path("/dev/shm")
    if memory.is_dir():
        fd = os.open(memory, FLAGS)
        assert system.file_system(fd) == "tmpfs"
        os.close(fd)


def test_both_ways_name_the_same_file_system(here: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said = system.file_system(here)
    monkeypatch.setattr(system, "_kernel", Kernel(NOTHING))
    assert system.file_system(here) == said
    monkeypatch.setattr(system, "_mount_from_proc", lambda fd: None)
    assert system.file_system(here) == "other"


def test_idle_io_is_for_the_calling_thread_alone(way: str) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    told: list[tuple[bool, int]] = []

    def run() -> None:
        took = system.idle_io(3)
        told.append((took, os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert told == [(way == "kernel" and "ioprio_set" in system._kernel.has, min(19, before + 3))]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_idle_io_that_is_not_allowed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    kernel = Kernel(NOTHING)
    kernel.has = frozenset({"ioprio_set"})
    monkeypatch.setattr(kernel, "call", forbid)
    monkeypatch.setattr(system, "_kernel", kernel)
    monkeypatch.setattr(os, "setpriority", forbid)
    assert system.idle_io(5) is False
