"""The dashboard as a file: what Grafana needs of it, and that every query can be read."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.monitoring import ALERTS, DASHBOARD, PANELS, QUERIES, VARIABLES, check_expressions, filled, metrics

OWN_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
LISTS = {each["name"]: each for each in DASHBOARD["templating"]["list"]}


def test_it_can_be_imported_anywhere() -> None:
    """No number of another Grafana's database, and no data source but the one that is chosen."""
    assert not {"id", "__inputs", "__requires"} & set(DASHBOARD)
    assert DASHBOARD["uid"] == "busd"
    assert DASHBOARD["schemaVersion"] >= 36
    assert (LISTS["datasource"]["type"], LISTS["datasource"]["query"]) == ("datasource", "prometheus")
    for each in (*PANELS, *DASHBOARD["annotations"]["list"], *(LISTS[name] for name in ("node", "tenant"))):
        assert each["datasource"] == OWN_DATASOURCE


def test_panels_have_numbers_of_their_own_and_stand_beside_each_other() -> None:
    every = DASHBOARD["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
    below = [panel["gridPos"]["y"] for panel in every]
    assert all(first <= second for first, second in pairwise(below))


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: f"{panel['id']}-{panel['title']}")
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["type"] in {"timeseries", "stat"}
    assert panel["title"]
    assert panel["description"].endswith(".")
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"] in {"none", "short", "cps", "Bps", "bytes", "s", "percentunit"}
    targets: list[dict[str, str]] = panel["targets"]
    assert [target["refId"] for target in targets] == [chr(65 + number) for number in range(len(targets))]
    assert len({target["legendFormat"] for target in targets}) == len(targets)
    for target in targets:
        # Each series that is shown has the node's name, and can be told from its neighbours.
        assert "{{instance}}" in target["legendFormat"] or panel["type"] == "stat"
        assert metrics(target["expr"])
        assert target["expr"].count('instance=~"$node"') == len(
            re.findall(r"(?:busd|process)_[a-z_]+\{", target["expr"])
        )
        assert not re.search(r"\b(?:busd|process)_[a-z_]+[a-z](?![\w{])", target["expr"]), target["expr"]


def test_every_boundary_has_rate_errors_and_saturation() -> None:
    row = next(panel for panel in DASHBOARD["panels"] if panel.get("repeat") == "boundary")
    after = DASHBOARD["panels"][DASHBOARD["panels"].index(row) + 1 :]
    repeated = after[: next(number for number, panel in enumerate(after) if panel["type"] == "row")]
    assert {panel["title"].partition(":")[0] for panel in repeated} == {"Rate", "Errors", "Saturation"}
    assert all("$boundary" in target["expr"] for panel in repeated for target in panel["targets"])
    assert LISTS["boundary"]["query"] == "guest,host,soc"
    outside = [query for panel, query in QUERIES if panel not in repeated]
    assert not [query for query in outside if "$boundary" in query]


def test_its_variables_are_those_that_queries_use() -> None:
    used = set(re.findall(r"\$(\w+)", " ".join(query for _, query in QUERIES)))
    assert {f"${name}" for name in used} == set(VARIABLES)
    assert used - {"__rate_interval"} == set(LISTS) - {"datasource"}


def test_promtool_can_read_every_query(tmp_path: Path) -> None:
    events = [each["expr"] for each in DASHBOARD["annotations"]["list"]]
    check_expressions([filled(query) for query in (*(query for _, query in QUERIES), *events)], tmp_path)
    with pytest.raises(AssertionError, match="parse"):
        check_expressions([filled(QUERIES[0][1]) + ")"], tmp_path)
    assert all(name.startswith("Busd") for name in ALERTS)  # what its annotation of alerts asks for
