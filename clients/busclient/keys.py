"""The key pair of a client on a network link, and the broker's public key: files, and where they are looked for.

A key file holds one line: the key in Z85 (ZeroMQ RFC 32). ``NAME.key`` is the secret half, readable by its owner only,
``NAME.pub`` the public one. The secret is read when a connection is made and is never shown: not in an error, a
``repr`` or a log.
"""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from busproto.errors import BusError, Code
from busproto.z85 import KEY_CHARACTERS, decode_key

__all__ = ["Keys", "find_keys", "make_pair", "read_public"]

KEY_VARIABLE: Final = "BUS_KEY"
SERVER_KEY_VARIABLE: Final = "BUS_SERVER_KEY"

FILE_BYTES: Final = 256
"""Read of a key file: a key, and white space that an editor may have left."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What a network link needs. All in Z85."""

    public: str
    """This client's public key."""
    secret: str = field(repr=False)
    """Its secret half."""
    server: str
    """The broker's public key."""


def find_keys(key: str | os.PathLike[str] | None, server_key: str | os.PathLike[str] | None) -> Keys:
    """The keys that were given, or that ``BUS_KEY`` and ``BUS_SERVER_KEY`` name.

    ``key`` is the path of a secret key file: never the key itself, which would be seen in a list of processes.
    ``server_key`` is the path of a public key file, or the key.

    Raises:
        BusError: 6010, saying which of them cannot be used and why.
    """
    key = key or os.environ.get(KEY_VARIABLE)
    if not key:
        raise _unusable("the key of this client", f"none was given (key, {KEY_VARIABLE} or --key)")
    server_key = server_key or os.environ.get(SERVER_KEY_VARIABLE)
    if not server_key:
        reason = f"none was given (server_key, {SERVER_KEY_VARIABLE} or --server-key)"
        raise _unusable("the broker's public key", reason)
    secret = _read_secret(Path(key).expanduser())
    return Keys(_public_of(secret), secret, read_public(server_key, "the broker's public key"))


def read_public(key: str | os.PathLike[str], what: str) -> str:
    """The public key in the file ``key``, or ``key`` itself if it is one. ``what`` it is, for errors.

    Raises:
        BusError: 6010.
    """
    path = Path(key).expanduser()
    is_key = len(os.fspath(key)) == KEY_CHARACTERS and not path.exists()
    try:
        if is_key:
            text = os.fspath(key)
        elif path.suffix == ".key":
            raise ValueError("this is a secret key file; the public one ends in .pub")
        else:
            text = _read(path)
        decode_key(text)
    except OSError as error:
        reason = error.strerror or str(error)
        raise _unusable(what, f"{path}: {reason}; it is the path of a .pub file, or a key in Z85") from None
    except ValueError as error:
        raise _unusable(what, str(error) if is_key else f"{path}: {error}") from None
    return text


def make_pair(directory: Path, name: str) -> tuple[Path, Path, str]:
    """Make a key pair ``name`` in ``directory``. Returns the secret's path, the public key's path and the public key.

    Raises:
        OSError: a file cannot be written, or is there already: a key is never replaced.
    """
    import zmq

    public, secret = zmq.curve_keypair()
    paths = directory / f"{name}.key", directory / f"{name}.pub"
    if paths[1].exists():  # before the secret is made, which would stay behind alone
        raise FileExistsError(17, "File exists", str(paths[1]))
    _write(paths[0], secret, 0o600)
    _write(paths[1], public, 0o644)
    return *paths, public.decode()


def _write(path: Path, key: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key + b"\n")
        file.flush()
        os.fsync(descriptor)


def _read(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(FILE_BYTES)
    return data.decode("ascii", "replace").strip()


def _read_secret(path: Path) -> str:
    what = f"the key of this client, {path},"
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _unusable(what, "it is not a file")
            # Windows keeps permissions elsewhere and shows 0666 here.
            if os.name == "posix" and found.st_mode & (0o037 if _is_credential(path) else 0o077):
                mode = stat.S_IMODE(found.st_mode)
                raise _unusable(what, f"others than its owner may use it (mode {mode:04o}); chmod 600 {path}")
            text = file.read(FILE_BYTES).decode("ascii", "replace").strip()
        decode_key(text)
    except OSError as error:
        raise _unusable(what, error.strerror or str(error)) from None
    except ValueError as error:
        raise _unusable(what, str(error)) from None
    return text


def _is_credential(path: Path) -> bool:
    """Whether systemd passed the file at ``path`` to this process (systemd.exec(5), LoadCredential=).

    It may grant access by an ACL, whose mask shows as the group's bits: nobody else is let in by it.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return folder is not None and path.absolute().parent == Path(folder)


def _public_of(secret: str) -> str:
    import zmq

    return zmq.curve_public(secret.encode()).decode()


def _unusable(what: str, reason: str) -> BusError:
    return BusError(Code.KEY_UNUSABLE, what=what, reason=reason)
