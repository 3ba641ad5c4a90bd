"""What the node tells a service manager that started it with Type=notify, by sd_notify(3): one datagram a message.

``READY=1`` once clients can attach, ``STATUS=`` a line of figures for ``systemctl status``, ``WATCHDOG=1`` as long as
the routing loop turns, ``STOPPING=1`` when the node begins to drain. Without ``NOTIFY_SOCKET`` nothing is sent and
nothing runs. What the manager set is taken out of the environment: a component's process must not speak for the node.
"""

import asyncio
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final

from busd.ops.lag import clock
from busd.ops.status import NodeStatistics

__all__ = ["ServiceManager", "status_line"]

STATUS_SECONDS: Final = 10.0
"""Between two status lines: people read them, and the figures of a node with 10,000 endpoints take a millisecond."""

RETRY_SECONDS: Final = 0.1
"""Before what must arrive is sent again to a manager whose queue is full."""

_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """The way to the service manager; one for the process. Speaks from ``ready`` to ``stopping``."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        given = {name: environ.pop(name, "") for name in _VARIABLES}
        self._address = _address(given["NOTIFY_SOCKET"])
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if self._address else None
        if self._socket is not None:
            self._socket.setblocking(False)
        ours = given["WATCHDOG_PID"] in ("", str(os.getpid()))
        microseconds = given["WATCHDOG_USEC"]
        self.watchdog_seconds = int(microseconds) / 1e6 if ours and microseconds.isdecimal() else 0.0
        """Without ``WATCHDOG=1`` for so long the manager ends the process; 0.0 if it does not look."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._told = ""
        self._received: tuple[int, float] | None = None
        self._statistics: Callable[[], NodeStatistics]
        self._stuck: Callable[[], float]

    def ready(self, statistics: Callable[[], NodeStatistics], stuck: Callable[[], float]) -> None:
        """Clients can attach: say so, and from now on what ``statistics`` says of the node, and that its loop turns.

        ``stuck`` says for how many seconds it has not. The watchdog asks nothing else: figures that cannot be had are
        no reason to end a node that routes.
        """
        if self._socket is None:
            return
        self._statistics, self._stuck = statistics, stuck
        self._insist("READY=1")
        self._tell_status()
        if self.watchdog_seconds:
            self._tell_watchdog()

    def stopping(self, seconds: float) -> None:
        """The node drains, for at most ``seconds``, which the manager is asked to grant whatever its own timeout is.

        The watchdog is told as before: a node that hangs in its drain is to be ended too.
        """
        self._cancel("status")
        extend = f"EXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}"
        self._insist(f"STOPPING=1\n{extend}\nSTATUS=draining: calls in flight are finishing")

    def close(self) -> None:
        """Say no more."""
        for what in list(self._timers):
            self._cancel(what)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell_watchdog(self) -> None:
        period = self.watchdog_seconds / 2  # as sd_watchdog_enabled(3) advises
        if self._stuck() < period:
            self._send("WATCHDOG=1")
        self._later("watchdog", period, self._tell_watchdog)

    def _tell_status(self) -> None:
        self._later("status", STATUS_SECONDS, self._tell_status)
        statistics = self._statistics()
        now, received = clock(), sum(statistics.bus.received_messages.values())
        before = self._received
        rate = (received - before[0]) / (now - before[1]) if before is not None and now > before[1] else 0.0
        self._received = received, now
        line = status_line(statistics, rate)
        if line != self._told and self._send(f"STATUS={line}"):
            self._told = line

    def _insist(self, message: str) -> None:
        """Send it, again and again while the manager's queue is full."""
        if not self._send(message):
            self._later("insist", RETRY_SECONDS, lambda: self._insist(message))

    def _send(self, message: str) -> bool:
        """Send one datagram; False if there is no room for it now. A manager that has gone away is no fault of ours."""
        if self._socket is None:
            return True
        try:
            self._socket.sendto(message.encode(), self._address)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def _later(self, what: str, seconds: float, call: Callable[[], None]) -> None:
        self._cancel(what)
        self._timers[what] = asyncio.get_running_loop().call_later(seconds, call)

    def _cancel(self, what: str) -> None:
        if (timer := self._timers.pop(what, None)) is not None:
            timer.cancel()


def status_line(statistics: NodeStatistics, rate: float) -> str:
    """Who is attached and how busy the node is, on one line. ``rate`` is messages received a second."""
    bus = statistics.bus
    units = [f"{count} {noun}{'s'[: count != 1]}" for boundary, noun in _UNITS if (count := bus.units.get(boundary, 0))]
    endpoints = sum(bus.endpoints.values())
    parts = [f"{endpoints} endpoint{'s'[: endpoints != 1]}", *units, f"{rate:,.0f} messages/s"]
    line = ", ".join(parts)
    degraded = "; ".join(f"{name} {why}" for name, why in sorted(statistics.degraded.items()))
    return " ".join(f"{line}; degraded: {degraded}".split()) if degraded else line


_UNITS: Final = (("guest", "guest"), ("soc", "card"))
"""What the units of a boundary are called in the status line."""


def _address(text: str) -> str:
    """The socket's address: a path, or ``@NAME`` in the abstract namespace. Empty for none, or one of another kind."""
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else ""
