"""What the journal keeps of one job: what was asked, where it stands, and what it has come to."""

import msgspec

from busd.components.deletion.filters import Filter
from busd.components.deletion.found import Found
from busd.components.deletion.plan import Plan
from busd.components.deletion.progress import Mode, State
from busd.components.deletion.request import JobRequest
from busd.components.deletion.tally import Failure, Stay
from busd.components.deletion.tombstone import Proof

__all__ = ["Record"]

_Path = bytes  # the struct has a field of that name


class Record(msgspec.Struct, kw_only=True):
    """One job. The attributes that `Progress` and `Report` have, too, mean what they mean there.

    Attributes:
        root, path, filter: what is to go: as the request says, or the plan that it names.
        device, inode, directory: what was found at the path when the job was submitted.
        begun: whether anything has been moved or removed.
        in_place: why it goes in place, though nobody asked for that.
        parks: times that it was parked since somebody last resumed it.
        files, directories, bytes: removed in all walks; the other counts are of the latest.
        lost: whether a crash cut a walk off: then more may be gone than is counted.
    """

    job: str
    tenant: str
    request: JobRequest
    root: str
    path: _Path
    filter: Filter | None = None
    state: State = "queued"
    mode: Mode = ""
    reason: str = ""
    device: int = 0
    inode: int = 0
    directory: bool = True
    begun: bool = False
    in_place: str = ""
    name_free: bool = False
    files: int = 0
    directories: int = 0
    bytes: int = 0
    lost: bool = False
    held: int = 0
    failed: dict[int, int] = {}
    parked: dict[str, int] = {}
    spared: dict[str, int] = {}
    failures: list[Failure] = []
    stays: list[Stay] = []
    found: Found | None = None
    plan: Plan | None = None
    proof: Proof | None = None
    recovered: _Path = b""
    left_at: _Path = b""
    code: int = 0
    error: str = ""
    submitted: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    until: float = 0.0
    next_try: float = 0.0
    attempts: int = 0
    parks: int = 0
