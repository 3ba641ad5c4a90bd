"""The console's pages over HTTP. Read-only; every answer is bounded, and says in its headers what a browser may do."""

import asyncio
import json
from collections.abc import Callable
from typing import Final, TypeVar

from aiohttp import web

from busd.core.principal import BOUNDARIES
from busd.ops.console.census import ROWS, SORTS, Search
from busd.ops.console.collector import VIEWERS, Console
from busd.ops.console.files import INDEX, static_files
from busd.ops.console.query import Query

__all__ = ["HEADERS", "ConsolePages"]

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
"""Of every answer: the page loads nothing from elsewhere and runs nothing that is not a file of its own."""

SLOW_SECONDS: Final = 10.0
"""Who takes longer for one document is cut off: ten times as long as it takes to make the next."""

FARTHEST: Final = 1_000_000
"""Rows of the census that can be left out before a page."""

CENSUS: Final = ("q", "sort", "descending", "boundary", "tenant", "unit", "component", "unowned", "offset", "limit")
"""What the census can be asked for."""

T = TypeVar("T")

_FILES: Final = static_files()  # once, when this module is imported: beside the loop


class ConsolePages:
    """Answers what the page asks for."""

    def __init__(self, console: Console, *, slow_seconds: float = SLOW_SECONDS) -> None:
        self._console = console
        self._slow = slow_seconds
        self.evicted = 0
        """Viewers that were cut off because they did not read."""

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Serve the pages beneath ``/console/``."""
        router.add_get("/console/static/{name}", self._static)
        router.add_get("/console/events", self._events, allow_head=False)
        router.add_get("/console/census", self._census)
        router.add_get("/console/departures", self._departures)
        router.add_get("/console/endpoint", self._endpoint)
        router.add_get("/console/explain", self._explain)

    def index(self) -> web.Response:
        """The page itself."""
        return _file(INDEX)

    async def _static(self, request: web.Request) -> web.Response:
        _query(request)
        return _file(request.match_info["name"])

    async def _census(self, request: web.Request) -> web.Response:
        query = _query(request, *CENSUS)
        wanted = _valid(
            lambda: Search(
                text=query.text("q"),
                sort=query.choice("sort", SORTS),
                descending=query.flag("descending"),
                boundary=query.choice("boundary", BOUNDARIES),
                tenant=query.text("tenant"),
                unit=query.text("unit"),
                component=query.text("component"),
                unowned=query.flag("unowned"),
                offset=query.number("offset", 0, 0, FARTHEST),
                limit=query.number("limit", 50, 1, ROWS),
            )
        )
        return web.json_response(await self._console.census(wanted))

    async def _departures(self, request: web.Request) -> web.Response:
        _query(request)
        return web.json_response(self._console.departures())

    async def _endpoint(self, request: web.Request) -> web.Response:
        query = _query(request, "name")
        name = _valid(lambda: query.required("name"))
        found = await self._console.endpoint(name)
        if found is None:
            raise _refusal(web.HTTPNotFound, f"no endpoint is called {name[:80]!a}")
        return web.json_response(found)

    async def _explain(self, request: web.Request) -> web.Response:
        query = _query(request, "verb", "subject", "endpoint")
        return web.json_response(
            _valid(
                lambda: self._console.explain(
                    query.required("verb"), query.required("subject"), query.required("endpoint")
                )
            )
        )

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events (WHATWG HTML, 9.2): the newest document at once, and each second."""
        _query(request)
        viewer = self._console.join()
        if viewer is None:
            full = f"{VIEWERS} look already; close another page of the console"
            reason = "the node is stopping" if self._console.closed else full
            raise _refusal(web.HTTPServiceUnavailable, reason)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        try:
            await response.prepare(request)
            while (document := await viewer.next()) is not None:
                # Waits until the viewer has taken most of it: what one that does not read costs is this document.
                async with asyncio.timeout(self._slow):
                    await response.write(b"event: state\ndata: " + document + b"\n\n")
        except TimeoutError:
            self.evicted += 1
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass  # it went away
        finally:
            self._console.leave(viewer)
        return response


def _file(name: str) -> web.Response:
    file = _FILES.get(name)
    if file is None:
        raise _refusal(web.HTTPNotFound, f"the console has no file {name[:80]!a}")
    return web.Response(body=file.body, headers={"Content-Type": file.content_type})


def _query(request: web.Request, *known: str) -> Query:
    return _valid(lambda: Query(request.query.items(), known))


def _valid(read: Callable[[], T]) -> T:
    """What ``read`` gives; a value that is not valid is answered with its reason."""
    try:
        return read()
    except ValueError as error:
        raise _refusal(web.HTTPBadRequest, str(error)) from None


def _refusal(kind: type[web.HTTPError], reason: str) -> web.HTTPError:
    return kind(text=json.dumps({"error": reason}), content_type="application/json")
