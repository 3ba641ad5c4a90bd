"""What the model of test_model.py knows: of each peer, of each subscription, of each call."""

from collections.abc import Callable
from dataclasses import dataclass, field

from busd.core.session import Session


@dataclass
class Subscription:
    """One subscription as its endpoint sees it."""

    pattern: str
    latest: bool
    pending: list[int] = field(default_factory=list)
    """Messages that matched and have neither come nor been told lost, in the order published."""
    told: int = 0
    """Losses told by gaps since the last message."""
    lost: int = 0
    """All losses told by gaps."""
    newest: dict[str, int] = field(default_factory=dict)
    """For ``latest``: the last message published on each subject."""
    came: set[int] = field(default_factory=set)


@dataclass
class Call:
    """One call and what must become of it."""

    caller: "Peer"
    id: int
    subject: str
    deadline: float = 0.0
    responder: "Peer | None" = None
    service: int = 0
    """The responder's id for the offer that the call came by."""
    number: int | None = None
    """The broker's number for it, once the responder has read it."""
    expected: set[int] | None = None
    """Final statuses that what has happened allows; None while it is in flight."""
    uncertain: bool = False
    """A frame of replies ended it, and the model cannot tell which of them did."""
    replies: list[tuple[int, bytes]] = field(default_factory=list)
    """What the responder sent and the caller must get, in order."""
    ended: bool = False
    """The caller has read its final reply."""
    cancelled: bool = False
    """The responder has read a cancel."""


@dataclass
class Peer:
    """One connection: what it asked for, and what it has been told."""

    session: Session
    name: str = ""
    next_id: int = 0
    gone: bool = False
    draining: bool = False
    welcomed: bool = False
    buffering: bool = False
    buffer: list[tuple[bytes, Callable[[], None]]] = field(default_factory=list)
    subscriptions: dict[int, Subscription] = field(default_factory=dict)
    services: dict[int, tuple[str, str]] = field(default_factory=dict)
    withdrawn: set[int] = field(default_factory=set)
    """Services that it withdrew by drain: they take no calls, and can still be ended by name."""
    ending: dict[int, tuple[int, Subscription]] = field(default_factory=dict)
    """Subscriptions whose unsubscribe is not answered yet, by its id: until then messages and gaps may come on them."""
    requests: dict[int, int | None] = field(default_factory=dict)
    """Requests not answered yet: the error code expected, or None for success."""
    calls: dict[int, Call] = field(default_factory=dict)
    held: list[Call] = field(default_factory=list)
    inbox: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Messages it must get or be told lost: the subscriptions that matched each."""
    latest_only: set[int] = field(default_factory=set)
    """Those of them that only ``latest`` subscriptions matched."""
    seen: dict[tuple[str, str], int] = field(default_factory=dict)
    """The last message that came, by sender and subject."""
    matched: int = 0
    delivered: int = 0
    errors: list[tuple[int | None, int]] = field(default_factory=list)
    """Error envelopes expected: the request they are about, and the code."""
    pongs: list[int] = field(default_factory=list)

    def id(self) -> int:
        self.next_id += 1
        return self.next_id
