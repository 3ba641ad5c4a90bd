"""The terminal's foreground: who gets Ctrl-C."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["foreground"]

IGNORED: Final = (signal.SIGTTOU, signal.SIGTTIN, signal.SIGTSTP)
"""The first two would stop a process that reaches for the terminal. Ctrl-Z would stop us alone: ``make``, which waits
for us, would not know, and nobody would be left to continue us."""


@contextmanager
def foreground() -> Iterator[None]:
    """Make this process a group of its own, and that the terminal's foreground group, as a shell does with a job.

    Ctrl-C on a terminal goes to the whole foreground group. ``make`` is in it and dies of it, with status 130 and an
    error that is none. Nothing is done without a terminal, in the background, or by a process that leads its group.
    """
    terminal = _open_terminal()
    if terminal is None:
        yield
        return
    group = os.getpgrp()
    try:
        if group == os.getpid() or os.tcgetpgrp(terminal) != group:
            yield
            return
        before = [signal.signal(number, signal.SIG_IGN) for number in IGNORED]
        os.setpgid(0, 0)
        os.tcsetpgrp(terminal, os.getpgrp())
        try:
            yield
        finally:
            try:
                os.tcsetpgrp(terminal, group)
                os.setpgid(0, group)
            except OSError:  # whoever started us is gone, and its group with it
                pass
            for number, handler in zip(IGNORED, before, strict=True):
                signal.signal(number, handler)
    finally:
        os.close(terminal)


def _open_terminal() -> int | None:
    """A descriptor of the controlling terminal; None if there is none."""
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
