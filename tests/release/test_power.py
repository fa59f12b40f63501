from __future__ import annotations

import math

import numpy as np
import pytest

from rlcourse.errors import ConfigError
from rlcourse.randomness import Seeds
from rlcourse.release.power import (
    always_valid_information,
    episodes_per_arm,
    fixed_information,
    information_of,
    power_of,
)
from rlcourse.release.sequential import contrast_radius, tuned_mixture


def test_numbers_worked_by_hand() -> None:
    assert episodes_per_arm(0.5, 1.0) == 63  # 2 (1.95996 + 0.84162)^2 / 0.25 = 62.79
    assert episodes_per_arm(4.2, 6.7, power=0.95) == 67  # 2 (1.95996 + 1.64485)^2 (6.7/4.2)^2 = 66.14
    assert fixed_information(1.0) == pytest.approx(7.849, abs=5e-4)
    assert power_of(63, 0.5, 1.0) == pytest.approx(0.801, abs=1e-3)
    assert always_valid_information(1.0) == pytest.approx(15.03, abs=0.01)
    assert information_of(10, 40, sd_candidate=2.0, sd_incumbent=2.0) == pytest.approx(2.0)
    assert information_of(0, 40, sd_candidate=2.0, sd_incumbent=2.0) == 0.0


def test_the_planned_number_finds_the_effect_as_often_as_it_says() -> None:
    effect, sd, runs = 0.4, 1.0, 4_000
    n = episodes_per_arm(effect, sd, power=0.9)
    arms = Seeds(0).numpy("returns").normal(0.0, sd, (2, runs, n))
    z = (effect + arms[1].mean(-1) - arms[0].mean(-1)) / (sd * math.sqrt(2 / n))
    found = (np.abs(z) > 1.95996).mean()
    assert found == pytest.approx(power_of(n, effect, sd), abs=5 * math.sqrt(0.09 / runs))
    assert power_of(n - 1, effect, sd) < 0.9 <= power_of(n, effect, sd)


def test_an_always_valid_plan_keeps_its_word_and_mostly_ends_early() -> None:
    effect, runs, rho = 1.0, 4_000, tuned_mixture(10.0, 0.05)
    planned = always_valid_information(effect, power=0.9, rho=rho)
    steps = math.ceil(planned)
    information = np.arange(1, steps + 1, dtype=float)
    sums = np.cumsum(Seeds(1).numpy("returns").normal(effect, 1.0, (runs, steps)), axis=-1)
    outside = np.abs(sums / information) > contrast_radius(information, alpha=0.05, rho=rho)
    found = outside.any(axis=-1)
    assert found.mean() >= 0.9 - 5 * math.sqrt(0.09 / runs)
    assert np.median(outside[found].argmax(axis=-1) + 1) < fixed_information(effect, power=0.9) * 1.1


def test_effects_and_probabilities_that_mean_nothing() -> None:
    for arguments in ({"effect": 0.0}, {"effect": 1.0, "alpha": 0.0}, {"effect": 1.0, "power": 1.0}):
        with pytest.raises(ConfigError, match="effect"):
            fixed_information(**arguments)
