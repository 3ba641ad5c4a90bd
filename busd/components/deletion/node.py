"""Directories of a walk and their descriptors: how few are open at once, and how one is opened again."""

import errno
import os
import sys
import threading
from collections.abc import Iterator
from typing import Final, Protocol

from busd.components.deletion.system import O_SAFE

__all__ = ["DIRECTORY", "Held", "Listing", "Node", "budget"]

DIRECTORY: Final[int] = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | O_SAFE

_MOST_OPEN: Final = 256
"""Directories open at once, at most. More would save nothing: a walk goes back to the last few only."""


class Listing(Iterator[os.DirEntry[str]], Protocol):
    """A listing that is under way, as os.scandir makes it."""

    def close(self) -> None: ...


class Node:
    """A directory that is being emptied.

    Attributes:
        parent: the directory that it is removed from; None for one that stays.
        name: its name there, as the file system's encoding decodes it.
        origin: path below the job's root where it was, if not below ``parent``.
        depth: how far below a directory that stays.
        device, inode: what it is; whatever else is found under its name later is not touched.
        begun: whether it has been opened before.
        fd: descriptor; -1 while it is closed.
        uses: how many threads use ``fd`` now; it stays open for them.
        listing: the rest of a listing that was stopped, to be gone on with.
        pending: what must end before it can go: its listing, its subdirectories, names handed to other threads.
        rounds: how often it was found not empty.
        left: whether something in it stays. ``told``: whether it is counted already, so itself stays.
        lost: whether it is no longer where it was, which is counted already: what is above it may go.
        spared: the filter's reason for letting it stay.
        mode: permissions to be given back if it stays; None if they are as they were.
    """

    __slots__ = (
        "begun",
        "depth",
        "device",
        "fd",
        "inode",
        "left",
        "listing",
        "lost",
        "mode",
        "name",
        "origin",
        "parent",
        "pending",
        "rounds",
        "spared",
        "told",
        "uses",
    )

    def __init__(self, parent: "Node | None", name: str, inode: int, *, origin: bytes | None = None) -> None:
        self.parent = parent
        self.name = name
        self.origin = origin
        self.depth: int = parent.depth + 1 if parent is not None else 0
        self.device: int = parent.device if parent is not None else 0
        self.inode = inode
        self.begun = False
        self.fd = -1
        self.uses = 0
        self.listing: Listing | None = None
        self.pending = 1
        self.rounds = 0
        self.left = False
        self.told = False
        self.lost = False
        self.spared: str | None = None
        self.mode: int | None = None

    def same(self, found: os.stat_result) -> bool:
        """Whether ``found`` is of this directory, which was opened before."""
        return (found.st_ino, found.st_dev) == (self.inode, self.device)

    def path(self, name: str = "") -> bytes:
        """The path below the job's root of this directory, or of ``name`` in it."""
        parts = [os.fsencode(name)] if name else []
        node: Node | None = self
        while node is not None:
            if node.origin is not None:
                parts.append(node.origin)
                break
            parts.append(os.fsencode(node.name))
            node = node.parent
        return b"/".join(part for part in reversed(parts) if part)


class Held:
    """The open descriptors of a walk, at most ``budget`` beside those in use.

    What is closed to make room is opened again from the nearest directory that is open, one component after the other,
    and must be what it was. On the way some are kept, twice as far apart each time, so that climbing out of a tree of
    depth n opens n log n directories and never needs "..".
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._open: dict[Node, None] = {}  # the outermost first, along each branch
        self._closed: set[Node] = set()  # whose mode is to be given back

    def add(self, node: Node, fd: int) -> None:
        """``node`` is open as ``fd``, which is this object's from now on, and in use by the caller."""
        with self._lock:
            self._keep(node, fd)
            node.uses += 1
            self._make_room(self._limit)

    def use(self, node: Node) -> int:
        """The descriptor of ``node``; until `done` it stays open. Raises OSError: ESTALE if it is no longer there."""
        with self._lock:
            node.uses += 1
            if node.fd < 0:
                try:
                    self._open_again(node)
                    self._make_room(self._limit)
                except OSError:
                    node.uses -= 1
                    raise
            return node.fd

    def done(self, node: Node) -> None:
        """The caller does not use the descriptor any more."""
        with self._lock:
            node.uses -= 1

    def drop(self, node: Node) -> None:
        """Close ``node``, which nobody uses and which is done with."""
        with self._lock:
            fd = self._forget(node)
            self._closed.discard(node)
        # The last to close a directory that was removed waits until its blocks are free (where the disk is told
        # at once, for the disk). Under the lock all the other threads waited, too: 1.27 s against 1.19 for a tree of
        # 200,000 files, medians of runs one after the other.
        if fd >= 0:
            os.close(fd)

    def shrink(self) -> bool:
        """Close what can be closed, because the process has no descriptors left; whether that helped."""
        with self._lock:
            before = len(self._open)
            self._make_room(0)
            return len(self._open) < before

    def changed(self) -> list[Node]:
        """Those whose mode is not what it was, the innermost first: without it what is above may not be entered."""
        with self._lock:
            changed = {node for node in self._open if node.mode is not None} | self._closed
            return sorted(changed, key=lambda node: -node.depth)

    def close(self, roots: list[Node]) -> None:
        """Close all, and what is left of listings of ``roots``, which themselves are others'."""
        with self._lock:
            for node in [*self._open, *roots]:
                self._close(node)

    def _keep(self, node: Node, fd: int) -> None:
        node.fd = fd
        self._open[node] = None

    def _forget(self, node: Node) -> int:
        """``node`` is open no longer, as far as the walk goes; its descriptor, to be closed, or -1."""
        listing, node.listing = node.listing, None
        if listing is not None:
            listing.close()
        if node not in self._open:
            return -1
        del self._open[node]
        if node.mode is not None:
            self._closed.add(node)
        fd, node.fd = node.fd, -1
        return fd

    def _close(self, node: Node) -> None:
        fd = self._forget(node)
        if fd >= 0:
            os.close(fd)

    def _make_room(self, limit: int) -> None:
        if len(self._open) > limit:
            excess = len(self._open) - limit
            for node in [n for n in self._open if not n.uses and n.listing is None][:excess]:
                self._close(node)

    def _open_again(self, node: Node) -> None:
        chain = [node]
        start = node.parent
        while start is not None and start.fd < 0:
            chain.append(start)
            start = start.parent
        if start is None:  # those that stay are always open
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        at, owned = start.fd, False
        for distance in range(len(chain) - 1, -1, -1):
            step = chain[distance]
            try:
                fd = os.open(step.name, DIRECTORY, dir_fd=at)
            finally:
                if owned:
                    os.close(at)
            found = os.fstat(fd)
            if not step.same(found):
                os.close(fd)
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            at, owned = fd, distance & (distance - 1) != 0
            if not owned:
                self._keep(step, fd)


def budget(workers: int) -> int:
    """How many directories may be open at once: half of what the process may still open, 256 at most."""
    if sys.platform == "win32":
        return 32
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        used = len(os.listdir("/dev/fd"))
    except (ImportError, OSError):
        return 32
    if limit < 0:
        return _MOST_OPEN
    return max(4, min(_MOST_OPEN, (limit - used) // 2 - 2 * workers))
