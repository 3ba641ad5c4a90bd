"""Attach very many bare endpoints from one process: sockets and a few bytes each, no library and no task.

Usage: ``tests/bench/attach.py --url unix:///run/user/1000/busd/host.sock --count 10000 --hold 60``
"""

import argparse
import asyncio
import resource
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self, cast
from urllib.parse import urlsplit

if __name__ == "__main__":  # as a script: the checkout that this file is in comes before anything installed
    ROOT = Path(__file__).resolve().parents[2]
    sys.path[:1] = [str(ROOT), str(ROOT / "schemas"), str(ROOT / "clients")]

from tests.bench.peers.busd import BusdPeer
from tests.bench.peers.peer import Handshake

CONNECTING = 64
"""Connections under way at a time: below every listener's backlog."""

SPARE_DESCRIPTORS = 64
"""Descriptors beside the endpoints' own: standard streams, the event loop's, files being imported."""


def raise_descriptor_limit(endpoints: int) -> None:
    """Make room for ``endpoints`` connections; raises OSError with both numbers when the hard limit is too low."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = endpoints + SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise OSError(f"{endpoints} endpoints need {needed} descriptors and the hard limit is {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else hard, hard))


class Endpoint(asyncio.Protocol):
    """One bare connection."""

    __slots__ = ("_attached", "_crowd", "_received")

    def __init__(self, crowd: "Crowd", attached: asyncio.Future[None]) -> None:
        self._crowd = crowd
        self._attached: asyncio.Future[None] | None = attached
        self._received: bytearray | None = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.WriteTransport, transport)  # uvloop's are not of that class
        self._crowd.transports.append(stream)
        stream.write(self._crowd.handshake.opening())

    def data_received(self, data: bytes) -> None:
        if self._received is None or self._attached is None:
            return  # attached: what the broker still says is not looked at
        self._received += data
        try:
            if not self._crowd.handshake.attached(self._received):
                return
            self._attached.set_result(None)
        except Exception as error:
            self._attached.set_exception(error)
        self._received = self._attached = None

    def connection_lost(self, error: Exception | None) -> None:
        self._crowd.lost += 1
        if self._attached is not None and not self._attached.done():
            self._attached.set_exception(error or ConnectionResetError("the broker closed the connection"))


class Crowd:
    """Many endpoints of one broker, all held until the crowd is closed."""

    def __init__(self, handshake: Handshake, url: str) -> None:
        self.handshake = handshake
        self.transports: list[asyncio.WriteTransport] = []
        self.lost = 0
        self._address = urlsplit(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for transport in self.transports:
            transport.abort()

    async def attach(self, count: int) -> None:
        """Attach ``count`` more endpoints; raises OSError when one cannot connect or is refused."""
        numbers = iter(range(count))

        async def attach_some() -> None:
            for _ in numbers:
                await self._attach_one()

        await asyncio.gather(*(attach_some() for _ in range(min(CONNECTING, count))))

    async def _attach_one(self) -> None:
        loop = asyncio.get_running_loop()
        attached: asyncio.Future[None] = loop.create_future()
        if self._address.scheme == "unix":
            await loop.create_unix_connection(lambda: Endpoint(self, attached), self._address.path)
        else:
            host, port = self._address.hostname or "127.0.0.1", self._address.port or 0
            await loop.create_connection(lambda: Endpoint(self, attached), host, port)
        await attached

    def check(self) -> None:
        """Raise ConnectionError when the broker has disconnected any endpoint."""
        if self.lost:
            raise ConnectionError(f"{self.lost} of {len(self.transports)} endpoints were disconnected")


async def hold_many(url: str, count: int, seconds: float) -> None:
    """Attach ``count`` endpoints to busd at ``url``, say how long that took, and hold them for ``seconds``."""
    with Crowd(BusdPeer().handshake(), url) as crowd:
        start = time.monotonic()
        await crowd.attach(count)
        elapsed = time.monotonic() - start
        print(f"{count} endpoints attached in {elapsed:.2f} s ({count / elapsed:.0f}/s)", flush=True)
        await asyncio.sleep(seconds)
        crowd.check()


def main() -> int:
    """The command line; exit 0 when all endpoints attached and stayed, 1 when not, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description="Attach very many bare endpoints to a running busd and hold them.")
    parser.add_argument("--url", required=True, help="the broker's socket: unix:///path/host.sock")
    parser.add_argument("--count", type=int, default=10_000, help="endpoints (default: %(default)s)")
    parser.add_argument("--hold", type=float, default=0.0, help="seconds to hold them (default: %(default)s)")
    options = parser.parse_args()
    try:
        raise_descriptor_limit(options.count)
        asyncio.run(hold_many(options.url, options.count, options.hold))
    except OSError as error:
        print(f"attach: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
