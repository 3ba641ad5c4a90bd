"""What one component writes: into its ring, and labelled into the node's log."""

import logging
import time
from typing import Final

from busd.components.supervisor.logs import Ring, Sieve

__all__ = ["Output"]

COMPLAINT_CHARACTERS: Final = 300

_log = logging.getLogger("busd.components")


class Output:
    """The lines of one component, over all its processes."""

    def __init__(self, component: str) -> None:
        self.ring = Ring()
        self._component = component
        self._sieve = Sieve()

    def add(self, stream: str, pid: int, lines: list[bytes]) -> None:
        """``lines`` came from ``stream`` of process ``pid``."""
        if not lines:
            return
        self.ring.add(stream, pid, lines, time.time())
        passing = self._sieve.let(len(lines), time.monotonic())
        if passing and (left_out := self._sieve.report()):
            self._log(pid, "busd", f"{left_out} lines are left out about here: bus component logs {self._component}")
        for line in lines[:passing]:
            self._log(pid, stream, line.decode("utf-8", "replace"))

    def note(self, text: str) -> None:
        """A line of the supervisor's own, between those of the component."""
        self.ring.add("busd", 0, [text.encode()], time.time())

    def complaint(self) -> str:
        """What it complained of last, to be put behind a reason: its last error of the bus, or its last line."""
        last = [line["text"] for line in self.ring.read(None, 8)["lines"] if line["stream"] == "stderr"]
        errors = [text for text in last if text.startswith("BUS-")] or last[-1:]
        return f": {errors[-1][:COMPLAINT_CHARACTERS]}" if errors else ""

    def _log(self, pid: int, stream: str, text: str) -> None:
        fields = {"component": self._component, "pid": pid, "stream": stream, "text": text}
        extra = {"event": "component-output", "fields": fields}
        _log.info("%s[%s] %s: %s", self._component, pid, stream, text, extra=extra)
