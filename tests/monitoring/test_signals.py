from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from rlcourse.errors import ConfigError, DatasetInvalidError, RLCourseError, ShapeError
from rlcourse.evaluation.statistics import wilson_interval
from rlcourse.monitoring.signals import (
    CENSORED,
    FAILURE,
    SUCCESS,
    cost_per_hour,
    cumulative_incidence,
    entropy_nats,
    finite,
    mean_interval,
    return_on_investment,
    steps_to_threshold,
)


def test_wilson_worked_number_and_its_own_equation() -> None:
    found = wilson_interval(8, 10)
    assert (found.estimate, found.low, found.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    z, n, p = 1.959964, 10, 0.8
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert found.high - found.low == pytest.approx(2 * half, abs=1e-5)
    none = wilson_interval(0, 10)
    assert none.low == 0.0
    assert none.high == pytest.approx(z * z / (n + z * z), abs=1e-5), "closed form at no success; not zero wide"


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("trials", [1, 2, 17, 200, 1_000_000])
def test_wilson_is_scipys(trials: int, confidence: float) -> None:
    for successes in sorted({0, 1, trials // 3, trials - 1, trials}):
        theirs = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
        ours = wilson_interval(successes, trials, confidence=confidence)
        assert ours.estimate == successes / trials
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.0, abs=1e-12)
        assert 0.0 <= ours.low <= ours.estimate <= ours.high <= 1.0


def test_wilson_covers_the_truth_where_the_textbook_interval_does_not() -> None:
    """Share 0.02, 50 episodes: the chance to cover, summed over the binomial distribution, not sampled."""
    n, p = 50, 0.02
    chance = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    covers = [wilson_interval(k, n) for k in range(n + 1)]
    wilson = sum(c for c, found in zip(chance, covers, strict=True) if found.low <= p <= found.high)
    wald = sum(c for k, c in enumerate(chance) if abs(k / n - p) <= 1.96 * math.sqrt(k / n * (1 - k / n) / n))
    assert wilson > 0.9
    assert wald < 0.65


def test_mean_interval_worked_number() -> None:
    found = mean_interval([1, 2, 3, 4, 5])
    assert (found.estimate, found.low, found.high) == pytest.approx((3.0, 1.0368, 4.9632), abs=1e-4)
    assert mean_interval([7.0]).high == math.inf


def test_entropy_worked_number_and_bounds() -> None:
    assert entropy_nats([0.5, 0.25, 0.25]) == pytest.approx(1.5 * math.log(2))
    rows = entropy_nats([[1.0, 0.0, 0.0, 0.0], [0.25] * 4])
    np.testing.assert_allclose(rows, [0.0, math.log(4)])


def test_cost_per_hour_is_a_ratio_of_sums() -> None:
    assert cost_per_hour([6.0, 1.0], [2.0, 0.5]) == pytest.approx(2.8)
    assert cost_per_hour([1.0, 2.0, 3.0], 1 / 6) == pytest.approx(12.0)


def test_roi_worked_number() -> None:
    found = return_on_investment([8.0, 9.0, 10.0], [10.0, 10.0, 10.0], paired=True)
    half = 4.302653 / math.sqrt(3) / 10
    assert (found.estimate, found.low, found.high) == pytest.approx((0.1, 0.1 - half, 0.1 + half), abs=1e-6)


def test_pairs_that_share_their_days_are_told_apart_sooner() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(100.0, 20.0, 60)
    ours = 0.9 * base + rng.normal(0.0, 1.0, 60)
    paired = return_on_investment(ours, base, paired=True)
    unpaired = return_on_investment(ours, base, paired=False)
    assert paired.low > 0.05, "a tenth saved, and it shows"
    assert unpaired.high - unpaired.low > 10 * (paired.high - paired.low)


@pytest.mark.parametrize("paired", [True, False])
def test_the_roi_interval_covers_as_often_as_it_says(paired: bool) -> None:
    rng = np.random.default_rng(1)
    trials, covered = 2_000, 0
    for _ in range(trials):
        day = rng.normal(0.0, 10.0, 20) if paired else 0.0
        base, ours = 100.0 + day + rng.normal(0.0, 5.0, 20), 85.0 + day + rng.normal(0.0, 5.0, 20)
        found = return_on_investment(ours, base, paired=paired)
        covered += found.low <= 0.15 <= found.high
    error = math.sqrt(0.95 * 0.05 / trials)
    assert abs(covered / trials - 0.95) < (4 * error if paired else 4 * error + 0.01), covered / trials


def test_steps_to_threshold_worked_number() -> None:
    steps, returns = [1000, 2000, 3000, 4000, 5000], [100.0, 480.0, 300.0, 490.0, 500.0]
    assert steps_to_threshold(steps, returns, 475.0) == 2000
    assert steps_to_threshold(steps, returns, 475.0, in_a_row=2) == 4000
    assert steps_to_threshold(steps, returns, 501.0) == math.inf
    assert steps_to_threshold([1], [math.nan], 0.0) == math.inf


def test_incidence_worked_number() -> None:
    ages, outcomes = [1, 2, 4, 3, 3], [FAILURE, FAILURE, SUCCESS, CENSORED, CENSORED]
    assert cumulative_incidence(ages, outcomes, 5.0) == pytest.approx(0.6)
    assert cumulative_incidence(ages, outcomes, 3.9) == 0.0


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from([SUCCESS, FAILURE])), min_size=1, max_size=30))
def test_incidence_without_censoring_is_the_plain_share(pairs: list[tuple[int, int]]) -> None:
    ages, outcomes = zip(*pairs, strict=True)
    plain = sum(outcome == SUCCESS and age <= 5 for age, outcome in pairs) / len(pairs)
    assert cumulative_incidence(ages, outcomes, 5) == pytest.approx(plain)


def test_incidence_is_right_where_the_share_of_what_has_ended_is_not() -> None:
    """Half of all fail within a day, half succeed after nine; most have not been running for as long."""
    rng = np.random.default_rng(2)
    count = 20_000
    good, began = rng.random(count) < 0.5, rng.uniform(0.0, 10.0, count)
    lasts, age_now = np.where(good, 9.0, rng.uniform(0.0, 1.0, count)), 10.0 - began
    ended = lasts <= age_now
    outcome = np.where(~ended, CENSORED, good.astype(int))
    naive = float(good[ended].mean())
    found = cumulative_incidence(np.minimum(lasts, age_now), outcome, 10.0)
    assert naive < 0.15
    assert found == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: finite([], "rewards"), DatasetInvalidError),
        (lambda: finite([1.0, math.nan], "rewards"), DatasetInvalidError),
        (lambda: wilson_interval(0, 0), DatasetInvalidError),
        (lambda: wilson_interval(3, 2), ConfigError),
        (lambda: wilson_interval(1, 2, confidence=1.0), ConfigError),
        (lambda: entropy_nats([0.5, 0.6]), DatasetInvalidError),
        (lambda: entropy_nats([1.5, -0.5]), DatasetInvalidError),
        (lambda: cost_per_hour([1.0], [0.0]), ConfigError),
        (lambda: return_on_investment([1.0, 2.0], [1.0, 2.0, 3.0], paired=True), ShapeError),
        (lambda: return_on_investment([1.0], [1.0], paired=True), DatasetInvalidError),
        (lambda: return_on_investment([1.0, 2.0], [-1.0, 1.0], paired=False), DatasetInvalidError),
        (lambda: steps_to_threshold([1, 2], [1.0], 0.0), ShapeError),
        (lambda: steps_to_threshold([2, 1], [1.0, 1.0], 0.0), ConfigError),
        (lambda: cumulative_incidence([1.0], [1, 0], 2.0), ShapeError),
        (lambda: cumulative_incidence([1.0], [7], 2.0), DatasetInvalidError),
    ],
)
def test_what_cannot_be_computed_is_a_typed_error(call: Callable[[], object], kind: type[RLCourseError]) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.mend
