"""Offers to answer calls, and the groups that share them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from busd.core.session import Session


class Service:
    """One endpoint's standing offer to answer calls on the subjects of a pattern."""

    __slots__ = ("group", "id", "outstanding", "pattern", "session")

    def __init__(self, session: "Session", id: int, pattern: str, group: "Group") -> None:
        self.session = session
        self.id = id
        self.pattern = pattern
        self.group = group
        self.outstanding = 0
        """Calls given to it that it has not finished, those nobody waits for any more included."""


class Group:
    """The endpoints that share the calls on one pattern: each call goes to the one with the fewest outstanding.

    Members stand in buckets by how many they have outstanding, so choosing and moving cost the same whatever their
    number; within a bucket they take turns.
    """

    __slots__ = ("_buckets", "_lowest", "members", "name", "pattern")

    def __init__(self, pattern: str, name: str) -> None:
        self.pattern = pattern
        self.name = name
        self.members = 0
        self._buckets: list[dict[Service, None]] = [{}]
        self._lowest = 0

    def add(self, service: Service) -> None:
        """Let ``service``, which has no calls yet, take part."""
        self.members += 1
        self._buckets[0][service] = None
        self._lowest = 0

    def remove(self, service: Service) -> bool:
        """``service`` takes no more calls; those it has are its own. False if it was not a member."""
        bucket = self._buckets[service.outstanding]
        if service not in bucket:
            return False
        del bucket[service]
        self.members -= 1
        return True

    def services(self) -> list[Service]:
        """The members, fewest outstanding first."""
        return [service for bucket in self._buckets for service in bucket]

    def choose(self) -> Service:
        """The member with the fewest calls outstanding, the one that waited longest among equals."""
        buckets = self._buckets
        while not buckets[self._lowest]:
            self._lowest += 1
        return next(iter(buckets[self._lowest]))

    def start(self, service: Service) -> None:
        """``service`` was given a call."""
        buckets = self._buckets
        del buckets[service.outstanding][service]
        service.outstanding += 1
        if service.outstanding == len(buckets):
            buckets.append({})
        buckets[service.outstanding][service] = None

    def finish(self, service: Service) -> None:
        """``service`` has finished a call. It may have left the group since it was given."""
        bucket = self._buckets[service.outstanding]
        service.outstanding -= 1
        if service in bucket:
            del bucket[service]
            self._buckets[service.outstanding][service] = None
            if service.outstanding < self._lowest:
                self._lowest = service.outstanding
