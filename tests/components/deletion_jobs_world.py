"""What the tests of jobs share: roots with trees in them, clocks that a test moves, and what was told to the audit."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from busd.components.deletion.audit import AuditRecord
from busd.components.deletion.gates import Gates
from busd.components.deletion.jobs import Jobs
from busd.components.deletion.progress import Progress
from busd.components.deletion.request import JobRequest
from busd.components.deletion.roots import Roots, RootSettings
from busd.components.deletion.target import TOMBSTONES
from tests.components.deletion_world import descriptors

ACME = "acme"
BETA = "beta"
SECONDS = 20.0
"""In which anything that a test waits for has long happened."""


class World:
    """One root, ``data``, of the tenants acme and beta; a state directory beside it; and what is over is closed.

    Attributes:
        now: seconds since 1970 for the jobs; a test moves it.
        clock: seconds of the throttles; it stands still unless a test moves it, so a rate lets through a burst only.
        told: what the audit was told.
    """

    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path
        self.state = path / "state"
        self.data = path / "data"
        self.data.mkdir(exist_ok=True)
        self.settings = RootSettings(id="data", path=self.data, tenants=frozenset({ACME, BETA}), **settings)
        self.roots = Roots.open([self.settings])
        self.now = 1_000_000.0
        self.clock = 0.0
        self.told: list[AuditRecord] = []
        self._open: list[Jobs] = []

    def make(self, state: Path | None = None, **options: Any) -> Jobs:
        """A `Jobs` that is not yet started; with the state directory unless ``memory=True``."""
        memory = options.pop("memory", False)
        given: dict[str, Any] = {
            "adaptive": False,
            "now": lambda: self.now,
            "gates": Gates(clock=lambda: self.clock),
            "audit": self.told.append,
        }
        jobs = Jobs(options.pop("roots", self.roots), None if memory else state or self.state, **{**given, **options})
        self._open.append(jobs)
        return jobs

    def start(self, state: Path | None = None, **options: Any) -> Jobs:
        """The same, started."""
        jobs = self.make(state, **options)
        jobs.start()
        return jobs

    def close(self) -> None:
        """Stop all and close the root."""
        for jobs in self._open:
            jobs.stop()
        self.roots.close()

    def tree(self, name: str, directories: int = 3, files: int = 4) -> int:
        """The tree ``name`` of so many directories with so many files each, below one; how many entries that is, with
        itself.
        """
        for one in range(directories):
            below = self.data / name / f"d{one}"
            below.mkdir(parents=True)
            for number in range(files):
                (below / f"f{number}").write_bytes(b"x" * 10)
        (self.data / name).mkdir(parents=True, exist_ok=True)
        return 1 + directories * (files + 1)

    def left(self) -> list[str]:
        """What lies where tombstones are, below the tenants."""
        area = self.data / os.fsdecode(TOMBSTONES)
        return sorted(str(path.relative_to(area)) for path in area.glob("*/*"))

    def events(self, job: str) -> list[str]:
        """What the audit was told of ``job``."""
        return [record.event for record in self.told if record.job == job]


@contextmanager
def world(path: Path, **settings: Any) -> Iterator[World]:
    """A `World`; at its end all descriptors and threads are back."""
    before, threads = descriptors(), set(threading.enumerate())
    made = World(path, **settings)
    try:
        yield made
    finally:
        made.close()
    end = time.monotonic() + SECONDS
    while (set(threading.enumerate()) - threads or descriptors() - before) and time.monotonic() < end:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - threads, "threads are left"
    assert not descriptors() - before, [os.readlink(f"/proc/self/fd/{fd}") for fd in descriptors() - before]


def ask(path: str | bytes = b"old", **fields: Any) -> JobRequest:
    """A request for ``path`` in the root ``data``."""
    return JobRequest(root="data", path=os.fsencode(path), **fields)


def until(jobs: Jobs, job: str, *states: str, tenant: str = "node", seconds: float = SECONDS) -> Progress:
    """Wait until ``job`` is at one of ``states``; and until no thread has it, if these are where none is at work."""
    progress = until_so(jobs, job, lambda progress: progress.state in states, tenant=tenant, seconds=seconds)
    if progress.state not in {"counting", "running"}:
        # Its thread says how it ended before it has closed what it had.
        at = jobs._scheduler.jobs[job]
        until_true(lambda: not at.busy)
    return jobs.progress(tenant, job)


def until_so(
    jobs: Jobs, job: str, so: Callable[[Progress], bool], *, tenant: str = "node", seconds: float = SECONDS
) -> Progress:
    """Wait until ``so`` is true of the progress of ``job``."""
    end = time.monotonic() + seconds
    progress = jobs.progress(tenant, job)
    while not so(progress):
        assert time.monotonic() < end, f"it is still {progress}"
        jobs.wait(tenant, job, 0.02)
        progress = jobs.progress(tenant, job)
    return progress


def until_true(so: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait until ``so()``."""
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end, "it never became so"
        time.sleep(0.005)


def names(path: Path) -> Counter[str]:
    """The names of all that lies below ``path``; what goes meanwhile is there or not."""
    return Counter(name for _, directories, files in os.walk(path) for name in (*directories, *files))
