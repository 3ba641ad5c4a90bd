"""An encrypting cache of many tenants, in this process.

Three lines in existing code::

    from busd.components.cache import Cache
    mine = Cache.generated().tenant("acme")
    mine.set("k", b"v", ttl=60); mine.get("k")

No call blocks, so coroutines use the same handle; for values that are costly to make there are `get_or_compute` and
`get_or_compute_async`.
"""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self, TypeVar, overload

from busd.components.cache.fork import on_fork
from busd.components.cache.keyring import Keyring
from busd.components.cache.mapping import CacheMapping
from busd.components.cache.opaque import OpaqueCache
from busd.components.cache.quarantine import Quarantine
from busd.components.cache.rootkey import RootKey
from busd.components.cache.security import SecurityEvent
from busd.components.cache.settings import CacheSettings, TenantSettings
from busd.components.cache.store import TenantStore
from busd.components.cache.tenant import TenantCache
from busproto.errors import BusError, Code

__all__ = ["Cache"]

V = TypeVar("V")

_USUAL: Final = CacheSettings()


class Cache:
    """The caches of all tenants. Thread-safe. As a context manager it is closed at the end.

    Tenants share nothing but the process: each has its own keys, quota, index, order, lock and figures. A caller is
    given a `TenantCache`, and from then on no name of a tenant is in any call. Which tenant somebody is decides
    whoever hands it out.

    In the child of a fork each cache begins empty: the keys of what was in it exist in the parent only.

    Attributes:
        settings: as given.
        keyring: the keys; None in a cache for blind mode.
    """

    def __init__(
        self,
        keyring: Keyring | None,
        settings: CacheSettings = _USUAL,
        *,
        clock: Callable[[], float] | None = None,
        on_security: Callable[[SecurityEvent], None] | None = None,
    ) -> None:
        """``keyring`` is the cache's from now on, and is closed with it. None: blind mode, where clients hold the keys
        and `opaque` is all there is.

        ``clock`` gives seconds and must not go back (`Forward` makes one that does not); the default is the monotonic
        clock, and in blind mode the wall clock, as clients say when things expire. ``on_security`` is told of records
        that fail authentication, in the thread that read them; what it raises is logged.
        """
        self.keyring: Final = keyring
        self.settings: Final = settings
        self._clock = clock if clock is not None else time.monotonic
        self._wall = clock
        self._on_security = on_security
        self._lock = threading.Lock()
        self._tenants: dict[str, TenantCache] = {}
        self._opaque: dict[str, OpaqueCache] = {}
        self._promised = 0
        self._hook = on_fork(self._forked)

    @classmethod
    def generated(
        cls,
        settings: CacheSettings = _USUAL,
        *,
        quiet: bool = False,
        clock: Callable[[], float] | None = None,
        on_security: Callable[[SecurityEvent], None] | None = None,
    ) -> Self:
        """A cache with a root key of its own that ends with the process: all that one process needs that has its cache
        to itself. Issues a RootKeyWarning unless ``quiet``.
        """
        return cls(Keyring(RootKey.generated(quiet=quiet)), settings, clock=clock, on_security=on_security)

    def _share(self, name: str) -> TenantSettings:
        share = self.settings.tenants.get(name, self.settings.usual)
        limit = self.settings.bytes_limit
        full = len(self._tenants) + len(self._opaque) >= self.settings.tenants_limit
        if share is None or full or (limit is not None and self._promised + share.quota > limit):
            raise BusError(Code.CACHE_TENANT_UNKNOWN, tenant=ascii(name)[1:-1][:40])
        return share

    def tenant(self, name: str) -> TenantCache:
        """The cache of tenant ``name``, always the same one until that is shredded.

        Raises BusError 9107: the name is none, it has no share, or all shares are given out; 9101: there are no keys.
        """
        found = self._tenants.get(name)
        if found is not None and not found.gone:
            return found
        if self.keyring is None:
            reason = "it is for blind mode, where clients hold the keys"
            raise BusError(Code.CACHE_KEY_MISSING, where="this cache", reason=reason)
        with self._lock:
            found = self._tenants.get(name)
            if found is not None and found.gone:  # by its own handle, or by the keyring
                del self._tenants[name]
                self._promised -= found.settings.quota
                found = None
            if found is None:
                share = self._share(name)
                keys = self.keyring.tenant(name)
                store = TenantStore(quota=share.quota, entries=share.entries, policy=share.policy, clock=self._clock)
                settings = self.settings
                quarantine = Quarantine(settings.quarantine_failures, settings.quarantine_seconds)
                found = self._tenants[name] = TenantCache(keys, store, share, self._on_security, quarantine)
                self._promised += share.quota
            return found

    @overload
    def mapping(self, name: str, *, ttl: float | None = None) -> CacheMapping[bytes]: ...
    @overload
    def mapping(
        self, name: str, *, dumps: Callable[[V], bytes], loads: Callable[[bytes], V], ttl: float | None = None
    ) -> CacheMapping[V]: ...
    def mapping(
        self,
        name: str,
        *,
        dumps: Callable[[Any], bytes] | None = None,
        loads: Callable[[bytes], Any] | None = None,
        ttl: float | None = None,
    ) -> CacheMapping[Any]:
        """The cache of tenant ``name`` in the place of a dict: see `CacheMapping`. Raises as `tenant`."""
        return CacheMapping(self.tenant(name), dumps=dumps, loads=loads, ttl=ttl)

    def opaque(self, name: str) -> OpaqueCache:
        """The records of tenant ``name`` in blind mode. It is apart from what `tenant` gives. Raises BusError 9107."""
        found = self._opaque.get(name)
        if found is not None:
            return found
        with self._lock:
            found = self._opaque.get(name)
            if found is None:
                share = self._share(name)
                found = self._opaque[name] = OpaqueCache(share, clock=self._wall)
                self._promised += share.quota
            return found

    def tenants(self) -> list[str]:
        """The names of those that have something here."""
        with self._lock:
            return sorted({*self._tenants, *self._opaque})

    def held(self, name: str) -> list[TenantCache | OpaqueCache]:
        """What tenant ``name`` has here: values, records, both or nothing. Makes none, as `tenant` and `opaque` do."""
        found: tuple[TenantCache | OpaqueCache | None, ...] = (self._tenants.get(name), self._opaque.get(name))
        return [each for each in found if each is not None and not (isinstance(each, TenantCache) and each.gone)]

    def rotate(self, name: str | None = None) -> int:
        """Have ``name``, or everybody, seal with a new key from now on; returns how many tenants that are."""
        with self._lock:
            chosen = [each for tenant, each in self._tenants.items() if name in (None, tenant)]
        for each in chosen:
            try:
                each.rotate()
            except BusError:  # shredded in this moment
                pass
        return len(chosen)

    def shred(self, name: str) -> bool:
        """Destroy all that tenant ``name`` has here, keys first, in O(1); whether there was something.

        Handles that were given out raise BusError 9105 from now on; `tenant` gives a new one, which is empty.
        """
        with self._lock:
            gone = self._tenants.pop(name, None)
            blind = self._opaque.pop(name, None)
            for each in (gone, blind):
                self._promised -= each.settings.quota if each is not None else 0
            if gone is not None:
                gone.destroy_keys()  # under the lock: who asks for the tenant now must not get these once more
        if gone is not None:
            gone.clear()
        if blind is not None:
            blind.clear()
        return gone is not None or blind is not None

    def shred_epoch(self, name: str, epoch: int) -> bool:
        """Destroy one key of tenant ``name``, in O(1): what it sealed is a miss. False if there is none."""
        found = self._tenants.get(name)
        return found is not None and found.shred_epoch(epoch)

    def close(self) -> None:
        """Shred every tenant and wipe the root key."""
        for name in self.tenants():
            self.shred(name)
        if self.keyring is not None:
            self.keyring.close()

    def _forked(self) -> None:
        self._lock = threading.Lock()
        for tenant in self._tenants.values():
            tenant.forked()
        for opaque in self._opaque.values():
            opaque.forked()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Cache of {len(self._tenants) + len(self._opaque)} tenants>"
