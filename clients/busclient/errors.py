"""What the SDK raises: one exception for each way in which something can end other than well.

All are `BusError`: they have ``code``, ``name``, ``text``, ``fields``, ``retryable`` and ``cure``.

* `BusError`
    * `NotConnected`: there is no connection, so nothing was sent
        * `ConnectionLost`: the connection ended while the request waited
    * `Closed`: the bus, subscription or stream was closed by this program
    * the outcomes of a call other than a reply: `ErrorReply`, `NoResponders`, `CallTimeout`, `Cancelled`, `Denied`,
      `Overloaded`, `UnknownOutcome`
    * `Gap`: messages of a subscription were lost
    * `PayloadTooLarge`: refused before it was sent
"""

# ruff: noqa: N818  -- the names are those of the outcomes in schemas/README.md

from collections.abc import Mapping
from typing import Any, Final

from busproto.envelope import STATUS_CODES, Status, unpack
from busproto.errors import BusError, Code

__all__ = [
    "BusError",
    "CallTimeout",
    "Cancelled",
    "Closed",
    "Code",
    "ConnectionLost",
    "Denied",
    "ErrorReply",
    "Gap",
    "NoResponders",
    "NotConnected",
    "Overloaded",
    "PayloadTooLarge",
    "UnknownOutcome",
    "from_body",
    "from_reply",
]


class NotConnected(BusError):
    """There is no connection to the bus (6001); nothing was sent. `Bus.connected` waits for one."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(Code.NOT_CONNECTED, url=url, reason=reason)


class ConnectionLost(NotConnected):
    """The connection ended (6001) while a request other than a call waited for its answer, or before a flush."""


class Closed(BusError):
    """This bus, subscription, service or stream was closed by the program itself (6004)."""

    def __init__(self, what: str) -> None:
        super().__init__(Code.CLOSED, what=what)


class ErrorReply(BusError):
    """The responder answered with an error: ``code``, ``name``, ``text`` and ``fields`` are the responder's."""


class NoResponders(BusError):
    """Nobody serves the subject (3001). Known at once."""


class CallTimeout(BusError):
    """No final reply came within the timeout (3002). The responder may still be working on it."""

    def __init__(self, subject: str, seconds: float) -> None:
        super().__init__(Code.TIMEOUT, subject=subject, seconds=seconds)


class Cancelled(BusError):
    """The call was cancelled (3003)."""


class Denied(BusError):
    """Policy does not let this endpoint do that (3004), or does not any more (3010)."""


class Overloaded(BusError):
    """A quota is used up (3005, 4001): the responder's, this endpoint's, or this client's own."""


class UnknownOutcome(BusError):
    """The connection or the responder went away while it held the call (3006): the work may have been done."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(Code.UNKNOWN, subject=subject, reason=reason)


class PayloadTooLarge(BusError):
    """The payload exceeds the limit (2007). Nothing was sent; ``fields`` has ``size`` and ``limit`` in bytes."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(Code.PAYLOAD_TOO_LARGE, size=size, limit=limit)


class Gap(BusError):
    """Messages of a subscription were lost (4002) at this place in the order of its messages."""

    def __init__(self, count: int | None, reason: str, pattern: str = "") -> None:
        super().__init__(Code.GAP, count="an unknown number of" if count is None else count, id=pattern, reason=reason)

    @property
    def count(self) -> int | None:
        """How many were lost; None after a reconnect, when nobody can know."""
        count = self.fields.get("count")
        return count if isinstance(count, int) else None

    @property
    def reason(self) -> str:
        """Why: the broker's word (``outbox-bytes``, ``outbox-messages``), ``local-queue`` or ``reconnected``."""
        return str(self.fields.get("reason"))


_BY_CODE: Final[dict[int, type[BusError]]] = {
    Code.NOT_CONNECTED: NotConnected,
    Code.CLOSED: Closed,
    Code.NO_RESPONDERS: NoResponders,
    Code.TIMEOUT: CallTimeout,
    Code.CANCELLED: Cancelled,
    Code.DENIED: Denied,
    Code.RIGHT_WITHDRAWN: Denied,
    Code.OVERLOADED: Overloaded,
    Code.QUOTA_EXCEEDED: Overloaded,
    Code.UNKNOWN: UnknownOutcome,
    Code.PAYLOAD_TOO_LARGE: PayloadTooLarge,
}
"""The exception for an error body that the broker sent about a request."""

_BY_STATUS: Final[dict[int, type[BusError]]] = {status: _BY_CODE[code] for status, code in STATUS_CODES.items()} | {
    Status.ERROR: ErrorReply
}
"""The exception for a call's outcome."""


def from_body(body: Mapping[str, Any]) -> BusError:
    """The exception for an error body in ``error``, ``bye`` or the refusal of a request: its class goes by its code."""
    code = body.get("code")
    return _BY_CODE.get(code if isinstance(code, int) else 0, BusError).from_body(body)


def from_reply(status: int, data: bytes | memoryview) -> BusError:
    """The exception for a final reply whose status is not ok: its class is the outcome, its fields are the body's.

    A body that is no error body is not an error of the caller's: the outcome stands and the text says so.
    """
    try:
        body = unpack(data)
    except BusError:
        body = None
    if not isinstance(body, dict) or not isinstance(body.get("code"), int):
        code = STATUS_CODES.get(status, Code.HANDLER_FAILED)
        reason = "its error body cannot be read"
        body = BusError(code, subject="?", reason=reason, seconds="?", action="this").body()
    return _BY_STATUS[status].from_body(body)
