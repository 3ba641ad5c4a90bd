"""What is told when a record is not what was stored."""

import msgspec

from busd.components.cache.record import Failure

__all__ = ["SecurityEvent"]


class SecurityEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A record failed authentication. To its tenant it was a miss; somebody has written to memory that is not his, or
    there is a bug.

    Attributes:
        tenant: whose record it was.
        reason: how it failed. A record whose key was retired or shredded is none of this; one that says another epoch
            than it was sealed in is.
        key: its blinded name, in hex.
        generation: that the index has for it.
        count: such events of this tenant so far.
        epoch: of the key that the index has for it.
        quarantined: whether it was one too many, and that key was destroyed; see `Quarantine`.
    """

    tenant: str
    reason: Failure
    key: str
    generation: int
    count: int
    epoch: int = 0
    quarantined: bool = False
