"""HTTP for operators: /metrics, /healthz, /readyz, /statusz and the console, on a listener that only this machine
reaches.

There is no authentication, so everything rests on who can reach it: ``busd.ops.address`` can express nothing but this
machine, and a request over TCP whose Host is not a loopback name is refused, because a web page can make a visitor's
browser send requests to 127.0.0.1 under a name of the page's own (DNS rebinding). Under its own name it cannot read
the answer, and what browsers say of themselves (Sec-Fetch-Site) is refused as well.

Imports aiohttp: import this module when the bus is open already.
"""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from busd.ops.address import TcpAddress, is_loopback
from busd.ops.console.collector import Console
from busd.ops.console.pages import HEADERS, ConsolePages
from busd.ops.listen import HttpListener
from busd.ops.metrics import Metrics
from busd.ops.status import Observed, State, document

__all__ = ["HttpServer", "HttpStatistics"]

CONNECTIONS: Final = 64
"""Connections at once. Beyond that the oldest is closed: a scrape takes milliseconds, so the oldest is idle."""

IDLE_SECONDS: Final = 75.0
"""A connection without a request is closed after this. Above Prometheus' usual scrape interval of 60 s."""

STUCK_SECONDS: Final = 5.0
"""/healthz fails when the loop's timers have not run for this long."""

SHUTDOWN_SECONDS: Final = 1.0
"""How long ``stop`` waits for requests under way. Each takes milliseconds."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class HttpStatistics:
    """The HTTP server."""

    connections: int
    """Open now."""
    requests: int
    """Answered, whatever the answer."""
    foreign_hosts: int
    """Refused because of their Host header."""
    evicted: int
    """Connections closed to make room for a newer one."""
    foreign_sites: int = 0
    """Refused because a browser sent them for another site's page."""
    viewers: int = 0
    """Streams of the console that are open now."""
    viewers_evicted: int = 0
    """Streams of the console that were cut off, because they were not read."""
    connections_limit: int = CONNECTIONS
    """Connections that can be open at once."""


class HttpServer:
    """Serves a node's figures on an open listener, from ``start`` to ``stop``."""

    def __init__(self, listener: HttpListener, source: Observed, console: Console | None = None) -> None:
        """``source`` has the node's figures, ``console`` what is shown live; without it there is no such page."""
        self.url: Final = listener.url
        """Where it listens: ``http://127.0.0.1:9850`` or ``unix:///path``."""
        self._listener = listener
        self._source = source
        self._metrics = Metrics(source, self.statistics)
        self._console = console
        self._pages = None if console is None else ConsolePages(console)
        self._server: asyncio.Server | None = None
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            logger=_own_faults(),
            keepalive_timeout=IDLE_SECONDS,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        self._requests = self._foreign_hosts = self._foreign_sites = self._evicted = 0

    async def start(self) -> None:
        """Begin to answer."""
        await self._runner.setup()
        self._server = await asyncio.get_running_loop().create_server(self._connection, sock=self._listener.socket)

    async def stop(self) -> None:
        """Close the listener and every connection. May be called whether or not ``start`` was."""
        if self._server is not None:
            self._server.close()
        if self._console is not None:
            await self._console.close()  # else its streams would be waited for
        await self._runner.cleanup()
        self._listener.close()

    def statistics(self) -> HttpStatistics:
        """Connections, requests and viewers."""
        server = self._runner.server
        return HttpStatistics(
            connections=len(server.connections) if server else 0,
            requests=self._requests,
            foreign_hosts=self._foreign_hosts,
            evicted=self._evicted,
            foreign_sites=self._foreign_sites,
            viewers=0 if self._console is None else self._console.viewers,
            viewers_evicted=0 if self._pages is None else self._pages.evicted,
        )

    def _application(self) -> web.Application:
        guard = [self._guard_host] if isinstance(self._listener.address, TcpAddress) else []
        app = web.Application(middlewares=[self._count, *guard, self._guard_site, _explain], client_max_size=1024)
        app.on_response_prepare.append(_add_headers)
        for path, page in {
            "/": self._index,
            "/metrics": self._render_metrics,
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/statusz": self._status,
        }.items():
            app.router.add_get(path, page)
        if self._pages is not None:
            self._pages.add_to(app.router)
        return app

    def _connection(self) -> asyncio.Protocol:
        """The protocol of one new connection; closes the oldest if there are too many."""
        server = self._runner.server
        assert server is not None, "accepts only between start and stop"
        if len(connections := server.connections) >= CONNECTIONS:
            self._evicted += 1
            connections[0].force_close()
        return server()

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._requests += 1
        return await handler(request)

    @web.middleware
    async def _guard_host(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_loopback_host(request.headers.get("Host", "")):
            return await handler(request)
        self._foreign_hosts += 1
        reason = "the Host header must name this machine: localhost or a loopback address"
        return web.json_response({"error": reason}, status=421)

    @web.middleware
    async def _guard_site(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("Sec-Fetch-Site", "").strip().lower() != "cross-site":
            return await handler(request)
        self._foreign_sites += 1
        return web.json_response({"error": "another site's page sent this request; type the address in"}, status=403)

    async def _index(self, request: web.Request) -> web.Response:
        """The console for a browser, and for anything else the pages that there are."""
        if self._pages is not None and "text/html" in request.headers.get("Accept", "").lower():
            return self._pages.index()
        return web.json_response({"pages": ["/metrics", "/healthz", "/readyz", "/statusz"]})

    async def _render_metrics(self, request: web.Request) -> web.Response:
        page, content_type = await self._metrics.render(request.headers.get("Accept", ""))
        return web.Response(body=page, headers={"Content-Type": content_type})

    async def _health(self, request: web.Request) -> web.Response:
        lag = self._source.statistics().lag
        alive = lag.age_seconds < STUCK_SECONDS
        body = {"alive": alive, "lag_seconds": round(lag.last_seconds, 6), "age_seconds": round(lag.age_seconds, 6)}
        return web.json_response(body, status=200 if alive else 503)

    async def _readiness(self, request: web.Request) -> web.Response:
        statistics = self._source.statistics()
        if statistics.state != State.READY:
            return web.json_response({"ready": False, "reason": str(statistics.state)}, status=503)
        # Clients can attach and call, whatever became of a component: a restart of the node would take that from them.
        degraded = statistics.degraded
        return web.json_response({"ready": True} | ({"degraded": degraded} if degraded else {}))

    async def _status(self, request: web.Request) -> web.Response:
        statistics = self._source.statistics()
        own = {"degraded": statistics.degraded, "http": document(self.statistics())}
        return web.json_response(document(statistics) | own)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """What every answer says, those of aiohttp itself and streams included."""
    response.headers.update(HEADERS)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"


@web.middleware
async def _explain(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Say what is wrong as JSON, as everything else here."""
    try:
        return await handler(request)
    except web.HTTPError as error:
        if error.content_type != "application/json":
            error.content_type = "application/json"
            error.text = json.dumps({"error": error.reason})
        raise


def _own_faults() -> logging.Logger:
    """A logger for aiohttp that leaves out bad requests: who sent one was answered 400, and could fill the log."""
    logger = logging.getLogger("busd.http")
    logger.addFilter(_is_own_fault)
    return logger


def _is_own_fault(record: logging.LogRecord) -> bool:
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


def is_loopback_host(header: str) -> bool:
    """Whether a Host header (RFC 9110, 7.2: a host and perhaps a port) names this machine."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(:\d{1,5})?", header)
    return match is not None and is_loopback(match[1].strip("[]"))
