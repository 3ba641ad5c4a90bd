"""One look at all endpoints, and what each did since the last.

An endpoint's counters are read once a second; its flows only if it sent something since.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final, NamedTuple, Self

from busd.core.account import Account
from busd.core.bus import Bus
from busd.core.introspection import BROKER
from busd.core.session import Session
from busd.core.traffic import WAYS, Flow
from busd.ops.console.counts import Counters, Counts, Rates, counters_of
from busd.ops.console.endpoints import attached
from busd.ops.console.pace import Pace
from busd.ops.console.shards import AT_ONCE, Shards, discard
from busd.ops.console.text import shown

__all__ = ["Activity", "Group", "Key", "Sample", "Way", "take_sample"]

LOSERS: Final = 16
"""Endpoints that are remembered because they lost messages: those that lost most."""

Key = tuple[str, str, str, str]
"""Boundary, tenant, unit, and the component that its endpoints say they are ("": they do not say)."""


@dataclass(slots=True, eq=False)
class Group:
    """Endpoints of one unit that say the same component."""

    key: Key
    number: int
    """In its sample."""
    owner: str = ""
    purpose: str = ""
    endpoints: int = 0
    sends: float = 0.0
    """Messages a second."""
    receives: float = 0.0
    dropped: float = 0.0
    """Messages a second that its endpoints did not get."""
    denied: float = 0.0
    throttled: bool = False
    queued_bytes: int = 0

    @property
    def troubled(self) -> bool:
        """Whether an operator should look at it."""
        return self.throttled or self.dropped > 0 or self.denied > 0


class Way(NamedTuple):
    """From one group to another, by one pattern."""

    sender: int
    """Its number in the sample."""
    receiver: int | None
    """None: the broker itself."""
    kind: str
    subject: str
    """The pattern by which the receiver gets it."""

    @classmethod
    def read(cls, text: str) -> Self:
        """From what `written` made of it."""
        sender, receiver, kind, subject = text.split(" ", 3)
        return cls(int(sender), None if receiver == BROKER else int(receiver), kind, subject)

    def written(self) -> str:
        """As text. There are tens of thousands of them, and Python's garbage collector does not look at text."""
        return f"{self.sender} {BROKER if self.receiver is None else self.receiver} {self.kind} {self.subject}"


class Activity(NamedTuple):
    """What one endpoint did in the last second, where there is reason to name it."""

    session: Session
    messages: float
    """Sent a second."""
    bytes: float
    """Sent a second."""
    denied: float
    lost: float
    """Messages a second that it did not get."""


@dataclass(slots=True, eq=False)
class Sample:
    """All endpoints at one moment."""

    at: float
    """When it was begun, by the bus's clock."""
    seconds: float | None = None
    """Since the one before; None if it is the first, and then there are no rates and no flows."""
    groups: dict[Key, Group] = field(default_factory=dict)
    """In the order of their numbers."""
    flows: Shards[float] = field(default_factory=Shards)
    """Messages a second on each `Way`, as it is written."""
    lost: Shards[float] = field(default_factory=Shards)
    """Of these, those that the receiver lost; ways without any are left out."""
    endpoints: int = 0
    sends: float = 0.0
    """Messages a second of all of them."""
    queued_messages: int = 0
    queued_bytes: int = 0
    units: set[tuple[str, str]] = field(default_factory=set)
    """Boundary and name."""
    tenants: set[str] = field(default_factory=set)
    unowned: int = 0
    unowned_example: Session | None = None
    throttled: dict[Account, list[str]] = field(default_factory=dict)
    """Accounts that have overdrawn rates, and which."""
    senders: dict[Account, Activity] = field(default_factory=dict)
    """The busiest endpoint of each account, by messages."""
    heaviest: dict[Account, Activity] = field(default_factory=dict)
    """By bytes."""
    refused: dict[Account, Activity] = field(default_factory=dict)
    """By denials."""
    losers: list[tuple[float, int, Activity]] = field(default_factory=list)
    """A heap of endpoints that lost messages: how many a second, and a number that no other has."""
    unseen_flows: int = 0
    """Endpoints whose flows are not known, because there are too many."""
    rates: Rates = field(default_factory=Rates)
    """What went from endpoint to endpoint."""

    def group_of(self, session: Session) -> Group:
        """The group of an endpoint, begun if it is the first of it."""
        principal = session.principal
        component = session.claims.get("component") or ""
        key = (principal.boundary, principal.tenant, principal.unit, component)
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = Group(key, len(self.groups))
        return group

    async def discard(self, pace: Pace) -> None:
        """Free what it holds, in slices: to let go of it at once takes as long as to collect it."""
        for held in (self.flows, self.lost, self.rates):
            await held.discard(pace)
        await discard(self.groups, pace)


async def take_sample(bus: Bus, counts: Counts, since: float | None, pace: Pace) -> Sample:
    """Look at all endpoints of ``bus``, in slices.

    Args:
        bus: what is looked at.
        counts: what was counted at the last look; it is brought up to date.
        since: when that was; None: this is the first.
        pace: whose turn it is.
    """
    await pace.rest()
    sample = Sample(pace.now, None if since is None else pace.now - since)
    for session in attached(bus):
        await _look(bus, sample, counts, since, session, pace)
        await pace.rest()
    await counts.forget(bus, pace)
    return sample


async def _look(bus: Bus, sample: Sample, counts: Counts, since: float | None, session: Session, pace: Pace) -> None:
    """Add one endpoint, what it did since the last look, and what it sent to whom."""
    name, now = session.name, pace.now
    group = _count(sample, session, now)
    counters, was = counters_of(session, now), counts.counters(name)
    counts.put(name, counters)
    new = was is None
    if was is None:
        was = Counters(now if since is None else since, 0, 0, 0, 0, 0)
    seconds = max(now - was.at, 1e-3)
    counts.put_loss(name, counters.lost - was.lost, counters.delivered - was.delivered)
    if since is not None and counters[1:] != was[1:]:
        _compare(sample, group, session, counters, was, seconds)
    known = counts.has_flows(name)
    if known and counters.received == was.received:
        return  # it sent nothing: there is nothing to find out
    for _ in range(WAYS):  # more may come meanwhile
        if not session.traffic.settle_one():
            break
        await pace.rest()
    if not known and not counts.has_room(len(session.traffic.settled)):
        sample.unseen_flows += 1
        return
    for number, (flow, messages) in enumerate(await counts.follow(session, pace)):
        if since is not None and (new or known):
            sample.rates.put(name, flow, messages / seconds)
            _add(bus, sample, counts, group, flow, messages / seconds)
        if number % AT_ONCE == 0:
            await pace.rest()


def _count(sample: Sample, session: Session, now: float) -> Group:
    """Add an endpoint to its group, which is returned, and to the totals."""
    outbox, account, claims = session.outbox, session.account, session.claims
    group = sample.group_of(session)
    group.endpoints += 1
    group.owner = group.owner or claims.get("owner") or ""
    group.purpose = group.purpose or claims.get("purpose") or ""
    group.queued_bytes += outbox.bytes
    sample.endpoints += 1
    sample.units.add((group.key[0], group.key[2]))
    sample.tenants.add(group.key[1])
    sample.queued_messages += outbox.messages
    sample.queued_bytes += outbox.bytes
    if not (claims.get("component") and claims.get("owner") and claims.get("purpose")):
        sample.unowned += 1
        sample.unowned_example = sample.unowned_example or session
    if account.paced and account.ready_at > now:
        group.throttled = True
        sample.throttled[account] = account.debts(now)
    return group


def _compare(sample: Sample, group: Group, session: Session, counters: Counters, was: Counters, seconds: float) -> None:
    """Add what an endpoint did in ``seconds``."""
    activity = Activity(
        session,
        messages=(counters.received - was.received) / seconds,
        bytes=(counters.bytes - was.bytes) / seconds,
        denied=(counters.denied - was.denied) / seconds,
        lost=(counters.lost - was.lost) / seconds,
    )
    sample.sends += activity.messages
    group.sends += activity.messages
    group.receives += (counters.delivered - was.delivered) / seconds
    group.dropped += activity.lost
    group.denied += activity.denied
    if activity.lost > 0:
        heappush(sample.losers, (activity.lost, sample.endpoints, activity))
        if len(sample.losers) > LOSERS:
            heappop(sample.losers)
    _keep(sample.senders, activity, activity.messages, lambda other: other.messages)
    _keep(sample.heaviest, activity, activity.bytes, lambda other: other.bytes)
    _keep(sample.refused, activity, activity.denied, lambda other: other.denied)


def _keep(best: dict[Account, Activity], activity: Activity, rate: float, rate_of: Callable[[Activity], float]) -> None:
    """Let ``activity`` be the one that is named of its account, if no other had more."""
    account = activity.session.account
    if rate > 0 and ((other := best.get(account)) is None or rate > rate_of(other)):
        best[account] = activity


def _add(bus: Bus, sample: Sample, counts: Counts, sender: Group, flow: Flow, per_second: float) -> None:
    """Add ``per_second`` messages to the way that ``flow`` is a part of."""
    receiver: int | None = None
    if flow.to != BROKER:
        session = bus.census.find(flow.to)
        if session is None:
            return
        receiver = sample.group_of(session).number
    way = Way(sender.number, receiver, flow.kind, shown(flow.subject)).written()
    sample.flows.put(way, (sample.flows.get(way) or 0.0) + per_second)
    # The broker counts losses by receiver. What a receiver loses of all that is meant for it, it is taken to lose of
    # each flow.
    if flow.kind == "publish" and (share := counts.share_lost(flow.to)):
        sample.lost.put(way, (sample.lost.get(way) or 0.0) + per_second * share)
