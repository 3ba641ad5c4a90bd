"""A buffer of ours for one plaintext, which is zeroed when the plaintext is done with, or turns out to be none."""

import ctypes
from types import TracebackType
from typing import Final, Self

__all__ = ["KEPT", "Scratch"]

KEPT: Final = 1 << 20
"""Bytes of a buffer that is kept for the next value. A larger one is zeroed and given back: values of that size are
rare, and a worker that once saw one would keep 16 MiB for good."""

_LEAST: Final = 4096
_ZEROS: Final = 16 << 10


class Scratch:
    """A buffer that grows to what is asked for. For one user at a time: it is not thread-safe.

    ``decrypt_into`` of the cryptography package leaves the plaintext in the buffer although it says that the tag is
    wrong. So nothing is decrypted into a caller's buffer: it goes into one of these, and is handed out after success.

    A ``bytes`` that Python makes cannot be wiped. Who needs that reads from the view that `open_into` gives, and
    releases::

        with Scratch() as scratch:
            view = open_into(keys, record, blinded, generation, flags, expiry, scratch)
            ...
    """

    __slots__ = ("_buffer", "_shown", "_view")

    def __init__(self) -> None:
        self._buffer = bytearray(_LEAST)
        self._view: memoryview | None = None
        self._shown: memoryview | None = None

    def take(self, size: int) -> memoryview:
        """``size`` writable bytes. What was taken before is zeroed, and its view is invalid from now on."""
        self.release()
        if size > len(self._buffer):
            self._buffer = bytearray(max(size, min(2 * len(self._buffer), KEPT)))
        view = self._view = memoryview(self._buffer)[:size]
        return view

    def show(self) -> memoryview:
        """What was taken, read-only, for handing out. Raises ValueError if nothing is taken."""
        if self._view is None:
            raise ValueError("nothing was taken from the scratch buffer")
        shown = self._shown = self._view.toreadonly()
        return shown

    def release(self) -> None:
        """Zero what was taken. Its views raise ValueError from now on; one that somebody made of them shows zeros, and
        nothing that is decrypted later."""
        view, shown = self._view, self._shown
        if view is not None:
            self._view = self._shown = None
            if len(view) <= _ZEROS:
                view[:] = bytes(len(view))
            else:  # without as many zeros elsewhere
                ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(self._buffer)), 0, len(view))
            try:
                if shown is not None:
                    shown.release()
                view.release()
                self._buffer.append(0)  # fails if any view is left
                self._buffer.pop()
            except BufferError:
                self._buffer = bytearray(_LEAST)
            if len(self._buffer) > KEPT:
                self._buffer = bytearray(_LEAST)

    @property
    def blank(self) -> bool:
        """Whether every byte of the buffer is zero."""
        return not any(self._buffer)

    @property
    def capacity(self) -> int:
        """Bytes of the buffer."""
        return len(self._buffer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()
