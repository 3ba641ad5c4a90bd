"""Write ``busproto/codes.py`` and ``busproto/entries.py`` from ``errors.json``.

Run: ``python schemas/generate.py`` (``--check`` only compares).
"""

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TARGETS = HERE / "busproto"

ORIGIN = "Generated from schemas/errors.json by schemas/generate.py; edit that file, not this one."

CODES = '''"""Error codes. {origin}"""

from enum import IntEnum

from busproto.entries import ENTRIES, Entry

__all__ = ["ENTRIES", "Code", "Entry"]


class Code(IntEnum):
    """Every error number, by name."""

{members}
'''

ENTRIES = '''"""What each error says. {origin}"""

# ruff: noqa: E501  (one text, one line)

from typing import Final, NamedTuple

__all__ = ["ENTRIES", "Entry"]


class Entry(NamedTuple):
    """One error of ``errors.json``."""

    number: int
    name: str
    blame: str
    retryable: bool
    text: str
    cure: str


# fmt: off
_ROWS: Final = (
{rows}
)
# fmt: on

ENTRIES: Final[dict[int, Entry]] = {{entry.number: entry for entry in _ROWS}}
'''


def render(source: str) -> dict[str, str]:
    """The Python modules for the JSON text ``source``, by file name."""
    errors = json.loads(source)["errors"]
    members = "\n".join(f"    {e['name'].upper().replace('-', '_')} = {e['number']}" for e in errors)
    rows = "\n".join(row(error) for error in errors)
    return {
        "codes.py": CODES.format(origin=ORIGIN, members=members),
        "entries.py": ENTRIES.format(origin=ORIGIN, rows=rows),
    }


def row(error: dict[str, Any]) -> str:
    """One error as an ``Entry`` of Python."""
    facts = f"{error['number']}, {quote(error['name'])}, {quote(error['blame'])}, {error['retryable']}"
    return f"    Entry(\n        {facts},\n        {quote(error['text'])},\n        {quote(error['cure'])},\n    ),"


def quote(text: str) -> str:
    """``text`` as a Python literal in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def main() -> int:
    modules = render((HERE / "errors.json").read_text(encoding="utf-8"))
    if "--check" in sys.argv:
        return int(any((TARGETS / name).read_text(encoding="utf-8") != text for name, text in modules.items()))
    for name, text in modules.items():
        (TARGETS / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
