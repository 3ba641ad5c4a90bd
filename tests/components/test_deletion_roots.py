"""Roots and targets against hostile paths: whatever is asked for, only what lies plainly below a root is resolved."""

import dataclasses
import errno
import os
import resource
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from busd.components.deletion import mounts, system, target
from busd.components.deletion.kernel import Kernel
from busd.components.deletion.protected import Protected, key_of
from busd.components.deletion.roots import NODE, Root, Roots, RootSettings
from busd.components.deletion.shown import shown
from busd.components.deletion.target import MAX_PATH, TOMBSTONES, Target, resolve
from busproto.errors import BusError, Code
from tests.components.deletion_world import FLAGS, chain, descriptors, with_mounts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no descriptors of directories on Windows")


@pytest.fixture(params=["kernel", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test runs with the kernel's calls and without any of them."""
    if request.param == "python":
        monkeypatch.setattr(system, "_kernel", Kernel(frozenset()))
    return str(request.param)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The directory of the root, beside a canary, with a tree in it."""
    root = tmp_path / "root"
    (root / "a/b/c").mkdir(parents=True)
    (root / "a/b/file").write_bytes(b"x")
    (root / "plain").write_bytes(b"y")
    (tmp_path / "outside/secret").mkdir(parents=True)
    (tmp_path / "outside/secret/canary").write_bytes(b"alive")
    return root


@pytest.fixture
def root(base: Path, way: str) -> Iterator[Root]:
    before = descriptors()
    opened = Root.open(RootSettings("data", base))
    yield opened
    opened.close()
    assert descriptors() == before
    assert (base.parent / "outside/secret/canary").read_bytes() == b"alive"


def reason(root: Root, path: bytes, code: Code = Code.DELETION_REFUSED) -> str:
    """Why ``path`` is not resolved; no descriptor is left open by the refusal."""
    before = descriptors()
    with pytest.raises(BusError) as caught:
        resolve(root, path)
    assert caught.value.code == code
    assert descriptors() == before
    assert len(str(caught.value)) < 1000
    return str(caught.value.fields["reason"])


def invalid(settings: RootSettings, protected: tuple[Path, ...] = ()) -> str:
    before = descriptors()
    with pytest.raises(BusError) as caught:
        Root.open(settings, protected)
    assert caught.value.code == Code.CONFIG_INVALID
    assert settings.id in str(caught.value)
    assert descriptors() == before
    return str(caught.value.fields["reason"])


# What is resolved.


@pytest.mark.parametrize("path", [b"a", b"a/b", b"a/b/c", b"a/b/file", b"plain"])
def test_what_lies_below_is_found(root: Root, base: Path, path: bytes) -> None:
    with resolve(root, path) as found:
        full = base / os.fsdecode(path)
        assert found.path == path
        assert found.name == full.name.encode()
        assert found.key == key_of(full.lstat())
        assert found.mode == full.lstat().st_mode
        assert found.directory == full.is_dir()
        assert os.path.samestat(os.fstat(found.parent), full.parent.stat())
        assert not os.get_inheritable(found.parent)
        os.listdir(found.parent)
        os.fsync(found.parent)
        found.check()
    assert found.parent == -1
    found.close()


def test_a_link_at_the_end_is_the_target_itself(root: Root, base: Path) -> None:
    (base / "out").symlink_to(base.parent / "outside")
    (base / "dangling").symlink_to("nowhere")
    (base / "loop").symlink_to("loop")
    (base / "top").symlink_to("/")
    (base / "self").symlink_to(".")
    for name in (b"out", b"dangling", b"loop", b"top", b"self"):
        with resolve(root, name) as found:
            assert stat.S_ISLNK(found.mode)
            assert not found.directory
            assert found.key == key_of(os.lstat(base / os.fsdecode(name)))


def test_every_kind_of_file_is_found_without_opening_it(root: Root, base: Path) -> None:
    os.mkfifo(base / "fifo")
    (base / "locked").write_bytes(b"")
    (base / "locked").chmod(0)
    for name in (b"fifo", b"locked"):
        resolve(root, name).close()


NAMES = [
    b"\xff\xfe\xfd",
    b"a\nb",
    b"-rf",
    b" ",
    b"...",
    b"..a",
    b"*",
    b"\\",
    b"~",
    "\N{PILE OF POO}".encode(),
    b"n" * 255,
    bytes(c for c in range(1, 256) if c != ord("/"))[:255],
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_name_is_only_a_name(root: Root, base: Path, name: bytes) -> None:
    os.mkdir(os.path.join(os.fsencode(base), name))
    os.mkdir(os.path.join(os.fsencode(base), name, name))
    with resolve(root, name + b"/" + name) as found:
        assert found.name == name
        assert found.directory


# What is refused for what it is.


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (b"", "empty"),
        (b"/", "absolute"),
        (b"//", "absolute"),
        (b"/etc", "absolute"),
        (b"/../etc", "absolute"),
        (b".", "'.' or '..'"),
        (b"..", "'.' or '..'"),
        (b"../outside", "'.' or '..'"),
        (b"a/..", "'.' or '..'"),
        (b"a/../plain", "'.' or '..'"),
        (b"a/../../outside", "'.' or '..'"),
        (b"./a", "'.' or '..'"),
        (b"a/.", "'.' or '..'"),
        (b"a/", "empty component"),
        (b"a//b", "empty component"),
        (b"\0", "NUL"),
        (b"a\0", "NUL"),
        (b"a\0/../..", "NUL"),
        (b"a/b\0c", "NUL"),
        (b"x" * 1_000_000, "1000000 bytes"),
        (b"a/" * 500_000 + b"a", "1000001 bytes"),
        (b"../" * 350_000, "1050000 bytes"),
        (b"x" * (MAX_PATH + 1), f"{MAX_PATH} may be"),
        (b"x" * MAX_PATH, "longer than the file system"),
        (b"a/" + b"x" * 256, "longer than the file system"),
        (b"none", "nothing of that name"),
        (b"a/none/x", "nothing of that name"),
        (b"plain/x", "not a directory"),
        (TOMBSTONES, "what they delete"),
        (TOMBSTONES + b"/other/1", "what they delete"),
        (TOMBSTONES.upper() + b"/x", "what they delete"),
    ],
)
def test_hostile_paths_are_refused(root: Root, path: bytes, why: str) -> None:
    started = time.monotonic()
    assert why in reason(root, path)
    assert time.monotonic() - started < 2


def test_a_component_that_is_a_link_is_refused(root: Root, base: Path) -> None:
    (base / "out").symlink_to(base.parent / "outside")
    (base / "a/up").symlink_to("../..")
    (base / "near").symlink_to("a")
    (base / "loop").symlink_to("loop")
    for path in (b"out/secret", b"a/up/outside", b"near/b", b"loop/x", b"a/up/root/a"):
        assert "links are not followed" in reason(root, path)


def test_links_of_the_process_file_system_are_links(way: str) -> None:
    settings = RootSettings("proc", Path("/proc/self"))
    assert "is a link" in invalid(settings)


def test_the_depth_is_the_operators(base: Path, way: str) -> None:
    with Roots.open([RootSettings("deep", base, min_depth=3)]) as roots:
        root = roots.get("deep", NODE)
        assert "1 deep" in reason(root, b"a")
        assert "2 deep" in reason(root, b"a/b")
        resolve(root, b"a/b/c").close()


def test_the_directory_of_what_is_being_deleted_is_known_by_any_name(
    root: Root, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on file systems that take names for equal that are written differently."""
    monkeypatch.setattr(target, "_key_in", lambda directory, name: key_of((base / "a").stat()))
    for path in (b"a", b"a/b"):
        assert "what they delete" in reason(root, path)
    resolve(root, b"plain").close()


def test_a_directory_that_may_not_be_entered(base: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*arguments: object, **named: object) -> int:
        raise PermissionError(errno.EACCES, "no")

    with Roots.open([RootSettings("data", base)]) as roots:
        root = roots.get("data", NODE)
        monkeypatch.setattr(Root, "check", lambda self: None)
        monkeypatch.setattr(target, "open_beneath", forbid)
        assert "may not enter" in reason(root, b"a/b")


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ENOMEM])
def test_a_system_that_fails_is_not_a_refusal(base: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **named: object) -> int:
        raise OSError(code, os.strerror(code))

    with Roots.open([RootSettings("data", base)]) as roots:
        root = roots.get("data", NODE)
        monkeypatch.setattr(target, "open_beneath", fail)
        assert reason(root, b"a/b", Code.DELETION_FAILED) == os.strerror(code)


def test_a_directory_that_may_not_be_read_can_still_hold_a_target(
    root: Root, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = os.open

    def opened(path: object, *arguments: object, **named: object) -> int:
        if path == b".":
            raise PermissionError(errno.EACCES, "no")
        return known(path, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", opened)
    with resolve(root, b"a/b/file") as found:
        os.stat(found.name, dir_fd=found.parent, follow_symlinks=False)


# What changes meanwhile.


def test_a_target_that_is_replaced_is_noticed(root: Root, base: Path) -> None:
    with resolve(root, b"a/b") as found:
        (base / "a/b").rename(base / "a/moved")
        for again in (False, True):
            if again:
                (base / "a/b").mkdir()
            with pytest.raises(BusError) as caught:
                found.check()
            assert caught.value.code == Code.DELETION_CHANGED
        (base / "a/b").rmdir()
        (base / "a/b").symlink_to(base.parent / "outside")
        with pytest.raises(BusError, match="something else"):
            found.check()


def test_a_parent_that_is_replaced_by_a_link_stays_what_was_opened(root: Root, base: Path) -> None:
    with resolve(root, b"a/b/c") as found:
        (base / "a").rename(base / "z")
        (base / "a").symlink_to(base.parent / "outside")
        found.check()
        os.rmdir(found.name, dir_fd=found.parent)
    assert not (base / "z/b/c").exists()


@pytest.mark.parametrize("swap", ["directory", "link", "file", "nothing"])
def test_a_root_that_is_replaced_is_not_used(root: Root, base: Path, swap: str) -> None:
    base.rename(base.parent / "moved")
    if swap == "directory":
        (base / "a/b").mkdir(parents=True)
    elif swap == "link":
        base.symlink_to(base.parent / "moved")
    elif swap == "file":
        base.write_bytes(b"")
    assert reason(root, b"a/b", Code.DELETION_CHANGED)
    if swap in {"link", "file"}:
        base.unlink()
    if swap != "directory":
        (base.parent / "moved").rename(base)
        resolve(root, b"a/b").close()


def test_a_directory_above_the_root_that_becomes_a_link_is_noticed(tmp_path: Path, way: str) -> None:
    (tmp_path / "up/root/a").mkdir(parents=True)
    with Roots.open([RootSettings("data", tmp_path / "up/root")]) as roots:
        (tmp_path / "up").rename(tmp_path / "real")
        (tmp_path / "up").symlink_to("real")
        assert "is a link" in reason(roots.get("data", NODE), b"a", Code.DELETION_CHANGED)


def test_swapping_in_a_loop_never_leads_out(root: Root, base: Path) -> None:
    """A directory and a link to what lies outside take turns at one name, as fast as they can."""
    (base / "a/b/secret").mkdir()
    (base / "evil").symlink_to(base.parent / "outside")
    wanted = key_of((base / "a/b/secret").stat())
    secret = key_of((base.parent / "outside/secret").stat())
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(base / "a/b", base / "aside")
            os.rename(base / "evil", base / "a/b")
            os.rename(base / "a/b", base / "evil")
            os.rename(base / "aside", base / "a/b")

    attacker = threading.Thread(target=swap)
    attacker.start()
    outcomes = dict.fromkeys(("found", "refused"), 0)
    try:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            try:
                with resolve(root, b"a/b/secret") as found:
                    assert found.key == wanted
                    assert found.key != secret
                outcomes["found"] += 1
            except BusError as error:
                outcomes["refused" if error.code == Code.DELETION_REFUSED else str(error)] += 1
    finally:
        stop.set()
        attacker.join(10)
    assert sum(outcomes.values()) > 10


# Size.


@pytest.mark.parametrize(("depth", "name"), [(3000, b"d"), (100, b"d" * 200), (250, b"d" * 255)])
def test_depth_and_length_have_no_bound_but_the_paths(root: Root, depth: int, name: bytes) -> None:
    """With no more descriptors than a handful beyond those that are open already."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    path = b"/".join([name] * depth)
    with chain(root.fd, depth, name):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors()) + 8, hard))
        try:
            with resolve(root, path) as found:
                assert found.directory
                assert os.stat(found.name, dir_fd=found.parent).st_ino == found.inode
            assert "nothing of that name" in reason(root, path + b"/e")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_refusals_and_targets_leave_no_descriptor(root: Root) -> None:
    before = descriptors()
    for _ in range(300):
        resolve(root, b"a/b/c").close()
        for path in (b"a/none", b"plain/x", b"..", b"a/b/c/d/e"):
            with pytest.raises(BusError):
                resolve(root, path)
    assert descriptors() == before


# Protected places.


def test_the_state_and_what_leads_to_it_stay(base: Path, way: str) -> None:
    state = base / "a/state"
    (state / "keys").mkdir(parents=True)
    before = descriptors()
    root = Root.open(RootSettings("data", base), [state])
    assert "protected" in reason(root, b"a/state")
    assert "protected" in reason(root, b"a")
    assert "protected" in reason(root, b"a/state/keys")
    assert "protected" in reason(root, b"a/state/none/x")
    assert str(state) not in reason(root, b"a/state")
    resolve(root, b"a/b").close()
    root.close()
    assert descriptors() == before


def test_state_that_comes_later_or_is_made_anew_is_protected(base: Path, way: str) -> None:
    state = base / "a/state"
    root = Root.open(RootSettings("data", base), [state])
    assert "protected" in reason(root, b"a")
    state.mkdir()
    assert "protected" in reason(root, b"a/state")
    state.rename(base / "old")
    state.mkdir()
    assert "protected" in reason(root, b"a/state")
    resolve(root, b"old").close()
    root.close()


def test_state_behind_a_link_is_protected_in_both_places(base: Path, way: str) -> None:
    (base / "real/state").mkdir(parents=True)
    (base / "names").mkdir()
    (base / "names/state").symlink_to(base / "real/state")
    root = Root.open(RootSettings("data", base), [base / "names/state"])
    for path in (b"real", b"real/state", b"names", b"names/state"):
        assert "protected" in reason(root, path)
    root.close()


def test_the_home_of_this_user_stays_and_what_is_in_it_may_go(
    base: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base / "home/me/scratch").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(base / "home/me"))
    assert "cannot be a root" in invalid(RootSettings("home", base / "home/me"))
    root = Root.open(RootSettings("data", base))
    assert "protected" in reason(root, b"home")
    assert "protected" in reason(root, b"home/me")
    resolve(root, b"home/me/scratch").close()
    root.close()


def test_the_home_in_the_user_database_counts_too(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    monkeypatch.setenv("HOME", "nonsense")
    if home == Path(os.path.realpath(home)) and home.is_dir() and home != Path("/"):
        assert "cannot be a root" in invalid(RootSettings("home", home))


def test_marks_are_of_device_and_inode(tmp_path: Path) -> None:
    (tmp_path / "x/y").mkdir(parents=True)
    marks = Protected([tmp_path / "x/y"]).marks()
    assert key_of((tmp_path / "x/y").stat()) in marks.closed
    assert key_of((tmp_path / "x").stat()) in marks.above
    assert key_of((tmp_path / "x").stat()) not in marks.kept
    assert key_of(os.stat("/")) in marks.kept


# What cannot be a root.


@pytest.mark.parametrize("path", ["/", "//", "relative", ".", "", "/tmp/../etc", "/..", "/none/at/all", "/etc/passwd"])
def test_places_that_cannot_be_a_root(way: str, path: str) -> None:
    assert invalid(RootSettings("bad", Path(path)))


def test_a_root_is_not_reached_through_a_link(base: Path, way: str) -> None:
    (base / "link").symlink_to("a")
    (base.parent / "way").symlink_to("root")
    assert "give the path that it leads to" in invalid(RootSettings("bad", base / "link"))
    assert "give the path that it leads to" in invalid(RootSettings("bad", base.parent / "way/a"))


def test_a_root_is_no_state_and_lies_in_none(base: Path, way: str) -> None:
    for path in (base, base / "a", base / "a/b"):
        assert str(base) in invalid(RootSettings("bad", path), (base,))


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("inner", ["a", "a/b/c", "."])
def test_roots_lie_beside_each_other(base: Path, way: str, inner: str, order: int) -> None:
    wanted = [RootSettings("outer", base), RootSettings("inner", base / inner)][::order]
    before = descriptors()
    with pytest.raises(BusError) as caught:
        Roots.open(wanted)
    assert caught.value.code == Code.CONFIG_INVALID
    assert descriptors() == before


def test_a_root_that_is_moved_into_another_stays(base: Path, way: str) -> None:
    other = base.parent / "outside"
    with Roots.open([RootSettings("data", base), RootSettings("other", other)]) as roots:
        other.rename(base / "a/in")
        other.symlink_to(base / "a/in")
        assert "protected" in reason(roots.get("data", NODE), b"a/in")
        other.unlink()
        (base / "a/in").rename(other)


def test_roots_whose_names_begin_alike_are_no_nesting(base: Path, way: str) -> None:
    (base.parent / "root2").mkdir()
    Roots.open([RootSettings("one", base), RootSettings("two", base.parent / "root2")]).close()


@pytest.mark.parametrize(
    "change",
    [
        {"id": ""},
        {"id": "Upper"},
        {"id": "a" * 65},
        {"id": "a/b"},
        {"id": "a\n"},
        {"min_depth": 0},
        {"min_depth": -1},
        {"max_entries": 0},
        {"max_bytes": -5},
    ],
)
def test_settings_that_cannot_be(base: Path, change: dict[str, object]) -> None:
    with pytest.raises(BusError) as caught:
        dataclasses.replace(RootSettings("data", base), **change)  # type: ignore[arg-type]
    assert caught.value.code == Code.CONFIG_INVALID


def test_an_id_twice_and_too_many_roots(base: Path) -> None:
    one = RootSettings("one", base / "a")
    with pytest.raises(BusError, match="twice"):
        Roots.open([one, RootSettings("one", base.parent / "outside")])
    with pytest.raises(BusError, match="257 roots"):
        Roots.open([one] * 257)


def test_a_platform_without_descriptors_of_directories(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "supports_dir_fd", set())
    assert "platform" in invalid(RootSettings("data", base))


# Who may use which.


def test_tenants_see_their_own_roots(base: Path) -> None:
    wanted = [
        RootSettings("shared", base / "a", frozenset({"red", "blue"})),
        RootSettings("mine", base.parent / "outside", frozenset({"red"})),
    ]
    (base.parent / "third").mkdir()
    wanted.append(RootSettings("own", base.parent / "third"))
    before = descriptors()
    with Roots.open(wanted) as roots:
        assert [root.id for root in roots.for_tenant("red")] == ["mine", "shared"]
        assert [root.id for root in roots.for_tenant("blue")] == ["shared"]
        assert roots.for_tenant("green") == roots.for_tenant("") == []
        assert [root.id for root in roots.for_tenant(NODE)] == ["mine", "own", "shared"]
        assert roots.get("mine", "red").settings is wanted[1]
        for id, tenant, near in (
            ("mine", "blue", "shared"),
            ("own", "red", "mine"),
            ("sharde", "red", "shared"),
            ("mine", "green", ""),
            ("x" * 100_000, "blue", "shared"),
        ):
            with pytest.raises(BusError) as caught:
                roots.get(id, tenant)
            assert caught.value.code == Code.DELETION_ROOT_UNKNOWN
            assert len(str(caught.value)) < 400
            if id != "own":
                assert caught.value.fields["nearest"] == near
            assert caught.value.fields["nearest"] != "own"
    assert descriptors() == before
    roots.close()


# Mounts.


MOUNTED = """
for name in ("root/a/b", "root/bind", "root/memory", "root/plain", "else/secret", "state/keys"):
    (here / name).mkdir(parents=True)
(here / "root/file").write_text("x")
(here / "else/file").write_text("x")
mount("--bind", "else", "root/bind")
mount("--bind", "root/a", "root/plain")
mount("-t", "tmpfs", "none", "root/memory")
mount("--bind", "else/file", "root/file")
(here / "root/memory/in").mkdir()
for name in ("root/.busd-tombstones/red/1", "root/x"):
    (here / name).mkdir(parents=True)
mount("--bind", "root/.busd-tombstones", "root/x")
for kernel in (system._kernel, Kernel(frozenset())):
    system._kernel = kernel
    root = Root.open(RootSettings("data", here / "root"))
    for path in (b"bind", b"bind/secret", b"memory", b"memory/in", b"file", b"plain", b"plain/b"):
        assert said(resolve, root, path) == "9002 a file system is mounted there", path
    resolve(root, b"a/b").close()
    wide = Root.open(RootSettings("wide", here / "root", one_file_system=False))
    for path in (b"bind/secret", b"memory/in", b"plain/b"):
        resolve(wide, path).close()
    for path in (b"bind", b"memory", b"file"):
        assert said(resolve, wide, path) == "9002 a file system is mounted there", path
    assert "what they delete" in said(resolve, wide, b"x/red")
    assert "what they delete" in said(resolve, wide, b"x/red/1")
    # Something is mounted over the root after it was opened.
    mount("-t", "tmpfs", "none", "root")
    assert said(resolve, root, b"a/b").startswith("9003 ")
    subprocess.run(["umount", "root"], check=True)
    resolve(root, b"a/b").close()
    # A root that holds itself: neither it nor what is above it can be named that way.
    (here / "root/a/loop").mkdir(exist_ok=True)
    mount("--bind", "root", "root/a/loop")
    assert "mounted" in said(resolve, root, b"a/loop/a")
    assert said(resolve, wide, b"a/loop") == "9002 a file system is mounted there"
    subprocess.run(["umount", "root/a/loop"], check=True)
    root.close()
    wide.close()
print("done")
"""

ALIASES = """
for name in ("data/x/state/keys", "data/y/inner/z", "mnt/state", "mnt/inner", "mnt/with blank"):
    (here / name).mkdir(parents=True)
mount("--bind", "data/x/state", "mnt/state")
mount("--bind", "data/y/inner", "mnt/inner")
mount("--bind", "data/y", "mnt/with blank")
for kernel in (system._kernel, Kernel(frozenset())):
    system._kernel = kernel
    # The state is named by where it is mounted, and stays where it really is.
    root = Root.open(RootSettings("data", here / "data"), [here / "mnt/state"])
    for path in (b"x", b"x/state", b"x/state/keys"):
        assert "protected" in said(resolve, root, path), path
    resolve(root, b"y").close()
    root.close()
    # A root in another one by way of a bind mount, and in the state.
    def both(*settings):
        Roots.open(settings)
    one, two = RootSettings("one", here / "data"), RootSettings("two", here / "mnt/inner")
    three = RootSettings("three", here / "mnt/with blank")
    assert "lies in root 'one'" in said(both, one, two)
    assert "lies in root 'one'" in said(both, two, one)
    assert "lies in root" in said(both, two, three)
    assert "protected" in said(Root.open, two, [here / "data/y"])
    assert "protected" in said(Root.open, two, [here / "data"])
print("done")
"""


@pytest.mark.parametrize("script", [MOUNTED, ALIASES], ids=["below", "elsewhere"])
def test_mounts_do_not_lead_out_or_in(script: str, tmp_path: Path) -> None:
    assert with_mounts(script, tmp_path) == "done\n"


def test_mounts_that_cannot_be_read_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "mounts", list)
    assert mounts.aliases(os.fsencode(tmp_path)) == []
    assert mounts.aliases(b"/none/at/all") == []
    assert mounts.aliases(b"\0") == []


# Paths for people.


def test_paths_are_shown_in_one_short_line() -> None:
    assert shown(b"a/b") == "a/b"
    assert shown("h\u00e9".encode()) == "h\u00e9"
    assert shown(b"\xff\n\x1b[31m") == "\\xff\\n\\x1b[31m"
    assert shown("\u202e".encode()) == "\\u202e"
    for path in (b"x" * 1_000_000, b"\xff" * 256, "\u202e".encode() * 80):
        assert len(shown(path)) <= 256
        assert "\n" not in shown(path)


def test_a_target_is_closed_once() -> None:
    fd = os.open("/", FLAGS)
    one = Target(None, b"a", fd, b"a", 0, 0, 0)  # type: ignore[arg-type]
    one.close()
    again = os.open("/", FLAGS)
    one.close()
    os.fstat(again)
    os.close(again)
