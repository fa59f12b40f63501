from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlcourse.errors import ConfigError
from rlcourse.networks import (
    CategoricalPolicy,
    EpsilonGreedyPolicy,
    GreedyQPolicy,
    ScriptedPolicy,
    UniformPolicy,
    sample_actions,
)
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import DiscretePolicy

OBS = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [0.0, 5.0, 0.0], [0.0, 0.0, 0.1]])


def itself(obs: Tensor) -> Tensor:
    """A head whose values are the observation."""
    return obs


def rule(obs: Tensor) -> Tensor:
    return obs.argmin(-1)


POLICIES: dict[str, DiscretePolicy] = {
    "categorical": CategoricalPolicy(itself),
    "greedy": GreedyQPolicy(itself),
    "epsilon greedy": EpsilonGreedyPolicy(GreedyQPolicy(itself), 0.3),
    "uniform": UniformPolicy(3),
    "scripted": ScriptedPolicy(rule, 3),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_probabilities_are_probabilities(policy: DiscretePolicy) -> None:
    found = policy.probabilities(OBS)
    assert found.shape == (4, 3)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(4))


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_samples_follow_the_probabilities(policy: DiscretePolicy) -> None:
    draws = 4_000
    for obs in OBS:
        many = obs.expand(draws, 3)
        action = policy.act(many, greedy=False, generator=Seeds(0).torch("draws"))
        assert action.dtype == torch.int64 and action.shape == (draws,)
        found = torch.bincount(action, minlength=3) / draws
        # Five standard errors of a frequency: wrong once in a million and a half comparisons.
        torch.testing.assert_close(found, policy.probabilities(obs[None])[0], atol=5 * 0.5 / math.sqrt(draws), rtol=0)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_the_generator_decides_and_the_global_stream_is_left_alone(policy: DiscretePolicy) -> None:
    many = OBS.repeat(50, 1)
    before = torch.random.get_rng_state()
    one = policy.act(many, greedy=False, generator=Seeds(1).torch("draws"))
    two = policy.act(many, greedy=False, generator=Seeds(1).torch("draws"))
    assert torch.equal(one, two)
    assert torch.equal(before, torch.random.get_rng_state())


def test_greedy_takes_the_likeliest() -> None:
    assert CategoricalPolicy(itself).act(OBS, greedy=True).tolist() == [2, 0, 1, 2]
    assert GreedyQPolicy(itself).act(OBS, greedy=False).tolist() == [2, 0, 1, 2]
    assert EpsilonGreedyPolicy(GreedyQPolicy(itself), 1.0).act(OBS, greedy=True).tolist() == [2, 0, 1, 2]
    assert ScriptedPolicy(rule, 3).act(OBS, greedy=True).tolist() == [0, 2, 0, 0]


def test_the_categorical_policy_is_the_softmax() -> None:
    torch.testing.assert_close(CategoricalPolicy(itself).probabilities(OBS), OBS.exp() / OBS.exp().sum(-1, True))


def test_of_twins_the_smaller_counts() -> None:
    twins = GreedyQPolicy(lambda obs: torch.stack([obs, torch.tensor([9.0, 1.0, 2.0]).expand_as(obs)]))
    assert twins.values(OBS)[0].tolist() == [1.0, 1.0, 2.0]
    assert twins.act(OBS, greedy=True).tolist() == [2, 0, 1, 2]


def test_epsilon_is_shared_among_all_actions_the_greedy_one_included() -> None:
    found = EpsilonGreedyPolicy(GreedyQPolicy(itself), 0.3).probabilities(OBS)
    torch.testing.assert_close(found[0], torch.tensor([0.1, 0.1, 0.8]))
    torch.testing.assert_close(found[1], torch.tensor([0.8, 0.1, 0.1]))


def test_epsilon_follows_what_the_base_does_when_greedy_even_if_the_base_is_stochastic() -> None:
    found = EpsilonGreedyPolicy(CategoricalPolicy(itself), 0.3).probabilities(OBS)
    torch.testing.assert_close(found[0], torch.tensor([0.1, 0.1, 0.8]))


def test_policies_leave_no_gradient_behind() -> None:
    layer = torch.nn.Linear(3, 3)
    assert layer(OBS).requires_grad
    assert not CategoricalPolicy(layer).probabilities(OBS).requires_grad
    assert not GreedyQPolicy(layer).values(OBS).requires_grad


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ConfigError):
        EpsilonGreedyPolicy(UniformPolicy(2), 1.5)
    with pytest.raises(ConfigError):
        UniformPolicy(0)


def test_sampling_never_takes_an_impossible_action() -> None:
    probabilities = torch.tensor([[0.0, 1.0, 0.0]]).expand(1_000, 3)
    assert sample_actions(probabilities, Seeds(0).torch("draws")).unique().tolist() == [1]
