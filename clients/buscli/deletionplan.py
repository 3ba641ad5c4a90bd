"""What a dry run has found, told to whoever has to agree to it; and the question."""

from typing import Any, Final

from buscli.deletionpath import text_of
from buscli.deletionvalues import shown_size
from buscli.deletionwords import count, entries, errors, moment, reasons

__all__ = ["plan_lines", "question"]

SHOWN: Final = 5
"""Mounts that are named."""


def plan_lines(plan: Any) -> list[str]:
    """What a plan says, in words."""
    found = plan.found
    kinds = [
        count(found.files, "file"),
        count(found.directories, "directory", "directories"),
        *([count(found.links, "link")] if found.links else []),
        *([count(found.others, "other thing")] if found.others else []),
    ]
    below = " below it" if plan.directory else ""
    lines = [f"{entries(found.entries)}{below}: {', '.join(kinds)}; {shown_size(_size(found))} on the disk"]
    if found.linked:
        size = shown_size(found.linked_bytes)
        lines.append(f"{count(found.linked, 'name')} of files that have others, too: {size} more if those go as well")
    if found.oldest is not None and found.newest is not None:
        lines.append(f"written between {moment(found.oldest)} and {moment(found.newest)}")
    if found.mounts:
        named = [text_of(path) for path in found.mount_paths[:SHOWN]]
        more = ", ..." if found.mounts > len(named) else ""
        there = "something is mounted" if found.mounts == 1 else f"{found.mounts:,} things are mounted"
        lines.append(f"{there} below it and would stay: {', '.join(named)}{more}")
    if found.spared:
        lines.append(f"would stay as the filter says: {reasons(found.spared)}")
    if found.unreadable:
        lines.append(f"could not be looked into: {errors(found.unreadable)}")
    if plan.filter is not None and not found.entries:
        lines.append("the filter lets nothing go")
    return lines


def question(plan: Any, where: str) -> str:
    """What is asked before anything is deleted."""
    # The directory goes, too, unless a filter chooses; what is below it does not count it.
    number = plan.entries + (plan.directory and plan.filter is None)
    return f"Delete {entries(number)} ({shown_size(_size(plan.found))}) in {where}? [y/N] "


def _size(found: Any) -> int:
    return int(found.bytes + found.directory_bytes)
