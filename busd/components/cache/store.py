"""What one tenant has in the cache: records without meaning, under a quota that is never exceeded.

Each tenant has a store of its own, with its own index, order, quota and lock, and nothing that two stores share: what
one tenant does decides nothing about what another one finds.
"""

import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from busd.components.cache.entry import ABSENT, MARKS, NEVER, Entry
from busd.components.cache.lru import LRU
from busd.components.cache.policy import Policy, PolicyName
from busd.components.cache.quota import Quota
from busd.components.cache.reaper import Reaper
from busd.components.cache.s3fifo import S3FIFO
from busd.components.cache.sieve import Sieve
from busd.components.cache.statistics import StoreStatistics
from busd.components.cache.wheel import Wheel

__all__ = ["EXPIRING", "Condition", "TenantStore"]

EXPIRING: Final = 140
"""Bytes more of an entry that expires: the time, and its place in the wheel. Measured, as `Policy.overhead`."""

SWEPT: Final = 2
"""Expired entries that each write takes out besides what it needs room for: more than it can bring in, so they get
fewer, and bounded, so no write pays for many."""

POLICIES: Final[dict[PolicyName, Callable[[int], Policy]]] = {"lru": LRU, "sieve": Sieve, "s3fifo": S3FIFO}

Condition = Callable[[Entry | None], bool]
"""Decides, under the store's lock, whether a write happens; given the entry that is there and has not expired."""

GIL: Final = bool(getattr(sys, "_is_gil_enabled", lambda: True)())


class TenantStore:
    """Entries of one tenant by their blinded keys. Thread-safe.

    A read takes no lock: `find` is one look-up, entries are replaced and never changed, and moving to the end of the
    order is one call into C. That holds under the GIL. Counting a hit is not a promise of the language, but CPython
    switches threads only at calls and at jumps back, so no hit is lost there. On a free-threaded build `find` and
    `moves` take the lock, and hits that are counted at the same moment may be one too few.

    Attributes:
        find: the entry of a key, or the second argument, expired or not; no hit. For `hit` and `missed`.
        moves: as `Policy.moves`.
        hits: as in `StoreStatistics`; the reader counts.
        clock: seconds; never goes back.
    """

    __slots__ = (
        "_clears",
        "_deletes",
        "_evicted_bytes",
        "_evicted_entries",
        "_expired",
        "_keyless",
        "_lock",
        "_make",
        "_misses",
        "_policy",
        "_policy_name",
        "_quota",
        "_reaper",
        "_refused",
        "_sets",
        "_unauthentic",
        "_wheel",
        "clock",
        "find",
        "hits",
        "moves",
    )

    find: Callable[[bytes, Entry], Entry]
    moves: Callable[[bytes], None] | None

    def __init__(
        self,
        *,
        quota: int,
        entries: int = 1 << 62,
        policy: PolicyName = "lru",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``quota`` in bytes with overhead, at most ``entries``; ``clock`` in seconds (`Forward` if it steps)."""
        self._make = POLICIES[policy]
        self._policy_name: Final = policy
        self._quota = Quota(quota, entries)
        self._reaper = Reaper()
        self.clock = clock
        self.hits = self._misses = self._sets = self._deletes = self._clears = self._expired = 0
        self._evicted_bytes = self._evicted_entries = self._unauthentic = self._keyless = self._refused = 0
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._policy = self._make(self._quota.limit)
        self._wheel = Wheel()
        self.find = self._policy.find if GIL else self._locked_find
        self.moves = self._policy.moves if GIL or self._policy.moves is None else self._locked_moves

    def _locked_find(self, key: bytes, default: Entry) -> Entry:
        with self._lock:
            return self._policy.find(key, default)

    def _locked_moves(self, key: bytes) -> None:
        with self._lock:
            if (moves := self._policy.moves) is not None:
                moves(key)

    def cost(self, size: int, expires: bool) -> int:
        """Bytes of the quota that an entry with a record of ``size`` bytes takes."""
        return size + self._policy.overhead + (EXPIRING if expires else 0)

    def _cost(self, entry: Entry) -> int:
        return len(entry.record) + self._policy.overhead + (0 if entry.expiry == NEVER else EXPIRING)

    def get(self, key: bytes) -> Entry | None:
        """The entry of ``key``, which counts as a hit; None, counted as a miss, if there is none or it has expired."""
        entry = self.find(key, ABSENT)
        if entry.expiry > self.clock():
            self.hit(key, entry)
            return entry
        self.missed(key, entry)
        return None

    def peek(self, key: bytes) -> Entry | None:
        """The entry of ``key``, or None; neither a hit nor a miss."""
        entry = self.find(key, ABSENT)
        return entry if entry.expiry > self.clock() else None

    def hit(self, key: bytes, entry: Entry) -> None:
        """Count a hit on ``entry``, which `find` gave."""
        self.hits += 1
        if self.moves is None:
            if entry.mark < MARKS:
                entry.mark += 1
        else:
            try:
                self.moves(key)
            except KeyError:  # it went between the look and this
                pass

    def missed(self, key: bytes, entry: Entry, *, unauthentic: bool = False, keyless: bool = False) -> None:
        """Count a miss, and take ``entry``, which `find` gave, out if it is still there.

        The one way for what is absent, what is another tenant's, what has expired and what fails authentication.
        """
        with self._lock:
            self._misses += 1
            self._unauthentic += unauthentic
            self._keyless += keyless
            if self._policy.find(key, ABSENT) is entry and entry is not ABSENT:
                self._drop(key, entry)
                self._expired += not (unauthentic or keyless)

    def _drop(self, key: bytes, entry: Entry) -> None:
        self._policy.removed(key)
        self._gone(key, entry)

    def _gone(self, key: bytes, entry: Entry) -> None:
        self._wheel.removed(key, entry)
        self._quota.charge(-self._cost(entry), -1)

    def put(self, key: bytes, entry: Entry, when: Condition | None = None) -> bool:
        """Store ``entry``, over what is there; returns whether that was done.

        Without ``when`` it is done unless a later generation is there: of two writes at the same time, the one with the
        earlier number is then taken to have come first. What is over its time already is taken as a delete. Room is
        made before: first what has expired goes, then what the policy says. Who is overwritten keeps its place, which
        counts as a hit. Raises BusError 9104, before anything else happens, if it is larger than the quota.
        """
        cost = self._cost(entry)
        quota = self._quota
        if cost > quota.limit:
            with self._lock:
                self._refused += 1
            quota.check(cost)
        now = self.clock()
        with self._lock:
            policy = self._policy
            old = policy.find(key, ABSENT)
            if old is not ABSENT and old.expiry <= now:
                self._drop(key, old)
                self._expired += 1
                old = ABSENT
            live = None if old is ABSENT else old
            if when is not None:
                if not when(live):
                    return False
            elif old.generation > entry.generation:
                return False
            if entry.expiry <= now:
                if live is not None:
                    self._drop(key, live)
                    self._deletes += 1
                return True
            self._sets += 1
            if live is not None:
                self._mark(key, live)
                while not quota.has_room(cost - self._cost(live), 0):
                    if self._make_room(now, bytes_short=True) is live:
                        live = None
                        break
            if live is not None:
                entry.mark = live.mark
                self._wheel.removed(key, live)
                quota.charge(cost - self._cost(live), 0)
                policy.replaced(key, entry)
            else:
                while not quota.has_room(cost, 1):
                    self._make_room(now, bytes_short=not quota.has_room(cost, 0))
                quota.charge(cost, 1)
                policy.added(key, entry)
            if entry.expiry != NEVER:
                self._wheel.added(key, entry, now)
            self._sweep(now, SWEPT)
            return True

    def _mark(self, key: bytes, entry: Entry) -> None:
        moves = self._policy.moves
        if moves is not None:
            moves(key)
        elif entry.mark < MARKS:
            entry.mark += 1

    def _make_room(self, now: float, *, bytes_short: bool) -> Entry:
        """Take one entry out: one that has expired, or else the policy's victim."""
        key = self._wheel.due(now)
        if key is not None:
            entry = self._policy.find(key, ABSENT)
            self._policy.removed(key)
            self._expired += 1
        else:
            key, entry = self._policy.victim()
            if entry.expiry <= now:  # its bucket's time is not over yet
                self._expired += 1
            elif bytes_short:
                self._evicted_bytes += 1
            else:
                self._evicted_entries += 1
        self._gone(key, entry)
        return entry

    def _sweep(self, now: float, limit: int) -> int:
        done = 0
        while done < limit and (key := self._wheel.due(now)) is not None:
            self._drop(key, self._policy.find(key, ABSENT))
            done += 1
        self._expired += done
        return done

    def sweep(self, limit: int = 1000) -> int:
        """Take out at most ``limit`` entries that have expired; returns how many.

        Each write takes some along, so this is only for a store that is not written to.
        """
        now = self.clock()
        with self._lock:
            return self._sweep(now, limit)

    def replace(self, key: bytes, old: Entry, new: Entry) -> bool:
        """Put ``new`` in the place of ``old``, if that is still there and there is room; returns whether it was done.

        Neither a set nor a hit, and nothing goes for it: the same value in another record.
        """
        now = self.clock()
        with self._lock:
            cost = self._cost(new) - self._cost(old)
            if self._policy.find(key, ABSENT) is not old or old.expiry <= now or not self._quota.has_room(cost, 0):
                return False
            new.mark = old.mark
            self._wheel.removed(key, old)
            self._quota.charge(cost, 0)
            self._policy.replaced(key, new)
            self._wheel.added(key, new, now)
            return True

    def delete(self, key: bytes, when: Condition | None = None) -> bool:
        """Take ``key`` out; returns whether it was there and, if ``when`` is given, that agreed."""
        now = self.clock()
        with self._lock:
            entry = self._policy.find(key, ABSENT)
            if entry is ABSENT:
                return False
            if entry.expiry <= now:
                self._drop(key, entry)
                self._expired += 1
                return False
            if when is not None and not when(entry):
                return False
            self._drop(key, entry)
            self._deletes += 1
            return True

    def clear(self) -> int:
        """Drop all; returns how many entries that were. O(1): what is dropped is freed later, and without the lock."""
        with self._lock:
            dropped, entries = self._policy, self._quota.entries
            self._quota.charge(-self._quota.used, -entries)
            self._begin()
            self._clears += 1
        self._reaper.take(dropped)
        return entries

    def settle(self) -> None:
        """Wait until what was cleared is freed."""
        self._reaper.join()

    def forked(self) -> None:
        """In the child of a fork: begin anew, empty. A lock may be held by a thread that is not here."""
        self._lock = threading.Lock()
        self._reaper = Reaper()
        self._quota = Quota(self._quota.limit, self._quota.entries_limit)
        self._begin()

    def present(self) -> list[bytes]:
        """The keys of all that is there and has not expired. O(n), and the lock is held for it."""
        now = self.clock()
        with self._lock:
            while True:
                try:
                    keys = list(self._policy)
                    break
                except RuntimeError:  # a hit moved something just then: reads do not take the lock
                    continue
            find = self._policy.find
            return [key for key in keys if find(key, ABSENT).expiry > now]

    def __len__(self) -> int:
        """Entries, also those that have expired and were not yet found."""
        return self._quota.entries

    def statistics(self) -> StoreStatistics:
        """All figures, of one moment."""
        with self._lock:
            quota = self._quota
            return StoreStatistics(
                policy=self._policy_name,
                hits=self.hits,
                misses=self._misses,
                sets=self._sets,
                deletes=self._deletes,
                clears=self._clears,
                expired=self._expired,
                evicted_for_bytes=self._evicted_bytes,
                evicted_for_entries=self._evicted_entries,
                unauthentic=self._unauthentic,
                keyless=self._keyless,
                refused=self._refused,
                entries=quota.entries,
                entries_limit=quota.entries_limit,
                bytes=quota.used,
                bytes_limit=quota.limit,
                bytes_most=quota.most,
            )
