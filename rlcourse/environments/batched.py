"""What every environment in this package looks like: ``N`` copies stepped together, tensors in and tensors out.

One step of one copy, when an episode ends at ``t``::

    obs_t ──action_t──▶ next_obs_t      the true last observation: bootstrap from this one
                        obs_{t+1}       the first observation of the *next* episode: act on this one

Returning both is what keeps a reset from leaking into a Bellman target.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Step(NamedTuple):
    """What one batched step returns; all leading sizes are ``N``, the number of environments."""

    next_obs: Tensor  # (N, D) what followed the action, also where the episode ended
    reward: Tensor  # (N,) float
    terminated: Tensor  # (N,) bool: the task ended
    truncated: Tensor  # (N,) bool: a time limit cut the episode off
    obs: Tensor  # (N, D) what the agent sees next: a fresh first observation where an episode ended


class BatchedEnvironment(Protocol):
    """``N`` independent copies of one task with a finite set of actions."""

    @property
    def env_id(self) -> str:
        """The Gymnasium name of the task."""
        ...

    @property
    def num_envs(self) -> int:
        """``N``."""
        ...

    @property
    def obs_size(self) -> int:
        """``D``."""
        ...

    @property
    def num_actions(self) -> int:
        """``A``."""
        ...

    @property
    def device(self) -> torch.device:
        """Where observations are and actions are expected."""
        ...

    def reset(self) -> Tensor:
        """Begin ``N`` new episodes; returns ``(N, D)``."""
        ...

    def step(self, action: Tensor) -> Step:
        """Apply ``(N,)`` int64 actions; copies whose episode ends begin a new one."""
        ...
