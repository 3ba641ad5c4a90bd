"""Who sends how much to whom: what ``bus map`` shows."""

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from busd.core.service import Service
    from busd.core.space import Plan

WAYS: Final = 64
"""Plans and services that one endpoint's messages are counted by, before they are added to its flows."""

FLOWS: Final = 1024
"""Flows of one endpoint that are kept apart; those that were not used for longest are let go."""


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

    __slots__ = ("_flows", "_ways")

    def __init__(self) -> None:
        self._ways: dict[Plan | Service, int] = {}
        self._flows: dict[Flow, int] = {}

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

    def flows(self) -> dict[Flow, int]:
        """Messages (of calls: requests) sent so far, by flow, those last that were used last."""
        self._settle()
        return self._flows

    def _settle(self) -> None:
        flows = self._flows
        for way, messages in self._ways.items():
            for flow in way.flows():
                flows[flow] = flows.pop(flow, 0) + messages
        self._ways.clear()
        for flow in list(flows)[: max(0, len(flows) - FLOWS)]:
            del flows[flow]
