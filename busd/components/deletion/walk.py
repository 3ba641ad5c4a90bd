"""Removes everything below a directory, whatever its shape, without ever being led out of it.

Every directory is opened by one name in an open directory, never through a link, and compared with what was listed;
there is no "..", no path and no recursion. Directories are tasks of a `Pool`: their files go in batches, their
subdirectories become tasks, and the last of them to end removes the directory. Deep ones are renamed up into a private
directory, so a chain of any length is walked with a few descriptors; where that cannot be, `Held` closes and opens
again. Listings stop while a thousand subdirectories wait, so memory does not grow with a tree's width either.
"""

import errno
import os
import threading
import time
from itertools import islice
from typing import Final

from busd.components.deletion.claim import claim, release
from busd.components.deletion.entry import entry_of
from busd.components.deletion.files import Accept, Files, Hand, parks
from busd.components.deletion.gate import Gate
from busd.components.deletion.newcomers import Newcomers
from busd.components.deletion.node import Held, Listing, Node, budget
from busd.components.deletion.options import WalkOptions
from busd.components.deletion.permissions import give_back, open_in, open_up
from busd.components.deletion.pool import Pool
from busd.components.deletion.system import file_system, mount_of
from busd.components.deletion.tally import Tally, cut

__all__ = ["Removal", "WalkOptions"]

_WAITING: Final = 1024
"""Subdirectories of one directory that may wait before its listing stops until they are done."""

_UNSORTED: Final = frozenset({"tmpfs", "nfs", "cifs", "lustre"})
"""Where the order of inodes says nothing of the order on a disk, or disturbs the server's reading ahead."""

_ELSEWHERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})
"""What opening a directory again says when it was moved, or something else has its name."""

_FULL: Final = frozenset({errno.EMFILE, errno.ENFILE})

_Task = tuple[Node, list[str] | None]


class Removal:
    """One walk that removes what is below ``directory``, not itself.

    Args:
        directory: descriptor for reading; stays the caller's, and open until `run` has returned.
        hoist: descriptor of a private directory on the same file system, not below ``directory``: subdirectories are
            renamed into it and removed there, and what an earlier walk left in it goes, too. None: all stay in place.
        gate: asked for each batch.
        accept: a filter. What it spares stays, and so do the directories above. A directory is asked about as it was
            before the walk came to it, and goes if it is accepted and empty at the end. One that somebody holds by
            flock is spared as "locked" with all below; this walk holds each while it has it open.
        workers: threads, the caller's among them.

    Raises ValueError for a filter together with ``hoist``: what stays must stay where it is.
    """

    def __init__(
        self,
        directory: int,
        *,
        hoist: int | None,
        gate: Gate,
        options: WalkOptions | None = None,
        accept: Accept | None = None,
        workers: int = 2,
    ) -> None:
        if accept is not None and hoist is not None:
            raise ValueError("with a filter everything has to stay in its place: no directory to rename into")
        self._options = options or WalkOptions()
        self._accept = accept
        self._gate = gate
        self.files = Files(gate, chmod=self._options.chmod, measure=self._options.measure, accept=accept)
        self._hands = [Hand() for _ in range(workers)]
        self._pool: Pool[_Task] = Pool(self._work, workers)
        self._lock = threading.Lock()  # of Node.pending and of the counters below
        room = budget(workers)
        self._held = Held(room)
        self._newcomers = Newcomers(self._options.newcomers)
        self._stops_left = max(1, room // 4)  # listings that may be stopped at once: each keeps a descriptor
        self._mount = mount_of(directory)
        kind = file_system(directory)
        self._sorted = kind not in _UNSORTED
        self._nfs = kind == "nfs"
        self._root = self._stays(directory)
        self._hoist = None if hoist is None else self._stays(hoist)
        if self._hoist is not None:
            self._hoist.pending += 1  # more may come until the walk ends
        # Not a name that an earlier walk can have left.
        self._token = os.urandom(6).hex() + "-"
        self._number = 0

    @staticmethod
    def _stays(fd: int) -> Node:
        node = Node(None, "", 0, origin=b"")
        found = os.fstat(fd)
        node.fd, node.device, node.inode, node.begun = fd, found.st_dev, found.st_ino, True
        return node

    def tally(self) -> Tally:
        """What has been done so far; from any thread, during `run` and after."""
        whole = Tally()
        for hand in self._hands:
            whole.merge(hand.tally)
        return whole

    def run(self) -> Tally:
        """Walk; once. Returns what was done.

        Raises Cancelled when the gate did; what was removed until then is in `tally`. What cannot be removed is no
        error but counted.
        """
        if self._accept is not None and not claim(self._root.fd):
            self._hands[0].tally.spare(b"", "locked")
            return self.tally()
        roots = [self._root] if self._hoist is None else [self._hoist, self._root]
        self._pool.push([(node, None) for node in roots])
        try:
            self._pool.run()
        finally:
            for node in [*self._held.changed(), *roots]:
                give_back(node, self._held)
            self._held.close(roots)
            if self._accept is not None:
                release(self._root.fd)  # the descriptor is the caller's
        return self.tally()

    # One task.

    def _work(self, number: int, task: _Task) -> None:
        node, names = task
        hand = self._hands[number]
        hand.paid = None
        if names is not None:
            self._adopt(node, [self._child(node, name, 0) for name in self._remove(hand, node, names, leaf=False)])
            self._held.done(node)
            self._ended(hand, node)
        elif self._open(hand, node):
            self._list(hand, node)

    def _open(self, hand: Hand, node: Node) -> bool:
        """Open ``node``, to be used; whether it is. If not, that is counted and it has ended, or it comes again."""
        step = "open again"
        try:
            if node.begun:
                self._held.use(node)
                return True
            parent = node.parent
            assert parent is not None
            at = self._held.use(parent)
            step = "open"
            try:
                opened = open_in(parent, at, node, self._options.chmod, self._mount)
                if opened is None:
                    self._file_after_all(hand, node, parent)
                    return False
            finally:
                self._held.done(parent)
            step = "stat"
            self._enter(hand, node, *opened)
        except OSError as error:
            self._not_open(hand, node, error, step)
            return False
        if node.told:
            self._ended(hand, node)
            return False
        return True

    def _enter(self, hand: Hand, node: Node, fd: int, before: os.stat_result | None) -> None:
        """``node`` is open as ``fd``: see what it is; what is not to be walked is counted. Raises OSError, with ``fd``
        closed.
        """
        why: str | None = None
        try:
            found = os.fstat(fd)
            # The directory that was listed is not one that is mounted over it. Anything else, and what overlay and
            # btrfs number differently in listings, is asked exactly, which costs four times as much.
            listed = found.st_ino == node.inode and found.st_dev == node.device
            if not listed and mount_of(fd) != self._mount:
                why = "mount"
            elif self._newcomers.many and self._newcomers.new(fd):
                why = "busy"
            elif self._accept is not None and not claim(fd):
                node.spared = why = "locked"
            elif self._accept is not None:
                path = node.path()
                node.spared = self._accept(entry_of(os.fsencode(node.name), path, before or found))
        except BaseException:
            os.close(fd)
            raise
        node.inode = found.st_ino
        if found.st_dev != node.device:  # the same number object for a whole tree
            node.device = found.st_dev
        node.begun = True
        self._held.add(node, fd)
        if why is not None:
            self._held.done(node)
            (hand.tally.park if node.spared is None else hand.tally.spare)(node.path(), why)
            node.told = True

    def _not_open(self, hand: Hand, node: Node, error: OSError, step: str) -> None:
        number = error.errno or errno.EIO
        if number in _FULL and node.rounds < self._options.rescans:
            # Others may close some; ours that are not in use go at once.
            self._later(node, 0.0 if self._held.shrink() else self._options.backoff)
            return
        if number == errno.ENOENT and step == "open":
            self._ended(hand, node, gone=True)
            return
        node.told = True
        parent = node.parent
        if number in _ELSEWHERE and step == "open again":
            hand.tally.park(node.path(), "changed")
            node.lost = True
        elif number in {errno.ENOTDIR, errno.ELOOP}:
            hand.tally.park(node.path(), "changed")
        elif number == errno.EXDEV:
            hand.tally.park(node.path(), "mount")
        else:
            reason = parks(error, parent.fd, node.name) if parent is not None and parent.fd >= 0 else None
            if reason is None:
                hand.tally.fail(node.path(), number, "open" if step == "open again" else step)
            else:
                hand.tally.park(node.path(), reason)
        self._ended(hand, node)

    def _file_after_all(self, hand: Hand, node: Node, parent: Node) -> None:
        """What was listed as a directory is none: another took its place."""
        again = self.files.remove(hand, parent, [node.name], 0)
        if again:  # and a directory once more: whoever plays so is busy
            parent.left = True
            hand.tally.park(node.path(), "busy")
        self._ended(hand, node, gone=True)

    # Listing and removing.

    def _list(self, hand: Hand, node: Node) -> None:
        """List ``node``, which is open and in use; its files go, its subdirectories become tasks."""
        listing, node.listing = node.listing, None
        if listing is not None:
            with self._lock:
                self._stops_left += 1
        children: list[Node] = []
        size = self._options.listing
        error: OSError | None = None
        try:
            while True:
                batch: list[os.DirEntry[str]] = []
                try:
                    if listing is None:
                        listing = os.scandir(node.fd)
                    batch.extend(islice(listing, size))  # what was read before an error stays in the batch
                except OSError as failed:
                    error = failed
                last = error is not None or len(batch) < size
                fed = self._newcomers.meet(node.fd, batch)
                if self._sorted and not last:
                    batch.sort(key=os.DirEntry.inode)
                names = self._sort_out(hand, node, batch, children)
                # A directory with files only is paid for together with them.
                leaf = last and error is None and not children and node.pending == 1 and node.parent is not None
                children += [self._child(node, name, 0) for name in self._remove(hand, node, names, leaf=leaf)]
                del names  # or they would be held while the next are read
                if fed and not last:
                    hand.tally.park(node.path(), "busy")
                    node.told = True
                if last or fed:
                    break
                if len(children) >= _WAITING and listing is not None and self._stop(node, listing):
                    break
        finally:
            if listing is not None and node.listing is None:
                listing.close()
        stopped = node.listing is not None
        self._held.done(node)
        if stopped:
            self._adopt(node, children, stopped=True)
            return
        if error is not None:
            self._not_listed(hand, node, error, children)
            return
        self._adopt(node, children)
        self._ended(hand, node)

    def _sort_out(self, hand: Hand, node: Node, batch: list[os.DirEntry[str]], children: list[Node]) -> list[str]:
        """The names in ``batch`` that are no directories; those that are become children."""
        names: list[str] = []
        own = self._token if node is self._hoist else None
        silly = self._nfs and node.rounds > 0
        for entry in batch:
            try:
                directory = entry.is_dir(follow_symlinks=False)
            except OSError:
                directory = False  # removing it will tell
            if directory:
                if own is None or not entry.name.startswith(own):  # what this walk renamed has its task already
                    children.append(self._child(node, entry.name, entry.inode()))
            elif silly and entry.name.startswith(".nfs"):
                # Removing it would only make another, as long as somebody has the file open.
                hand.tally.park(node.path(entry.name), "nfs")
                node.left = True
            else:
                names.append(entry.name)
        return names

    def _child(self, node: Node, name: str, inode: int) -> Node:
        """A subdirectory of ``node``, which is open and in use; renamed up if it is deep."""
        hoist = self._hoist
        if hoist is not None and node.depth >= self._options.depth:
            with self._lock:
                self._number += 1
                new = f"{self._token}{self._number}"
            try:
                os.rename(name, new, src_dir_fd=node.fd, dst_dir_fd=hoist.fd)
            except OSError:
                return Node(node, name, inode)  # not for us to move: it goes where it is
            return Node(hoist, new, inode, origin=cut(node.path(name)))
        return Node(node, name, inode)

    def _remove(self, hand: Hand, node: Node, names: list[str], *, leaf: bool) -> list[str]:
        """Remove ``names`` in batches; returns those that are directories. Half goes to a worker that has nothing."""
        size = min(self._options.batch, self._gate.batch())
        if len(names) + leaf <= size:
            if not names:
                return []
            if leaf:
                hand.paid = node
            return self.files.remove(hand, node, names, int(leaf))
        directories: list[str] = []
        begin, end = 0, len(names)
        while begin < end:
            if self._pool.idle and end - begin >= 4 * size:
                end = self._share(node, names, begin, end)
            directories += self.files.remove(hand, node, names[begin : min(end, begin + size)], 0)
            begin += size
        return directories

    def _share(self, node: Node, names: list[str], begin: int, end: int) -> int:
        """Hand the second half of what is left of ``names`` to another worker; returns where the first half ends."""
        middle = (begin + end) // 2
        self._held.use(node)
        with self._lock:
            node.pending += 1
        self._pool.push([(node, names[middle:end])])
        return middle

    def _stop(self, node: Node, listing: Listing) -> bool:
        """Stop the listing until it is ``node``'s turn again, if a descriptor may be kept for that."""
        with self._lock:
            if not self._stops_left:
                return False
            self._stops_left -= 1
        node.listing = listing
        return True

    def _adopt(self, node: Node, children: list[Node], *, stopped: bool = False) -> None:
        """Make tasks of ``children``, and below them on the stack of the rest of the listing."""
        with self._lock:
            for child in children:
                assert child.parent is not None
                child.parent.pending += 1
        tasks: list[_Task] = [(node, None)] if stopped else []
        tasks += [(child, None) for child in reversed(children)]
        if tasks:
            self._pool.push(tasks)

    def _not_listed(self, hand: Hand, node: Node, error: OSError, children: list[Node]) -> None:
        self._adopt(node, children)
        number = error.errno or errno.EIO
        if number in _FULL and not children and node.rounds < self._options.rescans:
            self._later(node, 0.0 if self._held.shrink() else self._options.backoff)
            return
        if number == errno.ESTALE:
            hand.tally.park(node.path(), "stale")
            node.told = True
        elif number != errno.ENOENT:
            hand.tally.fail(node.path(), number, "read")
            node.told = True
        # Else somebody removed it, as removing it will tell.
        self._ended(hand, node)

    # The end of a directory.

    def _ended(self, hand: Hand, node: Node, *, gone: bool = False) -> None:
        """One thing that ``node`` waited for has ended: when it was the last, the directory goes, and so on upwards."""
        at: Node | None = node
        while at is not None:
            with self._lock:
                at.pending -= 1
                if at.pending:
                    return
            if not (gone and at is node) and not self._goes(hand, at):
                return
            at = at.parent

    def _goes(self, hand: Hand, node: Node) -> bool:
        """Remove ``node``, which is done with, or count why it stays. False if it is to be listed again first."""
        parent = node.parent
        if parent is None:
            return self._emptied(hand, node)
        if node.lost:
            self._held.drop(node)
            return True
        if not node.told and not node.left and node.spared is None:
            if hand.paid is node:
                return self._rmdir(hand, node, parent)
            self._gate.enter(1, 0)
            started = time.perf_counter()
            try:
                return self._rmdir(hand, node, parent)
            finally:
                self._gate.left(1, time.perf_counter() - started)
        if not node.told:
            if node.spared is not None:
                hand.tally.spare(node.path(), node.spared)
            else:
                hand.tally.held += 1
        self._remains(node, parent)
        return True

    def _rmdir(self, hand: Hand, node: Node, parent: Node) -> bool:
        try:
            at = self._held.use(parent)
        except OSError as error:
            if error.errno in _FULL and self._later(node, self._options.backoff):
                return False
            elsewhere = error.errno in _ELSEWHERE
            hand.tally.park(node.path(), "changed" if elsewhere else "busy")
            parent.left = parent.left or not elsewhere
            self._held.drop(node)
            return True
        try:
            try:
                if self._accept is not None and not node.same(os.stat(node.name, dir_fd=at, follow_symlinks=False)):
                    raise FileNotFoundError(errno.ENOENT, "another one, which the filter was not asked about")
                os.rmdir(node.name, dir_fd=at)
            except OSError as error:
                if error.errno != errno.EACCES or not self._options.chmod or not open_up(parent):
                    raise
                os.rmdir(node.name, dir_fd=at)
            hand.tally.directories += 1
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                if self._later(node, self._pause(node)):
                    return False
                hand.tally.park(node.path(), "busy")
            # Gone, or something else has its name: if that stays, the parent is not empty and is listed again.
            elif error.errno not in {errno.ENOENT, errno.ENOTDIR}:
                reason = parks(error, at, node.name)
                if reason is None:
                    hand.tally.fail(node.path(), error.errno or errno.EIO, "rmdir")
                else:
                    hand.tally.park(node.path(), reason)
            else:
                self._held.drop(node)
                return True
            self._remains(node, parent)
            return True
        finally:
            self._held.done(parent)
        self._held.drop(node)
        return True

    def _emptied(self, hand: Hand, node: Node) -> bool:
        """Whether a directory that itself stays is done with: nothing tells but looking."""
        if node.told or node.left:
            return True
        try:
            with os.scandir(node.fd) as listing:
                empty = next(listing, None) is None
        except OSError:
            empty = True  # the listing before was read to its end
        if empty:
            return True
        if self._later(node, self._pause(node)):
            return False
        hand.tally.park(b"", "busy")
        node.told = True
        return True

    def _remains(self, node: Node, parent: Node) -> None:
        parent.left = True
        give_back(node, self._held)
        self._held.drop(node)

    def _pause(self, node: Node) -> float:
        """Seconds before ``node`` is listed again: at once first, then twice as long each time."""
        return self._options.backoff * 2.0 ** (node.rounds - 1) if node.rounds else 0.0

    def _later(self, node: Node, seconds: float) -> bool:
        """Do ``node`` again in a while; False if that has been tried often enough."""
        if node.rounds >= self._options.rescans:
            return False
        node.rounds += 1
        with self._lock:
            node.pending = max(1, node.pending)
        self._pool.later((node, None), seconds)
        return True
