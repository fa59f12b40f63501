"""Chapter 17's exercises: references agree with other ways to reckon the same, symptoms are true."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from rlcourse.course import cases_ch17 as cases
from rlcourse.course.exercise_set import Exercise
from rlcourse.course.mutation import mutated
from rlcourse.monitoring.embedded import Evaluator, State
from rlcourse.monitoring.rules import Alert, RuleGroup, Severity
from rlcourse.monitoring.samples import labels_of

drawn = pytest.mark.parametrize("seed", range(20))


def planted(exercise: Exercise) -> Callable[..., Any]:
    assert exercise.mutation is not None
    return mutated(exercise.reference, exercise.mutation)


def test_there_are_functions_to_write_and_bugs_to_find() -> None:
    kinds = [exercise.kind for exercise in cases.EXERCISES]
    assert (kinds.count("function"), kinds.count("hunt")) == (6, 2)
    assert {exercise.file for exercise in cases.EXERCISES} == {"ch17_monitoring"}


# The references against other ways


@drawn
def test_a_merged_percentile_is_one_of_the_requests_themselves(seed: int) -> None:
    """Requests spread evenly in their buckets, one by one; the exact percentile of all of them lies next to it."""
    given = cases.MERGED_PERCENTILE.draw(np.random.default_rng(seed))
    bounds, counts = [0.0, *given["bounds"]], given["counts"].numpy()
    requests: list[float] = []
    for row in counts:
        for low, high, count in zip(bounds, bounds[1:], np.diff(row, prepend=0.0).astype(int), strict=False):
            requests += [low + (high - low) * (k + 0.5) / count for k in range(count)]
    exact = float(np.quantile(requests, given["share"]))
    assert cases.merged_percentile(**given) == pytest.approx(exact, abs=0.03)


@drawn
def test_a_drift_index_is_symmetric_and_never_negative(seed: int) -> None:
    given = dict(cases.DRIFT_INDEX.draw(np.random.default_rng(seed)))
    index = cases.drift_index(**given)
    swapped = cases.drift_index(given["window"], given["reference"], given["edges"], given["floor"])
    assert index > 0.0 and index == pytest.approx(swapped)
    assert cases.drift_index(given["reference"], given["reference"], given["edges"], given["floor"]) == 0.0


def test_holm_keeps_the_chance_of_any_false_alarm() -> None:
    rng = np.random.default_rng(0)
    p_values = torch.from_numpy(rng.random((4_000, 8)))
    wrong = np.mean([bool(cases.holm_alarms(row, 0.1).any()) for row in p_values])
    assert wrong == pytest.approx(1.0 - (1.0 - 0.1 / 8) ** 8, abs=0.015)
    alone = float((p_values <= 0.1).any(1).float().mean())
    assert alone > 0.5, "each by itself"


@drawn
def test_the_share_rewarded_is_scipys_product_limit(seed: int) -> None:
    given = cases.SHARE_REWARDED.draw(np.random.default_rng(seed))
    age, arrived = given["age_s"].numpy(), given["arrived"].numpy()
    data = stats.CensoredData.right_censored(age, ~arrived)
    waiting = stats.ecdf(data).sf.evaluate(given["horizon_s"])
    assert cases.share_rewarded(**given) == pytest.approx(1.0 - float(waiting))


def test_the_share_rewarded_is_the_truth_where_the_others_are_not() -> None:
    rng = np.random.default_rng(1)
    delay, age = rng.exponential(10.0, 50_000), rng.uniform(0.0, 20.0, 50_000)
    arrived = torch.from_numpy(delay <= age)
    seen = torch.from_numpy(np.minimum(delay, age)).float().round(decimals=1)
    truth = 1.0 - math.exp(-1.5)
    assert cases.share_rewarded(seen, arrived, 15.0) == pytest.approx(truth, abs=0.02)
    for mistake in cases.SHARE_REWARDED.mistakes[:3]:
        assert abs(mistake.implementation(seen, arrived, 15.0) - truth) > 0.05, mistake.name


@drawn
def test_burning_is_what_two_loops_find(seed: int) -> None:
    given = cases.BURNING.draw(np.random.default_rng(seed))
    bad, total = given["bad"].tolist(), given["total"].tolist()

    def rate(minute: int, width: int) -> float:
        window = range(max(0, minute - width + 1), minute + 1)
        made = sum(total[k] for k in window)
        return sum(bad[k] for k in window) / made / (1.0 - given["objective"]) if made else 0.0

    wanted = [
        rate(minute, given["long"]) > given["limit"] and rate(minute, given["short"]) > given["limit"]
        for minute in range(len(bad))
    ]
    assert cases.burning(**given).tolist() == wanted


@drawn
def test_the_evaluator_fires_at_the_same_steps(seed: int) -> None:
    given = cases.ALERT_FIRES.draw(np.random.default_rng(seed))
    rule = Alert(
        name="Bad",
        expr=f"x > {given['threshold']}",
        hold_s=given["hold_s"],
        severity=Severity.PAGE,
        summary="",
        first_step="",
        runbook="",
    )
    evaluator, labels = Evaluator([RuleGroup("g", (rule,))]), labels_of({"__name__": "x"})
    fires = []
    for step, value in enumerate(given["values"].tolist()):
        now_s = step * given["step_s"]
        evaluator.samples.add(labels, now_s, value)
        evaluator.evaluate(now_s)
        fires.append(any(alert.state is State.FIRING for alert in evaluator.active()))
    assert cases.alert_fires(**given).tolist() == fires


@drawn
def test_the_percentile_of_a_day_is_numpys(seed: int) -> None:
    given = cases.HUNT_PERCENTILE_OF_DAY.draw(np.random.default_rng(seed))
    found = np.quantile(torch.cat(given["windows"]).numpy(), given["share"], method="inverted_cdf")
    assert cases.percentile_of_day(**given) == pytest.approx(float(found))


# What the hunts say goes wrong does go wrong


def test_the_averaged_percentile_hides_a_busy_hour() -> None:
    """The symptom: 15 ms on the chart, and one request in six over 50 ms; each window by itself is right."""
    bug = planted(cases.HUNT_PERCENTILE_OF_DAY)
    given = cases.HUNT_PERCENTILE_OF_DAY.draw(np.random.default_rng(3))
    windows = given["windows"]
    assert bug(windows, 0.95) < 16.0
    assert (torch.cat(windows) > 50.0).float().mean().item() == pytest.approx(1 / 6, abs=0.03)
    assert cases.percentile_of_day(windows, 0.95) > 50.0
    for window in windows:
        assert bug([window], 0.95) == cases.percentile_of_day([window], 0.95)


def test_the_survivors_look_worse_until_the_horizon_has_passed() -> None:
    rng = np.random.default_rng(0)
    decided = torch.from_numpy(rng.uniform(0.0, 200.0, 40_000)).float()
    good = torch.from_numpy(rng.random(40_000) < 0.7)
    delay = torch.where(good, 40.0, 5.0) + torch.from_numpy(rng.uniform(0.0, 10.0, 40_000)).float()
    bug = planted(cases.HUNT_MEAN_OUTCOME)
    assert bug(decided, delay, good.float(), 60.0, 50.0)[0] < 0.45, "a new version, a minute old"
    assert cases.mean_outcome(decided, delay, good.float(), 60.0, 50.0)[0] == pytest.approx(0.7, abs=0.02)
    looks = [bug(decided, delay, good.float(), now, 50.0)[0] for now in (60.0, 100.0, 150.0, 260.0)]
    assert looks == sorted(looks)
    assert looks[-1] == pytest.approx(0.7, abs=0.02), "all have settled"
