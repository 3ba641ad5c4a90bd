"""HTTP: pages, readiness, and who may ask. Real sockets: loopback on a free port, and a unix socket."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from busd.ops.address import OFF, TcpAddress, UnixAddress
from busd.ops.http import CONNECTIONS, STUCK_SECONDS, HttpServer, is_loopback_host
from busd.ops.lag import LagStatistics
from busd.ops.listen import HttpListener, open_listener
from busd.ops.rundir import probe
from busd.ops.status import State
from busproto.errors import BusError, Code
from tests.ops.fakes import NODE, FakeNode, closing, component

ANY_PORT = TcpAddress("127.0.0.1", 0)


def opened(listen: TcpAddress | UnixAddress, run_dir: Path = Path("/nonexistent")) -> HttpListener:
    listener = open_listener(listen, is_default=False, run_dir=run_dir)
    assert listener is not None
    return listener


@asynccontextmanager
async def running(server: HttpServer, listener: HttpListener) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of ``server``, which is started and stopped; ``http://localhost`` is what it listens on."""
    await server.start()
    address = listener.address
    connector: aiohttp.BaseConnector
    if isinstance(address, UnixAddress):
        connector, base = aiohttp.UnixConnector(address.path), "http://localhost"
    else:
        connector, base = aiohttp.TCPConnector(), address.url
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession(base, connector=connector) as client:
            yield client
    finally:
        await server.stop()


def serving(
    listener: HttpListener, use: Callable[[aiohttp.ClientSession, HttpServer, FakeNode], Awaitable[None]]
) -> None:
    """Run ``use`` against a server of a fake node; ``http://localhost`` reaches it, whatever it listens on."""

    async def main() -> None:
        node = FakeNode()
        server = HttpServer(listener, node)
        async with running(server, listener) as client:
            await use(client, server, node)

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["tcp", "tcp6", "unix"])
def test_every_page_answers_on_every_kind_of_listener(kind: str, tmp_path: Path) -> None:
    if kind == "tcp6" and not _has_ipv6_loopback():
        pytest.skip("this machine has no ::1")
    kinds: dict[str, TcpAddress | UnixAddress] = {
        "tcp": ANY_PORT,
        "tcp6": TcpAddress("::1", 0),
        "unix": UnixAddress(str(tmp_path / "h.sock")),
    }

    async def use(client: aiohttp.ClientSession, server: HttpServer, node: FakeNode) -> None:
        async with client.get("/") as answer:
            pages = (await answer.json())["pages"]
        assert pages == ["/metrics", "/healthz", "/readyz", "/statusz"]
        for page in pages:
            async with client.get(page) as answer:
                assert answer.status == 200
                assert answer.headers["Cache-Control"] == "no-store"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert await answer.text()
            async with client.head(page) as answer:
                assert answer.status == 200
        async with client.get("/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert b"busd_endpoints_limit 16384.0" in await answer.read()
        assert server.statistics().requests == 10
        assert server.url.startswith("unix:///" if kind == "unix" else "http://")

    serving(opened(kinds[kind]), use)


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe_socket:
            probe_socket.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_openmetrics_is_given_to_who_asks_for_it() -> None:
    async def use(client: aiohttp.ClientSession, server: HttpServer, node: FakeNode) -> None:
        accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2"
        async with client.get("/metrics", headers={"Accept": accept}) as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
            assert (await answer.text()).endswith("# EOF\n")

    serving(opened(ANY_PORT), use)


def test_readiness_follows_the_node_s_life() -> None:
    async def use(client: aiohttp.ClientSession, server: HttpServer, node: FakeNode) -> None:
        for state in (State.STARTING, State.READY, State.DRAINING, State.STOPPED):
            node.set(state=state)
            async with client.get("/readyz") as answer:
                body = await answer.json()
                if state == State.READY:
                    assert (answer.status, body) == (200, {"ready": True})
                else:
                    assert (answer.status, body) == (503, {"ready": False, "reason": str(state)})
            async with client.get("/healthz") as answer:
                assert answer.status == 200  # alive all the while

    serving(opened(ANY_PORT), use)


def test_a_node_whose_component_has_failed_is_ready_and_says_which() -> None:
    failed = component("cache", state="failed", reason="ended 5 times in 60 s, the last time with status 1")
    over = component("sync", state="stopped", reason="memory of 300 MiB is over its budget of 256 MiB")
    asked = component("telemetry", state="stopped")
    named = {
        "cache": "failed: ended 5 times in 60 s, the last time with status 1",
        "sync": "stopped: memory of 300 MiB is over its budget of 256 MiB",
    }

    async def use(client: aiohttp.ClientSession, server: HttpServer, node: FakeNode) -> None:
        node.set(components={each.name: each for each in (failed, over, asked)})
        async with client.get("/readyz") as answer:
            assert (answer.status, await answer.json()) == (200, {"ready": True, "degraded": named})
        async with client.get("/healthz") as answer:
            assert (answer.status, (await answer.json())["alive"]) == (200, True)
        async with client.get("/statusz") as answer:
            body = await answer.json()
        assert body["degraded"] == named
        assert body["components"]["cache"]["restarts"] == 241
        node.set(state=State.DRAINING)
        async with client.get("/readyz") as answer:
            assert answer.status == 503

    serving(opened(ANY_PORT), use)


def test_health_fails_when_the_loop_s_timers_do_not_run() -> None:
    async def use(client: aiohttp.ClientSession, server: HttpServer, node: FakeNode) -> None:
        for age, status in ((STUCK_SECONDS - 0.1, 200), (STUCK_SECONDS + 0.1, 503)):
            node.set(lag=LagStatistics(0.25, 0.5, age, NODE.lag.samples))
            async with client.get("/healthz") as answer:
                body = await answer.json()
                assert (answer.status, body["alive"]) == (status, status == 200)
                assert (body["lag_seconds"], body["age_seconds"]) == (0.25, age)

    serving(opened(ANY_PORT), use)


def test_status_is_the_whole_node() -> None:
    async def use(client: aiohttp.ClientSession, server: HttpServer, node: FakeNode) -> None:
        async with client.get("/statusz") as answer:
            body = await answer.json()
        assert (body["version"], body["protocol"], body["loop"], body["state"]) == ("9.9.9", 1, "uvloop", "ready")
        assert body["uptime_seconds"] == 12.5
        assert body["bus"]["endpoints"] == {"host": 7, "guest": 2}
        assert body["bus"]["dropped_messages"] == {"guest": {"outbox-bytes": 13}}
        assert body["bus"]["call_seconds"]["count"] == 4
        assert body["descriptors"] == {"before": 1024, "soft": 524288, "hard": 524288}
        assert body["configured"] == {"node.name": "flag --node-name"}
        assert body["http"]["connections"] == 1

    serving(opened(ANY_PORT), use)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:9850", True),
        ("127.0.0.1:9850", True),
        ("127.9.9.9", True),
        ("[::1]:9850", True),
        ("[::1]", True),
        ("", False),
        ("example.org", False),
        ("example.org:9850", False),
        ("127.0.0.1.example.org", False),
        ("localhost.example.org:80", False),
        ("10.0.0.1", False),
        ("[fe80::1]:9850", False),
        ("[::1", False),
        ("::1", False),
        ("localhost:port", False),
        ("user@localhost", False),
        ("localhost:80:80", False),
    ],
)
def test_which_hosts_are_this_machine(host: str, allowed: bool) -> None:
    assert is_loopback_host(host) is allowed


def test_a_web_page_s_name_for_this_machine_is_refused() -> None:
    async def use(client: aiohttp.ClientSession, server: HttpServer, node: FakeNode) -> None:
        for path in ("/metrics", "/statusz", "/nowhere"):
            async with client.get(path, headers={"Host": "rebound.example.org:9850"}) as answer:
                assert answer.status == 421
                assert "must name this machine" in (await answer.json())["error"]
        assert node.scrapes == 0
        assert server.statistics().foreign_hosts == 3
        async with client.get("/readyz", headers={"Host": "[::1]:1"}) as answer:
            assert answer.status == 200

    serving(opened(ANY_PORT), use)


def test_over_a_unix_socket_the_host_does_not_matter(tmp_path: Path) -> None:
    async def use(client: aiohttp.ClientSession, server: HttpServer, node: FakeNode) -> None:
        async with client.get("/readyz", headers={"Host": "anything"}) as answer:
            assert answer.status == 200

    serving(opened(UnixAddress(str(tmp_path / "h.sock"))), use)


def test_nothing_can_be_written() -> None:
    async def use(client: aiohttp.ClientSession, server: HttpServer, node: FakeNode) -> None:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            async with client.request(method, "/readyz") as answer:
                assert answer.status == 405
        async with client.get("/nowhere") as answer:
            assert answer.status == 404

    serving(opened(ANY_PORT), use)


def test_idle_connections_cannot_shut_a_scrape_out() -> None:
    listener = opened(ANY_PORT)

    async def use(client: aiohttp.ClientSession, server: HttpServer, node: FakeNode) -> None:
        address = listener.socket.getsockname()
        idle = [await asyncio.open_connection(*address) for _ in range(CONNECTIONS + 5)]
        async with client.get("/readyz") as answer:
            assert answer.status == 200
        assert await idle[0][0].read() == b""  # the oldest had to go
        statistics = server.statistics()
        assert statistics.connections <= CONNECTIONS
        assert statistics.evicted >= 6
        for _, writer in idle:
            writer.close()

    serving(listener, use)


def test_garbage_is_answered_and_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    listener = opened(ANY_PORT)

    async def use(client: aiohttp.ClientSession, server: HttpServer, node: FakeNode) -> None:
        for garbage in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"x" * 9000):
            reader, writer = await asyncio.open_connection(*listener.socket.getsockname())
            writer.write(garbage + b"\r\n\r\n")
            assert b" 400 " in await reader.readline()
            writer.close()
        async with client.get("/readyz") as answer:
            assert answer.status == 200

    with caplog.at_level(logging.WARNING):
        serving(listener, use)
    assert caplog.records == []


def test_what_goes_wrong_in_busd_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def use(client: aiohttp.ClientSession, server: HttpServer, node: FakeNode) -> None:
        node.figures = None  # type: ignore[assignment]
        async with client.get("/readyz") as answer:
            assert answer.status == 500
            assert "Traceback" not in await answer.text()

    serving(opened(ANY_PORT), use)
    (record,) = caplog.records
    assert record.name == "busd.http"
    assert record.exc_info is not None


def test_stop_closes_everything_and_removes_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "h.sock"

    async def main() -> None:
        started = HttpServer(opened(UnixAddress(str(path))), FakeNode())
        await started.start()
        reader, writer = await asyncio.open_unix_connection(str(path))
        async with asyncio.timeout(5):
            while not started.statistics().connections:
                await asyncio.sleep(0.01)
            await started.stop()
            assert await reader.read() == b""
        writer.close()
        assert probe(path) == "absent"
        never_started = HttpServer(opened(UnixAddress(str(path))), FakeNode())
        await never_started.stop()
        assert probe(path) == "absent"

    asyncio.run(main())


# -- the listener -----------------------------------------------------------------------------------------------------


def test_off_is_no_listener(tmp_path: Path) -> None:
    assert open_listener(OFF, is_default=False, run_dir=tmp_path) is None


def test_port_zero_names_the_port_that_it_became(tmp_path: Path) -> None:
    listener = opened(ANY_PORT)
    with closing(listener):
        assert isinstance(listener.address, TcpAddress)
        assert listener.address.port == listener.socket.getsockname()[1] > 0
        assert listener.url == f"http://127.0.0.1:{listener.address.port}"


def test_a_taken_default_port_gives_way_to_a_socket_in_the_run_directory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = TcpAddress("127.0.0.1", other.getsockname()[1])
        listener = open_listener(taken, is_default=True, run_dir=tmp_path)
        assert listener is not None
        with closing(listener):
            assert listener.url == f"unix://{tmp_path}/http.sock"
            assert probe(tmp_path / "http.sock") == "alive"
        assert probe(tmp_path / "http.sock") == "absent"
    (record,) = caplog.records
    assert record.event == "http-address-taken"  # type: ignore[attr-defined]
    assert record.fields == {"wanted": str(taken), "using": listener.url}  # type: ignore[attr-defined]


def test_an_address_that_was_asked_for_is_never_replaced(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = TcpAddress("127.0.0.1", other.getsockname()[1])
        with pytest.raises(BusError) as caught:
            open_listener(taken, is_default=False, run_dir=tmp_path)
    assert caught.value.code == Code.LISTEN_FAILED
    assert caught.value.fields == {"address": str(taken), "reason": "Address already in use"}
    assert list(tmp_path.iterdir()) == []


def test_a_unix_address_in_use_is_refused(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "h.sock"))
    with closing(opened(address)):
        with pytest.raises(BusError) as caught:
            opened(address)
        assert caught.value.fields["reason"] == "another process listens on it"


def test_status_can_be_written_as_json() -> None:
    from busd.ops.status import document

    assert json.loads(json.dumps(document(NODE)))["node"] == "n1"
