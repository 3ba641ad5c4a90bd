"""Several walks at the same time, on the same tree and on trees within it: together everything goes."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busd.components.deletion.entry import Entry
from busd.components.deletion.gate import OpenGate
from busd.components.deletion.options import WalkOptions
from busd.components.deletion.tally import Counts
from busd.components.deletion.walk import Removal
from tests.components.deletion_world import FLAGS, descriptors

OPTIONS = WalkOptions(batch=8, listing=30, depth=2, backoff=0.002)


def grow(tree: Path, breadth: int, depth: int) -> int:
    """A tree; returns how many entries are below it."""
    tree.mkdir(exist_ok=True)
    made = breadth
    for number in range(breadth):
        (tree / f"f{number}").touch()
        if depth:
            made += 1 + grow(tree / f"d{number}", breadth, depth - 1)
    return made


def together(walks: list[tuple[Path, Path | None]], options: WalkOptions = OPTIONS) -> list[Counts]:
    """Walk all of (tree, hoist) at once, each with two workers, from the same moment on."""
    before = descriptors()
    fds = [(os.open(tree, FLAGS), None if hoist is None else os.open(hoist, FLAGS)) for tree, hoist in walks]
    removals = [Removal(tree, hoist=hoist, gate=OpenGate(), options=options) for tree, hoist in fds]
    start, found = threading.Barrier(len(walks)), dict[int, Counts]()

    def run(number: int) -> None:
        start.wait(10)
        found[number] = removals[number].run().snapshot()

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(walks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a walk does not end"
    for pair in fds:
        for fd in pair:
            if fd is not None:
                os.close(fd)
    assert descriptors() == before
    for counts in found.values():
        outcomes = [*counts.failed.values(), *counts.parked.values(), *counts.spared.values()]
        assert counts.seen == counts.files + counts.directories + counts.held + sum(outcomes)
    return [found[number] for number in range(len(walks))]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in ("hoist0", "hoist1", "hoist2"):
        (tmp_path / name).mkdir(mode=0o700)
    return tmp_path


FORMS = pytest.mark.parametrize("hoists", [(None, None), (None, 1), (0, 1)], ids=["in place", "one of each", "hoist"])


@FORMS
@pytest.mark.parametrize("below", ["", "d1", "d1/d2"], ids=["the same tree", "a tree in it", "deeper"])
def test_two_walks_take_everything_and_each_entry_counts_for_one(
    base: Path, hoists: tuple[int | None, int | None], below: str
) -> None:
    for _ in range(4):
        made = grow(base / "tree", 4, 3)
        places = [None if number is None else base / f"hoist{number}" for number in hoists]
        one, two = together([(base / "tree", places[0]), (base / "tree" / below, places[1])])
        assert one.failed == two.failed == {}
        # What another walk moved away or took is no loss, unless it can be told from one only by asking again.
        assert set(one.parked) | set(two.parked) <= {"changed"}
        assert os.listdir(base / "tree") == []
        assert all(os.listdir(base / f"hoist{number}") == [] for number in range(3))
        assert one.removed + two.removed == made


def test_four_walks_on_one_flat_directory(base: Path) -> None:
    made = grow(base / "tree", 3000, 0)
    found = together([(base / "tree", None)] * 4)
    assert sum(counts.files for counts in found) == made
    assert all((counts.failed, counts.parked, counts.held) == ({}, {}, 0) for counts in found)
    assert os.listdir(base / "tree") == []


def test_a_deep_chain_with_few_descriptors(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busd.components.deletion.walk.budget", lambda workers: 4)
    for _ in range(5):
        (base / "tree" / "/".join("d" * 100)).mkdir(parents=True)
        found = together([(base / "tree", None), (base / "tree", None), (base / "tree" / "d" / "d", base / "hoist0")])
        assert all(counts.failed == {} for counts in found)
        assert os.listdir(base / "tree") == os.listdir(base / "hoist0") == []
        assert sum(counts.removed for counts in found) == 100


def test_a_directory_that_another_removed_while_it_was_open_holds_nothing(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listing it says ENOENT; that is no reason for what is above it to stay."""
    (base / "tree" / "above" / "gone").mkdir(parents=True)
    real, inode = os.scandir, (base / "tree" / "above" / "gone").stat().st_ino

    def scandir(path: Any) -> Any:
        if isinstance(path, int) and os.fstat(path).st_ino == inode:
            (base / "tree" / "above" / "gone").rmdir()
            raise FileNotFoundError(errno.ENOENT, "removed")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        [counts] = together([(base / "tree", None)])
    assert (counts.directories, counts.seen, counts.held) == (1, 1, 0)
    assert os.listdir(base / "tree") == []


def test_a_root_that_another_removed_is_empty(base: Path) -> None:
    (base / "tree").mkdir()
    fd = os.open(base / "tree", FLAGS)
    (base / "tree").rmdir()
    counts = Removal(fd, hoist=None, gate=OpenGate()).run().snapshot()
    os.close(fd)
    assert (counts.seen, counts.failed) == (0, {})


def test_a_filter_does_not_remove_what_took_the_place_of_what_it_accepted(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base / "tree" / "d").mkdir(parents=True)
    (base / "tree" / "d" / "file").touch()
    (base / "other").mkdir(mode=0o711)
    kept = (base / "other").stat().st_ino
    real = os.unlink

    def unlink(path: Any, **named: Any) -> None:
        real(path, **named)
        os.rename(base / "tree" / "d", base / "moved")
        os.rename(base / "other", base / "tree" / "d")

    monkeypatch.setattr(os, "unlink", unlink)
    fd = os.open(base / "tree", FLAGS)

    def accept(entry: Entry) -> str | None:
        return "other" if entry.inode == kept else None

    counts = Removal(fd, hoist=None, gate=OpenGate(), options=OPTIONS, accept=accept).run().snapshot()
    os.close(fd)
    assert (base / "tree" / "d").stat().st_ino == kept
    assert (counts.files, counts.directories, counts.spared) == (1, 0, {"other": 1})


# Against a model of it in memory.

Tree = dict[str, "Tree | str"]  # a directory, or the kind of a file

trees = st.recursive(
    st.sampled_from(["file", "link", "fifo", "keep"]),
    lambda below: st.dictionaries(st.sampled_from("abcdefgh"), below, max_size=5),
    max_leaves=25,
)


def build(directory: Path, tree: Tree) -> None:
    for name, what in tree.items():
        path = directory / name
        if isinstance(what, dict):
            path.mkdir()
            build(path, what)
        elif what == "link":
            path.symlink_to("..")
        elif what == "fifo":
            os.mkfifo(path)
        elif what == "file":
            path.touch()
        else:
            path.write_text("keep")


def expected(tree: Tree) -> tuple[Tree, int, int, int]:
    """What a filter that keeps "keep" leaves; how many files and directories go, and how many directories are held."""
    left: Tree = {}
    files = directories = held = 0
    for name, what in tree.items():
        if isinstance(what, dict):
            rest, more, below, above = expected(what)
            files, directories, held = files + more, directories + below, held + above
            if rest:
                left[name] = rest
                held += 1
            else:
                directories += 1
        elif what == "keep":
            left[name] = what
        else:
            files += 1
    return left, files, directories, held


def found_in(directory: Path) -> Tree:
    found: Tree = {}
    for path in directory.iterdir():
        found[path.name] = found_in(path) if path.is_dir() and not path.is_symlink() else "keep"
    return found


@settings(max_examples=60, deadline=None)
@given(tree=st.dictionaries(st.sampled_from("abcdefgh"), trees, max_size=6), workers=st.integers(1, 3))
def test_a_filter_leaves_what_a_model_of_it_leaves(
    tmp_path_factory: pytest.TempPathFactory, tree: Tree, workers: int
) -> None:
    place = tmp_path_factory.mktemp("model")
    build(place, tree)
    left, files, directories, held = expected(tree)
    fd = os.open(place, FLAGS)
    try:
        counts = (
            Removal(
                fd,
                hoist=None,
                gate=OpenGate(),
                options=WalkOptions(batch=2, listing=3, backoff=0),
                accept=lambda entry: "keep" if entry.size == 4 and entry.nlink == 1 and _regular(entry) else None,
                workers=workers,
            )
            .run()
            .snapshot()
        )
    finally:
        os.close(fd)
    assert found_in(place) == left
    assert (counts.files, counts.directories, counts.held) == (files, directories, held)
    assert sum(counts.spared.values()) == counts.seen - files - directories - held
    assert (counts.failed, counts.parked) == ({}, {})


def _regular(entry: Entry) -> bool:
    return entry.mode & 0o170000 == 0o100000


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before
