"""How the page looks and what it costs: contrast, accessibility, themes, narrow screens, speed; and pictures of it."""

import itertools
import subprocess
import time
from statistics import median
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, expect

from tests.console.browser import Tab, tab
from tests.console.scripted import ALLOWED, Page, State, crowded, empty, example
from tests.support import ROOT, environment, needs

STATIC = ROOT / "busd" / "ops" / "console" / "static"

TEXTS = [
    *itertools.product(("ink", "muted", "accent", "bad", "warn", "good"), ("surface", "ground")),
    *itertools.product(("ink", "accent"), ("raised", "bad-ground", "warn-ground", "good-ground")),
    ("muted", "raised"),
    ("bad", "bad-ground"),
    ("warn", "warn-ground"),
    ("good", "good-ground"),
    ("on-accent", "accent"),
]
"""Text and what it stands on."""

SIGNS = [*itertools.product(("publish", "call", "fault", "edge", "accent", "warn"), ("surface", "ground"))]
"""Lines and borders that mean something, and what they are drawn on (WCAG 2.2, 1.4.11)."""

CONTRAST = """(pairs) => {
  const probe = document.body.appendChild(document.createElement("i"));
  const luminance = (name) => {
    probe.style.color = `var(--${name})`;
    const parts = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map((each) => each / 255);
    const linear = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  return pairs.map(([a, b]) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  });
}"""
"""Contrast ratios as WCAG 2.2 defines them."""

VIEWS = ("map", "census", "flows", "components", "deletion", "cache", "departed", "policy")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_signs_have_enough_contrast(browser: Browser, page: Page, scheme: str) -> None:
    with tab(browser, page.url, color_scheme=scheme) as shown:
        for pairs, least in ((TEXTS, 4.5), (SIGNS, 3.0)):
            found = shown.page.evaluate(CONTRAST, [list(pair) for pair in pairs])
            low = [(pair, round(ratio, 2)) for pair, ratio in zip(pairs, found, strict=True) if ratio < least]
            assert not low, scheme


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.slow
def test_axe_finds_nothing_serious_in_any_view(browser: Browser, page: Page, scheme: str) -> None:
    with tab(browser, page.url, color_scheme=scheme) as shown:
        shown.page.locator('.group[aria-label^="scraper,"]').click()
        expect(shown.page.locator("#detail")).to_contain_text("Endpoint guest-71")
        for view in VIEWS:
            shown.page.click(f"#tab-{view}")
            if view == "census":
                expect(shown.page.locator("#panel-census tbody tr")).to_have_count(50)
            shown.page.evaluate("document.fonts.ready")
            found = Axe().run(shown.page).response["violations"]
            grave = [
                (each["id"], [node["html"][:120] for node in each["nodes"]][:3])
                for each in found
                if each["impact"] in ("serious", "critical")
            ]
            assert not grave, view


def test_there_are_landmarks_headings_and_one_name_for_each(shown: Tab) -> None:
    page = shown.page
    for landmark in (
        "header",
        "main",
        "section[aria-labelledby=problems-title]",
        "section[aria-labelledby=totals-title]",
    ):
        assert page.locator(f"body > {landmark}, .columns > {landmark}").count() == 1, landmark
    expect(page.get_by_role("region", name="Problems 5")).to_be_visible()
    expect(page.get_by_role("tablist", name="Views of the node")).to_be_visible()
    levels = page.locator("h1, h2, h3, h4").evaluate_all("nodes => nodes.map(n => +n.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = page.locator("[id]").evaluate_all("nodes => nodes.map(n => n.id)")
    assert len(ids) == len(set(ids))


def test_the_theme_can_be_chosen_and_is_remembered(shown: Tab) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    assert shown.page.evaluate(ground) == "rgb(243, 245, 248)"
    for _ in range(2):
        shown.page.click("#theme")
    assert shown.page.evaluate(ground) == "rgb(16, 20, 26)"
    shown.page.reload()
    shown.page.wait_for_selector('#live[data-state="live"]')
    assert shown.page.evaluate(ground) == "rgb(16, 20, 26)"
    expect(shown.page.locator("#theme")).to_have_attribute("aria-label", "Theme: dark. Press for the next.")


@pytest.mark.parametrize(("motion", "moves"), [("reduce", False), ("no-preference", True)])
def test_nothing_moves_for_who_does_not_want_it(browser: Browser, page: Page, motion: str, moves: bool) -> None:
    with tab(browser, page.url, reduced_motion=motion) as shown:
        assert bool(shown.page.evaluate("document.getAnimations().length")) == moves


def test_at_390_pixels_all_of_it_can_be_used(browser: Browser, page: Page) -> None:
    with tab(browser, page.url, viewport={"width": 390, "height": 844}, has_touch=True) as shown:
        for view in VIEWS:
            shown.page.locator(f"#tab-{view}").scroll_into_view_if_needed()
            shown.page.click(f"#tab-{view}")
            assert shown.page.evaluate("document.documentElement.scrollWidth") <= 390, view
        shown.page.click("#tab-map")
        shown.page.locator('.group[aria-label^="cache,"]').tap()
        expect(shown.page.locator("#detail-title")).to_have_text("cache")
        expect(shown.page.locator("#detail-title")).to_be_in_viewport()
        shown.check()


def test_every_script_is_valid_for_node() -> None:
    needs("node")
    scripts = sorted(STATIC.glob("*.js"))
    assert len(scripts) > 10
    for script in scripts:
        checked = subprocess.run(
            ["node", "--check", str(script)], capture_output=True, text=True, timeout=60, env=environment(), check=False
        )
        assert checked.returncode == 0, checked.stderr


def test_no_script_makes_markup_of_text() -> None:
    banned = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "DOMParser")
    for script in STATIC.glob("*.js"):
        text = script.read_text()
        assert not [word for word in banned if word in text], script.name
    index = (STATIC / "index.html").read_text()
    assert "style=" not in index
    assert "onclick" not in index
    assert "<script>" not in index


@pytest.mark.alone
def test_with_ten_thousand_endpoints_an_update_takes_less_than_100_ms(browser: Browser, page: Page) -> None:
    state = crowded(400, 800)
    page.say(state)
    updates = 20
    with tab(browser, page.url) as shown:
        chrome = shown.page.context.new_cdp_session(shown.page)
        chrome.send("Performance.enable")
        for view in ("map", "flows", "census"):
            shown.page.click(f"#tab-{view}")
            shown.page.wait_for_timeout(500)
            spent = []
            for number in range(updates):
                for index, each in enumerate(state["groups"]):
                    each["sends_per_second"] = float((index * 37 + number * 101) % 5000)
                for index, flow in enumerate(state["flows"]):
                    flow["per_second"] = float((index * 53 + number * 211) % 20000)
                state["node"]["pid"] = number
                before = _spent(chrome.send("Performance.getMetrics"))
                page.say(state)
                expect(shown.page.locator("#node-facts")).to_contain_text(f"pid {number},")
                spent.append(_spent(chrome.send("Performance.getMetrics")) - before)
            usual = median(spent)
            print(f"{view}: {usual * 1000:.1f} ms of script, style and layout for each update")
            assert usual < 0.1, view
        # The page answers while figures come in.
        shown.page.click("#tab-map")
        begin = time.monotonic()
        shown.page.locator(".group").nth(5).click()
        expect(shown.page.locator("#detail-title")).not_to_have_text("Selected")
        assert time.monotonic() - begin < 3
        shown.check()


def _spent(answer: dict[str, list[dict[str, float]]]) -> float:
    """Seconds that the page's thread has worked so far, but for painting."""
    figures = {str(each["name"]): each["value"] for each in answer["metrics"]}
    return figures["ScriptDuration"] + figures["LayoutDuration"] + figures["RecalcStyleDuration"]


@pytest.mark.slow
def test_pictures_of_the_page_are_kept(browser: Browser, page: Page) -> None:
    pictures: dict[str, tuple[dict[str, Any], State]] = {
        "map-light": ({"color_scheme": "light"}, example()),
        "map-dark": ({"color_scheme": "dark"}, example()),
        "narrow": ({"viewport": {"width": 390, "height": 1600}}, example()),
        "ten-thousand": ({}, crowded(400, 800)),
        "empty": ({}, empty(example())),
    }
    seen = set()
    for name, (options, state) in pictures.items():
        page.say(state)
        with tab(browser, page.url, **options) as shown:
            for number in range(20):  # so that the totals have a past
                state["totals"]["received_per_second"] = (state["totals"]["received_per_second"] or 0) * (
                    1 + number % 3 / 10
                )
                page.say(state)
                shown.page.wait_for_timeout(20)
            seen.add(shown.shot(name))
            shown.check()
    page.say(example())
    page.console.explained = ALLOWED
    with tab(browser, page.url) as shown:
        for view in VIEWS[1:]:
            shown.page.click(f"#tab-{view}")
            if view == "policy":
                shown.page.fill("#policy-endpoint", "guest-71")
                shown.page.fill("#policy-subject", "telemetry.cpu")
                shown.page.keyboard.press("Enter")
            shown.page.wait_for_timeout(300)
            seen.add(shown.shot(view))
        shown.page.click("#tab-map")
        shown.page.locator("#problems-list li").first.get_by_role("button", name="Show").click()
        expect(shown.page.locator("#detail")).to_contain_text("Quotas")
        seen.add(shown.shot("flood"))
    assert len(seen) == len(pictures) + len(VIEWS), "each shows something else"
