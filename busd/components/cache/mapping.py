"""A tenant's cache as a dict, for code that has one in its place."""

from collections.abc import Callable, ItemsView, Iterator, MutableMapping, ValuesView
from typing import Any, TypeVar, cast

from busd.components.cache.tenant import TenantCache

__all__ = ["CacheMapping"]

V = TypeVar("V")
_RAISE: Any = object()


class CacheMapping(MutableMapping[str, V]):
    """Text names and values of any type over a `TenantCache`.

    As a dict, except that entries go when their time is over or others need the room: ``if name in d: d[name]`` may
    fail, ``d.get(name)`` does not. `items` and `values` leave out what goes meanwhile. Iteration needs the names, which
    are blinded; with ``keep_names`` in the tenant's settings they are sealed with the values, and iterating opens every
    record (1 us each). Without it, iterating, `keys`, `items`, `popitem` and comparing raise TypeError; all else works,
    also `clear`, which is O(1). ``len`` also counts entries that have expired and were not found yet.
    """

    def __init__(
        self,
        cache: TenantCache,
        *,
        dumps: Callable[[V], bytes] | None = None,
        loads: Callable[[bytes], V] | None = None,
        ttl: float | None = None,
    ) -> None:
        """Values go in by ``dumps`` and come out by ``loads``; without these they are bytes. ``ttl`` as in `set`.

        Do not use pickle: who can write to the memory of the cache cannot forge a record, but who has the tenant's
        handle could run code in you.
        """
        if (dumps is None) != (loads is None):
            raise ValueError("dumps and loads belong together")
        self._cache = cache
        self._dumps = dumps if dumps is not None else cast(Callable[[V], bytes], _same)
        self._loads = loads if loads is not None else cast(Callable[[bytes], V], _same)
        self._ttl = ttl

    def __getitem__(self, name: str) -> V:
        value = self._cache.get(name)
        if value is None:
            raise KeyError(name)
        return self._loads(value)

    def __setitem__(self, name: str, value: V) -> None:
        self._cache.set(name, self._dumps(value), ttl=self._ttl)

    def __delitem__(self, name: str) -> None:
        if not self._cache.delete(name):
            raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name != "" and name in self._cache

    def __iter__(self) -> Iterator[str]:
        """Raises TypeError where names are not kept."""
        return (name.decode() for name in self._cache.names())

    def __len__(self) -> int:
        return len(self._cache)

    def setdefault(self, name: str, default: V = None) -> V:  # type: ignore[assignment]  # as MutableMapping's
        """The value under ``name``; if there is none, ``default``, which is stored, unless another was quicker."""
        while True:
            value = self._cache.get(name)
            if value is not None:
                return self._loads(value)
            if self._cache.add(name, self._dumps(default), ttl=self._ttl):
                return default

    def pop(self, name: str, default: Any = _RAISE) -> Any:
        """Take out the value under ``name`` and give it; ``default`` if there is none, or KeyError without one.

        Of all who do so at once one gets it.
        """
        value = self._cache.pop(name)
        if value is not None:
            return self._loads(value)
        if default is _RAISE:
            raise KeyError(name)
        return default

    def popitem(self) -> tuple[str, V]:
        """Take out any entry and give it. Raises KeyError if there is none, TypeError where names are not kept."""
        for name in self:
            value = self._cache.pop(name)
            if value is not None:
                return name, self._loads(value)
        raise KeyError("the cache is empty")

    def items(self) -> ItemsView[str, V]:
        """Names with their values."""
        return _Items(self)

    def values(self) -> ValuesView[V]:
        """The values."""
        return _Values(self)

    def clear(self) -> None:
        """Drop all, in O(1)."""
        self._cache.clear()

    def __repr__(self) -> str:
        return f"<CacheMapping of {self._cache.name!r}, {len(self)} entries>"


def _there(mapping: CacheMapping[V]) -> Iterator[tuple[str, V]]:
    for name in mapping:
        value = mapping.get(name, _RAISE)
        if value is not _RAISE:  # else it went since it was listed
            yield name, value


class _Items(ItemsView[str, V]):
    _mapping: CacheMapping[V]

    def __iter__(self) -> Iterator[tuple[str, V]]:
        return _there(self._mapping)


class _Values(ValuesView[V]):
    _mapping: CacheMapping[V]

    def __iter__(self) -> Iterator[V]:
        return (value for _, value in _there(self._mapping))


def _same(value: Any) -> Any:
    return value
