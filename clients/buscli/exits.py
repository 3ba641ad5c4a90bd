"""Exit codes: what a script learns from ``$?``. One enum; every command's ``--help`` prints its part of it."""

from enum import IntEnum
from typing import Final


class Exit(IntEnum):
    """How a command ended. 3 to 7 are outcomes of a call (schemas/README.md, "Call and serve")."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_RESPONDERS = 3
    TIMEOUT = 4
    DENIED = 5
    OVERLOADED = 6
    UNKNOWN = 7
    NOT_CONNECTED = 8
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


MEANINGS: Final[dict[int, str]] = {
    Exit.OK: "done",
    Exit.FAILED: "any failure without a code of its own; of a call: the responder's error reply",
    Exit.USAGE: "the command line, a subject or a body is not valid; nothing was sent",
    Exit.NO_RESPONDERS: "nobody serves the subject",
    Exit.TIMEOUT: "not within --timeout",
    Exit.DENIED: "policy forbids it",
    Exit.OVERLOADED: "a quota is used up: wait and try again",
    Exit.UNKNOWN: "the responder left while it held the call: the work may have been done",
    Exit.NOT_CONNECTED: "no bus at that address, or the connection was lost",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
    Exit.BROKEN_PIPE: "the reader of the output went away (as tools ended by SIGPIPE)",
    Exit.TERMINATED: "ended by SIGTERM",
}
"""What each code means, for ``--help``, ``bus help --json`` and the README."""


class Health(IntEnum):
    """How ``bus check`` ends: the plug-in convention of Nagios, which other monitors read too."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3
