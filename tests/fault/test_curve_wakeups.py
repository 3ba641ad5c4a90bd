"""No message waits because libzmq's edge-triggered descriptor was not looked at: bursts and silence, for a while.

The safety net (a look every 50 ms on each side) is taken away here, so that one wake-up that is missed shows as a
message that waits until something else happens. ``BUSD_SOAK_SECONDS`` makes it a soak: 86400 for a day.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

import busclient
from busclient import Call, curvelink
from busd.edge import curve
from busproto import envelope
from busproto.envelope import Kind
from tests.clients.test_client_curve import elsewhere, loops, written
from tests.edge.curve_support import Card, curve_node

pytestmark = pytest.mark.alone

SECONDS = float(os.environ.get("BUSD_SOAK_SECONDS", "10")) / 2
"""For each event loop."""

LATE_SECONDS = 0.1


class Lag:
    """How late this process's own timers are: what a busy machine adds to everything."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def watch(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            self.worst = max(self.worst, time.monotonic() - before - 0.01)


async def echo(call: Call) -> Any:
    return call.payload


async def alternate(one: busclient.Bus, two: busclient.Bus, lag: Lag) -> tuple[int, float]:
    """Bursts of publishes and lone calls in both directions, with pauses between them; how many, and the longest wait
    beyond what the machine itself was late."""
    chance = random.Random(7)
    end = time.monotonic() + SECONDS
    total, worst = 0, 0.0
    async with one.subscribe("burst.one") as to_one, two.subscribe("burst.two") as to_two, two.serve("echo", echo):
        while time.monotonic() < end:
            await asyncio.sleep(chance.choice((0.0, 0.0005, 0.003, 0.02, 0.08)))
            lag.worst = 0.0
            begun = time.monotonic()
            sender, receiver, subject = chance.choice(((one, to_two, "burst.two"), (two, to_one, "burst.one")))
            count = chance.choice((1, 1, 2, 7, 64, 500))
            last = begun
            for n in range(count):
                await sender.publish(subject, n)
                if n == count // 2 and chance.random() < 0.3:
                    await asyncio.sleep(0.001)
            for _ in range(count):
                await asyncio.wait_for(anext(receiver), 5.0)
                now = time.monotonic()
                worst = max(worst, now - last - lag.worst)
                last = now
            begun = time.monotonic()
            await one.call("echo", total, timeout=5.0)
            worst = max(worst, time.monotonic() - begun - lag.worst)
            total += count + 2
    return total, worst


@pytest.mark.timeout(SECONDS * 4 + 60)
@pytest.mark.parametrize("factory", loops(), ids=["asyncio", "uvloop"])
def test_no_message_waits_for_a_wakeup_that_was_missed(
    tmp_path: Path, factory: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curvelink, "TICK_SECONDS", 3600.0)
    monkeypatch.setattr(curve, "TICK_SECONDS", 3600.0)

    async def main() -> None:
        async with elsewhere() as other:
            pair = await other.do(lambda node: node.enroll("dpu0"))
            key, url, server = written(tmp_path, pair), other.node.listener.url, other.node.broker.public
            lag = Lag()
            watching = asyncio.create_task(lag.watch())
            async with (
                busclient.connect(url, key=key, server_key=server) as one,
                busclient.connect(url, key=key, server_key=server) as two,
            ):
                total, worst = await alternate(one, two, lag)
            watching.cancel()
            print(f"{total} messages, the longest wait {worst * 1000:.1f} ms")
            assert total > 100 * SECONDS
            assert worst < LATE_SECONDS

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def consume_edge(socket: "zmq.Socket[bytes]") -> None:
    """Do to ``socket`` what a send sometimes does: take in what has come, so that its descriptor says nothing of it."""
    until = time.monotonic() + 5.0
    while not int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
        assert time.monotonic() < until
        time.sleep(0.001)
    assert not zmq.zmq_poll([(int(socket.getsockopt(zmq.FD)), zmq.POLLIN)], 0)


@pytest.mark.parametrize("factory", loops(), ids=["asyncio", "uvloop"])
def test_a_send_that_consumes_the_edge_hides_nothing(
    tmp_path: Path, factory: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curvelink, "TICK_SECONDS", 3600.0)
    monkeypatch.setattr(curve, "TICK_SECONDS", 3600.0)

    async def main() -> None:
        async with curve_node() as node:
            card = await Card(node, node.enroll("dpu0")).attach()
            (peer,) = node.listener._peers.values()
            for number in range(20):
                card.send(envelope.ping(number))
                consume_edge(node.listener._router)
                peer.flush()
                assert await card.expect(Kind.PONG) == [Kind.PONG, number]
        async with elsewhere() as other:
            key = written(tmp_path, await other.do(lambda node: node.enroll("dpu0")))
            url, server = other.node.listener.url, other.node.broker.public
            async with (
                busclient.connect(url, key=key, server_key=server) as one,
                busclient.connect(url, key=key, server_key=server) as two,
                one.subscribe("x.y") as sub,
            ):
                link = one._connection.link
                assert isinstance(link, curvelink.CurveLink)
                for number in range(20):
                    two.publish_nowait("x.y", number)
                    two._connection.flush()
                    consume_edge(link._socket)
                    link.send([[envelope.ping(number)]])
                    assert (await asyncio.wait_for(anext(sub), 5.0)).payload == number

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(main(), 30.0))
