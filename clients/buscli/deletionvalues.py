"""What the arguments of ``bus delete`` mean: spans, sizes, rates and filters as text, and sizes back as text.

Sizes are as filters take them, powers of 1000 (``10M``) or of 1024 (``10Mi``): one command has one meaning of M. Each
reader raises ValueError with the reason.
"""

import os
import re
from collections.abc import Sequence
from typing import Final

from buscli.parser import suggest

__all__ = ["FILTERS", "byte_rate", "filters", "jobs", "pair", "percent", "rate", "shown_size", "size", "span"]

_AMOUNT: Final = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)([A-Za-z]{0,3})")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_BYTES: Final = {"": 1, "b": 1} | {
    f"{prefix}{unit}": base**power
    for power, prefix in enumerate("kmgtp", start=1)
    for unit, base in (("", 1000), ("b", 1000), ("i", 1024), ("ib", 1024))
}

GRACE_SECONDS: Final = 31_622_400
"""Longest grace: a leap year, as a job takes it."""

RATE: Final = 1e15
"""Highest rate that a job takes."""

JOBS: Final = 1000
"""Most that the component lists at a time."""

FILTERS: Final = {
    "older-than": "older_than",
    "glob": "glob",
    "larger-than": "larger_than",
    "smaller-than": "smaller_than",
    "owner": "owner",
    "type": "types",
}
"""Filters as they are typed, and the field of each."""


def _amount(text: str, units: dict[str, int], what: str) -> float:
    found = _AMOUNT.fullmatch(text)
    factor = units.get(found[2].lower()) if found else None
    if found is None or factor is None:
        raise ValueError(f"'{text:.80}' is not {what}")
    # Whole numbers stay whole: a float has 53 bits, a size 63.
    return int(found[1]) * factor if found[1].isdigit() else float(found[1]) * factor


def span(text: str) -> float:
    """A positive span of at most a year in seconds: ``90``, ``15m``, ``36h``, ``30d``, ``2w``."""
    value = float(_amount(text, _SECONDS, "a span of time: write 90, 15m, 36h, 30d or 2w"))
    if not 0 < value <= GRACE_SECONDS:
        raise ValueError(f"'{text}' is not within 1s to 366d")
    return value


def size(text: str) -> int:
    """Bytes, at least 1: ``100``, ``64k``, ``1.5G``, ``4Ki``, ``2TiB``."""
    value = int(_amount(text, _BYTES, "a size: write 100, 64k, 10M, 1.5G, 4Ki or 2TiB"))
    if not 1 <= value < 1 << 63:
        raise ValueError(f"'{text}' is not a size that a file system has")
    return value


def rate(text: str) -> float:
    """Files in each second; 0 pauses."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"'{text:.80}' is not a number per second") from None
    if not 0 <= value <= RATE:  # NaN is neither
        raise ValueError(f"'{text}' is not a number per second; 0 pauses")
    return value


def byte_rate(text: str) -> float:
    """Bytes in each second, as `size`; 0 pauses."""
    value = float(_amount(text.removesuffix("/s"), _BYTES, "bytes per second: write 0, 100k, 10M or 1.5Gi"))
    if value > RATE:
        raise ValueError(f"'{text}' is more than any disk does")
    return value


def jobs(text: str) -> int:
    """How many jobs to list: 1 to 1000."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= JOBS):
        raise ValueError(f"'{text:.80}' is not within 1 to {JOBS}")
    return int(text)


def percent(text: str) -> float:
    """0 to 1000: ``5``, ``5%``."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        raise ValueError(f"'{text:.80}' is not a percentage") from None
    if not 0 <= value <= 1000:
        raise ValueError(f"'{text}' is not within 0 to 1000 percent")
    return value


def pair(text: str) -> tuple[str, str]:
    """``KEY=VALUE`` of a filter. What the value may be is the filter's to say."""
    key, equals, value = text.partition("=")
    if not equals or not value:
        raise ValueError(f"'{text:.80}' is not a filter: write KEY=VALUE, KEY being one of {', '.join(FILTERS)}")
    if key not in FILTERS:
        nearest = suggest(key, list(FILTERS))
        known = f"did you mean {nearest}?" if nearest else f"there are {', '.join(FILTERS)}"
        raise ValueError(f"there is no filter '{key:.80}': {known}")
    return key, value


def filters(pairs: Sequence[tuple[str, str]]) -> dict[str, str | bytes]:
    """The fields of all filters given, as the component takes them: text, and a pattern as bytes, as names are.

    Raises ValueError if one is there twice: both cannot be meant.
    """
    fields: dict[str, str | bytes] = {}
    for key, value in pairs:
        if FILTERS[key] in fields:
            raise ValueError(f"filter '{key}' is there twice")
        fields[FILTERS[key]] = os.fsencode(value) if key == "glob" else value
    return fields


def shown_size(size: float) -> str:
    """Bytes in the largest unit that they fill, in powers of 1000: ``0 B``, ``1.5 kB``, ``3.2 GB``."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if amount < 999.95 or unit == "PB":
            break
        amount /= 1000
    return f"{amount:.1f}".removesuffix(".0") + f" {unit}"
