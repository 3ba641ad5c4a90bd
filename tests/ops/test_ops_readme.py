"""What busd/ops/README.md promises to operators is what there is."""

import re
from pathlib import Path

import pytest

from busd.__main__ import FAILED, OK, USAGE
from busd.components.model import load
from busd.components.model.metric import METRICS, SAMPLES
from busd.components.shipped import SHIPPED
from busd.components.supervisor.backoff import FIRST_SECONDS, LONGEST_SECONDS, WINDOW_SECONDS
from busd.components.supervisor.logs import LOGGED_PER_SECOND
from busd.components.supervisor.settings import MAX_RESTARTS, read_settings
from busd.core import audit
from busd.node import FAILURES, NEWS
from busd.ops import auditfile, auditwriter
from busd.ops.componentmetrics import COMPONENT_FAMILIES, OPERATIONS
from busd.ops.config import resolve
from busd.ops.console.census import ROWS
from busd.ops.console.collector import VIEWERS
from busd.ops.console.pages import SLOW_SECONDS
from busd.ops.descriptors import RESERVED
from busd.ops.http import CONNECTIONS, STUCK_SECONDS
from busd.ops.keys import KEYS
from busd.ops.logs import VALUE_CHARACTERS
from busd.ops.metrics import BUILD_LABELS, FAMILIES
from busd.ops.process import STOP_MARGIN
from busd.ops.tenantmetrics import TENANT_FAMILIES
from tests.pages import page, rows
from tests.support import ROOT

README = page("busd/ops/README.md")


def test_the_settings_of_a_component_that_it_shows_are_read(tmp_path: Path) -> None:
    (shown,) = re.findall(r"(?s)```toml\n(source.*?)```", README)
    (tmp_path / "cache.toml").write_text(shown)
    settings = read_settings("cache", tmp_path)
    assert (settings.source, settings.path) == ("house.cache:Cache", ("/opt/house",))
    assert settings.config == {"entries": 10000}
    assert (settings.memory_bytes, settings.cpu_percent, settings.max_restarts) == (256 << 20, 50, 5)


def test_every_metric_is_there_with_its_labels_and_help() -> None:
    documented = {name.strip("`"): (labels, text) for name, labels, text in rows(README, "metric")}
    info = documented.pop("busd_build_info")
    assert info[0] == ", ".join(BUILD_LABELS)
    families = (*FAMILIES, *TENANT_FAMILIES, *COMPONENT_FAMILIES)
    assert documented == {family.name: (", ".join(family.labels), family.help) for family in families}


def test_every_metric_of_components_own_is_there_with_its_label_values_and_help() -> None:
    documented = {name.strip("`"): (labels, text) for name, labels, text in rows(README, "own metric")}
    declared = {
        f"busd_{component.manifest.component}_{metric.name}": (
            ", ".join(f"{label} ({' '.join(values)})" for label, values in metric.labels.items()),
            metric.help,
        )
        for component in (load(source) for source in SHIPPED.values())
        for metric in component.metrics
    }
    assert documented == declared
    assert f"at most {METRICS} of at\nmost {SAMPLES} label sets each" in README


def test_every_event_is_there_with_its_level() -> None:
    made = {"message": "any"}
    for path in [*(ROOT / "busd").glob("*.py"), *(ROOT / "busd" / "ops").glob("*.py")]:
        for level, name in re.findall(r'event\(\s*(?:_log,\s*)?logging\.([A-Z]+),\s*"([a-z-]+)"', path.read_text()):
            made[name] = level.lower()
    for path in (ROOT / "busd" / "edge").glob("*.py"):
        made |= dict.fromkeys(re.findall(r'report\(\s*"([a-z-]+)"', path.read_text()), "warning")
    made |= dict.fromkeys(NEWS, "info")
    for path in (ROOT / "busd" / "components" / "supervisor").glob("*.py"):
        text = path.read_text()
        for name in re.findall(r'\breport\(\s*"([a-z-]+)"', text):
            made[name] = "error" if name in FAILURES else "warning"
        made |= dict.fromkeys(re.findall(r'"event": "([a-z-]+)"', text), "info")
    assert {name.strip("`"): level for name, level, _ in rows(README, "event")} == made


def test_exit_statuses_pages_and_numbers() -> None:
    assert [status for status, _ in rows(README, "exit status")] == [str(OK), str(FAILED), str(USAGE), "128+N"]
    assert [page for page, _ in rows(README, "page")] == ["`/`", "`/metrics`", "`/healthz`", "`/readyz`", "`/statusz`"]
    for promise in (
        f"and {STOP_MARGIN:g} s more",
        f"{RESERVED} descriptors",
        f"At most {CONNECTIONS} connections",
        f"have not run for {STUCK_SECONDS:g} s",
        f"however many look ({VIEWERS} at most)",
        f"for {SLOW_SECONDS:g} s is cut off",
        f"`limit` ({ROWS} at most)",
        f"cut at {VALUE_CHARACTERS} characters",
        f"`{resolve([], {}).http.listen}` by default",
        f"of {OPERATIONS} operations of each",
        f"after {FIRST_SECONDS:g} s, then {2 * FIRST_SECONDS:g} s and so on to {LONGEST_SECONDS:g} s",
        f"{MAX_RESTARTS} times within {WINDOW_SECONDS:g} s",
        f"At most {LOGGED_PER_SECOND:g} a second of one component",
    ):
        assert promise in README, promise


def test_every_key_variable_and_flag_it_mentions_exists() -> None:
    names = set(KEYS)
    mentioned = set(re.findall(r"`((?:limits|drain|http|log|node)\.\w+)`", README))
    assert mentioned <= names | {"http.sock"}
    assert set(re.findall(r"`(BUSD_[A-Z_]+)`", README)) <= {key.variable for key in KEYS.values()} | {
        "BUSD_CONFIG",
        "BUSD_SERVICE_HOST",
    }
    assert set(re.findall(r"`(--[a-z-]+)`", README)) <= {key.flag for key in KEYS.values()} | {
        "--config",
        "--origin",
        "--json",
        "--last",  # of bus audit verify
        "--key-file",
    }


def test_the_error_it_shows_is_the_error_one_gets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from busd.__main__ import main

    path = tmp_path / "busd.toml"
    path.write_text("[limits]\n\nendpoint = 5\n")
    assert main(["check-config", "--config", str(path)]) == USAGE
    assert capsys.readouterr().err.replace(str(path), "/etc/busd/busd.toml") in README


def test_every_audit_event_and_number_is_there() -> None:
    assert {name.strip("`") for name, _ in rows(README, "audit event")} == set(audit.Event)
    for promise in (
        f"beyond {audit.ACTOR_ALLOWS[1]} at once and one a second",
        f"at most every {audit.PERIOD_SECONDS:g} s for each identity",
        f"of one identity {audit.KINDS} kinds of denial",
        f"{audit.SINGLE['guest'][0]:g} records a second written singly ({audit.SINGLE['guest'][1]} at once)",
        f"up to {auditfile.QUEUE} records wait",
        f"hands its records over every {auditwriter.PERIOD_SECONDS:g} s",
    ):
        assert promise in " ".join(README.split()), promise
    assert audit.ACTOR_ALLOWS[0] == auditfile.RETRY_SECONDS == 1.0
    assert set(re.findall(r"`(audit\.\w+)[` ]", README)) == {name for name in KEYS if name.startswith("audit.")}
