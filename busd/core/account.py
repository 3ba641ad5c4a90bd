"""Who pays: a tenant, or a user of the host. What is used is charged to accounts, and so is what is done too fast."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from busd.core.ledger import Ledger
from busd.core.principal import Principal
from busd.core.quotas import Quotas, exceeded
from busd.core.tokenbucket import TokenBucket

BURST_SECONDS: Final = 1.0
"""What may be done at once, in seconds of its rate."""

LOOP_BURST_SECONDS: Final = 0.02
"""Time of the routing loop that an account may use at once: what others wait for, once, when a flood begins."""


LONG_SECONDS: Final = 1e-3
"""From here on it is long."""

DEAREST: Final = 50.0
"""How many times as dear it becomes at most: 10 ms cost 100 ms, 50 ms two and a half seconds."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast an account may go; 0 is as fast as it can. Who is faster is read more slowly: nothing is lost."""

    messages: float = 0
    """Envelopes a second."""
    bytes: float = 0
    """Bytes of frames a second."""
    calls: float = 0
    """Calls a second."""
    denials: float = 0
    """Denied requests a second."""
    loop: float = 0
    """Seconds of the routing loop a second."""


OWNER: Final = "node"
"""The account of the node itself."""

KEPT: Final = 4096
"""Accounts kept although nobody is connected, before the idle ones are let go."""


UNBOUNDED: Final = Rates()
"""As fast as it can."""


class Account:
    """One payer. The owner of the node has no bounds but the node's own."""

    __slots__ = ("actor", "bytes", "calls", "denials", "loop", "messages", "name", "paced", "sessions", "since")

    def __init__(self, name: str, *, rates: Rates, now: float, debtors: "Debtors | None" = None) -> None:
        """``debtors`` is where its buckets are while they are in debt."""
        debtors = debtors or {}
        self.name = name
        self.actor = None if name == OWNER else name
        """Who it is in ledgers; None for the node itself, who owns what they share out."""
        self.since = now
        self.sessions = 0
        """Connections that are charged to it."""
        self.messages = _bucket(rates.messages, debtors.get("messages"))
        self.bytes = _bucket(rates.bytes, debtors.get("bytes"))
        self.calls = _bucket(rates.calls, debtors.get("calls"))
        self.denials = _bucket(rates.denials, debtors.get("denials"))
        self.loop = _bucket(rates.loop, debtors.get("loop"), LOOP_BURST_SECONDS)
        self.paced = any((self.messages, self.bytes, self.calls, self.denials, self.loop))
        """Whether any rate is bounded."""

    @property
    def ready_at(self) -> float:
        """From when on it may go on; in the past while it is not too fast."""
        buckets = (self.messages, self.bytes, self.calls, self.denials, self.loop)
        return max((bucket.ready_at for bucket in buckets if bucket is not None), default=0.0)

    def take_time(self, seconds: float, now: float) -> None:
        """It had the loop for ``seconds``, without a pause.

        What takes long at once is dearer than the same in small steps, for nobody else had a turn meanwhile: it is
        charged by the square, so that it comes seldom enough to be seen by few.
        """
        if self.loop is not None:
            self.loop.spend(seconds * min(max(1.0, seconds / LONG_SECONDS), DEAREST), now)

    def rates(self, now: float) -> dict[str, dict[str, float]]:
        """What is left of each bounded rate at ``now``, below 0 if it is overdrawn, and how much comes a second."""
        buckets = {name: getattr(self, name) for name in RATES}
        return {
            name: {"left": bucket.available(now), "per_second": bucket.rate}
            for name, bucket in buckets.items()
            if bucket is not None
        }

    def debts(self, now: float) -> list[str]:
        """The rates that it has overdrawn at ``now``."""
        return [name for name in RATES if (bucket := getattr(self, name)) is not None and bucket.ready_at > now]


RATES: Final = ("messages", "bytes", "calls", "denials", "loop")
"""What is done at a rate: the fields of ``Rates``."""

Debtors = Mapping[str, set[TokenBucket]]
"""By rate, the buckets that are in debt, or were when somebody last looked."""


class Accounts:
    """Every account, and the node's shared resources."""

    __slots__ = ("_accounts", "_debtors", "_guest", "_owners", "_user", "connected", "ledgers")

    def __init__(self, quotas: Quotas, *, owners: frozenset[int] | None, guest: Rates, user: Rates) -> None:
        """``owners`` are the users who own the node (None: all on the host); ``guest`` and ``user`` go for others."""
        self._owners = owners
        self._guest = guest
        self._user = user
        self._accounts: dict[str, Account] = {}
        self._debtors: Debtors = {rate: set() for rate in RATES}
        self.connected = 0
        """Accounts that have a connection."""
        self.ledgers = {
            "endpoints": Ledger(quotas.endpoints),
            "subscriptions": Ledger(quotas.node_subscriptions),
            "services": Ledger(quotas.node_services),
            "calls": Ledger(quotas.node_calls),
            "queued_bytes": Ledger(quotas.queued_bytes),
            "held_bytes": Ledger(quotas.held_bytes),
        }

    def enter(self, principal: Principal, now: float) -> Account:
        """The account that pays for ``principal``, for one connection."""
        name, rates = self._of(principal)
        account = self._find(name, rates, now)
        self.connected += not account.sessions
        account.sessions += 1
        return account

    def own(self, now: float) -> Account:
        """The account of the node itself."""
        return self._find(OWNER, UNBOUNDED, now)

    def leave(self, account: Account, now: float) -> None:
        """One connection is gone. An account in debt is kept: to reconnect must not pay it."""
        account.sessions -= 1
        self.connected -= not account.sessions
        if len(self._accounts) > KEPT:
            self._forgive(now)
            for name, other in list(self._accounts.items()):
                if not other.sessions and other.ready_at <= now and name != OWNER:
                    del self._accounts[name]

    def charge(self, account: Account, resource: str, amount: int, now: float) -> None:
        """Charge ``amount`` of a shared resource. Raises BusError 4001 when that is beyond the account's share."""
        ledger = self.ledgers[resource]
        if not ledger.charge(account.actor, amount):
            used, limit = ledger.share(account.actor), ledger.most(account.actor)
            raise exceeded(f"node_{resource}", used, limit, account.name, now - account.since)

    def release(self, account: Account, resource: str, amount: int) -> None:
        """Give ``amount`` back."""
        self.ledgers[resource].release(account.actor, amount)

    def find(self, name: str) -> Account | None:
        """The account ``name``, if there is one."""
        return self._accounts.get(name)

    def throttled(self, now: float) -> dict[str, int]:
        """How many accounts have overdrawn each rate at ``now``."""
        self._forgive(now)
        return {rate: len(buckets) for rate, buckets in self._debtors.items()}

    def describe(self, now: float, only: Account | None) -> list[dict[str, Any]]:
        """Each account: what it uses of what it may have, and what it does too fast."""
        return [
            {
                "account": account.name,
                "connections": account.sessions,
                "seconds": now - account.since,
                "charges": self.charges(account),
                "throttled": account.debts(now),
            }
            for account in (self._accounts.values() if only is None else (only,))
        ]

    def charges(self, account: Account) -> Mapping[str, dict[str, int]]:
        """Used and limit of each shared resource."""
        return {
            resource: {"used": ledger.share(account.actor), "limit": ledger.most(account.actor)}
            for resource, ledger in self.ledgers.items()
        }

    def _forgive(self, now: float) -> None:
        """Forget debts that are paid."""
        for buckets in self._debtors.values():
            buckets.difference_update([bucket for bucket in buckets if bucket.ready_at <= now])

    def _find(self, name: str, rates: Rates, now: float) -> Account:
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = Account(name, rates=rates, now=now, debtors=self._debtors)
        return account

    def _of(self, principal: Principal) -> tuple[str, Rates]:
        if not principal.is_node:
            return account_of(principal.tenant), self._guest
        if principal.is_own_guest:
            # Its tenant is trusted, and it is a machine that others may have got into: it pays for itself.
            return f"unit {principal.unit}", self._guest
        if principal.boundary != "host" or self._owners is None or principal.uid in self._owners:
            return OWNER, UNBOUNDED
        return f"uid {principal.uid}", self._user


def account_of(tenant: str) -> str:
    """The name of the account that pays for ``tenant``, which is not the node."""
    return f"tenant {tenant}"


class Room:
    """Room for what waits in an outbox, charged to who pays for it."""

    __slots__ = ("_actor", "_ledger")

    def __init__(self, accounts: Accounts, account: Account) -> None:
        self._ledger = accounts.ledgers["queued_bytes"]
        self._actor = account.actor

    def ask(self, size: int) -> bool:
        """``size`` bytes more; False, and none, if the account may have no more."""
        return self._ledger.charge(self._actor, size)

    def would_have(self, size: int) -> bool:
        """Whether ``ask`` would say yes."""
        return self._ledger.share(self._actor) + size <= self._ledger.most(self._actor)

    def give_back(self, size: int) -> None:
        """``size`` bytes are not needed any more."""
        self._ledger.release(self._actor, size)


def _bucket(rate: float, debtors: set[TokenBucket] | None, burst_seconds: float = BURST_SECONDS) -> TokenBucket | None:
    return TokenBucket(rate, rate * burst_seconds, debtors) if rate else None
