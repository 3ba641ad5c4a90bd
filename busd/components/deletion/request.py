"""What somebody asks a job to delete."""

from typing import Annotated

import msgspec

from busd.components.deletion.filters import Filter

__all__ = ["JobRequest"]

Rate = Annotated[float, msgspec.Meta(ge=0, le=1e15)]
Amount = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]


class JobRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One deletion, as it is submitted. Raises ValueError for fields that contradict each other.

    Attributes:
        root: id of the root.
        path: below the root; bytes, as the file system has them. With ``plan`` both may be left out.
        dry_run: look only; the report has a plan.
        plan: id of a dry run whose plan is to be carried out: of the same tree, and what it found. With it, all else
            that says what goes is left out.
        slack_percent: by how much the tree may have grown since the plan was made.
        filter: only what it lets go is removed, in place.
        count: count before removing, so that progress has an end. Costs one more walk.
        max_entries, max_bytes: the job removes nothing if there is more, and stops if more came.
        files_per_second, bytes_per_second: limits of this job. None: none of its own; 0: paused.
        grace_seconds: the name is free at once, and for so long the tree can be had back by ``undelete``.
        in_place: remove it where it is, without renaming it first. It cannot be had back then.
    """

    root: str = ""
    path: bytes = b""
    dry_run: bool = False
    plan: Annotated[str, msgspec.Meta(max_length=100)] = ""
    slack_percent: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    filter: Filter | None = None
    count: bool = False
    max_entries: Amount | None = None
    max_bytes: Amount | None = None
    files_per_second: Rate | None = None
    bytes_per_second: Rate | None = None
    grace_seconds: Annotated[float, msgspec.Meta(ge=0, le=31_622_400)] = 0.0
    in_place: bool = False

    def __post_init__(self) -> None:
        if self.plan and (self.root or self.path or self.filter is not None or self.dry_run):
            raise ValueError("plan: it says what is to go; root, path, filter and dry_run cannot be given with it")
        if not self.plan and not (self.root and self.path):
            raise ValueError("root and path: both are needed, or a plan")
        for name in ("files_per_second", "bytes_per_second", "grace_seconds", "slack_percent"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1e16:  # NaN is neither
                raise ValueError(f"{name}: {value} cannot be")
        for name in ("max_entries", "max_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value} is less than 1")
        if self.grace_seconds and (self.filter is not None or self.in_place):
            raise ValueError("grace_seconds: what is removed in place cannot be had back")
        if self.dry_run and self.grace_seconds:
            raise ValueError("grace_seconds: a dry run removes nothing")
