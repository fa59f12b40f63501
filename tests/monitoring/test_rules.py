"""Rules: their numbers, their cases by Prometheus' own promtool, and cases that notice when a limit slips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rlcourse.errors import ConfigError, MissingExtraError
from rlcourse.monitoring import promtool
from rlcourse.monitoring.alert_cases import BASELINES, alert_cases
from rlcourse.monitoring.alerts import rule_groups, slos
from rlcourse.monitoring.budget_cases import ENTROPY_FLOOR, floor_cases
from rlcourse.monitoring.catalogue import CATALOGUE, series_names
from rlcourse.monitoring.limits import Baseline, Limits, return_floor
from rlcourse.monitoring.promql import (
    Aggregate,
    Binary,
    Call,
    Expression,
    Selector,
    duration,
    parse,
    seconds,
    selectors,
)
from rlcourse.monitoring.replay import failures
from rlcourse.monitoring.rule_cases import Case, Moment, Series, case_files, counter, gauge
from rlcourse.monitoring.rules import Alert, Recording, Rule, RuleGroup, Severity, filled, read_rules, rule_file
from rlcourse.monitoring.slo import BURNS, Slo, slo_document, slo_group

GROUPS = rule_groups(Limits(), BASELINES)
RULES = [rule for group in GROUPS for rule in group.rules]
ALERTS = [rule for rule in RULES if isinstance(rule, Alert)]
CASES = alert_cases()
SCRAPED = {"up": ("job", "instance")}
"""What Prometheus itself adds."""


def about(groups: Sequence[RuleGroup]) -> list[Case]:
    """The cases that ask after alerts of these groups alone; one with moments of others could not be played."""
    made = {
        (rule.name, rule.labels.get("slo", "")) for group in groups for rule in group.rules if isinstance(rule, Alert)
    }

    def asks(case: Case) -> bool:
        asked = {(moment.alert, labels.get("slo", "")) for moment in case.moments for labels in moment.fires or ({},)}
        return all(any(name == alert and slo in ("", own) for alert, own in made) for name, slo in asked)

    return [case for case in CASES if asks(case)]


def labels_known(name: str) -> set[str]:
    """Every label that a series of that name can have."""
    (signal,) = [signal for signal in CATALOGUE if name in signal.series]
    return {*signal.labels, *SCRAPED["up"], *(["le"] if name.endswith("_bucket") else [])}


def groupings(tree: Expression) -> Iterator[tuple[str, Selector]]:
    """Labels that are kept, beside the series they are kept of."""
    match tree:
        case Aggregate():
            for selector in selectors(tree.expression):
                yield from ((label, selector) for label in tree.by)
            yield from groupings(tree.expression)
        case Binary():
            yield from (*groupings(tree.left), *groupings(tree.right))
        case Call():
            for argument in tree.arguments:
                yield from groupings(argument)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rules_read_only_what_somebody_writes(rule: Rule) -> None:
    (group,) = [group for group in GROUPS if rule in group.rules]
    before = {other.name for other in group.rules[: group.rules.index(rule)] if isinstance(other, Recording)}
    for selector in selectors(rule.tree):
        if selector.name in before or selector.name in SCRAPED:
            continue
        assert selector.name in series_names(), f"{rule.name} reads {selector.name}, which nobody writes"
        assert {matcher.label for matcher in selector.matchers} <= labels_known(selector.name)
    for label, selector in groupings(rule.tree):
        assert selector.name in before or label in labels_known(selector.name)


def test_rules_come_back_from_their_file_and_promtool_takes_it(tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(rule_file(GROUPS))
    assert read_rules(file.read_text()) == GROUPS
    promtool.check_rules(file)


def test_promtool_refuses_a_broken_rule(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(rule_file(GROUPS).replace("sum by (policy)", "sum by policy)"))
    with pytest.raises(ConfigError, match="promtool check rules refuses"):
        promtool.check_rules(tmp_path / "rules.yml")


@pytest.mark.parametrize(
    "name",
    [
        "test-rules-1m.yml",
        pytest.param("test-rules-5m.yml", marks=pytest.mark.slow),
        pytest.param("test-rules-1h.yml", marks=pytest.mark.slow),
    ],
)
def test_every_case_holds_in_prometheus(name: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(rule_file(GROUPS))
    files = case_files(CASES, GROUPS, rule_file="rules.yml")
    assert len(files) == 3
    (tmp_path / name).write_text(files[name])
    promtool.run_cases(tmp_path / name)


def test_promtool_notices_a_limit_that_slipped(tmp_path: Path) -> None:
    groups = rule_groups(Limits(violation_share=0.011), BASELINES)
    case = next(case for case in CASES if case.moments[0].alert == "SafetyViolations")
    (tmp_path / "rules.yml").write_text(rule_file(groups))
    ((name, text),) = case_files([case], groups, rule_file="rules.yml").items()
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="SafetyViolations"):
        promtool.run_cases(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "slipped"),
    [
        ("latency_s", 0.05),
        ("latency_s", 0.2),
        ("return_share", 0.88),
        ("return_share", 0.92),
        ("min_episodes", 19),
        ("min_episodes", 22),
        ("entropy_share", 0.44),
        ("entropy_share", 0.55),
        ("fallback_share", 0.046),
        ("fallback_share", 0.054),
        ("min_decisions", 23),
        ("min_decisions", 27),
        ("min_requests", 118),
        ("min_requests", 132),
        ("min_bad_events", 2),
        ("min_bad_events", 4),
        ("violation_share", 0.009),
        ("violation_share", 0.011),
        ("min_violations", 2),
        ("min_violations", 4),
        ("episodes_window_s", 64_800.0),
        ("episodes_window_s", 108_000.0),
        ("window_s", 120.0),
        ("window_s", 600.0),
        ("hold_s", 60.0),
        ("hold_s", 180.0),
        ("answered", 0.998),
        ("answered", 0.9992),
        ("decided", 0.988),
        ("decided", 0.992),
        ("fast", 0.988),
        ("fast", 0.992),
    ],
)
def test_cases_notice_every_limit_that_slips(name: str, slipped: float) -> None:
    limits = replace(Limits(), **{name: slipped})  # type: ignore[arg-type]
    groups = [group for group in rule_groups(limits, BASELINES) if group not in GROUPS]
    assert any(failures(about(groups), groups))


def test_a_floor_keeps_telling_of_a_collapse_that_lasts(tmp_path: Path) -> None:
    groups = [group for group in rule_groups(Limits(entropy_floor=ENTROPY_FLOOR)) if group not in rule_groups()]
    cases = floor_cases()
    assert not list(failures(cases, groups))
    for slipped in (None, 0.9 * ENTROPY_FLOOR, 1.1 * ENTROPY_FLOOR):
        assert any(failures(cases, rule_groups(Limits(entropy_floor=slipped)))), slipped
    (tmp_path / "rules.yml").write_text(rule_file(groups))
    ((name, text),) = case_files(cases, groups, rule_file="rules.yml").items()
    (tmp_path / name).write_text(text)
    promtool.run_cases(tmp_path / name)


def test_burn_windows_and_shares_are_pinned_too() -> None:
    fast = slos(Limits())[2]

    def noticed(index: int, factor: float) -> bool:
        burns = [replace(burn, share=burn.share * factor) if i == index else burn for i, burn in enumerate(BURNS)]
        groups = [slo_group(fast, burns)]
        return any(failures(about(groups), groups))

    assert not noticed(0, 1.0)
    for index, burn in enumerate(BURNS):
        assert noticed(index, 1.15), burn
        assert noticed(index, 0.85), burn


@pytest.mark.parametrize("alert", sorted({alert.name for alert in ALERTS}))
def test_every_alert_is_seen_quiet_firing_and_resolved(alert: str) -> None:
    told = [moment for case in CASES for moment in case.moments if moment.alert == alert]
    assert any(not moment.fires for moment in told)
    assert any(
        earlier.fires and not later.fires and later.at_s > earlier.at_s
        for case in CASES
        for earlier in case.moments
        for later in case.moments
        if earlier.alert == later.alert == alert
    )


def test_a_case_may_not_misspell_an_alert() -> None:
    case = replace(CASES[0], moments=(Moment(60.0, "LatencyP99Hihg"),))
    with pytest.raises(ConfigError, match="Hihg"):
        case_files([case], GROUPS, rule_file="rules.yml")
    with pytest.raises(ConfigError, match="Hihg"):
        list(failures([case], GROUPS))


@pytest.mark.parametrize(
    ("baseline", "floor"), [(475.0, 427.5), (-50.0, -55.0), (0.0, 0.0), (-1.0, -1.1), (1e-3, 0.9e-3)]
)
def test_the_floor_is_below_the_baseline_whatever_its_sign(baseline: float, floor: float) -> None:
    assert return_floor(baseline, 0.9) == pytest.approx(floor)


def test_burn_rates_of_the_workbook() -> None:
    assert [round(burn.rate(), 6) for burn in BURNS] == [14.4, 6.0, 3.0, 1.0]
    assert [burn.short_s for burn in BURNS] == [300.0, 1800.0, 7200.0, 21600.0]
    assert [burn.severity for burn in BURNS] == [Severity.PAGE] * 2 + [Severity.TICKET] * 2


def test_without_a_baseline_nothing_is_said_of_returns() -> None:
    assert not any("return" in rule.name.lower() for group in rule_groups() for rule in group.rules)
    with pytest.raises(ConfigError, match="two baselines"):
        rule_groups(Limits(), (Baseline("a", 1.0), Baseline("a", 2.0)))


def test_texts_name_labels_that_the_alert_has() -> None:
    fires = [(moment.alert, labels) for case in CASES for moment in case.moments for labels in moment.fires]
    for alert in ALERTS:
        for labels in (labels for name, labels in fires if name == alert.name):
            for text in alert.annotations.values():
                assert "{{" not in filled(text, labels)
                assert filled(text, labels).count("  ") == 0, "a label that is missing leaves a gap"


def test_the_document_holds_every_promise_and_every_alert() -> None:
    text = slo_document(slos(Limits()), GROUPS)
    assert all(f"| {alert.name} |" in text for alert in ALERTS)
    assert "| `fast`: is decided within 100 ms | requests | 99 % | 1 % | 7.2 h |" in text
    assert "| 2 % | 1h | 14.4 | 5m | page | `answered` 1.44 %, `decided` 14.4 %, `fast` 14.4 % |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(row.split("|")) for row in rows} <= {7, 8}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Limits(latency_s=0.07),
        lambda: Limits(fallback_share=1.0),
        lambda: Limits(hold_s=-1.0),
        lambda: Limits(min_decisions=0),
        lambda: Limits(min_requests=0),
        lambda: Limits(min_bad_events=0),
        lambda: Limits(min_violations=0),
        lambda: Limits(episodes_window_s=0.0),
        lambda: Limits(entropy_floor=0.0),
        lambda: Limits(entropy_floor=float("nan")),
        lambda: Limits(fast=1.0) and slos(Limits(fast=1.0)),
        lambda: Recording("rl_thing", "rl_breaker_state"),
        lambda: Recording("a:b:c", "rate(rl_breaker_state)"),
        lambda: replace(ALERTS[0], name="lower case"),
        lambda: replace(ALERTS[0], hold_s=0.00001),
        lambda: replace(ALERTS[0], summary="It is {{ $value }}."),
        lambda: Slo(
            name="a", objective=0.9, promise="b", events="c", bad_share="rate(x[5m])", bad_count="increase(x[WINDOW])"
        ),
        lambda: Slo(
            name="a", objective=0.9, promise="b", events="c", bad_share="rate(x[WINDOW])", bad_count="increase(x[5m])"
        ),
        lambda: replace(slos(Limits())[0], least_bad=0),
        lambda: rule_file([GROUPS[0], GROUPS[0]]),
        lambda: read_rules("groups: [{name: a}]"),
        lambda: read_rules("- [}"),
    ],
)
def test_what_makes_no_rule_is_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(ConfigError):
        wrong()


@pytest.mark.parametrize(
    ("time_s", "text"), [(300.0, "5m"), (90.0, "90s"), (86400.0, "1d"), (0.5, "500ms"), (0.0, "0s"), (5400.0, "90m")]
)
def test_durations(time_s: float, text: str) -> None:
    assert duration(time_s) == text
    assert seconds(text) == time_s


def test_durations_add_up() -> None:
    assert seconds("1h30m") == 5400.0
    for wrong in ("", "5", "5 m", "-5m"):
        with pytest.raises(ConfigError):
            seconds(wrong)


def test_series_in_promtools_notation() -> None:
    assert counter((2, 5), (2, 0)) == (0.0, 5.0, 10.0, 10.0, 10.0)
    series = Series("up", {"job": "a"}, gauge((2, 1.0), (3, None), (1, 0.0)))
    assert series.plain() == {"series": 'up{job="a"}', "values": "1.0+0.0x1 _x3 0.0"}
    assert Series("x", {}, counter((3, 5.0))).plain()["values"] == "0.0+5.0x3"
    assert Series("x", {}, (3.0, 2.0, 1.0)).plain()["values"] == "3.0-1.0x2"


def test_a_missing_program_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match="apt-get install --no-install-recommends prometheus-alertmanager"):
        promtool.check_alertmanager(tmp_path / "x.yml")


def test_rule_files_are_yaml_in_reading_order() -> None:
    first = yaml.safe_load(rule_file(GROUPS))["groups"][0]["rules"][1]
    assert list(first) == ["alert", "expr", "for", "labels", "annotations"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("rate(x[5m]", "was expected"),
        ("predict_linear(x[5m], 60)", "no function predict_linear"),
        ("rate(x)", "rate takes range"),
        ("x offset 5m", "offset"),
        ("sum without (a) (x)", "without"),
        ("x > bool 1", "bool"),
        ("x @ 5", "nothing that begins"),
        ("x and 1", "two sets"),
        ('x{a="b\\n"}', "plain string"),
        ("x * on (a) group_left (b) y", "copy labels"),
        ("", "the end"),
    ],
)
def test_queries_outside_of_the_part_are_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse(text)
