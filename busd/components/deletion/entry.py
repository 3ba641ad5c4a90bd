"""One name in a directory, with what stat(2) says of it: what filters decide by."""

import os
from typing import NamedTuple

__all__ = ["Entry", "entry_of", "freed", "taken"]


class Entry(NamedTuple):
    """What is to go or to stay, as it was statted (links not followed).

    Attributes:
        name: its name in its directory.
        path: its path below the job's root.
        size: bytes of content; ``blocks``: units of 512 bytes that it takes on the disk.
        atime, mtime, ctime: seconds since 1970.
    """

    name: bytes
    path: bytes
    device: int
    inode: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    blocks: int
    atime: float
    mtime: float
    ctime: float


def entry_of(name: bytes, path: bytes, status: os.stat_result) -> Entry:
    """The entry ``name`` at ``path``, of which stat said ``status``."""
    return Entry(
        name,
        path,
        status.st_dev,
        status.st_ino,
        status.st_mode,
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        status.st_size,
        getattr(status, "st_blocks", (status.st_size + 511) // 512),
        status.st_atime,
        status.st_mtime,
        status.st_ctime,
    )


def taken(status: os.stat_result) -> int:
    """Bytes on the disk; where stat(2) does not tell (Windows), the size."""
    blocks = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else int(blocks) * 512


def freed(status: os.stat_result) -> int:
    """Bytes on the disk that go with this name: none while there are others."""
    return taken(status) if status.st_nlink == 1 else 0
