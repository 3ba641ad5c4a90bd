"""One tenant's subjects: who subscribed to what, who serves what, and what follows from it for a given subject."""

from collections.abc import Iterator
from typing import Final
from weakref import WeakValueDictionary

from busd.core.outbox import Outbox
from busd.core.principal import BOUNDARIES
from busd.core.service import Group, Service
from busd.core.session import Session
from busd.core.subscription import Subscription
from busd.core.traffic import Flow
from busd.core.view import View
from busproto.errors import BusError, Code
from busproto.subjects import PatternTree, SharedSize, is_reserved, matches, specificity

SHOWN: Final = "tenant"
"""First token of the subjects under which the node sees what tenants show it."""

_REACHES_SHOWN: Final = frozenset({SHOWN, "*", ">"})
"""First tokens of patterns that can match those."""

DEFAULT_GROUP: Final = "default"
"""The group of those who serve and name none."""

Receiver = tuple[Outbox, tuple[Subscription, ...]]
"""Where a message goes, and the subscriptions there that match it."""


class Plan:
    """Who receives what is published on a subject. Subjects with the same receivers share one plan."""

    __slots__ = ("__weakref__", "latest", "receivers", "shown", "shown_as")

    carries_calls: Final = False

    def __init__(self, receivers: tuple[Receiver, ...], latest: tuple[Receiver, ...]) -> None:
        self.receivers = receivers
        """Each receiver once, however many of its subscriptions match."""
        self.latest = latest
        """Receivers whose matching subscriptions all asked for ``latest``."""
        self.shown: Plan | None = None
        """Who receives it in the node's space, where the tenant shows it. Then this plan is of one subject only."""
        self.shown_as = ""
        """What it is called there."""

    def sessions(self) -> Iterator[Session]:
        """Who receives it."""
        for _, subscriptions in (*self.receivers, *self.latest):
            yield subscriptions[0].session
        if self.shown is not None:
            yield from self.shown.sessions()

    def flows(self, most: int) -> list[Flow]:
        """Where messages go that have this plan: the last ``most`` of them."""
        receivers = (*self.receivers[-most:], *self.latest[-most:])[-most:]
        flows = [Flow(matching[0].session.name, "publish", matching[0].pattern) for _, matching in receivers]
        return flows if self.shown is None else (flows + self.shown.flows(most))[-most:]


class RouteCounts(SharedSize):
    """Of all spaces together: ``entries`` are subjects whose plan or group is remembered by a view."""

    __slots__ = ("misses", "services", "subscriptions")

    def __init__(self) -> None:
        super().__init__()
        self.subscriptions = dict.fromkeys(BOUNDARIES, 0)
        """That stand, by boundary."""
        self.services = dict.fromkeys(BOUNDARIES, 0)
        """The same of offers to serve."""
        self.misses = 0
        """Look-ups that the views did not answer."""


class Space:
    """The subjects of one tenant. A subject lives in exactly one space; nothing here can name another's.

    Two things cross, where the policy exports them: a service of the node's space is called from a tenant's under the
    same subject, and what a tenant shows is seen in the node's under ``tenant.<id>.``.
    """

    __slots__ = (
        "_groups",
        "_groups_by_pattern",
        "_shared",
        "_subscriptions",
        "node",
        "offered",
        "routes",
        "shown",
        "tenant",
        "tenants",
        "views",
    )

    def __init__(self, tenant: str, node: "Space | None") -> None:
        """``node`` is the node's space, None for that itself."""
        self.tenant = tenant
        self.node = node
        self.routes: RouteCounts = RouteCounts() if node is None else node.routes
        self.tenants: list[Space] = []
        """The spaces of all tenants, if this is the node's."""
        self.offered: tuple[str, ...] = ()
        """Patterns of the node's services that are offered here."""
        self.shown: tuple[str, ...] = ()
        """Patterns of what is published here that the node is shown."""
        self.views: dict[View, None] = {}
        """Who looks at it: their caches are forgotten when something changes."""
        self._subscriptions: PatternTree[Subscription] = PatternTree()
        self._groups: PatternTree[Group] = PatternTree()
        self._groups_by_pattern: dict[str, Group] = {}
        self._shared: WeakValueDictionary[tuple[tuple[Subscription, ...], ...], Plan] = WeakValueDictionary()

    # -- subscriptions ------------------------------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription) -> None:
        """Let ``subscription`` receive from now on."""
        self._subscriptions.add(subscription.pattern, subscription)
        self.routes.subscriptions[subscription.session.principal.boundary] += 1
        self._forget_plans(subscription.pattern)

    def unsubscribe(self, subscription: Subscription) -> None:
        """It receives nothing more."""
        self._subscriptions.remove(subscription.pattern, subscription)
        self.routes.subscriptions[subscription.session.principal.boundary] -= 1
        self._forget_plans(subscription.pattern)

    def plan(self, subject: str) -> Plan:
        """Who receives ``subject`` (valid), until a subscription that matches it comes or goes."""
        self.routes.misses += 1
        plan = self._make_plan(subject)
        if self.node is not None and any(matches(pattern, subject) for pattern in self.shown):
            shown_as = f"{SHOWN}.{self.tenant}.{subject}"
            shown = self.node.plan(shown_as)
            if shown.receivers or shown.latest:
                plan = Plan(plan.receivers, plan.latest)
                plan.shown = shown
                plan.shown_as = shown_as
        return plan

    def _forget_plans(self, pattern: str) -> None:
        for view in self.views:
            view.plans.forget(pattern)
        if pattern.partition(".")[0] in _REACHES_SHOWN:
            for space in self.tenants:
                if space.shown:
                    for view in space.views:
                        view.plans.clear()

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
            self._forget_groups(pattern)
        elif not group.members:
            group.name = group_name  # nobody is in it: it is kept because it is pinned
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
        self.routes.services[session.principal.boundary] += 1
        return service

    def unserve(self, service: Service) -> None:
        """``service`` takes no more calls; calls that it holds go on."""
        group = service.group
        if not group.remove(service):
            return
        self.routes.services[service.session.principal.boundary] -= 1
        self._let_go(group)

    def pin(self, pattern: str) -> Group:
        """Have calls on ``pattern`` wait until `unpin`. The group stays while it is pinned, without members too."""
        group = self._groups_by_pattern.get(pattern)
        if group is None:
            group = self._groups_by_pattern[pattern] = Group(pattern, DEFAULT_GROUP)
            self._groups.add(pattern, group)
            self._forget_groups(pattern)
        group.pins += 1
        return group

    def unpin(self, group: Group) -> bool:
        """Take a pin back; True if it was the last, and calls go on."""
        group.pins -= 1
        if group.pins:
            return False
        # Who answers may be someone else from here on, on another boundary: that is asked and written down anew.
        self._forget_groups(group.pattern)
        self._let_go(group)
        return True

    def _let_go(self, group: Group) -> None:
        if not group.members and not group.pins:
            del self._groups_by_pattern[group.pattern]
            self._groups.remove(group.pattern, group)
            self._forget_groups(group.pattern)

    def group(self, subject: str) -> Group | None:
        """Who answers calls on ``subject`` (valid): the group of the most specific pattern; None if nobody does.

        What the node offers is the node's in every tenant's space: nobody there can put himself in its place.
        """
        self.routes.misses += 1
        serving = self.serving(subject)
        return max(serving._groups.match(subject), key=lambda group: specificity(group.pattern), default=None)

    def serving(self, subject: str) -> "Space":
        """The space whose services answer calls on ``subject`` that are made here."""
        if self.node is not None and (
            is_reserved(subject) or any(matches(pattern, subject) for pattern in self.offered)
        ):
            return self.node
        return self

    def _forget_groups(self, pattern: str) -> None:
        for space in (self, *self.tenants):
            for view in space.views:
                view.groups.forget(pattern)

    # -- telling ------------------------------------------------------------------------------------------------------

    def subscriptions_to(self, subject: str) -> list[Subscription]:
        """Every subscription that matches, for explanations."""
        return self._subscriptions.match(subject)

    def groups_for(self, subject: str) -> list[Group]:
        """Every group whose pattern matches, most specific first, for explanations."""
        groups = self.serving(subject)._groups.match(subject)
        return sorted(groups, key=lambda group: specificity(group.pattern), reverse=True)
