"""Metrics of components: every family from made figures, and what a component that says too much can cost."""

import re
from dataclasses import replace

import pytest

from busd.components.supervisor.ownmetrics import OwnMetric
from busd.components.supervisor.statistics import ComponentStatistics
from busd.ops.componentmetrics import COMPONENT_FAMILIES, OPERATIONS, OTHER, OWN_CODES
from busd.ops.metrics import Metrics
from tests.ops.fakes import NODE, FakeNode, component, operation
from tests.ops.test_metrics import Samples, rendered, scrape


def scraped(*components: ComponentStatistics) -> Samples:
    samples = scrape(replace(NODE, components={each.name: each for each in components}))
    return {key: value for key, value in samples.items() if key[0].startswith("busd_component_")}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"busd_component_{name}", tuple(sorted(labels.items()))]


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_every_figure_arrives_under_its_name(accept: str) -> None:
    samples = scrape(accept=accept)
    of = {"component": "telemetry"}
    assert value(samples, "up", **of, placement="host") == 1
    assert value(samples, "healthy", **of) == 1
    assert value(samples, "memory_limit_bytes", **of) == 512 << 20
    assert value(samples, "cpu_limit_percent", **of) == 100
    assert value(samples, "metrics_refused_total", **of) == 359
    assert value(samples, "restarts_total", **of) == 241
    assert value(samples, "cut_off_total", **of) == 251
    assert value(samples, "memory_bytes", **of) == 257 << 20
    assert value(samples, "cpu_percent", **of) == 2.63
    of["operation"] = "processes"
    assert value(samples, "calls_total", **of) == 269
    assert value(samples, "errors_total", **of, code="2008") == 271
    assert value(samples, "calls_in_flight", **of) == 2
    assert value(samples, "call_seconds_bucket", **of, le="0.0001") == 1
    assert value(samples, "call_seconds_bucket", **of, le="0.001") == 2
    assert value(samples, "call_seconds_bucket", **of, le="+Inf") == 2
    assert value(samples, "call_seconds_count", **of) == 2
    assert value(samples, "call_seconds_sum", **of) == pytest.approx(0.00043)


def test_a_node_without_components_has_no_such_metric() -> None:
    assert scraped() == {}


@pytest.mark.parametrize("state", ["starting", "failed", "stopped", "draining"])
def test_a_component_is_up_only_while_it_serves(state: str) -> None:
    assert value(scraped(component(state=state)), "up", component="telemetry", placement="host") == 0


def test_the_unit_of_a_placement_is_no_label_and_a_component_that_moves_has_one_series() -> None:
    samples = scraped(component(placement="guest:vm-42"), component("cache", placement="soc"))
    assert {labels for name, labels in samples if name == "busd_component_up"} == {
        (("component", "telemetry"), ("placement", "guest")),
        (("component", "cache"), ("placement", "soc")),
    }


def test_each_label_is_one_that_the_table_names() -> None:
    names = {family.name: {*family.labels} for family in COMPONENT_FAMILIES}
    for name, labels in scraped(component()):
        family = next(each for each in names if name.startswith(each))
        assert {label for label, _ in labels} - {"le"} == names[family]


def test_a_component_that_names_a_million_operations_makes_few_series() -> None:
    many = {f"operation_{number}": operation(1, 0.5, in_flight=1) for number in range(OPERATIONS + 100)}
    samples = scraped(component(operations=many))
    for name, last in (("calls_total", 100), ("calls_in_flight", 100), ("call_seconds_count", 100)):
        assert len([each for each, _ in samples if each == f"busd_component_{name}"]) == OPERATIONS + 1
        assert value(samples, name, component="telemetry", operation=OTHER) == last
    assert value(samples, "call_seconds_bucket", component="telemetry", operation=OTHER, le="1.0") == 100


def test_what_cannot_be_the_name_of_an_operation_is_no_label() -> None:
    samples = scraped(component(operations={"x" * 5000: operation(3), "a b": operation(4)}))
    assert value(samples, "calls_total", component="telemetry", operation=OTHER) == 7


def test_errors_of_its_own_have_series_as_far_as_they_are_few() -> None:
    errors = {"2008": 1, "x" * 5000: 1, **{str(10_000 + number): 1 for number in range(OWN_CODES + 50)}}
    samples = scraped(component(operations={"get": operation(0, errors=errors)}))
    of = {"component": "telemetry", "operation": "get"}
    assert value(samples, "errors_total", **of, code="10000") == 1
    assert value(samples, "errors_total", **of, code="2008") == 1
    assert value(samples, "errors_total", **of, code=OTHER) == 52
    assert len([name for name, _ in samples if name == "busd_component_errors_total"]) == OWN_CODES + 1


# -- metrics of their own ---------------------------------------------------------------------------------------------


def gauge(name: str, figure: float = 1) -> OwnMetric:
    return OwnMetric(name, "gauge", "Made.", (), {(): figure})


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_a_component_s_own_metrics_arrive_under_its_name(accept: str) -> None:
    samples = scrape(accept=accept)
    assert samples["busd_telemetry_samples_total", ()] == 349
    assert samples["busd_telemetry_unreadable_total", (("figure", "cpu"),)] == 353
    assert samples["busd_telemetry_unreadable_total", (("figure", "disk"),)] == 0


def test_a_dash_in_a_component_s_name_is_an_underscore() -> None:
    assert scrape_all(component("my-cache", metrics=(gauge("entries", 7),)))["busd_my_cache_entries", ()] == 7


def scrape_all(*components: ComponentStatistics) -> Samples:
    return scrape(replace(NODE, components={each.name: each for each in components}))


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("loop", "lag_seconds"),
        ("route", "duration_seconds"),
        ("component", "up"),
        ("tenant", "resource_used"),
        ("build", "info_x"),
        ("messages", "received"),  # OpenMetrics knows a counter without its _total
    ],
)
def test_no_component_can_take_the_place_of_a_metric_of_the_node(name: str, own: str, accept: str) -> None:
    """The page is read back by Prometheus' own parser: a name that is there twice would make all of it unreadable."""
    metrics = Metrics(FakeNode())
    there = replace(NODE, components={name: component(name, metrics=(gauge(own, -1),), metrics_refused=1)})
    node = FakeNode()
    node.figures = there
    metrics = Metrics(node)
    clashes = own != "info_x"
    for number in (1, 2):
        samples = scrape(there, accept, metrics)
        assert (samples.get((f"busd_{name}_{own}", ())) == -1) == (not clashes)
        refused = samples["busd_component_metrics_refused_total", (("component", name),)]
        assert refused == (1 + number if clashes else 1)


def test_of_two_components_with_one_name_in_metrics_the_first_is_shown_and_the_other_counted() -> None:
    samples = scrape_all(
        component("a-b", metrics=(gauge("x", 1),), metrics_refused=0),
        component("a_b", metrics=(gauge("x", 2),), metrics_refused=0),
    )
    assert samples["busd_a_b_x", ()] == 1
    refused = {dict(labels)["component"]: n for (name, labels), n in samples.items() if "metrics_refused" in name}
    assert refused == {"a-b": 0, "a_b": 1}


def test_a_page_of_many_components_is_one_page() -> None:
    """It is written in pieces: each family has one heading, and no sample is lost."""
    many = {f"operation_{number}": operation(1, 0.5) for number in range(OPERATIONS)}
    figures = replace(NODE, components={f"c{n}": component(f"c{n}", operations=many) for n in range(8)})
    node = FakeNode()
    node.figures = figures
    page, _ = rendered(Metrics(node))
    headings = re.findall(r"(?m)^# TYPE (\S+) ", page)
    assert len(headings) == len(set(headings))
    samples = scrape(figures)
    assert len([name for name, _ in samples if name == "busd_component_calls_total"]) == 8 * OPERATIONS
    assert len([name for name, _ in samples if name == "busd_component_call_seconds_bucket"]) == 8 * OPERATIONS * 4
