"""The browser, and the page of a node that is made up."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.console.browser import Tab, chromium, tab
from tests.console.scripted import Page, example, served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for the tests of one module; each tab has a profile of its own."""
    with chromium() as opened:
        yield opened


@pytest.fixture
def page() -> Iterator[Page]:
    """Where the page is served; the node says what `example` has."""
    with served(example()) as started:
        yield started


@pytest.fixture
def shown(browser: Browser, page: Page) -> Iterator[Tab]:
    """The page in a tab of 1440 by 900. At the end it must have done nothing that it should not."""
    with tab(browser, page.url) as opened:
        yield opened
        opened.check()
