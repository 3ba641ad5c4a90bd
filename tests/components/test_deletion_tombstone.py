"""Tombstones: what is buried is what was found, comes back whole or goes wholly, and nothing else is ever touched."""

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from busd.components.deletion import area as area_module
from busd.components.deletion import ground, system
from busd.components.deletion.area import Area
from busd.components.deletion.ground import CannotBury
from busd.components.deletion.roots import Root
from busd.components.deletion.target import resolve
from busd.components.deletion.tombstone import SYNC_POINTS, NotEmpty, Proof, Tombstone
from busproto.errors import BusError, Code
from tests.components.deletion_world import descriptors, needs_root, with_mounts
from tests.components.tombstone_world import TENANT, bury, empty, grave_of, manifest_of, open_root, picture, plant

PLACE = "jobs/old"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    before = descriptors()
    root = open_root(tmp_path / "root")
    plant(root.settings.path)
    yield root
    root.close()
    assert descriptors() == before


@pytest.fixture
def place(root: Root) -> Path:
    return root.settings.path / PLACE


@pytest.fixture(params=["in one step", "with a placeholder"])
def renaming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of renaming without replacing: the kernel's, and that of file systems which have none."""
    if request.param == "with a placeholder":
        monkeypatch.setattr(system._kernel, "has", system._kernel.has - {"renameat2"})


def once(point: str, action: Callable[[], object]) -> Callable[[str], None]:
    """A sync that does ``action`` at ``point``."""

    def sync(reached: str) -> None:
        if reached == point:
            action()

    return sync


def failing(monkeypatch: pytest.MonkeyPatch, module: object, name: str, number: int, when: bytes) -> None:
    """Let ``name`` in ``module`` fail with ``number`` where one of its arguments is ``when``."""
    real = getattr(module, name)

    def fail(*arguments: object) -> object:
        if when in arguments:
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    monkeypatch.setattr(module, name, fail)


def only(root: Root) -> Tombstone:
    [tombstone] = Area(root, TENANT).scan()
    return tombstone


# -- a whole life -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("renaming")
def test_a_directory_is_buried_emptied_and_proven_gone(root: Root, place: Path) -> None:
    points: list[str] = []
    with bury(root, sync=points.append) as tombstone:
        assert not place.exists()
        assert sorted(os.listdir(tombstone.directory or -1)) == ["deep", "file", "link"]
        assert tombstone.hoist is not None
        assert os.listdir(tombstone.hoist) == []
        empty(tombstone.directory)
        noted: list[Proof] = []
        proof = tombstone.finish(noted.append)
    assert proof == Proof(gone=True, basis="descriptor", links=0)
    assert noted == [proof]
    assert points == list(SYNC_POINTS[:8])
    assert Area(root, TENANT).scan() == []
    assert os.listdir(grave_of(root).parent) == []


def test_nothing_beside_it_changes(root: Root, place: Path) -> None:
    before = [picture(root.settings.path / name) for name in ("beside", "outside")]
    with bury(root) as tombstone:
        empty(tombstone.directory)
        tombstone.finish()
    assert [picture(root.settings.path / name) for name in ("beside", "outside")] == before
    assert sorted(os.listdir(place.parent)) == ["single"]


def test_an_empty_directory(root: Root, place: Path) -> None:
    place.parent.joinpath("none").mkdir()
    with bury(root, b"jobs/none") as tombstone:
        assert tombstone.finish().gone


def make_file(path: Path) -> None:
    path.write_bytes(b"x")


def make_link(path: Path) -> None:
    path.symlink_to("beside")


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            listening.bind(f"/proc/self/fd/{directory}/{path.name}")  # a path of a socket has 107 bytes at most
        finally:
            os.close(directory)


@pytest.mark.parametrize("make", [make_file, make_link, make_fifo, make_socket])
def test_what_is_no_directory(root: Root, place: Path, make: Callable[[Path], None]) -> None:
    make(place.parent / "thing")
    with bury(root, b"jobs/thing") as tombstone:
        assert tombstone.directory is None
        assert tombstone.hoist is None
        assert tombstone.finish() == Proof(gone=True, basis="descriptor", links=0)
    assert not os.path.lexists(place.parent / "thing")


def test_a_file_with_another_name_says_that_it_stays(root: Root, place: Path) -> None:
    os.link(place.parent / "single", place.parent / "other")
    with bury(root, b"jobs/single") as tombstone:
        assert tombstone.finish() == Proof(gone=True, basis="descriptor", links=1)
    assert (place.parent / "other").read_bytes() == b"alone"


def test_names_of_any_bytes(root: Root, place: Path) -> None:
    name = b"-\xff\n\x01 " + "é".encode()
    os.mkdir(os.path.join(os.fsencode(place.parent), name))
    bury(root, b"jobs/" + name).close()
    with only(root) as tombstone:
        assert tombstone.manifest.path == b"jobs/" + name
        assert tombstone.restore() is None
    assert name in os.listdir(os.fsencode(place.parent))


def test_a_job_has_one_tombstone(root: Root, place: Path) -> None:
    with bury(root), pytest.raises(BusError) as caught:
        bury(root, b"jobs/single")
    assert caught.value.code == Code.DELETION_JOB_STATE
    assert (place.parent / "single").exists()
    assert only(root).state == "buried"


def test_the_manifest_is_of_the_target(root: Root) -> None:
    with resolve(root, b"jobs/old") as target, resolve(root, b"jobs/single") as other:
        for wrong in (manifest_of(other), manifest_of(target, "../up"), manifest_of(target, ".new-x")):
            with pytest.raises(ValueError, match="job"):
                Area.open(root, TENANT).bury(target, wrong)
    with pytest.raises(ValueError, match="tenant"):
        Area.open(root, "../up")


def test_options_are_bounded_before_anything_is_made(root: Root) -> None:
    with resolve(root, b"jobs/old") as target, pytest.raises(BusError) as caught:
        Area.open(root, TENANT).bury(target, manifest_of(target, much="x" * 200_000))
    assert caught.value.code == Code.DELETION_REFUSED
    assert Area(root, TENANT).scan() == []


# -- finish -----------------------------------------------------------------------------------------------------------


def test_what_is_left_is_not_removed(root: Root) -> None:
    with bury(root) as tombstone:
        with pytest.raises(NotEmpty):
            tombstone.finish()
        os.rename("deep", "1", src_dir_fd=tombstone.directory, dst_dir_fd=tombstone.hoist)
        empty(tombstone.directory)
        with pytest.raises(NotEmpty):
            tombstone.finish()
        empty(tombstone.hoist)
        assert tombstone.finish().gone


def test_what_comes_late_is_walked_again(root: Root, place: Path) -> None:
    inside = os.open(place, os.O_RDONLY)
    late = once("ending", lambda: os.close(os.open("late", os.O_CREAT | os.O_WRONLY, dir_fd=inside)))
    try:
        with bury(root, sync=late) as tombstone:
            empty(tombstone.directory)
            with pytest.raises(NotEmpty):
                tombstone.finish()
        with only(root) as again:
            assert again.state == "buried"
            empty(again.directory)
            assert again.finish() == Proof(gone=True, basis="descriptor", links=0)
        assert os.fstat(inside).st_nlink == 0
    finally:
        os.close(inside)


def test_a_tree_that_is_exchanged_is_not_removed(root: Root) -> None:
    with bury(root) as tombstone:
        empty(tombstone.directory)
        tree = grave_of(root) / "tree"
        tree.rename(grave_of(root).parent / "elsewhere")
        tree.mkdir()
        with pytest.raises(BusError) as caught:
            tombstone.finish()
        assert caught.value.code == Code.DELETION_CHANGED
        assert tree.is_dir()


def test_a_failure_of_the_disk_after_the_removal_is_got_over(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    with bury(root) as tombstone:
        empty(tombstone.directory)
        broken = True

        def settle(fd: int) -> None:
            if broken and not (grave_of(root) / "tree").exists():
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr("busd.components.deletion.tombstone.settle", settle)
        with pytest.raises(BusError, match="EIO"):
            tombstone.finish()
        broken = False
        assert tombstone.finish() == Proof(gone=True, basis="descriptor", links=0)


def test_who_keeps_a_journal_is_told_before_the_tombstone_is_gone(root: Root) -> None:
    def fail(proof: Proof) -> None:
        raise RuntimeError("no journal")

    with bury(root) as tombstone:
        empty(tombstone.directory)
        with pytest.raises(RuntimeError):
            tombstone.finish(fail)
    with only(root) as again:
        assert again.state == "done"
        assert again.finish() == Proof(gone=True, basis="name", links=None)
    assert Area(root, TENANT).scan() == []


# -- restore ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("renaming")
def test_restore_brings_it_back_as_it_was(root: Root) -> None:
    before = picture(root.settings.path)
    with bury(root) as tombstone:
        assert picture(root.settings.path) != before
        assert tombstone.restore() is None
    assert picture(root.settings.path) == before
    assert Area(root, TENANT).scan() == []


@pytest.mark.parametrize("make", [Path.mkdir, make_file, make_link])
def test_restore_overwrites_nothing(root: Root, place: Path, make: Callable[[Path], None]) -> None:
    with bury(root) as tombstone:
        make(place)
        kind = stat.S_IFMT(place.lstat().st_mode)
        with pytest.raises(BusError) as caught:
            tombstone.restore()
        assert caught.value.code == Code.DELETION_CHANGED
        assert stat.S_IFMT(place.lstat().st_mode) == kind
        assert only(root).state == "buried"


def test_restore_overwrites_nothing_that_comes_at_the_last_moment(root: Root, place: Path) -> None:
    with bury(root, sync=once("restoring", place.mkdir)) as tombstone:
        with pytest.raises(BusError) as caught:
            tombstone.restore()
        assert caught.value.code == Code.DELETION_CHANGED
        assert only(root).state == "buried"
        place.rmdir()
        # It was only a name that was taken: a second time it goes back.
    with only(root) as again:
        again.restore()
    assert (place / "deep" / "file").exists()


def test_restore_to_a_directory_that_is_gone_or_a_link(root: Root, place: Path) -> None:
    with bury(root) as tombstone:
        place.parent.rename(place.parent.with_name("moved"))
        with pytest.raises(BusError) as caught:
            tombstone.restore()
        assert caught.value.code == Code.DELETION_CHANGED
        place.parent.symlink_to(place.parent.with_name("beside"))
        with pytest.raises(BusError) as caught:
            tombstone.restore()
        assert caught.value.code == Code.DELETION_CHANGED
        assert only(root).state == "buried"


def test_restore_of_a_part_keeps_what_was_moved_out_of_its_place(root: Root, place: Path) -> None:
    place.chmod(0o755)
    os.chown(place, 1, 2) if os.geteuid() == 0 else None
    with bury(root) as tombstone:
        assert tombstone.directory is not None
        os.unlink("file", dir_fd=tombstone.directory)
        os.rename("deep", "1", src_dir_fd=tombstone.directory, dst_dir_fd=tombstone.hoist)
        kept = tombstone.restore()
    assert kept == b"recovered-job-1"
    assert sorted(os.listdir(place)) == ["link", "recovered-job-1"]
    recovered = place / "recovered-job-1"
    assert (recovered / "1" / "file").read_bytes() == b"5"
    assert (recovered.stat().st_uid, recovered.stat().st_gid) == (place.stat().st_uid, place.stat().st_gid)
    assert stat.S_IMODE(recovered.stat().st_mode) == 0o755
    assert Area(root, TENANT).scan() == []


def test_remains_of_an_earlier_job_of_the_same_name(root: Root) -> None:
    with bury(root) as tombstone:
        for name in (".old-job-1", ".new-job-1"):
            (grave_of(root).with_name(name) / "hoist").mkdir(0o700, parents=True)
            grave_of(root).with_name(name).chmod(0o700)
        empty(tombstone.directory)
        assert tombstone.finish().gone
    assert os.listdir(grave_of(root).parent) == [".new-job-1"]
    with bury(root, b"jobs/single") as tombstone:
        assert tombstone.finish().gone
    assert os.listdir(grave_of(root).parent) == []


def test_states_and_what_is_possible_in_them(root: Root) -> None:
    with bury(root) as tombstone:
        with pytest.raises(BusError, match="discarding is not possible while deletion job 'job-1' is buried"):
            tombstone.discard()
        tombstone.restore()
        for wrong in ("finish", "directory"):
            with pytest.raises(BusError, match="is restored"):
                getattr(tombstone, wrong)()


# -- races ------------------------------------------------------------------------------------------------------------


def swap_for_directory(place: Path) -> None:
    place.rename(place.with_name("aside"))
    place.mkdir()
    (place / "precious").write_bytes(b"!")


def swap_for_link(place: Path) -> None:
    place.rename(place.with_name("aside"))
    place.symlink_to(place.parent.parent / "beside")


def swap_for_neighbour(place: Path) -> None:
    place.rename(place.with_name("aside"))
    (place.parent.parent / "beside").rename(place)


@pytest.mark.parametrize("swap", [swap_for_directory, swap_for_link, swap_for_neighbour])
def test_what_is_swapped_in_before_the_rename_is_put_back(
    root: Root, place: Path, swap: Callable[[Path], None]
) -> None:
    seen = ""

    def attack() -> None:
        nonlocal seen
        swap(place)
        seen = picture(root.settings.path)

    with pytest.raises(BusError) as caught:
        bury(root, sync=once("manifest-synced", attack))
    assert caught.value.code == Code.DELETION_CHANGED
    assert not isinstance(caught.value, CannotBury)
    assert picture(root.settings.path) == seen
    assert Area(root, TENANT).scan() == []


def test_what_is_swapped_in_before_it_is_opened_is_not_moved_at_all(root: Root, place: Path) -> None:
    with resolve(root, b"jobs/old") as target:
        swap_for_directory(place)
        points: list[str] = []
        with pytest.raises(BusError) as caught:
            Area.open(root, TENANT).bury(target, manifest_of(target), points.append)
    assert caught.value.code == Code.DELETION_CHANGED
    assert points == []


def test_what_vanishes_before_the_rename(root: Root, place: Path) -> None:
    with pytest.raises(BusError) as caught:
        bury(root, sync=once("manifest-synced", lambda: place.rename(place.with_name("aside"))))
    assert caught.value.code == Code.DELETION_CHANGED
    assert not isinstance(caught.value, CannotBury)
    assert Area(root, TENANT).scan() == []


def test_what_cannot_be_put_back_is_kept_and_never_deleted(root: Root, place: Path) -> None:
    def sync(point: str) -> None:
        if point == "manifest-synced":
            swap_for_directory(place)
        elif point == "renamed":
            place.mkdir()  # the attacker takes the name

    with pytest.raises(BusError) as caught:
        bury(root, sync=sync)
    assert caught.value.code == Code.DELETION_CHANGED
    assert "job-1/tree" in str(caught.value)
    tombstone = only(root)
    assert tombstone.state == "quarantined"
    assert (grave_of(root) / "tree" / "precious").read_bytes() == b"!"
    assert (place.with_name("aside") / "file").exists()


def test_a_parent_that_is_moved_away_changes_nothing(root: Root, place: Path) -> None:
    """The name is renamed in the directory that was found, wherever that is now; what is buried is what was found."""
    inode = place.stat().st_ino
    moved = place.parent.with_name("moved")

    def attack() -> None:
        place.parent.rename(moved)
        place.parent.symlink_to("beside")

    with bury(root, sync=once("manifest-synced", attack)) as tombstone:
        assert os.fstat(tombstone.directory or -1).st_ino == inode
    assert not (moved / "old").exists()
    assert (root.settings.path / "beside" / "old" / "file").exists()


# -- no tombstone possible --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EACCES, errno.EBUSY, errno.EPERM, errno.EROFS, errno.ENOSYS])
def test_a_rename_that_fails_means_in_place(root: Root, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = picture(root.settings.path)
    failing(monkeypatch, area_module, "rename_new", number, b"tree")
    with pytest.raises(CannotBury) as caught:
        bury(root)
    assert caught.value.code == Code.DELETION_FAILED
    assert caught.value.reason == f"{errno.errorcode[number]}: {os.strerror(number)}"
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == number
    assert picture(root.settings.path) == before
    assert os.listdir(grave_of(root).parent) == []


@pytest.mark.parametrize("step", ["make_private", "write_manifest", "settle", "rename_new"])
def test_a_disk_that_is_full_means_in_place(root: Root, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Area.open(root, TENANT)
    before = picture(root.settings.path)

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(area_module, step, full)
        with pytest.raises(CannotBury, match="ENOSPC"):
            bury(root)
    assert picture(root.settings.path) == before
    assert os.listdir(grave_of(root).parent) == []


def test_a_disk_that_fails_once_the_job_has_its_name(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    def settle(fd: int) -> None:
        if grave_of(root).exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(area_module, "settle", settle)
        with pytest.raises(CannotBury, match="EIO"):
            bury(root)
    assert os.listdir(grave_of(root).parent) == []


def test_a_rename_that_says_it_failed_and_did_not(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server that answers the second of two requests: ENOENT, as the first has moved it."""
    real = system.rename_new

    def twice(source: int, name: bytes, target: int, new: bytes) -> None:
        real(source, name, target, new)
        if new == b"tree":
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(area_module, "rename_new", twice)
    with bury(root) as tombstone:
        assert tombstone.state == "buried"


def test_a_sync_that_fails_after_the_rename_puts_it_back(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    before = picture(root.settings.path)
    real = ground.settle

    def settle(fd: int) -> None:
        if (grave_of(root) / "tree").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(area_module, "settle", settle)
    with pytest.raises(BusError, match="EIO") as caught:
        bury(root)
    assert not isinstance(caught.value, CannotBury)
    assert picture(root.settings.path) == before
    assert Area(root, TENANT).scan() == []


def test_the_manifest_is_on_disk_before_anything_moves(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    area = Area.open(root, TENANT)
    steps: list[object] = []
    fsync, rename_new = os.fsync, system.rename_new

    def synced(fd: int) -> None:
        steps.append(os.fstat(fd).st_ino)
        fsync(fd)

    def renamed(source: int, name: bytes, target: int, new: bytes) -> None:
        steps.append(new)
        rename_new(source, name, target, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(area_module, "rename_new", renamed)
    with resolve(root, b"jobs/old") as target, area.bury(target, manifest_of(target)):
        grave = grave_of(root)
        jobs = root.settings.path / "jobs"
        inodes = [path.stat().st_ino for path in (grave / "manifest", grave, grave.parent, jobs)]
    assert steps == [inodes[0], inodes[1], b"job-1", inodes[2], b"tree", inodes[1], inodes[3]]


def test_a_directory_of_somebody_else_cannot_be_moved(root: Root, place: Path) -> None:
    """For a user without rights on it: a directory that gets another parent is itself written to."""
    needs_root()
    for path in (root.settings.path, place.parent):
        os.chown(path, 1234, 1234)
    with resolve(root, b"jobs/old") as target:
        os.seteuid(1234)
        try:
            with pytest.raises(CannotBury, match="EACCES"):
                Area.open(root, TENANT).bury(target, manifest_of(target))
        finally:
            os.seteuid(0)
    assert (place / "file").exists()


def test_mounts_below_beside_and_above(tmp_path: Path) -> None:
    """What has a mount in it is buried (the walk leaves the mount). What lies on another mount, of the same file system
    or not, cannot be; nor can anything where the area itself is one.
    """
    needs_root()
    script = """
from tests.components.tombstone_world import *
from busd.components.deletion.tombstone import CannotBury
root = open_root(here / "root")
plant(here / "root")
mount("-t", "tmpfs", "none", str(here / "root/jobs/old/deep"))
try:
    bury(root).close()
except CannotBury as error:
    print("below", error.reason.split(":")[0])
else:
    print("below buried", Area(root, TENANT).scan()[0].state)
wide = Root.open(RootSettings(id="data", path=here / "root", tenants=frozenset({TENANT}), one_file_system=False))
mount("-t", "tmpfs", "none", str(here / "root/outside"))
(here / "root/outside/mine").mkdir()
(here / "elsewhere/mine").mkdir(parents=True)
mount("--bind", str(here / "elsewhere"), str(here / "root/beside/old"))
for word, path in (("other", b"outside/mine"), ("bound", b"beside/old/mine")):
    try:
        bury(wide, path, "job-3")
    except CannotBury as error:
        print(word, error.reason)
buried = grave_of(root) / "tree"
mount("--bind", str(buried), str(buried))
try:
    Area(root, TENANT).scan()[0].directory
except BusError as error:
    print("over", error.fields["reason"])
mount("-t", "tmpfs", "none", str(here / "root/.busd-tombstones/acme"))
try:
    bury(root, b"jobs/single", "job-2")
except CannotBury as error:
    print("area", error.reason)
"""
    below, other, bound, over, area = with_mounts(script, tmp_path).splitlines()
    assert below == "below buried buried"
    assert other == "other it is on another file system than the root"
    assert bound == "bound something is mounted there"
    assert over == "over something is mounted over it"
    assert area.startswith("area tombstones cannot be kept there: EXDEV:")


# -- the area ---------------------------------------------------------------------------------------------------------


def area_path(root: Root) -> Path:
    return grave_of(root).parent


def test_the_area_is_private_whatever_the_umask(root: Root) -> None:
    before = os.umask(0o777)
    try:
        tombstone = bury(root)
    finally:
        os.umask(before)
    with tombstone:
        for path in (area_path(root).parent, area_path(root), grave_of(root), grave_of(root) / "hoist"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert tombstone.hoist is not None
        empty(tombstone.directory)
        assert tombstone.finish().gone


def open_to_others(path: Path) -> None:
    path.chmod(0o711)


def a_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def a_file(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.write_bytes(b"")


@pytest.mark.parametrize("level", ["all", "tenant"])
@pytest.mark.parametrize(
    ("spoil", "said"), [(open_to_others, "mode is 0711"), (a_link, "ELOOP"), (a_file, "ENOTDIR|ELOOP")]
)
def test_an_area_that_is_not_private_is_not_used(
    root: Root, place: Path, spoil: Callable[[Path], None], said: str, level: str
) -> None:
    area = Area.open(root, TENANT)
    spoil(area_path(root) if level == "tenant" else area_path(root).parent)
    with pytest.raises(CannotBury, match=said), resolve(root, b"jobs/old") as target:
        area.bury(target, manifest_of(target))
    with pytest.raises(CannotBury, match=said):
        area.scan()
    assert (place / "file").exists()


@pytest.mark.parametrize("level", ["all", "tenant"])
def test_an_area_of_another_user_is_not_used(root: Root, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    area = Area.open(root, TENANT)
    if os.geteuid() == 0:
        os.chown(area_path(root) if level == "tenant" else area_path(root).parent, 1234, -1)
    else:
        monkeypatch.setattr(ground, "own_uid", lambda: os.geteuid() + 1)
    with pytest.raises(CannotBury, match="belongs to user"), resolve(root, b"jobs/old") as target:
        area.bury(target, manifest_of(target))


def test_an_area_that_is_taken_away_under_a_job(root: Root, place: Path) -> None:
    with bury(root) as tombstone:
        area_path(root).parent.rename(root.settings.path / "stolen")
        empty(tombstone.directory)  # what is held open is still what was buried
        with pytest.raises(BusError) as caught:
            tombstone.finish()
        assert caught.value.code == Code.DELETION_FAILED
        assert not isinstance(caught.value, CannotBury)
    assert Area(root, TENANT).scan() == []


def test_tenants_that_have_an_area(root: Root) -> None:
    assert Area.tenants(root) == []
    for tenant in ("globex", TENANT):
        Area.open(root, tenant)
    (area_path(root).parent / "No Tenant").mkdir()
    assert Area.tenants(root) == [TENANT, "globex"]


def test_no_descriptor_is_kept_by_a_scan(root: Root) -> None:
    for number in range(5):
        (root.settings.path / "jobs" / f"d{number}").mkdir()
        bury(root, f"jobs/d{number}".encode(), f"job-{number}").close()
    before = descriptors()
    found = Area(root, TENANT).scan()
    assert [tombstone.job for tombstone in found] == [f"job-{number}" for number in range(5)]
    assert descriptors() == before
