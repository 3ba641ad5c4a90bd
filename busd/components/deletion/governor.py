"""Keeps a file system's throttle at the rate that it bears: reads the signs and has the controller decide."""

import threading
import time
from collections.abc import Callable
from typing import Final

from busd.components.deletion.adaptive import PERIOD_SECONDS, Controller, Decision
from busd.components.deletion.canary import Canary, Pressure
from busd.components.deletion.gates import Gates
from busd.components.deletion.throttle import Throttle

__all__ = ["Governor"]

STOP_SECONDS: Final = 2.0
"""To wait for its thread: it never does more than read one small file."""


class Governor:
    """One file system's controller at work.

    Args:
        gates: whose throttle it is.
        system: the file system's throttle, from ``gates.system``.
        controller: decides.
        canary: in a directory on this file system; started and stopped with this. None: without.
        pressure: of the machine. None: without.
        clock: the same as the canary's.
    """

    def __init__(
        self,
        gates: Gates,
        system: Throttle,
        controller: Controller,
        *,
        canary: Canary | None = None,
        pressure: Pressure | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gates = gates
        self._system = system
        self._controller = controller
        self._canary = canary
        self._pressure = pressure
        self._clock = clock
        self._lock = threading.Lock()  # the controller's: batches end in any thread
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deletion-governor", daemon=True)

    def start(self) -> None:
        """Set the first rate, and begin."""
        self._gates.listen(self._system, self._took)
        if self._canary is not None:
            self._canary.start()
        self.decide()
        self._thread.start()

    def stop(self) -> None:
        """End. The throttle stays as it was last set."""
        self._stop.set()
        self._gates.listen(self._system, None)
        if self._canary is not None:
            self._canary.stop()
        if self._thread.ident is not None:
            self._thread.join(STOP_SECONDS)

    def limit(self, files_per_second: float | None) -> None:
        """Set what the rate never exceeds: None: nothing but what the disk bears, 0: a pause. Holds at once.

        Raises ValueError for what is no rate.
        """
        Throttle(files_per_second=files_per_second)
        with self._lock:
            self._controller.limit = files_per_second
        self.decide()

    def decide(self) -> Decision:
        """Ask the signs and set the rate; what it does by itself twice a second."""
        figures = self._canary.read() if self._canary is not None else None
        percent = self._pressure.read() if self._pressure is not None else None
        with self._lock:
            if figures is not None:
                self._controller.canary(figures[1], figures[0])
            self._controller.pressure(percent)
            decision = self._controller.decide(self._clock())
            self._gates.change(
                self._system, files_per_second=decision.files_per_second, why=decision.why or "finding its rate"
            )
        return decision

    def _took(self, files: int, seconds: float) -> None:
        with self._lock:
            self._controller.took(files, seconds)

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_SECONDS):
            self.decide()
