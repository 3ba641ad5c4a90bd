"""Directories that deny their owner: opened up for the walk, and given back their mode if they stay."""

import contextlib
import errno
import os
import stat
from typing import Final

from busd.components.deletion.node import DIRECTORY, Held, Node
from busd.components.deletion.system import O_LOOK

__all__ = ["give_back", "open_closed", "open_up"]

_ALL: Final = 0o700


def open_closed(node: Node, directory: int) -> int:
    """Open ``node`` in ``directory`` though its mode denies it: its owner gets all permissions first.

    Raises OSError: EACCES if the mode was not what denied it, EPERM where it is somebody else's, and what open(2)
    raises.
    """
    if not O_LOOK:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    looked = os.open(node.name, O_LOOK | DIRECTORY, dir_fd=directory)
    try:
        mode = stat.S_IMODE(os.fstat(looked).st_mode)
        if mode & _ALL == _ALL:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        # A descriptor of O_LOOK takes no fchmod; through /proc it names the same directory, wherever that is by now.
        os.chmod(f"/proc/self/fd/{looked}", mode | _ALL)
        try:
            fd = os.open(".", DIRECTORY, dir_fd=looked)
        except OSError:
            with contextlib.suppress(OSError):
                os.chmod(f"/proc/self/fd/{looked}", mode)
            raise
    finally:
        os.close(looked)
    node.mode = mode
    return fd


def open_up(node: Node) -> bool:
    """Let the owner change ``node``, which is open and in use; whether that changed anything."""
    try:
        mode = stat.S_IMODE(os.fstat(node.fd).st_mode)
        if mode & _ALL == _ALL:
            return node.mode is not None  # another thread was first
        os.chmod(node.fd, mode | _ALL)
    except OSError:
        return False
    node.mode = mode
    return True


def give_back(node: Node, held: Held) -> None:
    """The mode that ``node`` had. Best effort: it stays with more rights for its owner otherwise."""
    mode, node.mode = node.mode, None
    if mode is None:
        return
    with contextlib.suppress(OSError):
        fd = held.use(node)
        try:
            os.chmod(fd, mode)
        finally:
            held.done(node)
