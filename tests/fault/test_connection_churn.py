"""Connections that come and go by the thousand leave nothing behind: no descriptor, no memory, no session, no charge.

``BUSD_CHURN_CYCLES`` says how many (default 2,000).
"""

import asyncio
import os
import random
import socket
from pathlib import Path

import psutil
import pytest

import busclient
from busproto import envelope
from busproto.zmtp import frame_header
from tests.bench.peers.busd import BusdHandshake
from tests.fault.guests import SECONDS, add_guest, attach, standing
from tests.support import running_node

CYCLES = int(os.environ.get("BUSD_CHURN_CYCLES", "2000"))
WARM = 500
"""Cycles before the first look: what a broker allocates once is allocated by then."""

UNITS = 8
GROWTH = (8 << 20) + 100 * CYCLES
"""Bytes that the broker may have grown by. The last departures are kept, and the allocator keeps room; a session that
is forgotten is several thousand bytes."""

pytestmark = pytest.mark.timeout(60 + CYCLES // 50)


def cycle(path: str, chance: random.Random) -> None:
    """One connection, ended in one of the ways in which connections end."""
    way = chance.randrange(6)
    if way == 0:  # without a word
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(SECONDS)
            peer.connect(path)
        return
    if way == 1:  # in the middle of the handshake
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(SECONDS)
            peer.connect(path)
            opening = BusdHandshake().opening()
            peer.sendall(opening[: chance.randrange(1, len(opening))])
        return
    peer_or_none = attach(path)
    assert peer_or_none is not None
    with peer_or_none as peer:
        if way == 2:  # with something standing
            _say(peer, envelope.subscribe(1, "churn.>", {}) + envelope.serve(2, "churn.echo", {}))
        elif way == 3:  # with a call to itself in flight
            _say(peer, envelope.serve(1, "churn.self", {}) + envelope.call(2, "churn.self", 60_000, None, b"\xc0"))
        elif way == 4:  # within a frame
            peer.sendall(frame_header(100_000) + bytes(70_000))
        else:  # as it should
            _say(peer, envelope.bye(None))
            while peer.recv(65536):
                pass


def _say(peer: socket.socket, data: bytes) -> None:
    peer.sendall(frame_header(len(data)) + data)


def test_connections_that_come_and_go_leave_nothing_behind(tmp_path: Path) -> None:
    def churn(paths: list[str], cycles: int, seed: int) -> None:
        chance = random.Random(seed)
        for number in range(cycles):
            cycle(paths[number % len(paths)], chance)

    async def main(url: str, broker: psutil.Process) -> None:
        async with busclient.connect(url, component="operator") as bus:
            paths = [await add_guest(bus, tmp_path, f"t{n % 2}", f"vm-{n}") for n in range(UNITS)]
            # Every second connection is the host's.
            paths = [path for guest in paths for path in (guest, url.removeprefix("unix://"))]
            before = await standing(bus)

            async def settled() -> None:
                async with asyncio.timeout(SECONDS):
                    while await standing(bus) != before:
                        await asyncio.sleep(0.02)

            await asyncio.to_thread(churn, paths, WARM, 1)
            await settled()
            descriptors, memory = broker.num_fds(), broker.memory_info().rss
            half = CYCLES // 2
            await asyncio.gather(*(asyncio.to_thread(churn, paths, half, seed) for seed in (2, 3)))
            await settled()
            assert broker.num_fds() == descriptors
            grown = broker.memory_info().rss - memory
            print(f"{CYCLES} connections: RSS grew {grown / 1024:.0f} KiB")
            assert grown < GROWTH
            stats = (await bus.call("$bus.stats")).payload
            assert sum(stats["departures"].values()) >= CYCLES
            assert stats["held_calls"] == 0

    flags = ("--tenants-connects-per-second", "0")
    with running_node(tmp_path / "run", *flags) as node:
        asyncio.run(main(node.url, psutil.Process(node.process.pid)))
