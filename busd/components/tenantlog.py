"""Lines that have to stay, as an audit's do: each tenant's in files of its own, bounded, on disk before it is said."""

import contextlib
import os
import sys
import threading
from pathlib import Path

from busproto.errors import BusError, Code
from busproto.subjects import check_name

__all__ = ["TenantLog"]


class TenantLog:
    """The lines in a directory: ``TENANT.jsonl``, and older ones as ``TENANT.1.jsonl`` and so on. Thread-safe.

    Each tenant has files of its own, so that nobody's lines push another's out.

    Attributes:
        folder: as given.
        problem: why the last line could not be written; empty if it could.
    """

    def __init__(self, folder: Path, *, file_bytes: int, keep: int) -> None:
        """Nothing is made or opened before the first line.

        Args:
            folder: made, 0700, if it is missing.
            file_bytes: a file that has grown to this is followed by the next.
            keep: files of one tenant, with the one that is written.
        """
        self.folder = folder
        self.problem = ""
        self._file_bytes = file_bytes
        self._keep = keep
        self._lock = threading.Lock()

    def write(self, tenant: str, line: bytes) -> None:
        """Add ``line``, which ends with a newline, to those of ``tenant``: it is on disk when this returns.

        Raises BusError 7011 if that cannot be done; then nothing of it is there.
        """
        assert check_name(tenant) is None, tenant  # it becomes the name of a file
        with self._lock:
            try:
                self._append(tenant, line)
            except OSError as error:
                self.problem = error.strerror or str(error)
                raise BusError(Code.AUDIT_UNUSABLE, path=str(self.folder), reason=self.problem) from error
            self.problem = ""

    def _append(self, tenant: str, line: bytes) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / f"{tenant}.jsonl"
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        file = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o600)
        try:
            size = os.fstat(file).st_size
            if size >= self._file_bytes:
                os.close(file)
                file = -1
                self._rotate(tenant)
                file = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o600)
                size = 0
            self._write(file, size, line)
        finally:
            if file >= 0:
                os.close(file)

    def _write(self, file: int, size: int, line: bytes) -> None:
        """All of ``line``, on disk; or nothing."""
        if size:
            os.lseek(file, -1, os.SEEK_END)
            if os.read(file, 1) != b"\n":
                line = b"\n" + line  # a crash cut the last one off
        view = memoryview(line)
        try:
            while view:
                view = view[os.write(file, view) :]
            os.fsync(file)
            if not size:
                self._settle()
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file, size)
            raise

    def _settle(self) -> None:
        """Have the name of a new file on disk, where directories can be synced."""
        if sys.platform == "win32":
            return
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _rotate(self, tenant: str) -> None:
        def named(number: int) -> Path:
            return self.folder / (f"{tenant}.{number}.jsonl" if number else f"{tenant}.jsonl")

        if self._keep < 2:
            named(0).unlink()
            return
        for number in range(self._keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                named(number - 1).replace(named(number))
