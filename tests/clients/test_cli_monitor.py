"""``bus monitor`` as a user meets it: a real node, a pipe, a terminal."""

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import busclient
from buscli.exits import Exit
from busd.core.taps import LOST_SECONDS
from tests.clients.cli_support import Cli, lines_of
from tests.support import RunningNode, running_node, wait_until


@pytest.fixture
def cli(shared_node: RunningNode) -> Cli:
    return Cli(shared_node.url)


def census(cli: Cli) -> list[Any]:
    async def ask() -> Any:
        async with busclient.connect(cli.environment["BUS_URL"], component="test") as bus:
            return (await bus.call("$bus.list", {})).payload["endpoints"]

    rows: list[Any] = asyncio.run(ask())
    return rows


def monitors(cli: Cli) -> list[Any]:
    return [row for row in census(cli) if row["monitoring"]]


@contextmanager
def monitoring(cli: Cli, *words: str) -> "Iterator[subprocess.Popen[bytes]]":
    """``bus monitor`` with these words, from when the broker tells it of what passes."""
    before = len(monitors(cli))
    with cli.running("monitor", *words) as process:
        wait_until(lambda: len(monitors(cli)) > before or process.poll() is not None, what="a monitor")
        assert process.poll() is None, process.stderr.read() if process.stderr else b""
        yield process


def test_each_line_is_a_message_with_headers_and_a_payload_on_request(cli: Cli) -> None:
    with monitoring(cli, "m1.>", "--count", "2", "--payload", "9") as process:
        cli("pub", "m1.a", '{"n": 1}', "-H", "traceparent:x")
        cli("pub", "m1.b", '"a text that is longer than that"')
        out, _ = process.communicate(timeout=20)
    assert process.returncode == Exit.OK
    first, second = lines_of(out)
    assert (first["kind"], first["subject"], first["tenant"]) == ("publish", "m1.a", "node")
    assert (first["payload"], first["headers"], first["bytes"]) == ({"n": 1}, {"traceparent": "x"}, 4)
    assert first["origin"]["boundary"] == "host"
    assert first["time"].endswith("Z")
    assert (second["cut"], len(second["payload"]["$bytes"])) == (True, 12)


def test_without_payload_none_is_shown(cli: Cli) -> None:
    with monitoring(cli, "m2", "--count", "1") as process:
        cli("pub", "m2", "secret")
        out, _ = process.communicate(timeout=20)
    assert b"secret" not in out
    assert lines_of(out)[0]["bytes"] == 7


def test_a_call_its_answer_and_one_that_nobody_serves(cli: Cli) -> None:
    with monitoring(cli, "m3.>", "-k", "call", "-k", "reply", "--count", "4") as process:
        with cli.serving("m3.echo", "--echo", "--quiet", subject="m3.echo"):
            cli("call", "m3.echo", "1")
        cli("call", "m3.none")
        out, _ = process.communicate(timeout=20)
    told = [(each["kind"], each["subject"], each.get("status")) for each in lines_of(out)]
    assert told == [
        ("call", "m3.echo", None),
        ("reply", "m3.echo", "reply"),
        ("call", "m3.none", None),
        ("reply", "m3.none", "no-responders"),
    ]


def test_everybody_sees_that_somebody_monitors(cli: Cli) -> None:
    with monitoring(cli, "m4.>", "--tenant", "acme", "--payload", "10") as process:
        (row,) = monitors(cli)
        assert row["claims"]["purpose"] == "bus monitor m4.>"
        _, shown = cli.on_terminal("list")
        assert "monitors: everything m4.> of acme with payloads" in " ".join(shown.replace("│", " ").split())
        _, shown = cli.on_terminal("inspect", row["endpoint"])
        assert "monitors everything m4.> of acme with payloads for" in shown
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == Exit.OK
    assert monitors(cli) == []


def test_who_it_was_is_in_the_audit_log(cli: Cli) -> None:
    with monitoring(cli, "m5") as process:
        process.send_signal(signal.SIGINT)
        process.wait(20)

    def told() -> list[Any]:
        acts = [each for each in cli.records("audit", "show", "--event", "act") if "monitor" in each["what"]]
        return [each["outcome"] for each in acts if each["facts"].get("patterns") == ["m5"]]

    wait_until(lambda: told() == ["ok", "ended: cancelled"], what="both acts")


def test_kinds_may_be_all(cli: Cli) -> None:
    with monitoring(cli, "m6", "--kind", "denied", "--kind", "all", "--count", "1") as process:
        cli("pub", "m6", "1")
        assert process.wait(20) == Exit.OK


def test_with_count_it_ends_with_4_when_the_time_passes_first(cli: Cli) -> None:
    assert cli("monitor", "m7", "--count", "1", "--for", "100ms").returncode == Exit.TIMEOUT
    assert cli("monitor", "m7", "--for", "100ms").returncode == Exit.OK


def test_it_ends_when_nobody_reads(cli: Cli) -> None:
    with monitoring(cli, "m8") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(20) == Exit.BROKEN_PIPE


def test_on_a_terminal_it_is_a_line_for_people(cli: Cli) -> None:
    words = ("monitor", "m9.>", "--count", "3", "--payload", "100", "--for", "20s")
    done: list[tuple[int, str]] = []
    thread = Thread(target=lambda: done.append(cli.on_terminal(*words)))
    thread.start()
    wait_until(lambda: monitors(cli), what="a monitor")
    cli("pub", "m9.a", '"hi\\u001b[2J"', "-H", "note:fine")
    cli("call", "m9.none")
    thread.join(30)
    code, shown = done[0]
    assert code == Exit.OK, shown
    assert "m9.a" in shown
    assert "0 receivers" in shown
    assert "note\x1b[0m: fine" in shown
    assert "no-responders" in shown
    assert "\x1b[2J" not in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("a..b",), "BUS-2002"),
        (("--payload", "65537"), "--payload 65537 is more"),
        (("--kind", "publications"), "invalid choice"),
        (("--for", "soon"), "not a duration"),
        (("--count", "0"), "at least 1"),
    ],
)
def test_a_wrong_command_line_is_refused(cli: Cli, words: tuple[str, ...], says: str) -> None:
    ended = cli("monitor", *words)
    assert ended.returncode == Exit.USAGE
    assert says in ended.stderr.decode()


def test_a_tenant_name_that_is_none_is_refused_by_the_broker(cli: Cli) -> None:
    ended = cli("monitor", "--tenant", "ACME")
    assert ended.returncode == Exit.FAILED
    assert "BUS-2008" in ended.stderr.decode()


def test_an_endpoint_that_nobody_is_is_refused(cli: Cli) -> None:
    ended = cli("monitor", "--endpoint", "host-99999")
    assert (ended.returncode, ended.stdout) == (Exit.FAILED, b"")
    assert "bus monitor: no endpoint is called 'host-99999'\n  try: bus list\n" in ended.stderr.decode()


def test_it_goes_on_when_the_bus_is_started_again(tmp_path: Path) -> None:
    cli = Cli(f"unix://{tmp_path}/n/host.sock")
    with ExitStack() as stack:
        with running_node(tmp_path / "n"):
            process = stack.enter_context(monitoring(cli, "r1", "--count", "2"))
            cli("pub", "r1", "1")
        with running_node(tmp_path / "n"):
            wait_until(lambda: monitors(cli), what="the monitor is back")
            cli("pub", "r1", "2")
            out, err = process.communicate(timeout=20)
    assert process.returncode == Exit.OK
    told = [(each["kind"], each.get("missed", "-")) for each in lines_of(out)]
    assert told == [("publish", "-"), ("missed", None), ("publish", "-")]
    assert b"is missing until the bus is back" in err


def test_who_may_not_is_told_by_policy(tmp_path: Path) -> None:
    policy = tmp_path / "policy.d"
    policy.mkdir(mode=0o755)
    rules = ("deny call $bus.admin.monitor from host", "allow subscribe,call $bus.>,> from host")
    (policy / "10-test.policy").write_text("\n".join((*rules, "")))
    with running_node(tmp_path / "run", "--policy-dir", str(policy)) as running:
        ended = Cli(running.url)("monitor")
    assert ended.returncode == Exit.DENIED
    said = ended.stderr.decode()
    assert "10-test.policy:1" in said
    assert "run it as root or as the user that busd runs as" in said


@pytest.mark.alone
def test_a_flood_is_counted_and_nobody_waits_for_the_monitor(cli: Cli) -> None:
    """A subscriber gets all of a flood while a monitor that wants all of it is told how much it missed."""
    count = 60_000

    async def flood() -> int:
        url = cli.environment["BUS_URL"]
        async with busclient.connect(url, component="s") as sender, busclient.connect(url, component="r") as receiver:
            got = 0
            async with receiver.subscribe("flood", max_pending=count + 1) as subscription:
                for n in range(count):
                    await sender.publish("flood", n)
                await sender.flush()
                async for _ in subscription:
                    got += 1
                    if got == count:
                        return got
        return got

    lines: list[Any] = []
    with monitoring(cli, "flood", "--payload", "100") as process:
        assert process.stdout is not None
        reader = Thread(target=lambda: lines.extend(map(json.loads, process.stdout or ())))
        reader.start()
        assert asyncio.run(flood()) == count
        wait_until(lambda: sum(map(accounted, monitors(cli))) >= count, what="all accounted for")
        time.sleep(2 * LOST_SECONDS)  # by then it is told of what it missed last
        (row,) = monitors(cli)
        wait_until(lambda: sum(line["kind"] == "publish" for line in lines) == row["monitoring"][0]["told"])
        process.send_signal(signal.SIGINT)
        reader.join(20)
        assert process.stderr is not None
        err = process.stderr.read()
    told = [line for line in lines if line["kind"] == "publish"]
    losses = [line for line in lines if line["kind"] == "missed"]
    assert len(told) == row["monitoring"][0]["told"]
    missed, unseen = (sum(line[what] for line in losses) for what in ("missed", "unseen"))
    assert len(told) + missed <= count <= len(told) + missed + unseen, "what was not looked at may be anything"
    assert losses, json.dumps(row["monitoring"])
    assert b"bus monitor: missed" in err


def accounted(row: Any) -> int:
    tap = row["monitoring"][0]
    return int(tap["told"] + tap["missed"] + tap["unseen"])
