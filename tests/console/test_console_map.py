"""The drawing of the node: who is in it, where, what flows, and what is red."""

import random
import re
from typing import Any

from playwright.sync_api import Browser, expect

from tests.console.browser import Tab, tab
from tests.console.scripted import Page, State, crowded, example

PLACES = """() => Object.fromEntries([...document.querySelectorAll(".group")].map((node) => {
  const box = node.querySelector(".box").getBoundingClientRect();
  return [node.getAttribute("aria-label").split(",").slice(0, 3).join(), [box.x, box.y, box.width, box.height]];
}))"""

WIDTHS = """() => [...document.querySelectorAll(".flow")].map((path) => [
  path.dataset.id, path.className.baseVal, Number(path.getAttribute("stroke-width")),
])"""

LABEL_TO_DOT = """() => {
  const dots = [...document.querySelectorAll(".group.dot .box")].map((dot) => dot.getBoundingClientRect());
  return [...document.querySelectorAll(".unit")].flatMap((unit) => {
    const name = unit.getBoundingClientRect();
    const line = dots.filter((dot) => dot.top < name.bottom && dot.bottom > name.top);
    const before = line.filter((dot) => dot.right <= name.left).map((dot) => name.left - dot.right);
    const after = line.filter((dot) => dot.left >= name.right).map((dot) => dot.left - name.right);
    return before.length && after.length ? [[Math.min(...after), Math.min(...before)]] : [];
  });
}"""
"""How far it is from a unit's name to the dot after it, and to the one before it."""

HOSTILE = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'


def group(state: State, number: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in state["groups"] if each["id"] == number)
    return found


def test_every_group_of_the_node_is_drawn_on_the_side_of_its_boundary(shown: Tab) -> None:
    state = example()
    page = shown.page
    assert page.locator("#panel-map .group").count() == len(state["groups"]) == 166
    units = {(each["boundary"], each["tenant"], each["unit"]) for each in state["groups"]}
    assert page.locator("#panel-map .unit").count() == len(units) == 48
    places = page.evaluate(PLACES)
    bus = page.locator(".bus-line").bounding_box()
    assert bus is not None
    for label, (x, _, width, _) in places.items():
        assert (x + width < bus["x"]) == label.endswith("guest"), label


def test_nothing_of_the_drawing_overlaps_or_is_cut_off_with_173_agents_at_1440_by_900(shown: Tab) -> None:
    places = sorted(shown.page.evaluate(PLACES).items(), key=lambda each: each[1][1])
    for index, (name, (x, y, width, height)) in enumerate(places):
        assert y + height <= 900, f"{name} is below what is seen"
        for other, (left, top, wide, _) in places[index + 1 :]:
            assert top >= y + height - 0.5 or left >= x + width or x >= left + wide, f"{name} covers {other}"
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= 1440


def test_nothing_moves_when_figures_change_and_groups_come_in_another_order(shown: Tab, page: Page) -> None:
    before = shown.page.evaluate(PLACES)
    state = example()
    random.Random(7).shuffle(state["groups"])
    for number, each in enumerate(state["groups"]):
        each["sends_per_second"] = float(number * 31 % 997)
    left = group(state, "g12")
    state["groups"].remove(left)
    state["flows"] = [each for each in state["flows"] if "g12" not in (each["from"], each["to"])]
    state["node"]["uptime_seconds"] = 3600.0 * 40
    page.say(state)
    expect(shown.page.locator("#node-facts")).to_contain_text("up 40.0 h")
    shown.page.wait_for_selector(".group.gone")
    assert shown.page.evaluate(PLACES) == before
    gone = shown.page.locator(".group.gone")
    assert gone.count() == 1
    label = gone.get_attribute("aria-label") or ""
    assert label.startswith(left["component"])
    assert label.endswith("left")


def test_thickness_is_the_rate_and_red_is_denied_or_lost(shown: Tab) -> None:
    state = example()
    flood = max(state["flows"], key=lambda each: each["per_second"])
    widths = shown.page.evaluate(WIDTHS)
    thickest = max(widths, key=lambda each: each[2])
    assert "scraper" in thickest[0]
    assert "backup" in thickest[0]
    assert flood["lost_per_second"] > 0
    assert "lost" in thickest[1].split()
    quiet = [width for _, kind, width in widths if "call" in kind.split()]
    assert thickest[2] > 2 * max(quiet) > 2 * min(quiet) > 0
    denied = [name for name, kind, _ in widths if "denied" in kind.split()]
    assert len(denied) == sum(each["denied_per_second"] > 0 for each in state["groups"]) == 1
    arrow = "getComputedStyle(document.querySelector('.flow.lost.thick')).markerEnd"
    assert shown.page.evaluate(arrow) == 'url("#arrow-lost-thick")', "so that its direction is seen"
    red = shown.page.evaluate("getComputedStyle(document.querySelector('.flow.lost')).stroke")
    assert red == "rgb(210, 45, 34)"
    assert shown.page.evaluate("getComputedStyle(document.querySelector('.flow.denied')).markerEnd") == 'url("#cross")'
    assert "arrow-call" in shown.page.evaluate("getComputedStyle(document.querySelector('.flow.call')).markerEnd")


def test_pointing_at_a_group_lights_its_flows_and_dims_the_others(shown: Tab) -> None:
    page = shown.page
    page.locator('.group[aria-label^="scraper,"]').hover()
    assert page.locator("svg.focused").count() == 1
    lit = page.locator(".group.on").evaluate_all("nodes => nodes.map(n => n.getAttribute('aria-label').split(',')[0])")
    state = example()
    names = {each["id"]: each["component"] for each in state["groups"]}
    own = [each for each in state["flows"] if "g41" in (each["from"], each["to"])]
    assert sorted(lit) == sorted({"scraper"} | {names[end] for each in own for end in (each["from"], each["to"])})
    assert float(page.evaluate("getComputedStyle(document.querySelector('.flow:not(.on)')).opacity")) < 0.1
    expect(page.locator(".caption")).to_contain_text(
        "scraper (vm-7 of acme) · acme-sre: collects prices · sends 48,211/s"
    )
    page.mouse.move(5, 5)
    assert page.locator("svg.focused").count() == 0


def test_the_table_of_flows_says_what_the_drawing_shows(shown: Tab, page: Page) -> None:
    shown.page.click("#tab-flows")
    rows = shown.page.locator("#panel-flows tbody tr")
    state = example()
    expect(rows).to_have_count(len(state["flows"]))
    assert [text.strip() for text in rows.first.locator("th, td").all_inner_texts()] == [
        "scraper (vm-7 of acme)",
        "backup (vm-7 of acme)",
        "publish",
        "prices.>",
        "48,190",
        "31,003",
    ]
    shown.page.fill("#flow-filter", "SCRAPER")
    expect(rows).to_have_count(sum("g41" in (each["from"], each["to"]) for each in state["flows"]))


def test_who_says_nothing_is_marked_and_what_it_does_not_say_is_named(shown: Tab) -> None:
    state = example()
    unowned = [each for each in state["groups"] if not (each["component"] and each["owner"] and each["purpose"])]
    marked = shown.page.locator(".group.unowned")
    assert marked.count() == len(unowned) == 4
    labels = marked.evaluate_all("nodes => nodes.map(n => n.getAttribute('aria-label'))")
    assert any("debug-shell, unit host, host, does not say its purpose" in label for label in labels)
    assert sum("does not say its component, owner, purpose" in label for label in labels) == 3


def test_markup_from_guests_is_shown_as_text_and_does_nothing(shown: Tab, page: Page) -> None:
    state = example()
    for each in state["groups"][:30]:
        each |= {"component": HOSTILE, "owner": HOSTILE, "purpose": HOSTILE, "unit": HOSTILE + each["unit"]}
    for flow in state["flows"]:
        flow["subject"] = HOSTILE
    state["node"]["name"] = HOSTILE
    state["notes"] = [HOSTILE]
    state["problems"] = [{"severity": "critical", "text": HOSTILE, "command": HOSTILE}]
    for row in (*state["components"], *state["jobs"], *state["caches"]):
        row |= {key: HOSTILE for key, value in row.items() if isinstance(value, str)}
    page.console.left = [
        {"endpoint": HOSTILE, "principal": dict.fromkeys(("boundary", "tenant", "unit"), HOSTILE), "claims": {},
         "reason": HOSTILE, "error": {"text": HOSTILE}, "seconds": 1, "ago": 1,
         "received_messages": 0, "delivered_messages": 0, "lost_messages": 0}
    ]  # fmt: skip
    page.say(state)
    expect(shown.page.locator("#node-name")).to_have_text(HOSTILE)
    for name in ("map", "census", "flows", "components", "deletion", "cache", "departed"):
        shown.page.click(f"#tab-{name}")
        expect(shown.page.locator(f"#panel-{name}")).to_contain_text("<img", timeout=5000)
    shown.page.click("#tab-map")
    shown.page.locator('.group[aria-label^="<img"]').first.click()
    expect(shown.page.locator("#detail-title")).to_have_text(HOSTILE)
    assert shown.page.locator("img, body script").count() == 0
    assert shown.page.evaluate("window.hit") is None


def test_more_groups_than_fit_are_dots_and_what_is_left_out_is_said(browser: Browser, page: Page) -> None:
    page.say(crowded(400, 800))
    with tab(browser, page.url) as shown:
        assert shown.page.locator(".group").count() == 400
        assert shown.page.locator(".group.dot").count() == 350
        expect(shown.page.locator(".caption")).to_contain_text("9,600 more are in the census")
        places = list(shown.page.evaluate(PLACES).values())
        assert len({(round(x), round(y)) for x, y, _, _ in places}) == 400
        apart = shown.page.evaluate(LABEL_TO_DOT)
        assert len(apart) > 100
        assert all(0 < own < 10 < other for own, other in apart), "a name is beside its own dots"
        shown.check()


def test_a_node_with_its_own_agents_only_says_how_to_begin(shown: Tab, page: Page) -> None:
    state = example()
    own = {"boundary": "host", "tenant": "node", "unit": "host", "component": "console", "owner": "node"}
    state["groups"] = [{**state["groups"][0], **own}]
    state["flows"] = []
    page.say(state)
    expect(shown.page.locator(".caption")).to_contain_text("in two shells: bus sub 'demo.>' and bus pub demo.hello 1")
    state["groups"].append({**group(example(), "g41"), "id": "g2"})
    page.say(state)
    expect(shown.page.locator(".caption")).to_have_text("Point at a group for its flows; select it for its detail.")


def test_rates_that_are_not_known_yet_are_no_fault(shown: Tab, page: Page) -> None:
    state = example()
    state["interval"] = None
    state["flows"] = []
    for row in (*state["groups"], state["totals"]):
        row |= {key: None for key in row if key.endswith("_per_second")}
    page.say(state)
    expect(shown.page.locator("#totals .tile", has_text="Received").locator(".value")).to_have_text("\u2013")
    assert shown.page.locator(".flow:not(.idle)").count() == 0
    assert not re.search("NaN|null|undefined", shown.page.locator("body").inner_text())
