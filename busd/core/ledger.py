"""One resource of one owner, shared out fairly among all who use it up: dbus-broker's arithmetic."""

from collections.abc import Hashable


class Ledger:
    """How much of ``limit`` is used, and by whom.

    The owner may use all that is left. Anyone else (an *actor*) may have so much that, with ``n`` actors using any,
    each has between 1/n and 1/n^2 of the whole, whatever the others do: of 1024 a first actor gets 512, a second 170.
    So no number of greedy actors can keep the owner or a newcomer out (dbus-broker, ``src/util/user.c``).

    One that was taken is given back by ``release``; nobody's share can become negative.
    """

    __slots__ = ("_shares", "limit", "owned", "shared")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.owned = 0
        """What the owner uses."""
        self.shared = 0
        """What all actors use together."""
        self._shares: dict[Hashable, int] = {}

    @property
    def used(self) -> int:
        """What is used in all."""
        return self.owned + self.shared

    @property
    def actors(self) -> int:
        """How many actors use any of it."""
        return len(self._shares)

    def share(self, actor: Hashable) -> int:
        """What ``actor`` (None: the owner) uses."""
        return self.owned if actor is None else self._shares.get(actor, 0)

    def most(self, actor: Hashable) -> int:
        """The most that ``actor`` may have at this moment, what it uses included."""
        remaining = self.limit - self.owned - self.shared
        if actor is None:
            return self.owned + max(0, remaining)
        share = self._shares.get(actor, 0)
        return max(share, (remaining + share) // (len(self._shares) + (1 if share else 2)))

    def charge(self, actor: Hashable, amount: int = 1) -> bool:
        """Give ``actor`` (None: the owner) ``amount`` more; False, and nothing given, if that is beyond its share.

        The divisor is one more than the actors there are, the one that asks among them.
        """
        remaining = self.limit - self.owned - self.shared
        if actor is None:
            if amount > remaining:
                return False
            self.owned += amount
            return True
        shares = self._shares
        share = shares.get(actor, 0)
        wanted = share + amount
        if (len(shares) + (1 if share else 2)) * wanted - share > remaining:
            return False
        shares[actor] = wanted
        self.shared += amount
        return True

    def put(self, actor: Hashable, amount: int) -> None:
        """Give ``actor``, who is not the owner, ``amount`` more of what has been checked before."""
        self._shares[actor] = self._shares.get(actor, 0) + amount
        self.shared += amount

    def release(self, actor: Hashable, amount: int = 1) -> None:
        """Take ``amount`` back that ``actor`` was given."""
        if not amount:
            return
        if actor is None:
            self.owned -= amount
            assert self.owned >= 0
            return
        left = self._shares[actor] - amount
        assert left >= 0
        self.shared -= amount
        if left:
            self._shares[actor] = left
        else:
            del self._shares[actor]
