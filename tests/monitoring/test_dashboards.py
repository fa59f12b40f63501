"""The dashboard: what Grafana would stumble over, and what Prometheus would not answer."""

from __future__ import annotations

import copy
import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from rlcourse.monitoring import promtool
from rlcourse.monitoring.alert_cases import BASELINES
from rlcourse.monitoring.alerts import rule_groups
from rlcourse.monitoring.catalogue import CATALOGUE, series_names
from rlcourse.monitoring.dashboards import GRID, POLICY, dashboard_file, expressions, limits_of, rows
from rlcourse.monitoring.limits import Limits
from rlcourse.monitoring.promql import COMPARISONS, Binary, Expression, Number, parse, selectors
from rlcourse.monitoring.rules import Alert, Recording, RuleGroup, rule_file

CONTENT: dict[str, Any] = json.loads(dashboard_file())
PANELS: list[dict[str, Any]] = CONTENT["panels"]
RECORDED = {rule.name for group in rule_groups(Limits(), BASELINES) for rule in group.rules}
QUERIES = [query.replace("$policy", "rl_policy") for query in expressions(CONTENT)]


def read_back(content: dict[str, Any]) -> dict[str, Any]:
    """What the library of Grafana 11.6 makes of a dashboard's JSON; it drops each field that its schema does not know."""
    register_default_plugins()
    found: dict[str, Any] = json.loads(json.dumps(Dashboard.from_json(content), cls=JSONEncoder))
    for panel in found["panels"]:
        defaults = panel.get("fieldConfig", {}).get("defaults", {})
        if defaults.get("custom") == {}:  # what was left out comes back empty
            del defaults["custom"]
    return found


def test_grafanas_schema_knows_every_field() -> None:
    assert read_back(CONTENT) == CONTENT


@pytest.mark.parametrize(
    "place",
    [
        (),
        ("time",),
        ("templating", "list", 1),
        ("panels", 0, "gridPos"),
        ("panels", 1),
        ("panels", 1, "targets", 0),
        ("panels", 1, "options", "legend"),
        ("panels", 1, "fieldConfig", "defaults"),
        ("panels", 10, "fieldConfig", "defaults", "custom"),
    ],
)
def test_a_field_that_grafana_does_not_know_is_noticed(place: tuple[str | int, ...]) -> None:
    content = copy.deepcopy(CONTENT)
    inner: Any = content
    for step in place:
        inner = inner[step]
    inner["legendd"] = True
    assert read_back(content) != content


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
        # Prometheus itself writes "up", one for each target.
        assert selector.name in series_names() | RECORDED | {"up"}, f"nobody writes {selector.name}"


def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    every = tuple(Recording(f"panel:query:n{number}", query) for number, query in enumerate(QUERIES))
    (tmp_path / "rules.yml").write_text(rule_file([RuleGroup("panels", every)]))
    promtool.check_rules(tmp_path / "rules.yml")


def test_legends_name_labels_that_the_series_have() -> None:
    known = {name: {*signal.labels, "instance", "job"} for signal in CATALOGUE for name in signal.series}
    known["up"] = {"instance", "job"}
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


def thresholds(panel: dict[str, Any]) -> list[float]:
    """The lines of a panel, without the base that Grafana wants below them."""
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [{}])
    return [step["value"] for step in steps[1:]]


def comparisons(tree: Expression) -> list[Binary]:
    """What an alert compares; what stands behind ``and`` says only when that means something."""
    match tree:
        case Binary(op="and"):
            return comparisons(tree.left)
        case Binary(op="or"):
            return comparisons(tree.left) + comparisons(tree.right)
        case Binary(op=op) if op in COMPARISONS:
            return [tree]
    return []


def bare(query: str) -> str:
    """Without the reader's choice of a policy."""
    return query.replace(f"{{{POLICY}}}", "").replace(f"{POLICY}, ", "")


@pytest.mark.parametrize("limits", [Limits(), Limits(latency_s=0.2, entropy_floor=0.3, violation_share=0.02)])
def test_where_an_alert_has_a_limit_the_panel_of_its_signal_shows_it(limits: Limits) -> None:
    panels = [panel for panel in json.loads(dashboard_file(limits))["panels"] if panel["type"] != "row"]
    alerts = [rule for group in rule_groups(limits, BASELINES) for rule in group.rules if isinstance(rule, Alert)]
    recorded = {r.name: r.tree for g in rule_groups(limits, BASELINES) for r in g.rules if isinstance(r, Recording)}
    compared = [(rule.name, one) for rule in alerts for one in comparisons(rule.tree)]
    assert {rule.name for rule in alerts} - {name for name, _ in compared} == {"MetricsAbsent"}
    for name, one in compared:
        signals = {selector.name for selector in selectors(one.left)}
        sources = {s.name for signal in signals & recorded.keys() for s in selectors(recorded[signal])}
        shown = []
        for panel in panels:
            queries = [bare(target["expr"]) for target in panel["targets"]]
            read = {selector.name for query in queries for selector in selectors(parse(query))}
            if not read & (signals | sources):
                continue
            if isinstance(one.right, Number):
                shown.append(one.right.value in thresholds(panel))
            else:
                shown.append(one.right in map(parse, queries))
        assert any(shown), (name, one)


def test_a_limit_that_is_changed_moves_its_line() -> None:
    def lines(limits: Limits, title: str) -> list[float]:
        (panel,) = [one for one in json.loads(dashboard_file(limits))["panels"] if one["title"] == title]
        return thresholds(panel)

    assert lines(Limits(), "Decision latency") == [0.1]
    assert lines(Limits(latency_s=0.2), "Decision latency") == [0.2]
    assert (lines(Limits(), "Entropy"), lines(Limits(entropy_floor=0.3), "Entropy")) == ([], [0.3])
    assert lines(Limits(), "Error budget: fast") == pytest.approx([0.01, 0.03, 0.06, 0.144])
    assert lines(Limits(), "Cost") == []


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("x > 0.5", (0.5,)),
        ("x > 0.5 and y >= 20", (0.5,)),
        ("x > 4 and y > 1 or x > 2", (2.0, 4.0)),
        ("x < 0.5 * avg_over_time(x[1d]) or x < 0.3", (0.3,)),
        ("absent(x)", ()),
    ],
)
def test_the_limits_of_a_query(query: str, numbers: tuple[float, ...]) -> None:
    assert limits_of(parse(query)) == numbers


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
