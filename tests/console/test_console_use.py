"""Using the page: keyboard, search, detail, commands, and what it says when the node is silent."""

import pytest
from playwright.sync_api import Browser, expect

from tests.console.browser import Tab, tab
from tests.console.scripted import ALLOWED, Page, crowded, example
from tests.support import wait_until

FOCUSED = """() => {
  const element = document.activeElement;
  return element.getAttribute("aria-label") || element.id || element.textContent;
}"""


def focused(shown: Tab) -> str:
    text: str = shown.page.evaluate(FOCUSED)
    return text


def test_tab_leads_through_all_of_it_and_into_the_drawing_once(shown: Tab) -> None:
    order = []
    for _ in range(60):
        shown.page.keyboard.press("Tab")
        if shown.page.evaluate("document.activeElement === document.body"):
            break
        order.append(focused(shown))
    assert order[:5] == [
        "Skip to the views of the node",
        "pause",
        "Theme: auto. Press for the next.",
        "Show guest-71",
        "Copy: bus disconnect guest-71 --block 10m",
    ]
    assert [each for each in order if each.startswith("tab-")] == ["tab-map"]
    groups = [each for each in order if ", unit " in each]
    assert len(groups) == 1
    assert groups[0].startswith("agent, unit vm-1 of acme, guest")
    assert shown.page.evaluate("document.activeElement === document.body"), "Tab is caught somewhere"


def test_arrow_keys_move_in_the_drawing_enter_selects_and_escape_closes(shown: Tab) -> None:
    keyboard = shown.page.keyboard
    shown.page.locator('.group[aria-label^="agent, unit vm-1 of acme"]').focus()
    for key, label in [
        ("ArrowDown", "backup, unit vm-7"),
        ("ArrowRight", "metrics, unit vm-7"),
        ("ArrowRight", "scraper, unit vm-7"),
    ]:
        keyboard.press(key)
        assert focused(shown).startswith(label)
    keyboard.press("ArrowRight")
    assert ", host" in focused(shown), "the next to the right is beyond the bus"
    keyboard.press("ArrowLeft")
    assert ", guest" in focused(shown)
    keyboard.press("Home")
    assert focused(shown).startswith("agent, unit vm-1 of acme")
    keyboard.press("ArrowDown")
    keyboard.press("Enter")
    expect(shown.page.locator("#detail-title")).to_have_text("backup")
    expect(shown.page.locator('.group[aria-pressed="true"]')).to_have_count(1)
    assert shown.page.evaluate("getComputedStyle(document.activeElement.querySelector('.box')).strokeWidth") == "3px"
    keyboard.press("Escape")
    expect(shown.page.locator("#detail-title")).to_have_text("Selected")
    expect(shown.page.locator('.group[aria-pressed="true"]')).to_have_count(0)


def test_views_are_tabs_for_the_keyboard_and_the_address_names_the_one_that_is_shown(shown: Tab) -> None:
    page = shown.page
    page.locator("#tab-map").focus()
    page.keyboard.press("ArrowRight")
    assert focused(shown) == "tab-census"
    assert page.url.endswith("#census")
    expect(page.locator("#panel-census")).to_be_visible()
    expect(page.locator("#panel-map")).to_be_hidden()
    page.keyboard.press("End")
    assert focused(shown) == "tab-policy"
    page.reload()
    expect(page.locator("#tab-policy")).to_have_attribute("aria-selected", "true")


def test_slash_goes_to_the_search_which_the_node_does(shown: Tab, page: Page) -> None:
    shown.page.keyboard.press("/")
    assert focused(shown) == "search"
    shown.page.keyboard.type("scraper")
    rows = shown.page.locator("#panel-census tbody tr")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("guest-71")
    assert page.console.asked[-1].text == "scraper"
    expect(shown.page.locator("#panel-census .status")).to_have_text("1 to 1 of 1 (of 173 attached)")
    shown.page.fill("#search", "nobody at all")
    expect(shown.page.locator("#panel-census")).to_contain_text("Nobody fits.")


def test_the_census_is_sorted_and_turned_by_the_node_and_finds_those_who_do_not_say_whose_they_are(
    shown: Tab, page: Page
) -> None:
    shown.page.click("#tab-census")
    rows = shown.page.locator("#panel-census tbody tr")
    expect(rows).to_have_count(50)
    shown.page.get_by_role("button", name="Received", exact=True).click()
    expect(rows.first).to_contain_text("guest-71")
    assert (page.console.asked[-1].sort, page.console.asked[-1].descending) == ("received_messages", True)
    expect(shown.page.locator('th[aria-sort="descending"]')).to_have_text("Received")
    shown.page.get_by_role("button", name="Next", exact=True).click()
    expect(shown.page.locator("#panel-census .status")).to_have_text("51 to 100 of 173")
    assert page.console.asked[-1].offset == 50
    shown.page.check("#unowned")
    expect(rows).to_have_count(5)
    assert page.console.asked[-1].unowned
    assert page.console.asked[-1].offset == 0
    expect(rows.first).to_contain_text("not said")
    shown.page.select_option("#boundary", "guest")
    expect(rows).to_have_count(2)


def test_the_detail_keeps_what_is_proven_apart_from_what_is_claimed(shown: Tab) -> None:
    shown.page.locator('.group[aria-label^="backup, unit vm-7 of acme"]').click()
    detail = shown.page.locator("#detail")
    expect(detail).to_contain_text("Endpoint guest-72")
    headings = detail.locator("h4").all_inner_texts()
    assert headings == ["Principal: proven to the bus", "Claims: said by itself", "Quotas: used of what it may have"]
    principal, claims = (
        detail.locator(f"h4:has-text('{word}') + div").inner_text() for word in ("Principal", "Claims")
    )
    assert "vm-7, generation 2" in principal
    assert "acme" in principal
    assert "backup" not in principal
    assert "backup" in claims
    assert "acme-sre" in claims
    bar = detail.locator('[role="meter"][aria-label="outbox bytes"]')
    assert bar.get_attribute("aria-valuetext") == "32.0 MiB of 32.0 MiB"
    assert bar.get_attribute("data-level") == "full"
    fill = bar.locator(".fill").bounding_box()
    whole = bar.bounding_box()
    assert fill is not None
    assert whole is not None
    assert fill["width"] > 0.95 * whole["width"]
    expect(detail).to_contain_text("31,003/s")
    detail.locator("summary", has_text="Subscriptions").click()
    expect(detail.locator("details[open]")).to_contain_text("prices.>")
    expect(detail.locator("code").first).to_be_visible()


def test_an_endpoint_among_others_of_its_group_shows_its_own_flows(browser: Browser, page: Page) -> None:
    page.say(crowded(60, 200))
    with tab(browser, page.url) as shown:
        shown.page.locator('.group[aria-label^="agent-55,"]').click()
        detail = shown.page.locator("#detail")
        expect(detail.locator("h3", has_text="Flows now")).to_be_visible()
        detail.get_by_role("button", name="guest-4055").click()
        expect(detail.locator("h3", has_text="Flows of guest-4055")).to_be_visible()
        lines = [" ".join(text.split()) for text in detail.locator(".flow-list li").all_inner_texts()]
        assert lines == [
            "to cache, host (host-2) call cache.> 4.0/s",
            "to collector, host (host-3) publish own.> 12 so far",
            "to host-9, which left publish own.> 1 so far",
            "to the bus call $bus.ping 7 so far",
        ]
        page.say(page.console.state)  # the group's do not come back with the next figures
        shown.page.wait_for_timeout(300)
        expect(detail.locator("h3", has_text="Flows now")).to_have_count(0)
        shown.check()


def test_a_group_in_a_unit_of_thousands_lists_its_own_endpoints(browser: Browser, page: Page) -> None:
    state = crowded(60, 10)
    state["groups"][0]["endpoints"] = 3000  # of the unit "host", as is the group that is looked for
    page.say(state)
    with tab(browser, page.url) as shown:
        shown.page.locator('.group[aria-label^="agent-39,"]').click()
        expect(shown.page.locator("#detail .members button")).to_have_count(25)
        asked = page.console.asked[-1]
        assert (asked.unit, asked.component) == ("host", "agent-39")
        shown.check()


def test_who_comes_again_takes_the_place_of_who_left_in_the_detail_of_its_group(shown: Tab, page: Page) -> None:
    shown.page.locator('.group[aria-label^="backup, unit vm-7 of acme"]').click()
    detail = shown.page.locator("#detail")
    expect(detail).to_contain_text("Endpoint guest-72")
    shown.refusals.add(404)
    state = example()
    found = next(each for each in state["groups"] if each["id"] == "g42")
    found["id"] = "g400"  # and so another endpoint's name
    shown.page.wait_for_timeout(2100)
    page.say(state)
    expect(detail).to_contain_text("guest-72 is not attached any more")
    shown.page.wait_for_timeout(2100)
    page.say(state)
    expect(detail).to_contain_text("Endpoint guest-1400")


def test_what_is_open_or_focused_in_the_detail_stays_so_when_figures_change(shown: Tab, page: Page) -> None:
    shown.page.locator('.group[aria-label^="scraper,"]').click()
    shown.page.locator("#detail summary", has_text="Subscriptions").click()
    state = example()
    for number in range(2):
        shown.page.wait_for_timeout(2100)  # the detail is asked for again after two seconds
        state["groups"][0]["sends_per_second"] = 50_000.0 + number
        page.say(state)
        expect(shown.page.locator("#detail")).to_contain_text(f"50,00{number}/s")
    expect(shown.page.locator("#detail details[open]")).to_have_count(1)
    assert shown.page.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_a_flood_leads_from_the_problem_to_the_endpoint_and_the_command_that_ends_it(shown: Tab, page: Page) -> None:
    context = shown.page.context
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=page.url)
    worst = shown.page.locator("#problems-list li").first
    expect(worst).to_have_attribute("data-severity", "critical")
    expect(worst).to_contain_text("48,211")
    worst.get_by_role("button", name="Copy").click()
    expect(worst.get_by_role("button", name="Copy")).to_have_text("Copied")
    assert shown.page.evaluate("navigator.clipboard.readText()") == example()["problems"][0]["command"]
    worst.get_by_role("button", name="Show guest-71").click()
    expect(shown.page.locator("#detail-title")).to_have_text("guest-71")
    expect(shown.page.locator("#detail")).to_contain_text("acme-sre")
    selected = shown.page.locator(".group.selected")
    expect(selected).to_have_attribute("aria-label", "scraper, unit vm-7 of acme, guest, throttled")


def test_problems_that_differ_in_a_figure_only_are_all_shown_and_those_without_an_owner_are_one_press_away(
    shown: Tab, page: Page
) -> None:
    state = example()
    twins = [f"user {uid} goes beyond its rates (bytes) and is read more slowly" for uid in (1000, 1001)]
    state["problems"] += [{"severity": "warning", "text": text, "command": "bus list --accounts"} for text in twins]
    page.say(state)
    items = shown.page.locator("#problems-list li")
    expect(items).to_have_count(7)
    for text in twins:
        expect(items.filter(has_text=text)).to_have_count(1)
    items.filter(has_text="do not say whose").get_by_role("button", name="Show them").click()
    expect(shown.page.locator("#unowned")).to_be_checked()


def test_a_command_can_be_taken_without_a_right_to_the_clipboard(shown: Tab) -> None:
    shown.page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('denied')); }")
    worst = shown.page.locator("#problems-list li").first
    worst.get_by_role("button", name="Copy").click()
    expect(worst.get_by_role("button", name="Copy")).to_have_text("Selected")
    assert shown.page.evaluate("getSelection().toString()") == example()["problems"][0]["command"]


def test_only_new_problems_are_announced_and_figures_alone_are_not_news(shown: Tab, page: Page) -> None:
    live = shown.page.locator("[aria-live]")
    assert live.count() == 1
    expect(live).to_have_text("5 problems")
    state = example()
    state["problems"][2]["text"] = state["problems"][2]["text"].replace("31,003", "29,871")
    page.say(state)
    expect(shown.page.locator("#problems-list")).to_contain_text("29,871")
    expect(live).to_have_text("5 problems")
    fresh = {"severity": "critical", "text": "the audit log cannot be written", "command": "bus audit verify"}
    state["problems"].insert(0, fresh)
    page.say(state)
    expect(live).to_have_text("Critical: the audit log cannot be written")


def test_a_lost_connection_is_seen_and_the_page_comes_back_by_itself(shown: Tab, page: Page) -> None:
    shown.refusals.add(503)
    page.console.refuses = True
    page.do(page.console.cut)
    live = shown.page.locator("#live")
    expect(live).to_have_attribute("data-state", "lost")
    expect(shown.page.locator("#live-text")).to_have_text("Reconnecting")
    expect(shown.page.locator("#banner")).to_contain_text(
        "The node refuses: 8 look already; close another page of the console. Trying again. What is shown is of"
    )
    page.console.refuses = False
    expect(live).to_have_attribute("data-state", "live", timeout=10_000)
    expect(shown.page.locator("#banner")).to_be_hidden()


def test_a_node_that_says_nothing_for_five_seconds_is_not_shown_as_live(shown: Tab) -> None:
    expect(shown.page.locator("#live")).to_have_attribute("data-state", "late", timeout=8000)
    expect(shown.page.locator("#banner")).to_contain_text("The node is silent")


def test_pause_while_it_tries_again_is_the_end_of_trying(shown: Tab, page: Page) -> None:
    shown.refusals.add(503)
    page.console.refuses = True
    page.do(page.console.cut)
    expect(shown.page.locator("#banner")).to_contain_text("8 look already")
    shown.page.click("#pause")
    page.console.refuses = False
    shown.page.wait_for_timeout(1500)  # longer than it would have waited
    expect(shown.page.locator("#live-text")).to_have_text("Paused")
    assert page.console.viewers == 0


def test_pause_ends_the_stream_and_going_on_takes_it_up_again(shown: Tab, page: Page) -> None:
    assert page.console.viewers == 1
    shown.page.click("#pause")
    expect(shown.page.locator("#live-text")).to_have_text("Paused")
    state = example()
    state["node"]["name"] = "later"
    page.say(state)  # the node notices when it writes
    wait_until(lambda: page.console.viewers == 0, what="the stream to end: nobody looks")
    expect(shown.page.locator("#node-name")).to_have_text("edge-17")
    shown.page.keyboard.press("p")
    expect(shown.page.locator("#node-name")).to_have_text("later")
    expect(shown.page.locator("#live-text")).to_have_text("Live")


def test_policy_is_explained_with_the_rule_that_decides(shown: Tab, page: Page) -> None:
    page.console.explained = ALLOWED
    shown.page.locator("#problems-list li").first.get_by_role("button", name="Show guest-71").click()
    shown.page.click("#tab-policy")
    expect(shown.page.locator("#policy-endpoint")).to_have_value("guest-71")
    shown.page.fill("#policy-subject", "telemetry.cpu")
    shown.page.keyboard.press("Enter")
    answer = shown.page.locator("#panel-policy .answer")
    expect(answer.locator(".verdict")).to_have_text("Allowed: publish telemetry.cpu")
    for text in (ALLOWED["rule"], ALLOWED["advice"], ALLOWED["exports"][0], "it comes after the one that decided"):
        expect(answer).to_contain_text(text)
    page.console.explained = {**ALLOWED, "allowed": False, "rule": None, "where": "", "reason": "no rule matches"}
    shown.page.keyboard.press("Enter")
    expect(answer.locator(".verdict")).to_have_text("Denied: publish telemetry.cpu")
    expect(answer).to_contain_text("no rule matches")
    page.console.explained = None
    shown.refusals.add(400)
    shown.page.keyboard.press("Enter")
    expect(answer).to_have_text("no endpoint is called 'guest-71'")


def test_jobs_caches_components_and_departures_are_shown(shown: Tab, page: Page) -> None:
    page.console.left = [
        {"endpoint": "guest-5", "principal": {"boundary": "guest", "tenant": "acme", "unit": "vm-2"},
         "claims": {"component": "agent", "owner": "acme-sre"}, "reason": "protocol-error",
         "error": {"code": 1002, "text": "the frame is too long"}, "seconds": 61.0, "ago": 12.0,
         "received_messages": 7, "delivered_messages": 1234, "lost_messages": 2}
    ]  # fmt: skip
    shown.page.click("#tab-deletion")
    jobs = shown.page.locator("#panel-deletion tbody tr")
    expect(jobs).to_have_count(4)
    expect(jobs.first).to_contain_text("36 %")
    assert abs(float(jobs.first.locator("progress").get_attribute("value") or 0) - 1482113 / 4100204) < 0.001
    assert jobs.nth(1).locator("progress").get_attribute("value") is None, "nobody knows how much there is"
    shown.page.click("#tab-cache")
    expect(shown.page.locator("#panel-cache tbody tr").first).to_contain_text("63.8 MiB of 64.0 MiB")
    shown.page.click("#tab-components")
    expect(shown.page.locator("#tab-components")).to_contain_text("1 failed")
    expect(shown.page.locator("#panel-components")).to_contain_text("failed: ended 5 times in 60 s")
    shown.page.click("#tab-departed")
    left = shown.page.locator("#panel-departed tbody tr")
    expect(left).to_have_count(1)
    for text in ("guest-5", "12 s ago", "protocol-error: the frame is too long", "vm-2 of acme", "1,234"):
        expect(left).to_contain_text(text)


def test_a_group_of_many_lists_its_endpoints(browser: Browser, page: Page) -> None:
    page.say(crowded(60, 10))
    with tab(browser, page.url) as shown:
        shown.page.locator('.group[aria-label^="agent-55,"]').click()
        members = shown.page.locator("#detail .members button")
        expect(members).to_have_count(25)
        members.filter(has_text="guest-4055").click()
        expect(shown.page.locator("#detail h3", has_text="Endpoint guest-4055")).to_be_visible()
        shown.check()


@pytest.mark.parametrize("gone", [True, False])
def test_who_left_is_said_to_have_left_when_its_detail_is_asked_for(shown: Tab, page: Page, gone: bool) -> None:
    if gone:
        page.do(lambda: page.console.state["groups"].clear())
    shown.page.locator('.group[aria-label^="backup, unit vm-7 of acme"]').click()
    if gone:
        shown.refusals.add(404)
        worst = shown.page.locator("#problems-list li").first
        worst.get_by_role("button", name="Show guest-71").click()
        expect(shown.page.locator("#detail")).to_contain_text("guest-71 is not attached any more")
    else:
        expect(shown.page.locator("#detail")).to_contain_text("Endpoint guest-72")
