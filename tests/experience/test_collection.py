from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlcourse.environments import Pendulum, Step, make
from rlcourse.errors import ConfigError, TrainingDivergedError
from rlcourse.experience.collection import EpisodeRecorder, collect, first_transitions
from rlcourse.experience.episodes import Episodes
from rlcourse.networks import (
    CategoricalPolicy,
    EpsilonGreedyPolicy,
    MLPNetwork,
    ScriptedPolicy,
    SquashedGaussianPolicy,
    UniformBoxPolicy,
    UniformPolicy,
)
from rlcourse.randomness import Seeds


def recorded(ends: list[list[int]]) -> tuple[EpisodeRecorder, list[dict[str, Any]]]:
    """Record rows of numbered steps; ``ends[t][i]``: 0 environment i goes on, 1 terminated, 2 truncated.

    Also returns the finished episodes by a plain loop over environments, in the order they ended.
    """
    recorder, finished = EpisodeRecorder(), []
    num_envs = len(ends[0])
    running: list[dict[str, Any]] = [{"obs": [], "action": [], "reward": [], "chance": []} for _ in range(num_envs)]
    for t, row in enumerate(ends):
        number = torch.arange(num_envs) * 1000.0 + t
        code = torch.tensor(row)
        step = Step(number[:, None] + 0.5, number, code == 1, code == 2, torch.full((num_envs, 1), -1.0))
        recorder.record(number[:, None], number.long(), 1 / (1 + number), step)
        for i in range(num_envs):
            x = 1000.0 * i + t
            episode = running[i]
            episode["obs"].append(x)
            episode["action"].append(x)
            episode["reward"].append(x)
            episode["chance"].append(1 / (1 + x))
            if row[i]:
                episode["obs"].append(x + 0.5)
                finished.append({**episode, "terminated": row[i] == 1})
                running[i] = {"obs": [], "action": [], "reward": [], "chance": []}
    return recorder, finished


table = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(st.sampled_from([0, 0, 1, 2]), min_size=n, max_size=n), min_size=1, max_size=12)
)


@given(table)
@settings(max_examples=80, deadline=None)
def test_the_recorder_cuts_episodes_as_a_plain_loop_does(ends: list[list[int]]) -> None:
    if not any(any(row) for row in ends):
        ends = [*ends, [1] * len(ends[0])]
    recorder, expected = recorded(ends)
    assert len(recorder) == len(ends) * len(ends[0])
    found = recorder.episodes().validate()
    assert found.num_episodes == len(expected)
    for index, episode in enumerate(expected):
        one = found.select(np.array([index]))
        assert one.observations[:, 0].tolist() == episode["obs"]
        assert one.actions.tolist() == episode["action"]
        assert one.rewards.tolist() == episode["reward"]
        np.testing.assert_allclose(one.behaviour_probabilities, episode["chance"], rtol=1e-6)
        assert bool(one.terminated[0]) == episode["terminated"]


@given(table, st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_what_was_finished_within_some_steps_is_what_a_recorder_that_stopped_then_would_say(
    ends: list[list[int]], rows: int
) -> None:
    (recorder, _), (stopped, _) = recorded(ends), recorded(ends[:rows])
    found, expected = recorder.episodes(within=rows * len(ends[0])), stopped.episodes()
    for name in Episodes.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_nothing_has_ended_yet() -> None:
    recorder, _ = recorded([[0, 0], [0, 0]])
    found = recorder.episodes()
    assert (found.num_episodes, found.num_transitions, len(found.observations)) == (0, 0, 0)


def test_nothing_was_recorded() -> None:
    assert len(EpisodeRecorder()) == 0


@pytest.mark.parametrize("count", [1, 21, 500])
@pytest.mark.parametrize("num_envs", [1, 16])
def test_exactly_as_many_transitions_as_asked_for(count: int, num_envs: int) -> None:
    env = make("CartPole-v1", num_envs, seeds=Seeds(0))
    found = collect(env, UniformPolicy(2), count, generator=Seeds(0).torch("acting")).validate()
    assert found.num_transitions == count
    assert (found.behaviour_probabilities == 0.5).all()
    assert found.terminated[:-1].all(), "an even choice never reaches the time limit"


def test_what_is_logged_follows_the_physics() -> None:
    """Each logged observation is what the logged action makes of the one before it."""
    from rlcourse.environments.cartpole import next_state

    env = make("CartPole-v1", 8, seeds=Seeds(1))
    found = collect(env, UniformPolicy(2), 400, generator=Seeds(1).torch("acting"))
    for index in range(found.num_episodes):
        one = found.select(np.array([index]))
        states = torch.from_numpy(one.observations)
        torch.testing.assert_close(next_state(states[:-1], torch.from_numpy(one.actions)), states[1:])
        assert states[0].abs().max() <= 0.05


def test_epsilon_greedy_propensities_are_those_of_the_action_taken() -> None:
    def rule(obs: Tensor) -> Tensor:
        return (obs[:, 2] > 0).long()

    policy = EpsilonGreedyPolicy(ScriptedPolicy(rule, 2), 0.3)
    env = make("CartPole-v1", 8, seeds=Seeds(0))
    found = collect(env, policy, 3_000, generator=Seeds(0).torch("acting"))
    last_rows = np.cumsum(found.lengths + 1) - 1
    acted_on = np.delete(found.observations, last_rows, axis=0)
    greedy = found.actions == (acted_on[:, 2] > 0)
    np.testing.assert_allclose(found.behaviour_probabilities, np.where(greedy, 0.85, 0.15), rtol=1e-6)
    # Five standard errors.
    assert greedy.mean() == pytest.approx(0.85, abs=5 * (0.85 * 0.15 / 3_000) ** 0.5)


def three() -> Episodes:
    """Lengths 2, 3, 1, all terminated."""
    return Episodes(
        observations=np.arange(9, dtype=np.float32)[:, None],
        actions=np.arange(6),
        rewards=np.arange(6, dtype=np.float32),
        behaviour_probabilities=np.full(6, 0.5, dtype=np.float32),
        lengths=np.array([2, 3, 1]),
        terminated=np.array([True, True, True]),
    )


@pytest.mark.parametrize(
    ("count", "lengths", "terminated"),
    [
        (1, [1], [False]),
        (2, [2], [True]),
        (3, [2, 1], [True, False]),
        (5, [2, 3], [True, True]),
        (6, [2, 3, 1], [True, True, True]),
        (99, [2, 3, 1], [True, True, True]),
    ],
)
def test_an_episode_that_is_cut_counts_as_truncated(count: int, lengths: list[int], terminated: list[bool]) -> None:
    found = first_transitions(three(), count).validate()
    assert found.lengths.tolist() == lengths
    assert found.terminated.tolist() == terminated
    assert found.actions.tolist() == list(range(min(count, 6)))
    rows = sum(lengths) + len(lengths)
    assert found.observations[:, 0].tolist() == list(range(rows)), "the last row is what was seen after the cut"
    assert three().lengths.tolist() == [2, 3, 1]


def test_an_even_choice_among_torques_has_a_density_of_one_quarter() -> None:
    env = make("Pendulum-v1", 4, seeds=Seeds(0))
    found = collect(env, UniformBoxPolicy(Pendulum(1).actions), 800, generator=Seeds(0).torch("actions")).validate()
    assert found.continuous and found.actions.shape == (800, 1) and found.actions.dtype == np.float32
    assert found.behaviour_probabilities.tolist() == pytest.approx([0.25] * 800)
    assert not found.terminated.any() and found.lengths.tolist() == [200] * 4
    # Even choices between -2 and 2 have a spread of 4 / sqrt(12); five standard errors of 800 of them.
    assert abs(found.actions.mean()) < 5 * 4 / (12 * 800) ** 0.5


def squashed_gaussian() -> SquashedGaussianPolicy:
    torch.manual_seed(3)
    return SquashedGaussianPolicy(MLPNetwork(torch.zeros(3), torch.ones(3), (16,), 2), Pendulum(1).actions)


def test_the_logged_density_is_that_of_torchs_own_transformed_distribution() -> None:
    policy = squashed_gaussian()
    env = make("Pendulum-v1", 4, seeds=Seeds(0))
    found = collect(env, policy, 800, generator=Seeds(0).torch("actions")).validate()
    rows = np.arange(800) + np.repeat(np.arange(4), 200)
    mean, log_std = policy.head(torch.from_numpy(found.observations[rows]).double().float()).double().chunk(2, -1)
    squeeze = [torch.distributions.TanhTransform(), torch.distributions.AffineTransform(0.0, 2.0)]
    oracle = torch.distributions.TransformedDistribution(torch.distributions.Normal(mean, log_std.exp()), squeeze)
    action = torch.from_numpy(found.actions).double()
    inside = action.abs().squeeze(-1) < 1.9  # nearer to the bounds float32 has lost what the oracle needs
    assert inside.float().mean() > 0.5
    expected = oracle.log_prob(action).exp().squeeze(-1)
    torch.testing.assert_close(
        torch.from_numpy(found.behaviour_probabilities).double()[inside], expected[inside], rtol=1e-3, atol=0.0
    )


def test_densities_weigh_the_box_by_its_size() -> None:
    # The mean of 1 / pi(a) over a drawn from pi is the length of the interval that pi covers: 4.
    policy = SquashedGaussianPolicy(lambda obs: torch.zeros(len(obs), 2), Pendulum(1).actions)
    env = make("Pendulum-v1", 100, seeds=Seeds(0))
    found = collect(env, policy, 20_000, generator=Seeds(0).torch("actions"))
    weights = 1 / found.behaviour_probabilities.astype(np.float64)
    assert weights.mean() == pytest.approx(4.0, abs=5 * weights.std() / 20_000**0.5)


def test_a_density_that_float32_cannot_hold_is_logged_as_the_largest_that_it_can() -> None:
    certain = SquashedGaussianPolicy(lambda obs: torch.tensor([[60.0, -20.0]]).expand(len(obs), 2), Pendulum(1).actions)
    env = make("Pendulum-v1", 2, seeds=Seeds(0))
    found = collect(env, certain, 200, generator=Seeds(0).torch("actions")).validate()
    assert np.isfinite(found.behaviour_probabilities).all() and found.behaviour_probabilities.max() > 1e38


@pytest.mark.parametrize(
    ("env_id", "policy"),
    [
        ("CartPole-v1", UniformBoxPolicy(Pendulum(1).actions)),
        ("Pendulum-v1", UniformPolicy(2)),
    ],
)
def test_a_policy_that_cannot_say_how_likely_what_it_does_is_is_not_logged(env_id: str, policy: Any) -> None:
    with pytest.raises(ConfigError, match="cannot say how likely"):
        collect(make(env_id, 2, seeds=Seeds(0)), policy, 10, generator=Seeds(0).torch("actions"))


def test_probabilities_that_are_no_numbers_make_no_log() -> None:
    """Now and then: where the cart stands to the right, the network says NaN. The actions themselves look like any."""

    def logits(obs: Tensor) -> Tensor:
        return torch.where(obs[:, :1] > 0.04, torch.nan, torch.zeros(len(obs), 2))

    env = make("CartPole-v1", 4, seeds=Seeds(0))
    with pytest.raises(TrainingDivergedError, match="stopped being finite"):
        collect(env, CategoricalPolicy(logits), 200, generator=Seeds(0).torch("acting"))


def test_densities_that_are_no_numbers_make_no_log() -> None:
    policy = SquashedGaussianPolicy(lambda obs: torch.full((len(obs), 2), torch.nan), Pendulum(1).actions)
    env = make("Pendulum-v1", 2, seeds=Seeds(0))
    with pytest.raises(TrainingDivergedError, match="stopped being finite"):
        collect(env, policy, 200, generator=Seeds(0).torch("actions"))
