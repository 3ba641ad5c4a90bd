"""Every code block of the SDK's guide runs on a real node and prints what its comments say."""

import ast
import asyncio
import contextlib
import inspect
import io
import re
import types

import pytest

from tests.pages import blocks, page
from tests.support import RunningNode

GUIDE = page("clients/busclient/README.md")
BLOCKS = blocks(GUIDE, "python")
PROMISE = re.compile(r"# prints: (.*)$", re.MULTILINE)


def test_there_are_blocks() -> None:
    assert len(BLOCKS) == len(re.findall(r"^```\w+", GUIDE, re.MULTILINE)) >= 8


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_block_does_what_it_says(block: str, shared_node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUS_URL", shared_node.url)
    code = compile(block, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()

    async def main() -> None:
        work = types.FunctionType(code, {"__name__": "readme", "asyncio": asyncio})()
        if inspect.iscoroutine(work):
            await asyncio.wait_for(work, 20)

    with contextlib.redirect_stdout(printed):
        asyncio.run(main())
    promised = [line for promise in PROMISE.findall(block) for line in promise.strip().split(", then ")]
    assert printed.getvalue().splitlines() == promised
