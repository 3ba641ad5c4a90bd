"""The journal: one small file for each job, replaced as a whole when the job's state changes.

It is not the queue: that is the file system, with its tombstones. What the journal adds is what no tombstone can say:
jobs that have none (dry runs, filters, in place), what was paused or cancelled, and reports of what is over.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

import msgspec

from busd.components.deletion.claim import claim
from busd.components.deletion.manifest import is_job
from busd.components.deletion.record import Record
from busd.components.deletion.shown import shown
from busproto.errors import BusError, Code

__all__ = ["Journal", "Memory", "Notes"]

_SUFFIX: Final = ".job"
_NEW: Final = ".new"
_BROKEN: Final = ".broken"

MOST_BYTES: Final = 16 << 20
"""Of one record: 100 paths of 4 KiB for each of a few dozen reasons, twice. What is larger is none of ours."""


class Notes(Protocol):
    """Where jobs are noted."""

    def load(self) -> list[Record]:
        """What was noted before, in no order."""
        ...

    def write(self, record: Record, *, sync: bool = True) -> None:
        """Note ``record`` as it is now. With ``sync`` it is on disk when this returns. Raises BusError 9008."""
        ...

    def forget(self, job: str) -> None:
        """Remove what is noted of ``job``."""
        ...

    def close(self) -> None:
        """The end."""
        ...


class Memory:
    """Notes of nothing: for a process whose jobs end with it. Their tombstones are still found by the next."""

    def load(self) -> list[Record]:
        return []

    def write(self, record: Record, *, sync: bool = True) -> None:
        pass

    def forget(self, job: str) -> None:
        pass

    def close(self) -> None:
        pass


class Journal:
    """Notes in a directory, which is one process's at a time."""

    def __init__(self, folder: Path) -> None:
        """Open ``folder``; it is made, 0700, if it is missing.

        Raises BusError 9008: it cannot be used, or another process has it.
        """
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from error
        if not claim(self._fd):
            os.close(self._fd)
            raise self._failed("another process runs the jobs of this state directory")

    def load(self) -> list[Record]:
        """What was noted before. What cannot be read is put aside, as ``NAME.broken``: its tombstone, if there is one,
        is found all the same. Raises BusError 9008 if the directory cannot be read.
        """
        found: list[Record] = []
        try:
            names = os.listdir(self._fd)
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from error
        for name in names:
            if name.endswith(_NEW):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self._fd)
            elif name.endswith(_SUFFIX):
                found += self._read(name)
        return found

    def _read(self, name: str) -> Iterator[Record]:
        try:
            with open(name, "rb", opener=self._opener) as file:
                record = msgspec.msgpack.decode(file.read(MOST_BYTES), type=Record)
            if record.job != name.removesuffix(_SUFFIX) or not is_job(record.job):
                raise ValueError(f"it is of job {record.job}")
        except FileNotFoundError:
            return
        except (OSError, ValueError, msgspec.MsgspecError):
            with contextlib.suppress(OSError):
                os.rename(name, name + _BROKEN, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            return
        yield record

    def _opener(self, name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o600, dir_fd=self._fd)

    def write(self, record: Record, *, sync: bool = True) -> None:
        """See `Notes`."""
        assert is_job(record.job), record.job
        name = record.job + _SUFFIX
        try:
            with open(name + _NEW, "wb", opener=self._opener) as file:
                file.write(msgspec.msgpack.encode(record))
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.replace(name + _NEW, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            if sync:
                os.fsync(self._fd)
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from error

    def forget(self, job: str) -> None:
        """See `Notes`."""
        with contextlib.suppress(OSError):
            os.unlink(job + _SUFFIX, dir_fd=self._fd)

    def close(self) -> None:
        """Let another process have the directory. A second time does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _failed(self, reason: str) -> BusError:
        return BusError(Code.DELETION_FAILED, path=shown(os.fsencode(self.folder)), reason=reason)
