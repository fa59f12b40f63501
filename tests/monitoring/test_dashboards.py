"""The dashboard: what Grafana would stumble over, and what Prometheus would not answer."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from rlcourse.monitoring import promtool
from rlcourse.monitoring.alert_cases import BASELINES
from rlcourse.monitoring.alerts import rule_groups
from rlcourse.monitoring.catalogue import CATALOGUE, series_names
from rlcourse.monitoring.dashboards import GRID, dashboard_file, expressions, rows
from rlcourse.monitoring.limits import Limits
from rlcourse.monitoring.promql import parse, selectors
from rlcourse.monitoring.rules import Recording, RuleGroup, rule_file

CONTENT: dict[str, Any] = json.loads(dashboard_file())
PANELS: list[dict[str, Any]] = CONTENT["panels"]
RECORDED = {rule.name for group in rule_groups(Limits(), BASELINES) for rule in group.rules}
QUERIES = [query.replace("$policy", "rl_policy") for query in expressions(CONTENT)]


def test_panels_have_numbers_of_their_own() -> None:
    numbers = [panel["id"] for panel in PANELS]
    assert len(set(numbers)) == len(numbers) == sum(1 + len(row.panels) for row in rows(Limits()))


def test_nothing_overlaps_or_leaves_the_grid() -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        assert at["x"] >= 0 and at["x"] + at["w"] <= GRID and at["w"] > 0 and at["h"] > 0
        return {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}

    for one, other in combinations(PANELS, 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])


def test_there_is_no_gap_between_rows() -> None:
    ends = {0} | {panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in PANELS}
    assert all(panel["gridPos"]["y"] in ends for panel in PANELS)


@pytest.mark.parametrize("query", QUERIES)
def test_queries_read_only_what_somebody_writes(query: str) -> None:
    for selector in selectors(parse(query)):
        assert selector.name in series_names() | RECORDED, f"nobody writes {selector.name}"


def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    every = tuple(Recording(f"panel:query:n{number}", query) for number, query in enumerate(QUERIES))
    (tmp_path / "rules.yml").write_text(rule_file([RuleGroup("panels", every)]))
    promtool.check_rules(tmp_path / "rules.yml")


def test_legends_name_labels_that_the_series_have() -> None:
    known = {name: {*signal.labels, "instance", "job"} for signal in CATALOGUE for name in signal.series}
    for panel in (panel for row in rows(Limits()) for panel in row.panels):
        for query, legend in panel.queries:
            names = [selector.name for selector in selectors(parse(query))]
            for label in re.findall(r"\{\{(\w+)\}\}", legend):
                assert all(label in known.get(name, {"policy"}) for name in names), (panel.title, label)


def test_panels_say_what_they_show_and_show_their_limits() -> None:
    for panel in PANELS:
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith(".")
        assert panel["options"]["legend"]["showLegend"]
        assert [target["refId"] for target in panel["targets"]] == list("ABCDEFGH"[: len(panel["targets"])])
    (latency,) = [panel for panel in PANELS if panel["title"] == "Decision latency"]
    assert latency["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"] == 0.1
    slower = json.loads(dashboard_file(Limits(latency_s=0.2)))["panels"]
    (latency,) = [panel for panel in slower if panel["title"] == "Decision latency"]
    assert latency["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"] == 0.2


def test_every_alerts_recorded_series_and_every_page_has_a_panel() -> None:
    shown = {selector.name for query in QUERIES for selector in selectors(parse(query))}
    pages = [
        rule for group in rule_groups(Limits(), BASELINES) for rule in group.rules if not isinstance(rule, Recording)
    ]
    for rule in pages:
        read = {selector.name for selector in selectors(rule.tree)}
        sources = read | {
            selector.name
            for group in rule_groups(Limits(), BASELINES)
            for recording in group.rules
            if recording.name in read
            for selector in selectors(recording.tree)
        }
        assert sources & shown or rule.name in ("TargetDown", "MetricsAbsent", "DriftUnchecked", "DecisionLogLosing")


def test_the_file_is_the_same_every_time() -> None:
    assert dashboard_file() == dashboard_file()
    assert CONTENT["uid"] and CONTENT["schemaVersion"] >= 36
    assert [variable["name"] for variable in CONTENT["templating"]["list"]] == ["datasource", "policy"]
