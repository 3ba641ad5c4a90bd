"""Which files go: patterns against a matcher that tries everything, what a filter spares, and what people write."""

import contextlib
import os
import socket
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from busd.components.deletion.entry import entry_of
from busd.components.deletion.filters import Filter
from busd.components.deletion.gate import OpenGate
from busd.components.deletion.glob import LONGEST, Glob, compiled
from busd.components.deletion.system import born
from busd.components.deletion.walk import Removal
from busproto.errors import BusError, Code

# Patterns


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        (b"*.log", [b"a.log", b".log", b".hidden.log"], [b"a.log.1", b"d/a.log", b"log"]),
        (b"**/*.log", [b"a.log", b"d/a.log", b"d/e/f/a.log"], [b"a.txt", b"a.log/b"]),
        (b"cache/**", [b"cache/a", b"cache/a/b"], [b"cache", b"caches/a", b"d/cache/a"]),
        (b"**", [b"a", b"a/b/c"], []),
        (b"**/**/**", [b"a", b"a/b"], []),
        (b"a/**/b", [b"a/b", b"a/x/b", b"a/x/y/b"], [b"ab", b"a/xb", b"a/b/c", b"a"]),
        (b"**/a/**/b/**", [b"a/b/c", b"x/a/y/b/z/w"], [b"a/b", b"b/a/c"]),
        (b"**/a/b/**/a/b/c", [b"a/b/a/b/c", b"a/b/x/a/b/c"], [b"a/b/c", b"a/a/b/c"]),
        (b"?", [b"a", b"\xff", b"\n"], [b"", b"ab", b"\xc3\xa4"]),
        (b"[a-c]x", [b"ax", b"cx"], [b"dx", b"x"]),
        (b"[!a-c]x", [b"dx", b"\nx"], [b"ax", b"x"]),
        (b"[^a]", [b"b"], [b"a"]),
        (b"[]]", [b"]"], [b"["]),
        (b"[!]]", [b"["], [b"]"]),
        (b"[a-]", [b"a", b"-"], [b"b"]),
        (rb"[\]a]", [b"]", b"a"], [b"\\"]),
        (rb"\*", [b"*"], [b"a", b"\\*"]),
        (rb"a\[b", [b"a[b"], [b"ab"]),
        (b"a**b", [b"ab", b"axyb"], [b"a/b"]),
        (b"*a*a*", [b"aa", b"xaxax"], [b"a"]),
        (b"*ab*b", [b"abb", b"xabyb"], [b"ab"]),
        (b"$.^|()+{}&~-#", [b"$.^|()+{}&~-#"], [b""]),
        (b"\xff\xfe*", [b"\xff\xfe", b"\xff\xfe\x80"], [b"\xff"]),
        (b"a\nb*", [b"a\nb", b"a\nb\n"], [b"a"]),
    ],
)
def test_patterns(pattern: bytes, matching: list[bytes], other: list[bytes]) -> None:
    glob = Glob(pattern)
    assert [path for path in matching if not glob.matches(path)] == []
    assert [path for path in other if glob.matches(path)] == []
    assert compiled(pattern) is compiled(pattern)


@pytest.mark.parametrize(
    ("pattern", "wrong"),
    [
        (b"", "1 to 4096 bytes"),
        (b"a" * (LONGEST + 1), "4097"),
        (b"a\0b", "NUL"),
        (b"/a", "a part ''"),
        (b"a/", "a part ''"),
        (b"a//b", "a part ''"),
        (b"./a", "a part '.'"),
        (b"a/../b", "a part '..'"),
        (b"[a", "not closed"),
        (b"[a/b]", "not closed"),
        (b"[]", "not closed"),
        (b"[!]", "not closed"),
        (b"[b-a]", "is empty"),
        (b"a\\", "after the last"),
        (b"[\\", "after the last"),
    ],
)
def test_what_can_match_nothing_is_refused(pattern: bytes, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Glob(pattern)


def naive(pattern: bytes, path: bytes) -> bool:
    """All ways, one byte at a time."""

    @cache
    def parts(these: tuple[bytes, ...], names: tuple[bytes, ...]) -> bool:
        if not these:
            return not names
        if these[0] == b"**":
            if len(these) == 1:
                return len(names) >= 1
            return any(parts(these[1:], names[i:]) for i in range(len(names) + 1))
        return bool(names) and segment(these[0], names[0]) and parts(these[1:], names[1:])

    @cache
    def segment(these: bytes, name: bytes) -> bool:
        if not these:
            return not name
        if these[:1] == b"*":
            return any(segment(these[1:], name[i:]) for i in range(len(name) + 1))
        if not name:
            return False
        if these[:1] == b"[":
            end = these.index(b"]", 2)
            inside = these[1:end]
            negated = inside[:1] == b"!"
            return (name[0] in inside[negated:]) != negated and segment(these[end + 1 :], name[1:])
        return these[:1] in (b"?", name[:1]) and segment(these[1:], name[1:])

    return parts(tuple(pattern.split(b"/")), tuple(path.split(b"/")))


NAMES = st.lists(st.sampled_from([b"a", b"b", b".x", b"\xff", b"ab"]), min_size=1, max_size=6).map(b"".join)
PATHS = st.lists(NAMES, min_size=1, max_size=6).map(b"/".join)
TOKENS = st.sampled_from([b"a", b"b", b"\xff", b"?", b"*", b"[ab]", b"[!a]", b"**", b".x"])
PARTS = st.one_of(st.just(b"**"), st.lists(TOKENS, min_size=1, max_size=5).map(b"".join))
PATTERNS = st.lists(PARTS, min_size=1, max_size=6).map(b"/".join)


@given(PATTERNS, st.lists(PATHS, min_size=1, max_size=20))
@example(b"**/*a/**/b*/**", [b"a/b/a", b"xa/bb/b/b"])
@example(b"*a*ab", [b"aab", b"aaab", b"abab", b"ab"])
@example(b"**/a/b/**/b", [b"a/b", b"a/a/b/b", b"a/b/b"])
def test_patterns_are_what_a_matcher_that_tries_everything_says(pattern: bytes, paths: list[bytes]) -> None:
    glob = Glob(pattern)
    for path in paths:
        assert glob.matches(path) == naive(pattern, path), path


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_any_pattern_compiles_or_says_why_not(pattern: bytes, path: bytes) -> None:
    try:
        glob = Glob(pattern)
    except ValueError:
        return
    assert glob.matches(path) in (True, False)


@given(st.binary(min_size=1, max_size=30))
def test_a_name_with_all_its_bytes_escaped_matches_itself_only(name: bytes) -> None:
    name = name.replace(b"\0", b"x").replace(b"/", b"y")
    glob = Glob(b"".join(b"\\" + bytes([byte]) for byte in name))
    assert glob.matches(name)
    assert not glob.matches(name + b"x")
    assert not glob.matches(name[:-1])


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (b"*a" * 60 + b"b", b"a" * 4000),
        (b"*" * 4000 + b"b", b"a" * 4000),
        (b"*?" * 1000 + b"b", b"a" * 250),
        (b"[ab]*" * 700 + b"c", b"ab" * 2000),
        (b"**/a/" * 400 + b"b", b"a/" * 2000 + b"a"),
        (b"**/*a/" * 400 + b"b", b"/".join([b"a" * 10] * 400)),
        (b"**/" + b"a/" * 1000 + b"**/b", b"a/" * 1999 + b"b"),
        (b"*aab" * 100, b"a" * 4000),
    ],
)
def test_no_pattern_takes_long(pattern: bytes, path: bytes) -> None:
    """Those that keep a backtracking matcher busy for ever."""
    glob = Glob(pattern)
    began = time.process_time()
    glob.matches(path)
    assert time.process_time() - began < 1.0


def test_time_grows_no_faster_than_the_path() -> None:
    glob = Glob(b"*a*a*a*a*a*a*a*a*b")

    def seconds(length: int) -> float:
        path = b"a" * length
        best = 1e9
        for _ in range(5):
            began = time.process_time()
            for _ in range(20):
                glob.matches(path)
            best = min(best, time.process_time() - began)
        return best

    assert seconds(32_000) < 4 * 2.6 * max(seconds(8000), 1e-3)


# What goes


@dataclass(frozen=True)
class Entry:
    path: bytes = b"d/a.log"
    mode: int = stat.S_IFREG | 0o644
    uid: int = 1000
    size: int = 100
    atime: float = 0.0
    mtime: float = 0.0
    ctime: float = 0.0


NOW = 1_000_000.0
FILE = Entry()


@pytest.mark.parametrize(
    ("wanted", "entry", "reason"),
    [
        (Filter(), FILE, None),
        (Filter(), replace(FILE, mode=stat.S_IFLNK | 0o777), None),
        (Filter(), replace(FILE, mode=stat.S_IFIFO), None),
        (Filter(), replace(FILE, mode=stat.S_IFSOCK), "socket"),
        (Filter(), replace(FILE, mode=stat.S_IFBLK), "device"),
        (Filter(), replace(FILE, mode=stat.S_IFCHR), "device"),
        (Filter(), replace(FILE, mode=stat.S_IFDIR | 0o755), "directory"),
        (Filter(), replace(FILE, mode=0o644), "type"),
        (Filter(), replace(FILE, mode=stat.S_IFREG | stat.S_ISVTX), "sticky"),
        (Filter(), replace(FILE, mode=stat.S_IFLNK | stat.S_ISVTX), None),
        (Filter(types=frozenset({"file"})), replace(FILE, mode=stat.S_IFREG | stat.S_ISVTX), "sticky"),
        (Filter(types=frozenset({"socket"})), replace(FILE, mode=stat.S_IFSOCK), None),
        (Filter(types=frozenset({"device"})), replace(FILE, mode=stat.S_IFBLK), None),
        (Filter(types=frozenset({"device"})), FILE, "type"),
        (Filter(types=frozenset({"link"})), FILE, "type"),
        (Filter(owner=1000), FILE, None),
        (Filter(owner=0), FILE, "owner"),
        (Filter(larger_than=99), FILE, None),
        (Filter(larger_than=100), FILE, "size"),
        (Filter(smaller_than=101), FILE, None),
        (Filter(smaller_than=100), FILE, "size"),
        (Filter(older_than=999_999.0), FILE, None),
        (Filter(older_than=NOW), FILE, "young"),
        (Filter(older_than=60.0), replace(FILE, atime=NOW - 59), "young"),
        (Filter(older_than=60.0), replace(FILE, mtime=NOW - 59), "young"),
        (Filter(older_than=60.0), replace(FILE, ctime=NOW - 59), "young"),
        (Filter(older_than=60.0), replace(FILE, atime=NOW - 61, mtime=NOW - 61, ctime=NOW - 61), None),
        (Filter(older_than=0.0), replace(FILE, mtime=NOW + 1e6), "young"),  # from the future
        (Filter(older_than=60.0), replace(FILE, ctime=float("nan")), "young"),
        (Filter(older_than=60.0), replace(FILE, atime=float("nan")), "young"),
        (Filter(glob=b"**/*.log"), FILE, None),
        (Filter(glob=b"*.log"), FILE, "name"),
        (Filter(glob=b"**/*.log", owner=1000, larger_than=50, smaller_than=200, older_than=1.0), FILE, None),
        (Filter(glob=b"**/*.log", owner=1000, larger_than=50, smaller_than=90, older_than=1.0), FILE, "size"),
    ],
)
def test_what_stays_and_why(wanted: Filter, entry: Entry, reason: str | None) -> None:
    assert wanted.spares(entry, NOW) == reason


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"older_than": -1.0}, "older_than"),
        ({"older_than": float("nan")}, "older_than"),
        ({"larger_than": -1}, "larger_than"),
        ({"smaller_than": -1}, "smaller_than"),
        ({"smaller_than": 0}, "smaller_than: nothing is smaller than 0"),
        ({"smaller_than": 11, "larger_than": 10}, "smaller than 11 and larger than 10"),
        ({"types": frozenset()}, "types: nothing"),
        ({"types": frozenset({"dir", "file"})}, "types: dir"),
        ({"glob": b"["}, "glob: a '\\['"),
        ({"owner": -1}, "owner: -1"),
    ],
)
def test_what_lets_nothing_go_is_a_mistake(fields: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Filter(**fields)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({k: list(v) if isinstance(v, frozenset) else v for k, v in fields.items()}, Filter)


@given(
    st.builds(
        Filter,
        older_than=st.none() | st.floats(0, 1e9),
        glob=st.none() | st.just(b"**/\xff*"),
        larger_than=st.none() | st.integers(0, 1 << 40),
        owner=st.none() | st.integers(0, 70_000),
        types=st.none() | st.frozensets(st.sampled_from(["file", "link", "socket"]), min_size=1),
    )
)
def test_a_filter_survives_the_wire(wanted: Filter) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(wanted), type=Filter) == wanted
    assert msgspec.json.decode(msgspec.json.encode(wanted), type=Filter) == wanted


# What people write


@pytest.mark.parametrize(
    ("fields", "made"),
    [
        ({}, Filter()),
        ({"older_than": None, "glob": "", "types": ""}, Filter()),
        ({"older_than": 90}, Filter(older_than=90.0)),
        ({"older_than": "90"}, Filter(older_than=90.0)),
        ({"older_than": "1.5h"}, Filter(older_than=5400.0)),
        ({"older_than": " 30 d "}, Filter(older_than=30 * 86_400.0)),
        ({"older_than": "2w"}, Filter(older_than=14 * 86_400.0)),
        ({"older_than": "15min"}, Filter(older_than=900.0)),
        ({"larger_than": "10M"}, Filter(larger_than=10_000_000)),
        ({"larger_than": "4KiB"}, Filter(larger_than=4096)),
        ({"larger_than": "1.5Gi"}, Filter(larger_than=3 << 29)),
        ({"larger_than": "9007199254740993"}, Filter(larger_than=9007199254740993)),
        ({"smaller_than": "64kB"}, Filter(smaller_than=64_000)),
        ({"glob": "**/ä\udcff"}, Filter(glob=b"**/\xc3\xa4\xff")),
        ({"glob": b"\xff"}, Filter(glob=b"\xff")),
        ({"types": "file, link"}, Filter(types=frozenset({"file", "link"}))),
        ({"types": ["socket"]}, Filter(types=frozenset({"socket"}))),
        ({"owner": 7}, Filter(owner=7)),
        ({"owner": "0007"}, Filter(owner=7)),
    ],
)
def test_parse(fields: dict[str, Any], made: Filter) -> None:
    assert Filter.parse(fields) == made


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"older": 1}, "older: there is no such field"),
        ({"o\x1b[2J": 1}, "'o\\x1b[2J': there is no such field"),
        ({"older_than": "soon"}, "older_than: 'soon' is no time"),
        ({"older_than": "5y"}, "older_than: "),
        ({"older_than": "-5d"}, "older_than: "),
        ({"older_than": -5}, "older_than: "),
        ({"older_than": True}, "older_than: "),
        ({"older_than": 10**400}, "older_than: "),
        ({"older_than": "9999999999999999999w"}, "older_than: "),
        ({"larger_than": "10X"}, "larger_than: "),
        ({"larger_than": float("inf")}, "larger_than: "),
        ({"larger_than": float("nan")}, "larger_than: "),
        ({"larger_than": 1 << 63}, "larger_than: "),
        ({"larger_than": [1]}, "larger_than: "),
        ({"smaller_than": 0}, "smaller_than: nothing"),
        ({"glob": "a//b"}, "glob: no relative path"),
        ({"glob": 5}, "glob: a pattern is bytes or text"),
        ({"glob": "\ud800"}, "glob: "),
        ({"types": "file,dir"}, "types: dir"),
        ({"types": 5}, "types: types are a list"),
        ({"types": [5]}, "types: types are a list"),
        ({"owner": -1}, "owner: -1 is no user id"),
        ({"owner": 1 << 32}, "owner: 4294967296 is no user id"),
        ({"owner": "99999999999"}, "owner: this node has no user"),
        ({"owner": "no such user \0"}, "owner: this node has no user"),
        ({"owner": 1.5}, "owner: a user is a number or a name"),
        ({"owner": True}, "owner: "),
    ],
)
def test_what_is_wrong_names_its_field(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(BusError) as caught:
        Filter.parse(fields, subject="deletion.survey")
    assert caught.value.code == Code.REQUEST_INVALID
    assert caught.value.fields["subject"] == "deletion.survey"
    assert caught.value.fields["reason"].startswith(reason), caught.value.fields["reason"]
    assert len(caught.value.fields["reason"]) < 400


@pytest.mark.skipif(sys.platform == "win32", reason="owners are no numbers on Windows")
def test_an_owner_by_name() -> None:
    import pwd

    me = pwd.getpwuid(os.getuid())
    assert Filter.parse({"owner": me.pw_name}) == Filter(owner=me.pw_uid)


# In a walk


class Door(OpenGate):
    """A gate behind which something happens after the walk has listed and before it removes."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self._happens = happens

    def enter(self, files: int, size: int) -> None:
        if files > 1:
            self._happens()


def test_what_becomes_young_or_another_before_its_turn_stays(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    names = ["goes", "read", "written", "linked", "replaced", "socket"]
    for name in names:
        (tree / name).write_text("old")
    wanted = Filter(older_than=60.0)
    began = time.time()
    later = began + 3600  # by then all that is there now is an hour old

    def meanwhile() -> None:
        # Times of the future stand for what happens at `later`.
        os.utime(tree / "read", (later, 1.0))
        os.utime(tree / "written", (1.0, later))
        (tree / "replaced").rename(tmp_path / "away")  # as old, and another
        (tree / "replaced").write_text("old")
        (tree / "socket").rename(tmp_path / "before")
        with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(tree):
            server.bind("socket")

    fd = os.open(tree, os.O_RDONLY)
    try:
        removal = Removal(fd, hoist=None, gate=Door(meanwhile), accept=lambda entry: wanted.spares(entry, later))
        counts = removal.run().snapshot()
    finally:
        os.close(fd)
    assert (counts.files, counts.spared) == (2, {"young": 2, "changed": 1, "socket": 1})
    assert sorted(os.listdir(tree)) == ["read", "replaced", "socket", "written"]


def test_a_change_of_any_kind_makes_a_file_young(tmp_path: Path) -> None:
    """Its owner can set back when it was read and written, but not when that was done."""
    file = tmp_path / "file"
    file.write_text("new")
    os.utime(file, (1.0, 1.0))
    entry = entry_of(b"file", b"file", file.stat())
    assert Filter(older_than=60.0).spares(entry, time.time()) == "young"
    assert Filter(older_than=60.0).spares(entry, time.time() + 120) is None


def test_what_is_made_has_not_changed_before_that(tmp_path: Path) -> None:
    """Why the time when a file was made is not asked: the one of its last change is never before it."""
    file = tmp_path / "file"
    file.write_text("new")
    os.utime(file, (1.0, 1.0))
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        made = born(fd, b"file")
    finally:
        os.close(fd)
    if made is None:
        pytest.skip("this file system does not know when a file was made")
    assert file.stat().st_ctime >= made - 1e-6  # of rounding
