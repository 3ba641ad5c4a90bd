"""Deletion roots: the directories below which the operator allows deletion, opened once and held.

Who asks names a root by its id and a path below it, never an absolute path: what a root is, is decided here alone.
"""

import contextlib
import difflib
import errno
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from busd.components.deletion.mounts import aliases
from busd.components.deletion.protected import Key, Protected, key_of
from busd.components.deletion.shown import shown
from busd.components.deletion.system import O_LOOK, O_SAFE, mount_of, open_beneath
from busproto.errors import BusError, Code

__all__ = ["NODE", "Root", "RootSettings", "Roots"]

NODE: Final = "node"
"""The tenant that the node itself is; it may use every root."""

_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_MAX_ROOTS: Final = 256  # each holds a descriptor, and is compared with all others
_DIRECTORY: Final[int] = getattr(os, "O_DIRECTORY", 0)


@dataclass(frozen=True, slots=True)
class RootSettings:
    """What the operator says of one root.

    Attributes:
        id: name of the root: lower-case letters, digits, - and _, at most 64.
        path: absolute, without links, "." or "..".
        tenants: who may delete below it, besides the node. Empty: the node only.
        min_depth: components that a path below it has at least; at 2, nobody deletes what lies in the root directly.
        one_file_system: whether what is mounted below stays out of reach.
        max_entries: entries that one job may remove; None: any number.
        max_bytes: bytes that one job may free; None: any number.
        chmod: whether a directory without the rights may be given 0700 to empty it.
        personal: whether it may be the home of this user, for this user's own deletions in it.

    Raises BusError 7002 for values that cannot be.
    """

    id: str
    path: Path
    tenants: frozenset[str] = frozenset()
    min_depth: int = 1
    one_file_system: bool = True
    max_entries: int | None = None
    max_bytes: int | None = None
    chmod: bool = False
    personal: bool = False

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise BusError(
                Code.CONFIG_INVALID,
                key=f"deletion root {self.id[:80]!r}",
                where="",
                reason="an id is of a-z, 0-9, - and _, at most 64",
            )
        if self.min_depth < 1:
            raise _invalid(self, f"min_depth is {self.min_depth}; it is at least 1, as a root itself stays")
        for name, limit in (("max_entries", self.max_entries), ("max_bytes", self.max_bytes)):
            if limit is not None and limit < 1:
                raise _invalid(self, f"{name} is {limit}; it is at least 1, or left out")


def _invalid(settings: RootSettings, reason: str) -> BusError:
    return BusError(Code.CONFIG_INVALID, key=f"deletion root {settings.id!r}", where="", reason=reason)


class Root:
    """One root, open. Safe to use from several threads.

    Attributes:
        settings: what the operator said.
        fd: descriptor of the directory, for reading; this object's, until ``close``.
        device, inode, mount: what was opened (mount as of ``system.mount_of``).
        above: device and inode of every directory from "/" to the root, with itself; through other mounts, too.
        protected: what no target in it may be.
        beside: device and inode of the other roots, which no target may be either, should one be moved in here.
    """

    __slots__ = ("above", "beside", "device", "fd", "inode", "mount", "protected", "settings")

    def __init__(self, settings: RootSettings, fd: int, above: frozenset[Key], protected: Protected) -> None:
        status = os.fstat(fd)
        self.settings = settings
        self.fd = fd
        self.device = status.st_dev
        self.inode = status.st_ino
        self.mount = mount_of(fd)
        self.above = above
        self.protected = protected
        self.beside: frozenset[Key] = frozenset()

    @classmethod
    def open(cls, settings: RootSettings, protected: Iterable[Path] | Protected = ()) -> Self:
        """Open the root that ``settings`` names. It keeps a descriptor, so its file system cannot be unmounted.

        Args:
            settings: the operator's.
            protected: directories of the node's own state: a root may hold them, and they stay, but lie in none. The
                home of this user stays, too; a ``Protected`` is taken as it is.

        Raises BusError 7002, with the reason: no such directory, a link on the way, "/", the home of this user, a
        protected directory or one in it, or a platform without descriptors of directories.
        """
        if sys.platform == "win32" or os.open not in os.supports_dir_fd:
            raise _invalid(settings, "this platform has no descriptors of directories, without which nothing is safe")
        guard = protected if isinstance(protected, Protected) else Protected(protected, _homes())
        fd, above = _open_whole(settings)
        try:
            root = cls(settings, fd, above | _above_elsewhere(settings.path), guard)
            root._refuse_protected()
        except BaseException:
            os.close(fd)
            raise
        return root

    def _refuse_protected(self) -> None:
        marks = self.protected.marks()
        own = (self.device, self.inode)
        if own in marks.kept and not (self.settings.personal and own in _keys_of(_homes()) and own not in marks.closed):
            raise _invalid(self.settings, f"{marks.kept[own]} cannot be a root")
        for key in self.above:
            if key in marks.closed:
                raise _invalid(self.settings, f"it lies in {marks.closed[key]}, which is protected")

    @property
    def id(self) -> str:
        """The root's name."""
        return self.settings.id

    @property
    def key(self) -> Key:
        """Device and inode of the directory."""
        return self.device, self.inode

    def check(self) -> None:
        """Look whether the root's path still leads to what was opened. Raises BusError 9003 if it does not: the
        directory was moved, replaced, or something was mounted over it.
        """
        try:
            fd, _ = _open_whole(self.settings)
        except BusError as failed:
            reason = str(failed.fields.get("reason", ""))
            raise BusError(Code.DELETION_CHANGED, path=f"root {self.id}", reason=reason) from None
        try:
            status = os.fstat(fd)
            same = key_of(status) == self.key and mount_of(fd) == self.mount
        finally:
            os.close(fd)
        if not same:
            reason = "another directory or file system is at its path; the node must be started again to take it"
            raise BusError(Code.DELETION_CHANGED, path=f"root {self.id}", reason=reason)

    def close(self) -> None:
        """Give the descriptor back. A second time does nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


def _keys_of(paths: Iterable[Path]) -> set[Key]:
    found: set[Key] = set()
    for path in paths:
        with contextlib.suppress(OSError):
            found.add(key_of(os.stat(path)))
    return found - {key_of(os.stat("/"))}


def _homes() -> list[Path]:
    """The home of this user, by the user database and by the environment."""
    found: list[Path] = []
    if sys.platform != "win32":
        import pwd

        try:
            found.append(Path(pwd.getpwuid(os.geteuid()).pw_dir))
        except KeyError:
            pass  # a user without an entry: a container
    found.append(Path(os.environ.get("HOME", "")))
    return [path for path in found if path.is_absolute()]


def _open_whole(settings: RootSettings) -> tuple[int, frozenset[Key]]:
    """Open the root's path from "/" on, one component after the other and through no link; with what lies above.

    Raises BusError 7002.
    """
    path = os.fsencode(settings.path)
    parts = path.split(b"/")[1:]
    if not path.startswith(b"/") or b".." in parts or b"\0" in path:
        raise _invalid(settings, f"{shown(path)} is not an absolute path without '..'")
    if parts == [b""]:
        raise _invalid(settings, "/ cannot be a root")
    done = b""
    fd = os.open(b"/", O_LOOK | _DIRECTORY | O_SAFE)
    try:
        above = [key_of(os.fstat(fd))]
        for count, part in enumerate(parts, 1):
            done += b"/" + part
            kind = O_LOOK if count < len(parts) else os.O_RDONLY
            below = open_beneath(fd, part, kind | _DIRECTORY, mounts=True)
            os.close(fd)
            fd = below
            above.append(key_of(os.fstat(fd)))
    except OSError as failed:
        os.close(fd)
        raise _invalid(settings, _why(done, failed)) from None
    except BaseException:
        os.close(fd)
        raise
    return fd, frozenset(above)


def _why(path: bytes, failed: OSError) -> str:
    if failed.errno == errno.ELOOP:
        return f"{shown(path)} is a link; give the path that it leads to"
    return f"{shown(path)}: {os.strerror(failed.errno or 0)}"


def _above_elsewhere(path: Path) -> frozenset[Key]:
    """Device and inode of the directories above ``path`` where it is also reached through other mounts."""
    found: set[Key] = set()
    for alias in aliases(os.fsencode(path)):
        while alias not in {b"", b"/"}:
            try:
                found.add(key_of(os.stat(alias)))
            except OSError:
                pass  # what cannot be looked at cannot be deleted in either
            alias = alias.rpartition(b"/")[0]
    return frozenset(found)


class Roots:
    """All roots of a node, by id."""

    def __init__(self, roots: Iterable[Root]) -> None:
        self._roots = {root.id: root for root in roots}

    @classmethod
    def open(cls, settings: Iterable[RootSettings], protected: Iterable[Path] = ()) -> Self:
        """Open all roots. Raises BusError 7002 as ``Root.open`` does, and if an id is there twice, a root lies in
        another (by whatever path), or there are more than 256; then none stays open.
        """
        wanted = list(settings)
        guard = Protected(protected, _homes())
        if len(wanted) > _MAX_ROOTS:
            raise _invalid(wanted[_MAX_ROOTS], f"there are {len(wanted)} roots; {_MAX_ROOTS} may be")
        opened: list[Root] = []
        try:
            for one in wanted:
                if any(root.id == one.id for root in opened):
                    raise _invalid(one, "the id is there twice")
                opened.append(Root.open(one, guard))
            for inner in opened:
                for outer in opened:
                    if inner is not outer and outer.key in inner.above:
                        raise _invalid(inner.settings, f"it lies in root {outer.id!r}; roots lie beside each other")
        except BaseException:
            for root in opened:
                root.close()
            raise
        for root in opened:
            root.beside = frozenset(other.key for other in opened if other is not root)
        return cls(opened)

    def get(self, id: str, tenant: str) -> Root:
        """The root ``id``, if ``tenant`` may use it. Raises BusError 9001: there is none, or it is not for them; the
        error does not tell which.
        """
        allowed = {root.id: root for root in self.for_tenant(tenant)}
        root = allowed.get(id)
        if root is None:
            near = difflib.get_close_matches(id[:80], allowed, n=1, cutoff=0.0)
            raise BusError(Code.DELETION_ROOT_UNKNOWN, root=id[:80], nearest=near[0] if near else "")
        return root

    def for_tenant(self, tenant: str) -> list[Root]:
        """The roots that ``tenant`` may use, by id. The node may use all."""
        found = [root for root in self._roots.values() if tenant == NODE or tenant in root.settings.tenants]
        return sorted(found, key=lambda root: root.id)

    def close(self) -> None:
        """Close all roots."""
        for root in self._roots.values():
            root.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
