"""One connection as the core sees it: who it is, where it stands, what it holds."""

from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from busd.core.ledger import Ledger
from busd.core.outbox import Outbox, OutboxStatistics
from busd.core.principal import Principal
from busd.core.quotas import Quotas
from busd.core.reasons import Departure
from busd.core.states import State
from busd.core.traffic import Traffic
from busproto.envelope import Batch
from busproto.limits import ENVELOPES_PER_FRAME

if TYPE_CHECKING:
    from busd.core.account import Account
    from busd.core.call import Call, Pending
    from busd.core.counters import TenantCounters
    from busd.core.service import Service
    from busd.core.space import Space
    from busd.core.subscription import Subscription
    from busd.core.tap import Tap
    from busd.core.view import View


OWNERSHIP: Final = ("component", "owner", "purpose")
"""Claims without which nobody can say whose an endpoint is and why it exists."""


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """One endpoint's figures, as ``$bus.inspect`` shows them."""

    received_messages: int
    """Envelopes it sent."""
    received_bytes: int
    """Bytes of their frames."""
    outbox: OutboxStatistics
    """What waits for it and what went out."""
    charges: dict[str, dict[str, int]]
    """Used and limit of each counted quota."""


class Session:
    """State of one connection. Only the core writes it; `link` belongs to whoever attached it."""

    __slots__ = (
        "account",
        "attached_at",
        "calls",
        "claims",
        "denied",
        "departure",
        "envelopes",
        "error",
        "frame_mark",
        "frame_slot",
        "handshake_slot",
        "held",
        "held_bytes",
        "held_shares",
        "held_tenants",
        "kept_bytes",
        "link",
        "monitoring",
        "name",
        "origin",
        "outbox",
        "principal",
        "quotas",
        "received_bytes",
        "received_messages",
        "rest",
        "services",
        "space",
        "state",
        "subscriptions",
        "tally",
        "traffic",
        "view",
    )

    def __init__(
        self, principal: Principal, view: "View", account: "Account", quotas: Quotas, now: float, link: object
    ) -> None:
        self.principal = principal
        self.view = view
        """What it may do, and where what it sends goes."""
        self.space: Space = view.space
        self.account = account
        """Who pays for it."""
        self.tally: TenantCounters | None = None
        """Counts for its tenant, if that is counted by itself."""
        self.outbox: Outbox
        self.quotas = quotas
        self.link = link
        self.envelopes = ENVELOPES_PER_FRAME if principal.is_node else quotas.tenant_envelopes
        """How many it may send in a frame."""
        self.attached_at = now
        self.state = State.OPENING
        self.name = ""
        """The endpoint's name, once it has said hello."""
        self.claims: dict[str, Any] = {}
        """Its manifest: what it says of itself. Shown, never used for a decision."""
        self.origin = b""
        """The origin envelope that goes before whatever it sends."""
        self.subscriptions: dict[int, Subscription] = {}
        self.services: dict[int, Service] = {}
        self.calls: dict[int, Pending] = {}
        """Calls in flight that it made, by its own id for them."""
        self.held: dict[int, Call] = {}
        """Calls that it was given and has not finished, by the broker's number for them."""
        self.held_shares: dict[Account, Ledger] = {}
        """How many of those each caller has, by the account that pays: callers share with others of their own."""
        self.held_tenants = Ledger(quotas.held_calls)
        """How many each account has, the node's own apart."""
        self.monitoring: tuple[Tap, ...] = ()
        """Its wishes to see what passes, if it is a monitor."""
        self.rest: tuple[bytes, Batch, int] | None = None
        """A frame of which only a part was handled, and where to go on."""
        self.traffic = Traffic()
        """What it sent, by receiver."""
        self.received_messages = 0
        self.received_bytes = 0
        self.denied = 0
        """Requests and messages of its own that policy did not allow."""
        self.departure: Departure | None = None
        """Why it ends, once that is known."""
        self.error: dict[str, Any] | None = None
        """The error body that goes with it."""
        self.handshake_slot: dict[Session, None] | None = None
        """Where the deadline of its hello is kept, until it has come."""
        self.held_bytes = 0
        """Bytes of a frame of which only a part has come."""
        self.kept_bytes = 0
        """Bytes that wait for its turn."""
        self.frame_slot: dict[Session, None] | None = None
        """Where the deadline of that frame is kept."""
        self.frame_mark = 0
        """What had been received when that deadline was set: if there is more, the frame has come."""

    @property
    def closing(self) -> bool:
        """Whether the session is over: send what waits, then close the connection and detach."""
        return self.state is State.CLOSING

    def charges(self) -> dict[str, dict[str, int]]:
        """Used and limit of each quota of its own. What it holds is its account: none can be forgotten in it."""
        quotas = self.quotas
        return {
            "subscriptions": {"used": len(self.subscriptions), "limit": quotas.subscriptions},
            "services": {"used": len(self.services), "limit": quotas.services},
            "calls": {"used": len(self.calls), "limit": quotas.calls},
            "held_calls": {"used": len(self.held), "limit": quotas.held_calls},
            "outbox_bytes": {"used": self.outbox.bytes, "limit": quotas.outbox_bytes},
            "outbox_messages": {"used": self.outbox.messages, "limit": quotas.outbox_messages},
        }

    def unowned(self) -> list[str]:
        """What of its manifest is missing for anyone to know whose it is and what for."""
        return [key for key in OWNERSHIP if not self.claims.get(key)]

    def describe(self, now: float) -> dict[str, Any]:
        """One row of ``$bus.list``: identity, claims, and how much it holds."""
        return {
            "endpoint": self.name,
            "state": str(self.state),
            "principal": self.principal.describe(),
            "claims": self.claims,
            "unowned": self.unowned(),
            "account": self.account.name,
            "throttled": self.account.debts(now),
            "charges": self.charges(),
            "seconds": now - self.attached_at,
            "monitoring": [tap.describe(now) for tap in self.monitoring],
            "subscriptions": len(self.subscriptions),
            "serves": sorted({service.pattern for service in self.services.values()}),
            "calls": len(self.calls),
            "held_calls": len(self.held),
            "queued_messages": self.outbox.messages,
            "queued_bytes": self.outbox.bytes,
            "lost_messages": self.outbox.lost,
            "denied": self.denied,
        }

    def statistics(self) -> SessionStatistics:
        """Figures of this session."""
        return SessionStatistics(
            received_messages=self.received_messages,
            received_bytes=self.received_bytes,
            outbox=self.outbox.statistics(),
            charges=self.charges(),
        )

    def inspect(self, now: float, most: int | None = None) -> dict[str, Any]:
        """Everything about this endpoint, as ``$bus.inspect`` shows it; ``most`` of each list, if that is given."""
        return {
            **self.describe(now),
            "subscriptions": [
                {"id": s.id, "pattern": s.pattern, "latest": s.latest, "lost_unreported": s.lost}
                for s in islice(self.subscriptions.values(), most)
            ],
            "serves": [
                {"id": s.id, "pattern": s.pattern, "group": s.group.name, "outstanding": s.outstanding}
                for s in islice(self.services.values(), most)
            ],
            "calls": [
                {"id": id, "subject": call.subject, "responder": call.answered_by, "seconds": now - call.started}
                for id, call in islice(self.calls.items(), most)
            ],
            "held_calls": [
                {
                    "subject": call.subject,
                    "caller": call.caller.name if call.caller else None,
                    "on_behalf_of": call.first.name if call.first is not call.payer else None,
                }
                for call in islice(self.held.values(), most)
            ],
            "statistics": asdict(self.statistics()),
        }
