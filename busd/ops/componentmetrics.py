"""Prometheus metrics of the components that the node keeps running.

Their labels are the only names in the metrics that come from configuration: a component is one that an operator named,
and its operations are those of its manifest. Both are bounded here all the same, because a runner says of itself which
operations it has.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from math import isfinite
from typing import Final, Literal, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from busd.ops.page import PIECE_SAMPLES
from busd.ops.status import ComponentStatistics, OperationStatistics, OwnMetric
from busproto.errors import ENTRIES
from busproto.subjects import check_name

__all__ = [
    "COMPONENT_FAMILIES",
    "OPERATIONS",
    "OTHER",
    "OWN_CODES",
    "ComponentFamily",
    "component_metrics",
    "own_metrics",
]

OPERATIONS: Final = 64
"""Operations of one component that have series of their own: ten times what a component has."""

OWN_CODES: Final = 32
"""Numbers of errors of one component's own (10000 and above) that have series of their own."""

OTHER: Final = "other"
"""Label value for what has no series of its own: operations and codes beyond these."""

HOME: Final = "host"
"""Where a component is that runs nowhere: it would be started there."""

REFUSED: Final = "busd_component_metrics_refused_total"

READY: Final = "ready"
"""State of a component that serves."""

Sample = tuple[tuple[str, ...], float]
"""Values of the labels, and the figure."""

_OWN_CODE: Final = re.compile(r"[1-9][0-9]{4,8}")

_CODES: Final = frozenset(str(int(code)) for code in ENTRIES)


class ComponentFamily(NamedTuple):
    """One metric of every component."""

    name: str
    """As it is scraped, with the ``_total`` of a counter."""
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    """What it counts, with its unit."""
    labels: tuple[str, ...]
    """Names of its labels; the first is ``component``."""
    read: Callable[[ComponentStatistics], Iterable[Sample]]
    """Its samples of one component, without the label ``component``. A histogram has its own way."""


def _one(read: Callable[[ComponentStatistics], float]) -> Callable[[ComponentStatistics], Iterable[Sample]]:
    return lambda component: [((), read(component))]


def _each(read: Callable[[OperationStatistics], float]) -> Callable[[ComponentStatistics], Iterable[Sample]]:
    return lambda component: _summed(
        ((name,), read(operation)) for name, operation in _operations(component.operations)
    )


def _errors(component: ComponentStatistics) -> Iterable[Sample]:
    """One operation after the other: all of them may be thousands."""
    own: dict[str, str] = {}
    others: list[Sample] = []
    for name, operation in _operations(component.operations):
        samples: list[Sample] = []
        for code, count in operation.errors.items():
            label = str(code)
            if label not in _CODES:
                is_code = len(own) < OWN_CODES and _OWN_CODE.fullmatch(label) is not None
                label = own.setdefault(label, label if is_code else OTHER)
            samples.append(((name, label), count))
        if name == OTHER:
            others += samples
        else:
            yield from _summed(samples)
    yield from _summed(others)


COMPONENT_FAMILIES: Final = (
    ComponentFamily(
        "busd_component_up",
        "gauge",
        "1 while the component serves, by the boundary where it does.",
        ("component", "placement"),
        lambda c: [((c.placement.partition(":")[0] or HOME,), float(c.state == READY))],
    ),
    ComponentFamily(
        "busd_component_healthy",
        "gauge",
        "1 while the component says that it is well.",
        ("component",),
        _one(lambda c: float(c.healthy)),
    ),
    ComponentFamily(
        "busd_component_restarts_total",
        "counter",
        "Times that the component was started again because it had ended.",
        ("component",),
        _one(lambda c: c.restarts),
    ),
    ComponentFamily(
        "busd_component_cut_off_total",
        "counter",
        "Times that the component was cut off: it hung, was not what it said, or was over its budget.",
        ("component",),
        _one(lambda c: c.cut_off),
    ),
    ComponentFamily(
        "busd_component_memory_bytes",
        "gauge",
        "Resident memory of the component's process.",
        ("component",),
        _one(lambda c: c.memory_bytes),
    ),
    ComponentFamily(
        "busd_component_memory_limit_bytes",
        "gauge",
        "Memory that the component may use: its budget; 0 while that is not known.",
        ("component",),
        _one(lambda c: c.budget_memory_bytes),
    ),
    ComponentFamily(
        "busd_component_cpu_percent",
        "gauge",
        "What the component's process takes of one core, in per cent over the last 10 s.",
        ("component",),
        _one(lambda c: c.cpu_percent),
    ),
    ComponentFamily(
        "busd_component_cpu_limit_percent",
        "gauge",
        "Per cent of one core that it may take over 10 s: its budget; 0 while that is not known.",
        ("component",),
        _one(lambda c: c.budget_cpu_percent),
    ),
    ComponentFamily(
        "busd_component_calls_total",
        "counter",
        "Calls of the component's operations, refused ones and those in flight included.",
        ("component", "operation"),
        _each(lambda o: o.calls),
    ),
    ComponentFamily(
        "busd_component_errors_total",
        "counter",
        "Calls of the component's operations that ended with an error, by its number (bus errors lists them).",
        ("component", "operation", "code"),
        _errors,
    ),
    ComponentFamily(
        "busd_component_calls_in_flight",
        "gauge",
        "Calls that the component works on.",
        ("component", "operation"),
        _each(lambda o: o.in_flight),
    ),
    ComponentFamily(
        "busd_component_call_seconds",
        "histogram",
        "Seconds that the component worked on a call.",
        ("component", "operation"),
        lambda c: (),
    ),
    ComponentFamily(
        REFUSED,
        "counter",
        "Metrics of the component's own that were not taken: ill-formed, too many, or another's name.",
        ("component",),
        _one(lambda c: c.metrics_refused),
    ),
)


def component_metrics(components: Iterable[ComponentStatistics], clashes: Mapping[str, int]) -> Iterator[Metric]:
    """Every family with the samples of all ``components``; nothing if there are none. A long one comes in pieces.

    ``clashes`` are metrics of their own that had another's name, by component.
    """
    components = list(components)
    if not components:
        return
    for family in COMPONENT_FAMILIES:
        if family.kind == "histogram":
            for component in components:
                yield from _histogram(family, component)
        else:
            yield from _pieces(
                family.name, family.kind, family.help, family.labels, _samples(family, components, clashes)
            )


def own_metrics(
    components: Iterable[ComponentStatistics], taken: Iterable[str], clashes: MutableMapping[str, int]
) -> Iterator[Metric]:
    """Metrics of the components' own, as ``busd_COMPONENT_NAME``; made one after the other, in pieces.

    A name that is in ``taken``, or another component's, is left out, and counted in ``clashes`` before this returns:
    two components have one name in metrics if theirs differ by - and _ only.
    """
    there = {_stem(name) for name in taken}
    found: list[tuple[str, OwnMetric]] = []
    for component in components:
        for own in component.metrics:
            name = f"busd_{component.name.replace('-', '_')}_{own.name}"
            if _stem(name) in there:
                clashes[component.name] = clashes.get(component.name, 0) + 1
                continue
            there.add(_stem(name))
            found.append((name, own))
    return (
        piece for name, own in found for piece in _pieces(name, own.kind, own.help, own.labels, own.samples.items())
    )


def _samples(
    family: ComponentFamily, components: Iterable[ComponentStatistics], clashes: Mapping[str, int]
) -> Iterator[Sample]:
    for component in components:
        clashed = clashes.get(component.name, 0) if family.name == REFUSED else 0
        for labels, figure in family.read(component):
            yield (component.name, *labels), figure + clashed


def _pieces(
    name: str, kind: str, help: str, labels: Sequence[str], samples: Iterable[Sample]
) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
    """One metric, in pieces that do not take long to make and to write."""
    make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
    metric = make(name, help, labels=list(labels))
    for values, figure in samples:
        if len(metric.samples) == PIECE_SAMPLES:
            yield metric
            metric = make(name, help, labels=list(labels))
        metric.add_metric(list(values), figure)
    yield metric


def _stem(name: str) -> str:
    """What OpenMetrics knows a metric by."""
    return name.removesuffix("_total")


def _histogram(family: ComponentFamily, component: ComponentStatistics) -> Iterator[Metric]:
    metric = HistogramMetricFamily(family.name, family.help, labels=list(family.labels))
    merged: dict[str, list[OperationStatistics]] = {}
    for name, operation in _operations(component.operations):
        merged.setdefault(name, []).append(operation)
    for name, parts in merged.items():
        if len(metric.samples) >= PIECE_SAMPLES:
            yield metric
            metric = HistogramMetricFamily(family.name, family.help, labels=list(family.labels))
        below: dict[float, float] = {}
        for part in parts:
            for bound, number in part.buckets:
                below[bound] = below.get(bound, 0) + number
        finite = sorted((bound, number) for bound, number in below.items() if isfinite(bound))
        buckets = [(repr(float(bound)), number) for bound, number in finite]
        buckets.append(("+Inf", sum(part.count for part in parts)))
        metric.add_metric([component.name, name], buckets=buckets, sum_value=sum(part.seconds for part in parts))
    yield metric


def _operations(operations: Mapping[str, OperationStatistics]) -> Iterator[tuple[str, OperationStatistics]]:
    """Each operation under the label that it has."""
    for place, (name, figures) in enumerate(operations.items()):
        yield (name if place < OPERATIONS and check_name(name) is None else OTHER), figures


def _summed(samples: Iterable[Sample]) -> Iterable[Sample]:
    """Samples of one label set added up: two of them in one page are an error."""
    sums: dict[tuple[str, ...], float] = {}
    for labels, figure in samples:
        sums[labels] = sums.get(labels, 0) + figure
    return sums.items()
