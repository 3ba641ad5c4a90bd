"""How far a job is, and what it has come to."""

from typing import Final, Literal

import msgspec

from busd.components.deletion.found import Found
from busd.components.deletion.plan import Plan
from busd.components.deletion.request import JobRequest
from busd.components.deletion.tally import Failure, Stay
from busd.components.deletion.tombstone import Proof

__all__ = ["FINAL", "Mode", "Progress", "Report", "State"]

_Path = bytes  # Progress has a field of that name

State = Literal["queued", "counting", "running", "paused", "parked", "grace", "done", "cancelled", "failed"]
"""What a job is at.

queued: waits for its turn among its tenant's.
counting: looks how much there is, and removes nothing yet.
running: removes.
paused: by ``pause``; one with a rate of 0 is running, and says what holds it back.
parked: something keeps it from ending (a writer that goes on, a mount, an open file on a file server): tried again.
grace: its name is free, and it can be had back, until then.
done: all that was to go is gone. Of a dry run: the plan is made.
cancelled: ended by who asked; what is left is where the report says.
failed: ended with something left that trying again does not help; the report says what and why. ``resume`` tries again.
"""

Mode = Literal["", "tombstone", "in-place", "filter", "survey"]
"""How it goes; empty before that is known. "tombstone": renamed away first. "survey": a dry run."""

FINAL: Final[frozenset[State]] = frozenset({"done", "cancelled", "failed"})
"""What a job stays, unless it is resumed."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One job at one moment.

    Attributes:
        job: its id.
        tenant: who asked; "node" for this machine itself.
        root, path: what is to go.
        state, mode: see there.
        reason: why it is parked, failed, or in place; empty otherwise.
        name_free: whether its path is free for something new.
        seen, removed, files, directories, bytes, held, failed, parked, spared: as of `tally.Counts`, of all walks of
            this job; of a dry run, ``seen`` is what it has found. Only what failed or is parked at the latest walk
            counts as such.
        rate: entries removed (or found) in each second, of late.
        expected: entries there are in all, if they were counted.
        eta_seconds: until it is done at this rate, if they were.
        held_back_by: what throttles it now: "job: limit", "file system: canary", "tenant: paused"; or nothing.
        submitted, started, finished: seconds since 1970; 0 before that.
        until: end of the grace period; 0 without one.
        next_try: when a parked job is tried again; 0 otherwise.
        attempts: times it was begun.
    """

    job: str
    tenant: str
    root: str
    path: _Path
    state: State
    mode: Mode = ""
    reason: str = ""
    name_free: bool = False
    seen: int = 0
    removed: int = 0
    files: int = 0
    directories: int = 0
    bytes: int = 0
    held: int = 0
    failed: dict[int, int] = {}
    parked: dict[str, int] = {}
    spared: dict[str, int] = {}
    rate: float = 0.0
    expected: int | None = None
    eta_seconds: float | None = None
    held_back_by: str = ""
    submitted: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    until: float = 0.0
    next_try: float = 0.0
    attempts: int = 0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a job has come to so far; signed off once its state is final.

    Attributes:
        progress: where it stands.
        request: what was asked.
        proof: that the tree is gone; None if it is not, or nothing but a filter's choice was to go.
        failures: the first 100 for each errno; stays: the first 100 for each reason why something is parked or spared.
        plan: of a dry run.
        found: what there was, if it was counted; ``found.linked_bytes`` may stay on the disk under other names.
        recovered: name, in a tree that was put back, of the directory with what nobody knows the place of any more.
        left_at: where, below the root, what is left of a cancelled or failed job lies; empty if at its place, or gone.
        code, error: of what ended it: a number of schemas/errors.json and its text; 0 and empty if nothing did.
    """

    progress: Progress
    request: JobRequest
    proof: Proof | None = None
    failures: list[Failure] = []
    stays: list[Stay] = []
    plan: Plan | None = None
    found: Found | None = None
    recovered: _Path = b""
    left_at: _Path = b""
    code: int = 0
    error: str = ""
