"""The life of a session, as a table.

Rules of this file: every transition that a client can cause stands here and nowhere else, and a (state, kind) that is
not in the table ends the session with error 1014. What the broker decides by itself (cutting a session off) goes to
CLOSING from any state. The shape is h11's ``_state.py``.
"""

from enum import StrEnum
from typing import Final

from busproto.envelope import Kind


class State(StrEnum):
    """Where a session stands."""

    OPENING = "opening"
    """Connected; hello has not come."""
    OPEN = "open"
    """Attached: an endpoint of the bus."""
    DRAINING = "draining"
    """Asked for no new calls; finishes what it holds."""
    CLOSING = "closing"
    """Over: what is still to be sent goes out, nothing more is read."""


_WORKING: Final = (
    Kind.PUBLISH,
    Kind.SUBSCRIBE,
    Kind.UNSUBSCRIBE,
    Kind.CALL,
    Kind.REPLY,
    Kind.CANCEL,
    Kind.PING,
    Kind.PONG,
)

TRANSITIONS: Final[dict[State, dict[int, State]]] = {
    State.OPENING: {Kind.HELLO: State.OPEN, Kind.BYE: State.CLOSING},
    State.OPEN: {
        **dict.fromkeys(_WORKING, State.OPEN),
        Kind.SERVE: State.OPEN,
        Kind.UNSERVE: State.OPEN,
        Kind.DRAIN: State.DRAINING,
        Kind.BYE: State.CLOSING,
    },
    State.DRAINING: {
        **dict.fromkeys(_WORKING, State.DRAINING),
        Kind.UNSERVE: State.DRAINING,
        Kind.DRAIN: State.DRAINING,
        Kind.BYE: State.CLOSING,
    },
    State.CLOSING: {},
}
"""What a client may send in each state, and the state that follows."""
