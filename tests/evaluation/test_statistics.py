"""Statistics against rliable's definitions, brute force and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rlcourse.errors import ConfigError, ShapeError
from rlcourse.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
)
from rlcourse.randomness import Seeds

scores = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=12)


def rng() -> np.random.Generator:
    return Seeds(0).numpy("bootstrap")


def test_worked_numbers() -> None:
    assert interquartile_mean(np.array([0.0, 1, 2, 3, 4, 5, 6, 100])) == pytest.approx(3.5)
    assert probability_of_improvement([1, 2, 3], [2, 2, 0], rng=rng()).estimate == pytest.approx(6 / 9)


@given(scores)
def test_the_interquartile_mean_is_the_mean_without_a_quarter_at_either_end(values: list[float]) -> None:
    cut = len(values) // 4
    kept = sorted(values)[cut : len(values) - cut]
    assert interquartile_mean(np.array(values)) == pytest.approx(sum(kept) / len(kept))


def test_the_interquartile_mean_of_a_matrix_of_tasks_pools_them_as_rliable_does() -> None:
    # rliable.metrics.aggregate_iqm: scipy.stats.trim_mean(scores, proportiontocut=0.25, axis=None)
    matrix = rng().normal(size=(10, 3))
    found = bootstrap_interval(matrix, rng=rng()).estimate
    assert found == pytest.approx(float(stats.trim_mean(matrix, proportiontocut=0.25, axis=None)))


def test_the_bootstrap_resamples_runs_within_each_task() -> None:
    """Two tasks far apart: mixing them up would widen the interval by a hundred."""
    matrix = np.array([[0.0, 100.0], [1.0, 101.0], [2.0, 102.0]])
    found = bootstrap_interval(matrix, rng=rng(), statistic=lambda s: s.mean(-1))
    assert found.estimate == pytest.approx(51.0)
    assert 50.0 <= found.low < 51.0 < found.high <= 52.0


def test_the_bootstrap_agrees_with_a_plain_loop() -> None:
    matrix = np.round(rng().normal(size=(6, 2)) * 10)
    drawn, means = np.random.default_rng(1), []
    for _ in range(4_000):
        pooled = [matrix[drawn.integers(6), task] for task in range(2) for _ in range(6)]
        means.append(stats.trim_mean(pooled, 0.25))
    low, high = np.percentile(means, [2.5, 97.5])
    found = bootstrap_interval(matrix, rng=rng(), resamples=4_000)
    spread = float(np.std(means))
    assert found.low == pytest.approx(low, abs=0.25 * spread)
    assert found.high == pytest.approx(high, abs=0.25 * spread)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(confidence: float) -> None:
    """30 runs of a normal distribution, 400 times over.

    A percentile interval from 30 runs is known to be a little narrow (its spread is sqrt(29/30) of the right one, and
    it uses normal instead of t quantiles: about 1.5 points of coverage), and 400 repetitions have a standard error of
    1 to 2 points; so 6 points either way.
    """
    data = rng().normal(3.0, 2.0, size=(400, 30))
    draws = np.random.default_rng(2)
    found = [bootstrap_interval(row, rng=draws, confidence=confidence, resamples=400) for row in data]
    covered = np.mean([interval.low <= 3.0 <= interval.high for interval in found])
    assert abs(covered - confidence) < 0.06


def test_more_confidence_is_a_wider_interval() -> None:
    data = rng().normal(size=20)
    widths = [(i.high - i.low) for c in (0.5, 0.8, 0.95) for i in [bootstrap_interval(data, rng=rng(), confidence=c)]]
    assert widths == sorted(widths) and widths[0] < widths[-1]


@given(scores)
@settings(max_examples=30, deadline=None)
def test_an_interval_stays_within_the_range_of_the_runs(values: list[float]) -> None:
    found = bootstrap_interval(values, rng=rng(), resamples=50)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


@given(scores, scores)
@settings(max_examples=60, deadline=None)
def test_probability_of_improvement_counts_pairs_and_ties_half(ours: list[float], theirs: list[float]) -> None:
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(ours, theirs)]
    found = probability_of_improvement(ours, theirs, rng=rng(), resamples=20)
    assert found.estimate == pytest.approx(sum(wins) / len(wins))
    other = probability_of_improvement(theirs, ours, rng=rng(), resamples=20)
    assert found.estimate + other.estimate == pytest.approx(1.0)


@given(scores, scores)
@settings(max_examples=30, deadline=None)
def test_probability_of_improvement_is_the_mann_whitney_statistic(ours: list[float], theirs: list[float]) -> None:
    # rliable.metrics.probability_of_improvement: mannwhitneyu / (R S), averaged over tasks
    u = stats.mannwhitneyu(ours, theirs, alternative="greater", method="asymptotic").statistic
    found = probability_of_improvement(ours, theirs, rng=rng(), resamples=5)
    assert found.estimate == pytest.approx(u / (len(ours) * len(theirs)))


def test_improvement_is_averaged_over_tasks_and_never_compared_across_them() -> None:
    ours, theirs = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 100.0], [0.0, 0.0]])
    found = probability_of_improvement(ours, theirs, rng=rng())
    assert found.estimate == pytest.approx((1.0 + 0.25) / 2)
    assert found.low <= found.estimate <= found.high


def test_a_profile_is_the_share_of_runs_above_each_threshold() -> None:
    found = performance_profile([1, 2, 3, 4], [0, 1, 2, 3.5, 4], rng=rng())
    assert found.share.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0], "above, not at"
    assert found.thresholds.tolist() == [0, 1, 2, 3.5, 4]
    assert (found.low <= found.share).all() and (found.share <= found.high).all()
    assert (found.low[0], found.high[0], found.low[-1], found.high[-1]) == (1, 1, 0, 0)


def test_a_profile_of_several_tasks_is_the_mean_of_theirs_as_in_rliable() -> None:
    # rliable.library.run_score_deviation: the mean over runs and tasks of (score > tau)
    matrix = rng().normal(size=(7, 3))
    levels = np.linspace(-2, 2, 9)
    each = [performance_profile(matrix[:, task], levels, rng=rng()).share for task in range(3)]
    assert performance_profile(matrix, levels, rng=rng()).share == pytest.approx(np.mean(each, axis=0))


def test_a_profiles_band_agrees_with_a_plain_loop() -> None:
    matrix, levels, drawn = rng().normal(size=(8, 2)), np.array([-0.5, 0.0, 0.5]), np.random.default_rng(1)
    shares = []
    for _ in range(3_000):
        pooled = np.array([matrix[drawn.integers(8), task] for task in range(2) for _ in range(8)])
        shares.append([(pooled > level).mean() for level in levels])
    low, high = np.percentile(shares, (2.5, 97.5), axis=0)
    found = performance_profile(matrix, levels, rng=rng(), resamples=3_000)
    assert found.low == pytest.approx(low, abs=1 / 16) and found.high == pytest.approx(high, abs=1 / 16)


@given(scores)
@settings(max_examples=30, deadline=None)
def test_the_area_under_a_profile_is_the_mean(values: list[float]) -> None:
    levels = np.arange(-6.0, 6.0)  # whole scores: each step of the profile is one wide
    found = performance_profile(values, levels, rng=rng(), resamples=5)
    assert -6.0 + found.share.sum() == pytest.approx(np.mean(values))
    assert (np.diff(found.share) <= 0).all()


def test_the_same_stream_gives_the_same_interval() -> None:
    data = [1.0, 5.0, 2.0, 8.0]
    assert bootstrap_interval(data, rng=rng()) == bootstrap_interval(data, rng=rng())


def test_one_run_has_an_interval_of_no_width() -> None:
    assert bootstrap_interval([7.0], rng=rng()) == Interval(7.0, 7.0, 7.0)


@pytest.mark.parametrize("bad", [[], [[]], 3.0, [[[1.0]]]])
def test_scores_of_another_shape_are_refused(bad: object) -> None:
    with pytest.raises(ShapeError):
        bootstrap_interval(bad, rng=rng())  # type: ignore[arg-type]


def test_scores_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="not finite"):
        bootstrap_interval([1.0, float("nan")], rng=rng())
    with pytest.raises(ShapeError, match="1 and 2 tasks"):
        probability_of_improvement([1.0], [[1.0, 2.0]], rng=rng())
    for confidence in (0.0, 1.0, 95.0):
        with pytest.raises(ConfigError):
            bootstrap_interval([1.0], rng=rng(), confidence=confidence)
        with pytest.raises(ConfigError):
            probability_of_improvement([1.0], [2.0], rng=rng(), confidence=confidence)


def test_an_interval_is_printed_with_its_estimate_first() -> None:
    assert str(Interval(1.0, 0.25, 2.0)) == "1.0 [0.2, 2.0]"
    assert f"{Interval(1.0, 0.25, 2.0):.2f}" == "1.00 [0.25, 2.00]"
