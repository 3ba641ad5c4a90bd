"""Where a component is to be called when the program does not say: the environment's word."""

import os
import sys
from pathlib import Path
from typing import Final, Literal

from busproto.errors import BusError, Code
from busproto.limits import NAME_BYTES
from busproto.subjects import check_name

__all__ = ["VARIABLE", "Where", "program", "whereabouts"]

Where = Literal["here", "bus"]

VARIABLE: Final = "BUS_COMPONENTS"
"""``cache=here,*=bus``: NAME=here or NAME=bus, and * for all others."""


def whereabouts(component: str) -> Where | None:
    """Where the environment says that ``component`` is called; None if it says nothing of it.

    Raises BusError 7002 for an entry that cannot be read: a program must not run otherwise than it was told to.
    """
    found: dict[str, Where] = {}
    for entry in os.environ.get(VARIABLE, "").split(","):
        if not entry.strip():
            continue
        name, _, where = (part.strip() for part in entry.partition("="))
        if name != "*" and (reason := check_name(name)) is not None:
            raise _invalid(f"in '{entry.strip()}' the name {reason}, or is *")
        if where not in ("here", "bus"):
            raise _invalid(f"'{entry.strip()}' must end in =here or =bus")
        if name in found:
            raise _invalid(f"'{name}' is there twice")
        found[name] = "here" if where == "here" else "bus"
    return found.get(component, found.get("*"))


def program() -> str:
    """The name of this program, as a manifest may have it."""
    stem = Path(sys.argv[0]).stem if sys.argv and sys.argv[0] else ""
    if stem == "__main__":
        stem = Path(sys.argv[0]).parent.name
    name = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in stem.lower()).strip("-")
    return name[:NAME_BYTES] or "python"


def _invalid(reason: str) -> BusError:
    return BusError(Code.CONFIG_INVALID, key=VARIABLE, where=" in the environment", reason=reason)
