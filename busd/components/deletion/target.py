"""What a job is to delete: a path below a root, resolved to a directory descriptor and a name in it.

Nothing is followed on the way: no link, no "..", no mount unless the root allows it. From here on the path is only for
people; what is deleted is the name in the directory that is held open, if it is still what was found here.
"""

import errno
import os
import stat
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from busd.components.deletion.protected import Key, Marks, key_of
from busd.components.deletion.roots import Root
from busd.components.deletion.shown import shown
from busd.components.deletion.system import O_LOOK, O_SAFE, is_mount_root, open_beneath
from busproto.errors import BusError, Code

__all__ = ["MAX_PATH", "TOMBSTONES", "Target", "resolve"]

MAX_PATH: Final = 65536
"""Bytes of a path below a root: sixteen times what one system call takes; each component costs some."""

TOMBSTONES: Final = b".busd-tombstones"
"""Name, in a root, of the directory that holds what is being deleted. No job may name anything there."""

_DIRECTORY: Final[int] = getattr(os, "O_DIRECTORY", 0)

_REASONS: Final = {
    errno.ENOENT: "there is nothing of that name",
    errno.ENOTDIR: "a component on the way is not a directory",
    errno.ELOOP: "a component on the way is a link, and links are not followed",
    errno.EXDEV: "a file system is mounted there",
    errno.ENAMETOOLONG: "a component is longer than the file system allows",
}


@dataclass(slots=True)
class Target:
    """What was found at a path below a root. To be closed, or used in a ``with``.

    Attributes:
        root: where it lies.
        path: its path below the root, as it was given.
        parent: descriptor of the directory that it lies in; this object's, -1 once closed. For reading where the
            directory may be read, otherwise one that only names it (then fsync says EBADF).
        name: its name there, one component.
        device, inode, mode: as of stat(2), links not followed.
    """

    root: Root
    path: bytes
    parent: int
    name: bytes
    device: int
    inode: int
    mode: int

    @property
    def key(self) -> Key:
        """Device and inode."""
        return self.device, self.inode

    @property
    def directory(self) -> bool:
        """Whether it is a directory; a link to one is not."""
        return stat.S_ISDIR(self.mode)

    def check(self) -> os.stat_result:
        """Look whether the name still leads to what was found, and return its status.

        Raises BusError 9003: it is gone, or something else is there.
        """
        try:
            status = os.stat(self.name, dir_fd=self.parent, follow_symlinks=False)
        except OSError as failed:
            raise BusError(
                Code.DELETION_CHANGED, path=shown(self.path), reason=os.strerror(failed.errno or 0)
            ) from None
        if key_of(status) != self.key or stat.S_IFMT(status.st_mode) != stat.S_IFMT(self.mode):
            raise BusError(Code.DELETION_CHANGED, path=shown(self.path), reason="something else is there by now")
        return status

    def close(self) -> None:
        """Give the descriptor back. A second time does nothing."""
        if self.parent >= 0:
            fd, self.parent = self.parent, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def resolve(root: Root, path: bytes) -> Target:
    """Find ``path`` below ``root``. A link at its end is the target itself; it is never followed.

    Costs three to five system calls a component, so call it from a thread.

    Args:
        root: an open root.
        path: bytes, relative, components separated by single slashes; at most 64 KiB and as deep as the root says.

    Returns: the target, the caller's to close.

    Raises BusError:
        9002: not such a path; nothing there; a link or a mount on the way; a protected place or one that holds one; the
            root itself; where jobs keep what they delete.
        9003: the root's own path leads elsewhere by now.
        9008: the system failed while looking (too many descriptors, an error of the disk).
    """
    parts = _parts(root, path)
    root.check()
    marks = root.protected.marks()
    held = os.dup(root.fd)
    try:
        tombs = _key_in(held, TOMBSTONES)
        for part in parts[:-1]:
            below = open_beneath(held, part, O_LOOK | _DIRECTORY, mounts=not root.settings.one_file_system)
            os.close(held)
            held = below
            key = key_of(os.fstat(held))
            if key in marks.closed:
                raise _refused(path, "it lies in a protected directory")
            if key == tombs:
                raise _refused(path, "it is where jobs keep what they delete")
        status = _leaf(root, held, parts[-1])
        _refuse_place(root, path, key_of(status), marks, tombs)
        held = _readable(held)
    except OSError as failed:
        os.close(held)
        raise _failure(path, failed) from failed
    except BaseException:
        os.close(held)
        raise
    return Target(root, path, held, parts[-1], status.st_dev, status.st_ino, status.st_mode)


def _parts(root: Root, path: bytes) -> list[bytes]:
    """The components of ``path``, in order of what is cheap to refuse. Raises BusError 9002."""
    if len(path) > MAX_PATH:
        raise _refused(path, f"it has {len(path)} bytes; {MAX_PATH} may be")
    if not path:
        raise _refused(path, "it is empty")
    if b"\0" in path:
        raise _refused(path, "it has a NUL")
    if path.startswith(b"/"):
        raise _refused(path, "it is absolute; a path is given below the root")
    parts = path.split(b"/")
    if b"" in parts:
        raise _refused(path, "it has an empty component")
    if b"." in parts or b".." in parts:
        raise _refused(path, "it has a component that is '.' or '..'")
    if len(parts) < root.settings.min_depth:
        raise _refused(path, f"it is {len(parts)} deep; in this root a path is at least {root.settings.min_depth} deep")
    if parts[0].lower() == TOMBSTONES:
        raise _refused(path, "it is where jobs keep what they delete")
    return parts


def _key_in(directory: int, name: bytes) -> Key | None:
    try:
        return key_of(os.stat(name, dir_fd=directory, follow_symlinks=False))
    except OSError:
        return None


def _leaf(root: Root, directory: int, name: bytes) -> os.stat_result:
    """The status of what is at ``name``. Raises OSError: EXDEV, if something is mounted there."""
    if is_mount_root(directory, name):
        # Whatever the root says: a mount point cannot be removed before it is unmounted.
        raise OSError(errno.EXDEV, "a file system is mounted there")
    if not O_LOOK:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    fd = open_beneath(directory, name, O_LOOK)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _refuse_place(root: Root, path: bytes, key: Key, marks: Marks, tombs: Key | None) -> None:
    """Raises BusError 9002 if ``key`` is a place that stays. Paths of the host are not told to who asks."""
    if key in {root.key, tombs}:
        raise _refused(path, "it is the root itself" if key == root.key else "it is where jobs keep what they delete")
    if key in marks.kept or key in root.beside:
        raise _refused(path, "it is a protected directory")
    if key in marks.above or key in root.above:
        raise _refused(path, "a protected directory is reached through it")


def _readable(fd: int) -> int:
    """A descriptor of the directory ``fd`` for reading, in its place; ``fd`` itself where it may not be read."""
    if not O_LOOK:
        return fd
    try:
        # "." of a directory that is held is that directory, whatever its name is by now.
        better = os.open(b".", os.O_RDONLY | _DIRECTORY | O_SAFE, dir_fd=fd)
    except PermissionError:
        return fd
    os.close(fd)
    return better


def _refused(path: bytes, reason: str) -> BusError:
    return BusError(Code.DELETION_REFUSED, path=shown(path), reason=reason)


def _failure(path: bytes, failed: OSError) -> BusError:
    """What ``failed`` means for who asked: refused if asking again is of no use, failed if it may be."""
    number = failed.errno or 0
    if number in _REASONS:
        return _refused(path, _REASONS[number])
    if number in {errno.EACCES, errno.EPERM}:
        return _refused(path, "the node may not enter a directory on the way")
    return BusError(Code.DELETION_FAILED, path=shown(path), reason=os.strerror(number))
