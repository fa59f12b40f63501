"""Off-policy evaluation of continuous actions, where the answer is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from rlcourse.errors import ConfigError, DatasetInvalidError
from rlcourse.evaluation.off_policy import (
    ESTIMATOR_NAMES,
    Demands,
    FQEConfig,
    RatioStatistic,
    Trajectories,
    assess,
    diagnose,
    estimate_propensities,
    fitted_q_evaluation,
    importance_sampling,
    judge,
    linear_model,
    logger_value,
    per_decision,
    quadratic_features,
    step_weights,
)
from rlcourse.experience.episodes import Episodes
from rlcourse.networks import (
    DeterministicPolicy,
    GaussianPolicy,
    SquashedGaussianPolicy,
    UniformBoxPolicy,
    UniformPolicy,
)
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import ContinuousActions, DensityPolicy, Policy

ACTIONS = ContinuousActions(torch.tensor([-9.0]), torch.tensor([9.0]))
GAMMA = 0.9


def gaussian(gain: float, std: float) -> GaussianPolicy:
    """Acts ``gain`` times the observation, give or take ``std``."""
    return GaussianPolicy(lambda obs: gain * obs, torch.tensor([std]).log(), ACTIONS)


LOGGER, TARGET = gaussian(-0.3, 0.6), gaussian(-0.5, 0.5)


def episodes_of(count: int, steps: int, seed: int, policy: GaussianPolicy = LOGGER) -> Episodes:
    """A number drifts: s' = 0.9 s + a + noise of spread 0.1, reward -s^2 - a^2; s_0 is standard normal."""
    generator = Seeds(seed).torch("log")
    state = torch.randn(count, 1, generator=generator)
    rows, actions, rewards, chances = [state], [], [], []
    for _ in range(steps):
        action = policy.act(state, greedy=False, generator=generator)
        actions.append(action)
        chances.append(policy.log_density(state, action).exp())
        rewards.append(-(state.square() + action.square()).squeeze(-1))
        state = 0.9 * state + action + 0.1 * torch.randn(count, 1, generator=generator)
        rows.append(state)
    return Episodes(
        observations=torch.stack(rows, 1).flatten(0, 1).numpy(),
        actions=torch.stack(actions, 1).flatten(0, 1).numpy(),
        rewards=torch.stack(rewards, 1).flatten().numpy(),
        lengths=np.full(count, steps),
        terminated=np.zeros(count, dtype=bool),
        behaviour_probabilities=torch.stack(chances, 1).flatten().numpy(),
    )


def true_value(gain: float, std: float, steps: int | None) -> float:
    """By the second moment m of the state: m' = (0.9 + gain)^2 m + std^2 + 0.01; a step pays -(1 + gain^2) m - std^2."""
    moment, total = 1.0, 0.0
    for t in range(steps or 2_000):
        total += GAMMA**t * -((1 + gain**2) * moment + std**2)
        moment = (0.9 + gain) ** 2 * moment + std**2 + 0.01
    return total


def laid(count: int, steps: int, seed: int, policy: Policy = TARGET) -> Trajectories:
    generator = Seeds(seed).torch("draws")
    return Trajectories.from_episodes(episodes_of(count, steps, seed), policy, gamma=GAMMA, generator=generator)


def value_of(statistic: RatioStatistic) -> float:
    return float(statistic.value(torch.ones(1, statistic.num_episodes, dtype=torch.float64)))


@pytest.mark.parametrize("estimator", [importance_sampling, per_decision])
def test_weighing_by_densities_is_unbiased(estimator: Callable[[Trajectories], RatioStatistic]) -> None:
    """Over 60,000 episodes of three steps the mean lies within four of its own standard errors of the truth."""
    log = laid(60_000, 3, seed=0)
    statistic = estimator(log)
    each = statistic.numerator.squeeze(-1)
    error = float(each.std()) / math.sqrt(len(each))
    assert abs(float(each.mean()) - true_value(-0.5, 0.5, 3)) < 4 * error
    assert error < 0.05, "wide enough to hide the logger's own value"
    assert abs(true_value(-0.5, 0.5, 3) - true_value(-0.3, 0.6, 3)) > 5 * error
    weights = log.cumulative()[:, -1]
    assert abs(float(weights.mean()) - 1.0) < 4 * float(weights.std()) / math.sqrt(len(weights))


def test_ratios_are_what_a_plain_loop_makes_them() -> None:
    episodes, log = episodes_of(4, 5, seed=3), laid(4, 5, seed=3)
    for number in range(4):
        product = 1.0
        for t in range(5):
            state = float(episodes.observations[number * 6 + t, 0])
            action = float(episodes.actions[number * 5 + t, 0])
            product *= _normal(action, -0.5 * state, 0.5) / _normal(action, -0.3 * state, 0.6)
            assert float(log.cumulative()[number, t]) == pytest.approx(product, rel=1e-4)


def _normal(x: float, mean: float, std: float) -> float:
    return math.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


def test_a_quadratic_model_is_exact_here_and_so_are_the_step_weights() -> None:
    """Q is a quadratic of state and action in this task, so least squares comes to the value over an endless horizon."""
    log = laid(4_000, 20, seed=1)
    truth = true_value(-0.5, 0.5, None)
    features = quadratic_features(log)
    model = linear_model(log, features)
    everything = torch.ones(1, log.num_episodes, dtype=torch.float64)
    assert float(model.value(everything)) == pytest.approx(truth, rel=0.03)
    weights = step_weights(log, features)
    assert value_of(RatioStatistic.mean((weights * log.reward).sum(-1))) == pytest.approx(truth, rel=0.03)
    assert abs(truth - true_value(-0.3, 0.6, None)) > 0.1 * abs(truth), "the logger's value would pass, too"


def test_a_model_is_asked_about_what_the_environment_would_do_and_not_about_what_it_would_clip() -> None:
    """A spread of 3 within bounds of 1 would draw two thirds of its actions outside, where nobody has ever acted."""
    bounds = ContinuousActions(torch.tensor([-1.0]), torch.tensor([1.0]))
    wide = GaussianPolicy(lambda obs: 0.0 * obs, torch.tensor([3.0]).log(), bounds)
    drawn = laid(50, 5, seed=2, policy=wide).drawn
    assert drawn is not None and float(drawn.min()) == -1.0 and float(drawn.max()) == 1.0
    assert 0.6 < float((drawn.abs() == 1.0).double().mean()) < 0.9


def test_a_deterministic_policy_is_judged_by_what_it_would_do() -> None:
    policy = DeterministicPolicy(lambda obs: -0.5 * obs)
    log = laid(4_000, 20, seed=2, policy=policy)
    assert not log.weighable and log.drawn is not None and log.drawn.shape == (4_000, 21, 1, 1)
    model = linear_model(log, quadratic_features(log))
    everything = torch.ones(1, log.num_episodes, dtype=torch.float64)
    assert float(model.value(everything)) == pytest.approx(true_value(-0.5, 0.0, None), rel=0.06)


@pytest.mark.slow
def test_a_fitted_network_comes_near_the_value_of_the_target_and_not_of_the_logger() -> None:
    log = laid(1_000, 20, seed=4)
    model = fitted_q_evaluation(log, FQEConfig(updates=3_000), seeds=Seeds(0))
    truth, logger = true_value(-0.5, 0.5, None), true_value(-0.3, 0.6, None)
    assert model.cross_fitted
    found = float(model.value[:, 0].mean())
    assert found == pytest.approx(truth, rel=0.06)
    assert abs(found - truth) < abs(found - logger) / 2


def test_a_deterministic_policy_cannot_be_weighed_and_is_not_promoted() -> None:
    log = laid(200, 5, seed=5, policy=DeterministicPolicy(lambda obs: -0.5 * obs))
    for name in ("is", "wis", "pdis", "wpdis", "dr", "wdr", "mis", "mdr"):
        with pytest.raises(DatasetInvalidError, match="no density"):
            assess(log, [name], seeds=Seeds(0), fqe=FQEConfig(updates=2))
    found = assess(log, ["linear", "fqe"], seeds=Seeds(0), fqe=FQEConfig(updates=20), resamples=100)
    assert found.diagnostics.effective_sample_size == 0.0 and found.diagnostics.zero_share == 1.0
    logger = logger_value(log, seeds=Seeds(0), resamples=100)
    answer = judge({"new": found.values["linear"]}, logger, {"new": found.diagnostics}, Demands(), basis="episodes")
    assert answer.decision == "inconclusive"


def test_every_estimator_answers_for_a_policy_with_a_density() -> None:
    log = laid(2_000, 3, seed=6)
    found = assess(
        log,
        ESTIMATOR_NAMES,
        seeds=Seeds(0),
        fqe=FQEConfig(updates=300),
        resamples=500,
        confidence=0.99,
        policy=TARGET,
    )
    truth, logger = true_value(-0.5, 0.5, 3), true_value(-0.3, 0.6, 3)
    assert all(math.isfinite(value.estimate) for value in found.values.values())
    assert found.values["task"].estimate == pytest.approx(truth, rel=0.1) and "a model" in found.bounds["task"].reason
    with pytest.raises(ConfigError, match="has to live"):
        assess(log, ["task"], seeds=Seeds(0))
    for name in ("wis", "wpdis"):
        interval = found.values[name].interval
        assert interval.low < truth < interval.high and truth > logger


def test_densities_that_were_not_logged_are_guessed() -> None:
    episodes = episodes_of(400, 5, seed=7)
    bounds = ContinuousActions(torch.tensor([-2.0]), torch.tensor([2.0]))
    guessed = estimate_propensities(episodes, actions=bounds, seeds=Seeds(0), updates=3_000)
    ratio = guessed / episodes.behaviour_probabilities
    assert np.median(ratio) == pytest.approx(1.0, abs=0.1)
    log = Trajectories.from_episodes(episodes, TARGET, gamma=GAMMA, behaviour=guessed)
    assert log.propensities == "estimated"


@pytest.mark.parametrize("bounds", [(-2.0, 2.0), (0.0, 5.0)])
def test_a_squashed_density_is_in_the_actions_own_units(bounds: tuple[float, float]) -> None:
    actions = ContinuousActions(*(torch.tensor([bound]) for bound in bounds))
    policy = SquashedGaussianPolicy(lambda obs: torch.tensor([[0.3, -0.5]]).expand(len(obs), 2), actions)
    grid = torch.linspace(*bounds, 20_003)[1:-1].unsqueeze(-1)
    density = policy.log_density(torch.zeros(len(grid), 1), grid).exp()
    assert float(density.sum()) * (bounds[1] - bounds[0]) / 20_002 == pytest.approx(1.0, abs=1e-3)
    obs = torch.zeros(1_000, 1)
    action, scaled = policy.sample(obs, Seeds(0).torch("actions"))
    expected = scaled - actions.half_range.log().sum()
    torch.testing.assert_close(policy.log_density(obs, action), expected, rtol=1e-3, atol=1e-3)
    edge = policy.log_density(torch.zeros(2, 1), torch.tensor(bounds).unsqueeze(-1))
    assert edge.isfinite().all()


def test_an_even_density_is_one_over_the_range() -> None:
    policy = UniformBoxPolicy(ACTIONS)
    assert isinstance(policy, DensityPolicy)
    found = policy.log_density(torch.zeros(3, 1), torch.zeros(3, 1)).exp()
    torch.testing.assert_close(found, torch.full((3,), 1 / 18))


def spoiled(**changes: Tensor | np.ndarray) -> Episodes:
    return Episodes(**{**vars(episodes_of(4, 5, seed=0)), **changes})


@pytest.mark.parametrize(
    ("episodes", "policy", "problem"),
    [
        (lambda: spoiled(), UniformPolicy(2), "counts them"),
        (
            lambda: spoiled(),
            UniformBoxPolicy(ContinuousActions(-torch.ones(2), torch.ones(2))),
            "hold 1 numbers, the policy's 2",
        ),
        (lambda: spoiled(behaviour_probabilities=np.zeros(20, dtype=np.float32)), TARGET, "impossible"),
        (lambda: spoiled(behaviour_probabilities=np.full(20, np.nan, dtype=np.float32)), TARGET, "not logged"),
        (lambda: spoiled(rewards=np.full(20, np.nan, dtype=np.float32)), TARGET, "no number"),
        (lambda: spoiled(actions=np.zeros(20, dtype=np.int64)), TARGET, "counts its actions"),
        (
            lambda: spoiled(actions=np.full((20, 1), np.nan, dtype=np.float32)),
            UniformBoxPolicy(ACTIONS),
            "actions that",
        ),
        (lambda: spoiled(), DeterministicPolicy(lambda obs: obs * math.nan), "actions of the target policy that"),
    ],
)
def test_what_cannot_be_judged_is_refused(episodes: Callable[[], Episodes], policy: Policy, problem: str) -> None:
    with pytest.raises(DatasetInvalidError, match=problem):
        Trajectories.from_episodes(episodes(), policy, gamma=GAMMA)


def test_what_the_target_could_never_have_done_weighs_nothing() -> None:
    """Even actions over (-5, 5), judged for even ones over (-2, 2): two in five count, at 2.5 each, and the mean is 1."""
    count = 20_000
    action = 10 * torch.rand(count, 1, generator=Seeds(0).torch("actions")) - 5
    log = Episodes(
        observations=np.zeros((2 * count, 1), dtype=np.float32),
        actions=action.numpy(),
        rewards=np.ones(count, dtype=np.float32),
        lengths=np.ones(count, dtype=np.int64),
        terminated=np.ones(count, dtype=bool),
        behaviour_probabilities=np.full(count, 0.1, dtype=np.float32),
    )
    narrow = ContinuousActions(torch.tensor([-2.0]), torch.tensor([2.0]))
    weights = Trajectories.from_episodes(log, UniformBoxPolicy(narrow), gamma=1.0).cumulative()[:, -1]
    assert sorted(weights.unique().tolist()) == pytest.approx([0.0, 2.5])
    assert float(weights.mean()) == pytest.approx(1.0, abs=4 * 1.23 / math.sqrt(count))
    squashed = SquashedGaussianPolicy(lambda obs: torch.zeros(len(obs), 2), narrow)
    outside = squashed.log_density(torch.zeros(2, 1), torch.tensor([[2.1], [-2.0]])).isinf()
    assert outside.tolist() == [True, False]


def test_products_too_large_for_a_number_say_so() -> None:
    log = Trajectories.from_arrays(
        target=np.full((3, 400), 10.0), behaviour=np.full((3, 400), 1.0), reward=np.ones((3, 400))
    )
    with pytest.raises(DatasetInvalidError, match="too large to be a number"):
        log.cumulative()


def test_one_episode_says_so() -> None:
    assert diagnose(laid(1, 5, seed=0)).tail_shape is None
