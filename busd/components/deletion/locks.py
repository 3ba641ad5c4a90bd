"""Directories that somebody holds by flock(2): their owner's way to say that nothing in them is to be cleaned up.

The rule is systemd-tmpfiles' (tmpfiles.d(5), "Age"): an exclusive lock is tried without waiting, which fails for a
shared holder, too; the directory is then left alone with all below.
"""

import sys

__all__ = ["locked", "unlock"]

if sys.platform == "win32":

    def locked(fd: int) -> bool:
        """Windows has no such locks: never."""
        return False

    def unlock(fd: int) -> None:
        """Windows has no such locks."""
else:
    import errno
    import fcntl

    def locked(fd: int) -> bool:
        """Whether another holds the directory ``fd``. If not, this descriptor does now, until `unlock` or it is closed.

        Where the file system has no such locks for directories (NFS: EBADF, as they need a right to write), nobody
        holds one.
        """
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in {errno.EWOULDBLOCK, errno.EAGAIN}
        return False

    def unlock(fd: int) -> None:
        """Give back what `locked` took. Where there are no locks, nothing happens."""
        try:
            fcntl.flock(fd, fcntl.LOCK_UN)
        except OSError:
            return
