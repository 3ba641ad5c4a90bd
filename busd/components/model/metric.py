"""Metrics of a component's own: declared once with kind, help and label values, and read each second.

What is declared here is what /metrics shows as ``busd_COMPONENT_NAME``, so all of it is bounded: a component cannot
make series at will, and no label may be the name of a tenant, a file or a job.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any, Final, Literal

__all__ = [
    "HELP_CHARACTERS",
    "LABELS",
    "LARGEST",
    "METRICS",
    "SAMPLES",
    "Figures",
    "Metric",
    "check_metric",
    "snapshot",
]

METRICS: Final = 32
"""Metrics of one component: twice what the largest has."""

SAMPLES: Final = 64
"""Label sets of one metric: a closed set of causes or states, and not of names."""

LABELS: Final = 3
"""Labels of one metric."""

NAME_CHARACTERS: Final = 64
HELP_CHARACTERS: Final = 200
VALUE_CHARACTERS: Final = 64

LARGEST: Final = float(1 << 63)
"""Of a figure: far beyond any count, and sums of such stay finite."""

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_VALUE: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_TAKEN: Final = ("_total", "_count", "_sum", "_bucket", "_created", "_info")
"""Ends of names that mean something to Prometheus."""

_OWN_LABELS: Final = frozenset({"le", "quantile", "job", "instance", "component"})
"""Labels that Prometheus, or busd, sets."""

Kind = Literal["counter", "gauge"]

Figures = Mapping[str, float | Mapping[Any, float]]
"""Values by name of the metric. Of one with a label by the label's value, with several by a tuple; what is left out
is 0."""


def check_metric(name: str, kind: str, help: str, labels: tuple[str, ...]) -> str | None:
    """Why there can be no such metric; None if there can."""
    if len(name) > NAME_CHARACTERS or _NAME.fullmatch(name) is None:
        return "its name is not made of lower-case words and digits joined by _"
    if kind not in ("counter", "gauge"):
        return "it is neither a counter nor a gauge"
    if kind == "counter":
        if not name.endswith("_total"):
            return "it is a counter, and its name does not end in _total"
        name = name.removesuffix("_total")
    if name.endswith(_TAKEN) or name in {end[1:] for end in _TAKEN}:
        return f"its name ends in one of {', '.join(_TAKEN)}"
    if not help.isprintable() or not 0 < len(help) <= HELP_CHARACTERS:
        return f"its help is not 1 to {HELP_CHARACTERS} printable characters"
    if len(labels) > LABELS or len(set(labels)) != len(labels):
        return f"it has more than {LABELS} labels, or one of them twice"
    for label in labels:
        if len(label) > NAME_CHARACTERS or _NAME.fullmatch(label) is None or label in _OWN_LABELS:
            return "one of its labels has a name that it cannot have"
    return None


def is_value(value: object) -> bool:
    """Whether ``value`` can be that of a label."""
    return isinstance(value, str) and len(value) <= VALUE_CHARACTERS and _VALUE.fullmatch(value) is not None


def is_figure(figure: object, kind: str) -> bool:
    """Whether ``figure`` can be one of a metric of ``kind``: a number within bounds, and no counter is negative."""
    if isinstance(figure, bool) or not isinstance(figure, (int, float)):
        return False
    return (-LARGEST if kind == "gauge" else 0) <= figure <= LARGEST


@dataclass(frozen=True)
class Metric:
    """One metric of a component's own.

    Attributes:
        name: as it is shown after ``busd_COMPONENT_``; a counter's ends in ``_total``.
        kind: counter, which only grows while the component lives, or gauge.
        help: what it counts, with its unit.
        labels: label names, and all values that each can have. Every combination is shown from the start.

    Raises ValueError for one that cannot be shown.
    """

    name: str
    kind: Kind
    help: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        reason = check_metric(self.name, self.kind, self.help, tuple(self.labels))
        if reason is None and not all(is_value(value) for values in self.labels.values() for value in values):
            reason = "one of its labels has a value that it cannot have"
        if reason is None and not 0 < prod(len(set(values)) for values in self.labels.values()) <= SAMPLES:
            reason = f"its labels make none, or more than {SAMPLES} combinations"
        if reason is not None:
            raise ValueError(f"metric {self.name[:80]!a}: {reason}")

    def row(self, figures: Any) -> dict[str, Any]:
        """The metric with ``figures``, as plain values for a status. Raises ValueError for what is none of it."""
        samples: dict[tuple[str, ...], Any] = dict.fromkeys(product(*self.labels.values()), 0)
        given = figures if isinstance(figures, Mapping) else {(): figures}
        for values, figure in given.items():
            values = values if isinstance(values, tuple) else (str(values),)
            if values not in samples:
                raise ValueError(f"metric {self.name}: there is no {', '.join(map(str, values))[:80]!a}")
            if not is_figure(figure, self.kind):
                raise ValueError(f"metric {self.name}: {str(figure)[:80]} is no {self.kind}")
            samples[values] = figure
        return {
            "name": self.name,
            "kind": self.kind,
            "help": self.help,
            "labels": list(self.labels),
            "samples": [[list(values), figure] for values, figure in samples.items()],
        }


def snapshot(metrics: tuple[Metric, ...], figures: Figures) -> list[dict[str, Any]]:
    """All ``metrics`` with their ``figures``, as plain values. Raises ValueError for figures that are none of them."""
    if len(metrics) > METRICS:
        raise ValueError(f"there are {len(metrics)} metrics, more than {METRICS}")
    if unknown := set(figures) - {metric.name for metric in metrics}:
        raise ValueError(f"there is no metric {min(map(str, unknown))[:80]!a}")
    return [metric.row(figures.get(metric.name, {} if metric.labels else 0)) for metric in metrics]
