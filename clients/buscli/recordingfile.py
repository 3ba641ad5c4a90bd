"""The file that a recording goes to: made at once or not at all, for its owner alone."""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from buscli.parser import UsageError

__all__ = ["check_new", "create", "sync_directory"]

BUFFER_BYTES: Final = 256 * 1024


def check_new(path: Path, *, force: bool) -> None:
    """Raise UsageError if ``path`` is there and must not be, or is no plain file; OSError if it cannot be looked at."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise UsageError(f"bus record: {path} is no plain file", "bus record PATTERN --output NAME")
    if not force:
        raise UsageError(f"bus record: {path} is there already", "--force, to replace it", "another name")


def create(path: Path, *, force: bool) -> BinaryIO:
    """A new file ``path``, open for writing, mode 0600.

    With ``force`` it takes the place of one that is there in one step. Raises UsageError and OSError as `check_new`.
    """
    check_new(path, force=force)
    made = path.with_name(f".{path.name}.{os.getpid()}") if force else path
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(made, flags | getattr(os, "O_CLOEXEC", 0), 0o600)
    except FileExistsError:
        raise UsageError(f"bus record: {made} is there already", "another name") from None
    file = os.fdopen(descriptor, "wb", buffering=BUFFER_BYTES)
    if force:
        try:
            os.replace(made, path)
        except OSError:
            file.close()
            with suppress(OSError):
                made.unlink()
            raise
    return file


def sync_directory(path: Path) -> None:
    """See to it that the name of ``path`` is on the disk, too, where that can be asked for."""
    if os.name == "posix":
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
