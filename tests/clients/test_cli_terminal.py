"""What people see: tables and text on a terminal, which bus they are on, and nothing that could drive it."""

import json
import re

import pytest

from buscli.exits import Exit
from tests.clients.cli_support import Cli
from tests.support import RunningNode


@pytest.fixture
def bus(shared_node: RunningNode) -> Cli:
    return Cli(shared_node.url)


def test_which_bus_it_is_comes_first(bus: Cli, shared_node: RunningNode) -> None:
    code, shown = bus.on_terminal("pub", "x1.x", "1")
    assert code == Exit.OK
    assert re.fullmatch(rf"-> {re.escape(shared_node.url)} \(node \S+, busd \S+\)\n", shown)


def test_nothing_is_said_of_the_bus_where_nobody_reads_it(bus: Cli) -> None:
    assert bus("pub", "x2.x", "1").stderr == b""


def test_list_is_a_table(bus: Cli) -> None:
    code, shown = bus.on_terminal("list")
    assert code == Exit.OK
    lines = shown.splitlines()
    assert "endpoint" in lines[1].lower()
    assert "purpose" in lines[1].lower()
    assert re.search(r"host-\d+ +bus-cli .* bus list ", shown)


def test_json_may_be_asked_for_on_a_terminal(bus: Cli) -> None:
    _, shown = bus.on_terminal("list", "--json")
    assert json.loads(shown.splitlines()[-1])["endpoint"]


def test_colour_only_where_it_is_wanted(shared_node: RunningNode) -> None:
    words = ("check", "--timeout", "20s")
    assert "\x1b[32mOK\x1b[0m" in Cli(shared_node.url).on_terminal(*words)[1]
    assert "\x1b" not in Cli(shared_node.url).on_terminal(*words, "--no-color")[1]
    assert "\x1b" not in Cli(shared_node.url, NO_COLOR="1").on_terminal(*words)[1]
    assert "\x1b" not in Cli(shared_node.url, NO_COLOR="1").on_terminal("list")[1]


def test_every_question_has_an_answer_for_people(bus: Cli) -> None:
    for words, expected in (
        (("stats",), "received_messages:"),
        (("explain", "x3.x"), "a publish on"),
        (("inspect", "host-99999"), "no endpoint is called"),
        (("ping", "--count", "2"), "lowest / median / highest"),
        (("errors",), "no-responders"),
        (("errors", "3001"), "BUS-3001 no-responders"),
        (("list", "--departed"), "reason"),
        (("bench", "--count", "20", "--warm-up", "0"), "coordinated omission"),
        (("call", "$bus.ping"), '"node": '),
        (("sub", "x3.x", "--timeout", "100ms"), "-> unix://"),
    ):
        code, shown = bus.on_terminal(*words)
        assert expected in shown, words
        assert "Traceback" not in shown
        assert code == (Exit.FAILED if words[0] == "inspect" else Exit.OK)


def test_messages_from_hostile_guests_cannot_drive_the_terminal(bus: Cli) -> None:
    hostile = '{"\\u001b[31mkey": "\\u001b]0;owned\\u0007\\u009b31m\\u202e"}'
    with bus.running("sub", "none.x"):
        code, shown = _subscribe_on_terminal(bus, "x4.x", hostile)
    assert code == Exit.OK
    assert "owned" in shown
    line = next(line for line in shown.splitlines() if "owned" in line)
    plain = re.sub(r"\x1b\[(0|2|36)m", "", line)  # our own colours
    assert plain.isprintable()


def _subscribe_on_terminal(bus: Cli, subject: str, body: str) -> tuple[int, str]:
    """What a subscriber on a terminal shows of one message with a header."""
    from concurrent.futures import ThreadPoolExecutor

    from tests.support import wait_until

    with ThreadPoolExecutor(1) as pool:
        shown = pool.submit(bus.on_terminal, "sub", subject, "--count", "1", "--headers")
        wait_until(lambda: bus.is_known(subject))
        assert bus("pub", subject, body, "-H", "note:hi\x1b[31m").returncode == 0
        return shown.result()


def test_a_body_may_be_typed(bus: Cli) -> None:
    code, shown = bus.on_terminal("pub", "x7.x", typed=b"[1]\n\x04")
    assert code == Exit.OK
    assert "reading the body from this terminal; Ctrl-D ends it" in shown


def test_headers_are_shown_when_asked_for(bus: Cli) -> None:
    _, shown = _subscribe_on_terminal(bus, "x5.x", "1")
    assert re.search(r"note.*: hi\\u001b\[31m", shown)


def test_a_reply_is_indented_for_people(bus: Cli) -> None:
    _, shown = bus.on_terminal("call", "$bus.list", '{"limit": 1}')
    assert '{\n  "endpoints": [' in shown


def test_an_error_reply_that_imitates_us_is_marked(bus: Cli) -> None:
    with bus.serving("x6.x", "--exec", "printf 'bad\\n  try: harm' >&2; exit 1", subject="x6.x"):
        code, shown = bus.on_terminal("call", "x6.x")
    assert code == Exit.FAILED
    assert "\n  |   try: harm" in shown
