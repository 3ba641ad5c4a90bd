"""The page for authors of components: its code works as it stands, in this process and over a bus."""

import asyncio
import sys
from collections.abc import Iterator
from importlib import import_module, invalidate_caches
from pathlib import Path
from types import ModuleType

import pytest

from busclient.testing import FakeClock, MemoryBus, Node
from busd.components.model import Component, compile_operations, offer
from busd.components.model.component import Context
from tests.pages import blocks, page

COMPONENT, CALLER = blocks(page("busd/components/README.md"), "python")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    (tmp_path / "greeter.py").write_text(COMPONENT)
    (tmp_path / "greeter_caller.py").write_text(CALLER)
    monkeypatch.syspath_prepend(str(tmp_path))
    invalidate_caches()
    yield import_module("greeter"), import_module("greeter_caller")
    for name in ("greeter", "greeter_caller"):
        del sys.modules[name]


def test_the_caller_works_in_this_process(modules: tuple[ModuleType, ModuleType]) -> None:
    asyncio.run(modules[1].main())


def test_the_caller_works_over_a_bus(modules: tuple[ModuleType, ModuleType]) -> None:
    kind: type[Component] = modules[0].Greeter

    async def main() -> None:
        node = Node(FakeClock())
        async with (
            MemoryBus(node, {"component": "greeter"}) as there,
            MemoryBus(node, {"component": "caller"}) as here,
        ):
            component = kind()
            component.context = Context(kind, there)
            operations = compile_operations(kind).values()
            async with offer(there, component, operations):
                await modules[1].main(here)

    asyncio.run(main())
