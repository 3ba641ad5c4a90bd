"""One tenant's subjects: who subscribed to what, who serves what, and what follows from it for a given subject."""

from dataclasses import dataclass
from weakref import WeakValueDictionary

from busd.core.outbox import Outbox
from busd.core.service import Group, Service
from busd.core.session import Session
from busd.core.subscription import Subscription
from busproto.errors import BusError, Code
from busproto.subjects import PatternTree, SubjectCache, specificity

Receiver = tuple[Outbox, tuple[Subscription, ...]]
"""Where a message goes, and the subscriptions there that match it."""


class Plan:
    """Who receives what is published on a subject. Subjects with the same receivers share one plan."""

    __slots__ = ("__weakref__", "latest", "receivers")

    def __init__(self, receivers: tuple[Receiver, ...], latest: tuple[Receiver, ...]) -> None:
        self.receivers = receivers
        """Each receiver once, however many of its subscriptions match."""
        self.latest = latest
        """Receivers whose matching subscriptions all asked for ``latest``."""


@dataclass(frozen=True, slots=True)
class SpaceStatistics:
    """One tenant's space."""

    subscriptions: int
    """Standing subscriptions."""
    services: int
    """Standing offers to serve."""
    cached_subjects: int
    """Subjects whose plan or group is remembered."""
    cache_misses: int
    """Look-ups that the caches did not answer."""


class Space:
    """The subjects of one tenant. A subject lives in exactly one space; nothing here can name another's."""

    __slots__ = (
        "_groups",
        "_groups_by_pattern",
        "_shared",
        "_subscriptions",
        "groups",
        "misses",
        "plans",
        "services",
        "tenant",
    )

    def __init__(self, tenant: str, cache: int) -> None:
        self.tenant = tenant
        self.plans: SubjectCache[Plan] = SubjectCache(cache)
        self.groups: SubjectCache[Group | None] = SubjectCache(cache)
        self.services = 0
        self.misses = 0
        self._subscriptions: PatternTree[Subscription] = PatternTree()
        self._groups: PatternTree[Group] = PatternTree()
        self._groups_by_pattern: dict[str, Group] = {}
        self._shared: WeakValueDictionary[tuple[tuple[Subscription, ...], ...], Plan] = WeakValueDictionary()

    # -- subscriptions ------------------------------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription) -> None:
        """Let ``subscription`` receive from now on."""
        self._subscriptions.add(subscription.pattern, subscription)
        self.plans.forget(subscription.pattern)

    def unsubscribe(self, subscription: Subscription) -> None:
        """It receives nothing more."""
        self._subscriptions.remove(subscription.pattern, subscription)
        self.plans.forget(subscription.pattern)

    def plan(self, subject: str) -> Plan:
        """Who receives ``subject`` (valid), remembered until a subscription that matches it comes or goes."""
        plan = self.plans.decisions.get(subject)
        if plan is None:
            self.misses += 1
            plan = self._make_plan(subject)
            self.plans.put(subject, plan)
        return plan

    def _make_plan(self, subject: str) -> Plan:
        by_session: dict[Session, list[Subscription]] = {}
        for subscription in self._subscriptions.match(subject):
            by_session.setdefault(subscription.session, []).append(subscription)
        key = tuple(tuple(subscriptions) for subscriptions in by_session.values())
        plan = self._shared.get(key)
        if plan is None:
            receivers = [(subscriptions[0].session.outbox, subscriptions) for subscriptions in key]
            plan = self._shared[key] = Plan(
                tuple(r for r in receivers if not all(subscription.latest for subscription in r[1])),
                tuple(r for r in receivers if all(subscription.latest for subscription in r[1])),
            )
        return plan

    # -- services -----------------------------------------------------------------------------------------------------

    def serve(self, session: Session, id: int, pattern: str, group_name: str) -> Service:
        """Let ``session`` answer calls on ``pattern``. Raises BusError 2006 if another group has the pattern."""
        group = self._groups_by_pattern.get(pattern)
        if group is None:
            group = self._groups_by_pattern[pattern] = Group(pattern, group_name)
            self._groups.add(pattern, group)
            self.groups.forget(pattern)
        elif group.name != group_name:
            raise BusError(
                Code.GROUP_CONFLICT,
                subject=pattern,
                group=group.name,
                holder=group.choose().session.name,
                wanted=group_name,
            )
        service = Service(session, id, pattern, group)
        group.add(service)
        self.services += 1
        return service

    def unserve(self, service: Service) -> None:
        """``service`` takes no more calls; calls that it holds go on."""
        group = service.group
        if not group.remove(service):
            return
        self.services -= 1
        if not group.members:
            del self._groups_by_pattern[group.pattern]
            self._groups.remove(group.pattern, group)
            self.groups.forget(group.pattern)

    def group(self, subject: str) -> Group | None:
        """Who answers calls on ``subject`` (valid): the group of the most specific pattern; None if nobody does."""
        try:
            return self.groups.decisions[subject]
        except KeyError:
            self.misses += 1
            matching = self._groups.match(subject)
            group = max(matching, key=lambda group: specificity(group.pattern), default=None)
            self.groups.put(subject, group)
            return group

    # -- telling ------------------------------------------------------------------------------------------------------

    def subscriptions_to(self, subject: str) -> list[Subscription]:
        """Every subscription that matches, for explanations."""
        return self._subscriptions.match(subject)

    def groups_for(self, subject: str) -> list[Group]:
        """Every group whose pattern matches, most specific first, for explanations."""
        return sorted(self._groups.match(subject), key=lambda group: specificity(group.pattern), reverse=True)

    def statistics(self) -> SpaceStatistics:
        """Figures of this space."""
        return SpaceStatistics(
            subscriptions=len(self._subscriptions),
            services=self.services,
            cached_subjects=len(self.plans) + len(self.groups),
            cache_misses=self.misses,
        )
