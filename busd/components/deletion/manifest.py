"""The manifest of a tombstone: what is buried, where it came from, what was asked; on disk before anything moves.

It is what a node that comes up after a crash goes by, and therefore sealed: a head with a magic number, a version, a
length and a SHA-256 of what follows, which is msgpack (paths are bytes, which JSON cannot hold). Anything that is not
exactly such a file is no manifest, and what lies beside it is left alone.
"""

import hashlib
import os
import re
import stat
import struct
from typing import Final

import msgspec

from busd.components.deletion.shown import shown
from busd.components.deletion.system import O_SAFE
from busd.components.deletion.target import MAX_PATH, TOMBSTONES
from busproto.errors import BusError, Code

__all__ = ["Manifest", "NotAManifest", "Option", "is_job", "is_tenant", "read_manifest", "write_manifest"]

VERSION: Final = 1
MAX_MANIFEST: Final = MAX_PATH + 65536
"""Bytes of a manifest: the longest path, and as much again for the options."""

Option = str | int | float | bool | None
"""What an option of a job may be."""

_MAGIC: Final = b"busd tombstone\n\0"
_HEAD: Final = struct.Struct(">16sHI32s")  # magic, version, bytes that follow, their SHA-256
_JOB: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_TENANT: Final = re.compile(r"[a-z0-9_-]{1,64}", re.ASCII)


def is_job(name: str) -> bool:
    """Whether ``name`` can be a job's id: letters, digits, ".", "_" and "-", not a "." first, at most 100."""
    return _JOB.fullmatch(name) is not None


def is_tenant(name: str) -> bool:
    """Whether ``name`` can be a tenant's: lower-case letters, digits, "-" and "_", at most 64."""
    return _TENANT.fullmatch(name) is not None


class NotAManifest(Exception):  # noqa: N818 - it says what the file is
    """A file that should be a manifest is none that this version made; the argument says why."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a tombstone holds.

    Attributes:
        job: id of the job; the name of its directory in the area.
        tenant: who asked.
        root: id of the root.
        path: where it lay, below the root.
        device, inode: what it was. The inode stays; a device may have another number after the machine was started.
        directory: whether it is one.
        created: when it was buried, in seconds since 1970.
        until: the end of the grace period, in seconds since 1970; 0 if there is none.
        options: what else the job was asked for.
        version: of the manifest.
    """

    job: str
    tenant: str
    root: str
    path: bytes
    device: int
    inode: int
    directory: bool
    created: float
    until: float = 0.0
    options: dict[str, Option] = {}
    version: int = VERSION

    def encode(self) -> bytes:
        """The bytes of the file. Raises BusError 9002 if they are too many, which the options can cause."""
        body = msgspec.msgpack.encode(self)
        if len(body) > MAX_MANIFEST:
            reason = f"its path and options have {len(body)} bytes; {MAX_MANIFEST} may be"
            raise BusError(Code.DELETION_REFUSED, path=shown(self.path), reason=reason)
        return _HEAD.pack(_MAGIC, self.version, len(body), hashlib.sha256(body).digest()) + body

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """Read what ``encode`` wrote. Raises NotAManifest."""
        if len(data) < _HEAD.size:
            raise NotAManifest(f"the manifest has {len(data)} bytes, too few for one")
        magic, version, size, digest = _HEAD.unpack_from(data)
        if magic != _MAGIC:
            raise NotAManifest("the manifest does not begin as one")
        if version != VERSION:
            raise NotAManifest(f"the manifest is of version {version}; this busd knows {VERSION}")
        body = data[_HEAD.size :]
        if len(body) != size:
            raise NotAManifest(f"the manifest says {size} bytes and has {len(body)}")
        if hashlib.sha256(body).digest() != digest:
            raise NotAManifest("the manifest's checksum is wrong")
        try:
            manifest = msgspec.msgpack.decode(body, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as failed:
            raise NotAManifest(f"the manifest cannot be read: {failed}") from None
        manifest._check()
        return manifest

    def _check(self) -> None:
        parts = self.path.split(b"/")
        if self.version != VERSION or not is_job(self.job) or not is_tenant(self.tenant):
            raise NotAManifest("the manifest names no job, no tenant or another version")
        if len(self.path) > MAX_PATH or b"\0" in self.path or any(part in {b"", b".", b".."} for part in parts):
            raise NotAManifest("the manifest's path is none below a root")
        if parts[0].lower() == TOMBSTONES:
            raise NotAManifest("the manifest's path leads to tombstones")


def write_manifest(directory: int, name: bytes, data: bytes) -> int:
    """Write ``data``, an encoded manifest, to the new file ``name`` in ``directory``.

    Returns: its descriptor, the caller's, to be fsynced. Raises OSError: EEXIST, ENOSPC and whatever writing says.
    """
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | O_SAFE, 0o600, dir_fd=directory)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_manifest(directory: int, name: bytes, owner: int) -> Manifest:
    """Read the manifest ``name`` in ``directory``.

    Raises NotAManifest: not a regular file, with another name elsewhere, not ``owner``'s, writable by others, not
    readable, or not what ``Manifest.encode`` makes.
    """
    try:
        fd = os.open(name, os.O_RDONLY | O_SAFE, dir_fd=directory)
    except OSError as failed:
        raise NotAManifest(f"the manifest cannot be opened: {os.strerror(failed.errno or 0)}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise NotAManifest("the manifest is not a file with one name")
        if status.st_uid != owner or status.st_mode & 0o022:
            raise NotAManifest("the manifest belongs to somebody else, or others may write it")
        limit = _HEAD.size + MAX_MANIFEST
        if status.st_size > limit:
            raise NotAManifest(f"the manifest has {status.st_size} bytes; {limit} may be")
        data = b""
        while len(data) <= limit and (more := os.read(fd, limit + 1 - len(data))):
            data += more
    except OSError as failed:
        raise NotAManifest(f"the manifest cannot be read: {os.strerror(failed.errno or 0)}") from None
    finally:
        os.close(fd)
    return Manifest.decode(data)
