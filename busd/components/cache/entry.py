"""What the index of a tenant holds for a key: the sealed record, and what the record is bound to."""

import math
from typing import Final

import msgspec

__all__ = ["ABSENT", "MARKS", "NEVER", "Entry"]

NEVER: Final = math.inf
"""The expiry of what does not expire."""

MARKS: Final = 3
"""Hits that an entry remembers between two looks of its policy: S3-FIFO has two bits for it (SOSP'23, 4.1)."""


class Entry(msgspec.Struct, gc=False):
    """One entry. The store sees the record as bytes without meaning.

    It holds nothing that could refer back to it, so the garbage collector need not know of it (``gc=False``): a million
    entries would otherwise cost each full collection tens of milliseconds.

    Attributes:
        record: the sealed value.
        generation: number of the write that made it; the record is bound to it, so that an older record which is put
            back into this place fails authentication. Also the token of compare-and-set.
        flags: what is inside the record; bound to it as well.
        expiry: the first moment, on the store's clock, at which it is no longer there. Seconds; `NEVER` if none.
        epoch: of the key that it was sealed with, as whoever sealed it here knew it; the record says it, too, but a
            record that was tampered with says anything.
        mark: hits since its policy last looked at it, at most `MARKS`.
        bucket: the keys that expire together with it; None if it does not expire or is in no store.
    """

    record: bytes
    generation: int
    flags: int = 0
    expiry: float = NEVER
    epoch: int = 0
    mark: int = 0
    bucket: set[bytes] | None = None


ABSENT: Final = Entry(b"", -1, 0, -math.inf)
"""Stands for an entry that is not there. It has expired at any time, so that what is absent, what is another tenant's
and what has expired take the same way."""
