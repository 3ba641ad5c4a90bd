"""Prometheus metrics of the tenants that an operator has named in ``metrics.tenants``, and of no others."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from busd.core.quotas import SHARED
from busd.core.statistics import TenantStatistics

__all__ = ["TENANT_FAMILIES", "TenantFamily", "tenant_metrics"]


class TenantFamily(NamedTuple):
    """One metric of every tenant that is named."""

    name: str
    """As it is scraped, with the ``_total`` of a counter."""
    kind: Literal["counter", "gauge"]
    help: str
    """What it counts, with its unit."""
    labels: tuple[str, ...]
    """``tenant``, and ``resource`` where the value is by that."""
    read: Callable[[TenantStatistics], int | Mapping[str, int]]
    """Its value, or its values by resource."""


_ONE: Final = ("tenant",)
_EACH: Final = ("tenant", "resource")

TENANT_FAMILIES: Final = (
    TenantFamily(
        "busd_tenant_resource_used", "gauge", "What the tenant uses of each resource that all share.", _EACH,
        lambda t: t.used,
    ),
    TenantFamily(
        "busd_tenant_resource_limit", "gauge",
        "The most that the tenant may have of it at this moment, what it uses included.", _EACH,
        lambda t: t.limits,
    ),
    TenantFamily(
        "busd_tenant_messages_received_total", "counter", "Envelopes that the tenant sent.", _ONE,
        lambda t: t.received_messages,
    ),
    TenantFamily(
        "busd_tenant_received_bytes_total", "counter", "Bytes of the frames that it sent.", _ONE,
        lambda t: t.received_bytes,
    ),
    TenantFamily(
        "busd_tenant_messages_delivered_total", "counter", "Envelopes handed to the transport for the tenant.", _ONE,
        lambda t: t.delivered_messages,
    ),
    TenantFamily(
        "busd_tenant_delivered_bytes_total", "counter", "Bytes handed to the transport for it.", _ONE,
        lambda t: t.delivered_bytes,
    ),
    TenantFamily(
        "busd_tenant_messages_dropped_total", "counter", "Messages that the tenant lost, for whatever reason.", _ONE,
        lambda t: t.dropped_messages,
    ),
    TenantFamily(
        "busd_tenant_denials_total", "counter", "Requests of the tenant that policy did not allow.", _ONE,
        lambda t: t.denials,
    ),
)  # fmt: skip


def tenant_metrics(tenants: Mapping[str, TenantStatistics]) -> Iterator[Metric]:
    """Every family with the samples of all ``tenants``; nothing if there are none."""
    if not tenants:
        return
    for family in TENANT_FAMILIES:
        make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        metric = make(family.name, family.help, labels=list(family.labels))
        for tenant, statistics in tenants.items():
            figures = family.read(statistics)
            if isinstance(figures, Mapping):
                for resource in SHARED:
                    metric.add_metric([tenant, resource], figures.get(resource, 0))
            else:
                metric.add_metric([tenant], figures)
        yield metric
