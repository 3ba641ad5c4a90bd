"""A node with guests, and virtual machine monitors played by unix sockets in their own manner."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from busd.core.bus import Bus
from busd.core.introspection import Request
from busd.core.principal import Principal
from busd.core.quotas import Quotas
from busd.core.tokenbucket import TokenBucket
from busd.edge.guests import SERVICE, Guests
from busd.edge.pump import Pump, clock
from busd.edge.vsock import VsockListener
from busd.ops.logs import LogLimiter
from busd.ops.unitsfile import FILE_NAME, UnitsFile
from busproto import envelope
from busproto.envelope import Kind
from tests.core.peer import OPEN, made
from tests.edge.raw import RawPeer

OPERATOR = Principal("host", "node", "host", 0, uid=0, gid=0, pid=1)
"""Who administers in these tests."""

STEP_SECONDS = 5.0
"""For one thing to happen that takes milliseconds unless it is broken."""


class GuestNode:
    """A bus and its guests, as node.py puts them together."""

    def __init__(
        self,
        run_dir: Path,
        *,
        connections: int = 2000,
        connects: Callable[[], TokenBucket | None] = lambda: None,
        vsock: Callable[[Any], VsockListener] | None = None,
        **quotas: Any,
    ) -> None:
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self._faults = LogLimiter(logging.getLogger("tests"))
        self.bus = Bus(node="test", software="busd/test", policy=made(OPEN), now=clock(), quotas=Quotas(**quotas))
        self.pump = Pump(self.bus, asyncio.get_running_loop())
        self.store = UnitsFile(run_dir / FILE_NAME)
        self.guests = Guests(
            self.bus,
            self.pump,
            self.store,
            report=self._report,
            connections=connections,
            connects=connects,
            vsock=None if vsock is None else vsock(self._report),
        )

    def _report(self, name: str, /, **fields: Any) -> None:
        self._faults.fault(name, **fields)  # the node's own one takes these fields
        self.reports.append((name, fields))

    def flush(self) -> None:
        """Write the log's summaries, so that no timer is left."""
        self._faults.flush()

    async def ask(self, verb: str, **fields: Any) -> dict[str, Any]:
        """What ``$bus.admin.guest.VERB`` answers to the operator."""
        return await self.guests.services()[SERVICE + verb](Request(SERVICE + verb, fields), OPERATOR)

    async def add(self, name: str, tenant: str = "acme", **fields: Any) -> dict[str, Any]:
        """Add a guest; paths may be paths."""
        given = {key: str(value) if isinstance(value, Path) else value for key, value in fields.items()}
        return await self.ask("add", name=name, tenant=tenant, **given)

    async def row(self, name: str) -> dict[str, Any]:
        """Everything about one guest."""
        return await self.ask("inspect", name=name)

    def faults(self, name: str) -> list[dict[str, Any]]:
        """The fields of every report called ``name``."""
        return [fields for each, fields in self.reports if each == name]


@asynccontextmanager
async def guest_node(run_dir: Path, **options: Any) -> AsyncIterator[GuestNode]:
    """A node that lets its guests in until the end of the block, and then goes as one does that is stopped."""
    node = GuestNode(run_dir, **options)
    node.guests.start()
    try:
        yield node
    finally:
        node.guests.stop()
        node.bus.shut(clock())
        node.pump.wake()
        await node.guests.close(0.2)
        node.pump.stop()
        node.flush()


class FakeVmm:
    """The listening side of a VMM's ``<uds>``: what it does with each connection is for ``behave`` to say."""

    def __init__(
        self, uds: Path, behave: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> None:
        self.uds = uds
        self.asked: list[bytes] = []
        """The first line of each connection."""
        self._behave = behave
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "FakeVmm":
        self._server = await asyncio.start_unix_server(self._met, str(self.uds))
        return self

    async def __aexit__(self, *ended: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self.uds.unlink(missing_ok=True)

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.asked.append(await reader.readline())
        await self._behave(reader, writer)


class GuestAgent:
    """A program in the guest that listens on the port: the connections it got, as DEALERs."""

    def __init__(self) -> None:
        self.peers: asyncio.Queue[RawPeer] = asyncio.Queue()

    async def in_one_segment(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The VMM's OK and the agent's greeting arrive together."""
        await self.peers.put(RawPeer(reader, Corked(writer, b"OK 1073741824\n")))  # type: ignore[arg-type]

    async def in_fragments(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The VMM's OK comes byte by byte."""
        for byte in b"OK 1073741824\n":
            writer.write(bytes((byte,)))
            await asyncio.sleep(0.001)
        await self.peers.put(RawPeer(reader, writer))

    async def attached(self) -> RawPeer:
        """The next connection, as an endpoint."""
        peer = await asyncio.wait_for(self.peers.get(), STEP_SECONDS)
        peer.send(envelope.hello({}))
        await peer.expect(Kind.WELCOME)
        return peer


class Corked:
    """A writer that sends ``first`` in front of, and together with, what is written first."""

    def __init__(self, writer: asyncio.StreamWriter, first: bytes) -> None:
        self._writer = writer
        self._first = first

    def write(self, data: bytes) -> None:
        first, self._first = self._first, b""
        self._writer.write(first + data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)


async def connect(uds: Path, port: int = 5670, *, hello: bool = True) -> RawPeer:
    """What a VMM does when its guest connects to CID 2: a connection to ``<uds>_<port>``."""
    reader, writer = await asyncio.open_unix_connection(f"{uds}_{port}", limit=1 << 20)
    peer = RawPeer(reader, writer)
    if hello:
        peer.send(envelope.hello({}))
        await asyncio.wait_for(peer.expect(Kind.WELCOME), STEP_SECONDS)
    return peer


async def is_refused(uds: Path, port: int = 5670) -> bool:
    """Whether a connection to ``<uds>_<port>`` is closed without a word."""
    reader, writer = await asyncio.open_unix_connection(f"{uds}_{port}")
    try:
        return await asyncio.wait_for(reader.read(1), STEP_SECONDS) == b""
    except ConnectionError:
        return True
    finally:
        writer.transport.abort()


async def until(condition: Callable[[], object]) -> None:
    """Wait until ``condition()`` is true."""
    async with asyncio.timeout(STEP_SECONDS):
        while not condition():
            await asyncio.sleep(0.002)


async def until_state(node: GuestNode, name: str, **wanted: Any) -> dict[str, Any]:
    """Wait until the guest's row has these values."""
    async with asyncio.timeout(STEP_SECONDS):
        while True:
            row = await node.row(name)
            if all(row.get(key) == value for key, value in wanted.items()):
                return row
            await asyncio.sleep(0.002)
