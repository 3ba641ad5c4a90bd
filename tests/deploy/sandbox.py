"""Runs a unit's command as its settings say, where no systemd runs: user, capabilities, file system, system calls.

``sandbox.py SETTINGS`` as root; SETTINGS is JSON as `tests.deploy.units` makes it. It is a small part of what systemd
does, by the same means: mounts that are read-only, setpriv(1), and seccomp(2) through libseccomp. Not done is what
needs control groups (IPAddressDeny=) and ProtectHome=, for the Python may lie there. Standard library only: it runs
under the machine's Python.
"""

import ctypes
import json
import os
import pwd
import resource
import shutil
import subprocess
import sys
from pathlib import Path

ALLOW, EPERM = 0x7FFF0000, 0x00050001
NE, EQ, MASKED = 1, 4, 7
"""SCMP_CMP_NE, SCMP_CMP_EQ, SCMP_CMP_MASKED_EQ."""
WRITE, EXEC, SHM_EXEC = 2, 4, 0o100000


class Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def main() -> None:
    settings = json.loads(sys.argv[1])
    if "--filtered" not in sys.argv:
        prepare(settings)
    filter_calls(settings)
    os.execvpe(settings["command"][0], settings["command"], os.environ)


def prepare(settings: dict) -> None:  # type: ignore[type-arg]
    """Directories, mounts and limits; then this program again as the unit's user."""
    user = pwd.getpwnam(settings["user"])
    writable = list(settings["read_write"])
    for base, name, mode in settings["directories"]:
        path = Path(base, name)
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        os.chown(path, user.pw_uid, user.pw_gid)
        writable.append(str(path))
        if base == "/var/lib":
            os.environ["STATE_DIRECTORY"] = str(path)
    unshare_mounts()
    mount("--make-rprivate", "/")
    for path in writable:
        mount("--bind", path, path)
    if settings["private_tmp"]:
        shown = {path: os.open(path, os.O_PATH) for path in settings["keep"]}
        mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/tmp")
        for path, descriptor in shown.items():  # a tree under test that lies there
            Path(path).mkdir(parents=True)
            mount("--no-canonicalize", "--bind", f"/proc/self/fd/{descriptor}", path, keep=descriptor)
            os.close(descriptor)
    credentials(settings, user)
    mount("-o", "remount,bind,ro", "/")
    mount("-o", "remount,bind,ro", "/run")
    for path in writable:
        mount("-o", "remount,bind,rw", path)
    for name, value in settings["limits"].items():
        limit = getattr(resource, name)
        hard = resource.getrlimit(limit)[1]
        if hard != -1 and not 0 <= value <= hard:  # a container's root may not raise it
            value = hard
        resource.setrlimit(limit, (value, value))
    os.environ |= settings["environment"]
    os.umask(settings["umask"])
    capabilities = "-all" + "".join(f",+{each}" for each in settings["ambient"])
    bounding = "-all" + "".join(f",+{each}" for each in settings["bounding"])
    words = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups", "--no-new-privs"]
    words += [f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}", f"--bounding-set={bounding}"]
    os.chdir("/")
    os.execvp("setpriv", [*words, sys.executable, __file__, sys.argv[1], "--filtered"])


def mount(*words: str, keep: int | None = None) -> None:
    subprocess.run(["mount", *words], check=True, pass_fds=() if keep is None else (keep,))


def credentials(settings: dict, user: pwd.struct_passwd) -> None:  # type: ignore[type-arg]
    """LoadCredential=: copies that only this unit's user can read."""
    if not settings["credentials"]:
        return
    folder = Path("/run/credentials", settings["unit"])
    folder.mkdir(parents=True, mode=0o755)
    for name, source in settings["credentials"].items():
        shutil.copyfile(source, folder / name)
        (folder / name).chmod(0o400)
        os.chown(folder / name, user.pw_uid, user.pw_gid)
    os.environ["CREDENTIALS_DIRECTORY"] = str(folder)


def unshare_mounts() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(0x00020000) != 0:  # CLONE_NEWNS; os.unshare is there since 3.12
        raise OSError(ctypes.get_errno(), "unshare")


def filter_calls(settings: dict) -> None:  # type: ignore[type-arg]
    """SystemCallFilter=, RestrictAddressFamilies= and MemoryDenyWriteExecute=, as systemd 252 makes them."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Compare)
    ]  # fmt: skip

    def add(context: int, action: int, call: str, *compares: tuple[int, int, int, int]) -> None:
        number = library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:  # not of this architecture
            return
        array = (Compare * len(compares))(*(Compare(*each) for each in compares))
        if (status := library.seccomp_rule_add_array(context, action, number, len(compares), array)) != 0:
            raise OSError(-status, call)

    def load(context: int) -> None:
        if (status := library.seccomp_load(ctypes.c_void_p(context))) != 0:
            raise OSError(-status, "seccomp_load")

    context = library.seccomp_init(ALLOW)
    if settings["families"]:
        for family in range(64):
            if family not in settings["families"]:
                add(context, EPERM, "socket", (0, EQ, family, 0))
    if settings["deny_write_execute"]:
        add(context, EPERM, "mmap", (2, MASKED, WRITE | EXEC, WRITE | EXEC))
        for call in ("mprotect", "pkey_mprotect"):
            add(context, EPERM, call, (2, MASKED, EXEC, EXEC))
        add(context, EPERM, "shmat", (2, MASKED, SHM_EXEC, SHM_EXEC))
    load(context)
    if settings["calls"]:  # last: loading a filter is not a call that a service needs
        context = library.seccomp_init(EPERM)
        for call in settings["calls"]:
            add(context, ALLOW, call)
        load(context)


if __name__ == "__main__":
    main()
