"""What both clients of the blind mode are but for asking: keys, what is remembered, and each operation in steps."""

import functools
import logging
import math
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator
from typing import Any, Final, NamedTuple, TypedDict, TypeVar

import msgspec

from busd.components.cache.clock import Forward
from busd.components.cache.content import flags_of, unwrap, wrap
from busd.components.cache.datakey import HEADER_SIZE, Algorithm
from busd.components.cache.entry import NEVER, Entry
from busd.components.cache.fork import on_fork
from busd.components.cache.found import Found, Name, Value, name_bytes
from busd.components.cache.keyring import ROTATE_SECONDS, Keyring
from busd.components.cache.padding import MAX_VALUE, Padding
from busd.components.cache.record import Failure, failure_of, open_, seal
from busd.components.cache.rootkey import RootKey
from busd.components.cache.secret import SIZE, Secret
from busd.components.cache.security import SecurityEvent
from busproto.errors import BusError, Code

__all__ = ["REMEMBERED", "Blind", "BlindOptions", "BlindStatistics", "Delete", "Get", "Put", "Steps", "TenantKey"]

REMEMBERED: Final = 65_536
"""Names whose generation a client remembers: about 11 MiB when they are as many."""

KEEP_EPOCHS: Final = 64
"""Data keys that a client keeps: one of each client of the tenant that wrote lately, and of each of their rotations.
One that is met again after it was dropped is made again from the header, for 50 us."""

ATTEMPTS: Final = 4
"""Of a write that finds a later generation each time: others write the same name in a loop."""

NAME_LIMIT: Final = 65_535
"""Bytes of the longest name."""

R = TypeVar("R")

_log: Final = logging.getLogger("busd.cache")


TenantKey = RootKey | bytes | bytearray | memoryview
"""32 random bytes that all clients of one tenant have, and nobody else."""


class BlindOptions(TypedDict, total=False):
    """What may be said to a client besides."""

    algorithm: Algorithm
    """To seal with, AES-256-GCM by default; it opens what others sealed with any."""
    rotate_seconds: float
    """Age at which its data key is replaced: a day."""
    padding: Padding
    """What a record's size hides of its value's: nothing by default."""
    value_limit: int
    """Bytes of the largest value: 16 MiB."""
    remember: int
    """Names whose generation is remembered: `REMEMBERED`."""
    clock: Callable[[], float]
    """Seconds since 1970, not going back: the wall clock. Generations and expiries come from it. What a client writes
    whose clock is behind the others' may be older, by its number, than what another client has seen under that name,
    and then is stale to that one: a miss. Clocks that are right within a second are good enough."""
    on_security: Callable[[SecurityEvent], None]
    """Told of each record that is not authentic or is stale, where it was read. What it raises is logged."""


class BlindStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What one client has done.

    Attributes:
        hits, misses: of reads, as the caller saw them.
        sets: writes that were done.
        unauthentic: records that were not what was sealed: misses.
        stale: authentic ones that are older than what this client has seen: misses.
        remembered: names whose generation it remembers, and at most.
        remembered_limit: that many.
        epochs: data keys that it has.
    """

    hits: int
    misses: int
    sets: int
    unauthentic: int
    stale: int
    remembered: int
    remembered_limit: int
    epochs: int


class Put(NamedTuple):
    """Asks to hold a record; as `OpaqueCache.put`."""

    key: bytes
    record: bytes
    generation: int
    flags: int
    expiry: float
    expected: int | None


class Get(NamedTuple):
    """Asks for the entry under a name; None if there is none."""

    key: bytes


class Delete(NamedTuple):
    """Asks to take a name out; whether it was there."""

    key: bytes


Steps = Generator[Put | Get | Delete, Any, R]
"""An operation: yields what it asks of the worker, is sent the answer, returns the outcome."""


class Blind:
    """All that both clients are but for asking. Thread-safe.

    The methods that begin with ``steps_of`` are the operations: see `Steps`.

    Attributes:
        keyring: the tenant's keys.
        tenant: whose cache it is: records are bound to it, so all clients must say the same.
    """

    def __init__(self, key: TenantKey, tenant: str, options: BlindOptions) -> None:
        remember, value_limit = options.get("remember", REMEMBERED), options.get("value_limit", MAX_VALUE)
        if remember < 1 or not 1 <= value_limit <= MAX_VALUE:
            raise ValueError(f"remember is 1 or more, and value_limit 1 to {MAX_VALUE}")
        self.keyring: Final = Keyring(
            key if isinstance(key, RootKey) else _root(key),
            algorithm=options.get("algorithm", "aes-256-gcm"),
            rotate_seconds=options.get("rotate_seconds", ROTATE_SECONDS),
            keep_epochs=KEEP_EPOCHS,
            shared=True,
        )
        try:
            self._keys: Final = self.keyring.tenant(tenant)
        except BaseException:
            self.keyring.close()
            raise
        self.tenant: Final = tenant
        self._flags: Final = flags_of(named=False, padding=options.get("padding", "none"))
        self._value_limit: Final = value_limit
        self._clock = options.get("clock") or Forward(time.time)
        self._on_security = options.get("on_security")
        self._limit: Final = remember
        self._seen: OrderedDict[bytes, int] = OrderedDict()
        self._last = 0
        self._lock = threading.Lock()
        self._hits = self._misses = self._sets = self._unauthentic = self._stale = 0
        self._hook = on_fork(functools.partial(_forked, weakref.ref(self)))

    def forked(self) -> None:
        """In the child of a fork, where no thread holds the locks any more. The keyring has a hook of its own."""
        self._lock = threading.Lock()
        if isinstance(self._clock, Forward):
            self._clock = Forward(time.time)

    def _blinded(self, name: Name) -> bytes:
        encoded = name_bytes(name)
        if not 0 < len(encoded) <= NAME_LIMIT:
            raise BusError(Code.CACHE_KEY_SIZE, size=len(encoded), limit=NAME_LIMIT)
        return self._keys.blind(encoded)

    # What is remembered

    def _generation(self, key: bytes, above: int = 0) -> int:
        """One above all that this client has seen of ``key`` and given out, and ``above``: nanoseconds since 1970, so
        that those of several clients come in the order in which they write."""
        now = int(self._clock() * 1e9)
        with self._lock:
            made = max(self._last, self._seen.get(key, 0), above, now - 1) + 1
            if made >> 64:
                raise BusError(Code.CACHE_CONFLICT)
            self._last = made
            return made

    def _note(self, key: bytes, generation: int) -> None:
        """``generation`` of ``key`` is there, or was: an earlier one is stale to whoever asks from now on."""
        with self._lock:
            seen = self._seen
            if generation > seen.get(key, 0):
                seen[key] = generation
            seen.move_to_end(key)
            if len(seen) > self._limit:
                seen.popitem(last=False)

    # Records

    def _record(self, key: bytes, value: Value, generation: int, expiry: float) -> bytes:
        """What is kept of ``value``: the data key's header, and the record."""
        while True:
            content = wrap(self._flags, b"", value) if self._flags else value
            record = seal(self._keys, key, generation, self._flags, expiry, content)
            slot = self._keys.slots.get(record[:5])
            if slot is not None:  # else it was dropped just now, with nobody to open what it sealed
                return slot[1].header + record

    def _open(self, key: bytes, held: Entry, known: int) -> bytes | None:
        """The value in what the worker gave, if it is authentic and not older than ``known``."""
        header, record = held.record[:HEADER_SIZE], held.record[HEADER_SIZE:]
        keys = self._keys
        # The worker says all of these: what no record is bound to is as wrong as what another one is.
        if not (0 < held.generation < 1 << 64 and 0 <= held.flags < 1 << 32):
            self._told(key, held.generation, Failure.TAG)
            return None
        if record[:5] not in keys.slots:
            keys.admit(header)
        content = open_(keys, record, key, held.generation, held.flags, held.expiry)
        if content is None:
            why = failure_of(keys, record, key, held.generation, held.flags, held.expiry)
            self._told(key, held.generation, why or Failure.EPOCH)
            return None
        if held.generation < known:
            self._told(key, held.generation, Failure.STALE)
            return None
        self._note(key, held.generation)
        return unwrap(held.flags, b"", content) if held.flags else content

    def _told(self, key: bytes, generation: int, why: Failure) -> None:
        if why is Failure.STALE:
            self._stale += 1
        else:
            self._unauthentic += 1
        if self._on_security is None:
            return
        event = SecurityEvent(
            tenant=self.tenant,
            reason=why,
            key=key.hex(),
            generation=generation,
            count=self._unauthentic + self._stale,
        )
        try:
            self._on_security(event)
        except Exception:  # the caller asked for a value, and it is a miss
            _log.exception("telling of a record that failed authentication failed")

    def _expiry(self, ttl: float | None) -> float:
        if ttl is None or ttl == math.inf:
            return NEVER
        if not ttl > 0:
            raise ValueError(f"the time to live is {ttl} s; it has to be more than 0, or infinite for ever")
        return self._clock() + ttl

    # Operations

    def _look(self, key: bytes) -> Steps[tuple[Entry, bytes] | None]:
        """What is there under ``key``, authentic, and not expired by this client's clock."""
        known = self._seen.get(key, 0)  # before asking: what is written meanwhile makes no answer stale
        held = yield Get(key)
        if held is None or not held.expiry > self._clock():
            return None
        value = self._open(key, held, known)
        return None if value is None else (held, value)

    def _find(self, name: Name) -> Steps[tuple[Entry, bytes] | None]:
        found = yield from self._look(self._blinded(name))
        if found is None:
            self._misses += 1
        else:
            self._hits += 1
        return found

    def steps_of_get(self, name: Name) -> Steps[bytes | None]:
        """The value, or None."""
        found = yield from self._find(name)
        return None if found is None else found[1]

    def steps_of_get_entry(self, name: Name) -> Steps[Found | None]:
        """The value with what is to be known to change it, or None."""
        found = yield from self._find(name)
        if found is None:
            return None
        return Found(found[1], found[0].generation, found[0].expiry - self._clock())

    def _write(
        self, name: Name, value: Value, ttl: float | None, expected: int | None, *, above: int = 0
    ) -> Steps[int | None]:
        """Seal and send once; the generation, or None if the worker has another than ``expected``, or a later one."""
        if isinstance(value, memoryview):
            value = value.cast("B") if value.c_contiguous else value.tobytes()
        if len(value) > self._value_limit:
            raise BusError(Code.CACHE_VALUE_SIZE, size=len(value), limit=self._value_limit)
        key = self._blinded(name)
        expiry = self._expiry(ttl)
        generation = self._generation(key, above)
        record = self._record(key, value, generation, expiry)
        if not (yield Put(key, record, generation, self._flags, expiry, expected)):
            return None
        self._note(key, generation)
        self._sets += 1
        return generation

    def steps_of_set(self, name: Name, value: Value, ttl: float | None) -> Steps[int]:
        """Store over what is there; the generation. Raises BusError 9106 after `ATTEMPTS`."""
        key = self._blinded(name)
        above = 0
        for _ in range(ATTEMPTS):
            done = yield from self._write(name, value, ttl, None, above=above)
            if done is not None:
                return done
            # A later generation is there: of a client whose clock is ahead, or one that the worker made up.
            found = yield from self._look(key)
            if found is not None:
                above = found[0].generation
            else:
                yield Delete(key)
        raise BusError(Code.CACHE_CONFLICT)

    def steps_of_add(self, name: Name, value: Value, ttl: float | None) -> Steps[bool]:
        """Store if nothing is there; whether it was done."""
        return (yield from self._write(name, value, ttl, 0)) is not None

    def steps_of_cas(self, name: Name, value: Value, generation: int, ttl: float | None) -> Steps[int]:
        """Store over ``generation`` alone; the new one. Raises BusError 9106."""
        done = yield from self._write(name, value, ttl, generation, above=generation)
        if done is None:
            raise BusError(Code.CACHE_CONFLICT)
        return done

    def steps_of_delete(self, name: Name) -> Steps[bool]:
        """Take out; whether something was there."""
        key = self._blinded(name)
        generation = self._generation(key)
        there: bool = yield Delete(key)
        self._note(key, generation)  # what was written before is old from now on
        return there

    # Both

    def rotate(self) -> int:
        """Seal with a new key from now on, and give its epoch. What there is stays readable, to all clients."""
        return self._keys.rotate()

    def statistics(self) -> BlindStatistics:
        """What this client has done. While other threads use it, figures may be short by what they do."""
        return BlindStatistics(
            hits=self._hits,
            misses=self._misses,
            sets=self._sets,
            unauthentic=self._unauthentic,
            stale=self._stale,
            remembered=len(self._seen),
            remembered_limit=self._limit,
            epochs=len(self._keys.slots),
        )

    def close(self) -> None:
        """Wipe the keys. What lies at the worker stays, for those who have the tenant's key."""
        self.keyring.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.tenant!r}>"


def _root(key: bytes | bytearray | memoryview) -> RootKey:
    where = "this client"
    if len(key) != SIZE:
        raise BusError(Code.CACHE_KEY_MISSING, where=where, reason=f"it has {len(key)} bytes, not {SIZE}")
    secret = Secret()
    secret.view()[:] = key
    return RootKey(secret, where)


def _forked(client: "weakref.ref[Blind]") -> None:
    found = client()
    if found is not None:
        found.forked()
