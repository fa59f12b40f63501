"""Bounds that hold for any distribution: where there are some, how wide they have to be, and why there are none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlcourse.errors import ConfigError
from rlcourse.evaluation.off_policy import (
    ESTIMATOR_NAMES,
    FQEConfig,
    Limits,
    ModelValues,
    RatioStatistic,
    Trajectories,
    assess,
    bounds,
    doubly_robust,
    importance_sampling,
    per_decision,
    weighted_importance_sampling,
)
from rlcourse.evaluation.off_policy.concentration import term_range
from rlcourse.randomness import Seeds
from tests.evaluation.off_policy.problems import played, problem

CLICKS = Limits(0.0, 1.0, 1.8)


def clicks(count: int, seed: int = 0) -> Trajectories:
    """Two arms that pay in 3 and 7 cases of 10, pulled evenly; the target pulls the better one in 9 of 10: 0.66."""
    source = Seeds(seed).numpy("log")
    arm = source.integers(2, size=count)
    paid = (source.random(count) < np.where(arm == 1, 0.7, 0.3)).astype(float)
    return Trajectories.from_arrays(target=np.where(arm == 1, 0.9, 0.1), behaviour=np.full(count, 0.5), reward=paid)


def invented(log: Trajectories, q: torch.Tensor, value: torch.Tensor) -> RatioStatistic:
    return doubly_robust(log, ModelValues(q, value, torch.zeros(log.num_episodes, dtype=torch.float64)))


def test_worked_numbers() -> None:
    limits = Limits(0.0, 1.0, 2.0)
    assert term_range("is", 1.0, limits, 3) == (0.0, 24.0)
    assert term_range("pdis", 1.0, limits, 3) == (0.0, 14.0)
    assert term_range("dr", 1.0, limits, 3) == (-42.0, 35.0)
    assert term_range("dr", 1.0, limits, 3, cut_off=True) == (-63.0, 77.0)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("pays", [(0.0, 1.0), (-2.0, 1.0), (-3.0, -1.0), (1.0, 2.0)])
def test_no_episode_adds_more_than_is_said_and_the_worst_one_adds_just_that(
    gamma: float, pays: tuple[float, float]
) -> None:
    limits, steps, generator = Limits(*pays, 3.0), 4, Seeds(0).torch("episodes")
    worth = steps if gamma == 1.0 else 1.0 / (1.0 - gamma)
    least, most = worth * min(0.0, pays[0]), worth * max(0.0, pays[1])

    def even(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(2_000, steps, generator=generator, dtype=torch.float64)

    shape = (2, steps)
    ends = [torch.full(shape, end, dtype=torch.float64) for end in (least, most, *pays)]
    lengths = torch.randint(1, steps + 1, (2_000, 1), generator=generator)
    chance = replace(
        Trajectories.from_arrays(target=even(0.0, 3.0), behaviour=torch.ones(2_000, steps), reward=even(*pays)),
        gamma=gamma,
        mask=(torch.arange(steps) < lengths).double(),
    )
    worst = {
        side: Trajectories.from_arrays(
            target=torch.full(shape, 3.0), behaviour=torch.ones(shape), reward=paid, gamma=gamma
        )
        for side, paid in (("low", ends[2]), ("high", ends[3]))
    }
    terms = {
        "is": (importance_sampling(chance), *(importance_sampling(worst[side]) for side in ("low", "high"))),
        "pdis": (per_decision(chance), *(per_decision(worst[side]) for side in ("low", "high"))),
        "dr": (
            invented(chance, even(least, most), even(least, most)),
            invented(worst["low"], ends[1], ends[0]),
            invented(worst["high"], ends[0], ends[1]),
        ),
    }
    for name, (somewhere, lowest, highest) in terms.items():
        low, high = term_range(name, gamma, limits, steps)
        assert low <= float(somewhere.numerator.min()) and float(somewhere.numerator.max()) <= high
        reached = float(lowest.numerator.min()), float(highest.numerator.max())
        assert (low, high) == pytest.approx((min(reached[0], low), max(reached[1], high)))  # nothing is beyond
        if pays[0] < 0.0:
            assert reached[0] == pytest.approx(low)
        if pays[1] > 0.0:
            assert reached[1] == pytest.approx(high)


@pytest.mark.parametrize("name", ["is", "pdis"])
def test_bounds_hold_the_truth_at_least_as_often_as_they_say_and_narrow_with_the_log(name: str) -> None:
    estimator = importance_sampling if name == "is" else per_decision
    held = []
    for seed in range(200):
        log = clicks(100, seed)
        found = bounds(name, log, estimator(log), CLICKS, confidence=0.9)
        assert found.hoeffding is not None and found.bernstein is not None and not found.reason
        held += [one.low <= 0.66 <= one.high for one in (found.hoeffding, found.bernstein)]
    assert np.mean(held) >= 0.9
    large = bounds(name, clicks(10_000), estimator(clicks(10_000)), CLICKS).hoeffding
    assert large is not None
    assert large.high - large.low == pytest.approx(2 * 1.8 * math.sqrt(math.log(40) / 20_000), rel=1e-3)


def test_no_bound_leaves_what_can_be_paid() -> None:
    found = bounds("is", clicks(20), importance_sampling(clicks(20)), CLICKS)
    assert found.bernstein is not None and (found.bernstein.low, found.bernstein.high) == (0.0, 1.0)
    assert not found.reason  # Hoeffding's is narrower


def test_a_model_that_was_fitted_to_other_parts_makes_hoeffdings_bound_wider_by_a_root() -> None:
    log = replace(clicks(5_000), terminated=torch.ones(5_000, dtype=torch.bool))
    half = torch.full_like(log.reward, 0.5)
    found = bounds("dr", log, invented(log, half, half), CLICKS, folds=2)
    assert found.hoeffding is not None and found.bernstein is None and "Bernstein" in found.reason
    low, high = term_range("dr", 1.0, CLICKS, 1)
    assert (low, high) == pytest.approx((-1.8, 2.8))
    width = found.hoeffding.high - found.hoeffding.low
    assert width == pytest.approx(2 * (high - low) * math.sqrt(2 * math.log(40) / 10_000), rel=1e-3)


def test_a_log_that_was_cut_off_has_a_wider_bound_for_what_was_taken_off_its_model() -> None:
    ended = replace(clicks(5_000), terminated=torch.ones(5_000, dtype=torch.bool))
    half = torch.full_like(ended.reward, 0.5)
    cut = replace(ended, terminated=torch.zeros(5_000, dtype=torch.bool))
    wide, narrow = (bounds("dr", log, invented(log, half, half), CLICKS, folds=2).hoeffding for log in (cut, ended))
    assert wide is not None and narrow is not None and wide.high - wide.low > narrow.high - narrow.low
    assert wide.low <= 0.66 <= wide.high


@pytest.mark.parametrize("seed", range(3))
def test_a_model_does_not_have_to_be_right_for_the_bound_to_hold(seed: int) -> None:
    log = replace(clicks(20_000, seed), terminated=torch.ones(20_000, dtype=torch.bool))
    wrong = torch.full_like(log.reward, 1.0)
    found = bounds("dr", log, invented(log, wrong, wrong), CLICKS, folds=2).hoeffding
    assert found is not None and found.low <= 0.66 <= found.high and found.high - found.low < 0.2


@pytest.mark.parametrize(
    ("name", "change", "limits", "folds", "words"),
    [
        ("wis", {}, CLICKS, 1, "ratio of two means"),
        ("wdr", {}, CLICKS, 2, "ratio of two means"),
        ("fqe", {}, CLICKS, 2, "how wrong its form"),
        ("mis", {}, CLICKS, 1, "not independent"),
        ("mdr", {}, CLICKS, 2, "not independent"),
        ("is", {}, None, 1, "range of the rewards was not given"),
        ("is", {}, Limits(0, 1), 1, "largest ratio of one step was not given"),
        ("is", {"propensities": "estimated"}, CLICKS, 1, "were guessed"),
        ("is", {}, Limits(0, 1, 1.8, 2_000), 1, "too large to be a number"),
        ("is", {}, Limits(0, 1, 1.8, 60), 1, "they say nothing"),
        ("dr", {}, CLICKS, 1, "has seen the episodes"),
    ],
)
def test_where_there_is_none_it_says_why(
    name: str, change: dict[str, str], limits: Limits | None, folds: int, words: str
) -> None:
    log = replace(clicks(100), **change)  # type: ignore[arg-type]  # fields by name
    statistic = weighted_importance_sampling(log) if name == "wis" else importance_sampling(log)
    found = bounds(name, log, statistic, limits, folds=folds)
    assert words in found.reason
    assert (found.hoeffding is None) == ("say nothing" not in words)


def test_how_long_an_episode_can_be_is_not_read_off_episodes_that_ended() -> None:
    log = played(problem(ending=0.5), 50, 30, 1.0, Seeds(0).torch("episodes"))
    longest = int(log.mask.sum(-1).max())
    assert longest < 30
    ended = Trajectories(**{**vars(log), **{name: getattr(log, name)[:, :longest] for name in COLUMNS}})
    limits = Limits(0.0, 1.0, 2.0)
    assert "how long" in bounds("is", ended, importance_sampling(ended), limits).reason
    assert "how long" not in bounds("is", ended, importance_sampling(ended), replace(limits, steps=30)).reason
    cut = replace(ended, terminated=torch.zeros(50, dtype=torch.bool))
    assert "how long" not in bounds("is", cut, importance_sampling(cut), limits).reason


COLUMNS = ("target", "behaviour", "reward", "mask")


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(0.0, 0.5, 1.8), "outside"),
        (Limits(0.5, 1.0, 1.8), "outside"),
        (Limits(0.0, 1.0, 1.5), "ratio 1.8"),
    ],
)
def test_a_log_beyond_the_limits_is_refused(limits: Limits, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        bounds("is", clicks(100), importance_sampling(clicks(100)), limits)


def test_an_episode_longer_than_the_longest_is_refused() -> None:
    log = Trajectories.from_arrays(target=np.ones((3, 4)), behaviour=np.ones((3, 4)), reward=np.ones((3, 4)))
    with pytest.raises(ConfigError, match="4 steps, and 3"):
        bounds("is", log, importance_sampling(log), Limits(0.0, 1.0, 1.0, 3))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((1.0, 0.0), "Rewards from"),
        ((0.0, math.inf), "Rewards from"),
        ((0.0, 1.0, 0.9), "largest ratio"),
        ((0.0, 1.0, 2.0, 0), "0 steps"),
    ],
)
def test_limits_that_cannot_be(given: tuple[float, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Limits(*given)  # type: ignore[arg-type]


def test_every_estimator_of_an_assessment_has_a_bound_or_a_reason() -> None:
    log = played(problem(), 60, 3, 0.9, Seeds(0).torch("episodes"))
    log = replace(log, terminated=torch.ones(60, dtype=torch.bool))
    quick = FQEConfig(hidden=(4,), updates=10)
    for limits in (None, Limits(0.0, 1.0, 2.0, 3)):
        names = [name for name in ESTIMATOR_NAMES if name != "task"]  # its actions would have to be continuous
        found = assess(log, names, seeds=Seeds(0), features=log.obs, fqe=quick, resamples=50, limits=limits)
        assert set(found.bounds) == set(names)
        bounded = {name for name, one in found.bounds.items() if one.hoeffding is not None}
        assert bounded == (set() if limits is None else {"is", "pdis", "dr"})
        assert all(one.reason for name, one in found.bounds.items() if name not in bounded)
