"""The wheel as users have it: installed into an environment of nothing else, used from a directory of nothing else."""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from buscli.exits import Exit
from busd import __version__
from tests.packaging.built import PACKAGES, Installed, build, clean, install
from tests.pages import blocks, page
from tests.support import ROOT, RunningNode, wait_until

TESTS = ("core/test_publish.py", "core/test_calls.py", "clients/test_client_bus.py", "clients/test_client_sockets.py")
"""Tests of the core, of the SDK in memory, and of the SDK with real nodes: none needs a file of the checkout."""

HELPERS = ("support.py", "conftest.py", "core", "clients")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sdk(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """``pip install busd``."""
    return install(tmp_path_factory.mktemp("sdk") / "env", str(wheel))


@pytest.fixture(scope="module")
def whole(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """``pip install 'busd[node,cli]'``, and what runs tests."""
    return install(
        tmp_path_factory.mktemp("whole") / "env", f"{wheel}[node,cli]", "pytest", "pytest-timeout", "hypothesis"
    )


# -- without extras ---------------------------------------------------------------------------------------------------


def test_the_sdk_brings_two_dependencies(sdk: Installed) -> None:
    assert sdk.distributions() == {"busd", "msgpack", "pyzmq"}


def test_nothing_of_the_checkout_is_used(sdk: Installed) -> None:
    program = "import busproto, busclient, buscli, busd; print(busproto, busclient, buscli, busd, sep='\\n')"
    shown = sdk.run("python", "-c", program).stdout.splitlines()
    assert len(shown) == 4
    assert all(str(sdk.folder) in line for line in shown)


SDK_PROGRAM = """
import asyncio, busclient

async def main():
    async def double(call):
        return call.payload * 2

    async with busclient.connect(component="installed", owner="tests", purpose="the wheel") as bus:
        async with bus.serve("wheel.double", double), bus.subscribe("wheel.>") as sub:
            print((await bus.call("wheel.double", 21, timeout=10.0)).payload)
            await bus.publish("wheel.tick", {"n": 1})
            print((await anext(aiter(sub))).payload)

asyncio.run(main())
with busclient.blocking.connect(component="installed") as bus:
    print(bus.call("$bus.ping", {}, timeout=10.0).origin.boundary)
"""


def test_the_sdk_talks_to_a_node(sdk: Installed, shared_node: RunningNode) -> None:
    done = sdk.run("python", "-W", "error", "-c", SDK_PROGRAM, BUS_URL=shared_node.url)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["42", "{'n': 1}", "host"]


def test_the_testing_kit_needs_nothing_more(sdk: Installed) -> None:
    """The example of ``clients/busclient/README.md``, as it stands there."""
    (example,) = (
        block for block in blocks(page("clients/busclient/README.md"), "python") if "busclient.testing.bus" in block
    )
    program = f"import asyncio\nasync def main():\n{textwrap.indent(example, '    ')}\nasyncio.run(main())\n"
    done = sdk.run("python", "-W", "error", "-c", program)
    assert done.stderr == ""
    assert done.stdout.splitlines() == re.findall(r"# prints: (.*)", example)


TYPED = """
import busclient, busclient.testing, buscli.exits, busd.components.model, busproto.errors
async def ask(bus: busclient.Bus) -> busclient.Reply: return await bus.call("a.b", 1, timeout=1.0)
reveal_type(busclient.connect)
"""


def test_types_are_seen_by_a_users_mypy(sdk: Installed, tmp_path: Path) -> None:
    program = tmp_path / "agent.py"
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(sdk.python)]
    command += ["--cache-dir", str(tmp_path / "cache"), "--config-file", "/dev/null", str(program)]

    def checked(text: str) -> str:
        program.write_text(text)
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean()).stdout

    assert all((sdk.folder / "lib").glob(f"python3.*/site-packages/{name}/py.typed") for name in PACKAGES)
    right = checked(TYPED)
    assert "Success: no issues found" in right
    assert "-> busclient.bus.Bus" in right
    wrong = checked(TYPED + 'async def no(bus: busclient.Bus) -> int: return await bus.call(1, timeout="soon")\n')
    assert '"call" of "Bus" has incompatible type "int"; expected "str"' in wrong
    assert "incompatible return value" in wrong.lower()


def test_bus_works_without_extras(sdk: Installed, shared_node: RunningNode) -> None:
    url = shared_node.url
    assert json.loads(sdk.run("bus", "check", BUS_URL=url).stdout)["state"] == "OK"
    assert sdk.run("bus", "list", BUS_URL=url).returncode == 0
    assert sdk.run("bus", "policy", "test").returncode == 0, "the policy that ships is in the wheel"
    assert "complete -F _bus bus" in sdk.run("bus", "completion", "bash").stdout
    assert sdk.run("bus", "man", "call").stdout.startswith('.TH "BUS\\-CALL"')


@pytest.mark.parametrize("command", [["delete", "list"], ["cache", "stats"]])
def test_bus_says_what_to_install(command: list[str], sdk: Installed, shared_node: RunningNode) -> None:
    done = sdk.run("bus", *command, BUS_URL=shared_node.url)
    assert (done.returncode, done.stdout) == (Exit.FAILED, "")
    assert "there is no module 'msgspec'" in done.stderr
    assert "try: pip install 'busd[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command", [[], ["run"], ["--components", "telemetry"], ["component", "run", "telemetry"], ["man"]]
)
def test_busd_says_what_to_install(command: list[str], sdk: Installed, tmp_path: Path) -> None:
    done = sdk.run("busd", *command, XDG_RUNTIME_DIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"busd: this needs what a node needs; there is no module '\w+'\npip install 'busd\[node\]'\n", done.stderr
    )


def test_busd_answers_what_needs_no_node_without_extras(sdk: Installed) -> None:
    assert sdk.run("busd", "config", "explain", "limits.endpoints").returncode == 0
    assert sdk.run("busd", "--version").stdout.startswith(f"busd {__version__} (protocol 1, Python 3.")


# -- with [node,cli] --------------------------------------------------------------------------------------------------


@contextmanager
def node_of(env: Installed, run_dir: Path, *flags: str) -> Iterator[str]:
    """The wheel's own ``busd run``; its HTTP is on the socket ``http.sock``."""
    command = [str(env.folder / "bin" / "busd"), "run", "--run-dir", str(run_dir), "--manifest", "allow"]
    command += ["--http-listen", f"unix://{run_dir}/http.sock", *flags]
    with subprocess.Popen(command, cwd=env.folder, env=clean(), stdin=subprocess.DEVNULL) as process:
        try:
            socket = run_dir / "host.sock"
            wait_until(lambda: socket.exists() or process.poll() is not None, what="the node's socket")
            yield f"unix://{socket}"
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.mark.slow
def test_a_node_of_the_wheel_is_whole(whole: Installed, tmp_path: Path) -> None:
    with node_of(whole, tmp_path / "run", "--components", "telemetry") as url:
        assert json.loads(whole.run("bus", "check", BUS_URL=url).stdout)["state"] == "OK"
        wait_until(lambda: whole.run("bus", "component", "health", "telemetry", BUS_URL=url).returncode == 0)
        assert json.loads(whole.run("bus", "call", "telemetry.processes", '{"limit": 1}', BUS_URL=url).stdout)
        fetched = whole.run("python", "-c", FETCH, str(tmp_path / "run" / "http.sock"))
        assert fetched.stderr == ""
        assert fetched.stdout.splitlines() == ["200 text/html", "200 text/javascript", "200 text/plain"]


FETCH = """
import http.client, socket, sys

for path in ("/", "/console/static/main.js", "/metrics"):
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(sys.argv[1])
    connection.request("GET", path, headers={"Accept": "text/html"})
    answer = connection.getresponse()
    answer.read()
    print(answer.status, answer.getheader("Content-Type").partition(";")[0])
    connection.close()
"""


def test_versions_are_those_of_the_wheel(whole: Installed) -> None:
    bus, busd = (whole.run(name, "--version").stdout for name in ("bus", "busd"))
    rest = r"libzmq \d+\.\d+\.\d+, msgpack \d+\.\d+\.\d+\)\n"
    version = re.escape(__version__)
    assert re.fullmatch(rf"bus {version} \(protocol 1, CPython 3\.\d+\.\d+, asyncio, {rest}", bus)
    assert re.fullmatch(rf"busd {version} \(protocol 1, Python 3\.\d+\.\d+, uvloop [\d.]+, {rest}", busd)


def test_the_daemons_pages_are_those_of_the_wheel(whole: Installed, tmp_path: Path) -> None:
    written = whole.run("busd", "man", "--dir", str(tmp_path)).stdout.split()
    assert [Path(name).name for name in written] == ["busd.1", "busd.toml.5"]
    assert f'"busd {__version__}"' in Path(written[0]).read_text()


@pytest.mark.slow
def test_the_tests_pass_against_the_wheel(whole: Installed, tmp_path: Path) -> None:
    for name in HELPERS:
        source, copy = ROOT / "tests" / name, tmp_path / "tests" / name
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(source, copy)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = --import-mode=importlib\npythonpath = .\nmarkers =\n    alone\n    slow\n"
    )
    options = ["-q", "-p", "no:cacheprovider", "-W", "error"]
    done = whole.run("python", "-m", "pytest", *options, *(f"tests/{name}" for name in TESTS), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 100
