"""One call, from the caller's request to its one definite outcome."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from busd.core.service import Service
    from busd.core.session import Session


class Call:
    """A call that a responder holds. When nobody waits for it any more its caller is None: it is *abandoned*."""

    __slots__ = (
        "behalf_origin",
        "caller",
        "caller_id",
        "first",
        "number",
        "payer",
        "responder",
        "service",
        "slot",
        "started",
        "subject",
    )

    def __init__(
        self,
        number: int,
        caller: "Session",
        caller_id: int,
        subject: str,
        service: "Service",
        started: float,
        first: "Session",
    ) -> None:
        self.number = number
        """The broker's number for it, which the responder replies to."""
        self.caller: Session | None = caller
        self.payer = caller
        """Who made it, for good: its share of what the responder holds is given back when the responder is done."""
        self.first = first
        """Who is behind it: the caller, or whom the caller acts for."""
        self.behalf_origin = b""
        """The origin of calls that the responder makes on its behalf, once there is one."""
        self.caller_id = caller_id
        """The caller's own id for it."""
        self.subject = subject
        self.service = service
        self.responder = service.session
        self.started = started
        self.slot: dict[Call, None] = {}
        """Where its deadline is kept."""
