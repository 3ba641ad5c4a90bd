"""The area of one tenant below one root: where trees are buried, and where a scan finds what a crash left.

Order on the disk: the manifest is whole and synced under the job's name before anything moves; then comes one rename
that replaces nothing; then what was moved is compared with what was found, and put back if it is something else.
"""

import contextlib
import errno
import os
import stat
import threading
from typing import Final, NoReturn, Self

from busd.components.deletion.claim import claim, exclusive
from busd.components.deletion.ground import (
    ABANDONED,
    ENDING,
    GIVEN_UP,
    HOIST,
    INTENTS,
    MANIFEST,
    O_DIRECTORY,
    RESTORING,
    TREE,
    CannotBury,
    enter,
    is_litter,
    make_private,
    names_in,
    new_name,
    old_name,
    open_place,
    open_private,
    own_uid,
    place_of,
    settle,
    sweep,
    why,
)
from busd.components.deletion.manifest import Manifest, NotAManifest, is_job, is_tenant, read_manifest, write_manifest
from busd.components.deletion.roots import Root
from busd.components.deletion.shown import shown
from busd.components.deletion.system import O_LOOK, O_SAFE, mount_of, rename_new
from busd.components.deletion.target import TOMBSTONES, Target
from busd.components.deletion.tombstone import State, Sync, Tombstone, nowhere
from busproto.errors import BusError, Code

__all__ = ["Area"]

_MOST_NAMES: Final = 64  # a job's directory holds three; more are not worth reading to see that it is none


class Area:
    """Where trees of ``tenant`` below ``root`` are buried. One object for each pair; safe to use from several threads.

    It holds nothing open: the directories are opened and checked anew each time.
    """

    def __init__(self, root: Root, tenant: str) -> None:
        if not is_tenant(tenant):
            raise ValueError(f"{tenant!r} is not a tenant's name")
        self.root = root
        self.tenant = tenant
        # A scan removes directories that have no manifest yet; it must not come upon one that is being made.
        self._making = threading.Lock()

    @classmethod
    def open(cls, parent: Root, tenant: str) -> Self:
        """The area of ``tenant``; its directories are made where they are missing.

        Raises CannotBury with the reason: they are another user's, not 0700, links, on another file system, or cannot
        be made. ValueError: that is no tenant's name.
        """
        area = cls(parent, tenant)
        os.close(enter(parent, tenant, create=True))
        return area

    @staticmethod
    def tenants(root: Root) -> list[str]:
        """The tenants that have an area below ``root``, sorted: whoever comes up after a crash has to look at each.

        Raises CannotBury, as ``open``; not if there is none at all.
        """
        try:
            fd = enter(root, None, create=False)
        except CannotBury as failed:
            if isinstance(failed.__cause__, FileNotFoundError):
                return []
            raise
        try:
            return [name.decode() for name in names_in(fd) if name.isascii() and is_tenant(name.decode())]
        except OSError as failed:
            raise CannotBury(root.id, why(failed)) from failed
        finally:
            os.close(fd)

    def bury(self, target: Target, manifest: Manifest, sync: Sync = nowhere) -> Tombstone:
        """Take ``target`` out of its place: from then on its name is free, and what was there is out of reach.

        Costs about twenty system calls, five of them fsync. ``sync`` is told each point on the way; if it raises,
        everything stays as it then is, and a scan finds it.

        Args:
            target: what to bury; it stays the caller's to close.
            manifest: of exactly this target, for this area, with a job's id that has no tombstone here.

        Raises:
            CannotBury: there can be no tombstone (EXDEV, EACCES, EBUSY, EPERM, ENOSPC, the area is not as it must be).
                Nothing was changed.
            BusError: 9002, its options are too many. 9003, it is no longer what was found; what is there was left or
                put back. 9006, the job has a tombstone already. 9008, the disk failed after the rename; it was put
                back.
            ValueError: the manifest is not of this target.
        """
        self._must_fit(target, manifest)
        data = manifest.encode()
        area = enter(self.root, self.tenant, create=True)
        tree = grave = -1
        try:
            tree = self._keep(area, target)
            grave = self._dig(area, manifest, data, sync)
            sync("manifest-synced")
            self._move(area, grave, target, manifest, sync)
            sync("parents-synced")
            tombstone = Tombstone(self.root, self.tenant, manifest.job.encode(), "buried", found=manifest, sync=sync)
            tombstone.hold(grave, tree)
            tree = grave = -1
            return tombstone
        finally:
            for fd in (area, tree, grave):
                if fd >= 0:
                    os.close(fd)

    def scan(self, sync: Sync = nowhere) -> list[Tombstone]:
        """What is there, sorted by name. Nothing is moved or removed but the empty remains of jobs that never began or
        that were over. What no job left is in state "quarantined", and stays for ever unless somebody removes it.

        While jobs run, theirs are found, too: `Tombstone.claim` tells which are another process's, and the caller knows
        its own. ``sync`` is given to the tombstones.

        Raises CannotBury as ``open``; not if there is no area.
        """
        try:
            area = enter(self.root, self.tenant, create=False)
        except CannotBury as failed:
            if isinstance(failed.__cause__, FileNotFoundError):
                return []
            raise
        found: list[Tombstone] = []
        try:
            with self._making, exclusive(area):
                for name in names_in(area):
                    if is_litter(name):
                        found += self._swept(area, name)
                    else:
                        found += self._read(area, name, sync)
        except OSError as failed:
            raise CannotBury(self.root.id, why(failed)) from failed
        finally:
            os.close(area)
        return found

    def tidy(self) -> None:
        """Remove the area, and where the areas of all tenants are, if nothing is in them. Raises nothing."""
        with contextlib.suppress(OSError, CannotBury):
            fd = enter(self.root, None, create=False)
            try:
                with contextlib.suppress(OSError):
                    os.rmdir(self.tenant, dir_fd=fd)
            finally:
                os.close(fd)
            os.rmdir(TOMBSTONES, dir_fd=self.root.fd)

    # -- burying ------------------------------------------------------------------------------------------------------

    def _must_fit(self, target: Target, manifest: Manifest) -> None:
        if not is_job(manifest.job):
            raise ValueError(f"{manifest.job!r} is not a job's id")
        meant = (manifest.root, manifest.tenant, manifest.path, manifest.device, manifest.inode, manifest.directory)
        if target.root is not self.root or meant != (
            self.root.id,
            self.tenant,
            target.path,
            target.device,
            target.inode,
            target.directory,
        ):
            raise ValueError(f"the manifest of job {manifest.job} is not of {shown(target.path)}")

    def _keep(self, area: int, target: Target) -> int:
        """Open the target, so that its inode can be nobody else's until all is over. -1 where that cannot be done
        without touching it. Raises as ``bury``.
        """
        status = target.check()
        if status.st_dev != os.fstat(area).st_dev:
            raise CannotBury(shown(target.path), "it is on another file system than the root")
        if not target.directory and not O_LOOK:
            return -1
        kind = os.O_RDONLY | O_DIRECTORY if target.directory else O_LOOK
        try:
            fd = os.open(target.name, kind | O_SAFE, dir_fd=target.parent)
        except OSError as failed:
            target.check()
            raise CannotBury(shown(target.path), why(failed)) from failed
        try:
            held = os.fstat(fd)
            if not _is(held, target):
                _changed(target, "something else is there by now")
            if mount_of(fd) != mount_of(area):
                raise CannotBury(shown(target.path), "something is mounted there")
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _dig(self, area: int, manifest: Manifest, data: bytes, sync: Sync) -> int:
        """Make the job's directory, with its manifest, and have it on disk. Its descriptor. Raises as ``bury``."""
        new, name = new_name(manifest.job), manifest.job.encode()
        fd = -1
        named = False
        with self._making, exclusive(area):
            try:
                sweep(area, new)
                fd = make_private(area, new)
                claim(fd)
                if manifest.directory:
                    os.mkdir(HOIST, 0o700, dir_fd=fd)
                    os.chmod(HOIST, 0o700, dir_fd=fd)  # whatever the umask is
                written = write_manifest(fd, MANIFEST, data)
                try:
                    sync("manifest-written")
                    os.fsync(written)
                finally:
                    os.close(written)
                settle(fd)
                rename_new(area, new, area, name)
                named = True
                settle(area)
            except FileExistsError as failed:
                self._undig(area, fd, new)
                raise BusError(
                    Code.DELETION_JOB_STATE, job=manifest.job, verb="burying", state="buried already"
                ) from failed
            except OSError as failed:
                self._undig(area, fd, name if named else new)
                raise CannotBury(shown(manifest.path), f"its tombstone cannot be made: {why(failed)}") from failed
            except BaseException:
                if fd >= 0:
                    os.close(fd)
                raise
        return fd

    @staticmethod
    def _undig(area: int, fd: int, name: bytes) -> None:
        """Close the job's directory and remove it, if it can be; a scan finds what stays. Raises nothing."""
        if fd >= 0:
            os.close(fd)
        with contextlib.suppress(OSError):
            sweep(area, name)

    def _move(self, area: int, grave: int, target: Target, manifest: Manifest, sync: Sync) -> None:
        """The rename, and what makes sure of it. Raises as ``bury``."""
        name = manifest.job.encode()
        try:
            rename_new(target.parent, target.name, grave, TREE)
        except OSError as failed:
            # A file server that answers twice says it failed, the second time: what counts is what is there.
            if not _lies_in(grave, target):
                self._fill_in(area, name, manifest)
                if failed.errno not in {errno.ENOENT, errno.ENOTDIR}:
                    raise CannotBury(shown(target.path), why(failed)) from failed
                raise BusError(
                    Code.DELETION_CHANGED, path=shown(target.path), reason="there is nothing of that name any more"
                ) from failed
        sync("renamed")
        if not _lies_in(grave, target):
            self._put_back(area, grave, target, manifest)
            _changed(target, "something else was put there while it was taken away; that was put back")
        try:
            settle(grave)
            settle(target.parent)
        except OSError as failed:
            self._put_back(area, grave, target, manifest)
            raise BusError(Code.DELETION_FAILED, path=shown(target.path), reason=why(failed)) from failed

    def _put_back(self, area: int, grave: int, target: Target, manifest: Manifest) -> None:
        """Undo the rename. Raises BusError 9003 if that cannot be: it is kept, then, and nothing removes it."""
        try:
            rename_new(grave, TREE, target.parent, target.name)
            settle(target.parent)
        except OSError as failed:
            kept = shown(place_of(self.tenant, manifest.job.encode()) + b"/" + TREE)
            _changed(
                target, f"what was there was taken away and could not be put back ({why(failed)}): it is in {kept}"
            )
        self._fill_in(area, manifest.job.encode(), manifest)

    def _fill_in(self, area: int, name: bytes, manifest: Manifest) -> None:
        """Remove the job's directory, which holds no tree; a scan finds what stays. Raises nothing."""
        old = old_name(manifest.job)
        with contextlib.suppress(OSError):
            sweep(area, old)
            rename_new(area, name, area, old)
            sweep(area, old)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _quarantine(self, name: bytes, reason: str) -> list[Tombstone]:
        return [Tombstone(self.root, self.tenant, name, "quarantined", reason=reason)]

    def _swept(self, area: int, name: bytes) -> list[Tombstone]:
        try:
            sweep(area, name)
        except OSError as failed:
            return self._quarantine(name, f"it cannot be removed: {why(failed)}")
        return []

    def _read(self, area: int, name: bytes, sync: Sync) -> list[Tombstone]:
        """The tombstone ``name``; none if it has gone meanwhile."""
        job = name.decode("ascii", "replace")
        if not is_job(job):
            return self._quarantine(name, "that is not a job's id")
        try:
            grave = open_private(area, name)
        except FileNotFoundError:
            return []
        except OSError as failed:
            return self._quarantine(name, f"it is not a directory of this node's: {why(failed)}")
        try:
            names = names_in(grave, _MOST_NAMES)
            if not names:
                return self._swept(area, name)
            intent, manifest = self._manifest_in(grave, job, names)
            state, reason = self._state(grave, intent, manifest)
        except NotAManifest as failed:
            return self._quarantine(name, str(failed))
        except FileNotFoundError:
            return []
        except OSError as failed:
            return self._quarantine(name, f"it cannot be read: {why(failed)}")
        finally:
            os.close(grave)
        return [Tombstone(self.root, self.tenant, name, state, reason=reason, found=manifest, intent=intent, sync=sync)]

    def _manifest_in(self, grave: int, job: str, names: list[bytes]) -> tuple[bytes, Manifest]:
        """The manifest in a job's directory, and its name. Raises NotAManifest, OSError."""
        if ABANDONED in names:
            raise NotAManifest(GIVEN_UP)
        strange = [name for name in names if name not in {*INTENTS, HOIST, TREE}]
        intents = [name for name in names if name in INTENTS]
        if strange:
            raise NotAManifest(f"it holds {shown(strange[0])}, which no job puts there")
        if len(intents) != 1:
            raise NotAManifest("it has two manifests" if intents else "it has no manifest")
        manifest = read_manifest(grave, intents[0], own_uid())
        if (manifest.job, manifest.tenant, manifest.root) != (job, self.tenant, self.root.id):
            raise NotAManifest(
                f"the manifest is of job {manifest.job} of {manifest.tenant} in root {manifest.root}: it was moved here"
            )
        if HOIST in names:
            try:
                os.close(open_private(grave, HOIST))
            except OSError as failed:
                raise NotAManifest(f"{HOIST.decode()} is not a directory of this node's: {why(failed)}") from None
        return intents[0], manifest

    def _state(self, grave: int, intent: bytes, manifest: Manifest) -> tuple[State, str]:
        """What a manifest and what lies beside it mean. Raises NotAManifest, OSError."""
        try:
            tree = os.stat(TREE, dir_fd=grave, follow_symlinks=False)
        except FileNotFoundError:
            return self._without_tree(intent, manifest)
        fits = tree.st_ino == manifest.inode and stat.S_ISDIR(tree.st_mode) == manifest.directory
        if not fits or tree.st_dev != os.fstat(grave).st_dev:
            if intent == MANIFEST and self._only_taken(grave, tree):
                state = self._without_tree(intent, manifest)
                if state[0] == "not-begun":
                    os.rmdir(TREE, dir_fd=grave)
                    return state
            raise NotAManifest("what lies there is not what the manifest says")
        return ("restoring", "it was being put back") if intent == RESTORING else ("buried", "")

    @staticmethod
    def _only_taken(grave: int, tree: os.stat_result) -> bool:
        """Whether this can be what ``rename_new`` takes a name with, where the file system cannot do it in one step:
        an empty directory of this user's, 0700. Raises OSError.
        """
        if not stat.S_ISDIR(tree.st_mode) or tree.st_uid != own_uid() or tree.st_mode & 0o777 != 0o700:
            return False
        fd = open_private(grave, TREE)
        try:
            return not names_in(fd, 1)
        finally:
            os.close(fd)

    def _without_tree(self, intent: bytes, manifest: Manifest) -> tuple[State, str]:
        if intent == ENDING:
            return "done", "the tree was removed before the node ended"
        if intent == RESTORING:
            return "restored", "the tree was put back before the node ended"
        try:
            parent = open_place(self.root, manifest.path)
        except BusError as failed:
            if failed.code == Code.DELETION_CHANGED:
                return "gone", str(failed.fields.get("reason", ""))
            return "not-begun", f"its place cannot be looked at: {failed.fields.get('reason', '')}"
        try:
            status = os.stat(manifest.path.rpartition(b"/")[2], dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return "gone", "there is nothing at its place"
        except OSError as failed:
            return "not-begun", f"its place cannot be looked at: {why(failed)}"
        finally:
            os.close(parent)
        if status.st_ino != manifest.inode or stat.S_ISDIR(status.st_mode) != manifest.directory:
            return "gone", "something else is at its place"
        return "not-begun", "the tree is at its place"


def _is(status: os.stat_result, target: Target) -> bool:
    """Whether ``status`` is of what ``target`` was resolved to."""
    same = (status.st_dev, status.st_ino) == (target.device, target.inode)
    return same and stat.S_IFMT(status.st_mode) == stat.S_IFMT(target.mode)


def _lies_in(grave: int, target: Target) -> bool:
    """Whether what is buried in ``grave`` is the target."""
    try:
        return _is(os.stat(TREE, dir_fd=grave, follow_symlinks=False), target)
    except OSError:
        return False


def _changed(target: Target, reason: str) -> NoReturn:
    raise BusError(Code.DELETION_CHANGED, path=shown(target.path), reason=reason)
