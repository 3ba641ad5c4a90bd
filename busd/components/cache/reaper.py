"""Frees what a clear has dropped: a million entries are dropped at once, but not freed at once."""

import threading
from typing import Final

from busd.components.cache.policy import Policy

__all__ = ["Reaper"]

AT_ONCE: Final = 10_000
"""Entries that the caller frees: under some 5 ms. A thread for less is more work than that."""


class Reaper:
    """Frees dropped indexes step by step, so that the GIL is given up in between and other tenants work on.

    At most one index is freed in the background: whoever drops another one meanwhile frees it himself, so a tenant
    that clears and fills in a loop has at most twice its quota.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def take(self, dropped: Policy) -> None:
        """Free ``dropped``. The caller keeps no reference to it, and holds no lock."""
        if len(dropped) <= AT_ONCE or self.busy:
            _free(dropped)
            return
        self._thread = threading.Thread(target=_free, args=(dropped,), name="cache-reaper", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether something is being freed in the background."""
        return self._thread is not None and self._thread.is_alive()

    def join(self) -> None:
        """Wait until what was dropped is free."""
        if self._thread is not None:
            self._thread.join()


def _free(dropped: Policy) -> None:
    while len(dropped):
        dropped.victim()[1].bucket = None
