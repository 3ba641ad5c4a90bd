"""Tenants' spaces, what crosses between them, and who sees what: everything that follows from the policy."""

from collections.abc import Iterable

from busd.core.policy import Policy
from busd.core.principal import NODE_TENANT, Principal
from busd.core.quotas import Quotas
from busd.core.rules import Export
from busd.core.space import RouteCounts, Space
from busd.core.view import View

_Identity = tuple[str, str, str, int, int | None, int | None, tuple[int, ...]]


class Tenancy:
    """The spaces by tenant, and the view of each identity that is attached."""

    __slots__ = ("_quotas", "_spaces", "_views", "policy")

    def __init__(self, policy: Policy, quotas: Quotas) -> None:
        self.policy = policy
        self._quotas = quotas
        self._spaces = {NODE_TENANT: Space(NODE_TENANT, None)}
        self._views: dict[_Identity, View] = {}

    @property
    def routes(self) -> RouteCounts:
        """What all spaces together remember of where subjects go."""
        return self._spaces[NODE_TENANT].routes

    def space(self, tenant: str) -> Space:
        """The space of ``tenant``."""
        space = self._spaces.get(tenant)
        if space is None:
            node = self._spaces[NODE_TENANT]
            space = self._spaces[tenant] = Space(tenant, node)
            self._export(space)
            node.tenants.append(space)
        return space

    def find(self, tenant: str) -> Space | None:
        """The space of ``tenant``, if anybody of it is attached."""
        return self._spaces.get(tenant)

    def enter(self, principal: Principal) -> View:
        """The view of ``principal``, for one connection."""
        identity = _identity(principal)
        view = self._views.get(identity)
        if view is None:
            space = self.space(principal.tenant)
            cache = self._quotas.route_cache if principal.is_node else self._quotas.tenant_route_cache
            view = self._views[identity] = View(principal, space, self.policy.rights(principal), cache)
            space.views[view] = None
        view.holders += 1
        return view

    def leave(self, view: View) -> None:
        """One connection of ``view`` is gone; with the last one of a tenant nothing of it is left."""
        view.holders -= 1
        if view.holders:
            return
        del self._views[_identity(view.principal)]
        space = view.space
        view.forget()
        del space.views[view]
        if space.node is not None and not space.views:
            del self._spaces[space.tenant]
            space.node.tenants.remove(space)

    def apply(self, policy: Policy) -> None:
        """Judge by ``policy`` from now on."""
        self.policy = policy
        for space in self._spaces.values():
            self._export(space)
        for view in self._views.values():
            view.judge(policy.rights(view.principal))

    def _export(self, space: Space) -> None:
        if space.node is not None:
            space.offered = _patterns(self.policy.exported_services(space.tenant))
            space.shown = _patterns(self.policy.exported_streams(space.tenant))


def _identity(principal: Principal) -> _Identity:
    """What of a principal policy can ask for. Processes of one user are one identity: they come and go."""
    p = principal
    return p.boundary, p.tenant, p.unit, p.generation, p.uid, p.gid, p.groups


def _patterns(exports: Iterable[Export]) -> tuple[str, ...]:
    return tuple(pattern for export in exports for pattern in export.patterns)
