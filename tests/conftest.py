"""Fixtures for every room."""

import signal
from collections.abc import Iterator

import pytest

from tests.support import RunningNode, running_node


def pytest_configure() -> None:
    """Ctrl-C is heard, by the tests and by what they start: a shell's background jobs are begun with it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with slow tests first: a process that gets one last keeps the others waiting for it."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A real node for the tests of one module. What a test leaves on it, the next one meets."""
    with running_node(tmp_path_factory.mktemp("node")) as node:
        yield node
