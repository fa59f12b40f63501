"""Transitions as whole tensors on one device: drawing a batch is one index, not a loop over Python objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from rlcourse.experience.episodes import Episodes
from rlcourse.objectives.returns import discounts, n_step_rewards
from rlcourse.vocabulary import Batch, DiscreteActions, TaskSpec


@dataclass(frozen=True)
class Transitions:
    """``S`` transitions, ready to be drawn from."""

    obs: Tensor  # (S, D)
    action: Tensor  # (S,) int64
    reward: Tensor  # (S,) folded over n steps
    discount: Tensor  # (S,) gamma**n, or 0 where the task ended within n steps
    next_obs: Tensor  # (S, D) n steps on, or the last of the episode
    behaviour_probability: Tensor  # (S,)
    num_actions: int

    def __len__(self) -> int:
        return self.action.shape[0]

    @classmethod
    def from_episodes(
        cls,
        episodes: Episodes,
        *,
        gamma: float,
        num_actions: int,
        n_step: int = 1,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Lay episodes out as transitions.

        An episode that was cut off keeps its discount and looks ahead to the observation after its last step.
        """
        lengths = episodes.lengths
        ends = np.cumsum(lengths) - 1
        terminated = np.zeros(episodes.num_transitions, dtype=bool)
        terminated[ends] = episodes.terminated
        last = np.zeros(episodes.num_transitions, dtype=bool)
        last[ends] = True
        # Step i of episode e sees row i + e: every earlier episode has one row more than it has steps.
        rows = torch.from_numpy(np.arange(episodes.num_transitions) + np.repeat(np.arange(len(lengths)), lengths))
        observations = torch.from_numpy(episodes.observations)
        reward, discount, final = n_step_rewards(
            torch.from_numpy(episodes.rewards),
            discounts(torch.from_numpy(terminated), gamma),
            torch.from_numpy(last),
            n_step,
        )
        return cls(
            observations[rows].to(device),
            torch.from_numpy(episodes.actions).to(device),
            reward.to(device),
            discount.to(device),
            observations[rows[final] + 1].to(device),
            torch.from_numpy(episodes.behaviour_probabilities).to(device),
            num_actions,
        )

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """``batch_size`` transitions drawn with replacement."""
        index = torch.randint(len(self), (batch_size,), generator=generator, device=self.action.device)
        return Batch(
            self.obs.index_select(0, index),
            self.action.index_select(0, index),
            self.reward.index_select(0, index),
            self.discount.index_select(0, index),
            self.next_obs.index_select(0, index),
            self.behaviour_probability.index_select(0, index),
            index,
        )

    def spec(self) -> TaskSpec:
        """What a learner must know: the observations' mean and spread, and the number of actions."""
        return TaskSpec(self.obs.mean(0), self.obs.std(0), DiscreteActions(self.num_actions))
