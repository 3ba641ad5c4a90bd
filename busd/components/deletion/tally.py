"""What a walk has done, in numbers. Each thread counts for itself, once for each batch; whoever asks adds them up."""

from typing import Final, Self

import msgspec

__all__ = ["Counts", "Failure", "Stay", "Tally", "cut"]

KEPT: Final = 100
"""Failures kept with their paths for each errno, and stays for each reason: enough to see what is wrong."""

LONGEST: Final = 4096
"""Bytes of a path in a report; a tree can be deeper than any report is wide."""


class Failure(msgspec.Struct, frozen=True):
    """Something that could not be removed, for good as far as the walk can tell.

    Attributes:
        path: below the job's root; longer than 4096 bytes, it is cut in the middle. Empty for the root itself.
        errno: as errno(3) numbers it.
        step: what failed: open, read, unlink, rmdir, rename, stat or chmod.
    """

    path: bytes
    errno: int
    step: str


class Stay(msgspec.Struct, frozen=True):
    """Something that stays: parked, to be tried again later, or spared by the filter.

    Attributes:
        path: as of Failure.
        reason: why it stays.
    """

    path: bytes
    reason: str


class Counts(msgspec.Struct, frozen=True):
    """A tally at one moment.

    ``seen`` is always the sum of files, directories, failed, parked, spared and held. What somebody else removed
    first is not counted.

    Attributes:
        seen: entries of which the outcome is known.
        files: removed, whatever they were other than directories.
        directories: removed.
        bytes: freed with the last link to a file, where the walk measures; else 0.
        failed: how many by errno.
        parked: how many by reason: "busy", "changed", "mount", "nfs", "stale". To be tried again later.
        spared: how many by the filter's reason.
        held: directories that stay only because something in them does.
        failures: the first 100 for each errno.
        stays: the first 100 for each reason, parked and spared.
    """

    seen: int
    files: int
    directories: int
    bytes: int
    failed: dict[int, int]
    parked: dict[str, int]
    spared: dict[str, int]
    held: int
    failures: list[Failure]
    stays: list[Stay]

    @property
    def removed(self) -> int:
        """Files and directories."""
        return self.files + self.directories


class Tally:
    """Counts of one thread, or of several added up. One writer; any thread may take a snapshot.

    The attributes are those of Counts.
    """

    __slots__ = ("bytes", "directories", "failed", "failures", "files", "held", "parked", "spared", "stays")

    def __init__(self) -> None:
        self.files = 0
        self.directories = 0
        self.bytes = 0
        self.held = 0
        self.failed: dict[int, int] = {}
        self.parked: dict[str, int] = {}
        self.spared: dict[str, int] = {}
        self.failures: list[Failure] = []
        self.stays: list[Stay] = []

    @property
    def seen(self) -> int:
        """Entries of which the outcome is known."""
        counted = (*self.failed.copy().values(), *self.parked.copy().values(), *self.spared.copy().values())
        return self.files + self.directories + self.held + sum(counted)

    @property
    def removed(self) -> int:
        """Files and directories."""
        return self.files + self.directories

    def fail(self, path: bytes, errno: int, step: str) -> None:
        """Count what could not be removed."""
        count = self.failed.get(errno, 0)
        self.failed[errno] = count + 1
        if count < KEPT:
            self.failures.append(Failure(cut(path), errno, step))

    def park(self, path: bytes, reason: str) -> None:
        """Count what is to be tried again later."""
        self._stay(self.parked, path, reason)

    def spare(self, path: bytes, reason: str) -> None:
        """Count what the filter lets stay."""
        self._stay(self.spared, path, reason)

    def _stay(self, counts: dict[str, int], path: bytes, reason: str) -> None:
        count = counts.get(reason, 0)
        counts[reason] = count + 1
        if count < KEPT:
            self.stays.append(Stay(cut(path), reason))

    def merge(self, other: Self) -> None:
        """Add ``other``, which another thread may be writing."""
        self.files += other.files
        self.directories += other.directories
        self.bytes += other.bytes
        self.held += other.held
        # copy() and list() are one step each: no other thread comes between.
        for failure in list(other.failures):
            if sum(1 for mine in self.failures if mine.errno == failure.errno) < KEPT:
                self.failures.append(failure)
        for stay in list(other.stays):
            if sum(1 for mine in self.stays if mine.reason == stay.reason) < KEPT:
                self.stays.append(stay)
        for number, count in other.failed.copy().items():
            self.failed[number] = self.failed.get(number, 0) + count
        for mine, theirs in ((self.parked, other.parked), (self.spared, other.spared)):
            for reason, count in theirs.copy().items():
                mine[reason] = mine.get(reason, 0) + count

    def snapshot(self) -> Counts:
        """The numbers as they are now."""
        one = Tally()
        one.merge(self)
        return Counts(
            one.seen,
            one.files,
            one.directories,
            one.bytes,
            one.failed,
            one.parked,
            one.spared,
            one.held,
            one.failures,
            one.stays,
        )


def cut(path: bytes) -> bytes:
    """``path`` in at most 4096 bytes: what is too much is left out in the middle, as ``/.../``."""
    if len(path) <= LONGEST:
        return path
    half = (LONGEST - 5) // 2
    return path[:half] + b"/.../" + path[-half:]
