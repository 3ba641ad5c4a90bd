"""A component is replaced and moved under calls: none fails, none is executed twice, and nothing of its state is lost.

Each execution of ``tally.add`` has a number of its own, which the next instance goes on from. If the numbers that came
back are 1 to as many as there were calls, each call was executed once, by an instance that knew all before it.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import busclient
from busclient import Bus, BusError, UnknownOutcome
from busd.components.model import attach
from busproto.errors import Code
from tests.fault.tally import Tally
from tests.support import ROOT, START_SECONDS, environment, running_node

TIMES = int(os.environ.get("BUSD_HANDOVERS", "100"))
CALLS_PER_SECOND = 200
SECONDS = 30.0
"""For one call, hand-overs included, on a machine that is busy with other tests."""

POLICY = """
allow serve tally.*,component.tally.* from guest tenant=node unit=svc
allow publish component.tally.*.status from guest tenant=node unit=svc
"""


class House:
    """A node that runs the component, with a card and a service VM to which it can be moved."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path / "components.d"
        self.folder.mkdir()
        self.policy = path / "policy"
        shutil.copytree(ROOT / "busd" / "ops" / "policy.d", self.policy)
        (self.policy / "60-service.policy").write_text(POLICY)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.soc = f"127.0.0.1:{probe.getsockname()[1]}"
        self.url = ""
        self.configure()

    def configure(self, **config: str) -> None:
        lines = "".join(f'{key} = "{value}"\n' for key, value in config.items())
        text = f'source = "tests.fault.tally:Tally"\npath = ["{ROOT}"]\n[config]\n{lines}'
        (self.folder / "tally.toml").write_text(text)

    @contextmanager
    def node(self) -> Iterator["House"]:
        flags = ["--components", "tally", "--component-dir", str(self.folder), "--policy-dir", str(self.policy)]
        flags += ["--soc-listen", self.soc, "--soc-keys-dir", str(self.path / "keys"), "--audit-dir", "off"]
        with running_node(self.path / "run", *flags) as running:
            self.url = running.url
            yield self

    @contextmanager
    def standby(self, *arguments: str) -> Iterator[None]:
        """A runner that stands by, until the end of the block."""
        command = [sys.executable, "-m", "busd", "component", "run", "tests.fault.tally:Tally", "--standby", *arguments]
        with subprocess.Popen(command, env=environment(), cwd=self.path, stdin=subprocess.DEVNULL) as process:
            try:
                yield
            finally:
                process.terminate()
                try:
                    assert process.wait(START_SECONDS) == 0
                finally:
                    process.kill()

    async def enrol(self, bus: Bus) -> list[str]:
        """Let a card in; how its runner attaches."""
        command = [sys.executable, "-m", "buscli", "keys", "new", "card", "--out", str(self.path)]
        await asyncio.to_thread(subprocess.run, command, env=environment(), check=True, stdout=subprocess.DEVNULL)
        key = (self.path / "card.pub").read_text().strip()
        await bus.call("$bus.admin.keys.enroll", {"name": "card", "key": key}, timeout=SECONDS)
        broker = (await bus.call("$bus.admin.keys.list", timeout=SECONDS)).payload["broker"]["key"]
        return ["--bus", f"tcp://{self.soc}", "--key", str(self.path / "card.key"), "--server-key", broker]

    async def add_guest(self, bus: Bus) -> list[str]:
        """Let a service VM in; how its runner attaches, played by a socket in the VMM's own manner."""
        request = {"name": "svc", "tenant": "node", "socket": str(self.path / "v"), "any_process": True}
        address = (await bus.call("$bus.admin.guest.add", request, timeout=SECONDS)).payload["address"]
        return ["--bus", f"unix://{address}"]


async def administer(bus: Bus, verb: str, **fields: Any) -> dict[str, Any]:
    reply = await bus.call(f"$bus.admin.component.{verb}", {"component": "tally", **fields}, timeout=2 * SECONDS)
    assert isinstance(reply.payload, dict)
    return reply.payload


async def row(bus: Bus) -> dict[str, Any]:
    rows = (await bus.call("$bus.components", timeout=SECONDS)).payload["components"]
    return next((found for found in rows if found["component"] == "tally"), {"state": "the node is starting"})


async def standing_by(bus: Bus, *places: str) -> None:
    async with asyncio.timeout(SECONDS):
        while {runner["placement"] for runner in (await row(bus))["standby"]} < set(places):
            await asyncio.sleep(0.05)


async def ready(bus: Bus) -> None:
    async with asyncio.timeout(SECONDS):
        while (await row(bus))["state"] != "ready":
            await asyncio.sleep(0.05)


class Load:
    """Calls that come whether or not the ones before were answered."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._tasks: list[asyncio.Task[int]] = []

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            self._tasks.append(loop.create_task(self._call()))
            due += 1 / CALLS_PER_SECOND
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _call(self) -> int:
        return (await self._tally.add()).count

    async def outcomes(self) -> list[int | BaseException]:
        return await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def under_load(bus: Bus) -> AsyncIterator[Load]:
    """Calls of ``tally.add`` at a rate for as long as the block lasts."""
    async with attach(Tally, bus=bus, timeout=SECONDS) as tally:
        load = Load(tally)
        task = asyncio.create_task(load.run())
        try:
            yield load
        finally:
            task.cancel()
            await asyncio.wait([task])
            await load.outcomes()


def check(outcomes: list[int | BaseException], calls: int) -> None:
    failed = [outcome for outcome in outcomes if not isinstance(outcome, int)]
    assert not failed, f"{len(failed)} of {len(outcomes)} failed, first: {failed[0]!r}"
    assert sorted(outcome for outcome in outcomes if isinstance(outcome, int)) == list(range(1, len(outcomes) + 1))
    assert len(outcomes) >= calls


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_replaced_again_and_again_under_calls_none_fails_and_none_is_executed_twice(house: House) -> None:
    async def main() -> None:
        async with busclient.connect(house.url) as admin, busclient.connect(house.url) as bus:
            await ready(admin)
            processes = set()
            async with under_load(bus) as load:
                for _ in range(TIMES):
                    await administer(admin, "replace")
                    processes.add((await row(admin))["pid"])
            check(await load.outcomes(), TIMES)
            assert len(processes) == TIMES
            assert (await row(admin))["restarts"] == 0

    with house.node():
        asyncio.run(main())


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_moved_again_and_again_under_calls_none_fails_and_none_is_executed_twice(house: House) -> None:
    places = ["soc", "guest:svc", "host"]

    async def main() -> None:
        async with busclient.connect(house.url) as admin, busclient.connect(house.url) as bus:
            card, guest = await house.enrol(admin), await house.add_guest(admin)
            with house.standby(*card), house.standby(*guest):
                await ready(admin)
                await standing_by(admin, "soc", "guest:svc")
                async with under_load(bus) as load:
                    for number in range(TIMES):
                        place = places[number % len(places)]
                        await standing_by(admin, *({"soc", "guest:svc"} & {place}))
                        await administer(admin, "move", to=place)
                        assert (await row(admin))["placement"] == place
                check(await load.outcomes(), TIMES)
                if place != "host":
                    await administer(admin, "move", to="host")

    with house.node():
        asyncio.run(main())


@pytest.mark.parametrize("step", ["start", "take_over"])
def test_a_new_one_that_crashes_leaves_the_old_one_serving(house: House, step: str) -> None:
    async def main() -> None:
        async with busclient.connect(house.url) as admin, busclient.connect(house.url) as bus:
            await ready(admin)
            pid = (await row(admin))["pid"]
            house.configure(fail_at=step)
            async with under_load(bus) as load:
                for _ in range(3):
                    with pytest.raises(BusError) as refused:
                        await administer(admin, "replace")
                    assert refused.value.code == Code.HANDOVER_FAILED
                    assert "the old one serves" in refused.value.text
            outcomes = await load.outcomes()
            check(outcomes, 1)
            assert (await row(admin))["pid"] == pid
            house.configure()
            await administer(admin, "replace")
            async with attach(Tally, bus=bus, timeout=SECONDS) as tally:
                assert (await tally.add()).count == len(outcomes) + 1, "nothing was lost on the way"

    with house.node():
        asyncio.run(main())


def test_an_old_one_that_crashes_while_it_hands_over_is_succeeded_all_the_same(house: House) -> None:
    house.configure(fail_at="hand_over")

    async def main() -> None:
        async with busclient.connect(house.url) as admin, busclient.connect(house.url) as bus:
            await ready(admin)
            house.configure()
            async with under_load(bus) as load:
                await administer(admin, "replace")
                await asyncio.sleep(0.2)
            for outcome in await load.outcomes():
                assert isinstance(outcome, int | UnknownOutcome), f"not definite: {outcome!r}"
            assert (await row(admin))["state"] == "ready"

    with house.node():
        asyncio.run(main())


def test_a_runner_that_is_killed_is_noticed_at_once_and_started_again(house: House) -> None:
    async def main() -> None:
        async with busclient.connect(house.url) as admin, busclient.connect(house.url) as bus:
            await ready(admin)
            async with attach(Tally, bus=bus, timeout=SECONDS) as tally:
                for _ in range(3):
                    pid = await tally.where()
                    for _ in range(9):
                        await tally.add()
                    os.kill(pid, signal.SIGSTOP)  # so that it cannot have answered all of them before it is killed
                    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
                        await asyncio.sleep(0.001)
                    calls = [asyncio.create_task(tally.add()) for _ in range(9)]
                    await asyncio.sleep(0)
                    await bus.call("$bus.ping")  # behind them: by then they are on their way
                    os.kill(pid, signal.SIGKILL)
                    killed = asyncio.get_running_loop().time()
                    outcomes = await asyncio.gather(*calls, return_exceptions=True)
                    assert asyncio.get_running_loop().time() - killed < 1.0
                    assert any(isinstance(outcome, UnknownOutcome) for outcome in outcomes)
                    async with asyncio.timeout(SECONDS):
                        while (found := await row(admin))["state"] != "ready" or found["pid"] == pid:
                            await asyncio.sleep(0.02)
                    assert await tally.where() == found["pid"]
            assert (await row(admin))["restarts"] == 3

    with house.node():
        asyncio.run(main())
