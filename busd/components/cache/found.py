"""What is asked for in a cache, and what is found there."""

from typing import NamedTuple

__all__ = ["Found", "Name", "Value"]

Name = str | bytes
"""A text is the same name as its UTF-8."""

Value = bytes | bytearray | memoryview


class Found(NamedTuple):
    """A value, and what is to be known to change it."""

    value: bytes
    generation: int
    """Token for `TenantCache.cas`."""
    ttl: float
    """Seconds that it has left; infinite: it does not expire."""
