"""What a survey has found: the numbers that a person decides by before anything is removed."""

import os
import stat
from collections.abc import Sequence
from typing import Final, Self

import msgspec

from busd.components.deletion.entry import taken
from busd.components.deletion.tally import KEPT, Failure, cut

__all__ = ["Found"]

_Path = bytes  # the struct has a field of that name


class Found(msgspec.Struct, kw_only=True):
    """What is below a directory, itself not counted. With a filter, what the filter lets go of that.

    ``seen`` is always the sum of entries, spared, held, mounts and unreadable, once the survey has ended.

    Attributes:
        seen: entries that were looked at.
        entries: what would be removed: files, directories, links and others.
        files: regular files. ``links``: symbolic links. ``others``: fifos, sockets and devices.
        directories: those in which nothing stays.
        held: directories that stay only because something in them does.
        bytes: on the disk, of what has one name only: freed when that goes. Directories are not in it.
        linked: names of what has several. ``linked_bytes``: their share of the bytes on the disk, size through names:
            freed only if all the other names go, too, and some of them may lie elsewhere.
        directory_bytes: on the disk, of the directories that would be emptied.
        apparent: bytes of content of the regular files, whatever they take on the disk.
        oldest, newest: when the first and the last of what is no directory was written, unix seconds; None: nothing.
        mounts: file systems and files that are mounted below; they are not entered and stay.
        mount_paths: the first 100 of them, below the directory.
        unreadable: by errno, names that could not be asked about and directories that could not be opened or listed to
            the end; what is in these is not known.
        failures: the first 100 of them for each errno; ``step`` is open, read or stat.
        spared: what the filter lets stay, by its reason; "locked": a directory that somebody holds by flock, with all
            below.
        deepest: levels below the directory; 1 if it has no subdirectories, 0 if it is empty.
        largest: most names in one directory.
    """

    seen: int = 0
    entries: int = 0
    files: int = 0
    directories: int = 0
    links: int = 0
    others: int = 0
    held: int = 0
    bytes: int = 0
    linked: int = 0
    linked_bytes: int = 0
    directory_bytes: int = 0
    apparent: int = 0
    oldest: float | None = None
    newest: float | None = None
    mounts: int = 0
    mount_paths: list[_Path] = []
    unreadable: dict[int, int] = {}
    failures: list[Failure] = []
    spared: dict[str, int] = {}
    deepest: int = 0
    largest: int = 0

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """What there is if the target is no directory but one file, link or other thing of this status."""
        found = cls(seen=1)
        found.add([status])
        return found

    def add(self, statuses: Sequence[os.stat_result]) -> None:
        """Add things that would be removed and are no directories. ``seen`` is the caller's to count."""
        files = links = size = apparent = linked = shares = 0
        oldest = self.oldest if self.oldest is not None else float("inf")
        newest = self.newest if self.newest is not None else float("-inf")
        for status in statuses:
            kind = stat.S_IFMT(status.st_mode)
            if kind == stat.S_IFREG:
                files += 1
                apparent += status.st_size
            elif kind == stat.S_IFLNK:
                links += 1
            names = status.st_nlink
            if names <= 1:
                size += taken(status)
            else:
                linked += 1
                shares += taken(status) // names
            written = status.st_mtime
            if written < oldest:
                oldest = written
            if written > newest:
                newest = written
        self.entries += len(statuses)
        self.files += files
        self.links += links
        self.others += len(statuses) - files - links
        self.bytes += size
        self.apparent += apparent
        self.linked += linked
        self.linked_bytes += shares
        if statuses:
            self.oldest, self.newest = oldest, newest

    def fail(self, path: _Path, number: int, step: str) -> None:
        """Count what could not be read. ``step``: open, read or stat."""
        count = self.unreadable.get(number, 0)
        self.unreadable[number] = count + 1
        if count < KEPT:
            self.failures.append(Failure(cut(path), number, step))

    def mount(self, path: _Path) -> None:
        """Count a mount."""
        self.mounts += 1
        if len(self.mount_paths) < KEPT:
            self.mount_paths.append(cut(path))

    def spare(self, reason: str) -> None:
        """Count what the filter lets stay."""
        self.spared[reason] = self.spared.get(reason, 0) + 1

    def merge(self, other: Self) -> None:
        """Add ``other``, to which another thread may be adding."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, better in (("oldest", min), ("newest", max)):
            values = [each for each in (getattr(self, name), getattr(other, name)) if each is not None]
            setattr(self, name, better(values) if values else None)
        self.deepest = max(self.deepest, other.deepest)
        self.largest = max(self.largest, other.largest)
        # copy() and list() are one step each: no other thread comes between.
        self.mount_paths += list(other.mount_paths)[: KEPT - len(self.mount_paths)]
        for failure in list(other.failures):
            if sum(1 for mine in self.failures if mine.errno == failure.errno) < KEPT:
                self.failures.append(failure)
        for number, count in other.unreadable.copy().items():
            self.unreadable[number] = self.unreadable.get(number, 0) + count
        for reason, count in other.spared.copy().items():
            self.spared[reason] = self.spared.get(reason, 0) + count


_SUMS: Final = (
    "seen",
    "entries",
    "files",
    "directories",
    "links",
    "others",
    "held",
    "bytes",
    "linked",
    "linked_bytes",
    "directory_bytes",
    "apparent",
    "mounts",
)
