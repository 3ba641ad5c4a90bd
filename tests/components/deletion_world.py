"""What tests of deletion share: a gate that notes, counting descriptors, and mounts that nobody else sees."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from busd.components.deletion.cancelled import Cancelled

FLAGS = os.O_RDONLY | os.O_DIRECTORY


class Recorder:
    """A gate that notes what passes, and may say that the job is to end, or do something at the first batch of several.

    Attributes:
        batches: how many files each was that was let in; ended: each that was over; size: bytes in all of them.
    """

    def __init__(self, *, first: Callable[[], None] | None = None, cancel_after: int | None = None) -> None:
        self.batches: list[int] = []
        self.ended: list[int] = []
        self.size = 0
        self._first = first
        self._cancel_after = cancel_after
        self._lock = threading.Lock()

    def batch(self) -> int:
        return 256

    def enter(self, files: int, size: int) -> None:
        with self._lock:
            if self._cancel_after is not None and len(self.batches) >= self._cancel_after:
                raise Cancelled
            self.batches.append(files)
            self.size += size
            first, self._first = (self._first, None) if files > 1 else (None, self._first)
        if first is not None:
            first()

    def left(self, files: int, seconds: float) -> None:
        assert seconds >= 0
        with self._lock:
            self.ended.append(files)


def growth(prepare: Callable[[int], None], run: Callable[[], object]) -> float:
    """How many times as long ``run`` takes with 20,000 names as with 10,000: processor time, the best of four.

    ``prepare`` is told before each how many there have to be.
    """
    seconds = []
    for names in (10_000, 20_000):
        best = float("inf")
        for _ in range(4):
            prepare(names)
            started = time.process_time()
            run()
            best = min(best, time.process_time() - started)
        seconds.append(best)
    return seconds[1] / seconds[0]


def descriptors() -> set[int]:
    """The descriptors that this process has open."""
    return {int(fd) for fd in os.listdir("/proc/self/fd")} - {-1}


@contextmanager
def chain(directory: int, depth: int, name: bytes) -> Iterator[None]:
    """``depth`` directories in one another, each called ``name``, in ``directory``; made by descriptors: no path
    is ever too long. They are gone at the end, whatever happens: pytest's own clean-up fails on what is very deep, in
    this run or in a later one.
    """
    held = os.dup(directory)
    try:
        for _ in range(depth):
            os.mkdir(name, dir_fd=held)
            below = os.open(name, FLAGS | os.O_NOFOLLOW, dir_fd=held)
            os.close(held)
            held = below
        yield
    finally:
        os.close(held)
        _unchain(directory, name)


def _unchain(directory: int, name: bytes) -> None:
    """Each level is renamed up and the empty one above it removed."""
    spare = b"%d" % os.getpid()
    while True:
        try:
            os.rename(name + b"/" + name, spare, src_dir_fd=directory, dst_dir_fd=directory)
        except FileNotFoundError:
            break
        os.rmdir(name, dir_fd=directory)
        os.rename(spare, name, src_dir_fd=directory, dst_dir_fd=directory)
    os.rmdir(name, dir_fd=directory)


def needs_root() -> None:
    """Skip the test without root; with ``BUSD_REQUIRE_ALL=1``, as in .ci/run, fail it."""
    reason = "mounts need root and unshare"
    if os.geteuid() == 0 and shutil.which("unshare") is not None:
        return
    if os.environ.get("BUSD_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason}, and BUSD_REQUIRE_ALL=1 leaves nothing out")
    pytest.skip(reason)


def with_mounts(script: str, directory: Path) -> str:
    """Run ``script`` in Python in ``directory`` and in a mount namespace of its own; what it prints. Mounts end then.

    Skips where a namespace cannot be had.
    """
    needs_root()
    home = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{home}:{home / 'schemas'}:{home / 'clients'}"}
    run = ["unshare", "-m", "--propagation", "private", sys.executable, "-c", PRELUDE + script]
    done = subprocess.run(run, cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0 and "unshare" in done.stderr:
        if os.environ.get("BUSD_REQUIRE_ALL") == "1":
            pytest.fail(done.stderr)
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout


PRELUDE = '''
import os, subprocess
from pathlib import Path
from busd.components.deletion import system
from busd.components.deletion.kernel import Kernel
from busd.components.deletion.roots import Root, Roots, RootSettings
from busd.components.deletion.target import resolve
from busproto.errors import BusError

def mount(*words):
    subprocess.run(["mount", *words], check=True)

def said(call, *arguments, **named):
    """The name of the error that call raises, or None."""
    try:
        call(*arguments, **named)
    except BusError as error:
        return f"{error.code} {error.fields['reason']}"
    except OSError as error:
        return os.strerror(error.errno)

here = Path.cwd()
'''
