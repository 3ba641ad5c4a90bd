"""Size padding: what a record's length tells of its value's length.

The true length stands in front of the value, inside what is sealed (4 bytes, big-endian); zeros follow. AEAD keeps
contents from whoever sees records, but not sizes: those of web pages or of answers to a question give them away.
"""

from typing import Final, Literal, get_args

from busproto.errors import BusError, Code

__all__ = ["MAX_PADDED", "MAX_VALUE", "PADDINGS", "Padding", "pad", "padded_size", "unpad"]

MAX_VALUE: Final = 16 << 20
"""Bytes of the largest value. One of this size takes 5 ms to seal or open, and that long nothing else runs."""

_HEAD: Final = 4

MAX_PADDED: Final = MAX_VALUE + _HEAD
"""Bytes of the largest value with its length. The highest step of each padding: it is not exceeded."""

Padding = Literal["none", "power-of-two", "padme"]
"""none: the length is visible, nothing is added, not even the head.

power-of-two: log2 of the length is visible; up to 100 % is added, 50 % on average.
padme: O(log log n) bits of the length are visible; at most 12 % is added, less the larger (Nikitin et al., Reducing
Metadata Leakage from Encrypted Files and Communication with PURBs, PoPETs 2019, section 4).
"""

PADDINGS: Final[tuple[Padding, ...]] = get_args(Padding)


def padded_size(size: int, padding: Padding) -> int:
    """Bytes that a value of ``size`` bytes has with ``padding``. Raises BusError 9102 above 16 MiB."""
    if size > MAX_VALUE:
        raise BusError(Code.CACHE_VALUE_SIZE, size=size, limit=MAX_VALUE)
    if padding == "none":
        return size
    whole = size + _HEAD
    if padding == "power-of-two":
        return min(1 << (whole - 1).bit_length(), MAX_PADDED)
    exponent = whole.bit_length() - 1
    low = (1 << (exponent - exponent.bit_length())) - 1  # bits of the length that are not shown
    return min((whole + low) & ~low, MAX_PADDED)


def pad(value: bytes | bytearray | memoryview, padding: Padding) -> bytes:
    """``value`` (contiguous bytes) with ``padding``. Raises BusError 9102 above 16 MiB."""
    size = len(value)
    padded = padded_size(size, padding)
    if padding == "none":
        return bytes(value)
    return b"".join((size.to_bytes(_HEAD, "big"), value, bytes(padded - size - _HEAD)))


def unpad(padded: bytes | bytearray | memoryview, padding: Padding) -> bytes | None:
    """The value in what `pad` made with the same ``padding``; None if it did not make it."""
    if padding == "none":
        return bytes(padded)
    if len(padded) < _HEAD:
        return None
    size = int.from_bytes(padded[:_HEAD], "big")
    if size > MAX_VALUE or padded_size(size, padding) != len(padded):
        return None
    return bytes(padded[_HEAD : _HEAD + size])
