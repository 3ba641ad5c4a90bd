"""Reading a policy folder from disk, as found: what is wrong with a file is recorded with it, and the parser decides.

A file or folder that everybody can write, or that belongs to neither root nor the daemon's user, is not believed.
Files may be symbolic links (Kubernetes mounts a ConfigMap that way): what counts is the file that is read.
"""

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from busd.core.rules import FILE_BYTES, PolicyFile
from busd.ops.configdir import config_dir
from busproto.errors import BusError, Code

__all__ = [
    "BUILT_IN",
    "TESTS_NAME",
    "default_files",
    "default_policy_dir",
    "default_tests",
    "distrust",
    "load_policy",
    "read_folder",
    "read_tests",
]

BUILT_IN: Final = "built-in"
"""The source of the set that comes with busd."""

TESTS_NAME: Final = "policy.tests"
"""The file of expectations that ``bus policy test`` checks; the only one in a folder that is no policy file."""

FILES: Final = 256
"""Files in a folder. Two digits give a hundred places, and few are shared."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Failures that say nothing about the policy: the one that is in effect must stay (CVE-2017-7652)."""


def default_policy_dir(environ: Mapping[str, str]) -> Path:
    """``policy.d`` in the configuration directory; /etc/busd for who has none."""
    return (config_dir(environ) or Path("/etc/busd")) / "policy.d"


def load_policy(folder: Path, *, named: bool = False) -> tuple[list[PolicyFile], str]:
    """The policy's files and where they come from: ``folder``, or the built-in set if there is no such folder.

    Args:
        folder: absolute path.
        named: somebody chose this folder, so that it must be there: without it everything is denied.

    Raises:
        OSError: the process has run out of descriptors or memory. Whoever has a policy keeps it.
    """
    if not named and not os.path.lexists(folder):
        return default_files(), BUILT_IN
    return read_folder(folder), str(folder)


def read_folder(folder: Path) -> list[PolicyFile]:
    """The files of ``folder``, sorted by name, each with its text or what is wrong with it.

    A problem of the folder itself is returned as a file of the folder's name, which has no place among the rules and so
    denies everything. Names that begin with a dot, and ``policy.tests``, are left out.

    Raises:
        OSError: the process has run out of descriptors or memory.
    """
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        return [PolicyFile(str(folder), None, _failure(error))]
    try:
        if reason := distrust(os.fstat(directory)):
            return [PolicyFile(str(folder), None, reason)]
        names = sorted(name for name in os.listdir(directory) if not name.startswith(".") and name != TESTS_NAME)
        if len(names) > FILES:
            return [PolicyFile(str(folder), None, f"it holds {len(names)} files; at most {FILES} are allowed")]
        return [_read(directory, name) for name in names]
    except OSError as error:
        return [PolicyFile(str(folder), None, _failure(error))]
    finally:
        os.close(directory)


def default_files() -> list[PolicyFile]:
    """The set that comes with busd, in effect where there is no folder."""
    found = [entry for entry in _package().iterdir() if entry.name.endswith(".policy")]
    return [PolicyFile(entry.name, entry.read_text("utf-8")) for entry in sorted(found, key=lambda entry: entry.name)]


def default_tests() -> str:
    """The expectations that come with that set."""
    return (_package() / TESTS_NAME).read_text("utf-8")


def read_tests(path: Path) -> str:
    """The text of a file of expectations.

    Raises:
        BusError: POLICY_INVALID, if it cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read(FILE_BYTES + 1)
        if len(data) <= FILE_BYTES:
            return data.decode("utf-8")
        reason = f"it has more than {FILE_BYTES} bytes, which is the limit"
    except OSError as error:
        reason = _failure(error)
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8: byte {error.start}"
    raise BusError(Code.POLICY_INVALID, count=1, errors=f"{path}: {reason}")


def _package() -> Path:
    from importlib.resources import files as resources  # commands that read a folder need not load it

    return Path(str(resources("busd"))) / "ops" / "policy.d"


def _read(directory: int, name: str) -> PolicyFile:
    """One file. It is opened first and judged by what was opened; a FIFO or device is not waited for."""
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        return PolicyFile(name, None, _failure(error))
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            return PolicyFile(name, None, "it is not a regular file")
        if reason := distrust(found):
            return PolicyFile(name, None, reason)
        with open(opened, "rb", closefd=False) as stream:
            data = stream.read(FILE_BYTES + 1)
    except OSError as error:
        return PolicyFile(name, None, _failure(error))
    finally:
        os.close(opened)
    if len(data) > FILE_BYTES:
        return PolicyFile(name, None, f"it has more than {FILE_BYTES} bytes, which is the limit")
    try:
        return PolicyFile(name, data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return PolicyFile(name, None, f"byte 0x{data[error.start]:02x} in line {line} is not UTF-8")


def distrust(found: os.stat_result) -> str:
    """Why what was found is not believed; empty if it is."""
    if found.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {found.st_uid}; it must belong to root or to user {os.geteuid()}"
    if found.st_mode & stat.S_IWOTH:
        return f"everybody can write it (mode {stat.S_IMODE(found.st_mode):04o}); remove that: chmod o-w"
    return ""


def _failure(error: OSError) -> str:
    """Why something cannot be read. Raises ``error`` if it says nothing about the policy."""
    if error.errno in _EXHAUSTED:
        raise error
    return f"it cannot be read: {error.strerror or error}"
