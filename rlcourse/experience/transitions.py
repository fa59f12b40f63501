"""Transitions as whole tensors on one device: drawing a batch is one index, not a loop over Python objects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from rlcourse.errors import ConfigError
from rlcourse.experience.episodes import Episodes
from rlcourse.objectives.returns import discounts, n_step_rewards
from rlcourse.vocabulary import ActionSpace, Batch, ContinuousActions, DiscreteActions, TaskSpec


@dataclass(frozen=True)
class Transitions:
    """``S`` transitions, ready to be drawn from."""

    obs: Tensor  # (S, D)
    action: Tensor  # (S,) int64, or (S, K) float
    reward: Tensor  # (S,) folded over n steps
    discount: Tensor  # (S,) gamma**n, or 0 where the task ended within n steps
    next_obs: Tensor  # (S, D) n steps on, or the last of the episode
    behaviour_probability: Tensor  # (S,) a density where actions are continuous; NaN where it was not logged
    actions: ActionSpace  # bounds of continuous ones lie on the same device

    @property
    def num_actions(self) -> int:
        """``A``; a :class:`~rlcourse.errors.ConfigError` where actions are continuous."""
        return self.actions.count

    def __len__(self) -> int:
        return self.action.shape[0]

    @classmethod
    def from_episodes(
        cls,
        episodes: Episodes,
        *,
        gamma: float,
        num_actions: int | None = None,
        actions: ActionSpace | None = None,
        n_step: int = 1,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Lay episodes out as transitions.

        An episode that was cut off keeps its discount and looks ahead to the observation after its last step.

        Args:
            episodes: what was logged.
            gamma: discount of one step.
            num_actions: ``A``, for discrete actions.
            actions: what could be done, of either kind, in place of ``num_actions``: a card's ``actions``.
            n_step: steps of reality before the first estimate.
            device: where the tensors will live.

        Raises:
            ConfigError: the episodes hold actions of another kind or size.
        """
        space = _fitting(episodes, num_actions, actions, device)
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
            space,
        )

    def with_rewards_scaled(self, scale: float) -> Self:
        """The same transitions, their rewards multiplied by ``scale``; all else is shared."""
        return replace(self, reward=self.reward * scale)

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
        """What a learner must know: the observations' mean and spread, and what can be done."""
        return TaskSpec(self.obs.mean(0), self.obs.std(0), self.actions)


def _fitting(
    episodes: Episodes, num_actions: int | None, actions: ActionSpace | None, device: torch.device | str
) -> ActionSpace:
    if (num_actions is None) == (actions is None):
        raise ConfigError("Either num_actions or actions says what could be done.", mend="Give one of the two.")
    space = DiscreteActions(num_actions) if num_actions is not None else actions
    if isinstance(space, ContinuousActions):
        if episodes.continuous and episodes.actions.shape[-1] == space.size:
            return ContinuousActions(space.low.to(device), space.high.to(device))
        said = f"{space.size} continuous numbers"
    else:
        assert space is not None
        if not episodes.continuous:
            return space
        said = f"{space.count} discrete choices"
    held = f"{episodes.actions.shape[-1]} continuous numbers" if episodes.continuous else "discrete ones"
    raise ConfigError(
        f"Actions are said to be {said}, and the episodes hold {held}.",
        mend="Give actions=card.actions of the data set.",
    )
