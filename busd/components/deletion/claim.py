"""Who has a directory: flock(2) on it, which the kernel gives back however a process ends.

A process claims the areas and tombstones that it works on; a walk that goes by a filter leaves alone what others have.
That is systemd-tmpfiles' rule (tmpfiles.d(5), "Age"): an exclusive lock is tried without waiting, which fails for a
shared holder, too.

Some file servers have no such locks. There, everything counts as free: two processes must not share a root then.
"""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

__all__ = ["claim", "exclusive", "release"]

_NONE: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""What systems say that cannot lock a directory. EBADF: NFS, which wants a descriptor for writing."""


if sys.platform == "win32":  # where there are no such locks

    def claim(directory: int) -> bool:
        """See below."""
        return True

    def release(directory: int) -> None:
        """See below."""

    @contextmanager
    def exclusive(directory: int) -> Iterator[None]:
        """See below."""
        yield

else:
    import fcntl

    def claim(directory: int) -> bool:
        """Whether ``directory`` is this process's from now on, until `release` or the descriptor is closed."""
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in _NONE
        return True

    def release(directory: int) -> None:
        """Give back what `claim` took. Where that fails, the end of the descriptor does it."""
        with suppress(OSError):
            fcntl.flock(directory, fcntl.LOCK_UN)

    @contextmanager
    def exclusive(directory: int) -> Iterator[None]:
        """Wait until no other process is in such a block with the same directory; for what takes milliseconds."""
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NONE:
                raise
        try:
            yield
        finally:
            release(directory)
