"""The way in: identity from the kernel, bounds, and no descriptor left."""

import asyncio
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from busproto import envelope
from busproto.envelope import Kind
from tests.edge.raw import listening, loops, run

both = pytest.mark.parametrize("loop", sorted(loops()))


@both
def test_principal_is_what_the_kernel_says(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s") as node:
            await node.peer()
            (session,) = node.bus.census
            principal = session.principal
            assert (principal.boundary, principal.tenant, principal.unit) == ("host", "node", "host")
            assert (principal.uid, principal.gid, principal.pid) == (os.getuid(), os.getgid(), os.getpid())
            assert set(principal.groups) == set(os.getgroups())

    run(main(), loop)


@both
def test_one_user_cannot_take_every_connection(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s", connections_per_uid=2) as node:
            first = await node.peer()
            await node.peer()
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
            assert await reader.read() == b""
            writer.close()
            assert node.admission.statistics().refused == {"user": 1}
            assert node.reports == [
                ("connection-refused", {"boundary": "host", "reason": "user", "uid": os.getuid(), "limit": 2})
            ]
            first.close()
            while node.admission.statistics().open > 1:
                await asyncio.sleep(0.001)
            await node.peer()

    run(main(), loop)


@both
def test_full_node_refuses_with_the_numbers(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s", endpoints=1) as node:
            await node.peer()
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
            assert await reader.read() == b""
            writer.close()
            assert node.admission.statistics().refused == {"endpoints": 1}
            assert "1 of the 1" in node.reports[0][1]["error"]

    run(main(), loop)


@both
def test_closing_lets_byes_out_first(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s") as node:
            peer = await node.peer()
            node.bus.shut(0.0)
            node.pump.wake()
            closing = asyncio.create_task(node.admission.close(5.0))
            assert (await peer.ended())["code"] == 5001
            await closing
            assert node.admission.statistics().open == 0

    run(main(), loop)


STARVED = """
import asyncio, resource, sys
from pathlib import Path
from tests.edge.raw import listening, run
from busproto import envelope
from busproto.envelope import Kind

async def main():
    async with listening(Path(sys.argv[1])) as node:
        print("listening", flush=True)
        while True:
            line = await asyncio.to_thread(sys.stdin.readline)
            if not line:
                return
            refused = node.admission.statistics().refused.get("descriptors", 0)
            print(refused, node.admission.statistics().open, flush=True)

resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
run(main(), sys.argv[2], 60)
"""


@both
def test_no_descriptor_left_refuses_new_peers_and_serves_the_old(tmp_path: Path, loop: str) -> None:
    """libzmq's ipc listener calls abort() here; dbus-broker ended too (its issue 435)."""
    path = tmp_path / "s"
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STARVED), str(path), loop],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "listening\n"

        async def main() -> None:
            from tests.edge.raw import RawPeer

            async def attach() -> RawPeer:
                reader, writer = await asyncio.open_unix_connection(str(path))
                peer = RawPeer(reader, writer)
                peer.send(envelope.hello({}))
                await peer.expect(Kind.WELCOME)
                return peer

            attached: list[RawPeer] = []
            turned_away = 0
            for _ in range(80):
                try:
                    attached.append(await asyncio.wait_for(attach(), 5))
                except (EOFError, ConnectionError):
                    turned_away += 1
                    if turned_away == 3:
                        break
            assert turned_away == 3
            attached[0].send(envelope.ping(1))
            assert await attached[0].expect(Kind.PONG) == [Kind.PONG, 1]
            for peer in attached[1:6]:
                peer.close()
                await peer.writer.wait_closed()
            await asyncio.sleep(0.3)
            await asyncio.wait_for(attach(), 5)
            attached[0].send(envelope.ping(2))
            assert await attached[0].expect(Kind.PONG) == [Kind.PONG, 2]

        run(main(), "asyncio")
        child.stdin.write("\n")
        child.stdin.flush()
        refused, _ = map(int, child.stdout.readline().split())
        assert refused >= 3
        child.stdin.close()
        assert child.wait(10) == 0
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
