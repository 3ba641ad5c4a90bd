"""What a process that holds keys can have the system do for it: no core dump, no debugger, no swap."""

import ctypes
import sys
from typing import Final

import msgspec

if sys.platform != "win32":
    import resource

__all__ = ["Hardened", "harden"]

_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_MCL_CURRENT_AND_FUTURE: Final = 1 | 2


class Hardened(msgspec.Struct, frozen=True):
    """What took, and why the rest did not."""

    no_core: bool
    """The limit for core dumps is 0, the hard one too. systemd-coredump and its like are given nothing either."""
    not_dumpable: bool
    """Processes of the same user cannot attach to it, nor read its memory or descriptors in /proc; root can. Linux."""
    locked: bool
    """All its memory stays out of swap, what it gets later too."""
    missing: tuple[str, ...] = ()
    """What was asked for and refused, each with the reason."""


def harden(*, lock_all: bool = False) -> Hardened:
    """Protect this process and what it will exec, for good: it cannot be taken back. Never raises.

    For a process of its own that holds keys (the cache's worker), not for an application that has the cache inside:
    that might want its core dumps. ``lock_all`` asks for mlockall(2), which is done only if the limit RLIMIT_MEMLOCK is
    infinite: under a finite one, every later allocation beyond it would fail.
    """
    missing: list[str] = []
    no_core = _no_core(missing)
    not_dumpable = _not_dumpable(missing)
    locked = lock_all and _lock_all(missing)
    return Hardened(no_core, not_dumpable, locked, tuple(missing))


def _no_core(missing: list[str]) -> bool:
    if sys.platform != "win32":
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            return True
        except (OSError, ValueError) as error:
            missing.append(f"no core dump: {error}")
    else:
        missing.append("no core dump: Windows has no limit for them")
    return False


def _not_dumpable(missing: list[str]) -> bool:
    if sys.platform != "linux":
        missing.append("not dumpable: only Linux has that")
        return False
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        if prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 and prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 0:
            return True
        missing.append(f"not dumpable: errno {ctypes.get_errno()}")
    except (OSError, AttributeError) as error:
        missing.append(f"not dumpable: {error}")
    return False


def _lock_all(missing: list[str]) -> bool:
    if sys.platform == "linux":
        try:
            soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
            if hard != resource.RLIM_INFINITY:
                missing.append(f"locked: RLIMIT_MEMLOCK is {hard} bytes; it has to be infinite (LimitMEMLOCK=infinity)")
                return False
            if soft != hard:
                resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
            if ctypes.CDLL(None, use_errno=True).mlockall(_MCL_CURRENT_AND_FUTURE) == 0:
                return True
            missing.append(f"locked: errno {ctypes.get_errno()}")
        except (OSError, ValueError, AttributeError) as error:
            missing.append(f"locked: {error}")
    else:
        missing.append("locked: only Linux locks all memory of a process")
    return False
