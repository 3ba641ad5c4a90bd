"""Trees to be removed, made by two processes: what is measured is how they go, and nobody waits gladly for the rest."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

FILES_PER_DIRECTORY: Final = 100
"""Of a tree; 200,000 files are in 2,000 directories."""

PER_WIDE: Final = 4
"""Of a wide one: as many directories as can be for its entries."""

SHAPES: Final = ("flat", "tree", "wide", "deep")
"""flat: one directory. tree: 100 files in each directory of the third level. wide: 4 files in each directory of the
first. deep: directories in one another, without files."""


def make(path: Path, shape: str, files: int, size: int = 0, *, links: int = 1) -> None:
    """Make ``files`` files of ``size`` bytes (deep: directories) at ``path``, which must not be there.

    Args:
        links: so many names in one directory are of one file, for those who only need many names: ext4 without a
            journal looks for inodes that have not been freed of late, which takes minutes when a million have.

    Raises OSError; ValueError for a shape that there is none of, or when the other process failed.
    """
    path.mkdir()
    if shape == "deep":
        _chain(path, files)
    elif shape == "flat":
        half = files // 2
        _twice(
            partial(_fill, [path], range(half), size, links), partial(_fill, [path], range(half, files), size, links)
        )
    elif shape in {"tree", "wide"}:
        each = FILES_PER_DIRECTORY if shape == "tree" else PER_WIDE
        leaves = list(_leaves(path, max(1, files // each), levels=3 if shape == "tree" else 1))
        for leaf in leaves:
            leaf.mkdir(parents=True)
        half = len(leaves) // 2
        _twice(
            partial(_fill, leaves[:half], range(each), size, links),
            partial(_fill, leaves[half:], range(each), size, links),
        )
    else:
        raise ValueError(f"shape {shape!r}: there are {', '.join(SHAPES)}")


def _leaves(path: Path, count: int, levels: int) -> Iterator[Path]:
    fan = 1
    while fan**levels < count:
        fan += 1
    for number in range(count):
        parts = []
        rest = number
        for _ in range(levels):
            rest, digit = divmod(rest, fan)
            parts.append(f"directory-{digit}")
        yield path.joinpath(*reversed(parts))


def _fill(directories: list[Path], numbers: range, size: int, links: int) -> None:
    block = b"\xa5" * size
    for directory in directories:
        at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            first = ""
            for number in numbers:
                name = f"file-{number:07}"
                if (number - numbers.start) % links:
                    os.link(first, name, src_dir_fd=at, dst_dir_fd=at)
                    continue
                first = name
                file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=at)
                if size:
                    os.write(file, block)
                os.close(file)
        finally:
            os.close(at)


def _chain(path: Path, depth: int) -> None:
    """By descriptors: no path is ever too long."""
    at = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(depth):
            os.mkdir("deeper", dir_fd=at)
            below = os.open("deeper", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
    finally:
        os.close(at)


def _twice(here: Callable[[], object], there: Callable[[], object]) -> None:
    """Call both, the second in a process of its own."""
    child = os.fork()
    if not child:
        failed = 1
        try:
            there()
            failed = 0
        finally:
            os._exit(failed)
    try:
        here()
    finally:
        _, status = os.waitpid(child, 0)
    if status:
        raise ValueError("the process that makes half of the tree failed")
