"""Metrics of the components that ship: each declares what it tells, and no counter falls with what it counted for."""

from typing import Any

from busd.components.cache.answers import CacheTotals
from busd.components.cache.cache import Cache
from busd.components.cache.metrics import METRICS as CACHE
from busd.components.cache.metrics import figures as cache_figures
from busd.components.deletion.metrics import KINDS, REASONS, figures
from busd.components.deletion.metrics import METRICS as DELETION
from busd.components.deletion.progress import Progress
from busd.components.deletion.statistics import Totals
from busd.components.model.metric import snapshot
from busd.components.telemetry.component import Telemetry


def test_what_telemetry_tells_is_what_it_declares() -> None:
    component = Telemetry()
    rows = snapshot(component.metrics, component.figures())
    assert [row["name"] for row in rows] == [metric.name for metric in component.metrics]
    assert [values for values, _ in rows[-1]["samples"]] == [["cpu"], ["memory"], ["disk"], ["network"], ["top"]]


def test_the_cache_s_counts_outlive_a_tenant_that_is_shredded() -> None:
    with Cache.generated(quiet=True) as cache:
        mine, other = cache.tenant("acme"), cache.tenant("other")
        mine.set(b"a", b"1")
        mine.get(b"a")
        mine.get(b"b")
        other.set(b"a", b"1")
        before = CacheTotals.of(2, [mine.statistics(), other.statistics()])
        figures = [mine.statistics()]
        assert cache.shred("acme")
        gone = CacheTotals.of(0, figures, gone=CacheTotals.of(0, []))
        after = CacheTotals.of(1, [other.statistics()], gone=gone)
        told = cache_figures(after, cache.settings)
    assert (after.hits, after.misses, after.sets) == (before.hits, before.misses, before.sets) == (1, 1, 2)
    assert (after.entries, after.tenants) == (1, 1)
    rows = {row["name"]: row["samples"] for row in snapshot(CACHE, told)}
    assert rows["hits_total"] == [[[], 1]]
    assert len(rows["evictions_total"]) == 3


def progress(job: str, state: Any, removed: int, **more: Any) -> Progress:
    return Progress(
        job=job, tenant="node", root="r", path=b"x", state=state, removed=removed, bytes=10 * removed, **more
    )


def told(totals: Totals, *jobs: Progress) -> dict[str, Any]:
    statistics = totals.statistics(jobs, roots=2, roots_gone=1, watched=0, calls=0)
    rows = snapshot(DELETION, figures(statistics, recording_failed=True))
    return {f"{row['name']}{''.join(values)}": figure for row in rows for values, figure in row["samples"]}


def test_what_jobs_remove_is_counted_while_they_go_on_and_once() -> None:
    totals = Totals()
    totals.found([progress("old", "queued", 500)])  # an earlier process has counted these
    assert told(totals, progress("old", "running", 500))["entries_removed_total"] == 0
    now = told(totals, progress("old", "running", 600), progress("new", "running", 7), progress("p", "parked", 0))
    assert (now["entries_removed_total"], now["bytes_freed_total"]) == (107, 1070)
    assert (now["jobsrunning"], now["jobsparked"], now["backlog"]) == (2, 1, 3)
    assert (now["roots"], now["roots_gone"], now["recording_failed"]) == (2, 1, 1)


def test_failures_have_a_kind_and_parked_entries_a_reason() -> None:
    jobs = progress("a", "failed", 0, failed={13: 2, 1: 1, 5: 4, 9999: 8}, parked={"busy": 3, "of old": 5})
    now = told(Totals(), jobs)
    assert (now["failed_entriespermission"], now["failed_entriesio"], now["failed_entriesother"]) == (3, 4, 8)
    assert now["parked_entriesbusy"] == 3
    assert {f"failed_entries{kind}" for kind in KINDS.values()} <= set(now)
    assert {f"parked_entries{reason}" for reason in REASONS} <= set(now)
