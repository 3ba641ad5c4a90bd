"""Write ``busproto/codes.py`` from ``errors.json``. Run: ``python schemas/generate.py`` (``--check`` only compares)."""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
TARGET = HERE / "busproto" / "codes.py"

HEAD = '''"""Error codes. Generated from schemas/errors.json by schemas/generate.py; edit that file, not this one."""

from enum import IntEnum
from typing import Final, NamedTuple


class Entry(NamedTuple):
    """One error of ``errors.json``."""

    number: int
    name: str
    blame: str
    retryable: bool
    text: str
    cure: str


'''


def render(source: str) -> str:
    """The Python module for the JSON text ``source``."""
    errors = json.loads(source)["errors"]
    members = "\n".join(f"    {e['name'].upper().replace('-', '_')} = {e['number']}" for e in errors)
    rows = "\n".join(
        f"    Entry(\n        {e['number']},\n        {quote(e['name'])},\n        {quote(e['blame'])},\n"
        f"        {e['retryable']},\n        {quote(e['text'])},\n        {quote(e['cure'])},\n    ),"
        for e in errors
    )
    return (
        HEAD
        + 'class Code(IntEnum):\n    """Every error number, by name."""\n\n'
        + members
        + "\n\n\n# fmt: off\n_ROWS: Final = (\n"
        + rows
        + "\n)\n# fmt: on\n\nENTRIES: Final[dict[int, Entry]] = {entry.number: entry for entry in _ROWS}\n"
    )


def quote(text: str) -> str:
    """``text`` as a Python literal in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def main() -> int:
    text = render((HERE / "errors.json").read_text(encoding="utf-8"))
    if "--check" in sys.argv:
        return 0 if TARGET.read_text(encoding="utf-8") == text else 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
