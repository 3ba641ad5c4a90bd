"""A socket file or device in a directory that someone else may own, such as the jail of a VMM.

The node acts there with its own rights, so nothing on the way may be someone else's to exchange: the path is opened
directory by directory without following a symbolic link, each must belong to root, to this user or to the named owner
and be writable by nobody else (or be sticky, as /tmp), and everything after that goes through the opened directory and
file, never through the path again. What was checked is what is used. As a side effect the 107 bytes that a path may
have in unix(7) do not apply to the long paths of jails.
"""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PATH_BYTES: Final = 4095
"""PATH_MAX of Linux, without its closing zero."""

NAME_BYTES: Final = 255
"""NAME_MAX."""

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTRY: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class SocketFile:
    """A name in a checked directory that is held open until ``close``."""

    def __init__(self, path: str, owner: int | None = None) -> None:
        """``path`` is absolute; ``owner`` is a user beside root and this one whose directories are trusted.

        Raises:
            ValueError: the path may not be used; the reason.
        """
        self.path = path
        self._trusted = frozenset({0, os.geteuid()} if owner is None else {0, os.geteuid(), owner})
        self._listens: os.stat_result | None = None
        *directories, self._name = components(path)
        self._directory = self._open_directories(directories)

    def close(self) -> None:
        """Let go of the directory."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def listen(self, mode: int, owner: int | None, backlog: int) -> socket.socket:
        """A listening socket at this name that does not block, with permissions ``mode`` and owner ``owner``.

        It appears under its name when it already listens, and replaces one on which nobody listens any more.

        Raises:
            ValueError: someone listens there, something else is there, or the system refused; the reason.
        """
        try:
            with self._entry() as entry:
                if entry is not None and self._is_alive(entry):
                    raise ValueError(f"{self.path} is in use: another process listens on it")
            return self._bind(f".busd-{os.getpid():x}-{self._directory:x}", mode, owner, backlog)
        except OSError as error:
            raise ValueError(f"{self.path}: {error.strerror or error}") from None

    def unlink(self) -> None:
        """Remove what ``listen`` made, if it is still there under its name."""
        try:
            found = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
            if self._listens is not None and os.path.samestat(found, self._listens):
                os.unlink(self._name, dir_fd=self._directory)
        except OSError:  # gone already, or the directory is no longer ours to write
            pass
        self._listens = None

    def is_reachable(self) -> bool:
        """Whether what ``listen`` made is still what its path leads to: a VMM's jail may be made anew around it."""
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return self._listens is not None and os.path.samestat(found, self._listens)

    def connect(self) -> socket.socket:
        """A connected socket that does not block.

        Raises:
            OSError: nobody listens there (yet).
            ValueError: it is not a socket that may be used; the reason.
        """
        with self._entry() as entry:
            if entry is None:
                raise FileNotFoundError(errno.ENOENT, "no such file", self.path)
            return _connect(entry)

    def open(self) -> int:
        """A descriptor of the device at this name, for reading and writing, that does not block.

        Raises:
            OSError: it is not there, or the system refused.
            ValueError: it is not a device that may be used; the reason.
        """
        with self._entry(want_socket=False) as entry:
            if entry is None:
                raise FileNotFoundError(errno.ENOENT, "no such file", self.path)
            return os.open(_link(entry), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)

    def is_socket(self) -> bool:
        """Whether a socket is at this name now."""
        try:
            return stat.S_ISSOCK(os.stat(self._name, dir_fd=self._directory, follow_symlinks=False).st_mode)
        except OSError:
            return False

    # -- inside -------------------------------------------------------------------------------------------------------

    def _open_directories(self, names: list[str]) -> int:
        walked = "/"
        directory = _open_one(walked, -1, walked)
        try:
            for name in names:
                walked = os.path.join(walked, name)
                following = _open_one(name, directory, walked)
                os.close(directory)
                directory = following
                self._check(os.fstat(directory), f"directory {walked}")
        except ValueError:
            os.close(directory)
            raise
        return directory

    def _check(self, found: os.stat_result, what: str) -> None:
        """Raise ValueError unless only trusted users can change what is in or at ``found``."""
        if found.st_uid not in self._trusted:
            users = " or ".join(map(str, sorted(self._trusted)))
            raise ValueError(f"{what} belongs to user {found.st_uid}, and only user {users} is trusted here")
        if stat.S_ISDIR(found.st_mode) and found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
            raise ValueError(f"{what} can be written by others (mode {stat.S_IMODE(found.st_mode):04o})")

    @contextmanager
    def _entry(self, *, want_socket: bool = True) -> Iterator[int | None]:
        """A descriptor of what is at this name, which is a socket (or a device) of a trusted user; None if nothing."""
        try:
            entry = os.open(self._name, _ENTRY, dir_fd=self._directory)
        except FileNotFoundError:
            yield None
            return
        try:
            found = os.fstat(entry)
            if stat.S_ISLNK(found.st_mode):
                raise ValueError(f"{self.path} is a symbolic link; give {os.path.realpath(self.path)}")
            if want_socket and not stat.S_ISSOCK(found.st_mode):
                raise ValueError(f"{self.path} exists and is not a socket")
            if not want_socket and not stat.S_ISCHR(found.st_mode):
                raise ValueError(f"{self.path} is neither a character device nor a socket")
            self._check(found, self.path)
            yield entry
        finally:
            os.close(entry)

    def _is_alive(self, entry: int) -> bool:
        """Whether someone listens on the socket ``entry``."""
        try:
            _connect(entry).close()
        except ConnectionRefusedError:
            return False
        except BlockingIOError:  # its backlog is full: slow, not dead
            return True
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:  # someone's datagram socket
                return True
            raise
        return True

    def _bind(self, temporary: str, mode: int, owner: int | None, backlog: int) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made = False
        try:
            listener.bind(f"{_link(self._directory)}/{temporary}")
            made = True
            entry = os.open(temporary, _ENTRY, dir_fd=self._directory)
            try:
                # Whoever may write the directory can have put another file here since; through the descriptor it is
                # this one that gets the permissions, and it must be a socket of ours with no second name.
                found = os.fstat(entry)
                if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
                    raise ValueError(f"{self.path}: someone exchanged the socket while it was made")
                os.chmod(_link(entry), mode)
                if owner is not None and owner != found.st_uid:
                    os.chown(_link(entry), owner, -1)
            finally:
                os.close(entry)
            listener.listen(backlog)
            listener.setblocking(False)
            os.rename(temporary, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            self._listens = found
        except (OSError, ValueError):
            listener.close()
            if made:
                try:
                    os.unlink(temporary, dir_fd=self._directory)
                except OSError:
                    pass
            raise
        return listener


def components(path: str) -> list[str]:
    """The names of ``path``. Raises ValueError unless it is absolute and written in the one plain way; the reason."""
    if not path.startswith("/"):
        raise ValueError(f"{path!a} is not an absolute path")
    names = path[1:].split("/")
    if len(os.fsencode(path)) > PATH_BYTES or any(len(os.fsencode(name)) > NAME_BYTES for name in names):
        raise ValueError(f"the path is longer than {PATH_BYTES} bytes, or a name in it than {NAME_BYTES}")
    if any(name in ("", ".", "..") for name in names):
        raise ValueError(f"{path!a} must be written without '.', '..', '//' and a slash at its end")
    if not path.isprintable():
        raise ValueError(f"{path!a} holds a control character")
    return names


def _open_one(name: str, directory: int, walked: str) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=directory if directory >= 0 else None)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP) and os.path.islink(walked):
            reason = f"{walked} is a symbolic link; give the path with {os.path.realpath(walked)}"
        elif error.errno == errno.ENOENT:
            reason = f"directory {walked} does not exist: make it first"
        else:
            reason = f"{walked}: {error.strerror or error}"
    raise ValueError(reason)


def _connect(entry: int) -> socket.socket:
    """A socket connected to the socket file that ``entry`` is a descriptor of. Raises OSError."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        peer.setblocking(False)
        peer.connect(_link(entry))
    except OSError:
        peer.close()
        raise
    return peer


def _link(descriptor: int) -> str:
    """A path that means what ``descriptor`` is open on, whatever happens to its name (proc_pid_fd(5))."""
    return f"/proc/self/fd/{descriptor}"
