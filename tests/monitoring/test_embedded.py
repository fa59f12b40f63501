"""The embedded evaluator: worked numbers, and Prometheus itself as the oracle on series drawn by chance."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from rlcourse.errors import ConfigError, ServerError
from rlcourse.monitoring import promtool
from rlcourse.monitoring.alert_cases import BASELINES, alert_cases
from rlcourse.monitoring.alerts import rule_groups
from rlcourse.monitoring.embedded import Evaluator, State
from rlcourse.monitoring.evaluation import evaluate, increase, quantile
from rlcourse.monitoring.limits import Limits
from rlcourse.monitoring.promql import Selector, parse
from rlcourse.monitoring.replay import failures, firing, replay
from rlcourse.monitoring.rule_cases import Case, Moment, Series, case_files, counter, gauge
from rlcourse.monitoring.rules import Alert, RuleGroup, Severity, rule_file
from rlcourse.monitoring.samples import FINEST, MAX_SAMPLES, Samples, Window, labels_of

GROUPS = rule_groups(Limits(), BASELINES)


def samples(*series: tuple[str, dict[str, str], Sequence[float]], every_s: float = 60.0) -> Samples:
    kept = Samples(86400.0)
    for name, labels, values in series:
        for step, value in enumerate(values):
            kept.add(labels_of({"__name__": name, **labels}), step * every_s, value)
    return kept


def ask(query: str, kept: Samples, now_s: float) -> dict[str, float]:
    """Answers by their labels in words."""
    answer = evaluate(parse(query), kept, now_s)
    return {",".join(f"{name}={value}" for name, value in labels): number for labels, number in answer.items()}


def test_every_case_holds_here_as_in_prometheus() -> None:
    assert list(failures(alert_cases(), GROUPS)) == []


def test_a_steady_counter_is_scaled_to_the_edges_of_its_window() -> None:
    kept = samples(("x_total", {}, counter((10, 6.0))))
    assert ask("increase(x_total[5m])", kept, 600.0) == {"": 30.0}
    assert ask("rate(x_total[5m])", kept, 600.0) == {"": 0.1}
    # 30 s after the last sample: five were seen, 60 s apart, 24 over 240 s, and 30 s at either end are near enough.
    assert ask("increase(x_total[5m])", kept, 630.0)[""] == pytest.approx(30.0)


def test_a_restart_is_no_loss() -> None:
    assert increase(Window.of([(0.0, 90.0), (60.0, 100.0), (120.0, 4.0)]), 120.0, 120.0) == 14.0


def test_a_counter_is_not_taken_to_have_been_below_nothing() -> None:
    # 1 after a minute, 7 after two: it was 0 ten seconds before the first, so 7 at most; evenly spread it would be 12.
    assert increase(Window.of([(60.0, 1.0), (120.0, 7.0)]), 120.0, 120.0) == pytest.approx(7.0)
    assert increase(Window.of([(60.0, 100.0), (120.0, 106.0)]), 120.0, 120.0) == pytest.approx(12.0)


def test_one_sample_says_nothing() -> None:
    assert ask("rate(x_total[1m])", samples(("x_total", {}, [5.0])), 30.0) == {}


@pytest.mark.parametrize(
    ("share", "buckets", "value"),
    [
        (0.5, [(1.0, 10.0), (2.0, 20.0), (math.inf, 20.0)], 1.0),
        (0.75, [(1.0, 10.0), (2.0, 20.0), (math.inf, 20.0)], 1.5),
        (0.25, [(1.0, 10.0), (2.0, 20.0), (math.inf, 20.0)], 0.5),
        (0.99, [(1.0, 10.0), (2.0, 20.0), (math.inf, 40.0)], 2.0),
        (0.1, [(-1.0, 10.0), (2.0, 20.0), (math.inf, 20.0)], -1.0),
        (0.75, [(2.0, 20.0), (math.inf, 20.0), (1.0, 10.0)], 1.5),
    ],
)
def test_quantiles_by_hand(share: float, buckets: list[tuple[float, float]], value: float) -> None:
    assert quantile(share, buckets) == pytest.approx(value)


@pytest.mark.parametrize("buckets", [[(1.0, 5.0), (2.0, 5.0)], [(math.inf, 5.0)], [(1.0, 0.0), (math.inf, 0.0)]])
def test_no_quantile_of_nothing(buckets: list[tuple[float, float]]) -> None:
    assert math.isnan(quantile(0.5, buckets))


def test_no_share_of_nothing_is_above_a_limit() -> None:
    kept = samples(("x_total", {}, [3.0] * 9), ("y_total", {}, [5.0] * 9))
    assert math.isnan(ask("rate(x_total[5m]) / rate(y_total[5m])", kept, 480.0)[""])
    assert ask("rate(x_total[5m]) / rate(y_total[5m]) > 0", kept, 480.0) == {}
    assert ask("x_total / (y_total - 5)", kept, 480.0) == {"": math.inf}


def test_a_series_that_ended_is_not_shown_and_still_counts() -> None:
    kept = samples(("x_total", {}, counter((4, 1.0))))
    kept.end(labels_of({"__name__": "x_total"}), 300.0)
    assert ask("x_total", kept, 270.0) == {"__name__=x_total": 4.0}
    assert ask("x_total", kept, 300.0) == {}
    assert ask("increase(x_total[5m])", kept, 300.0)[""] > 0.0
    assert ask('absent(x_total{job="a",job!="b",v=~"c"})', kept, 300.0) == {"": 1.0}
    assert ask('absent(x_total{job="a"})', kept, 300.0) == {"job=a": 1.0}


def test_a_sample_counts_for_five_minutes() -> None:
    kept = samples(("x", {}, [1.0]))
    assert ask("x", kept, 300.0) and not ask("x", kept, 300.001)


def test_two_sides_that_cannot_be_told_apart() -> None:
    kept = samples(("x", {"a": "1"}, [1.0]), ("x", {"a": "2"}, [1.0]), ("y", {}, [1.0]))
    with pytest.raises(ConfigError, match="on the left"):
        ask("x * on () y", kept, 0.0)
    with pytest.raises(ConfigError, match="on the right"):
        ask("y * on () x", kept, 0.0)
    assert ask("x * on () group_left () y", kept, 0.0) == {"a=1": 1.0, "a=2": 1.0}


def test_memory_is_bounded() -> None:
    kept = Samples(600.0, max_series=2)
    one, two, three = (labels_of({"__name__": "x", "a": name}) for name in "abc")
    for step in range(10_000):
        kept.add(one, float(step), 1.0)
    kept.add(two, 0.0, 1.0)
    assert len(kept.window(Selector("x", (), 1e6), 1e4)[one]) < 700
    with pytest.raises(ServerError, match="more than 2 series"):
        kept.add(three, 1.0, 1.0)
    kept.forget_old(9_999.0)
    kept.add(three, 9_999.0, 1.0)
    assert len(kept) == 2


def test_the_distant_past_grows_coarse_and_no_restart_is_forgotten() -> None:
    kept, total, value = Samples(1e9), 0, 0.0
    labels = labels_of({"__name__": "x_total"})
    for step in range(3 * MAX_SAMPLES):
        value = 0.0 if step % 100 == 99 else value + 1.0
        total += value > 0.0
        kept.add(labels, float(step), value)
    now_s, range_s = 3.0 * MAX_SAMPLES - 1, 3.0 * MAX_SAMPLES - 1
    window = kept.window(Selector("x_total", (), range_s), now_s)[labels]
    assert MAX_SAMPLES // 2 < len(window) <= MAX_SAMPLES
    assert increase(window, now_s, range_s) == pytest.approx(total - 1.0)


def test_an_old_look_is_right_or_refused_and_a_coarse_one_never_ahead() -> None:
    """A counter that grows by chance, restarts, ends and comes back, beside a list that forgets nothing."""
    rng = random.Random(0)
    kept, labels, selector = Samples(1e9), labels_of({"__name__": "x_total"}), Selector("x_total")
    truth: list[float | None] = []
    value, away = 0.0, 0
    kept.count_from(3_000.0)
    for step in range(5 * MAX_SAMPLES):
        if away == 0 and rng.random() < 0.0003:
            kept.end(labels, float(step))
            away = rng.randrange(1, 400)
        if away:
            away -= 1
            truth.append(None)
            continue
        value = 0.0 if rng.random() < 0.001 else value + (rng.random() < 0.05)
        kept.add(labels, float(step), value)
        truth.append(value)
    window = kept.window(Selector("x_total", (), 1e9), len(truth))[labels]
    assert len(window) <= MAX_SAMPLES
    assert window.times[window.first] == 0.0
    refused = 0
    for step, expected in enumerate(truth):
        try:
            assert kept.latest(selector, float(step)).get(labels) == expected, step
        except ConfigError:
            refused += 1
            coarse = kept.latest(selector, float(step), coarse=True).get(labels)
            assert coarse is not None and expected is not None and coarse <= expected, step
    assert 0 < refused < len(truth) / 2
    assert kept.latest(selector, 3_000.0).get(labels) == truth[3_000]
    ages = [(len(truth) - 1 - window.times[place], place) for place in range(window.first, window.last - 1)]
    gaps = [(window.times[place + 1] - window.times[place], age) for age, place in ages]
    assert all(gap <= max(400.0, 8.0 * age / FINEST) for gap, age in gaps), "coarse in proportion to the age"


def test_a_counter_that_restarts_all_the_time_is_bounded_and_its_past_unknown() -> None:
    kept, labels, selector = Samples(1e9), labels_of({"__name__": "x_total"}), Selector("x_total")
    for step in range(3 * MAX_SAMPLES):
        kept.add(labels, float(step), float(step % 3))
    assert len(kept.window(Selector("x_total", (), 1e9), 1e9)[labels]) <= MAX_SAMPLES
    unknown = 0
    for step in range(1, 2_000):
        try:
            assert kept.latest(selector, float(step), coarse=True) == {labels: step % 3}
        except ConfigError:
            unknown += 1
    assert unknown > 1_000


def test_a_gauge_of_long_ago_is_drawn_coarsely() -> None:
    kept, labels = Samples(1e9), labels_of({"__name__": "x"})
    for step in range(3 * MAX_SAMPLES):
        kept.add(labels, float(step), math.sin(step / 500.0))
    for step in range(0, 12_000, 100):
        (value,) = kept.latest(Selector("x"), float(step), coarse=True).values()
        assert value == pytest.approx(math.sin(step / 500.0), abs=2.0 * 4.0 * 12.0 / 500.0)


def test_what_was_when_the_kept_begins_is_kept_too() -> None:
    kept, labels = Samples(1_005.0), labels_of({"__name__": "x_total"})
    for step in range(400):
        kept.add(labels, 10.0 * step, float(step))
        if step > 101:
            assert kept.latest(Selector("x_total"), 10.0 * step - 1_005.0) == {labels: step - 101.0}, step


def test_an_alert_waits_fires_and_resolves_once() -> None:
    alert = Alert(
        name="Up",
        expr="up == 0",
        hold_s=120.0,
        severity=Severity.PAGE,
        summary="{{ $labels.job }}",
        first_step="",
        runbook="",
    )
    evaluator = Evaluator([RuleGroup("g", (alert,))])
    seen = []
    for step, value in enumerate([1, 0, 0, 0, 0, 1, 1]):
        evaluator.samples.add(labels_of({"__name__": "up", "job": "a"}), step * 60.0, value)
        seen.append(
            [(told.state, told.since_s, told.annotations["summary"]) for told in evaluator.evaluate(step * 60.0)]
        )
    pending, fires, over = ([(state, 60.0, "a")] for state in (State.PENDING, State.FIRING, State.RESOLVED))
    assert seen == [[], pending, pending, fires, fires, over, []]


def drawn(rng: random.Random) -> Case:
    """An hour of a service that behaves as chance will have it: bursts, restarts, gaps."""
    length = 60

    def some_counter(step: int) -> tuple[float | None, ...]:
        value, values = float(rng.randrange(50)), []
        for _ in range(length):
            value = 0.0 if rng.random() < 0.02 else value + rng.randrange(step + 1)
            values.append(None if rng.random() < 0.03 else value)
        return tuple(values)

    def some_gauge(*values: float) -> tuple[float | None, ...]:
        phases: list[tuple[int, float | None]] = []
        while sum(count for count, _ in phases) < length:
            phases.append((rng.randrange(1, 15), rng.choice([*values, None])))
        return gauge(*phases)[:length]

    who = [{"policy": policy, "version": version} for policy in ("rl_policy", "cartpole") for version in ("1", "2")]
    series = [Series("up", {"job": "rlcourse", "instance": "a"}, some_gauge(0, 1))]
    for names in who:
        for bound, step in (("0.05", 20), ("0.1", 40), ("0.2", 41), ("+Inf", 42)):
            series.append(Series("rl_request_seconds_bucket", {**names, "le": bound}, some_counter(step)))
        series.append(Series("rl_request_seconds_count", names, some_counter(42)))
        for reason, step in (("none", 100), ("timeout", 4), ("error", 2), ("non_finite", 3)):
            series.append(Series("rl_decisions_total", {**names, "fallback": reason}, some_counter(step)))
        series.append(Series("rl_breaker_state", names, some_gauge(0, 0, 1, 2)))
        series.append(Series("rl_safety_violation_ratio", names, some_gauge(0, 0.009, 0.02)))
        series.append(Series("rl_safety_violating_steps", names, some_gauge(2, 3, 4)))
        series.append(Series("rl_policy_entropy_nats", names, some_gauge(0.1007, 0.53, 1.07)))
        series.append(Series("rl_episode_return_mean", names, some_gauge(-56, -54, 420, 475)))
        series.append(Series("rl_episode_return_count", names, some_counter(1)))
    series += [Series("rl_refused_total", {"status": status}, some_counter(2)) for status in ("429", "503", "422")]
    series.append(Series("rl_default_version", {**who[0], "job": "rlcourse", "instance": "a"}, some_gauge(1, 1, 1)))
    series.append(Series("rl_drift_alarm", {"policy": "rl_policy", "check": "mmd"}, some_gauge(0, 1)))
    return Case("drawn", tuple(series), (Moment((length + 5) * 60.0, "TargetDown"),))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_prometheus_sees_the_same_alerts_at_every_minute(seed: int, tmp_path: Path) -> None:
    """What fires here is written down as what must fire there, for every alert, every minute, and every label."""
    case = drawn(random.Random(seed))
    names = sorted({rule.name for group in GROUPS for rule in group.rules if isinstance(rule, Alert)})
    moments, values = [], []
    for now_s, evaluator in replay(case, GROUPS, case.moments[0].at_s):
        fire = firing(evaluator)
        for name in names:
            labels = [dict(alert.labels) for alert in fire if alert.name == name]
            moments.append(Moment(now_s, name, tuple(labels)))
        if now_s % 1200.0 == 0.0:
            values += [(now_s, query, evaluate(parse(query), evaluator.samples, now_s)) for query in recorded()]
    assert len({moment.alert for moment in moments if moment.fires}) > len(names) // 2, "chance was too kind"
    more = [
        "avg by (policy) (rl_breaker_state)",
        "count by (version) (up)",
        "min_over_time(rl_policy_entropy_nats[10m])",
    ]
    for now_s, evaluator in replay(case, GROUPS, 1800.0):
        if now_s == 1800.0:
            values += [(now_s, query, evaluate(parse(query), evaluator.samples, now_s)) for query in more]
    ((name, text),) = case_files([Case("drawn", case.series, tuple(moments))], GROUPS, rule_file="rules.yml").items()
    content = yaml.safe_load(text)
    content["tests"][0]["promql_expr_test"] = [
        {
            "expr": f"round({query} * 1e6)",
            "eval_time": f"{now_s:.0f}s",
            "exp_samples": [
                {"labels": label_text({k: v for k, v in labels if k != "__name__"}), "value": float(round(value * 1e6))}
                for labels, value in answer.items()
            ],
        }
        for now_s, query, answer in values
    ]
    (tmp_path / "rules.yml").write_text(rule_file(GROUPS))
    (tmp_path / name).write_text(yaml.safe_dump(content, sort_keys=False))
    promtool.run_cases(tmp_path / name)


def recorded() -> list[str]:
    return sorted({rule.name for group in GROUPS for rule in group.rules if not isinstance(rule, Alert)})


def label_text(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
