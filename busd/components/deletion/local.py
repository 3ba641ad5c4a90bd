"""Deletion in the caller's own process, with the caller's own rights: what shutil.rmtree is called for."""

import os
import threading
from pathlib import Path
from typing import Final

from busd.components.deletion.filters import Filter
from busd.components.deletion.jobs import Jobs
from busd.components.deletion.progress import Report
from busd.components.deletion.request import JobRequest
from busd.components.deletion.roots import NODE, Roots, RootSettings
from busproto.errors import BusError, Code

__all__ = ["LOCAL", "Unfinished", "remove_tree"]

LOCAL: Final = "local"
"""Id of the root, which is the directory that the path lies in."""


class Unfinished(BusError):  # noqa: N818 - it says what became of it
    """Something stays. ``report`` says what, why and where; the next removal in the same directory tries again."""

    def __init__(self, report: Report) -> None:
        self.report = report
        progress = report.progress
        try:
            code = Code(report.code)
        except ValueError:
            code = Code.DELETION_FAILED
        super().__init__(code, path=os.fsdecode(progress.path), reason=progress.reason or report.error)


def remove_tree(
    path: str | bytes | os.PathLike[str],
    *,
    filter: Filter | None = None,
    files_per_second: float | None = None,
    bytes_per_second: float | None = None,
    max_entries: int | None = None,
    max_bytes: int | None = None,
    in_place: bool = False,
    workers: int = 2,
    adaptive: bool = True,
    timeout: float | None = None,
) -> Report:
    """Remove what is at ``path``, a tree or anything else, and return what was done. Blocks until that is done.

    Its name is free at once, as it is first renamed into ``.busd-tombstones`` beside it. A link is removed itself. What
    earlier calls in the same directory left, because their process was killed, is removed, too.

    Args:
        path: its directory is reached as the system does, through links; from there on none is followed.
        filter: remove only what it lets go, in place.
        files_per_second, bytes_per_second: limits; None: none.
        max_entries, max_bytes: nothing is removed if there is more.
        in_place: do not rename it first.
        workers: threads.
        adaptive: whether it is slowed down when others wait for the same disk.
        timeout: seconds; when they are over it stops at the end of a batch.

    Raises:
        BusError: 9002, it is protected, or there is nothing; 9003, it was replaced meanwhile; 9004, there is more than
            may be; 9008, the system failed.
        Unfinished: something of it stays (9008), or the time was over.
    """
    whole = os.path.abspath(os.fsencode(path))
    parent, name = os.path.split(whole)
    if not name:
        raise BusError(Code.DELETION_REFUSED, path=os.fsdecode(whole), reason="it is the root of the file system")
    settings = RootSettings(id=LOCAL, path=Path(os.fsdecode(os.path.realpath(parent))), personal=True)
    request = JobRequest(
        root=LOCAL,
        path=name,
        filter=filter,
        files_per_second=files_per_second,
        bytes_per_second=bytes_per_second,
        max_entries=max_entries,
        max_bytes=max_bytes,
        in_place=in_place,
    )
    with Roots.open([settings]) as roots, Jobs(roots, local=True, workers=workers, adaptive=adaptive) as jobs:
        job = jobs.submit(NODE, request).job
        # What earlier calls left goes on beside it, and is waited for, or it would never end.
        jobs.join(threading.TIMEOUT_MAX if timeout is None else timeout)
        report = jobs.report(NODE, job)
    if report.progress.state != "done":
        raise Unfinished(report)
    return report
