"""``bus map``: who talks to whom, from what the broker counts."""

import asyncio
import io
import json
import re
from typing import Any

import pytest

import busclient.testing
from buscli.__main__ import main
from buscli.census import traffic
from buscli.exits import Exit
from buscli.output import Output
from buscli.traffic import TrafficMap, rate_text, split
from buscli.trafficview import dot, show
from tests.clients.component_support import FakeNode, attach

HOSTILE = 'evil"]; x [label="\x1b]0;owned\x07\\'


def endpoint(name: str, component: str | None = None, **changed: Any) -> dict[str, Any]:
    said = {"component": component, "owner": "node", "purpose": f"is {component}"} if component else {}
    where = {"boundary": "host", "tenant": "node", "unit": "host"}
    return {"endpoint": name, "component": None, "owner": None, "purpose": None, **said, **where, **changed}


def flow(source: str, target: str, messages: int, kind: str = "publish", subject: str = "x.y.>") -> dict[str, Any]:
    return {"from": source, "to": target, "kind": kind, "subject": subject, "messages": messages}


ENDPOINTS = [
    endpoint("host-1", "telemetry", purpose="shows what this machine is doing"),
    endpoint("host-2", "demo", owner="you"),
    endpoint("host-3", "demo", owner="you"),
    endpoint("guest-1", "demo", boundary="guest", tenant="acme", unit="vm-1", owner="mallory"),
    endpoint("guest-2", boundary="guest", tenant="acme", unit="vm-2"),
    endpoint("host-4", "quiet", owner=None),
]
BEFORE: dict[str, Any] = {
    "at": 100.0,
    "endpoints": ENDPOINTS,
    "flows": [
        flow("host-1", "host-2", 10, subject="telemetry.cpu.>"),
        flow("host-1", "host-3", 10, subject="telemetry.cpu.>"),
        flow("host-2", "host-1", 5, "call", "telemetry.processes.>"),
        flow("guest-2", "guest-1", 70, subject="noise.>"),
    ],
}
AFTER: dict[str, Any] = {
    "at": 102.0,
    "endpoints": ENDPOINTS,
    "flows": [
        flow("host-1", "host-2", 14, subject="telemetry.cpu.>"),
        flow("host-1", "host-3", 14, subject="telemetry.cpu.>"),
        flow("host-2", "host-1", 5, "call", "telemetry.processes.>"),
        flow("guest-2", "guest-1", 270, subject="noise.>"),
    ],
}


def text_of(traffic: TrafficMap, top: int = 20, component: str | None = None) -> str:
    stdout = io.BytesIO()
    show(Output(stdout, io.StringIO(), human=True, colour=False), traffic, top, component)
    return stdout.getvalue().decode()


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    node = attach(monkeypatch, FakeNode())
    node.answer("$bus.map", BEFORE, AFTER)
    return node


def run(capsysbinary: pytest.CaptureFixture[bytes], *words: str) -> tuple[int, str, str]:
    code = main(["map", "--seconds", "1ms", *words])
    out, err = capsysbinary.readouterr()
    return code, out.decode(), err.decode()


# -- what is counted --------------------------------------------------------------------------------------------------


def test_rates_are_what_was_added_in_the_time_between() -> None:
    rates = {(each["from"], each["to"]): each["per_second"] for each in TrafficMap(BEFORE, AFTER).flows}
    assert rates == {
        ("host-1", "host-2"): 2.0,
        ("host-1", "host-3"): 2.0,
        ("host-2", "host-1"): 0.0,
        ("guest-2", "guest-1"): 100.0,
    }


def test_a_flow_that_is_new_and_one_that_began_anew_count_from_zero() -> None:
    before = {"at": 1.0, "endpoints": ENDPOINTS, "flows": [flow("host-1", "host-2", 500)]}
    after = {"at": 2.0, "endpoints": ENDPOINTS, "flows": [flow("host-1", "host-2", 3), flow("host-2", "host-1", 4)]}
    assert [each["per_second"] for each in TrafficMap(before, after).flows] == [3.0, 4.0]


def test_a_clock_that_did_not_move_is_no_division_by_zero() -> None:
    traffic = TrafficMap(BEFORE, BEFORE)
    assert all(each["per_second"] == 0 for each in traffic.flows)
    assert "0/s in all" in text_of(traffic)


def test_endpoints_of_one_component_and_tenant_are_one_and_what_a_tenant_claims_is_apart() -> None:
    parties, links = TrafficMap(BEFORE, AFTER).parties()
    assert [(party.label, len(party.endpoints)) for party in parties] == [
        ("? guest vm-2 (acme)", 1),
        ("demo (acme)", 1),
        ("demo", 2),
        ("telemetry", 1),
        ("quiet", 1),
    ]
    assert [(link.sender.label, link.receiver.label, link.per_second) for link in links] == [
        ("? guest vm-2 (acme)", "demo (acme)", 100.0),
        ("telemetry", "demo", 4.0),
        ("demo", "telemetry", 0.0),
    ]


def test_an_endpoint_that_left_meanwhile_counts_as_what_it_was() -> None:
    after = {**AFTER, "endpoints": [row for row in ENDPOINTS if row["endpoint"] not in ("host-1", "guest-2")]}
    parties, links = TrafficMap(BEFORE, after).parties()
    left = {party.label for party in parties if party.gone}
    assert left == {"telemetry", "? guest vm-2 (acme)"}
    assert {link.sender.label for link in links} >= left
    unknown = {"at": 103.0, "endpoints": [], "flows": [flow("host-99", "host-98", 1)]}
    (first, second), _ = TrafficMap(AFTER, unknown).parties()
    assert {first.label, second.label} == {"host-98", "host-99"}
    assert "left" in text_of(TrafficMap(AFTER, unknown))


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0, "-"), (0.01, "<0.1/s"), (0.2, "0.2/s"), (9.96, "10.0/s"), (12.4, "12/s"), (12345.6, "12,346/s")],
)
def test_rates_for_people(rate: float, text: str) -> None:
    assert rate_text(rate) == text


# -- text -------------------------------------------------------------------------------------------------------------


def test_text_says_who_owns_what_and_why_and_whom_it_talks_to_the_busiest_first() -> None:
    lines = text_of(TrafficMap(BEFORE, AFTER)).splitlines()
    assert lines[0] == "4 components, 6 endpoints; 104/s in all, over 2.0 s; 2 endpoints do not say who they are"
    heads = [line.partition(":")[0] for line in lines if line and not line.startswith(" ")][1:]
    assert heads == ["? guest vm-2 (acme)", "demo (acme)", "demo", "telemetry", "quiet"]
    at = lines.index("telemetry: shows what this machine is doing")
    assert lines[at + 1] == "  owner node; 1 endpoint: host; sends 4.0/s, receives nothing"
    assert re.fullmatch(r"    publishes to +demo +telemetry\.cpu\.> +4\.0/s", lines[at + 2])
    at = lines.index("demo: is demo")
    assert re.fullmatch(r"    calls +telemetry +telemetry\.processes\.> +-  \(5 before\)", lines[at + 2])


def test_those_that_do_not_say_who_they_are_are_marked() -> None:
    text = text_of(TrafficMap(BEFORE, AFTER))
    assert (
        "? guest vm-2 (acme): does not say what it is, whose it is, or why\n  1 endpoint: guest vm-2 (guest-2);" in text
    )
    assert "quiet: is quiet\n  owner not said; 1 endpoint" in text


def test_owners_that_contradict_each_other_are_shown_as_such() -> None:
    rows = [*(endpoint(f"host-{n}", "agent") for n in range(3)), endpoint("host-9", "agent", owner="eve", purpose=None)]
    text = text_of(TrafficMap({**BEFORE, "endpoints": rows}, {"at": 101.0, "endpoints": rows, "flows": []}))
    assert "owner node (and 1 other); 4 endpoints: host 4; sends nothing" in text
    assert "some do not say purpose" in text


def test_only_one_component_and_both_directions() -> None:
    text = text_of(TrafficMap(BEFORE, AFTER).only("telemetry"), component="telemetry")
    heads = [line.partition(":")[0] for line in text.splitlines() if line and not line.startswith(" ")][1:]
    assert heads == ["telemetry", "demo"], "what was asked about comes first"
    assert re.search(r"publishes to +demo +telemetry\.cpu\.> +4\.0/s", text)
    assert re.search(r"is called by +demo +telemetry\.processes\.> +-  \(5 before\)", text)
    assert "acme" not in text


def test_nothing_foreign_can_drive_the_terminal() -> None:
    rows = [endpoint("host-1", "a", owner=HOSTILE, purpose=HOSTILE), endpoint("host-2", unit=HOSTILE)]
    flows = [flow("host-1", "host-2", 1)]
    text = text_of(TrafficMap({**BEFORE, "flows": []}, {"at": 101.0, "endpoints": rows, "flows": flows}))
    assert all(character == "\n" or character.isprintable() for character in text)
    assert "owned" in text


def crowd(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A hundred components and as many endpoints that say nothing, ``number`` in all, each with a neighbour."""
    rows = [
        endpoint(f"host-{n}", f"part-{n % 100}") if n % 2 else endpoint(f"guest-{n}", boundary="guest", unit=f"vm-{n}")
        for n in range(number)
    ]
    names = [row["endpoint"] for row in rows]
    pairs = [*zip(names, names[1:] + names[:1], strict=True), *zip(names, names[7:] + names[:7], strict=True)]
    before = [flow(source, target, 5) for source, target in pairs]
    after = [flow(source, target, 5 + n) for n, (source, target) in enumerate(pairs)]
    return {"at": 1.0, "endpoints": rows, "flows": before}, {"at": 2.0, "endpoints": rows, "flows": after}


def test_ten_thousand_endpoints_stay_readable_and_what_is_left_out_is_said() -> None:
    before, after = crowd(10_000)
    text = text_of(TrafficMap(before, after), top=20)
    lines = text.splitlines()
    assert len(lines) < 20 * 13
    assert lines[0].startswith("50 components, 10,000 endpoints; ")
    assert "5,000 endpoints do not say who they are" in lines[0]
    assert re.fullmatch(
        r"and 5,030 more rows of [\d,]+ endpoints, [\d,]+ of which do not say who they are; .*", lines[-1]
    )
    assert "more, together" in text
    graph = dot(TrafficMap(before, after), 100)
    assert len(graph.splitlines()) < 12_000
    assert "4,950 more rows" in graph


def test_a_line_is_not_left_out_to_make_room_for_one_that_says_so() -> None:
    assert split([1, 2, 3], 2) == ([1, 2, 3], ())
    assert split([1, 2, 3, 4], 2) == ([1, 2], [3, 4])


def test_of_a_component_that_talks_to_many_the_busiest_are_shown_and_how_to_see_the_others() -> None:
    rows = [endpoint(f"host-{n}", f"part-{n}") for n in range(30)]
    flows = [flow("host-0", f"host-{n}", n) for n in range(1, 30)]
    traffic_map = TrafficMap({**BEFORE, "flows": []}, {"at": 101.0, "endpoints": rows, "flows": flows})
    text = text_of(traffic_map)
    assert re.search(r"publishes to +part-29 +x\.y\.> +29/s", text)
    assert "\n  and 21 more, together 231/s (bus map --component part-0)\n" in text
    assert text_of(traffic_map.only("part-0"), 50, "part-0").count("publishes to") == 29


# -- the graph --------------------------------------------------------------------------------------------------------

STRING = r'"(?:[^"\\\n]|\\.)*"'
ATTRIBUTES = rf"\[\w+=(?:{STRING}|[\w.]+)(?:, \w+=(?:{STRING}|[\w.]+))*\]"
DOT_LINES = (
    r"digraph bus \{",
    rf"  label={STRING}; labelloc=t; rankdir=LR; node \[shape=box, fontname=monospace\];",
    rf"  subgraph cluster_\d+ \{{ label={STRING};",
    rf"    n\d+ {ATTRIBUTES};",
    rf"  n\d+ -> n\d+ {ATTRIBUTES};",
    r"  \}",
    r"\}",
)


def check_graph(text: str) -> None:
    """Every line is one of Graphviz's language, and a line of the graph joins boxes that are there."""
    for line in text.splitlines():
        assert any(re.fullmatch(form, line) for form in DOT_LINES), line
    boxes = set(re.findall(r"^    (n\d+) ", text, re.M))
    ends = {end for pair in re.findall(r"^  (n\d+) -> (n\d+) ", text, re.M) for end in pair}
    assert ends <= boxes
    assert text.count("{") - text.count("\\{") >= 1


def test_the_graph_is_graphviz_whatever_endpoints_claim() -> None:
    rows = [
        endpoint("host-1", HOSTILE, owner="a\nb", purpose="<b>&quot; \\l \\N"),
        endpoint("host-2", tenant=HOSTILE, unit=HOSTILE, boundary="guest"),
    ]
    flows = [flow("host-1", "host-2", 4, subject=HOSTILE), flow("host-2", "host-1", 9, "call")]
    text = dot(TrafficMap({**BEFORE, "flows": []}, {"at": 101.0, "endpoints": rows, "flows": flows}), 10)
    check_graph(text)
    assert "\x1b" not in text
    assert "&amp;quot;" in text
    assert text.count(" -> ") == 2


def test_the_graph_marks_those_that_do_not_say_who_they_are() -> None:
    text = dot(TrafficMap(BEFORE, AFTER), 10)
    check_graph(text)
    marked = [line for line in text.splitlines() if "style=dashed" in line]
    assert len(marked) == 2
    assert "owner you\\nis demo\\n2 endpoints: host 2" in text
    assert 'label="telemetry.cpu.>\\n4.0/s"' in text


# -- on the real core -------------------------------------------------------------------------------------------------


def test_what_the_broker_counts_is_what_is_shown() -> None:
    async def look() -> TrafficMap:
        async with busclient.testing.bus(component="telemetry", owner="node", purpose="shows the machine") as bus:
            demo = await bus.connect(component="demo", owner="you", purpose="prints")
            mute = await bus.connect()
            async with (
                demo.subscribe("telemetry.>"),
                mute.subscribe("telemetry.cpu"),
                bus.serve("telemetry.processes", _answer),
            ):
                await bus.publish("telemetry.cpu", 1)
                before = await traffic(bus)
                for _ in range(6):
                    await bus.publish("telemetry.cpu", 1)
                await demo.call("telemetry.processes", timeout=1.0)
                await bus.clock.advance(2)
                return TrafficMap(before, await traffic(bus))

    text = text_of(asyncio.run(look()))
    lines = text.splitlines()
    assert lines[0].startswith("2 components, 3 endpoints; ")
    assert lines[0].endswith("over 2.0 s; 1 endpoint does not say who it is")
    at = lines.index("telemetry: shows the machine")
    assert {tuple(line.split()[2:]) for line in lines[at + 2 : at + 4]} == {
        ("demo", "telemetry.>", "3.0/s"),
        ("?", "host", "telemetry.cpu", "3.0/s"),
    }
    assert re.search(r"^demo: prints\n.*\n    calls +telemetry +telemetry\.processes +0\.5/s$", text, re.M)


async def _answer(call: busclient.Call) -> int:
    return 1


def test_an_answer_in_pages_is_one_map() -> None:
    pages = {
        None: {"at": 1.0, "endpoints": ENDPOINTS[:2], "flows": BEFORE["flows"][:2], "next": "host-2"},
        "host-2": {"at": 1.1, "endpoints": ENDPOINTS[2:], "flows": BEFORE["flows"][2:], "next": None},
    }
    node = FakeNode()
    node.answers["$bus.map"] = lambda request: pages[request.get("after")]
    found = asyncio.run(traffic(node))  # type: ignore[arg-type]
    assert found == {"at": 1.0, "endpoints": ENDPOINTS, "flows": BEFORE["flows"]}


def test_the_broker_is_a_part_of_the_map_and_no_component() -> None:
    after = {"at": 101.0, "endpoints": ENDPOINTS[:1], "flows": [flow("host-1", "$bus", 4, "call", "$bus.ping")]}
    traffic_map = TrafficMap({**BEFORE, "flows": []}, after)
    text = text_of(traffic_map)
    assert text.startswith("1 component, 1 endpoint; 4.0/s in all")
    assert "\n$bus: the broker: what it is asked" in text
    assert "does not say" not in text
    check_graph(dot(traffic_map, 10))


# -- the command ------------------------------------------------------------------------------------------------------


def test_piped_it_is_one_json_object(node: FakeNode, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    code, out, _ = run(capsysbinary)
    assert code == Exit.OK
    assert out.count("\n") == 1
    found = json.loads(out)
    assert (found["at"], found["seconds"]) == (102.0, 2.0)
    assert found["endpoints"] == ENDPOINTS
    assert found["flows"][0] == {**AFTER["flows"][3], "per_second": 100.0}
    assert [subject for subject, *_ in node.asked] == ["$bus.map", "$bus.map"]


def test_json_of_one_component_has_what_it_talks_with(
    node: FakeNode, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    code, out, _ = run(capsysbinary, "--component", "telemetry", "--json")
    assert code == Exit.OK
    found = json.loads(out)
    assert {row["endpoint"] for row in found["endpoints"]} == {"host-1", "host-2", "host-3"}
    assert len(found["flows"]) == 3


def test_dot_is_the_graph(node: FakeNode, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    code, out, _ = run(capsysbinary, "--dot", "--component", "telemetry")
    assert code == Exit.OK
    check_graph(out)
    assert "acme" not in out


def test_a_component_that_nobody_claims_is_refused_with_the_nearest(
    node: FakeNode, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    code, out, err = run(capsysbinary, "--component", "telemtry")
    assert (code, out) == (Exit.FAILED, "")
    assert err.startswith("bus map: no endpoint is of component 'telemtry'\n  try: bus map --component telemetry\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--dot", "--json"], "--dot and --json are two forms"),
        (["--seconds", "0"], "'0' must be more than zero"),
        (["--top", "0"], "'0' must be at least 1"),
    ],
)
def test_a_wrong_command_line_is_refused_before_a_bus_is_looked_for(
    words: list[str], says: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    code, out, err = run(capsysbinary, *words)
    assert (code, out) == (Exit.USAGE, "")
    assert says in err
    assert "\n  try: " in err
