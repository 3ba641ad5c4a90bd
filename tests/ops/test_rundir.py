"""The run directory: whose it is, who runs in it, and what happens to sockets that the dead left behind."""

import os
import select
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from busd.ops.rundir import RunDirectory, bind_unix, default_run_dir, probe, remove_socket
from busproto.errors import BusError, Code
from tests.support import environment

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a directory to someone else")


def reason(path: Path) -> str:
    with pytest.raises(BusError) as caught, RunDirectory(path):
        pass
    assert caught.value.code == Code.RUN_DIR_UNUSABLE
    assert caught.value.fields["path"] == str(path)
    return str(caught.value.fields["reason"])


@pytest.mark.parametrize(
    ("uid", "environ", "path"),
    [
        (0, {"XDG_RUNTIME_DIR": "/run/user/0"}, "/run/busd"),
        (7, {"XDG_RUNTIME_DIR": "/run/user/7"}, "/run/user/7/busd"),
        (7, {}, "/tmp/busd-7"),
        (7, {"XDG_RUNTIME_DIR": ""}, "/tmp/busd-7"),
        (7, {"XDG_RUNTIME_DIR": "relative"}, "/tmp/busd-7"),
    ],
)
def test_the_default_place(uid: int, environ: dict[str, str], path: str) -> None:
    assert default_run_dir(environ, uid) == Path(path)


@pytest.mark.parametrize(("uid", "mode"), [(0, 0o755), (4242, 0o700)])
def test_the_directory_is_made_with_its_mode_whatever_the_umask(
    uid: int, mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fstat
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(  # what this user makes belongs to that user
        os, "fstat", lambda fd: os.stat_result([*real(fd)[:4], uid, *real(fd)[5:10]])
    )
    umask = os.umask(0o077)
    try:
        with RunDirectory(tmp_path / "run"):
            assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == mode
    finally:
        os.umask(umask)


def test_an_existing_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir(mode=0o750)
    with RunDirectory(path) as run:
        assert run.socket_path == path / "host.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o750


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o1777])
def test_a_directory_that_others_can_write_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    path.chmod(mode)
    assert reason(path) == f"others can write it (mode {mode:04o})"
    assert list(path.iterdir()) == []


@needs_root
def test_a_directory_of_someone_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir(mode=0o755)
    os.chown(path, 4242, 4242)
    assert reason(path) == "it belongs to user 4242, this is user 0"
    assert list(path.iterdir()) == []


def test_a_symbolic_link_is_refused_wherever_it_leads(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    for name, destination in (("good", target), ("dangling", tmp_path / "nowhere")):
        link = tmp_path / name
        link.symlink_to(destination)
        assert reason(link) == "it is a symbolic link"
    assert list(target.iterdir()) == []


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    assert reason(path) == "it is not a directory"
    assert reason(path / "run") == "Not a directory"
    assert reason(tmp_path / "absent" / "run") == f"{tmp_path}/absent does not exist"


def test_a_lock_that_is_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    (path / "busd.lock").symlink_to(tmp_path / "victim")
    assert reason(path).startswith("busd.lock: ")
    assert not (tmp_path / "victim").exists()


HOLD = """
import sys, time
from pathlib import Path
from busd.ops.rundir import RunDirectory, bind_unix
run = RunDirectory(Path(sys.argv[1]))
listener = bind_unix(run.socket_path, 0o600, 8)
print("held", flush=True)
time.sleep(60)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """A process that holds the run directory and listens in it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_daemon_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with holder(path) as first:
        try:
            with pytest.raises(BusError) as caught:
                RunDirectory(path)
            assert caught.value.code == Code.RUN_DIR_IN_USE
            assert caught.value.fields == {"pid": first.pid, "path": str(path)}
            assert probe(path / "host.sock") == "alive"
        finally:
            first.kill()


def test_what_a_killed_daemon_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with holder(path) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert probe(path / "host.sock") == "stale"
    with RunDirectory(path) as run, bind_unix(run.socket_path, 0o600, 8):
        assert probe(run.socket_path) == "alive"
        assert (path / "busd.lock").read_text() == f"{os.getpid()}\n"
        assert sorted(each.name for each in path.iterdir()) == ["busd.lock", "host.sock"]


def test_release_removes_the_socket_and_lets_the_next_one_in(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run = RunDirectory(path)
    with bind_unix(run.socket_path, 0o600, 8):
        run.release()
        run.release()
    assert [each.name for each in path.iterdir()] == ["busd.lock"]
    assert (path / "busd.lock").read_text() == ""
    RunDirectory(path).release()


def test_a_child_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as child:
        run.release()
        RunDirectory(tmp_path / "run").release()
        child.communicate()


# -- sockets ----------------------------------------------------------------------------------------------------------


def test_a_new_socket_listens_with_its_mode_and_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    umask = os.umask(0o077)
    try:
        listener = bind_unix(path, 0o666, 8)
    finally:
        os.umask(umask)
    with listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        assert listener.getblocking() is False
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            assert select.select([listener], [], [], 5)[0]
            listener.accept()[0].close()
        assert [each.name for each in tmp_path.iterdir()] == ["a.sock"]


def test_nobody_meets_a_socket_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it listens, the old file stays: a client that connects meanwhile is refused by the old one at worst."""
    path = tmp_path / "a.sock"
    bind_unix(path, 0o600, 8).close()
    old = path.stat().st_ino
    seen = []
    rename = os.rename

    def watch(source: object, target: object) -> None:
        seen.append((path.stat().st_ino == old, probe(Path(str(source)))))
        rename(str(source), str(target))

    monkeypatch.setattr(os, "rename", watch)
    with bind_unix(path, 0o600, 8):
        assert seen == [(True, "alive")]
        assert path.stat().st_ino != old


def test_probe_tells_absent_stale_and_alive_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    assert probe(path) == "absent"
    listener = bind_unix(path, 0o600, 8)
    assert probe(path) == "alive"
    listener.close()
    assert probe(path) == "stale"
    remove_socket(path)
    assert probe(path) == "absent"
    remove_socket(path)


def test_a_listener_too_busy_to_accept_is_alive(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with bind_unix(path, 0o600, 0), socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(path))
        assert probe(path) == "alive"


def test_a_datagram_socket_in_use_is_alive(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        assert probe(path) == "alive"


def test_a_living_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with bind_unix(path, 0o600, 8):
        with pytest.raises(BusError) as caught:
            bind_unix(path, 0o600, 8)
        assert caught.value.code == Code.LISTEN_FAILED
        assert caught.value.fields == {"address": f"unix://{path}", "reason": "another process listens on it"}
        assert probe(path) == "alive"


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_not_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    before = os.lstat(path)
    with pytest.raises(BusError) as caught:
        bind_unix(path, 0o600, 8)
    assert caught.value.code == Code.LISTEN_FAILED
    assert caught.value.fields["reason"] == "the path exists and is not a socket"
    assert os.lstat(path) == before


def test_a_path_too_long_for_a_socket_is_refused_with_both_numbers(tmp_path: Path) -> None:
    path = tmp_path / ("x" * (108 - len(str(tmp_path)) - 1))
    with pytest.raises(BusError) as caught:
        bind_unix(path, 0o600, 8)
    assert caught.value.fields["reason"] == "the path has 108 bytes and the system allows 107"
    longest = Path(str(path)[:-1])
    with bind_unix(longest, 0o600, 8):
        assert probe(longest) == "alive"


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BusError) as caught:
        bind_unix(tmp_path / "absent" / "a.sock", 0o600, 8)
    assert caught.value.code == Code.LISTEN_FAILED
    assert caught.value.fields["reason"] == "No such file or directory"
