"""How a walk goes: sizes, patience, and what it may change."""

from dataclasses import dataclass

__all__ = ["WalkOptions"]


@dataclass(frozen=True, slots=True)
class WalkOptions:
    """How a walk goes.

    Attributes:
        batch: files removed for one question at the gate.
        listing: names read before removing begins; so many, and not fewer, are put into the order of their inodes.
        depth: below so many levels directories are renamed up, if there is a place for them.
        rescans: how often a directory that is not empty after all is listed again before it is parked as "busy".
        backoff: seconds before the second rescan; doubled for each further one.
        chmod: whether a directory that denies its owner is given mode 0700; what stays gets its mode back.
        measure: whether bytes are counted: costs one stat for each file.
        newcomers: how many entries that are made during the walk it follows. If there are more, directories that are
            new are parked as "busy", and so are those in which most is new: else who makes them faster than they are
            removed would keep it for ever.
    """

    batch: int = 256
    listing: int = 10_000
    depth: int = 8
    rescans: int = 5
    backoff: float = 0.05
    chmod: bool = False
    measure: bool = False
    newcomers: int = 100_000
