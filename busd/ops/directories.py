"""Directories that are a daemon's own: checked before anything in them is trusted, and locked by one process."""

import errno
import fcntl
import os
import stat
import time
from pathlib import Path

__all__ = ["HeldError", "UnusableError", "open_directory", "take_lock"]


class UnusableError(Exception):
    """Why a directory cannot be used; completes the sentence "DIRECTORY cannot be used: ..."."""


class HeldError(Exception):
    """Another process holds the lock.

    Attributes:
        pid: of that process, or "unknown" if it did not write it.
    """

    def __init__(self, pid: int | str) -> None:
        super().__init__(f"process {pid} holds it")
        self.pid = pid


def open_directory(path: Path, mode: int, *, private: bool = False, parents: bool = False) -> int:
    """Create ``path`` if it is absent and return a descriptor of it, checked. What is checked is what is opened.

    Args:
        path: must belong to this user, be no symbolic link, and not be writable by others.
        mode: permissions that it is made with.
        private: others may not even read it.
        parents: make the directories above it, for this user only.

    Raises:
        UnusableError: it is none of that, or the system refused.
    """
    try:
        if parents:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.mkdir(path, mode)
            os.chmod(path, mode)  # the umask may have taken bits away
        except FileExistsError:
            pass
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise UnusableError(_reason(path, error)) from None
    found = os.fstat(directory)
    reason = ""
    if found.st_uid != os.geteuid():
        reason = f"it belongs to user {found.st_uid}, this is user {os.geteuid()}"
    elif found.st_mode & 0o022:
        reason = f"others can write it (mode {stat.S_IMODE(found.st_mode):04o})"
    elif private and found.st_mode & 0o077:
        reason = f"others can read it (mode {stat.S_IMODE(found.st_mode):04o})"
    if reason:
        os.close(directory)
        raise UnusableError(reason)
    return directory


def take_lock(directory: int, name: str) -> int:
    """Lock the file ``name`` in ``directory`` and write our pid into it. Returns the descriptor that holds the lock.

    The kernel releases the lock however the process ends; the file stays, because removing a locked file lets two in.

    Raises:
        HeldError: another process holds it.
        UnusableError: the system refused.
    """
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=directory)
    except OSError as error:
        raise UnusableError(f"{name}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = _holder(lock)
        os.close(lock)
        raise HeldError(pid) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _holder(lock: int) -> int | str:
    """The pid in a lock file that another process holds. It may have locked it a moment ago and not written yet."""
    for _ in range(20):
        text = os.pread(lock, 32, 0).strip()
        if text.isdigit():
            return int(text)
        time.sleep(0.005)
    return "unknown"


def _reason(path: Path, error: OSError) -> str:
    if path.is_symlink():  # the open said ENOTDIR or ELOOP, depending on the kernel
        return "it is a symbolic link"
    if error.errno == errno.ENOTDIR and path.exists():
        return "it is not a directory"
    if error.errno == errno.ENOENT:
        return f"{path.parent} does not exist"
    return error.strerror or str(error)
