"""A replay buffer: the last ``capacity`` transitions as whole tensors on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from rlcourse.environments import Step
from rlcourse.errors import ConfigError
from rlcourse.objectives.returns import discounts
from rlcourse.vocabulary import Batch


class ReplayBuffer:
    """A ring of ``capacity`` transitions, filled ``N`` at a time."""

    def __init__(self, capacity: int, obs_size: int, *, gamma: float, device: torch.device | str = "cpu") -> None:
        if capacity < 1:
            raise ConfigError(f"A buffer of {capacity} transitions is empty.", mend="Use 1 or more.")
        self.capacity = capacity
        self.gamma = gamma
        self.obs = torch.empty(capacity, obs_size, device=device)
        self.next_obs = torch.empty(capacity, obs_size, device=device)
        self.action = torch.empty(capacity, dtype=torch.int64, device=device)
        self.reward = torch.empty(capacity, device=device)
        self.discount = torch.empty(capacity, device=device)
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, self.capacity)

    def add(self, obs: Tensor, action: Tensor, step: Step) -> None:
        """Store ``N`` transitions, overwriting the oldest."""
        count = action.shape[0]
        index = torch.arange(self._added, self._added + count, device=action.device) % self.capacity
        self.obs[index] = obs
        self.action[index] = action
        self.reward[index] = step.reward
        self.discount[index] = discounts(step.terminated, self.gamma)
        self.next_obs[index] = step.next_obs
        self._added += count

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """``batch_size`` transitions drawn with replacement."""
        index = torch.randint(len(self), (batch_size,), generator=generator, device=self.obs.device)
        return Batch(self.obs[index], self.action[index], self.reward[index], self.discount[index], self.next_obs[index])
