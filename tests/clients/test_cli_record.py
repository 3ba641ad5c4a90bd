"""``bus record`` and ``bus replay`` as a user meets them: a real node, files, Ctrl-C, kill -9."""

import asyncio
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import busclient
from buscli.exits import Exit
from buscli.recording import Gap, Header, Message, Writer
from buscli.recordingreplay import LOOP_SECONDS
from tests.clients.cli_support import BUS, Cli, lines_of
from tests.support import RunningNode, running_node, wait_until


@pytest.fixture
def cli(shared_node: RunningNode) -> Cli:
    return Cli(shared_node.url)


@contextmanager
def recording(cli: Cli, path: Path, *words: str) -> "Iterator[subprocess.Popen[bytes]]":
    """``bus record ... --output path``, from when it records."""
    with cli.running("record", *words, "--output", str(path)) as process:
        wait_until(lambda: (path.exists() and path.stat().st_size) or process.poll() is not None, what="the file")
        assert process.poll() is None, process.stderr.read() if process.stderr else b""
        yield process


def made(path: Path, *items: Message | Gap, seconds: float | None = None) -> Path:
    """A recording at ``path``."""
    with path.open("wb") as file:
        writer = Writer(file, Header("n", "busd/1", "2026-01-31T12:00:00.000000Z", (">",)))
        for item in items:
            if isinstance(item, Gap):
                writer.gap(item)
            else:
                writer.message(item)
        writer.end(seconds if seconds is not None else max(item.at for item in items))
    return path


def message(at: float, subject: str, data: bytes = b"\x01") -> Message:
    return Message(at, subject, None, data, None)


def replayed(cli: Cli, *words: str, pattern: str, count: int) -> list[tuple[float, Any]]:
    """``bus replay`` with these words: the messages that a subscriber got, each with when."""

    async def run() -> list[tuple[float, Any]]:
        got: list[tuple[float, Any]] = []
        url = cli.environment["BUS_URL"]
        async with busclient.connect(url, component="t") as bus, bus.subscribe(pattern) as subscription:
            ended = await asyncio.to_thread(cli, "replay", *words)
            assert ended.returncode == 0, ended.stderr.decode()
            assert lines_of(ended.stdout)[0]["replayed"] == count
            async with asyncio.timeout(20):
                while len(got) < count:
                    item = await anext(subscription)
                    got.append((bus.time(), item))
        return got

    return asyncio.run(run())


# -- record ------------------------------------------------------------------------------------------------------------


def test_what_was_published_comes_back_as_it_was(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    with recording(cli, path, "r1.>", "r1.a", "--count", "3") as process:
        cli("pub", "r1.a", '{"n": 1}', "-H", "traceparent:tp")
        cli("pub", "r1.b", "-", "--raw", stdin=b"\xff\x00")
        cli("pub", "r1.a", "2")
        out, _ = process.communicate(timeout=20)
    assert process.returncode == Exit.OK
    assert {key: lines_of(out)[0][key] for key in ("messages", "gaps", "lost", "full")} == {
        "messages": 3,
        "gaps": 0,
        "lost": 0,
        "full": False,
    }
    assert path.stat().st_mode & 0o777 == 0o600
    assert lines_of(out)[0]["bytes"] == path.stat().st_size
    head, first, second, third, end = cli.records("replay", str(path), "--show")
    assert head["recording"]["patterns"] == ["r1.>", "r1.a"]
    assert (first["subject"], first["payload"], first["headers"]) == ("r1.a", {"n": 1}, {"traceparent": "tp"})
    assert first["origin"]["boundary"] == "host"
    assert second["payload"] == {"$bytes": "/wA="}
    assert first["received"] < second["received"] < third["received"]
    assert end["end"]["messages"] == 3
    got = [item for _, item in replayed(cli, str(path), "--fast", "--prefix", "again", pattern="again.>", count=3)]
    assert [item.subject for item in got] == ["again.r1.a", "again.r1.b", "again.r1.a"]
    assert got[0].headers == {"traceparent": "tp"}
    assert got[1].data == b"\xff\x00"
    assert got[0].origin.endpoint != first["origin"]["endpoint"], "the origin is who replays"


def test_ctrl_c_ends_it_well_and_the_file_is_whole(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    with recording(cli, path, "r2") as process:
        cli("pub", "r2", "1")
        wait_until(lambda: path.stat().st_size > 130, what="the message")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == Exit.OK
    assert lines_of(out)[0]["messages"] == 1
    assert cli.records("replay", str(path), "--show")[-1]["end"]["messages"] == 1


def test_kill_minus_9_leaves_a_torn_file_that_says_so(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    with recording(cli, path, "r3") as process:
        size = path.stat().st_size
        cli("pub", "r3", "1")
        wait_until(lambda: path.stat().st_size > size, what="the message on its way to the disk")
        process.kill()
        process.wait()
    ended = cli("replay", str(path))
    assert ended.returncode == Exit.FAILED
    assert "BUS-6021 recording-damaged" in ended.stderr.decode()
    assert "record 2" in ended.stderr.decode()
    assert "torn" in ended.stderr.decode()
    shown = cli("replay", str(path), "--show")
    assert shown.returncode == Exit.FAILED
    assert lines_of(shown.stdout)[-1]["subject"] == "r3"
    assert cli("replay", str(path), "--partial", "--fast").returncode == Exit.OK


def test_it_ends_before_the_file_is_larger_than_it_may_be(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    with recording(cli, path, "r4", "--max-bytes", "4k") as process:
        cli("pub", "r4", "x" * 500, "--count", "50")
        out, _ = process.communicate(timeout=20)
    assert process.returncode == Exit.OK
    assert lines_of(out)[0]["full"]
    assert 2000 < path.stat().st_size <= 4096
    assert cli.records("replay", str(path), "--show")[-1]["end"]["messages"] == lines_of(out)[0]["messages"]


def test_time_may_pass_before_the_count(cli: Cli, tmp_path: Path) -> None:
    words = ("record", "r5", "--for", "200ms", "-o")
    assert cli(*words, str(tmp_path / "a"), "--count", "1").returncode == Exit.TIMEOUT
    assert cli(*words, str(tmp_path / "b")).returncode == Exit.OK
    for name in ("a", "b"):
        assert cli("replay", str(tmp_path / name), "--show").returncode == Exit.OK


def test_a_file_that_is_there_stays_unless_it_is_forced(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    path.write_bytes(b"kept")
    ended = cli("record", "r6", "-o", str(path), "--for", "100ms")
    assert ended.returncode == Exit.USAGE
    assert "--force" in ended.stderr.decode()
    assert path.read_bytes() == b"kept"
    assert cli("record", "r6", "-o", str(path), "--for", "100ms", "--force").returncode == Exit.OK
    assert cli("replay", str(path), "--show").returncode == Exit.OK


def test_no_file_is_made_where_there_is_no_bus_or_no_right(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    path.write_bytes(b"kept")
    assert Cli(f"unix://{tmp_path}/none.sock")("record", "a", "-o", str(path), "--force").returncode == 8
    policy = tmp_path / "policy.d"
    policy.mkdir(mode=0o755)
    (policy / "10-test.policy").write_text("allow subscribe a.> from host\nallow call,subscribe $bus.> from host\n")
    with running_node(tmp_path / "run", "--policy-dir", str(policy)) as running:
        ended = Cli(running.url)("record", "a.>", "b.>", "-o", str(path), "--force")
    assert ended.returncode == Exit.DENIED
    assert path.read_bytes() == b"kept"


def test_a_directory_that_is_not_there_is_named(cli: Cli, tmp_path: Path) -> None:
    ended = cli("record", "a", "-o", str(tmp_path / "no" / "x.rec"), "--for", "1s")
    assert ended.returncode == Exit.USAGE
    assert "No such file or directory" in ended.stderr.decode()


def test_a_disk_that_is_full_is_said_and_what_was_written_stays(cli: Cli, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: writing fails in the same way."""
    path = tmp_path / "x.rec"
    command = f"ulimit -f 8; exec {shlex.join(BUS)} record r8 -o {path}"
    with subprocess.Popen(["bash", "-c", command], env=cli.environment, stderr=subprocess.PIPE) as process:
        try:
            wait_until(lambda: path.exists() and path.stat().st_size, what="the file")
            cli("pub", "r8", "x" * 5000, "--count", "20")
            _, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == Exit.FAILED
    assert str(path) in err.decode()
    assert "what was written until then stays" in err.decode()
    assert cli("replay", str(path), "--show").returncode == Exit.FAILED


def test_lost_messages_are_in_the_recording(cli: Cli, tmp_path: Path) -> None:
    path = made(
        tmp_path / "x.rec", message(0.0, "a"), Gap(0.5, "a", 7, "outbox-bytes"), Gap(0.6, "a", None, "reconnected")
    )
    shown = cli.records("replay", str(path), "--show")
    assert shown[2] == {"gap": {"seconds": 0.5, "pattern": "a", "count": 7, "reason": "outbox-bytes"}}
    assert shown[3]["gap"]["count"] is None
    ended = cli("replay", str(path), "--fast")
    assert ended.returncode == Exit.OK
    assert "7 messages on 'a' were lost here" in ended.stderr.decode()


def test_how_many_were_lost_is_not_made_up(tmp_path: Path) -> None:
    cli = Cli(f"unix://{tmp_path}/n/host.sock")
    words = ("record", "g1", "--output", str(tmp_path / "x.rec"), "--count", "1", "--for", "20s")
    with ExitStack() as stack:
        with running_node(tmp_path / "n"):
            process = stack.enter_context(cli.running(*words))
            wait_until(lambda: cli.is_known("g1"), what="the subscription")
        with running_node(tmp_path / "n"):
            wait_until(lambda: cli.is_known("g1"), what="the subscription is back")
            cli("pub", "g1", "1")
            out, _ = process.communicate(timeout=20)
    (told,) = lines_of(out)
    assert (told["messages"], told["gaps"], told["lost"]) == (1, 1, None)


# -- replay ------------------------------------------------------------------------------------------------------------


@pytest.mark.alone
def test_messages_come_with_the_spacing_that_they_had(cli: Cli, tmp_path: Path) -> None:
    path = made(tmp_path / "x.rec", *(message(5.0 + n * 0.3, "p1.x") for n in range(4)))
    for words, gap in (((), 0.3), (("--speed", "3"), 0.1), (("--speed", "0.5"), 0.6)):
        began = time.monotonic()
        moments = [at for at, _ in replayed_live(cli, str(path), *words, pattern="p1.x", count=4)]
        assert time.monotonic() - began >= 3 * gap
        spacing = [after - before for before, after in pairwise(moments)]
        assert sum(spacing) == pytest.approx(3 * gap, abs=0.25)


def replayed_live(cli: Cli, *words: str, pattern: str, count: int) -> list[tuple[float, Any]]:
    """As `replayed`, with the moment at which each came."""

    async def run() -> list[tuple[float, Any]]:
        got: list[tuple[float, Any]] = []
        url = cli.environment["BUS_URL"]
        async with busclient.connect(url, component="t") as bus, bus.subscribe(pattern) as subscription:
            replay = asyncio.create_task(asyncio.to_thread(cli, "replay", *words))
            async with asyncio.timeout(20):
                while len(got) < count:
                    item = await anext(subscription)
                    got.append((bus.time(), item))
            assert (await replay).returncode == 0
        return got

    return asyncio.run(run())


def test_a_part_of_it_on_other_subjects(cli: Cli, tmp_path: Path) -> None:
    path = made(tmp_path / "x.rec", message(0.0, "p2.a"), message(0.1, "p2.b.c"), message(0.2, "p3"))
    words = (str(path), "--fast", "--prefix", "lab.x", "-s", "p2.>")
    got = replayed(cli, *words, pattern="lab.>", count=2)
    assert [item.subject for _, item in got] == ["lab.x.p2.a", "lab.x.p2.b.c"]


def test_a_dry_run_needs_no_bus_and_says_what_would_come_when(tmp_path: Path) -> None:
    path = made(tmp_path / "x.rec", message(2.0, "a"), message(3.0, "$bus.endpoints.attached"), message(4.0, "b"))
    offline = Cli(f"unix://{tmp_path}/none.sock")
    ended = offline("replay", str(path), "--dry-run", "--speed", "4", "--prefix", "p")
    assert ended.returncode == Exit.OK
    assert lines_of(ended.stdout) == [
        {"seconds": 0.0, "subject": "p.a", "bytes": 1},
        {"seconds": 0.5, "subject": "p.b", "bytes": 1},
    ]
    assert "1 messages of the broker's own" in ended.stderr.decode()
    assert offline("replay", str(path), "--show").returncode == Exit.OK
    assert offline("replay", str(path)).returncode == Exit.NOT_CONNECTED


def test_a_damaged_file_publishes_nothing(cli: Cli, tmp_path: Path) -> None:
    path = made(tmp_path / "x.rec", *(message(0.0, "p4", b"\xa1%d" % n) for n in range(5)))
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    with cli.subscribed("p4", subject="p4") as reader:
        ended = cli("replay", str(path), "--fast")
        cli("pub", "p4", '"last"')
        assert reader.stdout is not None
        first = reader.stdout.readline()
    assert ended.returncode == Exit.FAILED
    assert f"{path} is damaged at record" in ended.stderr.decode()
    assert b'"last"' in first


def test_a_loop_of_one_message_does_not_flood_the_bus(cli: Cli, tmp_path: Path) -> None:
    path = made(tmp_path / "x.rec", message(0.0, "p6"), seconds=0.0)
    begun = time.monotonic()
    with cli.subscribed("p6", "--count", "6", subject="p6") as reader, cli.running("replay", str(path), "--loop"):
        assert reader.wait(20) == Exit.OK
    assert time.monotonic() - begun > 5 * LOOP_SECONDS


def test_it_goes_on_in_a_loop_until_ctrl_c(cli: Cli, tmp_path: Path) -> None:
    path = made(tmp_path / "x.rec", message(0.0, "p5"), message(0.01, "p5"), seconds=0.02)
    with cli.subscribed("p5", "--count", "7", subject="p5") as reader:
        with cli.running("replay", str(path), "--loop") as process:
            assert reader.wait(20) == Exit.OK
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=20)
        assert process.returncode == Exit.OK
    assert lines_of(out)[0]["replayed"] >= 7


def test_what_policy_refuses_ends_it(tmp_path: Path) -> None:
    policy = tmp_path / "policy.d"
    policy.mkdir(mode=0o755)
    (policy / "10-test.policy").write_text("allow publish a.> from host\nallow call $bus.> from host\n")
    path = made(tmp_path / "x.rec", message(0.0, "a.b"), message(0.0, "secret"))
    with running_node(tmp_path / "run", "--policy-dir", str(policy)) as running:
        ended = Cli(running.url)("replay", str(path), "--fast")
    assert ended.returncode == Exit.DENIED
    assert "secret" in ended.stderr.decode()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--fast", "--speed", "2"), 2, "--fast and --speed"),
        (("--show", "--loop"), 2, "--loop and --show"),
        (("--show", "--prefix", "a"), 2, "--show and --prefix"),
        (("--speed", "0"), 2, "more than zero"),
        (("--speed", "x"), 2, "not a number"),
        (("--subject", "a..b"), 2, "BUS-2002"),
        (("--prefix", "A"), 2, "BUS-2001"),
        (("--prefix", "x" * 254), 2, "BUS-2001"),
        (("--subject", "other.>"), 1, "no message"),
    ],
)
def test_what_cannot_be_done_is_said_before_a_bus_is_looked_for(
    words: tuple[str, ...], code: int, says: str, tmp_path: Path
) -> None:
    path = made(tmp_path / "x.rec", message(0.0, "a"))
    ended = Cli(f"unix://{tmp_path}/none.sock")("replay", str(path), *words)
    assert (ended.returncode, ended.stdout) == (code, b"")
    assert says in ended.stderr.decode()


def test_what_is_no_recording(tmp_path: Path) -> None:
    offline = Cli(f"unix://{tmp_path}/none.sock")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "text").write_text("no recording")
    for name, says in (
        ("fifo", "no plain file"),
        ("text", "BUS-6020"),
        ("gone", "No such file"),
        (".", "no plain file"),
    ):
        ended = offline("replay", str(tmp_path / name), "--show")
        assert ended.returncode in (Exit.FAILED, Exit.USAGE)
        assert says in ended.stderr.decode(), name
    assert offline("record", "a").returncode == Exit.USAGE


def test_on_a_terminal_both_say_what_they_do(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    code, shown = cli.on_terminal("record", "t1", "-o", str(path), "--for", "1500ms")
    assert code == Exit.OK
    assert "recording to" in shown
    assert "0 messages" in shown
    path = made(tmp_path / "y.rec", message(0.0, "t1"), message(0.1, "t1"))
    code, shown = cli.on_terminal("replay", str(path))
    assert code == Exit.OK
    assert "it is their origin now" in shown
    assert "published 2 messages" in shown
    assert "t1" in cli.on_terminal("replay", str(path), "--show")[1]
    assert "0.100000 s" in cli.on_terminal("replay", str(path), "--dry-run")[1]
