"""Whether this process is still the one that it was: not a forked child of it, not a clone of its machine.

Counter nonces repeat when a process with its counters exists twice. A fork is noticed with certainty where the kernel
wipes marked pages in children (Linux 4.14, however the child is made), and elsewhere by the hook of ``os.fork``. A
clone of the whole machine cannot be noticed with certainty from user space: `CloneWatch` says what it looks at.
"""

import mmap
import os
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final

from busd.components.cache.secret import new_page, wipe_on_fork

__all__ = ["BOOT_ID", "JUMP_SECONDS", "CloneWatch", "Mark", "new_mark", "on_fork"]

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
JUMP_SECONDS: Final = 2.0
"""Of one clock against another: more than adjustments do (500 ppm, 1.8 s an hour, and we look each second)."""

Mark = mmap.mmap | bytearray
"""``mark[0]`` is 1 in the process that made it and 0 in every child: one look is all that it costs to ask."""

_marks: "weakref.WeakSet[_Held]" = weakref.WeakSet()
_hooks: "weakref.WeakSet[_Hook]" = weakref.WeakSet()


class _Held:
    """What can be referred to weakly in place of a mark, which cannot."""

    __slots__ = ("__weakref__", "mark")

    def __init__(self, mark: Mark) -> None:
        self.mark = mark


class _Hook:
    __slots__ = ("__weakref__", "call")

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call


def new_mark() -> tuple[Mark, object]:
    """A mark, and what has to be kept as long as the mark is looked at."""
    mark: Mark = new_page()
    mark[0] = 1
    assert isinstance(mark, mmap.mmap)
    wipe_on_fork(mark)
    held = _Held(mark)
    _marks.add(held)
    return mark, held


def on_fork(call: Callable[[], None]) -> object:
    """Have ``call`` called in each child of ``os.fork``, before anything else runs there, while the result is kept.

    It runs in the only thread that the child has, and must take no lock: whoever held one does not exist there.
    """
    hook = _Hook(call)
    _hooks.add(hook)
    return hook


def _in_child() -> None:
    for held in list(_marks):
        held.mark[0] = 0
    for hook in list(_hooks):
        hook.call()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_in_child)


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _offsets() -> tuple[float, ...]:
    """What other clocks are ahead of the monotonic one: each changes when the machine slept or its time was set."""
    now = time.monotonic()
    offsets = [time.time() - now]
    if sys.platform == "linux":
        offsets.append(time.clock_gettime(time.CLOCK_BOOTTIME) - now)
    return tuple(offsets)


class CloneWatch:
    """Looks for signs that the machine was suspended, restored from a snapshot or cloned, by best effort.

    Seen: another boot id; the wall clock or the boot-time clock jumping against the monotonic one by more than 2 s,
    which is what a restored VM shows once its clock is set right. Not seen: a clone whose clocks go on without a jump,
    and the time before the clock is set right; the kernel learns of these (vmgenid) and reseeds its generator, but
    tells processes nothing. For machines that are cloned while a cache is in use, choose aes-256-gcm-siv, which gives
    away no more than that two values under one name are equal when a nonce does repeat (RFC 8452 section 9).

    An administrator who sets the clock makes the same sign. It costs a rotation of keys and nothing else.
    """

    __slots__ = ("_boot", "_offsets", "_read_boot", "_read_offsets")

    def __init__(
        self, *, boot: Callable[[], str] = _boot_id, offsets: Callable[[], tuple[float, ...]] = _offsets
    ) -> None:
        """``boot`` gives the boot id, ``offsets`` seconds that must not jump."""
        self._read_boot, self._read_offsets = boot, offsets
        self._boot, self._offsets = boot(), offsets()

    def moved(self) -> bool:
        """Whether there was such a sign since it was asked last. Costs some 20 us."""
        boot, offsets = self._read_boot(), self._read_offsets()
        moved = boot != self._boot or any(
            abs(new - old) > JUMP_SECONDS for new, old in zip(offsets, self._offsets, strict=True)
        )
        self._boot, self._offsets = boot, offsets
        return moved
