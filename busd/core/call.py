"""One call, from the caller's request to its one definite outcome."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from busd.core.service import Group, Service
    from busd.core.session import Session


class Pending:
    """A call as its caller sees it: one that has no outcome yet."""

    __slots__ = ("caller", "caller_id", "slot", "started", "subject")

    def __init__(self, caller: "Session", caller_id: int, subject: str, started: float) -> None:
        self.caller: Session | None = caller
        """Who waits for it; None when nobody does any more."""
        self.caller_id = caller_id
        """The caller's own id for it."""
        self.subject = subject
        self.started = started
        self.slot: dict[Pending, None] = {}
        """Where its deadline is kept."""

    @property
    def answered_by(self) -> str | None:
        """The endpoint that answers it; None while nobody does."""
        return None


class Call(Pending):
    """A call that a responder holds. When nobody waits for it any more its caller is None: it is *abandoned*."""

    __slots__ = ("behalf_origin", "first", "number", "payer", "responder", "service")

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
        # Written out, not by super(): this is on the path of every call.
        self.caller = caller
        self.caller_id = caller_id
        self.subject = subject
        self.started = started
        self.slot = {}
        self.number = number
        """The broker's number for it, which the responder replies to."""
        self.payer = caller
        """Who made it, for good: its share of what the responder holds is given back when the responder is done."""
        self.first = first
        """Who is behind it: the caller, or whom the caller acts for."""
        self.behalf_origin = b""
        """The origin of calls that the responder makes on its behalf, once there is one."""
        self.service = service
        self.responder = service.session

    @property
    def answered_by(self) -> str:
        """The endpoint that holds it."""
        return self.responder.name


class Waiting(Pending):
    """A call that was given to nobody yet: those who answer it are being exchanged."""

    __slots__ = ("data", "due", "group", "payer", "request")

    def __init__(
        self, caller: "Session", group: "Group", request: list[Any], data: bytes, started: float, due: float
    ) -> None:
        super().__init__(caller, request[1], request[2], started)
        self.payer = caller.account
        self.group = group
        # Without its payload, which would keep all of the frame that it came in.
        self.request = [*request[:4], None, b"", *request[6:]]
        """The envelope's fields."""
        self.data = data
        """The envelope."""
        self.due = due
        """When its caller stops waiting."""
