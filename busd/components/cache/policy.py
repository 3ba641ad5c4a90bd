"""What decides which entry has to go: the index of one tenant, in an order of its own."""

from collections.abc import Callable, Iterator
from typing import Final, Literal, Protocol

from busd.components.cache.entry import Entry

__all__ = ["POLICIES", "Policy", "PolicyName"]

PolicyName = Literal["lru", "sieve", "s3fifo"]

POLICIES: Final[tuple[PolicyName, ...]] = ("lru", "sieve", "s3fifo")


class Policy(Protocol):
    """The index of one tenant. Index and order are one structure: two would cost some 100 bytes an entry more.

    All is O(1), where eviction is amortised: an entry is passed over at most `MARKS` times for hits that it has had.
    Whoever changes it holds the lock of the store. `find` needs none under the GIL.

    Attributes:
        overhead: bytes that an entry without expiry costs besides its record: its key, its `Entry`, its places in this
            structure, and what is remembered of entries that went. Measured (tests/components/test_cache_store.py).
        find: the entry of a key, or the second argument. No hit.
        moves: what a hit has to call with the key, KeyError if it is not there; None: a hit only adds to the entry's
            ``mark``, up to `MARKS`.
    """

    overhead: int

    @property
    def find(self) -> Callable[[bytes, Entry], Entry]: ...

    @property
    def moves(self) -> Callable[[bytes], None] | None: ...

    def added(self, key: bytes, entry: Entry) -> None:
        """``key``, which is not there, has come."""

    def replaced(self, key: bytes, entry: Entry) -> None:
        """``key``, which is there, has another entry now. It keeps its place; `added` and `moves` are for others."""

    def removed(self, key: bytes) -> None:
        """``key``, which is there, goes by somebody's wish, and leaves no memory of itself."""

    def victim(self) -> tuple[bytes, Entry]:
        """The one that has to go to make room; it is no longer there. Raises KeyError if there is none."""
        ...

    def __iter__(self) -> Iterator[bytes]:
        """All keys, in no order that means anything."""
        ...

    def __len__(self) -> int: ...
