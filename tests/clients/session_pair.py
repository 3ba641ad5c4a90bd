"""The SDK's sans-IO session and the broker's real core, joined by a wire that the test works by hand."""

from typing import Any

from busclient.errors import BusError
from busclient.message import Reply
from busclient.queues import Inbox, Offer
from busclient.session import Session
from busd.core.bus import Bus
from busd.core.principal import Principal
from busd.core.quotas import Quotas
from tests.core.peer import OPEN, made

HOST = Principal("host", "node", "host", 0, uid=0, gid=0, pid=1)


class Wire:
    """One core, any number of client sessions, and the time."""

    def __init__(self, **quotas: Any) -> None:
        self.now = 100.0
        self.core = Bus(node="test", software="busd/test", policy=made(OPEN), now=self.now, quotas=Quotas(**quotas))
        self.ends: list[End] = []

    def end(self, *, principal: Principal = HOST, **manifest: Any) -> "End":
        """A session that is attached."""
        end = End(self, manifest, principal)
        end.attach()
        return end

    def run(self) -> None:
        """Carry frames to and fro until nothing is left to carry."""
        busy = True
        while busy:
            busy = any(end.carry() for end in self.ends)

    def advance(self, seconds: float) -> None:
        """Let time pass for the core and for every session."""
        self.now += seconds
        self.core.expire(self.now)
        self.run()
        for end in self.ends:
            if end.session.earliest <= self.now:
                end.session.expire(self.now)
                end.collect()
        self.run()


class End:
    """One client session with its connection. ``outcomes`` holds what was finished, by token."""

    def __init__(self, wire: Wire, manifest: dict[str, Any], principal: Principal = HOST) -> None:
        self.wire = wire
        self.principal = principal
        self.session = Session(manifest, "memory://")
        self.outcomes: dict[Any, Reply | BusError | None] = {}
        self.woken: list[Any] = []
        self.cancelled: list[Any] = []
        self.peer: Any = None

    def attach(self) -> None:
        self.peer = self.wire.core.attach(self.principal, self.wire.now)
        self.session.attach(self.wire.now)
        self.wire.ends.append(self)
        self.wire.run()

    def detach(self, reason: str = "cut") -> None:
        self.wire.ends.remove(self)
        self.wire.core.detach(self.peer, self.wire.now)
        self.session.detach(reason)
        self.collect()
        self.wire.run()

    def carry(self) -> bool:
        """One exchange with the core; whether anything moved."""
        frames = self.session.data_to_send()
        for pieces in frames:
            self.wire.core.receive(self.peer, b"".join(pieces), self.wire.now)
        moved = bool(frames)
        while parts := self.wire.core.take(self.peer):
            self.session.receive(b"".join(parts), self.wire.now)
            moved = True
        self.collect()
        return moved

    def collect(self) -> None:
        for token, outcome in self.session.finished:
            assert token not in self.outcomes, f"{token} ended twice"
            self.outcomes[token] = outcome
        self.woken += self.session.woken
        self.cancelled += self.session.cancelled
        for events in (self.session.finished, self.session.woken, self.session.cancelled):
            events.clear()

    # -- requests -----------------------------------------------------------------------------------------------------

    def subscribe(self, pattern: str, *, latest: bool = False, limit: int = 1000) -> Inbox:
        inbox = Inbox(pattern, latest=latest, limit=limit, token=None)
        self.session.subscribe(inbox, self.wire.now, ("subscribe", pattern))
        self.wire.run()
        assert self.outcomes.pop(("subscribe", pattern)) is None
        return inbox

    def serve(self, pattern: str, group: str = "default") -> Offer:
        offer = Offer(pattern, group=group, token=None)
        self.session.serve(offer, self.wire.now, ("serve", pattern))
        self.wire.run()
        assert self.outcomes.pop(("serve", pattern)) is None
        return offer

    def call(self, subject: str, token: Any, payload: bytes = b"\xc0", timeout: float = 1.0, parts: Any = None) -> int:
        return self.session.call(subject, payload, None, timeout, self.wire.now, token, parts)

    def publish(self, subject: str, payload: bytes = b"\xc0") -> None:
        self.session.publish(subject, payload, None)
