"""Who sends how much to whom: what ``bus map`` shows."""

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from busd.core.service import Service
    from busd.core.space import Plan

WAYS: Final = 64
"""Plans and services that one endpoint's messages are counted by, before they are added to its flows."""

FLOWS: Final = 1024
"""Flows of one endpoint that are kept apart. When there are more, those are let go that were not used for longest since
there are so many."""


class Flow(NamedTuple):
    """Messages from one endpoint to another."""

    to: str
    """The endpoint that got them."""
    kind: str
    """``publish`` or ``call``."""
    subject: str
    """The pattern that it subscribed to or serves."""


class Traffic:
    """What one endpoint sent, by receiver.

    On the path of a message only its way is counted: one number for all who receive it. Who that is, and by which
    pattern, is found out when somebody asks, or when there are too many ways.
    """

    __slots__ = ("_calls", "_flows", "_ways")

    def __init__(self) -> None:
        self._ways: dict[Plan | Service, int] = {}
        self._flows: dict[Flow, int] = {}
        self._calls = 0

    def count(self, way: "Plan | Service", messages: int) -> None:
        """``messages`` were sent that way."""
        ways = self._ways
        counted = ways.get(way)
        if counted is not None:
            ways[way] = counted + messages
            return
        if len(ways) >= WAYS:
            self._settle()
        ways[way] = messages

    def calls(self) -> int:
        """Calls made so far that were given to somebody. It costs by the ways, not by the flows."""
        return self._calls + sum(messages for way, messages in self._ways.items() if way.carries_calls)

    def flows(self) -> dict[Flow, int]:
        """Messages (of calls: requests) sent so far, by flow."""
        self._settle()
        return self._flows

    @property
    def settled(self) -> dict[Flow, int]:
        """The same as far as it has been found out."""
        return self._flows

    def settle_one(self) -> bool:
        """Find out about one way more; False if there was none. For who cannot take the time to do all at once."""
        if not self._ways:
            return False
        way = next(iter(self._ways))
        self._add(way, self._ways.pop(way))
        return True

    def forget(self) -> None:
        """Let go of the ways: one may lead back to whoever sent."""
        self._ways.clear()

    def _settle(self) -> None:
        for way, messages in self._ways.items():
            self._add(way, messages)
        self._ways.clear()

    def _add(self, way: "Plan | Service", messages: int) -> None:
        if way.carries_calls:
            self._calls += messages
        flows = self._flows
        full = len(flows) >= FLOWS
        for flow in way.flows(FLOWS):
            if full or flow not in flows:
                flows[flow] = flows.pop(flow, 0) + messages
            else:  # in its place: to put it last means to keep another object, for the garbage collector to look at
                flows[flow] += messages
        if len(flows) > FLOWS:
            for flow in list(flows)[: len(flows) - FLOWS]:
                del flows[flow]
