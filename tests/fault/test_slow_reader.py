"""A subscriber that stops reading: it alone pays, and when it reads again it is told exactly what it lost."""

import asyncio
import statistics
import time
from pathlib import Path

import psutil
import pytest

import busclient
from busproto import envelope
from busproto.envelope import Kind
from tests.edge.raw import RawPeer, run
from tests.support import running_node

pytestmark = pytest.mark.alone

MIB = 1 << 20
QUOTA = 8 * MIB
PAYLOAD = b"x" * 1000
WINDOW = 2000
WINDOWS = 12


async def stuck_subscriber(path: Path) -> RawPeer:
    """An endpoint that subscribes and then reads nothing."""
    reader, writer = await asyncio.open_unix_connection(str(path), limit=MIB)
    peer = RawPeer(reader, writer)
    peer.send(envelope.hello({"component": "stuck"}), envelope.subscribe(1, "flood", {}))
    await peer.expect(Kind.WELCOME)
    await peer.expect(Kind.REPLY)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    return peer


async def timed_windows(sender: busclient.Bus, subscription: busclient.Subscription[busclient.Message]) -> list[float]:
    """Publish window after window, each when all of the last one has arrived; the seconds that each took."""
    seconds = []
    for _ in range(WINDOWS):
        start = time.perf_counter()
        for _ in range(WINDOW):
            await sender.publish("flood", PAYLOAD)
        for _ in range(WINDOW):
            await anext(subscription)
        seconds.append(time.perf_counter() - start)
    return seconds


def test_stuck_subscriber_costs_the_others_nothing_and_learns_its_exact_gap(tmp_path: Path) -> None:
    async def main(url: str, broker: psutil.Process) -> None:
        path = Path(url.removeprefix("unix://"))
        async with (
            busclient.connect(url, component="sender") as sender,
            busclient.connect(url, component="receiver") as receiver,
            receiver.subscribe("flood") as subscription,
        ):
            await timed_windows(sender, subscription)
            before = await timed_windows(sender, subscription)
            rss = broker.memory_info().rss
            stuck = await stuck_subscriber(path)
            during = await timed_windows(sender, subscription)
            grown = broker.memory_info().rss - rss
            published = WINDOWS * WINDOW

            told = (await sender.call("$bus.list", {})).payload["endpoints"]
            (row,) = [row for row in told if row["claims"].get("component") == "stuck"]
            assert row["queued_bytes"] <= QUOTA
            assert row["lost_messages"] > 0

            stuck.reader._transport.resume_reading()  # type: ignore[attr-defined]
            delivered = 0
            while (message := await stuck.receive())[0] == Kind.PUBLISH:
                delivered += 1
            assert message == [Kind.GAP, 1, published - delivered, "outbox-bytes"]
            await sender.publish("flood", b"after")
            assert envelope.unpack((await stuck.expect(Kind.PUBLISH))[3]) == b"after"

            slowdown = statistics.median(during) / statistics.median(before)
            print(f"throughput beside a stuck subscriber: {1 / slowdown:.2f} of before; RSS grew {grown / MIB:.1f} MiB")
            # Its queue, the transport's buffer, and what the allocator keeps of both.
            assert grown < 2 * QUOTA + 4 * MIB
            # The figure itself is for the benchmark, on a machine that does nothing else.
            assert slowdown < 2

    with running_node(tmp_path / "run", "--limits-outbox-bytes", str(QUOTA), "--limits-max-payload", str(MIB)) as node:
        run(main(node.url, psutil.Process(node.process.pid)), "uvloop", seconds=60)
