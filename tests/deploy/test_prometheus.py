"""The rules, their tests, the configurations and the runbooks: promtool takes them, and they fit together."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from busd.ops.metrics import TAKEN
from tests.deploy.monitoring import ALERTS, PROMETHEUS, RECORDED, RULES, TESTS, metrics, promtool
from tests.pages import blocks, rows

RUNBOOKS = (PROMETHEUS / "RUNBOOKS.md").read_text()
SECTIONS: dict[str, str] = dict(re.findall(r"(?sm)^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOKS))
README = (PROMETHEUS / "README.md").read_text()
CASES: list[dict[str, Any]] = [
    case for name in TESTS for case in yaml.safe_load((PROMETHEUS / name).read_text())["tests"]
]


def evaluations(alert: str) -> list[dict[str, Any]]:
    return [each for case in CASES for each in case["alert_rule_test"] if each["alertname"] == alert]


def test_promtool_takes_the_rules() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", "busd.rules.yml")


@pytest.mark.parametrize("name", TESTS)
def test_alerts_fire_when_they_should_and_only_then(name: str) -> None:
    promtool("test", "rules", name)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_shown_firing_and_not_firing(alert: str) -> None:
    (case,) = [case for case in CASES if case["name"] == alert]
    fires = [each for each in case["alert_rule_test"] if each["exp_alerts"]]
    quiet = [each for each in case["alert_rule_test"] if not each["exp_alerts"]]
    assert fires
    assert quiet
    assert evaluations(alert) == case["alert_rule_test"]
    # Beside a node that is ill there is one with the same series that is not, at the same moment.
    nodes = set(re.findall(r'instance="([\w-]+)"', " ".join(each["series"] for each in case["input_series"])))
    for each in fires:
        ill = [expected["exp_labels"]["instance"] for expected in each["exp_alerts"]]
        assert ill == ["edge-1"]
        assert nodes > {"edge-1"}


@pytest.mark.parametrize(
    ("limit", "spoilt"),
    [
        (r"(==|>) ((?:0\.)?\d+)(?=$| or )", r"\1 1\2"),  # what is ill is not found
        (r"(>) ((?:0\.)?\d+)(?=$| or )", r"\1 -1"),  # what is well is found to be ill
    ],
)
def test_a_limit_that_is_wrong_is_found_by_the_test_of_each_alert(limit: str, spoilt: str, tmp_path: Path) -> None:
    """Else the tests would show nothing."""
    rules = (PROMETHEUS / "busd.rules.yml").read_text()
    (tmp_path / "busd.rules.yml").write_text(re.sub(limit, spoilt, rules, flags=re.MULTILINE))
    changed = {name for name, rule in ALERTS.items() if re.search(limit, rule["expr"], re.MULTILINE)}
    assert len(changed) > 25
    for name in TESTS:
        (tmp_path / name).write_text((PROMETHEUS / name).read_text())
        with pytest.raises(AssertionError) as failed:
            promtool("test", "rules", tmp_path / name)
        changed -= set(re.findall(r"alertname: (\w+), time:", str(failed.value)))
    assert not changed


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_it_is_and_names_what_it_knows(alert: str) -> None:
    rule = ALERTS[alert]
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    used = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    for each in evaluations(alert):
        for expected in each["exp_alerts"]:
            assert used <= set(expected["exp_labels"])
            assert "edge-1" in expected["exp_annotations"]["summary"]
    # What is recorded is there under that name, and what is compared with a node's is in its metrics.
    named = re.findall(r"\binstance\w*:[\w:]+", rule["expr"])
    assert set(named) <= set(RECORDED)
    assert named or metrics(rule["expr"]) or "up{" in rule["expr"]


def test_every_recorded_rule_is_used() -> None:
    expressions = " ".join(rule["expr"] for rule in ALERTS.values())
    assert all(name in expressions for name in RECORDED)


def test_names_are_metrics_of_the_node() -> None:
    """The real page is compared in test_prometheus_live.py; this one is quick, and knows no histogram's parts."""
    for rule in RULES:
        for name in metrics(rule["expr"]):
            base = re.sub("_bucket$", "", name)
            own = name.startswith(("busd_cache_", "busd_deletion_"))
            assert own or base in TAKEN or name.startswith("process_"), name


def test_every_alert_has_its_runbook_and_the_reverse() -> None:
    assert list(SECTIONS) == list(ALERTS)
    for alert, rule in ALERTS.items():
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (page, anchor) == ("deploy/prometheus/RUNBOOKS.md", alert.lower())
        assert re.search(r"(?s)\A\n\*\*Means\.\*\* .+\n```sh\n.+```\n\n\*\*Do\.\*\* .+", SECTIONS[alert]), alert


@pytest.mark.parametrize("name", ["prometheus.yml", "agent.yml", "central.yml"])
def test_promtool_takes_the_configurations(name: str, tmp_path: Path) -> None:
    for file in ("ca.crt", "node.crt", "node.key", "prometheus.crt", "prometheus.key"):
        (tmp_path / file).write_text("")
    (tmp_path / "busd.rules.yml").write_text((PROMETHEUS / "busd.rules.yml").read_text())
    (tmp_path / name).write_text((PROMETHEUS / name).read_text().replace("/etc/prometheus/tls", str(tmp_path)))
    said = promtool("check", "config", *(["--agent"] if name == "agent.yml" else []), tmp_path / name)
    assert "SUCCESS" in said
    # The name that the address is replaced with is one line, and the page says which word to change.
    if name != "central.yml":
        assert (tmp_path / name).read_text().count("edge-1") == 1


def test_the_page_lists_what_is_there() -> None:
    listed = {file for cell, _ in rows(README, "file") for file in re.findall(r"`([^`]+)`", cell)}
    there = {path.name for path in PROMETHEUS.iterdir()} - {"README.md"}
    assert listed == there | {"../grafana/busd.json"}
    for _, target in re.findall(r"\[([^\]]+)\]\(([^)#]+)", README):
        assert (PROMETHEUS / target).exists(), target


def test_the_url_of_runbooks_is_changed_by_the_command_that_the_page_shows(tmp_path: Path) -> None:
    (line,) = [line for block in blocks(README, "sh") for line in block.splitlines() if "wiki" in line]
    _, _, script, path = shlex.split(line)
    assert Path(path).name == "busd.rules.yml"
    _, old, new, _ = script.split("|")
    text = (PROMETHEUS / "busd.rules.yml").read_text()
    assert text.count(old) == len(ALERTS)
    changed = tmp_path / "busd.rules.yml"
    changed.write_text(text.replace(old, new))
    promtool("check", "rules", changed)
    assert changed.read_text().count("runbook_url: https://") == len(ALERTS)
