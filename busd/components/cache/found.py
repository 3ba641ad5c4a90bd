"""What is asked for in a cache, and what is found there."""

from typing import NamedTuple

__all__ = ["Found", "Name", "Value", "name_bytes"]

Name = str | bytes
"""A text is the same name as its UTF-8."""

Value = bytes | bytearray | memoryview


def name_bytes(name: Name) -> bytes:
    """``name`` as keys blind it. Raises TypeError for what is none: ``bytes(7)`` would be seven zeros."""
    if isinstance(name, str):
        return name.encode()
    if not isinstance(name, bytes | bytearray | memoryview):
        raise TypeError(f"a name is text or bytes, not {type(name).__name__}")
    return bytes(name)


class Found(NamedTuple):
    """A value, and what is to be known to change it."""

    value: bytes
    generation: int
    """Token for `TenantCache.cas`."""
    ttl: float
    """Seconds that it has left; infinite: it does not expire."""
