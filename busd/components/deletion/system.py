"""What the platform can do with files and Python does not offer; each function says what it falls back to.

Sources: openat2(2), statx(2), rename(2), ioprio_set(2), statfs(2) of the Linux man pages. What goes to the kernel
(kernel.py) lets go of the interpreter while it runs. On Windows, which has no descriptors of directories, none of this
works; Root.open says so.
"""

import contextlib
import ctypes
import errno
import os
import platform
import stat
import struct
import sys
import threading
from typing import Final

from busd.components.deletion.kernel import AT_EMPTY_PATH, Kernel, OpenHow

__all__ = [
    "O_LOOK",
    "O_SAFE",
    "attributes",
    "born",
    "file_system",
    "idle_io",
    "is_mount_root",
    "mount_of",
    "open_beneath",
    "rename_new",
]

# Never through a link, never inherited, never waiting for the other end of a FIFO.
O_SAFE: Final[int] = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
# A descriptor that only names a file: opening it needs no right on the file and sets nothing off in a device. 0 where
# the platform has none.
O_LOOK: Final[int] = getattr(os, "O_PATH", 0)
_O_NONBLOCK: Final[int] = getattr(os, "O_NONBLOCK", 0)
_O_DIRECTORY: Final[int] = getattr(os, "O_DIRECTORY", 0)

_RESOLVE_NO_XDEV: Final = 0x01
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
_RENAME_NOREPLACE: Final = 1
_STATX_BTIME: Final = 0x800
_STATX_ATTR_IMMUTABLE: Final = 0x10
_STATX_ATTR_APPEND: Final = 0x20
_STATX_ATTR_MOUNT_ROOT: Final = 0x2000
_IOPRIO_WHO_PROCESS: Final = 1
_IOPRIO_IDLE: Final = 3 << 13
_FS_IOC_GETFLAGS: Final = 0x80086601  # _IOR('f', 1, long) where a long has 8 bytes
_FS_IMMUTABLE: Final = 0x10
_FS_APPEND: Final = 0x20

_MAGIC: Final = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x6969: "nfs",
    0xFF534D42: "cifs",
    0xFE534D42: "cifs",
    0x517B: "cifs",
    0x0BD00BD0: "lustre",
    0x01021994: "tmpfs",
    0x794C7630: "overlay",
}
_NAMES: Final = {
    "ext2": "ext4",
    "ext3": "ext4",
    "ext4": "ext4",
    "xfs": "xfs",
    "btrfs": "btrfs",
    "nfs": "nfs",
    "nfs4": "nfs",
    "cifs": "cifs",
    "smb3": "cifs",
    "lustre": "lustre",
    "tmpfs": "tmpfs",
    "overlay": "overlay",
}

_kernel = Kernel()


def _component(name: bytes) -> None:
    """Raises OSError (EINVAL) unless ``name`` is one component of a path that names something of its own."""
    if name in {b"", b".", b".."} or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, "not one component of a path")


def open_beneath(directory: int, path: bytes, flags: int, *, mounts: bool = False) -> int:
    """Open ``path`` below ``directory``: no link on the way or at its end, no mount point, no "." or "..".

    With ``O_LOOK`` in ``flags`` a link at the end is opened itself. Falls back to opening one component after the
    other, each without following links and with its mount compared; the same for paths that are too long for one call.

    Args:
        directory: descriptor of a directory.
        path: relative; at least one component, none empty.
        flags: of open(2) without O_CREAT; ``O_SAFE`` is added.
        mounts: whether file systems that are mounted below may be entered.

    Returns: a descriptor, the caller's.

    Raises OSError: EINVAL (not such a path), ELOOP (a link), EXDEV (a mount), and what open(2) raises.
    """
    parts = path.split(b"/")
    for part in parts:
        _component(part)
    if flags & os.O_CREAT:
        raise OSError(errno.EINVAL, "nothing is created here")
    if "openat2" in _kernel.has:
        resolve = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
        how = OpenHow(flags | O_SAFE, 0, resolve if mounts else resolve | _RESOLVE_NO_XDEV)
        if how.flags & O_LOOK:
            # openat2 takes nothing beside these; open(2) ignores it.
            how.flags &= O_LOOK | _O_DIRECTORY | (O_SAFE & ~_O_NONBLOCK)
        size = ctypes.c_size_t(ctypes.sizeof(how))
        try:
            return _kernel.call("openat2", ctypes.c_long(directory), ctypes.c_char_p(path), ctypes.byref(how), size)
        except OSError as failed:
            # A path may be too long only for one call; and a link where a directory was asked for is to be told from a
            # file, which only a look at each component can.
            if failed.errno not in {errno.ENAMETOOLONG, errno.ENOTDIR}:
                raise
    return _walk(directory, parts, flags, mounts)


def _walk(directory: int, parts: list[bytes], flags: int, mounts: bool) -> int:
    """``open_beneath`` one component after the other. Raises OSError as it does."""
    mount = mount_of(directory)
    held = directory
    try:
        for part in parts[:-1]:
            below = _step(held, part, O_LOOK | _O_DIRECTORY)
            if held != directory:
                os.close(held)
            held = below
            _same_mount(held, mount, mounts)
        last = _step(held, parts[-1], flags)
    finally:
        if held != directory:
            os.close(held)
    try:
        _same_mount(last, mount, mounts)
    except OSError:
        os.close(last)
        raise
    return last


def _step(directory: int, name: bytes, flags: int) -> int:
    try:
        return os.open(name, flags | O_SAFE, dir_fd=directory)
    except OSError as failed:
        # A link where a directory was asked for is ENOTDIR on Linux and EMLINK on FreeBSD; openat2 says ELOOP.
        if failed.errno in {errno.ENOTDIR, errno.EMLINK} and _is_link(directory, name):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
        raise


def _is_link(directory: int, name: bytes) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _same_mount(fd: int, mount: int, mounts: bool) -> None:
    if not mounts and mount_of(fd) != mount:
        raise OSError(errno.EXDEV, "a file system is mounted there")


def rename_new(source_dir: int, name: bytes, target_dir: int, new: bytes) -> None:
    """Rename ``name`` in ``source_dir`` to ``new`` in ``target_dir``, which must not exist: nothing is ever replaced.

    Falls back, where the kernel or the file system has no RENAME_NOREPLACE, to taking the name with an empty directory
    (mode 0700) and renaming over that, which works for directories only. A crash in between leaves the empty directory
    at ``new`` and the source where it was. Anything else than a directory is then refused with ENOSYS: a hard link and
    an unlink would remove what another had meanwhile put in its place.

    Raises OSError: EINVAL (not one component), EEXIST (something is there), ENOSYS, and what rename(2) raises.
    """
    _component(name)
    _component(new)
    if "renameat2" in _kernel.has:
        try:
            _kernel.call(
                "renameat2",
                ctypes.c_long(source_dir),
                ctypes.c_char_p(name),
                ctypes.c_long(target_dir),
                ctypes.c_char_p(new),
                ctypes.c_uint(_RENAME_NOREPLACE),
            )
            return
        except OSError as failed:
            # A file system without the flag (NFS and some others) says EINVAL. What else is EINVAL stays it below.
            if failed.errno != errno.EINVAL:
                raise
    os.mkdir(new, 0o700, dir_fd=target_dir)
    try:
        os.rename(name, new, src_dir_fd=source_dir, dst_dir_fd=target_dir)
    except OSError as failed:
        with contextlib.suppress(OSError):  # what went wrong first is what the caller is to know
            os.rmdir(new, dir_fd=target_dir)
        if failed.errno in {errno.EISDIR, errno.ENOTDIR}:
            raise OSError(errno.ENOSYS, "only directories can be renamed without replacing here") from None
        raise


def mount_of(fd: int) -> int:
    """A number for the mount that ``fd`` is on: equal for the same mount in this process, and for nothing else.

    From statx (unique for the life of the machine from Linux 6.8 on), else from /proc/self/fdinfo, else the device,
    which does not tell a bind mount of the same file system. Raises OSError (EBADF).
    """
    if _kernel.mount_mask:
        return int(_kernel.statx(fd, b"", AT_EMPTY_PATH, _kernel.mount_mask).mount)
    known = _mount_from_proc(fd)
    return os.fstat(fd).st_dev if known is None else known


def _mount_from_proc(fd: int) -> int | None:
    """The mount id in /proc/self/fdinfo; None where there is no such file. Raises OSError."""
    if sys.platform != "linux":
        return None
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            for line in file:
                if line.startswith(b"mnt_id:"):
                    return int(line.split()[1])
    except (FileNotFoundError, PermissionError):
        # No such file system, or a closed descriptor. All else (too many open files) is told: two numbers of which one
        # came another way would not compare.
        os.fstat(fd)
    return None


def is_mount_root(directory: int, name: bytes) -> bool:
    """Whether something is mounted at ``name`` in ``directory``. Links are not followed, nothing is auto-mounted.

    From statx (Linux 5.8), else by comparing ``mount_of`` of both, else their devices, which does not tell a bind mount
    of the same file system: what is entered is to be compared by ``mount_of`` once it is open, too.

    Raises OSError: EINVAL (not one component), ENOENT and what stat(2) raises.
    """
    _component(name)
    if _kernel.mount_roots:
        found = _kernel.statx(directory, name, 0, 0)
        return bool(found.attributes & _STATX_ATTR_MOUNT_ROOT)
    if not O_LOOK:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_dev != os.fstat(directory).st_dev
    fd = os.open(name, O_LOOK | O_SAFE, dir_fd=directory)
    try:
        return mount_of(fd) != mount_of(directory)
    finally:
        os.close(fd)


def attributes(fd: int, name: bytes = b"") -> frozenset[str]:
    """What keeps ``fd``, or ``name`` in the directory ``fd``, from being changed: "immutable", "append".

    From statx, else by ioctl FS_IOC_GETFLAGS, else from the flags of stat(2) (BSD, macOS). Empty where the file system
    has no such thing. Raises OSError when there is no such file.
    """
    if name:
        _component(name)
    if "statx" in _kernel.has:
        found = _kernel.statx(fd, name, 0 if name else AT_EMPTY_PATH, 0)
        pairs = ((_STATX_ATTR_IMMUTABLE, "immutable"), (_STATX_ATTR_APPEND, "append"))
        return frozenset(word for bit, word in pairs if found.attributes & found.attributes_mask & bit)
    status = os.stat(name, dir_fd=fd, follow_symlinks=False) if name else os.fstat(fd)
    flags = getattr(status, "st_flags", 0)
    if sys.platform == "linux" and (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        bits = _flags_of(fd, name)
        pairs = ((_FS_IMMUTABLE, "immutable"), (_FS_APPEND, "append"))
    else:
        bits = flags
        immutable = stat.UF_IMMUTABLE | stat.SF_IMMUTABLE
        pairs = ((immutable, "immutable"), (stat.UF_APPEND | stat.SF_APPEND, "append"))
    return frozenset(word for bit, word in pairs if bits & bit)


def _flags_of(fd: int, name: bytes) -> int:
    """FS_IOC_GETFLAGS of a file or directory; 0 where it cannot be asked."""
    if sys.platform != "linux":
        return 0
    import fcntl

    opened = -1
    try:
        # A descriptor of O_LOOK takes no ioctl, but a directory can be opened again through it.
        if name or fcntl.fcntl(fd, fcntl.F_GETFL) & O_LOOK:
            opened = os.open(name or b".", os.O_RDONLY | O_SAFE, dir_fd=fd)
        buffer = bytearray(8)
        fcntl.ioctl(fd if opened < 0 else opened, _FS_IOC_GETFLAGS, buffer)
    except OSError:
        return 0
    finally:
        if opened >= 0:
            os.close(opened)
    return int.from_bytes(buffer[:4], sys.byteorder)


def born(fd: int, name: bytes = b"") -> float | None:
    """When ``fd``, or ``name`` in the directory ``fd``, was made, in seconds since 1970. No link is followed.

    From statx, else from stat(2) (BSD, macOS); None where the file system does not say. Raises OSError when there is no
    such file.
    """
    if name:
        _component(name)
    if "statx" in _kernel.has:
        found = _kernel.statx(fd, name, 0 if name else AT_EMPTY_PATH, _STATX_BTIME)
        if not found.mask & _STATX_BTIME:
            return None
        seconds, nanoseconds = struct.unpack_from("=qI", found.times, 16)  # after the time of access
        return float(seconds + nanoseconds / 1e9)
    status = os.stat(name, dir_fd=fd, follow_symlinks=False) if name else os.fstat(fd)
    made = getattr(status, "st_birthtime", None)
    return None if made is None else float(made)


def idle_io(nice: int = 0) -> bool:
    """Give the calling thread's disk work the idle class and raise its niceness by ``nice``; best effort.

    The idle class holds for its reads and synchronous writes only: the journal and the write-back belong to the kernel,
    and few schedulers look at it. Falls back to niceness alone.

    Args:
        nice: 0 where others share the interpreter: a nice thread that is held up while it has the interpreter holds up
            all of them. Measured beside two busy processes on two CPUs: waits of an event loop up to 8 ms at 0, 21 ms
            at 5, 276 ms at 19.

    Returns: whether the idle class was taken. Raises nothing.
    """
    if nice and sys.platform == "linux":
        try:
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + nice))
        except OSError:
            pass  # what it had, it keeps
    if "ioprio_set" not in _kernel.has:
        return False
    try:
        _kernel.call("ioprio_set", ctypes.c_int(_IOPRIO_WHO_PROCESS), ctypes.c_int(0), ctypes.c_int(_IOPRIO_IDLE))
    except OSError:
        return False
    return True


def file_system(fd: int) -> str:
    """The kind of file system of ``fd``: ext4 (also 2 and 3), xfs, btrfs, nfs, cifs, lustre, tmpfs, overlay, or other.

    From statfs, else from /proc/self/mountinfo, else "other". Raises OSError (EBADF).
    """
    if "fstatfs" in _kernel.has:
        # f_type comes first: a long, on s390x an unsigned int. The structure has 120 bytes at most.
        buffer = ctypes.create_string_buffer(256)
        _kernel.call("fstatfs", ctypes.c_long(fd), ctypes.byref(buffer))
        size = 4 if platform.machine() == "s390x" else 8
        return _MAGIC.get(int.from_bytes(buffer.raw[:size], sys.byteorder) & 0xFFFFFFFF, "other")
    os.fstat(fd)
    mount = _mount_from_proc(fd)
    if mount is None:
        return "other"
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            for line in file:
                fields = line.split()
                if int(fields[0]) == mount:
                    kind = fields[fields.index(b"-") + 1].decode("ascii", "replace")
                    return _NAMES.get(kind, "other")
    except (OSError, ValueError, IndexError):
        pass
    return "other"
