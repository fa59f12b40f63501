"""The alert exercise's grader: the answer passes, the stub is not attempted, every plausible mistake gets its own hint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rlcourse.course.alert_engines import NAME
from rlcourse.course.alert_grading import AlertVerdict, grade_alert
from rlcourse.course.alert_hints import HINTS
from rlcourse.course.alert_incident import BEGINS, hidden_cases, last_minute
from rlcourse.errors import ConfigError, ExerciseError, MissingExtraError
from rlcourse.monitoring import promtool

ROOT = Path(__file__).resolve().parents[2]
ANSWER, STUB = ROOT / "solutions/ch17_alert.yml", ROOT / "exercises/ch17_alert.yml"

EACH = "sum by (policy, action) (rate(rl_actions_total[{w}]))"
ALL = "sum by (policy) (rate(rl_actions_total[{w}]))"
SHARE = f"max by (policy) ({EACH} / on (policy) group_left () {ALL})"
ENOUGH = " and on (policy) sum by (policy) (rate(rl_actions_total[10m])) > 1"


def share(window: str = "10m", limit: float = 0.75) -> str:
    return f"{SHARE.format(w=window)} > {limit}"


GOOD = {
    "the shortest that will do": (share("5m") + ENOUGH, "5m"),
    "a longer window in place of for": (share("15m") + ENOUGH, "0s"),
    "each version by itself": (
        "max by (policy) (sum by (policy, version, action) (rate(rl_actions_total[10m])) / on (policy, version) "
        "group_left () sum by (policy, version) (rate(rl_actions_total[10m]))) > 0.75" + ENOUGH,
        "5m",
    ),
    "increase in place of rate": (
        "max by (policy, action) (sum by (policy, action) (increase(rl_actions_total[10m])) / on (policy) group_left () "
        "sum by (policy) (increase(rl_actions_total[10m]))) > 0.75 and on (policy) "
        "sum by (policy) (increase(rl_actions_total[10m])) > 100",
        "5m",
    ),
}
WRONG = {
    "latency": (
        "histogram_quantile(0.99, sum by (policy, le) (rate(rl_request_seconds_bucket[5m]))) > 0.1",
        "2m",
        "service",
    ),
    "fallbacks": ('sum by (policy) (rate(rl_decisions_total{fallback!="none"}[5m])) > 0', "2m", "service"),
    "entropy": ("max by (policy) (rl_policy_entropy_nats) < 0.3", "5m", "unknown"),
    "since the start": (
        "max by (policy) (sum by (policy, action) (rl_actions_total) / on (policy) group_left () "
        "sum by (policy) (rl_actions_total)) > 0.75",
        "5m",
        "raw",
    ),
    "one sample": (share("1m") + ENOUGH, "5m", "narrow"),
    "six hours": (share("6h", 0.6), "5m", "never"),
    "held too long": (share() + ENOUGH, "40m", "late"),
    "action 4": (
        'sum by (policy) (rate(rl_actions_total{action="4"}[10m])) / sum by (policy) (rate(rl_actions_total[10m])) > 0.7'
        + ENOUGH,
        "5m",
        "one action",
    ),
    "whose": (
        "max(sum by (action) (rate(rl_actions_total[10m])) / on () group_left () sum(rate(rl_actions_total[10m]))) > 0.75",
        "5m",
        "nobody",
    ),
    "too low": (share(limit=0.4) + ENOUGH, "5m", "ordinary"),
    "at once": (share("5m") + ENOUGH, "0s", "spike"),
    "no least traffic": (share(), "5m", "night"),
    "or vector": (
        f"({SHARE.format(w='10m')} > 0.75{ENOUGH}) or absent(rl_actions_total)",
        "5m",
        "gap",
    ),
    "how often": ("max by (policy) (sum by (policy, action) (rate(rl_actions_total[10m]))) > 7", "5m", "busy"),
    "an hour": (share("1h", 0.42) + ENOUGH, "5m", "for ever"),
}


def written(path: Path, expr: str, hold: str = "5m", **changed: Any) -> Path:
    """The answer with another query."""
    rule = {
        "alert": "PolicyStuck",
        "expr": expr,
        "for": hold,
        "labels": {"severity": "page"},
        "annotations": {"summary": "Stuck.", "first_step": "Go back.", "runbook": "stuck"},
    }
    file = path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "mine", "rules": [rule | changed]}]}))
    return file


def graded(path: Path, engine: str = "embedded", *, seed: int = 0) -> AlertVerdict:
    return grade_alert(path, engine=engine, seed=seed)


@pytest.mark.parametrize("engine", ["promtool", "embedded"])
def test_the_answer_passes_and_says_who_graded_it(engine: str) -> None:
    verdict = graded(ANSWER, engine)
    assert (verdict.status, verdict.engine, verdict.hint) == ("passed", engine, "")
    assert len(verdict.checks) == 8
    assert f"Graded by {engine}" in str(verdict)


@pytest.mark.parametrize("engine", ["promtool", "embedded"])
def test_the_stub_is_not_attempted(engine: str) -> None:
    assert graded(STUB, engine).status == "not_attempted"


@pytest.mark.parametrize("name", GOOD)
def test_other_good_rules_pass(name: str, tmp_path: Path) -> None:
    verdict = graded(written(tmp_path, *GOOD[name]))
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_answer_does_not_hang_on_chance(seed: int) -> None:
    assert graded(ANSWER, seed=seed).passed


@pytest.mark.parametrize("name", WRONG)
def test_every_mistake_gets_its_own_hint(name: str, tmp_path: Path) -> None:
    expr, hold, fault = WRONG[name]
    verdict = graded(written(tmp_path, expr, hold))
    assert (verdict.status, verdict.fault) == ("failed", fault), str(verdict)
    assert HINTS[fault] in str(verdict)


@pytest.mark.parametrize(
    "name", [n if n == "action 4" else pytest.param(n, marks=pytest.mark.slow) for n in [*WRONG, *GOOD]]
)
def test_prometheus_finds_the_same(name: str, tmp_path: Path) -> None:
    expr, hold, fault = WRONG[name] if name in WRONG else (*GOOD[name], "")
    assert graded(written(tmp_path, expr, hold), "promtool").fault == fault


def test_every_hint_is_tried() -> None:
    assert {fault for _, _, fault in WRONG.values()} | {"severity", "runbook", "value"} == HINTS.keys()


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"labels": {}}, "severity"),
        ({"labels": {"severity": "critical"}}, "severity"),
        ({"labels": {"severity": "note"}}, "severity"),
        ({"annotations": {"summary": "Stuck.", "first_step": "Go back."}}, "runbook"),
        ({"annotations": {"summary": "", "first_step": "Go back.", "runbook": "stuck"}}, "runbook"),
        ({"annotations": {"summary": "At {{ $value }}", "first_step": "Go back.", "runbook": "stuck"}}, "value"),
    ],
)
def test_what_a_person_reads_is_graded_too(changed: dict[str, Any], fault: str, tmp_path: Path) -> None:
    assert graded(written(tmp_path, share() + ENOUGH, **changed)).fault == fault


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("groups: [", "cannot be read"),
        ("rules: []", "no rule file"),
        ("groups: [{name: a, rules: [1]}]", "no rule file"),
        ("groups: [{name: a, rules: [{alert: Other, expr: up}]}]", "one alert, PolicyStuck"),
        (
            "groups: [{name: a, rules: [{alert: PolicyStuck, expr: up}, {alert: Other, expr: up}]}]",
            "one alert, PolicyStuck",
        ),
    ],
)
def test_what_is_no_answer_is_refused(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(text)
    with pytest.raises(ExerciseError, match=says):
        graded(file)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExerciseError, match="cannot be read"):
        graded(tmp_path / "nothing.yml")


@pytest.mark.parametrize("engine", ["promtool", "embedded"])
def test_a_query_that_is_none_is_an_error_and_no_verdict(engine: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        graded(written(tmp_path, "sum by (policy (rate(rl_actions_total[10m]))"), engine)


def test_prometheus_knows_more_than_the_embedded_evaluator(tmp_path: Path) -> None:
    file = written(tmp_path, f"topk(1, {SHARE.format(w='10m')}) > 0.75{ENOUGH}")
    assert graded(file, "promtool").passed
    with pytest.raises(ConfigError):
        graded(file)


def test_rules_that_cannot_be_run_are_an_error_and_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot evaluate"):
        graded(written(tmp_path, "rl_actions_total / on (policy) rl_decisions_total > 2"), "promtool")


def test_without_promtool_the_embedded_evaluator_grades(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Path:
        raise MissingExtraError(f"{name} is not installed.", mend="Install it.")

    monkeypatch.setattr(promtool, "program", missing)
    assert graded(STUB, "auto").engine == "embedded"
    with pytest.raises(MissingExtraError):
        graded(STUB, "promtool")
    with pytest.raises(ConfigError, match="no engine"):
        graded(STUB, "prometheus")


def test_the_service_is_green_while_the_policy_is_stuck() -> None:
    """What the exercise says of its incident."""
    case = hidden_cases()["incident-4"]
    by_name = {(one.name, *sorted(one.labels.items())): one.samples for one in case.series}
    timeouts = [samples for key, samples in by_name.items() if ("fallback", "timeout") in key]
    assert len(timeouts) == 2 and all(set(samples) == {0.0} for samples in timeouts)
    counted = {
        action: samples
        for key, samples in by_name.items()
        for action in "01234"
        if ("action", action) in key
        if ("version", "a1") in key
    }
    late = {action: (samples[170] or 0.0) - (samples[BEGINS] or 0.0) for action, samples in counted.items()}
    assert late["4"] / sum(late.values()) == pytest.approx(0.946, abs=0.01)
    early = {action: (samples[BEGINS - 1] or 0.0) for action, samples in counted.items()}
    assert max(early.values()) / sum(early.values()) < 0.5


def test_no_data_are_no_data() -> None:
    case = hidden_cases()["gap"]
    assert last_minute(case) == 146
    down = [minute for minute in range(147) if case.series[-1].samples[minute] == 0.0]
    assert case.series[-1].name == "up" and down == list(range(60, 85))
    for series in case.series[:-1]:
        assert [minute for minute, value in enumerate(series.samples) if value is None] == down
    assert NAME in STUB.read_text()
