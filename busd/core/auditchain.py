"""The hash chain of the audit: how a record becomes a line, and how a line is read back and checked.

A line is one JSON object in ASCII with sorted keys and no blanks, so that there is one way to write a record and every
changed byte shows. To what a record says come ``seq`` (1, 2, 3... without gaps over the whole life of the log),
``time``, ``node``, ``prev`` (the ``hash`` of the record before; zeros in the first) and ``hash``: SHA-256 of the line
as it is without ``hash``. With a key it is HMAC-SHA-256 (RFC 2104), and ``key`` says with which one. (The construction
is that of Schneier and Kelsey, "Secure Audit Logs to Support Computer Forensics", 1999, without their evolving key.)
"""

import hmac
import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

Record = dict[str, Any]
"""What happened, in plain values; ``event`` says what kind it is."""

GENESIS: Final = "0" * 64
"""What stands for the hash of a record before the first."""

LINE_BYTES: Final = 64 * 1024
"""The longest line. A record is a few hundred bytes; a longer line is not one of ours and need not be held."""

KEY_BYTES: Final = (16, 1024)
"""Least and most of a key: below 128 bits it could be guessed; `openssl rand -hex 32` makes 64."""

_SEALS: Final = frozenset({"seq", "time", "node", "prev", "hash"})
"""What every line has beside what happened."""

_RESERVED: Final = _SEALS | {"key"}
"""What a record itself cannot say."""

_BODY_BYTES: Final = LINE_BYTES - len(',"hash":""') - len(GENESIS)
"""The longest line without its hash."""

_HEX: Final = frozenset("0123456789abcdef")


class Key:
    """A secret that only whoever writes and whoever checks the log knows."""

    __slots__ = ("_secret", "id")

    def __init__(self, content: bytes) -> None:
        """``content`` of a key file; a newline at its end does not count.

        Raises:
            ValueError: it is too short or too long.
        """
        secret = content.rstrip(b"\r\n")
        least, most = KEY_BYTES
        if not least <= len(secret) <= most:
            raise ValueError(f"a key has {least} to {most} bytes, this one {len(secret)}")
        self._secret = secret
        self.id = sha256(b"busd audit key\0" + secret).hexdigest()[:16]
        """Names the key in records, without giving it away."""

    def digest(self, body: bytes) -> str:
        """HMAC-SHA-256 of ``body``, in hex."""
        return hmac.digest(self._secret, body, "sha256").hex()


def encode(record: Mapping[str, Any]) -> bytes:
    """``record`` as the one line that stands for it, without newline. Raises ValueError for what is not JSON."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


class Chain:
    """The end of a log: gives each next record its number and its place in the chain."""

    __slots__ = ("_key", "_node", "head", "seq")

    def __init__(self, node: str, key: Key | None = None, *, seq: int = 0, head: str = GENESIS) -> None:
        self._node = node
        self._key = key
        self.seq = seq
        """Number of the last record; 0 before the first."""
        self.head = head
        """Its hash."""

    def seal(self, record: Mapping[str, Any], time: str) -> bytes:
        """The line, with its newline, that makes ``record`` the last one. ``time``: RFC 3339, UTC.

        A record that cannot be a line is replaced by its event and ``cut``, the bytes it would have had; 0 for what is
        not JSON at all.
        """
        seals: Record = {"seq": self.seq + 1, "time": time, "node": self._node, "prev": self.head}
        if self._key is not None:
            seals["key"] = self._key.id
        told = {name: value for name, value in record.items() if name not in _RESERVED}
        sealed = {**told, **seals}
        body = _try_encode(sealed)
        if not 0 < len(body) <= _BODY_BYTES:
            sealed = {"event": str(record.get("event", "")), "cut": len(body), **seals}
            body = encode(sealed)
        self.head = self._key.digest(body) if self._key is not None else sha256(body).hexdigest()
        self.seq += 1
        sealed["hash"] = self.head
        return encode(sealed) + b"\n"


def _try_encode(record: Record) -> bytes:
    try:
        return encode(record)
    except (TypeError, ValueError, RecursionError):
        return b""


class Sealed(NamedTuple):
    """A line that was read back and found to be what it was when it was written."""

    seq: int
    prev: str
    hash: str
    key: str | None
    """Id of the key it was made with."""
    checked: bool
    """Whether its hash was checked; not if it was made with a key that was not given."""
    record: Record
    """All of it."""


def unseal(line: bytes, keys: Mapping[str, Key]) -> Sealed:
    """Read back ``line``, given without its newline; ``keys`` by their ids.

    Raises:
        ValueError: it is not a record as it was written; says why.
    """
    if len(line) > LINE_BYTES:
        raise ValueError(f"it is longer than a record can be, {LINE_BYTES} bytes")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if type(record) is not dict or not record.keys() >= _SEALS or not _is_sealed(record):
        raise ValueError("it is not a record: seq, time, node, prev and hash are missing or wrong")
    claimed, key_id = record["hash"], record.get("key")
    try:
        body = encode({name: value for name, value in record.items() if name != "hash"})
        canonical = encode(record)
    except (ValueError, RecursionError):  # NaN, or nested as no record is
        canonical = b""
    if canonical != line:
        raise ValueError("it is not in the form that records are written in")
    key = keys.get(key_id) if key_id is not None else None
    checked = key is not None or key_id is None
    if checked and not hmac.compare_digest(key.digest(body) if key else sha256(body).hexdigest(), claimed):
        raise ValueError("its content does not have the hash that it names")
    return Sealed(record["seq"], record["prev"], claimed, key_id, checked, record)


def _is_sealed(record: Record) -> bool:
    """Whether the fields that make a chain have the right types."""
    return (
        type(record["seq"]) is int
        and 0 < record["seq"] < 1 << 63
        and type(record["time"]) is str
        and type(record["node"]) is str
        and _is_hash(record["prev"])
        and _is_hash(record["hash"])
        and type(record.get("event")) is str
        and type(record.get("key", "")) is str
    )


def _is_hash(value: object) -> bool:
    return type(value) is str and len(value) == len(GENESIS) and _HEX.issuperset(value)
