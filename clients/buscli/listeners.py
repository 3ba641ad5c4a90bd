"""Which unix sockets somebody listens on: asked of the kernel, for to connect would be noticed on the other side."""

import os
import socket
import struct
import sys
from pathlib import Path
from typing import Final

__all__ = ["listening", "place_of"]

_HEADER: Final = struct.Struct("=IHHII")
"""nlmsghdr of netlink(7): length, type, flags, sequence, pid."""

_REQUEST: Final = struct.Struct("=BBHIIIII")
"""unix_diag_req of sock_diag(7): family, protocol, padding, states, inode, show, cookie."""

_MESSAGE: Final = 16
"""Bytes of unix_diag_msg, before its attributes."""

_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_REQUEST_DUMP: Final = 0x301
_DONE, _ERROR = 3, 2
_LISTEN: Final = 1 << 10
_SHOW_VFS: Final = 2
_VFS: Final = 1
_ANSWER_BYTES: Final = 1 << 16

Place = tuple[int, int]
"""Inode and device of a socket's file. Its name is no use: a socket that was renamed still has its first one."""


def place_of(path: Path) -> Place:
    """Where the file of a socket is, as the kernel counts it. Raises OSError."""
    found = os.lstat(path)
    if sys.platform == "win32":
        return found.st_ino, found.st_dev
    return found.st_ino & 0xFFFFFFFF, os.major(found.st_dev) << 20 | os.minor(found.st_dev)


def listening() -> set[Place]:
    """Every unix socket of this network namespace that somebody listens on. Raises OSError where that cannot be asked.

    sock_diag(7), which ``ss -xl`` uses too.
    """
    found: set[Place] = set()
    if sys.platform != "linux":
        raise OSError(95, f"{sys.platform} does not say who listens on unix sockets")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.settimeout(1.0)
        body = _REQUEST.pack(socket.AF_UNIX, 0, 0, _LISTEN, 0, _SHOW_VFS, 0, 0)
        kernel.send(_HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + body)
        while True:
            data = memoryview(kernel.recv(_ANSWER_BYTES))
            while len(data) >= _HEADER.size:
                size, kind = _HEADER.unpack_from(data)[:2]
                if kind == _DONE:
                    return found
                if kind == _ERROR or size < _HEADER.size:
                    raise OSError(95, "the kernel does not say who listens on unix sockets")
                place = _place_in(data[_HEADER.size + _MESSAGE : size])
                if place is not None:
                    found.add(place)
                data = data[(size + 3) & ~3 :]


def _place_in(attributes: memoryview) -> Place | None:
    """The file's place among the attributes of one socket; None for one that has no file."""
    while len(attributes) >= 4:
        size, kind = struct.unpack_from("=HH", attributes)
        if kind == _VFS and size >= 12:
            inode, device = struct.unpack_from("=II", attributes, 4)
            return inode, device
        if size < 4:
            return None
        attributes = attributes[(size + 3) & ~3 :]
    return None
