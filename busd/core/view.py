"""What one identity may do in its space, and where what it sends goes: decided once for each subject."""

from typing import TYPE_CHECKING

from busproto.subjects import SubjectCache

if TYPE_CHECKING:
    from busd.core.policy import Rights
    from busd.core.principal import Principal
    from busd.core.service import Group
    from busd.core.space import Plan, Space


class View:
    """One identity's sight of its space: the way of its messages, with policy already in it.

    The path of a message looks a subject up here, and finds a plan or a group only where policy allows it: a decision
    costs nothing when it is warm. All connections of one identity share a view.
    """

    __slots__ = ("delegated", "groups", "holders", "plans", "principal", "rights", "space")

    def __init__(self, principal: "Principal", space: "Space", rights: "Rights", cache: int) -> None:
        """``principal`` is that of the first connection; ``cache`` bounds the subjects remembered of each kind."""
        self.principal = principal
        self.space = space
        self.rights = rights
        self.holders = 0
        """Connections that have it."""
        self.plans: SubjectCache[Plan] = SubjectCache(cache, space.routes)
        """Where what it publishes goes. Only what it may publish is here."""
        self.groups: SubjectCache[Group | None] = SubjectCache(cache, space.routes)
        """Who answers its calls (None: nobody). Only what it may call is here."""
        self.delegated: SubjectCache[bool] = SubjectCache(cache)
        """Whether others may make this call on its behalf."""

    def forget(self) -> None:
        """Nobody has it any more."""
        self.plans.clear()
        self.groups.clear()
        self.delegated.clear()

    def judge(self, rights: "Rights") -> None:
        """It has ``rights`` from now on."""
        self.rights = rights
        self.forget()
