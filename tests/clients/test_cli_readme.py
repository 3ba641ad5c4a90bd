"""What ``clients/buscli/README.md`` prints is what happens."""

import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from buscli.exits import MEANINGS
from tests.clients.cache_support import node_with_cache
from tests.clients.cli_support import SECONDS, Cli, script
from tests.pages import blocks, page, rows
from tests.support import RunningNode, environment, wait_until

README = page("clients/buscli/README.md")
CACHE = "".join(re.findall(r"^## The cache$.*?(?=^## )", README, re.S | re.M))
"""What is said of a node that has one."""


def steps(text: str) -> list[tuple[str, str]]:
    """Every command of the console blocks in ``text``, and what stands below it."""
    found: list[tuple[str, str]] = []
    for block in blocks(text, "console"):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            line, _, shown = part.partition("\n")
            found.append((line, shown))
    return found


def matches(expected: str, shown: str) -> bool:
    """Whether ``shown`` is ``expected``, in which ``...`` stands for any text on the line."""
    return re.fullmatch("[^\n]*?".join(map(re.escape, expected.split("..."))), shown) is not None


def known_after(line: str) -> tuple[str, bool] | None:
    """The subject that the broker must know before the step after a background command, and whether to call it."""
    words = shlex.split(line)
    if words[0] != "bus" or words[1] not in ("serve", "sub") or words[-1] != "&":
        return None
    return words[2].replace(">", "x"), words[1] == "serve"


@pytest.mark.slow
def test_every_line_is_real(shared_node: RunningNode, tmp_path: Path) -> None:
    _check(README.replace(CACHE, ""), shared_node.url, tmp_path)


def test_every_line_about_the_cache_is_real(tmp_path: Path) -> None:
    assert CACHE
    with node_with_cache(tmp_path) as bus:
        _check(CACHE, bus.environment["BUS_URL"], tmp_path)


def _check(text: str, url: str, tmp_path: Path) -> None:
    """Have a shell run every line of ``text`` against the bus at ``url``."""
    if shutil.which("jq") is None:
        if os.environ.get("BUSD_REQUIRE_ALL"):
            pytest.fail("jq is not installed")
        pytest.skip("jq is not installed")
    script(tmp_path)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    bus = Cli(url)
    with subprocess.Popen(
        ["bash", "--norc", "-s"],
        stdin=subprocess.PIPE,
        env=environment(PATH=path, BUS_URL=url),
        cwd=tmp_path,
        start_new_session=True,
    ) as shell:
        assert shell.stdin is not None
        try:
            for number, (line, expected) in enumerate(steps(text)):
                shown = _run_step(shell, tmp_path, number, line)
                assert matches(expected, shown), f"$ {line}\n{shown}"
                if (known := known_after(line)) is not None:
                    subject, call = known
                    wait_until(lambda: bus.is_known(subject, call=call), what=line)  # noqa: B023 -- waited for here
        finally:
            os.killpg(shell.pid, signal.SIGTERM)
            shell.stdin.close()
            shell.wait(SECONDS)


def _run_step(shell: "subprocess.Popen[bytes]", directory: Path, number: int, line: str) -> str:
    """Have the shell run one line; what it printed, errors included. ``$?`` stays that of the line."""
    output, done = directory / f"output-{number}", directory / f"done-{number}"
    assert shell.stdin is not None
    in_background = line.endswith("&")
    command = line if in_background else f"{{ (exit $last); {line}; }} > {output} 2>&1 < /dev/null; last=$?"
    shell.stdin.write(f"{command}\ntouch {done}\n".encode())
    shell.stdin.flush()
    wait_until(done.exists, what=line)
    return output.read_text() if output.exists() else ""


def test_the_exit_codes_are_those_of_the_code() -> None:
    assert rows(README, "code") == [[str(int(code)), meaning] for code, meaning in MEANINGS.items()]
