"""The document that the page is drawn from: this node at one moment, with rates since the moment before."""

import json
from collections.abc import Mapping, Sequence
from itertools import count, islice
from typing import Any, Final

from busd.core.introspection import BROKER
from busd.core.principal import NODE_TENANT
from busd.core.reasons import Drop
from busd.ops.console.pace import Pace, most
from busd.ops.console.problems import problems
from busd.ops.console.sample import Group, Key, Sample, Way
from busd.ops.console.services import Answers
from busd.ops.console.text import clean, shown
from busd.ops.status import NodeStatistics

__all__ = ["FLOWS", "GROUPS", "StateWriter"]

GROUPS: Final = 400
"""Groups that are shown: the troubled and the busiest."""

FLOWS: Final = 800
"""Flows between them that are shown: the busiest."""

COMPONENTS: Final = 100
"""Components that are shown."""

TOTALS: Final = ("received", "delivered", "calls", "dropped", "denied", "refused")
"""What is counted for the whole node and shown a second."""

ENCODED_AT_ONCE: Final = 50
"""Rows between two looks at the clock."""


class StateWriter:
    """Makes one document after the other; remembers of the last what the next is compared with."""

    def __init__(self) -> None:
        self._ids: dict[Key, str] = {}
        self._next = count(1)
        self._totals: tuple[float, dict[str, int]] | None = None

    async def write(
        self,
        sample: Sample,
        node: NodeStatistics,
        components: Mapping[str, Mapping[str, Any]],
        answers: Answers,
        *,
        at: float,
        pace: Pace,
    ) -> bytes:
        """The document as JSON.

        Args:
            sample: the endpoints.
            node: the node's figures, of the same moment.
            components: rows of ``$bus.components``.
            answers: what components said.
            at: seconds since 1970.
        """
        first = sample.seconds is None
        everyone = list(sample.groups.values())
        groups = await most((group for group in everyone if group.endpoints), GROUPS, _trouble_first, pace)
        self._ids = {group.key: self._ids.get(group.key) or f"g{next(self._next)}" for group in groups}
        flows = await self._flows(sample, everyone, pace)
        notes = list(answers.notes)
        if sample.unseen_flows:
            notes.append(f"what {sample.unseen_flows:,} endpoints send to whom is not shown: there are too many flows")
        group_rows = []
        for group in groups:
            group_rows.append(self._group(group, first))
            await pace.rest()
        component_rows = []
        for row in islice(components.values(), COMPONENTS):
            component_rows.append(clean(row))
            await pace.rest()
        totals = self._sum_up(sample, node, len(components))
        await pace.rest()
        found = problems(sample, node)
        await pace.rest()
        document: dict[str, Any] = {
            "at": round(at, 3),
            "interval": None if sample.seconds is None else round(sample.seconds, 3),
            "node": {
                "name": shown(node.node),
                "version": node.version,
                "protocol": node.protocol,
                "state": str(node.state),
                "uptime_seconds": round(node.uptime_seconds, 3),
                "pid": node.pid,
                "loop": node.loop,
            },
            "totals": totals,
            "problems": [problem.row() for problem in found],
            "groups": group_rows,
            "flows": flows,
            "left_out": {"groups": len(everyone) - len(groups), "flows": len(sample.flows) - len(flows)},
            "components": component_rows,
            "jobs": list(answers.jobs),
            "caches": list(answers.caches),
            "notes": notes,
        }
        await pace.rest()
        encoded = await encode(document, pace)
        await pace.rest()  # to let go of so many rows takes its time too
        return encoded

    async def _flows(self, sample: Sample, groups: Sequence[Group], pace: Pace) -> list[dict[str, Any]]:
        """The busiest flows between groups that are shown. ``groups``: all there are, by number."""
        best = await most(
            sample.flows.items(), FLOWS, _busiest, pace, wanted=lambda flow: self._is_shown(flow[0], groups)
        )
        rows = []
        for text, rate in best:
            way = Way.read(text)
            row = {
                "from": self._ids[groups[way.sender].key],
                "to": BROKER if way.receiver is None else self._ids[groups[way.receiver].key],
                "kind": way.kind,
                "subject": way.subject,
                "per_second": _rounded(rate),
                "lost_per_second": _rounded(sample.lost.get(text) or 0.0),
            }
            rows.append(row)
            await pace.rest()
        return rows

    def _is_shown(self, way: str, groups: Sequence[Group]) -> bool:
        """Whether both ends are."""
        sender, receiver, _ = way.split(" ", 2)
        return groups[int(sender)].key in self._ids and (receiver == BROKER or groups[int(receiver)].key in self._ids)

    def _group(self, group: Group, first: bool) -> dict[str, Any]:
        boundary, tenant, unit, component = group.key
        return {
            "id": self._ids[group.key],
            "boundary": boundary,
            "tenant": shown(tenant),
            "unit": shown(unit),
            "component": shown(component) or None,
            "owner": shown(group.owner) or None,
            "purpose": shown(group.purpose) or None,
            "endpoints": group.endpoints,
            "sends_per_second": None if first else _rounded(group.sends),
            "receives_per_second": None if first else _rounded(group.receives),
            "dropped_per_second": None if first else _rounded(group.dropped),
            "denied_per_second": None if first else _rounded(group.denied),
            "throttled": group.throttled,
            "queued_bytes": group.queued_bytes,
        }

    def _sum_up(self, sample: Sample, node: NodeStatistics, components: int) -> dict[str, Any]:
        bus = node.bus
        counted = {
            "received": sum(bus.received_messages.values()),
            "delivered": sum(bus.delivered_messages.values()),
            "calls": sum(bus.calls.values()),
            # Whoever asks for the latest only gets what it asked for: that is no loss.
            "dropped": sum(n for (_, reason), n in bus.dropped_messages.items() if reason != Drop.CONFLATED),
            "denied": sum(bus.denials.values()),
            "refused": sum(bus.refusals.values()),
        }
        was, self._totals = self._totals, (sample.at, counted)
        rates: dict[str, float | None] = dict.fromkeys((f"{name}_per_second" for name in TOTALS), None)
        if was is not None:
            seconds = max(sample.at - was[0], 1e-3)
            rates = {f"{name}_per_second": _rounded((counted[name] - was[1][name]) / seconds) for name in TOTALS}
        return {
            "endpoints": sample.endpoints,
            "endpoints_limit": node.endpoints_limit,
            "units": len(sample.units),
            "tenants": len(sample.tenants - {NODE_TENANT}),
            "components": components,
            **rates,
            "queued_messages": sample.queued_messages,
            "queued_bytes": sample.queued_bytes,
            "loop_lag_seconds": round(node.lag.last_seconds, 6),
        }


async def encode(document: Mapping[str, Any], pace: Pace) -> bytes:
    """``document`` as JSON on one line, its lists bit by bit."""
    parts: list[str] = []
    for key, value in document.items():
        parts.append(f"{',' if parts else '{'}{json.dumps(key)}:")
        if isinstance(value, list) and value:
            parts.append("[")
            for first in range(0, len(value), ENCODED_AT_ONCE):
                parts.append(("," if first else "") + _encoded(value[first : first + ENCODED_AT_ONCE])[1:-1])
                await pace.rest()
            parts.append("]")
        else:
            parts.append(_encoded(value))
    await pace.rest()
    return ("".join(parts) + "}").encode()


def _encoded(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _trouble_first(group: Group) -> tuple[bool, float, int]:
    return group.troubled, group.sends + group.receives, group.endpoints


def _busiest(flow: tuple[str, float]) -> tuple[float, str]:
    return flow[1], flow[0]


def _rounded(rate: float) -> float:
    return round(max(rate, 0.0), 2)
