"""Keeps a file system's throttle at the rate that it bears: reads the signs and has the controller decide."""

import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from busd.components.deletion.adaptive import Controller, Decision
from busd.components.deletion.canary import Canary, Pressure
from busd.components.deletion.flushes import Flushes
from busd.components.deletion.gates import Gates
from busd.components.deletion.throttle import Throttle

__all__ = ["Governor"]

LOOK_SECONDS: Final = 0.1
"""Between two looks at who else is there: so long a job can take somebody by surprise."""

WINDOW_SECONDS: Final = 1.0
"""Over which the flushes of others are counted."""

ENOUGH: Final = 3
"""Times between two looks, without a write of the canary's, that tell something."""

MOSTLY: Final = 0.7
"""Of these have flushes if somebody calls fsync ten times a second."""

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
        flushes: of the file system's device. None: without.
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
        flushes: Flushes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gates = gates
        self._system = system
        self._controller = controller
        self._canary = canary
        self._pressure = pressure
        self._flushes = flushes
        self._looks: deque[tuple[float, int, int]] = deque()  # when, flushes, writes of the canary
        self._clock = clock
        self._lock = threading.Lock()  # the controller's: batches end in any thread
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deletion-governor", daemon=True)

    def start(self) -> None:
        """Set the first rate, and begin."""
        self._gates.listen(self._system, self._took)
        if self._canary is not None:
            self._canary.start()
        self._others()
        if self._looks:
            self._controller.unknown(self._clock())
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
        """Ask the signs and set the rate; what it does by itself ten times a second."""
        figures = self._canary.recent() if self._canary is not None else []
        percent = self._pressure.read() if self._pressure is not None else None
        flushes = self._others()
        with self._lock:
            if flushes is not None:
                self._controller.others(flushes, self._clock())
            for began, seconds in figures:
                self._controller.canary(seconds, began)
            self._controller.pressure(percent)
            decision = self._controller.decide(self._clock())
            self._gates.change(
                self._system, files_per_second=decision.files_per_second, why=decision.why or "finding its rate"
            )
        return decision

    def _others(self) -> float | None:
        """Flushes a second by others, over the last second; 0 if there were only some now and then: so it is when our
        own removals have filled a journal. None if nobody counts, or it is too soon to tell.
        """
        if self._flushes is None or (count := self._flushes.read()) is None:
            return None
        now, own = self._clock(), 0 if self._canary is None else self._canary.writes
        looks = self._looks
        if looks and now - looks[-1][0] < LOOK_SECONDS / 2:
            return None
        looks.append((now, count, own))
        while now - looks[0][0] > WINDOW_SECONDS:
            looks.popleft()
        each = [(after[1] - before[1], after[2] - before[2]) for before, after in pairwise(looks)]
        # Where the canary wrote just before, its flushes may be among those.
        free = [flushes for (_, late), (flushes, own) in pairwise([(0, 0), *each]) if not late and not own]
        if len(free) < ENOUGH:
            return None
        often = sum(1 for flushes in free if flushes) >= MOSTLY * len(free)
        return sum(free) / (len(free) * (now - looks[0][0]) / len(each)) if often else 0.0

    def _took(self, files: int, seconds: float) -> None:
        with self._lock:
            self._controller.took(files, seconds)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self.decide()
