"""What is inside a record besides the value: its name, and padding. The entry's flags say which."""

from typing import Final

from busd.components.cache.padding import PADDINGS, Padding, pad, unpad

__all__ = ["NAMED", "flags_of", "name_of", "unwrap", "wrap"]

NAMED: Final = 1
"""The name stands before the value, after its length (2 bytes, big-endian)."""

_CONTENT: Final = 0xFF
"""The flags that are of what is inside; those above are the entry's."""

_PADDED_SHIFT: Final = 1
_PADDED_MASK: Final = 3
"""Bits 1 and 2: which of `PADDINGS`."""


def flags_of(*, named: bool, padding: Padding) -> int:
    """The flags of records that are made so. 0: the value and nothing else."""
    return (NAMED if named else 0) | PADDINGS.index(padding) << _PADDED_SHIFT


def wrap(flags: int, name: bytes, value: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
    """What is sealed for ``value`` under ``name``. Raises BusError 9102 if that has more than 16 MiB."""
    if flags & NAMED:
        value = b"".join((len(name).to_bytes(2, "big"), name, value))
    padding = PADDINGS[flags >> _PADDED_SHIFT & _PADDED_MASK]
    return value if padding == "none" else pad(value, padding)


def _unpadded(flags: int, content: bytes | memoryview) -> bytes | memoryview | None:
    kind = flags >> _PADDED_SHIFT & _PADDED_MASK
    if kind >= len(PADDINGS) or (flags & _CONTENT) >> _PADDED_SHIFT + 2:
        return None
    return unpad(content, PADDINGS[kind]) if kind else content


def unwrap(flags: int, name: bytes, content: bytes) -> bytes | None:
    """The value in ``content``, or None if `wrap` did not make it, or for another name.

    Two names of one tenant that are blinded to the same 16 bytes are told apart here, if names are kept.
    """
    inner = _unpadded(flags, content)
    if inner is None or not flags & NAMED:
        return None if inner is None else bytes(inner)
    size = int.from_bytes(inner[:2], "big")
    return bytes(inner[2 + size :]) if inner[2 : 2 + size] == name and len(inner) >= 2 + size else None


def name_of(flags: int, content: bytes) -> bytes | None:
    """The name in ``content``, or None if it has none."""
    inner = _unpadded(flags, content)
    if inner is None or not flags & NAMED or len(inner) < 2:
        return None
    return bytes(inner[2 : 2 + int.from_bytes(inner[:2], "big")])
