"""Who deleted what: one line for each job at its submission, at its end, and for what was done to it in between.

Each tenant has a file of its own, so that nobody's jobs push another's records out. A line is on disk before ``write``
returns.
"""

import base64
import json
import threading
from collections import OrderedDict
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, Literal, Self

import msgspec

from busd.components.deletion.progress import Report
from busd.components.tenantlog import TenantLog
from busd.components.who import Who

__all__ = ["REMEMBERED", "AuditLog", "AuditRecord", "Event", "asking"]

FILE_BYTES: Final = 8 << 20
"""Of one file: about 16,000 jobs."""

KEEP: Final = 4
"""Files of one tenant, with the one that is written."""

REMEMBERED: Final = 10_000
"""Jobs of which it is remembered who submitted them: their end is written by nobody's request."""

LEAST: Final = {"device", "inode", "seen", "removed", "files", "directories", "bytes", "failed", "parked", "spared"}
"""Figures that a line leaves out where they are 0."""

Event = Literal["submitted", "paused", "resumed", "changed", "cancelled", "undeleted", "ended"]
"""What a record is of: the job's submission, what somebody had done to it, its end."""


_Bytes = bytes  # the record has a field of that name


asking: Final[ContextVar[Who | None]] = ContextVar("deletion-asking", default=None)
"""Set while a request is carried out, in whatever thread."""


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One record.

    Attributes:
        event: see `Event`.
        at: seconds since 1970.
        job, tenant, root, path, state, mode, reason: as of `Progress`.
        device, inode: of what was at the path when the job was submitted; 0 if not known.
        seen, removed, files, directories, bytes: as of `Progress`.
        failed, parked, spared: how many in all.
        left_at, code, error: as of `Report`.
        submitted, started, finished: as of `Progress`.
        detail: of ``cancelled``: how; of ``changed``: the new rates.
        by: who did it; of ``ended``: who submitted the job. None if that is not known any more, as after a restart;
            the record of the submission has it.
    """

    event: Event
    at: float
    job: str
    tenant: str
    root: str
    path: bytes
    state: str
    mode: str = ""
    reason: str = ""
    device: int = 0
    inode: int = 0
    seen: int = 0
    removed: int = 0
    files: int = 0
    directories: int = 0
    bytes: int = 0
    failed: int = 0
    parked: int = 0
    spared: int = 0
    left_at: _Bytes = b""
    code: int = 0
    error: str = ""
    submitted: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    detail: str = ""
    by: Who | None = None

    @classmethod
    def of(cls, event: Event, report: Report, key: tuple[int, int], at: float, detail: str = "") -> Self:
        """The record of ``event``, of a job whose device and inode are ``key``."""
        progress = report.progress
        return cls(
            event=event,
            at=at,
            job=progress.job,
            tenant=progress.tenant,
            root=progress.root,
            path=progress.path,
            state=progress.state,
            mode=progress.mode,
            reason=progress.reason,
            device=key[0],
            inode=key[1],
            seen=progress.seen,
            removed=progress.removed,
            files=progress.files,
            directories=progress.directories,
            bytes=progress.bytes,
            failed=sum(progress.failed.values()),
            parked=sum(progress.parked.values()),
            spared=sum(progress.spared.values()),
            left_at=report.left_at,
            code=report.code,
            error=report.error,
            submitted=progress.submitted,
            started=progress.started,
            finished=progress.finished,
            detail=detail,
        )

    def line(self) -> _Bytes:
        """The record as one line of JSON. A path that is no UTF-8 has ``\\xff`` for what is not, and is there a second
        time, whole, as ``path_base64``.
        """
        fields: dict[str, Any] = {}
        for name, value in msgspec.structs.asdict(self).items():
            if isinstance(value, bytes):
                fields[name] = value.decode("utf-8", "backslashreplace")
                if not _is_text(value):
                    fields[f"{name}_base64"] = base64.b64encode(value).decode()
            elif isinstance(value, Who):
                fields[name] = value._asdict()
            elif value or name not in LEAST:
                fields[name] = value
        return json.dumps({name: value for name, value in fields.items() if value not in ("", None)}).encode() + b"\n"


class AuditLog:
    """The records in a directory, in files of each tenant: see `TenantLog`. Thread-safe."""

    def __init__(self, folder: Path, *, file_bytes: int = FILE_BYTES, keep: int = KEEP) -> None:
        """Nothing is made or opened before the first record. Args as for `TenantLog`."""
        self._log = TenantLog(folder, file_bytes=file_bytes, keep=keep)
        self._lock = threading.Lock()
        self._who: OrderedDict[str, Who] = OrderedDict()

    @property
    def problem(self) -> str:
        """Why the last record could not be written; empty if it could."""
        return self._log.problem

    def write(self, record: AuditRecord) -> None:
        """Add ``record``, with who asks for it if it does not say. Raises BusError 7011 if that cannot be done."""
        with self._lock:
            record = self._signed(record)
            self._log.write(record.tenant, record.line())

    def _signed(self, record: AuditRecord) -> AuditRecord:
        who = record.by or asking.get()
        if record.event == "submitted" and who is not None:
            self._who[record.job] = who
            if len(self._who) > REMEMBERED:
                self._who.popitem(last=False)
        elif record.event == "ended":
            who = self._who.get(record.job)  # it is kept: the job may be resumed and end again
        return msgspec.structs.replace(record, by=who)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
