"""Looking early: what it costs without a plan, and that confidence sequences do not pay it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from rlcourse.errors import ConfigError, ShapeError
from rlcourse.randomness import Seeds
from rlcourse.release.boundaries import crossing_probability, obrien_fleming, pocock
from rlcourse.release.sequential import (
    Array,
    ConfidenceSequence,
    asymptotic_sequence,
    bounded_sequence,
    contrast_radius,
    likelihood_ratio,
    normal_mixture,
    sub_gaussian_sequence,
    tuned_mixture,
)

RUNS, LENGTH, ALPHA = 2_000, 1_000, 0.05


def five_sigma(probability: float, runs: int = RUNS) -> float:
    return 5.0 * math.sqrt(probability * (1.0 - probability) / runs)


def gaussian() -> Array:
    return Seeds(0).numpy("returns").normal(3.0, 2.0, (RUNS, LENGTH))


def ever_outside(found: ConfidenceSequence, mean: float) -> float:
    return float(((found.low > mean) | (found.high < mean)).any(axis=-1).mean())


def test_a_fixed_test_looked_at_every_time_is_wrong_far_more_often_than_it_says() -> None:
    x = gaussian() - 3.0
    t = np.arange(1, LENGTH + 1)
    z = np.cumsum(x, axis=-1) / (2.0 * np.sqrt(t))
    once = (np.abs(z[:, -1]) > 1.96).mean()
    every_hundredth = (np.abs(z[:, 99::100]) > 1.96).any(axis=-1).mean()
    always = (np.abs(z[:, 9:]) > 1.96).any(axis=-1).mean()
    assert once == pytest.approx(0.05, abs=five_sigma(0.05))
    assert every_hundredth == pytest.approx(0.193, abs=five_sigma(0.193))  # Armitage et al. 1969: ten looks
    assert always > 0.35


@pytest.mark.parametrize(
    "sequence",
    [
        lambda x: sub_gaussian_sequence(x, sigma=2.0, alpha=ALPHA, tuned_at=200),
        lambda x: asymptotic_sequence(x, alpha=ALPHA, tuned_at=200),
    ],
    ids=["sub-Gaussian", "asymptotic"],
)
def test_the_mean_stays_inside_at_all_times_together(sequence: Callable[[Array], ConfidenceSequence]) -> None:
    found = sequence(gaussian())
    missed = ever_outside(found, 3.0)
    # At most alpha, and not nothing either: an interval as wide as the sky would cover too.
    assert 0.005 < missed < ALPHA + five_sigma(ALPHA)
    assert (found.high - found.low)[:, -1].mean() < 3.0 * 2 * 1.96 * 2.0 / math.sqrt(LENGTH)


def test_bounded_returns_are_covered_and_little_variation_makes_a_narrow_interval() -> None:
    x = Seeds(1).numpy("returns").beta(2.0, 38.0, (RUNS, LENGTH)) * 10.0 - 5.0  # mean -4.5, deviation 0.34 of 10
    found = bounded_sequence(x, low=-5.0, high=5.0, alpha=ALPHA)
    assert ever_outside(found, -4.5) < ALPHA + five_sigma(ALPHA)
    blind = sub_gaussian_sequence(x, sigma=5.0, alpha=ALPHA, tuned_at=LENGTH)
    assert (found.high - found.low)[:, -1].mean() < 0.25 * (blind.high - blind.low)[:, -1].mean()


def test_asymptotic_coverage_does_not_need_a_bell_shape() -> None:
    x = Seeds(2).numpy("returns").exponential(1.0, (RUNS, LENGTH))
    assert ever_outside(asymptotic_sequence(x, alpha=ALPHA, tuned_at=200, first=50), 1.0) < ALPHA + five_sigma(ALPHA)
    assert np.isinf(asymptotic_sequence(x[0], alpha=ALPHA, tuned_at=200, first=50).high[:49]).all()


def test_numbers_worked_by_hand() -> None:
    assert tuned_mixture(1.0, 0.05) == pytest.approx(1 / 8.2113, rel=1e-4)
    assert tuned_mixture(7.0, 0.05) == pytest.approx(7.0 * tuned_mixture(1.0, 0.05))
    assert normal_mixture(1.0, alpha=0.05, rho=1.0) == pytest.approx(math.sqrt(2 * math.log(2 / 0.0025)))
    assert normal_mixture(1.0, alpha=0.05, rho=1.0) == pytest.approx(3.656, abs=5e-4)
    assert contrast_radius(1.0, alpha=0.05, rho=tuned_mixture(1.0, 0.05)) == pytest.approx(3.035, abs=5e-4)
    assert np.isinf(contrast_radius(0.0, alpha=0.05, rho=1.0))
    assert likelihood_ratio(2, 10, limit=0.1, feared=0.2) == pytest.approx(4 * (8 / 9) ** 8)
    assert likelihood_ratio(0, 0, limit=0.1, feared=0.2) == 1.0
    one = bounded_sequence([0.5], low=0.0, high=1.0, alpha=0.05)
    assert (one.low[0], one.high[0]) == (0.0, 1.0)


def test_the_tuning_is_the_best_there_is() -> None:
    rho = tuned_mixture(50.0, 0.05)
    best = normal_mixture(50.0, alpha=0.05, rho=rho)
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert normal_mixture(50.0, alpha=0.05, rho=rho * factor) > best


def test_the_likelihood_ratio_of_a_healthy_service_rarely_ever_alarms() -> None:
    bad = Seeds(3).numpy("errors").random((RUNS, LENGTH)) < 0.01
    k, n = np.cumsum(bad, axis=-1), np.arange(1, LENGTH + 1)
    logarithm = k * math.log(3.0) + (n - k) * math.log(0.97 / 0.99)
    assert (logarithm > math.log(1 / ALPHA)).any(axis=-1).mean() < ALPHA + five_sigma(ALPHA)
    assert likelihood_ratio(int(k[0, -1]), LENGTH, limit=0.01, feared=0.03) == pytest.approx(math.exp(logarithm[0, -1]))


def test_group_sequential_boundaries_are_the_published_ones() -> None:
    assert crossing_probability([1.959964]) == pytest.approx(0.05, abs=1e-6)
    assert crossing_probability([1.959964] * 5) == pytest.approx(0.142, abs=5e-4)
    assert crossing_probability([1.959964] * 10) == pytest.approx(0.193, abs=5e-4)
    assert pocock(5)[0] == pytest.approx(2.413, abs=5e-4)
    assert obrien_fleming(5)[[0, -1]] == pytest.approx([4.562, 2.040], abs=1e-3)
    # A drift of z(0.975) + z(0.8) is found with probability 0.8 by one look; five by O'Brien and Fleming lose little.
    assert crossing_probability([1.959964], drift=2.8016) == pytest.approx(0.8, abs=1e-3)
    assert 0.78 < crossing_probability(obrien_fleming(5), drift=2.8016) < 0.8


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="alpha"):
        normal_mixture(1.0, alpha=1.0, rho=1.0)
    with pytest.raises(ConfigError, match="tuned"):
        tuned_mixture(0.0, 0.05)
    with pytest.raises(ShapeError):
        asymptotic_sequence([], alpha=0.05, tuned_at=10)
    with pytest.raises(ConfigError, match="outside"):
        bounded_sequence([2.0], low=0.0, high=1.0, alpha=0.05)
    with pytest.raises(ConfigError, match="bad of"):
        likelihood_ratio(3, 2, limit=0.1, feared=0.2)
    with pytest.raises(ConfigError, match="Boundaries"):
        crossing_probability([0.0])
