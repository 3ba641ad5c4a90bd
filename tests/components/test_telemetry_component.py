"""The telemetry component on the bus: the real core in memory, a made machine, and a clock that the test moves."""

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

import busclient.testing
import busd.components.telemetry
from busclient import BusError, Code, ConnectionLost, ErrorReply, Gap, Message, NotConnected
from busclient.testing import MemoryBus
from busd.components.model import Context, compile_operations, configure, offer
from busd.components.model.lifecycle import running
from busd.components.telemetry.component import Telemetry
from busd.components.telemetry.processes import ProcessTable
from busd.components.telemetry.sampler import SUBJECTS, Sampler
from tests.components.fake_psutil import FakeProcess, FakePsutil, Io, Nic, Partition, Usage

MANIFEST: Final[dict[str, Any]] = {
    "component": Telemetry.manifest.component,
    "version": Telemetry.manifest.version,
    "owner": Telemetry.manifest.owner,
    "purpose": Telemetry.manifest.purpose,
    "serves": list(Telemetry.manifest.serves),
    "publishes": list(Telemetry.manifest.publishes),
}


class Fixture:
    """A telemetry component that runs, and another endpoint that listens."""

    def __init__(self, bus: MemoryBus, listener: MemoryBus, *, interval: float) -> None:
        self.bus = bus
        self.listener = listener
        self.clock = bus.clock
        self.source = FakePsutil()
        self.source.add(FakeProcess(1, "init", rss=10))
        self.source.add(FakeProcess(2, "web", rss=30))
        self.telemetry = Telemetry.of(
            Sampler(self.source, processes=ProcessTable(self.source, timer=lambda: 0.0)),
            interval=interval,
            wall=lambda: 1_700_000_000 + self.clock.time(),
        )
        self.telemetry.context = Context(Telemetry, bus, clock=bus.clock)
        self.messages: list[Message] = []
        self.gaps: list[Gap] = []

    async def listen(self) -> None:
        async with self.listener.subscribe("telemetry.>", gaps="yield") as subscription:
            async for item in subscription:
                if isinstance(item, Gap):
                    self.gaps.append(item)
                else:
                    self.messages.append(item)

    async def refused(self, request: Any) -> BusError:
        with pytest.raises(ErrorReply) as caught:
            await self.listener.call("telemetry.processes", request)
        return caught.value


def on_the_bus(play: Callable[[Fixture], Coroutine[Any, Any, None]], *, interval: float = 1.0) -> None:
    """Run the component while ``play`` plays, then end it as its runner would."""

    async def main() -> None:
        async with busclient.testing.bus(**MANIFEST) as bus:
            fixture = Fixture(bus, await bus.connect(component="listener"), interval=interval)
            listening = asyncio.create_task(fixture.listen())
            operations = compile_operations(Telemetry).values()
            async with running(fixture.telemetry), offer(bus, fixture.telemetry, operations):
                await fixture.clock.advance(0)
                await play(fixture)
            listening.cancel()
            [end] = await asyncio.gather(listening, return_exceptions=True)
            assert isinstance(end, asyncio.CancelledError), end

    asyncio.run(main())


def test_every_subject_once_an_interval() -> None:
    async def play(it: Fixture) -> None:
        assert it.messages == []
        await it.clock.advance(0.9)
        assert it.messages == []
        await it.clock.advance(0.2)
        assert [message.subject for message in it.messages] == list(SUBJECTS)
        await it.clock.advance(2.0)
        assert [message.subject for message in it.messages] == list(SUBJECTS) * 3
        first = it.messages[0]
        assert first.payload["interval"] == 1.0
        assert first.payload["at"] == 1_700_001_001.0
        assert first.origin is not None
        assert first.origin.boundary == "host"
        assert it.telemetry.statistics().published == 15

    on_the_bus(play)


def test_another_interval() -> None:
    async def play(it: Fixture) -> None:
        await it.clock.advance(30.0)
        assert len(it.messages) == 3 * len(SUBJECTS)
        assert it.messages[-1].payload["interval"] == 10.0

    on_the_bus(play, interval=10.0)


def test_processes_are_served() -> None:
    async def play(it: Fixture) -> None:
        reply = await it.listener.call("telemetry.processes", {"sort": "memory", "limit": 1})
        row = {"pid": 2, "name": "web", "cpu_percent": None, "rss_bytes": 30, "ppid": 1, "user": "user0", "threads": 3}
        assert reply.payload == {"at": 1_700_001_000.0, "total": 2, "matching": 2, "processes": [row]}
        for process in it.source.processes.values():
            process.cpu += 0.25 * process.pid
        await it.clock.advance(1.0)
        by_name = (await it.listener.call("telemetry.processes", {"name": "in*"})).payload
        assert (by_name["total"], by_name["matching"]) == (2, 1)
        assert by_name["processes"][0]["cpu_percent"] == 25.0
        assert [row["name"] for row in (await it.listener.call("telemetry.processes")).payload["processes"]] == [
            "web",
            "init",
        ]

    on_the_bus(play)


def test_a_bad_request_is_refused_by_the_name_of_its_field_and_the_next_is_served() -> None:
    async def play(it: Fixture) -> None:
        error = await it.refused({"limit": 0})
        assert error.code == Code.REQUEST_INVALID
        assert error.name == "request-invalid"
        assert "limit: expected int >= 1" in error.text
        assert not error.retryable
        assert "colour: there is no such field" in (await it.refused({"colour": "red"})).text
        assert len((await it.listener.call("telemetry.processes", {})).payload["processes"]) == 2
        statistics = it.telemetry.context.statistics["processes"]
        assert (statistics.calls, statistics.errors) == (3, {Code.REQUEST_INVALID: 2})

    on_the_bus(play)


def test_while_the_bus_is_away_nothing_is_published_and_afterwards_rates_begin_anew() -> None:
    async def play(it: Fixture) -> None:
        await it.clock.advance(1.0)
        assert len(it.messages) == len(SUBJECTS)
        it.bus.node.stop()
        await it.clock.advance(30.0)
        assert len(it.messages) == len(SUBJECTS)
        assert it.telemetry.statistics().absences == 1
        it.bus.node.start()
        await it.clock.advance(0.6)
        await it.clock.advance(1.0)
        after = it.messages[len(SUBJECTS) :]
        assert [message.subject for message in after] == list(SUBJECTS)
        assert after[0].payload["interval"] <= 1.0, "not the 30 s in which nobody listened"
        assert (await it.listener.call("telemetry.processes")).payload["total"] == 2, "it serves again"
        with pytest.raises(ConnectionLost):  # what was published just before the bus went may not have arrived
            await it.bus.flush()

    on_the_bus(play)


def test_what_cannot_be_read_is_logged_once_and_the_rest_is_published(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(it: Fixture) -> None:
        def denied() -> None:
            raise psutil.AccessDenied(msg="not for you")

        monkeypatch.setattr(it.source, "swap_memory", denied)
        await it.clock.advance(3.0)
        assert {message.subject for message in it.messages} == set(SUBJECTS) - {"telemetry.memory"}
        assert it.telemetry.statistics().sampler.failures["telemetry.memory"] == 3

    with caplog.at_level(logging.WARNING):
        on_the_bus(play)
    assert [record.getMessage() for record in caplog.records] == [
        "telemetry.memory is not published: its figures cannot be read: not for you"
    ]


def test_a_refused_message_is_counted_logged_once_and_the_rest_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(it: Fixture) -> None:
        publish = it.bus.publish

        async def some(subject: str, payload: Any = None, **options: Any) -> None:
            if subject == "telemetry.disk":
                raise BusError(Code.PAYLOAD_TOO_LARGE, size=2, limit=1)
            await publish(subject, payload, **options)

        monkeypatch.setattr(it.bus, "publish", some)
        await it.clock.advance(2.0)
        assert len(it.messages) == 2 * (len(SUBJECTS) - 1)
        assert it.telemetry.statistics().refused == 2

    with caplog.at_level(logging.WARNING):
        on_the_bus(play)
    assert len(caplog.records) == 1
    assert "telemetry.disk could not be published: BUS-2007" in caplog.text


def test_names_that_are_not_utf8_do_not_silence_it() -> None:
    """A process may name itself with any bytes; one that did kept telemetry.top from being published."""

    async def play(it: Fixture) -> None:
        bad = "\udcff\udc80ok"  # what psutil makes of the bytes ff 80 6f 6b
        it.source.add(FakeProcess(3, bad, rss=99))
        it.source.nics = {bad: Nic()}
        it.source.disks = {bad: Io(1, 1)}
        it.source.partitions = [Partition(bad, bad, "ext4")]
        it.source.usages = {bad: Usage(1, 0, 1)}
        await it.clock.advance(2.0)
        assert [message.subject for message in it.messages] == list(SUBJECTS) * 2
        last = {message.subject: message.payload for message in it.messages}
        assert last["telemetry.top"]["by_memory"][0]["name"] == "??ok"
        assert last["telemetry.network"]["busiest"][0]["interface"] == "??ok"
        assert last["telemetry.disk"]["mounts"][0]["mount"] == "??ok"
        assert last["telemetry.disk"]["devices"][0]["device"] == "??ok"
        assert (await it.listener.call("telemetry.processes", {"name": "*ok"})).payload["matching"] == 1
        assert it.telemetry.statistics().refused == 0

    on_the_bus(play)


def test_it_ends_with_the_bus() -> None:
    async def main() -> None:
        async with busclient.testing.bus(reconnect=False, **MANIFEST) as bus:
            telemetry = Telemetry.of(Sampler(FakePsutil()))
            telemetry.context = Context(Telemetry, bus, clock=bus.clock)
            with pytest.raises(BusError) as caught:
                async with running(telemetry):
                    await bus.clock.advance(1.5)
                    bus.disconnect()
                    await bus.clock.advance(1.0)
            assert caught.value.code == Code.NOT_CONNECTED

    with pytest.raises(NotConnected):  # and so does the connection, for what was published last may not have arrived
        asyncio.run(main())


def test_the_census_shows_what_it_says_of_itself() -> None:
    async def play(it: Fixture) -> None:
        endpoints = (await it.listener.call("$bus.list")).payload["endpoints"]
        claims = [row for row in endpoints if "telemetry" in str(row)]
        assert len(claims) == 1
        assert "shows what this machine is doing" in str(claims[0])
        assert "telemetry.processes" in str(
            (await it.listener.call("$bus.explain", {"subject": "telemetry.processes", "verb": "call"})).payload
        )

    on_the_bus(play)


def test_one_that_stood_by_begins_its_rates_when_it_runs() -> None:
    """Nobody asked for what happened while it stood by, and a sample over an hour says nothing of now."""

    async def main() -> None:
        async with busclient.testing.bus(**MANIFEST) as bus:
            it = Fixture(bus, await bus.connect(component="listener"), interval=1.0)
            listening = asyncio.create_task(it.listen())
            await it.telemetry.start()
            for _ in range(2):  # standing by, and drained
                await it.clock.advance(3600.0)
                run = asyncio.create_task(it.telemetry.run())
                await it.clock.advance(1.0)
                assert {message.payload["interval"] for message in it.messages} == {1.0}
                run.cancel()
                await asyncio.wait([run])
            assert len(it.messages) == 2 * len(SUBJECTS)
            listening.cancel()

    asyncio.run(main())


def test_health_is_whether_anything_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(it: Fixture) -> None:
        assert it.telemetry.health().ok
        await it.clock.advance(1.0)
        assert it.telemetry.health().ok

        def denied(*_: object, **__: object) -> None:
            raise psutil.AccessDenied(msg="not for you")

        for name in ("cpu_times", "virtual_memory", "disk_io_counters", "net_io_counters"):
            monkeypatch.setattr(it.source, name, denied)
        await it.clock.advance(1.0)
        assert it.telemetry.health().ok, "the processes are still there"
        monkeypatch.setattr(it.source, "pids", denied)
        await it.clock.advance(1.0)
        health = it.telemetry.health()
        assert not health.ok
        assert health.detail == "no figures can be read; telemetry.cpu: not for you"

    on_the_bus(play)


@pytest.mark.parametrize(
    ("interval", "reason"),
    [
        (0, "expected float >= 0.1"),
        (0.01, "expected float >= 0.1"),
        (-1, "expected float >= 0.1"),
        (3601, "expected float <= 3600"),
        (float("nan"), "expected float"),
        ("often", "expected float, got str"),
        (None, "expected float, got None"),
    ],
)
def test_an_interval_out_of_range_is_refused(interval: Any, reason: str) -> None:
    with pytest.raises(BusError) as caught:
        configure(Telemetry, {"interval": interval})
    assert caught.value.code == Code.CONFIG_INVALID
    assert f"interval: {reason}" in caught.value.text


@pytest.mark.parametrize("interval", [0.1, 1, 3600])
def test_an_interval_in_range_is_taken(interval: float) -> None:
    configure(Telemetry, {"interval": interval})


@pytest.mark.parametrize("attached", [False, True])
def test_the_example_of_its_page_runs(attached: bool, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(busd.components.telemetry.__file__).with_name("README.md").read_text(encoding="utf-8")
    block = re.search(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {}
    exec(block[1], names)

    async def play(it: Fixture) -> None:
        example = asyncio.create_task(names["main"](it.listener))
        while not example.done():
            await it.clock.advance(0.1)
        await example

    if attached:
        on_the_bus(play)
        assert capsys.readouterr().out.split()[:2] == ["web", "30"]
    else:
        asyncio.run(names["main"]())
        assert len(capsys.readouterr().out.split()) >= 3
