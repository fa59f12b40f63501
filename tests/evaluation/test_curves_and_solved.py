"""Averaged curves, solved tasks and normalised scores, by numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlcourse.errors import ConfigError, ShapeError
from rlcourse.evaluation.curves import mean_curve
from rlcourse.evaluation.solved import SOLVED, TimeToSolve, normalised, solved_return, time_to_solve
from rlcourse.randomness import Seeds


def rng() -> np.random.Generator:
    return Seeds(0).numpy("bootstrap")


def test_runs_looked_at_alike_are_averaged_where_they_were_looked_at() -> None:
    curve = mean_curve([[(5, 10.0), (10, 20.0)], [(5, 20.0), (10, 20.0)]], rng=rng())
    assert curve.x.tolist() == [5, 10] and curve.mean.tolist() == [15.0, 20.0]
    # Two runs drawn twice: both low a quarter of the time, both high another quarter.
    assert (curve.low.tolist(), curve.high.tolist()) == ([10.0, 20.0], [20.0, 20.0])


def test_other_runs_are_averaged_where_all_of_them_have_been() -> None:
    curve = mean_curve([[(0, 0.0), (10, 10.0)], [(0, 2.0), (5, 2.0)]], rng=rng(), num_points=6)
    assert curve.x.tolist() == [0, 1, 2, 3, 4, 5]
    assert curve.mean.tolist() == [1.0, 1.5, 2.0, 2.5, 3.0, 3.5]
    assert (curve.low <= curve.mean).all() and (curve.mean <= curve.high).all()


def test_runs_that_never_overlap_make_one_point() -> None:
    curve = mean_curve([[(1, 4.0)], [(3, 6.0)]], rng=rng())
    assert (curve.x.tolist(), curve.mean.tolist()) == ([3.0], [5.0])


@pytest.mark.parametrize("runs", [[], [[]], [[(0, 1.0)], []]])
def test_a_curve_needs_evaluations(runs: list[list[tuple[float, float]]]) -> None:
    with pytest.raises(ShapeError):
        mean_curve(runs, rng=rng())


def test_solved_is_ours_then_gymnasiums_then_unknown() -> None:
    assert solved_return("CartPole-v1") == 475.0
    assert solved_return("Acrobot-v1") == SOLVED["Acrobot-v1"] == -85.0
    assert solved_return("MountainCar-v0") == -110.0  # Gymnasium's
    assert solved_return("rlcourse/ServerRoom-v0") is None
    assert solved_return("Nope-v0") is None


def test_a_normalised_score_is_0_for_random_and_1_for_solved() -> None:
    assert normalised([20, 247.5, 475, 500], random=20, solved=475).tolist() == pytest.approx([0, 0.5, 1, 480 / 455])
    with pytest.raises(ConfigError, match="Random actions earn"):
        normalised([1.0], random=3, solved=3)


def arrivals(*steps: float) -> list[list[dict[str, float]]]:
    """Runs that earn 7 from the given step on, in half as many CPU seconds; infinity for never."""
    return [
        [{"step": at, "greedy_return": 7.0 if at >= first else 1.0, "cpu_seconds": at / 2} for at in (10, 20, 30)]
        for first in steps
    ]


def test_time_to_solve_counts_those_that_never_arrived() -> None:
    assert time_to_solve("a", arrivals(10, 30, math.inf), 7.0) == TimeToSolve("a", 7.0, 3, 2, 30, 15)
    assert time_to_solve("a", arrivals(10, math.inf, math.inf), 7.0) == TimeToSolve("a", 7.0, 3, 1, None, None)
    assert time_to_solve("a", arrivals(10, math.inf), 7.0) == TimeToSolve("a", 7.0, 2, 1, None, None)
    assert time_to_solve("a", arrivals(10, 20), 7.5).reached == 0
