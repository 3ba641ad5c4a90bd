"""Hybrid vsock: the VMM's two protocols, and everything that the other side of them can do wrong."""

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from busd.edge import hybrid
from busd.edge.hybrid import open_stream
from busproto import envelope
from busproto.envelope import Kind
from tests.edge.raw import loops, run
from tests.edge.vmm import FakeVmm, GuestAgent, connect, guest_node, is_refused, until, until_state

both = pytest.mark.parametrize("loop", sorted(loops()))


# -- CONNECT and OK ---------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("pieces", [[b"OK 1073741824\nZMTP"], [b"O", b"K", b" ", b"10", b"73741824", b"\n", b"ZMTP"]])
def test_stream_begins_behind_the_newline(loop: str, pieces: list[bytes]) -> None:
    async def main() -> None:
        ours, vmm = pair()
        asking = asyncio.create_task(open_stream(ours, 5670))
        for piece in pieces:
            vmm.send(piece)
            await asyncio.sleep(0.002)
        await asking
        assert vmm.recv(100) == b"CONNECT 5670\n"
        assert ours.recv(100) == b"ZMTP"
        ours.close()
        vmm.close()

    run(main(), loop)


@both
@pytest.mark.parametrize(
    ("answer", "closes", "reason"),
    [
        (b"", True, "nobody listens on port 5670 in the guest"),
        (b"OK 10737", True, "answered CONNECT 5670 with OK 10737"),
        (b"OK\n", False, "answered CONNECT 5670 with OK"),
        (b"OK x\n", False, "answered CONNECT 5670 with OK x"),
        (b"\x1b[2Jhi\n", False, r"with \x1b[2Jhi\n"),
        (b"OK " + b"1" * 29, False, "more than 32 bytes"),
        (b"OK " + b"1" * 5000, False, "more than 32 bytes"),
        (b"OK 1", False, "did not answer CONNECT 5670 within 0.05 s"),
        (b"", False, "did not answer"),
    ],
)
def test_answer_that_is_none_is_named(
    loop: str, answer: bytes, closes: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hybrid, "ANSWER_SECONDS", 0.05)

    async def main() -> None:
        ours, vmm = pair()
        vmm.send(answer)
        if closes:
            vmm.shutdown(socket.SHUT_WR)
        with pytest.raises(OSError) as caught:
            await open_stream(ours, 5670)
        assert reason in str(caught.value)
        assert len(str(caught.value)) < 200
        ours.close()
        vmm.close()

    run(main(), loop)


def test_an_answer_is_waited_for_one_second() -> None:
    assert hybrid.ANSWER_SECONDS == 1.0


# -- the host connects ------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("manner", ["in_one_segment", "in_fragments"])
def test_host_initiated_stream_becomes_an_endpoint(tmp_path: Path, loop: str, manner: str) -> None:
    async def main() -> None:
        agent = GuestAgent()
        async with FakeVmm(tmp_path / "v", getattr(agent, manner)) as vmm, guest_node(tmp_path) as node:
            await node.add("vm-1", connect=tmp_path / "v", port=7000)
            peer = await agent.attached()
            assert vmm.asked == [b"CONNECT 7000\n"]
            (session,) = node.bus.census
            assert (session.principal.unit, session.principal.pid) == ("vm-1", os.getpid())
            peer.send(envelope.ping(1))
            assert await peer.expect(Kind.PONG) == [Kind.PONG, 1]
            row = await node.row("vm-1")
            assert (row["state"], row["endpoints"], row.get("error")) == ("connected", 1, None)

    run(main(), loop)


@both
def test_dialer_waits_for_the_vmm_and_for_the_agent_in_the_guest(tmp_path: Path, loop: str) -> None:
    """Firecracker issue 1253: a CONNECT before the guest is up is closed without a word."""

    async def main() -> None:
        agent = GuestAgent()
        booted = False

        async def boots(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if booted:
                await agent.in_fragments(reader, writer)
            else:
                writer.close()

        async with guest_node(tmp_path) as node:
            await node.add("vm-1", connect=tmp_path / "v")
            row = await until_state(node, "vm-1", state="waiting")
            assert "no VMM listens" in row["error"]
            assert 0 <= row["retry_seconds"] <= 5
            async with FakeVmm(tmp_path / "v", boots) as vmm:
                await until(lambda: len(vmm.asked) >= 2)
                row = await until_state(node, "vm-1", state="waiting")
                assert "nobody listens on port 5670" in row["error"]
                assert node.reports[1:] == []  # a guest that boots is nobody's fault
                booted = True
                await agent.attached()
                await until_state(node, "vm-1", state="connected")

    run(main(), loop)


@both
def test_dialer_connects_again_when_the_connection_was_lost(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        agent = GuestAgent()
        async with FakeVmm(tmp_path / "v", agent.in_one_segment), guest_node(tmp_path) as node:
            await node.add("vm-1", connect=tmp_path / "v")
            for _ in range(3):
                peer = await agent.attached()
                peer.close()
            await agent.attached()
            assert len(list(node.bus.census)) == 1

    run(main(), loop)


@both
def test_removed_unit_is_not_dialled_any_more(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        agent = GuestAgent()
        async with FakeVmm(tmp_path / "v", agent.in_one_segment) as vmm, guest_node(tmp_path) as node:
            await node.add("vm-1", connect=tmp_path / "v")
            peer = await agent.attached()
            receipt = await node.ask("remove", name="vm-1")
            assert receipt["endpoints"] == 1
            assert (await peer.ended())["code"] == 3009
            await asyncio.sleep(0.3)
            assert len(vmm.asked) == 1

    run(main(), loop)


# -- the guest connects -----------------------------------------------------------------------------------------------


@both
def test_guest_initiated_stream_becomes_an_endpoint(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            row = await node.add("vm-1", socket=tmp_path / "v", port=7000)
            assert (row["address"], row["state"]) == (f"{tmp_path}/v_7000", "listening")
            assert stat.S_IMODE((tmp_path / "v_7000").stat().st_mode) == 0o600
            peer = await connect(tmp_path / "v", 7000)
            peer.send(envelope.ping(1))
            assert await peer.expect(Kind.PONG) == [Kind.PONG, 1]
        assert not (tmp_path / "v_7000").exists()

    run(main(), loop)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to another user")
def test_socket_belongs_to_the_user_that_the_vmm_runs_as(tmp_path: Path) -> None:
    async def main() -> None:
        jail = tmp_path / "jail"
        jail.mkdir(mode=0o700)
        os.chown(jail, 4711, 4711)
        async with guest_node(tmp_path) as node:
            with pytest.raises(Exception, match="belongs to user 4711, and only user 0 is trusted"):
                await node.add("vm-1", socket=jail / "v")
            await node.add("vm-1", socket=jail / "v", owner=4711)
            assert (jail / "v_5670").stat().st_uid == 4711
            assert await is_refused(jail / "v")  # root may connect, and is not that user
            assert node.faults("connection-refused")[0]["unit"] == "vm-1"
            assert "its VMM runs as user 4711" in node.faults("connection-refused")[0]["error"]

    run(main(), "asyncio")


@both
def test_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(str(tmp_path / "v_5670"))
        stale.close()
        async with guest_node(tmp_path) as node:
            await node.add("vm-1", socket=tmp_path / "v")
            await connect(tmp_path / "v")
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(str(tmp_path / "w_5670"))
                other.listen()
                with pytest.raises(Exception, match="another process listens on it"):
                    await node.add("vm-2", socket=tmp_path / "w")
            assert [row["name"] for row in (await node.ask("list"))["guests"]] == ["vm-1"]

    run(main(), loop)


def test_row_says_when_the_socket_is_gone(tmp_path: Path) -> None:
    """A jail that is made anew around the listener: nobody can reach it, and that must show."""

    async def main() -> None:
        jail = tmp_path / "jail"
        jail.mkdir()
        async with guest_node(tmp_path) as node:
            await node.add("vm-1", socket=jail / "v")
            jail.rename(tmp_path / "old")
            jail.mkdir()
            row = await node.row("vm-1")
            assert row["state"] == "unreachable"
            assert "remove the unit" in row["error"]
            await node.ask("remove", name="vm-1")
            assert not (tmp_path / "old" / "v_5670").exists()

    run(main(), "asyncio")


def test_vm_restored_under_another_uds_is_another_way_in(tmp_path: Path) -> None:
    """Firecracker's vsock_override: the clone's VMM looks for files of its own, where nobody listens."""

    async def main() -> None:
        async with guest_node(tmp_path) as node:
            await node.add("vm-1", socket=tmp_path / "v")
            await connect(tmp_path / "v")
            with pytest.raises(FileNotFoundError):
                await connect(tmp_path / "restored")
            await node.add("vm-2", socket=tmp_path / "restored")
            await connect(tmp_path / "restored")
            assert [session.principal.unit for session in node.bus.census] == ["vm-1", "vm-2"]

    run(main(), "asyncio")


def pair() -> tuple[socket.socket, socket.socket]:
    ours, vmm = socket.socketpair()
    ours.setblocking(False)
    vmm.settimeout(5)
    return ours, vmm
