"""Metrics of components' own: what can be declared, what a status may say, and what becomes of counters."""

from itertools import product
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busd.components.model import Component, Figures, Manifest, Metric, Request
from busd.components.model.metric import HELP_CHARACTERS, LABELS, LARGEST, METRICS, SAMPLES, snapshot
from busd.components.supervisor.ownmetrics import LAST_WORDS, OwnMetrics, read_metrics
from tests.components.runner_support import Stage, staged

HITS = Metric("hits_total", "counter", "Hits.")
KEPT = Metric("kept", "gauge", "Kept, by kind.", {"kind": ("large", "small")})


# -- declared ---------------------------------------------------------------------------------------------------------


def test_every_value_of_a_closed_set_is_there_from_the_start() -> None:
    both = Metric("both", "gauge", "Both.", {"a": ("x", "y"), "b": ("1", "2")})
    rows = snapshot((HITS, KEPT, both), {})
    assert [row["samples"] for row in rows] == [
        [[[], 0]],
        [[["large"], 0], [["small"], 0]],
        [[list(pair), 0] for pair in product("xy", "12")],
    ]


def test_figures_are_told_by_name_and_label() -> None:
    both = Metric("both", "gauge", "Both.", {"a": ("x", "y"), "b": ("1", "2")})
    rows = snapshot((HITS, KEPT, both), {"hits_total": 3, "kept": {"small": 2.5}, "both": {("y", "1"): -1}})
    metrics, refused = read_metrics(rows)
    assert refused == 0
    assert metrics["hits_total"].samples == {(): 3}
    assert metrics["kept"].samples == {("large",): 0, ("small",): 2.5}
    assert metrics["both"].samples[("y", "1")] == -1
    assert metrics["kept"].help == "Kept, by kind."


@pytest.mark.parametrize(
    ("name", "kind", "help", "labels", "reason"),
    [
        ("Hits_total", "counter", "H.", {}, "lower-case words"),
        ("hits__total", "counter", "H.", {}, "lower-case words"),
        ("x" * 65, "gauge", "H.", {}, "lower-case words"),
        ("hits", "counter", "H.", {}, "does not end in _total"),
        ("hits_total", "gauge", "H.", {}, "ends in one of"),
        ("hits_count", "gauge", "H.", {}, "ends in one of"),
        ("hits_bucket_total", "counter", "H.", {}, "ends in one of"),
        ("total", "gauge", "H.", {}, "ends in one of"),
        ("hits", "histogram", "H.", {}, "neither a counter nor a gauge"),
        ("hits", "gauge", "", {}, "its help is not"),
        ("hits", "gauge", "a\nb", {}, "its help is not"),
        ("hits", "gauge", "x" * (HELP_CHARACTERS + 1), {}, "its help is not"),
        ("hits", "gauge", "H.", {"le": ("1",)}, "a name that it cannot have"),
        ("hits", "gauge", "H.", {"__x": ("1",)}, "a name that it cannot have"),
        ("hits", "gauge", "H.", {f"l{n}": ("1",) for n in range(LABELS + 1)}, "more than 3 labels"),
        ("hits", "gauge", "H.", {"a": ('"',)}, "a value that it cannot have"),
        ("hits", "gauge", "H.", {"a": ()}, "make none, or more than 64"),
        ("hits", "gauge", "H.", {"a": tuple(map(str, range(SAMPLES + 1)))}, "make none, or more than 64"),
    ],
)
def test_a_metric_that_cannot_be_shown_cannot_be_declared(
    name: str, kind: Any, help: str, labels: dict[str, tuple[str, ...]], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        Metric(name, kind, help, labels)


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({"misses_total": 1}, "there is no metric 'misses_total'"),
        ({"kept": {"huge": 1}}, "there is no 'huge'"),
        ({"kept": 1}, "there is no"),
        ({"hits_total": -1}, "-1 is no counter"),
        ({"hits_total": nan}, "nan is no counter"),
        ({"kept": {"small": inf}}, "inf is no gauge"),
        ({"kept": {"small": True}}, "True is no gauge"),
        ({"kept": {"small": "1"}}, "1 is no gauge"),
    ],
)
def test_figures_that_were_not_declared_are_refused(figures: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        snapshot((HITS, KEPT), figures)


class Counting(Component):
    """Counts what it is asked."""

    manifest = Manifest(component="counting", version="1", owner="tests", purpose="x", operations=(Request("ask"),))
    metrics = (HITS,)

    def __init__(self) -> None:
        self.hits = 0
        self.broken = False
        made.append(self)

    async def ask(self) -> int:
        """Ask."""
        self.hits += 1
        return self.hits

    def figures(self) -> Figures:
        """Of `metrics`."""
        if self.broken:
            raise OSError("gone")
        return {"hits_total": self.hits}


made: list[Counting] = []


@staged(Counting, standby=False)
async def test_a_runner_tells_them_in_its_status(it: Stage) -> None:
    assert (await it.operator.call("counting.ask")).payload == 1
    metrics, refused = read_metrics(it.runner.status().metrics)
    assert (metrics["hits_total"].samples, refused) == ({(): 1}, 0)


@staged(Counting, standby=False)
async def test_a_component_that_cannot_count_is_none_the_worse_for_it(it: Stage) -> None:
    made[-1].broken = True
    status = it.runner.status()
    assert (status.metrics, status.state, status.health.ok) == ([], "ready", True)
    assert (await it.operator.call("counting.ask")).payload == 1


# -- told in a status -------------------------------------------------------------------------------------------------


def told(name: Any = "hits_total", kind: Any = "counter", *samples: Any, **changes: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "help": "H.", "labels": [], "samples": list(samples) or [[[], 1]], **changes}


@pytest.mark.parametrize(
    "lie",
    [
        *(None, 1, "x", [], {}),
        told(name="x" * 100_000),
        told(name='x{a="b"} 1\ny'),
        told(name=5),
        told(kind="histogram"),
        told(kind=["counter"]),
        told(help="# HELP\nx 1"),
        told(help=None),
        told(labels="abc"),
        told(labels=[["a"]]),
        told(labels=["le"]),
        told(labels=["a"]),
        told(labels=["a", "a"], samples=[[["1", "1"], 1]]),
        told("hits_total", "counter", [[], nan]),
        told("hits_total", "counter", [[], inf]),
        told("hits_total", "counter", [[], -1]),
        told("hits_total", "counter", [[], 2 * LARGEST]),
        told("hits_total", "counter", [[], 1 << 2000]),
        told("hits_total", "counter", [[], True]),
        told("hits_total", "counter", [[], "1"]),
        told("hits_total", "counter", [[], 1], [[], 2]),
        told("hits_total", "counter", [1]),
        told("hits_total", "counter", 1),
        told("hits", "gauge", [[], -inf]),
        told(labels=["a"], samples=[[['x"} 1\n'], 1]]),
        told(labels=["a"], samples=[[["x" * 100], 1]]),
        told(labels=["a"], samples=[[[1], 1]]),
        told(labels=["a"], samples=[[[str(n)], 1] for n in range(SAMPLES + 1)]),
        told(samples={}),
    ],
)
def test_a_lie_is_left_out_and_counted_and_the_rest_is_taken(lie: Any) -> None:
    metrics, refused = read_metrics([told("before_total"), lie, told("after_total")])
    assert (sorted(metrics), refused) == (["after_total", "before_total"], 1)


@pytest.mark.parametrize(("all", "refused"), [(None, 0), ((), 0), ([], 0), ({"a": 1}, 1), (7, 1), ("x" * 100, 1)])
def test_what_is_no_list_has_no_metrics(all: Any, refused: int) -> None:
    assert read_metrics(all) == ({}, refused)


def test_more_metrics_than_may_be_are_counted_and_not_read() -> None:
    metrics, refused = read_metrics([told(f"m{n}_total") for n in range(10_000)])
    assert (len(metrics), refused) == (METRICS, 10_000 - METRICS)


def test_a_name_is_taken_once() -> None:
    metrics, refused = read_metrics([told(), told("hits_total", "counter", [[], 9])])
    assert (metrics["hits_total"].samples, refused) == ({(): 1}, 1)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("hits_total"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.fixed_dictionaries(
            {
                "name": st.just("a_total") | inner,
                "kind": st.just("counter") | inner,
                "help": st.just("H.") | inner,
                "labels": st.just([]) | inner,
                "samples": st.just([[[], 1]]) | inner,
            }
        )
    ),
    max_leaves=20,
)


@given(values)
def test_whatever_is_told_is_read_without_harm(value: Any) -> None:
    metrics, refused = read_metrics(value)
    assert len(metrics) <= METRICS
    assert refused >= 0
    for metric in metrics.values():
        assert len(metric.samples) <= SAMPLES
        assert all(abs(figure) <= LARGEST for figure in metric.samples.values())


# -- over all instances -----------------------------------------------------------------------------------------------


def hear(own: OwnMetrics, instance: str, hits: float, kept: float = 0) -> None:
    rows = snapshot((HITS, KEPT), {"hits_total": hits, "kept": {"small": kept}})
    own.hear(instance, *read_metrics(rows))


def shown(own: OwnMetrics, serving: str = "one") -> dict[str, float]:
    return {
        f"{metric.name}{''.join(labels)}": figure
        for metric in own.totals(serving)
        for labels, figure in metric.samples.items()
        if figure or not labels
    }


def test_counters_go_on_over_instances_and_gauges_are_of_the_one_that_serves() -> None:
    own = OwnMetrics()
    hear(own, "one", 5, kept=3)
    assert shown(own) == {"hits_total": 5, "keptsmall": 3}
    hear(own, "two", 0, kept=1)  # stands by
    assert shown(own) == {"hits_total": 5, "keptsmall": 3}
    own.leave("one")
    hear(own, "two", 2, kept=4)
    assert shown(own, "two") == {"hits_total": 7, "keptsmall": 4}
    own.leave("two")
    own.leave("two")
    assert shown(own, "") == {"hits_total": 7}


def test_a_counter_that_falls_has_begun_anew() -> None:
    own = OwnMetrics()
    for hits in (5, 9, 2, 4):
        hear(own, "one", hits)
    assert shown(own)["hits_total"] == 13


def test_a_status_without_metrics_loses_and_doubles_nothing() -> None:
    own = OwnMetrics()
    hear(own, "one", 5)
    own.hear("one", {}, 1)
    assert shown(own)["hits_total"] == 5
    hear(own, "one", 6)
    assert (shown(own)["hits_total"], own.refused) == (6, 1)


def test_an_instance_that_comes_back_goes_on_where_it_was() -> None:
    own = OwnMetrics()
    hear(own, "one", 5)
    own.leave("one")
    hear(own, "one", 6)
    assert shown(own)["hits_total"] == 6


def test_no_number_of_instances_loses_a_count() -> None:
    own = OwnMetrics()
    for number in range(10 * LAST_WORDS):
        hear(own, f"{number}", 1)
        own.leave(f"{number}")
    assert shown(own, "")["hits_total"] == 10 * LAST_WORDS


def test_a_metric_whose_form_changes_with_a_version_is_shown_as_whoever_serves_has_it() -> None:
    own = OwnMetrics()
    hear(own, "one", 5)
    own.leave("one")
    by_kind = Metric("hits_total", "counter", "Hits.", {"kind": ("a", "b")})
    own.hear("two", *read_metrics(snapshot((by_kind,), {"hits_total": {"a": 1}})))
    [metric] = own.totals("two")
    assert metric.samples == {("a",): 1, ("b",): 0}


def test_ever_new_names_and_values_are_bounded_and_no_counter_falls() -> None:
    own = OwnMetrics()
    highest: dict[tuple[str, ...], float] = {}
    for round in range(200):
        value = [[[f"v{round}"], 1]]
        rows = [told(f"m{round * METRICS + n}_total", labels=["v"], samples=value) for n in range(METRICS - 1)]
        rows.append(told("a_total", labels=["v"], samples=[[["v"], round % 3], [[f"v{round}"], 1]]))
        own.hear("one", *read_metrics(rows))
        totals = own.totals("one")
        assert len(totals) <= METRICS
        assert all(len(metric.samples) <= SAMPLES for metric in totals)
        samples = next(metric.samples for metric in totals if metric.name == "a_total")
        assert all(samples[values] >= figure for values, figure in highest.items())
        highest = dict(samples)
    assert highest["v",] >= 200 / 3
