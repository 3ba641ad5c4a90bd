"""Removing names from an open directory, batch by batch: the part of a walk that everything else waits for.

Figures (CPython 3.11, two cores, Linux 6.18; files/s against `rm -rf` of the same tree in the same run): see walk.py.
"""

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import Final

from busd.components.deletion.entry import Entry, entry_of, freed
from busd.components.deletion.gate import Gate
from busd.components.deletion.node import Node
from busd.components.deletion.permissions import open_up
from busd.components.deletion.system import is_mount_root
from busd.components.deletion.tally import Tally

__all__ = ["Accept", "Files", "Hand", "parks"]

Accept = Callable[[Entry], str | None]
"""A filter: None, or why the entry is to stay."""

_PARKED: Final = {errno.EBUSY: "busy", errno.ETXTBSY: "busy", errno.ESTALE: "stale"}


class Hand:
    """What one worker has: its counts, and the directory whose removal it has paid at the gate already."""

    __slots__ = ("paid", "tally")

    def __init__(self) -> None:
        self.tally = Tally()
        self.paid: Node | None = None


def parks(error: OSError, directory: int, name: str) -> str | None:
    """Why ``name``, whose removal failed so, is to be tried again later; None if that makes no sense."""
    reason = _PARKED.get(error.errno or 0)
    if error.errno == errno.EBUSY:
        try:
            if is_mount_root(directory, os.fsencode(name)):
                return "mount"
        except OSError:
            pass  # gone, or not to be known: busy is true in any case
    return reason


class Files:
    """Removes what is no directory.

    Args:
        chmod: whether a directory that its owner may not change is opened up.
        measure: whether the bytes that are freed are known: costs a stat for each file. May be set meanwhile.
        accept: the filter; each file is statted for it before the gate and again just before it goes.
    """

    def __init__(self, gate: Gate, *, chmod: bool, measure: bool, accept: Accept | None) -> None:
        self._gate = gate
        self._chmod = chmod
        self.measure = measure
        self._accept = accept

    def remove(self, hand: Hand, node: Node, names: list[str], extra: int) -> list[str]:
        """Remove ``names``, one batch, from ``node``, which is open and in use; returns those that are directories.

        ``extra`` is what the caller will remove besides and pays for here. Raises Cancelled.
        """
        if self._accept is not None:
            return self._sift(hand, node, names, self._accept)
        if self.measure:
            return self._weigh(hand, node, names, extra)
        files = len(names) + extra
        self._gate.enter(files, 0)
        directories: list[str] = []
        unlink, fd, missed = os.unlink, node.fd, 0
        started = time.perf_counter()
        try:
            for name in names:
                try:
                    unlink(name, dir_fd=fd)
                except OSError as error:
                    missed += not self._again(hand, node, name, error, directories)
        finally:
            self._gate.left(files, time.perf_counter() - started)
        hand.tally.files += len(names) - missed
        return directories

    def _weigh(self, hand: Hand, node: Node, names: list[str], extra: int) -> list[str]:
        """`remove` with the bytes that it frees. A file with several links is looked at again: its last may be next."""
        fd = node.fd
        directories: list[str] = []
        weighed: list[tuple[str, int]] = []
        for name in names:
            status = self._look(hand, node, name, directories)
            if status is not None:
                weighed.append((name, freed(status) if status.st_nlink == 1 else -1))
        files = len(weighed) + extra
        size = sum(gain for _, gain in weighed if gain > 0)
        self._gate.enter(files, size)
        started = time.perf_counter()
        try:
            for name, gain in weighed:
                try:
                    if gain < 0:
                        gain = freed(os.stat(name, dir_fd=fd, follow_symlinks=False))
                    os.unlink(name, dir_fd=fd)
                except OSError as error:
                    if not self._again(hand, node, name, error, directories):
                        continue
                hand.tally.files += 1
                hand.tally.bytes += max(0, gain)
        finally:
            self._gate.left(files, time.perf_counter() - started)
        return directories

    def _sift(self, hand: Hand, node: Node, names: list[str], accept: Accept) -> list[str]:
        """`remove` what the filter accepts; the filter asks again when the gate has opened, for that can take hours."""
        fd, prefix = node.fd, node.path()
        directories: list[str] = []
        chosen: list[tuple[str, Entry]] = []
        for name in names:
            status = self._look(hand, node, name, directories)
            if status is None:
                continue
            entry = _entry(name, prefix, status)
            why = accept(entry)
            if why is None:
                chosen.append((name, entry))
            else:
                hand.tally.spare(entry.path, why)
                node.left = True
        if not chosen:
            return directories
        size = sum(entry.blocks * 512 for _, entry in chosen if entry.nlink == 1)
        self._gate.enter(len(chosen), size)
        started = time.perf_counter()
        try:
            for name, before in chosen:
                status = self._look(hand, node, name, directories)
                if status is None:
                    continue
                entry = _entry(name, prefix, status)
                why = accept(entry)
                if why is None and (entry.device, entry.inode) != (before.device, before.inode):
                    why = "changed"
                if why is not None:
                    hand.tally.spare(entry.path, why)
                    node.left = True
                    continue
                try:
                    os.unlink(name, dir_fd=fd)
                except OSError as error:
                    if not self._again(hand, node, name, error, directories):
                        continue
                hand.tally.files += 1
                hand.tally.bytes += freed(status)
        finally:
            self._gate.left(len(chosen), time.perf_counter() - started)
        return directories

    def _look(self, hand: Hand, node: Node, name: str, directories: list[str]) -> os.stat_result | None:
        """What ``name`` is; None if it is a directory, gone, or cannot be asked, which is counted."""
        try:
            try:
                status = os.stat(name, dir_fd=node.fd, follow_symlinks=False)
            except PermissionError:
                if not self._chmod or not open_up(node):
                    raise
                status = os.stat(name, dir_fd=node.fd, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.ENOENT:
                self._count(hand, node, name, error, "stat")
            return None
        if stat.S_ISDIR(status.st_mode):
            directories.append(name)
            return None
        return status

    def _again(self, hand: Hand, node: Node, name: str, error: OSError, directories: list[str]) -> bool:
        """``name`` could not be removed: once more where that helps, else counted. Whether it is removed now."""
        again = error.errno == errno.EINTR or (error.errno == errno.EACCES and self._chmod and open_up(node))
        if again:
            try:
                os.unlink(name, dir_fd=node.fd)
                return True
            except OSError as second:
                error = second
        # What was no directory when it was listed may be one by now; some systems say EPERM then.
        if error.errno == errno.EISDIR or (error.errno == errno.EPERM and _is_directory(node.fd, name)):
            directories.append(name)
        elif error.errno != errno.ENOENT:
            self._count(hand, node, name, error, "unlink")
        return False

    def _count(self, hand: Hand, node: Node, name: str, error: OSError, step: str) -> None:
        node.left = True
        reason = parks(error, node.fd, name)
        if reason is None:
            hand.tally.fail(node.path(name), error.errno or errno.EIO, step)
        else:
            hand.tally.park(node.path(name), reason)


def _entry(name: str, prefix: bytes, status: os.stat_result) -> Entry:
    plain = os.fsencode(name)
    return entry_of(plain, prefix + b"/" + plain if prefix else plain, status)


def _is_directory(directory: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False
