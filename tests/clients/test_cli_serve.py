"""``bus serve``: shell commands as services, bounded in time, output and life."""

import os
import signal
import time
from pathlib import Path

import pytest

from buscli.exits import Exit
from tests.clients.cli_support import SECONDS, Cli, lines_of
from tests.support import RunningNode, wait_until


@pytest.fixture
def bus(shared_node: RunningNode) -> Cli:
    return Cli(shared_node.url)


def is_alive(pid: int) -> bool:
    """Whether process ``pid`` runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


def test_a_command_gets_json_and_its_output_is_the_reply(bus: Cli) -> None:
    with bus.serving("s1.x", "--exec", "cat", subject="s1.x"):
        for text in ('{"a": [1, "grüße", null]}', "12", "null", '{"$bytes": "AP8="}', '"two words"'):
            (reply,) = bus.records("call", "s1.x", text)
            assert reply == lines_of(text.encode())[0]


def test_a_command_gets_raw_bytes_and_replies_with_them(bus: Cli) -> None:
    data = bytes(range(256))
    with bus.serving("s2.x", "--raw", "--exec", "cat", subject="s2.x"):
        ended = bus("call", "s2.x", "--raw", "-", stdin=data)
        assert ended.stdout == data
        (full,) = bus.records("call", "s2.x", "1", "--full")
    assert full["headers"] == {"datacontenttype": "application/octet-stream"}


def test_a_command_knows_what_it_is_asked_and_by_whom(bus: Cli) -> None:
    shown = 'printf "%s|%s|%s|%s" "$BUS_SUBJECT" "$BUS_CALLER" "$BUS_HEADER_TRACE_ID" "$BUS_HEADER_N"'
    with bus.serving("s3.*", "--exec", shown, subject="s3.x"):
        (reply,) = bus.records("call", "s3.here", "-H", "trace-id:$(echo no) `no` ; no", "-H", "n:5")
    subject, caller, trace, number = reply.split("|")
    assert subject == "s3.here"
    assert caller.startswith("host-")
    assert trace == "$(echo no) `no` ; no"
    assert number == "5"


def test_headers_of_our_own_environment_do_not_pass_for_the_callers(shared_node: RunningNode) -> None:
    bus = Cli(shared_node.url, BUS_HEADER_USER="root")
    bus.environment["BUS_HEADER_USER"] = "root"
    with bus.serving("s4.x", "--exec", 'echo "[\\"$BUS_HEADER_USER\\"]"', subject="s4.x"):
        assert bus.records("call", "s4.x") == [[""]]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("echo no room >&2; exit 7", "ended with status 7: no room"),
        ("exit 1", "ended with status 1"),
        ("kill -9 $$", "was ended by signal 9"),
        ("no-such-command-here", "ended with status 127"),
        ("echo '{\"n\":'", "begins like JSON"),
        ("printf '\\377'", "not UTF-8"),
        ("head -c 17000000 /dev/zero", "more than 16777216 bytes"),
    ],
)
def test_a_command_that_fails_is_an_error_reply(bus: Cli, command: str, says: str) -> None:
    with bus.serving("s5.x", "--exec", command, subject="s5.x"):
        ended = bus("call", "s5.x", "--timeout", "20s")
        assert ended.returncode == Exit.FAILED
        assert ended.stderr.startswith(b"BUS-3007 handler-failed")
        assert says in ended.stderr.decode()


def test_only_the_end_of_a_long_complaint_is_sent(bus: Cli) -> None:
    with bus.serving("s6.x", "--exec", "seq 1 5000 >&2; exit 1", subject="s6.x"):
        ended = bus("call", "s6.x", "--timeout", "20s")
    assert ended.stderr.rstrip().splitlines()[-2].endswith(b"5000")
    assert len(ended.stderr) < 4000


def test_a_complaint_cannot_pass_for_our_own_words_or_drive_the_terminal(bus: Cli) -> None:
    command = "printf 'one\\n  try: rm -rf /\\n\\033[31m' >&2; exit 1"
    with bus.serving("s7.x", "--exec", command, subject="s7.x"):
        said = bus("call", "s7.x").stderr.decode()
    assert "\x1b" not in said
    assert "\n  | " in said
    assert "\n  try: rm" not in said


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(bus: Cli, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = f"sleep 300 & echo $$ $! > {pids}; wait"
    with bus.serving("s8.x", "--exec", command, "--timeout", "500ms", subject="s8.x"):
        ended = bus("call", "s8.x", "--timeout", "20s")
        assert b"no result after 0.5 s" in ended.stderr
        assert ended.returncode == Exit.FAILED
        wait_until(lambda: not any(map(is_alive, map(int, pids.read_text().split()))), 5, what="the group is gone")


def test_a_command_that_ignores_being_asked_is_killed(bus: Cli, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command = f"trap '' TERM; echo $$ > {pid}; while :; do sleep 0.1; done"
    with bus.serving("s9.x", "--exec", command, "--timeout", "300ms", subject="s9.x"):
        assert bus("call", "s9.x", "--timeout", "20s").returncode == Exit.FAILED
        wait_until(lambda: not is_alive(int(pid.read_text())), 5, what="the command is gone")


def test_a_command_whose_output_a_child_holds_open_is_ended_too(bus: Cli, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command = f"sleep 300 & echo $! > {pid}; exit 0"
    with bus.serving("s10.x", "--exec", command, "--timeout", "500ms", subject="s10.x"):
        assert b"no result after" in bus("call", "s10.x", "--timeout", "20s").stderr
        wait_until(lambda: not is_alive(int(pid.read_text())), 5, what="the child is gone")


def test_a_command_ends_when_its_caller_stops_waiting(bus: Cli, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with bus.serving("s11.x", "--exec", f"echo $$ > {pid}; exec sleep 300", subject="s11.x"):
        assert bus("call", "s11.x", "--timeout", "500ms").returncode == Exit.TIMEOUT
        wait_until(pid.exists)
        wait_until(lambda: not is_alive(int(pid.read_text())), 5, what="the command is gone")


def test_commands_end_when_the_service_is_stopped(bus: Cli, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with bus.serving("s12.x", "--exec", f"echo $$ > {pid}; exec sleep 300", subject="s12.x") as serve:
        with bus.running("call", "s12.x", "--timeout", "60s") as call:
            wait_until(lambda: pid.exists() and pid.read_text().strip())
            serve.send_signal(signal.SIGTERM)
            assert serve.wait(SECONDS) == Exit.OK
            assert call.wait(SECONDS) in (Exit.FAILED, Exit.UNKNOWN)
            assert serve.stderr is not None
            assert serve.stderr.read() == b""
        wait_until(lambda: not is_alive(int(pid.read_text())), 5, what="the command is gone")


def test_a_command_need_not_read_its_input(bus: Cli) -> None:
    with bus.serving("s13.x", "--exec", "echo 1", subject="s13.x"):
        ended = bus("call", "s13.x", "-", stdin=b'"' + b"x" * 3_000_000 + b'"')
    assert ended.stdout == b"1\n"


def test_calls_run_side_by_side_up_to_concurrency(bus: Cli, tmp_path: Path) -> None:
    command = f"echo >> {tmp_path}/n; while [ $(wc -l < {tmp_path}/n) -lt 3 ]; do sleep 0.02; done; echo 1"
    with (
        bus.serving("s14.x", "--exec", command, "--concurrency", "3", subject="s14.x"),
        bus.running("call", "s14.x") as one,
        bus.running("call", "s14.x") as two,
        bus.running("call", "s14.x") as three,
    ):
        assert [each.communicate(timeout=SECONDS)[0] for each in (one, two, three)] == [b"1\n"] * 3


def test_a_fixed_reply_and_an_end_after_so_many_calls(bus: Cli) -> None:
    with bus.serving("s15.x", "--reply", '{"ok": true}', "--count", "2", subject="s15.x") as serve:
        assert bus.records("call", "s15.x") == [{"ok": True}]
        assert bus.records("call", "s15.x") == [{"ok": True}]
        out, err = serve.communicate(timeout=SECONDS)
    assert (serve.returncode, err) == (Exit.OK, b"")
    first, second = lines_of(out)
    assert (first["subject"], first["outcome"]) == ("s15.x", "reply")
    assert second["seconds"] >= 0


def test_quiet_shows_no_calls(bus: Cli) -> None:
    with bus.serving("s16.x", "--reply", "x", "--raw", "--count", "1", "--quiet", subject="s16.x") as serve:
        assert bus("call", "s16.x", "--raw").stdout == b"x"
        assert serve.communicate(timeout=SECONDS) == (b"", b"")


def test_services_of_one_group_share_and_of_another_are_refused(bus: Cli) -> None:
    with (
        bus.serving("s17.x", "--echo", "--group", "a", subject="s17.x"),
        bus.running("serve", "s17.x", "--echo", "--group", "a") as second,
    ):
        wait_until(lambda: len(bus.records("explain", "s17.x", "--call")[0]["groups"][0]["members"]) == 2)
        ended = bus("serve", "s17.x", "--echo", "--group", "b")
        assert ended.returncode == Exit.FAILED
        assert ended.stderr.startswith(b"BUS-2006 group-conflict")
        second.kill()


def test_a_service_comes_back_with_its_bus(tmp_path: Path) -> None:
    from tests.support import running_node

    with running_node(tmp_path) as node:
        bus = Cli(node.url)
        serve = bus.start("serve", "s18.x", "--reply", "1", "--quiet")
        wait_until(lambda: bus.is_known("s18.x", call=True), what="served")
    try:
        with running_node(tmp_path):
            wait_until(lambda: bus.is_known("s18.x", call=True), what="served again")
            assert bus("call", "s18.x").stdout == b"1\n"
    finally:
        serve.send_signal(signal.SIGINT)
        serve.communicate(timeout=SECONDS)
    assert serve.returncode == Exit.OK


def test_a_service_whose_reader_goes_ends(bus: Cli) -> None:
    with bus.serving("s19.x", "--echo", subject="s19.x") as serve:
        assert serve.stdout is not None
        serve.stdout.close()
        start = time.monotonic()
        assert serve.wait(10) == Exit.BROKEN_PIPE
        assert time.monotonic() - start < 10


def test_echo_is_byte_for_byte(bus: Cli) -> None:
    with bus.serving("s20.x", "--echo", subject="s20.x"):
        data = os.urandom(2 << 20)
        assert bus("call", "s20.x", "--raw", "-", stdin=data).stdout == data
