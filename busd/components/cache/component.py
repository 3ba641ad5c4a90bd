"""The cache component: values of many tenants, sealed, each tenant's apart from all others, for who is on the bus.

All is done at once and in the thread of the loop, so no call is ever half done, whenever it is cancelled. A value of
1 KiB is opened in less time than it takes to hand it to a thread; larger ones, up to 8 MiB, took longer there as well.
"""

import asyncio
import logging
import math
import os
from collections.abc import Callable
from heapq import nlargest
from typing import Annotated, Any, Final, Literal

from msgspec import Meta
from msgspec.structs import replace as changed

from busd import __version__
from busd.components.cache.answers import MANY, CacheTotals, Found, Item, Many, Record, Share, Statistics, Ttl
from busd.components.cache.audit import Audit, Event
from busd.components.cache.cache import Cache
from busd.components.cache.config import BYTES_LIMIT, ROOM, KeyConfig, Mode, TenantConfig, check_key, open_key, shares
from busd.components.cache.config import within as fitted
from busd.components.cache.datakey import MAX_BYTES, MAX_MESSAGES, Algorithm
from busd.components.cache.entry import NEVER
from busd.components.cache.harden import Hardened, harden
from busd.components.cache.keyring import KEEP_EPOCHS, ROTATE_SECONDS, Keyring
from busd.components.cache.metrics import METRICS, figures
from busd.components.cache.opaque import OpaqueCache
from busd.components.cache.quarantine import FAILURES, SECONDS
from busd.components.cache.security import SecurityEvent
from busd.components.cache.settings import LEAST_QUOTA, TenantSettings
from busd.components.cache.tenant import TenantCache
from busd.components.model import Budget, Component, Figures, Health, Manifest, Request, current_caller
from busd.components.statefolder import state_folder
from busd.components.who import Who
from busproto.errors import BusError, Code
from busproto.limits import PAYLOAD_BYTES

__all__ = ["MANY", "NODE", "EncryptedCache"]

NODE: Final = "node"
"""The tenant that is the node itself, and may look after all others."""

TURN: Final = 1000
"""Expired entries of one tenant that are taken out in one turn."""

TURN_SECONDS: Final = 1.0
"""Between two turns. Who writes takes expired entries out as well; this is for tenants that only wait."""

_MISS: Final = Found(False)
_NO_RECORD: Final = Record(False)

_log: Final = logging.getLogger("busd.components.cache")


class EncryptedCache(Component):
    """Keeps values of each tenant under a quota and keys of its own, sealed in memory, for whoever is on the bus.

    Args:
        mode: sealed: this process holds the keys; blind: the clients do; both: as each tenant likes.
        key: where the root key comes from; in blind mode there is none.
        algorithm: that seals.
        rotate_seconds: age at which a tenant's data key is replaced.
        rotate_messages: values after which it is.
        rotate_bytes: bytes after which it is.
        keep_epochs: data keys of a tenant that are kept, so that what they sealed can be read.
        tenants: shares of those that are named; they are set aside at the start.
        usual: the share of each other tenant; "off": nobody else has one (error 9107).
        tenants_limit: shares at once.
        bytes_limit: of all quotas together. In mode both a tenant has its quota twice: of values, and of records.
        quarantine_failures: records of one data key that fail authentication within quarantine_seconds, after which
            that key is destroyed; 0: never.
        quarantine_seconds: see there.
        harden: no core dump, and no other process of this user reads its memory: for good. None: if the process is
            there for this component alone.
        lock_memory: with it, all memory stays out of swap, if the system's limit lets it.
        state: absolute path of the folder for the audit; empty: ``cache`` beneath the node's state; "off": none.
    """

    manifest = Manifest(
        component="cache",
        version=__version__,
        owner="node",
        purpose="keeps values for tenants, sealed, and no tenant learns of another",
        operations=tuple(
            map(
                Request,
                (
                    *("get", "get_many", "set", "set_many", "add", "replace", "cas", "touch", "delete", "clear"),
                    *("put_record", "get_record", "delete_record"),
                    *("stats", "all_stats", "tenants", "rotate", "shred"),
                ),
            )
        ),
        budget=Budget(memory_bytes=3 * BYTES_LIMIT // 2, cpu_percent=100.0),
    )
    metrics = METRICS

    def __init__(
        self,
        *,
        mode: Mode = "sealed",
        key: KeyConfig = KeyConfig(),  # noqa: B008  (it is frozen)
        algorithm: Algorithm = "aes-256-gcm",
        rotate_seconds: Annotated[float, Meta(gt=0)] = ROTATE_SECONDS,
        rotate_messages: Annotated[int, Meta(ge=1, le=MAX_MESSAGES)] = MAX_MESSAGES,
        rotate_bytes: Annotated[int, Meta(ge=1, le=MAX_BYTES)] = MAX_BYTES,
        keep_epochs: Annotated[int, Meta(ge=1, le=1024)] = KEEP_EPOCHS,
        tenants: Annotated[list[TenantConfig], Meta(max_length=65_536)] = [],  # noqa: B006  (it is read only)
        usual: TenantSettings | Literal["off"] = TenantSettings(),  # noqa: B008  (it is frozen)
        tenants_limit: Annotated[int, Meta(ge=1, le=1 << 20)] = 1024,
        bytes_limit: Annotated[int, Meta(ge=LEAST_QUOTA)] = BYTES_LIMIT,
        quarantine_failures: Annotated[int, Meta(ge=0, le=1 << 20)] = FAILURES,
        quarantine_seconds: Annotated[float, Meta(gt=0)] = SECONDS,
        harden: bool | None = None,
        lock_memory: bool = False,
        state: str = "",
    ) -> None:
        check_key(key, mode)
        if lock_memory and harden is False:
            raise ValueError("lock_memory: it is a part of harden, which is off")
        self._mode: Mode = mode
        self._key = key
        self._ring: dict[str, Any] = {
            "algorithm": algorithm,
            "rotate_seconds": rotate_seconds,
            "rotate_messages": rotate_messages,
            "rotate_bytes": rotate_bytes,
            "keep_epochs": keep_epochs,
        }
        given = shares(tenants, usual, mode, tenants_limit=tenants_limit, bytes_limit=bytes_limit)
        self._settings = changed(given, quarantine_failures=quarantine_failures, quarantine_seconds=quarantine_seconds)
        self._harden = harden
        self._lock_memory = lock_memory
        self._audit = Audit(state_folder(state, os.environ, "cache"))
        self._largest = PAYLOAD_BYTES
        self._cache: Cache | None = None
        self._hardened: Hardened | None = None
        self._check = ""
        self._gone = CacheTotals.of(0, [])
        self._tenant: Callable[[str], TenantCache] = _not_started

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Harden the process, get the root key, set the named shares aside. Raises BusError 9101."""
        if self.context.own_process if self._harden is None else self._harden:
            self._hardened = harden(lock_all=self._lock_memory)  # before there is a key
            for missing in self._hardened.missing:
                _log.warning("the process is not hardened as it could be: %s", missing)
        if self.context.bus is not None:
            limit = self.context.bus.welcome.get("max_payload")
            self._largest = limit if type(limit) is int and 0 < limit < PAYLOAD_BYTES else PAYLOAD_BYTES
        keyring = None
        if self._mode != "blind":
            root = open_key(self._key)
            self._check = root.check
            if self._key.generate:
                _log.warning("the root key was generated for this process alone: for development, and nothing else")
            keyring = Keyring(root, **self._ring)
        cache = self._cache = Cache(keyring, fitted(self._settings, self._largest), on_security=self._told)
        self._tenant = cache.tenant
        for name in self._settings.tenants:
            self._set_aside(name)

    def _set_aside(self, name: str) -> None:
        """Have the share of ``name``, before others have it all."""
        if self._mode != "blind":
            self._opened().tenant(name)
        if self._mode != "sealed":
            self._opened().opaque(name)

    async def run(self) -> None:
        """Free what has expired, and write what the audit left out, until cancelled."""
        while True:
            await self.context.sleep(TURN_SECONDS)
            self._audit.catch_up(self.context.time())
            for each in self._all():
                each.sweep(TURN)
                await asyncio.sleep(0)  # callers have their turn in between

    async def stop(self) -> None:
        """Destroy all keys, and so all that is here; wait a second at most until the audit is written."""
        cache, self._cache, self._tenant = self._cache, None, _not_started
        if cache is not None:
            cache.close()
        self._audit.close()

    def health(self) -> Health:
        """Not well while the audit cannot be written. Says also which root key it has, and what to look at."""
        if self._audit.problem:
            return Health(False, f"the audit cannot be written: {self._audit.problem}")
        notes = []
        if failed := sum(each.statistics().unauthentic for each in self._all()):
            notes.append(f"{failed} records failed authentication: see the audit")
        if quarantined := self.statistics().quarantined:
            notes.append(f"{quarantined} data keys were destroyed for it")
        if self._key.generate:
            notes.append("the root key was generated: for development only")
        elif self._check:
            notes.append(f"root key {self._check}")
        if self._hardened is not None and self._hardened.missing:
            notes.append(f"not hardened as it could be: {self._hardened.missing[0]}")
        return Health(True, "; ".join(notes))

    # -- values -------------------------------------------------------------------------------------------------------

    async def get(self, name: bytes = b"", *, text: str = "") -> Found:
        """The value under a name.

        Args:
            name: of 1 byte up to what the tenant's share says.
            text: the name as text, instead: the same as its UTF-8.
        """
        return _found(self._mine(), _named("get", name, text) if text else name)

    async def get_many(
        self,
        names: Annotated[list[bytes], Meta(max_length=MANY)] = [],  # noqa: B006  (it is read only)
        *,
        texts: Annotated[list[str], Meta(max_length=MANY)] = [],  # noqa: B006  (it is read only)
    ) -> Many:
        """The values under several names, as far as they fit in one message.

        Args:
            names: at most 1000.
            texts: names as text, at most 1000.
        """
        mine, room = self._mine(), self._largest
        values: list[Found] = []
        all_names: list[bytes | str] = [*names, *texts]
        for name in all_names:
            found = _found(mine, name)
            room -= len(found.value) + ROOM // 4
            if room < ROOM // 4 and values:
                break
            values.append(found)
        return Many(values, len(all_names) - len(values))

    async def set(self, name: bytes = b"", *, value: bytes, text: str = "", ttl: Ttl | None = None) -> int:
        """Store a value, over what is there. Gives its generation.

        Args:
            name: see `get`.
            value: at most what the tenant's share says and a message holds (error 9102).
            text: the name as text, instead.
            ttl: seconds that it lives; None: the tenant's usual; infinite: until it has to go.
        """
        return self._mine().set(_named("set", name, text), value, ttl=ttl)

    async def set_many(self, items: Annotated[list[Item], Meta(max_length=MANY)]) -> list[int]:
        """Store several values. Gives their generations. If one is refused for its size, none is stored.

        Args:
            items: at most 1000; each as for `set`.
        """
        mine = self._mine()
        named = [(_named("set_many", each.name, each.text), each.value, each.ttl) for each in items]
        share = mine.settings
        for name, value, _ in named:
            if not 0 < len(name) <= share.name_limit:
                raise BusError(Code.CACHE_KEY_SIZE, size=len(name), limit=share.name_limit)
            if len(value) > share.value_limit:
                raise BusError(Code.CACHE_VALUE_SIZE, size=len(value), limit=share.value_limit)
        return [mine.set(name, value, ttl=ttl) for name, value, ttl in named]

    async def add(self, name: bytes = b"", *, value: bytes, text: str = "", ttl: Ttl | None = None) -> bool:
        """Store a value if nothing is there; whether it was done.

        Args:
            name, value, text, ttl: as for `set`.
        """
        return self._mine().add(_named("add", name, text), value, ttl=ttl)

    async def replace(self, name: bytes = b"", *, value: bytes, text: str = "", ttl: Ttl | None = None) -> bool:
        """Store a value if something is there; whether it was done.

        Args:
            name, value, text, ttl: as for `set`.
        """
        return self._mine().replace(_named("replace", name, text), value, ttl=ttl)

    async def cas(
        self, name: bytes = b"", *, value: bytes, generation: int, text: str = "", ttl: Ttl | None = None
    ) -> int:
        """Compare and set: store a value if what is there is still what was got. Gives its generation; error 9106 if it
        has changed, or is not there.

        Args:
            name, value, text, ttl: as for `set`.
            generation: of what was got.
        """
        return self._mine().cas(_named("cas", name, text), value, generation, ttl=ttl)

    async def touch(self, name: bytes = b"", *, text: str = "", ttl: Ttl | None = None) -> bool:
        """Let what is under a name live for ``ttl`` from now; whether it is there. Its generation stays.

        Args:
            name, text, ttl: as for `set`.
        """
        return self._mine().touch(_named("touch", name, text), ttl=ttl)

    async def delete(self, name: bytes = b"", *, text: str = "") -> bool:
        """Take out what is under a name; whether something was there.

        Args:
            name, text: as for `get`.
        """
        return self._mine().delete(_named("delete", name, text))

    async def clear(self) -> int:
        """Drop all values of the caller's tenant, and in blind mode its records. Gives how many entries that were."""
        return sum(each.clear() for each in self._held(_asker().tenant))

    # -- records that were sealed elsewhere ---------------------------------------------------------------------------

    async def put_record(
        self,
        key: bytes,
        record: bytes,
        generation: int,
        *,
        flags: int = 0,
        expiry: float | None = None,
        expected: int | None = None,
    ) -> bool:
        """Hold a record that a client sealed; whether it was done. It is not if a later generation is there.

        Args:
            key: the blinded name: 16 bytes.
            record: as it was sealed.
            generation: that it is bound to: 1 to 2^64 - 1, larger with each write to the name.
            flags: that it is bound to: 0 to 2^32 - 1.
            expiry: seconds since 1970 at which it is gone, to which it is bound; None: it stays.
            expected: only over that generation; 0: only over nothing; None: over anything.
        """
        mine = self._records("put_record")
        try:
            return mine.put(
                key,
                record,
                generation,
                flags=flags,
                expiry=NEVER if expiry is None else expiry,
                expected=expected,
            )
        except ValueError as error:
            raise _invalid("put_record", f"generation: {error}") from None

    async def get_record(self, key: bytes) -> Record:
        """The record under a blinded name, with what it is bound to.

        Args:
            key: the blinded name: 16 bytes.
        """
        entry = self._records("get_record").get(key)
        if entry is None:
            return _NO_RECORD
        expiry = None if entry.expiry == NEVER else entry.expiry
        return Record(True, entry.record, entry.generation, entry.flags, expiry)

    async def delete_record(self, key: bytes) -> bool:
        """Take out the record under a blinded name; whether one was there.

        Args:
            key: the blinded name: 16 bytes.
        """
        return self._records("delete_record").delete(key)

    # -- about it -----------------------------------------------------------------------------------------------------

    async def stats(self, *, tenant: str = "") -> Statistics:
        """What the cache of a tenant has done, and holds.

        Args:
            tenant: whose; empty: the caller's. The node may ask for any, others for their own only (error 9107).
        """
        whose = self._whose(tenant)
        return Statistics.of(whose, self._held(whose))

    async def all_stats(self, *, limit: Annotated[int, Meta(ge=1, le=MANY)] = 100) -> list[Statistics]:
        """What the caches of all tenants have done, and hold: those with the most bytes, by name. For the node alone
        (error 3004).

        Args:
            limit: most of them.
        """
        if _asker().tenant != NODE:
            reason = "they are of all tenants together; cache.stats has the caller's own"
            raise BusError(Code.DENIED, action="call", subject="cache.all_stats", reason=reason)
        opened = self._opened()
        held = {name: opened.held(name) for name in opened.tenants()}
        largest = nlargest(limit, held, key=lambda name: sum(each.statistics().bytes for each in held[name]))
        return [Statistics.of(name, held[name]) for name in sorted(largest)]

    async def tenants(self) -> list[Share]:
        """The tenants that have a share here, by name: to the node all, to others their own."""
        own = _asker().tenant
        names = self._opened().tenants() if own == NODE else [own]
        return [Share.of(name, self._held(name)) for name in names]

    async def rotate(self, *, tenant: str = "") -> int:
        """Seal with a new data key from now on. Gives its epoch. What there is can be read, and is sealed anew then.

        Args:
            tenant: whose values; as of `stats`.
        """
        whose = self._whose(tenant)
        epoch = self._tenant(whose).rotate()
        self._note("rotated", whose, epoch=epoch, by=_asker())
        return epoch

    async def shred(self, *, tenant: str = "", epoch: int | None = None) -> bool:
        """Destroy a tenant's keys, and so all that is here of it, for good; whether there was something.

        Args:
            tenant: whose; as of `stats`.
            epoch: only the data key of that epoch; what it sealed is a miss. None: all, and records as well.
        """
        whose, opened = self._whose(tenant), self._opened()
        if epoch is not None:
            done = self._tenant(whose).shred_epoch(epoch) if 0 <= epoch < 1 << 32 else False
        else:
            figures = [each.statistics() for each in opened.held(whose)]
            done = opened.shred(whose)
            self._gone = CacheTotals.of(0, figures, gone=self._gone)
            if whose in self._settings.tenants:
                self._set_aside(whose)
        if done:
            self._note("shredded", whose, epoch=-1 if epoch is None else epoch, by=_asker())
        return done

    # -- inside -------------------------------------------------------------------------------------------------------

    def _opened(self) -> Cache:
        assert self._cache is not None, "it was started"
        return self._cache

    def _mine(self) -> TenantCache:
        """The caller's values. Written out, as each call is on the way of every get."""
        caller = current_caller()
        while caller.on_behalf_of is not None:
            caller = caller.on_behalf_of
        return self._tenant(caller.tenant)

    def _records(self, operation: str) -> OpaqueCache:
        if self._mode == "sealed":
            raise _invalid(operation, "key: this cache is for values, which it seals itself; its mode is sealed")
        return self._opened().opaque(_asker().tenant)

    def _whose(self, tenant: str) -> str:
        own = _asker().tenant
        if not tenant or tenant == own:
            return own
        if own != NODE or tenant not in self._opened().tenants():
            raise BusError(Code.CACHE_TENANT_UNKNOWN, tenant=ascii(tenant)[1:-1][:40])
        return tenant

    def _held(self, tenant: str) -> list[TenantCache | OpaqueCache]:
        """What ``tenant`` has; its share is begun if it is the caller's, and it has one. Raises BusError 9107."""
        opened = self._opened()
        if not (held := opened.held(tenant)):
            held = [opened.opaque(tenant) if self._mode == "blind" else opened.tenant(tenant)]
        return held

    def _all(self) -> list[TenantCache | OpaqueCache]:
        """What all tenants have."""
        cache = self._cache
        return [] if cache is None else [each for name in cache.tenants() for each in cache.held(name)]

    def _told(self, event: SecurityEvent) -> None:
        self._note(
            "unauthentic",
            event.tenant,
            reason=str(event.reason),
            key=event.key,
            generation=event.generation,
            count=event.count,
            by=_asker(),
        )
        if event.quarantined:
            self._note("quarantined", event.tenant, epoch=event.epoch, count=event.count, by=_asker())

    def _note(self, event: Event, tenant: str, **fields: Any) -> None:
        self._audit.note(event, tenant, self.context.time(), **fields)

    def statistics(self) -> CacheTotals:
        """What this component has done so far, all tenants together. Its calls are counted by whoever runs it."""
        return CacheTotals.of(
            0 if self._cache is None else len(self._cache.tenants()),
            [each.statistics() for each in self._all()],
            recorded=self._audit.written,
            left_out=self._audit.left_out,
            gone=self._gone,
        )

    def figures(self) -> Figures:
        """Of `metrics`."""
        return figures(self.statistics(), self._settings)


def _asker() -> Who:
    return Who.behind(current_caller())


def _found(mine: TenantCache, name: bytes | str) -> Found:
    """What ``mine`` has under ``name``."""
    found = mine.get_entry(name)
    if found is None:
        return _MISS
    value, generation, ttl = found
    return Found(True, value, generation, None if ttl == math.inf else ttl)


def _named(operation: str, name: bytes, text: str) -> bytes:
    """The name, however it was given. Raises BusError 2008 if it was in both ways."""
    if not text:
        return name
    if name:
        raise _invalid(operation, "text: the name is given already")
    return text.encode()


def _invalid(operation: str, reason: str) -> BusError:
    return BusError(Code.REQUEST_INVALID, subject=f"cache.{operation}", reason=reason)


def _not_started(tenant: str) -> TenantCache:
    raise AssertionError("it is not started")
