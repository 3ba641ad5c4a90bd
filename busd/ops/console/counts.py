"""What endpoints' counters said at the last look, so that the next can tell what happened since.

It is kept as text, bytes and numbers: Python's garbage collector looks at none of these, nor at maps of nothing else.
A map of 10,000 objects made anew each second had it stop the loop for ten milliseconds at a time.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from busd.core.bus import Bus
from busd.core.session import Session
from busd.core.traffic import Flow
from busd.ops.console.pace import Pace
from busd.ops.console.shards import AT_ONCE, Shards

__all__ = ["Counters", "Counts", "Rates", "counters_of"]

FLOWS_KEPT: Final = 100_000
"""Flows of all endpoints that are remembered, about 25 MiB. Beyond, some endpoints' are not shown."""

_PACKED: Final = struct.Struct("<dqqqqq")


class Counters(NamedTuple):
    """Of one endpoint."""

    at: float
    """When they were read."""
    received: int
    bytes: int
    delivered: int
    lost: int
    denied: int


def counters_of(session: Session, now: float) -> Counters:
    """As they stand."""
    outbox = session.outbox
    return Counters(
        now,
        session.received_messages,
        session.received_bytes,
        outbox.delivered_messages,
        outbox.lost,
        session.denied,
    )


class Counts:
    """Those of all endpoints, and of their flows."""

    __slots__ = ("_counters", "_flows", "_seen", "_shares")

    def __init__(self) -> None:
        self._counters: Shards[bytes] = Shards()
        self._flows: Shards[int] = Shards()
        """By sender, receiver, kind and subject, with spaces in between."""
        self._seen: Shards[bool] = Shards()
        """Whether the flows of an endpoint are here."""
        self._shares: Shards[float] = Shards()
        """Of what was meant for an endpoint, how much it lost; only those that lost something."""

    def counters(self, name: str) -> Counters | None:
        """What endpoint ``name`` had counted at the last look."""
        packed = self._counters.get(name)
        return None if packed is None else Counters._make(_PACKED.unpack(packed))

    def put(self, name: str, counters: Counters) -> None:
        """It has counted ``counters``."""
        self._counters.put(name, _PACKED.pack(*counters))

    def put_loss(self, name: str, lost: int, delivered: int) -> None:
        """Endpoint ``name`` lost so many messages since the last look, and got so many."""
        if lost > 0:
            self._shares.put(name, lost / (lost + max(0, delivered)))
        else:
            self._shares.delete(name)

    def share_lost(self, name: str) -> float:
        """What it lost, of all that was meant for it, when it was last looked at: 0 to 1."""
        return self._shares.get(name) or 0.0

    def has_flows(self, name: str) -> bool:
        """Whether it is known what endpoint ``name`` had sent to whom."""
        return self._seen.get(name) is not None

    def has_room(self, flows: int) -> bool:
        """Whether ``flows`` more can be remembered."""
        return len(self._flows) + flows <= FLOWS_KEPT

    async def follow(self, session: Session, pace: Pace) -> "list[tuple[Flow, int]]":
        """The flows of an endpoint by which messages went since the last look, and how many; those of all its life, if
        it was not seen before. Remembers what it has counted now."""
        flows, grown = self._flows, []
        for number, (flow, messages) in enumerate(list(session.traffic.settled.items())):
            key = _key(session.name, flow)
            if more := messages - (flows.get(key) or 0):
                # A count that went down was begun anew: the flow had been let go.
                grown.append((flow, messages if more < 0 else more))
                flows.put(key, messages)
            if number % AT_ONCE == 0:
                await pace.rest()
        self._seen.put(session.name, True)
        return grown

    async def forget(self, bus: Bus, pace: Pace) -> None:
        """Let go of endpoints that have left, and of flows that are no more."""
        left = []
        for number, name in enumerate(self._counters):
            if bus.census.find(name) is None:
                left.append(name)
            if number % AT_ONCE == 0:
                await pace.rest()
        for number, name in enumerate(left):
            for held in (self._counters, self._seen, self._shares):
                held.delete(name)
            if number % AT_ONCE == 0:
                await pace.rest()
        if not left and len(self._flows) <= FLOWS_KEPT // 2:
            return
        gone = []
        for number, key in enumerate(self._flows):
            name, flow = _read(key)
            session = bus.census.find(name)
            if session is None or flow not in session.traffic.settled:
                gone.append(key)
            if number % AT_ONCE == 0:
                await pace.rest()
        for number, key in enumerate(gone):
            self._flows.delete(key)
            if number % AT_ONCE == 0:
                await pace.rest()

    async def discard(self, pace: Pace) -> None:
        """Free everything, in slices."""
        for held in (self._flows, self._counters, self._seen, self._shares):
            await held.discard(pace)


class Rates:
    """Messages a second by flow, at one look."""

    __slots__ = ("_rates",)

    def __init__(self) -> None:
        self._rates: Shards[float] = Shards()

    def put(self, sender: str, flow: Flow, per_second: float) -> None:
        """So many from endpoint ``sender``."""
        self._rates.put(_key(sender, flow), per_second)

    def of(self, sender: str, flow: Flow) -> float:
        """So many; 0 if there were none."""
        return self._rates.get(_key(sender, flow)) or 0.0

    def to(self, receiver: str) -> Iterator[tuple[str, Flow, float] | None]:
        """Those to endpoint ``receiver``, with their senders; None where it looked at others for a while."""
        for number, (key, rate) in enumerate(self._rates.items()):
            sender, flow = _read(key)
            if flow.to == receiver:
                yield sender, flow, rate
            elif number % AT_ONCE == 0:
                yield None

    async def discard(self, pace: Pace) -> None:
        """Free everything, in slices."""
        await self._rates.discard(pace)


def _key(sender: str, flow: Flow) -> str:
    return f"{sender} {flow.to} {flow.kind} {flow.subject}"


def _read(key: str) -> tuple[str, Flow]:
    sender, to, kind, subject = key.split(" ", 3)
    return sender, Flow(to, kind, subject)
