"""The kernel's own calls, by number: those that Python does not offer. What a kernel has is asked once.

Sources: the Linux man pages openat2(2), statx(2), rename(2), ioprio_set(2), statfs(2) and the kernel's uapi headers.
"""

import ctypes
import errno
import os
import platform
import sys
from typing import Any, Final, NamedTuple

__all__ = ["AT_EMPTY_PATH", "Kernel", "OpenHow", "Statx"]

AT_EMPTY_PATH: Final = 0x1000
_AT_FDCWD: Final = -100
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_NO_AUTOMOUNT: Final = 0x800
_STATX_MNT_ID: Final = 0x1000
_STATX_MNT_ID_UNIQUE: Final = 0x4000
_STATX_ATTR_MOUNT_ROOT: Final = 0x2000


class _Numbers(NamedTuple):
    """The numbers of the system calls on one machine."""

    renameat2: int
    statx: int
    ioprio_set: int
    fstatfs: int
    openat2: int = 437


_GENERIC: Final = _Numbers(276, 291, 30, 44)
_MACHINES: Final = {
    "x86_64": _Numbers(316, 332, 251, 138),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
    "ppc64le": _Numbers(357, 383, 273, 100),
    "s390x": _Numbers(347, 379, 282, 100),
}


class OpenHow(ctypes.Structure):
    """``struct open_how`` of openat2."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class Statx(ctypes.Structure):
    """``struct statx``: the fields that are read here, with what lies between them. 256 bytes in all."""

    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("attributes", ctypes.c_uint64),
        ("identity", ctypes.c_uint8 * 40),  # nlink, uid, gid, mode, ino, size, blocks
        ("attributes_mask", ctypes.c_uint64),
        ("times", ctypes.c_uint8 * 64),
        ("devices", ctypes.c_uint8 * 16),
        ("mount", ctypes.c_uint64),
        ("spare", ctypes.c_uint8 * 104),
    )


class Kernel:
    """The system calls that this kernel answers, asked once. One that is missing, or that a seccomp filter hides, is
    left out, and whoever needs it takes the other way.

    Args:
        wanted: names of the calls that may be used; tests leave some out to force the other way.
    """

    def __init__(self, wanted: frozenset[str] = frozenset(_Numbers._fields)) -> None:
        self._numbers = self._machine()
        self._syscall: Any = None
        self.has: frozenset[str] = frozenset()
        # How a mount is known. One way for the life of the process: numbers of two ways do not compare.
        self.mount_mask = 0
        self.mount_roots = False
        if self._numbers is None:
            return
        try:
            self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        except (OSError, AttributeError):
            return
        self._syscall.restype = ctypes.c_long
        self.has = frozenset(name for name in wanted if self._answers(name))
        if "statx" in self.has:
            self._ask_statx()

    @staticmethod
    def _machine() -> _Numbers | None:
        # A 32-bit interpreter on a 64-bit kernel has other numbers than the machine's name says.
        if sys.platform != "linux" or sys.maxsize < 2**32:
            return None
        return _MACHINES.get(platform.machine())

    def _answers(self, name: str) -> bool:
        """Whether the kernel knows ``name``: asked for something that it must refuse, it says why."""
        bad = ctypes.c_long(-1)
        null = ctypes.c_void_p(None)
        # openat2: a size of 0 is EINVAL; renameat2: unknown flags are EINVAL; the others refuse descriptor -1.
        asked: dict[str, tuple[Any, ...]] = {
            "openat2": (bad, null, null, ctypes.c_size_t(0)),
            "renameat2": (bad, null, bad, null, ctypes.c_uint(0xFFFF)),
            "statx": (
                bad,
                ctypes.c_char_p(b""),
                ctypes.c_int(AT_EMPTY_PATH),
                ctypes.c_uint(0),
                ctypes.byref(Statx()),
            ),
            "ioprio_set": (ctypes.c_int(-1), ctypes.c_int(0), ctypes.c_int(0)),
            "fstatfs": (bad, ctypes.byref(ctypes.create_string_buffer(256))),
        }
        try:
            self.call(name, *asked[name])
        except OSError as refused:
            return refused.errno in {errno.EINVAL, errno.EBADF, errno.EFAULT}
        return False

    def _ask_statx(self) -> None:
        try:
            root = self.statx(_AT_FDCWD, b"/", 0, _STATX_MNT_ID | _STATX_MNT_ID_UNIQUE)
        except OSError:
            self.has -= {"statx"}
            return
        for mask in (_STATX_MNT_ID_UNIQUE, _STATX_MNT_ID):
            if root.mask & mask:
                self.mount_mask = mask
                break
        self.mount_roots = bool(root.attributes_mask & _STATX_ATTR_MOUNT_ROOT)

    def call(self, name: str, *arguments: Any) -> int:
        """Call ``name``. Raises OSError; a call that a signal broke off is made again."""
        number = ctypes.c_long(getattr(self._numbers, name))
        while True:
            result: int = self._syscall(number, *arguments)
            if result >= 0:
                return result
            code = ctypes.get_errno()
            if code != errno.EINTR:
                raise OSError(code, os.strerror(code))

    def statx(self, directory: int, name: bytes, flags: int, mask: int) -> Statx:
        """statx of ``name`` in ``directory``, or of ``directory`` itself with AT_EMPTY_PATH. Raises OSError."""
        found = Statx()
        self.call(
            "statx",
            ctypes.c_long(directory),
            ctypes.c_char_p(name),
            ctypes.c_int(flags | _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT),
            ctypes.c_uint(mask),
            ctypes.byref(found),
        )
        return found
