"""Nested data as text for people: names and values, deeper ones indented, lists of maps as one line each."""

from collections.abc import Iterator
from typing import Any

from buscli.output import json_text, printable


def outline(value: dict[str, Any], depth: int = 0) -> Iterator[str]:
    """The lines that show ``value``."""
    margin = "  " * depth
    width = max((len(key) for key, item in value.items() if not _is_block(item)), default=0)
    for key, item in value.items():
        name = printable(key)
        if not _is_block(item):
            yield f"{margin}{name + ':':<{width + 1}} {_line(item)}"
            continue
        yield f"{margin}{name}:"
        if isinstance(item, dict):
            yield from outline(item, depth + 1)
        else:
            for entry in item:
                yield f"{margin}  - {_line(entry)}"


def _is_block(item: Any) -> bool:
    """Whether ``item`` takes lines of its own: a map, or a list that holds maps or lists."""
    if isinstance(item, list):
        return any(isinstance(entry, dict | list) for entry in item)
    return isinstance(item, dict) and bool(item)


def _line(item: Any) -> str:
    if isinstance(item, str):
        return printable(item) or "-"
    if item is None or item in ({}, []):
        return "-"
    if isinstance(item, float):
        return f"{item:.6g}"
    if isinstance(item, dict):
        return ", ".join(f"{printable(key)} {_line(entry)}" for key, entry in item.items())
    if isinstance(item, list):
        return ", ".join(map(_line, item))
    return json_text(item)
