"""AF_VSOCK: one listener of the node for every guest; the kernel says which guest it is by its context id (CID).

The CID of a guest's connection is set by the host's vhost driver, and a guest cannot forge it. But CIDs are used again
by later VMs, any process of the host can connect from CID 2, and one VM can be made a sibling of another: so only the
CID of a unit that stands is let in, and whatever waited before a unit stood is refused before it does.
"""

import errno
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from busd.edge.acceptor import BACKLOG, Acceptor
from busd.edge.admission import Admission, Refusal, Report
from busd.edge.pump import clock
from busproto.errors import BusError, Code


@dataclass(frozen=True, slots=True)
class VsockStatistics:
    """The node's AF_VSOCK listener."""

    cids: int
    """Context ids that units have."""
    refused: dict[str, int]
    """Connections that no unit can be blamed for, by ``Refusal``."""


def listen_vsock(port: int) -> socket.socket:
    """A listening AF_VSOCK socket at ``port`` that does not block.

    Raises:
        BusError: LISTEN_FAILED: this system has no AF_VSOCK, or the port is taken or not for this user.
    """
    address = f"vsock port {port}"
    if not hasattr(socket, "AF_VSOCK"):
        raise BusError(Code.LISTEN_FAILED, address=address, reason="this system has no AF_VSOCK")
    listener: socket.socket | None = None
    try:
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        listener.bind((socket.VMADDR_CID_ANY, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        if listener is not None:
            listener.close()
        hint = " (load vhost_vsock)" if error.errno in (errno.EAFNOSUPPORT, errno.ENODEV) else ""
        reason = f"{error.strerror or error}{hint}"
        raise BusError(Code.LISTEN_FAILED, address=address, reason=reason) from None
    return listener


class VsockListener:
    """Gives each connection to the admission of the unit that has its CID."""

    connects: Final = None
    """No rate for all together: each unit has its own."""

    def __init__(self, listener: socket.socket, report: Report) -> None:
        """``listener`` listens and does not block."""
        self._listener = listener
        self._report = report
        self._acceptor = Acceptor(listener, self)
        self._admissions: dict[int, Admission] = {}
        self._refused: Counter[Refusal] = Counter()

    def start(self) -> None:
        """Accept from now on."""
        self._acceptor.start()

    def stop(self) -> None:
        """Accept no more; connections stay."""
        self._acceptor.stop()

    def add(self, cid: int, admission: Admission) -> None:
        """Let ``cid`` in, from now on: what waits of it already is of an earlier life.

        Raises:
            ValueError: ``cid`` is another unit's, or what waits cannot be refused now; the reason.
        """
        if cid in self._admissions:
            raise ValueError(f"cid {cid} is another unit's")
        self._judge_waiting(cid)
        self._admissions[cid] = admission

    def remove(self, cid: int) -> int:
        """Let ``cid`` in no more; how many connections waited and were refused."""
        self._admissions.pop(cid, None)
        try:
            return self._judge_waiting(cid)
        except ValueError:  # add will find them before anyone has this cid again
            return 0

    def admit(self, peer: socket.socket) -> bool:
        """Have the unit with the CID of ``peer`` let it in; refuse it, with nothing allocated, if no unit has it."""
        try:
            cid, _ = peer.getpeername()
        except OSError as error:
            peer.close()
            self.refuse(Refusal.IDENTITY, error=error.strerror or str(error))
            return False
        admission = self._admissions.get(cid)
        if admission is None:
            peer.close()
            self.refuse(Refusal.UNIT, cid=cid, error=f"no unit has cid {cid}")
            return False
        if (connects := admission.connects) is not None:
            now = clock()
            if connects.ready_at > now:
                # In the queue it would hold up other units, which share it.
                peer.close()
                admission.refuse(Refusal.RATE, cid=cid, error=f"more than {connects.rate:g} connections a second")
                return False
            connects.spend(1, now)
        return admission.admit(as_stream(peer))

    def refuse(self, reason: Refusal, **fields: Any) -> None:
        """Count and report a connection that is no unit's."""
        self._refused[reason] += 1
        self._report("connection-refused", boundary="guest", reason=str(reason), **fields)

    def statistics(self) -> VsockStatistics:
        """Figures of this listener."""
        return VsockStatistics(
            cids=len(self._admissions), refused={str(reason): count for reason, count in self._refused.items()}
        )

    def _judge_waiting(self, cid: int) -> int:
        """Let in or refuse whatever waits in the kernel now; how many were of ``cid``. Raises ValueError."""
        found = 0
        for _ in range(BACKLOG):
            try:
                peer, address = self._listener.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ECONNABORTED:
                    continue
                raise ValueError(f"connections that wait cannot be looked at: {error.strerror}") from None
            found += address[0] == cid
            peer.setblocking(False)
            self.admit(peer)
        return found


def as_stream(peer: socket.socket) -> socket.socket:
    """``peer`` under a name that uvloop takes: it refuses AF_VSOCK, though libuv's pipes read and write any stream."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=peer.detach())


class VsockWay:
    """One unit's part of the listener: its CID."""

    def __init__(self, listener: VsockListener, cid: int, admission: Admission) -> None:
        self._listener = listener
        self._cid = cid
        self._admission = admission
        self._started = False

    def start(self) -> None:
        """Let the CID in. Raises ValueError with the reason if that cannot be."""
        self._listener.add(self._cid, self._admission)
        self._started = True

    def stop(self) -> int:
        """Let it in no more; the number of connections that still waited and were refused. Those taken in stay."""
        if not self._started:
            return 0
        self._started = False
        return self._listener.remove(self._cid)

    async def close(self) -> None:
        """Nothing is left to be closed after the connections."""

    def describe(self) -> dict[str, Any]:
        """Its state, as ``bus guest list`` shows it."""
        return {"state": "listening"}
