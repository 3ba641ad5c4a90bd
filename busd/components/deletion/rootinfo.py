"""The roots as callers see them, and whether they are still where they were."""

import asyncio
import os
from functools import partial
from typing import Final

import msgspec

from busd.components.deletion.aside import Aside
from busd.components.deletion.roots import NODE, Root, Roots
from busproto.errors import BusError

__all__ = ["CHECK_SECONDS", "HANGS_SECONDS", "RootInfo", "RootWatch"]

CHECK_SECONDS: Final = 10.0
"""Between two looks at whether the roots are where they were."""

HANGS_SECONDS: Final = 30.0
"""After which a root that does not answer such a look is not well."""


class RootInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A directory below which the caller may delete.

    Attributes:
        id: what requests name it by.
        path: where it is; empty for all but the node itself.
        tenants: who may delete below it, besides the node; empty for all but the node itself.
        min_depth, one_file_system, max_entries, max_bytes, chmod: as of `RootConfig`.
        ok: whether it is where it was when it was opened.
        problem: why not; empty if it is, and for all but the node itself.
    """

    id: str
    path: str = ""
    tenants: list[str] = []
    min_depth: int = 1
    one_file_system: bool = True
    max_entries: int | None = None
    max_bytes: int | None = None
    chmod: bool = False
    ok: bool = True
    problem: str = ""


class RootWatch:
    """Looks now and then whether each root is where it was, in threads: one that hangs harms no other.

    Attributes:
        roots: open, until `close`.
        gone: what is wrong with those that are not, by id.
    """

    def __init__(self, roots: Roots, aside: Aside) -> None:
        self.roots = roots
        self.gone: dict[str, str] = {}
        self._aside = aside
        self._checks: dict[str, tuple[asyncio.Task[str], float]] = {}

    def info(self, tenant: str) -> list[RootInfo]:
        """The roots that ``tenant`` may use, and of those what it may know."""
        told = tenant == NODE
        return [
            RootInfo(
                id=root.id,
                path=os.fsencode(root.settings.path).decode("utf-8", "backslashreplace") if told else "",
                tenants=sorted(root.settings.tenants) if told else [],
                min_depth=root.settings.min_depth,
                one_file_system=root.settings.one_file_system,
                max_entries=root.settings.max_entries,
                max_bytes=root.settings.max_bytes,
                chmod=root.settings.chmod,
                ok=root.id not in self.gone,
                problem=self.gone.get(root.id, "") if told else "",
            )
            for root in self.roots.for_tenant(tenant)
        ]

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(CHECK_SECONDS)

    def look(self) -> None:
        """Begin to look at each root that is not being looked at still."""
        loop = asyncio.get_running_loop()
        for root in self.roots.for_tenant(NODE):
            task, since = self._checks.get(root.id, (None, 0.0))
            if task is None or task.done():
                # A turn of its own: what hangs takes nobody's.
                task = loop.create_task(self._aside.run(f"root {root.id}", partial(_problem, root)))
                task.add_done_callback(partial(self._looked, root.id))
                self._checks[root.id] = (task, loop.time())
            elif loop.time() - since >= HANGS_SECONDS:
                self.gone[root.id] = "its file system does not answer"

    def close(self) -> None:
        """Wait for no look any more, and close the roots."""
        for task, _ in self._checks.values():
            task.cancel()
        self.roots.close()

    def _looked(self, id: str, task: "asyncio.Task[str]") -> None:
        if task.cancelled():
            return
        failed = task.exception()
        problem = task.result() if failed is None else str(failed)
        if problem:
            self.gone[id] = problem
        else:
            self.gone.pop(id, None)


def _problem(root: Root) -> str:
    """Why ``root`` is not what it was; empty if it is."""
    try:
        root.check()
    except BusError as error:
        return str(error.fields.get("reason", error.text))
    return ""
