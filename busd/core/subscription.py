"""One endpoint's wish to receive what is published on the subjects of a pattern."""

from typing import TYPE_CHECKING

from busd.core.reasons import Drop

if TYPE_CHECKING:
    from busd.core.session import Session


class Subscription:
    """A standing subscription. Its id is the endpoint's own: the one it subscribed with."""

    __slots__ = ("id", "latest", "lost", "lost_reason", "pattern", "session")

    def __init__(self, session: "Session", id: int, pattern: str, *, latest: bool) -> None:
        self.session = session
        self.id = id
        self.pattern = pattern
        self.latest = latest
        self.lost = 0
        """Messages lost since the last gap was told."""
        self.lost_reason = Drop.OUTBOX_BYTES
        """Why the first of them was."""
