"""Exit codes: what a script learns from ``$?``. One enum; every command's ``--help`` prints its part of it."""

from enum import IntEnum
from typing import Final


class Exit(IntEnum):
    """How a command ended. 3 to 7: outcomes of a call (schemas/README.md, "Call and serve"); 10 to 16: a deletion's;
    20 to 22: a cache's, which has 12 and 16, too.
    """

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_RESPONDERS = 3
    TIMEOUT = 4
    DENIED = 5
    OVERLOADED = 6
    UNKNOWN = 7
    NOT_CONNECTED = 8
    STAYS = 10
    PARKED = 11
    CANCELLED = 12
    REFUSED = 13
    CHANGED = 14
    LIMIT = 15
    NO_SUCH = 16
    MISSING = 20
    CONFLICT = 21
    TOO_LARGE = 22
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
    Exit.STAYS: "of a deletion: something could not be deleted and stays",
    Exit.PARKED: "of a deletion: something is in use; the node tries again",
    Exit.CANCELLED: "it was not agreed to; of a deletion also: it was cancelled",
    Exit.REFUSED: "of a deletion: the path is not one that may be deleted; nothing was touched",
    Exit.CHANGED: "of a deletion: what is there now is not what was looked at, and was not deleted",
    Exit.LIMIT: "of a deletion: there is more than the job or the root allows",
    Exit.NO_SUCH: "of a deletion: there is no such root or job; of a cache: no such tenant or key",
    Exit.MISSING: "of a cache: nothing is there under that name",
    Exit.CONFLICT: "of a cache: what is there is not as --add or --expect say; nothing was stored",
    Exit.TOO_LARGE: "of a cache: the name, the value or the whole entry is larger than the cache takes",
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
