"""The root key, from which every tenant's keys follow: where it comes from, and whether it is the right one."""

import ctypes
import os
import re
import stat
import sys
import warnings
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from busd.components.cache.secret import SIZE, Secret
from busproto.errors import BusError, Code

__all__ = ["RootKey", "RootKeyWarning"]

_MOST: Final = 256
"""Bytes of the largest file that is read for a key: 64 hex digits, and white space around them."""

_CHECK: Final = 8
"""Bytes of the check value. Not a secret; 64 bits tell any two keys of an operator apart."""

_HEX: Final = {digit: int(chr(digit), 16) for digit in b"0123456789abcdefABCDEF"}
_BASE64: Final = {
    **{digit: value for value, digit in enumerate(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")},
    **dict(zip(b"-_", (62, 63), strict=True)),
}
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,255}")


class RootKeyWarning(UserWarning):
    """The root key is none that a service may run with."""


class RootKey:
    """32 uniformly random bytes, in a page of their own. As a context manager it is wiped at the end.

    Attributes:
        where: what it came from, as errors name it.
        check: 16 hex digits that follow from it and tell nothing of it: by them an operator says which key is meant.
    """

    __slots__ = ("_secret", "check", "where")

    def __init__(self, secret: Secret, where: str, *, check: str | None = None) -> None:
        """``secret`` belongs to the root key from now on, also if this fails. ``check``: what its check value must be.

        Raises BusError 9101: it has another check value, or all its bytes are the same.
        """
        self._secret, self.where = secret, where
        try:
            if len(set(secret.view())) == 1:
                raise BusError(Code.CACHE_KEY_MISSING, where=where, reason="all its bytes are the same")
            self.check = secret.derive_public("check", _CHECK).hex()
            if check is not None and check.strip().lower() != self.check:
                raise BusError(
                    Code.CACHE_KEY_MISSING, where=where, reason=f"its check value is {self.check}, not {check}"
                )
        except BusError:
            secret.wipe()
            raise

    @classmethod
    def from_file(cls, path: str | Path, *, check: str | None = None) -> Self:
        """The key in ``path``: 32 raw bytes, 64 hex digits or base64 (also URL-safe), white space around these aside.

        A regular file, not a link, of this user or root, that nobody else may read or write (mode 0400 or 0600; on
        Windows that is not looked at). Raises BusError 9101, which says what is wrong with it.
        """
        return cls(_read(str(path), stat.S_IRUSR | stat.S_IWUSR), str(path), check=check)

    @classmethod
    def from_credential(cls, name: str, *, check: str | None = None) -> Self:
        """The key in the systemd credential ``name`` (LoadCredentialEncrypted= and its like; systemd.exec(5)).

        As `from_file`, but the group's read bit may be set: systemd grants access by an ACL, whose mask shows there.
        Raises BusError 9101: no credentials were passed, or as `from_file`.
        """
        where = f"credential {name}"
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if not _NAME.fullmatch(name) or name in (".", ".."):
            raise BusError(Code.CACHE_KEY_MISSING, where=where, reason="that is no name of a credential")
        if not folder:
            raise BusError(Code.CACHE_KEY_MISSING, where=where, reason="CREDENTIALS_DIRECTORY is not set")
        return cls(_read(os.path.join(folder, name), stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP), where, check=check)

    @classmethod
    def from_environment(cls, name: str, *, check: str | None = None) -> Self:
        """The key in the environment variable ``name``: 64 hex digits or base64. The variable is removed.

        What the process was started with is overwritten where the C library gives access to it, so that neither
        children nor /proc/self/environ show it. The text that Python had made of it at start stays in memory until
        that is used again: a file or a credential leaves no such trace.

        Raises BusError 9101: it is not there, or holds no key.
        """
        where = f"environment variable {name}"
        text = os.environ.get(name)
        if text is None:
            raise BusError(Code.CACHE_KEY_MISSING, where=where, reason="it is not set")
        _overwrite(name)
        del os.environ[name]
        buffer = bytearray(text[:_MOST], "utf-8", "surrogateescape")
        try:
            return cls(_decode(buffer, len(buffer), where, raw=False), where, check=check)
        finally:
            buffer[:] = bytes(len(buffer))

    @classmethod
    def generated(cls, *, quiet: bool = False) -> Self:
        """A random key that ends with this process: for development, and for a cache that one process has to itself.

        Issues a RootKeyWarning unless ``quiet``: blinded names change with every start, and no second process can have
        the same key.
        """
        if not quiet:
            warnings.warn(
                "the cache's root key was generated for this process alone; set one for anything but development",
                RootKeyWarning,
                stacklevel=2,
            )
        return cls(Secret.random(), "this process (generated)")

    def derive(self, label: str, *context: bytes) -> Secret:
        """A secret for one purpose, by `Secret.derive`. Raises BusError 9101 after `wipe`."""
        if self._secret.wiped:
            raise BusError(Code.CACHE_KEY_MISSING, where=self.where, reason="it was wiped")
        return self._secret.derive(label, *context)

    def for_tenant(self, tenant: bytes) -> Secret:
        """The key of ``tenant``, from which its names are blinded. In blind mode it is the root key of its clients."""
        return self.derive("tenant", tenant)

    def wipe(self) -> None:
        """Wipe it. Keys that were derived stay."""
        self._secret.wipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"<RootKey {self.check} from {self.where}>"


def _read(path: str, allowed: int) -> Secret:
    def refuse(reason: str) -> BusError:
        return BusError(Code.CACHE_KEY_MISSING, where=path, reason=reason)

    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise refuse(getattr(error, "strerror", None) or str(error)) from None
    buffer = bytearray(_MOST + 1)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise refuse("it is not a regular file")
        if sys.platform != "win32":
            if found.st_uid not in (os.geteuid(), 0):
                raise refuse(f"it belongs to user {found.st_uid}, not to {os.geteuid()}")
            if stat.S_IMODE(found.st_mode) & ~allowed:
                raise refuse(f"its mode is {stat.S_IMODE(found.st_mode):04o}; it may be 0400 or 0600")
        with open(handle, "rb", buffering=0, closefd=False) as file:  # unbuffered: straight into our buffer
            size = file.readinto(buffer) or 0
        return _decode(buffer, size, path, raw=True)
    except OSError as error:
        raise refuse(error.strerror or str(error)) from None
    finally:
        os.close(handle)
        buffer[:] = bytes(len(buffer))


def _decode(buffer: bytearray, size: int, where: str, *, raw: bool) -> Secret:
    """The secret in ``buffer[:size]``, decoded in place: base64 and binascii would leave copies in memory."""
    secret = Secret()
    view = secret.view()
    try:
        if raw and size == SIZE:
            view[:] = memoryview(buffer)[:size]
            return secret
        first, end = 0, size
        while first < end and buffer[first] in b" \t\r\n":
            first += 1
        while end > first and buffer[end - 1] in b" \t\r\n":
            end -= 1
        length = end - first
        if length == 2 * SIZE and size <= _MOST:
            for index in range(SIZE):
                at = first + 2 * index
                view[index] = _HEX[buffer[at]] << 4 | _HEX[buffer[at + 1]]
            return secret
        if size <= _MOST and (length == 43 or (length == 44 and buffer[end - 1 : end] == b"=")):
            bits = held = made = 0
            for index in range(first, first + 43):
                bits, held = (bits << 6 | _BASE64[buffer[index]]) & 0xFFFF, held + 6
                if held >= 8:
                    held -= 8
                    view[made] = bits >> held & 0xFF
                    made += 1
            if not bits & 3:  # the last two bits belong to no byte
                return secret
    except KeyError:
        pass
    secret.wipe()
    shown = f"more than {_MOST}" if size > _MOST else str(size)
    forms = "32 raw bytes, 64 hex digits or base64 of 32 bytes" if raw else "64 hex digits or base64 of 32 bytes"
    raise BusError(Code.CACHE_KEY_MISSING, where=where, reason=f"its {shown} bytes are not {forms}")


def _overwrite(name: str) -> None:
    """Overwrite the value in the block of memory that the process was started with."""
    if sys.platform != "win32":
        try:
            getenv = ctypes.CDLL(None).getenv
            getenv.restype = ctypes.c_void_p
            at = getenv(os.fsencode(name))
            if at:
                ctypes.memset(at, 0, len(ctypes.string_at(at)))
        except (OSError, AttributeError):
            pass
