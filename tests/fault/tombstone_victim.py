"""A process that buries, deletes, restores or recovers, and is killed where it is told to be.

    python tombstone_victim.py

For each line ``work kill directory`` on its standard input it forks a child that does ``work`` in the root
``directory``: "delete", "restore" or "recover". The child kills itself with SIGKILL at the sync point that ``kill``
names, or before its n-th call that changes the disk if it is a number; "never" lets it live. The answer is one line:
"killed", "done", or what went wrong. It forks and not its caller, which has threads.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from busd.components.deletion import area, ground, tombstone
from busd.components.deletion.area import Area
from busd.components.deletion.roots import Root
from tests.components.tombstone_world import TENANT, bury, empty, open_root

CHANGING = ("mkdir", "rmdir", "unlink", "rename", "write", "fsync", "chmod", "fchown", "fchmod")


def delete(root: Root, sync: Callable[[str], None]) -> None:
    """A job without grace."""
    with bury(root, sync=sync) as buried:
        empty(buried.directory)
        buried.finish()


def restore(root: Root, sync: Callable[[str], None]) -> None:
    """A job that is taken back in its grace period."""
    with bury(root, sync=sync) as buried:
        buried.restore()


def recover(root: Root, sync: Callable[[str], None]) -> None:
    """What a node does that comes up."""
    for found in Area(root, TENANT).scan(sync):
        with found:
            if found.state == "buried":
                empty(found.directory)
                empty(found.hoist)
                found.finish()
            elif found.state == "done":
                found.finish()
            elif found.state in {"restoring", "restored"}:
                found.restore()
            elif found.state != "quarantined":
                found.discard()


WORK = {"delete": delete, "restore": restore, "recover": recover}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_before(count: int) -> None:
    """Be killed before the ``count``-th call that changes the disk."""
    calls = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == count:
                die()
            return real(*arguments, **named)

        return call

    for name in CHANGING:
        setattr(os, name, counted(getattr(os, name)))
    for module in (area, ground, tombstone):
        if hasattr(module, "rename_new"):
            vars(module)["rename_new"] = counted(vars(module)["rename_new"])


def child(work: str, kill: str, directory: str) -> None:
    with_sync: Callable[[str], None] = tombstone.nowhere
    root = open_root(Path(directory))
    if kill.isdigit():
        die_before(int(kill))
    else:

        def with_sync(point: str) -> None:
            if point == kill:
                die()

    WORK[work](root, with_sync)


def main() -> None:
    for line in sys.stdin:
        work, kill, directory = line.rstrip("\n").split(" ", 2)
        pid = os.fork()
        if pid == 0:
            try:
                child(work, kill, directory)
            except BaseException as failed:
                print(repr(failed), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print({0: "done", -signal.SIGKILL: "killed"}.get(status, f"exit {status}"), flush=True)


if __name__ == "__main__":
    main()
