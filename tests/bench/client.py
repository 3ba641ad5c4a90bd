"""A client process of the benchmark: one role against one broker, told by its parent.

Usage: ``python -m tests.bench.client SPEC``, SPEC being a JSON object. The process writes ``{"ready": true}`` when its
part is set up, waits for a line on standard input, works, and writes ``{"result": {...}}`` or ``{"error": "..."}``.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from time import monotonic, perf_counter_ns, process_time
from typing import Any

from tests.bench import attach
from tests.bench.peers.catalogue import PEERS
from tests.bench.peers.peer import Link, Peer, Seen

DATA = "bench.data"
ACKNOWLEDGE = "bench.ack"
ECHO = "bench.echo"

WARM_ENDPOINTS = 50
"""Attached before the clock and the memory reading start: the broker has then loaded and allocated what it shares."""

Result = dict[str, float]
Go = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Spec:
    """What one client process does; the fields of its command line's JSON object."""

    peer: str
    url: str
    role: str
    payload: int
    warmup: float = 0.0
    seconds: float = 0.0
    in_flight: int = 1
    links: int = 1
    index: int = 0
    processes: int = 1
    window: int = 0
    chunk: int = 1
    count: int = 0


class Credit:
    """How many messages every subscriber process has confirmed to have received on all its links."""

    def __init__(self, processes: int) -> None:
        self._each = [0] * processes
        self._loop = asyncio.get_running_loop()
        self._moved = asyncio.Event()
        self.confirmed = 0

    def confirm(self, payload: bytes) -> None:
        """Take in one acknowledgement: the process's index and its count. Zenoh calls this from its own threads."""
        index, count = payload.split()
        self._each[int(index)] = int(count)
        self.confirmed = min(self._each)
        self._loop.call_soon_threadsafe(self._moved.set)

    async def reach(self, count: int) -> None:
        """Wait until ``count`` messages are confirmed."""
        while self.confirmed < count:
            self._moved.clear()
            await self._moved.wait()


class Subscribers:
    """The subscribed links of one process: count, and acknowledge every ``step`` messages that all links have."""

    def __init__(self, spec: Spec, post: Callable[[str, bytes], None]) -> None:
        self.counts = [0] * spec.links
        self._step = spec.window // 4
        self._links = spec.links
        self._index = spec.index
        self._behind: dict[int, int] = {}
        self._post = post

    def seen_by(self, link: int) -> Seen:
        """What link number ``link`` calls for each message."""
        counts = self.counts
        step = self._step

        def seen(_payload: bytes) -> None:
            counts[link] = count = counts[link] + 1
            if not count % step:
                self._reached(count)

        return seen

    def _reached(self, count: int) -> None:
        behind = self._behind.pop(count, self._links) - 1
        if behind:
            self._behind[count] = behind
        else:
            self._post(ACKNOWLEDGE, b"%d %d" % (self._index, count))


async def concluded(links: list[Link], work: Awaitable[Result]) -> Result:
    """The outcome of ``work``, or of the first link that fails meanwhile; the links are closed after it."""
    task = asyncio.ensure_future(work)
    futures: list[asyncio.Future[Any]] = [task, *(link.failure for link in links)]
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    for link in links:
        if link.failure.done():
            task.cancel()
            link.failure.result()
    result = await task
    for link in links:
        await link.close()
    return result


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's event loop, or asyncio's where uvloop is not installed: the same for every peer."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def subscriber(peer: Peer, spec: Spec, go: Go) -> Result:
    """Receive on ``links`` connections until told to stop."""
    links = [await peer.connect(spec.url) for _ in range(spec.links)]
    subscribers = Subscribers(spec, links[0].post)
    for number, link in enumerate(links):
        await link.subscribe(DATA, subscribers.seen_by(number))

    async def work() -> Result:
        await go()
        return {"received": float(sum(subscribers.counts))}

    return await concluded(links, work())


async def publisher(peer: Peer, spec: Spec, go: Go) -> Result:
    """Publish as fast as the subscribers confirm, first to warm up, then timed until the last message is confirmed."""
    link = await peer.connect(spec.url)
    credit = Credit(spec.processes)
    await link.subscribe(ACKNOWLEDGE, credit.confirm)
    payload = bytes(spec.payload)
    sent = 0

    async def publish_for(seconds: float) -> None:
        nonlocal sent
        end = monotonic() + seconds
        while monotonic() < end or sent % (spec.window // 4):
            await credit.reach(sent + spec.chunk - spec.window)
            await link.publish(DATA, payload, spec.chunk)
            sent += spec.chunk
            await asyncio.sleep(0)
        await credit.reach(sent)

    async def work() -> Result:
        await go()
        await publish_for(spec.warmup)
        start, before = monotonic(), sent
        await publish_for(spec.seconds)
        return {"messages": float(sent - before), "seconds": monotonic() - start, "sent": float(sent)}

    return await concluded([link], work())


async def server(peer: Peer, spec: Spec, go: Go) -> Result:
    """Answer calls until told to stop."""
    link = await peer.connect(spec.url)
    await link.serve_echo(ECHO)

    async def work() -> Result:
        await go()
        return {}

    return await concluded([link], work())


async def caller(peer: Peer, spec: Spec, go: Go) -> Result:
    """Call with ``in_flight`` calls at a time, first to warm up, then timed."""
    link = await peer.connect(spec.url)
    payload = bytes(range(256)) * (spec.payload // 256) + bytes(range(spec.payload % 256))

    async def call_until(end: float, nanoseconds: list[int]) -> None:
        call = link.call
        while monotonic() < end:
            start = perf_counter_ns()
            await call(ECHO, payload)
            nanoseconds.append(perf_counter_ns() - start)

    async def call_for(seconds: float) -> list[int]:
        nanoseconds: list[int] = []
        end = monotonic() + seconds
        await asyncio.gather(*(call_until(end, nanoseconds) for _ in range(spec.in_flight)))
        return nanoseconds

    async def work() -> Result:
        await go()
        if await link.call(ECHO, payload) != payload:
            raise ValueError("the reply is not what was sent")
        warmed = len(await call_for(spec.warmup)) + 1
        start = monotonic()
        nanoseconds = sorted(await call_for(spec.seconds))
        elapsed = monotonic() - start
        count = len(nanoseconds)
        percentiles = {f"p{p}": nanoseconds[min(count * p // 100, count - 1)] / 1000 for p in (50, 90, 99)}
        return {"calls": float(count), "warmed": float(warmed), "seconds": elapsed, **percentiles}

    return await concluded([link], work())


async def attacher(peer: Peer, spec: Spec, go: Go) -> Result:
    """Attach ``count`` bare connections and hold them until told to stop."""
    attach.raise_descriptor_limit(spec.count + WARM_ENDPOINTS)
    with attach.Crowd(peer.handshake(), spec.url) as crowd:
        await crowd.attach(WARM_ENDPOINTS)
        await go()
        start = monotonic()
        await crowd.attach(spec.count)
        elapsed = monotonic() - start
        await go()
        crowd.check()
    return {"seconds": elapsed}


ROLES: dict[str, Callable[[Peer, Spec, Go], Coroutine[Any, Any, Result]]] = {
    "subscriber": subscriber,
    "publisher": publisher,
    "server": server,
    "caller": caller,
    "attacher": attacher,
}


async def run(spec: Spec) -> Result:
    """Play ``spec.role``, in step with the parent."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    cpu = 0.0

    async def go() -> None:
        nonlocal cpu
        cpu = cpu or process_time()
        print(json.dumps({"ready": True}), flush=True)
        if not await reader.readline():
            raise EOFError("the benchmark ended before its client")

    result = await ROLES[spec.role](PEERS[spec.peer], spec, go)
    return {**result, "cpu": process_time() - cpu}


def main() -> int:
    """Play the role that the command line names on uvloop (asyncio where there is none) and report once."""
    spec = Spec(**json.loads(sys.argv[1]))
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            outcome: dict[str, object] = {"result": runner.run(run(spec))}
    except Exception as error:
        outcome = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(outcome), flush=True)
    return 0 if "result" in outcome else 1


if __name__ == "__main__":
    sys.exit(main())
