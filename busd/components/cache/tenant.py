"""The cache of one tenant: values in, values out; in between they are sealed records in a store of its own."""

import asyncio
import itertools
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from operator import is_
from typing import Any, Final, TypeVar, overload

import msgspec

from busd.components.cache.computing import Computing, Wanted
from busd.components.cache.content import flags_of, name_of, unwrap, wrap
from busd.components.cache.entry import ABSENT, MARKS, NEVER, Entry, grace_flags, grace_of
from busd.components.cache.flight import Flight, Lead
from busd.components.cache.found import Found, Name, Value, name_bytes
from busd.components.cache.keyring import TenantKeys
from busd.components.cache.quarantine import Quarantine
from busd.components.cache.record import Failure, epoch_of, failure_of, open_, open_into, seal
from busd.components.cache.scratch import Scratch
from busd.components.cache.security import SecurityEvent
from busd.components.cache.settings import TenantSettings
from busd.components.cache.statistics import CacheStatistics
from busd.components.cache.store import Condition, TenantStore
from busproto.errors import BusError, Code

__all__ = ["TenantCache"]

Default = TypeVar("Default")

_INSIDE: Final = 0xFF
"""An entry with flags up to here is fresh until its expiry."""

_log: Final = logging.getLogger("busd.cache")


class TenantCache:
    """What one tenant uses of a `Cache`. Thread-safe; nothing blocks but `get_or_compute`, so coroutines use it as is.

    Names are text or bytes, values are bytes. Times to live are in seconds: None is the tenant's usual, ``math.inf``
    for ever. A value is gone at the very moment at which its time is over.

    Whatever is not there, was evicted, has expired, fails authentication or was sealed with a key that is gone is a
    miss, by one way through this code. All raise BusError 9103 for a name that is empty or too long and 9105 after the
    tenant was shredded; what writes raises 9102 for a value that is too large, 9104 for an entry that is larger than
    the quota (nothing is evicted for it, and what was there stays), and ValueError for a time to live that is not
    above 0.
    """

    __slots__ = (
        "__weakref__",
        "_computing",
        "_flags",
        "_flights",
        "_generation",
        "_keys",
        "_most",
        "_on_security",
        "_quarantine",
        "_quarantined",
        "_resealed",
        "_stale",
        "_store",
        "settings",
    )

    def __init__(
        self,
        keys: TenantKeys,
        store: TenantStore,
        settings: TenantSettings,
        on_security: Callable[[SecurityEvent], None] | None = None,
        quarantine: Quarantine | None = None,
    ) -> None:
        """`Cache.tenant` makes it. ``on_security`` is called where the miss was, without a lock."""
        self._keys = keys
        self._store = store
        self.settings: Final = settings
        self._most: Final = settings.name_limit
        self._flags: Final = flags_of(named=settings.keep_names, padding=settings.padding)
        self._on_security = on_security
        # Not from 1: a token from before a shred or a restart must match nothing that came after it.
        self._generation = itertools.count(1 + secrets.randbits(48)).__next__
        self._computing = Computing(self, self._next_generation)
        self._flights = self._computing.flights
        self._quarantine = quarantine if quarantine is not None else Quarantine()
        self._resealed = self._quarantined = self._stale = 0

    @property
    def name(self) -> str:
        """The tenant's."""
        return self._keys.name

    @property
    def gone(self) -> bool:
        """Whether the tenant was shredded: this handle is of no use any more."""
        return self._keys.gone

    def _next_generation(self) -> int:
        return self._generation()

    def _encoded(self, name: Name) -> bytes:
        encoded = name_bytes(name)
        if not 0 < len(encoded) <= self._most:
            raise BusError(Code.CACHE_KEY_SIZE, size=len(encoded), limit=self._most)
        return encoded

    # Reading

    @overload
    def get(self, name: Name) -> bytes | None: ...
    @overload
    def get(self, name: Name, default: Default) -> bytes | Default: ...
    def get(self, name: Name, default: Any = None) -> Any:
        """The value under ``name``, or ``default``."""
        # The path of a hit is written out (`_encoded`, `TenantStore.hit`): each call that is not made is 50 ns of 2 us.
        if type(name) is str:
            name = name.encode()
        if type(name) is not bytes or not 0 < len(name) <= self._most:
            name = self._encoded(name)
        store = self._store
        keys = self._keys
        key = keys.blind(name)
        entry = store.find(key, ABSENT)
        expiry = entry.expiry
        if expiry == NEVER or (expiry if entry.flags <= _INSIDE else entry.fresh) > store.clock():
            value = open_(keys, entry.record, key, entry.generation, entry.flags, expiry)
            if value is not None:
                store.hits += 1
                if (moves := store.moves) is None:
                    if entry.mark < MARKS:
                        entry.mark += 1
                else:
                    try:
                        moves(key)
                    except KeyError:  # it went between the look and this
                        pass
                if entry.epoch != keys.newest:
                    self._reseal(key, entry, value)
                if not entry.flags:
                    return value
                value = unwrap(entry.flags, name, value)
                return default if value is None else value
            self._failed(key, entry)
        else:
            self._missed(key, entry)
        return default

    def get_entry(self, name: Name) -> Found | None:
        """The value under ``name`` with its generation and the time that it has left; None if it is not there."""
        name = self._encoded(name)
        found = self._open(name, self._keys.blind(name), count=True)
        if found is None:
            return None
        entry, value = found
        return Found(value, entry.generation, entry.fresh - self._store.clock())

    def lend(self, name: Name, scratch: Scratch) -> memoryview | None:
        """The value under ``name`` in ``scratch``, to be wiped by its release; None if it is not there.

        For values that should leave nothing behind: the ``bytes`` that `get` gives cannot be wiped. The view is
        read-only, and valid until the scratch is released or used again. With padding or kept names the value is taken
        out of the scratch and put back, and does pass through ``bytes``.
        """
        name = self._encoded(name)
        key = self._keys.blind(name)
        entry = self._store.find(key, ABSENT)
        if entry.fresh <= self._store.clock():
            self._missed(key, entry)
            return None
        view = open_into(self._keys, entry.record, key, entry.generation, entry.flags, entry.expiry, scratch)
        if view is None:
            self._failed(key, entry)
            return None
        self._store.hit(key, entry)
        if entry.epoch != self._keys.newest:
            self._reseal(key, entry, view)
        if entry.flags:
            value = unwrap(entry.flags, name, bytes(view))
            if value is None:
                scratch.release()
                return None
            into = scratch.take(len(value))
            into[:] = value
            return into.toreadonly()
        return view

    def get_many(self, names: Iterable[Name]) -> dict[Name, bytes]:
        """The values under those of ``names`` that are there."""
        found: dict[Name, bytes] = {}
        for name in names:
            value = self.get(name)
            if value is not None:
                found[name] = value
        return found

    def __contains__(self, name: Name) -> bool:
        """Whether ``name`` is there, authentic and not expired. Neither a hit nor a miss."""
        name = self._encoded(name)
        return self._open(name, self._keys.blind(name), count=False) is not None

    def _open(self, name: bytes, key: bytes, *, count: bool) -> tuple[Entry, bytes] | None:
        """The entry of ``key`` and its value, or None."""
        store = self._store
        entry = store.find(key, ABSENT)
        if entry.fresh <= store.clock():
            if count:
                self._missed(key, entry)
            return None
        value = open_(self._keys, entry.record, key, entry.generation, entry.flags, entry.expiry)
        if value is None:
            self._failed(key, entry)
            return None
        if count:
            store.hit(key, entry)
            if entry.epoch != self._keys.newest:
                self._reseal(key, entry, value)
        if entry.flags:
            value = unwrap(entry.flags, name, value)
        return None if value is None else (entry, value)

    def _missed(self, key: bytes, entry: Entry) -> None:
        """Nothing fresh is there: a miss. What is kept for who takes an old value stays."""
        self._store.missed(key, entry if entry.expiry <= self._store.clock() else ABSENT)

    def _failed(self, key: bytes, entry: Entry) -> None:
        """A record did not open: a miss; and if it was not for a key that is gone, it is told.

        If it was one too many of its epoch, the key of that is destroyed: what else it sealed is a miss.
        """
        why = failure_of(self._keys, entry.record, key, entry.generation, entry.flags, entry.expiry)
        gone = why is None or (why is Failure.EPOCH and epoch_of(entry.record) == entry.epoch)
        epoch, quarantined = entry.epoch, False
        if not gone and self._quarantine.is_due(epoch, self._store.clock(), self._keys.epochs):
            quarantined = self._keys.shred_epoch(epoch)
            self._quarantined += quarantined
        self._store.missed(key, entry, unauthentic=not gone, keyless=gone)
        if why is None or gone or self._on_security is None:
            return
        event = SecurityEvent(
            tenant=self.name,
            reason=why,
            key=key.hex(),
            generation=entry.generation,
            count=self._store.statistics().unauthentic,
            epoch=epoch,
            quarantined=quarantined,
        )
        try:
            self._on_security(event)
        except Exception:  # the caller asked for a value, and it is a miss; who is told has to see to himself
            _log.exception("telling of a record that failed authentication failed")

    def _reseal(self, key: bytes, entry: Entry, content: bytes | memoryview) -> None:
        """Seal what was read under an older key anew, so that the old key can go. The generation stays."""
        keys = self._keys
        try:
            record = seal(keys, key, entry.generation, entry.flags, entry.expiry, content)
        except BusError:  # shredded just now: what was read was read before
            return
        new = Entry(record, entry.generation, entry.flags, entry.expiry, epoch_of(record))
        if new.epoch != entry.epoch and self._store.replace(key, entry, new):
            self._resealed += 1

    # Writing

    def _entry(
        self, name: bytes, key: bytes, value: Value, ttl: float | None, generation: int, grace: float = 0.0
    ) -> Entry:
        """``value`` sealed. ``grace``: seconds for which it is kept when it is no longer fresh, if it ever is."""
        settings = self.settings
        if isinstance(value, memoryview):
            value = value.cast("B") if value.c_contiguous else value.tobytes()
        size = len(value)
        if size > settings.value_limit:
            raise BusError(Code.CACHE_VALUE_SIZE, size=size, limit=settings.value_limit)
        expiry, flags = NEVER, self._flags
        if ttl is not None or settings.ttl is not None or settings.ttl_limit is not None:
            lifetime = settings.lifetime(ttl)
            expiry = self._store.clock() + lifetime
            if grace and expiry != NEVER:
                limit = NEVER if settings.ttl_limit is None else settings.ttl_limit
                kept = grace_flags(grace, limit - lifetime)
                flags |= kept
                expiry += grace_of(kept)
        content = wrap(flags, name, value) if flags else value
        record = seal(self._keys, key, generation, flags, expiry, content)
        return Entry(record, generation, flags, expiry, epoch_of(record))

    def _put(self, name: Name, value: Value, ttl: float | None, when: Condition | None) -> int | None:
        """Seal and store; the generation, or None if ``when`` did not agree."""
        name = self._encoded(name)
        key = self._keys.blind(name)
        generation = self._generation()
        entry = self._entry(name, key, value, ttl, generation)
        self._flights.outdate(key)
        done = self._store.put(key, entry, when)
        return generation if done or when is None else None

    def set(self, name: Name, value: Value, *, ttl: float | None = None) -> int:
        """Store ``value`` under ``name``, over what is there; returns its generation.

        Of two at the same time, the one that began later stays.
        """
        return self._put(name, value, ttl, None) or 0

    def set_many(
        self, values: Mapping[Name, Value] | Mapping[str, Value] | Mapping[bytes, Value], *, ttl: float | None = None
    ) -> None:
        """`set` each of ``values``. One that is refused ends it: those before it are stored."""
        for name, value in values.items():
            self._put(name, value, ttl, None)

    def add(self, name: Name, value: Value, *, ttl: float | None = None) -> bool:
        """Store ``value`` if nothing is there under ``name``; returns whether it was done."""
        return name not in self and self._put(name, value, ttl, lambda live: not self._there(live)) is not None

    def replace(self, name: Name, value: Value, *, ttl: float | None = None) -> bool:
        """Store ``value`` if something is there under ``name``; returns whether it was done."""
        return name in self and self._put(name, value, ttl, self._there) is not None

    def _there(self, live: Entry | None) -> bool:
        return live is not None and live.fresh > self._store.clock()

    def cas(self, name: Name, value: Value, generation: int, *, ttl: float | None = None) -> int:
        """Compare and set: store ``value`` if what is there still has ``generation``; returns the new one.

        Raises BusError 9106 if it has changed, or is not there.
        """
        done = None
        if name in self:
            done = self._put(name, value, ttl, lambda live: live is not None and live.generation == generation)
        if done is None:
            raise BusError(Code.CACHE_CONFLICT)
        return done

    def touch(self, name: Name, ttl: float | None = None) -> bool:
        """Let what is under ``name`` live for ``ttl`` seconds from now; returns whether it is there.

        Its record is bound to its time, so it is sealed anew. The generation stays, and so do tokens of it.
        """
        name = self._encoded(name)
        key = self._keys.blind(name)
        while (found := self._open(name, key, count=False)) is not None:
            old, value = found
            entry = self._entry(name, key, value, ttl, old.generation, old.grace)
            if self._store.put(key, entry, partial(is_, old)):
                return True
        return False

    def delete(self, name: Name) -> bool:
        """Take out what is under ``name``; returns whether something was there."""
        key = self._keys.blind(self._encoded(name))
        self._flights.outdate(key)
        fresh = self._there(self._store.find(key, ABSENT))
        return self._store.delete(key) and fresh

    def pop(self, name: Name) -> bytes | None:
        """Take out what is under ``name`` and give it, or None; neither a hit nor a miss.

        Of all who do so at once one gets it.
        """
        name = self._encoded(name)
        key = self._keys.blind(name)
        self._flights.outdate(key)
        while (found := self._open(name, key, count=False)) is not None:
            generation = found[0].generation
            if self._store.delete(key, lambda live, was=generation: live.generation == was):  # type: ignore[misc]
                return found[1]
        return None

    def clear(self) -> int:
        """Drop all, in O(1); returns how many entries that were. The memory is freed in the background."""
        self._flights.outdate_all()
        return self._store.clear()

    # Computing

    def get_or_compute(
        self,
        name: Name,
        compute: Callable[[], Value],
        *,
        ttl: float | None = None,
        timeout: float | None = None,
        stale: float | None = None,
    ) -> bytes:
        """The value under ``name``; if it is not there, what ``compute`` gives, which is stored.

        Of all who ask meanwhile, in threads and coroutines, one computes and the others wait for it, at most
        ``timeout`` seconds each. If it fails, all get the exception, and nothing is stored. If it is cancelled (any
        BaseException that is no Exception), the next one computes. What is written or deleted under the name meanwhile
        stays so; the outcome is then returned and not stored, as one that is too large to be.

        ``stale``: what is stored is kept for so many seconds when its time is over, for callers that say ``stale``.
        Within theirs they get the old value at once, and one computation, in a thread in the background, renews it
        (stale-while-revalidate, RFC 5861 section 3). If that fails it is counted (`renewals_failed`), and the next one
        who asks begins another. To everybody else the value is gone when its time is over, and a tenant's
        ``ttl_limit`` holds for both times together.

        Raises what ``compute`` does, TimeoutError, TypeError if it gives no bytes, RuntimeError if it asks for the
        same name, ValueError for a ``stale`` that is not above 0 and at most 12 days.
        """
        name = self._encoded(name)
        key, wanted = self._keys.blind(name), Wanted(name, ttl, stale)
        if stale is not None and (old := self._old(name, key, stale)) is not None:
            self._computing.renew(key, compute, wanted)
            return old
        value = self.get(name)
        if value is not None:
            return value
        flight, waiter = self._flights.join(key)
        if waiter is not None:
            outcome = self._flights.wait(flight, waiter, timeout)
            if not isinstance(outcome, Lead):
                return outcome
        return self._computing.lead(flight, compute, wanted)

    async def get_or_compute_async(
        self,
        name: Name,
        compute: Callable[[], Awaitable[Value]],
        *,
        ttl: float | None = None,
        stale: float | None = None,
    ) -> bytes:
        """As `get_or_compute`, for coroutines. A leader that is cancelled hands on; a waiter that is just leaves.

        What is ``stale`` is renewed by a task of its own in this loop.
        """
        name = self._encoded(name)
        key, wanted = self._keys.blind(name), Wanted(name, ttl, stale)
        if stale is not None and (old := self._old(name, key, stale)) is not None:
            self._computing.renew_async(key, compute, wanted)
            return old
        value = self.get(name)
        if value is not None:
            return value
        flight, waiter = self._flights.join(key, asyncio.current_task())
        if waiter is not None:
            outcome = await self._flights.wait_async(flight, waiter)
            if not isinstance(outcome, Lead):
                return outcome
        return await self._computing.lead_async(flight, compute, wanted)

    def _old(self, name: bytes, key: bytes, stale: float) -> bytes | None:
        """The value under ``name`` if it has not been fresh for less than ``stale`` seconds: a hit. None: any other."""
        store = self._store
        entry = store.find(key, ABSENT)
        fresh = entry.fresh
        if not fresh <= store.clock() < min(entry.expiry, fresh + stale):
            return None
        value = open_(self._keys, entry.record, key, entry.generation, entry.flags, entry.expiry)
        if value is None:
            self._failed(key, entry)
            return None
        store.hit(key, entry)
        self._stale += 1
        if entry.epoch != self._keys.newest:
            self._reseal(key, entry, value)
        return unwrap(entry.flags, name, value)

    def landed(self, name: bytes, key: bytes) -> bytes | None:
        """For `Computing`: the value, if it is there; neither a hit nor a miss."""
        found = self._open(name, key, count=False)
        return None if found is None else found[1]

    def land(self, flight: Flight, value: Value, wanted: Wanted) -> bytes:
        """For `Computing`: store what was computed, if nothing was written meanwhile; returns it as bytes."""
        if not isinstance(value, bytes | bytearray | memoryview):
            raise TypeError(f"the computation gave {type(value).__name__}; a value is bytes")
        given = bytes(value)
        flights = self._flights
        try:
            entry = self._entry(wanted.name, flight.key, given, wanted.ttl, flight.generation, wanted.stale or 0.0)
            self._store.put(flight.key, entry, lambda live: flights.is_current(flight))
        except BusError as error:
            if error.code not in (Code.CACHE_VALUE_SIZE, Code.CACHE_ENTRIES):
                raise
        return given

    # All of it

    def names(self) -> Iterator[bytes]:
        """The names of all that is there, if names are kept (`TenantSettings.keep_names`). Opens each record.

        Raises TypeError if they are not: what is blinded cannot be read back. What is written meanwhile may be missing.
        """
        if not self.settings.keep_names:
            raise TypeError("names are blinded, and are only kept with keep_names=True in the tenant's settings")
        return self._names()

    def _names(self) -> Iterator[bytes]:
        store = self._store
        for key in store.present():
            entry = store.find(key, ABSENT)
            if entry.fresh > store.clock():
                content = open_(self._keys, entry.record, key, entry.generation, entry.flags, entry.expiry)
                if content is None:
                    self._failed(key, entry)
                elif (name := name_of(entry.flags, content)) is not None:
                    yield name

    def __len__(self) -> int:
        """Entries, also such as have expired and were not found yet, or are kept for who takes an old value."""
        return len(self._store)

    def __bool__(self) -> bool:
        """True: a cache is one also when it is empty."""
        return True

    def rotate(self) -> int:
        """Seal with a new key from now on, and give its epoch. What there is stays readable, and is sealed anew when
        it is read."""
        return self._keys.rotate()

    def destroy_keys(self) -> None:
        """Destroy all keys, in O(1): nothing that is here can be read by anybody. What is left is for `clear`."""
        self._keys.shred()

    def shred(self) -> None:
        """Destroy all keys, then drop all, in O(1). This handle is then of no use; `Cache.tenant` gives a new one."""
        self.destroy_keys()
        self.clear()

    def shred_epoch(self, epoch: int) -> bool:
        """Destroy the key of ``epoch``: what it sealed is a miss. False if there is none."""
        return self._keys.shred_epoch(epoch)

    def sweep(self, limit: int = 1000) -> int:
        """Take out at most ``limit`` expired entries; returns how many. Only for caches that nobody writes to."""
        return self._store.sweep(limit)

    def settle(self) -> None:
        """Wait until what was cleared is freed."""
        self._store.settle()

    def statistics(self) -> CacheStatistics:
        """What this tenant's cache has done, and holds."""
        store = msgspec.structs.asdict(self._store.statistics())
        keys = self._keys
        return CacheStatistics(
            **store,
            epoch=keys.newest,
            key_age=keys.age,
            key_messages=keys.messages,
            resealed=self._resealed,
            quarantined=self._quarantined,
            computed=self._flights.computed,
            shared=self._flights.shared,
            in_flight=len(self._flights),
            stale=self._stale,
            renewals_failed=self._flights.renewals_failed,
        )

    def forked(self) -> None:
        """In the child of a fork: begin empty. Keys are gone, and locks may be held by threads that are not here."""
        self._store.forked()
        self._quarantine.forked()
        self._computing = Computing(self, self._next_generation)
        self._flights = self._computing.flights

    def __repr__(self) -> str:
        return f"<TenantCache of {self.name!r}, {len(self)} entries>"
