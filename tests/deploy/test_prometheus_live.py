"""A real Prometheus scrapes a real node, with what deploy/ ships: no query and no rule fails, and traffic is seen.

On the way there as well: through the proxy with certificates, and by an agent that writes.
"""

import asyncio
import os
import re
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

import busclient
from tests.clients.cli_support import Cli
from tests.deploy.certificates import certificate
from tests.deploy.monitoring import (
    ALERTS,
    DASHBOARD,
    PROMETHEUS,
    QUERIES,
    RECORDED,
    Prometheus,
    filled,
    metrics,
    prometheus,
)
from tests.ops.processes import Daemon, daemon
from tests.pages import page, rows
from tests.support import environment, needs, wait_until

TENANT = "acme"

MOVED = {
    *("busd_messages_received_total", "busd_received_bytes_total"),
    *("busd_messages_delivered_total", "busd_delivered_bytes_total"),
    *("busd_calls_total", "busd_denials_total", "busd_connections_accepted_total", "busd_audit_records_total"),
    *("busd_component_calls_total", "busd_http_requests_total", "busd_route_cache_misses_total"),
    *("busd_cache_hits_total", "busd_cache_misses_total", "busd_cache_sets_total"),
    *("busd_deletion_entries_removed_total", "busd_deletion_jobs_submitted_total", "busd_deletion_jobs_ended_total"),
    *("busd_telemetry_samples_total", "busd_telemetry_messages_published_total"),
    *("busd_tenant_messages_received_total", "busd_tenant_denials_total", "process_cpu_seconds_total"),
}
"""Counters that grow by what the tests do."""


class Running(NamedTuple):
    """A node with all that ships, a guest of a tenant, and a listener for cards."""

    daemon: Daemon
    bus: Cli
    guest: str
    """Where the guest attaches."""
    root: Path
    """Below it may be deleted."""

    @property
    def address(self) -> str:
        """Host and port of its pages."""
        address: str = self.daemon.started["http"]
        return address.removeprefix("http://")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("node")
    components, root = home / "components.d", home / "root"
    components.mkdir(mode=0o755)
    root.mkdir()
    (components / "cache.toml").write_text("[config.key]\ngenerate = true\n")
    (components / "deletion.toml").write_text(
        f'[config]\nstate = "{home / "state"}"\n[[config.roots]]\nid = "scratch"\npath = "{root}"\n'
    )
    (components / "telemetry.toml").write_text("[config]\ninterval = 0.5\n")
    flags = ["--components", "telemetry,deletion,cache", "--component-dir", str(components)]
    flags += ["--soc-listen", "127.0.0.1:0", "--soc-keys-dir", str(home / "keys"), "--metrics-tenants", TENANT]
    with daemon(home / "run", *flags) as running:
        bus = Cli(running.started["socket"])
        fields = f'{{"name": "vm-1", "tenant": "{TENANT}", "socket": "{home}/v", "any_process": true}}'
        assert bus("call", "$bus.admin.guest.add", fields).returncode == 0
        for name in ("telemetry", "deletion", "cache"):
            wait_until(lambda: _is_ready(bus, name), what=name)  # noqa: B023 -- waited for here
        assert bus("call", "cache.get", "{}").returncode != 0  # an error has no series before the first
        wait_until(lambda: "busd_component_errors_total{" in running.get("/metrics")[1], what="the error")
        yield Running(running, bus, f"unix://{home}/v_5670", root)


def _is_ready(bus: Cli, name: str) -> bool:
    return any(row["component"] == name and row["state"] == "ready" for row in bus.records("component", "list"))


def config_of(name: str, **places: str) -> str:
    """A configuration of deploy/prometheus, with other places in it."""
    text = (PROMETHEUS / name).read_text()
    for old, new in places.items():
        old = {"node": "localhost:9850", "tls": "/etc/prometheus/tls", "central": "prometheus.example:9090"}[old]
        assert old in text
        text = text.replace(old, new)
    return text


def is_scraped(server: Prometheus) -> bool:
    return bool(server.query("busd_ready")) and all(each["health"] == "up" for each in server.targets())


@pytest.fixture(scope="module")
def server(node: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus as prometheus.yml has it, and some traffic since its first scrape."""
    with prometheus(config_of("prometheus.yml", node=node.address), tmp_path_factory.mktemp("p")) as running:
        wait_until(lambda: is_scraped(running), what="a scrape")
        asyncio.run(_traffic(node))
        (node.root / "old").mkdir()
        (node.root / "old" / "file").write_text("x")
        assert node.bus("delete", str(node.root / "old"), "--yes").returncode == 0
        assert node.bus("cache", "set", "greeting", "hello").returncode == 0
        assert node.bus("cache", "get", "greeting").returncode == 0
        assert node.bus("cache", "get", "absent").returncode != 0
        wait_until(lambda: not (_still(running)), what="traffic")
        yield running


def _still(server: Prometheus) -> list[str]:
    """Of the counters that tests move, those that Prometheus has not seen move."""
    return [name for name in sorted(MOVED) if not any(v > 0 for v in server.values(f"increase({name}[2m])"))]


async def _traffic(node: Running) -> None:
    async def echo(call: busclient.Call) -> object:
        return call.payload

    url = node.daemon.started["socket"]
    async with (
        busclient.connect(url, component="test", owner="t", purpose="t") as bus,
        bus.subscribe("demo.>") as listening,
        bus.serve("demo.echo", echo),
    ):
        for number in range(200):
            await bus.publish("demo.tick", number)
            await bus.call("demo.echo", number, timeout=10)
        assert (await anext(aiter(listening))).payload == 0
    async with busclient.connect(node.guest, component="test", owner="t", purpose="t") as guest:
        for _ in range(20):
            with pytest.raises(busclient.BusError, match="3004"):
                await guest.call("$bus.admin.policy.reload", {}, timeout=10)


@pytest.mark.parametrize("panel_id", sorted({panel["id"] for panel, _ in QUERIES}))
@pytest.mark.slow
def test_every_query_of_the_dashboard_is_answered(server: Prometheus, panel_id: int) -> None:
    """With data: there is all that a node can have, so only what is filtered to what is not 0 may be empty."""
    for query in (query for panel, query in QUERIES if panel["id"] == panel_id):
        answers = [server.query(filled(query, boundary)) for boundary in ("host", "guest")]
        if not query.endswith(" > 0") and not query.startswith("topk"):
            assert all(answers), query
        if metrics(query) <= MOVED:
            assert any(float(sample["value"][1]) > 0 for answer in answers for sample in answer), query


def test_the_lists_of_the_dashboard_have_values(server: Prometheus) -> None:
    asked = [each["definition"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    found = []
    for definition in asked:
        series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", definition).groups()  # type: ignore[union-attr]
        found.append({sample["metric"][label] for sample in server.query(filled(series))})
    assert found == [{"edge-1"}, {TENANT}]
    for each in DASHBOARD["annotations"]["list"]:
        server.query(filled(each["expr"]))


def test_every_rule_is_evaluated_and_no_alert_fires_on_a_node_that_is_well(server: Prometheus) -> None:
    def rules() -> list[dict[str, object]]:
        return [rule for group in server.ask("rules")["groups"] for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()), what="the rules")
    assert {rule["name"] for rule in rules()} == {*ALERTS, *RECORDED}
    assert not [rule for rule in rules() if rule["health"] != "ok" or rule.get("lastError")]
    # But for what the test itself has done: a guest that was denied twenty times in no time.
    firing = {alert["labels"]["alertname"] for alert in server.ask("alerts")["alerts"] if alert["state"] == "firing"}
    assert not firing
    for name in RECORDED:
        if "failures" not in name:  # no component has failed
            assert server.query(name), name


def test_every_metric_that_is_named_is_on_the_page_and_the_reverse_is_documented(node: Running) -> None:
    status, text = node.daemon.get("/metrics")
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = {sample.name for family in families.values() for sample in family.samples}
    ops = page("busd/ops/README.md")
    said = [
        *(query for _, query in QUERIES),
        *(rule["expr"] for rule in (*ALERTS.values(), *RECORDED.values())),
        *(each["expr"] for each in DASHBOARD["annotations"]["list"]),
        *(each["definition"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"),
        *((PROMETHEUS / name).read_text() for name in ("README.md", "RUNBOOKS.md")),
    ]
    assert {name for each in said for name in metrics(each)} <= samples
    documented = {name.strip("`") for header in ("metric", "own metric") for name, *_ in rows(ops, header)}
    there = {f"{family.name}_total" if family.type == "counter" else family.name for family in families.values()}
    assert {name for name in there if not name.startswith("process_")} == documented
    assert "`process_*`" in ops


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, and certificates of it for the node and for Prometheus; and of another CA."""
    folder = tmp_path_factory.mktemp("tls")
    ca = certificate(folder, "ca")
    certificate(folder, "node", ca)
    certificate(folder, "prometheus", ca)
    certificate(folder, "stranger")
    return folder


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def proxy(node: Running, tls: Path, folder: Path) -> Iterator[str]:
    """nginx with proxy.conf, on loopback."""
    needs("nginx")
    port = free_port()
    text = (PROMETHEUS / "proxy.conf").read_text()
    for old, new in (
        ("listen 9851 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/nginx/tls", str(tls)),
        ("127.0.0.1:9850", node.address),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / "busd-metrics.conf").write_text(text)
    places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{name}_temp_path {folder}/{name};" for name in places)
    (folder / "nginx.conf").write_text(
        ("user root;\n" if os.geteuid() == 0 else "")
        + f"daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
        + f"http {{ access_log off; {temporary} include {folder}/busd-metrics.conf; }}\n"
    )
    command = ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command, env=environment()) as process:
        try:
            wait_until(lambda: process.poll() is not None or _is_open(port), what="nginx")
            assert process.poll() is None
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


def _is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_central_prometheus_comes_through_the_proxy_and_others_do_not(
    node: Running, tls: Path, tmp_path: Path
) -> None:
    with proxy(node, tls, tmp_path) as address:
        folder = tmp_path / "central"
        (folder / "nodes").mkdir(parents=True)
        (folder / "nodes" / "all.json").write_text(f'[{{"targets": ["{address}"]}}]')
        with prometheus(config_of("central.yml", tls=str(tls)), folder) as server:
            wait_until(lambda: server.query("busd_ready"), what="a scrape")
            assert {each["metric"]["instance"] for each in server.query("busd_build_info")} == {"127"}

        def status(path: str, name: str = "", method: str = "GET") -> int:
            context = ssl.create_default_context(cafile=tls / "ca.crt")
            if name:
                context.load_cert_chain(tls / f"{name}.crt", tls / f"{name}.key")
            asked = urllib.request.Request(f"https://{address}{path}", method=method)
            try:
                with urllib.request.urlopen(asked, context=context, timeout=20) as answer:
                    number: int = answer.status
                    return number
            except urllib.error.HTTPError as error:
                return error.code

        assert status("/metrics", "prometheus") == 200
        assert status("/metrics", "stranger") == 400
        assert status("/metrics") == 400
        assert status("/metrics", "prometheus", "DELETE") == 403
        for path in ("/", "/statusz", "/metrics/../statusz", "/metricsx"):
            assert status(path, "prometheus") == 404, path


def test_an_agent_writes_to_a_central_prometheus(node: Running, tls: Path, tmp_path: Path) -> None:
    """With a certificate that this one asks for; the rules are where it is written to."""
    web = tmp_path / "web.yml"
    web.write_text(
        "tls_server_config:\n"
        f"  cert_file: {tls}/prometheus.crt\n  key_file: {tls}/prometheus.key\n"
        f"  client_ca_file: {tls}/ca.crt\n  client_auth_type: RequireAndVerifyClientCert\n"
    )
    takes = ("--web.enable-remote-write-receiver", f"--web.config.file={web}")
    rules = "rule_files: [busd.rules.yml]\nglobal: {evaluation_interval: 500ms}\n"
    context = ssl.create_default_context(cafile=tls / "ca.crt")
    context.load_cert_chain(tls / "node.crt", tls / "node.key")
    with prometheus(rules, tmp_path / "central", *takes) as central:
        config = config_of("agent.yml", node=node.address, tls=str(tls), central=central.address)
        with prometheus(config, tmp_path / "agent", "--enable-feature=agent"):
            server = Prometheus(central.address, context)
            wait_until(lambda: server.query('up{job="busd", instance="edge-1"} == 1'), what="what was written")
            wait_until(lambda: server.query("instance_resource:busd_resource:used_ratio"), what="what is recorded")
        # The agent is gone, like a machine that died: what it wrote is not current any more five minutes later.
        assert not server.query(ALERTS["BusdGone"]["expr"])
        (gone,) = server.query(ALERTS["BusdGone"]["expr"], seconds_ahead=360)
        assert gone["metric"] == {"instance": "edge-1", "job": "busd"}
