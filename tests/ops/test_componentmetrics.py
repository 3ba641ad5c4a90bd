"""Metrics of components: every family from made figures, and what a component that says too much can cost."""

from dataclasses import replace

import pytest

from busd.components.supervisor.statistics import ComponentStatistics
from busd.ops.componentmetrics import COMPONENT_FAMILIES, OPERATIONS, OTHER, OWN_CODES
from tests.ops.fakes import NODE, component, operation
from tests.ops.test_metrics import Samples, scrape


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
