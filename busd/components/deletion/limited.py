"""A gate that ends a walk when more would go than may."""

import threading

from busd.components.deletion.cancelled import Cancelled
from busd.components.deletion.gate import Gate
from busproto.errors import BusError, Code

__all__ = ["Limited"]


class Limited:
    """``gate``, and no more than so many entries and bytes in all. What was let through is not given back.

    Attributes:
        exceeded: why it ended the walk: BusError 9004; None if it did not.
    """

    def __init__(self, gate: Gate, entries: int | None, size: int | None) -> None:
        self.exceeded: BusError | None = None
        self._gate = gate
        self._limits = (entries, size)
        self._lock = threading.Lock()
        self._entries = self._bytes = 0

    def enter(self, files: int, size: int) -> None:
        """As `Gate.enter`; raises Cancelled also when it would be too much, with nothing of the batch begun."""
        with self._lock:
            entries, most = self._limits
            for what, used, limit in (
                ("entries that a job may remove", self._entries + files, entries),
                ("bytes that a job may free", self._bytes + size, most),
            ):
                if limit is not None and used > limit:
                    self.exceeded = self.exceeded or BusError(Code.DELETION_LIMIT, what=what, used=used, limit=limit)
            if self.exceeded is not None:
                raise Cancelled
            self._entries += files
            self._bytes += size
        self._gate.enter(files, size)

    def batch(self) -> int:
        """As `Gate.batch`."""
        return self._gate.batch()

    def left(self, files: int, seconds: float) -> None:
        """As `Gate.left`."""
        self._gate.left(files, seconds)
