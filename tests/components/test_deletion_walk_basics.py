"""The walker: all below a directory goes, nothing outside of it, and the tally says what came of each entry."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from busd.components.deletion.gate import OpenGate
from busd.components.deletion.tally import Counts
from busd.components.deletion.walk import Removal
from tests.components.deletion_world import chain

FORMS = pytest.mark.parametrize("hoisting", [False, True])


def remove(tree: Path, hoist: Path | None, workers: int = 2) -> Counts:
    """Remove what is below ``tree``."""
    before = len(os.listdir("/proc/self/fd"))
    directory = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    above = None if hoist is None else os.open(hoist, os.O_RDONLY | os.O_DIRECTORY)
    try:
        tally = Removal(directory, hoist=above, gate=OpenGate(), workers=workers).run()
    finally:
        os.close(directory)
        if above is not None:
            os.close(above)
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"
    return tally.snapshot()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


@pytest.fixture
def private(tmp_path: Path) -> Path:
    (tmp_path / "private").mkdir(mode=0o700)
    return tmp_path / "private"


@FORMS
def test_a_tree_goes_whole_and_is_counted(tree: Path, private: Path, hoisting: bool) -> None:
    for number in range(40):
        below = tree / f"d{number}" / "e"
        below.mkdir(parents=True)
        for name in range(30):
            (below / f"f{name}").write_bytes(b"x")
    counts = remove(tree, private if hoisting else None)
    assert (counts.files, counts.directories, counts.seen) == (1200, 80, 1280)
    assert (counts.failed, counts.parked) == ({}, {})
    assert list(tree.iterdir()) == list(private.iterdir()) == []


@FORMS
def test_links_go_and_what_they_lead_to_stays(tree: Path, private: Path, tmp_path: Path, hoisting: bool) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (tree / "to-directory").symlink_to(outside)
    (tree / "dangling").symlink_to("nowhere")
    (tree / "loop").symlink_to(".")
    os.link(outside / "kept", tree / "hard")
    os.mkfifo(tree / "fifo")
    (tree / os.fsdecode(b"\xff\n-rf")).write_bytes(b"")
    counts = remove(tree, private if hoisting else None)
    assert counts.files == 6
    assert list(tree.iterdir()) == []
    assert (outside / "kept").read_text() == "kept"


@FORMS
def test_ten_thousand_files_in_one_directory(tree: Path, private: Path, hoisting: bool) -> None:
    for number in range(10_000):
        (tree / f"{number}").touch()
    counts = remove(tree, private if hoisting else None)
    assert (counts.files, counts.seen) == (10_000, 10_000)
    assert list(tree.iterdir()) == []


@FORMS
def test_a_chain_of_three_thousand_directories(tree: Path, private: Path, hoisting: bool) -> None:
    counts: Counts | None = None
    directory = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(FileNotFoundError), chain(directory, 3000, b"d" * 20):  # it finds nothing left to clean up
            counts = remove(tree, private if hoisting else None)
        assert counts is not None
        assert (counts.directories, counts.failed, counts.parked) == (3000, {}, {})
        assert list(tree.iterdir()) == []
    finally:
        os.close(directory)


def test_what_somebody_keeps_creating_is_parked_and_the_walk_ends(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "busy").mkdir()
    real = os.rmdir

    def rmdir(path: bytes | str, *, dir_fd: int | None = None) -> None:
        if os.fsencode(path) == b"busy":
            (tree / "busy" / "new").touch()
        real(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", rmdir)
    counts = remove(tree, None, workers=1)
    assert counts.parked == {"busy": 1}
    assert (tree / "busy").is_dir()
