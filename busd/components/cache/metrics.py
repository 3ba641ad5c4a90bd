"""The cache's own metrics, of all tenants together: none of them says whose anything is."""

from typing import Final

from busd.components.cache.answers import CacheTotals
from busd.components.cache.settings import CacheSettings
from busd.components.model import Figures, Metric

__all__ = ["METRICS", "figures"]

METRICS: Final = (
    Metric("hits_total", "counter", "Reads that found an entry, of all tenants together."),
    Metric("misses_total", "counter", "Reads that found none, or one that failed authentication."),
    Metric("sets_total", "counter", "Entries stored, also over others."),
    Metric(
        "evictions_total",
        "counter",
        "Entries taken out because bytes or entries of a quota were short, or their time was over.",
        {"cause": ("bytes", "entries", "expired")},
    ),
    Metric("entries", "gauge", "Entries held, also those that have expired and were not yet found."),
    Metric("bytes", "gauge", "Bytes that entries take, overhead included."),
    Metric("bytes_limit", "gauge", "Bytes of all quotas together, at most."),
    Metric("quota_bytes", "gauge", "Bytes of the quotas that were given out."),
    Metric("tenants", "gauge", "Tenants that have a share."),
    Metric("tenants_limit", "gauge", "Shares at once, at most."),
    Metric("unauthentic_total", "counter", "Records that failed authentication; each was a miss."),
    Metric("quarantines_total", "counter", "Data keys destroyed because too many of their records failed so."),
    Metric("audit_records_lost_total", "counter", "Audit records that were left out because there were too many."),
)


def figures(totals: CacheTotals, settings: CacheSettings) -> Figures:
    """The values of `METRICS`."""
    return {
        "hits_total": totals.hits,
        "misses_total": totals.misses,
        "sets_total": totals.sets,
        "evictions_total": {
            "bytes": totals.evicted_for_bytes,
            "entries": totals.evicted_for_entries,
            "expired": totals.expired,
        },
        "entries": totals.entries,
        "bytes": totals.bytes,
        "bytes_limit": settings.bytes_limit or 0,
        "quota_bytes": totals.promised,
        "tenants": totals.tenants,
        "tenants_limit": settings.tenants_limit,
        "unauthentic_total": totals.unauthentic,
        "quarantines_total": totals.quarantined,
        "audit_records_lost_total": totals.left_out,
    }
