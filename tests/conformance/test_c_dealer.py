"""dealer.c, compiled against the system's libzmq, takes part in the bus: another language needs a page and libzmq."""

import os
import shutil
import subprocess
from pathlib import Path

import msgpack
import pytest

from tests.conformance.dealer import CALL, PUBLISH, REPLY, SERVE, SUBSCRIBE, Dealer
from tests.support import RunningNode, needs

SOURCE = Path(__file__).with_name("dealer.c")
SECONDS = 30


def flags() -> list[str]:
    """How to link with libzmq: what pkg-config says, or the usual."""
    if shutil.which("pkg-config") is None:
        return ["-lzmq"]
    found = subprocess.run(["pkg-config", "--cflags", "--libs", "libzmq"], capture_output=True, text=True, check=False)
    return found.stdout.split() if found.returncode == 0 else ["-lzmq"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled client. Skips, or with BUSD_REQUIRE_ALL=1 fails, where it cannot be compiled for want of tools."""
    needs("gcc")
    target = tmp_path_factory.mktemp("dealer") / "dealer"
    probe = subprocess.run(
        ["gcc", "-E", "-x", "c", "-"], input="#include <zmq.h>\n", capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        text = "zmq.h is not installed (Debian: libzmq3-dev)"
        if os.environ.get("BUSD_REQUIRE_ALL") == "1":
            pytest.fail(f"{text}, and BUSD_REQUIRE_ALL=1 leaves nothing out")
        pytest.skip(text)
    command = ["gcc", "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(target), str(SOURCE), *flags()]
    built = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS * 2)
    assert built.returncode == 0, built.stderr
    return target


def test_hello_subscribe_publish_call_and_serve(shared_node: RunningNode, program: Path) -> None:
    with Dealer(shared_node.url, component="python") as peer:
        peer.send([SERVE, 1, "conformance.python", {}], [SUBSCRIBE, 2, "conformance.tick", {}])
        assert peer.expect(REPLY).fields[1:3] == [1, 0]
        assert peer.expect(REPLY).fields[1:3] == [2, 0]
        url = shared_node.url.replace("unix://", "ipc://")
        command = [str(program), url, "conformance.python"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                asked = peer.expect(CALL)
                name = asked.origin
                assert asked.fields[2:] == ["conformance.python", 5000, None, msgpack.packb({"n": 1})]
                tick = peer.expect(PUBLISH)
                assert tick.fields == [PUBLISH, "conformance.tick", None, msgpack.packb({"n": 1})]
                assert tick.origin == name
                body = {"code": 10_001, "name": "own-error", "text": "no", "retryable": False, "fields": {}}
                peer.send(
                    [REPLY, asked.fields[1], 1, None, b"\x01"], [REPLY, asked.fields[1], 2, None, msgpack.packb(body)]
                )
                peer.send([PUBLISH, "conformance.tock", {"id": "1"}, b"p" * 100_000])
                peer.send([CALL, 3, "conformance.c.echo", 5000, {"n": 1}, b"\xa5hello"])
                for status in (1, 0):
                    reply = peer.expect(REPLY)
                    assert reply.fields == [REPLY, 3, status, None, b"\xa5hello"]
                    assert reply.origin == name
                [row] = [row for row in peer.call(4, "$bus.list")["endpoints"] if row["endpoint"] == name]
                assert row["claims"]["component"] == "c-dealer"
                assert row["serves"] == ["conformance.c.*"]
                peer.send([CALL, 5, "conformance.c.stop", 5000, None, b"\xc0"])
                assert [peer.expect(REPLY).fields[2] for _ in range(2)] == [1, 0]
                out, errors = process.communicate(timeout=SECONDS)
            finally:
                process.kill()
    assert process.returncode == 0, errors
    assert errors == ""
    lines = out.splitlines()
    assert lines[0] == f"welcome version 1 endpoint {name}"
    assert {
        "reply 1 status 0 from $bus",
        "reply 2 status 0 from $bus",
        "reply 4 status 3 from $bus no-responders",
        f"message conformance.tick of 4 bytes from {name}",
        f"message conformance.tock of 100000 bytes from {peer.name}",
        f"reply 5 status 1 from {peer.name}",
        f"reply 5 status 2 from {peer.name} own-error",
        f"call conformance.c.echo within its time from {peer.name}",
        f"call conformance.c.stop within its time from {peer.name}",
    } < set(lines)
    assert any(line.startswith("reply 3 status 0 from $bus ") for line in lines), "$bus.ping names the node"
    assert lines[-1] == "bye"


def test_it_says_why_it_gives_up(program: Path) -> None:
    run = subprocess.run([str(program)], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert run.returncode == 1
    assert run.stderr == "dealer: usage: dealer URL WANTED\n"
