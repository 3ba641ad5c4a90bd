"""Directories that deny their owner: opened up for the walk, and given back their mode if they stay."""

import contextlib
import errno
import os
import stat
from typing import Final

from busd.components.deletion.node import DIRECTORY, Held, Node
from busd.components.deletion.system import O_LOOK, mount_of

__all__ = ["give_back", "open_closed", "open_in", "open_up"]

_ALL: Final = 0o700


def open_in(parent: Node, at: int, node: Node, chmod: bool, mount: int) -> tuple[int, os.stat_result | None] | None:
    """Open ``node`` in its ``parent``, which is open as ``at`` and in use; with ``chmod`` also what denies its owner.

    Returns: the descriptor, and what stat(2) said before where that had to be changed. None if it is no directory.

    Raises OSError as ``open_closed``.
    """
    try:
        return os.open(node.name, DIRECTORY, dir_fd=at), None
    except OSError as error:
        if error.errno in {errno.ENOTDIR, errno.ELOOP}:
            return None
        if error.errno != errno.EACCES or not chmod:
            raise
    # Either its own mode denies reading, or its parent's denies looking into it.
    if open_up(parent):
        try:
            return os.open(node.name, DIRECTORY, dir_fd=at), None
        except OSError as error:
            if error.errno != errno.EACCES:
                raise
    return open_closed(node, at, mount)


def open_closed(node: Node, directory: int, mount: int) -> tuple[int, os.stat_result]:
    """Open ``node`` in ``directory`` though its mode denies it: its owner gets all permissions first.

    Returns: the descriptor, and what stat(2) said before.

    Raises OSError: EACCES if the mode was not what denied it, EPERM where it is somebody else's, EXDEV where it is not
    on ``mount``, and what open(2) raises.
    """
    if not O_LOOK:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    looked = os.open(node.name, O_LOOK | DIRECTORY, dir_fd=directory)
    try:
        before = os.fstat(looked)
        mode = stat.S_IMODE(before.st_mode)
        if mode & _ALL == _ALL:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        if mount_of(looked) != mount:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
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
    return fd, before


def open_up(node: Node) -> bool:
    """Let the owner change ``node``, which is open and in use; whether that changed anything."""
    before = node.mode
    try:
        mode = stat.S_IMODE(os.fstat(node.fd).st_mode)
        if mode & _ALL == _ALL:
            return node.mode is not None  # another thread was first
        if before is None:
            node.mode = mode  # before it is changed: the other thread looks at this then
        os.chmod(node.fd, mode | _ALL)
    except OSError:
        node.mode = before
        return False
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
