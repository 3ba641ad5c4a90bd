"""Fixtures for every room."""

from collections.abc import Iterator

import pytest

from tests.support import RunningNode, running_node


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A real node for the tests of one module. What a test leaves on it, the next one meets."""
    with running_node(tmp_path_factory.mktemp("node")) as node:
        yield node
