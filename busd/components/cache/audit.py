"""What has to be known of the cache afterwards: records that failed authentication, keys replaced and destroyed.

Whoever can cause such a thing can cause it often, so there is a ration of them for each tenant, and what is left out is
counted in the next. They are written by a thread of their own: no caller waits for a disk.
"""

import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from busd.components.tenantlog import TenantLog
from busd.components.who import Who
from busproto.errors import BusError

__all__ = ["BURST", "EVERY", "FILE_BYTES", "KEEP", "Audit", "AuditRecord", "Event", "Ration"]

FILE_BYTES: Final = 256 << 10
"""Of one file: about 1000 records."""

KEEP: Final = 2
"""Files of one tenant, with the one that is written: with 1024 tenants, 512 MiB."""

BURST: Final = 20
"""Records of one tenant and event that are written at once; what comes after these is more of the same."""

EVERY: Final = 60.0
"""Seconds after which there may be one more."""

WAITING: Final = 10_000
"""Records that wait for the disk. A dead disk takes no more memory than that."""

CLOSE_SECONDS: Final = 1.0
"""How long `Audit.close` waits for the disk."""

Event = Literal["unauthentic", "quarantined", "rotated", "shredded"]
"""What a record is of: a record that failed authentication, a data key that was destroyed because too many did, one
that was replaced by command, keys that were destroyed by command."""

_GRAVE: Final[frozenset[Event]] = frozenset({"unauthentic", "quarantined"})
"""Nobody asked for these."""

_log: Final = logging.getLogger("busd.components.cache")


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One record.

    Attributes:
        event: see `Event`.
        at: seconds since 1970.
        tenant: whose record or keys it was.
        reason: of ``unauthentic``: how it failed: truncated, version, epoch, commitment or tag.
        key: the blinded name, in hex.
        generation: that the index has for it.
        count: how many of this tenant so far.
        epoch: of ``rotated``, the new one; of ``quarantined`` and ``shredded``, the one that was; -1: all.
        left_out: so many before this were not written, because there were too many.
        by: whose request it was.
    """

    event: Event
    at: float
    tenant: str
    reason: str = ""
    key: str = ""
    generation: int = 0
    count: int = 0
    epoch: int = 0
    left_out: int = 0
    by: Who | None = None

    def line(self) -> bytes:
        """The record as one line of JSON."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        if self.by is not None:
            fields["by"] = self.by._asdict()
        return json.dumps(fields).encode() + b"\n"


class _Bucket:
    __slots__ = ("at", "left_out", "tokens")

    def __init__(self, tokens: float, at: float) -> None:
        self.tokens = tokens
        self.at = at
        self.left_out = 0


class Ration:
    """How many of one kind there may be: so many at once, and one more after so many seconds. Not thread-safe."""

    def __init__(self, burst: int = BURST, every: float = EVERY) -> None:
        """``burst`` is 1 or more, ``every`` in seconds."""
        self._burst = burst
        self._every = every
        self._kinds: dict[tuple[str, Event], _Bucket] = {}
        self.left_out = 0
        """How many there were too many, of all kinds."""

    def take(self, tenant: str, event: Event, now: float) -> int | None:
        """How many were left out since the last one, if there may be one at ``now`` (seconds); None: leave it out."""
        kind = (tenant, event)
        bucket = self._kinds.get(kind)
        if bucket is None:
            bucket = self._kinds[kind] = _Bucket(self._burst, now)
        self._fill(bucket, now)
        if bucket.tokens < 1:
            bucket.left_out += 1
            self.left_out += 1
            return None
        bucket.tokens -= 1
        left_out, bucket.left_out = bucket.left_out, 0
        return left_out

    def _fill(self, bucket: _Bucket, now: float) -> None:
        bucket.tokens = min(self._burst, bucket.tokens + max(0.0, now - bucket.at) / self._every)
        bucket.at = now

    def due(self, now: float) -> list[tuple[str, Event, int]]:
        """The kinds of which some were left out, and one may be written again at ``now``, with how many. They count as
        written. Kinds of which there was none for long are forgotten."""
        found: list[tuple[str, Event, int]] = []
        for kind, bucket in list(self._kinds.items()):
            self._fill(bucket, now)
            if bucket.left_out and bucket.tokens >= 1:
                bucket.tokens -= 1
                found.append((*kind, bucket.left_out))
                bucket.left_out = 0
            elif bucket.tokens >= self._burst:
                del self._kinds[kind]
        return found


class Audit:
    """The audit of one cache: in the log of the process, and in a folder if there is one. For one thread.

    Attributes:
        written: records that are on disk.
    """

    def __init__(
        self, folder: Path | None, *, ration: Ration | None = None, wall: Callable[[], float] = time.time
    ) -> None:
        """Nothing is made before the first record. ``wall`` gives seconds since 1970."""
        self._log = None if folder is None else TenantLog(folder, file_bytes=FILE_BYTES, keep=KEEP)
        self._ration = ration if ration is not None else Ration()
        self._wall = wall
        self._queue: queue.Queue[AuditRecord | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self.written = 0
        self._dropped = self._failed = 0  # each is counted by one thread only

    @property
    def problem(self) -> str:
        """Why the last record could not be written; empty if it could."""
        return "" if self._log is None else self._log.problem

    @property
    def left_out(self) -> int:
        """Records that there were too many."""
        return self._ration.left_out

    @property
    def lost(self) -> int:
        """Records that could not be written."""
        return self._dropped + self._failed

    def note(self, event: Event, tenant: str, now: float, **fields: Any) -> None:
        """Have it written that ``event`` was, unless there were too many such. ``now``: seconds that do not go back;
        ``fields`` as of `AuditRecord`. Does not block.
        """
        left_out = self._ration.take(tenant, event, now)
        if left_out is not None:
            self._put(AuditRecord(event=event, at=self._wall(), tenant=tenant, left_out=left_out, **fields))

    def catch_up(self, now: float) -> None:
        """Have it written how many were left out, where that is due."""
        for tenant, event, left_out in self._ration.due(now):
            self._put(AuditRecord(event=event, at=self._wall(), tenant=tenant, left_out=left_out))

    def _put(self, record: AuditRecord) -> None:
        level = logging.WARNING if record.event in _GRAVE else logging.INFO
        _log.log(level, "%s", record.line().decode().rstrip())
        if self._log is None:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, args=(self._log,), name="cache-audit", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def _write(self, log: TenantLog) -> None:
        while (record := self._queue.get()) is not None:
            try:
                log.write(record.tenant, record.line())
                self.written += 1
            except BusError as error:
                self._failed += 1
                _log.error("%s", error)

    def close(self) -> None:
        """Have what waits written, as far as the disk does that within `CLOSE_SECONDS`."""
        if self._thread is not None:
            try:
                self._queue.put_nowait(None)
            except queue.Full:  # the disk is dead: the thread is a daemon, and ends with the process
                return
            self._thread.join(CLOSE_SECONDS)
