"""The README's tour, played: each command is typed on a terminal beside `make run`, and what comes has that shape.

Numbers, times, process names and the machine's own names may differ; every other word must be as printed.
"""

import os
import re
import sys
import time
from getpass import getuser
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.pages import blocks, page
from tests.support import ROOT, START_SECONDS, environment
from tests.test_make_run import Terminal, demo, read_until

README = page("README.md")
NODE = "node-7"
COLUMNS = 160
"""Wide enough for every table of the tour on one line a row."""


class Step(NamedTuple):
    command: str
    output: list[str]


def steps() -> list[Step]:
    """What the tour types, and what it says that comes."""
    found: list[Step] = []
    for block in blocks(README, "console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Step(line[2:], []))
            else:
                found[-1].output.append(line)
    return found


def shape(line: str) -> str:
    """A line without what differs from run to run."""
    line = re.sub(r"unix:///\S+/host\.sock|/\S+/host\.sock", "SOCKET", line)
    line = re.sub(r'("(?:name|user)": )"[^"]*"', r"\1NAME", line)
    line = re.sub(r"\b[0-9a-f]{12}\b", "0", line)  # which runner of a component
    line = re.sub(r"\bnull\b", "0", line)  # a process's CPU percent, before it was read twice
    line = re.sub(rf"(?<= ){re.escape(getuser())}(?=[ :])", "root", line)
    line = re.sub(r"\d+(?:[.:]\d+)*", "0", line)
    line = re.sub(r"\b0 ?(?:us|ms|s|min|h)\b", "TIME", line)
    return re.sub(r"─+", "─", re.sub(r"\s+", " ", line)).strip()


def pattern(expected: list[str]) -> re.Pattern[str]:
    """What the output must look like: a line ``...`` stands for any lines, ``...`` at a line's end for its rest."""
    parts = []
    for line in filter(str.strip, expected):
        if line.strip() == "...":
            parts.append(r"(?:.*\n)*?")
        elif line.endswith("..."):
            parts.append(re.escape(shape(line[:-3])) + r".*\n")
        else:
            parts.append(re.escape(shape(line)) + r"\n")
    return re.compile("".join(parts))


class Shell(Terminal):
    """A shell on a terminal; the tour is typed into it."""

    def __init__(self, cwd: Path, **variables: str) -> None:
        super().__init__("bash", "--norc", "--noprofile", "-i", cwd=cwd, PS1="", NO_COLOR="1", **variables)
        self.say(f"stty -echo cols {COLUMNS}; bind 'set enable-bracketed-paste off' 2>/dev/null; set +m; PS1=")
        self.say("echo ready-$((40+2))")
        self.wait_for(re.compile("ready-0"), 0)

    def say(self, line: str) -> int:
        """Type a line; where its output will begin."""
        self.sees("")
        self.type(line + "\n")
        return len(self.seen)

    def shown(self, begin: int) -> str:
        """The shape of what has come since."""
        self.sees("")
        text = re.sub(r"[^\n\r]*\r\x1b\[K", "", self.seen[begin:])  # what was said while it took a while is erased
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "")
        lines = filter(None, (shape(line) for line in text.splitlines()))
        return "".join(
            f"{line}\n" for line in lines if not re.fullmatch(r"\[0\] 0", line)
        )  # "[1] 4711": in the background

    def wait_for(self, wanted: re.Pattern[str], begin: int) -> bool:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if wanted.search(self.shown(begin)):
                return True
            time.sleep(0.02)
        return False


@pytest.mark.slow
def test_the_tour_happens_as_it_is_printed(tmp_path: Path) -> None:
    tour = steps()
    assert len(tour) >= 8
    for block in blocks(README, "python"):
        if name := re.match(r"# (\w+\.py)\n", block):
            (tmp_path / name[1]).write_text(block)
    run_dir = tmp_path / "run"
    variables = {
        "BUS_URL": f"unix://{run_dir}/host.sock",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with demo(run_dir, BUSD_NODE_NAME=NODE) as node:
        read_until(node, r"telemetry\.top")
        shell = Shell(tmp_path, **variables)
        try:
            for command, output in tour:
                begin = shell.say(command)
                wanted = pattern(output)
                assert shell.wait_for(wanted, begin), (
                    f"$ {command}\n-- came:\n{shell.shown(begin)}\n-- wanted:\n{wanted.pattern}"
                )
            begin = shell.say("kill $(jobs -p); wait; echo over-$((6*7))")
            assert shell.wait_for(re.compile("over-0"), begin)
        finally:
            if os.environ.get("BUSD_SHOW_TOUR"):
                print(shell.seen)
            shell.close()
        node.terminate()
        assert node.wait(START_SECONDS) == 0


def test_the_traffic_that_the_readme_shows_is_what_make_run_prints(tmp_path: Path) -> None:
    shown = next(block for block in blocks(README, "text") if "telemetry.cpu" in block).splitlines()
    with demo(tmp_path / "run") as node:
        came = read_until(node, r"telemetry\.top")
    for line in shown:
        begin = r"\d\d:\d\d:\d\d  " + re.escape(line.split()[1])
        assert any(re.match(begin, each) for each in came), f"no line like {line!r} in {came}"


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "CONTRIBUTING.md",
        "tests/README.md",
        "busd/components/cache/README.md",
        "busd/components/deletion/README.md",
        "busd/components/telemetry/README.md",
    ],
)
def test_what_the_pages_point_to_exists(path: str) -> None:
    base = (ROOT / path).parent
    links = [target for target in re.findall(r"\]\(([^)#]+)\)", page(path)) if "://" not in target]
    missing = [target for target in links if not (base / target).exists()]
    assert not missing


def test_every_make_command_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in ("README.md", "CONTRIBUTING.md", "tests/README.md", "CHANGELOG.md"):
        named = set(re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", page(path), re.MULTILINE))
        assert {first or second for first, second in named} <= targets, path


def test_the_commands_of_make_run_work(tmp_path: Path) -> None:
    """Each line that `make run` tells a newcomer to type ends well."""
    import subprocess

    with demo(tmp_path / "run") as node:
        lines = read_until(node, r"telemetry\.top")
        url = next(line for line in lines if line.startswith("busd runs on ")).split()[3]
        typed = [line for line in lines if "/bus " in line and line.startswith("  ")]
        assert len(typed) >= 5
        for line in typed:
            command = f"timeout -s INT 3 {line.strip()}"
            done = subprocess.run(
                ["bash", "-c", command],
                env=environment(BUS_URL=url),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            ended = (0, 124) if " sub " in line else (0,)
            assert done.returncode in ended, f"{command}: {done.stderr}"
            assert "BUS-" not in done.stderr
        node.terminate()
        assert node.wait(START_SECONDS) == 0
