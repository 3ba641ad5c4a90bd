"""What the case files share: how bytes are written down, and raw msgpack that owes nothing to ``busproto``."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgpack

Json = dict[str, Any]
Runs = Sequence[tuple[bytes, int]]

LONG: Final = 1024
"""Bytes above which a case is written as runs, to keep the files readable."""


class Raw(bytes):
    """Bytes that are one msgpack value already: forms that a packer would not choose, and broken ones."""


def pack(value: object) -> bytes:
    """One msgpack value in its shortest form; ``Raw`` goes in as it is."""
    return bytes(value) if isinstance(value, Raw) else msgpack.packb(value, use_bin_type=True)


def envelope(*fields: object) -> bytes:
    """One envelope of at most 15 fields: fixarray header, then each field."""
    return bytes([0x90 | len(fields)]) + b"".join(pack(field) for field in fields)


def mapping(*entries: tuple[object, object]) -> Raw:
    """A map with exactly these entries (names may repeat or be no strings)."""
    size = len(entries)
    head = bytes([0x80 | size]) if size < 16 else b"\xde" + size.to_bytes(2, "big")
    return Raw(head + b"".join(pack(key) + pack(value) for key, value in entries))


def written(data: bytes) -> Json:
    """``data`` as ``{"hex"}``, or as ``{"runs": [[hex, times], ...]}`` where that is much shorter."""
    if len(data) <= LONG:
        return {"hex": data.hex()}
    return {"runs": [[piece.hex(), times] for piece, times in _runs(data)]}


def _runs(data: bytes) -> Runs:
    """Split ``data`` into stretches that repeat a unit of 1 to 4 bytes and stretches that do not."""
    runs: list[tuple[bytes, int]] = []
    plain = start = 0
    while start < len(data):
        width, times = _best_run(data, start)
        if width * times < 32:
            start += 1
            continue
        if plain < start:
            runs.append((data[plain:start], 1))
        runs.append((data[start : start + width], times))
        start += width * times
        plain = start
    if plain < len(data):
        runs.append((data[plain:], 1))
    return runs


def _best_run(data: bytes, start: int) -> tuple[int, int]:
    best = (1, 1)
    for width in (1, 2, 3, 4):
        unit = data[start : start + width]
        times = 1
        while data[start + times * width : start + (times + 1) * width] == unit and len(unit) == width:
            times += 1
        if times * width > best[0] * best[1]:
            best = (width, times)
    return best


def plain(value: object) -> Any:
    """A decoded value as JSON has it: binary becomes ``{"$hex"}`` or ``{"$runs"}``, the rest stays."""
    if isinstance(value, bytes):
        return {f"${key}": text for key, text in written(value).items()}
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value
