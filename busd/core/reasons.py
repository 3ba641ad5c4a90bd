"""Why something was lost, refused or ended. Closed sets: they are labels of metrics and words of the protocol."""

from enum import StrEnum


class Drop(StrEnum):
    """Why a message did not reach a receiver that it was meant for."""

    OUTBOX_BYTES = "outbox-bytes"
    """The receiver's quota of queued bytes was used up; it is told by a gap."""
    OUTBOX_MESSAGES = "outbox-messages"
    """The receiver's quota of queued messages was used up; it is told by a gap."""
    TENANT_BYTES = "tenant-bytes"
    """The node had no more queue room for the receiver's tenant, or the receiver none for the sender's; it is told by
    a gap."""
    WITHDRAWN = "withdrawn"
    """It was still queued when the policy took the right to it from its receiver."""
    CONFLATED = "conflated"
    """A newer message on the same subject took its place, as a ``latest`` subscriber asked."""
    DETACHED = "detached"
    """It was still queued when its receiver left."""
    REPLY_LATE = "reply-late"
    """A reply to a call that had ended: cancelled, timed out, or its caller gone."""
    REPLY_FOREIGN = "reply-foreign"
    """A reply to a call that this endpoint does not hold: never given to it, or answered already."""


class Departure(StrEnum):
    """Why an endpoint left. Kept with the last ones in the census, and counted."""

    BYE = "bye"
    """It said so."""
    CONNECTION_LOST = "connection-lost"
    """Its connection ended without a word."""
    PROTOCOL_ERROR = "protocol-error"
    """It broke the protocol and was cut off."""
    HANDSHAKE_TIMEOUT = "handshake-timeout"
    """It did not say hello in time."""
    REFUSED = "refused"
    """It was not let in: its hello was not acceptable, or there was no room."""
    NOT_READING = "not-reading"
    """It kept asking and did not read the answers."""
    LEASE_EXPIRED = "lease-expired"
    """Nothing came from it any more, on a transport that does not say when a peer is gone."""
    TOO_FAST = "too-fast"
    """It kept on beyond its rates, on a link that cannot be read more slowly."""
    CUT_OFF = "cut-off"
    """The node's administration or its supervisor ended it; the error says why."""
    UNIT_REMOVED = "unit-removed"
    """Its unit was taken off the node."""
    SHUTDOWN = "shutdown"
    """The broker went away."""
