"""What stands between a walker and the disk: asked once for each batch, from any of its threads."""

import threading
from typing import Final, Protocol

from busd.components.deletion.cancelled import Cancelled

__all__ = ["MOST", "Gate", "OpenGate"]

MOST: Final = 256
"""Files of a batch; more save nothing, and cannot be stopped so soon."""


class Gate(Protocol):
    """Decides when a batch may be removed. Directories count as files."""

    def enter(self, files: int, size: int) -> None:
        """Return when ``files`` (at most 256) that free ``size`` bytes (0 where nobody measured) may be removed.

        Raises Cancelled when the job is to end.
        """
        ...

    def batch(self) -> int:
        """Most files that a batch should have at this time: at a low rate a large one is a stall for the neighbours."""
        ...

    def left(self, files: int, seconds: float) -> None:
        """The batch that entered with ``files`` has been removed, or tried; it took so long."""
        ...


class OpenGate:
    """Lets everything through until it is cancelled."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Let nothing begin any more."""
        self._cancelled.set()

    def enter(self, files: int, size: int) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    def batch(self) -> int:
        return MOST

    def left(self, files: int, seconds: float) -> None:
        pass
