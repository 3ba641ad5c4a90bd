"""The folder of the audit: files of sealed records, one after the other, that a single process appends to.

* The folder belongs to this user and nobody else may even read it (7011); ``audit.lock`` inside is held by the one
  process that writes (7010).
* ``audit-000000000001.jsonl`` is named for its first record. A file that would grow beyond its size is followed by the
  next one; of these so many are kept. That older ones are removed is recorded first: a check can tell it from theft.
* A batch is in the file and synced (fdatasync), or nothing of it is: what a failed write left is cut off again.
* A last line without end, which only a crash leaves, is moved into a ``.torn`` file, and that is recorded.

All of this blocks: it runs on the thread of ``busd.ops.auditfile``.
"""

import errno
import json
import os
import re
import stat
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from busd.core.audit import Event
from busd.core.auditchain import GENESIS, LINE_BYTES, Chain, Key, Record, Sealed, unseal
from busd.core.auditcheck import Anchor
from busd.ops.directories import HeldError, UnusableError, open_directory, take_lock
from busproto.errors import BusError, Code

__all__ = ["AuditFolder", "Stamped"]

LOCK_NAME: Final = "audit.lock"

TAIL_BYTES: Final = 4 * LINE_BYTES
"""How far from its end a log is searched for its last whole record."""

_NAME: Final = re.compile(r"audit-(\d{12,18})\.jsonl")
_TORN_NAME: Final = re.compile(r"audit-(\d{12,18})\.torn(\.\d+)?")


class Stamped(NamedTuple):
    """A record and when it was made, as RFC 3339."""

    time: str
    record: Record


class _File(NamedTuple):
    """A file of the log."""

    first: int
    """Number of its first record."""
    name: str


class AuditFolder:
    """One folder, opened for writing once."""

    def __init__(self, path: Path, node: str, *, key: Key | None, max_bytes: int, keep: int) -> None:
        """
        Args:
            path: of the folder; it is made when it is absent.
            node: name of this node.
            key: seals the records, if there is one.
            max_bytes: of one file.
            keep: files that are kept.
        """
        self.path = path
        self._node = node
        self._key = key
        self._max_bytes = max_bytes
        self._keep = keep
        self._chain = Chain(node, key)
        self._directory = -1
        self._lock = -1
        self._file = -1
        self._size = 0
        self._is_dirty = False
        self._doomed: list[_File] = []
        self.end = Anchor(0, GENESIS)
        """The last record that is written and synced."""
        self.files = 0
        """Files of the log."""
        self.written = 0
        """Bytes that were written and synced."""

    def open(self) -> list[Record]:
        """Claim the folder and find the end of its log. Returns what is to be recorded first.

        Raises:
            BusError: AUDIT_IN_USE or AUDIT_UNUSABLE; nothing is left open.
        """
        try:
            self._directory = open_directory(self.path, 0o700, private=True, parents=True)
            self._lock = take_lock(self._directory, LOCK_NAME)
            return self._resume()
        except HeldError as error:
            self.close()
            raise BusError(Code.AUDIT_IN_USE, pid=error.pid, path=str(self.path)) from None
        except (UnusableError, OSError) as error:
            self.close()
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise BusError(Code.AUDIT_UNUSABLE, path=str(self.path), reason=reason) from None

    def append(self, records: Sequence[Stamped]) -> int:
        """Write and sync the first of ``records``, as many as go into one file. Returns how many; at least one.

        Raises:
            OSError: nothing was written.
        """
        if self._is_dirty:
            self._cut()
        if self._file < 0 or (self._size and self._size >= self._max_bytes):
            self._rotate()
        deletion = self._deletion(records[0].time)
        lines: list[bytes] = []
        size = self._size
        for position, (time, record) in enumerate([*deletion, *records]):
            before = self._chain.seq, self._chain.head
            line = self._chain.seal(record, time)
            if size and size + len(line) > self._max_bytes and not 0 < position <= len(deletion):
                self._chain.seq, self._chain.head = before
                if position:
                    break
                self._rotate()
                return self.append(records)
            lines.append(line)
            size += len(line)
        try:
            self._write(b"".join(lines))
        except OSError:
            self._chain.seq, self._chain.head = self.end
            raise
        self.written += size - self._size
        self._size = size
        self.end = Anchor(self._chain.seq, self._chain.head)
        self._delete_doomed()
        return len(lines) - len(deletion)

    def close(self) -> None:
        """Let the next process in. Does nothing the second time."""
        for name in ("_file", "_lock", "_directory"):
            descriptor = getattr(self, name)
            if descriptor >= 0:
                os.close(descriptor)
                setattr(self, name, -1)

    # -- the end of the log -------------------------------------------------------------------------------------------

    def _resume(self) -> list[Record]:
        """Go on where the log ends."""
        events: list[Record] = []
        last: Sealed | None = None
        broken = 0
        newest: _File | None = None
        for file in reversed(self._list()):
            tail = self._read_tail(file.name)
            torn = tail.rpartition(b"\n")[2]
            if torn and newest is None:
                events.append(self._put_aside(file, torn))
                tail = tail[: -len(torn)]
            newest = newest or file
            last, broken = self._last_record(file, tail)
            if last is not None:
                break
        if last is not None:
            self._chain = Chain(self._node, self._key, seq=last.seq + broken, head=last.hash)
            self.end = Anchor(last.seq + broken, last.hash)
        if broken:
            events.append({"event": str(Event.BROKEN), "lines": broken, "after": last.seq if last else 0})
        if newest is not None:
            self._open_file(newest)
        self.files = len(self._list())
        opened = {"continues": self.end.seq, "keyed": self._key is not None, "pid": os.getpid()}
        return [*events, {"event": str(Event.OPENED), **opened}]

    def _last_record(self, file: _File, tail: bytes) -> tuple[Sealed | None, int]:
        """The last whole record in ``tail``, the end of ``file``, and how many broken lines come after it."""
        keys = {} if self._key is None else {self._key.id: self._key}
        lines = tail.split(b"\n")[:-1]
        for broken, line in enumerate(reversed(lines)):
            try:
                return unseal(line, keys), broken
            except ValueError:
                continue
        if lines:
            raise UnusableError(f"no record at the end of {file.name} can be read; move the files away to begin anew")
        return None, 0

    def _read_tail(self, name: str) -> bytes:
        """The last ``TAIL_BYTES`` of a file, from the beginning of a line unless one is longer than any record."""
        descriptor = self._open_checked(name, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            start = max(0, size - TAIL_BYTES)
            tail = b""
            while len(tail) < size - start and (
                read := os.pread(descriptor, size - start - len(tail), start + len(tail))
            ):
                tail += read
        finally:
            os.close(descriptor)
        if not start:
            return tail
        if b"\n" not in tail:
            raise UnusableError(f"the end of {name} cannot be read; move the files away to begin anew")
        return tail.partition(b"\n")[2]

    def _put_aside(self, file: _File, torn: bytes) -> Record:
        """Move the unfinished last line of ``file`` into a file of its own."""
        source = self._open_checked(file.name, os.O_RDWR)
        try:
            number = 1
            while True:
                name = f"audit-{file.first:012d}.torn" + (f".{number}" if number > 1 else "")
                try:
                    aside = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._directory)
                    break
                except FileExistsError:
                    number += 1
            try:
                _write_all(aside, torn)
                os.fsync(aside)
            finally:
                os.close(aside)
            os.ftruncate(source, os.fstat(source).st_size - len(torn))
            os.fsync(source)
        finally:
            os.close(source)
        return {"event": str(Event.TORN), "file": name, "bytes": len(torn), "sha256": sha256(torn).hexdigest()}

    # -- files --------------------------------------------------------------------------------------------------------

    def _list(self) -> list[_File]:
        """The files of the log, in order."""
        return sorted(
            _File(int(match[1]), name) for name in os.listdir(self._directory) if (match := _NAME.fullmatch(name))
        )

    def _open_checked(self, name: str, flags: int) -> int:
        """Open a file that must be ours alone. Raises OSError."""
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=self._directory)
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
            return descriptor
        os.close(descriptor)
        raise OSError(errno.EPERM, f"{name} is not a file of this user alone (mode {stat.S_IMODE(found.st_mode):04o})")

    def _open_file(self, file: _File) -> None:
        """Append to ``file`` from now on; not to an empty one that is named for another record than the next."""
        descriptor = self._open_checked(file.name, os.O_WRONLY | os.O_APPEND)
        size = os.fstat(descriptor).st_size
        if not size and file.first != self._chain.seq + 1:
            os.close(descriptor)
            os.unlink(file.name, dir_fd=self._directory)
            return
        self._file, self._size = descriptor, size

    def _rotate(self) -> None:
        """Begin a new file, and mark for removal the files that are too many with it."""
        name = f"audit-{self._chain.seq + 1:012d}.jsonl"
        descriptor = self._open_checked(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        if os.fstat(descriptor).st_size:
            os.close(descriptor)
            raise OSError(errno.EEXIST, f"{name} was made by somebody else")
        os.fsync(self._directory)
        if self._file >= 0:
            os.close(self._file)
        self._file, self._size = descriptor, 0
        files = self._list()
        self._doomed = files[: -self._keep]
        self.files = len(files)

    def _deletion(self, time: str) -> list[Stamped]:
        """The record that files are removed, if some are to be."""
        if not self._doomed:
            return []
        following = next(file for file in self._list() if file not in self._doomed)
        deletion: Record = {
            "event": str(Event.DELETED),
            "files": [file.name for file in self._doomed[-16:]],
            "first": self._doomed[0].first,
            "last": following.first - 1,
            "head": self._previous(following),
        }
        return [Stamped(time, deletion)]

    def _previous(self, file: _File) -> str:
        """The hash that the first record of ``file`` says the one before has; zeros if it cannot be read."""
        descriptor = self._open_checked(file.name, os.O_RDONLY)
        try:
            record = json.loads(os.pread(descriptor, LINE_BYTES, 0).partition(b"\n")[0])
            return str(record["prev"])[: len(GENESIS)]
        except (ValueError, KeyError, TypeError, RecursionError):
            return GENESIS
        finally:
            os.close(descriptor)

    def _delete_doomed(self) -> None:
        """Remove the files that were recorded as removed. One that stays is tried again with the next new file."""
        if not self._doomed:
            return
        doomed = {file.name for file in self._doomed}
        first_kept = next(file.first for file in self._list() if file.name not in doomed)
        for name in os.listdir(self._directory):
            torn = _TORN_NAME.fullmatch(name)
            if name in doomed or (torn and int(torn[1]) < first_kept):
                try:
                    os.unlink(name, dir_fd=self._directory)
                except OSError:
                    pass
        self._doomed = []
        self.files = len(self._list())

    # -- bytes --------------------------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        """Append and sync ``data``, all or nothing."""
        try:
            _write_all(self._file, data)
            os.fdatasync(self._file)
        except OSError:
            self._is_dirty = True
            try:
                self._cut()
            except OSError:  # tried again before the next write
                pass
            raise

    def _cut(self) -> None:
        """Take back what a failed write left."""
        os.ftruncate(self._file, self._size)
        self._is_dirty = False


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
