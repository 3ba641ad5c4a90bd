"""``bus pub``, ``bus sub`` and ``bus call`` on a real node: what arrives is what was sent, nothing is hidden."""

import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from buscli.exits import Exit
from tests.clients.cli_support import BUS, SECONDS, Cli, lines_of
from tests.support import RunningNode, running_node, wait_until

BINARY = bytes(range(256)) * 40


@pytest.fixture
def bus(shared_node: RunningNode) -> Cli:
    return Cli(shared_node.url)


# -- pub and sub ------------------------------------------------------------------------------------------------------


def test_what_is_published_is_printed_with_its_headers_and_its_origin(bus: Cli) -> None:
    with bus.subscribed("t1.>", "--count", "2", subject="t1.a") as sub:
        assert (
            bus("pub", "t1.a", '{"n": 1, "text": "grüße 🚌"}', "-H", "traceparent:00-ab", "-H", "id: 7").returncode == 0
        )
        assert bus("pub", "t1.b", "hello").returncode == 0
        out, err = sub.communicate(timeout=SECONDS)
    first, second = lines_of(out)
    assert first["subject"] == "t1.a"
    assert first["payload"] == {"n": 1, "text": "grüße 🚌"}
    assert first["headers"] == {"traceparent": "00-ab", "id": "7"}
    assert first["origin"]["boundary"] == "host"
    assert first["origin"]["tenant"] == "node"
    assert first["origin"]["endpoint"].startswith("host-")
    assert first["received"].endswith("Z")
    assert (second["subject"], second["payload"], second["headers"]) == ("t1.b", "hello", {})
    assert (sub.returncode, err) == (0, b"")


@pytest.mark.parametrize("how", ["argument", "dash", "implied", "file", "file-dash"])
def test_a_body_may_come_from_anywhere(bus: Cli, how: str, tmp_path: Path) -> None:
    text = b'{"from": [1, 2.5, null]}'
    (tmp_path / "body.json").write_bytes(text)
    words, stdin = {
        "argument": ([text.decode()], b""),
        "dash": (["-"], text),
        "implied": ([], text),
        "file": (["--file", str(tmp_path / "body.json")], b""),
        "file-dash": (["-f", "-"], text),
    }[how]
    with bus.subscribed("t2.x", "--count", "1", subject="t2.x") as sub:
        assert bus("pub", "t2.x", *words, stdin=stdin).returncode == 0
        assert lines_of(sub.communicate(timeout=SECONDS)[0])[0]["payload"] == {"from": [1, 2.5, None]}


def test_binary_survives_raw_from_end_to_end(bus: Cli) -> None:
    with bus.subscribed("t3.x", "--count", "1", "--raw", subject="t3.x") as sub:
        assert bus("pub", "t3.x", "--raw", stdin=BINARY).returncode == 0
        assert sub.communicate(timeout=SECONDS)[0] == BINARY


def test_binary_survives_json_from_end_to_end(bus: Cli) -> None:
    """Raw bytes print as $bytes; $bytes published again is msgpack binary, and prints the same."""
    with bus.subscribed("t4.>", "--count", "2", subject="t4.x") as sub:
        assert bus("pub", "t4.x", "--raw", stdin=BINARY).returncode == 0
        assert bus("pub", "t4.y", '{"$bytes": "AAH/"}').returncode == 0
        raw, packed = lines_of(sub.communicate(timeout=SECONDS)[0])
    assert list(raw["payload"]) == ["$bytes"]
    assert raw["headers"] == {"datacontenttype": "application/octet-stream"}
    assert packed["payload"] == {"$bytes": "AAH/"}
    assert packed["headers"] == {}


def test_a_body_of_several_megabytes_arrives_whole(bus: Cli) -> None:
    large = os.urandom(5 << 20)
    with bus.subscribed("t5.x", "--count", "1", "--raw", subject="t5.x") as sub:
        with subprocess.Popen([*BUS, "pub", "t5.x", "--raw"], env=bus.environment, stdin=subprocess.PIPE) as pub:
            pub.communicate(large, timeout=SECONDS)
        assert sub.communicate(timeout=SECONDS)[0] == large
    assert pub.returncode == 0


def test_payloads_of_other_types_are_shown_as_what_they_are(bus: Cli) -> None:
    cases = [
        ("application/json", b'{"a": [1]}', {"a": [1]}),
        ("application/cloudevents+json; charset=utf-8", b"[1]", [1]),
        ("text/plain", "grüße".encode(), "grüße"),
        ("text/plain", b"\xff", {"$bytes": "/w=="}),
        ("application/json", b"{", {"$bytes": "ew=="}),
    ]
    with bus.subscribed("t6.x", "--count", str(len(cases)), subject="t6.x") as sub:
        for kind, data, _ in cases:
            assert bus("pub", "t6.x", "--raw", "-H", f"datacontenttype:{kind}", stdin=data).returncode == 0
        shown = lines_of(sub.communicate(timeout=SECONDS)[0])
    assert [each["payload"] for each in shown] == [expected for _, _, expected in cases]


def test_a_payload_that_is_not_what_it_should_be_is_shown_and_does_not_end_the_subscriber(bus: Cli) -> None:
    with bus.subscribed("t7.x", "--count", "2", subject="t7.x") as sub:
        kind = "datacontenttype:application/msgpack"
        assert bus("pub", "t7.x", "--raw", "-H", kind, stdin=b"\xc1").returncode == 0
        assert bus("pub", "t7.x", "1").returncode == 0
        bad, good = lines_of(sub.communicate(timeout=SECONDS)[0])
    assert bad["payload"] == {"$bytes": "wQ=="}
    assert "BUS-6002" in bad["error"]
    assert good["payload"] == 1


def test_lines_are_published_as_they_come(bus: Cli) -> None:
    with (
        bus.subscribed("t8.x", "--count", "3", subject="t8.x") as sub,
        bus.running("pub", "t8.x", "--lines") as pub,
    ):
        assert pub.stdin is not None
        assert sub.stdout is not None
        for number in (1, 2):
            pub.stdin.write(b'{"n": %d}\n' % number)
            pub.stdin.flush()
            assert lines_of(sub.stdout.readline())[0]["payload"] == {"n": number}
        pub.stdin.write(b"last")
        pub.stdin.close()
        assert lines_of(sub.stdout.readline())[0]["payload"] == "last"
        assert pub.wait(SECONDS) == 0


def test_a_bad_line_ends_pub_after_those_before_it_and_is_named(bus: Cli) -> None:
    with bus.subscribed("t9.x", "--count", "1", subject="t9.x") as sub:
        ended = bus("pub", "t9.x", "--lines", stdin=b'1\n{"n":\n3\n')
        assert ended.returncode == Exit.USAGE
        assert b"line 2 of standard input" in ended.stderr
        assert lines_of(sub.communicate(timeout=SECONDS)[0])[0]["payload"] == 1


def test_raw_lines_go_from_file_to_file(bus: Cli, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\n\xfftwo\n\nfour\n")
    with bus.subscribed("t10.x", "--count", "4", "--raw", "--lines", subject="t10.x") as sub:
        assert bus("pub", "t10.x", "--lines", "--raw", "--file", str(log)).returncode == 0
        assert sub.communicate(timeout=SECONDS)[0] == log.read_bytes()


def test_count_repeats_and_rate_spreads(bus: Cli) -> None:
    with bus.subscribed("t11.x", "--count", "20", subject="t11.x") as sub:
        start = time.monotonic()
        assert bus("pub", "t11.x", "1", "--count", "20", "--rate", "100").returncode == 0
        assert time.monotonic() - start >= 0.19
        assert len(lines_of(sub.communicate(timeout=SECONDS)[0])) == 20


def test_messages_that_match_several_patterns_are_printed_once(bus: Cli) -> None:
    words = ("t12.>", "t12.a", "t12.*", "--exclude", "t12.no", "--exclude", "t12.never.>", "--count", "3")
    with bus.subscribed(*words, subject="t12.last") as sub:
        for subject in ("t12.a", "t12.no", "t12.never.x", "t12.b", "t12.last"):
            assert bus("pub", subject, "1").returncode == 0
        shown = lines_of(sub.communicate(timeout=SECONDS)[0])
    assert [each["subject"] for each in shown] == ["t12.a", "t12.b", "t12.last"]


def test_count_holds_over_all_patterns(bus: Cli) -> None:
    with bus.subscribed("t21.a", "t21.b", "--count", "3", subject="t21.b") as sub:
        wait_until(lambda: bus.is_known("t21.a"))
        with bus.running("pub", "t21.a", "1", "--count", "500"), bus.running("pub", "t21.b", "1", "--count", "500"):
            assert len(lines_of(sub.communicate(timeout=SECONDS)[0])) == 3
    assert sub.returncode == Exit.OK


def test_presence_can_be_watched(bus: Cli) -> None:
    with bus.subscribed("$bus.endpoints.attached", subject="$bus.endpoints.attached") as sub:
        bus("pub", "t13.x", "1")
        assert sub.stdout is not None
        seen = None
        while seen is None or seen["payload"]["claims"].get("purpose") != "bus pub t13.x":
            (seen,) = lines_of(sub.stdout.readline())
    assert seen["origin"]["endpoint"] == "$bus"
    assert seen["payload"]["claims"]["component"] == "bus-cli"


def test_timeout_is_a_normal_end_unless_messages_are_missing(bus: Cli) -> None:
    ended = bus("sub", "t14.x", "--timeout", "200ms")
    assert (ended.returncode, ended.stdout) == (Exit.OK, b"")
    ended = bus("sub", "t14.x", "--timeout", "200ms", "--count", "1")
    assert (ended.returncode, ended.stdout) == (Exit.TIMEOUT, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_a_subscriber_is_its_normal_end(bus: Cli, number: signal.Signals) -> None:
    with bus.subscribed("t15.x", subject="t15.x") as sub:
        sub.send_signal(number)
        out, err = sub.communicate(timeout=SECONDS)
    assert (sub.returncode, out, err) == (Exit.OK, b"", b"")


def test_stopping_a_subscriber_that_still_waits_for_messages_is_an_interruption(bus: Cli) -> None:
    with bus.subscribed("t16.x", "--count", "5", subject="t16.x") as sub:
        sub.send_signal(signal.SIGINT)
        assert sub.communicate(timeout=SECONDS) == (b"", b"")
    assert sub.returncode == Exit.INTERRUPTED


def test_a_subscriber_ends_as_soon_as_nobody_reads_it(bus: Cli) -> None:
    """`bus sub 'x.>' | head -1` must not stay until another message comes."""
    with bus.subscribed("t17.x", subject="t17.x") as sub:
        assert bus("pub", "t17.x", "1").returncode == 0
        assert sub.stdout is not None
        assert sub.stderr is not None
        assert sub.stdout.readline()
        sub.stdout.close()
        assert sub.wait(5) == Exit.BROKEN_PIPE
        assert sub.stderr.read() == b""


def test_losses_are_shown_where_they_happened(bus: Cli, shared_node: RunningNode) -> None:
    """A subscriber whose output nobody reads loses messages, and says how many, both to people and to programs."""
    sent = 120_000
    with bus.subscribed("t18.x", subject="t18.x") as sub:
        words = ["pub", "t18.x", '"' + "x" * 900 + '"', "--count", str(sent)]
        subprocess.run([*BUS, *words], env=bus.environment, timeout=60, check=True)
        assert sub.stdout is not None
        assert sub.stderr is not None
        seen = lost = 0
        while seen + lost < sent:
            (record,) = lines_of(sub.stdout.readline())
            if "gap" in record:
                assert record["gap"]["pattern"] == "t18.x"
                lost += record["gap"]["count"]
            else:
                seen += 1
        sub.send_signal(signal.SIGINT)
        said = sub.stderr.read()
    assert seen + lost == sent
    assert lost > 0
    assert b"BUS-4002" in said
    assert b"were lost here" in said


def test_stopping_a_publisher_that_waits_for_lines_is_quiet(bus: Cli) -> None:
    """Its reading thread still waits: the interpreter must end all the same, and send what was read."""
    with bus.subscribed("t19.x", "--count", "1", subject="t19.x") as sub, bus.running("pub", "t19.x", "--lines") as pub:
        assert pub.stdin is not None
        assert pub.stderr is not None
        pub.stdin.write(b"1\n")
        pub.stdin.flush()
        assert lines_of(sub.communicate(timeout=SECONDS)[0])[0]["payload"] == 1
        pub.send_signal(signal.SIGINT)
        assert pub.wait(SECONDS) == Exit.INTERRUPTED
        assert pub.stderr.read() == b""


def test_a_subscriber_comes_back_with_its_bus_and_says_that_it_was_away(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        bus = Cli(node.url)
        sub = bus.start("sub", "t20.x", "--count", "1")
        wait_until(lambda: bus.is_known("t20.x"), what="subscribed")
    try:
        with running_node(tmp_path):
            wait_until(lambda: bus.is_known("t20.x"), what="subscribed again")
            assert bus("pub", "t20.x", "1").returncode == 0
            out, err = sub.communicate(timeout=SECONDS)
    finally:
        sub.kill()
    gap, message = lines_of(out)
    assert gap == {"gap": {"pattern": "t20.x", "count": None, "reason": "reconnected"}}
    assert message["payload"] == 1
    assert b"an unknown number of messages on 't20.x' were lost here: reconnected" in err


# -- call -------------------------------------------------------------------------------------------------------------


def test_a_reply_is_printed_as_its_payload(bus: Cli) -> None:
    assert bus.records("call", "$bus.ping")[0]["node"]
    with bus.serving("c1.echo", "--echo", subject="c1.echo"):
        assert bus.records("call", "c1.echo", '{"n": [1, null, "x"]}') == [{"n": [1, None, "x"]}]
        assert bus.records("call", "c1.echo") == [None]
        assert bus.records("call", "c1.echo", "-", stdin=b"[2]") == [[2]]
        assert bus.records("call", "c1.echo", '{"$map": [[1, {"$bytes": "AA=="}]]}') == [
            {"$map": [[1, {"$bytes": "AA=="}]]}
        ]


def test_call_leaves_standard_input_alone(bus: Cli) -> None:
    """`while read x; do bus call y; done` must not lose its input to the command."""
    loop = f"while read x; do {' '.join(BUS)} call '$bus.ping' > /dev/null && echo got $x; done"
    ended = subprocess.run(
        ["sh", "-c", loop], input=b"1\n2\n", stdout=subprocess.PIPE, env=bus.environment, timeout=SECONDS
    )
    assert ended.stdout == b"got 1\ngot 2\n"


def test_a_streamed_reply_is_printed_part_by_part(bus: Cli) -> None:
    import asyncio

    import busclient

    async def parts(call: busclient.Call) -> AsyncIterator[int]:
        for number in range(3):
            yield number
        if call.payload == "fail":
            raise busclient.BusError(12345)

    async def main() -> None:
        async with busclient.connect(bus.environment["BUS_URL"]) as client, client.serve("c10.parts", parts):
            ended = await asyncio.to_thread(bus, "call", "c10.parts", "--stream")
            assert (ended.returncode, ended.stdout) == (Exit.OK, b"0\n1\n2\n")
            ended = await asyncio.to_thread(bus, "call", "c10.parts", "fail", "--stream")
            assert (ended.returncode, ended.stdout) == (Exit.FAILED, b"0\n1\n2\n")
            assert ended.stderr.startswith(b"BUS-12345 application")
            ended = await asyncio.to_thread(bus, "call", "c10.nobody", "--stream")
            assert (ended.returncode, ended.stdout) == (Exit.NO_RESPONDERS, b"")

    asyncio.run(main())


def test_full_shows_headers_and_origin(bus: Cli) -> None:
    with bus.serving("c2.echo", "--echo", subject="c2.echo"):
        (reply,) = bus.records("call", "c2.echo", "1", "-H", "id:5", "--full")
    assert reply["payload"] == 1
    assert reply["headers"] == {"id": "5"}
    assert reply["origin"]["endpoint"].startswith("host-")


def test_raw_goes_in_and_comes_out(bus: Cli, tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(BINARY)
    with bus.serving("c3.echo", "--echo", subject="c3.echo"):
        ended = bus("call", "c3.echo", "--raw", "--file", str(path))
    assert (ended.returncode, ended.stdout) == (0, BINARY)


def refused(ended: "subprocess.CompletedProcess[bytes]", code: int, name: str) -> None:
    """The command was refused as a user should see it: code, cause, cure, nothing else."""
    said = ended.stderr.decode()
    assert ended.returncode == code, said
    assert ended.stdout == b""
    assert said.startswith(name)
    assert "\n  try: " in said
    assert "Traceback" not in said


def test_no_responders_is_known_at_once(bus: Cli) -> None:
    start = time.monotonic()
    refused(bus("call", "c4.nobody", "--timeout", "20s"), Exit.NO_RESPONDERS, "BUS-3001 no-responders: nobody serves")
    assert time.monotonic() - start < 10


def test_a_timeout_has_a_code_of_its_own(bus: Cli) -> None:
    with bus.serving("c5.slow", "--exec", "sleep 60", subject="c5.slow"):
        refused(bus("call", "c5.slow", "--timeout", "300ms"), Exit.TIMEOUT, "BUS-3002 timeout")


def test_an_error_reply_is_a_failure_with_the_responders_words(bus: Cli) -> None:
    with bus.serving("c6.bad", "--exec", "echo went wrong >&2; exit 3", subject="c6.bad"):
        ended = bus("call", "c6.bad")
    refused(ended, Exit.FAILED, "BUS-3007 handler-failed")
    assert b"ended with status 3: went wrong" in ended.stderr


def test_a_responder_that_dies_leaves_the_outcome_unknown(bus: Cli) -> None:
    with (
        bus.serving("c7.dies", "--exec", "sleep 60", subject="c7.dies") as serve,
        bus.running("call", "c7.dies") as call,
    ):
        wait_until(lambda: any(row["held_calls"] for row in bus.records("list")), what="the call reaches the responder")
        serve.kill()
        _, err = call.communicate(timeout=SECONDS)
    assert call.returncode == Exit.UNKNOWN
    assert err.startswith(b"BUS-3006 unknown")


def test_an_interrupted_call_ends_quietly(bus: Cli) -> None:
    with bus.serving("c8.slow", "--exec", "sleep 60", subject="c8.slow"), bus.running("call", "c8.slow") as call:
        wait_until(lambda: any(row["held_calls"] for row in bus.records("list")), what="the call reaches the responder")
        call.send_signal(signal.SIGINT)
        assert call.communicate(timeout=SECONDS) == (b"", b"")
    assert call.returncode == Exit.INTERRUPTED


def test_more_calls_than_the_quota_are_overloaded(bus: Cli) -> None:
    """One caller may have so many calls in flight; the one above that is refused, not queued."""
    import asyncio

    import busclient
    from buscli.failures import exit_of

    async def flood() -> list[int]:
        async with busclient.connect(bus.environment["BUS_URL"]) as client:

            async def sleepy(call: Any) -> None:
                await asyncio.sleep(30)

            async with client.serve("c9.slow", sleepy, concurrency=1) as service:
                calls = [asyncio.create_task(client.call("c9.slow", timeout=20.0)) for _ in range(20_000)]
                done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED, timeout=SECONDS)
                codes: list[int] = [exit_of(task.exception()) for task in done]  # type: ignore[arg-type]
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
                await service.close(cancel=True)
                return codes

    assert set(asyncio.run(flood())) == {Exit.OVERLOADED}


@pytest.mark.parametrize(
    "words",
    ["pub a 1", "sub a", "call a", "serve a --echo", "list", "inspect host-1", "ping", "stats", "explain a", "bench"],
)
def test_without_a_bus_every_command_says_so(tmp_path: Path, words: str) -> None:
    missing = str(tmp_path / "no.sock")
    ended = Cli(missing)(*words.split())
    refused(ended, Exit.NOT_CONNECTED, "BUS-6001 not-connected")
    assert missing.encode() in ended.stderr


def test_something_else_on_the_socket_is_not_taken_for_a_bus(tmp_path: Path) -> None:
    import socket
    import threading

    path = str(tmp_path / "other.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b" " * 64)
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        ended = Cli(path)("list")
        thread.join(SECONDS)
    assert ended.returncode == Exit.FAILED
    assert ended.stderr.startswith(b"BUS-1001 zmtp-greeting")
    assert b"Traceback" not in ended.stderr
