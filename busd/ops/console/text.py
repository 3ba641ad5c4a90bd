"""Strings that others chose, made harmless before they are shown: bounded, and without control characters."""

from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

__all__ = ["CHARACTERS", "ITEMS", "clean", "shown"]

CHARACTERS: Final = 128
"""Of one string."""

ITEMS: Final = 200
"""Of one list or map."""

DEPTH: Final = 8
"""Of lists and maps in each other: nothing here has more."""

REPLACED: Final = "\ufffd"
"""In place of what cannot be printed: control characters, and those that turn the direction of what follows."""


def shown(text: str, limit: int = CHARACTERS) -> str:
    """``text`` in at most ``limit`` characters, none of which can move, hide or turn others."""
    cut = text if len(text) <= limit else f"{text[: limit - 1]}\u2026"
    return cut if cut.isprintable() else "".join(c if c.isprintable() else REPLACED for c in cut)


def clean(value: Any, limit: int = CHARACTERS, depth: int = DEPTH) -> Any:
    """``value`` as JSON can hold it: strings as `shown`, lists and maps with at most 200 items, eight levels deep."""
    if isinstance(value, str):
        return shown(value, limit)
    if isinstance(value, float):
        return value if value - value == 0.0 else None  # JSON has no infinity, and a browser's parser would stop at it
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, bytes):
        return shown(value[: 4 * limit].decode("utf-8", "replace"), limit)
    if depth == 0:
        return None
    if isinstance(value, Mapping):
        return {shown(str(key), limit): clean(item, limit, depth - 1) for key, item in islice(value.items(), ITEMS)}
    if isinstance(value, (list, tuple)):
        return [clean(item, limit, depth - 1) for item in islice(value, ITEMS)]
    return shown(str(value), limit)
