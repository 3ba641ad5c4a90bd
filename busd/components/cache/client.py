"""A tenant's cache at the component, for coroutines: plain values under plain names, and requests that travel together.

Three lines in existing code::

    async with attach(EncryptedCache, bus=bus) as worker:
        mine = BusCache(worker)
        await mine.set("k", b"v", ttl=60); await mine.get("k")

What many coroutines ask for in one turn of the loop goes in few calls, as with DataLoader or rueidis: a call costs as
much as several values do. A lone request waits for nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from math import inf
from typing import Any, Final, Generic, Protocol, TypeVar, overload

from busd.components.cache.answers import Found as Answer
from busd.components.cache.answers import Item, Many
from busd.components.cache.found import Found, Name, Value
from busproto.errors import BusError, Code

__all__ = ["BusCache", "CacheWorker"]

TOGETHER: Final = 32
"""Requests in one call. With more the others on the path idle while one has them all (64 in flight on two cores: 72 k/s
by 16, 82 by 32, 66 by 64)."""

CALL_BYTES: Final = 256 << 10
"""Of values in one call, about: small ones are not to wait for large ones."""

CALLS: Final = 8
"""Of one kind under way at a time. What is asked for meanwhile gathers, and goes when one of them ends."""

REFUSALS: Final = frozenset({Code.CACHE_KEY_SIZE, Code.CACHE_VALUE_SIZE, Code.REQUEST_INVALID})
"""Errors of one request among several, for which nothing was done: each is then made by itself, to see whose it is."""

Default = TypeVar("Default")
Asked = TypeVar("Asked")
Got = TypeVar("Got")


class CacheWorker(Protocol):
    """Where the values are; a handle of the cache component is it, and says what the arguments are."""

    async def get(self, name: bytes = ..., *, text: str = ...) -> Answer: ...
    async def get_many(self, names: list[bytes] = ..., *, texts: list[str] = ...) -> Many: ...
    async def set(self, name: bytes = ..., *, value: bytes, text: str = ..., ttl: float | None = ...) -> int: ...
    async def set_many(self, items: list[Item]) -> list[int]: ...
    async def add(self, name: bytes = ..., *, value: bytes, text: str = ..., ttl: float | None = ...) -> bool: ...
    async def replace(self, name: bytes = ..., *, value: bytes, text: str = ..., ttl: float | None = ...) -> bool: ...
    async def cas(
        self, name: bytes = ..., *, value: bytes, generation: int, text: str = ..., ttl: float | None = ...
    ) -> int: ...
    async def touch(self, name: bytes = ..., *, text: str = ..., ttl: float | None = ...) -> bool: ...
    async def delete(self, name: bytes = ..., *, text: str = ...) -> bool: ...
    async def clear(self) -> int: ...


class _Together(Generic[Asked, Got]):
    """Requests of one kind, that travel together."""

    def __init__(
        self,
        alone: Callable[[Asked], Coroutine[Any, Any, Got]],
        several: Callable[[list[Asked]], Awaitable[Sequence[Got]]],
    ) -> None:
        """``alone`` makes one request; ``several`` makes them all, in order, or makes none and raises."""
        self._alone = alone
        self._several = several
        self._waiting: list[tuple[Asked, int, asyncio.Future[Got]]] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._due = False

    def ask(self, asked: Asked, size: int) -> "asyncio.Future[Got]":
        """The answer to come. ``size``: bytes of the value, as far as that is known."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Got] = loop.create_future()
        self._waiting.append((asked, size, future))
        if len(self._waiting) >= TOGETHER:
            self._send()
        elif not self._due:
            self._due = True
            loop.call_soon(self._send_due)
        return future

    def _send_due(self) -> None:
        self._due = False
        self._send()

    def _send(self) -> None:
        """Make calls of what waits, as far as there may be more."""
        while self._waiting and len(self._calls) < CALLS:
            call = asyncio.get_running_loop().create_task(self._call(self._take()))
            self._calls.add(call)
            call.add_done_callback(self._ended)

    def _take(self) -> list[tuple[Asked, int, "asyncio.Future[Got]"]]:
        """What goes in the next call: at least one."""
        room, count = CALL_BYTES, 0
        for _, size, _ in self._waiting[:TOGETHER]:
            room -= size
            if room < 0 and count:
                break
            count += 1
        some = self._waiting[:count]
        del self._waiting[:count]
        return some

    def _ended(self, call: "asyncio.Task[None]") -> None:
        self._calls.discard(call)
        self._send()

    async def _call(self, some: list[tuple[Asked, int, "asyncio.Future[Got]"]]) -> None:
        asked = [each for each, _, future in some if not future.done()]  # the others gave up meanwhile
        futures = [future for _, _, future in some if not future.done()]
        if len(asked) > 1:
            try:
                answers = await self._several(asked)
            except BusError as error:
                if error.code not in REFUSALS:
                    for future in futures:
                        # Each its own, as a traceback grows when it is raised.
                        _fail(future, type(error).from_body(error.body()))
                    return
            except BaseException as error:
                for future in futures:
                    _fail(future, error)
                raise
            else:
                for future, answer in zip(futures, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
                return
        for each, future in zip(asked, futures, strict=True):
            await self._call_alone(each, future)

    async def _call_alone(self, asked: Asked, future: "asyncio.Future[Got]") -> None:
        try:
            answer = await self._alone(asked)
        except BaseException as error:
            _fail(future, error)
            if not isinstance(error, Exception):
                raise
        else:
            if not future.done():
                future.set_result(answer)


def _fail(future: "asyncio.Future[Any]", error: BaseException) -> None:
    if future.done():
        return
    if isinstance(error, asyncio.CancelledError):
        future.cancel()
    else:
        future.set_exception(error)


class BusCache:
    """A tenant's cache at a worker, wherever that is. The tenant is the caller's, as the broker proved it.

    Names are text or bytes, values are bytes, times to live are in seconds; None is the tenant's usual, and infinite is
    until it has to go. What is not there, has expired or is not authentic is a miss. Belongs to the event loop on which
    it is used. Between requests of which none waits for another there is no order.

    All raise BusError 9103 for a name that is empty or too long, and what a call over the bus does; what writes raises
    9102 for a value that is too large, and 2008 for a time to live that is not above 0.
    """

    def __init__(self, worker: CacheWorker) -> None:
        """``worker``: a handle of the component, from `attach`. It stays whoever's it was."""
        self._worker = worker
        self._gets: _Together[bytes, bytes | None] = _Together(self._get_alone, self._get_several)
        self._sets: _Together[Item, int] = _Together(self._set_alone, worker.set_many)
        self._usual = 0
        """Bytes of a value that was got, of late."""

    # -- reading ------------------------------------------------------------------------------------------------------

    @overload
    async def get(self, name: Name) -> bytes | None: ...
    @overload
    async def get(self, name: Name, default: Default) -> bytes | Default: ...
    async def get(self, name: Name, default: Any = None) -> Any:
        """The value under ``name``, or ``default``."""
        value = await self._gets.ask(name.encode() if type(name) is str else _bytes(name), self._usual)
        return default if value is None else value

    async def get_entry(self, name: Name) -> Found | None:
        """The value under ``name`` with its generation and the time that it has left; None if it is not there."""
        answer = await self._worker.get(_bytes(name))
        if not answer.found:
            return None
        return Found(answer.value, answer.generation, inf if answer.ttl is None else answer.ttl)

    async def get_many(self, names: Iterable[Name]) -> dict[Name, bytes]:
        """The values under those of ``names`` that are there."""
        wanted = list(names)
        found: dict[Name, bytes] = {}
        for start in range(0, len(wanted), CALLS * TOGETHER):
            some = wanted[start : start + CALLS * TOGETHER]
            values = await asyncio.gather(
                *(
                    self._get_several(list(map(_bytes, some[first : first + TOGETHER])))
                    for first in range(0, len(some), TOGETHER)
                )
            )
            answers = (value for part in values for value in part)
            found.update((name, value) for name, value in zip(some, answers, strict=True) if value is not None)
        return found

    async def _get_alone(self, name: bytes) -> bytes | None:
        answer = await self._worker.get(name)
        self._learn([answer])
        return answer.value if answer.found else None

    async def _get_several(self, names: list[bytes]) -> list[bytes | None]:
        values: list[bytes | None] = []
        while names:
            many = await self._worker.get_many(names)
            if not 0 < len(many.values) <= len(names):
                raise BusError(Code.HANDLER_FAILED, reason=f"{len(many.values)} values for {len(names)} names")
            self._learn(many.values)
            values += [each.value if each.found else None for each in many.values]
            names = names[len(many.values) :]  # a message held no more
        return values

    def _learn(self, answers: list[Answer]) -> None:
        """How large values are, so that the next calls ask for so many that they are not too large together."""
        sizes = [len(each.value) for each in answers if each.found]
        if sizes:
            self._usual = (self._usual + sum(sizes) // len(sizes)) // 2

    # -- writing ------------------------------------------------------------------------------------------------------

    async def set(self, name: Name, value: Value, *, ttl: float | None = None) -> int:
        """Store ``value`` under ``name``, over what is there; returns its generation."""
        return await self._sets.ask(Item(value=bytes(value), name=_bytes(name), ttl=ttl), len(value))

    async def _set_alone(self, item: Item) -> int:
        return await self._worker.set(item.name, value=item.value, ttl=item.ttl)

    async def set_many(
        self, values: Mapping[Name, Value] | Mapping[str, Value] | Mapping[bytes, Value], *, ttl: float | None = None
    ) -> None:
        """`set` each of ``values``. If some are refused the others are stored all the same; one refusal is raised."""
        await asyncio.gather(*(self.set(name, value, ttl=ttl) for name, value in values.items()))

    async def add(self, name: Name, value: Value, *, ttl: float | None = None) -> bool:
        """Store ``value`` if nothing is there under ``name``; returns whether it was done."""
        return await self._worker.add(_bytes(name), value=bytes(value), ttl=ttl)

    async def replace(self, name: Name, value: Value, *, ttl: float | None = None) -> bool:
        """Store ``value`` if something is there under ``name``; returns whether it was done."""
        return await self._worker.replace(_bytes(name), value=bytes(value), ttl=ttl)

    async def cas(self, name: Name, value: Value, generation: int, *, ttl: float | None = None) -> int:
        """Compare and set: store ``value`` if what is there still has ``generation``; returns the new one.

        Raises BusError 9106 if it has changed, or is not there.
        """
        return await self._worker.cas(_bytes(name), value=bytes(value), generation=generation, ttl=ttl)

    async def touch(self, name: Name, ttl: float | None = None) -> bool:
        """Let what is under ``name`` live for ``ttl`` seconds from now; returns whether it is there."""
        return await self._worker.touch(_bytes(name), ttl=ttl)

    async def delete(self, name: Name) -> bool:
        """Take out what is under ``name``; returns whether something was there."""
        return await self._worker.delete(_bytes(name))

    async def clear(self) -> int:
        """Drop all of the tenant; returns how many entries that were."""
        return await self._worker.clear()


def _bytes(name: Name) -> bytes:
    """``name`` as it travels. Raises TypeError for what is no name."""
    if isinstance(name, str):
        return name.encode()
    if not isinstance(name, bytes):
        raise TypeError(f"a name is str or bytes, not {type(name).__name__}")
    return name
