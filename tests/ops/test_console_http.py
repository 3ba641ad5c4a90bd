"""The console over real HTTP: its pages, who may ask, viewers that do not read, and a real node with components."""

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import busclient
from busclient.errors import NoResponders
from busd.ops.address import TcpAddress, UnixAddress
from busd.ops.console.collector import VIEWERS
from busd.ops.console.files import INDEX, static_files
from busd.ops.console.pages import ConsolePages
from busd.ops.http import HttpServer
from busd.ops.listen import HttpListener
from tests.core.peer import World
from tests.ops.console_support import FakeServices, console_of
from tests.ops.fakes import FakeNode
from tests.ops.processes import Daemon, daemon
from tests.ops.test_http import ANY_PORT, opened, running

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

Use = Callable[[aiohttp.ClientSession, HttpServer, World], Awaitable[None]]


def serving(listener: HttpListener, use: Use, *, slow_seconds: float = 10.0) -> None:
    """Run ``use`` against a server with a console of a bus in memory."""

    async def main() -> None:
        world = World()
        server = HttpServer(listener, FakeNode(), console_of(world, FakeServices()))
        assert isinstance(server._pages, ConsolePages)
        server._pages._slow = slow_seconds
        async with running(server, listener) as client:
            await use(client, server, world)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


async def events(answer: aiohttp.ClientResponse, number: int) -> list[dict[str, Any]]:
    """The next states of a stream, read as a browser does."""
    found: list[dict[str, Any]] = []
    buffer = b""
    while len(found) < number:
        chunk = await answer.content.readany()
        assert chunk, "the stream has ended"
        *blocks, buffer = (buffer + chunk).split(b"\n\n")
        for block in blocks:
            kind, data = block.split(b"\n")
            assert kind == b"event: state"
            found.append(json.loads(data.removeprefix(b"data: ")))
    return found


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_every_page_answers_with_the_headers_that_bound_it(kind: str, tmp_path: Path) -> None:
    listen: TcpAddress | UnixAddress = ANY_PORT if kind == "tcp" else UnixAddress(str(tmp_path / "h.sock"))

    async def use(client: aiohttp.ClientSession, server: HttpServer, world: World) -> None:
        peer = world.guest("acme", component="agent", owner="sre", purpose="p")
        pages = {
            "/": 200,
            "/console/census": 200,
            "/console/departures": 200,
            f"/console/endpoint?name={peer.name}": 200,
            f"/console/explain?verb=publish&subject=a.b&endpoint={peer.name}": 200,
            "/console/static/nothing.js": 404,
            "/nowhere": 404,
            "/console/endpoint?name=guest-99": 404,
            "/console/endpoint": 400,
            "/console/census?color=red": 400,
            "/console/departures?x=1": 400,
            "/console/explain?verb=shout&subject=a&endpoint=guest-1": 400,
        }
        for page, status in pages.items():
            async with client.get(page) as answer:
                assert answer.status == status, page
                body = await answer.json()
                assert (status == 200) != ("error" in body)
                assert answer.headers["Content-Security-Policy"] == CSP
                assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
                assert answer.headers["Referrer-Policy"] == "no-referrer"
                assert answer.headers["Cache-Control"] == "no-store"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
            async with client.head(page) as answer:
                assert (answer.status, await answer.read()) == (status, b"")
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            async with client.request(method, "/console/census") as answer:
                assert answer.status == 405
                assert "error" in await answer.json()

    serving(opened(listen), use)


def test_a_browser_gets_the_page_and_its_files_and_nothing_else() -> None:
    files = static_files()
    listener = opened(ANY_PORT)

    async def use(client: aiohttp.ClientSession, server: HttpServer, world: World) -> None:
        async with client.get("/", headers=BROWSER) as answer:
            assert (answer.status, await answer.read()) == (200, files[INDEX].body)
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        for name, file in files.items():
            async with client.get(f"/console/static/{name}") as answer:
                assert (answer.status, await answer.read()) == (200, file.body)
                assert answer.headers["Content-Type"] == file.content_type
        for path in ("../files.py", "..%2ffiles.py", "%2e%2e/pages.py", "/etc/passwd", "__init__.py", "%00", "x" * 300):
            reader, writer = await asyncio.open_connection(*listener.socket.getsockname())
            writer.write(
                f"GET /console/static/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            page = await reader.read()
            assert page.startswith(b"HTTP/1.1 404 "), path
            assert b"import" not in page
            writer.close()

    serving(listener, use)


def test_another_site_s_page_gets_nothing() -> None:
    async def use(client: aiohttp.ClientSession, server: HttpServer, world: World) -> None:
        for page in ("/", "/console/census", "/console/events", "/metrics"):
            async with client.get(page, headers={"Sec-Fetch-Site": "cross-site"}) as answer:
                assert answer.status == 403
                assert "another site" in (await answer.json())["error"]
            async with client.get(page, headers={"Host": "rebound.example.org"}) as answer:
                assert answer.status == 421
        assert server.statistics().foreign_sites == 4
        assert server.statistics().foreign_hosts == 4
        async with client.get("/console/census", headers={"Sec-Fetch-Site": "same-origin"}) as answer:
            assert answer.status == 200

    serving(opened(ANY_PORT), use)


def test_states_come_as_events_while_somebody_looks_and_stop_when_nobody_does() -> None:
    async def use(client: aiohttp.ClientSession, server: HttpServer, world: World) -> None:
        world.peer(component="agent", owner="sre", purpose=HOSTILE)
        async with client.get("/console/events") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            assert answer.headers["Content-Security-Policy"] == CSP
            first, second = await events(answer, 2)
            assert (first["totals"]["endpoints"], second["groups"][0]["component"]) == (1, "agent")
            assert second["groups"][0]["purpose"] == "<script>alert(1)</script>\ufffd[31m\ufffd"
            assert server.statistics().viewers == 1
        while server.statistics().viewers:
            await asyncio.sleep(0.05)
        assert server._console is not None
        made = server._console.documents
        await asyncio.sleep(0.5)
        assert server._console.documents == made

    serving(opened(ANY_PORT), use)


def test_there_are_eight_viewers_at_most() -> None:
    async def use(client: aiohttp.ClientSession, server: HttpServer, world: World) -> None:
        answers = [await client.get("/console/events") for _ in range(VIEWERS)]
        for answer in answers:
            await events(answer, 1)
        async with client.get("/console/events") as answer:
            assert answer.status == 503
            assert (await answer.json())["error"] == "8 look already; close another page of the console"
        answers[0].close()
        while server.statistics().viewers == VIEWERS:
            await asyncio.sleep(0.05)
        async with client.get("/console/events") as answer:
            assert answer.status == 200
        for answer in answers:
            answer.close()

    serving(opened(ANY_PORT), use)


def test_a_viewer_that_does_not_read_is_cut_off_and_others_go_on() -> None:
    listener = opened(ANY_PORT)

    async def use(client: aiohttp.ClientSession, server: HttpServer, world: World) -> None:
        for number in range(400):  # 100 KiB for each document: its buffers are full soon
            world.guest("acme", f"vm-{number}", component="agent", owner="sre", purpose="p" * 120)
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(listener.socket.getsockname())
        deaf.sendall(b"GET /console/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with client.get("/console/events") as answer:
            while not server.statistics().viewers_evicted:
                await events(answer, 1)
            await events(answer, 2)
        assert server.statistics().viewers_evicted == 1
        deaf.close()

    serving(listener, use, slow_seconds=0.5)


def test_stop_ends_streams_at_once() -> None:
    async def use(client: aiohttp.ClientSession, server: HttpServer, world: World) -> None:
        answer = await client.get("/console/events")
        await events(answer, 1)
        begin = time.monotonic()
        await server.stop()
        assert time.monotonic() - begin < 0.9, "SHUTDOWN_SECONDS were not waited for"
        with pytest.raises((aiohttp.ClientError, AssertionError)):
            await events(answer, 1)
        answer.close()

    serving(opened(ANY_PORT), use)


# -- a real node ------------------------------------------------------------------------------------------------------


def settings(folder: Path, trees: Path) -> None:
    """A cache with a key of its own, and a deletion component with one root."""
    folder.mkdir()
    (folder / "cache.toml").write_text('[config]\nkey = {generate = true}\nstate = "off"\n')
    (folder / "deletion.toml").write_text(
        f'[config]\nstate = "{folder.parent / "jobs"}"\n[[config.roots]]\nid = "scratch"\npath = "{trees}"\n'
    )


async def answered(bus: busclient.Bus, subject: str, request: dict[str, Any]) -> Any:
    """What a component answers, once it is there."""
    while True:
        try:
            return (await bus.call(subject, request, timeout=20)).payload
        except NoResponders:
            await asyncio.sleep(0.05)


async def look(node: Daemon) -> None:
    url = f"unix://{node.run_dir}/host.sock"
    async with (
        busclient.connect(url, component="flooder", owner="kim", purpose=HOSTILE) as flooder,
        busclient.connect(url, component="sink", owner="kim", purpose="reads") as sink,
        aiohttp.ClientSession(node.started["http"]) as client,
        asyncio.timeout(60),
    ):

        async def census() -> list[str]:
            async with client.get("/console/census") as answer:
                return [row["component"] for row in (await answer.json())["rows"]]

        async def flood() -> None:
            while True:
                for _ in range(200):
                    await flooder.publish("a.b", {"n": 1})
                await asyncio.sleep(0.02)

        async def read() -> None:
            async with sink.subscribe("a.*", gaps="yield") as subscription:
                async for _ in subscription:
                    pass

        assert "console" not in await census(), "nobody looks"
        await answered(sink, "cache.set", {"text": "n", "value": b"v"})
        tasks = [asyncio.create_task(flood()), asyncio.create_task(read())]
        async with client.get("/console/events") as answer:
            state: dict[str, Any] = {}
            while not (state.get("caches") and state["flows"] and state["problems"] and not state["notes"]):
                (state,) = await events(answer, 1)
            assert "console" in await census(), "it is an endpoint as any other"
            assert [cache["tenant"] for cache in state["caches"]] == ["node"]
            assert state["caches"][0]["entries"] == 1
            assert {row["component"] for row in state["components"]} == {"cache", "deletion"}
            flood_problem = state["problems"][0]
            assert "flooder of kim" in flood_problem["text"]
            name = flood_problem["command"].split()[2]
            assert flood_problem["command"] == f"bus disconnect {name} --block 10m"
            groups = {group["id"]: group["component"] for group in state["groups"]}
            busiest = state["flows"][0]
            assert (groups[busiest["from"]], groups[busiest["to"]]) == ("flooder", "sink")
            async with client.get("/console/endpoint", params={"name": name}) as found:
                detail = await found.json()
                assert detail["claims"]["owner"] == "kim"
                assert detail["flows"][0]["subject"] == "a.*"
            job = await answered(sink, "deletion.submit", {"root": "scratch", "text": "tree", "files_per_second": 0.0})
            while not state["jobs"]:
                (state,) = await events(answer, 1)
            assert state["jobs"][0]["id"] == job["job"]
            assert state["jobs"][0]["path"] == "tree"
        while "console" in await census():
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def look_until_it_stops(node: Daemon) -> None:
    async with aiohttp.ClientSession(node.started["http"]) as client, asyncio.timeout(60):
        answer = await client.get("/console/events")
        await events(answer, 1)
        begin = time.monotonic()
        status, log = await asyncio.to_thread(node.end)
        assert status == 0
        assert time.monotonic() - begin < 10, "nobody waits for a viewer"
        assert [line for line in log if line["level"] != "info"] == []
        answer.close()


def test_a_real_node_shows_a_flood_jobs_and_caches_and_stops_while_somebody_looks(tmp_path: Path) -> None:
    trees = tmp_path / "trees"
    (trees / "tree").mkdir(parents=True)
    for number in range(20):
        (trees / "tree" / f"{number}").touch()
    settings(tmp_path / "components.d", trees)
    flags = [
        "--components",
        "cache,deletion",
        "--component-dir",
        str(tmp_path / "components.d"),
        "--manifest",
        "require",
    ]
    with daemon(tmp_path / "run", *flags, loop="uvloop") as node:
        asyncio.run(look(node))
        asyncio.run(look_until_it_stops(node))
