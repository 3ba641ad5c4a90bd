"""What the broker says of itself: ``bus list``, ``inspect``, ``explain``, ``stats``, ``ping``, ``check``, ``bench``."""

import csv
import io
import re
import socket
import threading
from pathlib import Path

import pytest

from buscli.exits import Exit, Health
from tests.clients.cli_support import SECONDS, Cli, lines_of
from tests.support import RunningNode, wait_until


@pytest.fixture
def bus(shared_node: RunningNode) -> Cli:
    return Cli(shared_node.url)


# -- list, inspect, explain, stats ------------------------------------------------------------------------------------


def test_list_shows_who_is_there_and_what_is_proven_and_claimed(bus: Cli) -> None:
    with bus.serving("l1.x", "--echo", subject="l1.x") as serve:
        rows = {row["claims"].get("purpose"): row for row in bus.records("list")}
    row = rows["bus serve l1.x"]
    assert row["principal"]["pid"] == serve.pid
    assert row["principal"]["boundary"] == "host"
    assert row["claims"]["component"] == "bus-cli"
    assert row["serves"] == ["l1.x"]
    assert "bus list" in rows


def test_list_goes_through_all_pages(shared_node: RunningNode, bus: Cli) -> None:
    import asyncio
    from contextlib import AsyncExitStack

    import busclient

    async def many() -> list[str]:
        async with AsyncExitStack() as stack:
            for number in range(520):  # one page holds 500
                await stack.enter_async_context(busclient.connect(shared_node.url, component=f"many-{number}"))
            rows = await asyncio.to_thread(bus.records, "list")
            return [row["claims"].get("component", "") for row in rows]

    components = asyncio.run(many())
    assert [name for name in components if name.startswith("many-")] == [f"many-{number}" for number in range(520)]


def test_departed_says_who_left_and_why(bus: Cli) -> None:
    with bus.serving("l2.x", "--echo", subject="l2.x") as serve:
        serve.kill()
        serve.wait(SECONDS)
        wait_until(lambda: not bus.is_known("l2.x", call=True))
    rows = bus.records("list", "--departed")
    (row,) = [row for row in rows if row["claims"].get("purpose") == "bus serve l2.x"]
    assert row["reason"] == "connection-lost"
    assert row["ago"] >= 0
    assert row["seconds"] > 0
    assert [row["ago"] for row in rows] == sorted(row["ago"] for row in rows)


def test_inspect_shows_everything_of_one_endpoint(bus: Cli) -> None:
    with bus.subscribed("l3.x", "l3.>", subject="l3.x") as sub:
        wait_until(lambda: len(bus.records("explain", "l3.x")[0]["receivers"]) == 2)
        (name,) = [row["endpoint"] for row in bus.records("list") if row["principal"]["pid"] == sub.pid]
        (found,) = bus.records("inspect", name)
    assert {each["pattern"] for each in found["subscriptions"]} == {"l3.x", "l3.>"}
    assert found["endpoint"] == name
    assert "statistics" in found


def test_inspect_of_nobody_says_where_to_look(bus: Cli) -> None:
    ended = bus("inspect", "host-99999")
    assert (ended.returncode, ended.stdout) == (Exit.FAILED, b"")
    said = ended.stderr.decode()
    assert said.startswith("bus inspect: no endpoint is called 'host-99999'\n")
    assert said.endswith("\n  try: bus list\n  try: bus list --departed\n")


def test_inspect_of_a_component_names_its_endpoints(bus: Cli) -> None:
    with bus.serving("l6.x", "--echo", subject="l6.x") as serve:
        (name,) = [row["endpoint"] for row in bus.records("list") if row["principal"]["pid"] == serve.pid]
        ended = bus("inspect", "bus-cli")
    assert ended.returncode == Exit.FAILED
    assert f"\n  try: bus inspect {name}\n" in ended.stderr.decode()


def test_explain_says_where_it_would_go(bus: Cli) -> None:
    (nobody,) = bus.records("explain", "l4.x")
    assert (nobody["receivers"], nobody["verb"]) == ([], "publish")
    assert "nobody" in nobody["reason"]
    with bus.serving("l4.*", "--echo", subject="l4.x"):
        (found,) = bus.records("explain", "l4.x", "--call")
    assert found["groups"][0]["pattern"] == "l4.*"
    assert len(found["groups"][0]["members"]) == 1


def test_stats_counts_what_happened(bus: Cli) -> None:
    (before,) = bus.records("stats")
    assert bus("pub", "l5.x", "1", "--count", "10").returncode == 0
    (after,) = bus.records("stats")
    assert after["received_messages"]["host"] - before["received_messages"]["host"] >= 10
    assert after["broker"].startswith("busd")


def test_ping_prints_each_trip_and_a_summary(bus: Cli) -> None:
    *trips, summary = bus.records("ping", "--count", "3", "--interval", "10ms")
    assert [trip["number"] for trip in trips] == [1, 2, 3]
    assert all(0 < trip["seconds"] < 2 for trip in trips)
    assert summary["count"] == 3
    assert summary["lowest"] <= summary["median"] <= summary["highest"]


# -- check ------------------------------------------------------------------------------------------------------------


def test_check_does_four_steps(bus: Cli) -> None:
    (found,) = bus.records("check", "--timeout", "20s")
    assert found["state"] == "OK"
    assert list(found["seconds"]) == ["connect", "ping", "publish", "call"]
    assert all(seconds > 0 for seconds in found["seconds"].values())
    assert found["error"] is None
    assert found["broker"].startswith("busd")


@pytest.mark.parametrize(
    ("words", "state", "says"),
    [
        (["--warn", "20s"], Health.OK, ""),
        (["--warn", "1us"], Health.WARNING, "more than 1 us"),
        (["--warn", "1us", "--critical", "1us"], Health.CRITICAL, "more than 1 us"),
    ],
)
def test_check_judges_how_long_it_took(bus: Cli, words: list[str], state: Health, says: str) -> None:
    ended = bus("check", "--timeout", "20s", *words)
    assert ended.returncode == state
    (found,) = lines_of(ended.stdout)
    assert found["state"] == state.name
    assert says in (found["error"] or "")


def test_check_as_a_nagios_plugin(bus: Cli) -> None:
    ended = bus("check", "--timeout", "20s", "--format", "nagios", "--warn", "10s", "--critical", "15s")
    assert ended.returncode == Health.OK
    number = r"\d+\.\d+s;10;15;0"
    data = " ".join(f"{step}={number}" for step in ("connect", "ping", "publish", "call"))
    assert re.fullmatch(rf"BUS OK - node \S+: [^|]+ \| {data}\n", ended.stdout.decode())


def test_check_for_prometheus_is_what_prometheus_reads(bus: Cli) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    ended = bus("check", "--timeout", "20s", "--format", "prometheus")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(ended.stdout.decode())
        for sample in family.samples
    }
    assert samples["bus_check_success",] == 1
    assert samples["bus_check_state",] == 0
    assert samples["bus_check_components_failed",] == 0
    assert samples["bus_check_duration_seconds", "call"] > 0
    assert len(samples) == 7


@pytest.mark.parametrize("form", ["text", "json", "nagios", "prometheus"])
def test_check_without_a_bus_is_critical(tmp_path: Path, form: str) -> None:
    ended = Cli(str(tmp_path / "no.sock"))("check", "--format", form)
    assert ended.returncode == Health.CRITICAL
    said = ended.stdout.decode()
    assert "BUS-6001" in said or form == "prometheus"
    assert "bus_check_success 0" in said or form != "prometheus"
    assert ended.stderr == b""


@pytest.mark.parametrize(("url", "code"), [("http://10.0.0.1:1", "BUS-6005"), ("tcp://10.0.0.1:1", "BUS-6010")])
def test_check_of_a_bus_that_cannot_be_asked_is_unknown(url: str, code: str) -> None:
    """Not an address of a bus; and one that needs a key, without one."""
    ended = Cli(url)("check", "--format", "text")
    assert ended.returncode == Health.UNKNOWN
    assert code in ended.stdout.decode()


def test_check_of_a_broker_that_hangs_is_critical_in_time(tmp_path: Path) -> None:
    path = str(tmp_path / "mute.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        held: list[socket.socket] = []
        thread = threading.Thread(target=lambda: held.append(listener.accept()[0]))
        thread.start()
        ended = Cli(path)("check", "--timeout", "300ms")
        thread.join(SECONDS)
        held[0].close()
    assert ended.returncode == Health.CRITICAL
    assert lines_of(ended.stdout)[0]["error"] == "connect: not within 0.3 s"


# -- bench ------------------------------------------------------------------------------------------------------------


def test_a_closed_loop_says_that_it_is_no_latency_test(bus: Cli) -> None:
    call, pubsub = bus.records("bench", "--count", "200", "--warm-up", "10")
    assert (call["work"], call["loop"], call["done"], call["errors"]) == ("call", "closed", 200, {})
    assert 0 < call["p50"] <= call["p90"] <= call["p99"] <= call["max"]
    assert "coordinated omission" in call["remark"]
    assert (pubsub["work"], pubsub["done"], pubsub["lost"]) == ("pubsub", 200, 0)
    assert pubsub["p50"] is None
    assert "--rate" in pubsub["remark"]
    assert pubsub["throughput"] > 0
    assert call["broker"].startswith("busd")
    assert "Python" in call["client"]


def test_an_open_loop_measures_from_when_each_was_due(bus: Cli) -> None:
    call, pubsub = bus.records("bench", "--count", "100", "--rate", "200", "--warm-up", "0", "--size", "1k")
    for found in (call, pubsub):
        assert (found["loop"], found["done"], found["size"], found["rate"]) == ("open", 100, 1024, 200)
        assert 0.4 < found["seconds"] < SECONDS
        assert 0 < found["p50"] <= found["max"]


def test_an_open_loop_that_cannot_keep_up_says_so(bus: Cli) -> None:
    """Each call takes 50 ms and one is answered at a time: 20 a second, not 200; the last one waits for all of them."""
    with bus.serving("b1.slow", "--exec", "sleep 0.05; echo 1", "--concurrency", "1", subject="b1.slow"):
        words = ("call", "--subject", "b1.slow", "--count", "20", "--rate", "200", "--warm-up", "0")
        (found,) = bus.records("bench", *words)
    assert "did not keep up" in found["remark"]
    assert found["max"] > 0.5


def test_calls_that_fail_are_counted_and_make_the_benchmark_fail(bus: Cli) -> None:
    ended = bus("bench", "call", "--subject", "b2.nobody", "--count", "10", "--warm-up", "0")
    assert ended.returncode == Exit.FAILED
    (found,) = lines_of(ended.stdout)
    assert (found["done"], found["errors"]) == (0, {"no-responders": 10})


def test_results_as_csv(bus: Cli) -> None:
    ended = bus("bench", "--count", "50", "--in-flight", "8", "--warm-up", "0", "--csv")
    call, pubsub = csv.DictReader(io.StringIO(ended.stdout.decode()))
    assert (call["work"], call["in_flight"], call["done"]) == ("call", "8", "50")
    assert pubsub["work"] == "pubsub"
    assert float(call["p99"]) > 0
