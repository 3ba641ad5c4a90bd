"""Units at the guest boundary: kept apart, torn down whole, fenced by generation and by the process of their VMM."""

import asyncio
import gc
import json
import os
import resource
import socket
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

from busd.core.principal import Principal
from busd.core.tokenbucket import TokenBucket
from busd.edge.admission import Admission
from busd.edge.guest import Guest
from busd.edge.pump import clock
from busproto import envelope
from busproto.envelope import Kind, Status
from busproto.errors import BusError, Code
from tests.edge.raw import RawPeer, descriptors, loops, run
from tests.edge.vmm import FakeVmm, GuestAgent, GuestNode, connect, guest_node, is_refused, until
from tests.support import no_collection

both = pytest.mark.parametrize("loop", sorted(loops()))


async def subscribe(peer: RawPeer, pattern: str) -> None:
    peer.send(envelope.subscribe(1, pattern, {}))
    await peer.expect(Kind.REPLY)


# -- kept apart -------------------------------------------------------------------------------------------------------


@both
def test_units_of_two_tenants_cannot_reach_each_other(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            await node.add("vm-1", "acme", socket=tmp_path / "v1")
            await node.add("vm-2", "globex", socket=tmp_path / "v2")
            await node.add("vm-3", "acme", socket=tmp_path / "v3")
            one, two, three = [await connect(tmp_path / f"v{number}") for number in (1, 2, 3)]
            await subscribe(two, ">")
            await subscribe(three, ">")
            two.send(envelope.serve(2, "secret.read", {}))
            await two.expect(Kind.REPLY)
            one.send(envelope.publish("metrics.cpu", None, b"1"), envelope.call(9, "secret.read", 1000, None, b""))
            assert (await one.expect(Kind.REPLY))[2] != Status.OK
            assert (await three.expect(Kind.PUBLISH))[1:] == ["metrics.cpu", None, b"1"]
            two.send(envelope.ping(5))
            assert await two.expect(Kind.PONG) == [Kind.PONG, 5]  # and nothing before it

    run(main(), loop)


def test_principal_is_the_unit_and_the_process_is_its_vmm(tmp_path: Path) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            row = await node.add("vm-1", socket=tmp_path / "v", generation=7)
            assert row["vmm"] is None
            await connect(tmp_path / "v")
            (session,) = node.bus.census
            principal = session.principal
            assert (principal.boundary, principal.tenant, principal.unit) == ("guest", "acme", "vm-1")
            assert (principal.generation, principal.uid, principal.pid) == (7, os.getuid(), os.getpid())
            row = await node.row("vm-1")
            assert row["vmm"] == {"pid": os.getpid(), "started": principal.started, "uid": os.getuid()}
            assert row["attached"] == [session.name]

    run(main(), "asyncio")


# -- torn down whole --------------------------------------------------------------------------------------------------


def test_what_was_removed_waits_for_no_collection_of_garbage(tmp_path: Path) -> None:
    """A guest, its way in and its admission held each other: 8 KiB a life, until the next full collection."""

    async def come_and_go(node: GuestNode, way: str) -> None:
        await node.add("vm-1", "acme", **{way: tmp_path / f"v-{way}"})
        lives = [each for each in gc.get_objects() if isinstance(each, Guest | Admission)]
        gone = [weakref.ref(each) for each in lives if isinstance(each, Guest) or each.boundary == "guest"]
        del lives
        assert len(gone) == 2
        await node.ask("remove", name="vm-1")
        await until(lambda: not any(each() for each in gone))

    async def main() -> None:
        async with guest_node(tmp_path) as node:
            with no_collection():
                for way in ("socket", "connect"):
                    await come_and_go(node, way)

    run(main(), "asyncio")


@both
def test_removal_ends_everything_and_says_what_that_was(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            await node.add("vm-1", socket=tmp_path / "v1")
            await node.add("vm-2", socket=tmp_path / "v2")
            one, other = await connect(tmp_path / "v1"), await connect(tmp_path / "v2")
            silent = await connect(tmp_path / "v1", hello=False)
            await subscribe(one, "a.>")
            one.send(envelope.serve(2, "work.do", {}))
            await one.expect(Kind.REPLY)
            other.send(envelope.serve(2, "other.do", {}), envelope.call(3, "work.do", 60_000, None, b""))
            await other.expect(Kind.REPLY)
            await one.expect(Kind.CALL)
            one.send(envelope.call(4, "other.do", 60_000, None, b""))
            await other.expect(Kind.CALL)
            receipt = await node.ask("remove", name="vm-1")
            shown = {key: value for key, value in receipt.items() if value}
            assert shown.pop("seconds") > 0
            assert shown == {
                "unit": "vm-1",
                "tenant": "acme",
                "generation": 1,
                "endpoints": 1,
                "connections": 1,
                "subscriptions": 1,
                "services": 1,
                "calls_abandoned": 1,
                "calls_unknown": 1,
            }
            told = [await other.receive() for _ in range(2)]
            assert {message[0] for message in told} == {Kind.REPLY, Kind.CANCEL}
            assert next(message for message in told if message[0] == Kind.REPLY)[2] == Status.UNKNOWN
            assert (await one.ended())["code"] == Code.UNIT_UNKNOWN
            with pytest.raises((EOFError, ConnectionError)):
                while True:
                    await silent.receive()
            assert [session.principal.unit for session in node.bus.census] == ["vm-2"]
            assert not (tmp_path / "v1_5670").exists()
            with pytest.raises(BusError, match="no guest of this name"):
                await node.ask("remove", name="vm-1")
            await until(lambda: node.guests.statistics().open == 1)

    run(main(), loop)


@both
def test_removal_in_the_turn_of_an_admission_leaves_nothing(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            for number in range(20):
                await node.add("vm-1", socket=tmp_path / "v")
                peers = [await connect(tmp_path / "v", hello=False) for _ in range(3)]
                for _ in range(number % 5):
                    await asyncio.sleep(0)
                await node.ask("remove", name="vm-1")
                for peer in peers:
                    peer.close()
            await until(lambda: node.guests.statistics().open == 0)
            assert node.bus.statistics().endpoints["guest"] == 0

    run(main(), loop)


@both
def test_what_waited_for_an_old_life_is_never_taken_for_the_new_one(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            await node.add("vm-1", socket=tmp_path / "v")
            waiting = [socket.socket(socket.AF_UNIX) for _ in range(50)]
            for each in waiting:  # the loop does not run in between: they stay in the kernel's queue
                each.connect(f"{tmp_path}/v_5670")
            receipt = await node.ask("remove", name="vm-1")
            assert receipt["refused_waiting"] == 50
            row = await node.add("vm-1", socket=tmp_path / "v")
            assert row["generation"] == 2
            for each in waiting:
                each.setblocking(False)
                assert await read(each) == b""
                each.close()
            assert (await node.row("vm-1"))["connections"] == 0
            assert node.guests.statistics().refused == {"unit": 50}

    run(main(), loop)


def test_principal_of_an_old_generation_cannot_attach(tmp_path: Path) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            await node.add("vm-1", socket=tmp_path / "v")
            old = Principal("guest", "acme", "vm-1", 1)
            await node.ask("remove", name="vm-1")
            with pytest.raises(BusError, match="never added, or has been removed"):
                node.bus.attach(old, clock())
            await node.add("vm-1", socket=tmp_path / "v")
            with pytest.raises(BusError, match="generation 1 is over; generation 2 stands"):
                node.bus.attach(old, clock())

    run(main(), "asyncio")


def test_descriptors_come_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            before = descriptors()
            for number in range(20):
                await node.add("vm-1", socket=tmp_path / "v")
                await node.add("vm-2", connect=tmp_path / "w")
                await node.add("vm-3", device=tmp_path / "d")
                peer = await connect(tmp_path / "v")
                for name in ("vm-1", "vm-2", "vm-3"):
                    await node.ask("remove", name=name)
                await peer.ended()
                peer.close()
                with pytest.raises(BusError):
                    await node.add(f"x-{number}", socket=tmp_path / "absent" / "v")
            await until(lambda: descriptors() <= before + 1)

    run(main(), "asyncio")


# -- the process of the VMM -------------------------------------------------------------------------------------------

OTHER_PROCESS = """
import socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.settimeout(10)
peer.connect(sys.argv[1])
try:
    print(len(peer.recv(64)))
except ConnectionError:
    print(0)
"""


async def from_another_process(path: Path) -> int:
    """How many bytes another process is sent when it connects to ``path``."""
    command = [sys.executable, "-c", OTHER_PROCESS, str(path)]
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=20, check=True)
    return int(ended.stdout)


@both
def test_another_process_is_not_the_vmm(tmp_path: Path, loop: str) -> None:
    """A clone restored from a snapshot, or a VMM that was restarted, is another life; so is anyone else."""

    async def main() -> None:
        async with guest_node(tmp_path) as node:
            await node.add("vm-1", socket=tmp_path / "v")
            await connect(tmp_path / "v")
            assert await from_another_process(tmp_path / "v_5670") == 0
            (fault,) = node.faults("connection-refused")
            assert (fault["unit"], fault["reason"]) == ("vm-1", "unit")
            assert f"which is process {os.getpid()}" in fault["error"]
            assert (await node.row("vm-1"))["refused"] == {"unit": 1}
            await connect(tmp_path / "v")

    run(main(), loop, 30)


def test_the_first_process_holds_the_unit(tmp_path: Path) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            await node.add("vm-1", socket=tmp_path / "v")
            assert await from_another_process(tmp_path / "v_5670") > 0
            assert await is_refused(tmp_path / "v")

    run(main(), "asyncio", 30)


def test_process_can_be_named_beforehand_or_left_open(tmp_path: Path) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            row = await node.add("vm-1", socket=tmp_path / "v", pid=os.getpid())
            assert row["vmm"]["pid"] == os.getpid()
            assert await from_another_process(tmp_path / "v_5670") == 0
            await connect(tmp_path / "v")
            await node.add("vm-2", socket=tmp_path / "w", any_process=True)
            await connect(tmp_path / "w")
            assert await from_another_process(tmp_path / "w_5670") > 0

    run(main(), "asyncio", 30)


# -- bounds -----------------------------------------------------------------------------------------------------------


@both
def test_1023_connections_of_one_unit(tmp_path: Path, loop: str) -> None:
    """As many as Firecracker gives one device."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"needs 4096 descriptors and may have {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))

    async def main() -> None:
        async with guest_node(tmp_path, connections=1023) as node:
            await node.add("vm-1", socket=tmp_path / "v")
            await node.add("vm-2", socket=tmp_path / "w")
            peers = [await connect(tmp_path / "v") for _ in range(1023)]
            assert await is_refused(tmp_path / "v")
            row = await node.row("vm-1")
            assert (row["endpoints"], row["refused"]) == (1023, {"user": 1})
            await connect(tmp_path / "w")
            receipt = await node.ask("remove", name="vm-1")
            assert receipt["endpoints"] == 1023
            for peer in peers:
                peer.writer.transport.abort()
            await until(lambda: node.guests.statistics().open == 1)

    run(main(), loop, 40)


def test_storm_of_connections_waits_in_its_own_queue(tmp_path: Path) -> None:
    async def main() -> None:
        async with guest_node(tmp_path, connects=lambda: TokenBucket(rate=1, burst=5)) as node:
            await node.add("vm-1", socket=tmp_path / "v")
            await node.add("vm-2", socket=tmp_path / "w")
            for _ in range(30):
                await connect(tmp_path / "v", hello=False)
            await asyncio.sleep(0.05)
            assert 5 <= (await node.row("vm-1"))["connections"] < 15
            began = clock()
            await connect(tmp_path / "w")
            assert clock() - began < 0.5

    run(main(), "asyncio")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "exactly one way in"),
        ({"socket": "/x/v", "cid": 3}, "names socket and cid"),
        ({"socket": "v"}, "'v' is not an absolute path"),
        ({"socket": "/x/"}, "a slash at its end"),
        ({"socket": "/x/../v"}, "without '.', '..'"),
        ({"socket": "/x//v"}, "'//'"),
        ({"socket": "/tmp/v\x1b"}, "control character"),
        ({"socket": "/x/" + "v" * 300}, "longer than"),
        ({"socket": 7}, "socket must be a string"),
        ({"socket": "/nonexistent/v"}, "directory /nonexistent does not exist"),
        ({"socket": "/dev/null/v"}, "/dev/null"),
        ({"connect": "/x/v", "port": 0}, "port must be an integer from 1 to 4294967294"),
        ({"connect": "/x/v", "port": 2**32 - 1}, "port must be an integer"),
        ({"connect": "/x/v", "port": True}, "port must be an integer"),
        ({"cid": 0}, "cid 0 is not a guest"),
        ({"cid": 2}, "cid 2 is not a guest"),
        ({"cid": 2**32 - 1}, "cid must be an integer"),
        ({"cid": 3}, "does not listen on AF_VSOCK"),
        ({"cid": 3, "port": 5670}, "port does not go with cid"),
        ({"cid": 3, "pid": 1}, "pid does not go with cid"),
        ({"device": "/x/v", "port": 5}, "port does not go with device"),
        ({"socket": "/tmp/v", "pid": 2**31 - 1}, "there is no process 2147483647"),
        ({"socket": "/tmp/v", "pid": 1, "any_process": True}, "exclude each other"),
        ({"socket": "/tmp/v", "any_proces": True}, "there is no field 'any_proces'"),
        ({"socket": "/tmp/v", "generation": 0}, "generation must be an integer from 1"),
        ({"socket": "/tmp/v", "owner": -1}, "owner must be an integer"),
        ({"socket": "/tmp/v", "tenant": "Acme"}, "tenant may hold only"),
        ({"socket": "/tmp/v", "name": "host"}, "must not be 'host'"),
        ({"socket": "/tmp/v", "name": "vm.*"}, "name may hold only"),
        ({"socket": "/tmp/v", "name": "../etc"}, "name may hold only"),
        ({"socket": "/tmp/v", "name": "v" * 65}, "1 to 64 characters"),
        ({"socket": "/tmp/v", "name": "vm-\u0430"}, "name may hold only"),
        ({"socket": "/tmp/v", "name": None}, "name must be a string"),
    ],
)
def test_what_cannot_be_a_guest_is_named(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            with pytest.raises(BusError) as caught:
                await node.ask("add", **{"name": "vm-1", "tenant": "acme", **fields})
            assert caught.value.code == Code.REQUEST_INVALID
            assert said in caught.value.text
            assert len(node.guests) == 0
            assert len(node.bus.units) == 0

    run(main(), "asyncio")


def test_name_way_in_and_generation_belong_to_one_unit(tmp_path: Path) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            await node.add("vm-1", socket=tmp_path / "v", generation=5)
            taken: list[tuple[dict[str, Any], str]] = [
                ({"name": "vm-1", "socket": tmp_path / "w"}, "it stands in generation 5, since 0 s; remove it first"),
                ({"name": "vm-2", "socket": tmp_path / "v"}, "v is the way in of unit 'vm-1'"),
                ({"name": "vm-2", "socket": tmp_path / "v", "port": 99}, "v is the way in of unit 'vm-1'"),
                ({"name": "vm-2", "connect": tmp_path / "v"}, "v is the way in of unit 'vm-1'"),
            ]
            for fields, said in taken:
                with pytest.raises(BusError) as caught:
                    await node.add(**fields)
                assert (caught.value.code, said in caught.value.text) == (Code.UNIT_REFUSED, True), caught.value.text
            assert (await node.add("vm-2", socket=tmp_path / "w"))["generation"] == 6
            await node.ask("remove", name="vm-1")
            for generation in (1, 5):
                with pytest.raises(BusError, match=f"generation {generation} is not later than 5, which has been"):
                    await node.add("vm-1", socket=tmp_path / "v", generation=generation)
            assert (await node.add("vm-1", socket=tmp_path / "v", generation=6))["generation"] == 6
            assert (await node.add("vm-3", socket=tmp_path / "u"))["generation"] == 7

    run(main(), "asyncio")


def test_unit_that_could_not_be_opened_can_be_added_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            with pytest.raises(BusError, match="does not exist"):
                await node.add("vm-1", socket=tmp_path / "jail" / "v", generation=3)
            (tmp_path / "jail").mkdir()
            await node.add("vm-1", socket=tmp_path / "jail" / "v", generation=3)
            await connect(tmp_path / "jail" / "v")

    run(main(), "asyncio")


def test_list_goes_page_by_page(tmp_path: Path) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            names = [f"vm-{number}" for number in range(7)]
            for name in names:
                await node.add(name, connect=tmp_path / name)
            found: list[str] = []
            after = None
            while True:
                page = await node.ask("list", limit=3, **({"after": after} if after else {}))
                assert len(page["guests"]) <= 3
                found += [row["name"] for row in page["guests"]]
                after = page["next"]
                if after is None:
                    break
            assert found == names

    run(main(), "asyncio")


# -- restart ----------------------------------------------------------------------------------------------------------


@both
def test_restarted_broker_brings_its_guests_back(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        agent = GuestAgent()
        async with FakeVmm(tmp_path / "w", agent.in_one_segment):
            async with guest_node(tmp_path) as node:
                await node.add("vm-1", socket=tmp_path / "v", port=7000)
                await node.add("vm-2", "globex", connect=tmp_path / "w", any_process=True)
                await node.add("vm-3", socket=tmp_path / "u")
                await node.ask("remove", name="vm-3")
                await connect(tmp_path / "v", 7000)
                await agent.attached()
                before = [await node.row(name) for name in ("vm-1", "vm-2")]
                await until(lambda: f'"vmm": [\n    {os.getpid()}' in (tmp_path / "units.json").read_text())
            async with guest_node(tmp_path) as node:
                after = [await node.row(name) for name in ("vm-1", "vm-2")]
                same = ("name", "tenant", "generation", "way", "address", "port", "any_process", "vmm")
                assert [{key: row[key] for key in same} for row in after] == [
                    {key: row[key] for key in same} for row in before
                ]
                assert after[0]["seconds"] >= before[0]["seconds"]
                assert await from_another_process(tmp_path / "v_7000") == 0
                await connect(tmp_path / "v", 7000)
                await agent.attached()
                with pytest.raises(BusError, match="is not later than 3"):
                    await node.add("vm-3", socket=tmp_path / "u", generation=3)
                assert (await node.add("vm-4", socket=tmp_path / "u"))["generation"] == 4

    run(main(), loop, 30)


def test_broker_that_was_killed_brings_its_guests_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            await node.add("vm-1", socket=tmp_path / "v")
        stale = socket.socket(socket.AF_UNIX)  # what a broker leaves that had no time to clean up
        stale.bind(str(tmp_path / "v_5670"))
        stale.close()
        async with guest_node(tmp_path) as node:
            await connect(tmp_path / "v")
            assert node.reports == []

    run(main(), "asyncio")


def test_guest_whose_way_in_is_gone_is_reported_and_the_others_stand(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "jail").mkdir()
        async with guest_node(tmp_path) as node:
            await node.add("vm-1", socket=tmp_path / "jail" / "v")
            await node.add("vm-2", socket=tmp_path / "w")
        (tmp_path / "jail").rmdir()
        async with guest_node(tmp_path) as node:
            (fault,) = node.faults("guest-not-restored")
            assert fault["unit"] == "vm-1"
            assert "jail does not exist" in fault["error"]
            await connect(tmp_path / "w")

    run(main(), "asyncio")


def test_damaged_file_lets_nobody_in_and_is_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            await node.add("vm-1", socket=tmp_path / "v")
        text = (tmp_path / "units.json").read_text()
        (tmp_path / "units.json").write_text(text[:-20])
        async with guest_node(tmp_path) as node:
            assert len(node.guests) == 0
            assert not (tmp_path / "v_5670").exists()
            assert (tmp_path / "units.json.damaged").read_text() == text[:-20]
            assert (await node.add("vm-1", socket=tmp_path / "v"))["generation"] > 1

    run(main(), "asyncio")


def test_record_that_was_tampered_with_is_judged_as_a_request(tmp_path: Path) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            await node.add("vm-1", socket=tmp_path / "v")
        document = json.loads((tmp_path / "units.json").read_text())
        document["units"][0]["request"]["tenant"] = "no.de"
        document["units"] += [{}, {"request": {"name": "vm-2"}}, {**document["units"][0], "vmm": [1, 2, 3, 4]}]
        (tmp_path / "units.json").write_text(json.dumps(document))
        async with guest_node(tmp_path) as node:
            assert len(node.guests) == 0
            assert len(node.faults("guest-not-restored")) == 4

    run(main(), "asyncio")


# -- a disk that is full ----------------------------------------------------------------------------------------------


def break_disk(node: GuestNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(document: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device", "/run/busd/units.json.new")

    monkeypatch.setattr(node.store, "save", full)


def test_guest_that_cannot_be_kept_is_not_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            with monkeypatch.context() as broken:
                break_disk(node, broken)
                with pytest.raises(BusError) as caught:
                    await node.add("vm-1", socket=tmp_path / "v")
                assert caught.value.code == Code.UNITS_FILE_UNWRITABLE
                assert "No space left on device" in caught.value.text
                assert len(node.bus.units) == 0
                assert not (tmp_path / "v_5670").exists()
            await node.add("vm-1", socket=tmp_path / "v")
            await connect(tmp_path / "v")

    run(main(), "asyncio")


def test_removal_goes_through_when_it_cannot_be_kept_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            await node.add("vm-1", socket=tmp_path / "v")
            peer = await connect(tmp_path / "v")
            break_disk(node, monkeypatch)
            with pytest.raises(BusError) as caught:
                await node.ask("remove", name="vm-1")
            assert caught.value.code == Code.UNITS_FILE_UNWRITABLE
            assert caught.value.fields["endpoints"] == 1
            assert (await peer.ended())["code"] == Code.UNIT_UNKNOWN
            assert len(node.bus.units) == 0

    run(main(), "asyncio")


def test_caller_that_leaves_in_the_middle_leaves_nothing_half_done(tmp_path: Path) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            for verb, wanted in ((node.add("vm-1", socket=tmp_path / "v"), 1), (node.ask("remove", name="vm-1"), 0)):
                task = asyncio.create_task(verb)
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert len(node.guests) == wanted
                await until(lambda wanted=wanted: kept(tmp_path) == wanted)  # type: ignore[misc]

    run(main(), "asyncio")


def test_node_that_goes_away_takes_no_guests(tmp_path: Path) -> None:
    async def main() -> None:
        async with guest_node(tmp_path) as node:
            node.bus.drain(1.0)
            with pytest.raises(BusError, match="takes no new guests"):
                await node.add("vm-1", socket=tmp_path / "v")

    run(main(), "asyncio")


def kept(run_dir: Path) -> int:
    """How many guests are kept on disk."""
    path = run_dir / "units.json"
    return len(json.loads(path.read_text())["units"]) if path.exists() else 0


async def read(peer: socket.socket) -> bytes:
    """What ``peer`` is sent, or nothing when it was cut off."""
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peer, 64), 5)
    except ConnectionError:
        return b""
