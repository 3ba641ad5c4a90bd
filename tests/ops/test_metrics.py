"""Metrics: every family rendered from made figures and read back by Prometheus' own parser."""

import asyncio
import os
import re
import resource
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import ProcessCollector
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from busd.core.account import Rates
from busd.core.principal import BOUNDARIES
from busd.core.reasons import Departure, Drop
from busd.core.statistics import BoundaryStatistics
from busd.edge.admission import Refusal
from busd.edge.tcpconnections import Cut
from busd.ops.componentmetrics import COMPONENT_FAMILIES
from busd.ops.keys import KEYS
from busd.ops.metrics import DOMAINS, FAMILIES, LISTENING, TAKEN, Metrics
from busd.ops.processmetrics import list_descriptors
from busd.ops.status import NodeStatistics, State
from busd.ops.tenantmetrics import TENANT_FAMILIES, tenant_metrics
from busproto.envelope import OUTCOMES
from busproto.errors import ENTRIES
from tests.core.peer import World
from tests.ops.fakes import BUS, HTTP, NODE, TENANT, FakeNode, component
from tests.support import ROOT

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def rendered(metrics: Metrics, accept: str = "") -> tuple[str, str]:
    """The page and its content type."""
    page, content_type = asyncio.run(metrics.render(accept))
    return page.decode(), content_type


def scrape(figures: NodeStatistics = NODE, accept: str = "", metrics: Metrics | None = None) -> Samples:
    node = FakeNode()
    node.figures = figures
    page, _ = rendered(metrics or Metrics(node, lambda: HTTP), accept)
    parse = parse_openmetrics if accept else parse_text
    samples: Samples = {}
    names = set()
    for family in parse(page):
        assert family.name not in names, family.name
        names.add(family.name)
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in samples, key
            samples[key] = sample.value
    return samples


def ours(samples: Samples) -> Samples:
    return {key: value for key, value in samples.items() if key[0].startswith("busd_")}


def with_tenants(*tenants: str) -> NodeStatistics:
    return replace(NODE, bus=replace(BUS, tenants=dict.fromkeys(tenants, TENANT)))


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_every_figure_arrives_under_its_name(accept: str) -> None:
    samples = scrape(with_tenants("acme", "idle"), accept)

    def value(name: str, **labels: str) -> float:
        return samples[name, tuple(sorted(labels.items()))]

    assert value("busd_build_info", version="9.9.9", protocol="1", python="3.11.0", loop="uvloop", libzmq="4.3.5") == 1
    assert value("busd_ready") == 1
    assert value("busd_uptime_seconds") == 12.5
    assert value("busd_endpoints", boundary="host") == 7
    assert value("busd_endpoints_limit") == 16384
    assert value("busd_subscriptions", boundary="host") == 9
    assert value("busd_subscriptions", boundary="soc") == 0
    assert value("busd_services", boundary="guest") == 1
    assert value("busd_calls_in_flight") == 4
    assert value("busd_monitors") == 2
    assert value("busd_held_calls") == 6
    assert value("busd_queued_messages", boundary="guest") == 3
    assert value("busd_queued_bytes", boundary="host") == 500
    assert value("busd_messages_received_total", boundary="host") == 1000
    assert value("busd_received_bytes_total", boundary="host") == 20000
    assert value("busd_messages_delivered_total", boundary="soc") == 1
    assert value("busd_delivered_bytes_total", boundary="host") == 60000
    assert value("busd_messages_dropped_total", boundary="guest", reason="outbox-bytes") == 13
    assert value("busd_endpoint_departures_total", boundary="host", reason="bye") == 17
    assert value("busd_calls_total", outcome="reply") == 19
    assert value("busd_refusals_total", reason="subject-invalid") == 23
    assert value("busd_quota_rejections_total", resource="subscriptions") == 29
    assert value("busd_skipped_envelopes_total") == 31
    assert value("busd_route_cache_entries") == 37
    assert value("busd_route_cache_misses_total") == 41
    assert value("busd_connections_accepted_total", boundary="host") == 43
    assert value("busd_connections_refused_total", boundary="host", reason="user") == 47
    assert value("busd_connections_handshaking", boundary="host") == 1
    assert value("busd_held_bytes", boundary="host") == 53
    assert value("busd_audit_records_total") == 223
    assert value("busd_audit_queued_records") == 227
    assert value("busd_audit_records_lost_total") == 229
    assert value("busd_audit_failing") == 1
    assert value("busd_audit_bytes_total") == 239
    assert value("busd_audit_failures_total") == 233
    assert value("busd_units", boundary="guest") == 59
    assert value("busd_units", boundary="soc") == 61
    assert value("busd_accounts") == 67
    assert value("busd_accounts_throttled", rate="calls") == 97
    assert value("busd_accounts_throttled", rate="loop") == 0
    assert value("busd_resource_used", resource="calls", holder="node") == 71
    assert value("busd_resource_used", resource="calls", holder="others") == 73
    assert value("busd_resource_limit", resource="queued_bytes") == 1 << 30
    assert value("busd_denials_total", boundary="guest", verb="subscribe") == 80
    assert value("busd_denials_total", boundary="soc", verb="delegate") == 0
    assert value("busd_withdrawn_rights_total") == 89
    assert value("busd_policy_rules") == 101
    assert value("busd_policy_exports") == 103
    assert value("busd_policy_errors") == 107
    assert value("busd_policy_reloads_total", result="ok") == 109
    assert value("busd_policy_reloads_total", result="failed") == 113
    assert value("busd_policy_last_reload_successful") == 1
    assert value("busd_policy_last_reload_success_timestamp_seconds") == 1.7e9
    assert value("busd_http_connections") == 367
    assert value("busd_http_connections_limit") == 373
    assert value("busd_http_requests_total") == 379
    assert value("busd_http_refused_total", reason="host") == 383
    assert value("busd_http_refused_total", reason="site") == 389
    assert value("busd_http_refused_total", reason="evicted") == 397
    assert value("busd_http_refused_total", reason="viewer") == 401
    assert value("busd_http_viewers") == 409
    assert value("busd_components_supervised") == 1
    assert value("busd_tenant_resource_used", tenant="acme", resource="calls") == 281
    assert value("busd_tenant_resource_limit", tenant="acme", resource="queued_bytes") == 307
    assert value("busd_tenant_resource_limit", tenant="idle", resource="services") == 0
    assert value("busd_tenant_messages_received_total", tenant="acme") == 311
    assert value("busd_tenant_received_bytes_total", tenant="acme") == 313
    assert value("busd_tenant_messages_delivered_total", tenant="acme") == 317
    assert value("busd_tenant_delivered_bytes_total", tenant="acme") == 331
    assert value("busd_tenant_messages_dropped_total", tenant="acme") == 337
    assert value("busd_tenant_denials_total", tenant="idle") == 347
    assert value("busd_soc_listening") == 1
    assert value("busd_soc_handshakes_failed_total") == 139
    assert value("busd_soc_keys_asked_total") == 179
    assert value("busd_soc_keys_denied_total") == 181
    assert value("busd_soc_questions_malformed_total") == 191
    assert value("busd_soc_lease_expiries_total") == 163
    assert value("busd_soc_discarded_messages_total") == 167
    assert value("busd_soc_late_wakeups_total") == 173
    assert value("busd_call_duration_seconds_bucket", le="2e-05") == 0
    assert value("busd_call_duration_seconds_bucket", le="5e-05") == 1
    assert value("busd_call_duration_seconds_bucket", le="0.0005") == 3
    assert value("busd_call_duration_seconds_bucket", le="60.0") == 3
    assert value("busd_call_duration_seconds_bucket", le="+Inf") == 4
    assert value("busd_call_duration_seconds_count") == 4
    assert value("busd_call_duration_seconds_sum") == pytest.approx(100.00083)
    assert value("busd_route_duration_seconds_bucket", le="2e-05") == 1
    assert value("busd_route_duration_seconds_bucket", le="5e-05") == 2
    assert value("busd_route_duration_seconds_count") == 2
    assert value("busd_loop_lag_seconds_count") == 2


def test_nothing_but_the_table_is_there() -> None:
    names = {re.sub("_(bucket|count|sum)$", "", name) for name, _ in ours(scrape(with_tenants("acme")))}
    own = {f"busd_telemetry_{metric.name}" for metric in component().metrics}
    families = (*FAMILIES, *COMPONENT_FAMILIES, *TENANT_FAMILIES)
    assert names == {family.name for family in families} | own | {"busd_build_info"}
    assert names - own == TAKEN


def test_every_label_value_is_of_a_closed_set_and_there_from_the_start() -> None:
    blank: dict[str, Any] = {item.name: {} for item in fields(BUS) if isinstance(getattr(BUS, item.name), dict)}
    empty = replace(BUS, **blank)
    for bus in (BUS, empty):
        samples = ours(scrape(replace(NODE, bus=bus)))
        for family in FAMILIES:
            found = [dict(labels) for name, labels in samples if name == family.name]
            expected = 1
            for label, domain in family.labels.items():
                assert {each[label] for each in found} == set(DOMAINS[domain]), family.name
                expected *= len(DOMAINS[domain])
            if family.kind != "histogram":
                assert len(found) == expected, family.name


def test_the_closed_sets_are_the_enums() -> None:
    assert DOMAINS["boundary"] == BOUNDARIES
    assert set(DOMAINS["drop"]) == {str(each) for each in Drop}
    assert set(DOMAINS["departure"]) == {str(each) for each in Departure}
    assert set(DOMAINS["refusal"]) == {str(each) for each in (*Refusal, *Cut)} | {"unproven"}
    assert set(DOMAINS["outcome"]) == set(OUTCOMES.values())
    sources = "".join(path.read_text() for path in (ROOT / "busd" / "core").glob("*.py"))
    told = set(re.findall(r'(?:quotas\.check\(\s*|exceeded\()"(\w+)"', sources))
    shared = set(World().bus.ledgers)
    assert set(DOMAINS["resource"]) == told | {f"node_{resource}" for resource in shared}
    assert set(DOMAINS["shared"]) == shared == set(World().statistics().limits)
    assert set(DOMAINS["rate"]) == {item.name for item in fields(Rates)} == set(World().bus.throttled(0.0))
    assert set(DOMAINS["verb"]) == set(World().statistics().denials)
    assert set(DOMAINS["error"]) <= {entry.name for entry in ENTRIES.values()}


def test_every_figure_of_the_bus_is_a_metric() -> None:
    class Watched:
        def __init__(self) -> None:
            self.read: set[str] = set()

        def __getattr__(self, name: str) -> Any:
            self.read.add(name)
            return getattr(BUS, name)

    watched = Watched()
    for family in FAMILIES:
        family.read(replace(NODE, bus=watched))  # type: ignore[arg-type]
    for _ in tenant_metrics(watched.tenants):
        pass
    told_by_boundary = {"subscriptions", "services", "queued_messages", "queued_bytes", "denials"}
    assert watched.read | told_by_boundary == {item.name for item in fields(BUS)}
    told = {item.name for item in fields(BoundaryStatistics)} - {"handshaking", "held_bytes"}  # as the edge knows them
    for field in told:
        assert [family for family in FAMILIES if family.name == f"busd_{field}"], field


def test_every_figure_of_a_tenant_is_a_metric() -> None:
    samples = scrape(with_tenants("acme"))
    shown = {int(value) for (name, labels), value in samples.items() if ("tenant", "acme") in labels}
    told = {figure for item in fields(TENANT) for figure in _leaves(getattr(TENANT, item.name))}
    assert told <= shown


def _leaves(figure: Any) -> list[int]:
    return list(figure.values()) if isinstance(figure, dict) else [figure]


def test_no_tenant_is_a_label_unless_it_was_named() -> None:
    assert not [name for name, labels in scrape() if "tenant" in dict(labels) or "_tenant_" in name]


def test_what_a_node_does_not_have_has_no_samples() -> None:
    """Else an alert on a listener that is closed would ring on every node that never had one."""
    assert not [name for name, _ in scrape(replace(NODE, soc=None)) if "_soc_" in name]
    closed = replace(NODE.soc, state="zap handler is dead")  # type: ignore[type-var]
    assert scrape(replace(NODE, soc=closed))["busd_soc_listening", ()] == 0
    assert f'_state = "{LISTENING}"' in (ROOT / "busd" / "edge" / "curve.py").read_text()


def test_a_page_has_a_bounded_number_of_series() -> None:
    assert len(scrape(replace(NODE, components={}))) < 400
    one, two = (len(scrape(with_tenants(*names))) for names in (("a",), ("a", "b")))
    assert two - one == 18
    assert "18 series" in KEYS["metrics.tenants"].why


@pytest.mark.parametrize("state", [state for state in State if state != State.READY])
def test_ready_is_one_only_when_it_is(state: State) -> None:
    assert scrape(replace(NODE, state=state))["busd_ready", ()] == 0


def test_every_metric_says_what_it_is_and_none_when_it_was_made() -> None:
    node = FakeNode()
    node.figures = with_tenants("acme")
    page, _ = rendered(Metrics(node, lambda: HTTP))
    assert "_created" not in page
    for family in (*FAMILIES, *COMPONENT_FAMILIES, *TENANT_FAMILIES):
        assert f"# HELP {family.name} {family.help}\n" in page
        assert f"# TYPE {family.name} {family.kind}\n" in page
        assert family.help.endswith(".")


def test_names_follow_the_conventions() -> None:
    for family in (*FAMILIES, *COMPONENT_FAMILIES, *TENANT_FAMILIES):
        assert re.fullmatch(r"busd(_[a-z]+)+", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter"), family.name
        if family.kind == "histogram":
            assert family.name.endswith("_seconds")


def test_figures_are_read_when_scraped_and_only_then() -> None:
    node = FakeNode()
    metrics = Metrics(node)
    assert node.scrapes == 0
    rendered(metrics)
    node.set(uptime_seconds=99.0)
    page, content_type = rendered(metrics)
    assert node.scrapes == 2
    assert "busd_uptime_seconds 99.0" in page
    assert content_type.startswith("text/plain; version=0.0.4")


def test_two_nodes_in_one_process_do_not_share_a_registry() -> None:
    first, second = Metrics(FakeNode()), Metrics(FakeNode())
    assert rendered(first)[0].count("# TYPE busd_ready") == rendered(second)[0].count("# TYPE busd_ready") == 1


def test_the_process_s_own_figures_are_those_that_prometheus_client_has() -> None:
    own = {key: value for key, value in scrape().items() if key[0].startswith("process_")}
    library = {
        (sample.name, ()): sample.value
        for metric in ProcessCollector(registry=None).collect()
        for sample in metric.samples
    }
    assert own.keys() == library.keys()
    for key, value in library.items():
        assert own[key] == pytest.approx(value, rel=0.2, abs=4), key


def test_a_process_without_descriptors_says_so() -> None:
    """The figure that matters then must not be lost with those that would take one more to read."""
    node, soft, hard = FakeNode(), *resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main() -> str:
        metrics = Metrics(node)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            page, _ = await metrics.render()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return page.decode()

    page = asyncio.run(main())
    assert "process_max_fds 3.0" in page
    assert "busd_ready 1.0" in page


def test_descriptors_are_counted_alike_by_any_linux(tmp_path: Path) -> None:
    with ExitStack() as files:
        for _ in range(300):
            files.enter_context((tmp_path / "file").open("w"))
        listed = asyncio.run(list_descriptors())
        assert listed > 300
        here = len(os.listdir("/proc/self/fd")) - 1
        assert here <= listed <= here + 4  # a loop has some of its own
