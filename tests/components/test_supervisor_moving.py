"""Replacing and moving components with real processes, under calls: none fails, and one serves at the end."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import busclient
from busclient import BusError, Code, UnknownOutcome
from busd.core.principal import Principal
from busd.core.units import Unit
from busd.edge.connection import Connection
from busd.edge.identity import host_principal
from tests.components.supervisor_support import packed
from tests.components.supervisor_world import World, by_hand, run, world

CARD = Principal("soc", "node", "card-1", 1)


@asynccontextmanager
async def callers(here: World, count: int) -> AsyncIterator[list[int]]:
    """``count`` clients that count one after another; what they were answered. A call that fails fails the test."""
    answers: list[int] = []
    going = True

    async def call() -> None:
        while going:
            answers.append(await here.call("count"))

    tasks = [asyncio.create_task(call()) for _ in range(count)]
    try:
        yield answers
    finally:
        going = False
        await asyncio.gather(*tasks)


@asynccontextmanager
async def on_the_card(here: World) -> AsyncIterator[asyncio.subprocess.Process]:
    """A runner that stands by on an offload card: a process here, of which the broker is told that it is there."""
    here.listener.bus.add_unit(Unit("card-1", "node", 1, "soc"))
    async with by_hand(here, "--standby") as process:

        def identify(peer: socket.socket) -> Principal:
            proven = host_principal(peer)
            return CARD if proven.pid == process.pid else proven

        here.listener.admission._identify = identify
        await here.until(lambda row: any(each["placement"] == "soc" for each in row.get("standby", ())))
        yield process


def test_a_component_is_replaced_under_calls_and_none_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            pids = [(await here.ready())["pid"]]
            async with callers(here, 16) as answers:
                for _ in range(3):
                    before = len(answers)
                    taken = await here.admin("replace")
                    assert (taken["from"], taken["to"], taken["trouble"]) == ("host", "host", "")
                    assert taken["state_bytes"] > 0
                    assert len(answers) > before
                    pids.append(await here.call("pid"))
            assert sorted(answers) == list(range(1, len(answers) + 1)), "each call has counted once"
            assert len(set(pids)) == 4
            assert not any(psutil.pid_exists(pid) for pid in pids[:-1])
            row = await here.row()
            assert (row["pid"], row["restarts"], row["cut_off"], row["standby"]) == (pids[-1], 0, 0, [])
            await here.until(lambda row: row["operations"]["count"]["calls"] == len(answers))
            assert here.reports == []

    run(main, monkeypatch)


def test_another_source_takes_over_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            await here.ready()
            assert await here.call("count") == 1
            taken = await here.admin("replace", source="supervisor_toys:Better")
            assert taken["source"] == "supervisor_toys:Better"
            assert await here.call("count") == 11
            row = await here.row()
            assert (row["version"], row["source"]) == ("2", "supervisor_toys:Better")
            os.kill(row["pid"], signal.SIGKILL)
            row = await here.until(lambda row: row["state"] == "ready" and row["restarts"] == 1)
            assert row["version"] == "2"
            with pytest.raises(BusError) as caught:
                await here.admin("replace", source="nonsense")
            assert caught.value.code == Code.COMPONENT_INVALID

    run(main, monkeypatch)


def test_one_hand_over_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            await here.ready()
            first = asyncio.create_task(here.admin("replace"))
            await asyncio.sleep(0)
            for verb, fields in (("replace", {}), ("move", {"to": "soc"}), ("stop", {}), ("start", {})):
                with pytest.raises(BusError) as caught:
                    await here.admin(verb, **fields)
                assert caught.value.code == Code.COMPONENT_STATE
                assert "replace is under way" in caught.value.text
            assert (await first)["trouble"] == ""
            await here.call("count")

    run(main, monkeypatch)


def test_it_goes_on_when_nobody_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            first = await here.ready()
            asking = asyncio.create_task(here.admin("replace"))
            await asyncio.sleep(0.05)
            asking.cancel()
            await here.until(lambda row: row["state"] == "ready" and row["pid"] != first["pid"])

    run(main, monkeypatch)


@pytest.mark.parametrize(
    ("trouble", "kind", "step", "reason"),
    [
        ("start", "Toy", "prepare", "there is no paper"),
        ("exit", "Toy", "prepare", ""),
        ("take_over", "Toy", "serve", "it is not mine"),
        ("die_taking", "Toy", "serve", ""),
        ("", "Other", "prepare", "is component 'other', and was started as 'toy'"),
        ("", "Missing", "prepare", "BUS-8006 component-invalid"),
    ],
)
def test_when_the_new_one_fails_the_old_one_serves_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, kind: str, step: str, reason: str
) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            first = await here.ready()
            here.configure(f'[config]\ntrouble = "{trouble}"', kind)
            async with callers(here, 8) as answers:
                with pytest.raises(BusError) as caught:
                    await here.admin("replace")
                error = caught.value
                assert (error.code, error.fields["step"]) == (Code.HANDOVER_FAILED, step)
                assert reason in error.text
                assert error.text.endswith("the old one serves")
            assert sorted(answers) == list(range(1, len(answers) + 1))
            row = await here.row()
            assert (row["pid"], row["state"], row["source"]) == (first["pid"], "ready", "supervisor_toys:Toy")

    run(main, monkeypatch)


def test_when_the_old_one_keeps_its_state_it_serves_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, '[config]\ntrouble = "hand_over"') as here:
            first = await here.ready()
            async with callers(here, 8):
                with pytest.raises(BusError) as caught:
                    await here.admin("replace")
            assert caught.value.fields["step"] == "drain"
            assert "it is mine" in caught.value.text
            assert await here.call("pid") == first["pid"]

    run(main, monkeypatch)


def test_a_call_that_takes_longer_than_the_drain_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            first = await here.ready()
            waiting = asyncio.create_task(here.call("wait", seconds=3.0))
            await here.until(lambda row: row["operations"].get("wait", {}).get("in_flight") == 1)
            with pytest.raises(BusError) as caught:
                await here.admin("replace", seconds=0.2)
            assert caught.value.fields["step"] == "drain"
            assert await here.call("pid") == first["pid"]
            assert await waiting == first["pid"]
            await here.admin("replace")

    run(main, monkeypatch)


def test_when_the_old_one_dies_in_the_drain_the_new_one_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, '[config]\ntrouble = "die_draining"') as here:
            first = await here.ready()
            here.configure("[config]\nstart = 100")
            taken = await here.admin("replace")
            assert "the old one was lost while it drained" in taken["trouble"]
            assert taken["state_lost"]
            assert here.reported("component-handover")[0]["lost"] == "its state is lost"
            assert await here.call("count") == 101
            row = await here.ready()
            assert row["pid"] != first["pid"]
            assert row["restarts"] == 0

    run(main, monkeypatch)


def test_a_component_moves_to_the_card_and_back_under_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            home = await here.ready()
            async with on_the_card(here) as card:
                async with callers(here, 8) as answers:
                    taken = await here.admin("move", to="soc")
                    assert (taken["from"], taken["to"]) == ("host", "soc")
                    assert await here.call("pid") == card.pid
                    row = await here.ready()
                    assert (row["placement"], row["pid"], row["supervised"]) == ("soc", card.pid, True)
                    assert here.supervisor.statistics()[0].placement == "soc"
                    for verb, fields in (("replace", {}), ("move", {"to": "soc"})):
                        with pytest.raises(BusError) as caught:
                            await here.admin(verb, **fields)
                        assert caught.value.code == Code.COMPONENT_STATE
                    assert not psutil.pid_exists(home["pid"])
                    taken = await here.admin("move", to="host")
                    assert (taken["from"], taken["to"]) == ("soc", "host")
                assert sorted(answers) == list(range(1, len(answers) + 1))
                row = await here.until(lambda row: row["standby"])
                assert [each["placement"] for each in row["standby"]] == ["soc"]
                assert (await here.admin("move", to="soc"))["to"] == "soc", "it stands by anew"

    run(main, monkeypatch)


def test_where_it_may_not_be_or_nobody_stands_by_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, kind="Homebody") as here:
            await here.ready()
            for to, code, text in (
                ("soc", Code.DENIED, "its manifest says where it may be: host"),
                ("host", Code.COMPONENT_STATE, "at host already"),
            ):
                with pytest.raises(BusError) as caught:
                    await here.admin("move", to=to)
                assert caught.value.code == code
                assert text in caught.value.text
            here.configure()
            await here.admin("replace")
            with pytest.raises(BusError) as caught:
                await here.admin("move", to="soc")
            assert caught.value.code == Code.COMPONENT_NOT_THERE
            assert "toy' (supervisor_toys:Toy) stands by at soc" in caught.value.text
            assert "busd component run SOURCE --standby" in caught.value.cure

    run(main, monkeypatch)


def test_a_guest_of_another_tenant_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, kind="Anywhere") as here:
            await here.ready()
            guests = {"guests": [{"name": "vm-1", "tenant": "acme"}, {"name": "vm-2", "tenant": "node"}]}

            async def call(subject: str, payload: object = None, **_: object) -> Any:
                return busclient.Reply(guests)

            asked = here.supervisor.bus
            monkeypatch.setattr(asked, "call", call)
            for to, code, text in (
                ("guest:vm-1", Code.DENIED, "the unit is of tenant acme"),
                ("guest:vm-2", Code.COMPONENT_NOT_THERE, "stands by at guest:vm-2"),
                ("guest:vm-3", Code.REQUEST_INVALID, "there is no guest 'vm-3'"),
            ):
                with pytest.raises(BusError) as caught:
                    await here.admin("move", to=to)
                assert caught.value.code == code
                assert text in caught.value.text
            monkeypatch.undo()

    run(main, monkeypatch)


def test_one_that_is_lost_on_the_card_is_started_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            await here.ready()
            async with on_the_card(here) as card:
                await here.admin("move", to="soc")
                card.kill()
                row = await here.until(lambda row: row["state"] == "ready" and row["placement"] == "host")
                assert row["restarts"] == 1
                assert await here.call("count") == 1
                assert here.reported("component-lost")[0]["placement"] == "soc"

    run(main, monkeypatch)


def test_one_that_comes_back_while_another_serves_is_told_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            await here.ready()
            async with on_the_card(here) as card:
                await here.admin("move", to="soc")
                endpoint = (await here.row())["endpoint"]
                session = here.listener.bus.census.find(endpoint)
                assert session is not None
                assert isinstance(session.link, Connection)
                session.link.abort()  # the cable was pulled, and put back
                row = await here.until(lambda row: row["placement"] == "host" and row["standby"])
                assert row["standby"][0]["placement"] == "soc"
                assert row["standby"][0]["endpoint"] != endpoint
                assert (await here.ready())["placement"] == "host"
                assert here.reported("component-twice")[0]["placement"] == "soc"
                assert card.returncode is None
                assert (await here.admin("move", to="soc"))["to"] == "soc"

    run(main, monkeypatch)


def test_one_that_is_run_by_hand_is_shown_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, None) as here, by_hand(here, kind="Other") as process:
            row = await here.ready("other")
            assert (row["supervised"], row["pid"], row["placement"]) == (False, process.pid, "host")
            assert (row["restarts"], row["log_lines"], row["standby"], row["others"]) == (0, 0, [], [])
            assert here.supervisor.statistics() == ()
            for verb in ("stop", "start", "replace", "logs", "health"):
                with pytest.raises(BusError) as caught:
                    await here.admin(verb, "other")
                assert caught.value.code == Code.COMPONENT_STATE
                assert "run by hand" in caught.value.text
            process.terminate()
            assert await process.wait() == 0
            await here.until(lambda row: row == {}, "other")

    run(main, monkeypatch)


def test_a_runner_that_lies_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, None) as here:
            liar = busclient.connect(here.supervisor.url, component="toy", reconnect=False)
            await liar.open()
            try:
                for _ in range(200):
                    await liar.publish("component.toy.0123456789ab.status", data=packed())
                    await asyncio.sleep(0.05)
            except BusError:
                pass
            finally:
                endpoint = liar.endpoint
                await liar._connection.close()
            (cut,) = here.reported("component-cut-off")
            assert cut["reason"] == "it says that it is ready, but does not serve toy.add"
            assert (cut["component"], cut["boundary"]) == ("toy", "host")
            await here.until(lambda row: row == {})
            assert endpoint

    run(main, monkeypatch)


def test_a_card_that_says_it_is_a_process_of_this_host_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            row = await here.ready()
            here.listener.bus.add_unit(Unit("card-1", "node", 1, "soc"))
            here.listener.principal = CARD
            async with busclient.connect(here.supervisor.url, component="toy") as card:
                said = packed(instance=row["instance"], state="failed", reason="take me")
                await card.publish(f"component.toy.{row['instance']}.status", data=said)
                await card.publish("component.toy.0123456789ab.status", data=b"\xc1")
                await card.flush()
                await here.until(lambda _: here.supervisor.board.refused == 2)
            row = await here.row()
            assert (row["state"], row["placement"]) == ("ready", "host")
            assert here.reported("component-status-refused")[0]["boundary"] == "soc"

    run(main, monkeypatch)


def test_calls_in_flight_end_as_unknown_when_the_process_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            await here.ready()
            with pytest.raises(UnknownOutcome):
                await here.call("die")
            await here.until(lambda row: row["restarts"] == 1)
            assert here.reported("component-ended")[0]["reason"].startswith("its process ended with status 3")

    run(main, monkeypatch)
