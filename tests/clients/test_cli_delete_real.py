"""``bus delete`` on real trees: in its own process, on a terminal, and by a node."""

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from select import select

import pytest

from buscli.exits import Exit
from tests.clients.cli_support import SECONDS, Cli, lines_of
from tests.support import running_node, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="deletion needs descriptors of directories")

NOWHERE = "/nowhere/host.sock"


def tree(place: Path, directories: int = 3, files: int = 10) -> Path:
    """A directory with so many directories, each with so many files; 1 + d + d * f entries."""
    for number in range(directories):
        (place / f"d{number}").mkdir(parents=True)
        for name in range(files):
            (place / f"d{number}" / f"f{name}").write_bytes(b"x" * 100)
    return place


@pytest.fixture
def local() -> Cli:
    return Cli(NOWHERE)


# -- in its own process -----------------------------------------------------------------------------------------------


def test_a_tree_is_deleted_without_a_node(local: Cli, tmp_path: Path) -> None:
    build = tree(tmp_path / "build")
    (tmp_path / "canary").write_text("stays")
    (build / "d0" / "out").symlink_to(tmp_path / "canary")
    ended = local("delete", str(build), "--local", "--yes")
    assert ended.returncode == Exit.OK, ended.stderr.decode()
    *_, last = lines_of(ended.stdout)
    assert last["progress"]["removed"] == 35
    assert last["proof"]["gone"] is True
    assert sorted(os.listdir(tmp_path)) == ["canary"], "nothing else is left, and nothing else is gone"


def test_hostile_names_are_deleted_and_told_whole(local: Cli, tmp_path: Path) -> None:
    name = b"-rf\n\x1b[31m\xff"
    directory = os.path.join(os.fsencode(tmp_path), name, name)
    os.makedirs(directory)
    ended = local("delete", os.fsdecode(directory), "--local", "--yes")
    assert ended.returncode == Exit.OK, ended.stderr.decode()
    first = lines_of(ended.stdout)[0]
    assert first["path_bytes"] == {"$bytes": "LXJmChtbMzFt/w=="}
    assert b"\x1b" not in ended.stdout
    assert not os.path.lexists(directory)


def test_what_the_filter_spares_stays(local: Cli, tmp_path: Path) -> None:
    build = tree(tmp_path / "build", 1, 3)
    (build / "keep.log").write_bytes(b"y" * 5000)
    ended = local("delete", str(build), "--local", "--yes", "--filter", "smaller-than=1k", "--filter", "type=file")
    assert ended.returncode == Exit.OK, ended.stderr.decode()
    assert lines_of(ended.stdout)[-1]["progress"]["spared"] == {"size": 1, "directory": 1}
    assert os.listdir(build / "d0") == []
    assert (build / "keep.log").exists()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["{}/nothing"], Exit.REFUSED, "BUS-9002"),
        (["{}/build", "--max-entries", "5"], Exit.LIMIT, "34 of 5"),
        (["{}/build", "--filter", "older-than=soon"], Exit.USAGE, "BUS-2008"),
    ],
)
def test_what_is_refused_touches_nothing(local: Cli, tmp_path: Path, words: list[str], code: Exit, says: str) -> None:
    build = tree(tmp_path / "build")
    (tmp_path / "link").symlink_to("build")
    ended = local("delete", *(word.format(tmp_path) for word in words), "--local", "--yes")
    assert ended.returncode == code, ended.stderr.decode()
    assert says in ended.stderr.decode()
    assert sum(len(files) for _, _, files in os.walk(build)) == 30
    assert sorted(os.listdir(tmp_path)) == ["build", "link"]


def test_the_way_to_it_is_the_systems_and_its_own_link_is_not_followed(local: Cli, tmp_path: Path) -> None:
    build = tree(tmp_path / "build")
    (tmp_path / "link").symlink_to("build")
    ended = local("delete", str(tmp_path / "link" / "d0"), "--local", "--yes")
    assert ended.returncode == Exit.OK, ended.stderr.decode()
    assert sorted(os.listdir(build)) == ["d1", "d2"]
    ended = local("delete", str(tmp_path / "link"), "--local", "--yes")
    assert ended.returncode == Exit.OK, ended.stderr.decode()
    assert os.listdir(tmp_path) == ["build"]
    assert sorted(os.listdir(build)) == ["d1", "d2"]


def test_on_a_terminal_it_looks_asks_and_deletes(local: Cli, tmp_path: Path) -> None:
    build = tree(tmp_path / "build")
    code, shown = local.on_terminal("delete", str(build), "--local", typed=b"y\n")
    assert code == Exit.OK, shown
    assert "33 entries below it: 30 files, 3 directories; " in shown
    assert "Delete 34 entries (" in shown
    assert f"in {build}? [y/N] " in shown
    assert f"{build} is gone" in shown
    assert "deleted 34 entries (30 files and 4 directories" in shown
    assert not build.exists()


@pytest.mark.parametrize("typed", [b"n\n", b"\n", b"\x04"])
def test_on_a_terminal_no_is_no(local: Cli, tmp_path: Path, typed: bytes) -> None:
    build = tree(tmp_path / "build")
    code, shown = local.on_terminal("delete", str(build), "--local", typed=typed)
    assert code == Exit.CANCELLED
    assert "nothing was deleted" in shown
    assert sum(len(files) for _, _, files in os.walk(build)) == 30
    assert os.listdir(tmp_path) == ["build"]


def test_ctrl_c_at_the_question_is_no(local: Cli, tmp_path: Path) -> None:
    """The terminal is the command's own, so what is typed there is a signal."""
    build = tree(tmp_path / "build", 1, 1)
    script = "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from buscli.__main__ import main; "
    script += "sys.exit(main(sys.argv[1:]))"
    code, shown = terminal(local, [sys.executable, "-c", script, "delete", str(build), "--local"], b"[y/N] ", b"\x03")
    assert code == Exit.INTERRUPTED, shown
    assert (build / "d0" / "f0").exists()


def terminal(cli: Cli, command: list[str], until: bytes, typed: bytes) -> tuple[int, str]:
    """Run ``command`` on a terminal and type when it has shown ``until``; its exit code and what was shown."""
    leader, follower = pty.openpty()
    variables = {**cli.environment, "TERM": "xterm", "COLUMNS": "160"}
    with subprocess.Popen(
        command, env=variables, stdin=follower, stdout=follower, stderr=follower, start_new_session=True
    ) as process:
        os.close(follower)
        shown = b""
        try:
            while select([leader], [], [], SECONDS)[0]:
                shown += os.read(leader, 65536)
                if typed and until in shown:
                    os.write(leader, typed)
                    typed = b""
        except OSError:  # EIO: nobody has the terminal open any more
            pass
        finally:
            os.close(leader)
            process.kill()
        return process.wait(SECONDS), shown.decode()


def test_a_bar_is_drawn_on_the_way(local: Cli, tmp_path: Path) -> None:
    build = tree(tmp_path / "build", 4, 20)
    code, shown = local.on_terminal("delete", str(build), "--local", "--yes", "--rate", "60")
    assert code == Exit.OK
    assert re.search(r"\rdeleting +\d+ % \[#*-+\]  \d+/85 entries", shown)
    assert "\r\x1b[K" in shown, "it is taken away at the end"


def test_who_reads_no_further_stops_it(local: Cli, tmp_path: Path) -> None:
    build = tree(tmp_path / "build", 4, 50)
    with local.running("delete", str(build), "--local", "--yes", "--rate", "20") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(SECONDS) == Exit.BROKEN_PIPE
        assert b"try: bus delete resume " in process.stderr.read()


def test_ctrl_c_stops_it_and_resume_goes_on(local: Cli, tmp_path: Path) -> None:
    build = tree(tmp_path / "build", 4, 50)
    with local.running("delete", str(build), "--local", "--yes", "--rate", "80") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == Exit.INTERRUPTED
        said = process.stderr.read().decode()
    assert not build.exists(), "its name is free"
    resume = re.search(r"try: bus (delete resume \S+ --local \S+)\n", said)
    assert resume is not None, said
    listed = local.records("delete", "list", "--local", str(tmp_path))
    assert [(job["state"], job["path"]) for job in listed] == [("paused", "build")], "and not gone on with"
    ended = local(*resume[1].split())
    assert ended.returncode == Exit.OK, ended.stderr.decode()
    assert lines_of(ended.stdout)[-1]["progress"]["state"] == "done"
    assert os.listdir(tmp_path) == []


def test_ctrl_c_stops_it_and_restore_has_the_rest_back(local: Cli, tmp_path: Path) -> None:
    build = tree(tmp_path / "build", 4, 50)
    with local.running("delete", str(build), "--local", "--yes", "--rate", "80") as process:
        assert process.stdout is not None
        job = lines_of(process.stdout.readline())[0]["job"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == Exit.TERMINATED
    local.records("delete", "cancel", job, "--how", "restore", "--local", str(tmp_path))
    left = sum(len(files) for _, _, files in os.walk(build))
    assert 0 < left <= 200
    assert os.listdir(tmp_path) == ["build"]


def test_what_cannot_be_deleted_is_told(local: Cli, tmp_path: Path) -> None:
    """A directory that is mounted on stays, whoever asks."""
    needs_root()
    build = tree(tmp_path / "build", 1, 3)
    mounted = build / "d0" / "mounted"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(mounted)], check=True)
    try:
        ended = local("delete", str(build), "--local", "--yes")
        assert ended.returncode == Exit.PARKED, ended.stderr.decode()
        assert "a file system is mounted there: 1" in ended.stderr.decode()
        assert lines_of(ended.stdout)[-1]["progress"]["parked"] == {"mount": 1}
    finally:
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in mounts:
            if place.startswith(str(tmp_path)):
                subprocess.run(["umount", place], check=True)


def needs_root() -> None:
    """Skip without it, for only root mounts; with ``BUSD_REQUIRE_ALL=1`` fail."""
    if os.geteuid() != 0:
        if os.environ.get("BUSD_REQUIRE_ALL") == "1":
            pytest.fail("only root mounts")
        pytest.skip("only root mounts")


# -- by a node --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root ``work``; in it nothing is looked at first."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root ``bounded``, of which a job may take 1,000 entries."""
    return tmp_path_factory.mktemp("bounded")


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory, work: Path, bounded: Path) -> Iterator[Cli]:
    """The command on a node that deletes below both roots."""
    home = tmp_path_factory.mktemp("node")
    settings = home / "components.d"
    settings.mkdir(mode=0o755)
    (settings / "deletion.toml").write_text(
        f"[config]\nstate = '{home}/state'\n[[config.roots]]\nid = 'work'\npath = '{work}'\n"
        f"[[config.roots]]\nid = 'bounded'\npath = '{bounded}'\nmax_entries = 1000\n"
    )
    (settings / "deletion.toml").chmod(0o644)
    with running_node(home / "run", "--component-dir", str(settings), "--components", "deletion") as node:
        cli = Cli(node.url)
        wait_until(lambda: cli("component", "health", "deletion").returncode == Exit.OK, what="deletion is ready")
        yield cli


def test_a_node_deletes_and_is_watched(bus: Cli, work: Path) -> None:
    build = tree(work / "build")
    ended = bus("delete", str(build), "--yes")
    assert ended.returncode == Exit.OK, ended.stderr.decode()
    *lines, last = lines_of(ended.stdout)
    assert lines[-1]["state"] == last["progress"]["state"] == "done"
    assert last["progress"]["removed"] == 34
    assert not build.exists()


def test_a_job_is_detached_slowed_paused_and_brought_to_its_end(bus: Cli, work: Path) -> None:
    build = tree(work / "slow", 4, 50)
    (job,) = (line["job"] for line in bus.records("delete", str(build), "--yes", "--detach", "--rate", "5"))
    assert not build.exists()
    assert bus.records("delete", "pause", job)[0]["state"] == "paused"
    assert job in {line["job"] for line in bus.records("delete", "list")}
    bus.records("delete", "change", job, "--rate", "100000")
    bus.records("delete", "resume", job)
    ended = bus("delete", "watch", job)
    assert ended.returncode == Exit.OK, ended.stderr.decode()
    assert job not in {line["job"] for line in bus.records("delete", "list")}
    assert bus.records("delete", "report", job)[0]["progress"]["removed"] == 205


def test_ctrl_c_leaves_the_job_to_the_node(bus: Cli, work: Path) -> None:
    build = tree(work / "left", 6, 50)
    with bus.running("delete", str(build), "--yes", "--rate", "10") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        job = lines_of(process.stdout.readline())[0]["job"]
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == Exit.INTERRUPTED
        assert f"job {job} goes on without you" in process.stderr.read().decode()
    assert bus.records("delete", "report", job)[0]["progress"]["state"] in ("running", "queued", "counting")
    bus.records("delete", "cancel", job, "--how", "restore")
    assert build.exists()
    assert bus("delete", "watch", job).returncode == Exit.CANCELLED


def test_a_watch_outlives_the_component(bus: Cli, work: Path) -> None:
    build = tree(work / "moved", 6, 50)  # what is owed for one batch is forgotten with the process
    with bus.running("delete", str(build), "--yes", "--rate", "3") as process:
        assert process.stdout is not None
        job = lines_of(process.stdout.readline())[0]["job"]
        bus.records("component", "replace", "deletion")
        bus.records("delete", "change", job, "--unlimited")
        assert process.wait(SECONDS) == Exit.OK
    assert not build.exists()


def test_what_is_set_aside_is_had_back(bus: Cli, work: Path) -> None:
    build = tree(work / "mistake", 1, 2)
    ended = bus("delete", str(build), "--yes", "--grace", "1h")
    assert ended.returncode == Exit.OK, ended.stderr.decode()
    last = lines_of(ended.stdout)[-1]["progress"]
    assert last["state"] == "grace"
    assert not build.exists()
    bus.records("delete", "undelete", last["job"])
    assert sorted(os.listdir(build / "d0")) == ["f0", "f1"]


def test_a_plan_is_carried_out_only_while_it_holds(bus: Cli, work: Path) -> None:
    build = tree(work / "planned", 1, 5)
    plan = bus.records("delete", str(build), "--dry-run")[-1]["plan"]
    assert plan["entries"] == 6
    (build / "new").write_text("came later")
    refused = bus("delete", "--plan", plan["id"], "--yes")
    assert refused.returncode == Exit.CHANGED, refused.stderr.decode()
    assert (build / "new").exists()
    assert bus("delete", "--plan", plan["id"], "--yes", "--slack", "50").returncode == Exit.OK
    assert not build.exists()


def test_what_the_node_refuses_has_its_code(bus: Cli, work: Path, bounded: Path) -> None:
    big = tree(bounded / "big", 11, 100)
    for words, code in (
        ((str(big), "--yes"), Exit.LIMIT),
        (("--root", "wrok", "--path", "x", "--yes"), Exit.NO_SUCH),
        (("--root", "work", "--path", "../x", "--yes"), Exit.REFUSED),
        ((str(work / "nothing"), "--yes"), Exit.REFUSED),
        ((str(work), "--yes"), Exit.USAGE),
        (("report", "nothing"), Exit.NO_SUCH),
    ):
        ended = bus("delete", *words)
        assert ended.returncode == code, (words, ended.stderr.decode())
        assert "\n  try: " in ended.stderr.decode()
    assert len(os.listdir(big)) == 11


def test_roots_and_jobs_are_tables_on_a_terminal(bus: Cli, work: Path) -> None:
    code, shown = bus.on_terminal("delete", "roots")
    assert code == Exit.OK
    assert "work" in shown
    assert "at most 1,000" in shown
    *_, last = bus.records("delete", str(tree(work / "listed")), "--yes")
    code, shown = bus.on_terminal("delete", "list", "--all")
    assert code == Exit.OK
    (row,) = [line for line in shown.splitlines() if last["progress"]["job"] in line]
    assert "done" in row


def test_names_are_completed(bus: Cli, work: Path) -> None:
    offered = bus("__complete", "delete", "--root", "").stdout.decode()
    assert [line.partition("\t")[0] for line in offered.splitlines()] == ["bounded", "work"]
    *_, last = bus.records("delete", str(tree(work / "completed")), "--yes")
    jobs = bus("__complete", "delete", "report", "").stdout.decode().splitlines()
    assert last["progress"]["job"] in [line.partition("\t")[0] for line in jobs]
    assert all("\t" in line for line in jobs)


def test_a_node_without_the_component_is_told_apart(tmp_path: Path) -> None:
    with running_node(tmp_path / "run") as node:
        ended = Cli(node.url)("delete", "/tmp/x", "--yes")
    assert ended.returncode == Exit.NO_RESPONDERS
    assert b"the node does not run component deletion" in ended.stderr
