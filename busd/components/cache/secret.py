"""A secret of 32 bytes in a page of its own: locked into RAM, left out of core dumps, and wiped when it is done with.

What this cannot reach: the copy that OpenSSL makes of a key for a cipher (it wipes that itself when the cipher is
freed), and whatever a caller copies out of `Secret.view` into objects of Python.
"""

import ctypes
import functools
import hmac
import mmap
import os
import sys
import weakref
from types import TracebackType
from typing import Final, Literal, NoReturn, Self

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

__all__ = ["SIZE", "Protection", "Secret", "expand", "fill_random", "new_page"]

SIZE: Final = 32
"""Bytes of every secret: the key of AES-256, of ChaCha20 and of HMAC-SHA256 at its full strength."""

DOMAIN: Final = b"busd/cache/v1/"
"""What every derivation begins with, so that no other use of the same key makes the same bytes."""

Protection = Literal["locked", "not-dumped", "wiped-on-fork"]
"""locked: never in swap; not-dumped: in no core dump; wiped-on-fork: zero in a child that was forked."""

_MADV_WIPEONFORK: Final = 18
"""Linux 4.14; the mmap module does not name it."""


def new_page() -> mmap.mmap:
    """One page of zeros that no file and no other process shares. Raises OSError where there is no memory for it."""
    if sys.platform == "win32":
        return mmap.mmap(-1, mmap.PAGESIZE)
    return mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _address(page: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(page))


def wipe_on_fork(page: mmap.mmap) -> bool:
    """Have the kernel zero ``page`` in every child that is forked; false where it does not do that."""
    if sys.platform == "linux":
        try:
            page.madvise(_MADV_WIPEONFORK)
            return True
        except (OSError, ValueError):
            return False
    return False


def _protect(page: mmap.mmap, forget: bool) -> frozenset[Protection]:
    took: set[Protection] = set()
    if _lock(page):
        took.add("locked")
    if sys.platform == "linux":
        try:
            page.madvise(mmap.MADV_DONTDUMP)
            took.add("not-dumped")
        except (OSError, ValueError):
            pass
    if forget and wipe_on_fork(page):
        took.add("wiped-on-fork")
    return frozenset(took)


def _lock(page: mmap.mmap) -> bool:
    """Keep ``page`` out of swap. False if the system refuses: mostly for RLIMIT_MEMLOCK; each secret takes a page."""
    where, size = ctypes.c_void_p(_address(page)), ctypes.c_size_t(len(page))
    try:
        if sys.platform == "win32":
            return bool(ctypes.windll.kernel32.VirtualLock(where, size))
        return int(_libc().mlock(where, size)) == 0
    except (OSError, AttributeError):
        return False


def fill_random(view: memoryview) -> None:
    """Fill ``view`` (at most 256 bytes) from the system's generator, if it can without a copy in an object of Python.

    getentropy(3) blocks until the generator is seeded, and Linux seeds it anew in a VM that was cloned from a snapshot.
    """
    try:
        target = ctypes.c_char.from_buffer(view)
        if _libc().getentropy(ctypes.c_void_p(ctypes.addressof(target)), ctypes.c_size_t(len(view))) == 0:
            return
    except (OSError, AttributeError, TypeError):  # Windows, and systems whose C library does not have it
        pass
    view[:] = os.urandom(len(view))


def expand(key: memoryview, label: str, context: tuple[bytes, ...], into: memoryview | bytearray) -> None:
    """Fill ``into`` with HKDF-Expand (RFC 5869 section 2.3, SHA-256) of ``key`` for ``label`` and ``context``.

    Extraction is left out, as section 3.3 allows for a key that is uniformly random already; so there is no
    intermediate key that would have to be wiped. The info is the domain, the label and each of ``context``, all but the
    first with their length (2 bytes, big-endian) before them.

    Raises OverflowError for a context of more than 65,535 bytes, ValueError for more than 8,160 bytes of output.
    """
    parts = (label.encode(), *context)
    info = DOMAIN + b"".join(len(part).to_bytes(2, "big") + part for part in parts)
    HKDFExpand(SHA256(), len(into), info).derive_into(key, into)


class Secret:
    """32 secret bytes. Wiped by `wipe`, by the end of a ``with``, and when nobody refers to it any more.

    It is never shown, compared by value or pickled. Wiping while another thread uses the view leaves that thread with
    zeros; so whoever owns it decides when it ends.

    Attributes:
        protections: what the system granted. All of them on Linux within RLIMIT_MEMLOCK; only "locked" on macOS and
            Windows. Nothing fails for want of one: see `harden` for the process as a whole.
    """

    __slots__ = ("__weakref__", "_page", "protections", "wiped")

    def __init__(self, *, forget_on_fork: bool = False) -> None:
        """Zeros, to be filled through `view`. ``forget_on_fork``: a child that is forked finds zeros here.

        Raises OSError where there is no memory for a page.
        """
        self.wiped = True
        self._page = new_page()
        self.protections: frozenset[Protection] = _protect(self._page, forget_on_fork)
        self.wiped = False
        _living.add(self)

    @classmethod
    def random(cls, *, forget_on_fork: bool = False) -> Self:
        """A new random one."""
        secret = cls(forget_on_fork=forget_on_fork)
        fill_random(secret.view())
        return secret

    @staticmethod
    def living() -> int:
        """How many there are in this process that are not wiped."""
        return len(_living)

    @property
    def locked(self) -> bool:
        """Whether it is kept out of swap."""
        return "locked" in self.protections

    def view(self) -> memoryview:
        """The 32 bytes themselves, writable. Raises ValueError after `wipe`. Do not keep it, nor copy from it."""
        if self.wiped:
            raise ValueError("the secret was wiped")
        return memoryview(self._page)[:SIZE]

    def derive(self, label: str, *context: bytes) -> "Secret":
        """Another secret, as `expand` makes it. Nothing about this one or its siblings follows from it."""
        made = Secret()
        expand(self.view(), label, context, made.view())
        return made

    def derive_public(self, label: str, size: int, *context: bytes) -> bytes:
        """``size`` bytes that may be shown, as `expand` makes them."""
        made = bytearray(size)
        expand(self.view(), label, context, made)
        return bytes(made)

    def same(self, other: "Secret") -> bool:
        """Whether both hold the same bytes, in a time that does not depend on them. Raises ValueError after `wipe`."""
        return hmac.compare_digest(self.view(), other.view())

    def wipe(self) -> None:
        """Zero the page, and give it back if no view of it is left. Doing it again does nothing."""
        if not self.wiped:
            self.wiped = True
            ctypes.memset(_address(self._page), 0, len(self._page))
            _living.discard(self)
            try:
                self._page.close()
            except BufferError:  # a view is somewhere; the page goes with it, and is zero
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def __del__(self) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"<Secret, {'wiped' if self.wiped else 'locked' if self.locked else 'not locked'}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is neither pickled nor copied")


_living: "weakref.WeakSet[Secret]" = weakref.WeakSet()
