from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rlcourse.errors import ConfigError, DatasetInvalidError, RLCourseError, ShapeError
from rlcourse.monitoring.drift import (
    FalseAlarmBudget,
    QuantileBins,
    Reservoir,
    action_counts,
    autocorrelation_time,
    benjamini_hochberg,
    chi_square,
    holm,
    ks_per_feature,
    median_heuristic,
    one_per_episode,
    permuted_means,
    permuted_mmd,
    psi_per_feature,
    rbf_kernel,
    shuffles,
    squared_mmd,
    stability_index,
    thinned,
    total_variation,
)
from rlcourse.monitoring.drift.permutation import p_values
from tests.monitoring.worlds import autoregression, small_plant

RNG = np.random.default_rng
COLUMN = np.arange(10.0)[:, None]


def margin(level: float, trials: int) -> float:
    """Four standard errors of a measured rate: a right test fails once in 16,000."""
    return 4.0 * math.sqrt(level * (1.0 - level) / trials)


def test_kolmogorov_smirnov_worked_number() -> None:
    (found,) = ks_per_feature([1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, 6.0])
    assert found.statistic == 0.5
    assert found.p_value == pytest.approx(54 / 70), "of the 70 ways to mix four and four, 54 are half apart or more"


def test_stability_index_worked_number_and_symmetry() -> None:
    wanted = -0.25 * math.log(0.5) + 0.25 * math.log(1.5)
    assert stability_index([0.5, 0.5], [0.25, 0.75]) == pytest.approx(wanted)
    assert stability_index([0.25, 0.75], [0.5, 0.5]) == pytest.approx(wanted)
    assert stability_index([0.5, 0.5], [0.5, 0.5]) == 0.0
    assert math.isfinite(float(stability_index([0.5, 0.5], [0.0, 1.0])))


def test_bins_hold_equal_shares_of_the_reference_and_do_not_move() -> None:
    bins = QuantileBins.fit(np.arange(100.0), bins=4)
    np.testing.assert_allclose(bins.shares(np.arange(100.0))[0], [0.25] * 4, atol=0.01)
    np.testing.assert_array_equal(bins.shares([1000.0, -1000.0])[0], [0.5, 0.0, 0.0, 0.5])
    repeated = QuantileBins.fit([1.0] * 9 + [2.0] * 9 + [3.0] * 2, bins=10)
    assert repeated.num_bins == [3], "three prices make three bins"


def test_the_stability_index_without_drift_is_what_chance_makes_it() -> None:
    """9 (1/50 + 1/50) = 0.36, above the 0.25 that is said to be a shift, with nothing shifted."""
    rng = RNG(0)
    base = rng.standard_normal(100_000)
    bins = QuantileBins.fit(base, bins=10)
    index = [
        stability_index(bins.shares(rng.standard_normal(50))[0], bins.shares(rng.standard_normal(50))[0], floor=0.01)
        for _ in range(400)
    ]
    assert np.mean(index) == pytest.approx(0.36, abs=0.06)
    assert np.mean(np.array(index) > 0.25) > 0.6


def test_the_p_value_of_the_stability_index_keeps_its_level() -> None:
    rng, trials = RNG(1), 800
    bins = QuantileBins.fit(rng.standard_normal(50_000), bins=10)
    alarms = sum(
        psi_per_feature(bins, rng.standard_normal(400), rng.standard_normal(300))[0].p_value <= 0.05
        for _ in range(trials)
    )
    assert abs(alarms / trials - 0.05) < margin(0.05, trials) + 0.01, "the chi-square law is asymptotic"


def test_mmd_worked_number() -> None:
    assert squared_mmd([[0.0]], [[3.0]], 3.0) == pytest.approx(2.0 - 2.0 * math.exp(-0.5))
    assert squared_mmd([[0.0, 1.0]], [[0.0, 1.0]], 1.0) == pytest.approx(0.0)
    assert median_heuristic([0.0, 1.0, 3.0]) == 2.0


def test_mmd_of_two_gaussians_is_its_closed_form() -> None:
    """E k(x, y) for x - y ~ N(m, 2): s / sqrt(s^2 + 2) exp(-m^2 / 2 (s^2 + 2))."""
    s, m = 1.5, 1.0
    wanted = 2.0 * s / math.sqrt(s * s + 2) * (1.0 - math.exp(-m * m / (2.0 * (s * s + 2))))
    evenly = stats.norm.ppf((np.arange(1_000) + 0.5) / 1_000)  # a sample without luck
    assert squared_mmd(evenly, m + evenly, s) == pytest.approx(wanted, rel=0.01)


def test_mmd_sees_features_that_swap_partners_and_ks_does_not() -> None:
    rng = RNG(3)
    x = rng.standard_normal((2, 300))
    together, apart = np.stack([x[0], x[0]], 1), np.stack([x[1], -x[1]], 1)
    assert min(one.p_value for one in ks_per_feature(together, apart)) > 0.05
    kernel = rbf_kernel(np.vstack([together, apart]), np.vstack([together, apart]), 1.0)
    assert permuted_mmd(kernel, shuffles(300, 300, 199, rng))[1] == 1 / 200


def test_total_variation_and_chi_square_worked_numbers() -> None:
    assert total_variation([1, 1], [1, 3]) == 0.25
    assert total_variation([0.3, 0.7], [0.3, 0.7]) == 0.0
    found = chi_square([10, 20, 0], [20, 10, 0])
    assert found.statistic == pytest.approx(20 / 3)
    assert found.p_value == pytest.approx(math.erfc(math.sqrt(20 / 3 / 2)))
    assert chi_square([0, 7], [0, 3]).p_value == 1.0


def test_holm_and_benjamini_hochberg_worked_numbers() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(benjamini_hochberg([0.01, 0.04, 0.03]), [0.03, 0.04, 0.04])


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12))
def test_holm_is_stricter_than_benjamini_hochberg_and_laxer_than_bonferroni(p: list[float]) -> None:
    raised, lax = holm(p), benjamini_hochberg(p)
    assert (raised >= lax - 1e-12).all()
    assert (raised <= np.minimum(1.0, len(p) * np.array(p)) + 1e-12).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(raised[order]) >= 0.0).all()


def test_how_often_each_correction_is_wrong() -> None:
    """Ten tests, three of them of something real. Holm: any false finding. Benjamini-Hochberg: the share of them."""
    rng, trials = RNG(4), 2_000
    any_false, share, found = 0, 0.0, np.zeros(3)
    for _ in range(trials):
        z = rng.standard_normal(10) + np.where(np.arange(10) < 3, 3.0, 0.0)
        p = 2.0 * stats.norm.sf(np.abs(z))
        strict, lax = holm(p) <= 0.1, benjamini_hochberg(p) <= 0.1
        any_false += int(strict[3:].any())
        share += lax[3:].sum() / max(1, lax.sum())
        found += [(p <= 0.1)[3:].any(), strict[:3].mean(), lax[:3].mean()]
    assert any_false / trials <= 0.1 + margin(0.1, trials)
    assert share / trials <= 0.1 + margin(0.1, trials)
    assert found[0] / trials > 0.45, "uncorrected, every second window holds a false finding"
    assert found[2] > found[1], "what the laxer one is good for"


def test_a_budget_is_shared_out() -> None:
    assert FalseAlarmBudget(0.05, 10).per_window == pytest.approx(0.005)


def test_autocorrelation_time_is_its_closed_form() -> None:
    rng = RNG(5)
    for memory in (0.0, 0.5, 0.9):
        found = autocorrelation_time(autoregression(1, 200_000, memory, rng)[0])
        assert found == pytest.approx((1 + memory) / (1 - memory), rel=0.1)


def test_ks_on_consecutive_states_cries_drift_and_on_thinned_ones_does_not() -> None:
    """The naive version fails here: nothing has changed, and most of its windows raise an alarm at 5 %."""
    rng, trials, memory = RNG(6), 300, 0.9
    tau = (1 + memory) / (1 - memory)
    naive = thin = 0
    for reference, window in zip(*np.split(autoregression(2 * trials, 1_500, memory, rng), 2), strict=True):
        naive += ks_per_feature(reference, window)[0].p_value <= 0.05
        thin += ks_per_feature(thinned(reference, tau=tau), thinned(window, tau=tau))[0].p_value <= 0.05
    assert naive / trials > 0.6
    # KS on few rows is conservative: its statistic takes few values.
    assert 0.01 < thin / trials < 0.05 + margin(0.05, trials)


def test_one_step_of_every_episode_keeps_the_level() -> None:
    rng, trials = RNG(7), 300
    naive = fair = wrong_actions = 0
    for _ in range(trials):
        logs = [small_plant(60, rng) for _ in range(2)]
        naive += ks_per_feature(*(log.observations[:, 0] for log in logs))[0].p_value <= 0.05
        (a, x), (b, y) = (one_per_episode(log, rng) for log in logs)
        fair += ks_per_feature(a, b)[0].p_value <= 0.05
        wrong_actions += chi_square(action_counts(x, 2), action_counts(y, 2)).p_value <= 0.05
    assert naive / trials > 0.4
    assert fair / trials < 0.05 + margin(0.05, trials)
    assert wrong_actions / trials < 0.05 + margin(0.05, trials)


def test_one_step_of_every_episode_is_any_step() -> None:
    rng = RNG(8)
    log = small_plant(3, rng, steps=4)
    log.observations[:, 0] = np.arange(15)
    drawn = np.array([one_per_episode(log, rng)[0][:, 0] for _ in range(400)])
    assert sorted(set(drawn.ravel())) == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13], (
        "not what was seen after the last step"
    )


def test_p_value_of_a_permutation_worked_number() -> None:
    np.testing.assert_array_equal(p_values(np.array([[5.0], [1.0], [5.0], [7.0]])), [0.75])


def test_permutation_against_all_the_ways_there_are() -> None:
    """Four and two episodes: 15 ways to choose the window; a difference of means as large as seen in 1 of them."""
    units = np.array([[1.0], [2.0], [3.0], [4.0], [9.0], [8.0]])
    chosen = shuffles(4, 2, 6_000, RNG(9))
    seen, p = permuted_means(units, chosen, lambda a, b: np.abs(a - b))
    assert seen == pytest.approx(8.5 - 2.5)
    assert p[0] == pytest.approx(1 / 15, abs=0.013)


def test_mmd_of_shuffled_episodes_is_squared_mmd() -> None:
    rng = RNG(10)
    a, b = rng.standard_normal((6, 2)), rng.standard_normal((4, 2)) + 1.0
    both = np.vstack([a, b])
    found, _ = permuted_mmd(rbf_kernel(both, both, 1.0), shuffles(6, 4, 9, rng))
    assert found == pytest.approx(squared_mmd(a, b, 1.0))


def test_a_reservoir_keeps_all_that_ever_came_with_one_probability() -> None:
    rng, trials = RNG(11), 3_000
    kept = np.zeros(20)
    for _ in range(trials):
        reservoir: Reservoir[int] = Reservoir(5, rng=rng)
        for item in range(20):
            reservoir.offer(item)
        assert len(reservoir.items) == 5
        kept[reservoir.items] += 1
    assert (np.abs(kept / trials - 0.25) < margin(0.25, trials)).all()


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: ks_per_feature([], [1.0]), DatasetInvalidError),
        (lambda: ks_per_feature([1.0, 2.0], []), DatasetInvalidError),
        (lambda: ks_per_feature([1.0, math.nan], [1.0]), DatasetInvalidError),
        (lambda: ks_per_feature([[1.0, 2.0], [1.0, 3.0]], [[1.0, 2.0]]), DatasetInvalidError),
        (lambda: ks_per_feature([[1.0, 2.0]], [[1.0]]), ShapeError),
        (lambda: ks_per_feature(COLUMN, COLUMN, names=("a", "b")), ShapeError),
        (lambda: ks_per_feature(np.zeros((2, 2, 2)), COLUMN), ShapeError),
        (lambda: QuantileBins.fit([3.0, 3.0]), DatasetInvalidError),
        (lambda: QuantileBins.fit(COLUMN, bins=1), ConfigError),
        (lambda: QuantileBins.fit(COLUMN).shares([[1.0, 2.0]]), ShapeError),
        (lambda: QuantileBins.fit(COLUMN).shares([]), DatasetInvalidError),
        (lambda: median_heuristic([1.0, 1.0, 1.0]), DatasetInvalidError),
        (lambda: median_heuristic([1.0]), DatasetInvalidError),
        (lambda: rbf_kernel(COLUMN, COLUMN, 0.0), ConfigError),
        (lambda: squared_mmd([[1.0, 2.0]], [[1.0]], 1.0), ShapeError),
        (lambda: action_counts(np.array([0, 5]), 5), DatasetInvalidError),
        (lambda: action_counts(np.array([0.0]), 5), DatasetInvalidError),
        (lambda: action_counts(np.array([], np.int64), 5), DatasetInvalidError),
        (lambda: total_variation([1.0], [1.0, 2.0]), ShapeError),
        (lambda: chi_square([0.0, 0.0], [1.0, 2.0]), DatasetInvalidError),
        (lambda: chi_square([-1.0, 2.0], [1.0, 2.0]), DatasetInvalidError),
        (lambda: holm([]), DatasetInvalidError),
        (lambda: holm([0.1, math.nan]), DatasetInvalidError),
        (lambda: benjamini_hochberg([1.5]), DatasetInvalidError),
        (lambda: FalseAlarmBudget(0.0, 4), ConfigError),
        (lambda: FalseAlarmBudget(0.1, 0), ConfigError),
        (lambda: autocorrelation_time([1.0] * 100), DatasetInvalidError),
        (lambda: autocorrelation_time([1.0, 2.0]), DatasetInvalidError),
        (lambda: thinned(COLUMN, tau=0.5), ConfigError),
        (lambda: shuffles(0, 3, 9, RNG(0)), ConfigError),
        (lambda: permuted_means(COLUMN, shuffles(2, 3, 9, RNG(0)), lambda a, b: a - b), ShapeError),
        (lambda: permuted_mmd(np.eye(4), shuffles(2, 3, 9, RNG(0))), ShapeError),
        (lambda: p_values(np.array([[1.0]])), DatasetInvalidError),
        (lambda: Reservoir(0, rng=RNG(0)), ConfigError),
    ],
)
def test_what_cannot_be_tested_is_a_typed_error(call: Callable[[], object], kind: type[RLCourseError]) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.mend


def test_a_constant_feature_is_named() -> None:
    with pytest.raises(DatasetInvalidError, match="feature price"):
        ks_per_feature([[1.0, 2.0], [2.0, 2.0]], [[1.0, 2.0]], names=("load", "price"))
