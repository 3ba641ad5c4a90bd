"""Chromium of the system, as tests of the page drive it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support import ROOT

SHOTS = ROOT / "test-output" / "console"
"""Where screenshots are kept."""

FLAGS = [
    "--no-sandbox",
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; the test is skipped where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("BUSD_REQUIRE_ALL") == "1":
            pytest.fail("chromium is not installed, and BUSD_REQUIRE_ALL=1 leaves nothing out")
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A tab with the page in it; `check` fails the test if the page said or did anything that it should not."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.faults: list[str] = []
        self.refusals: set[int] = set()
        """Statuses of HTTP that this test provokes."""
        self.unreachable = False
        """Whether this test stops the node."""
        page.on("console", lambda message: self._heard(message.type, message.text))
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("request", lambda request: self._asked(request.url))
        page.add_init_script(WATCH)

    def _heard(self, kind: str, text: str) -> None:
        # A browser reports each refusal as an error, whatever the page does about it.
        provoked = any(f"status of {status} " in text for status in self.refusals)
        provoked = provoked or (self.unreachable and "net::ERR_" in text)
        if kind in ("error", "warning") and not provoked:
            self.faults.append(f"{kind}: {text}")

    def _asked(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "data:")):
            self.faults.append(f"asked {url}")

    def check(self) -> None:
        """No error or warning in the console, nothing that the content security policy had to stop, no other host."""
        assert self.faults == []
        assert self.page.evaluate("window.violations") == []

    def shot(self, name: str) -> bytes:
        """Keep a screenshot of what is seen; it."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        return self.page.screenshot(path=SHOTS / f"{name}.png")


@contextmanager
def tab(browser: Browser, url: str, **options: Any) -> Iterator[Tab]:
    """``url`` in a new tab of a new, empty profile, as soon as the page is live."""
    context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, "reduced_motion": "reduce", **options})
    try:
        opened = Tab(context.new_page())
        opened.page.goto(url)
        opened.page.wait_for_selector('#live[data-state="live"]')
        # Not wait_for_function: from its second try on the page's content security policy stops it.
        expect(opened.page.locator("#node-name")).not_to_have_text("…", timeout=30_000)
        yield opened
    finally:
        context.close()
