"""A replay buffer: the last ``capacity`` transitions as whole tensors on the device, folded over n steps when drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from rlcourse.environments import Step
from rlcourse.errors import ConfigError
from rlcourse.objectives.returns import discounts
from rlcourse.vocabulary import Batch


class ReplayBuffer:
    """A ring of steps of ``num_envs`` environments.

    The step that follows step ``i`` in the same environment lies ``num_envs`` places further on, which is all that
    folding n steps needs to know.
    """

    def __init__(
        self,
        capacity: int,
        obs_size: int,
        *,
        num_envs: int,
        gamma: float,
        n_step: int = 1,
        action_size: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """``action_size`` is ``K`` for continuous actions, 0 for discrete ones."""
        if capacity < num_envs or n_step < 1:
            raise ConfigError(
                f"A buffer of {capacity} transitions for {num_envs} environments and n = {n_step}.",
                mend="Use n of 1 or more and room for at least one step of each environment.",
            )
        self.num_envs = num_envs
        self.capacity = capacity - capacity % num_envs  # whole rows, so that the ring closes on itself
        self.gamma = gamma
        self.n_step = n_step
        self.obs = torch.empty(self.capacity, obs_size, device=device)
        self.next_obs = torch.empty(self.capacity, obs_size, device=device)
        if action_size:
            self.action = torch.empty(self.capacity, action_size, device=device)
        else:
            self.action = torch.empty(self.capacity, dtype=torch.int64, device=device)
        self.reward = torch.empty(self.capacity, device=device)
        self.discount = torch.empty(self.capacity, device=device)
        self.last = torch.empty(self.capacity, dtype=torch.bool, device=device)
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, self.capacity)

    def add(self, obs: Tensor, action: Tensor, step: Step) -> None:
        """Store one step of every environment, overwriting the oldest."""
        start = self._added % self.capacity
        rows = slice(start, start + self.num_envs)
        self.obs[rows] = obs
        self.action[rows] = action
        self.reward[rows] = step.reward
        self.discount[rows] = discounts(step.terminated, self.gamma)
        self.last[rows] = step.terminated | step.truncated
        self.next_obs[rows] = step.next_obs
        self._added += self.num_envs

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """``batch_size`` transitions drawn with replacement, each folded over up to ``n_step`` steps.

        Folding stops at the end of an episode, and at the newest step in the buffer.
        """
        return self.sample_several(1, batch_size, generator)[0]

    def sample_several(self, count: int, batch_size: int, generator: torch.Generator) -> list[Batch]:
        """``count`` batches in one draw: with small batches the draw takes as long however many there are."""
        size = (count * batch_size,)
        first = torch.randint(len(self), size, generator=generator, device=self.obs.device)
        reward, discount, final = self.reward.index_select(0, first), self.discount.index_select(0, first), first
        for _ in range(self.n_step - 1):
            newest = (final - self._added) % self.capacity >= self.capacity - self.num_envs
            going = ~(self.last[final] | newest)
            following = (final + self.num_envs) % self.capacity
            reward = torch.where(going, reward + discount * self.reward[following], reward)
            discount = torch.where(going, discount * self.discount[following], discount)
            final = torch.where(going, following, final)
        columns = (
            self.obs.index_select(0, first),
            self.action.index_select(0, first),
            reward,
            discount,
            self.next_obs.index_select(0, final),
        )
        return [Batch(*each) for each in zip(*(column.split(batch_size) for column in columns), strict=True)]
