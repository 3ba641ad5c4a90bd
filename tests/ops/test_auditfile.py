"""The audit on disk: whatever ends the process or fills the disk, the chain goes on and a check says what was lost."""

import asyncio
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from busd.core.auditchain import Key, Record
from busd.core.auditcheck import Anchor, Flaw, Verification, verify
from busd.ops import auditfile
from busd.ops.auditfile import AuditFile, AuditStatistics, load_key
from busproto.errors import BusError, Code
from tests.support import environment

KEY = Key(b"0123456789abcdef0123456789abcdef")
MAX_BYTES = 1 << 20


class Wall:
    """A wall clock that goes on by a second each time it is read."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 31, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def make(path: Path, **options: Any) -> AuditFile:
    return AuditFile(path, "n1", **{"max_bytes": MAX_BYTES, "keep": 16, "wall": Wall(), **options})


def record(number: int, text: str = "x") -> Record:
    return {"event": "denied", "subject": f"s{number}", "reason": text}


def session(path: Path, *batches: list[Record], **options: Any) -> AuditStatistics:
    """Open the log, write ``batches`` one after the other, close it; the figures at the end."""

    async def life() -> AuditStatistics:
        log = make(path, **options)
        await log.open()
        for batch in batches:
            log.write(batch)
            await drained(log)
        await log.close()
        return log.statistics()

    return asyncio.run(life())


async def drained(log: AuditFile) -> None:
    await until(lambda: not log.statistics().queued)


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def files(path: Path) -> list[Path]:
    return sorted(path.glob("audit-*.jsonl"))


def lines(path: Path) -> list[tuple[str, bytes]]:
    return [
        (f"{file.name}:{number}", line)
        for file in files(path)
        for number, line in enumerate(file.read_bytes().splitlines(keepends=True), 1)
    ]


def check(path: Path, *keys: Key, anchor: Anchor | None = None) -> Verification:
    return verify(lines(path), keys=keys, anchor=anchor)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for _, line in lines(path)]


def refusal(path: Path, **options: Any) -> BusError:
    with pytest.raises(BusError) as caught:
        session(path, **options)
    return caught.value


# -- one life and the next --------------------------------------------------------------------------------------------


def test_what_is_written_is_there_in_order_with_the_time_and_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "busd" / "audit"
    umask = os.umask(0)
    try:
        statistics = session(path, [record(1), record(2)], [record(3)])
    finally:
        os.umask(umask)
    found = records(path)
    assert [r["event"] for r in found] == ["audit-opened", "denied", "denied", "denied"]
    assert [r["seq"] for r in found] == [1, 2, 3, 4]
    assert [r["time"] for r in found] == [
        "2026-01-31T12:00:01.000000Z",
        "2026-01-31T12:00:02.000000Z",
        "2026-01-31T12:00:02.000000Z",
        "2026-01-31T12:00:03.000000Z",
    ]
    assert found[0]["continues"] == 0
    assert {r["node"] for r in found} == {"n1"}
    assert check(path).ok
    assert [file.name for file in files(path)] == ["audit-000000000001.jsonl"]
    assert stat.S_IMODE(files(path)[0].stat().st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert (statistics.records, statistics.seq, statistics.head) == (4, 4, found[-1]["hash"])
    assert (statistics.queued, statistics.lost, statistics.failures, statistics.error) == (0, 0, 0, "")
    assert statistics.files == 1


@pytest.mark.parametrize("key", [None, KEY], ids=["unkeyed", "keyed"])
def test_the_chain_goes_on_over_restarts(key: Key | None, tmp_path: Path) -> None:
    for life in range(5):
        session(tmp_path / "a", [record(life)], key=key)
    found = records(tmp_path / "a")
    assert [r["seq"] for r in found] == list(range(1, 11))
    assert [r["continues"] for r in found if r["event"] == "audit-opened"] == [0, 2, 4, 6, 8]
    assert [r["keyed"] for r in found if r["event"] == "audit-opened"] == [key is not None] * 5
    assert check(tmp_path / "a", *([key] if key else [])).ok
    assert len(files(tmp_path / "a")) == 1


def test_a_key_that_is_introduced_later_seals_what_comes_from_then_on(tmp_path: Path) -> None:
    session(tmp_path / "a", [record(1)])
    session(tmp_path / "a", [record(2)], key=KEY)
    assert check(tmp_path / "a", KEY).ok
    assert not check(tmp_path / "a").ok


def test_nothing_written_is_still_a_log_and_no_records_no_write(tmp_path: Path) -> None:
    session(tmp_path / "a")
    session(tmp_path / "a", [])
    assert [r["event"] for r in records(tmp_path / "a")] == ["audit-opened"] * 2


def test_a_batch_is_written_and_synced_at_once_not_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def sync(descriptor: int) -> None:
        synced.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", sync)
    session(tmp_path / "a", [record(n) for n in range(500)])
    assert len(synced) == 2, "one for the opening, one for the batch"
    assert len(records(tmp_path / "a")) == 501


# -- who may write ----------------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    async def two() -> BusError:
        first, second = make(tmp_path / "a"), make(tmp_path / "a")
        await first.open()
        with pytest.raises(BusError) as caught:
            await second.open()
        first.write([record(1)])
        await first.close()
        return caught.value

    error = asyncio.run(two())
    assert error.code == Code.AUDIT_IN_USE
    assert error.text == f"another busd (pid {os.getpid()}) writes the audit in {tmp_path / 'a'}"
    assert session(tmp_path / "a").seq == 3, "when the first has gone, the next one may"


def test_a_folder_or_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    assert refusal(tmp_path / "open").code == Code.AUDIT_UNUSABLE
    assert "others can read it (mode 0755)" in refusal(tmp_path / "open").text
    (tmp_path / "writable").mkdir()
    (tmp_path / "writable").chmod(0o770)
    assert "others can write it (mode 0770)" in refusal(tmp_path / "writable").text
    (tmp_path / "link").symlink_to(tmp_path)
    assert "it is a symbolic link" in refusal(tmp_path / "link").text
    session(tmp_path / "a")
    files(tmp_path / "a")[0].chmod(0o644)
    assert "is not a file of this user alone (mode 0644)" in refusal(tmp_path / "a").text
    files(tmp_path / "a")[0].unlink()
    (tmp_path / "a" / "audit-000000000001.jsonl").symlink_to("/etc/hostname")
    assert refusal(tmp_path / "a").code == Code.AUDIT_UNUSABLE
    (tmp_path / "file").write_text("")
    assert "it is not a directory" in refusal(tmp_path / "file").text


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (b"short", 0o600, "a key has 16 to 1024 bytes, this one 5"),
        (b"x" * 5000, 0o600, "a key has 16 to 1024 bytes"),
        (b"x" * 32, 0o640, "others can read it (mode 0640); chmod 600 it"),
        (None, 0, "No such file or directory"),
    ],
)
def test_a_key_file_that_cannot_be_one_is_refused(
    content: bytes | None, mode: int, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(BusError) as caught:
        load_key(path)
    assert caught.value.code == Code.CONFIG_INVALID
    assert caught.value.text.startswith(f"audit.key_file ({path}): {reason}")


def test_a_key_file_is_read_and_a_pipe_or_folder_is_none(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"x" * 32 + b"\n")
    path.chmod(0o600)
    assert load_key(path).id == Key(b"x" * 32).id
    os.mkfifo(tmp_path / "pipe", 0o600)
    for other in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(BusError, match="it is not a file"):
            load_key(other)


# -- crashes ----------------------------------------------------------------------------------------------------------


def test_a_torn_last_line_is_put_aside_and_recorded(tmp_path: Path) -> None:
    session(tmp_path / "a", [record(1)])
    with files(tmp_path / "a")[0].open("ab") as stream:
        stream.write(b'{"event":"half')
    assert check(tmp_path / "a").problems[0].what == Flaw.TORN
    session(tmp_path / "a", [record(2)])
    found = records(tmp_path / "a")
    assert [r["event"] for r in found] == ["audit-opened", "denied", "audit-torn", "audit-opened", "denied"]
    aside = tmp_path / "a" / found[2]["file"]
    assert (found[2]["bytes"], aside.read_bytes()) == (14, b'{"event":"half')
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    assert check(tmp_path / "a").ok


def test_a_log_torn_at_every_byte_of_its_end_goes_on(tmp_path: Path) -> None:
    session(tmp_path / "a", [record(1)])
    [file] = files(tmp_path / "a")
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(0, len(whole) + 1, 7):
        for old in (tmp_path / "a").glob("audit-*"):
            old.unlink()
        file.touch(0o600)
        file.write_bytes(whole[:size])
        session(tmp_path / "a", [record(2)])
        found = check(tmp_path / "a")
        assert found.ok, (size, found.problems)
        events = [r["event"] for r in records(tmp_path / "a")]
        assert ("audit-torn" in events) == (size not in (0, first, len(whole))), size


def test_several_crashes_at_one_place_keep_each_torn_line(tmp_path: Path) -> None:
    session(tmp_path / "a")
    for text in (b"one", b"two"):
        with files(tmp_path / "a")[0].open("ab") as stream:
            stream.write(text)
        session(tmp_path / "a")
    assert {path.read_bytes() for path in (tmp_path / "a").glob("*.torn*")} == {b"one", b"two"}
    assert check(tmp_path / "a").ok


def test_altered_lines_at_the_end_are_recorded_and_stay_where_they_are(tmp_path: Path) -> None:
    session(tmp_path / "a", [record(1), record(2)])
    [file] = files(tmp_path / "a")
    file.write_bytes(file.read_bytes().replace(b'"s1"', b'"s9"').replace(b'"s2"', b'"s9"'))
    session(tmp_path / "a", [record(3)])
    found = check(tmp_path / "a")
    assert [(p.place, p.what) for p in found.problems] == [
        (f"{file.name}:2", Flaw.ALTERED),
        (f"{file.name}:3", Flaw.ALTERED),
    ], "those and nothing behind them"
    broken = next(r for r in records(tmp_path / "a") if r["event"] == "audit-broken")
    assert (broken["lines"], broken["after"], broken["seq"]) == (2, 1, 4)


def test_a_log_whose_end_cannot_be_read_is_not_written_on(tmp_path: Path) -> None:
    session(tmp_path / "a", [record(1)])
    [file] = files(tmp_path / "a")
    for content in (b"garbage\n" * 10, b"\0" * (1 << 20)):
        file.write_bytes(content)
        error = refusal(tmp_path / "a")
        assert error.code == Code.AUDIT_UNUSABLE
        assert "move the files away to begin anew" in error.text
        assert file.read_bytes() == content


def test_an_empty_file_that_a_crash_left_is_used_or_removed(tmp_path: Path) -> None:
    session(tmp_path / "a", [record(1)])
    (tmp_path / "a" / "audit-000000000003.jsonl").touch(0o600)
    session(tmp_path / "a", [record(2)])
    assert [file.name for file in files(tmp_path / "a")] == ["audit-000000000001.jsonl", "audit-000000000003.jsonl"]
    (tmp_path / "a" / "audit-000000000099.jsonl").touch(0o600)
    session(tmp_path / "a", [record(3)])
    assert check(tmp_path / "a").ok
    assert not (tmp_path / "a" / "audit-000000000099.jsonl").exists()


WRITER = """
import asyncio, sys
from pathlib import Path
from busd.ops.auditfile import AuditFile

async def main():
    log = AuditFile(Path(sys.argv[1]), "n1", max_bytes=1 << 20, keep=16)
    await log.open()
    number = 0
    while True:
        log.write({"event": "denied", "subject": f"s{number}", "reason": "x" * (number % 300)} for _ in range(50))
        number += 1
        print(log.statistics().seq, log.statistics().head, flush=True)
        await asyncio.sleep(0)

asyncio.run(main())
"""


@contextmanager
def writer(path: Path, script: str = WRITER, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path), *words],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_writer_that_is_killed_at_any_moment_leaves_a_log_that_goes_on(tmp_path: Path) -> None:
    for life in range(6):
        with writer(tmp_path / "a") as process:
            assert process.stdout is not None
            noted = b""
            for _ in range(3 + 17 * life):
                noted = process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            process.wait(20)
        seq, head = noted.decode().split()
        session(tmp_path / "a", [record(life)])
        anchor = Anchor(int(seq), head) if int(seq) else None
        found = check(tmp_path / "a", anchor=anchor)
        assert found.ok, found.problems
        assert found.last is not None
        assert found.last.seq > int(seq), "what was said to be written is still there"
    assert sum(r["event"] == "audit-opened" for r in records(tmp_path / "a")) == 12


# -- rotation ---------------------------------------------------------------------------------------------------------


def test_files_follow_each_other_by_size_the_chain_goes_on_and_old_ones_are_removed_and_recorded(
    tmp_path: Path,
) -> None:
    batches = [[record(n, "x" * 200) for n in range(start, start + 20)] for start in range(0, 400, 20)]
    statistics = session(tmp_path / "a", *batches, max_bytes=8192, keep=3)
    kept = files(tmp_path / "a")
    assert len(kept) == statistics.files == 3
    assert all(file.stat().st_size <= 8192 + 1024 for file in kept)
    assert all(
        re.fullmatch(rf"audit-{json.loads(file.read_bytes().splitlines()[0])['seq']:012d}\.jsonl", file.name)
        for file in kept
    )
    found = check(tmp_path / "a")
    assert found.ok, found.problems
    assert found.first is not None
    assert found.first > 1
    deleted = [r for r in records(tmp_path / "a") if r["event"] == "audit-deleted"]
    assert deleted[-1]["last"] == found.first - 1
    assert session(tmp_path / "a", max_bytes=8192, keep=3).seq == statistics.seq + 1
    kept[0].unlink()
    missing = check(tmp_path / "a").problems[0]
    assert missing.what == Flaw.REMOVED, "one more than was recorded"


def test_rotation_over_restarts_and_torn_files_of_deleted_ones_go_too(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    session(tmp_path / "a")
    with files(tmp_path / "a")[0].open("ab") as stream:
        stream.write(b"torn")
    for life in range(30):
        session(tmp_path / "a", [record(life, "x" * 200)] * 5, max_bytes=4096, keep=2)
        assert check(tmp_path / "a").ok
    assert len(files(tmp_path / "a")) == 2
    assert list((tmp_path / "a").glob("*.torn")) == []


def test_a_record_that_is_longer_than_a_file_should_be_is_written_all_the_same(tmp_path: Path) -> None:
    session(tmp_path / "a", [record(n, "x" * 5000) for n in range(5)], max_bytes=1024, keep=2)
    assert check(tmp_path / "a").ok
    assert records(tmp_path / "a")[-1]["subject"] == "s4"


# -- when the disk fails ----------------------------------------------------------------------------------------------


class Disk:
    """Stands between the log and the disk, and fails as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.torn = False
        self.unsynced = False
        self._write, self._sync = os.write, os.fdatasync
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "fdatasync", self.sync)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        if self.full and stat.S_ISREG(os.fstat(descriptor).st_mode):
            if self.torn and len(data) > 10:
                return self._write(descriptor, bytes(data[: len(data) // 2]))
            raise OSError(28, "No space left on device")
        return self._write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        if self.unsynced:
            raise OSError(5, "Input/output error")
        self._sync(descriptor)


async def failing_life(
    path: Path, disk: Disk, fail: Callable[[], None], heal: Callable[[], None], count: int, **options: Any
) -> AuditStatistics:
    log = make(path, **options)
    await log.open()
    log.write([record(0)])
    await drained(log)
    fail()
    for number in range(1, count):
        log.write([record(number)])
    await until(lambda: log.statistics().error)
    during = log.statistics()
    assert (during.seq, during.queued > 0) == (2, True)
    heal()
    await until(lambda: not log.statistics().error)
    await drained(log)
    log.write([record(count)])
    await log.close()
    return log.statistics()


@pytest.mark.parametrize("how", ["full", "torn", "unsynced"])
def test_while_the_disk_fails_records_wait_and_none_is_lost_or_written_twice(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(monkeypatch)
    monkeypatch.setattr(auditfile, "RETRY_SECONDS", 0.05)

    def fail() -> None:
        disk.full = how != "unsynced"
        disk.torn = how == "torn"
        disk.unsynced = how == "unsynced"

    def heal() -> None:
        disk.full = disk.torn = disk.unsynced = False

    statistics = asyncio.run(failing_life(tmp_path / "a", disk, fail, heal, 100))
    assert [r.get("subject") for r in records(tmp_path / "a")] == [None, *(f"s{n}" for n in range(101))]
    assert check(tmp_path / "a").ok
    assert statistics.failures >= 1
    assert (statistics.lost, statistics.error) == (0, "")
    events = [r.getMessage() for r in caplog.records]
    assert events == ["audit-failed", "audit-resumed"], "said once, however often it was tried"
    assert caplog.records[0].levelname == "ERROR"


def test_what_does_not_fit_while_the_disk_fails_is_counted_and_its_place_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    monkeypatch.setattr(auditfile, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(auditfile, "QUEUE", 50)

    def set_full(full: bool) -> Callable[[], None]:
        return lambda: setattr(disk, "full", full)

    statistics = asyncio.run(failing_life(tmp_path / "a", disk, set_full(True), set_full(False), 200))
    found = records(tmp_path / "a")
    assert check(tmp_path / "a").ok
    [gap] = [r for r in found if r["event"] == "audit-lost"]
    told = [int(r["subject"][1:]) for r in found if "subject" in r]
    before = [int(r["subject"][1:]) for r in found if "subject" in r and r["seq"] < gap["seq"]]
    assert gap["count"] == statistics.lost == 201 - len(told)
    assert gap["count"] >= 100
    assert before == list(range(len(before)))
    assert told[len(before)] == len(before) + gap["count"], "it stands exactly where they are missing"


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """RLIMIT_FSIZE: the kernel refuses to let a file grow, in the middle of a batch."""
    script = """
import asyncio, resource, signal, sys
from pathlib import Path
from busd.ops import auditfile
from busd.ops.auditfile import AuditFile

auditfile.RETRY_SECONDS = 0.05
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

async def main():
    log = AuditFile(Path(sys.argv[1]), "n1", max_bytes=1 << 20, keep=16)
    await log.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    log.write({"event": "denied", "subject": f"s{n}"} for n in range(100))
    while not log.statistics().error:
        await asyncio.sleep(0.01)
    print(log.statistics().error, flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await log.close()
    print(log.statistics().lost, flush=True)

asyncio.run(main())
"""
    with writer(tmp_path / "a", script) as process:
        out, _ = process.communicate(timeout=30)
    assert out.decode().split("\n") == ["File too large", "0", ""]
    assert [r.get("subject") for r in records(tmp_path / "a")] == [None, *(f"s{n}" for n in range(100))]
    assert check(tmp_path / "a").ok


def test_a_node_that_must_not_go_on_without_is_told_once_and_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    monkeypatch.setattr(auditfile, "RETRY_SECONDS", 0.02)
    told: list[int] = []

    async def life() -> None:
        log = make(tmp_path / "a", failed=lambda: told.append(1))
        await log.open()
        disk.full = True
        log.write([record(1)])
        await until(lambda: log.statistics().failures >= 3)
        await log.close()
        assert log.statistics().lost == 1

    asyncio.run(life())
    assert told == [1]
    error = refusal(tmp_path / "a", failed=lambda: told.append(2))
    assert error.code == Code.AUDIT_UNUSABLE
    assert "No space left on device" in error.text
    assert told == [1]
    disk.full = False
    assert session(tmp_path / "a").seq == 2, "the refused one let the folder go"


def test_a_node_that_goes_on_starts_with_a_full_disk_and_catches_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    monkeypatch.setattr(auditfile, "RETRY_SECONDS", 0.02)

    async def life() -> None:
        disk.full = True
        log = make(tmp_path / "a")
        await log.open()
        assert log.statistics().error == "No space left on device"
        log.write([record(1)])
        disk.full = False
        await until(lambda: not log.statistics().error)
        await log.close()

    asyncio.run(life())
    assert [r["event"] for r in records(tmp_path / "a")] == ["audit-opened", "denied"]


def test_closing_while_the_disk_fails_tells_how_many_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(monkeypatch)

    async def life() -> None:
        log = make(tmp_path / "a")
        await log.open()
        disk.full = True
        log.write([record(n) for n in range(7)])
        await log.close()
        await log.close()
        assert log.statistics().lost == 7

    asyncio.run(life())
    assert [r.getMessage() for r in caplog.records][-1] == "audit-lost"
    disk.full = False
    assert session(tmp_path / "a").seq == 2


def test_writing_does_not_hold_up_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fdatasync

    def sync(descriptor: int) -> None:
        time.sleep(0.3)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", sync)

    async def life() -> float:
        log = make(tmp_path / "a")
        await log.open()
        start = time.monotonic()
        for number in range(1000):
            log.write([record(number)])
            await asyncio.sleep(0)
        turned = time.monotonic() - start
        await log.close()
        return turned

    assert asyncio.run(life()) < 10 * 0.3, "a write that was waited for would cost 0.3 s each time"
    assert len(records(tmp_path / "a")) == 1001
