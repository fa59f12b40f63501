"""Intervals over whole logs: how often they hold the truth, and which of them cannot.

Each count is out of 200 logs of 100 episodes, at 90 %: 180 are expected, and four standard errors are 17.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlcourse.evaluation.off_policy import (
    FROZEN,
    EstimatorName,
    FQEConfig,
    ModelValues,
    Statistic,
    Trajectories,
    assess,
    direct,
    doubly_robust,
    linear_model,
    linear_values,
    marginalised,
    marginalised_doubly_robust,
    per_decision,
    resample,
    step_weights,
    weighted_doubly_robust,
    weighted_per_decision,
)
from rlcourse.randomness import Seeds
from tests.evaluation.off_policy.problems import STATES, TARGET, played, problem

LOGS, EPISODES, STEPS, GAMMA = 200, 100, 6, 0.95


def some(log: Trajectories, episodes: Tensor | slice) -> Trajectories:
    """The same log with these episodes alone, or several times."""
    columns: dict[str, Any] = {one.name: getattr(log, one.name) for one in fields(log)}
    chosen: dict[str, Any] = {name: value[episodes] for name, value in columns.items() if isinstance(value, Tensor)}
    return replace(log, **chosen)


def logs(everything: Trajectories) -> Iterator[Trajectories]:
    for first in range(0, everything.num_episodes, EPISODES):
        yield some(everything, slice(first, first + EPISODES))


def held(statistic: Callable[[Trajectories], Statistic], everything: Trajectories, truth: float) -> int:
    found = [
        resample(statistic(log), rng=Seeds(number).numpy("bootstrap"), confidence=0.9, resamples=300).interval
        for number, log in enumerate(logs(everything))
    ]
    assert len(found) == LOGS
    return sum(one.low <= truth <= one.high for one in found)


def six_steps() -> Trajectories:
    return played(problem(), LOGS * EPISODES, STEPS, GAMMA, Seeds(11).torch("episodes"))


def six_steps_truth() -> float:
    mdp = problem()
    return float(mdp.start @ mdp.value_within(TARGET, GAMMA, STEPS))


def endless() -> Trajectories:
    """Longer than gamma can see."""
    return played(problem(ending=0.05), LOGS * EPISODES, 40, 0.8, Seeds(12).torch("episodes"))


def endless_truth() -> float:
    mdp = problem(ending=0.05)
    return float(mdp.start @ mdp.value(TARGET, 0.8))


def cross_fitted(log: Trajectories) -> ModelValues:
    """A table of values from each half of the log, for the other half."""
    assert log.obs is not None and log.action is not None and log.all_target is not None
    order = torch.arange(log.num_episodes)
    behind = torch.zeros(log.num_episodes, dtype=torch.float64)
    q, value = torch.zeros_like(log.reward), torch.zeros_like(log.reward)
    for judged in order.chunk(2):
        others = some(log, order[~torch.isin(order, judged)])
        assert others.obs is not None
        model = linear_model(others, others.obs, ridge=1e-3)
        counts = torch.ones(1, others.num_episodes, dtype=torch.float64)
        theta = torch.linalg.solve(model.system(counts)[0], (counts @ model.reward)[0])
        behind[judged] = linear_values(others, others.obs, ridge=1e-3).tail.mean()
        table = log.obs[judged, :-1].double() @ theta.view(-1, STATES).T  # (n, T, A)
        q[judged] = table.gather(-1, log.action[judged].unsqueeze(-1)).squeeze(-1)
        value[judged] = (log.all_target[judged, :-1] * table).sum(-1)
    nothing = torch.zeros(log.num_episodes, dtype=torch.float64)
    return ModelValues(q, value, nothing, cross_fitted=True, behind=behind)


@pytest.mark.parametrize(
    "statistic",
    [
        per_decision,
        weighted_per_decision,
        lambda log: doubly_robust(log, cross_fitted(log)),
        lambda log: weighted_doubly_robust(log, cross_fitted(log)),
    ],
    ids=["pdis", "wpdis", "dr", "wdr"],
)
def test_intervals_of_what_is_weighed_hold_the_truth_as_often_as_they_say(
    statistic: Callable[[Trajectories], Statistic],
) -> None:
    """``dr`` and ``wdr`` with a fit that is frozen, and fitted to other episodes: the weights correct it. The log was cut off
    after six steps, and the truth is what is earned in those."""
    assert abs(held(statistic, six_steps(), six_steps_truth()) - 180) <= 17


def test_intervals_of_the_marginalised_doubly_robust_one_hold_the_truth_as_often_as_they_say() -> None:
    """It may decide, so it has to; its truth is that of a life which nothing cuts off."""

    def statistic(log: Trajectories) -> Statistic:
        assert log.obs is not None
        model = replace(cross_fitted(log), tail=linear_values(log, log.obs).tail)
        return marginalised_doubly_robust(log, step_weights(log, log.obs), model)

    assert abs(held(statistic, endless(), endless_truth()) - 180) <= 17


def test_intervals_of_a_linear_model_hold_the_truth_as_often_as_they_say_and_frozen_ones_do_not() -> None:
    """``mis`` is the same number in every resample; see the next test."""
    everything, truth = endless(), endless_truth()

    def anew(log: Trajectories) -> Statistic:
        assert log.obs is not None
        return linear_model(log, log.obs)

    def frozen(log: Trajectories) -> Statistic:
        assert log.obs is not None
        return direct(log, linear_values(log, log.obs))

    assert abs(held(anew, everything, truth) - 180) <= 17
    assert held(frozen, everything, truth) < 100


def test_step_weights_are_solved_anew_for_each_resample() -> None:
    """What ``mis`` says of drawn episodes is what it would have said of a log that holds just those."""
    log = some(endless(), slice(0, EPISODES))
    assert log.obs is not None
    found = assess(log, ("mis", "linear"), seeds=Seeds(0), features=log.obs, resamples=300)
    drawn = Seeds(0).numpy("bootstrap").multinomial(EPISODES, [1 / EPISODES] * EPISODES, size=300)
    for number in range(3):
        repeated = some(log, torch.arange(EPISODES).repeat_interleave(torch.from_numpy(drawn[number])))
        assert repeated.obs is not None
        weighed = marginalised(repeated, step_weights(repeated, repeated.obs, ridge=1e-3))
        alone = float(weighed.value(torch.ones(1, EPISODES, dtype=torch.float64)))
        assert found.values["mis"].values[number] == pytest.approx(alone, rel=1e-6)
    frozen = resample(marginalised(log, step_weights(log, log.obs)), rng=Seeds(0).numpy("bootstrap")).interval
    anew = found.values["mis"].interval
    assert anew.estimate == pytest.approx(frozen.estimate, rel=1e-3)
    assert anew.high - anew.low < 0.8 * (
        frozen.high - frozen.low
    )  # frozen weights would be surprised by every other draw


def test_what_rests_on_a_network_is_marked_and_the_rest_is_solved_anew() -> None:
    """Of two seeds for the network, those that are marked give two sets of resamples, the others the same."""
    log = some(six_steps(), slice(0, EPISODES))
    names: tuple[EstimatorName, ...] = ("wis", "linear", "mis", "fqe", "dr", "wdr", "mdr")
    quick = FQEConfig(hidden=(4,), updates=20)
    values = []
    for seed in (1, 2):
        seeds = Seeds(seed)
        found = assess(log, names, seeds=seeds, features=log.obs, fqe=quick, resamples=50)
        values.append({name: one.estimate for name, one in found.values.items()})
    assert {name for name in names if values[0][name] != values[1][name]} == FROZEN - {"task"}
