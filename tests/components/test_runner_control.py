"""A runner on the bus: who may tell it what to do, what it answers, and the status that it publishes."""

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import busclient
from busclient import BusError, Call, Code, ConnectionLost, ErrorReply, NoResponders, Origin
from busclient.testing import OPEN, settle
from busd.components.runner.config import read_config
from busd.components.runner.limits import Usage, limit_memory, resident_bytes
from busd.components.runner.status import Status
from busproto.envelope import pack
from tests.components.runner_support import CONTROL, INSTANCE, STATUS, Plain, Stage, attached_as, hooks, made, staged


async def refusal(work: Awaitable[Any]) -> BusError:
    with pytest.raises(ErrorReply) as caught:
        await work
    return caught.value


# -- control ----------------------------------------------------------------------------------------------------------


@staged()
async def test_each_verb_is_a_request_and_its_reply_is_the_status(it: Stage) -> None:
    for do, more, state in (
        ("status", {}, "standby"),
        ("prepare", {}, "prepared"),
        ("serve", {"state": None}, "ready"),
        ("drain", {"seconds": 3}, "drained"),
        ("resume", {}, "ready"),
        ("drain", {}, "drained"),
        ("stop", {}, "standby"),
    ):
        reply = await it.tell(do, **more)
        assert (it.state(), reply["instance"]) == (state, INSTANCE)
        if do != "drain":
            assert msgspec.convert(reply, Status).state == state


@staged()
async def test_in_the_reply_to_a_drain_state_is_what_is_handed_over(it: Stage) -> None:
    await it.tell("prepare")
    await it.tell("serve")
    await it.operator.call("tally.add", {"n": 9})
    reply = await it.tell("drain", seconds=1)
    assert reply["state"] == b"\x82\xa1n\x09\xa3pad\xc4\x00"
    await it.tell("stop")
    await it.tell("prepare")
    await it.tell("serve", state=reply["state"])
    assert made[-1].n == 9


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (None, "expected object, got None"),
        (["stop"], "expected object, got array"),
        ({}, "do: missing"),
        ({"do": "dance"}, "do: invalid value 'dance'"),
        ({"do": 3}, "do: expected str"),
        ({"do": "stop", "now": True}, "now: there is no such field"),
        ({"do": "drain", "seconds": -1}, "seconds: expected float >= 0.0"),
        ({"do": "drain", "seconds": 1e9}, "seconds: expected float <= 3600.0"),
        ({"do": "drain", "seconds": float("nan")}, "seconds: expected float"),
        ({"do": "drain", "seconds": "3"}, "seconds: expected float, got str"),
        ({"do": "serve", "state": "text"}, "state: expected bytes | null, got str"),
    ],
)
def test_a_request_that_is_none_names_the_field(request_: Any, reason: str) -> None:
    @staged()
    async def test(it: Stage) -> None:
        error = await refusal(it.operator.call(CONTROL, request_))
        assert error.code == Code.REQUEST_INVALID
        assert str(error.fields["reason"]).startswith(reason)
        assert it.state() == "standby"

    test()


@staged()
async def test_a_wrong_order_is_an_error_reply(it: Stage) -> None:
    error = await refusal(it.tell("serve"))
    assert (error.code, error.fields) == (Code.COMPONENT_STATE, {"verb": "serve", "state": "standby"})


NODES_OWN_GUESTS = OPEN + "allow call,delegate > from guest tenant=node\n"


@pytest.mark.parametrize("boundary", ["guest", "soc"])
def test_only_the_host_controls_a_runner(boundary: str) -> None:
    @staged(policy=NODES_OWN_GUESTS)
    async def test(it: Stage) -> None:
        other = await attached_as(it.operator, boundary, "node", "unit-7")
        for do in ("prepare", "status", "stop"):
            error = await refusal(other.call(CONTROL, {"do": do}))
            assert error.code == Code.DENIED
            assert str(error.fields["reason"]).endswith(f"is one of tenant node on the {boundary} boundary")
        assert (await refusal(other.call(CONTROL, b"\xff"))).code == Code.DENIED, "before anything is read"
        assert it.state() == "standby"
        await other.close()

    test()


@staged(policy=NODES_OWN_GUESTS)
async def test_a_program_of_the_host_that_acts_for_a_guest_is_refused(it: Stage) -> None:
    deputy = await it.operator.connect(component="deputy")
    guest = await attached_as(it.operator, "guest", "node", "unit-7")

    async def confused(call: Call) -> Any:
        return (await deputy.call(CONTROL, {"do": "stop"}, on_behalf_of=call)).payload

    async with deputy.serve("deputy.stop", confused):
        assert (await refusal(guest.call("deputy.stop"))).code == Code.DENIED
        assert (await it.operator.call("deputy.stop")).payload["state"] == "standby"
    await guest.close()


@staged()
async def test_another_tenant_on_the_host_is_refused(it: Stage) -> None:
    data = pack({"do": "stop"})
    for origin in (Origin("e9", "host", "acme", "host", 0), None):
        call = Call(1, CONTROL, 0.0, data, None, origin)
        if origin is None:
            call = Call(1, CONTROL, 0.0, data, None, busclient.message.NO_ORIGIN)
        with pytest.raises(BusError) as caught:
            await it.control.answer(call)
        assert caught.value.code == Code.DENIED


@staged()
async def test_the_control_subject_goes_with_the_runner(it: Stage) -> None:
    await it.runner.end()
    await it.ended()
    with pytest.raises(NoResponders):
        await it.tell("status")


# -- status -----------------------------------------------------------------------------------------------------------


@staged(standby=False)
async def test_a_status_says_all_of_it(it: Stage) -> None:
    await it.operator.call("tally.add", {"n": 2})
    await refusal(it.operator.call("tally.add", {"n": "two"}))
    await it.clock.advance(12)
    status = it.statuses[-1]
    operations = status.pop("operations")
    assert status == {
        "instance": INSTANCE,
        "component": "tally",
        "version": "1.2.3",
        "owner": "tests",
        "purpose": "counts what it is told to",
        "source": "tests.components.runner_support:Tally",
        "state": "ready",
        "reason": "",
        "stateful": True,
        "standby": False,
        "health": {"ok": True, "detail": "n is 2"},
        "pid": os.getpid(),
        "seconds": 12.0,
        "memory_bytes": 123_456,
        "cpu_percent": 25.0,
        "budget": {"memory_bytes": 64 << 20, "cpu_percent": 50.0},
        "placements": ["host", "soc"],
        "serves": ["tally.add", "tally.hold", "tally.upto"],
        "publishes": ["tally.added"],
        "metrics": [],
    }
    assert list(operations) == ["add", "hold", "upto"]
    seconds = operations["add"].pop("seconds")
    assert operations["add"] == {"calls": 2, "in_flight": 0, "errors": {"2008": 1}}
    assert seconds["count"] == 2
    assert seconds["sum"] > 0
    assert operations["hold"]["calls"] == 0


@staged()
async def test_it_is_published_each_second_and_at_each_change(it: Stage) -> None:
    assert [status["state"] for status in it.statuses] == ["standby"]
    await it.clock.advance(0.9)
    assert len(it.statuses) == 1
    await it.clock.advance(0.2)
    assert len(it.statuses) == 2
    await it.clock.advance(5)
    assert len(it.statuses) == 7
    assert [status["seconds"] for status in it.statuses[1:]] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    del it.statuses[:]
    await it.tell("prepare")
    await settle()
    assert [status["state"] for status in it.statuses] == ["starting", "prepared"]


@staged(standby=False)
async def test_health_is_asked_each_time_and_may_fail(it: Stage) -> None:
    assert (await it.tell("status"))["health"] == {"ok": True, "detail": "n is 0"}
    await it.operator.call("tally.add", {"n": 5000})
    assert (await it.tell("status"))["health"] == {"ok": False, "detail": "n is 5000"}

    async def unused() -> None: ...

    hooks["health"] = unused
    reply = await it.tell("status")
    assert reply["health"] == {"ok": False, "detail": "health(): RuntimeError: no idea"}
    assert reply["state"] == "ready"


@staged(standby=False)
async def test_after_a_reconnect_it_serves_and_says_so_from_its_new_endpoint(it: Stage) -> None:
    origins: list[str] = []

    async def listen() -> None:
        async with it.operator.subscribe(STATUS) as subscription:
            async for message in subscription:
                assert message.origin is not None
                origins.append(message.origin.endpoint)

    listening = asyncio.create_task(listen())
    await it.clock.advance(1)
    before = it.bus.endpoint
    it.bus.disconnect()
    await it.clock.advance(2)
    listening.cancel()
    assert it.bus.endpoint != before
    assert origins[0] == before
    assert origins[-1] == it.bus.endpoint
    assert (await it.operator.call("tally.add")).payload == 1
    assert (await it.tell("status"))["state"] == "ready"
    assert made[0].n == 1
    with pytest.raises(ConnectionLost):
        await it.bus.flush()  # a status may have been on its way


@staged(standby=False)
async def test_changes_while_the_bus_is_away_break_nothing(it: Stage) -> None:
    it.bus.node.stop()
    await it.clock.advance(3)
    stopping = asyncio.create_task(it.runner.drain())
    await settle()
    await stopping
    assert it.state() == "drained"
    resuming = asyncio.create_task(it.runner.resume())
    await it.clock.advance(1)
    assert not resuming.done(), "it waits for the bus"
    it.bus.node.start()
    await it.clock.advance(2)
    await resuming
    assert (await it.operator.call("tally.add")).payload == 1
    with pytest.raises(ConnectionLost):
        await it.bus.flush()  # a status may have been on its way


@staged(standby=False)
async def test_a_bus_that_is_lost_for_good_ends_it(it: Stage) -> None:
    stopped = BusError(Code.COMPONENT_STOPPED, component="tally", reason="it lies")
    it.bus.node.core.cut_off(it.bus.endpoint, stopped, it.clock.time())
    it.bus.node._flush_soon()
    await it.clock.advance(0)
    with pytest.raises(BusError) as caught:
        await it.ended()
    assert caught.value.code == Code.COMPONENT_STOPPED
    assert it.runner.reason.endswith("component 'tally' was cut off: it lies")
    assert (it.bus.state, it.bus.statistics().connects) == ("closed", 1), "it does not come back"
    with pytest.raises(ConnectionLost):
        await it.bus.close()  # a status may have been on its way
    it.operator._others.remove(it.bus)


POLICY = "deny publish component.*.*.status from host\nallow publish,subscribe,call,serve > from host\n"


def test_a_status_that_is_refused_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    @staged(standby=False, policy=POLICY)
    async def test(it: Stage) -> None:
        await it.clock.advance(10)
        assert (await it.tell("status"))["state"] == "ready"

    test()
    assert len([r for r in caplog.records if "the status of tally is not published" in r.getMessage()]) == 1


def test_a_component_without_operations_of_its_own_is_controlled_as_any() -> None:
    @staged(Plain)
    async def test(it: Stage) -> None:
        reply = await it.operator.call(f"component.plain.{INSTANCE}", {"do": "prepare"})
        assert (reply.payload["state"], reply.payload["stateful"]) == ("prepared", False)

    test()


# -- figures and limits -----------------------------------------------------------------------------------------------


def test_processor_time_is_averaged_over_ten_seconds() -> None:
    used = 0.0
    usage = Usage(processor=lambda: used, memory=lambda: 5)
    usage.look(100.0)
    assert (usage.memory_bytes, usage.cpu_percent) == (5, 0.0)
    for now, more, percent in (
        (101, 1.0, 100.0),
        (102, 0.0, 50.0),
        (110, 0.0, 10.0),
        (112, 0.0, 0.0),
        (130, 9.0, 50.0),
    ):
        used += more
        usage.look(now)
        assert usage.cpu_percent == percent
    usage.look(130)


def test_memory_is_measured_without_psutil_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resident_bytes() > 1 << 20
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert resident_bytes() > 1 << 20


def test_a_limit_is_not_set_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert limit_memory(1 << 30) is False


# -- configuration ----------------------------------------------------------------------------------------------------


def test_a_configuration_is_the_table_config_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "tally.toml"
    file.write_text(
        'source = "a:B"\npath = ["x"]\n[config]\nstart_at = 3\n[budget]\ncpu_percent = 5\n[restarts]\nlimit = 0\n'
    )
    assert read_config(file) == {"start_at": 3}
    file.write_text("")
    assert read_config(file) == {}


Break = Callable[[Path], object]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: None, r"No such file or directory"),
        (lambda file: file.mkdir(), r"Is a directory"),
        (lambda file: file.write_text("start_at 3"), r"this is not TOML: .*line 1"),
        (lambda file: file.write_bytes(b"a = '\xff'"), r"this is not TOML"),
        (lambda file: file.write_text("#" * (2 << 20)), r"it is longer than 1048576 bytes"),
        (
            lambda file: file.write_text("start_at = 3"),
            r"^BUS-7002 .*: start_at in .*: there is no such key; .*\[config\]",
        ),
        (lambda file: file.write_text("config = 3"), r"config in .*: it must be a table"),
    ],
)
def test_a_file_that_is_not_right_is_named(tmp_path: Path, spoil: Break, reason: str) -> None:
    file = tmp_path / "tally.toml"
    spoil(file)
    with pytest.raises(BusError) as caught:
        read_config(file)
    assert caught.value.code == Code.CONFIG_INVALID
    assert str(file) in str(caught.value)
    assert re.search(reason, str(caught.value))
