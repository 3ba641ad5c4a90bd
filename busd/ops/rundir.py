"""The run directory: where a node's sockets and lock live, and the rules that keep it the node's own.

* It is a directory that this user owns, that nobody else can write, and not a symbolic link (7004).
* ``busd.lock`` inside it is held with flock(2) by the one daemon that runs there, its pid in the file (7003).
* A socket file left by a daemon that was killed is replaced, but only after a connect test said that nobody listens.
* A new socket appears under its final name only when it already listens (bound under a temporary name and renamed), so
  a client never meets one that refuses.
"""

import errno
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from busd.ops.directories import HeldError, UnusableError, open_directory, take_lock
from busproto.errors import BusError, Code

__all__ = ["RunDirectory", "bind_unix", "default_run_dir", "probe", "remove_socket"]

LOCK_NAME: Final = "busd.lock"
SOCKET_NAME: Final = "host.sock"
SOCKET_PATH_BYTES: Final = 107
"""sun_path of unix(7) holds 108 bytes with its closing zero."""
PROBE_SECONDS: Final = 1.0
"""A connect test on this machine that has not been answered by then met a listener that does not accept."""


def default_run_dir(environ: Mapping[str, str], uid: int | None = None) -> Path:
    """/run/busd for root, $XDG_RUNTIME_DIR/busd else, and /tmp/busd-UID where that variable is not set."""
    uid = os.geteuid() if uid is None else uid
    if uid == 0:
        return Path("/run/busd")
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    return Path(runtime, "busd") if runtime.startswith("/") else Path(f"/tmp/busd-{uid}")


class RunDirectory:
    """A run directory that this process has claimed. A context manager: leaving it releases the claim.

    Raises:
        BusError: RUN_DIR_UNUSABLE or RUN_DIR_IN_USE, when it is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket_path = path / SOCKET_NAME
        self._lock = -1
        try:
            directory = open_directory(path, 0o755 if os.geteuid() == 0 else 0o700)
            try:
                self._lock = take_lock(directory, LOCK_NAME)
            finally:
                os.close(directory)
        except UnusableError as error:
            raise BusError(Code.RUN_DIR_UNUSABLE, path=str(path), reason=str(error)) from None
        except HeldError as error:
            raise BusError(Code.RUN_DIR_IN_USE, pid=error.pid, path=str(path)) from None

    def release(self) -> None:
        """Remove the host socket and let the next daemon in. Does nothing the second time."""
        if self._lock < 0:
            return
        remove_socket(self.socket_path)
        os.ftruncate(self._lock, 0)
        os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


def probe(path: Path) -> Literal["absent", "stale", "alive"]:
    """Whether someone listens on the unix socket ``path``; found by connecting.

    Raises:
        BusError: LISTEN_FAILED, when ``path`` is no socket or may not be tested.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise _refused(path, "the path exists and is not a socket")
    except FileNotFoundError:
        return "absent"
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(PROBE_SECONDS)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            return "stale"
        except FileNotFoundError:
            return "absent"
        except (TimeoutError, BlockingIOError):  # its backlog is full: slow, not dead
            return "alive"
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:  # someone's datagram socket
                return "alive"
            raise _refused(path, error.strerror or str(error)) from None
    return "alive"


def bind_unix(path: Path, mode: int, backlog: int) -> socket.socket:
    """A listening, non-blocking unix stream socket at ``path``, with permissions ``mode``, replacing a stale one.

    Raises:
        BusError: LISTEN_FAILED: someone listens there, the path is too long, or the system refused.
    """
    _check_length(path)
    if probe(path) == "alive":
        raise _refused(path, "another process listens on it")
    temporary = path.parent / f".{os.getpid():x}"  # no longer than any sensible name, so it fits where path does
    _check_length(temporary)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        temporary.unlink(missing_ok=True)
        listener.bind(str(temporary))
        os.chmod(temporary, mode)
        listener.listen(backlog)
        listener.setblocking(False)
        os.rename(temporary, path)
    except OSError as error:
        listener.close()
        _unlink_quietly(temporary)
        raise _refused(path, error.strerror or str(error)) from None
    return listener


def remove_socket(path: Path) -> None:
    """Remove the socket file ``path`` if it is there. Only for whoever made it and holds the directory's lock."""
    _unlink_quietly(path)


def _unlink_quietly(path: Path) -> None:
    try:
        path.unlink()
    except OSError:  # gone already, or the directory went away: either way no new client finds it
        pass


def _check_length(path: Path) -> None:
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_BYTES:
        raise _refused(path, f"the path has {size} bytes and the system allows {SOCKET_PATH_BYTES}")


def _refused(path: Path, reason: str) -> BusError:
    return BusError(Code.LISTEN_FAILED, address=f"unix://{path}", reason=reason)
