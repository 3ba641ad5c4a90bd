"""Who talks to whom, and how much: what ``$bus.map`` counts, summed up by component.

A node may have ten thousand endpoints; a reader has room for some dozens of rows. So endpoints that say the same
component in the same tenant's space are one `Party`, those of one unit that say nothing are another, and what passes
between two parties on one subject is one `Link`. Component, owner and purpose are claims; the rest is proven.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Link", "Party", "TrafficMap", "rate_text", "split", "total"]

NODE: Final = "node"
"""The tenant that goes without saying."""

BROKER: Final = "$bus"
"""The endpoint that the broker itself is; it is in no census."""

_OWNERSHIP: Final = ("component", "owner", "purpose")

_NAMED: Final = 3
"""Endpoints that are named where they do not say what they are."""

Key = tuple[str, ...]


@dataclass(slots=True, eq=False)
class Party:
    """Endpoints that are one to a reader.

    Attributes:
        label: what to call it: the component's name, or where it is if it does not say.
        component: the name that its endpoints claim; empty if they claim none.
        tenant: in whose space it is; empty for an endpoint that had left when it was asked about.
        missing: what of component, owner and purpose at least one of its endpoints does not say.
        sent, received: messages a second, calls included, over all links.
    """

    label: str
    component: str
    tenant: str
    endpoints: list[str] = field(default_factory=list)
    owners: Counter[str] = field(default_factory=Counter)
    purposes: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    missing: dict[str, None] = field(default_factory=dict)
    sent: float = 0.0
    received: float = 0.0
    messages: int = 0
    gone: bool = False

    def add(self, endpoint: Mapping[str, Any]) -> None:
        """Count one endpoint in."""
        self.endpoints.append(endpoint["endpoint"])
        self.places[_place(endpoint)] += 1
        for claim, said in (("owner", self.owners), ("purpose", self.purposes)):
            if endpoint.get(claim):
                said[endpoint[claim]] += 1
        for claim in _OWNERSHIP:
            if not endpoint.get(claim):
                self.missing[claim] = None

    @property
    def owner(self) -> str:
        """Who most of its endpoints say owns them, and how many others are named; empty if none says."""
        return _commonest(self.owners)

    @property
    def purpose(self) -> str:
        """What most of its endpoints say they are for; empty if none says."""
        return _commonest(self.purposes)

    @property
    def where(self) -> str:
        """How many endpoints there are and where, such as ``3 endpoints: host 2, guest vm-42``."""
        if self.component == BROKER:
            return "in busd itself"
        if self.gone:
            return "left"
        number = len(self.endpoints)
        shown = [f"{place} {count}" if number > 1 else place for place, count in self.places.most_common(2)]
        more = len(self.places) - len(shown)
        shown += [f"{more} more places"] if more else []
        text = f"{number:,} endpoint{'s' if number > 1 else ''}: {', '.join(shown)}"
        if not self.component:  # there is nothing else to call them by
            text += f" ({', '.join(self.endpoints[:_NAMED])}{', ...' if number > _NAMED else ''})"
        return text


@dataclass(slots=True, eq=False)
class Link:
    """What passes from one party to another under one subject.

    Attributes:
        kind: ``publish`` or ``call``.
        per_second: messages a second in the time that was looked at.
        messages: how many since the endpoints came.
    """

    sender: Party
    receiver: Party
    kind: str
    subject: str
    per_second: float = 0.0
    messages: int = 0


class TrafficMap:
    """Two answers of ``$bus.map``, and what changed between them."""

    def __init__(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        self.seconds = max(float(after["at"]) - float(before["at"]), 1e-6)
        """Between the two answers, by the node's clock."""
        self.at: float = after["at"]
        self.endpoints: list[dict[str, Any]] = list(after["endpoints"])
        counted = {_key(flow): int(flow["messages"]) for flow in before["flows"]}
        self.flows = [{**flow, "per_second": round(_grown(flow, counted) / self.seconds, 3)} for flow in after["flows"]]
        """Each with ``per_second``."""
        self._known = {row["endpoint"]: row for row in self.endpoints}
        self._left = {row["endpoint"]: row for row in before["endpoints"] if row["endpoint"] not in self._known}

    @property
    def components(self) -> list[str]:
        """Every name that an endpoint claims."""
        return sorted({row["component"] for row in self.endpoints if row.get("component")})

    @property
    def silent(self) -> int:
        """How many endpoints do not say component, owner and purpose."""
        return sum(any(not row.get(claim) for claim in _OWNERSHIP) for row in self.endpoints)

    def only(self, component: str) -> "TrafficMap":
        """The part of the map that is about ``component``: its endpoints, what it sends and gets, and with whom."""
        part = object.__new__(TrafficMap)
        part.seconds, part.at, part._left = self.seconds, self.at, self._left
        everyone = {**self._left, **self._known}
        own = {name for name, row in everyone.items() if row.get("component") == component}
        part.flows = [flow for flow in self.flows if flow["from"] in own or flow["to"] in own]
        near = own.union(*({flow["from"], flow["to"]} for flow in part.flows))
        part.endpoints = [row for row in self.endpoints if row["endpoint"] in near]
        part._known = {row["endpoint"]: row for row in part.endpoints}
        return part

    def describe(self) -> dict[str, Any]:
        """All of it as one JSON object: every endpoint and every flow, the busiest first."""
        flows = sorted(self.flows, key=lambda flow: (-flow["per_second"], -int(flow["messages"])))
        return {"at": self.at, "seconds": round(self.seconds, 6), "endpoints": self.endpoints, "flows": flows}

    def parties(self) -> tuple[list[Party], list[Link]]:
        """Who is there and what passes between them, both with the busiest first."""
        parties: dict[Key, Party] = {}
        of: dict[str, Party] = {}
        for row in self.endpoints:
            party = of[row["endpoint"]] = _party(parties, row)
            party.add(row)
        links: dict[tuple[int, int, str, str], Link] = {}
        for flow in self.flows:
            sender, receiver = (self._end(name, of, parties) for name in (flow["from"], flow["to"]))
            key = (id(sender), id(receiver), flow["kind"], flow["subject"])
            link = links.get(key)
            if link is None:
                link = links[key] = Link(sender, receiver, flow["kind"], flow["subject"])
            link.per_second += flow["per_second"]
            link.messages += flow["messages"]
            sender.sent += flow["per_second"]
            receiver.received += flow["per_second"]
            for end in {sender, receiver}:
                end.messages += flow["messages"]
        return (
            sorted(parties.values(), key=lambda party: (-party.sent - party.received, -party.messages, party.label)),
            sorted(links.values(), key=lambda link: (-link.per_second, -link.messages, link.subject)),
        )

    def _end(self, name: str, of: dict[str, Party], parties: dict[Key, Party]) -> Party:
        """The party at one end of a flow; an endpoint that left counts as the component that it was."""
        party = of.get(name)
        if party is None:
            if name == BROKER:
                party = parties[("", name)] = _broker()
            elif (row := self._left.get(name)) is not None:
                party = _party(parties, row)
            else:
                party = parties.setdefault(("", name), Party(name, "", ""))
            party.gone = not party.endpoints
            of[name] = party
        return party


def rate_text(rate: float) -> str:
    """Messages a second for people: ``1,234/s``, ``2.5/s``, and ``-`` for none."""
    if rate <= 0:
        return "-"
    if rate < 0.05:
        return "<0.1/s"
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"


def split(items: Sequence[Any], most: int) -> tuple[Sequence[Any], Sequence[Any]]:
    """What is shown of ``items``, and what is left out. Never only one: its line would be as long as itself."""
    return (items, ()) if len(items) <= most + 1 else (items[:most], items[most:])


def total(links: Iterable[Link]) -> float:
    """Messages a second on all ``links``."""
    return sum(link.per_second for link in links)


def _party(parties: dict[Key, Party], row: Mapping[str, Any]) -> Party:
    """The party that the endpoint of ``row`` belongs to, made if it is the first one."""
    component, tenant = row.get("component") or "", row["tenant"]
    key: Key = (component, tenant) if component else ("", row["boundary"], tenant, row["unit"])
    if (party := parties.get(key)) is None:
        name = component or f"? {_place(row)}"
        label = name if tenant == NODE else f"{name} ({tenant})"
        party = parties[key] = Party(label, component, tenant)
    return party


def _broker() -> Party:
    purposes = Counter({"the broker: what it is asked about the node, its endpoints and itself": 1})
    return Party(BROKER, BROKER, NODE, owners=Counter({NODE: 1}), purposes=purposes)


def _place(row: Mapping[str, Any]) -> str:
    boundary, unit = row["boundary"], row["unit"]
    return str(boundary) if unit in (boundary, None, "") else f"{boundary} {unit}"


def _commonest(said: Counter[str]) -> str:
    if not said:
        return ""
    ((text, _),) = said.most_common(1)
    others = len(said) - 1
    return f"{text} (and {others} other{'s' if others > 1 else ''})" if others else text


def _key(flow: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return flow["from"], flow["to"], flow["kind"], flow["subject"]


def _grown(flow: Mapping[str, Any], counted: Mapping[tuple[str, str, str, str], int]) -> int:
    """How many messages came between the two answers. A count that went down was begun anew."""
    before, now = counted.get(_key(flow), 0), int(flow["messages"])
    return now - before if now >= before else now
