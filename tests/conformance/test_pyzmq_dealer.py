"""A libzmq DEALER through pyzmq takes part in the bus with no code of ours between it and the socket."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from typing import Any

import msgpack
import pytest
import zmq

from tests.conformance.dealer import (
    BYE,
    CALL,
    CANCEL,
    ERROR,
    HELLO,
    PING,
    PONG,
    PUBLISH,
    REPLY,
    SERVE,
    SUBSCRIBE,
    UNSERVE,
    UNSUBSCRIBE,
    WELCOME,
    Dealer,
)
from tests.support import ROOT, RunningNode, environment, wait_until

NIL = b"\xc0"


def test_hello_and_requests_in_one_frame(shared_node: RunningNode) -> None:
    with Dealer(shared_node.url, hello=False) as peer:
        peer.send(
            [HELLO, 1, {"component": "stock", "owner": "tests", "purpose": "has no SDK"}],
            [SUBSCRIBE, 1, "stock.*", {}],
            [PUBLISH, "stock.tick", {"id": "7"}, msgpack.packb({"n": 1})],
            [CALL, 2, "$bus.ping", 5000, None, NIL],
        )
        welcome = peer.expect(WELCOME).fields
        name, info = welcome[2], welcome[3]
        assert welcome[1] == 1
        assert info["boundary"] == "host"
        assert info["tenant"] == "node"
        assert info["max_frame"] >= info["max_payload"] > 0
        assert peer.expect(REPLY).fields[1:3] == [1, 0]
        message = peer.expect(PUBLISH)
        assert message.fields == [PUBLISH, "stock.tick", {"id": "7"}, msgpack.packb({"n": 1})]
        assert message.origin == name
        reply = peer.expect(REPLY)
        assert reply.fields[1:3] == [2, 0]
        assert reply.origin == "$bus"
        assert msgpack.unpackb(reply.fields[4]) == {"endpoint": name, "node": info["node"]}


def test_publish_reaches_others_verbatim_and_once(shared_node: RunningNode) -> None:
    with Dealer(shared_node.url) as sender, Dealer(shared_node.url) as receiver:
        receiver.send([SUBSCRIBE, 1, "once.>", {}], [SUBSCRIBE, 2, "once.*", {}])
        receiver.expect(REPLY)
        receiver.expect(REPLY)
        sent = [[PUBLISH, "once.a", {"n": number}, b"x" * (10 * number)] for number in range(50)]
        sender.send(*sent[:20])
        for message in sent[20:]:
            sender.send(message)
        for message in sent:
            got = receiver.expect(PUBLISH)
            assert got.fields == message
            assert got.origin == sender.name
        assert receiver.call(3, "$bus.ping")["endpoint"] == receiver.name
        receiver.send([UNSUBSCRIBE, 4, 1])
        assert receiver.expect(REPLY).fields[1:3] == [4, 0]


def test_call_and_serve_with_parts(shared_node: RunningNode) -> None:
    with Dealer(shared_node.url) as server, Dealer(shared_node.url) as caller:
        server.send([SERVE, 1, "stock.echo", {"group": "stock"}])
        assert server.expect(REPLY).fields[1:3] == [1, 0]
        caller.send(
            [CALL, 9, "stock.echo", 5000, {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}, b"\xa2hi"]
        )
        asked = server.expect(CALL)
        number = asked.fields[1]
        assert asked.origin == caller.name
        assert asked.fields[2:] == [
            "stock.echo",
            5000,
            {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"},
            b"\xa2hi",
        ]
        server.send(
            [REPLY, number, 1, None, b"\x01"], [REPLY, number, 1, None, b"\x02"], [REPLY, number, 0, {"n": 3}, b"\x03"]
        )
        for status, headers, payload in ((1, None, b"\x01"), (1, None, b"\x02"), (0, {"n": 3}, b"\x03")):
            got = caller.expect(REPLY)
            assert got.fields == [REPLY, 9, status, headers, payload]
            assert got.origin == server.name
        server.send([UNSERVE, 2, 1])
        assert server.expect(REPLY).fields[1:3] == [2, 0]
        caller.send([CALL, 10, "stock.echo", 5000, None, NIL])
        assert caller.expect(REPLY).fields[1:3] == [10, 3]


def outcome(peer: Dealer, id: int) -> tuple[int, dict[str, Any]]:
    """Status and error body of the final reply to ``id``, which must come next."""
    reply = peer.expect(REPLY, lambda fields: fields[1] == id).fields
    return reply[2], msgpack.unpackb(reply[4])


def test_every_way_a_call_can_end(shared_node: RunningNode) -> None:
    with Dealer(shared_node.url) as caller, Dealer(shared_node.url) as server:
        server.send([SERVE, 1, "ends.*", {}])
        server.expect(REPLY)
        caller.send([CALL, 1, "nobody.serves.this", 1000, None, NIL])
        status, body = outcome(caller, 1)
        assert (status, body["name"], body["retryable"]) == (3, "no-responders", True)
        caller.send([CALL, 2, "ends.late", 50, None, NIL])
        status, body = outcome(caller, 2)
        assert (status, body["code"]) == (4, 3002)
        late = server.expect(CALL).fields[1]
        assert server.expect(CANCEL).fields[1] == late
        server.send([REPLY, late, 0, None, NIL])
        caller.send([CALL, 3, "ends.cancelled", 5000, None, NIL])
        held = server.expect(CALL).fields[1]
        caller.send([CANCEL, 3])
        status, body = outcome(caller, 3)
        assert (status, body["name"]) == (5, "cancelled")
        assert server.expect(CANCEL).fields[1] == held
        caller.send([CALL, 4, "ends.error", 5000, None, NIL])
        error = {"code": 10_001, "name": "own", "text": "no such thing", "retryable": False, "fields": {}}
        server.send([REPLY, server.expect(CALL).fields[1], 2, None, msgpack.packb(error)])
        assert outcome(caller, 4) == (2, error)
        caller.send([CALL, 5, "ends.unknown", 5000, None, NIL])
        server.expect(CALL)
        server.send([BYE, None])
        status, body = outcome(caller, 5)
        assert (status, body["name"]) == (8, "unknown")


def test_refusals_name_their_cause(shared_node: RunningNode) -> None:
    with Dealer(shared_node.url) as peer:
        peer.send([SUBSCRIBE, 1, "Not.A.Pattern", {}])
        status, body = outcome(peer, 1)
        assert (status, body["code"]) == (2, 2002)
        peer.send([SUBSCRIBE, 2, "a.b", {"oldest": True}])
        assert outcome(peer, 2)[1]["code"] == 2008
        peer.send([PUBLISH, "$bus.mine", None, NIL])
        refused = peer.expect(ERROR).fields
        assert refused[1] is None
        assert refused[2]["code"] == 2003
        assert refused[2]["fields"] == {"subject": "$bus.mine"}
        peer.send([SUBSCRIBE, 3, "a.b", {}])
        assert peer.expect(REPLY).fields[1:3] == [3, 0]
        peer.send([SUBSCRIBE, 3, "a.c", {}])
        refused = peer.expect(ERROR).fields
        assert refused[1] == 3
        assert refused[2]["code"] == 2004


def test_a_newer_client_gets_the_older_version_and_its_additions_are_skipped(shared_node: RunningNode) -> None:
    with Dealer(shared_node.url, hello=False) as peer:
        peer.send([HELLO, 9, {"x-new": [1, 2]}, "appended"], [100, "a kind of version 9"], [PING, 5, None, "appended"])
        assert peer.expect(WELCOME).fields[1] == 1
        assert peer.expect(PONG).fields[:2] == [PONG, 5]


def test_heartbeats_of_libzmq_are_answered(shared_node: RunningNode) -> None:
    """With ZMQ_HEARTBEAT_IVL libzmq sends PING and gives the connection up when no PONG comes in time."""
    options = {zmq.HEARTBEAT_IVL: 20, zmq.HEARTBEAT_TIMEOUT: 200, zmq.HEARTBEAT_TTL: 400, zmq.RECONNECT_IVL: -1}
    with Dealer(shared_node.url, options=options) as peer:
        peer.socket.setsockopt(zmq.RCVTIMEO, 600)
        with pytest.raises(zmq.Again):
            peer.receive()
        assert peer.call(1, "$bus.ping")["endpoint"] == peer.name


def departure(node: RunningNode, name: str) -> dict[str, Any] | None:
    """What the census remembers of the endpoint ``name``; None while it is attached."""
    with Dealer(node.url) as asker:
        rows: list[dict[str, Any]] = asker.call(1, "$bus.list", {"departed": True})["departed"]
        return next((row for row in rows if row["endpoint"] == name), None)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"\x92\x0b\x01", b"\x92\x0b\x02"], 1006),
        ([b"\xc1"], 1010),
        ([msgpack.packb([11, "7"])], 1012),
        ([msgpack.packb([63, 1])], 1012),
        ([msgpack.packb([3, "a", {"Upper": 1}, NIL])], 1013),
        ([msgpack.packb([15, "host-1", "host", "node", "host", 1])], 1014),
        ([msgpack.packb([1, 1, {}])], 1014),
    ],
    ids=["multipart", "no-msgpack", "field-type", "unknown-kind", "header-name", "spoofed-origin", "hello-twice"],
)
def test_what_breaks_the_protocol_ends_the_session_with_its_reason(
    shared_node: RunningNode, frames: list[bytes], code: int
) -> None:
    with Dealer(shared_node.url) as peer:
        peer.socket.send_multipart(frames)
        assert peer.expect(BYE).fields[1]["code"] == code
        wait_until(partial(departure, shared_node, peer.name))
        row = departure(shared_node, peer.name)
        assert row is not None
        assert row["reason"] == "protocol-error"
        assert row["error"]["code"] == code


def test_leaving_as_planned_is_told_apart_from_vanishing(shared_node: RunningNode) -> None:
    with Dealer(shared_node.url) as polite, Dealer(shared_node.url) as rude:
        polite.send([BYE, None])
        rude.close()
        for name, reason in ((polite.name, "bye"), (rude.name, "connection-lost")):
            wait_until(partial(departure, shared_node, name))
            row = departure(shared_node, name)
            assert row is not None
            assert row["reason"] == reason


@pytest.mark.parametrize("size", [0, 255, 256, 65_535, 65_536, 1_000_000, 16 * 1024 * 1024])
def test_payloads_of_every_length_class_go_through(shared_node: RunningNode, size: int) -> None:
    payload = os.urandom(size)
    with Dealer(shared_node.url) as sender, Dealer(shared_node.url) as receiver:
        receiver.send([SUBSCRIBE, 1, "large", {}])
        receiver.expect(REPLY)
        sender.send([PUBLISH, "large", None, payload])
        assert receiver.expect(PUBLISH).fields[3] == payload


def test_the_example_in_the_readme_runs(shared_node: RunningNode) -> None:
    page = (ROOT / "schemas" / "README.md").read_text(encoding="utf-8")
    found = re.search(r"## In twelve lines\n\n```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    code = found[1].replace("ipc:///run/busd/host.sock", shared_node.url.replace("unix://", "ipc://"))
    assert shared_node.url[7:] in code
    command = [sys.executable, "-u", "-c", code]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as script:
        try:
            assert script.stdout is not None
            lines = [script.stdout.readline() for _ in range(5)]
        finally:
            script.kill()
    name = json.loads(lines[0].split(", ")[2].replace("'", '"'))
    assert lines[0].startswith(f"[2, 1, {name!r}, {{")
    assert lines[1:3] == ["[15, '$bus', 'host', 'node', '', 0]\n", "[9, 1, 0, None, b'\\xc0']\n"]
    assert lines[3].startswith(f"[15, {name!r}, 'host', 'node', ")
    assert lines[4] == "[3, 'demo.tick', None, b'\\x81\\xa1n\\x01']\n"
