"""A value on a terminal: text as text, everything else as a hex dump; and in JSON."""

from typing import Any, Final

from buscli.deletionwords import count
from buscli.jsonform import to_json
from buscli.output import printable

__all__ = ["jsonable", "shown"]

DUMPED: Final = 512
"""Bytes of a hex dump: 32 lines, which a screen holds."""

_ROW: Final = 16


def shown(value: bytes) -> list[str]:
    """Lines that are safe on a terminal: the text that ``value`` is, or the hex dump of its first 512 bytes."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return _dump(value)
    if "\0" in text:  # no text that anybody wrote
        return _dump(value)
    # A tab moves the cursor, and nothing else.
    return ["\t".join(map(printable, line.split("\t"))) for line in text.removesuffix("\n").split("\n")]


def _dump(value: bytes) -> list[str]:
    lines = []
    for start in range(0, min(len(value), DUMPED), _ROW):
        row = value[start : start + _ROW]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{start:08x}  {row[:8].hex(' '):<23}  {row[8:].hex(' '):<23}  |{text}|")
    if len(value) > DUMPED:
        lines.append(f"and {count(len(value) - DUMPED, 'byte')} more: --raw, or a pipe, has all of them")
    return lines


def jsonable(value: bytes) -> Any:
    """``value`` as text if it is that, else ``{"$bytes": base64}``."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return to_json(value)
