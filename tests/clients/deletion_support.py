"""A deletion component that deletes nothing: it answers what a test told it to, and takes down what it was asked.

`ran` and `script` are fixtures: a test module that uses them gives them a name in it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, ClassVar

import msgspec
import pytest
from msgspec import Meta

from buscli import connection, deletionwatch
from busclient.testing import FakeClock, MemoryBus, Node
from busd.components.deletion.found import Found
from busd.components.deletion.plan import Plan
from busd.components.deletion.progress import Progress, Report
from busd.components.deletion.request import JobRequest
from busd.components.model import Component, Manifest, Request, Stream
from busd.components.model.component import Context, configure
from busd.components.model.lifecycle import running
from busd.components.model.operation import compile_operations
from busd.components.model.serve import offer
from busd.components.shipped import SHIPPED
from tests.clients.ran import Ran

JOB = "9f2c41d07b"


def progress(state: str, **changed: Any) -> Progress:
    """Progress of job `JOB` on ``/srv/work/build``."""
    fields: dict[str, Any] = {"job": JOB, "tenant": "node", "root": "work", "path": b"build", "mode": "tombstone"}
    return Progress(**{**fields, "state": state, "submitted": 1e9, "started": 1e9, **changed})


def report(state: str, *, of: dict[str, Any] | None = None, **changed: Any) -> Report:
    """Its report; ``of``: what `progress` takes."""
    request = JobRequest(root="work", path=b"build")
    return Report(progress=progress(state, **(of or {})), request=request, **changed)


def found(**changed: Any) -> Found:
    """What a survey found: 1,204 entries."""
    fields: dict[str, Any] = {"files": 1100, "directories": 104, "bytes": 3_200_000_000, "oldest": 1e9, "newest": 1.1e9}
    return Found(**{"seen": 1204, "entries": 1204, **fields, **changed})


def plan(**changed: Any) -> Plan:
    """A plan of `found`."""
    seen: Found = changed.pop("found", None) or found()
    fields: dict[str, Any] = {"id": "dry1", "root": "work", "path": b"build", "device": 1, "inode": 2, "made": 1e9}
    fields |= {"directory": True, "entries": seen.entries, "bytes": seen.bytes}
    return Plan(**{**fields, **changed}, found=seen)


class Script:
    """What the component answers, and what it was asked.

    Attributes:
        asked: operation and arguments, in order.
        roots: rows of ``roots``.
        watches: of one ``watch`` after another, what it yields; an exception is raised. The last one is repeated.
        answers: by operation, what it gives; an exception is raised. ``submit``: one after another.
        config: what the component was made with in this process; None if it was not.
        served: whether the component is on the bus.
        before: by operation, what happens before it answers.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.roots: list[dict[str, Any]] = [
            {"id": "work", "path": "/srv/work", "tenants": ["acme"], "max_entries": 1000, "max_bytes": 5_000_000}
        ]
        self.watches: list[list[Any]] = [[progress("done")]]
        self.answers: dict[str, list[Any]] = {"submit": [progress("queued")], "report": [report("done")]}
        self.config: dict[str, Any] | None = None
        self.served = True
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}

    def take(self, name: str, **given: Any) -> Any:
        """Take down a request; its answer."""
        self.asked.append((name, given))
        waiting = self.answers.get(name) or [progress("running")]
        answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def given(self, name: str) -> dict[str, Any]:
        """What the one request ``name`` was asked with."""
        (found,) = [given for asked, given in self.asked if asked == name]
        return found


Several = list[Progress]
"""Named here: in the class below ``list`` is an operation."""


class Root(msgspec.Struct):
    """A row of ``roots``."""

    id: str
    path: str = ""
    tenants: list[str] = []
    min_depth: int = 1
    max_entries: int | None = None
    max_bytes: int | None = None


Rows = list[Root]


class FakeDeletion(Component):
    """The operations of the component."""

    manifest = Manifest(
        component="deletion",
        version="0",
        owner="test",
        purpose="pretends",
        operations=(
            *map(Request, ("submit", "pause", "resume", "change", "cancel", "undelete", "list", "report", "roots")),
            Stream("watch"),
        ),
    )
    script: ClassVar[Script]

    def __init__(
        self, *, roots: list[dict[str, Any]] | None = None, state: str | None = "", recover: bool = True
    ) -> None:
        if roots is not None:
            self.script.config = {"roots": roots, "state": state, "recover": recover}

    async def submit(
        self,
        *,
        root: str = "",
        path: bytes = b"",
        dry_run: bool = False,
        plan: str = "",
        slack_percent: float = 0.0,
        filter: dict[str, Any] | None = None,
        count: bool = False,
        max_entries: int | None = None,
        max_bytes: int | None = None,
        files_per_second: float | None = None,
        bytes_per_second: float | None = None,
        grace_seconds: float = 0.0,
        in_place: bool = False,
    ) -> Progress:
        """Take down what was given."""
        given = {name: value for name, value in locals().items() if name != "self"}
        usual: dict[str, Any] = {
            "files_per_second": None,
            "bytes_per_second": None,
            "max_entries": None,
            "max_bytes": None,
        }
        usual |= {"root": "", "path": b"", "plan": "", "filter": None}
        # Compared so that a rate of 0, which pauses, is not taken for one that is not given.
        kept = {name: value for name, value in given.items() if value != usual.get(name, False)}
        if "submit" in self.script.before:
            await self.script.before["submit"]()
        return self._one("submit", **kept)

    async def watch(self, job: str) -> AsyncIterator[Progress]:
        """One watch of the script."""
        self.script.asked.append(("watch", {"job": job}))
        watches = self.script.watches
        for each in watches.pop(0) if len(watches) > 1 else watches[0]:
            if isinstance(each, BaseException):
                raise each
            if callable(each):
                await each()
                continue
            yield each

    async def pause(self, job: str) -> Progress:
        """Take it down."""
        return self._one("pause", job=job)

    async def resume(self, job: str) -> Progress:
        """Take it down."""
        return self._one("resume", job=job)

    async def change(
        self,
        job: str,
        *,
        files_per_second: float | None = None,
        bytes_per_second: float | None = None,
        unlimited: bool = False,
    ) -> Progress:
        """Take it down."""
        return self._one("change", job=job, files=files_per_second, bytes=bytes_per_second, unlimited=unlimited)

    async def cancel(self, job: str, how: str = "keep") -> Progress:
        """Take it down."""
        return self._one("cancel", job=job, how=how)

    async def undelete(self, job: str) -> Progress:
        """Take it down."""
        return self._one("undelete", job=job)

    async def list(self, *, all: bool = False, limit: Annotated[int, Meta(ge=1)] = 100) -> Several:
        """The answers."""
        self.script.asked.append(("list", {"all": all, "limit": limit}))
        found: Several = self.script.answers.get("list", [])
        return found

    async def report(self, job: str) -> Report:
        """The answers, one after another."""
        answer = self.script.take("report", job=job)
        assert isinstance(answer, Report)
        return answer

    async def roots(self) -> Rows:
        """The rows."""
        return [Root(**row) for row in self.script.roots]

    def _one(self, name: str, **given: Any) -> Progress:
        answer = self.script.take(name, **given)
        assert isinstance(answer, Progress)
        return answer


def scripted(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Have ``bus delete`` find a `FakeDeletion`, on whatever bus it looks for and in this process."""
    script = Script()
    monkeypatch.setattr(FakeDeletion, "script", script, raising=False)
    monkeypatch.setitem(SHIPPED, "deletion", f"{__name__}:FakeDeletion")

    @asynccontextmanager
    async def attached(*_: object, **__: object) -> AsyncIterator[Any]:
        if script.served:
            async with _served() as bus:
                yield bus
        else:
            async with MemoryBus(Node(FakeClock()), {"component": "host"}) as bus:
                yield bus

    monkeypatch.setattr(connection, "attached", attached)
    return script


@asynccontextmanager
async def _served() -> AsyncIterator[Any]:
    """A bus in memory with the component on it, as a runner attaches it; whoever calls."""
    async with MemoryBus(Node(FakeClock()), {"component": "deletion"}) as bus:
        instance = configure(FakeDeletion, {})
        instance.context = Context(FakeDeletion, bus)
        operations = compile_operations(FakeDeletion).values()
        async with running(instance), offer(bus, instance, operations):
            yield await bus.connect(component="bus-cli")


@pytest.fixture
def ran(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs ``bus delete`` with some words in this process."""
    monkeypatch.delenv("BUS_URL", raising=False)
    return lambda *words: Ran(capsysbinary, "delete", *words)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """See `scripted`; a watch that is lost is begun again at once."""
    monkeypatch.setattr(deletionwatch, "PAUSE", 0.0)
    return scripted(monkeypatch)
