r"""Small problems whose answers are known in closed form; every learner and estimator must hit them in seconds.

Each is a data set and the numbers that follow from it::

    self_loop        one state, one reward for ever            V = r / (1 - gamma)
    chain            two states, then the end                  V(s0) = r0 + gamma r1,  V(s1) = r1
    bandit           one state, rewards by action              best action = the largest mean
                     with many actions worth 0 to 1        V = the tau-expectile of U(0, 1)
    tabular          a few states, any policy              V solves (I - gamma P_pi) V = r_pi

Observations are one-hot states, so that a network has nothing to generalise over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class TabularMDP:
    """``S`` states and ``A`` actions, all of it written down; whatever a row of ``transition`` lacks to 1 ends the episode."""

    transition: Tensor  # (S, A, S) probabilities, float64
    reward: Tensor  # (S, A)
    start: Tensor  # (S,) probabilities

    def value(self, policy: Tensor, gamma: float) -> Tensor:
        r"""``(S,)`` values of ``(S, A)`` action probabilities: :math:`(I - \gamma P_\pi)^{-1} r_\pi`."""
        moves = torch.einsum("sa,sau->su", policy, self.transition)
        paid = (policy * self.reward).sum(-1)
        value: Tensor = torch.linalg.solve(torch.eye(len(paid), dtype=paid.dtype) - gamma * moves, paid)
        return value

    def value_within(self, policy: Tensor, gamma: float, horizon: int) -> Tensor:
        """``(S,)`` values of the first ``horizon`` steps alone, backwards from the last."""
        moves = torch.einsum("sa,sau->su", policy, self.transition)
        paid = (policy * self.reward).sum(-1)
        value = torch.zeros_like(paid)
        for _ in range(horizon):
            value = paid + gamma * moves @ value
        return value

    def play(self, policy: Tensor, count: int, horizon: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """``count`` episodes of at most ``horizon`` steps under ``(S, A)`` action probabilities.

        Returns:
            ``(N, T + 1)`` states, ``(N, T)`` actions, ``(N, T)`` rewards, ``(N, T)`` mask and ``(N,)`` whether the task
            ended. After an end the state stays what it was; the mask says that it does not count.
        """
        state = torch.multinomial(self.start.expand(count, -1), 1, generator=generator).squeeze(-1)
        running = torch.ones(count, dtype=torch.bool)
        states, actions, rewards, masks = [state], [], [], []
        # The end is one more place to go to.
        whole = torch.cat([self.transition, 1.0 - self.transition.sum(-1, keepdim=True)], dim=-1).clamp_min(0.0)
        for _ in range(horizon):
            action = torch.multinomial(policy[state], 1, generator=generator).squeeze(-1)
            then = torch.multinomial(whole[state, action], 1, generator=generator).squeeze(-1)
            actions.append(action)
            rewards.append(self.reward[state, action] * running)
            masks.append(running.double())
            running = running & (then < len(self.start))
            state = torch.where(running, then, state)
            states.append(state)
        return torch.stack(states, 1), torch.stack(actions, 1), torch.stack(rewards, 1), torch.stack(masks, 1), ~running


def random_mdp(states: int, actions: int, generator: torch.Generator, *, ending: float = 0.1) -> TabularMDP:
    """An MDP with random moves and rewards in (0, 1); every step ends the episode with probability ``ending``."""
    moves = torch.rand(states, actions, states, generator=generator, dtype=torch.float64)
    return TabularMDP(
        (1.0 - ending) * moves / moves.sum(-1, keepdim=True),
        torch.rand(states, actions, generator=generator, dtype=torch.float64),
        torch.full((states,), 1.0 / states, dtype=torch.float64),
    )


def uniform_expectile(tau: float) -> float:
    r"""The tau-expectile of U(0, 1).

    It solves :math:`\tau (1 - v)^2 = (1 - \tau) v^2`, so :math:`v = \sqrt\tau / (\sqrt\tau + \sqrt{1 - \tau})`.

    Worked number: tau 0.7 gives 0.6044; tau 0.5 gives the mean, 0.5.
    """
    return math.sqrt(tau) / (math.sqrt(tau) + math.sqrt(1.0 - tau))


def spec_of(batch: Batch, num_actions: int = 2) -> TaskSpec:
    """A spec that leaves the one-hot observations alone."""
    return TaskSpec.unscaled(batch.obs.shape[-1], num_actions)
