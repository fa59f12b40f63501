from __future__ import annotations

import math

import numpy as np
import pytest

from rlcourse.errors import ConfigError, ShapeError
from rlcourse.randomness import Seeds
from rlcourse.release.matching import ControlVariates, Tally, Variation, matched


def test_a_number_worked_by_hand() -> None:
    # day 1: 4 episodes at 10 against 4 at 8; day 2: 12 at 13 against 4 at 12; both deviations 2
    count = np.array([[4.0, 4.0], [4.0, 12.0]])
    total = count * [[8.0, 10.0], [12.0, 13.0]]
    found = matched(Tally(count, total, count * 0 + 1e4), Variation(2.0, 2.0, worth=1e12))
    assert found.estimate == pytest.approx(1.4)
    assert found.information == pytest.approx(1.25)
    assert found.episodes == 16


def test_hotter_days_are_not_blamed_on_a_growing_canary() -> None:
    rng = Seeds(0).numpy("returns")
    day = np.repeat(np.arange(4), 1_000)
    arm = (rng.random(4_000) < np.array([0.02, 0.1, 0.5, 0.9])[day]).astype(int)
    returns = -40.0 - 10.0 * day + 1.0 * arm + rng.normal(0.0, 1.0, 4_000)  # the candidate is better by 1
    plainly = returns[arm == 1].mean() - returns[arm == 0].mean()
    found = matched(Tally.of(day, arm, returns), Variation(1.0, 1.0))
    assert plainly < -10.0
    assert abs(found.estimate - 1.0) < 5.0 / math.sqrt(found.information)


def test_information_is_one_over_the_variance_of_the_estimate() -> None:
    rng, runs = Seeds(1).numpy("returns"), 3_000
    count = np.broadcast_to(np.array([[30.0, 5.0], [20.0, 15.0]]), (runs, 2, 2))
    sd = np.array([1.0, 3.0])
    total, squares = np.zeros((runs, 2, 2)), np.zeros((runs, 2, 2))
    for d in range(2):
        for a in range(2):
            x = rng.normal(0.0, sd[a], (runs, int(count[0, d, a])))
            total[:, d, a], squares[:, d, a] = x.sum(-1), (x**2).sum(-1)
    found = matched(Tally(count, total, squares), Variation(1.0, 3.0))
    assert found.estimate.std() * np.sqrt(found.information.mean()) == pytest.approx(1.0, abs=0.07)


def test_control_variates_take_out_variance_and_leave_the_difference() -> None:
    rng = Seeds(2).numpy("returns")

    def days(n: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
        conditions = np.c_[np.ones(n), rng.normal(size=(n, 2))]
        return conditions, conditions @ [5.0, 3.0, -4.0] + shift + rng.normal(0.0, 1.0, n)

    old = ControlVariates.fit(*days(2_000, 0.0))
    assert old.coefficients == pytest.approx([5.0, 3.0, -4.0], abs=0.15)
    assert old.sd == pytest.approx(1.0, abs=0.08)
    assert old.explained == pytest.approx(25 / 26, abs=0.01)
    (conditions, new), n = days(4_000, 0.5), 4_000
    adjusted = old.adjust(new, conditions)
    assert adjusted.mean() == pytest.approx(0.5, abs=5 / math.sqrt(n) + 5 / math.sqrt(2_000))
    assert adjusted.std() < 0.25 * new.std()


def test_days_on_which_one_arm_did_not_run_say_nothing() -> None:
    found = matched(Tally.of([0, 0, 1], [0, 0, 1], [1.0, 2.0, 9.0]), Variation(1.0, 1.0))
    assert [float(part) for part in found] == [0.0, 0.0, 0.0]
    nothing = matched(Tally.of([], [], []), Variation(1.0, 1.0))
    assert [float(part) for part in nothing] == [0.0, 0.0, 0.0]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError):
        Tally.of([0], [2], [1.0])
    with pytest.raises(ShapeError):
        ControlVariates.fit(np.ones((9, 1)), np.ones(9))
    with pytest.raises(ConfigError):
        Variation(0.0, 1.0)
