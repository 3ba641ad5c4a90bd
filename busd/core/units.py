"""Units: what is added to the node and torn down whole, each with a generation that fences its former lives out."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from busd.core.principal import Principal
from busd.core.session import Session
from busproto.errors import BusError, Code

_COUNTED: Final = (
    "endpoints",
    "connections",
    "subscriptions",
    "services",
    "calls_abandoned",
    "calls_unknown",
    "queued_messages",
    "queued_bytes",
    "held_bytes",
)

REMEMBERED: Final = 65536
"""Names whose last generation is known. Whoever adds units counts generations for the whole node (and on disk), so a
name that is forgotten here still cannot come back under an old one."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One life of a VM, container or card."""

    name: str
    """Its name, unique among the units that stand."""
    tenant: str
    """Who owns it."""
    generation: int
    """Greater than that of any earlier life of this name."""
    boundary: str = "guest"
    """The boundary that it attaches from: ``guest`` or ``soc``."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was torn down with a unit: nothing of it is left when this exists."""

    unit: str
    """Its name."""
    tenant: str
    """Its owner."""
    generation: int
    """The life that ended."""
    endpoints: int
    """Endpoints that were attached."""
    connections: int
    """Connections that had not said hello yet."""
    subscriptions: int
    """Subscriptions that ended."""
    services: int
    """Offers to serve that ended."""
    calls_abandoned: int
    """Calls that it had made and waited for."""
    calls_unknown: int
    """Calls that it held for others: their callers were told that the outcome is unknown."""
    queued_messages: int
    """Messages that waited for it."""
    queued_bytes: int
    """Their bytes."""
    held_bytes: int
    """Bytes of half-received frames."""

    def describe(self) -> dict[str, Any]:
        """The receipt as ``$bus.admin.`` services answer it."""
        return asdict(self)


def take_down(unit: Unit, sessions: Iterable[Session]) -> Receipt:
    """The receipt for ``unit``, whose ``sessions`` are about to be ended."""
    figures = dict.fromkeys(_COUNTED, 0)
    for session in sessions:
        figures["endpoints" if session.name else "connections"] += 1
        figures["subscriptions"] += len(session.subscriptions)
        figures["services"] += len(session.services)
        figures["calls_abandoned"] += len(session.calls)
        figures["calls_unknown"] += sum(call.caller is not None for call in session.held.values())
        figures["queued_messages"] += session.outbox.messages
        figures["queued_bytes"] += session.outbox.bytes
        figures["held_bytes"] += session.held_bytes
    return Receipt(unit.name, unit.tenant, unit.generation, **figures)


class Units:
    """The units that stand, by name."""

    __slots__ = ("_last", "_units", "by_boundary")

    def __init__(self) -> None:
        self.by_boundary: Counter[str] = Counter()
        """How many stand, by the boundary that they attach from."""
        self._units: dict[str, Unit] = {}
        self._last: dict[str, int] = {}
        """The last generation of each name: of the last ones only, for names come and go with every VM."""

    def add(self, unit: Unit) -> None:
        """Let ``unit`` attach from now on. Raises BusError 3011 if it stands already or is an old life of itself."""
        standing = self._units.get(unit.name)
        if standing is not None:
            reason = f"it stands in generation {standing.generation}; remove it first"
            raise BusError(Code.UNIT_REFUSED, unit=unit.name, reason=reason)
        last = self._last.get(unit.name, 0)
        if unit.generation <= last:
            reason = f"generation {unit.generation} is not later than {last}, which has been"
            raise BusError(Code.UNIT_REFUSED, unit=unit.name, reason=reason)
        self._units[unit.name] = unit
        self.by_boundary[unit.boundary] += 1
        self._last.pop(unit.name, None)
        self._last[unit.name] = unit.generation
        if len(self._last) > REMEMBERED:
            del self._last[next(iter(self._last))]

    def next_generation(self, name: str) -> int:
        """The number of the next life of ``name``, as far as is remembered."""
        return self._last.get(name, 0) + 1

    def remove(self, name: str) -> Unit:
        """Let ``name`` attach no more. Raises BusError 3009 if there is no such unit."""
        unit = self._units.pop(name, None)
        if unit is None:
            raise BusError(Code.UNIT_UNKNOWN, unit=name, reason="no such unit is attached to this node")
        self.by_boundary[unit.boundary] -= 1
        return unit

    def check(self, principal: Principal) -> None:
        """Raise BusError 3009 unless ``principal`` is of this life of a unit that stands. The host has no units."""
        if principal.boundary == "host":
            return
        unit = self._units.get(principal.unit)
        if unit is None:
            raise BusError(Code.UNIT_UNKNOWN, unit=principal.unit, reason="it was never added, or has been removed")
        if (unit.tenant, unit.generation, unit.boundary) != (
            principal.tenant,
            principal.generation,
            principal.boundary,
        ):
            reason = f"generation {principal.generation} is over; generation {unit.generation} stands"
            raise BusError(Code.UNIT_UNKNOWN, unit=principal.unit, reason=reason)

    def __len__(self) -> int:
        return len(self._units)
