"""What a dry run has found, bound to what it looked at: it is carried out only while that is still so."""

from typing import Self

import msgspec

from busd.components.deletion.filters import Filter
from busd.components.deletion.found import Found
from busd.components.deletion.shown import shown
from busd.components.deletion.target import Target
from busproto.errors import BusError, Code

__all__ = ["Plan"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A deletion that somebody has looked at before it is done.

    Attributes:
        id: name of the dry run.
        root, path: where it was.
        device, inode, directory: what it was: the numbers of stat(2), and whether it was a directory.
        entries: what would go below it, itself not counted; of what is no directory, 1. ``bytes``: as of Found.
        found: all that was found.
        filter: what was to go of it; None: all.
        made: when, unix seconds.
    """

    id: str
    root: str
    path: bytes
    device: int
    inode: int
    directory: bool
    entries: int
    found: Found
    filter: Filter | None = None
    made: float
    bytes: int

    @classmethod
    def of(cls, id: str, target: Target, found: Found, filter: Filter | None, now: float) -> Self:
        """The plan to remove what was ``found`` at ``target`` at ``now`` (unix seconds)."""
        return cls(
            id=id,
            root=target.root.settings.id,
            path=target.path,
            device=target.device,
            inode=target.inode,
            directory=target.directory,
            entries=found.entries,
            bytes=found.bytes,
            found=found,
            filter=filter,
            made=now,
        )

    def check(self, target: Target, found: Found | None = None, *, slack_percent: float = 0.0) -> None:
        """Look whether the plan may be carried out at ``target``.

        Args:
            found: what is there now, through the same filter; None: it is not compared.
            slack_percent: by how much there may be more entries than planned; fewer are no harm.

        Raises BusError 9003: it is another place or another thing, or has grown. ValueError for a slack that is
        negative or no number.
        """
        if not slack_percent >= 0:
            raise ValueError(f"slack_percent: {slack_percent} is no share")
        reason = self._differs(target)
        if not reason and found is not None and found.entries > self.entries * (1 + slack_percent / 100):
            may = f", {slack_percent:g} % more may be" if slack_percent else ""
            reason = f"it has {found.entries} entries; {self.entries} were planned{may}"
        if reason:
            raise BusError(Code.DELETION_CHANGED, path=shown(target.path), reason=reason)

    def _differs(self, target: Target) -> str:
        if (target.root.settings.id, target.path) != (self.root, self.path):
            return f"the plan is for {shown(self.path)} in root {self.root}"
        if target.directory != self.directory:
            if target.directory:
                return "it is a directory; something else was planned"
            return "it is no directory; one was planned"
        if (target.device, target.inode) != (self.device, self.inode):
            return f"it is another {'directory' if self.directory else 'file'} than was planned"
        return ""
