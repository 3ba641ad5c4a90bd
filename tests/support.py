"""What tests of several rooms share: a real node in a process of its own, and waiting for something to be so."""

import gc
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

START_SECONDS = 20.0
"""For a process to come up, on a machine that is busy with other tests."""


def environment(**variables: str) -> dict[str, str]:
    """An environment in which this checkout's code is found, and no configuration but what is given."""
    ours = ("BUSD_", "BUS_", "XDG_", "COLUMNS", "LINES")  # a terminal says itself how wide it is
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = os.pathsep.join(str(ROOT / room) for room in ("schemas", "clients", ""))
    return {**kept, "PYTHONPATH": path, **variables}


def wait_until(condition: Callable[[], object], seconds: float = START_SECONDS, *, what: str = "") -> None:
    """Return as soon as ``condition()`` is true; fail the test when that takes longer than ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what or condition}"
        time.sleep(0.01)


@contextmanager
def no_collection() -> Iterator[None]:
    """No garbage is collected inside, and what there was is gone before: nothing of another test runs here, or ends."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class RunningNode(NamedTuple):
    """A node that runs in a process of its own."""

    url: str
    process: "subprocess.Popen[bytes]"


@contextmanager
def running_node(run_dir: Path, *flags: str, descriptors: int | None = None) -> Iterator[RunningNode]:
    """``busd run`` on ``run_dir`` until the end of the block; then it must end by itself, with status 0.

    Unix socket only, no HTTP, no manifest asked for; ``flags`` come after that and so may say otherwise. Its log goes
    to standard error, where pytest shows it when the test fails. ``descriptors`` is how many it may have.
    """
    socket = run_dir / "host.sock"
    command = [sys.executable, "-m", "busd", "run", "--run-dir", str(run_dir)]
    command += ["--http-listen", "off", "--manifest", "allow", *flags]
    if descriptors is not None:
        limit = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, {descriptors}))"
        command = [sys.executable, "-c", f"{limit}; os.execv(sys.executable, sys.argv[1:])", *command]
    with subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: socket.exists() or process.poll() is not None, what="the node's socket")
            assert process.poll() is None, f"busd ended with status {process.returncode}"
            yield RunningNode(f"unix://{socket}", process)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    status = process.wait(START_SECONDS)
                finally:
                    process.kill()
                assert status == 0


def needs(program: str) -> None:
    """Skip the test if ``program`` is not installed; with ``BUSD_REQUIRE_ALL=1``, as in .ci/run, fail it."""
    if shutil.which(program) is None:
        text = f"{program} is not installed"
        if os.environ.get("BUSD_REQUIRE_ALL") == "1":
            pytest.fail(f"{text}, and BUSD_REQUIRE_ALL=1 leaves nothing out")
        pytest.skip(text)
