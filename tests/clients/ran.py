"""One command line of ``bus``, run in the test's own process, and what came of it."""

import json
from typing import Any

import pytest

from buscli.__main__ import main

__all__ = ["Ran"]


class Ran:
    """What ``bus`` with these words printed, and its exit status."""

    def __init__(self, capsysbinary: pytest.CaptureFixture[bytes], *words: str) -> None:
        self.code = main(list(words))
        self.raw, err = capsysbinary.readouterr()
        self.err = err.decode()

    @property
    def out(self) -> str:
        """Standard output as text."""
        return self.raw.decode()

    @property
    def records(self) -> list[Any]:
        """The JSON lines that it printed."""
        return [json.loads(line) for line in self.out.splitlines()]
