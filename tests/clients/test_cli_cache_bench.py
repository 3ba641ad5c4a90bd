"""``bus cache bench``: what it does to the cache, and what it says of it. What it measures is nobody's promise."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from buscli.__main__ import main
from buscli.exits import Exit
from busd.components.cache.answers import Found
from busproto.errors import BusError, Code
from tests.clients.cache_support import Script, blind_statistics, scripted, statistics

WORKS = ["get-hit", "get-miss", "set"]


class Held:
    """What is there: as a cache behaves, and what it was asked."""

    def __init__(self, script: Script) -> None:
        self.values: dict[bytes, bytes] = {}
        self.names: set[bytes] = set()
        self.ttls: set[float | None] = set()
        script.answers |= {"get": self.get, "set": self.set, "delete": self.delete}

    def get(self, name: bytes) -> Found:
        return Found(name in self.values, self.values.get(name, b""), 1, None)

    def set(self, name: bytes, value: bytes, ttl: float | None) -> int:
        self.values[name] = value
        self.names.add(name)
        self.ttls.add(ttl)
        return 1

    def delete(self, name: bytes) -> bool:
        return self.values.pop(name, None) is not None


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    return scripted(monkeypatch)


@pytest.fixture
def bench(capsysbinary: pytest.CaptureFixture[bytes]) -> Callable[..., tuple[int, list[Any], str]]:
    def run(*words: str) -> tuple[int, list[Any], str]:
        code = main(["cache", "bench", "--seconds", "50ms", *words])
        out, err = capsysbinary.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err.decode()

    return run


def test_over_the_bus_all_three_are_measured_and_nothing_is_left(bench: Any, script: Script) -> None:
    held = Held(script)
    script.answers["stats"] = statistics(bytes_limit=1 << 20)
    code, records, err = bench("--size", "100", "--in-flight", "3")
    assert (code, err) == (Exit.OK, "")
    assert [row["work"] for row in records] == WORKS
    for row in records:
        assert (row["where"], row["size"], row["in_flight"], row["errors"]) == ("node", 100, 3, {})
        assert row["done"] > 0
        assert 0 < row["p50"] <= row["p90"] <= row["p99"] <= row["max"]
        assert row["throughput"] == pytest.approx(row["done"] / row["seconds"])
    assert held.values == {}
    assert len(held.names) == (1 << 20) // 8 // (100 + 512)
    assert held.ttls == {600.0}, "what a run that is killed leaves does not stay"
    assert script.purposes == [""]


def test_two_runs_have_names_of_their_own(bench: Any, script: Script) -> None:
    held = Held(script)
    script.answers["stats"] = statistics(bytes_limit=4096 * 2)
    bench("--size", "1")
    bench("--size", "1")
    assert len(held.names) == 2
    assert all(name.startswith(b"bus-bench.") for name in held.names)


def test_what_had_to_go_meanwhile_is_a_failure(bench: Any, script: Script) -> None:
    Held(script)
    script.answers["get"] = Found(False)
    code, records, _ = bench("--in-flight", "1")
    assert code == Exit.FAILED
    assert records[0]["errors"] == {"miss": records[0]["done"]}
    assert records[1]["errors"] == {}


def test_errors_are_counted_by_name(bench: Any, script: Script) -> None:
    Held(script)
    script.answers["get"] = BusError(Code.CACHE_KEYS_GONE, tenant="x")
    code, records, _ = bench("--in-flight", "1")
    assert code == Exit.FAILED
    assert list(records[0]["errors"]) == ["cache-keys-gone"]
    assert (records[0]["done"], records[0]["p50"]) == (0, None)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--size", "1m"], "takes more than an eighth of the share of 65,536"),
        (["--size", "17m"], "more than the 16,777,216 bytes that can be cached"),
    ],
)
def test_what_there_is_no_room_for_is_not_begun(bench: Any, script: Script, words: list[str], says: str) -> None:
    script.answers["stats"] = statistics(bytes_limit=1 << 16)
    code, records, err = bench(*words)
    assert (code, records) == (Exit.TOO_LARGE, [])
    assert says in err
    assert "set" not in dict(script.asked)


def test_where_clients_seal_there_is_nothing_to_measure(bench: Any, script: Script) -> None:
    script.answers["stats"] = blind_statistics()
    code, _, err = bench()
    assert code == Exit.USAGE
    assert "holds only what clients seal" in err


def test_in_this_process_no_node_is_needed(bench: Any, script: Script) -> None:
    code, records, err = bench("--local", "--size", "64")
    assert (code, err) == (Exit.OK, "")
    assert [(row["work"], row["where"], row["in_flight"], row["errors"]) for row in records] == [
        (work, "here", 1, {}) for work in WORKS
    ]
    assert all(row["done"] >= 64 and row["p50"] > 0 for row in records)
    assert (script.asked, script.purposes) == ([], [])


def test_in_this_process_it_can_be_stopped(bench: Any, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = asyncio.sleep

    async def stopped(seconds: float) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", stopped)
    code, records, _ = bench("--local", "--seconds", "60")
    assert (code, records) == (Exit.INTERRUPTED, [])
