"""``bus cache`` against a node that runs the component: by its pipes, on a terminal, and from guests."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from buscli.exits import Exit
from tests.clients.cache_support import guest_of, node_with_cache
from tests.clients.cli_support import SECONDS, Cli
from tests.support import running_node, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no nodes there")

VALUE_LIMIT = (16 << 20) - 512
"""A message holds that besides the rest of an answer."""


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    with node_with_cache(tmp_path_factory.mktemp("node")) as cli:
        yield cli


def test_what_goes_in_by_a_pipe_comes_out_by_one(bus: Cli) -> None:
    for value in (b"", b"hello\n", bytes(range(256)) * 1000):
        (stored,) = bus.records("cache", "set", "k", stdin=value)
        ended = bus("cache", "get", "k")
        assert (ended.returncode, ended.stdout, ended.stderr) == (Exit.OK, value, b"")
        assert bus.records("cache", "get", "k", "--json")[0]["generation"] == stored["generation"]


def test_the_largest_value_goes_through_and_the_next_is_refused(bus: Cli) -> None:
    value = b"\xa5" * VALUE_LIMIT
    assert bus("cache", "set", "big", stdin=value).returncode == Exit.OK
    assert bus("cache", "get", "big").stdout == value
    for size in (VALUE_LIMIT + 1, 16 << 20, (16 << 20) + 1):
        ended = bus("cache", "set", "big", stdin=bytes(size))
        assert (ended.returncode, ended.stdout) == (Exit.TOO_LARGE, b""), ended.stderr.decode()
    assert bus("cache", "get", "big").stdout == value
    bus.records("cache", "del", "big")


def test_conditions_hold(bus: Cli) -> None:
    bus("cache", "del", "c")
    assert bus("cache", "set", "c", "v", "--replace").returncode == Exit.MISSING
    assert bus("cache", "set", "c", "v", "--expect", "1").returncode == Exit.CONFLICT
    assert bus("cache", "set", "c", "1", "--add").returncode == Exit.OK
    assert bus("cache", "set", "c", "2", "--add").returncode == Exit.CONFLICT
    (entry,) = bus.records("cache", "get", "c", "--json")
    (done,) = bus.records("cache", "set", "c", "3", "--expect", str(entry["generation"]))
    assert done["generation"] > entry["generation"]
    assert bus("cache", "set", "c", "4", "--expect", str(entry["generation"])).returncode == Exit.CONFLICT
    assert bus("cache", "get", "c").stdout == b"3"


def test_a_time_to_live_ends(bus: Cli) -> None:
    bus.records("cache", "set", "t", "v", "--ttl", "1h")
    assert 3500 < bus.records("cache", "get", "t", "--json")[0]["ttl"] <= 3600
    bus.records("cache", "touch", "t", "--ttl", "forever")
    assert bus.records("cache", "get", "t", "--json")[0]["ttl"] is None
    bus.records("cache", "touch", "t", "--ttl", "100ms")
    wait_until(lambda: bus("cache", "get", "t").returncode == Exit.MISSING, what="its time is over")
    assert bus("cache", "touch", "t").returncode == Exit.MISSING


def test_names_that_nobody_would_choose(bus: Cli) -> None:
    for name in ("-", "a b\n\x1b[31m", "\udcff\udc80", "ü" * 512, "get"):
        bus.records("cache", "set", name, "v")
        assert bus("cache", "get", name).stdout == b"v"
        assert bus.records("cache", "del", name)[0]["deleted"] is True
    assert bus("cache", "set", "x" * 1025, "v").returncode == Exit.TOO_LARGE
    assert bus("cache", "get", "").returncode == Exit.TOO_LARGE


def test_on_a_terminal(bus: Cli) -> None:
    assert bus.on_terminal("cache", "set", "term", "a\x1b[31mb\tc")[0] == Exit.OK
    code, shown = bus.on_terminal("cache", "get", "term")
    assert code == Exit.OK
    assert "\na\\u001b[31mb\tc\n-- 9 B, generation " in shown
    code, shown = bus.on_terminal("cache", "stats")
    assert code == Exit.OK
    assert "authentication failures" in shown
    code, shown = bus.on_terminal("cache", "tenants")
    assert [line.split()[0] for line in shown.splitlines()[-2:]] == ["node", "small"]


def test_a_key_is_replaced_and_nothing_is_lost(bus: Cli) -> None:
    bus.records("cache", "set", "kept", "v")
    before = bus.records("cache", "stats")[0]["sealed"]
    assert bus.records("cache", "rotate") == [{"epoch": before["epoch"] + 1}]
    assert bus("cache", "get", "kept").stdout == b"v"
    assert bus.records("cache", "stats")[0]["sealed"]["resealed"] == before["resealed"] + 1


def test_a_key_is_destroyed_and_what_it_sealed_is_lost(bus: Cli) -> None:
    bus.records("cache", "set", "lost", "v")
    epoch = bus.records("cache", "stats")[0]["sealed"]["epoch"]
    bus.records("cache", "rotate")
    bus.records("cache", "set", "stays", "v")
    assert bus.records("cache", "shred", "--epoch", str(epoch), "--yes")[0]["shredded"] is True
    assert bus("cache", "get", "lost").returncode == Exit.MISSING
    assert bus("cache", "get", "stays").stdout == b"v"
    assert bus("cache", "shred", "--epoch", str(epoch), "--yes").returncode == Exit.NO_SUCH
    sealed = bus.records("cache", "stats")[0]["sealed"]
    assert (sealed["keyless"], sealed["unauthentic"]) == (1, 0)


def test_it_asks_on_a_terminal_and_no_is_no(bus: Cli) -> None:
    bus.records("cache", "set", "asked", "v")
    code, shown = bus.on_terminal("cache", "shred", typed=b"n\n")
    assert code == Exit.CANCELLED
    assert "Destroy all keys of tenant node, and with them " in shown
    assert bus("cache", "get", "asked").stdout == b"v"
    code, shown = bus.on_terminal("cache", "clear", typed=b"y\n")
    assert code == Exit.OK
    assert " dropped\n" in shown
    assert bus("cache", "get", "asked").returncode == Exit.MISSING


def test_tenants_are_apart_and_the_node_looks_after_them(bus: Cli, tmp_path: Path) -> None:
    with guest_of(bus, tmp_path, "small") as small, guest_of(bus, tmp_path, "acme") as acme:
        for whose, cli in (("node", bus), ("small", small), ("acme", acme)):
            cli.records("cache", "set", "k", whose)
        assert [cli("cache", "get", "k").stdout for cli in (bus, small, acme)] == [b"node", b"small", b"acme"]
        assert [row["tenant"] for row in bus.records("cache", "tenants")] == ["acme", "node", "small"]
        assert [row["tenant"] for row in small.records("cache", "tenants")] == ["small"]
        assert small("cache", "set", "k", stdin=bytes(70_000)).returncode == Exit.TOO_LARGE

        for words in (("stats",), ("rotate",), ("shred", "--yes")):
            assert small("cache", *words, "--tenant", "acme").returncode == Exit.NO_SUCH
            assert small("cache", *words, "--tenant", "nobody").returncode == Exit.NO_SUCH
        assert bus.records("cache", "stats", "--tenant", "acme")[0]["sealed"]["entries"] == 1
        assert bus.records("cache", "rotate", "--tenant", "acme") == [{"epoch": 2}]
        assert bus.records("cache", "shred", "--tenant", "acme", "--yes") == [{"shredded": True}]
        assert acme("cache", "get", "k").returncode == Exit.MISSING
        assert small("cache", "get", "k").stdout == b"small"
        assert bus("cache", "stats", "--tenant", "nobody").returncode == Exit.NO_SUCH


def test_tenants_are_completed(bus: Cli) -> None:
    offered = bus("__complete", "cache", "stats", "--tenant", "s").stdout.decode()
    assert [line.partition("\t")[0] for line in offered.splitlines()] == ["small"]


def test_a_benchmark_leaves_nothing(bus: Cli, tmp_path: Path) -> None:
    before = bus.records("cache", "stats")[0]["sealed"]["entries"]
    for row in bus.records("cache", "bench", "--seconds", "100ms", "--in-flight", "8"):
        assert row["done"] > 0
        assert row["errors"] == {}
    assert bus.records("cache", "stats")[0]["sealed"]["entries"] == before
    with guest_of(bus, tmp_path, "small") as small:
        assert [row["errors"] for row in small.records("cache", "bench", "--seconds", "50ms")] == [{}, {}, {}]
        assert small("cache", "bench", "--size", "32k").returncode == Exit.TOO_LARGE


def test_a_benchmark_is_stopped_and_leaves_nothing(bus: Cli) -> None:
    before = bus.records("cache", "stats")[0]["sealed"]
    with bus.running("cache", "bench", "--seconds", "20") as process:
        wait_until(lambda: bus.records("cache", "stats")[0]["sealed"]["hits"] > before["hits"], what="it measures")
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == Exit.INTERRUPTED
    assert bus.records("cache", "stats")[0]["sealed"]["entries"] == before["entries"]


def test_a_node_without_the_component_is_told_apart(tmp_path: Path) -> None:
    with running_node(tmp_path / "run") as node:
        ended = Cli(node.url)("cache", "get", "k")
    assert ended.returncode == Exit.NO_RESPONDERS
    assert b"the node does not run component cache" in ended.stderr
