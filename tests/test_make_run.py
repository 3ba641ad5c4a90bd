"""The demonstration that `make run` starts: on a terminal, in a pipe, beside another node; and how it ends."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from busclient import Gap, Message
from busclient.message import NO_ORIGIN
from busd.demo import instructions, line_of
from busproto.envelope import Kind, pack
from tests.support import START_SECONDS, environment, needs, running_node, wait_until

DEMO = [sys.executable, "-m", "busd.demo"]

ON_A_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)
"""Takes the terminal that is its standard input as its session's own, then becomes another program."""


class Terminal:
    """A program on a terminal of its own, as a person would see it."""

    def __init__(self, *command: str, cwd: Path, **variables: str) -> None:
        self._ours, theirs = os.openpty()
        os.set_blocking(self._ours, False)
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_A_TERMINAL, *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=cwd,
            env=environment(TERM="xterm", BUSD_HTTP_LISTEN="off", **variables),
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def sees(self, pattern: str) -> bool:
        """Whether a match of ``pattern`` has come up so far."""
        with contextlib.suppress(BlockingIOError, OSError):  # nothing new; or the other end is closed
            while data := os.read(self._ours, 65536):
                self.seen += data.decode(errors="replace")
        return re.search(pattern, self.seen) is not None

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Terminal]:
    """`make run` on a terminal, without the installation."""
    needs("make")
    (tmp_path / "Makefile").write_text(f"run:\n\t@{' '.join(DEMO)}\n")
    terminal = Terminal("make", "run", cwd=tmp_path, BUSD_RUN_DIR=str(tmp_path / "run"))
    yield terminal
    family = terminal.process.pid
    terminal.close()
    left = [process for process in psutil.process_iter() if _session_of(process.pid) == family]
    for process in left:
        process.kill()
    assert not left


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def test_ctrl_c_under_make_is_a_good_end_that_leaves_nothing(make: Terminal, tmp_path: Path) -> None:
    wait_until(lambda: make.sees(r"telemetry\.top +\d+ processes"), what="traffic on the terminal")
    assert f"busd runs on unix://{tmp_path}/run/host.sock" in make.seen
    assert "bus list" in make.seen
    family = psutil.Process(make.process.pid).children(recursive=True)
    assert len(family) == 2, "the demonstration and the telemetry component"

    make.type("\x1a")  # Ctrl-Z would leave make waiting for a stopped process, and nobody to continue it
    before = len(make.seen)
    wait_until(lambda: make.sees("") and len(make.seen) > before + 100, what="traffic after Ctrl-Z")

    make.type("\x03")
    assert make.process.wait(START_SECONDS) == 0
    make.sees("")
    assert "Interrupt" not in make.seen
    assert "Error" not in make.seen
    assert "Traceback" not in make.seen
    psutil.wait_procs(family, START_SECONDS)
    assert not [process for process in family if process.is_running()]
    assert not (tmp_path / "run" / "host.sock").exists()


def test_a_second_ctrl_c_does_no_harm(make: Terminal) -> None:
    wait_until(lambda: make.sees(r"Ctrl-C ends it"), what="the instructions")
    family = psutil.Process(make.process.pid).children(recursive=True)
    make.type("\x03\x03")
    make.process.wait(START_SECONDS)
    psutil.wait_procs(family, START_SECONDS)
    assert not [process for process in family if process.is_running()]


@contextlib.contextmanager
def demo(run_dir: Path, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """The demonstration without a terminal."""
    variables = {"BUSD_RUN_DIR": str(run_dir), "BUSD_HTTP_LISTEN": "off", **variables}
    with subprocess.Popen(
        DEMO, stdout=subprocess.PIPE, env=environment(**variables), text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: "subprocess.Popen[str]", pattern: str) -> list[str]:
    """Lines that the program prints, up to the first that matches."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if re.search(pattern, line):
            return lines
    pytest.fail(f"it ended without a line like {pattern!r}: {lines}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_without_a_terminal_a_signal_to_the_group_ends_it_well(tmp_path: Path, number: signal.Signals) -> None:
    with demo(tmp_path / "run") as process:
        read_until(process, r"\d  telemetry\.cpu")
        os.killpg(process.pid, number)
        assert process.wait(START_SECONDS) == 0


@pytest.mark.parametrize("last", [r"busd runs on", r"\d  telemetry\.cpu"])
def test_it_ends_when_nobody_reads_it(tmp_path: Path, last: str) -> None:
    with demo(tmp_path / "run") as process:
        read_until(process, last)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(START_SECONDS) == 0


def test_beside_another_node_it_says_so_and_uses_a_directory_of_its_own(tmp_path: Path) -> None:
    with running_node(tmp_path) as other, demo(tmp_path) as process:
        lines = read_until(process, r"\d  telemetry\.cpu")
        assert lines[0] == f"another busd (pid {other.process.pid}) runs in {tmp_path}"
        own = re.search(r"export BUS_URL=unix://(\S+)/host\.sock", "\n".join(lines))
        assert own is not None
        assert Path(own[1]).is_dir()
        assert own[1] != str(tmp_path)
        process.terminate()
        assert process.wait(START_SECONDS) == 0
        assert not Path(own[1]).exists()
        assert other.process.poll() is None


def test_a_wrong_setting_is_refused_with_its_cure(tmp_path: Path) -> None:
    done = subprocess.run(
        DEMO, env=environment(BUSD_LOG_LEVEL="loud"), capture_output=True, text=True, timeout=START_SECONDS, check=False
    )
    assert done.returncode == 1
    assert "BUS-7002" in done.stderr
    assert "Traceback" not in done.stderr


def test_instructions_can_be_typed_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = instructions("unix:///run/a b/host.sock", "unix:///run/busd/host.sock", tmp_path / ".venv" / "bin")
    assert "  export BUS_URL='unix:///run/a b/host.sock'\n" in text
    assert "\n  .venv/bin/bus list " in text
    assert f"in {tmp_path}:" in text
    text = instructions(
        "unix:///run/busd/host.sock", "unix:///run/busd/host.sock", Path("/opt/busd/bin"), "http://127.0.0.1:9850"
    )
    assert "browser on this machine: http://127.0.0.1:9850/\n" in text
    assert "export" not in text
    assert "\n  /opt/busd/bin/bus list " in text


@pytest.mark.parametrize(
    ("subject", "data", "line"),
    [
        ("demo.hello", pack({"n": 1}), "demo.hello         {'n': 1}"),
        ("demo.hello", b"\xc1", "demo.hello         b'\\xc1'"),
        ("demo.hello", pack("\x1b[2J\n"), "demo.hello         '\\x1b[2J\\n'"),
        ("telemetry.other", pack({"at": 0}), "telemetry.other    "),
        ("telemetry.cpu", pack({"at": "now", "cpus": 7}), "telemetry.cpu      "),
        ("telemetry.cpu", pack(None), "telemetry.cpu      None"),
    ],
)
def test_whatever_anyone_publishes_is_one_safe_line(subject: str, data: bytes, line: str) -> None:
    shown = line_of(Message.received((Kind.PUBLISH, subject, None, data), NO_ORIGIN))
    assert line in shown
    assert shown.isprintable()


def test_a_loss_is_shown() -> None:
    assert "7 messages" in line_of(Gap(7, "outbox-bytes", ">"))
