"""A card: what deploy/dpu/README.md says is done, with real CURVE, host and card on one machine of the test's own."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deploy.guide import BUS, answer, installed_machine, lines, unit
from tests.deploy.machine import Machine
from tests.support import ROOT, START_SECONDS, wait_until

FOLDER = ROOT / "deploy" / "dpu"
PAGE = (FOLDER / "README.md").read_text()
KEY, HOST, ATTACH, GONE = "On the card: its key", "On the host: let it in", "On the card: attach", "When a card goes"
ADDRESS = "192.0.2.1"
"""Of the documentation's host (RFC 5737), which the machine gets for the time of the test."""


def do(on: Machine, heading: str, *, only: str = "") -> str:
    """Run the commands of a section, but for systemctl's; those that begin with ``only`` if it is given."""
    said = ""
    for line in lines(heading, PAGE):
        if not line.startswith("systemctl") and line.startswith(only):
            said = on.shell(line)
    return said


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One machine that is host and card. What crosses between the two is carried in the directory of the checkout."""
    with installed_machine(tmp_path_factory.mktemp("dpu")) as made:
        made.shell(f"ip address add {ADDRESS}/32 dev lo")
        do(made, KEY)
        made.shell("cp /etc/busd-agent/dpu0.pub .")
        yield made


@contextmanager
def service(on: Machine, name: str) -> Iterator["subprocess.Popen[str]"]:
    """A card's unit's ExecStart, as its user and with its environment, until the end of the block."""
    text = (FOLDER / name).read_text()
    (command,) = re.findall(r"(?m)^ExecStart=(.*)$", text)
    (user,) = re.findall(r"(?m)^User=(.*)$", text)
    (environment,) = re.findall(r"(?m)^Environment=(.*)$", text)
    given = dict(word.split("=", 1) for word in environment.split())
    words = ["setpriv", f"--reuid={user}", "--clear-groups", *command.split()]
    with on.start(*words, errors=None, **given) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_SECONDS)


def _telemetry(on: Machine) -> tuple[str, str]:
    """Where telemetry is, and its state."""
    for row in map(json.loads, answer(on, f"{BUS} component list").splitlines()):
        if row["component"] == "telemetry":
            return row["placement"], row["state"]
    return "", ""


def test_the_secret_half_is_only_the_agents(both: Machine) -> None:
    folder = both.root / "etc/busd-agent"
    uid = int(answer(both, "id -u busd-agent"))
    assert ((folder / "dpu0.key").stat().st_mode & 0o777, (folder / "dpu0.key").stat().st_uid) == (0o600, uid)
    assert (folder.stat().st_mode & 0o777, folder.stat().st_uid) == (0o700, uid)


def test_the_card_attaches_takes_over_and_is_shut_out(both: Machine) -> None:
    do(both, HOST, only="install")
    with unit(both, "busd.service", "soc.conf"):
        check = f"{BUS} check --bus tcp://{ADDRESS}:5670 --key /etc/busd-agent/dpu0.key --server-key /tmp/broker.pub"
        both.shell(f"{BUS} keys broker > /tmp/broker.pub", cwd="/")
        assert both.run("sh", "-c", check, cwd="/").returncode == 2  # its key was not enrolled yet

        do(both, HOST, only="bus")
        assert json.loads(do(both, ATTACH, only="install") or do(both, ATTACH, only="bus check"))["state"] == "OK"
        listed = json.loads(answer(both, f"{BUS} keys list"))
        assert (listed["name"], listed["tenant"]) == ("dpu0", "node")

        _hello(both)

        with service(both, "telemetry-standby.service"):
            wait_until(lambda: _telemetry(both) == ("host", "ready"), what="telemetry on the host")
            move = "bus component move telemetry --to soc"
            assert move in lines(ATTACH, PAGE)
            wait_until(lambda: both.run("sh", "-c", move, cwd="/").returncode == 0, what="the standby")
            assert _telemetry(both) == ("soc", "ready")
            # The way out of it: whatever the card does then, its key is worth nothing.
            receipt = json.loads(do(both, GONE))
            assert receipt["endpoints"], receipt  # what was attached with it, and is not any more
            wait_until(lambda: _telemetry(both) == ("host", "ready"), what="telemetry back on the host")
        assert both.run("sh", "-c", check, cwd="/").returncode == 2
        enroll = both.run(BUS, "keys", "enroll", "dpu0", "dpu0.pub")
        assert enroll.returncode != 0  # this key never again


def _hello(on: Machine) -> None:
    """The agent of the README, in the card's unit."""
    (program,) = re.findall(r"(?s)```python\n(# hello\.py\n.*?)```", (ROOT / "README.md").read_text())
    folder = on.root / "opt/hello"
    folder.mkdir(exist_ok=True)
    (folder / "hello.py").write_text(program)
    with service(on, "hello-agent.service") as agent:
        assert agent.wait(START_SECONDS) == 0


def test_pages_units_and_settings_name_one_address() -> None:
    texts = [PAGE, *(path.read_text() for path in FOLDER.iterdir() if path.suffix != ".md")]
    assert {found for text in texts for found in re.findall(r"192\.0\.2\.\d+", text)} == {ADDRESS, "192.0.2.2"}
    dropin = (ROOT / "deploy/systemd/busd.service.d/soc.conf").read_text()
    assert "IPAddressAllow=192.0.2.0/24" in dropin
    assert Path(FOLDER / "soc.toml").is_file()
