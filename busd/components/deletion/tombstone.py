"""A tombstone: a tree that has left its place and lies in a private directory, to be emptied, removed, or put back.

The file system is the record. At every moment the name of the manifest and what lies beside it say what was under way,
so that a scan after a crash (area.py) goes on from there; a second time does no harm.
"""

import errno
import os
import stat
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Final, Literal, Self

import msgspec

from busd.components.deletion.claim import claim
from busd.components.deletion.ground import (
    ABANDONED,
    ENDING,
    GIVEN_UP,
    HOIST,
    MANIFEST,
    O_DIRECTORY,
    RESTORING,
    TREE,
    CannotBury,
    enter,
    make_private,
    names_in,
    old_name,
    open_place,
    open_private,
    place_of,
    settle,
    sweep,
    why,
)
from busd.components.deletion.manifest import Manifest
from busd.components.deletion.roots import Root
from busd.components.deletion.shown import shown
from busd.components.deletion.system import O_LOOK, O_SAFE, mount_of, rename_new
from busproto.errors import BusError, Code

__all__ = ["SYNC_POINTS", "CannotBury", "NotEmpty", "Proof", "State", "Sync", "Tombstone", "nowhere"]

State = Literal["buried", "restoring", "not-begun", "gone", "done", "restored", "quarantined"]
"""What a tombstone is.

buried: the tree is here, whole or partly removed: walk it, then ``finish``.
restoring: the tree is here and was being put back: ``restore``.
not-begun: nothing has moved, and the tree is at its place: ``discard``, then bury anew.
gone: nothing is here, and the tree is not at its place either: somebody else removed or moved it. ``discard``.
done: the tree was removed: ``finish`` gives what proof there is.
restored: the tree was put back: ``restore`` ends it.
quarantined: this is nothing that a job left; ``reason`` says why. It is never touched.
"""

Sync = Callable[[str], None]
"""Told the name of each point that a crash could come at; see ``SYNC_POINTS``."""

SYNC_POINTS: Final = (
    "manifest-written",
    "manifest-synced",
    "renamed",
    "parents-synced",
    "emptied",
    "ending",
    "removed",
    "manifest-removed",
    "restoring",
    "put-back",
)


def nowhere(point: str) -> None:
    """A ``Sync`` that does nothing."""


class NotEmpty(BusError):  # noqa: N818 - it is an outcome: another walk comes next
    """9008: something is left in the tree, or came after the walk: it is to be walked again. Nothing was changed."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(Code.DELETION_FAILED, path=path, reason=reason)


class Proof(msgspec.Struct, frozen=True):
    """What is known of a tree after it was removed.

    Attributes:
        gone: a directory: the system says of the very directory that was buried that it has no name left. Anything
            else: its name is gone.
        basis: "descriptor", held since before the removal; or "name": it is no longer there, which is all that is known
            after a crash, and on a platform that cannot hold links and sockets open.
        links: names that it still has, elsewhere for a file (its bytes are not freed, then); None if not known.
    """

    gone: bool
    basis: Literal["descriptor", "name"]
    links: int | None


class Tombstone:
    """One tree that is buried, or what a scan found of one. It opens what it needs when that is asked for.

    Not for several threads at a time. To be closed, or used in a ``with``; closing changes nothing on the disk.

    Attributes:
        root, tenant: whose area it lies in.
        name: of its directory there.
        state: see ``State``.
        reason: why, in words; empty if it is buried.
        found: its manifest; None if it is quarantined.
    """

    def __init__(
        self,
        root: Root,
        tenant: str,
        name: bytes,
        state: State,
        *,
        reason: str = "",
        found: Manifest | None = None,
        intent: bytes = MANIFEST,
        sync: Sync = nowhere,
    ) -> None:
        self.root = root
        self.tenant = tenant
        self.name = name
        self.state: State = state
        self.reason = reason
        self.found = found
        self._intent = intent
        self._sync = sync
        self._grave = self._tree = self._hoist = -1
        self._opened = False

    @property
    def manifest(self) -> Manifest:
        """What was buried. Raises BusError 9006 if it is quarantined: then nothing in it can be believed."""
        if self.found is None:
            raise self._not_possible("reading its manifest")
        return self.found

    @property
    def job(self) -> str:
        """The job's id; of what is quarantined, whatever the directory is called."""
        return self.found.job if self.found else shown(self.name)

    @property
    def place(self) -> bytes:
        """Where it lies, below the root."""
        return place_of(self.tenant, self.name)

    @property
    def directory(self) -> int | None:
        """Descriptor of the buried directory, to walk; this object's. None if what is buried is no directory.

        Raises BusError 9003 (it is not what was buried), 9006 (nothing is buried), 9008 (it cannot be opened).
        """
        self._must_be("walking", "buried")
        self._open()
        return self._tree if self.manifest.directory else None

    @property
    def hoist(self) -> int | None:
        """Descriptor of a private directory on the same file system, which what lies too deep may be moved to; this
        object's. None if what is buried is no directory. Raises as ``directory``.
        """
        if self.directory is None:
            return None
        if self._hoist < 0:
            try:
                self._hoist = self._open_hoist()
            except OSError as failed:
                raise self._failed(f"where subdirectories are moved to: {why(failed)}") from failed
        return self._hoist

    def status(self) -> os.stat_result:
        """Of what is buried. Raises as ``directory``."""
        self._must_be("looking", "buried")
        self._open()
        try:
            if self._tree >= 0:
                return os.fstat(self._tree)
            return os.stat(TREE, dir_fd=self._grave, follow_symlinks=False)
        except OSError as failed:
            raise self._failed(why(failed)) from failed

    def finish(self, noted: Callable[[Proof], None] | None = None) -> Proof:
        """Remove the tree, which the walk has emptied, and then the tombstone.

        Args:
            noted: called when the tree is gone and the tombstone is not, so that whoever keeps a journal can write down
                that the job is done. After a crash before it returns, a scan finds state "done".

        Raises BusError: NotEmpty (walk again); 9003 (it is not what was buried); 9006 (it is neither buried nor done);
            9008 with the system's reason, as its cause. The tombstone then stays as it is.
        """
        self._must_be("finishing", "buried", "done")
        proof = Proof(gone=True, basis="name", links=None)
        if self.state == "buried":
            self._open()
            try:
                self._look_empty()
                self._sync("emptied")
                self._intend(ENDING)
                self._sync("ending")
                self._remove()
                settle(self._grave)
            except OSError as failed:
                raise self._failed(why(failed)) from failed
            self._sync("removed")
            proof = self._prove()
            self.state = "done"
        if noted is not None:
            noted(proof)
        self._clear()
        return proof

    def restore(self, noted: Callable[[], None] | None = None) -> bytes | None:
        """Put the tree back at its place, with what is left of it, and end the tombstone. Overwrites nothing.

        Args:
            noted: called when the tree is at its place and the tombstone is not yet gone, as with ``finish``.

        Returns: the name, in the tree, of a directory with those subdirectories that the walk had moved out of theirs:
            nobody knows any more where they were. None if there are none.

        Raises BusError: 9003 (something is at its place, or the directory it lay in is gone); 9006 (it is neither
            buried nor being restored); 9008 with the system's reason. The tree then stays where it is; after 9008 it
            may be back already, and a second call ends it.
        """
        self._must_be("restoring", "buried", "restoring", "restored")
        kept: bytes | None = None
        if self.state != "restored":
            self._open()
            kept = self._put_back()
        if noted is not None:
            noted()
        self._clear()
        return kept

    def claim(self) -> bool:
        """Whether it is this process's from now on, until it is closed; not if another has claimed it, or it is gone.

        One that was just buried is claimed. Raises BusError 9008 with the system's reason.
        """
        if self._grave >= 0:
            return True
        try:
            self._open_grave()
        except FileNotFoundError:
            return False
        except OSError as failed:
            raise self._failed(why(failed)) from failed
        if claim(self._grave):
            return True
        self.close()
        return False

    def abandon(self) -> None:
        """Leave what is left where it is, for good: no scan takes it for a job's any more. Its place is ``place``.

        Raises BusError 9006 if nothing is buried, 9008 with the system's reason.
        """
        self._must_be("abandoning", "buried", "restoring")
        try:
            self._open_grave()
            self._intend(ABANDONED)
        except OSError as failed:
            raise self._failed(why(failed)) from failed
        finally:
            self.close()
        self.state, self.reason = "quarantined", GIVEN_UP

    def discard(self) -> None:
        """Remove the tombstone of a tree that is not in it. Raises BusError 9006 if it is, or if it is quarantined."""
        self._must_be("discarding", "not-begun", "gone", "done", "restored")
        self._clear()

    def close(self) -> None:
        """Give the descriptors back. A second time does nothing."""
        for fd in (self._grave, self._tree, self._hoist):
            if fd >= 0:
                os.close(fd)
        self._grave = self._tree = self._hoist = -1
        self._opened = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- what it holds open -------------------------------------------------------------------------------------------

    def hold(self, grave: int, tree: int) -> None:
        """Take over the descriptors of its directory and of the tree, as ``Area.bury`` has them open; -1: none."""
        self.close()
        self._grave, self._tree, self._opened = grave, tree, True

    def _open_grave(self) -> None:
        if self._grave < 0:
            area = self._enter()
            try:
                self._grave = open_private(area, self.name)
            finally:
                os.close(area)

    def _open(self) -> None:
        if self._opened:
            return
        try:
            self._open_grave()
            self._tree = self._open_tree()
            self._opened = True
        except OSError as failed:
            self.close()
            raise self._failed(why(failed)) from failed
        except BaseException:
            self.close()
            raise

    def _enter(self) -> int:
        try:
            return enter(self.root, self.tenant, create=False)
        except CannotBury as failed:
            raise self._failed(failed.reason) from failed.__cause__

    def _open_tree(self) -> int:
        """Open what is buried, and see that it is that. -1 for what cannot be held open without touching it."""
        if not self.manifest.directory and not O_LOOK:
            self._same(os.stat(TREE, dir_fd=self._grave, follow_symlinks=False))
            return -1
        kind = os.O_RDONLY | O_DIRECTORY if self.manifest.directory else O_LOOK
        fd = os.open(TREE, kind | O_SAFE, dir_fd=self._grave)
        try:
            self._same(os.fstat(fd))
            if mount_of(fd) != mount_of(self._grave):
                raise BusError(Code.DELETION_CHANGED, path=shown(self.place), reason="something is mounted over it")
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _same(self, status: os.stat_result) -> None:
        if status.st_ino != self.manifest.inode or stat.S_ISDIR(status.st_mode) != self.manifest.directory:
            raise BusError(Code.DELETION_CHANGED, path=shown(self.place), reason="it is not what was buried")

    def _open_hoist(self) -> int:
        try:
            return open_private(self._grave, HOIST)
        except FileNotFoundError:
            return make_private(self._grave, HOIST)

    # -- steps --------------------------------------------------------------------------------------------------------

    def _intend(self, name: bytes) -> None:
        """Give the manifest the name that says what is under way, and have that on disk. Raises OSError."""
        if name != self._intent:
            os.rename(self._intent, name, src_dir_fd=self._grave, dst_dir_fd=self._grave)
            self._intent = name
            settle(self._grave)

    def _look_empty(self) -> None:
        if not self.manifest.directory:
            return
        if names_in(self._tree, 1):
            raise NotEmpty(shown(self.manifest.path), "something is left in it")
        if self._hoisted():
            raise NotEmpty(shown(self.manifest.path), "subdirectories that were moved out of their place are left")

    def _hoisted(self) -> bool:
        """Whether the walk has left something where it moves subdirectories to. Raises OSError."""
        try:
            fd = open_private(self._grave, HOIST)
        except FileNotFoundError:
            return False
        try:
            return bool(names_in(fd, 1))
        finally:
            os.close(fd)

    def _remove(self) -> None:
        """Remove the tree itself, if it is still what was buried. Raises OSError, and BusError as ``finish``."""
        try:
            self._same(os.stat(TREE, dir_fd=self._grave, follow_symlinks=False))
            if self.manifest.directory:
                os.rmdir(TREE, dir_fd=self._grave)
            else:
                os.unlink(TREE, dir_fd=self._grave)
        except FileNotFoundError:
            pass  # another tombstone of the same job was first
        except OSError as failed:
            if failed.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            raise NotEmpty(shown(self.manifest.path), "something came into it after it was emptied") from failed

    def _prove(self) -> Proof:
        if self._tree < 0:
            return Proof(gone=True, basis="name", links=None)
        try:
            links = os.fstat(self._tree).st_nlink
        except OSError as failed:
            if failed.errno not in {errno.ESTALE, errno.ENOENT}:
                return Proof(gone=not self.manifest.directory, basis="name", links=None)
            links = 0  # a file server says so of what it no longer knows
        return Proof(gone=links == 0 or not self.manifest.directory, basis="descriptor", links=links)

    def _put_back(self) -> bytes | None:
        parent = open_place(self.root, self.manifest.path)
        name = self.manifest.path.rpartition(b"/")[2]
        try:
            self._must_be_free(parent, name)
            kept = self._keep_hoisted() if self.manifest.directory and self._hoisted() else None
            before = self._intent
            self._intend(RESTORING)
            self._sync("restoring")
            try:
                rename_new(self._grave, TREE, parent, name)
            except OSError:
                self._intend(before)
                self._must_be_free(parent, name)
                raise
            self.state = "restored"
            self._sync("put-back")
            settle(parent)
            settle(self._grave)
        except OSError as failed:
            raise self._failed(f"it cannot be put back: {why(failed)}") from failed
        finally:
            os.close(parent)
        return kept

    def _must_be_free(self, parent: int, name: bytes) -> None:
        try:
            os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        reason = "something is at its place by now, and is not overwritten"
        raise BusError(Code.DELETION_CHANGED, path=shown(self.manifest.path), reason=reason)

    def _keep_hoisted(self) -> bytes:
        """Move what the walk took out of its place into the tree. The name there. Raises OSError."""
        name = b"recovered-" + self.manifest.job.encode()
        hoist = open_private(self._grave, HOIST)
        try:
            rename_new(self._grave, HOIST, self._tree, name)
            if sys.platform != "win32":
                # Whose tree it is, is to have this, too. What cannot be given stays this user's; it is not lost.
                status = os.fstat(self._tree)
                try:
                    os.fchown(hoist, status.st_uid, status.st_gid)
                    os.fchmod(hoist, stat.S_IMODE(status.st_mode) & 0o777)
                except PermissionError:
                    pass
            settle(self._tree)
        finally:
            os.close(hoist)
            if self._hoist >= 0:
                os.close(self._hoist)
                self._hoist = -1
        return name

    def _clear(self) -> None:
        """Remove the tombstone's directory; by its new name first, so that it is there whole or not at all."""
        self.close()
        try:
            area = self._enter()
            try:
                self._sweep_away(area)
                settle(area)
            finally:
                os.close(area)
        except OSError as failed:
            raise self._failed(f"its tombstone stays: {why(failed)}") from failed
        self._sync("manifest-removed")

    def _sweep_away(self, area: int) -> None:
        old = old_name(self.manifest.job)
        sweep(area, old)  # of an earlier job of the same name
        try:
            rename_new(area, self.name, area, old)
        except FileNotFoundError:
            return
        sweep(area, old)

    # -- errors -------------------------------------------------------------------------------------------------------

    def _must_be(self, verb: str, *states: State) -> None:
        if self.state not in states:
            raise self._not_possible(verb)

    def _not_possible(self, verb: str) -> BusError:
        state = f"{self.state} ({self.reason})" if self.reason else self.state
        return BusError(Code.DELETION_JOB_STATE, job=self.job, verb=verb, state=state)

    def _failed(self, reason: str) -> BusError:
        path = self.found.path if self.found else self.place
        return BusError(Code.DELETION_FAILED, path=shown(path), reason=reason)
