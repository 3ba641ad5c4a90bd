"""What the arguments of ``bus cache`` mean. Each reader raises ValueError with the reason."""

import math
from typing import Final

from buscli import values

__all__ = ["epoch", "generation", "in_flight", "seconds", "tenant", "ttl"]

GENERATION: Final = (1 << 64) - 1
"""Largest generation: it has 8 bytes in a record."""

EPOCH: Final = (1 << 32) - 1
"""Largest number of a key: it has 4 bytes in a record."""

BENCH_SECONDS: Final = 60.0
"""Longest that one work of a benchmark may last: each time taken is 8 bytes of memory."""

IN_FLIGHT: Final = 1024
"""Most calls of a benchmark at a time: beyond that it would only measure how long its own queue is."""


def ttl(text: str) -> float:
    """Seconds that an entry lives, more than 0: ``90``, ``500ms``, ``15m``, ``7d``; ``forever`` is infinite."""
    return math.inf if text == "forever" else values.seconds(text)


def _number(text: str, least: int, most: int, what: str) -> int:
    # `isdigit` alone also takes digits that int() does not.
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and least <= int(text) <= most):
        raise ValueError(f"'{text:.80}' is not {what}: write a whole number from {least}")
    return int(text)


def generation(text: str) -> int:
    """The generation of an entry."""
    return _number(text, 1, GENERATION, "a generation")


def epoch(text: str) -> int:
    """The number of a key."""
    return _number(text, 0, EPOCH, "the number of a key")


def tenant(text: str) -> str:
    """A tenant's name. Empty is none: to the component it would be whoever asks, and a script whose variable is not
    set would shred its own.
    """
    if not text:
        raise ValueError("'' is no tenant")
    return text


def in_flight(text: str) -> int:
    """Calls at a time: 1 to 1024."""
    value = values.count(text)
    if value > IN_FLIGHT:
        raise ValueError(f"'{text:.80}' is not within 1 to {IN_FLIGHT}")
    return value


def seconds(text: str) -> float:
    """How long one work of a benchmark lasts: 10 ms to a minute."""
    value = values.seconds(text)
    if not 0.01 <= value <= BENCH_SECONDS:
        raise ValueError(f"'{text:.80}' is not within 10ms to {BENCH_SECONDS:g}s")
    return value
