"""What tests of the deletion component share: a root with trees in it, and the component on a bus in memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import busclient.testing
from busclient.testing import MemoryBus
from busd.components.deletion.component import Deletion
from busd.components.deletion.progress import FINAL, Progress
from busd.components.model import Context, compile_operations, offer
from busd.components.model.component import configure
from busd.components.model.lifecycle import running

SECONDS = 20.0
"""Nothing in these tests takes longer than this unless it is broken."""


def tree(path: Path, files: int = 3, directories: int = 1) -> Path:
    """A directory with so many subdirectories, each with so many files."""
    for number in range(directories):
        (path / f"d{number}").mkdir(parents=True)
        for file in range(files):
            (path / f"d{number}" / f"f{file}").touch()
    return path


def config(folder: Path, *tenants: str, **changes: Any) -> dict[str, Any]:
    """A component's configuration: root ``scratch`` and its state, both in ``folder``."""
    (folder / "scratch").mkdir(exist_ok=True)
    roots = [{"id": "scratch", "path": str(folder / "scratch"), "tenants": list(tenants)}]
    return {"roots": roots, "state": str(folder / "state"), "adaptive": False, **changes}


async def ended(deletion: Any, job: str) -> Progress:
    """The last progress of ``job``."""
    async with asyncio.timeout(SECONDS):
        last: Progress | None = None
        async for progress in deletion.watch(job):
            last = progress
        assert last is not None
        assert last.state in FINAL, last
        return last


@asynccontextmanager
async def on_bus(settings: dict[str, Any], *, policy: str = busclient.testing.OPEN) -> AsyncIterator[MemoryBus]:
    """A bus in memory with the component on it. Who calls it attaches with ``attached_as`` or ``connect``."""
    async with busclient.testing.bus(policy=policy, component="deletion") as bus:
        instance = configure(Deletion, settings)
        instance.context = Context(Deletion, bus, clock=bus.clock)
        async with running(instance), offer(bus, instance, compile_operations(Deletion).values()):
            yield bus
