"""Which process is a unit's VMM: the first one that shows itself, for this life of the unit and no other process."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Self

from busd.core.principal import Principal
from busd.edge.identity import process_start
from busproto.errors import BusError, Code


class Process(NamedTuple):
    """One process, and no later one of the same pid."""

    pid: int
    started: int
    """When it started, in clock ticks since boot."""
    uid: int | None = None
    """The user it ran as when it connected."""

    @classmethod
    def of(cls, pid: int) -> Self:
        """The process that has ``pid`` now. Raises OSError if there is none."""
        return cls(pid, process_start(pid))

    def describe(self) -> dict[str, Any]:
        """The process as ``bus guest`` shows it."""
        return self._asdict()


class Latch:
    """Holds the process of one unit. Azure's guest proxy agent latches its key in the same way: at first sight.

    A VMM that was restarted, or a clone restored from a snapshot, is another process and so another life: whoever is
    in charge of VMs says so by removing the unit and adding it again.
    """

    __slots__ = ("_any", "_owner", "_taken", "_unit", "process")

    def __init__(
        self,
        unit: str,
        *,
        process: Process | None,
        any_process: bool,
        owner: int | None,
        taken: Callable[[], None],
    ) -> None:
        """``process`` is the VMM if known; ``owner`` the user it must run as; ``taken`` is called at first sight."""
        self._unit: Final = unit
        self._any = any_process
        self._owner = owner
        self._taken = taken
        self.process = process

    def check(self, peer: Principal) -> None:
        """Let ``peer`` pass, and hold it from now on if nobody was. Raises BusError 3009 if it is someone else."""
        if self._owner is not None and peer.uid != self._owner:
            raise self._fenced(f"its VMM runs as user {self._owner}, and process {peer.pid} as user {peer.uid}")
        if self._any:
            return
        if not peer.pid or peer.started is None:
            raise self._fenced(
                "the process that connected has ended or is in another pid namespace: it has no identity"
            )
        if self.process is None:
            self.process = Process(peer.pid, peer.started, peer.uid)
            self._taken()
        elif self.process[:2] != (peer.pid, peer.started) or self.process.uid not in (None, peer.uid):
            raise self._fenced(
                f"process {peer.pid} (user {peer.uid}) is not its VMM, which is process {self.process.pid} since this "
                "generation began"
            )

    def _fenced(self, reason: str) -> BusError:
        return BusError(Code.UNIT_UNKNOWN, unit=self._unit, reason=reason)
