"""File descriptors: the limit is raised to what the system allows, and says how many endpoints fit under it."""

import resource
from dataclasses import dataclass
from typing import Final

__all__ = ["Descriptors", "raise_limit", "soft_limit"]

RESERVED: Final = 128
"""Descriptors that are not for endpoints: listeners, HTTP (64), log, lock, the loop's own, accepted but refused."""


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The process's descriptor limit (RLIMIT_NOFILE)."""

    before: int
    """Soft limit at start."""
    soft: int
    """Soft limit now: how many descriptors this process may have."""
    hard: int
    """Hard limit: what the soft one can be raised to."""

    def endpoints(self, wanted: int) -> int:
        """How many of ``wanted`` endpoints fit under the limit."""
        return max(0, min(wanted, self.soft - RESERVED))


def raise_limit() -> Descriptors:
    """Raise the soft limit to the hard one. Where the system refuses (some cap it below), the limit stays as it is."""
    before, hard = _limits()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS caps the soft limit below an unlimited hard one
        pass
    return Descriptors(before, *_limits())


def soft_limit() -> int:
    """How many descriptors this process may have now."""
    return _limits()[0]


def _limits() -> tuple[int, int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _count(soft), _count(hard)


def _count(limit: int) -> int:
    """``limit`` as a number that can be compared: "unlimited" is -1 in the system's terms."""
    return 2**31 - 1 if limit == resource.RLIM_INFINITY else limit
