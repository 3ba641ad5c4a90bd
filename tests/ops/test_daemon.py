"""The real daemon as a process, on both loops: start, readiness, the end it is asked for, and the end it is not."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
from prometheus_client.parser import text_string_to_metric_families

from busd.ops.metrics import DOMAINS, FAMILIES
from busd.ops.rundir import probe
from busproto.envelope import VERSION
from tests.ops.processes import Daemon, busd, daemon
from tests.support import environment

LOOPS = ["asyncio", "uvloop"]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


class Peer:
    """A stock ZeroMQ client."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", path: Path) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.connect(f"ipc://{path}")
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, 10_000)
        self._got: list[list[Any]] = []
        self.send(1, VERSION, {"component": "test", "owner": "tests", "purpose": "plays a peer"})
        self.expect(2)

    def send(self, *envelope: Any) -> None:
        self.socket.send(msgpack.packb(envelope))

    def expect(self, kind: int) -> list[Any]:
        """The next envelope of ``kind``; others are left out."""
        while True:
            while self._got:
                envelope = self._got.pop(0)
                if envelope[0] == kind:
                    return envelope
            unpacker = msgpack.Unpacker()
            unpacker.feed(self.socket.recv())
            self._got.extend(unpacker)


@contextmanager
def peers(path: Path, count: int) -> Iterator[list[Peer]]:
    context = zmq.Context()
    try:
        made = [Peer(context, path) for _ in range(count)]
        yield made
    finally:
        context.destroy(linger=0)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_node_starts_serves_and_ends_when_asked(loop: str, run_dir: Path) -> None:
    with daemon(run_dir, loop=loop) as node:
        started = node.started
        assert (started["event"], started["level"], started["loop"]) == ("started", "info", loop)
        assert started["pid"] == node.process.pid
        assert started["socket"] == f"unix://{run_dir}/host.sock"
        assert started["http"].startswith("http://127.0.0.1:")
        assert 0 < started["endpoints"] <= 16384
        assert probe(run_dir / "host.sock") == "alive"
        assert node.get("/readyz") == (200, '{"ready": true}')
        assert node.get("/healthz")[0] == 200
        before = time.monotonic()
        status, log = node.end()
        assert status == 0
        assert time.monotonic() - before < 5  # nothing was in flight: the grace is not waited for
        assert [line["event"] for line in log] == ["stopped"]
        assert sorted(each.name for each in run_dir.iterdir()) == ["audit", "busd.lock"]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_stock_client_attaches_and_is_counted(loop: str, run_dir: Path) -> None:
    with daemon(run_dir, loop=loop) as node, peers(run_dir / "host.sock", 2) as (first, second):
        first.send(4, 1, "demo.>", {})
        first.expect(9)
        second.send(3, "demo.tick", None, msgpack.packb({"n": 1}))
        assert first.expect(3)[1] == "demo.tick"
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(node.get("/metrics")[1])
            for sample in family.samples
        }
        # The node's own supervisor of components is an endpoint too, and has two subscriptions.
        assert samples["busd_endpoints", "host"] == 3
        assert samples["busd_subscriptions", "host"] == 3
        assert samples["busd_connections_accepted_total", "host"] == 3
        assert samples["busd_messages_received_total", "host"] >= 4
        assert samples["busd_ready",] == 1
        status = json.loads(node.get("/statusz")[1])
        assert status["bus"]["endpoints"]["host"] == 3
        assert (status["state"], status["protocol"], status["run_dir"]) == ("ready", VERSION, str(run_dir))
        assert status["configured"]["run_dir"] == "flag --run-dir"


def test_the_node_s_metrics_have_labels_of_closed_sets_only(run_dir: Path) -> None:
    with daemon(run_dir) as node, peers(run_dir / "host.sock", 1) as (peer,):
        peer.send(3, "Not.A.Subject", None, b"")
        peer.expect(17)
        peer.send(8, 1, "nobody.serves", 1000, None, b"")
        peer.expect(9)
        domains = {family.name: family.labels for family in FAMILIES}
        found = 0
        for family in text_string_to_metric_families(node.get("/metrics")[1]):
            for sample in family.samples:
                for label, domain in domains.get(sample.name, {}).items():
                    found += 1
                    assert sample.labels[label] in DOMAINS[domain]
        assert found > 50


@pytest.mark.parametrize("loop", LOOPS)
def test_a_call_in_flight_finishes_before_the_node_ends(loop: str, run_dir: Path) -> None:
    with daemon(run_dir, loop=loop) as node, peers(run_dir / "host.sock", 2) as (server, caller):
        server.send(6, 1, "demo.slow", {})
        server.expect(9)
        caller.send(8, 7, "demo.slow", 20_000, None, b"")
        number = server.expect(8)[1]
        node.process.send_signal(signal.SIGTERM)
        caller.expect(13)  # drain
        assert node.get("/readyz") == (503, '{"ready": false, "reason": "draining"}')
        assert probe(run_dir / "host.sock") != "alive"
        server.send(9, number, 0, None, b"done")
        assert caller.expect(9)[1:] == [7, 0, None, b"done"]
        caller.expect(14)  # bye
        _, log = node.process.communicate(timeout=30)
        assert node.process.returncode == 0, log


def test_a_call_that_takes_too_long_does_not_keep_the_node(run_dir: Path) -> None:
    with daemon(run_dir, "--drain-grace-seconds", "0.3") as node, peers(run_dir / "host.sock", 2) as (server, caller):
        server.send(6, 1, "demo.stuck", {})
        server.expect(9)
        caller.send(8, 7, "demo.stuck", 60_000, None, b"")
        server.expect(8)
        before = time.monotonic()
        status, log = node.end()
        assert status == 0
        assert 0.3 <= time.monotonic() - before < 5
        assert log[-1]["event"] == "stopped"
        reply = caller.expect(9)
        assert reply[1] == 7
        assert reply[2] not in (0, 1)  # a definite outcome, and not success


@pytest.mark.parametrize("loop", LOOPS)
def test_a_second_signal_does_not_wait_for_the_grace(loop: str, run_dir: Path) -> None:
    with daemon(run_dir, "--drain-grace-seconds", "60", loop=loop) as node:
        with peers(run_dir / "host.sock", 2) as (server, caller):
            server.send(6, 1, "demo.stuck", {})
            server.expect(9)
            caller.send(8, 7, "demo.stuck", 60_000, None, b"")
            server.expect(8)
            node.process.send_signal(signal.SIGTERM)
            caller.expect(13)
            status, log = node.end(signal.SIGINT)
        assert status == 128 + signal.SIGINT
        assert [line["event"] for line in log] == ["ended-at-once"]


def test_a_second_daemon_is_refused_with_the_pid_of_the_first(run_dir: Path) -> None:
    with daemon(run_dir) as node:
        second = busd("run", "--run-dir", str(run_dir), "--http-listen", "off")
        assert second.returncode == 1
        assert second.stderr.splitlines() == [
            f"BUS-7003 run-dir-in-use: another busd (pid {node.process.pid}) runs in {run_dir}",
            "Stop it, or choose another directory with --run-dir.",
        ]
        assert node.get("/readyz")[0] == 200
        assert probe(run_dir / "host.sock") == "alive"


@pytest.mark.parametrize("loop", LOOPS)
def test_what_kill_9_leaves_is_replaced(loop: str, run_dir: Path) -> None:
    with daemon(run_dir, loop=loop, listen=f"unix://{run_dir}/http.sock") as first:
        first.process.kill()
        first.process.wait(10)
        assert probe(run_dir / "host.sock") == probe(run_dir / "http.sock") == "stale"
        with daemon(run_dir, loop=loop, listen=f"unix://{run_dir}/http.sock") as second:
            assert second.get("/readyz")[0] == 200
            with peers(run_dir / "host.sock", 1):
                pass
            assert second.end()[0] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a directory to someone else")
def test_a_run_directory_of_someone_else_is_refused(run_dir: Path) -> None:
    run_dir.mkdir(mode=0o755)
    os.chown(run_dir, 4242, 4242)
    done = busd("run", "--run-dir", str(run_dir), "--http-listen", "off")
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"BUS-7004 run-dir-unusable: run directory {run_dir} cannot be used: it belongs to user 4242, this is user 0\n"
    )
    assert list(run_dir.iterdir()) == []


def test_an_http_address_that_cannot_be_had_stops_the_start_and_leaves_nothing(run_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        done = busd("run", "--run-dir", str(run_dir), "--http-listen", taken)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"BUS-7005 listen-failed: cannot listen on {taken}: Address already in use",
        "Choose another address, or stop what uses it.",
    ]
    assert [each.name for each in run_dir.iterdir()] == ["busd.lock"]


def test_two_users_can_each_run_one_without_any_configuration(tmp_path: Path) -> None:
    """Whoever has the default port first, the others listen on a socket in their run directory, and say so."""
    with daemon(tmp_path / "one", listen="") as one, daemon(tmp_path / "two", listen="") as two:
        nodes = [one, two]
        for node in nodes:
            if node.started["event"] == "http-address-taken":
                assert node.started["wanted"] == "127.0.0.1:9850"
                assert node.started["using"] == f"unix://{node.run_dir}/http.sock"
                node.started = node.line()
            assert node.started["event"] == "started"
            assert node.get("/readyz")[0] == 200
        assert two.started["http"] == f"unix://{two.run_dir}/http.sock"


def test_http_can_be_off(run_dir: Path) -> None:
    with daemon(run_dir, listen="off") as node:
        assert node.started["http"] == "off"
        assert node.end()[0] == 0


def test_the_socket_is_for_everyone_and_the_directory_decides(run_dir: Path) -> None:
    with daemon(run_dir, listen="off"):
        assert stat.S_IMODE((run_dir / "host.sock").stat().st_mode) == 0o666
        assert stat.S_IMODE(run_dir.stat().st_mode) == (0o755 if os.geteuid() == 0 else 0o700)


def test_a_healthy_node_logs_nothing_between_start_and_stop(run_dir: Path) -> None:
    with daemon(run_dir) as node:
        with peers(run_dir / "host.sock", 3) as each:
            for peer in each:
                peer.send(4, 1, "demo.>", {})
                peer.expect(9)
                peer.send(14, None)  # bye
        for page in ("/metrics", "/statusz", "/nowhere"):
            node.get(page)
        status, log = node.end()
        assert status == 0
        assert [line["event"] for line in log] == ["stopped"]


def test_a_peer_that_breaks_the_protocol_is_logged_once(run_dir: Path) -> None:
    with daemon(run_dir) as node:
        for _ in range(50):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(run_dir / "host.sock"))
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(64))
                client.settimeout(10)
                while client.recv(4096):
                    pass
        fault = node.line()
        assert (fault["level"], fault["uid"], fault["code"]) == ("warning", os.geteuid(), 1001)
        status, log = node.end()
        assert status == 0
        assert [line["event"] for line in log] == [fault["event"], "stopped"]
        assert log[0]["repeated"] == 49


def test_the_limit_of_endpoints_follows_the_descriptors_and_is_told(run_dir: Path) -> None:
    command = f"ulimit -n 512; exec {sys.executable} -m busd --run-dir {run_dir} --http-listen off"
    process = subprocess.Popen(["sh", "-c", command], stderr=subprocess.PIPE, text=True, env=environment(), cwd="/")
    try:
        node = Daemon(run_dir, process)
        assert (node.started["event"], node.started["endpoints"]) == ("descriptors-short", 512 - 128)
        assert node.line()["endpoints"] == 512 - 128
        assert node.end()[0] == 0
    finally:
        process.kill()
        process.communicate()
