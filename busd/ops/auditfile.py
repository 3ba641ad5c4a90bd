"""The audit as the node writes it: records go in without waiting, and a thread of its own writes and syncs them.

How long a record can be unsynced: what comes while a batch is being written goes into the next one, so as long as one
write and one fdatasync take, twice at most; a few milliseconds on a healthy disk. The bus never waits for the disk.

When the disk fails, records wait, up to ``QUEUE`` of them, and are tried again every second. What goes beyond is
counted, and when writing works again the log says, in that place, how many are missing (``audit-lost``).
"""

import asyncio
import logging
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from busd.core.audit import Event, lost
from busd.core.auditchain import KEY_BYTES, Key, Record
from busd.ops.auditfolder import AuditFolder, Stamped
from busd.ops.logs import event
from busproto.errors import BusError, Code

__all__ = ["AuditFile", "AuditStatistics", "load_key"]

QUEUE: Final = 16384
"""Records that wait for the disk; about 16 MB."""

BATCH: Final = 1024
"""Records of one write: half a megabyte, so that one sync never has much to do."""

RETRY_SECONDS: Final = 1.0
"""Between attempts while writing fails."""

CLOSE_SECONDS: Final = 3.0
"""For what waits to be written when the node stops."""

_log = logging.getLogger("busd")


@dataclass(frozen=True, slots=True)
class AuditStatistics:
    """The log, at one moment. Counters belong to this process and only grow."""

    directory: str
    """Where it is."""
    files: int
    """Files of it."""
    seq: int
    """Number of the last record."""
    head: str
    """Its hash. ``seq:head``, noted elsewhere, is what `bus audit verify --last` takes."""
    records: int
    """Records written."""
    bytes: int
    """Their bytes."""
    queued: int
    """Records that wait to be written."""
    lost: int
    """Records that there was no room for while writing failed."""
    failures: int
    """Attempts to write that failed."""
    error: str
    """Why writing fails now; "" while it works."""


def load_key(path: Path) -> Key:
    """The key in the file ``path``, which only this user may read.

    Raises:
        BusError: CONFIG_INVALID: it cannot be read, others can read it, or it is no key.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ValueError("it is not a file")
            if found.st_uid not in (0, os.geteuid()):
                raise ValueError(f"it belongs to user {found.st_uid}")
            if found.st_mode & 0o077:
                raise ValueError(f"others can read it (mode {stat.S_IMODE(found.st_mode):04o}); chmod 600 it")
            return Key(os.read(descriptor, KEY_BYTES[1] + 8))
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BusError(Code.CONFIG_INVALID, key="audit.key_file", where=f" ({path})", reason=reason) from None


class AuditFile:
    """Writes records to the log in a folder, in order and off the loop. Used on one loop, opened and closed once."""

    def __init__(
        self,
        directory: Path,
        node: str,
        *,
        key: Key | None = None,
        max_bytes: int,
        keep: int,
        failed: Callable[[], None] | None = None,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """
        Args:
            directory: the folder of the log.
            node: name of this node.
            key: seals the records, if there is one.
            max_bytes: of one file.
            keep: files that are kept.
            failed: called once, when a record cannot be written: for a node that must not go on without. Without it
                the node goes on.
            wall: the time, UTC.
        """
        self._folder = AuditFolder(directory, node, key=key, max_bytes=max_bytes, keep=keep)
        self._failed = failed
        self._wall = wall
        self._queue: deque[Stamped] = deque()
        self._gap: Record | None = None  # the last in the queue, if that says that records are missing
        self._thread = ThreadPoolExecutor(1, "busd-audit")
        self._wake = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._closing = False
        self._in_hand = 0
        self._written = 0
        self._lost = 0
        self._failures = 0
        self._error = ""

    async def open(self) -> None:
        """Claim the folder, find the end of the log, and record that it goes on.

        Raises:
            BusError: AUDIT_IN_USE or AUDIT_UNUSABLE; the latter also when nothing can be written and ``failed`` is
                given.
        """
        loop = asyncio.get_running_loop()
        try:
            events = await loop.run_in_executor(self._thread, self._folder.open)
        except BusError:
            self._thread.shutdown()
            raise
        self.write(events)
        try:
            await self._write_batch()
        except OSError as error:
            if self._failed is not None:
                await loop.run_in_executor(self._thread, self._folder.close)
                self._thread.shutdown()
                reason = error.strerror or str(error)
                raise BusError(Code.AUDIT_UNUSABLE, path=str(self._folder.path), reason=reason) from None
            self._report(error)
        self._writing = asyncio.create_task(self._write_on())

    def write(self, records: Iterable[Record]) -> None:
        """Have ``records`` written, each with the time of now."""
        time = ""
        for record in records:
            time = time or self._wall().isoformat(timespec="microseconds").replace("+00:00", "Z")
            if len(self._queue) < QUEUE:
                self._queue.append(Stamped(time, record))
                self._gap = None
                continue
            self._lost += 1
            if self._gap is None:
                self._gap = lost(0, self._error or "they came faster than they could be written")
                self._queue.append(Stamped(time, self._gap))
            self._gap["count"] += 1
        if time:
            self._wake.set()

    async def close(self) -> None:
        """Write what waits, within ``CLOSE_SECONDS``, and let the next process in. What cannot be written is told."""
        if self._writing is None:
            return
        self._closing = True
        self._wake.set()
        done, _ = await asyncio.wait([self._writing], timeout=CLOSE_SECONDS)
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)
        self._writing = None
        if done:  # else the disk does not answer: the kernel lets the folder go when the process ends
            await asyncio.get_running_loop().run_in_executor(self._thread, self._folder.close)
        self._thread.shutdown(wait=bool(done))
        waiting = sum(record["event"] != Event.LOST for _, record in self._queue)
        self._lost += waiting
        if waiting:
            event(_log, logging.ERROR, "audit-lost", records=self._lost, error=self._error or None, **self._where())

    def statistics(self) -> AuditStatistics:
        """The figures of this moment."""
        return AuditStatistics(
            directory=str(self._folder.path),
            files=self._folder.files,
            seq=self._folder.end.seq,
            head=self._folder.end.hash,
            records=self._written,
            bytes=self._folder.written,
            queued=len(self._queue) + self._in_hand,
            lost=self._lost,
            failures=self._failures,
            error=self._error,
        )

    # -- writing ------------------------------------------------------------------------------------------------------

    async def _write_on(self) -> None:
        """Write whatever comes, until the log is closed and everything is written, or one last attempt failed."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                closing = self._closing
                try:
                    await self._write_batch()
                except Exception as error:  # a bug must not end the audit in silence either
                    self._report(error)
                    if closing:
                        return
                    await self._pause()
            if self._closing:
                return

    async def _write_batch(self) -> None:
        """Write the first records of the queue. Raises OSError, and then they are in it as before."""
        batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
        if not self._queue:
            self._gap = None
        done, self._in_hand = 0, len(batch)
        try:
            done = await asyncio.get_running_loop().run_in_executor(self._thread, self._append, batch)
        finally:
            self._in_hand = 0
            self._queue.extendleft(reversed(batch[done:]))
        self._written += done
        if self._error:
            event(_log, logging.WARNING, "audit-resumed", lost=self._lost, failed=self._failures, **self._where())
            self._error = ""

    def _append(self, batch: list[Stamped]) -> int:
        """On the thread: write the batch. A failure behind its first part is met again with the next batch."""
        done = 0
        try:
            while done < len(batch):
                done += self._folder.append(batch[done:])
        except OSError:
            if not done:
                raise
        return done

    async def _pause(self) -> None:
        """Wait before the next attempt; not when the log is being closed."""
        end = asyncio.get_running_loop().time() + RETRY_SECONDS
        while not self._closing and (left := end - asyncio.get_running_loop().time()) > 0:
            self._wake.clear()
            try:
                async with asyncio.timeout(left):
                    await self._wake.wait()
            except TimeoutError:
                return

    def _report(self, error: Exception) -> None:
        """Writing failed: say so when it begins, and let the node act on it."""
        self._failures += 1
        began = not self._error
        self._error = (error.strerror if isinstance(error, OSError) else None) or repr(error)
        if began:
            event(_log, logging.ERROR, "audit-failed", error=self._error, queued=len(self._queue), **self._where())
            if self._failed is not None:
                self._failed()

    def _where(self) -> dict[str, str]:
        return {"directory": str(self._folder.path)}
