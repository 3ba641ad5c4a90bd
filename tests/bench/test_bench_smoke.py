"""The benchmark works: every work comes about, with every figure. How fast is not a test's business."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

RUN = Path(__file__).with_name("run.py")
ROOT = RUN.parents[2]
TINY = ("--quick", "--seconds", "0.05", "--endpoints", "60")
FIGURES = {
    ("latency", "p50"),
    ("latency", "p90"),
    ("latency", "p99"),
    ("calls", "rate"),
    ("calls", "cpu"),
    ("pubsub", "rate"),
    ("pubsub", "cpu"),
    ("fanout", "rate"),
    ("fanout", "cpu"),
    ("attach", "seconds"),
    ("attach", "rss"),
}


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(RUN), *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_every_work_yields_every_figure(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    done = run(*TINY, "--peer", "busd", "--peer", "nats", "--json", str(out))
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(out.read_text())
    figures = results["figures"]
    assert {(figure["work"], figure["figure"]) for figure in figures} == FIGURES
    measured = [name for name, peer in results["peers"].items() if "version" in peer]
    assert "busd" in measured
    assert all(peer["skipped"] for name, peer in results["peers"].items() if name not in measured)
    for figure in figures:
        assert sorted(figure["values"]) == sorted(measured), figure
        for value in figure["values"].values():
            assert len(value["rounds"]) == results["settings"]["rounds"] == 1
            assert value["median"] > 0 or figure["figure"] in ("rss", "cpu")
        for bar in figure["bars"]:
            assert bar["met"] is (
                bar["value"] <= bar["bar"] if figure["better"] == "lower" else bar["value"] >= bar["bar"]
            )
    for name in ("call p50", "calls/s, 64 in flight", "messages/s, 1 to 1", "deliveries/s, 1 to 48", "attach 60"):
        assert name in done.stdout
    if "nats" in measured:
        assert any(bar["against"] == "nats" for figure in figures for bar in figure["bars"])


def test_absent_peer_is_skipped_with_the_reason_or_fails_when_all_are_required(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    options = ("--quick", "--only", "latency", "--peer", "nats", "--json", str(out))
    nowhere = str(tmp_path)
    done = run(*options, PATH=nowhere, BUSD_REQUIRE_ALL="")
    assert done.returncode == 0, done.stderr
    assert "skipped nats: nats-server is not installed" in done.stderr
    assert json.loads(out.read_text())["peers"]["nats"]["skipped"].startswith("nats-server is not installed")
    done = run(*options, PATH=nowhere, BUSD_REQUIRE_ALL="1")
    assert done.returncode == 1
    assert "nats is required" in done.stderr


def test_bad_options_are_refused() -> None:
    assert run("--only", "nothing").returncode == 2
    done = run("--rounds", "0")
    assert done.returncode == 1
    assert "above 0" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_process_behind(number: signal.Signals) -> None:
    if number == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux can end the children of a killed process")
    options = ["--seconds", "60", "--rounds", "1", "--only", "pubsub", "--peer", "busd"]
    quiet = subprocess.DEVNULL
    with tempfile.TemporaryDirectory() as directory:  # not tmp_path: a socket's path is short
        environment = {**os.environ, "TMPDIR": directory}
        command = [sys.executable, str(RUN), *options]
        with subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet) as bench:
            try:
                children = wait_for_children(psutil.Process(bench.pid), 3)
                bench.send_signal(number)
                code = bench.wait(timeout=20)
            finally:
                bench.kill()
        gone, alive = psutil.wait_procs(children, timeout=10)
        for process in alive:
            process.kill()
        assert not alive
        assert len(gone) == 3
        assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130)
        if number != signal.SIGKILL:
            assert not list(Path(directory).iterdir())


def test_a_broker_that_dies_fails_the_run_and_says_so() -> None:
    options = ["--seconds", "60", "--rounds", "1", "--only", "calls", "--peer", "busd"]
    with subprocess.Popen([sys.executable, str(RUN), *options], stderr=subprocess.PIPE, text=True) as bench:
        try:
            broker, *_ = wait_for_children(psutil.Process(bench.pid), 3)
            broker.kill()
            _, said = bench.communicate(timeout=90)
        finally:
            bench.kill()
    assert bench.returncode == 1
    assert "bench: the broker ended with exit code -9" in said


def wait_for_children(parent: psutil.Process, count: int) -> list[psutil.Process]:
    """The broker and the clients, once all of them have been started."""
    deadline = time.monotonic() + 30
    while len(children := parent.children()) < count:
        assert time.monotonic() < deadline, f"{len(children)} of {count} processes started"
        time.sleep(0.02)
    return children


@pytest.mark.parametrize(
    ("script", "options", "cases"),
    [("core.py", ("--rounds", "1", "--seconds", "0.02"), 8), ("inprocess.py", ("--rounds", "1"), 3)],
)
def test_the_other_scripts_run_every_case(script: str, options: tuple[str, ...], cases: int) -> None:
    done = subprocess.run(
        [sys.executable, str(RUN.with_name(script)), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = [float(line.split()[1].replace(",", "")) for line in done.stdout.splitlines()]
    assert len(figures) == cases
    assert min(figures) > 0


def test_the_attach_tool_holds_endpoints_of_a_running_broker(tmp_path: Path) -> None:
    paths = [str(ROOT / "schemas"), str(ROOT / "clients"), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    attach = [sys.executable, str(RUN.with_name("attach.py")), "--count", "60", "--url", f"unix://{tmp_path}/host.sock"]
    done = subprocess.run(attach, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("attach: ")
    with subprocess.Popen([sys.executable, "-m", "busd", "run", "--run-dir", str(tmp_path)], env=environment) as busd:
        try:
            deadline = time.monotonic() + 30
            while not (tmp_path / "host.sock").exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            done = subprocess.run(attach, capture_output=True, text=True, timeout=30, check=False)
        finally:
            busd.terminate()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("60 endpoints attached in ")


def test_the_hostile_benchmark_says_what_others_noticed(tmp_path: Path) -> None:
    out = tmp_path / "hostile.json"
    command = [sys.executable, str(RUN.with_name("hostile.py")), "--json", str(out)]
    done = subprocess.run([*command, "--quick", "--only", "calls"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "MISSED" in done.stdout or " met" in done.stdout
    results: dict[str, Any] = json.loads(out.read_text())
    (row,) = results["attacks"]
    assert row["attack"] == "calls"
    assert row["rate"] > 0
    assert row["errors"] == []
    assert row["recovered"] is not None
    for kind in ("own", "node", "host"):
        assert 0 < results["idle"][kind]["p50"] <= results["idle"][kind]["p99"]
        assert row["ratios"][kind] == pytest.approx(row["hostile"][kind]["p99"] / row["quiet"][kind]["p99"])
    assert row["met"] is (max(row["ratios"].values()) <= results["bars"]["p99_ratio"])
    assert subprocess.run([*command, "--seconds", "0"], capture_output=True, timeout=60).returncode == 1
    assert subprocess.run([*command, "--only", "nothing"], capture_output=True, timeout=60).returncode == 2


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how large a process is")
@pytest.mark.parametrize(
    ("options", "key"),
    [
        (("--files", "400", "--rounds", "2", "--peer", "busd", "--peer", "rm", "--peer", "rmtree"), "throughput"),
        (("--files", "400", "--memory"), "memory"),
        (("--files", "6000", "--rounds", "1", "--seconds", "0.5", "--neighbour"), "neighbour"),
    ],
)
@pytest.mark.slow
def test_the_deletion_benchmark_yields_every_figure_and_leaves_nothing(
    options: tuple[str, ...], key: str, tmp_path: Path
) -> None:
    where = tmp_path / "where"
    where.mkdir()
    done = subprocess.run(
        [sys.executable, str(RUN.with_name("deletion.py")), *options, "--where", str(where), "--json", "found.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(where.iterdir()) == []
    found = json.loads((tmp_path / "found.json").read_text())[key]
    if key == "throughput":
        assert [row["shape"] for row in found] == ["flat", "tree"]
        assert all(len(each) == 2 and min(each) > 0 for row in found for each in row["seconds"].values())
        assert all(row["ratio"] > 0 and row["startup"] > 0 for row in found)
    elif key == "memory":
        assert [(row["half"]["files"], row["whole"]["files"]) for row in found] == [(200, 400)] * 2
        assert all(row["met"] == (row["whole"]["grown"] <= 32 << 20 and row["twice"] < 2.6) for row in found)
    else:
        assert set(found["medians"]) == {"quiet", "rm", "busd", "busd unthrottled"}
        assert all(0 < each["p50"] <= each["p99"] <= each["max"] for each in found["medians"].values())
        assert found["medians"]["busd"]["rate"] > 0


def test_the_deletion_benchmark_says_what_it_could_not_measure(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(RUN.with_name("deletion.py")), "--where", str(tmp_path / "absent")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "not measured" in done.stderr
    assert "absent" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="peers are reached by unix sockets")
@pytest.mark.slow
def test_the_cache_benchmark_yields_every_figure(tmp_path: Path) -> None:
    out = tmp_path / "cache.json"
    done = subprocess.run(
        [sys.executable, str(RUN.with_name("cache.py")), "--quick", "--json", str(out)],
        env={**os.environ, "BUSD_REQUIRE_ALL": ""},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    process = {(row["work"], row["bytes"], row["cache"]): row for row in found["process"]}
    assert {cache for _, _, cache in process} >= {"busd aes-256-gcm", "busd chacha20-poly1305", "OrderedDict"}
    assert {size for work, size, _ in process if work == "set"} == {64, 1024, 16 << 10, 1 << 20}
    assert all(row["rate"] > 0 and 0 < row["p50"] <= row["p99"] for row in process.values())
    assert [row["bar"] for row in found["process"] if "bar" in row] == [250_000]
    bus = {(row["work"], row["bytes"]): row for row in found["bus"]}
    assert {work for work, size in bus if size == 1024} == {"get-hit", "get-miss", "set", "get-many"}
    here = {name for name, peer in found["peers"].items() if "version" in peer}
    assert here >= {"busd", "busd blind"}
    assert all(set(row["medians"]) == here for row in bus.values())
    assert all(each["rate"] > 0 for row in bus.values() for each in row["medians"].values())
    if "redis" in here:
        row = bus["get-hit", 1024]
        assert row["met"] is (row["ratios"]["busd"] >= row["bar"])
    else:
        assert "skipped redis" in done.stdout
    assert all(row["met"] for row in found["memory"] if row["cache"].startswith("busd"))
    assert all(0 <= row[policy] <= 1 for row in found["ratios"] for policy in ("lru", "sieve", "s3fifo"))


def test_the_cache_benchmark_says_what_it_could_not_measure(tmp_path: Path) -> None:
    def bench(*options: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(RUN.with_name("cache.py")), *options],
            env={**os.environ, **changed},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    done = bench("--only", "bus", "--quick", PATH=str(tmp_path), BUSD_REQUIRE_ALL="1")
    assert done.returncode == 1
    assert "redis is required: redis-server is not installed" in done.stderr
    assert bench("--only", "nothing").returncode == 2
    assert bench("--rounds", "0").returncode == 2
