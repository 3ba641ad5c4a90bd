"""A data key: what one tenant's values of one epoch are sealed with. Random, in memory only, and never twice."""

import hmac
import itertools
import sysconfig
import threading
from collections.abc import Callable
from typing import Final, Literal, NamedTuple, Protocol, Self, get_args

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV, ChaCha20Poly1305

from busd.components.cache.fork import Mark
from busd.components.cache.secret import Secret, fill_random
from busproto.errors import BusError, Code

__all__ = [
    "ALGORITHMS",
    "HEADER_SIZE",
    "MAX_BYTES",
    "MAX_MESSAGES",
    "MAX_TENANT",
    "VERSION",
    "Aead",
    "Algorithm",
    "DataKey",
    "Terms",
    "aad_prefix",
    "head_of",
    "keeps_own_copy",
    "tenant_bytes",
]

VERSION: Final = 1
"""Of the record format: the first byte of each record, and the first thing that its tag covers."""

Algorithm = Literal["aes-256-gcm", "chacha20-poly1305", "aes-256-gcm-siv"]
ALGORITHMS: Final[tuple[Algorithm, ...]] = get_args(Algorithm)

MAX_MESSAGES: Final = 1 << 32
"""Under one key. Nonces are counters, so the birthday bound of SP 800-38D section 8.3 does not hold here; its number
is kept all the same."""

MAX_BYTES: Final = 1 << 36
"""Under one key, the value that reaches it being the last: 2^32 blocks, at which AES can be told from a random function
with 2^-65 (blocks squared / 2^129)."""

MAX_TENANT: Final = 255
"""Bytes of a tenant's name in UTF-8."""

HEADER_SIZE: Final = 42
"""Bytes of `DataKey.header`: 1 version, 1 algorithm, 4 epoch, 4 instance, 16 salt, 16 commitment."""

_COMMITMENT: Final = 16
_SALT: Final = 16
_INSTANCE: Final = 4
_FREE_THREADED: Final = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


class Terms(NamedTuple):
    """What data keys are made for: the cipher, and how many messages and bytes each may seal."""

    algorithm: Algorithm = "aes-256-gcm"
    max_messages: int = MAX_MESSAGES
    max_bytes: int = MAX_BYTES


USUAL: Final = Terms()


class Aead(Protocol):
    """What a cipher of the cryptography package does. Raises InvalidTag for what was not sealed so."""

    def encrypt(self, nonce: bytes, data: bytes | bytearray | memoryview, associated_data: bytes, /) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes | memoryview, associated_data: bytes, /) -> bytes: ...

    def decrypt_into(self, nonce: bytes, data: memoryview, associated_data: bytes, buf: memoryview, /) -> int: ...


_MADE: Final[dict[Algorithm, Callable[[memoryview], Aead]]] = {
    "aes-256-gcm": AESGCM,
    "chacha20-poly1305": ChaCha20Poly1305,
    "aes-256-gcm-siv": AESGCMSIV,
}
_owning: dict[Algorithm, bool] = {}


def keeps_own_copy(algorithm: Algorithm) -> bool:
    """Whether a cipher goes on when the buffer that its key was given in is wiped.

    It depends on the OpenSSL that the cryptography package was built with: with some it keeps the buffer and sets the
    key up at each call, and wiping would silently change the key to zeros. So it is tried, once.
    """
    known = _owning.get(algorithm)
    if known is None:
        nonce, key = bytes(12), bytes(range(32))
        buffer = bytearray(key)
        aead = _MADE[algorithm](memoryview(buffer))
        buffer[:] = bytes(32)
        try:
            known = aead.decrypt(nonce, _MADE[algorithm](memoryview(key)).encrypt(nonce, b"", b""), b"") == b""
        except InvalidTag:
            known = False
        _owning[algorithm] = known
    return known


def head_of(epoch: int) -> bytes:
    """How every record of ``epoch`` begins: version and epoch. Raises OverflowError for what is no epoch."""
    return bytes((VERSION, *epoch.to_bytes(4, "big")))


def aad_prefix(tenant: bytes, epoch: int) -> bytes:
    """The part of the associated data that all records of one key share: version, tenant and epoch.

    Each field with its length before it (2 bytes, big-endian), so that no two tenants' fields run together the same.
    """
    fields = (VERSION.to_bytes(1, "big"), tenant, epoch.to_bytes(4, "big"))
    return b"".join(len(field).to_bytes(2, "big") + field for field in fields)


class DataKey:
    """A cipher with its key, its counter and what it has done. Thread-safe.

    The nonce is the instance id (4 bytes, random for each key) and the counter (8 bytes): no two `take`s give the same
    number, in as many threads as there are, and in a child of a fork `take` gives none. On CPython with its lock
    ``next`` of an ``itertools.count`` is one step that no other thread and no signal handler comes between; without
    it (free-threaded builds) it is done under a lock. What is counted in bytes may be short by what other threads seal
    at the same moment; the bound is no cliff.

    Attributes:
        tenant: name, in UTF-8.
        epoch: 0 to 2^32 - 1, in the record.
        instance: the first 4 bytes of each nonce.
        commitment: 16 bytes that only this key has (HKDF, label "commit"). AES-GCM and ChaCha20-Poly1305 alone do not
            commit to a key: a record can be made that opens under two.
        head: `head_of` its epoch.
        prefix: `aad_prefix`.
        header: what has to be known to make it again from the tenant's key; empty for a key that is random.
        born: when it was made, on its keyring's clock.
        used_bytes: bytes sealed.
        encrypt, decrypt, decrypt_into: the cipher's.
    """

    __slots__ = (
        "_last",
        "_mark",
        "_most_bytes",
        "_next",
        "_secret",
        "_seen",
        "born",
        "commitment",
        "decrypt",
        "decrypt_into",
        "encrypt",
        "epoch",
        "first",
        "head",
        "header",
        "instance",
        "prefix",
        "tenant",
        "used_bytes",
    )

    def __init__(
        self,
        tenant: bytes,
        epoch: int,
        aead: Aead,
        terms: Terms = USUAL,
        *,
        instance: bytes,
        commitment: bytes,
        mark: Mark,
        born: float = 0.0,
        first: int = 0,
        header: bytes = b"",
        secret: Secret | None = None,
    ) -> None:
        """Put one together from its parts; `random` and `derived` make one. ``first``: the first counter.

        Raises ValueError for parts of the wrong size.
        """
        if len(instance) != _INSTANCE or len(commitment) != _COMMITMENT or not 1 <= len(tenant) <= MAX_TENANT:
            raise ValueError("a part of the data key has the wrong size")
        self.tenant, self.epoch = tenant, epoch
        self.encrypt, self.decrypt, self.decrypt_into = aead.encrypt, aead.decrypt, aead.decrypt_into
        self.instance, self.commitment, self.header = instance, commitment, header
        self.head = head_of(epoch)
        self.prefix = aad_prefix(tenant, epoch)
        self.born = born
        self.used_bytes = 0
        self.first = first
        self._seen = first - 1
        self._last = first + terms.max_messages
        self._most_bytes = terms.max_bytes
        self._mark = mark
        self._secret = secret  # only for a cipher that keeps none itself
        self._next = _counter(first)

    @classmethod
    def random(cls, tenant: bytes, epoch: int, terms: Terms = USUAL, *, mark: Mark, born: float = 0.0) -> Self:
        """One that nobody can make again: when it is dropped, what it sealed is destroyed."""
        secret = Secret.random(forget_on_fork=True)
        return cls._made(secret, tenant, epoch, terms, _random_bytes(_INSTANCE), mark, born)

    @classmethod
    def derived(
        cls, kek: Secret, tenant: bytes, epoch: int, terms: Terms = USUAL, *, mark: Mark, born: float = 0.0
    ) -> Self:
        """One that all who have the tenant's key ``kek`` can make again from its `header`: for clients that share.

        It differs from every other by its random salt, also where two clients choose the same epoch.
        """
        salt, instance = _random_bytes(_SALT), _random_bytes(_INSTANCE)
        key = cls._derived(kek, tenant, epoch, terms, salt, instance, mark, born)
        about = bytes((VERSION, ALGORITHMS.index(terms.algorithm))) + epoch.to_bytes(4, "big")
        key.header = about + instance + salt + key.commitment
        return key

    @classmethod
    def from_header(cls, kek: Secret, tenant: bytes, header: bytes, *, mark: Mark, born: float = 0.0) -> Self | None:
        """The key that somebody else `derived` from ``kek`` and described so, for opening only: `take` gives nothing.

        None if the header is none, or its commitment is not this key's (another tenant, another ``kek``, another key):
        it is checked before anything is decrypted.
        """
        if len(header) != HEADER_SIZE or header[0] != VERSION or header[1] >= len(ALGORITHMS):
            return None
        terms = Terms(ALGORITHMS[header[1]], 0, 0)
        epoch, instance, salt = int.from_bytes(header[2:6], "big"), header[6:10], header[10:26]
        key = cls._derived(kek, tenant, epoch, terms, salt, instance, mark, born)
        key.header = header
        return key if hmac.compare_digest(key.commitment, header[26:]) else None

    @classmethod
    def _derived(
        cls,
        kek: Secret,
        tenant: bytes,
        epoch: int,
        terms: Terms,
        salt: bytes,
        instance: bytes,
        mark: Mark,
        born: float,
    ) -> Self:
        public = (tenant, epoch.to_bytes(4, "big"), terms.algorithm.encode(), salt, instance)
        return cls._made(kek.derive("data", *public), tenant, epoch, terms, instance, mark, born)

    @classmethod
    def _made(
        cls, secret: Secret, tenant: bytes, epoch: int, terms: Terms, instance: bytes, mark: Mark, born: float
    ) -> Self:
        try:
            aead = _MADE[terms.algorithm](secret.view())
            commitment = secret.derive_public("commit", _COMMITMENT, terms.algorithm.encode())
        except BaseException:
            secret.wipe()
            raise
        kept: Secret | None = secret
        if keeps_own_copy(terms.algorithm):
            secret.wipe()
            kept = None
        return cls(
            tenant, epoch, aead, terms, instance=instance, commitment=commitment, mark=mark, born=born, secret=kept
        )

    def take(self, size: int) -> int:
        """The counter for sealing one value of ``size`` bytes; -1 if the key is spent, or this is a forked child."""
        counter = self._seen = self._next()
        used = self.used_bytes
        self.used_bytes = used + size
        if counter >= self._last or used >= self._most_bytes or not self._mark[0]:
            return -1
        return counter

    @property
    def spent(self) -> bool:
        """Whether it seals nothing more."""
        return self.messages >= self._last - self.first or self.used_bytes >= self._most_bytes or not self._mark[0]

    @property
    def messages(self) -> int:
        """How many values it was asked to seal; while other threads do that, it may be short by what they do."""
        return self._seen - self.first + 1

    def __repr__(self) -> str:
        return f"<DataKey epoch {self.epoch}, {self.messages} messages>"


class _Locked:
    """A counter for builds without the global lock."""

    __slots__ = ("_lock", "_value")

    def __init__(self, first: int) -> None:
        self._value = first
        self._lock = threading.Lock()

    def __next__(self) -> int:
        with self._lock:
            value = self._value
            self._value = value + 1
            return value


def _counter(first: int, *, locked: bool = _FREE_THREADED) -> Callable[[], int]:
    return _Locked(first).__next__ if locked else itertools.count(first).__next__


def _random_bytes(size: int) -> bytes:
    made = bytearray(size)
    fill_random(memoryview(made))
    return bytes(made)


def tenant_bytes(tenant: str) -> bytes:
    """``tenant`` as keys know it. Raises BusError 9107 for a name that is empty, too long or not Unicode."""
    try:
        encoded = tenant.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not 1 <= len(encoded) <= MAX_TENANT:
        raise BusError(Code.CACHE_TENANT_UNKNOWN, tenant=ascii(tenant)[1:-1][:40])
    return encoded
