"""The page of a real node: a guest floods it, and an operator who has only the page finds it and cuts it off."""

import asyncio
import json
import re
import shlex
import threading
import urllib.request
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

import busclient
from busproto.errors import Code
from tests.clients.cli_support import Cli
from tests.console.browser import tab
from tests.console.scripted import example
from tests.ops.processes import daemon


@contextmanager
def beside(work: "Work") -> Iterator[None]:
    """Run ``work`` in a thread until the block ends."""
    thread = threading.Thread(target=lambda: asyncio.run(work.run()))
    thread.start()
    try:
        work.begun.wait(30)
        yield
    finally:
        work.over.set()
        thread.join(30)
        assert not thread.is_alive()


class Work:
    """Agents in one guest: one floods, one gets all of it, and one says nothing of itself."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.begun = threading.Event()
        self.over = threading.Event()
        self.flooder = ""
        self.cut_off: dict[str, int] = {}

    async def run(self) -> None:
        agents = {"reader": self._read(), "nameless": self._greet(), "scraper": self._flood()}
        await asyncio.gather(*(self._told(name, agent) for name, agent in agents.items()))

    async def _told(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work``, and note who was cut off."""
        try:
            await work
        except busclient.BusError as error:
            self.cut_off[name] = error.code

    async def _read(self) -> None:
        async with (
            busclient.connect(self.url, component="reader", owner="acme-sre", purpose="reads", reconnect=False) as bus,
            bus.subscribe("prices.>", gaps="yield") as prices,
        ):
            while not self.over.is_set():
                await anext(aiter(prices))

    async def _greet(self) -> None:
        async with busclient.connect(self.url, reconnect=False) as bus:
            while not self.over.is_set():
                await bus.publish("hello.there", 1)
                await asyncio.sleep(0.1)

    async def _flood(self) -> None:
        claims = {"component": "scraper", "owner": "acme-sre", "purpose": "<img src=x> collects"}
        async with busclient.connect(self.url, reconnect=False, **claims) as bus:
            self.flooder = (await bus.call("$bus.ping", timeout=5)).payload["endpoint"]
            self.begun.set()
            while not self.over.is_set():
                for _ in range(500):
                    await bus.publish("prices.oil", b"x" * 100)
                await asyncio.sleep(0)


def document(url: str) -> dict[str, Any]:
    """The first state that the node says which has rates."""
    with urllib.request.urlopen(f"{url}/console/events", timeout=20) as stream:
        for line in stream:
            if line.startswith(b"data: ") and (state := json.loads(line[6:]))["interval"] is not None:
                return dict(state)
    raise AssertionError("the stream ended")


def test_the_made_up_node_says_what_a_real_one_says(tmp_path: Path) -> None:
    with daemon(tmp_path / "run", "--components", "telemetry") as node:
        real = document(node.started["http"])
    made_up = example()
    assert real.keys() == made_up.keys()
    for part in ("node", "totals", "left_out"):
        assert real[part].keys() == made_up[part].keys(), part
    assert real["groups"][0].keys() == made_up["groups"][0].keys()
    assert real["components"][0].keys() >= made_up["components"][0].keys()


def test_the_page_says_that_the_node_has_stopped_and_is_live_again_when_it_is_back(
    browser: Browser, tmp_path: Path
) -> None:
    with daemon(tmp_path / "run") as node:
        address = node.started["http"]
        with tab(browser, address) as shown:
            shown.unreachable = True
            shown.refusals.add(503)  # while it is stopping
            before = shown.page.locator("#node-facts").inner_text().split("pid ")[1].split(",")[0]
            node.end()
            banner = shown.page.locator("#banner")
            expect(banner).to_contain_text("The node does not answer: it has stopped, or the way to it", timeout=10_000)
            with daemon(tmp_path / "run", listen=address.removeprefix("http://")):
                expect(shown.page.locator("#live")).to_have_attribute("data-state", "live", timeout=20_000)
                expect(banner).to_be_hidden()
                expect(shown.page.locator("#node-facts")).not_to_contain_text(f"pid {before},")
                shown.check()


@pytest.mark.alone
def test_an_operator_finds_who_floods_and_whose_it_is_and_cuts_it_off(browser: Browser, tmp_path: Path) -> None:
    with daemon(tmp_path / "run", "--manifest", "allow", "--components", "telemetry") as node:
        cli = Cli(node.started["socket"])
        (row,) = cli.records("guest", "add", "vm-7", "--tenant", "acme", "--socket", f"{tmp_path}/v")
        work = Work(f"unix://{row['address']}")
        with beside(work), tab(browser, node.started["http"]) as shown:
            page = shown.page
            problem = page.locator("#problems-list li", has_text="scraper").first
            expect(problem).to_contain_text("With the block all of unit vm-7 stays out", timeout=20_000)
            expect(problem).to_contain_text("acme-sre", timeout=20_000)
            problem.get_by_role("button", name=f"Show {work.flooder}").click()
            detail = page.locator("#detail")
            expect(page.locator("#detail-title")).to_have_text(work.flooder)
            expect(detail).to_contain_text("<img src=x> collects")
            expect(detail).to_contain_text("vm-7, generation 1")
            label = re.compile("scraper, unit vm-7 of acme, guest")
            expect(page.locator(".group.selected")).to_have_attribute("aria-label", label, timeout=10_000)
            expect(detail.locator(".flow-list")).to_contain_text("publish prices.>")
            # The one beside it says nothing, and that can be seen.
            nameless = page.locator('.group.unowned[aria-label^="says nothing, unit vm-7"]')
            expect(nameless).to_have_count(1)
            # The page sees itself: whoever looks has a session of the node's own.
            expect(page.locator('.group[aria-label^="console,"]')).to_have_count(1, timeout=10_000)
            expect(page.locator("#tab-components")).to_contain_text("1")
            shown.shot("flood-real-node")

            page.click("#tab-policy")
            expect(page.locator("#policy-endpoint")).to_have_value(work.flooder)
            page.fill("#policy-subject", "prices.oil")
            page.keyboard.press("Enter")
            expect(page.locator("#panel-policy .verdict")).to_have_text("Allowed: publish prices.oil")

            command = problem.locator("code").inner_text()
            program, *words = shlex.split(command)
            assert program == "bus"
            shown.refusals.add(404)  # the page asks once more for who is gone
            ended = cli(*words, "--yes")  # on a terminal it asks
            assert ended.returncode == 0, ended.stderr.decode()
            expect(problem).to_be_hidden(timeout=20_000)
            page.click("#tab-departed")
            expect(page.locator("#panel-departed tbody tr", has_text=work.flooder)).to_have_count(1, timeout=10_000)
            page.click("#tab-census")
            expect(page.locator("#panel-census")).to_contain_text("supervisor", timeout=10_000)
            expect(page.locator("#panel-census tbody tr", has_text=work.flooder)).to_have_count(0, timeout=10_000)
            shown.check()
        # With --block all of the unit is. Whoever is busy sending may not hear why.
        assert work.cut_off.keys() == {"reader", "nameless", "scraper"}
        assert work.cut_off["reader"] == Code.DISCONNECTED
        assert work.cut_off["scraper"] in (Code.DISCONNECTED, Code.NOT_CONNECTED)
