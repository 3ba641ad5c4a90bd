"""``bus component``: what is asked of the node, and what people and programs are shown of its answers."""

import io
import json
import re
from typing import Any

import pytest

from buscli import componentlog, components
from buscli.completion import complete
from buscli.exits import Exit
from buscli.output import Output
from busproto.errors import BusError, Code
from tests.clients.component_support import FakeNode, attach, row
from tests.clients.ran import Ran

ADMIN = "$bus.admin.component."
ILL = row(
    "cache",
    state="failed",
    reason="it was restarted 5 times within 60 s",
    placement="",
    endpoint="",
    instance="",
    pid=0,
    seconds=0.0,
    health={"ok": False, "detail": "it was restarted 5 times within 60 s"},
    memory_bytes=0,
    cpu_percent=0.0,
    operations={},
    restarts=5,
    cut_off=1,
)


def runner(endpoint: str, placement: str, state: str) -> dict[str, Any]:
    return {"instance": "a" * 12, "endpoint": endpoint, "placement": placement, "version": "0.2.0", "state": state}


class Succeeding(Ran):
    """A command whose records are asked for only where it must have succeeded."""

    @property
    def records(self) -> list[Any]:
        assert self.code == Exit.OK, self.err
        return super().records


@pytest.fixture
def ran(capsysbinary: pytest.CaptureFixture[bytes]) -> Any:
    return lambda *words: Succeeding(capsysbinary, "component", *words)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    return attach(monkeypatch, FakeNode(row("telemetry"), ILL))


def shown(draw: Any, value: Any) -> str:
    """What ``draw`` writes of ``value`` for a person, on lines as wide as they come."""
    stdout = io.BytesIO()
    draw(Output(stdout, io.StringIO(), human=True, colour=False), value)
    return stdout.getvalue().decode()


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")


# -- looking ----------------------------------------------------------------------------------------------------------


def test_list_is_one_object_a_component_by_name(ran: Any, node: FakeNode) -> None:
    assert ran("list").records == [ILL, row("telemetry")]
    assert [subject for subject, *_ in node.asked] == ["$bus.components"]


def test_list_for_people_says_how_each_is(wide: None) -> None:
    standby = [runner("soc-1", "soc", "standby")]
    others = [runner("host-9", "host", "ready")]
    ill = {"ok": False, "detail": "no disk"}
    text = shown(
        components.show_list,
        [ILL, row("telemetry", standby=standby, others=others, supervised=False, health=ill)],
    )
    head, _, cache, telemetry = text.splitlines()
    assert head.split()[:6] == ["component", "version", "owner", "state", "where", "endpoint"]
    assert re.match(r"cache +0\.1\.0 +node +failed +- +- +- +0 +0 +- +- +5 ", cache)
    assert "it was restarted 5 times within 60 s; cut off 1 times" in cache
    assert re.match(r"telemetry .* host +host-2 +1m 15s +100 +3 +40 MiB/256 MiB +1/100 % +0 ", telemetry)
    assert "not healthy: no disk; run by hand; stands by: soc; also there: host ready" in telemetry
    assert "not healthy" not in cache, "the reason says it already"


def test_an_empty_list_says_what_to_do() -> None:
    assert "busd --components NAME" in shown(components.show_list, [])


def test_inspect_is_everything(ran: Any, node: FakeNode) -> None:
    assert ran("inspect", "telemetry").records == [row("telemetry")]


def test_inspect_for_people(wide: None) -> None:
    text = shown(components.show_one, row("telemetry", standby=[runner("soc-1", "soc", "standby")]))
    assert re.search(r"^soc +standby +soc-1 +0\.2\.0 +a{12} *$", text, re.M)
    assert text.startswith("telemetry 0.1.0 is ready\n  is telemetry\n")
    assert re.search(r"^get +100 +2 +3 BUS-2008 +2\.00 ms +10\.00 ms *$", text, re.M)
    assert re.search(r"^memory +40 MiB/256 MiB *$", text, re.M)
    assert re.search(r"^serves: +telemetry\.get *$", text, re.M)
    text = shown(components.show_one, ILL)
    assert text.startswith("cache 0.1.0 is failed: it was restarted 5 times within 60 s\n")
    assert "operation" not in text


@pytest.mark.parametrize("action", ["inspect", "health"])
def test_a_component_that_is_not_there_is_refused_with_the_nearest(ran: Any, node: FakeNode, action: str) -> None:
    result = ran(action, "telemtry")
    assert (result.code, result.out) == (Exit.FAILED, "")
    first, second, third = result.err.splitlines()
    assert first == f"bus component {action}: no component is called 'telemtry'"
    assert (second, third) == (f"  try: bus component {action} telemetry", "  try: bus component list")


def test_health_of_all_fails_if_one_is_ill(ran: Any, node: FakeNode) -> None:
    result = ran("health")
    assert result.code == Exit.FAILED
    cache, telemetry = map(json.loads, result.out.splitlines())
    assert (cache["ok"], cache["state"], telemetry["ok"]) == (False, "failed", True)
    node.rows.remove(ILL)
    assert ran("health").code == Exit.OK


def test_health_of_one_is_asked_now(ran: Any, node: FakeNode) -> None:
    node.answer(f"{ADMIN}health", {"health": {"ok": False, "detail": "no disk"}})
    result = ran("health", "telemetry")
    assert result.code == Exit.FAILED
    assert json.loads(result.out) == {
        "ok": False,
        "component": "telemetry",
        "state": "ready",
        "reason": "",
        "health": {"ok": False, "detail": "no disk"},
    }
    assert node.asked[-1][:2] == (f"{ADMIN}health", {"component": "telemetry"})


def test_health_of_one_that_is_run_by_hand_is_what_it_said_last(ran: Any, node: FakeNode) -> None:
    node.rows.append(row("mine", supervised=False))
    assert ran("health", "mine").code == Exit.OK
    assert [subject for subject, *_ in node.asked] == ["$bus.components"]


def test_health_for_people(wide: None) -> None:
    text = shown(components.show_health, [ILL, row("telemetry", health={"ok": False, "detail": "no disk"})])
    assert re.search(r"^cache +not ok +failed +it was restarted 5 times within 60 s *$", text, re.M)
    assert re.search(r"^telemetry +not ok +ready +no disk *$", text, re.M)


def test_what_components_say_cannot_drive_the_terminal(wide: None) -> None:
    hostile = "\x1b]0;owned\x07\n"
    bad = row("telemetry", purpose=hostile, owner=hostile, reason=hostile, version=hostile, state=hostile)
    bad["health"] = {"ok": False, "detail": hostile}
    for draw, value in ((components.show_list, [bad]), (components.show_health, [bad]), (components.show_one, bad)):
        text = shown(draw, value)
        assert "\x1b" not in text
        assert "owned" in text


def test_what_a_tenant_is_told_is_shown_too(wide: None) -> None:
    """Of the node's components a guest learns only what it can use, and not how they are."""
    told = {key: row("cache")[key] for key in ("component", "version", "purpose", "state", "serves", "publishes")}
    assert re.search(
        r"^cache +0\.1\.0 +- +ready +- +- +- +0 +0 +- +- +0 +- *$", shown(components.show_list, [told]), re.M
    )
    assert "started by" in shown(components.show_one, told)
    assert "not ok" not in shown(components.show_health, [told])


# -- acting -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        (["start", "cache"], {}),
        (["stop", "cache"], {}),
        (["replace", "cache"], {}),
        (["replace", "cache", "--source", "a.b:C", "--seconds", "20s"], {"source": "a.b:C", "seconds": 20.0}),
        (["move", "cache", "--to", "soc"], {"to": "soc"}),
        (["move", "cache", "--to", "guest:vm-1", "--seconds", "500ms"], {"to": "guest:vm-1", "seconds": 0.5}),
    ],
)
def test_what_is_asked_of_the_supervisor(ran: Any, node: FakeNode, words: list[str], request_: dict[str, Any]) -> None:
    answer = receipt() if words[0] in ("replace", "move") else row("cache")
    node.answer(ADMIN + words[0], answer)
    assert ran(*words).records == [answer]
    subject, request, timeout = node.asked[-1]
    assert (subject, request) == (ADMIN + words[0], {"component": "cache", **request_})
    assert timeout > 30 + float(request_.get("seconds", 0)), "the node's own deadline comes first"


def receipt(**changed: Any) -> dict[str, Any]:
    """What the supervisor answers of a hand-over."""
    went = {"seconds": 1.21, "pinned_seconds": 0.04, "state_bytes": 2048, "trouble": "", "state_lost": False}
    where = {"component": "cache", "from": "host", "to": "soc", "instance": "a" * 12, "source": "acme:Cache"}
    return {**where, **went, **changed}


def test_a_hand_over_for_people() -> None:
    first, second = shown(components.show_receipt, receipt()).splitlines()
    assert first == f"cache runs at soc (before: host) now: instance {'a' * 12} of acme:Cache"
    assert second == "  it took 1210 ms, for 40 ms of which calls waited; 2 KiB of state was handed over"
    assert "before" not in shown(components.show_receipt, receipt(to="host"))


def test_a_hand_over_that_cost_the_state_is_said_aloud(ran: Any, node: FakeNode) -> None:
    node.answer(f"{ADMIN}replace", receipt(trouble="the old one was lost while it drained", state_lost=True))
    result = ran("replace", "cache")
    assert result.code == Exit.OK
    assert result.err == ("cache was handed over, but the old one was lost while it drained; its state is lost\n")


def test_a_start_that_comes_to_nothing_is_a_failure(ran: Any, node: FakeNode) -> None:
    node.answer(f"{ADMIN}start", ILL)
    result = ran("start", "cache")
    assert result.code == Exit.FAILED
    assert json.loads(result.out) == ILL
    assert result.err == (
        "bus component start: cache does not serve: it was restarted 5 times within 60 s\n"
        "  try: bus component logs cache\n"
    )


def test_the_refusal_of_the_supervisor_has_cause_and_cure(ran: Any, node: FakeNode) -> None:
    node.answer(
        f"{ADMIN}move", BusError(Code.COMPONENT_NOT_THERE, component="cache", source="acme:Cache", placement="soc")
    )
    result = ran("move", "cache", "--to", "soc")
    assert (result.code, result.out) == (Exit.FAILED, "")
    assert result.err.startswith("BUS-8002 component-not-there: no runner of component 'cache' (acme:Cache) stands by")
    assert "try: Run there: busd component run SOURCE --standby" in result.err


@pytest.mark.parametrize("words", [["start"], ["stop"], ["replace"], ["move", "--to", "soc"], ["logs"]])
def test_a_name_that_the_supervisor_does_not_know_is_refused_with_its_nearest(
    ran: Any, node: FakeNode, words: list[str]
) -> None:
    node.answer(ADMIN + words[0], BusError(Code.COMPONENT_UNKNOWN, component="cahce", nearest="cache"))
    result = ran(*words, "cahce")
    assert result.code == Exit.FAILED
    assert f"no component is called 'cahce'\n  try: bus component {words[0]} cache\n" in result.err


def test_a_node_without_a_supervisor_is_no_responders(ran: Any, node: FakeNode) -> None:
    assert "BUS-3001" in ran("stop", "cache").err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "which of list, inspect, health, logs, start, stop, replace, move, new?"),
        (["lst"], "unknown command 'lst'"),
        (["move", "cache"], "where to? --to is missing"),
        (["move", "cache", "--to", "moon"], "'moon' is not a place: write host, soc or guest:UNIT"),
        (["move", "cache", "--to", "guest:"], "'guest:' is not a place"),
        (["replace", "cache", "--seconds", "soon"], "'soon' is not a duration"),
        (["logs", "cache", "--lines", "0"], "'0' must be at least 1"),
        (["inspect"], "required: NAME"),
    ],
)
def test_a_wrong_command_line_is_refused_with_its_cure(ran: Any, words: list[str], says: str) -> None:
    result = ran(*words)
    assert (result.code, result.out) == (Exit.USAGE, "")
    assert says in result.err
    assert "\n  try: " in result.err


# -- logs -------------------------------------------------------------------------------------------------------------


def line(seq: int, text: str = "", stream: str = "stdout") -> dict[str, Any]:
    return {"seq": seq, "at": 1790000000.25 + seq, "stream": stream, "pid": 7, "text": text or f"line {seq}"}


def page(*lines: dict[str, Any], following: int, lost: int = 0) -> dict[str, Any]:
    return {"lines": list(lines), "next": following, "lost": lost}


def test_logs_are_the_last_lines_one_object_each(ran: Any, node: FakeNode) -> None:
    node.answer(f"{ADMIN}logs", page(line(4), line(5, stream="stderr"), following=5))
    first, second = ran("logs", "cache", "--lines", "2").records
    assert first == {"component": "cache", **line(4)}
    assert second["stream"] == "stderr"
    assert node.asked[-1][:2] == (f"{ADMIN}logs", {"component": "cache", "limit": 2})


def test_logs_are_followed_from_where_they_were_and_losses_are_said(
    capfdbinary: pytest.CaptureFixture[bytes], node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(componentlog, "POLL_SECONDS", 0.001)
    ended = BusError(Code.INTERNAL)
    node.answer(
        f"{ADMIN}logs",
        page(line(5), following=5),
        page(line(6), following=6),
        page(following=6),
        page(line(1007), following=1007, lost=1000),
        ended,
    )
    result = Ran(capfdbinary, "component", "logs", "cache", "--follow")
    assert result.code == Exit.FAILED, "the node's error ends it"
    assert [each.get("seq", each) for each in result.records] == [5, 6, {"component": "cache", "lost": 1000}, 1007]
    assert "1000 lines were lost here" in result.err
    asked = [request.get("after") for subject, request, _ in node.asked if subject == f"{ADMIN}logs"]
    assert asked == [None, 5, 6, 6, 1007]


def test_logs_for_people_cannot_drive_the_terminal(node: FakeNode) -> None:
    import asyncio

    node.answer(f"{ADMIN}logs", page(line(1, "\x1b[31mred\x07", "stderr"), line(2), following=2))

    async def read(output: Output, _: Any) -> None:
        await componentlog.ComponentLog(node, output, "cache").show(10, follow=False)  # type: ignore[arg-type]

    text = shown(lambda output, value: asyncio.run(read(output, value)), None)
    first, second = text.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.250 stderr \\u001b\[31mred\\u0007", first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.250 stdout line 2", second)


# -- completion -------------------------------------------------------------------------------------------------------


def offers(*words: str) -> list[str]:
    return [offer.word for offer in complete(list(words))]


def test_completion_knows_the_family() -> None:
    assert offers("component", "st") == ["start", "stop"]
    assert offers("component", "logs", "x", "--f") == ["--follow"]
    assert "--component" in offers("map", "--")


def test_completion_offers_components_and_places(monkeypatch: pytest.MonkeyPatch, node: FakeNode) -> None:
    import busclient

    class Attached:
        async def __aenter__(self) -> FakeNode:
            return node

        async def __aexit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(busclient, "connect", lambda *_, **__: Attached())
    node.rows.append(row("deletion", standby=[runner("guest-1", "guest:vm-1", "standby")]))
    node.rows.append(row("x; rm -rf"))
    assert offers("component", "inspect", "") == ["cache", "deletion", "telemetry"], "nothing that a shell acts on"
    assert offers("component", "stop", "te") == ["telemetry"]
    assert offers("component", "move", "deletion", "--to", "") == ["host", "guest:vm-1"]
    node.answer("$bus.list", {"endpoints": [{"endpoint": "e", "claims": {"component": "demo"}, "serves": []}]})
    assert offers("map", "--component", "") == ["demo"]
