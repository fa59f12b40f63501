r"""Small problems whose answers are known in closed form; every learner and estimator must hit them in seconds.

Each is a data set and the numbers that follow from it::

    self_loop        one state, one reward for ever            V = r / (1 - gamma)
    chain            two states, then the end                  V(s0) = r0 + gamma r1,  V(s1) = r1
    bandit           one state, rewards by action              best action = the largest mean
                     with many actions worth 0 to 1        V = the tau-expectile of U(0, 1)

Observations are one-hot states, so that a network has nothing to generalise over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rlcourse.vocabulary import Batch, TaskSpec


def one_hot(states: Tensor, num_states: int) -> Tensor:
    """``(B,)`` int64 states to ``(B, S)`` float observations."""
    return torch.nn.functional.one_hot(states, num_states).float()


def self_loop(gamma: float, *, reward: float = 1.0, size: int = 64, num_actions: int = 2) -> tuple[Batch, float]:
    """Stay and be paid, whatever you do; the value is ``reward / (1 - gamma)``.

    Actions alternate, so that each is in the data.
    """
    obs = torch.ones(size, 1)
    action = torch.arange(size) % num_actions
    batch = Batch(obs, action, torch.full((size,), reward), torch.full((size,), gamma), obs)
    return batch, reward / (1.0 - gamma)


def chain(gamma: float, rewards: tuple[float, float] = (1.0, 2.0), size: int = 64) -> tuple[Batch, Tensor]:
    """First ``rewards[0]`` and on to the second state, then ``rewards[1]`` and the end.

    Returns:
        The batch and the values ``(2,)`` of the two states.
    """
    state = torch.arange(size) % 2
    action = (torch.arange(size) // 2) % 2
    paid = torch.tensor(rewards)
    discount = torch.where(state == 0, gamma, 0.0)
    batch = Batch(one_hot(state, 2), action, paid[state], discount, one_hot(torch.ones_like(state), 2))
    return batch, torch.tensor([rewards[0] + gamma * rewards[1], rewards[1]])


def bandit(means: Sequence[float], *, size: int = 256) -> tuple[Batch, int]:
    """One state, no future, ``means[a]`` paid for action ``a``; returns the batch and the best action."""
    action = torch.arange(size) % len(means)
    obs = torch.ones(size, 1)
    batch = Batch(obs, action, torch.tensor(means)[action], torch.zeros(size), obs)
    return batch, max(range(len(means)), key=lambda a: means[a])


def uniform_expectile(tau: float) -> float:
    r"""The tau-expectile of U(0, 1).

    It solves :math:`\tau (1 - v)^2 = (1 - \tau) v^2`, so :math:`v = \sqrt\tau / (\sqrt\tau + \sqrt{1 - \tau})`.

    Worked number: tau 0.7 gives 0.6044; tau 0.5 gives the mean, 0.5.
    """
    return math.sqrt(tau) / (math.sqrt(tau) + math.sqrt(1.0 - tau))


def spec_of(batch: Batch, num_actions: int = 2) -> TaskSpec:
    """A spec that leaves the one-hot observations alone."""
    return TaskSpec.unscaled(batch.obs.shape[-1], num_actions)
