"""Intervals that cover, diagnostics that warn, verdicts that do not pretend."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlcourse.environments.known_answers import one_hot
from rlcourse.errors import ConfigError, DatasetInvalidError, ShapeError
from rlcourse.evaluation.off_policy import (
    Demands,
    OffPolicyVerdict,
    RatioStatistic,
    Resampled,
    Trajectories,
    diagnose,
    direct,
    empirical_bernstein_interval,
    estimate_propensities,
    hoeffding_interval,
    importance_sampling,
    judge,
    linear_model,
    linear_values,
    per_decision,
    rank_correlation,
    regret_at_k,
    resample,
    step_weights,
    tail_shape,
    weighted_importance_sampling,
)
from rlcourse.experience.episodes import Episodes
from rlcourse.networks import ScriptedPolicy, UniformPolicy
from rlcourse.randomness import Seeds
from tests.evaluation.off_policy.problems import BEHAVIOUR, TARGET, bandit, played, problem, rng

# Intervals


def test_worked_numbers() -> None:
    half = np.full(200, 0.5)
    assert hoeffding_interval(half, 0, 1).high - 0.5 == pytest.approx(0.0960, abs=5e-5)
    assert empirical_bernstein_interval(np.full(101, 0.5), 0, 1).high - 0.5 == pytest.approx(0.1022, abs=5e-5)
    assert rank_correlation([1, 2, 3], [10, 30, 20]) == pytest.approx(0.5)
    assert regret_at_k([3, 2, 1], [10, 30, 20], 1) == 20.0
    assert regret_at_k([3, 2, 1], [10, 30, 20], 2) == 0.0


@pytest.mark.parametrize("estimator", [importance_sampling, weighted_importance_sampling])
def test_bootstrap_intervals_cover_as_often_as_they_say(estimator: object) -> None:
    """Of 400 intervals at 90 %, between 340 and 380 hold the truth: four standard errors are 24."""
    covered = 0
    for seed in range(400):
        found = resample(estimator(bandit(100, seed=seed)), rng=rng(seed), confidence=0.9, resamples=400)  # type: ignore[operator]
        covered += found.interval.low <= 0.9 <= found.interval.high
    assert abs(covered - 360) <= 24


def test_concentration_intervals_cover_at_least_as_often_as_they_say() -> None:
    source = rng()
    for bound in (hoeffding_interval, empirical_bernstein_interval):
        covered = [
            interval.low <= 1 / 3 <= interval.high
            for interval in (bound(source.beta(1, 2, size=50), 0, 1, confidence=0.9) for _ in range(300))
        ]
        assert np.mean(covered) >= 0.9


def test_little_variance_makes_bernsteins_interval_the_narrower_one() -> None:
    values = rng().uniform(0.49, 0.51, size=2_000)
    hoeffding, bernstein = hoeffding_interval(values, 0, 1), empirical_bernstein_interval(values, 0, 1)
    assert bernstein.high - bernstein.low < 0.5 * (hoeffding.high - hoeffding.low)


def test_drawing_steps_instead_of_episodes_makes_intervals_too_narrow() -> None:
    """The steps of an episode share its weight: as if there were T times as many episodes."""
    log = played(problem(), 60, 10, 0.95, Seeds(0).torch("episodes"))
    right = resample(weighted_importance_sampling(log), rng=rng()).interval
    weight = log.cumulative()[:, -1:].expand_as(log.reward)[log.mask > 0].unsqueeze(-1)
    paid = log.reward[log.mask > 0].unsqueeze(-1)
    per_step = resample(RatioStatistic(weight * paid, weight), rng=rng()).interval
    relative = (per_step.high - per_step.low) / per_step.estimate
    assert relative < 0.75 * (right.high - right.low) / right.estimate


def test_skewed_statistics_get_skewed_intervals() -> None:
    skewed = RatioStatistic.mean(torch.from_numpy(rng().lognormal(sigma=1.5, size=80)))
    found = resample(skewed, rng=rng())
    low, high = np.percentile(found.values, [2.5, 97.5])
    assert found.interval.low > low and found.interval.high > high  # moved towards the long tail


def test_the_linear_model_is_fitted_anew_to_each_resample() -> None:
    log = played(problem(), 200, 20, 0.9, Seeds(0).torch("episodes"))
    assert log.obs is not None
    fixed = resample(direct(log, linear_values(log, log.obs)), rng=rng()).interval
    anew = resample(linear_model(log, log.obs), rng=rng()).interval
    assert anew.estimate == pytest.approx(fixed.estimate)
    assert anew.high - anew.low > 2 * (fixed.high - fixed.low)  # the first knows of the first states' luck alone


def test_the_same_draws_for_everybody() -> None:
    log = bandit(50)
    one, two = resample(importance_sampling(log), rng=rng()), resample(importance_sampling(log), rng=rng())
    assert np.array_equal(one.values, two.values)


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda: resample(importance_sampling(bandit(9)), rng=rng(), confidence=1.0), ConfigError, "Confidence"),
        (lambda: resample(importance_sampling(bandit(9)), rng=rng(), resamples=0), ConfigError, "0 resamples"),
        (lambda: hoeffding_interval([0.5, 1.5], 0, 1), ConfigError, "outside"),
        (lambda: hoeffding_interval([np.nan], 0, 1), DatasetInvalidError, "no number"),
        (lambda: empirical_bernstein_interval([0.5], 0, 1), DatasetInvalidError, "no variance"),
        (lambda: rank_correlation([1, 1], [1, 2]), ConfigError, "no order"),
        (lambda: rank_correlation([1], [1]), ShapeError, "1 estimates"),
        (lambda: regret_at_k([1, 2], [1, 2], 3), ConfigError, "k is 3"),
        (lambda: Demands(risk=0.7), ConfigError, "risk"),
    ],
)
def test_wrong_words_are_typed_errors(act: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        act()  # type: ignore[operator]


# What cannot be estimated


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"behaviour": [0.5, 0.0]}, "impossible"),
        ({"behaviour": [0.5, np.nan]}, "were not logged"),
        ({"behaviour": [0.5, np.inf]}, "infinite"),
        ({"target": [0.5, np.nan]}, "target probabilities"),
        ({"target": [0.5, -0.1]}, "target probabilities"),
        ({"reward": [1.0, np.nan]}, "rewards"),
    ],
)
def test_impossible_logs_are_refused(change: dict[str, list[float]], words: str) -> None:
    given = {"target": [0.5, 0.5], "behaviour": [0.5, 0.5], "reward": [0.0, 1.0], **change}
    target, behaviour, reward = (np.array(given[name]) for name in ("target", "behaviour", "reward"))
    with pytest.raises(DatasetInvalidError, match=words):
        Trajectories.from_arrays(target=target, behaviour=behaviour, reward=reward)


def test_shapes_and_discounts_are_checked() -> None:
    with pytest.raises(ShapeError, match="behaviour has shape"):
        Trajectories.from_arrays(target=np.ones(3), behaviour=np.ones(2), reward=np.ones(3))
    with pytest.raises(ConfigError, match="gamma"):
        Trajectories.from_arrays(target=np.ones(3), behaviour=np.ones(3), reward=np.ones(3), gamma=1.5)
    with pytest.raises(DatasetInvalidError, match="no steps"):
        Trajectories.from_arrays(
            target=np.ones((2, 1)), behaviour=np.ones((2, 1)), reward=np.ones((2, 1)), mask=np.array([[1.0], [0.0]])
        )


def test_a_target_that_never_does_what_was_logged_has_no_self_normalised_value() -> None:
    log = Trajectories.from_arrays(target=np.zeros(5), behaviour=np.full(5, 0.5), reward=np.ones(5))
    with pytest.raises(DatasetInvalidError, match="all weights are 0"):
        resample(weighted_importance_sampling(log), rng=rng())
    assert diagnose(log).effective_sample_size == 0.0


# Diagnostics


def test_equal_weights_are_worth_their_number_and_one_large_one_is_worth_one() -> None:
    log = bandit(200)
    evenly = replace(log, target=log.behaviour)
    assert diagnose(evenly).effective_sample_size == pytest.approx(200)
    assert diagnose(evenly).tail_shape == 0.0
    lonely = replace(log, target=torch.where(torch.arange(200).unsqueeze(-1) == 7, 0.9, 1e-9).double())
    about = diagnose(lonely)
    assert about.effective_sample_size == pytest.approx(1.0, abs=1e-4) and about.largest_share > 0.99


def test_the_mean_weight_is_one_if_the_propensities_are_right() -> None:
    log = played(problem(), 20_000, 5, 1.0, Seeds(0).torch("episodes"))
    assert diagnose(log).mean_weight == pytest.approx(1.0, abs=0.03)
    doubled = replace(log, behaviour=log.behaviour * 0.5)
    assert diagnose(doubled).mean_weight > 2.0


@pytest.mark.parametrize("shape", [0.2, 0.5, 1.0])
def test_the_tails_shape_is_found(shape: float) -> None:
    weights = rng().pareto(1.0 / shape, size=40_000)
    found = tail_shape(weights)
    assert found is not None and found == pytest.approx(shape, abs=0.15)
    assert tail_shape(weights[:10]) is None


def test_actions_that_nobody_logged_are_noticed() -> None:
    log = played(problem(), 50, 5, 1.0, Seeds(0).torch("episodes"))
    assert diagnose(log).unlogged_mass == pytest.approx(0.0)
    assert log.all_target is not None
    third = torch.cat([0.6 * log.all_target, torch.full_like(log.all_target[..., :1], 0.4)], dim=-1)
    assert diagnose(replace(log, all_target=third)).unlogged_mass == pytest.approx(0.4)


# Verdicts


def verdict(log: Trajectories, demands: Demands | None = None) -> OffPolicyVerdict:
    found = resample(weighted_importance_sampling(log), rng=rng())
    logger = resample(RatioStatistic.mean(log.returns()), rng=rng())
    return judge({"new": found}, logger, {"new": diagnose(log)}, demands)


def test_better_worse_and_unknown() -> None:
    good, bad = verdict(bandit(400)), verdict(bandit(400, share=0.1))
    assert good.decision == "promote" and good.candidate == "new"
    assert good.evidence[0].probability_worse < 0.01 and good.evidence[0].value_at_risk > 0
    assert bad.decision == "reject" and bad.candidate is None
    log = bandit(400)
    same = verdict(replace(log, target=log.behaviour))  # the logger itself: neither better nor worse in any draw
    assert same.decision == "inconclusive" and same.evidence[0].probability_worse == pytest.approx(0.5)
    assert same.evidence[0].objections == ()
    assert verdict(bandit(400), Demands(fewest_episodes=500)).decision == "inconclusive"


def test_a_promotion_that_should_not_be_is_as_rare_as_the_risk_says() -> None:
    """The target is worth exactly what the logger is; of 400 logs at most 20 + 4 standard errors (17) promote it."""
    promoted = 0
    for seed in range(400):
        source = rng(seed)
        arm = source.integers(2, size=100)
        log = Trajectories.from_arrays(
            target=np.where(arm == 1, 0.8, 0.2), behaviour=np.full(100, 0.5), reward=source.normal(size=100)
        )
        found = resample(weighted_importance_sampling(log), rng=rng(seed), resamples=300)
        logger = resample(RatioStatistic.mean(log.returns()), rng=rng(seed), resamples=300)
        promoted += judge({"new": found}, logger, {"new": diagnose(log)}).decision == "promote"
    assert 3 <= promoted <= 37


def test_a_single_episode_and_equal_returns_are_inconclusive() -> None:
    one = bandit(1)
    assert verdict(one).decision == "inconclusive"
    same = Trajectories.from_arrays(target=np.full(50, 0.5), behaviour=np.full(50, 0.5), reward=np.ones(50))
    answer = verdict(same)
    assert answer.decision == "inconclusive" and "does not vary" in answer.reason


def test_heavy_weights_are_an_objection_unless_the_estimate_rests_on_single_steps() -> None:
    log = played(problem(ending=0.02), 100, 60, 0.92, Seeds(0).torch("episodes"))
    found = resample(per_decision(log), rng=rng())
    logger = resample(RatioStatistic.mean(log.returns()), rng=rng())
    about = {"new": diagnose(log)}
    assert any(
        "worth" in words or "tail" in words for words in judge({"new": found}, logger, about).evidence[0].objections
    )
    assert "nobody looked" in judge({"new": found}, logger, about, basis="steps").evidence[0].objections[0]
    for share, sound in ((0.0, True), (0.2, False)):
        looked = {"new": replace(about["new"], negative_share=share)}
        assert bool(judge({"new": found}, logger, looked, basis="steps").evidence[0].objections) != sound


def test_the_best_sound_candidate_comes_first() -> None:
    log, logger_of = bandit(400), RatioStatistic.mean
    weak = replace(log, target=0.5 * log.target + 0.5 * log.behaviour)
    found = {
        name: resample(weighted_importance_sampling(each), rng=rng())
        for name, each in (("weak", weak), ("strong", log))
    }
    about = {"weak": diagnose(weak), "strong": diagnose(log)}
    answer = judge(found, resample(logger_of(log.returns()), rng=rng()), about)
    assert [one.candidate for one in answer.evidence] == ["strong", "weak"]
    broken = {**about, "strong": replace(about["strong"], unlogged_mass=0.5)}
    answer = judge(found, resample(logger_of(log.returns()), rng=rng()), broken)
    assert [one.candidate for one in answer.evidence] == ["weak", "strong"] and answer.candidate == "weak"


def test_a_verdict_is_plain_json_even_where_nothing_is_known() -> None:
    values = np.full(1_000, np.nan)
    nothing = Resampled(1.0, values, resample(importance_sampling(bandit(30)), rng=rng()).interval)
    nothing = replace(nothing, interval=replace(nothing.interval, low=-math.inf, high=math.inf))
    logger = resample(RatioStatistic.mean(bandit(30).returns()), rng=rng())
    answer = judge({"new": nothing}, logger, {"new": diagnose(bandit(30))})
    assert answer.decision == "inconclusive"
    text = json.dumps(answer.to_json(), allow_nan=False)
    assert json.loads(text)["evidence"][0]["low"] is None


def test_what_cannot_be_judged_is_a_typed_error() -> None:
    log = bandit(30)
    found, logger = (resample(RatioStatistic.mean(log.returns()), rng=rng(), resamples=n) for n in (100, 200))
    with pytest.raises(ConfigError, match="nothing to judge"):
        judge({}, logger, {})
    with pytest.raises(ShapeError, match="100 resamples"):
        judge({"new": found}, logger, {"new": diagnose(log)})


# From episodes


def episodes(count: int = 300, seed: int = 0) -> Episodes:
    """The small MDP as Episodes, with BEHAVIOUR's propensities."""
    states, action, reward, mask, ended = problem().play(BEHAVIOUR, count, 8, Seeds(seed).torch("episodes"))
    lengths = mask.sum(-1).long()
    steps, rows = mask > 0, torch.arange(9) < lengths.unsqueeze(-1) + 1
    return Episodes(
        one_hot(states[rows], 3).numpy(),
        action[steps].numpy(),
        reward[steps].float().numpy(),
        BEHAVIOUR[states[:, :-1], action][steps].float().numpy(),
        lengths.numpy(),
        ended.numpy(),
    ).validate()


class TablePolicy:
    """TARGET as a policy."""

    def act(self, obs: torch.Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> torch.Tensor:
        return self.probabilities(obs).argmax(-1)

    def probabilities(self, obs: torch.Tensor) -> torch.Tensor:
        return TARGET[obs.argmax(-1)].float()


def test_episodes_become_rows() -> None:
    log = Trajectories.from_episodes(episodes(), TablePolicy(), gamma=0.95)
    straight = played(problem(), 300, 8, 0.95, Seeds(0).torch("episodes"))
    for name in ("target", "behaviour", "reward"):
        there = straight.mask > 0
        torch.testing.assert_close(getattr(log, name)[there], getattr(straight, name)[there], rtol=1e-5, atol=1e-6)
    assert torch.equal(log.mask, straight.mask[:, : log.horizon])
    assert log.obs is not None and straight.obs is not None and log.terminated is not None
    assert torch.equal(log.obs[:, :-1][log.mask > 0], straight.obs[:, :-1][straight.mask > 0])
    with pytest.raises(DatasetInvalidError, match="knows 1 actions"):
        Trajectories.from_episodes(episodes(), UniformPolicy(1), gamma=0.95)


def test_propensities_can_be_guessed_and_say_so() -> None:
    log = episodes(600)
    guessed = estimate_propensities(log, actions=2, seeds=Seeds(0), updates=400)
    assert np.abs(guessed - log.behaviour_probabilities).mean() < 0.04
    unknown = replace(log, behaviour_probabilities=np.full_like(log.behaviour_probabilities, np.nan))
    with pytest.raises(DatasetInvalidError, match="Estimate them"):
        Trajectories.from_episodes(unknown, TablePolicy(), gamma=0.95)
    with_guess = Trajectories.from_episodes(unknown, TablePolicy(), gamma=0.95, behaviour=guessed)
    with_log = Trajectories.from_episodes(log, TablePolicy(), gamma=0.95)
    assert diagnose(with_guess).propensities == "estimated" and diagnose(with_log).propensities == "logged"
    one, two = (float(per_decision(each).value(torch.ones(1, 600).double())) for each in (with_guess, with_log))
    assert one == pytest.approx(two, rel=0.1)
    with pytest.raises(DatasetInvalidError, match="cannot be split"):
        estimate_propensities(log.select(np.array([0])), actions=2, seeds=Seeds(0))
    with pytest.raises(ConfigError, match="folds"):
        estimate_propensities(log, actions=2, seeds=Seeds(0), folds=1)


def test_a_clone_never_guesses_less_than_the_floor() -> None:
    log = episodes(60)
    assert estimate_propensities(log, actions=2, seeds=Seeds(0), updates=200, floor=0.45).min() >= 0.45


def test_a_deterministic_target_is_a_policy_like_any_other() -> None:
    always = ScriptedPolicy(lambda obs: torch.zeros(len(obs), dtype=torch.int64), 2)
    log = Trajectories.from_episodes(episodes(), always, gamma=0.95)
    assert set(log.target.unique().tolist()) == {0.0, 1.0}
    assert 0.0 < diagnose(log).zero_share < 1.0


def test_how_much_of_the_step_weights_is_negative() -> None:
    log = played(problem(ending=0.05), 400, 30, 0.9, Seeds(0).torch("episodes"))
    assert log.obs is not None
    assert diagnose(log, step_weights(log, log.obs)).negative_share == 0.0  # a table: true ratios of frequencies
    assert diagnose(log).negative_share is None
    assert diagnose(log, torch.tensor([[3.0, -1.0]])).negative_share == 0.25


def test_weights_that_are_all_tiny_have_a_tail_all_the_same() -> None:
    shape = tail_shape(rng().pareto(1.0, size=4_000) * 1e-30)
    assert shape is not None and shape > 0.7
