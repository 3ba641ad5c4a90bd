"""One process and no later one of its pid."""

import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from busd.core.principal import Principal
from busd.edge.identity import host_principal, process_start
from busd.edge.latch import Latch, Process
from busproto.errors import BusError, Code

SEEN = Principal("host", "node", "host", 0, uid=1000, gid=1000, pid=500, started=777)


def latch(**options: object) -> tuple[Latch, list[int]]:
    taken: list[int] = []
    given = {"process": None, "any_process": False, "owner": None, **options}
    return Latch("vm-1", taken=lambda: taken.append(1), **given), taken  # type: ignore[arg-type]


def test_first_process_is_held_and_told_once() -> None:
    one, taken = latch()
    one.check(SEEN)
    one.check(SEEN)
    assert (one.process, taken) == (Process(500, 777, 1000), [1])


@pytest.mark.parametrize(
    "other",
    [
        replace(SEEN, pid=501),
        replace(SEEN, started=778),  # the same pid, used again
        replace(SEEN, uid=0),
        replace(SEEN, started=None),  # it ended before it could be looked at
        replace(SEEN, pid=0),  # in a pid namespace that this one cannot see into
    ],
)
def test_anyone_else_is_fenced(other: Principal) -> None:
    one, _ = latch()
    one.check(SEEN)
    with pytest.raises(BusError) as caught:
        one.check(other)
    assert caught.value.code == Code.UNIT_UNKNOWN
    assert one.process == Process(500, 777, 1000)


def test_process_without_identity_is_never_held() -> None:
    one, taken = latch()
    for nobody in (replace(SEEN, started=None), replace(SEEN, pid=0), replace(SEEN, pid=None)):
        with pytest.raises(BusError, match="has ended or is in another pid namespace"):
            one.check(nobody)
    assert (one.process, taken) == (None, [])


def test_named_process_may_run_as_any_user_and_the_owner_is_held_to() -> None:
    latch(process=Process(500, 777))[0].check(SEEN)
    latch(owner=1000)[0].check(SEEN)
    for any_process in (True, False):
        with pytest.raises(BusError, match="its VMM runs as user 4711, and process 500 as user 1000"):
            latch(owner=4711, any_process=any_process)[0].check(SEEN)


def test_several_processes_where_that_was_asked_for() -> None:
    one, taken = latch(any_process=True)
    one.check(SEEN)
    one.check(replace(SEEN, pid=501, started=None))
    assert (one.process, taken) == (None, [])


def test_start_of_a_process_is_the_kernels(tmp_path: object) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        seen = host_principal(ours)
    assert seen.started == process_start(os.getpid()) == Process.of(os.getpid()).started
    program = "import os, sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as child:
        assert process_start(child.pid) >= seen.started
    with pytest.raises(OSError):
        process_start(child.pid)


def test_name_of_a_program_cannot_forge_its_start(tmp_path: object) -> None:
    """comm is the second field of stat, and a process may set it to anything, ') S 1 1' included."""
    program = (
        "import ctypes, os; ctypes.CDLL(None).prctl(15, b') R 1 1 1 1 1', 0, 0, 0);"
        "print(open('/proc/self/stat').read(), flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], text=True, **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout is not None
        stat = child.stdout.readline()
        assert ") R 1 1" in stat
        assert process_start(child.pid) == int(stat.rpartition(")")[2].split()[19]) >= process_start(os.getpid())
        child.communicate("\n")
