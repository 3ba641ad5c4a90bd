"""What an earlier process left: its journal says what was asked, its tombstones what was done. The disk is believed."""

import logging
import time
from collections.abc import Callable, Sequence

import msgspec

from busd.components.deletion.area import Area
from busd.components.deletion.ground import GIVEN_UP, CannotBury
from busd.components.deletion.job import Job
from busd.components.deletion.manifest import Manifest, Option
from busd.components.deletion.progress import FINAL
from busd.components.deletion.record import Record
from busd.components.deletion.request import JobRequest
from busd.components.deletion.roots import NODE, Root, Roots
from busd.components.deletion.shown import shown
from busd.components.deletion.tombstone import Proof, Sync, Tombstone, nowhere
from busproto.errors import BusError, Code

__all__ = ["Quarantined", "recover"]

_log = logging.getLogger("busd.components.deletion")


class Quarantined(msgspec.Struct, frozen=True):
    """Something that lies where jobs keep what they delete, and is no job's.

    Attributes:
        root: id of the root; place: path below it; reason: why it is not believed.
    """

    root: str
    place: bytes
    reason: str


def recover(
    roots: Roots,
    records: Sequence[Record],
    *,
    local: bool,
    note: Callable[[Record], None] = lambda record: None,
    now: Callable[[], float] = time.time,
    sync: Sync = nowhere,
) -> tuple[list[Job], list[Quarantined]]:
    """The jobs that go on, and those that are over and remembered; and what is not touched.

    What was being ended or put back is ended or put back here. A second time does no harm.

    Args:
        records: from the journal, in any order.
        local: whether only the tombstones of processes like this one are taken, not the node's.
        note: writes down what a job has come to, before its tombstone, the only sign of it, is removed.
        now: seconds since 1970.
    """
    places = {root.id: root for root in roots.for_tenant(NODE)}
    jobs: dict[str, Job] = {}
    for record in sorted(records, key=lambda record: record.submitted):
        root = places.get(record.root)
        if root is None:
            _log.warning("deletion job %s waits: its root %s is not configured", record.job, record.root)
        else:
            jobs[record.job] = Job(record, root)
    quarantined: list[Quarantined] = []
    buried: set[str] = set()
    for root in places.values():
        for tombstone in _scan(root, sync):
            if tombstone.state == "quarantined":
                quarantined.append(Quarantined(root.id, tombstone.place, tombstone.reason))
                job = jobs.get(tombstone.job)
                if job is not None and job.root is root and job.record.tenant == tombstone.tenant:
                    _set_aside(job, tombstone)
                    buried.add(job.record.job)
                continue
            if local and tombstone.manifest.options.get("by") != "local":
                continue
            try:
                job = _match(jobs, root, tombstone, note, now())
            except BusError as error:
                _log.warning("what deletion job %s left stays: %s", tombstone.job, error.text)
                job = _stuck(jobs, root, tombstone, error)
                tombstone.close()
            if job is not None:
                jobs[job.record.job] = job
                buried.add(job.record.job)
            if not local:
                tombstone.close()
    for job in jobs.values():
        if job.record.job not in buried:
            _without(job)
    return list(jobs.values()), quarantined


def _scan(root: Root, sync: Sync) -> list[Tombstone]:
    found: list[Tombstone] = []
    try:
        tenants = Area.tenants(root)
    except CannotBury as error:
        _log.warning("what earlier jobs left in root %s cannot be looked at: %s", root.id, error.reason)
        return found
    for tenant in tenants:
        try:
            found += Area(root, tenant).scan(sync)
        except CannotBury as error:
            where = f"{root.id}, of tenant {tenant},"
            _log.warning("what earlier jobs left in root %s cannot be looked at: %s", where, error.reason)
    return found


def _match(
    jobs: dict[str, Job], root: Root, tombstone: Tombstone, note: Callable[[Record], None], now: float
) -> Job | None:
    """The job of ``tombstone``, brought to where it was; None if there is nothing to do. Raises BusError."""
    job = jobs.get(tombstone.job)
    if not tombstone.claim():
        if job is not None and not job.final:
            job.tombstone = tombstone
            job.record.state = "queued"  # its turn will tell whether it is still so
        return job
    manifest = tombstone.manifest
    known = job is not None
    if job is None:
        job = Job(_record(manifest), root)
    record = job.record
    state = tombstone.state
    if state == "not-begun":
        tombstone.discard()
        # If it is in the journal, it is a job without a tombstone; if not, nobody was told that it was taken.
        return None
    if not record.begun:  # what the journal has of a job that had begun is newer: its grace may have been ended
        record.until = manifest.until
    record.begun, record.mode = True, "tombstone"
    if state == "gone":
        record.state, record.code = "failed", int(Code.DELETION_CHANGED)
        record.reason = record.error = f"{shown(record.path)} was moved by somebody: {tombstone.reason}"
        note(record)
        tombstone.discard()
    elif state == "done":
        jobs[record.job] = job  # it is done, even if its tombstone cannot be removed now
        tombstone.finish(lambda proof: note(_done(record, proof)))
    elif state in {"restoring", "restored"}:
        jobs[record.job] = job
        record.recovered = tombstone.restore(lambda: note(_restored(record))) or record.recovered
    else:
        job.tombstone = tombstone
        record.name_free = True
        if record.until <= now and (record.state == "running" or not known):
            record.lost = True
        if record.state in {"running", "counting"} or record.state == "done":
            record.state = "queued"
    return job


def _stuck(jobs: dict[str, Job], root: Root, tombstone: Tombstone, error: BusError) -> Job:
    """The job of a tombstone that could not be brought to where it was: it has failed, and has it still."""
    job = jobs.get(tombstone.job) or Job(_record(tombstone.manifest), root)
    record = job.record
    if job.final and tombstone.state in {"done", "restored"}:
        return job  # only the empty tombstone is left, and the next start tries again
    job.tombstone = tombstone
    record.begun, record.mode = True, "tombstone"
    if record.state not in FINAL:
        record.state, record.code = "failed", int(error.code)
        record.reason = record.error = error.text
        record.name_free, record.left_at = True, tombstone.place
    return job


def _set_aside(job: Job, tombstone: Tombstone) -> None:
    """What was taken away for the job is not touched any more: it was given up, or is not believed."""
    record = job.record
    record.left_at = tombstone.place
    if record.state in FINAL:
        return
    record.begun, record.mode, record.name_free = True, "tombstone", True
    if tombstone.reason == GIVEN_UP:
        record.state = "cancelled"
        return
    record.state, record.code = "failed", int(Code.DELETION_CHANGED)
    record.reason = record.error = f"what was taken away of {shown(record.path)} is left alone: {tombstone.reason}"


def _restored(record: Record) -> Record:
    record.state, record.name_free, record.left_at, record.until = "cancelled", False, b"", 0.0
    return record


def _done(record: Record, proof: Proof) -> Record:
    if record.state != "done":
        record.state, record.proof, record.left_at = "done", proof, b""
        record.name_free = True
        record.directories += record.directory
        record.files += not record.directory
    return record


def _without(job: Job) -> None:
    """A job that has no tombstone."""
    record = job.record
    if record.state in FINAL:
        return
    if record.mode == "tombstone":
        record.state, record.code = "failed", int(Code.DELETION_CHANGED)
        record.reason = record.error = f"what was taken away of {shown(record.path)} is no longer where it was put"
    elif record.state in {"running", "counting"}:
        record.state = "queued"


def _record(manifest: Manifest) -> Record:
    """What a manifest tells of a job that is in no journal."""
    options = manifest.options
    request = JobRequest(
        root=manifest.root,
        path=manifest.path,
        count=options.get("count") is True,
        max_entries=_whole(options.get("max_entries")),
        max_bytes=_whole(options.get("max_bytes")),
        files_per_second=_number(options.get("files_per_second")),
        bytes_per_second=_number(options.get("bytes_per_second")),
    )
    return Record(
        job=manifest.job,
        tenant=manifest.tenant,
        request=request,
        root=manifest.root,
        path=manifest.path,
        device=manifest.device,
        inode=manifest.inode,
        directory=manifest.directory,
        submitted=_number(options.get("submitted")) or manifest.created,
    )


def _number(value: Option) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: Option) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
