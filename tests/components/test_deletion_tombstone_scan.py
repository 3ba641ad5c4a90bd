"""What a scan makes of what it finds: what a job left is gone on with; anything else is listed and never touched."""

import hashlib
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from busd.components.deletion.area import Area
from busd.components.deletion.manifest import Manifest, NotAManifest
from busd.components.deletion.roots import Root
from busd.components.deletion.target import resolve
from busd.components.deletion.tombstone import Tombstone
from busproto.errors import BusError, Code
from tests.components.deletion_world import descriptors, needs_root
from tests.components.tombstone_world import TENANT, bury, empty, grave_of, manifest_of, open_root, picture, plant

HEAD = struct.Struct(">16sHI32s")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    before = descriptors()
    root = open_root(tmp_path / "root")
    plant(root.settings.path)
    yield root
    root.close()
    assert descriptors() == before


@pytest.fixture
def grave(root: Root) -> Path:
    bury(root).close()
    return grave_of(root)


def only(root: Root) -> Tombstone:
    [tombstone] = Area(root, TENANT).scan()
    return tombstone


def must_stay(root: Root, said: str) -> None:
    """What is there is in quarantine because of ``said``: nothing that can be asked for touches it."""
    whole = picture(grave_of(root).parent)
    for _ in range(2):
        with only(root) as tombstone:
            assert tombstone.state == "quarantined"
            assert said in tombstone.reason
            assert tombstone.found is None
            for verb in ("finish", "restore", "discard", "directory", "hoist", "manifest"):
                with pytest.raises(BusError) as caught:
                    getattr(tombstone, verb)()
                assert caught.value.code == Code.DELETION_JOB_STATE
    assert picture(grave_of(root).parent) == whole


def sealed(body: bytes, version: int = 1, magic: bytes = b"busd tombstone\n\0") -> bytes:
    """A manifest file with ``body``, whose head is right."""
    return HEAD.pack(magic, version, len(body), hashlib.sha256(body).digest()) + body


# -- quarantine: the manifest -----------------------------------------------------------------------------------------


def test_no_manifest(root: Root, grave: Path) -> None:
    (grave / "manifest").unlink()
    must_stay(root, "it has no manifest")


def test_two_manifests(root: Root, grave: Path) -> None:
    shutil.copy(grave / "manifest", grave / "manifest.ending")
    must_stay(root, "it has two manifests")


@pytest.mark.parametrize("size", [0, 1, HEAD.size - 1, HEAD.size, HEAD.size + 1])
def test_a_manifest_that_is_cut_short(root: Root, grave: Path, size: int) -> None:
    os.truncate(grave / "manifest", size)
    must_stay(root, "bytes")


def test_a_manifest_with_any_byte_changed(root: Root, grave: Path) -> None:
    data = (grave / "manifest").read_bytes()
    for index in range(len(data)):
        with pytest.raises(NotAManifest):
            Manifest.decode(data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :])
        with pytest.raises(NotAManifest):
            Manifest.decode(data[:index])
    (grave / "manifest").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    must_stay(root, "checksum")


def test_a_manifest_of_another_version(root: Root, grave: Path) -> None:
    (grave / "manifest").write_bytes(sealed((grave / "manifest").read_bytes()[HEAD.size :], version=2))
    must_stay(root, "of version 2; this busd knows 1")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("path", b"../beside"),
        ("path", b"/beside"),
        ("path", b""),
        ("path", b"a//b"),
        ("path", b"a\0b"),
        ("path", b".busd-tombstones/acme/job-1"),
        ("path", "text"),
        ("job", "../job"),
        ("job", "job-2"),
        ("tenant", "globex"),
        ("tenant", ".."),
        ("root", "other"),
        ("version", 2),
        ("inode", "12"),
        ("inode", 2),
        ("directory", False),
        ("more", 1),
    ],
)
def test_a_manifest_that_is_sealed_and_wrong(root: Root, grave: Path, field: str, value: object) -> None:
    body = msgspec.msgpack.decode((grave / "manifest").read_bytes()[HEAD.size :])
    body[field] = value
    (grave / "manifest").write_bytes(sealed(msgspec.msgpack.encode(body)))
    must_stay(root, "manifest")


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x91" * 5000, b"\xdf\xff\xff\xff\xff", msgspec.msgpack.encode([1])])
def test_a_manifest_that_is_sealed_and_no_manifest(root: Root, grave: Path, body: bytes) -> None:
    (grave / "manifest").write_bytes(sealed(body))
    must_stay(root, "cannot be read")


def test_a_manifest_without_an_end(root: Root, grave: Path) -> None:
    os.truncate(grave / "manifest", 1 << 40)
    must_stay(root, "1099511627776 bytes")


def linked(path: Path) -> None:
    path.rename(path.parent.parent.parent.parent / "elsewhere")
    path.symlink_to("../../../elsewhere")


def with_another_name(path: Path) -> None:
    os.link(path, path.parent.parent.parent.parent / "elsewhere")


def for_all_to_write(path: Path) -> None:
    path.chmod(0o666)


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize("plant_it", [linked, with_another_name, for_all_to_write, a_directory, a_fifo])
def test_a_manifest_that_somebody_else_put_there(root: Root, grave: Path, plant_it: Callable[[Path], None]) -> None:
    plant_it(grave / "manifest")
    must_stay(root, "the manifest")


def test_a_manifest_of_another_user(root: Root, grave: Path) -> None:
    needs_root()
    os.chown(grave / "manifest", 1234, -1)
    must_stay(root, "belongs to somebody else")


# -- quarantine: what lies beside it ----------------------------------------------------------------------------------


def test_another_tree_than_the_manifest_says(root: Root, grave: Path) -> None:
    (grave / "tree").rename(grave / "hoist" / "1")
    (grave / "tree").mkdir()
    (grave / "tree" / "precious").write_bytes(b"!")
    must_stay(root, "not what the manifest says")


def test_a_file_where_the_tree_was(root: Root, grave: Path) -> None:
    shutil.rmtree(grave / "tree")
    (grave / "tree").write_bytes(b"!")
    must_stay(root, "not what the manifest says")


def test_what_no_job_puts_there(root: Root, grave: Path) -> None:
    (grave / "precious").write_bytes(b"!")
    must_stay(root, "precious")


def test_a_hoist_that_leads_elsewhere(root: Root, grave: Path) -> None:
    (grave / "hoist").rmdir()
    (grave / "hoist").symlink_to(root.settings.path / "beside")
    must_stay(root, "hoist")
    assert (root.settings.path / "beside" / "old" / "file").exists()


def test_a_directory_of_a_job_that_is_open_to_others(root: Root, grave: Path) -> None:
    grave.chmod(0o750)
    must_stay(root, "mode is 0750")


def test_a_directory_of_a_job_that_is_another_users(root: Root, grave: Path) -> None:
    needs_root()
    os.chown(grave, 1234, -1)
    must_stay(root, "belongs to user 1234")


def test_a_link_in_place_of_a_job(root: Root, grave: Path) -> None:
    grave.rename(root.settings.path / "elsewhere")
    grave.symlink_to("../../elsewhere")
    must_stay(root, "ELOOP")


def test_a_tombstone_under_another_name(root: Root, grave: Path) -> None:
    grave.rename(grave.with_name("job-2"))
    must_stay(root, "it was moved here")


def test_a_tombstone_of_another_tenant(root: Root, grave: Path) -> None:
    Area.open(root, "globex")
    grave.rename(grave.parent.parent / "globex" / "job-1")
    [tombstone] = Area(root, "globex").scan()
    assert tombstone.state == "quarantined"
    assert "it was moved here" in tombstone.reason


@pytest.mark.parametrize("name", [b"job 1", b"\xff", b".hidden", b"-x", b"x" * 101])
def test_a_directory_that_is_no_job(root: Root, grave: Path, name: bytes) -> None:
    os.rename(grave, os.path.join(os.fsencode(grave.parent), name))
    must_stay(root, "not a job's id")


def test_a_plain_file_in_the_area(root: Root) -> None:
    Area.open(root, TENANT)
    (grave_of(root).parent / "precious").write_bytes(b"!")
    must_stay(root, "not a directory of this node's")


@pytest.mark.parametrize("name", [".new-job-1", ".old-job-1"])
def test_remains_with_something_in_them(root: Root, grave: Path, name: str) -> None:
    grave.rename(grave.with_name(name))
    must_stay(root, "it cannot be removed")


@pytest.mark.parametrize("name", [".new-job-1", ".old-job-1"])
def test_a_hoist_with_something_in_it_is_no_remains(root: Root, grave: Path, name: str) -> None:
    (grave / "tree").rename(grave / "hoist" / "1")
    grave.rename(grave.with_name(name))
    must_stay(root, "ENOTEMPTY")


def test_one_in_quarantine_does_not_keep_others_from_ending(root: Root, grave: Path) -> None:
    (grave / "manifest").unlink()
    bury(root, b"jobs/single", "job-2").close()
    quarantined, buried = Area(root, TENANT).scan()
    assert (quarantined.job, quarantined.state, buried.state) == ("job-1", "quarantined", "buried")
    with buried:
        assert buried.finish().gone
    must_stay(root, "it has no manifest")


# -- what a crash leaves ----------------------------------------------------------------------------------------------


class Crash(BaseException):
    """The node ends here."""


def crash_at(point: str) -> Callable[[str], None]:
    def sync(reached: str) -> None:
        if reached == point:
            raise Crash

    return sync


def test_what_never_had_a_manifest_leaves_nothing(root: Root) -> None:
    before = picture(root.settings.path)
    with pytest.raises(Crash):
        bury(root, sync=crash_at("manifest-written"))
    assert os.listdir(grave_of(root).parent) == [".new-job-1"]
    assert Area(root, TENANT).scan() == []
    assert os.listdir(grave_of(root).parent) == []
    assert picture(root.settings.path) == before


def not_begun(root: Root) -> Path:
    with pytest.raises(Crash):
        bury(root, sync=crash_at("manifest-synced"))
    return root.settings.path / "jobs" / "old"


def test_not_begun(root: Root) -> None:
    before = picture(root.settings.path)
    not_begun(root)
    tombstone = only(root)
    assert tombstone.state == "not-begun"
    assert tombstone.reason == "the tree is at its place"
    assert tombstone.manifest.options == {}
    assert picture(root.settings.path) == before
    tombstone.discard()
    assert Area(root, TENANT).scan() == []
    with bury(root) as again:
        assert again.state == "buried"


def test_gone_before_it_began(root: Root) -> None:
    place = not_begun(root)
    for change, said in (
        (lambda: place.rename(place.with_name("aside")), "nothing at its place"),
        (place.mkdir, "something else is at its place"),
        (lambda: place.parent.rename(place.parent.with_name("moved")), "ENOENT"),
        (lambda: place.parent.symlink_to("moved"), "ELOOP"),
    ):
        change()
        tombstone = only(root)
        assert tombstone.state == "gone"
        assert said in tombstone.reason
    tombstone.discard()
    assert Area(root, TENANT).scan() == []
    assert (place.parent.with_name("moved") / "aside" / "file").exists()


def test_a_new_tree_at_the_place_of_one_that_is_done_is_left_alone(root: Root) -> None:
    """A new directory may get the inode number of the one that was removed: what is done must not seem not begun."""
    with bury(root, sync=crash_at("removed")) as tombstone:
        inode = tombstone.manifest.inode
        empty(tombstone.directory)
        with pytest.raises(Crash):
            tombstone.finish()
    place = root.settings.path / "jobs" / "old"
    for _ in range(100):
        place.mkdir()
        if place.stat().st_ino == inode:
            break
        place.rmdir()
    else:
        place.mkdir()
    assert only(root).state == "done"
    assert only(root).finish().basis == "name"
    assert place.is_dir()


def test_a_name_taken_for_a_rename_that_never_came(root: Root) -> None:
    """Where renaming without replacing is two steps, a crash in between leaves an empty directory."""
    not_begun(root)
    (grave_of(root) / "tree").mkdir(mode=0o700)
    assert only(root).state == "not-begun"
    assert not (grave_of(root) / "tree").exists()
    (grave_of(root) / "tree").mkdir(mode=0o755)
    must_stay(root, "not what the manifest says")


def test_a_name_taken_for_a_job_that_never_came(root: Root) -> None:
    Area.open(root, TENANT)
    grave_of(root).mkdir(mode=0o700)
    assert Area(root, TENANT).scan() == []
    assert not grave_of(root).exists()


def test_what_was_being_restored_is_restored(root: Root) -> None:
    before = picture(root.settings.path)
    with bury(root, sync=crash_at("restoring")) as tombstone, pytest.raises(Crash):
        tombstone.restore()
    with only(root) as again:
        assert again.state == "restoring"
        with pytest.raises(BusError):
            again.finish()
        again.restore()
    assert picture(root.settings.path) == before
    assert Area(root, TENANT).scan() == []


def test_what_was_restored_stays_and_is_not_begun_anew(root: Root) -> None:
    before = picture(root.settings.path)
    with bury(root, sync=crash_at("put-back")) as tombstone, pytest.raises(Crash):
        tombstone.restore()
    assert only(root).state == "restored"
    assert only(root).restore() is None
    assert picture(root.settings.path) == before
    assert Area(root, TENANT).scan() == []


def test_a_hoist_that_is_missing_is_made(root: Root, grave: Path) -> None:
    (grave / "hoist").rmdir()
    with only(root) as tombstone:
        assert tombstone.hoist is not None
        assert (grave / "hoist").is_dir()


def test_the_manifest_comes_back_as_it_was(root: Root) -> None:
    with resolve(root, b"jobs/old") as target:
        manifest = manifest_of(target, chmod=True, files_per_second=2.5, note="é", limit=None)
        Area.open(root, TENANT).bury(target, manifest).close()
    assert only(root).manifest == manifest
