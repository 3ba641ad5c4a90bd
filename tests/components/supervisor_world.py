"""A bus on a unix socket, its supervisor on the same loop, and a client: for tests with real processes."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import busclient
from busclient import Bus
from busd.components.supervisor import Settings, Supervisor, read_settings
from busd.nodebroker import NodeBroker
from tests.edge.raw import Listener, listening
from tests.support import environment

SECONDS = 60.0
"""Nothing in these tests takes longer than this unless it is broken: processes start on a machine that is busy."""

TOYS = Path(__file__).parent


class World:
    """A supervisor that runs, and what it reported."""

    def __init__(self, listener: Listener, bus: Bus, folder: Path, names: tuple[str, ...]) -> None:
        self.listener = listener
        self.bus = bus
        self.folder = folder
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self.broker = NodeBroker(listener.bus, listener.pump)
        self.supervisor = Supervisor(
            f"unix://{listener.path}",
            self.broker,
            self.read,
            names,
            report=lambda name, /, **fields: self.reports.append((name, fields)),
        )

    def read(self, name: str) -> Settings:
        return read_settings(name, self.folder)

    def configure(self, text: str = "", kind: str = "Toy", name: str = "toy") -> None:
        """Write the settings of component ``name``."""
        head = f'source = "supervisor_toys:{kind}"\npath = ["{TOYS}"]\n'
        (self.folder / f"{name}.toml").write_text(head + text)

    async def admin(self, verb: str, component: str = "toy", **fields: Any) -> dict[str, Any]:
        """Have the supervisor do ``verb``."""
        return await self.supervisor.services()[f"$bus.admin.component.{verb}"]({"component": component, **fields})

    async def call(self, operation: str, **arguments: Any) -> Any:
        """The result of the toy's ``operation``."""
        return (await self.bus.call(f"toy.{operation}", arguments, timeout=20.0)).payload

    async def row(self, component: str = "toy") -> dict[str, Any]:
        """What ``$bus.components`` says of ``component``."""
        rows = (await self.bus.call("$bus.components", {})).payload["components"]
        return next((row for row in rows if row["component"] == component), {})

    async def until(
        self, condition: Callable[[Mapping[str, Any]], object], component: str = "toy", seconds: float = SECONDS
    ) -> dict[str, Any]:
        """The row of ``component`` as soon as ``condition`` is true of it."""
        row: dict[str, Any] = {}
        try:
            async with asyncio.timeout(seconds):
                while not condition(row := await self.row(component)):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pytest.fail(f"not within {seconds} s: {row}, {self.reports}")
        return row

    async def ready(self, component: str = "toy") -> dict[str, Any]:
        """The row of ``component`` as soon as it serves."""
        return await self.until(lambda row: row.get("state") == "ready", component)

    def reported(self, name: str) -> list[dict[str, Any]]:
        """The fields of every event ``name``."""
        return [fields for event, fields in self.reports if event == name]

    async def texts(self, **fields: Any) -> list[str]:
        """The lines of the toy's output."""
        return [line["text"] for line in (await self.admin("logs", **fields))["lines"]]


@asynccontextmanager
async def world(folder: Path, settings: str | None = "", kind: str = "Toy") -> AsyncIterator[World]:
    """A world in which a toy of ``kind`` is kept running, as ``settings`` say; none if they are None."""
    async with listening(folder / "host.sock") as listener:
        url = f"unix://{listener.path}"
        async with busclient.connect(url, component="test") as bus:
            made = World(listener, bus, folder, () if settings is None else ("toy",))
            if settings is not None:
                made.configure(settings, kind)
            await made.supervisor.start()
            try:
                yield made
            finally:
                await made.supervisor.stop()


def run(main: Callable[[], Coroutine[Any, Any, None]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run ``main`` within its time; afterwards no process is left."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    asyncio.run(asyncio.wait_for(main(), SECONDS))
    left = [process for process in psutil.Process().children(recursive=True) if process.pid not in before]
    assert left == []


@asynccontextmanager
async def by_hand(world: World, *flags: str, kind: str = "Toy") -> AsyncIterator["asyncio.subprocess.Process"]:
    """A runner that somebody started with ``busd component run``."""
    import sys

    command = [sys.executable, "-m", "busd", "component", "run", f"supervisor_toys:{kind}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(TOYS), os.environ["PYTHONPATH"]))}
    process = await asyncio.create_subprocess_exec(
        *command, "--bus", world.supervisor.url, *flags, env=environment, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
