"""``bus cache``: what is asked of the component, what is shown, and how it ends."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from buscli import asking, cachevalue, cachevalues
from buscli.exits import Exit
from busd.components.cache.answers import Found, Share, Statistics
from busproto.errors import BusError, Code
from busproto.limits import PAYLOAD_BYTES
from tests.clients.cache_support import Script, blind_statistics, scripted, statistics
from tests.clients.ran import Ran

HOSTILE = b"\x1b[31m\xff\n\xe2\x80\xaename"
UNSAFE = "\x1b\x07\x9b\u202e"


@pytest.fixture
def ran(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("BUS_URL", raising=False)
    return lambda *words: Ran(capsysbinary, "cache", *words)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    return scripted(monkeypatch)


@pytest.fixture
def terminal(ran: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same on a terminal, at which somebody answers ``line`` to what is asked."""
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words: str, line: str = "") -> Any:
        async def typed() -> str:
            return line

        monkeypatch.setattr(asking, "_line", typed)
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            monkeypatch.setattr(stream, "isatty", lambda: True)
        return ran(*words)

    return run


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Gives standard input a content: a real file, as the code reads its descriptor."""
    with ExitStack() as stack:

        def give(content: bytes) -> None:
            (tmp_path / "stdin").write_bytes(content)
            monkeypatch.setattr(sys, "stdin", stack.enter_context((tmp_path / "stdin").open(encoding="latin-1")))

        yield give


# -- get --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"", b"hello", b"line\n", b"\xff\0\x1b[31m"])
@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_piped_a_value_is_its_bytes_and_nothing_else(ran: Any, script: Script, value: bytes, raw: list[str]) -> None:
    script.answers["get"] = Found(True, value, 7, None)
    result = ran("get", "greeting", *raw)
    assert (result.code, result.raw, result.err) == (Exit.OK, value, "")
    assert script.asked == [("get", {"name": b"greeting"})]


def test_raw_is_raw_on_a_terminal_too(terminal: Any, script: Script) -> None:
    script.answers["get"] = Found(True, b"\xff\0", 7, None)
    assert terminal("get", "k", "--raw").raw == b"\xff\0"


@pytest.mark.parametrize(
    ("found", "record"),
    [
        (Found(True, b"hi", 7, 59.5), {"found": True, "value": "hi", "generation": 7, "ttl": 59.5}),
        (Found(True, b"\xff", 7, None), {"found": True, "value": {"$bytes": "/w=="}, "generation": 7, "ttl": None}),
    ],
)
def test_as_json_it_has_what_is_to_be_known_to_change_it(ran: Any, script: Script, found: Found, record: Any) -> None:
    script.answers["get"] = found
    assert ran("get", "k", "--json").records == [{"name": "k", **record}]


def test_what_is_not_there_has_a_code_of_its_own(ran: Any, script: Script) -> None:
    script.answers["get"] = Found(False)
    result = ran("get", "k")
    assert (result.code, result.raw) == (Exit.MISSING, b"")
    assert result.err.startswith("bus cache get: nothing is there under 'k'\n  try: ")
    result = ran("get", "k", "--json")
    assert (result.code, result.records) == (Exit.MISSING, [{"name": "k", "found": False}])


def test_names_are_bytes_and_are_not_told_to_the_census(ran: Any, script: Script) -> None:
    script.answers["get"] = Found(False)
    result = ran("get", os.fsdecode(HOSTILE), "--json")
    assert script.given("get") == {"name": HOSTILE}
    assert script.purposes == [""]
    assert result.records[0]["name"] == {"$bytes": "G1szMW3/CuKArm5hbWU="}
    assert "'\\u001b[31m\\xff\\u000a\\u202ename'" in result.err
    assert not set(UNSAFE) & set(result.out + result.err)


def test_text_on_a_terminal_is_text_that_drives_nothing(terminal: Any, script: Script) -> None:
    script.answers["get"] = Found(True, f"red {UNSAFE}\n\tnext\r\n".encode(), 12, 3700)
    result = terminal("get", "k")
    assert result.out == "red \\u001b\\u0007\\u009b\\u202e\n\tnext\\u000d\n"
    assert result.err == "-- 19 B, generation 12, 1h 1m left\n"


@pytest.mark.parametrize("value", [b"\xff\x1bABC", b"A\0B", b"\xff" * 513])
def test_what_is_no_text_is_a_hex_dump_on_a_terminal(terminal: Any, script: Script, value: bytes) -> None:
    script.answers["get"] = Found(True, value, 1, None)
    result = terminal("get", "k")
    lines = result.out.splitlines()
    assert lines[0].startswith(f"00000000  {value[:8].hex(' ')}")
    assert all(line.isprintable() for line in lines)
    assert lines[-1].startswith("and 1 byte more: ") == (len(value) > 512)
    assert len(lines) == (33 if len(value) > 512 else 1)
    assert result.err.endswith("does not expire\n")


def test_a_hex_dump_is_in_columns() -> None:
    assert cachevalue.shown(bytes(range(0xF0, 0x100)) + b"AB") == [
        "00000000  f0 f1 f2 f3 f4 f5 f6 f7  f8 f9 fa fb fc fd fe ff  |................|",
        "00000010  41 42" + " " * 45 + "|AB|",
    ]


# -- set --------------------------------------------------------------------------------------------------------------


def test_a_value_is_text_as_it_is_typed(ran: Any, script: Script) -> None:
    result = ran("set", "k", '{"n": 1}', "--ttl", "15m")
    assert script.given("set") == {"name": b"k", "value": b'{"n": 1}', "ttl": 900.0}
    assert (result.code, result.records) == (Exit.OK, [{"name": "k", "stored": True, "generation": 8}])


@pytest.mark.parametrize("words", [[], ["-"], ["--file", "-"]])
def test_standard_input_is_a_value_byte_for_byte(ran: Any, script: Script, stdin: Any, words: list[str]) -> None:
    stdin(b"\xff\0line\n")
    assert ran("set", "k", *words).code == Exit.OK
    assert script.given("set") == {"name": b"k", "value": b"\xff\0line\n"}


def test_a_file_is_a_value(ran: Any, script: Script, tmp_path: Path) -> None:
    (tmp_path / "logo").write_bytes(HOSTILE)
    assert ran("set", "k", "--file", str(tmp_path / "logo"), "--ttl", "forever").code == Exit.OK
    assert script.given("set") == {"name": b"k", "value": HOSTILE, "ttl": math.inf}


def test_a_value_may_be_empty(ran: Any, script: Script) -> None:
    assert ran("set", "k", "").code == Exit.OK
    assert script.given("set")["value"] == b""


@pytest.mark.parametrize(
    ("words", "operation", "given"),
    [
        (["--add"], "add", {}),
        (["--replace", "--ttl", "1s"], "replace", {"ttl": 1.0}),
        (["--expect", "41"], "cas", {"generation": 41}),
    ],
)
def test_a_condition_is_an_operation_of_its_own(
    ran: Any, script: Script, words: list[str], operation: str, given: dict[str, Any]
) -> None:
    assert ran("set", "k", "v", *words).code == Exit.OK
    assert script.asked == [(operation, {"name": b"k", "value": b"v", **given})]


@pytest.mark.parametrize(
    ("words", "operation", "answer", "code", "says"),
    [
        (["--add"], "add", False, Exit.CONFLICT, "something is there already under 'k'"),
        (["--replace"], "replace", False, Exit.MISSING, "nothing is there under 'k'"),
        (["--expect", "7"], "cas", BusError(Code.CACHE_CONFLICT), Exit.CONFLICT, "BUS-9106"),
    ],
)
def test_a_condition_that_does_not_hold_has_its_code(
    ran: Any, script: Script, words: list[str], operation: str, answer: Any, code: Exit, says: str
) -> None:
    script.answers[operation] = answer
    result = ran("set", "k", "v", *words)
    assert (result.code, result.raw) == (code, b"")
    assert says in result.err
    assert "\n  try: " in result.err


def test_what_is_stored_is_said_on_a_terminal(terminal: Any, script: Script) -> None:
    assert terminal("set", "k\x1b", "v" * 2048).out == "'k\\u001b' is stored: 2 KiB, generation 8\n"
    assert terminal("set", "k", "v", "--add").out == "'k' is stored: 1 B\n"


def test_a_value_that_no_cache_takes_is_refused_with_its_size(ran: Any, script: Script, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(PAYLOAD_BYTES + 1)
    result = ran("set", "k", "--file", str(big))
    assert result.code == Exit.TOO_LARGE
    assert "the value has 16,777,217 bytes; at most 16,777,216 bytes can be cached" in result.err
    assert script.asked == []


def test_a_value_that_no_message_holds_is_too_large_as_well(ran: Any, script: Script, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(PAYLOAD_BYTES)
    result = ran("set", "k", "--file", str(big))
    assert result.code == Exit.TOO_LARGE
    assert "name and value do not fit in one message: BUS-2007" in result.err
    assert script.asked == []


# -- del, touch -------------------------------------------------------------------------------------------------------


def test_each_name_is_taken_out_and_one_that_is_not_there_is_said(ran: Any, script: Script) -> None:
    script.answers["delete"] = lambda name: name != b"b"
    result = ran("del", "a", "b", "c")
    assert result.code == Exit.MISSING
    assert [given["name"] for _, given in script.asked] == [b"a", b"b", b"c"]
    assert [(row["name"], row["deleted"]) for row in result.records] == [("a", True), ("b", False), ("c", True)]
    assert result.err == "bus cache del: nothing is there under 'b'\n"
    assert ran("del", "a").code == Exit.OK


def test_what_is_taken_out_is_said_on_a_terminal(terminal: Any, script: Script) -> None:
    assert terminal("del", "a", "b").out == "'a' is taken out\n'b' is taken out\n"


@pytest.mark.parametrize(
    ("words", "given", "says"),
    [
        ([], {}, "lives anew, for as long as the tenant's settings say"),
        (["--ttl", "1h"], {"ttl": 3600.0}, "lives for 1h 0m from now on"),
        (["--ttl", "forever"], {"ttl": math.inf}, "lives for ever"),
    ],
)
def test_a_time_begins_anew(terminal: Any, script: Script, words: list[str], given: dict[str, Any], says: str) -> None:
    assert terminal("touch", "k", *words).out == f"'k' {says}\n"
    assert script.given("touch") == {"name": b"k", **given}


def test_nothing_is_touched_that_is_not_there(ran: Any, script: Script) -> None:
    assert ran("touch", "k").records == [{"name": "k", "touched": True}]
    script.answers["touch"] = False
    assert ran("touch", "k").code == Exit.MISSING


# -- figures ----------------------------------------------------------------------------------------------------------


def test_figures_are_a_table_on_a_terminal(terminal: Any, script: Script) -> None:
    result = terminal("stats")
    rows = {line[:24].strip(): line[24:].strip() for line in result.out.splitlines()}
    assert rows["tenant acme"] == "values"
    for name, figure in {
        "hits": "900",
        "misses": "100",
        "hit ratio": "90.0%",
        "bytes": "3 MiB of 64 MiB (5%)",
        "evicted for bytes": "11",
        "evicted for entries": "12",
        "expired": "20",
        "authentication failures": "0",
        "keys quarantined": "0",
        "key": "3",
        "key age": "1h 1m",
        "messages under key": "6,001",
    }.items():
        assert rows[name] == figure
    assert result.err == ""


def test_figures_are_data_when_piped(ran: Any, script: Script) -> None:
    (record,) = ran("stats", "--tenant", "acme").records
    assert script.given("stats") == {"tenant": "acme"}
    assert (record["tenant"], record["hit_ratio"], record["blind"]) == ("acme", 0.9, None)
    assert record["sealed"]["evicted_for_bytes"] == 11


def test_records_that_failed_authentication_are_said_apart(ran: Any, script: Script) -> None:
    script.answers["stats"] = statistics("ac\x1bme", unauthentic=2)
    result = ran("stats")
    assert result.code == Exit.OK
    assert result.err.startswith("2 records of tenant ac\\u001bme failed authentication: ")
    assert "destroyed" not in result.err
    script.answers["stats"] = statistics(unauthentic=16, quarantined=1)
    assert "for that 1 data key was destroyed, with what it had sealed" in ran("stats").err


def test_before_the_first_read_there_is_no_ratio_and_before_the_first_write_no_age(
    terminal: Any, script: Script
) -> None:
    script.answers["stats"] = statistics(hits=0, misses=0, key_age=0.0, key_messages=0)
    rows = {line[:24].strip(): line[24:].strip() for line in terminal("stats").out.splitlines()}
    assert (rows["hit ratio"], rows["key age"]) == ("-", "-")


def test_what_clients_seal_has_no_key_here(terminal: Any, script: Script) -> None:
    script.answers["stats"] = blind_statistics()
    rows = {line[:24].strip(): line[24:].strip() for line in terminal("stats").out.splitlines()}
    assert (rows["tenant acme"], rows["hits"], rows["key"]) == ("records", "900", "-")


def test_of_both_each_has_a_column(terminal: Any, script: Script) -> None:
    sealed, blind = statistics().sealed, blind_statistics(hits=5).blind
    script.answers["stats"] = Statistics(tenant="acme", sealed=sealed, blind=blind)
    rows = {line[:24].strip(): line[24:].split() for line in terminal("stats").out.splitlines()}
    assert (rows["tenant acme"], rows["hits"]) == (["values", "records"], ["900", "5"])
    assert "10,240 entries (6 MiB)" in terminal("clear", line="n\n").err


def share(tenant: str) -> Share:
    fields: dict[str, Any] = {"policy": "lru", "quota": 64 << 20, "entries_limit": 9, "value_limit": 1 << 20}
    return Share(tenant=tenant, **fields, name_limit=1024, bytes=3 << 20, entries=5120)


def test_shares_are_listed(ran: Any, terminal: Any, script: Script) -> None:
    script.answers["tenants"] = [share("acme"), share("\x1bevil")]
    assert [row["tenant"] for row in ran("tenants").records] == ["acme", "\x1bevil"]
    shown = terminal("tenants").out
    assert [line.split()[:5] for line in shown.splitlines()[-2:]] == [
        ["acme", "5,120", "3", "MiB", "64"],
        ["\\u001bevil", "5,120", "3", "MiB", "64"],
    ]
    script.answers["tenants"] = []
    assert "no tenant has a share yet" in terminal("tenants").out


# -- keys, and all of it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenant", [{}, {"tenant": "acme"}])
def test_a_key_is_replaced(ran: Any, terminal: Any, script: Script, tenant: dict[str, str]) -> None:
    words = [word for name, value in tenant.items() for word in (f"--{name}", value)]
    assert ran("rotate", *words).records == [{"epoch": 4}]
    assert script.given("rotate") == tenant
    whose = "tenant acme" if tenant else "your tenant"
    assert terminal("rotate", *words).out == f"{whose}: key 4 seals from now on; nothing is lost\n"


@pytest.mark.parametrize(
    ("words", "asks", "operation", "given", "says"),
    [
        (["clear"], "Drop 5,120 entries (3 MiB) of tenant acme?", "clear", {}, "5,120 entries were dropped"),
        (
            ["shred", "--tenant", "acme"],
            "Destroy all keys of tenant acme, and with them 5,120 entries (3 MiB), for ever?",
            "shred",
            {"tenant": "acme"},
            "tenant acme: all keys are destroyed, and nothing can be read any more",
        ),
        (
            ["shred", "--epoch", "0"],
            "Destroy key 0 of tenant acme, and with it what it sealed of 5,120 entries (3 MiB), for ever?",
            "shred",
            {"epoch": 0},
            "your tenant: key 0 is destroyed, and what it sealed cannot be read any more",
        ),
    ],
)
def test_what_is_lost_is_said_and_asked(
    terminal: Any, script: Script, words: list[str], asks: str, operation: str, given: dict[str, Any], says: str
) -> None:
    for no in ("n\n", "\n", ""):
        result = terminal(*words, line=no)
        assert result.code == Exit.CANCELLED
        assert f"{asks} [y/N] " in result.err
        assert result.err.endswith("nothing was done\n")
    assert operation not in dict(script.asked)
    result = terminal(*words, line="y\n")
    assert (result.code, result.out) == (Exit.OK, f"{says}\n")
    assert script.given(operation) == given


@pytest.mark.parametrize(
    ("words", "record"),
    [
        (["clear"], {"dropped": 5120}),
        (["shred"], {"shredded": True}),
        (["shred", "--epoch", "3"], {"shredded": True, "epoch": 3}),
    ],
)
def test_told_yes_it_does_not_ask_nor_look(ran: Any, script: Script, words: list[str], record: Any) -> None:
    result = ran(*words, "--yes")
    assert (result.code, result.records, result.err) == (Exit.OK, [record], "")
    assert [name for name, _ in script.asked] == [words[0]]


def test_there_may_be_nothing_to_shred(ran: Any, terminal: Any, script: Script) -> None:
    script.answers["shred"] = False
    assert ran("shred", "--yes").records == [{"shredded": False}]
    assert terminal("shred", "--yes").out == "your tenant: there was nothing\n"
    result = ran("shred", "--epoch", "77", "--yes")
    assert (result.code, result.raw) == (Exit.NO_SUCH, b"")
    assert result.err == "bus cache shred: there is no key 77\n  try: bus cache stats\n"


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says", "cure"),
    [
        (["set", "k", "v", "--add", "--replace"], "--add and --replace are two conditions", "bus cache set --help"),
        (["set", "k", "v", "--add", "--expect", "1"], "--add and --expect are two conditions", "--help"),
        (["set", "k", "v", "--file", "x"], "VALUE and --file are two values", "--help"),
        (["set", "k", "-", "--file", "x"], "VALUE and --file are two values", "--help"),
        (["set", "k", "v", "--ttl", "0"], "must be more than zero", "--help"),
        (["set", "k", "v", "--ttl", "soon"], "not a duration", "--help"),
        (["set", "k", "v", "--expect", "0"], "not a generation", "--help"),
        (["set", "k", "v", "--expect", "٣"], "not a generation", "--help"),
        (["set", "k", "v", "--expect", str(1 << 64)], "not a generation", "--help"),
        (["set", "k", "--file", "/nowhere/x"], "/nowhere/x: No such file", ""),
        (["get", "k", "--raw", "--json"], "--raw and --json are two forms", "bus cache get --help"),
        (["get"], "required: NAME", "bus cache get --help"),
        (["del"], "required: NAME", "bus cache del --help"),
        (["shred"], "nobody can be asked here", "--yes"),
        (["clear"], "nobody can be asked here", "--yes"),
        (["shred", "--epoch", "-1", "--yes"], "not the number of a key", "--help"),
        (["shred", "--epoch", str(1 << 32), "--yes"], "not the number of a key", "--help"),
        (["shred", "--tenant", "", "--yes"], "'' is no tenant", "bus cache shred --help"),
        (["gett", "k"], "unknown command 'gett'", "bus cache get"),
        ([], "which of get, set, del", "bus cache --help"),
        (["bench", "--seconds", "61"], "not within 10ms to 60s", "--help"),
        (["bench", "--in-flight", "1025"], "not within 1 to 1024", "--help"),
        (["bench", "--local", "--in-flight", "2"], "--in-flight does not go with --local", "--help"),
    ],
)
def test_a_wrong_command_line_is_refused_with_its_cure(
    ran: Any, script: Script, words: list[str], says: str, cure: str
) -> None:
    result = ran(*words)
    assert (result.code, result.raw) == (Exit.USAGE, b"")
    assert says in result.err
    assert not cure or any(cure in line for line in result.err.splitlines() if line.startswith("  try: "))
    assert script.asked == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BusError(Code.CACHE_VALUE_SIZE, size=2, limit=1), Exit.TOO_LARGE),
        (BusError(Code.CACHE_KEY_SIZE, size=2, limit=1), Exit.TOO_LARGE),
        (BusError(Code.CACHE_ENTRIES, what="x", used=2, limit=1), Exit.TOO_LARGE),
        (BusError(Code.CACHE_CONFLICT), Exit.CONFLICT),
        (BusError(Code.CACHE_TENANT_UNKNOWN, tenant="x"), Exit.NO_SUCH),
        (BusError(Code.CACHE_KEYS_GONE, tenant="x"), Exit.FAILED),
        (BusError(Code.CACHE_KEY_MISSING, where="x", reason="y"), Exit.FAILED),
        (BusError(Code.REQUEST_INVALID, subject="cache.set", reason="no"), Exit.USAGE),
        (BusError(Code.OVERLOADED), Exit.OVERLOADED),
    ],
)
def test_what_the_component_refuses_has_its_exit_code(ran: Any, script: Script, error: BusError, code: Exit) -> None:
    script.answers["set"] = error
    result = ran("set", "k", "v")
    assert (result.code, result.raw) == (code, b"")
    assert result.err.startswith(f"BUS-{error.code} ")
    assert "\n  try: " in result.err


def test_another_tenants_figures_are_refused(ran: Any, script: Script) -> None:
    script.answers["stats"] = BusError(Code.CACHE_TENANT_UNKNOWN, tenant="evil")
    result = ran("stats", "--tenant", "evil")
    assert result.code == Exit.NO_SUCH
    assert "try: bus cache tenants" in result.err


def test_without_the_component_it_says_so(ran: Any, script: Script) -> None:
    script.served = False
    result = ran("get", "k")
    assert result.code == Exit.NO_RESPONDERS
    assert "the node does not run component cache" in result.err


@pytest.mark.parametrize("words", [["get", "k"], ["bench", "--local"]])
def test_without_busd_beside_it_it_says_so(
    ran: Any, script: Script, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    for module in ("busd.components.model", "busd.components.cache"):
        monkeypatch.setitem(sys.modules, module, None)
    result = ran(*words)
    assert result.code == Exit.FAILED
    assert "pip install 'busd[cli]'" in result.err


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("500ms", 0.5), ("15m", 900), ("7d", 604_800), ("forever", math.inf)]
)
def test_times_to_live(text: str, expected: float) -> None:
    assert cachevalues.ttl(text) == expected
