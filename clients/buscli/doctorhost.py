"""Checks of this machine: the run directory, the folders of the node, disks and the clock. They need no bus."""

import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from buscli.doctor import RIGHTS, Finding
from buscli.exits import Health
from buscli.units import binary_size, duration

__all__ = ["examine_host"]

RELEASED: Final = 1792540800.0
"""2026-10-21, in seconds since 1970: no right clock is before the first release."""

HOST_SOCKET: Final = "host.sock"
"""The node's own socket, in its run directory."""

FREE_WARNING: Final = 0.10
FREE_CRITICAL: Final = 0.02
"""Part of a file system, or of its inodes, that is free."""

VERIFIED_BYTES: Final = 16 << 20
"""The largest file of the audit log that is read through: a fraction of a second."""

ENTRIES: Final = 4096
"""Entries of the run directory that are looked at."""

KEY_SECONDS: Final = 365 * 86400.0
"""The age from which the broker's own key pair is worth a question."""


def examine_host(daemon: dict[str, Any] | None, url: str) -> list[Finding]:
    """What is found here. ``daemon`` is what the node says of itself, None if it says nothing; ``url`` its address.

    It reads files and so blocks: call it in a thread.
    """
    findings = [_wall_clock()]
    if sys.platform == "win32":
        return [*findings, Finding("disk", Health.UNKNOWN, "the node's folders are on another machine", "run it there")]
    folders = _folders(daemon, url)
    if not folders:
        why = f"the bus is not reached through its {HOST_SOCKET}: its folders may be on another machine"
        return [*findings, *(Finding(check, Health.UNKNOWN, why, "run it there") for check in ("run", "disk"))]
    findings += _run_directory(folders["run"])
    findings.append(_sockets(folders["run"]))
    findings.append(_audit_file(folders.get("audit")))
    findings.append(_key_files(folders.get("keys")))
    findings.append(_root_keys(folders.get("components")))
    findings += _disks(folders)
    return findings


def _folders(daemon: dict[str, Any] | None, url: str) -> dict[str, Path]:
    """Where the node keeps what, by its own word, or else as a node of this address would by default."""
    if daemon is not None and url.startswith("unix:"):
        return {name: Path(path) for name, path in daemon["folders"].items() if path is not None}
    if not url.startswith("unix:"):
        return {}
    socket = Path(url.removeprefix("unix:").removeprefix("//"))
    if socket.name != HOST_SOCKET:  # a guest's: the node's folders are elsewhere
        return {}
    run = socket.parent
    found = {"run": run}
    for name in ("audit", "keys"):
        beside, default = run / name, _default(name)
        found[name] = beside if beside.exists() or default is None else default
    return found


def _default(name: str) -> Path | None:
    from buscli.offline import default_audit_dir

    folder = default_audit_dir(os.environ).parent / name
    return folder if folder.exists() else None


def _wall_clock() -> Finding:
    now = time.time()
    if now >= RELEASED:
        return Finding("time", Health.OK, time.strftime("it is %Y-%m-%dT%H:%M:%SZ", time.gmtime(now)))
    said = time.strftime("%Y-%m-%d", time.gmtime(now))
    text = f"the clock says {said}, before this software existed: records and ages of keys are wrong"
    return Finding("time", Health.CRITICAL, text, "timedatectl set-ntp true")


# -- the run directory ------------------------------------------------------------------------------------------------


def _run_directory(folder: Path) -> Iterator[Finding]:
    """Whether nobody else could have put a socket there."""
    if sys.platform == "win32":
        return
    host = folder / HOST_SOCKET
    try:
        directory = os.lstat(folder)
        socket = os.lstat(host)
    except FileNotFoundError as error:
        yield Finding("run", Health.CRITICAL, f"{error.filename} is not there", "start busd: systemctl start busd")
        return
    except OSError as error:
        yield Finding("run", Health.UNKNOWN, f"{folder}: {error.strerror}", RIGHTS)
        return
    mode = stat.S_IMODE(directory.st_mode)
    trusted = {0, socket.st_uid}
    if directory.st_uid not in trusted or directory.st_uid != socket.st_uid:
        text = (
            f"{folder} is user {directory.st_uid}'s and host.sock user {socket.st_uid}'s: one could replace the other's"
        )
        yield Finding("run", Health.CRITICAL, text, f"chown {socket.st_uid} {folder}")
    elif mode & 0o022:
        text = f"{folder} has mode {mode:04o}: others can put their own socket in the node's place"
        yield Finding("run", Health.CRITICAL, text, f"chmod go-w {folder}")
    elif not stat.S_ISSOCK(socket.st_mode):
        yield Finding("run", Health.CRITICAL, f"{host} is no socket", f"stop busd, rm {host}, start busd")
    else:
        yield Finding("run", Health.OK, f"{folder} is user {directory.st_uid}'s, mode {mode:04o}")


def _sockets(folder: Path) -> Finding:
    """Socket files that nobody listens on. Found without connecting: that alone would be somebody's first contact."""
    from buscli.listeners import listening, place_of

    try:
        with os.scandir(folder) as entries:
            paths = [Path(each.path) for each, _ in zip(entries, range(ENTRIES), strict=False) if _is_socket(each)]
        heard = listening()
        stale = [str(path) for path in paths if place_of(path) not in heard]
    except OSError as error:
        return Finding("sockets", Health.UNKNOWN, f"{folder}: {error.strerror or error}", RIGHTS)
    if stale:
        text = f"nobody listens on {', '.join(stale[:3])}" + (f" and {len(stale) - 3} more" if len(stale) > 3 else "")
        return Finding(
            "sockets", Health.WARNING, text, f"if busd runs, and bus guest list does not know it: rm {stale[0]}"
        )
    return Finding("sockets", Health.OK, f"{len(paths)} in {folder}, somebody listens on each")


def _is_socket(entry: "os.DirEntry[str]") -> bool:
    try:
        return stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode)
    except OSError:  # it has gone meanwhile
        return False


# -- files ------------------------------------------------------------------------------------------------------------


def _audit_file(folder: Path | None) -> Finding:
    """The newest file of the log, read through."""
    from buscli.auditlog import AuditLog
    from buscli.offline import Verifier
    from buscli.parser import UsageError

    if folder is None:
        return Finding("audit-file", Health.OK, "there is none")
    try:
        path = AuditLog(folder).files()[-1].path
        size = path.stat().st_size
        if size > VERIFIED_BYTES:
            text = f"{path} has {binary_size(size)}: too much to read through here"
            return Finding("audit-file", Health.UNKNOWN, text, "bus audit verify")
        verifier = Verifier(keys=[], anchor=None)
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                # What is just being written has no end of line yet.
                if line.endswith(b"\n"):
                    verifier.feed(f"{path.name}:{number}", line)
        found = verifier.finish()
    except UsageError as error:
        return Finding("audit-file", Health.UNKNOWN, str(error).removeprefix("bus audit: "), RIGHTS)
    except OSError as error:
        return Finding("audit-file", Health.UNKNOWN, f"{folder}: {error.strerror}", RIGHTS)
    if found.ok:
        return Finding("audit-file", Health.OK, f"{path.name}: {found.records:,} records, nothing is wrong with them")
    first = found.problems[0]
    if all(problem.what == "key" for problem in found.problems):
        return Finding("audit-file", Health.UNKNOWN, first.text, "bus audit verify --key-file FILE")
    text = f"{first.place}: {first.what}: {first.text}"
    return Finding("audit-file", Health.CRITICAL, text, f"bus audit verify --dir {folder}")


def _key_files(folder: Path | None) -> Finding:
    """The broker's own pair for the network: for nobody else to read, and not too old."""
    if folder is None:
        return Finding("key-files", Health.OK, "there are none")
    path = folder / "broker.key"
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return Finding("key-files", Health.OK, "the network boundary was never open: there is no key of the broker")
    except OSError as error:
        return Finding("key-files", Health.UNKNOWN, f"{path}: {error.strerror}", RIGHTS)
    mode, age = stat.S_IMODE(found.st_mode), time.time() - found.st_mtime
    if mode & 0o077:
        text = f"{path} has mode {mode:04o}: others can read the broker's secret key, and be the broker"
        cure = f"chmod go= {path}; who may have read it? rm {folder}/broker.* and restart busd for a new pair"
        return Finding("key-files", Health.CRITICAL, text, cure)
    if age > KEY_SECONDS:
        text = f"the broker's key is {duration(age)} old"
        cure = f"plan a new one: rm {folder}/broker.*, restart busd, and give clients the new broker.pub"
        return Finding("key-files", Health.WARNING, text, cure)
    return Finding("key-files", Health.OK, f"the broker's key is {duration(max(0.0, age))} old, mode {mode:04o}")


def _root_keys(folder: Path | None) -> Finding:
    """Files with root keys that components' settings name (``key.file``): for nobody else to read."""
    import tomllib

    keys: list[Path] = []
    try:
        for path in sorted(folder.glob("*.toml")) if folder is not None and folder.exists() else ():
            with path.open("rb") as file:
                key = tomllib.load(file).get("config", {}).get("key", {})
            if isinstance(key, dict) and isinstance(key.get("file"), str) and key["file"]:
                keys.append(Path(key["file"]))
        modes = {path: os.lstat(path) for path in keys}
    except tomllib.TOMLDecodeError as error:
        return Finding("root-keys", Health.WARNING, f"{path}: {error}", "bus component list; repair the file")
    except OSError as error:
        state = Health.CRITICAL if isinstance(error, FileNotFoundError) else Health.UNKNOWN
        return Finding("root-keys", state, f"{error.filename}: {error.strerror}", RIGHTS)
    exposed = [path for path, found in modes.items() if stat.S_IMODE(found.st_mode) & 0o077]
    if exposed:
        text = f"{exposed[0]}: others can read the root key, and with it what every tenant has in the cache"
        return Finding("root-keys", Health.CRITICAL, text, f"chmod go= {exposed[0]}, then make a new one")
    return Finding("root-keys", Health.OK, f"{len(keys)} files, for nobody else to read")


# -- disks ------------------------------------------------------------------------------------------------------------


def _disks(folders: dict[str, Path]) -> Iterator[Finding]:
    """Room and inodes of every file system that the node writes to."""
    if sys.platform == "win32":
        return
    seen: dict[int, Path] = {}
    for name in ("run", "audit", "keys"):
        folder = folders.get(name)
        while folder is not None and not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if folder is not None:
            try:
                seen.setdefault(os.stat(folder).st_dev, folder)
            except OSError as error:
                yield Finding("disk", Health.UNKNOWN, f"{folder}: {error.strerror}", RIGHTS)
    for folder in seen.values():
        try:
            found = os.statvfs(folder)
        except OSError as error:
            yield Finding("disk", Health.UNKNOWN, f"{folder}: {error.strerror}", RIGHTS)
            continue
        free = found.f_bavail / found.f_blocks if found.f_blocks else 1.0
        inodes = found.f_favail / found.f_files if found.f_files else 1.0
        said = "" if not found.f_files else f", {inodes:.0%} of its inodes"
        text = f"{folder}: {binary_size(found.f_bavail * found.f_frsize)} free ({free:.0%}{said})"
        least = min(free, inodes)
        if least >= FREE_WARNING:
            yield Finding("disk", Health.OK, text)
            continue
        state = Health.CRITICAL if least < FREE_CRITICAL else Health.WARNING
        cure = f"make room: du -xsh {folder}/*" if free <= inodes else f"too many files: find {folder} -xdev | wc -l"
        yield Finding("disk", state, text, cure)
