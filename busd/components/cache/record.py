"""The record: one sealed value, as it lies in the index, in the worker's memory or on a wire. The same in all modes.

::

    1 version | 4 epoch | 8 counter | ciphertext, as long as the value | 16 tag        integers are big-endian

The nonce is the data key's instance id (4 bytes) and the counter. What the tag covers beside the value, each with its
length (2 bytes) before it:

    version (1) | tenant | epoch (4) | generation (8) | blinded name (16) | flags (4) | expiry (8, IEEE 754)

So a record opens for one tenant, under one name, in one version of it. The generation is kept in the index, not in the
record: what was valid once and is put back does not open.
"""

import hmac
import struct
from enum import StrEnum
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag

from busd.components.cache.datakey import VERSION, DataKey
from busd.components.cache.keyring import BLINDED, Slot
from busd.components.cache.padding import MAX_PADDED
from busd.components.cache.scratch import Scratch
from busproto.errors import BusError, Code

__all__ = ["OVERHEAD", "Failure", "Keys", "epoch_of", "failure_of", "open_", "open_into", "seal"]

_HEAD: Final = 5
_START: Final = 13
_TAG: Final = 16

OVERHEAD: Final = _START + _TAG
"""Bytes that a record has more than its value: 29."""

_LONGEST: Final = MAX_PADDED + OVERHEAD

_VIEW_FROM: Final = 16 << 10
"""Bytes from which the ciphertext is not copied out of the record: below, a copy costs less than a view does."""

_DETAIL: Final = struct.Struct(f">HQH{BLINDED}sHIHd")

_counter = struct.Struct(">Q").pack
_detail = _DETAIL.pack
_same = hmac.compare_digest


class Failure(StrEnum):
    """Why a record does not open. To its tenant each is the same: a miss."""

    TRUNCATED = "truncated"
    """It is shorter than any record, or longer than any: 29 bytes to 16 MiB and some."""
    VERSION = "version"
    """Its format is none that this version reads."""
    EPOCH = "epoch"
    """There is no data key of its epoch: retired, shredded, or of another process."""
    COMMITMENT = "commitment"
    """The data key of its epoch is not the one that was noted for it. Nothing was decrypted."""
    TAG = "tag"
    """It is not authentic: changed, of another tenant, name, generation, flags or expiry, or under another key."""
    STALE = "stale"
    """It is authentic, and older than what this client of the blind mode has seen under the name; see `blind`."""


class Keys(Protocol):
    """What a record needs of the keys; `TenantKeys` is it."""

    @property
    def slots(self) -> dict[bytes, Slot]: ...

    def current(self) -> DataKey: ...

    def replace(self, key: DataKey | None, /) -> DataKey: ...


def seal(
    keys: Keys, blinded: bytes, generation: int, flags: int, expiry: float, value: bytes | bytearray | memoryview
) -> bytes:
    """The record of ``value`` (contiguous bytes; with padding at most 16 MiB + 4).

    ``blinded`` has 16 bytes, ``generation`` is 0 to 2^64 - 1, ``flags`` are 0 to 2^32 - 1, ``expiry`` is any float.

    Raises BusError 9102, the value is too large, 9105, the tenant was shredded; ValueError, ``blinded`` has another
    size; struct.error for numbers out of range.
    """
    size = len(value)
    if size > MAX_PADDED:
        raise BusError(Code.CACHE_VALUE_SIZE, size=size, limit=MAX_PADDED)
    if len(blinded) != BLINDED:
        raise ValueError(f"a blinded name has {BLINDED} bytes, not {len(blinded)}")
    detail = _detail(8, generation, BLINDED, blinded, 4, flags, 8, expiry)
    key = keys.current()
    counter = key.take(size)
    while counter < 0:
        key = keys.replace(key)
        counter = key.take(size)
    count = _counter(counter)
    return key.head + count + key.encrypt(key.instance + count, value, key.prefix + detail)


def open_(keys: Keys, record: bytes, blinded: bytes, generation: int, flags: int, expiry: float) -> bytes | None:
    """The value in ``record``, or None if it is not authentic for exactly these arguments; `failure_of` says why.

    The result is an object of Python that cannot be wiped; `open_into` is for who needs that. Raises struct.error for
    numbers out of range.
    """
    size = len(record)
    slot = keys.slots.get(record[:5])
    if slot is None or not OVERHEAD <= size <= _LONGEST or len(blinded) != 16:
        return None
    committed, key = slot
    if not _same(committed, key.commitment):
        return None
    try:
        return key.decrypt(
            key.instance + record[5:13],
            record[13:] if size < _VIEW_FROM else memoryview(record)[13:],
            key.prefix + _detail(8, generation, 16, blinded, 4, flags, 8, expiry),
        )
    except InvalidTag:
        return None


def open_into(
    keys: Keys, record: bytes, blinded: bytes, generation: int, flags: int, expiry: float, scratch: Scratch
) -> memoryview | None:
    """As `open_`, into ``scratch``: a read-only view of it, valid until the scratch is released or taken anew.

    The cipher leaves what it decrypted in the buffer also if the tag is wrong; it is zeroed before this returns None.
    """
    slot = keys.slots.get(record[:_HEAD])
    if slot is None or not OVERHEAD <= len(record) <= _LONGEST or len(blinded) != BLINDED:
        return None
    committed, key = slot
    if not _same(committed, key.commitment):
        return None
    detail = _detail(8, generation, BLINDED, blinded, 4, flags, 8, expiry)
    into = scratch.take(len(record) - OVERHEAD)
    try:
        key.decrypt_into(key.instance + record[5:13], memoryview(record)[_START:], key.prefix + detail, into)
    except BaseException as error:
        scratch.release()
        if isinstance(error, InvalidTag):
            return None
        raise
    return scratch.show()


def failure_of(keys: Keys, record: bytes, blinded: bytes, generation: int, flags: int, expiry: float) -> Failure | None:
    """Why `open_` gave None, for the counter and the audit. None if the record opens after all.

    Costs what `open_` costs, and only records that fail come here. A key that was dropped between the two is EPOCH.
    """
    if not OVERHEAD <= len(record) <= _LONGEST:
        return Failure.TRUNCATED
    if record[0] != VERSION:
        return Failure.VERSION
    slot = keys.slots.get(record[:_HEAD])
    if slot is None:
        return Failure.EPOCH
    if not _same(slot[0], slot[1].commitment):
        return Failure.COMMITMENT
    with Scratch() as scratch:
        if open_into(keys, record, blinded, generation, flags, expiry, scratch) is None:
            return Failure.TAG
    return None


def epoch_of(record: bytes) -> int:
    """The epoch that ``record`` says: if it is not `TenantKeys.newest`, it is to be sealed anew. -1: it has none."""
    return int.from_bytes(record[1:5], "big") if len(record) >= OVERHEAD else -1
