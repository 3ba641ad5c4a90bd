"""The audit of deletion jobs: one whole line for each record, of each tenant in files of its own."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from busd.components.deletion import audit
from busd.components.deletion.audit import AuditLog, AuditRecord, asking
from busd.components.who import Who
from busproto.errors import BusError, Code

ADA = Who("guest", "acme", "vm-1", "guest-7")


def record(event: Any = "submitted", job: str = "j1", tenant: str = "acme", **fields: Any) -> AuditRecord:
    made = {"at": 5.0, "root": "scratch", "path": b"a/b", "state": "queued", **fields}
    return AuditRecord(event=event, job=job, tenant=tenant, **made)


def lines(folder: Path, name: str = "acme.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_bytes().splitlines()]


def test_a_record_is_a_line_of_what_there_is_to_say(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit")
    log.write(record(by=ADA, removed=7, device=3, inode=9, error="x\ny"))
    assert lines(tmp_path / "audit") == [
        {
            "event": "submitted",
            "at": 5.0,
            "job": "j1",
            "tenant": "acme",
            "root": "scratch",
            "path": "a/b",
            "state": "queued",
            "device": 3,
            "inode": 9,
            "removed": 7,
            "code": 0,
            "error": "x\ny",
            "submitted": 0.0,
            "started": 0.0,
            "finished": 0.0,
            "by": {"boundary": "guest", "tenant": "acme", "unit": "vm-1", "endpoint": "guest-7"},
        }
    ]
    assert stat.S_IMODE((tmp_path / "audit").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "audit" / "acme.jsonl").stat().st_mode) == 0o600


def test_a_path_that_is_no_text_is_there_whole(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.write(record(path=b"a\xff\n", left_at=b"\xfe"))
    (line,) = lines(tmp_path)
    assert (line["path"], line["path_base64"]) == ("a\\xff\n", "Yf8K")
    assert (line["left_at"], line["left_at_base64"]) == ("\\xfe", "/g==")


def test_who_asks_is_known_from_the_context_and_remembered_for_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "REMEMBERED", 2)
    log = AuditLog(tmp_path)
    before = asking.set(ADA)
    log.write(record())
    asking.reset(before)
    log.write(record("paused", by=Who("host", "node", "host", "host-1")))
    for _ in range(2):
        log.write(record("ended"))
    for job in ("j2", "j3"):
        log.write(record(job=job, by=ADA))
    log.write(record("ended"))
    by = [line.get("by", {}).get("endpoint") for line in lines(tmp_path)]
    assert by == ["guest-7", "host-1", "guest-7", "guest-7", "guest-7", "guest-7", None]


def test_files_are_bounded_and_each_tenant_has_its_own(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, file_bytes=500, keep=3)
    log.write(record(tenant="globex"))
    for number in range(100):
        log.write(record(job=f"j{number}"))
    assert sorted(os.listdir(tmp_path)) == ["acme.1.jsonl", "acme.2.jsonl", "acme.jsonl", "globex.jsonl"]
    kept = [each["job"] for name in ("acme.2.jsonl", "acme.1.jsonl", "acme.jsonl") for each in lines(tmp_path, name)]
    assert kept == [f"j{number}" for number in range(100 - len(kept), 100)], "the newest, in order, none lost between"
    assert all((tmp_path / name).stat().st_size < 1000 for name in os.listdir(tmp_path))
    one = AuditLog(tmp_path / "one", file_bytes=10, keep=1)
    for number in range(3):
        one.write(record(job=f"j{number}"))
    assert [each["job"] for each in lines(tmp_path / "one")] == ["j2"]


def test_a_line_that_a_crash_cut_off_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "acme.jsonl").write_bytes(b'{"event": "subm')
    log = AuditLog(tmp_path)
    log.write(record())
    torn, whole = (tmp_path / "acme.jsonl").read_bytes().splitlines()
    assert torn == b'{"event": "subm'
    assert json.loads(whole)["job"] == "j1"


def test_what_cannot_be_written_is_refused_whole_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(tmp_path)
    log.write(record())
    before = (tmp_path / "acme.jsonl").read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BusError) as caught:
        log.write(record(job="j2"))
    assert caught.value.code == Code.AUDIT_UNUSABLE
    assert log.problem == "No space left on device"
    assert (tmp_path / "acme.jsonl").read_bytes() == before
    monkeypatch.undo()
    log.write(record(job="j3"))
    assert log.problem == ""
    assert [each["job"] for each in lines(tmp_path)] == ["j1", "j3"]


def test_it_does_not_write_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "acme.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BusError):
        AuditLog(tmp_path).write(record())
    assert not (tmp_path / "elsewhere").exists()
