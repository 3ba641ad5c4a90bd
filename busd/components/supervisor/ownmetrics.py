"""Metrics of components' own, as their statuses tell them: bounded, and over all instances that there were."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from busd.components.model.metric import METRICS, SAMPLES, check_metric, is_figure, is_value

__all__ = ["LAST_WORDS", "Metrics", "OwnMetric", "OwnMetrics", "read_metrics"]


@dataclass(frozen=True, slots=True)
class OwnMetric:
    """One metric and its samples."""

    name: str
    """Without the component's name; a counter's ends in ``_total``."""
    kind: str
    """``counter`` or ``gauge``."""
    help: str
    labels: tuple[str, ...]
    samples: Mapping[tuple[str, ...], float]
    """By the values of the labels."""

    @property
    def form(self) -> tuple[str, tuple[str, ...]]:
        """What must be the same for samples of two of them to be added up."""
        return self.kind, self.labels


Metrics = dict[str, OwnMetric]
"""By name."""

LAST_WORDS: Final = 4
"""Instances that left and may still be heard of: a status and the end of its sender come by different ways."""


def read_metrics(told: Any) -> tuple[Metrics, int]:
    """The metrics in a status that are fit to be shown, and how many are not. Raises nothing, whatever ``told`` is.

    What a component says of itself may be anything, and must not cost more than a few thousand series.
    """
    if not isinstance(told, list):
        return {}, int(bool(told))
    taken: Metrics = {}
    refused = max(0, len(told) - METRICS)
    for each in told[:METRICS]:
        metric = _read(each)
        if metric is None or metric.name in taken:
            refused += 1
        else:
            taken[metric.name] = metric
    return taken, refused


def _read(told: Any) -> OwnMetric | None:
    if not isinstance(told, dict):
        return None
    name, kind, help = told.get("name"), told.get("kind"), told.get("help")
    labels, samples = told.get("labels"), told.get("samples")
    if not (isinstance(name, str) and isinstance(kind, str) and isinstance(help, str)):
        return None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        return None
    if not isinstance(samples, list) or len(samples) > SAMPLES or check_metric(name, kind, help, tuple(labels)):
        return None
    figures: dict[tuple[str, ...], float] = {}
    for sample in samples:
        if not isinstance(sample, list) or len(sample) != 2:
            return None
        values, figure = sample
        if not isinstance(values, list) or len(values) != len(labels) or not all(map(is_value, values)):
            return None
        if not is_figure(figure, kind) or tuple(values) in figures:
            return None
        figures[tuple(values)] = figure
    return OwnMetric(name, kind, help, tuple(labels), figures)


class OwnMetrics:
    """The metrics of one component over all its instances: its counters never fall, whoever counts."""

    __slots__ = ("_before", "_current", "_left", "refused")

    def __init__(self) -> None:
        self._before: Metrics = {}
        """Counters of the instances that are over."""
        self._current: dict[str, Metrics] = {}
        """By instance."""
        self._left: dict[str, Metrics] = {}
        """Of those that left last: one may come back, and goes on counting."""
        self.refused = 0
        """Metrics that were not taken."""

    def hear(self, instance: str, metrics: Metrics, refused: int) -> None:
        """``instance`` tells ``metrics``, and ``refused`` more. A counter that has fallen has begun anew."""
        self.refused += refused
        last = self._current.get(instance) or self._left.pop(instance, {})
        metrics = dict(metrics)
        for name, before in last.items():
            if before.kind != "counter":
                continue
            now = metrics.get(name)
            if now is None:
                if len(metrics) < METRICS:
                    metrics[name] = before  # it could not be read this time
            elif any(now.samples.get(values, 0) < figure for values, figure in before.samples.items()):
                self._keep(before)
        self._current[instance] = metrics

    def leave(self, instance: str) -> None:
        """``instance`` is over; what it counted stays."""
        last = self._current.pop(instance, None)
        if last is not None:
            self._left[instance] = last
        while len(self._left) > LAST_WORDS:
            for metric in self._left.pop(next(iter(self._left))).values():
                self._keep(metric)

    def totals(self, serving: str) -> tuple[OwnMetric, ...]:
        """Every metric, by name: counters of all instances, gauges of the one that is ``serving``."""
        now = self._current.get(serving, {})
        found = dict(self._before)
        for metrics in (*self._left.values(), *self._current.values()):
            for name, metric in metrics.items():
                if metric.kind == "counter":
                    found[name] = _added(found.get(name), metric)
        found |= {name: metric for name, metric in now.items() if metric.kind == "gauge"}
        # A metric whose form has changed with a version is shown as whoever serves has it.
        found |= {name: metric for name, metric in now.items() if found[name].form != metric.form}
        return tuple(found[name] for name in [*now, *sorted(found.keys() - now.keys())][:METRICS])

    def _keep(self, metric: OwnMetric) -> None:
        name = metric.name
        if metric.kind == "counter" and (name in self._before or len(self._before) < METRICS):
            self._before[name] = _added(self._before.get(name), metric)


def _added(one: OwnMetric | None, other: OwnMetric) -> OwnMetric:
    """The counter ``other`` with what ``one`` has counted, if that has the same form."""
    if one is None or one.form != other.form:
        return other
    samples = dict(one.samples)
    for values, figure in other.samples.items():
        if values in samples or len(samples) < SAMPLES:
            samples[values] = samples.get(values, 0) + figure
    return replace(other, samples=samples)
