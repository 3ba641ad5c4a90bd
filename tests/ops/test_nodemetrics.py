"""Metrics of a component's own and of a tenant on a real node: from the class and the configuration to the page."""

import asyncio
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

import busclient
from tests.ops.processes import Daemon, daemon
from tests.support import wait_until

TALLY = '''
import os
from busd.components.model import Component, Manifest, Metric, Request

class Tally(Component):
    """Counts what it is asked."""

    manifest = Manifest(
        component="tally", version="1", owner="house", purpose="counts",
        operations=(Request("ask"), Request("leave")),
    )
    metrics = (
        Metric("asked_total", "counter", "Questions.", {"kind": ("odd", "even")}),
        Metric("uptime_seconds", "gauge", "Takes the name of nobody."),
    )

    def __init__(self) -> None:
        self.asked = 0

    async def ask(self) -> int:
        """One more."""
        self.asked += 1
        return self.asked

    async def leave(self) -> None:
        """End the process, as a crash would."""
        os._exit(3)

    def figures(self):
        return {"asked_total": {"odd": (self.asked + 1) // 2, "even": self.asked // 2}, "uptime_seconds": 5}
'''


def scraped(node: Daemon) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(node.get("/metrics")[1])
        for sample in family.samples
    }


def test_own_metrics_are_on_the_page_and_their_counters_outlive_a_process(tmp_path: Path) -> None:
    (tmp_path / "tally.py").write_text(TALLY)
    folder = tmp_path / "components.d"
    folder.mkdir()
    (folder / "tally.toml").write_text(f'source = "tally:Tally"\npath = ["{tmp_path}"]\n')
    flags = ("--components", "tally", "--component-dir", str(folder), "--metrics-tenants", "acme,other")
    with daemon(tmp_path / "run", *flags) as node:
        wait_until(lambda: ("busd_tally_asked_total", "odd") in scraped(node))
        assert scraped(node)["busd_tally_asked_total", "even"] == 0
        assert scraped(node)["busd_component_healthy", "tally"] == 1

        async def ask(*subjects: str) -> None:
            async with busclient.connect(
                f"unix://{node.run_dir}/host.sock", component="demo", owner="o", purpose="asks"
            ) as bus:
                for subject in subjects:
                    try:
                        await bus.call(subject, timeout=20)
                    except busclient.BusError:
                        assert subject == "tally.leave"

        asyncio.run(ask(*["tally.ask"] * 5))
        wait_until(lambda: scraped(node)["busd_tally_asked_total", "odd"] == 3)
        asyncio.run(ask("tally.leave"))
        wait_until(lambda: scraped(node)["busd_component_restarts_total", "tally"] == 1)
        wait_until(lambda: scraped(node)["busd_component_up", "tally", "host"] == 1)
        asyncio.run(ask("tally.ask"))
        wait_until(lambda: scraped(node)["busd_tally_asked_total", "odd"] == 4)
        samples = scraped(node)
        assert samples["busd_tally_asked_total", "even"] == 2
        assert samples["busd_tally_uptime_seconds",] == 5
        assert samples["busd_component_metrics_refused_total", "tally"] == 0
        assert samples["busd_tenant_denials_total", "acme"] == samples["busd_tenant_denials_total", "other"] == 0
        assert samples["busd_route_duration_seconds_count",] >= 1
        assert samples["busd_policy_last_reload_successful",] == 1
        assert samples["busd_policy_last_reload_success_timestamp_seconds",] > 1.7e9
        assert samples["busd_http_connections",] >= 1
