"""One call, from the caller's request to its one definite outcome."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from busd.core.service import Service
    from busd.core.session import Session


class Call:
    """A call that a responder holds. When nobody waits for it any more its caller is None: it is *abandoned*."""

    __slots__ = ("caller", "caller_id", "number", "responder", "service", "slot", "started", "subject")

    def __init__(
        self, number: int, caller: "Session", caller_id: int, subject: str, service: "Service", started: float
    ) -> None:
        self.number = number
        """The broker's number for it, which the responder replies to."""
        self.caller: Session | None = caller
        self.caller_id = caller_id
        """The caller's own id for it."""
        self.subject = subject
        self.service = service
        self.responder = service.session
        self.started = started
        self.slot: dict[Call, None] = {}
        """Where its deadline is kept."""
