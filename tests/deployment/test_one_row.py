"""One observation takes a shorter way through a plain network than several: the same answers come out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.deployment.numpy_policy import FEW, NumpyPolicy
from rlcourse.networks import CategoricalPolicy, LogitsNetwork
from rlcourse.randomness import Seeds

OBS = np.random.default_rng(0).normal(0.0, 2.0, (50, 4)).astype(np.float32)


def saved(num_actions: int = 3) -> NumpyPolicy:
    mean, scale = torch.tensor([1.0, 0.0, -1.0, 0.5]), torch.tensor([1.0, 2.0, 0.5, 3.0])
    with Seeds(0).initialising("network"):
        network = LogitsNetwork(mean, scale, (16, 8), num_actions)
        for layer in network.layers:
            if isinstance(layer, torch.nn.Linear):  # as it is made, the last one has no opinion
                torch.nn.init.normal_(layer.weight)
    stored = PolicyArtifact.from_policy(CategoricalPolicy(network), algorithm="ppo", env_id="CartPole-v1")
    return NumpyPolicy(stored.description, {name: value.numpy() for name, value in stored.weights.items()})


@pytest.mark.parametrize("num_actions", [2, FEW, FEW + 1])
@pytest.mark.parametrize("greedy", [True, False])
def test_one_row_and_several_agree(num_actions: int, greedy: bool) -> None:
    policy = saved(num_actions)
    together = policy.act(OBS, greedy=greedy, generator=np.random.default_rng(1))
    assert together.probabilities is not None
    assert len(set(together.actions.tolist())) > 1
    generator = np.random.default_rng(1)  # draws for the rows one after the other what it drew for all at once
    for row, action, chances in zip(OBS, together.actions, together.probabilities, strict=True):
        alone = policy.act(row[None], greedy=greedy, generator=generator)
        assert alone.probabilities is not None
        assert alone.actions.shape == (1,) and alone.actions.dtype == np.int64
        assert alone.probabilities.shape == (1, num_actions) and alone.probabilities.dtype == np.float32
        assert alone.actions.item() == action
        np.testing.assert_allclose(alone.probabilities[0], chances, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_hidden(wrong: float) -> None:
    policy = saved()
    for place in range(3):
        policy._layers[-1][1][:] = 0.0
        policy._layers[-1][1][0, place] = wrong
        with np.errstate(all="ignore"):
            alone = policy.act(OBS[:1], greedy=True).probabilities
            several = policy.act(OBS[:2], greedy=True).probabilities
        assert alone is not None
        assert several is not None
        if wrong == -np.inf:  # an action that is never taken
            assert alone[0, place] == several[0, place] == 0.0
        else:
            assert np.isnan(alone).any()
            assert np.isnan(several[0]).any()


def test_scores_of_any_size_are_probabilities() -> None:
    policy = saved()
    policy._layers[-1][1][0] = [3e38, -3e38, 0.0]
    alone = policy.act(OBS[:1], greedy=True)
    assert alone.probabilities is not None
    assert alone.probabilities.tolist() == [[1.0, 0.0, 0.0]]
    assert alone.actions.tolist() == [0]
