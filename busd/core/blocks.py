"""Whom an operator keeps out for a while after cutting it off: one process of the host, or a unit as a whole."""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from busd.core.principal import Principal
from busproto.errors import BusError, Code

LONGEST_SECONDS: Final = 24 * 3600
"""The longest block. What is to be kept out for good is a matter of policy, or of the unit's enrolment."""

MOST: Final = 1024
"""Blocks at a time: a few hundred bytes each. An operator who needs more wants a rule of the policy instead."""


class Barred(NamedTuple):
    """What a block is about, by what was proven: nothing that an endpoint says of itself would keep it out."""

    boundary: str
    unit: str
    """Of a guest or card the whole unit, in this life and the next: within it nothing tells one agent from another."""
    uid: int | None = None
    pid: int | None = None
    """Of the host one process."""
    started: int | None = None
    """When that process started, in clock ticks since boot: a later one with the same pid is let in."""

    @classmethod
    def of(cls, principal: Principal) -> "Barred | None":
        """What would be blocked with ``principal``; None for a process of the host that the kernel did not name."""
        if principal.boundary != "host":
            return cls(principal.boundary, principal.unit)
        if not principal.pid or principal.started is None:
            return None
        return cls("host", principal.unit, principal.uid, principal.pid, principal.started)

    def __str__(self) -> str:
        return f"{self.boundary} {self.unit}" if self.pid is None else f"process {self.pid} of uid {self.uid}"


@dataclass(frozen=True, slots=True)
class Block:
    """One that is kept out."""

    barred: Barred
    """Who."""
    endpoint: str
    """The endpoint that was cut off: the block's name."""
    component: str | None
    """What that said it was."""
    reason: str
    """Why, in the operator's words."""
    by: str
    """Who asked for it: what was proven of them."""
    until: float
    """When it ends, in seconds of the bus's clock."""

    def describe(self, now: float) -> dict[str, Any]:
        """The block as ``$bus.admin.endpoint.blocks`` lists it."""
        return {
            "endpoint": self.endpoint,
            "component": self.component,
            **self.barred._asdict(),
            "reason": self.reason,
            "by": self.by,
            "seconds": max(0.0, self.until - now),
        }


class Blocks:
    """Those that stand. They are kept in memory only: a broker that is started again knows of none."""

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        self._blocks: dict[Barred, Block] = {}

    def add(self, block: Block, now: float) -> None:
        """Keep ``block.barred`` out; an older block of the same is replaced. Raises BusError 4001 beyond `MOST`."""
        self._forget(now)
        if len(self._blocks) >= MOST and block.barred not in self._blocks:
            oldest = min(self._blocks.values(), key=lambda each: each.until)
            since = f", the first of them for {oldest.until - now:.0f} s more"
            raise BusError(Code.QUOTA_EXCEEDED, quota="blocks", holder="the node", used=MOST, limit=MOST, since=since)
        self._blocks[block.barred] = block

    def check(self, principal: Principal, now: float) -> None:
        """Raise BusError 3013 if ``principal`` is kept out."""
        if not self._blocks:
            return
        barred = Barred.of(principal)
        block = None if barred is None else self._blocks.get(barred)
        if block is not None and block.until > now:
            left = f"; it is kept out for another {block.until - now:.0f} s"
            raise BusError(Code.DISCONNECTED, reason=block.reason + left)

    def lift(self, endpoint: str, now: float) -> Block | None:
        """End the block that is named after ``endpoint``; None if there is none."""
        self._forget(now)
        found = next((block for block in self._blocks.values() if block.endpoint == endpoint), None)
        if found is not None:
            del self._blocks[found.barred]
        return found

    def list(self, now: float) -> list[Block]:
        """Those that stand at ``now``, the one that ends first before the others."""
        self._forget(now)
        return sorted(self._blocks.values(), key=lambda block: block.until)

    def _forget(self, now: float) -> None:
        """Let go of those whose time is over."""
        self._blocks = {barred: block for barred, block in self._blocks.items() if block.until > now}
