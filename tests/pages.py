"""What tests of pages share: the code blocks and the tables of a page in Markdown."""

import re

from tests.support import ROOT

__all__ = ["blocks", "page", "rows"]


def page(path: str) -> str:
    """The text of the page at ``path``, from the checkout's root."""
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(text: str, language: str = "") -> list[str]:
    """The code blocks in one language; without one, those that name none."""
    # All fences are read in turn: the end of one block would be taken for the beginning of the next otherwise.
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for named, block in found if named == language]


def rows(text: str, header: str) -> list[list[str]]:
    """The cells of the one table whose first heading is ``header``."""
    (table,) = re.findall(rf"(?m)^\| {header} \|.*\n\|[ -|]+\n((?:\|.*\n)+)", text)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
