"""Who is at the other end of a local socket, asked of the kernel."""

import os
import signal
import socket
import struct
from typing import Final

from busd.core.principal import NODE_TENANT, Principal

_UCRED: Final = struct.Struct("3i")
"""struct ucred of unix(7): pid, uid, gid."""

_SO_PEERGROUPS: Final = 59
"""asm-generic/socket.h, Linux 4.13; not in Python's socket module."""

_SO_PEERPIDFD: Final = 77
"""Linux 6.5: a descriptor of the process that connected, which no later process of that pid can be taken for."""

_GROUPS_BYTES: Final = 1024
"""256 supplementary groups; a process with more is known by its uid and gid alone."""

HOST_UNIT: Final = "host"
"""The unit of processes on the host itself."""


def host_principal(peer: socket.socket) -> Principal:
    """The principal of a process that connected to the host's unix socket.

    The kernel recorded user, groups and pid when the peer called connect (SO_PEERCRED); the peer cannot choose them.

    Raises:
        OSError: the kernel does not say.
    """
    pid, uid, gid = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        data = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
        groups = struct.unpack(f"{len(data) // 4}I", data)
    except OSError:
        groups = ()
    started = _peer_start(peer, pid)
    return Principal("host", NODE_TENANT, HOST_UNIT, 0, uid=uid, gid=gid, pid=pid, groups=groups, started=started)


def process_start(pid: int) -> int:
    """When process ``pid`` started, in clock ticks since boot (proc_pid_stat(5), field 22).

    Raises:
        OSError: there is no such process, or this one may not see it.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        stat = file.read()
    # The second field is the program's name in brackets, which may hold anything, brackets and blanks too.
    return int(stat.rpartition(b")")[2].split()[19])


def _peer_start(peer: socket.socket, pid: int) -> int | None:
    """When the process that connected as ``pid`` started; None if it has ended since, or cannot be seen from here."""
    try:
        pidfd = struct.unpack("i", peer.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4))[0]
    except OSError:  # an older kernel: a pid that is used again in this moment would be believed
        pidfd = -1
    try:
        started = process_start(pid)
        if pidfd >= 0:
            _check_alive(pidfd)
    except OSError:
        return None
    finally:
        if pidfd >= 0:
            os.close(pidfd)
    return started


def _check_alive(pidfd: int) -> None:
    """Raise ProcessLookupError if the process has ended and its pid may be another's by now (SPIRE's peertracker)."""
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except PermissionError:  # it is there, and someone else's
        pass
