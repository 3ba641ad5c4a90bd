"""Blind mode, the client's side: values are sealed and names blinded here, and the worker holds what it cannot read.

Three lines in existing code, in process and over the bus::

    mine = BlindClient(RootKey.from_file("tenant.key"), cache.opaque("acme"), tenant="acme")
    mine.set("k", b"v", ttl=60); mine.get("k")

    async with attach("cache", bus=bus) as worker:
        mine = BlindBusClient(RootKey.from_file("tenant.key"), worker, tenant="acme")
        await mine.set("k", b"v", ttl=60); await mine.get("k")

What lies at the worker for a value is the header of the data key (42 bytes: see `DataKey.header`) and the same record
as in all modes. So every client that has the tenant's key reads what the others wrote, and asks nobody for it.

What a worker, or whoever is in its place, still can do: see how large values are (padding hides most of that), when and
how often which blinded name is used and by whom; lose and keep back anything, which is a miss; and give an old value to
a client that has not seen a later one. A client that has seen one knows: it remembers the generation of what it last
read and wrote, of so many names. It cannot make, change or exchange values, nor pass one off as another name's or
another tenant's, nor let one outlive its time. Whoever has the tenant's key can do all of that.
"""

import asyncio
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar, Unpack, overload

from busd.components.cache.blindsteps import (
    REMEMBERED,
    Blind,
    BlindOptions,
    BlindStatistics,
    Get,
    Put,
    Steps,
    TenantKey,
)
from busd.components.cache.entry import NEVER, Entry
from busd.components.cache.found import Found, Name, Value

__all__ = [
    "REMEMBERED",
    "BlindBusClient",
    "BlindClient",
    "BlindOptions",
    "BlindStatistics",
    "RecordStore",
    "RecordWorker",
    "TenantKey",
]

MANY_AT_ONCE: Final = 64
"""Calls that `BlindBusClient.get_many` has in flight."""

Default = TypeVar("Default")
R = TypeVar("R")


class RecordStore(Protocol):
    """Where a `BlindClient` keeps records; `OpaqueCache` is it, and says what the arguments are."""

    def put(
        self, key: bytes, record: bytes, generation: int, *, flags: int, expiry: float, expected: int | None
    ) -> bool: ...

    def get(self, key: bytes) -> Entry | None: ...

    def delete(self, key: bytes) -> bool: ...


class HeldRecord(Protocol):
    """What a worker has under a name; without meaning if it is not ``found``."""

    @property
    def found(self) -> bool: ...
    @property
    def record(self) -> bytes: ...
    @property
    def generation(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def expiry(self) -> float | None: ...


class RecordWorker(Protocol):
    """Where a `BlindBusClient` keeps records; a handle of the cache component is it. ``expiry`` of None: never."""

    async def put_record(
        self,
        key: bytes,
        record: bytes,
        generation: int,
        *,
        flags: int = 0,
        expiry: float | None = None,
        expected: int | None = None,
    ) -> bool: ...

    async def get_record(self, key: bytes) -> HeldRecord: ...

    async def delete_record(self, key: bytes) -> bool: ...


class BlindClient(Blind):
    """A tenant's cache at a store in this process. Thread-safe. As a context manager it is closed at the end.

    Names are text or bytes, values are bytes, times to live are in seconds and None is for ever. What is not there, has
    expired, is not authentic, or is older than what this client has seen is a miss.

    All raise BusError 9103 for a name that is empty or too long and 9101 or 9105 after `close`; what writes raises 9102
    for a value that is too large, ValueError for a time to live that is not above 0, and what the store raises.
    """

    def __init__(self, key: TenantKey, store: RecordStore, *, tenant: str, **options: Unpack[BlindOptions]) -> None:
        """``key``: the tenant's, which no worker has. A `RootKey` is the client's from now on, and is wiped by `close`;
        bytes are copied into one, and are the caller's to wipe. ``store``: above all `Cache.opaque`. ``tenant``: its
        name, the same in all its clients. ``options``: `BlindOptions`.

        Raises BusError 9101 for a key that is none, 9107 for a tenant's name that is none, ValueError for options.
        """
        super().__init__(key, tenant, options)
        self._store = store

    def _run(self, steps: Steps[R]) -> R:
        store = self._store
        answer: Any = None
        while True:
            try:
                ask = steps.send(answer)
            except StopIteration as end:
                outcome: R = end.value
                return outcome
            if type(ask) is Get:
                answer = store.get(ask.key)
            elif type(ask) is Put:
                answer = store.put(
                    ask.key, ask.record, ask.generation, flags=ask.flags, expiry=ask.expiry, expected=ask.expected
                )
            else:
                answer = store.delete(ask.key)

    @overload
    def get(self, name: Name) -> bytes | None: ...
    @overload
    def get(self, name: Name, default: Default) -> bytes | Default: ...
    def get(self, name: Name, default: Any = None) -> Any:
        """The value under ``name``, or ``default``."""
        value = self._run(self.steps_of_get(name))
        return default if value is None else value

    def get_entry(self, name: Name) -> Found | None:
        """The value under ``name`` with its generation and the time that it has left; None if it is not there."""
        return self._run(self.steps_of_get_entry(name))

    def get_many(self, names: Iterable[Name]) -> dict[Name, bytes]:
        """The values under those of ``names`` that are there."""
        return {name: value for name in names if (value := self.get(name)) is not None}

    def set(self, name: Name, value: Value, *, ttl: float | None = None) -> int:
        """Store ``value`` under ``name``, over what is there; returns its generation.

        Raises BusError 9106 if others write the same name all the time.
        """
        return self._run(self.steps_of_set(name, value, ttl))

    def set_many(self, values: Mapping[str, Value] | Mapping[bytes, Value], *, ttl: float | None = None) -> None:
        """`set` each of ``values``. One that is refused ends it: those before it are stored."""
        for name, value in values.items():
            self.set(name, value, ttl=ttl)

    def add(self, name: Name, value: Value, *, ttl: float | None = None) -> bool:
        """Store ``value`` if nothing is there under ``name``; returns whether it was done."""
        return self._run(self.steps_of_add(name, value, ttl))

    def cas(self, name: Name, value: Value, generation: int, *, ttl: float | None = None) -> int:
        """Store ``value`` if what is there still has ``generation``; returns the new one.

        Raises BusError 9106 if it has changed, or is not there.
        """
        return self._run(self.steps_of_cas(name, value, generation, ttl))

    def delete(self, name: Name) -> bool:
        """Take out what is under ``name``; whether something was there, as the store says. This client takes nothing
        that was written before for current any more, whatever the store does."""
        return self._run(self.steps_of_delete(name))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BlindBusClient(Blind):
    """As `BlindClient`, for coroutines, at a worker wherever it is: ``worker`` is a handle of the cache component.

    All raise, besides, what a call over the bus does.
    """

    def __init__(self, key: TenantKey, worker: RecordWorker, *, tenant: str, **options: Unpack[BlindOptions]) -> None:
        """``worker``: from `attach`. The rest is as for `BlindClient`."""
        super().__init__(key, tenant, options)
        self._worker = worker

    async def _run(self, steps: Steps[R]) -> R:
        worker = self._worker
        answer: Any = None
        while True:
            try:
                ask = steps.send(answer)
            except StopIteration as end:
                outcome: R = end.value
                return outcome
            if type(ask) is Get:
                held = await worker.get_record(ask.key)
                answer = _entry_of(held) if held.found else None
            elif type(ask) is Put:
                answer = await worker.put_record(
                    ask.key,
                    ask.record,
                    ask.generation,
                    flags=ask.flags,
                    expiry=None if ask.expiry == NEVER else ask.expiry,
                    expected=ask.expected,
                )
            else:
                answer = await worker.delete_record(ask.key)

    @overload
    async def get(self, name: Name) -> bytes | None: ...
    @overload
    async def get(self, name: Name, default: Default) -> bytes | Default: ...
    async def get(self, name: Name, default: Any = None) -> Any:
        """The value under ``name``, or ``default``."""
        value = await self._run(self.steps_of_get(name))
        return default if value is None else value

    async def get_entry(self, name: Name) -> Found | None:
        """As `BlindClient.get_entry`."""
        return await self._run(self.steps_of_get_entry(name))

    async def get_many(self, names: Iterable[Name]) -> dict[Name, bytes]:
        """The values under those of ``names`` that are there; `MANY_AT_ONCE` calls at a time."""
        wanted = list(names)
        found: dict[Name, bytes] = {}
        for start in range(0, len(wanted), MANY_AT_ONCE):
            some = wanted[start : start + MANY_AT_ONCE]
            values = await asyncio.gather(*map(self.get, some))
            found.update((name, value) for name, value in zip(some, values, strict=True) if value is not None)
        return found

    async def set(self, name: Name, value: Value, *, ttl: float | None = None) -> int:
        """As `BlindClient.set`."""
        return await self._run(self.steps_of_set(name, value, ttl))

    async def set_many(self, values: Mapping[str, Value] | Mapping[bytes, Value], *, ttl: float | None = None) -> None:
        """As `BlindClient.set_many`."""
        for name, value in values.items():
            await self.set(name, value, ttl=ttl)

    async def add(self, name: Name, value: Value, *, ttl: float | None = None) -> bool:
        """As `BlindClient.add`."""
        return await self._run(self.steps_of_add(name, value, ttl))

    async def cas(self, name: Name, value: Value, generation: int, *, ttl: float | None = None) -> int:
        """As `BlindClient.cas`."""
        return await self._run(self.steps_of_cas(name, value, generation, ttl))

    async def delete(self, name: Name) -> bool:
        """As `BlindClient.delete`."""
        return await self._run(self.steps_of_delete(name))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _entry_of(held: HeldRecord) -> Entry:
    return Entry(held.record, held.generation, held.flags, NEVER if held.expiry is None else held.expiry)
