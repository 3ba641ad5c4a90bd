"""One guest: a life of a unit, the one way in that it has, and who its VMM is."""

import socket
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Final, NamedTuple, Protocol

from busd.core.principal import Principal
from busd.core.tokenbucket import TokenBucket
from busd.core.units import Unit
from busd.edge.admission import Admission, Arrived, Report
from busd.edge.guestrequest import GuestRequest
from busd.edge.hybrid import HybridDialer, HybridListener
from busd.edge.identity import host_principal
from busd.edge.latch import Latch, Process
from busd.edge.pump import Pump
from busd.edge.serialport import SerialPort
from busd.edge.socketfile import SocketFile
from busd.edge.vsock import VsockListener, VsockWay

BOUNDARY: Final = "guest"


class Way(Protocol):
    """How connections of one unit come in."""

    def start(self) -> None:
        """Let them come. Raises ValueError with the reason if that cannot be."""

    def stop(self) -> int:
        """Let no more come; how many waited and were refused. Those that are in stay."""

    async def close(self) -> None:
        """Let go of what is left, when those that were in are gone."""

    def describe(self) -> dict[str, Any]:
        """``state``, and ``error`` and ``retry_seconds`` where there are."""


class Surroundings(NamedTuple):
    """What every guest of a node is given."""

    pump: Pump
    """Where its connections' frames go."""
    report: Report
    """Where faults go."""
    connections: int
    """Connections that one guest may have."""
    connects: Callable[[], TokenBucket | None]
    """Makes what bounds how fast they may come."""
    vsock: VsockListener | None
    """The node's AF_VSOCK listener, where it has one."""
    arrived: Arrived
    """Counts the connections of all guests, those that were removed included: nobody adds up thousands of them."""


class Guest:
    """One life of one unit."""

    def __init__(
        self,
        request: GuestRequest,
        generation: int,
        added_at: float,
        surroundings: Surroundings,
        *,
        process: Process | None,
        latched: Callable[[], None],
    ) -> None:
        """``process`` is its VMM, if that is known; ``latched`` is called when it becomes so.

        Raises:
            ValueError: there can be no such way in; the reason.
        """
        self.request = request
        self.unit = Unit(request.name, request.tenant, generation, BOUNDARY)
        self.added_at = added_at
        self._report = surroundings.report
        self.latch = Latch(
            request.name, process=process, any_process=request.any_process, owner=request.owner, taken=latched
        )
        self.admission = Admission(
            surroundings.pump,
            self._identify_line if request.way == "device" else self.identify,
            boundary=BOUNDARY,
            connections_per_uid=surroundings.connections,
            report=self._report_fault,
            connects=surroundings.connects(),
            together=surroundings.arrived,
        )
        self.way: Way = self._make_way(surroundings.vsock)

    def identify(self, peer: socket.socket | None) -> Principal:
        """The principal of whoever is behind ``peer``; None for a line behind which no process can be seen.

        User, groups and process are the VMM's. Nothing is known, or believed, of processes in the guest.

        Raises:
            OSError: the kernel does not say.
            BusError: 3009, it is not the unit's VMM.
        """
        unit = self.unit
        if peer is None or self.request.way == "cid":
            return Principal(BOUNDARY, unit.tenant, unit.name, unit.generation, cid=self.request.cid)
        seen = host_principal(peer)
        self.latch.check(seen)
        return replace(seen, boundary=BOUNDARY, tenant=unit.tenant, unit=unit.name, generation=unit.generation)

    def describe(self, now: float) -> dict[str, Any]:
        """One row of ``bus guest list``."""
        figures = self.admission.statistics()
        process = self.latch.process
        return {
            "name": self.unit.name,
            "tenant": self.unit.tenant,
            "generation": self.unit.generation,
            "way": self.request.way,
            "address": self.request.address,
            "seconds": max(0.0, now - self.added_at),
            "vmm": None if process is None else process._asdict(),
            "endpoints": self.admission.endpoints,
            "connections": figures.open,
            "refused": figures.refused,
            **self.way.describe(),
        }

    def inspect(self, now: float) -> dict[str, Any]:
        """Everything about it."""
        return {
            **self.describe(now),
            "port": self.request.port,
            "cid": self.request.cid,
            "owner": self.request.owner,
            "any_process": self.request.any_process,
            "statistics": asdict(self.admission.statistics()),
        }

    def record(self) -> dict[str, Any]:
        """What is kept of it on disk; see `Guests.restore`."""
        process = self.latch.process
        return {
            "request": self.request.fields(),
            "generation": self.unit.generation,
            "added_at": self.added_at,
            "vmm": None if process is None else list(process),
        }

    # -- inside -------------------------------------------------------------------------------------------------------

    def _make_way(self, vsock: VsockListener | None) -> Way:
        request = self.request
        if request.cid is not None:
            if vsock is None:
                raise ValueError("this node does not listen on AF_VSOCK; set guests.vsock")
            return VsockWay(vsock, request.cid, self.admission)
        assert request.path is not None
        if request.way == "socket":
            return HybridListener(SocketFile(request.listens_at, request.owner), request.owner, self.admission)
        file = SocketFile(request.path, request.owner)
        if request.way == "device":
            return SerialPort(file, self.admission, self.identify)
        assert request.port is not None
        return HybridDialer(file, request.port, self.admission, self.identify)

    def _identify_line(self, pair: socket.socket) -> Principal:
        """Who is at the other end of a serial line was found out when it was opened; ``pair`` is only our own."""
        assert isinstance(self.way, SerialPort)
        return self.way.principal

    def _report_fault(self, name: str, /, **fields: Any) -> None:
        self._report(name, **{"unit": self.unit.name, **fields})
