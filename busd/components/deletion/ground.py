"""The directories that hold tombstones: ``<root>/.busd-tombstones/<tenant>/<job>``, private, and checked each time.

Whoever owns a root may rename what lies in it and put something else there. So nothing is taken for granted because of
its name: each directory on the way is opened from the one above it and must be this user's, 0700, no link, and on the
file system of the root. What was planted by another user fails that; what another moved there has no valid manifest.
"""

import contextlib
import errno
import os
import stat
import sys
from typing import Final

from busd.components.deletion.roots import Root
from busd.components.deletion.shown import shown
from busd.components.deletion.system import O_LOOK, O_SAFE, mount_of, open_beneath
from busd.components.deletion.target import TOMBSTONES
from busproto.errors import BusError, Code

__all__ = [
    "ABANDONED",
    "ENDING",
    "GIVEN_UP",
    "HOIST",
    "INTENTS",
    "MANIFEST",
    "O_DIRECTORY",
    "RESTORING",
    "TREE",
    "CannotBury",
    "enter",
    "is_litter",
    "names_in",
    "make_private",
    "new_name",
    "old_name",
    "open_place",
    "open_private",
    "own_uid",
    "place_of",
    "settle",
    "sweep",
    "why",
]

O_DIRECTORY: Final[int] = getattr(os, "O_DIRECTORY", 0)

TREE: Final = b"tree"
"""What is buried, in the job's directory."""
HOIST: Final = b"hoist"
"""Where the walker moves subdirectories to."""

MANIFEST: Final = b"manifest"
"""The manifest of what is to be buried or is. Its name says what goes on, as a rename is one step on any disk."""
ENDING: Final = b"manifest.ending"
"""The same, from before the empty tree is removed: without its tree, it is done and not "not begun"."""
RESTORING: Final = b"manifest.restoring"
"""The same, from before the tree is put back: without its tree, it lies at its place again, and is to stay."""
ABANDONED: Final = b"manifest.abandoned"
"""The same, from when its job was given up: what is left is nobody's to remove or to put back."""
GIVEN_UP: Final = "its job was abandoned"
"""Why it is then quarantined."""
INTENTS: Final = (MANIFEST, ENDING, RESTORING)

_NEW: Final = b".new-"  # a job's directory before its manifest is on disk
_OLD: Final = b".old-"  # and after all is done
_UNSYNCABLE: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})


class CannotBury(BusError):  # noqa: N818 - it is an outcome: deletion in place comes next
    """9008: there can be no tombstone, and nothing was changed. Deletion in place may still be possible.

    ``reason`` says why; where the system said so, its OSError is the ``__cause__``.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(Code.DELETION_FAILED, path=path, reason=reason)

    @property
    def reason(self) -> str:
        """Why not, in words."""
        return str(self.fields.get("reason", ""))


def why(failed: OSError) -> str:
    """The error of the system with its name, as ``EXDEV: Invalid cross-device link``."""
    number = failed.errno or 0
    return f"{errno.errorcode.get(number, number)}: {failed.strerror or os.strerror(number)}"


def own_uid() -> int:
    """The user that what this process creates belongs to."""
    if sys.platform != "win32":
        return os.geteuid()
    return 0


def place_of(tenant: str, job: bytes = b"") -> bytes:
    """The path, below the root, of a tenant's area or of a job's directory in it."""
    return b"/".join(part for part in (TOMBSTONES, tenant.encode(), job) if part)


def new_name(job: str) -> bytes:
    """What a job's directory is called until its manifest is on disk."""
    return _NEW + job.encode()


def old_name(job: str) -> bytes:
    """What a job's directory is called from when all is done; what is in it means nothing any more."""
    return _OLD + job.encode()


def is_litter(name: bytes) -> bool:
    """Whether ``name`` is that of a job's directory before or after its time."""
    return name.startswith((_NEW, _OLD))


def settle(directory: int) -> None:
    """fsync ``directory``. Raises OSError; not where directories, or this descriptor, cannot be synced: there a crash
    of the machine may undo the last rename, which a scan finds.
    """
    try:
        os.fsync(directory)
    except OSError as failed:
        if failed.errno not in _UNSYNCABLE:
            raise


def names_in(directory: int, limit: int | None = None) -> list[bytes]:
    """The names in ``directory``, sorted; at most ``limit`` of them. Raises OSError."""
    # Opened anew: a descriptor has one position, and whoever else reads through it must not be disturbed.
    fd = os.open(b".", os.O_RDONLY | O_DIRECTORY | O_SAFE, dir_fd=directory)
    try:
        with os.scandir(fd) as entries:
            found: list[bytes] = []
            for entry in entries:
                if limit is not None and len(found) >= limit:
                    break
                found.append(os.fsencode(entry.name))
    finally:
        os.close(fd)
    return sorted(found)


def open_private(directory: int, name: bytes) -> int:
    """Open the directory ``name`` in ``directory``, which must be private; the descriptor is the caller's.

    Raises OSError as ``open_beneath``, and with EPERM and a text if it is another user's, not 0700, or elsewhere.
    """
    fd = open_beneath(directory, name, os.O_RDONLY | O_DIRECTORY)
    try:
        status, above = os.fstat(fd), os.fstat(directory)
        if status.st_uid != own_uid():
            raise OSError(errno.EPERM, f"it belongs to user {status.st_uid}, not to {own_uid()}")
        if stat.S_IMODE(status.st_mode) & 0o777 != 0o700:
            raise OSError(errno.EPERM, f"its mode is {stat.S_IMODE(status.st_mode):04o}, not 0700")
        if status.st_dev != above.st_dev or mount_of(fd) != mount_of(directory):
            raise OSError(errno.EXDEV, "it is on another file system")
    except BaseException:
        os.close(fd)
        raise
    return fd


def make_private(directory: int, name: bytes) -> int:
    """Make the directory ``name`` and open it. Raises OSError: EEXIST, and as ``open_private``."""
    os.mkdir(name, 0o700, dir_fd=directory)
    fd = open_beneath(directory, name, os.O_RDONLY | O_DIRECTORY)
    try:
        # The umask may have taken rights away, and somebody may have put another directory there since.
        if os.fstat(fd).st_uid == own_uid():
            os.chmod(fd, 0o700)
    finally:
        os.close(fd)
    return open_private(directory, name)


def enter(root: Root, tenant: str | None, *, create: bool) -> int:
    """Open the area of ``tenant`` below ``root``, or what holds all areas; the descriptor is the caller's.

    Raises CannotBury with the reason, also if it is not there and is not to be made; then its cause is ENOENT.
    """
    held = os.dup(root.fd)
    done = b""
    try:
        for name in (TOMBSTONES,) if tenant is None else (TOMBSTONES, tenant.encode()):
            done = done + b"/" + name if done else name
            below = _enter_one(held, name, create)
            os.close(held)
            held = below
    except OSError as failed:
        os.close(held)
        raise CannotBury(f"{root.id}: {done.decode()}", f"tombstones cannot be kept there: {why(failed)}") from failed
    return held


def _enter_one(directory: int, name: bytes, create: bool) -> int:
    try:
        return open_private(directory, name)
    except FileNotFoundError:
        if not create:
            raise
    try:
        fd = make_private(directory, name)
    except FileExistsError:
        return open_private(directory, name)  # another thread was first
    try:
        settle(directory)
    except BaseException:
        os.close(fd)
        raise
    return fd


def sweep(area: int, name: bytes) -> None:
    """Remove the directory ``name`` of the area with the manifest and the empty hoist in it; nothing else ever.

    What is missing already is no error. Raises OSError, ENOTEMPTY with a text if something else is in it; then nothing
    was removed.
    """
    try:
        fd = open_private(area, name)
    except FileNotFoundError:
        return
    try:
        strange = [one for one in names_in(fd, 64) if one not in {*INTENTS, HOIST}]
        if strange:
            raise OSError(errno.ENOTEMPTY, "it holds what is not a manifest")
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(HOIST, dir_fd=fd)
        for one in INTENTS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(one, dir_fd=fd)
    finally:
        os.close(fd)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=area)


def open_place(root: Root, path: bytes) -> int:
    """Open the directory that ``path`` lies in, below ``root``; the descriptor is the caller's.

    Raises BusError 9003: it is gone, or the way to it leads through a link or a mount. 9008: it cannot be entered.
    """
    above = path.rpartition(b"/")[0]
    if not above:
        return os.dup(root.fd)
    mounts = not root.settings.one_file_system
    try:
        try:
            return open_beneath(root.fd, above, os.O_RDONLY | O_DIRECTORY, mounts=mounts)
        except PermissionError:
            return open_beneath(root.fd, above, O_LOOK | O_DIRECTORY, mounts=mounts)
    except OSError as failed:
        if failed.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV}:
            reason = f"the directory that it lay in is no longer there ({why(failed)})"
            raise BusError(Code.DELETION_CHANGED, path=shown(path), reason=reason) from failed
        raise BusError(Code.DELETION_FAILED, path=shown(path), reason=why(failed)) from failed
