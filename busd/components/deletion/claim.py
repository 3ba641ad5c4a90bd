"""Which process works on what: flock(2) on a directory, which the kernel gives back however a process ends.

Some file servers have no such locks. There, everything counts as free: two processes must not share a root then.
"""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["claim", "exclusive"]

_NONE: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""What systems say that cannot lock a directory. EBADF: NFS, which wants a descriptor for writing."""


if sys.platform == "win32":  # where there are no roots, and so nothing to claim

    def claim(directory: int) -> bool:
        """See below."""
        return True

    @contextmanager
    def exclusive(directory: int) -> Iterator[None]:
        """See below."""
        yield

else:
    import fcntl

    def claim(directory: int) -> bool:
        """Whether ``directory`` is this process's from now on, until the descriptor is closed."""
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in _NONE
        return True

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
            try:
                fcntl.flock(directory, fcntl.LOCK_UN)
            except OSError as error:
                if error.errno not in _NONE:
                    raise
