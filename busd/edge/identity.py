"""Who is at the other end of a local socket, asked of the kernel."""

import socket
import struct
from typing import Final

from busd.core.principal import NODE_TENANT, Principal

_UCRED: Final = struct.Struct("3i")
"""struct ucred of unix(7): pid, uid, gid."""

_SO_PEERGROUPS: Final = 59
"""asm-generic/socket.h, Linux 4.13; not in Python's socket module."""

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
    return Principal("host", NODE_TENANT, HOST_UNIT, 0, uid=uid, gid=gid, pid=pid, groups=groups)
