"""What the index of a tenant holds for a key: the sealed record, and what the record is bound to."""

import math
from typing import Final

import msgspec

__all__ = ["ABSENT", "GRACE_MOST", "MARKS", "NEVER", "Entry", "grace_flags", "grace_of"]

NEVER: Final = math.inf
"""The expiry of what does not expire."""

MARKS: Final = 3
"""Hits that an entry remembers between two looks of its policy: S3-FIFO has two bits for it (SOSP'23, 4.1)."""

_SHIFT: Final = 8
_GRACE_UNITS: Final = 16
"""Of a second. The upper 24 bits of the flags count them."""

GRACE_MOST: Final = ((1 << 24) - 1) / _GRACE_UNITS
"""Seconds for which a value can be kept when it is no longer fresh: 12 days."""


def grace_flags(seconds: float, most: float = NEVER) -> int:
    """The flags of an entry that is kept for ``seconds``, but not for more than ``most``, when it is no longer fresh.

    They are flags so that the record is bound to them, as to its expiry: the time at which a value is old cannot be
    changed without its failing authentication. In steps of a 16th of a second, at most `GRACE_MOST`.
    """
    return min(math.ceil(min(seconds, GRACE_MOST) * _GRACE_UNITS), int(min(most, GRACE_MOST) * _GRACE_UNITS)) << _SHIFT


def grace_of(flags: int) -> float:
    """Seconds that `grace_flags` says."""
    return (flags >> _SHIFT) / _GRACE_UNITS


class Entry(msgspec.Struct, gc=False):
    """One entry. The store sees the record as bytes without meaning.

    It holds nothing that could refer back to it, so the garbage collector need not know of it (``gc=False``): a million
    entries would otherwise cost each full collection tens of milliseconds.

    Attributes:
        record: the sealed value.
        generation: number of the write that made it; the record is bound to it, so that an older record which is put
            back into this place fails authentication. Also the token of compare-and-set.
        flags: what is inside the record, and in the upper 24 bits how long before its expiry it stops being fresh;
            bound to it as well.
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

    @property
    def grace(self) -> float:
        """Seconds before its expiry in which it is kept, but no longer fresh."""
        return grace_of(self.flags)

    @property
    def fresh(self) -> float:
        """The first moment at which it is no longer there but to who takes an old value."""
        return self.expiry if self.expiry == NEVER else self.expiry - self.grace


ABSENT: Final = Entry(b"", -1, 0, -math.inf)
"""Stands for an entry that is not there. It has expired at any time, so that what is absent, what is another tenant's
and what has expired take the same way."""
