"""The audit log as its readers see it: the files of one folder as one sequence of lines, and what a line says."""

import asyncio
import json
import os
import re
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from buscli.exits import Exit
from buscli.offline import LINE_BYTES, default_audit_dir
from buscli.output import json_text, printable
from buscli.parser import UsageError
from buscli.units import user_name

SYSTEM_DIR: Final = Path("/var/lib/busd/audit")
"""Where a busd that root runs writes."""

POLL_SECONDS: Final = 0.2
"""How often a follower looks for more. inotify would be sooner, and is not everywhere."""

SETTLE_SECONDS: Final = 0.3
"""For a line that is just being written to be whole."""

_NAME: Final = re.compile(r"audit-(\d{12,18})\.jsonl")

Line = tuple[str, bytes]
"""Where a line stands (``FILE:NUMBER``), and its bytes with the newline, if it has one."""


class LogFile(NamedTuple):
    """One file of the log."""

    first: int
    """Number of its first record."""
    path: Path


class AuditLog:
    """The log in one folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def files(self) -> list[LogFile]:
        """Its files, in order. Raises UsageError for a folder that is not there, cannot be read or holds none."""
        try:
            names = os.listdir(self.directory)
        except OSError as error:
            cure = "run it as root or as the user that busd runs as; --dir names another folder"
            if isinstance(error, FileNotFoundError):
                cure = "busd config explain audit.dir says where this user's busd writes; name it with --dir"
            raise UsageError(f"bus audit: {self.directory}: {error.strerror}", cure) from None
        found = sorted(
            LogFile(int(match[1]), self.directory / name) for name in names if (match := _NAME.fullmatch(name))
        )
        if not found:
            raise UsageError(
                f"bus audit: {self.directory} holds no audit log",
                "if there was one, it has been removed: ask whoever administers this node",
                exit=Exit.FAILED,
            )
        return found

    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.path.stat().st_size for file in self.files())

    def lines(self, since: str = "") -> Iterator[Line]:
        """Every line, oldest first; files whose records are all older than ``since`` (RFC 3339, UTC) may be left out.

        Raises FileNotFoundError when the oldest file is removed meanwhile, as busd does with those that are too many.
        """
        files = self.files()
        while since and len(files) > 1 and _begins_before(files[1], since):
            del files[0]
        for file in files:
            with file.path.open("rb") as stream:
                for number, line in enumerate(_read_lines(stream, patient=file is files[-1]), 1):
                    yield f"{file.path.name}:{number}", line

    async def follow(self) -> AsyncIterator[Line]:
        """Lines that are added from now on, across files, for ever."""
        file = self.files()[-1]
        at = file.path.stat().st_size
        while True:
            if file.path.exists():
                with file.path.open("rb") as stream:
                    at = min(at, os.fstat(stream.fileno()).st_size)  # an unfinished line was taken back
                    stream.seek(at)
                    while (line := stream.readline()).endswith(b"\n"):
                        at += len(line)
                        yield file.path.name, line
            following = [each for each in self.files() if each.first > file.first]
            if following:
                file, at = following[0], 0
            else:
                await asyncio.sleep(POLL_SECONDS)


def directory_of(args: Namespace) -> Path:
    """The folder that a command line means: ``--dir``; else that of the bus that BUS_URL names, if it has one of its
    own; else this user's, if it is there; else the system's."""
    if args.dir:
        return Path(args.dir)
    beside = Path(os.environ.get("BUS_URL", "").removeprefix("unix://")).parent / "audit"
    if beside.is_absolute() and beside.is_dir():
        return beside
    own = default_audit_dir(os.environ)
    return SYSTEM_DIR if not own.exists() and SYSTEM_DIR.exists() else own


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The record on ``line``; None if none can be read there. Whether it is genuine is for ``verify`` to say."""
    try:
        record = json.loads(line) if line.endswith(b"\n") and len(line) <= LINE_BYTES else None
    except (ValueError, RecursionError):
        return None
    readable = isinstance(record, dict) and all(isinstance(record.get(name), str) for name in ("event", "time"))
    return record if readable else None


class Selection:
    """Which records are wanted."""

    def __init__(self, args: Namespace) -> None:
        self.since: str = args.since or ""
        self._events: list[str] = args.event or []
        self._tenant: str | None = args.tenant
        self._principal: str | None = args.principal
        self._endpoint: str | None = args.endpoint
        self._subject: str | None = args.subject

    def __contains__(self, record: object) -> bool:
        assert isinstance(record, dict)
        principal = record.get("principal")
        principal = principal if isinstance(principal, dict) else {}
        return (
            record["time"] >= self.since
            and (not self._events or any(fnmatchcase(record["event"], pattern) for pattern in self._events))
            and (self._tenant is None or principal.get("tenant") == self._tenant)
            and (self._principal is None or self._principal in _names(principal))
            and (self._endpoint is None or record.get("endpoint") == self._endpoint)
            and (self._subject is None or any(fnmatchcase(each, self._subject) for each in _subjects(record)))
        )


def row(record: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """A record for people: number, time, event, who, what."""
    return (
        str(record.get("seq", "?")),
        record["time"],
        record["event"],
        _who(record),
        _what(record),
    )


def _begins_before(file: LogFile, moment: str) -> bool:
    with file.path.open("rb") as stream:
        record = parse_line(stream.readline(LINE_BYTES + 1))
    return record is not None and record["time"] < moment


def _read_lines(stream: BinaryIO, *, patient: bool) -> Iterator[bytes]:
    """The lines of a file. Of one that is longer than any record only the beginning; ``patient``: the last line may be
    being written at this moment."""
    while line := stream.readline(LINE_BYTES + 1):
        if not line.endswith(b"\n") and len(line) <= LINE_BYTES and patient:
            time.sleep(SETTLE_SECONDS)
            line += stream.readline(LINE_BYTES)
        if not line.endswith(b"\n") and len(line) > LINE_BYTES:
            while (rest := stream.readline(LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            line += rest[-1:]
        yield line


def _names(principal: dict[str, Any]) -> set[str]:
    """All that one may call a principal by."""
    names = {str(principal[name]) for name in ("unit", "uid", "cid", "key") if name in principal}
    uid = principal.get("uid")
    return names | ({str(user_name(uid))} if isinstance(uid, int) and 0 <= uid < 1 << 32 else set())


def _subjects(record: dict[str, Any]) -> list[str]:
    kinds = record.get("kinds")
    several = [kind.get("subject") for kind in kinds if isinstance(kind, dict)] if isinstance(kinds, list) else []
    return [each for each in (record.get("subject"), *several) if isinstance(each, str)]


def _who(record: dict[str, Any]) -> str:
    principal = record.get("principal")
    if not isinstance(principal, dict):
        return "-"
    uid = principal.get("uid")
    user = f" {user_name(uid)}" if isinstance(uid, int) and 0 <= uid < 1 << 32 else ""
    endpoint = f" {record['endpoint']}" if "endpoint" in record else ""
    return f"{principal.get('tenant', '?')}/{principal.get('unit', '?')}{user}{endpoint}"


def _what(record: dict[str, Any]) -> str:
    """What a record tells, beyond who and when."""
    match record:
        case {"verb": verb, "subject": subject, "to": to}:
            return f"{verb} {subject} -> {to}"
        case {"verb": verb, "subject": subject, "reason": reason}:
            return f"{verb} {subject}: {reason} ({record.get('where') or '-'})"
        case {"count": count, "kinds": [*kinds]}:
            parts = [
                f"{kind.get('count')} x {kind.get('verb')} {kind.get('subject')}"
                for kind in kinds
                if isinstance(kind, dict)
            ]
            others = [f"{record['others']} others"] if record.get("others") else []
            return f"{count} more in {record.get('seconds')} s: {', '.join([*parts, *others])}"
        case {"what": what, "outcome": outcome}:
            return f"{what} {_facts(record.get('facts'))}: {outcome}"
        case {"what": what}:
            return f"{what} {_facts(record.get('facts'))}".strip()
    known = {"seq", "time", "node", "event", "prev", "hash", "key", "principal", "endpoint"}
    return _facts({name: value for name, value in record.items() if name not in known})


def _facts(facts: object) -> str:
    if not isinstance(facts, dict):
        return ""
    return " ".join(f"{name}={value if isinstance(value, str) else json_text(value)}" for name, value in facts.items())


def printable_row(record: dict[str, Any]) -> str:
    """A record on one line, for a terminal that follows."""
    seq, when, event, who, what = map(printable, row(record))
    return f"{seq} {when} {event} {who} {what}"
