"""The page of a real node to which 10,000 endpoints are attached: it answers, and goes on to."""

import asyncio
import itertools
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest
from playwright.sync_api import Browser, Page, expect

import busclient
from tests.bench.attach import SPARE_DESCRIPTORS
from tests.console.browser import tab
from tests.ops.processes import daemon
from tests.support import ROOT, environment, wait_until

WANTED = 10_000
UPDATES = 8
SECOND = 2.0
"""What "about a second" may be on a machine that does other work as well; the figures are printed."""

pytestmark = pytest.mark.alone


def possible() -> int:
    """How many endpoints can be attached here: the descriptors of a process are bounded."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = WANTED if hard == resource.RLIM_INFINITY else hard - 8 * SPARE_DESCRIPTORS
    return min(WANTED, room)


@contextmanager
def attached(url: str, count: int) -> Iterator[None]:
    """``count`` bare endpoints of one process of their own, until the block ends."""
    command = [sys.executable, str(ROOT / "tests" / "bench" / "attach.py")]
    command += ["--url", url, "--count", str(count), "--hold", "600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as crowd:
        try:
            assert crowd.stdout is not None
            said = crowd.stdout.readline()
            assert said, f"attach.py ended with status {crowd.wait(10)}"
            print(said.strip())
            yield
        finally:
            crowd.kill()


@contextmanager
def traffic(url: str) -> Iterator[None]:
    """Two agents that talk to each other a few hundred times a second, until the block ends."""
    over = threading.Event()

    async def talk() -> None:
        why = "so that something flows"
        async with (
            busclient.connect(url, component="talker", owner="house", purpose=why) as talker,
            busclient.connect(url, component="listener", owner="house", purpose=why) as listener,
            listener.subscribe("talk.>", gaps="yield") as heard,
        ):

            async def listen() -> None:
                async for _ in heard:
                    pass

            listening = asyncio.create_task(listen())
            while not over.is_set():
                for _ in range(20):
                    await talker.publish("talk.a", b"x" * 50)
                await asyncio.sleep(0.05)
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(talk()))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)
        assert not thread.is_alive()


def timed(what: str, act: Callable[[], object]) -> float:
    """Do ``act``; the seconds that it took, which are printed."""
    begin = time.monotonic()
    act()
    took = time.monotonic() - begin
    print(f"{what}: {took:.2f} s")
    return took


def updates(page: Page, number: int) -> list[float]:
    """Wait for so many new documents; the seconds from one to the next."""
    facts = page.locator("#node-facts")
    seen = [time.monotonic()]
    for _ in range(number):
        text = facts.inner_text()
        expect(facts).not_to_have_text(text, timeout=15_000)
        seen.append(time.monotonic())
    return [after - before for before, after in itertools.pairwise(seen)]


def test_with_ten_thousand_endpoints_attached_to_a_real_node_the_page_stays_usable(
    browser: Browser, tmp_path: Path
) -> None:
    count = possible()
    if count < WANTED:
        print(f"only {count} endpoints: the limit of descriptors (ulimit -Hn) leaves no room for more")
    took: dict[str, float] = {}
    with daemon(tmp_path / "run", loop="uvloop") as node:
        url = f"unix://{node.run_dir}/host.sock"
        with attached(url, count), traffic(url):
            with tab(browser, node.started["http"]) as shown:
                page = shown.page

                def viewers() -> int:
                    return int(json.loads(node.get("/statusz")[1])["http"]["viewers"])

                def open_page() -> None:
                    page.goto(node.started["http"])
                    page.wait_for_selector('#live[data-state="live"]')

                page.goto("about:blank")
                wait_until(lambda: viewers() == 0, what="nothing to be collected any more")
                took["the page and the first document"] = timed("the page and the first document", open_page)
                attached_now = page.locator("#totals .tile", has_text="Endpoints").locator(".value")
                assert int(attached_now.inner_text().replace(",", "")) >= count
                between = updates(page, UPDATES)
                print(f"from one update to the next: {', '.join(f'{each:.2f}' for each in between)} s")
                assert median(between) < SECOND

                rows = page.locator("#panel-census tbody tr")
                status = page.locator("#panel-census .status")

                def open_census() -> None:
                    page.click("#tab-census")
                    expect(rows).to_have_count(50)

                def search() -> None:
                    page.fill("#search", "LISTENER")
                    expect(rows).to_have_count(1)

                def search_many() -> None:
                    page.fill("#search", "bench-attach")
                    expect(status).to_contain_text(f"of {count:,}")

                def turn() -> None:
                    page.get_by_role("button", name="Next", exact=True).click()
                    expect(status).to_contain_text("51 to 100 of")

                def sort() -> None:
                    page.get_by_role("button", name="Received", exact=True).click()
                    expect(page.locator('th[aria-sort="descending"]')).to_have_text("Received")

                def detail() -> None:
                    rows.first.get_by_role("button").click()
                    expect(page.locator("#detail")).to_contain_text("Principal")

                def group() -> None:
                    page.click("#tab-map")
                    page.locator('.group[aria-label^="bench-attach,"]').click()
                    expect(page.locator("#detail .members button").first).to_be_visible()

                took["the census"] = timed("the census", open_census)
                took["a search that finds one"] = timed("a search that finds one", search)
                took["a search that finds all"] = timed("a search that finds all", search_many)
                took["the next page"] = timed("the next page", turn)
                took["sorted by another column"] = timed("sorted by another column", sort)
                took["one endpoint's detail"] = timed("one endpoint's detail", detail)
                took["a group of all of them"] = timed("a group of all of them", group)
                assert median(updates(page, 3)) < SECOND, "figures came all the time, and still do"
                shown.check()
            slow = {what: seconds for what, seconds in took.items() if seconds > SECOND}
            assert not slow
