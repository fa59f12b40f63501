"""Estimators against problems with known values, against plain loops, and against each other."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rlcourse.evaluation.off_policy import (
    MODEL_FREE,
    FQEConfig,
    ModelValues,
    RatioStatistic,
    Statistic,
    Trajectories,
    after_the_cut,
    direct,
    doubly_robust,
    fitted_q_evaluation,
    importance_sampling,
    linear_model,
    linear_values,
    logger_value,
    marginalised,
    marginalised_doubly_robust,
    per_decision,
    step_weights,
    weighted_doubly_robust,
    weighted_importance_sampling,
    weighted_per_decision,
)
from rlcourse.evaluation.off_policy.models import usual_value
from rlcourse.randomness import Seeds
from tests.evaluation.off_policy.problems import BEHAVIOUR, STATES, TARGET, played, problem

HORIZON, GAMMA = 6, 0.95


def value_of(statistic: Statistic) -> float:
    return float(statistic.value(torch.ones(1, statistic.num_episodes, dtype=torch.float64)))


def truth(gamma: float = GAMMA, horizon: int = HORIZON, target: Tensor = TARGET) -> float:
    mdp = problem()
    return float(mdp.start @ mdp.value_within(target, gamma, horizon))


def invented(log: Trajectories, *, tail: bool = False) -> ModelValues:
    """A model that is wrong everywhere, but consistent: V is the target policy's mean of its Q."""
    assert log.obs is not None and log.action is not None and log.all_target is not None
    table = torch.tensor([[1.0, 3.0], [2.0, -1.0], [0.5, 4.0]], dtype=torch.float64)
    q = log.obs.double() @ table  # (N, T + 1, 2)
    value = (log.all_target * q).sum(-1)
    ends = value.gather(-1, log.mask.sum(-1).long().unsqueeze(-1)).squeeze(-1)
    taken = q[:, :-1].gather(-1, log.action.unsqueeze(-1)).squeeze(-1)
    assert log.terminated is not None
    return ModelValues(taken, value[:, :-1], ends * (~log.terminated if tail else 0))


@pytest.mark.parametrize("name", ["is", "pdis", "dr"])
def test_unbiased_ones_are_right_on_average(name: str) -> None:
    """The mean over 2,000 logs of 25 episodes lies within four standard errors of the truth."""
    mdp, generator = problem(), Seeds(0).torch("episodes")
    log = played(mdp, 2_000 * 25, HORIZON, GAMMA, generator)
    # A mean of means over equal groups: the estimator of each log is an unweighted mean over its episodes.
    statistic = MODEL_FREE[name](log) if name != "dr" else doubly_robust(log, invented(log))
    assert isinstance(statistic, RatioStatistic)
    each = statistic.numerator[:, 0].view(2_000, 25).mean(-1)
    error = float(each.std()) / math.sqrt(len(each))
    assert abs(float(each.mean()) - truth()) < 4 * error
    assert error < 0.03 * truth()  # or the line above would forgive too much


def test_the_self_normalised_ones_are_biased_in_the_smallest_log_and_right_in_a_large_one() -> None:
    mdp, generator = problem(), Seeds(1).torch("episodes")
    one = played(mdp, 1, HORIZON, GAMMA, generator)
    assert value_of(weighted_importance_sampling(one)) == pytest.approx(float(one.returns()))  # the weight cancels
    large = played(mdp, 200_000, HORIZON, GAMMA, generator)
    for estimator in (weighted_importance_sampling, weighted_per_decision):
        assert value_of(estimator(large)) == pytest.approx(truth(), rel=0.01)
    assert value_of(weighted_doubly_robust(large, invented(large))) == pytest.approx(truth(), rel=0.01)


def test_a_good_model_takes_away_most_of_the_noise() -> None:
    log = played(problem(), 3_000, 12, GAMMA, Seeds(2).torch("episodes"))
    features = log.obs
    assert features is not None
    model = linear_values(log, features)
    spread = {
        "is": importance_sampling(log).numerator.std(),
        "pdis": per_decision(log).numerator.std(),
        "dr": doubly_robust(log, model).numerator.std(),
    }
    assert spread["dr"] < 0.85 * spread["pdis"]
    assert spread["pdis"] < 0.85 * spread["is"]


@pytest.mark.parametrize("seed", range(3))
def test_all_agree_with_loops_written_from_the_papers(seed: int) -> None:
    log = played(problem(ending=0.3), 7, 5, 0.9, Seeds(seed).torch("episodes"))
    behind = torch.rand(log.num_episodes, generator=Seeds(seed).torch("behind"), dtype=torch.float64)
    model = replace(invented(log, tail=True), behind=behind)
    rho, lengths = loops_ratios(log), log.mask.sum(-1).long().tolist()
    n, t_max, g = log.num_episodes, log.horizon, log.gamma
    r, q, v = log.reward, model.q, model.value
    # What the model expects behind the time limit is taken off its values.
    left = [[float(behind[i]) * g ** (t_max - t) for t in range(t_max)] for i in range(n)]
    paid = [sum(g**t * float(r[i, t]) for t in range(lengths[i])) for i in range(n)]
    final = [rho[i][-1] for i in range(n)]
    expected = {
        importance_sampling: sum(final[i] * paid[i] for i in range(n)) / n,
        weighted_importance_sampling: sum(final[i] * paid[i] for i in range(n)) / sum(final),
        per_decision: sum(g**t * rho[i][t] * float(r[i, t]) for i in range(n) for t in range(lengths[i])) / n,
        weighted_per_decision: sum(
            g**t
            * sum(rho[i][t] * float(r[i, t]) for i in range(n) if t < lengths[i])
            / sum(rho[i][t] for i in range(n))
            for t in range(t_max)
        ),
    }
    for estimator, number in expected.items():
        assert value_of(estimator(log)) == pytest.approx(number)
    # Jiang and Li's recursion, backwards from the end of each episode.
    recursive = []
    for i in range(n):
        after = 0.0
        for t in reversed(range(lengths[i])):
            ratio, later = float(log.target[i, t] / log.behaviour[i, t]), left[i][t]
            after = float(v[i, t]) - later + ratio * (float(r[i, t]) + g * after - float(q[i, t]) + later)
        recursive.append(after)
    assert value_of(doubly_robust(log, model)) == pytest.approx(sum(recursive) / n)
    # Thomas and Brunskill's normalised weights.
    sums = [sum(rho[i][t] for i in range(n)) for t in range(t_max)]
    total = 0.0
    for i in range(n):
        for t in range(lengths[i]):
            before = rho[i][t - 1] / sums[t - 1] if t else 1.0 / n
            surprise, ahead = float(r[i, t] - q[i, t]) + left[i][t], float(v[i, t]) - left[i][t]
            total += g**t * (rho[i][t] / sums[t] * surprise + before * ahead)
    assert value_of(weighted_doubly_robust(log, model)) == pytest.approx(total)
    # Kallus and Uehara's correction of one step at a time, whatever the weights.
    weights = torch.rand(log.reward.shape, generator=Seeds(seed).torch("weights"), dtype=torch.float64)
    corrected = 0.0
    for i in range(n):
        corrected += float(v[i, 0])
        for t in range(lengths[i]):
            then = float(v[i, t + 1]) if t + 1 < lengths[i] else float(model.tail[i])
            corrected += float(weights[i, t]) * (float(r[i, t]) + g * then - float(q[i, t]))
    assert value_of(marginalised_doubly_robust(log, weights, model)) == pytest.approx(corrected / n)


def stopped(count: int, target: Tensor = TARGET) -> tuple[Trajectories, float]:
    """Four steps of a life of twenty, nearly all of it cut off, and what is earned in those."""
    mdp = problem(ending=0.05)
    log = played(mdp, count, 4, 0.99, Seeds(6).torch("episodes"), target=target)
    return log, float(mdp.start @ mdp.value_within(target, 0.99, 4))


def test_what_is_earned_until_the_cut_is_estimated_without_bias_whatever_the_model_says_of_later() -> None:
    """As for the unbiased ones above; the model's values are of a life without end, and wrong besides."""
    log, earned = stopped(2_000 * 25)
    behind = torch.full((log.num_episodes,), 2.0, dtype=torch.float64)
    statistic = doubly_robust(log, replace(invented(log, tail=True), behind=behind))
    each = statistic.numerator[:, 0].view(2_000, 25).mean(-1)
    error = float(each.std()) / math.sqrt(len(each))
    assert abs(float(each.mean()) - earned) < 4 * error and error < 0.03 * earned
    wrong = replace(invented(log, tail=True), behind=behind)
    assert value_of(weighted_doubly_robust(log, wrong)) == pytest.approx(earned, rel=0.02)


def test_what_the_logger_would_have_earned_after_the_cut_comes_from_a_model_of_the_logger() -> None:
    mdp, log = problem(ending=0.05), played(problem(ending=0.05), 20_000, 4, 0.95, Seeds(9).torch("episodes"))
    assert log.obs is not None and log.terminated is not None
    whole, within = (
        float(mdp.start @ one) for one in (mdp.value(BEHAVIOUR, 0.95), mdp.value_within(BEHAVIOUR, 0.95, 4))
    )
    plain = logger_value(log, seeds=Seeds(0), resamples=2)
    endless = logger_value(log, seeds=Seeds(0), endless=True, features=log.obs, resamples=2)
    assert plain.estimate == pytest.approx(within, rel=0.02) and not plain.endless
    assert endless.estimate == pytest.approx(whole, rel=0.02) and endless.endless
    assert bool((after_the_cut(log, log.obs)[log.terminated] == 0.0).all()) and whole > 1.5 * within


def test_taking_off_what_comes_later_makes_doubly_robust_estimates_calm() -> None:
    log, _ = stopped(2_000)
    assert log.obs is not None
    model = linear_values(log, log.obs)
    assert model.behind is not None and 4.0 < float(model.behind[0]) == pytest.approx(float(model.tail.mean()))
    kept = doubly_robust(log, replace(model, behind=None)).numerator.std()
    assert doubly_robust(log, model).numerator.std() < 0.7 * kept


def loops_ratios(log: Trajectories) -> list[list[float]]:
    rows = []
    for i in range(log.num_episodes):
        product, row = 1.0, []
        for t in range(log.horizon):
            if log.mask[i, t] > 0:
                product *= float(log.target[i, t]) / float(log.behaviour[i, t])
            row.append(product)
        rows.append(row)
    return rows


def test_the_logger_itself_is_worth_what_it_was_paid() -> None:
    """Where the target is the behaviour policy, every weight is 1 and every weighing estimator the plain mean."""
    log = played(problem(), 50, HORIZON, GAMMA, Seeds(4).torch("episodes"), target=BEHAVIOUR)
    mean = float(log.returns().mean())
    for estimator in MODEL_FREE.values():
        assert value_of(estimator(log)) == pytest.approx(mean)


# Models


def endless(count: int, seed: int = 5) -> Trajectories:
    """Episodes that go on for longer than gamma can see, some of them cut off."""
    return played(problem(ending=0.05), count, 40, 0.9, Seeds(seed).torch("episodes"))


def endless_truth(target: Tensor = TARGET) -> float:
    mdp = problem(ending=0.05)
    return float(mdp.start @ mdp.value(target, 0.9))


def test_the_linear_model_with_one_hot_states_finds_the_table() -> None:
    log = endless(4_000)
    assert log.obs is not None
    found = value_of(linear_model(log, log.obs))
    assert found == pytest.approx(endless_truth(), rel=0.02)
    assert (
        abs(endless_truth(BEHAVIOUR) - endless_truth()) > 0.05 * endless_truth()
    )  # the logger is worth something else
    model = linear_values(log, log.obs)
    assert value_of(direct(log, model)) == pytest.approx(found)


def test_the_next_action_is_the_targets_and_not_the_loggers() -> None:
    """Fitted to the action that was logged next, the model would judge the logger."""
    log = endless(4_000)
    assert log.obs is not None and log.action is not None and log.all_target is not None
    logged = torch.nn.functional.one_hot(log.action, 2).double()
    wrong = torch.cat([log.all_target[:, :1], logged[:, 1:], log.all_target[:, -1:]], dim=1)
    mistaken = linear_model(Trajectories(**{**vars(log), "all_target": wrong}), log.obs)
    assert abs(value_of(mistaken) - endless_truth()) > 0.02 * endless_truth()


@pytest.mark.parametrize("folds", [1, 2])
def test_fitted_q_evaluation_comes_to_rest_where_the_table_is(folds: int) -> None:
    log = endless(400)
    assert log.obs is not None
    config = FQEConfig(hidden=(32,), updates=800, learning_rate=5e-3, target_rate=0.05, folds=folds)
    model = fitted_q_evaluation(log, config, seeds=Seeds(0))
    assert model.cross_fitted == (folds == 2)
    assert value_of(direct(log, model)) == pytest.approx(value_of(linear_model(log, log.obs)), rel=0.03)
    until_the_cut = float(problem(ending=0.05).start @ problem(ending=0.05).value_within(TARGET, 0.9, 40))
    assert value_of(doubly_robust(log, model)) == pytest.approx(until_the_cut, rel=0.1)


def test_the_unit_of_the_rewards_is_the_unit_of_the_answer_and_nothing_else() -> None:
    """After so few steps nothing has been learned from a unit of 1,000; the same share has to be known of either."""
    log = endless(60)
    config = FQEConfig(hidden=(32,), updates=60, folds=2)
    plain = fitted_q_evaluation(log, config, seeds=Seeds(0))
    large = fitted_q_evaluation(replace(log, reward=1_000 * log.reward), config, seeds=Seeds(0))
    assert_close(large.q, 1_000 * plain.q, rtol=1e-3, atol=0.1)
    assert_close(large.value, 1_000 * plain.value, rtol=1e-3, atol=0.1)
    assert float(plain.q.std()) > 0.0


def test_the_usual_value_is_that_of_a_plain_loop() -> None:
    log = played(problem(), 7, HORIZON, GAMMA, Seeds(8).torch("episodes"))
    led_to = []
    for i in range(log.num_episodes):
        length = int(log.mask[i].sum())
        for t in range(length):
            led_to.append(sum(GAMMA ** (k - t) * float(log.reward[i, k]) for k in range(t, length)))
    assert usual_value(log) == pytest.approx(math.sqrt(statistics.fmean(value**2 for value in led_to)))
    assert usual_value(replace(log, reward=torch.zeros_like(log.reward))) == 1.0
    two = Trajectories.from_arrays(
        target=torch.ones(1, 2), behaviour=torch.ones(1, 2), reward=torch.tensor([[1.0, 3.0]])
    )
    assert usual_value(two) == pytest.approx(math.sqrt(12.5))


def test_step_weights_are_another_road_to_the_same_number() -> None:
    log = endless(300)
    assert log.obs is not None
    weights = step_weights(log, log.obs)
    assert value_of(marginalised(log, weights)) == pytest.approx(value_of(linear_model(log, log.obs)))
    assert float(weights.min()) >= 0.0  # ratios of frequencies, in a table


def test_step_weights_are_the_ratio_of_how_often_a_state_is_seen() -> None:
    """Occupancies in closed form: (I - gamma P_pi)^T d = start, and the log's own counts."""
    mdp, log = problem(ending=0.05), endless(4_000)
    assert log.obs is not None and log.action is not None
    moves = torch.einsum("sa,sau->su", TARGET, mdp.transition)
    visits = torch.linalg.solve((torch.eye(STATES, dtype=torch.float64) - 0.9 * moves).T, mdp.start)  # (S,)
    wanted = visits.unsqueeze(-1) * TARGET  # (S, A)
    weights, states = step_weights(log, log.obs), log.obs[:, :-1].argmax(-1)
    for state in range(STATES):
        for action in range(2):
            here = (states == state) & (log.action == action) & (log.mask > 0)
            seen = here.sum() / log.num_episodes  # how often in an episode of the log
            assert_close(weights[here].mean(), wanted[state, action] / seen, rtol=0.03, atol=0.0)


def test_the_marginalised_doubly_robust_one_forgives_either_mistake() -> None:
    log = endless(4_000)
    assert log.obs is not None
    wrong, right = invented(log, tail=True), linear_values(log, log.obs)
    good, bad = step_weights(log, log.obs), torch.full_like(log.reward, 0.1)
    for weights, model, forgiven in ((good, wrong, True), (bad, right, True), (bad, wrong, False)):
        found = value_of(marginalised_doubly_robust(log, weights, model))
        assert (abs(found - endless_truth()) < 0.03 * endless_truth()) == forgiven


def test_a_long_horizon_ruins_whole_episode_weights_and_not_step_weights() -> None:
    log = endless(500)
    assert log.obs is not None
    far = abs(value_of(importance_sampling(log)) - endless_truth())
    near = abs(value_of(marginalised(log, step_weights(log, log.obs))) - endless_truth())
    assert near < 0.05 * endless_truth() < far
