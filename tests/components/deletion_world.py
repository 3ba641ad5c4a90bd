"""What tests of deletion share: counting descriptors, and mounts that nobody else sees."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FLAGS = os.O_RDONLY | os.O_DIRECTORY


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
