"""``bus audit``: shows, follows and checks the log, from its files alone."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from buscli import values
from buscli.__main__ import main
from buscli.auditlog import AuditLog, directory_of
from buscli.commands.audit import SHOWN
from buscli.exits import Exit
from buscli.parser import Line, UsageError, parse
from buscli.table import load
from busd.core.auditchain import GENESIS, Chain, Key, Record
from tests.clients.cli_support import SECONDS, Cli, lines_of
from tests.support import wait_until

KEY = b"0123456789abcdef0123456789abcdef"

VM = {"boundary": "guest", "tenant": "acme", "unit": "vm-1", "generation": 1, "cid": 7}
ROOT = {"boundary": "host", "tenant": "node", "unit": "host", "generation": 0, "uid": 0, "pid": 4711}

TOLD: tuple[Record, ...] = (
    {"event": "audit-opened", "continues": 0, "keyed": False, "pid": 99},
    {"event": "allowed", "principal": VM, "endpoint": "g-1", "verb": "call", "subject": "cache.get", "to": "host"},
    {
        "event": "denied",
        "principal": VM,
        "endpoint": "g-1",
        "verb": "publish",
        "subject": "node.x",
        "where": "10-a.policy:3",
        "reason": "no rule",
    },
    {
        "event": "denied-more",
        "principal": VM,
        "count": 12,
        "kinds": [{"verb": "publish", "subject": "node.x", "where": "", "reason": "no rule", "count": 9}],
        "others": 3,
        "seconds": 10.0,
    },
    {
        "event": "act",
        "principal": ROOT,
        "endpoint": "h-2",
        "what": "guest.add",
        "facts": {"unit": "vm-1"},
        "outcome": "ok",
    },
    {"event": "system", "what": "policy-loaded", "facts": {"files": 3}},
)


def sealed(records: Sequence[Record], key: Key | None = None, *, seq: int = 0, head: str = GENESIS) -> list[bytes]:
    chain = Chain("n1", key, seq=seq, head=head)
    return [
        chain.seal(record, f"2026-01-31T12:{number // 60:02d}:{number % 60:02d}.000000Z")
        for number, record in enumerate(records, seq)
    ]


def write(directory: Path, lines: list[bytes], *, at: int | None = None) -> Path:
    """``lines`` as a log; ``at``: in two files, the second of which begins there."""
    directory.mkdir(mode=0o700, exist_ok=True)
    parts = [lines] if at is None else [lines[:at], lines[at:]]
    for part in parts:
        path = directory / f"audit-{json.loads(part[0])['seq']:012d}.jsonl"
        path.write_bytes(b"".join(part))
        path.chmod(0o600)
    return directory


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write(tmp_path / "audit", sealed(TOLD), at=3)


BUS = Cli("/nowhere/host.sock")


def shown(log: Path, *words: str) -> list[int]:
    """The numbers of the records that ``bus audit show`` prints."""
    return [record["seq"] for record in BUS.records("audit", "show", "--dir", str(log), *words)]


# -- show -------------------------------------------------------------------------------------------------------------


def test_show_prints_the_records_as_they_are_when_piped(log: Path) -> None:
    printed = BUS.records("audit", "show", "--dir", str(log))
    assert printed == [json.loads(line) for line in sealed(TOLD)]


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["--event", "denied"], [3]),
        (["--event", "denied*"], [3, 4]),
        (["-e", "act", "-e", "allowed"], [2, 5]),
        (["--tenant", "acme"], [2, 3, 4]),
        (["--principal", "vm-1"], [2, 3, 4]),
        (["--principal", "7"], [2, 3, 4]),
        (["--principal", "0"], [5]),
        (["--principal", "root"], [5]),
        (["--endpoint", "h-2"], [5]),
        (["--subject", "node.*"], [3, 4]),
        (["--last", "2"], [5, 6]),
        (["--event", "denied*", "--last", "1"], [4]),
        (["--since", "2026-01-31T12:00:02Z"], [3, 4, 5, 6]),
        (["--since", "2026-01-31T13:00:04+01:00"], [5, 6]),
        (["--since", "2026-02-01"], []),
        (["--since", "1s"], []),
        (["--since", "2026-01-31"], [1, 2, 3, 4, 5, 6]),
    ],
)
def test_show_selects(log: Path, words: list[str], numbers: list[int]) -> None:
    assert shown(log, *words) == numbers


def test_show_is_a_table_on_a_terminal_and_nothing_in_it_can_drive_it(tmp_path: Path) -> None:
    hostile = {**TOLD[2], "subject": "\x1b[2Jgone\u202e"}
    log = write(tmp_path / "audit", sealed([*TOLD, hostile]))
    status, text = BUS.on_terminal("audit", "show", "--dir", str(log), "--no-color")
    assert status == Exit.OK
    for part in (
        f"-> {log}",
        "call cache.get -> host",
        "publish node.x: no rule (10-a.policy:3)",
        "12 more in 10.0 s: 9 x publish node.x, 3 others",
        "guest.add unit=vm-1: ok",
        "policy-loaded files=3",
        "acme/vm-1 g-1",
        "node/host root h-2",
    ):
        assert part in " ".join(text.split()), part
    assert "\x1b[2J" not in text
    assert "\\u001b[2Jgone\\u202e" in text


def test_on_a_terminal_the_last_ones_are_shown_and_it_says_so(tmp_path: Path) -> None:
    log = write(tmp_path / "audit", sealed([TOLD[2]] * (SHOWN + 50)))
    _, text = BUS.on_terminal("audit", "show", "--dir", str(log), "--no-color")
    assert f"the last {SHOWN} of {SHOWN + 50}; --last N shows more" in text
    assert sum("publish node.x" in line for line in text.splitlines()) == SHOWN


def test_show_goes_on_behind_lines_that_cannot_be_read_and_says_where_to_look(log: Path) -> None:
    with sorted(log.iterdir())[0].open("ab") as stream:
        stream.write(b"garbage\n\xff\n[1]\n" + b"{" * 100_000 + b"\n")
    ended = BUS("audit", "show", "--dir", str(log))
    assert ended.returncode == Exit.OK
    assert len(lines_of(ended.stdout)) == 6
    assert ended.stderr.decode() == "bus audit: 4 lines cannot be read\n  try: bus audit verify\n"


# -- verify -----------------------------------------------------------------------------------------------------------


def verified(log: Path, *words: str) -> tuple[int, list[Any]]:
    ended = BUS("audit", "verify", "--dir", str(log), *words)
    assert not ended.stderr, ended.stderr
    return ended.returncode, lines_of(ended.stdout)


def test_verify_of_a_whole_log_says_how_long_it_is_and_what_to_note(log: Path) -> None:
    last = json.loads(sealed(TOLD)[-1])
    anchor = f"6:{last['hash']}"
    assert verified(log) == (0, [{"ok": True, "records": 6, "first": 1, "last": anchor, "problems": 0}])
    assert verified(log, "--last", anchor)[0] == Exit.OK
    status, text = BUS.on_terminal("audit", "verify", "--dir", str(log), "--no-color")
    assert status == Exit.OK
    assert f"6 records, from 1, last {anchor}: nothing is wrong\n" in text


def test_verify_names_file_line_record_and_what_is_wrong(log: Path) -> None:
    second = sorted(log.iterdir())[1]
    lines = second.read_bytes().splitlines(keepends=True)
    second.write_bytes(b"".join([lines[0], lines[2]]))
    first = sorted(log.iterdir())[0]
    first.write_bytes(first.read_bytes().replace(b"cache.get", b"cache.put"))
    status, [altered, removed, verdict] = verified(log)
    assert status == Exit.FAILED
    assert (altered["place"], altered["seq"], altered["problem"]) == ("audit-000000000001.jsonl:2", 2, "altered")
    assert (removed["place"], removed["seq"], removed["problem"]) == ("audit-000000000004.jsonl:2", 5, "removed")
    assert (verdict["ok"], verdict["problems"], verdict["records"]) == (False, 2, 4)
    status, text = BUS.on_terminal("audit", "verify", "--dir", str(log), "--no-color")
    assert status == Exit.FAILED
    assert "audit-000000000001.jsonl:2: record 2 altered: this line was altered: its content does not have" in text
    assert ": 2 problems\n" in text


def test_verify_finds_a_removed_file_and_a_cut_end(log: Path) -> None:
    anchor = f"6:{json.loads(sealed(TOLD)[-1])['hash']}"
    sorted(log.iterdir())[1].unlink()
    assert verified(log)[0] == Exit.OK, "what the log alone cannot tell"
    status, [problem, _] = verified(log, "--last", anchor)
    assert (status, problem["problem"], problem["seq"]) == (Exit.FAILED, "truncated", 6)
    write(log, sealed(TOLD), at=3)
    sorted(log.iterdir())[0].unlink()
    status, [problem, _] = verified(log)
    assert (problem["problem"], problem["place"]) == ("removed", "audit-000000000004.jsonl:1")


def test_verify_with_a_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(KEY + b"\n")
    log = write(tmp_path / "audit", sealed(TOLD, Key(KEY)))
    assert verified(log, "--key-file", str(path))[0] == Exit.OK
    status, [problem, _] = verified(log)
    assert (status, problem["problem"]) == (Exit.FAILED, "key")
    path.write_bytes(b"short")
    ended = BUS("audit", "verify", "--dir", str(log), "--key-file", str(path))
    assert ended.returncode == Exit.USAGE
    assert b"a key has 16 to 1024 bytes, this one 5\n  try: openssl rand -hex 32 makes one\n" in ended.stderr
    missing = BUS("audit", "verify", "--dir", str(log), "--key-file", "/nowhere/key")
    assert (missing.returncode, missing.stderr) == (Exit.USAGE, b"bus: /nowhere/key: No such file or directory\n")


def test_a_line_that_is_being_written_is_waited_for(log: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """What a reader meets in the middle of busd's write is not torn yet."""
    last = sorted(log.iterdir())[1]
    lines = last.read_bytes().splitlines(keepends=True)
    last.write_bytes(b"".join(lines[:2]) + lines[2][:50])
    shell = f"sleep 0.1; tail -c +51 {log.parent / 'rest'} >> {last}"
    (log.parent / "rest").write_bytes(lines[2])
    with subprocess.Popen(["sh", "-c", shell]) as process:
        assert main(["audit", "verify", "--dir", str(log)]) == Exit.OK
        process.wait(SECONDS)
    assert lines_of(capfdbinary.readouterr().out)[-1]["records"] == 6


def test_a_file_that_busd_removes_meanwhile_begins_the_check_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    lines = sealed(TOLD[:3])
    head = json.loads(lines[-1])["hash"]
    deletion = {"event": "audit-deleted", "first": 1, "last": 3, "head": head}
    log = write(tmp_path / "audit", [*lines, *sealed([deletion], seq=3, head=head)], at=3)
    reading = AuditLog.lines

    def overtaken(self: AuditLog, since: str = "") -> Iterator[tuple[str, bytes]]:
        """As `AuditLog.lines`; the oldest file goes when its first line has been read."""
        monkeypatch.setattr(AuditLog, "lines", reading)
        yield next(reading(self))
        (log / "audit-000000000001.jsonl").unlink()
        raise FileNotFoundError

    monkeypatch.setattr(AuditLog, "lines", overtaken)
    assert main(["audit", "verify", "--dir", str(log)]) == Exit.OK
    [verdict] = lines_of(capfdbinary.readouterr().out)
    assert (verdict["ok"], verdict["records"], verdict["first"]) == (True, 1, 4)


def test_a_reader_notices_that_a_file_was_removed_before_it_came_to_it(log: Path) -> None:
    lines = AuditLog(log).lines()
    assert next(lines)[0] == "audit-000000000001.jsonl:1"
    sorted(log.iterdir())[1].unlink()
    with pytest.raises(FileNotFoundError):
        list(lines)


# -- follow -----------------------------------------------------------------------------------------------------------


def test_follow_prints_what_is_added_across_files_and_half_lines_until_it_is_stopped(log: Path) -> None:
    lines = sealed([*TOLD, TOLD[2], TOLD[1], TOLD[2]])
    newest = sorted(log.iterdir())[1]
    with BUS.running("audit", "follow", "--dir", str(log), "--event", "denied", "--event", "system") as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        printed = b""

        def numbers() -> list[int]:
            nonlocal printed
            printed += process.stdout.read() or b""  # type: ignore[union-attr]
            return [record["seq"] for record in lines_of(printed)]

        # It follows from its start on, which cannot be seen: so add until it is there.
        def begun() -> bool:
            with newest.open("ab") as stream:
                stream.write(lines[5])
            return bool(numbers())

        wait_until(begun)
        with newest.open("ab") as stream:
            stream.write(lines[6][:40])
        before = len(numbers())
        with newest.open("ab") as stream:
            stream.write(lines[6][40:])
        wait_until(lambda: 7 in numbers())
        assert before >= 1
        write(log, lines[7:])
        wait_until(lambda: 9 in numbers())
        assert 8 not in numbers()
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == Exit.OK


# -- where, and what is refused ---------------------------------------------------------------------------------------


def test_a_folder_that_is_missing_empty_or_closed_is_a_clear_error(tmp_path: Path) -> None:
    for action in ("show", "verify", "follow"):
        ended = BUS("audit", action, "--dir", "/nowhere/audit")
        assert ended.returncode == Exit.USAGE
        assert ended.stderr.decode() == (
            "bus audit: /nowhere/audit: No such file or directory\n"
            "  try: busd config explain audit.dir says where this user's busd writes; name it with --dir\n"
        )
        ended = BUS("audit", action, "--dir", str(tmp_path))
        assert ended.returncode == Exit.FAILED
        assert f"bus audit: {tmp_path} holds no audit log\n" in ended.stderr.decode()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become a user who may not read")
def test_a_user_who_may_not_read_is_told_who_may(tmp_path: Path, log: Path) -> None:
    warm = "from buscli.__main__ import main; main(['audit', 'verify', '--dir', '/nowhere'])"  # imports, while it may
    words = ["audit", "verify", "--dir", str(log)]
    script = f"import os; {warm}; os.setuid(65534); raise SystemExit(main({words}))"
    ended = subprocess.run([sys.executable, "-c", script], env=BUS.environment, capture_output=True, timeout=SECONDS)
    assert ended.returncode == Exit.USAGE
    assert b"Permission denied\n  try: run it as root or as the user that busd runs as" in ended.stderr


def test_the_folder_is_that_of_the_bus_that_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def where(*words: str) -> Path:
        return directory_of(parse(load("audit"), Line(["audit", "verify", *words])))

    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr("buscli.auditlog.SYSTEM_DIR", tmp_path / "system")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("BUS_URL", f"unix://{tmp_path}/run/host.sock")
    own = tmp_path / "state" / "busd" / "audit"
    assert where() == own
    (tmp_path / "system").mkdir()
    assert where() == tmp_path / "system"
    own.mkdir(parents=True)
    assert where() == own
    (tmp_path / "run" / "audit").mkdir(parents=True)
    assert where() == tmp_path / "run" / "audit"
    assert where("--dir", "/x") == Path("/x")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["verify", "--last", "5"], "'5' is not SEQ:HASH"),
        (["verify", "--last", "x:" + "0" * 64], "is not SEQ:HASH"),
        (["verify", "--last", "5:" + "G" * 64], "is not SEQ:HASH"),
        (["show", "--since", "yesterday"], "'yesterday' is neither a time"),
        (["show", "--last", "0"], "must be at least 1"),
        (["shwo"], "bus audit: unknown command 'shwo'"),
        ([], "bus audit: which of show, follow, verify?"),
    ],
)
def test_a_wrong_command_line_is_refused(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", *words]) == Exit.USAGE
    shown = capsys.readouterr().err
    assert says in shown
    assert "\n  try: bus audit" in shown


def test_since_takes_times_and_spans() -> None:
    assert values.since("2026-01-31") == "2026-01-31T00:00:00.000000Z"
    assert values.since("2026-01-31T12:00:00.5+02:00") == "2026-01-31T10:00:00.500000Z"
    assert values.since("1h") > values.since("2h") > values.since("7d")
    for wrong in ("", "x", "1y", "1e400h", "9999999999d", "2026-13-01", "0001-01-01T00:00:00+23:00"):
        with pytest.raises(ValueError, match="is neither a time"):
            values.since(wrong)


def test_no_log_is_a_usage_error_with_its_own_exit(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        AuditLog(tmp_path).files()
    assert caught.value.exit == Exit.FAILED
