"""What the supervisor of components may do with the bus: pin calls, ask what is attached, cut off, fill the census."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from busd.core.bus import Bus
from busd.edge.pump import Pump, clock
from busproto.errors import BusError, Code

__all__ = ["NodeBroker"]


class NodeBroker:
    """The ``Broker`` of ``busd.components.supervisor``, on a node's bus. Every method is for the loop of its pump."""

    def __init__(self, bus: Bus, pump: Pump) -> None:
        self._bus = bus
        self._pump = pump

    def pin(self, subjects: Sequence[str]) -> Callable[[], None]:
        """Have calls on ``subjects`` wait until the function that is returned is called; a second call does nothing.

        Raises BusError 2001 to 2003 for what is no pattern.
        """
        unpin = self._bus.pin(subjects)

        def let_go() -> None:
            unpin(clock())
            self._pump.wake()

        return let_go

    def offers(self, endpoint: str) -> list[str] | None:
        """Patterns that ``endpoint`` serves; None if it is not attached."""
        session = self._bus.census.find(endpoint)
        return None if session is None else sorted({service.pattern for service in session.services.values()})

    def principal(self, endpoint: str) -> tuple[str, str, str] | None:
        """Boundary, tenant and unit that were proven of ``endpoint``; None if it is not attached."""
        principal = self._bus.find(endpoint)
        return None if principal is None else (principal.boundary, principal.tenant, principal.unit)

    def cut_off(self, endpoint: str, reason: str) -> None:
        """End the session of ``endpoint``, if it is attached; it is told why, and the census keeps it."""
        session = self._bus.census.find(endpoint)
        if session is None:
            return
        component = str(session.claims.get("component", "unnamed"))
        error = BusError(Code.COMPONENT_STOPPED, component=component, reason=reason)
        self._bus.cut_off(endpoint, error, clock())
        self._pump.wake()

    def show(self, components: Mapping[str, Mapping[str, Any]]) -> None:
        """What ``$bus.components`` answers from now on, by component."""
        self._bus.components = {name: dict(row) for name, row in components.items()}
