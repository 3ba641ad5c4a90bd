"""The governors of all file systems that jobs are at work on."""

import contextlib
import os
import threading
from collections.abc import Iterator

from busd.components.deletion.adaptive import Controller
from busd.components.deletion.canary import Canary, Pressure
from busd.components.deletion.flushes import Flushes
from busd.components.deletion.gates import Gates
from busd.components.deletion.governor import Governor
from busd.components.deletion.ground import CannotBury, enter
from busd.components.deletion.roots import Root

__all__ = ["Governors"]


class Governors:
    """One governor for each file system, from the first job on it until the last has ended. Thread-safe."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self._lock = threading.Lock()
        self._at_work: dict[int, tuple[Governor, int]] = {}

    def take(self, root: Root) -> None:
        """A job below ``root`` begins."""
        with self._lock:
            governor, jobs = self._at_work.get(root.device, (None, 0))
            if governor is None:
                governor = self._make(root)
                governor.start()
            self._at_work[root.device] = governor, jobs + 1

    def give(self, root: Root) -> None:
        """A job below ``root`` has ended."""
        with self._lock:
            governor, jobs = self._at_work.pop(root.device)
            if jobs > 1:
                self._at_work[root.device] = governor, jobs - 1
                return
            # With the lock: the next one for this file system listens where this one does.
            governor.stop()

    def stop(self) -> None:
        """Stop all, whoever uses them."""
        with self._lock:
            governors = [governor for governor, _ in self._at_work.values()]
        for governor in governors:
            governor.stop()

    def _make(self, root: Root) -> Governor:
        system = self._gates.system(root.device)
        with _ground(root) as directory:
            canary = None if directory is None else Canary(directory)
        return Governor(
            self._gates, system, Controller(), canary=canary, pressure=Pressure(), flushes=Flushes(root.device)
        )


@contextlib.contextmanager
def _ground(root: Root) -> Iterator[int | None]:
    """The private directory for a canary; None if there is none and none can be made: it goes by the other signs."""
    try:
        directory = enter(root, None, create=True)
    except CannotBury:
        yield None
        return
    try:
        yield directory
    finally:
        os.close(directory)
