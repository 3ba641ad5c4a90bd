"""Offers to answer calls, and the groups that share them."""

from typing import TYPE_CHECKING, Final

from busd.core.ledger import Ledger
from busd.core.traffic import Flow

if TYPE_CHECKING:
    from busd.core.call import Waiting
    from busd.core.session import Session


class Service:
    """One endpoint's standing offer to answer calls on the subjects of a pattern."""

    __slots__ = ("group", "id", "outstanding", "pattern", "session")

    carries_calls: Final = True
    """What is counted by it are calls; by a plan it is messages."""

    def __init__(self, session: "Session", id: int, pattern: str, group: "Group") -> None:
        self.session = session
        self.id = id
        self.pattern = pattern
        self.group = group
        self.outstanding = 0
        """Calls given to it that it has not finished, those nobody waits for any more included."""

    def flows(self, most: int) -> list[Flow]:
        """Where calls go that are given to it; ``most`` as of a plan."""
        return [Flow(self.session.name, "call", self.pattern)]


class Group:
    """The endpoints that share the calls on one pattern: each call goes to the one with the fewest outstanding.

    Members stand in buckets by how many they have outstanding, so choosing and moving cost the same whatever their
    number; within a bucket they take turns.

    While it is *pinned* it gives calls to nobody: one member takes over from another, and calls wait for that.
    """

    __slots__ = ("_buckets", "_lowest", "_only", "members", "name", "pattern", "pins", "shares", "waiting")

    def __init__(self, pattern: str, name: str) -> None:
        self.pattern = pattern
        self.name = name
        self.members = 0
        self._only: Service | None = None
        """The member, while there is just one, as there mostly is: it needs no bucket."""
        self._buckets: list[dict[Service, None]] = [{}]
        self._lowest = 0
        self.pins = 0
        """How many have pinned it."""
        self.waiting: dict[Waiting, None] = {}
        """The calls that wait meanwhile, in the order in which they came."""
        self.shares: Ledger | None = None
        """How many of those each account has; None where nobody ever pinned it."""

    def add(self, service: Service) -> None:
        """Let ``service``, which has no calls yet, take part."""
        self.members += 1
        if self.members == 1:
            self._only = service
            return
        if self._only is not None:
            self._put(self._only)
            self._only = None
        self._put(service)

    def remove(self, service: Service) -> bool:
        """``service`` takes no more calls; those it has are its own. False if it was not a member."""
        if service is self._only:
            self._only = None
        elif service.outstanding < len(self._buckets) and service in self._buckets[service.outstanding]:
            del self._buckets[service.outstanding][service]
        else:
            return False
        self.members -= 1
        return True

    def services(self) -> list[Service]:
        """The members, fewest outstanding first."""
        if self._only is not None:
            return [self._only]
        return [service for bucket in self._buckets for service in bucket]

    def choose(self) -> Service:
        """The member with the fewest calls outstanding, the one that waited longest among equals."""
        if self._only is not None:
            return self._only
        buckets = self._buckets
        while not buckets[self._lowest]:
            self._lowest += 1
        return next(iter(buckets[self._lowest]))

    def start(self, service: Service) -> None:
        """``service`` was given a call."""
        if service is not self._only:
            del self._buckets[service.outstanding][service]
            service.outstanding += 1
            self._put(service)
        else:
            service.outstanding += 1

    def finish(self, service: Service) -> None:
        """``service`` has finished a call. It may have left the group since it was given."""
        service.outstanding -= 1
        if service is self._only:
            return
        was = service.outstanding + 1
        if was < len(self._buckets) and service in self._buckets[was]:
            del self._buckets[was][service]
            self._put(service)

    def _put(self, service: Service) -> None:
        while len(self._buckets) <= service.outstanding:
            self._buckets.append({})
        self._buckets[service.outstanding][service] = None
        self._lowest = min(self._lowest, service.outstanding)
