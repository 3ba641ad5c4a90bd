"""``bus top``: rates from two samples, the table that fits, and the live screen on a real terminal."""

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from select import select
from typing import Any

import pytest

import busclient
import busclient.testing
from buscli.exits import Exit
from buscli.topcolumns import COLUMNS, SORTED_BY, in_order, quantity
from buscli.toprows import Row, Sample, Totals, rows_of, sample, totals_of
from buscli.topscreen import Screen
from buscli.topview import head, table
from tests.clients.cli_support import BUS, SECONDS, Cli, lines_of
from tests.core.peer import World
from tests.support import RunningNode, running_node, wait_until


def said(name: str, **changed: Any) -> dict[str, Any]:
    """An endpoint as ``$bus.top`` tells of it."""
    counters = dict.fromkeys(
        ("sent_messages", "sent_bytes", "got_messages", "got_bytes", "called", "lost", "denied"), 0
    )
    place = {"boundary": "host", "tenant": "node", "unit": "host", "account": "node", "throttled": []}
    holds = {"calls": 0, "held_calls": 0, "queued_messages": 0, "queued_bytes": 0, "fullest": None}
    claims = {"component": "demo", "owner": "you", "purpose": "shows it"}
    return {"endpoint": name, **claims, **place, **counters, **holds, **changed}


def sampled(at: float, *rows: dict[str, Any], stats: dict[str, Any] | None = None) -> Sample:
    names = [row["endpoint"] for row in rows]
    return Sample(dict.fromkeys(names, at), dict(zip(names, rows, strict=True)), stats or {})


BEFORE = sampled(10.0, said("host-1", sent_messages=100), said("guest-1", tenant="acme", unit="vm-1", boundary="guest"))
AFTER = sampled(
    12.0,
    said("host-1", sent_messages=110, sent_bytes=2048, lost=4, fullest=["calls", 1, 100]),
    said("guest-1", tenant="acme", unit="vm-1", boundary="guest", got_messages=6, component=None, denied=20),
    said("host-9", sent_messages=10**9),
)


# -- rows -------------------------------------------------------------------------------------------------------------


def test_rates_are_what_grew_between_two_looks_and_what_is_new_has_none() -> None:
    rows = {row.name: row for row in rows_of(BEFORE, AFTER)}
    assert (rows["host-1"].sends, rows["host-1"].sends_bytes, rows["host-1"].lost) == (5.0, 1024.0, 2.0)
    assert (rows["guest-1"].gets, rows["guest-1"].denied, rows["guest-1"].component) == (3.0, 10.0, "?")
    assert rows["guest-1"].place == "acme/vm-1"
    assert rows["host-9"].sends == 0.0  # it came in between: since when is not known


def test_a_broker_that_was_started_again_makes_no_rate() -> None:
    rows = rows_of(sampled(10.0, said("host-1", sent_messages=500)), sampled(11.0, said("host-1", sent_messages=3)))
    assert rows[0].sends == 0.0


def test_rows_may_stand_for_all_that_have_something_in_common() -> None:
    by = {row.name: row for row in rows_of(BEFORE, AFTER, by="tenant")}
    assert (by["node"].endpoints, by["node"].sends, by["node"].fullest) == (2, 5.0, ("calls", 1, 100))
    assert (by["acme"].component, by["acme"].denied) == ("?", 10.0)
    components = {row.name: row for row in rows_of(BEFORE, AFTER, by="component")}
    assert set(components) == {"demo", "?"}
    mixed = rows_of(BEFORE, sampled(12.0, said("host-1"), said("host-2", owner="me", component="b")), by="tenant")
    assert (mixed[0].owner, mixed[0].component) == ("*", "*")


@pytest.mark.parametrize(
    ("text", "names"),
    [("ACME", {"guest-1"}), ("demo", {"host-1", "host-9"}), ("shows", {"host-1", "guest-1", "host-9"}), ("zz", set())],
)
def test_a_filter_looks_into_names_owners_purposes_and_places(text: str, names: set[str]) -> None:
    assert {row.name for row in rows_of(BEFORE, AFTER, wanted=text)} == names


def test_totals_are_what_the_whole_broker_counted() -> None:
    fields = ("received_messages", "delivered_messages", "dropped_messages", "denials", "endpoints")
    was: dict[str, Any] = {"node": "n1", "seconds": 5.0, "queued_messages": 0, **{key: {"host": 1} for key in fields}}
    lag = {"daemon": {"lag": {"last_seconds": 0.002}, "throttled": {"messages": 2, "bytes": 0}}}
    now = was | {"seconds": 7.0, "received_messages": {"host": 5, "guest": 16}, "queued_messages": 3} | lag
    totals = totals_of(sampled(0.0, stats=was), sampled(0.0, stats=now))
    assert totals == Totals("n1", 1, 10.0, 0.0, 0.0, 0.0, 3, 0.002, {"messages": 2})
    line = head(totals, 1, 1)
    rates = "in 10/s  out 0/s  dropped 0/s  denied 0/s"
    assert line == f"n1: 1 endpoints  {rates}  queued 3  lag 2.00ms  throttled 2 (messages)"
    assert head(totals, 2, 7) == f"{line}  2 of 7 rows"  # said only where it is not the number of endpoints again
    assert totals_of(BEFORE, AFTER) is None
    assert head(None, 2, 5) == "2 of 5 rows; the node's totals are not shown to a tenant"


# -- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "-"), (-1, "-"), (0.04, "<0.1"), (0.4, "0.4"), (9.94, "9.9"), (12.3, "12"), (999.4, "999")),
        *((999.6, "1k"), (3400, "3.4k"), (120_000, "120k"), (2_100_000, "2.1M"), (5e9, "5G"), (7e11, "700G")),
    ],
)
def test_figures_take_little_room(value: float, text: str) -> None:
    assert quantity(value) == text
    assert len(text) <= 5


def test_the_most_comes_first_and_names_begin_with_a() -> None:
    rows = rows_of(BEFORE, AFTER)
    assert [row.name for row in in_order(rows, SORTED_BY["sends"])] == ["host-1", "guest-1", "host-9"]
    assert in_order(rows, SORTED_BY["denied"])[0].name == "guest-1"
    assert [row.name for row in in_order(rows, SORTED_BY["name"])] == ["guest-1", "host-1", "host-9"]
    assert [row.name for row in in_order(rows, SORTED_BY["name"], reverse=True)] == ["host-9", "host-1", "guest-1"]
    assert in_order(rows, SORTED_BY["fullest"])[0].name == "host-1"


def test_letters_are_each_one_column_s() -> None:
    letters = [column.letter for column in COLUMNS]
    assert len(set(letters)) == len(letters)
    assert not set(letters) & {"q", "Q", "r", "b", " ", ""}


@pytest.mark.parametrize("width", [60, 80, 100, 132, 200])
def test_the_table_fits_and_keeps_what_matters(width: int) -> None:
    rows = [Row(f"host-{number}", "c" * 64, "o" * 64, "acme/" + "u" * 60, "tenant acme") for number in range(3)]
    lines = table(rows, SORTED_BY["sends"], width)
    assert len(lines) == 4
    assert all(len(line) <= width for line in lines)
    for title in ("NAME", "[SENDS/s]", "GETS/s", "LOST/s"):
        assert title in lines[0]
    assert "c" * 19 + "~" in table(rows, SORTED_BY["sends"], None)[1]


def test_what_others_say_of_themselves_cannot_drive_the_terminal() -> None:
    rows = [Row("guest-1", "x\x1b[2J", "\u202eme", "acme/vm", "tenant acme")]
    assert all(line.isprintable() for line in table(rows, SORTED_BY["sends"], None))


# -- once -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bus(shared_node: RunningNode) -> Cli:
    return Cli(shared_node.url, NO_COLOR="1")


def test_once_prints_rows_and_totals(bus: Cli) -> None:
    *rows, last = bus.records("top", "--once", "--seconds", "100ms", "--sort", "name")
    assert [row["name"] for row in rows] == sorted(row["name"] for row in rows)
    own = next(row for row in rows if row["component"] == "bus-cli")
    assert own["sends_per_second"] > 0
    assert last["totals"]["endpoints"] == len(rows)
    assert last["totals"]["loop_lag_seconds"] >= 0
    assert lines_of(bus("top", "--once", "--seconds", "50ms", "--limit", "1").stdout)[1]["totals"]


def test_a_report_may_be_text_in_a_pipe(bus: Cli) -> None:
    shown = bus("top", "--once", "--text", "--seconds", "50ms").stdout.decode()
    assert "endpoints  in " in shown.splitlines()[0]
    assert shown.splitlines()[1].startswith("NAME")
    assert "supervisor" in shown


def test_once_on_a_terminal_is_a_table(bus: Cli) -> None:
    code, shown = bus.on_terminal("top", "--once", "--seconds", "50ms")
    assert code == Exit.OK
    assert "[SENDS/s]" in shown
    assert "\x1b[?1049h" not in shown


def test_all_pages_are_read() -> None:
    async def main() -> tuple[Sample, Sample]:
        async with busclient.testing.bus(component="test") as bus:
            for number in range(260):  # one page holds 250
                await bus.connect(component=f"c{number}")
            return await sample(bus), await sample(bus)

    first, second = asyncio.run(main())
    assert len(first.rows) == 261
    assert len(rows_of(first, second)) == 261
    assert first.stats["node"] == "test"


def test_whom_policy_does_not_show_the_totals_gets_none() -> None:
    async def main() -> Sample:
        async with busclient.testing.bus(policy="allow call $bus.top from host\n", component="test") as bus:
            return await sample(bus)

    seen = asyncio.run(main())
    assert (len(seen.rows), seen.stats) == (1, {})


# -- live -------------------------------------------------------------------------------------------------------------


OWN_TERMINAL = """\
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Makes the terminal the session's own, so that Ctrl-C and a change of size come as from a person's."""


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, bus: Cli, *words: str, columns: int = 120, program: tuple[str, ...] = ()) -> None:
        self.leader, follower = pty.openpty()
        self.before = termios.tcgetattr(follower)
        self.resize(columns, 30)
        self.follower = follower
        environment = {**bus.environment, "TERM": "xterm"}
        command = [sys.executable, "-c", OWN_TERMINAL, *(program or (*BUS[1:], "top", *words))]
        self.process = subprocess.Popen(
            command, env=environment, stdin=follower, stdout=follower, stderr=follower, start_new_session=True
        )
        self.shown = ""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.leader, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.leader, keys.encode())

    def read(self, seconds: float = 0.05) -> str:
        """What it showed in this time."""
        new = ""
        end = time.monotonic() + seconds
        while select([self.leader], [], [], max(0.0, end - time.monotonic()))[0]:
            new += os.read(self.leader, 65536).decode()
        self.shown += new
        return new

    def until(self, text: str | Callable[[str], bool]) -> None:
        """Wait until it shows this."""
        begin = len(self.shown)

        def seen() -> bool:
            self.read()
            new = self.shown[begin:]
            return text in new if isinstance(text, str) else text(new)

        wait_until(seen, SECONDS, what=str(text))

    def end(self) -> int:
        """Its exit code, when it has ended and the terminal is as it was."""
        status = self.process.wait(SECONDS)
        self.read()
        return status

    @property
    def is_restored(self) -> bool:
        """Whether the screen, the cursor and the keyboard are as before."""
        back = self.shown.rfind("\x1b[?25h\x1b[?1049l") > self.shown.rfind("\x1b[?1049h") >= 0
        return back and termios.tcgetattr(self.follower) == self.before


@contextlib.contextmanager
def terminal(bus: Cli, *words: str, **settings: Any) -> Iterator[Terminal]:
    made = Terminal(bus, *words, **settings)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        os.close(made.leader)
        os.close(made.follower)


def test_live_keys_choose_what_it_is_sorted_by_and_q_ends_it(bus: Cli) -> None:
    with terminal(bus) as shown:
        shown.until("supervisor")
        assert "\x1b[?1049h" in shown.shown
        shown.type("g")
        shown.until("[GETS/s]")
        shown.type("\x1b[C")
        shown.until("[B/s]")
        shown.type("b")
        shown.until("by component")
        shown.type(" ")
        shown.until("held: space goes on")
        shown.type("q")
        assert shown.end() == Exit.OK
        assert shown.is_restored


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, Exit.INTERRUPTED), (signal.SIGTERM, Exit.TERMINATED)])
def test_the_terminal_is_put_back_when_it_is_stopped(bus: Cli, number: signal.Signals, code: Exit) -> None:
    with terminal(bus) as shown:
        shown.until("supervisor")
        shown.process.send_signal(number)
        assert shown.end() == code
        assert shown.is_restored


def test_ctrl_c_at_the_keyboard_ends_it(bus: Cli) -> None:
    with terminal(bus) as shown:
        shown.until("supervisor")
        shown.type("\x03")
        assert shown.end() == Exit.INTERRUPTED
        assert shown.is_restored


@pytest.mark.parametrize("crash", ["raise ValueError('a bug')", "sys.exit(3)"])
def test_the_terminal_is_put_back_after_a_crash(bus: Cli, crash: str) -> None:
    program = (
        "import sys\nfrom buscli import top\nfrom buscli.__main__ import main\n"
        f"def fail(*_):\n    {crash}\ntop.in_order = fail\nsys.argv[1:] = ['top']\nsys.exit(main())\n"
    )
    with terminal(bus, program=("-c", program)) as shown:
        assert shown.end() != 0
        assert shown.is_restored


def test_a_broker_that_comes_back_is_shown_again(tmp_path: Path) -> None:
    with running_node(tmp_path / "n") as node:
        bus = Cli(node.url, NO_COLOR="1")
        shown = Terminal(bus)
        try:
            shown.until("supervisor")
        except BaseException:
            shown.process.kill()
            raise
    try:
        shown.until(lambda new: "not connected" in new or "connection" in new)
        with running_node(tmp_path / "n"):
            shown.until("endpoints  in ")
            shown.type("q")
            assert shown.end() == Exit.OK
        assert shown.is_restored
    finally:
        shown.process.kill()
        shown.process.wait()
        os.close(shown.leader)
        os.close(shown.follower)


def test_only_what_changed_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    screen = Screen()
    monkeypatch.setattr(screen, "size", lambda: (20, 5))
    monkeypatch.setattr(screen, "_write", written.append)
    screen.draw(["one", "two"], bold=0)
    assert "\x1b[2J" in written[0]
    screen.draw(["one", "two"], bold=0)
    assert len(written) == 1
    screen.draw(["one", "2" * 30], bold=0)
    assert written[1] == f"\x1b[2;1H{'2' * 20}\x1b[K"
    monkeypatch.setattr(screen, "size", lambda: (30, 5))
    screen.draw(["one", "x"], bold=0)
    assert "one" in written[2]


def test_a_changed_size_draws_it_again(bus: Cli) -> None:
    with terminal(bus, columns=200) as shown:
        shown.until("THROTTLED")
        shown.resize(60, 20)
        shown.until("\x1b[2J")
        shown.type("q")
        assert shown.end() == Exit.OK
    lines = re.findall(r"\x1b\[\d+;1H([^\x1b]*)", shown.shown.rpartition("\x1b[2J")[2])
    assert lines
    assert max(map(len, lines)) <= 60


def test_looking_that_is_dear_is_done_less_often(bus: Cli) -> None:
    program = (
        "import asyncio, sys\nfrom buscli import top\nfrom buscli.__main__ import main\nsample = top.sample\n"
        "async def slowly(bus):\n    await asyncio.sleep(0.1)\n    return await sample(bus)\n"
        "top.sample = slowly\nsys.argv[1:] = ['top']\nsys.exit(main())\n"
    )
    with terminal(bus, program=("-c", program)) as shown:
        shown.until(lambda new: re.search(r"every ([5-9]|\d\d)(\.\d)? s", new) is not None)
        shown.type("q")
        assert shown.end() == Exit.OK


@pytest.mark.alone
def test_a_page_of_ten_thousand_endpoints_holds_the_broker_up_for_less_than_5_ms() -> None:
    world = World()
    peers = [world.peer(component=f"agent-{number}") for number in range(10_000)]
    asker, after, longest = peers[0], None, 0.0
    seen = 0
    while True:
        fastest = float("inf")
        for _ in range(3):
            begun = time.thread_time()  # what another program takes of the processor is no cost of the page
            page = asker.ask("$bus.top", {"after": after})
            fastest = min(fastest, time.thread_time() - begun)
        longest = max(longest, fastest)
        seen += len(page["endpoints"])
        after = page["next"]
        if after is None:
            break
    print(f"longest page: {1e3 * longest:.2f} ms, asking and reading included")
    assert seen == 10_000
    assert longest < 0.005


def _cpu_seconds(pid: int) -> float:
    """Time of the processor that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.alone
def test_with_200_endpoints_it_costs_less_than_a_hundredth_of_a_core(tmp_path: Path) -> None:
    async def main(node: RunningNode) -> None:
        async with AsyncExitStack() as stack:
            for number in range(200):
                await stack.enter_async_context(
                    busclient.connect(node.url, component=f"agent-{number}", owner="tests", purpose="is there")
                )
            with terminal(Cli(node.url, NO_COLOR="1")) as shown:
                await asyncio.to_thread(shown.until, "agent-")
                measured = []
                for _ in range(3):
                    own, broker = _cpu_seconds(shown.process.pid), _cpu_seconds(node.process.pid)
                    begun = time.monotonic()
                    await asyncio.to_thread(shown.read, 10.0)
                    seconds = time.monotonic() - begun
                    own, broker = _cpu_seconds(shown.process.pid) - own, _cpu_seconds(node.process.pid) - broker
                    measured.append((own / seconds, broker / seconds))
                    if measured[-1][0] < 0.01:
                        break
                print(f"of a core: bus top {measured[-1][0]:.2%}, broker {measured[-1][1]:.2%}")
                assert min(own for own, _ in measured) < 0.01, measured

    with running_node(tmp_path / "n") as node:
        asyncio.run(main(node))
