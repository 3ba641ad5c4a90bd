"""The keys of all tenants: which seal, which still open, and which are gone.

root key -> key of a tenant (HKDF, label "tenant") -> key for blinding its names (label "blind"). What values are
sealed with follows from none of these: data keys are random, one for each tenant, epoch and process. So the end of the
process, or dropping a key, destroys what was sealed with it, and no counter goes on after a restart.
"""

import functools
import math
import secrets
import threading
import time
import weakref
from collections.abc import Callable
from hashlib import blake2b
from types import TracebackType
from typing import Final, Self

from busd.components.cache.datakey import (
    ALGORITHMS,
    HEADER_SIZE,
    MAX_BYTES,
    MAX_MESSAGES,
    Algorithm,
    DataKey,
    Terms,
    head_of,
    tenant_bytes,
)
from busd.components.cache.fork import CloneWatch, new_mark, on_fork
from busd.components.cache.rootkey import RootKey
from busd.components.cache.secret import Secret
from busproto.errors import BusError, Code

__all__ = [
    "BLINDED",
    "KEEP_EPOCHS",
    "LOOK_SECONDS",
    "ROTATE_SECONDS",
    "Blinder",
    "Keyring",
    "TenantKeys",
    "make_blinder",
]

BLINDED: Final = 16
"""Bytes of a blinded name. Two of a tenant's names fall together with 2^-65 at 2^32 names."""

ROTATE_SECONDS: Final = 86_400.0
"""Age at which a data key is replaced: what one key gives away if it ever gets known is a day."""

KEEP_EPOCHS: Final = 8
"""Data keys of a tenant that are kept, with the one in use. What the oldest sealed is a miss when a ninth comes."""

LOOK_SECONDS: Final = 1.0
"""How often is looked for signs of a clone: it costs 20 us."""

_EPOCHS: Final = 1 << 32

Blinder = Callable[[bytes], bytes]
"""The 16 bytes under which a name is stored: BLAKE2b-128 keyed for one tenant (RFC 7693 section 2.9)."""

Slot = tuple[bytes, DataKey]
"""The commitment that was noted when the key was made, and the key: `open_` compares them before it decrypts."""


def make_blinder(kek: Secret) -> Blinder:
    """The blinder of the tenant that has the key ``kek``.

    A copy of a state that has the key is used for each name: that is faster than to key one each time. The state is
    wiped by CPython when the last reference to the blinder goes.
    """
    with kek.derive("blind") as key:
        copy = blake2b(key=key.view(), digest_size=BLINDED).copy

    def blind(name: bytes) -> bytes:
        state = copy()
        state.update(name)
        return state.digest()

    return blind


class TenantKeys:
    """The keys of one tenant. Thread-safe. `Keyring.tenant` makes it.

    Attributes:
        name: the tenant's.
        blind: `Blinder` of its names. Raises BusError 9105 after `shred`; whoever keeps it aside keeps its key.
        slots: the first 5 bytes of a record (version and epoch) -> what opens it. To be read only.
        newest: the epoch that seals. A record of an older one is sealed anew when it is met: see `epoch_of`.
        gone: whether it was shredded. It stays so: the keyring has new keys for who asks again.
    """

    __slots__ = (
        "__weakref__",
        "_current",
        "_due",
        "_kek",
        "_lock",
        "_ring",
        "_suspect",
        "blind",
        "gone",
        "name",
        "newest",
        "slots",
    )

    def __init__(self, ring: "Keyring", name: str, first: int) -> None:
        self.name = name
        self._ring = ring
        self._lock = threading.RLock()
        self.slots: dict[bytes, Slot] = {}
        self.gone = False
        self._suspect = False
        with ring.root.for_tenant(tenant_bytes(name)) as kek:
            self.blind: Blinder = make_blinder(kek)
        self._kek = ring.root.for_tenant(tenant_bytes(name)) if ring.shared else None
        self.newest = first - 1
        self._due = -math.inf
        self._current: DataKey | None = None

    @property
    def min_epoch(self) -> int:
        """The oldest epoch that opens; one above `newest` if none does. Without meaning for shared keys."""
        return min(self.epochs, default=self.newest + 1)

    @property
    def epochs(self) -> tuple[int, ...]:
        """Those that open, in the order in which they came."""
        return tuple(key.epoch for _, key in tuple(self.slots.values()))

    @property
    def age(self) -> float:
        """Seconds for which the current data key has been in use; 0 if there is none yet."""
        key = self._current
        return max(0.0, self._ring.clock() - key.born) if key is not None else 0.0

    @property
    def messages(self) -> int:
        """Values sealed with the current data key."""
        key = self._current
        return key.messages if key is not None else 0

    def current(self) -> DataKey:
        """The data key that seals; a new one if that of before is too old, or the machine may have been cloned.

        Raises BusError 9105 after `shred`.
        """
        if self._ring.clock() >= self._due or self._current is None:
            return self._look()
        return self._current

    def _look(self) -> DataKey:
        with self._lock:
            ring = self._ring
            now = ring.clock()
            key = self._current
            old = key is None or now >= key.born + ring.rotate_seconds or key.spent
            if ring.moved(now) or self._suspect or old or key is None:
                return self.replace(key)
            self._due = min(now + LOOK_SECONDS, key.born + ring.rotate_seconds)
            return key

    def replace(self, key: DataKey | None) -> DataKey:
        """A key that seals in place of ``key``, which is spent. Whoever comes second gets the one that came first.

        Raises BusError 9105 after `shred`.
        """
        if not self._ring.mark[0]:
            self._ring.forked()  # by a fork that Python does not know of: now, as there is no hook for it
        with self._lock:
            if self.gone:
                raise BusError(Code.CACHE_KEYS_GONE, tenant=self.name)
            if self._current is not None and self._current is not key:
                return self._current
            ring = self._ring
            now = ring.clock()
            self.newest = self._next_epoch()
            name = tenant_bytes(self.name)
            if self._kek is not None:
                made = DataKey.derived(self._kek, name, self.newest, ring.terms, mark=ring.mark, born=now)
            else:
                made = DataKey.random(name, self.newest, ring.terms, mark=ring.mark, born=now)
            self._keep(made)
            self._current, self._suspect = made, False
            self._due = min(now + LOOK_SECONDS, now + ring.rotate_seconds)
            return made

    def _next_epoch(self) -> int:
        if self._kek is None:
            return (self.newest + 1) % _EPOCHS  # 2^32 rotations of a process: at one a second, in 136 years
        while True:  # several clients choose without asking one another
            epoch = secrets.randbelow(_EPOCHS)
            if head_of(epoch) not in self.slots:
                return epoch

    def _keep(self, key: DataKey) -> None:
        slots = {**self.slots, head_of(key.epoch): (key.commitment, key)}
        while len(slots) > self._ring.keep_epochs:  # the oldest, but never the one that seals
            del slots[next(head for head in slots if head != head_of(self.newest))]
        self.slots = slots  # whole, so that who reads without the lock sees the one or the other

    def epoch(self, number: int) -> DataKey | None:
        """The data key of epoch ``number``, if it still opens."""
        slot = self.slots.get(head_of(number))
        return slot[1] if slot is not None else None

    def rotate(self) -> int:
        """Seal with a new key from now on, and give its epoch; what there is stays readable. Raises as `current`."""
        with self._lock:
            return self.replace(self._current).epoch

    def shred_epoch(self, number: int) -> bool:
        """Destroy one data key and so all that it sealed, in O(1); false if there is none. It is never there again."""
        with self._lock:
            slots = dict(self.slots)
            slot = slots.pop(head_of(number), None)
            if slot is None:
                return False
            self.slots = slots
            if self._current is slot[1]:
                self._current, self._due = None, -math.inf
            return True

    def retire(self, below: int) -> int:
        """Destroy the data keys of all epochs under ``below``; how many these were. Not for shared keys."""
        return sum(self.shred_epoch(epoch) for epoch in self.epochs if epoch < below)

    def shred(self) -> None:
        """Destroy all keys, in O(1): nothing that was sealed can be opened by anybody, and nothing can be sealed.

        The memory of a cipher is wiped by OpenSSL when the last call that uses it ends. Shared keys can be made again
        by who has the tenant's key: for these it is the records that have to be removed.
        """
        with self._lock:
            self.gone = True
            self.slots = {}
            self._current, self._due = None, -math.inf
            self.blind = functools.partial(_refuse, self.name)
            if self._kek is not None:
                self._kek.wipe()
        self._ring.forget(self)

    def headers(self) -> list[bytes]:
        """Of shared keys: what other clients need to `admit` them, 42 bytes each. Nothing of it is secret."""
        return [key.header for _, key in self.slots.values() if key.header]

    def admit(self, header: bytes) -> int | None:
        """Have records open that another client of this tenant seals; their epoch. Only for shared keys.

        None if the header is none of this tenant's, or its epoch is another key's already. Raises BusError 9105 after
        `shred`.
        """
        with self._lock:
            if self.gone:
                raise BusError(Code.CACHE_KEYS_GONE, tenant=self.name)
            if self._kek is None or len(header) != HEADER_SIZE:
                return None
            key = DataKey.from_header(
                self._kek, tenant_bytes(self.name), header, mark=self._ring.mark, born=self._ring.clock()
            )
            if key is None or head_of(key.epoch) in self.slots:
                return None
            self._keep(key)
            return key.epoch

    def suspect(self) -> None:
        """The machine may have been cloned: seal with a new data key. Without the lock: another tenant's is held."""
        self._suspect, self._due = True, -math.inf

    def forked(self) -> None:
        """This is a child: drop all data keys, and take no lock that a thread of the parent may have held."""
        self._lock = threading.RLock()
        self.slots = {}
        self._current, self._due = None, -math.inf

    def __repr__(self) -> str:
        return f"<TenantKeys, epoch {self.newest}, {len(self.slots)} kept{', gone' if self.gone else ''}>"


def _refuse(tenant: str, name: bytes) -> bytes:
    raise BusError(Code.CACHE_KEYS_GONE, tenant=tenant)


def _forked(ring: "weakref.ref[Keyring]") -> None:
    found = ring()
    if found is not None:
        found.forked()


class Keyring:
    """The keys of all tenants. Thread-safe. As a context manager it is closed at the end.

    A child of a fork has the root key and no data key: it seals with new ones, and everything of before is a miss.

    Attributes:
        root: the root key; `close` wipes it.
        rotate_seconds, keep_epochs, clock: as given.
        terms: what data keys are made for.
        shared: as given.
        mark: 1 in this process, 0 in its children.
    """

    def __init__(
        self,
        root: RootKey,
        *,
        algorithm: Algorithm = "aes-256-gcm",
        rotate_seconds: float = ROTATE_SECONDS,
        rotate_messages: int = MAX_MESSAGES,
        rotate_bytes: int = MAX_BYTES,
        keep_epochs: int = KEEP_EPOCHS,
        shared: bool = False,
        clock: Callable[[], float] = time.monotonic,
        clones: CloneWatch | None = None,
    ) -> None:
        """Data keys are replaced after ``rotate_seconds``, ``rotate_messages`` (at most 2^32) and ``rotate_bytes`` (at
        most 2^36), whichever comes first; ``keep_epochs`` of each tenant are kept.

        ``shared``: for clients of the blind mode that read what others of the same tenant wrote. Data keys follow from
        the tenant's key and a random salt, and `TenantKeys.headers` tells the others which.

        Raises ValueError for an unknown algorithm and for numbers out of range.
        """
        if algorithm not in ALGORITHMS:
            raise ValueError(f"the algorithm is {algorithm!r}; there are {', '.join(ALGORITHMS)}")
        if not 0 < rotate_seconds <= math.inf:
            raise ValueError(f"rotate_seconds is {rotate_seconds}; it has to be more than 0")
        if not 1 <= rotate_messages <= MAX_MESSAGES or not 1 <= rotate_bytes <= MAX_BYTES:
            raise ValueError(f"a key seals 1 to {MAX_MESSAGES} messages and 1 to {MAX_BYTES} bytes")
        if keep_epochs < 1:
            raise ValueError(f"keep_epochs is {keep_epochs}; it has to be 1 or more")
        self.root = root
        self.rotate_seconds = rotate_seconds
        self.keep_epochs = keep_epochs
        self.clock = clock
        self.shared = shared
        self.terms = Terms(algorithm, rotate_messages, rotate_bytes)
        self._tenants: dict[str, TenantKeys] = {}
        self._lock = threading.RLock()
        self._floor = 1
        """The first epoch of who has keys for the first time: above all that a shredded tenant had. So no tenant has
        the same epoch twice, and what was sealed before a shred is refused for its epoch."""
        self._clones = clones if clones is not None else CloneWatch()
        self._looked = clock()
        self.mark, self._held = new_mark()
        self._hook = on_fork(functools.partial(_forked, weakref.ref(self)))

    @property
    def algorithm(self) -> Algorithm:
        """What it seals with."""
        return self.terms.algorithm

    @property
    def tenants(self) -> tuple[str, ...]:
        """The names of those that have keys."""
        return tuple(self._tenants)

    def tenant(self, name: str) -> TenantKeys:
        """The keys of ``name``: 1 to 255 bytes in UTF-8. The same object until it is shredded.

        Raises BusError 9107 for what cannot be a name, 9101 after `close`.
        """
        keys = self._tenants.get(name)
        if keys is None:
            with self._lock:
                keys = self._tenants.get(name)
                if keys is None:
                    keys = self._tenants[name] = TenantKeys(self, name, self._floor)
        return keys

    def forget(self, keys: TenantKeys) -> None:
        """``keys`` were shredded: who asks again gets new ones."""
        with self._lock:
            if not self.shared:
                self._floor = max(self._floor, keys.newest + 1)
            if self._tenants.get(keys.name) is keys:
                del self._tenants[keys.name]

    def shred(self, name: str) -> bool:
        """`TenantKeys.shred` of ``name``; false if it has no keys."""
        keys = self._tenants.get(name)
        if keys is None:
            return False
        keys.shred()
        return True

    def rotate(self) -> int:
        """`TenantKeys.rotate` of all; how many these are."""
        tenants = list(self._tenants.values())
        for keys in tenants:
            try:
                keys.rotate()
            except BusError:  # shredded in this moment
                pass
        return len(tenants)

    def moved(self, now: float) -> bool:
        """Whether the machine may have been cloned since this was asked last. Then all tenants have new data keys."""
        with self._lock:
            if now < self._looked + LOOK_SECONDS:
                return False
            self._looked = now
            if not self._clones.moved():
                return False
            tenants = list(self._tenants.values())
        for keys in tenants:
            keys.suspect()
        return True

    def close(self) -> None:
        """Shred every tenant and wipe the root key."""
        for keys in list(self._tenants.values()):
            keys.shred()
        self.root.wipe()

    def forked(self) -> None:
        """This is a child: every tenant's data keys are dropped. The hook of ``os.fork`` does it; repeated, no harm."""
        self._lock = threading.RLock()
        self.mark, self._held = new_mark()
        for keys in list(self._tenants.values()):
            keys.forked()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Keyring, {self.algorithm}, {len(self._tenants)} tenants>"
