"""What every environment in this package looks like: ``N`` copies stepped together, tensors in and tensors out.

One step of one copy, when an episode ends at ``t``::

    obs_t ──action_t──▶ next_obs_t      the true last observation: bootstrap from this one
                        obs_{t+1}       the first observation of the *next* episode: act on this one

Returning both is what keeps a reset from leaking into a Bellman target.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from rlcourse.vocabulary import ActionSpace


class Step(NamedTuple):
    """What one batched step returns; all leading sizes are ``N``, the number of environments."""

    next_obs: Tensor  # (N, D) what followed the action, also where the episode ended
    reward: Tensor  # (N,) float
    terminated: Tensor  # (N,) bool: the task ended
    truncated: Tensor  # (N,) bool: a time limit cut the episode off
    obs: Tensor  # (N, D) what the agent sees next: a fresh first observation where an episode ended


class BatchedEnvironment(Protocol):
    """``N`` independent copies of one task."""

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
    def actions(self) -> ActionSpace:
        """What can be done."""
        ...

    @property
    def num_actions(self) -> int:
        """``A``; a :class:`~rlcourse.errors.ConfigError` where actions are continuous."""
        ...

    @property
    def device(self) -> torch.device:
        """Where observations are and actions are expected."""
        ...

    def reset(self) -> Tensor:
        """Begin ``N`` new episodes; returns ``(N, D)``."""
        ...

    def step(self, action: Tensor) -> Step:
        """Apply ``(N,)`` int64 or ``(N, K)`` float actions; copies whose episode ends begin a new one.

        Continuous actions outside their bounds are clipped to them.
        """
        ...


@runtime_checkable
class MaskedEnvironment(Protocol):
    """An environment in which not every action is allowed in every state."""

    def action_mask(self) -> Tensor:
        """``(N, A)`` bool: what may be done now, at the observation returned last. Never all false."""
        ...


@runtime_checkable
class ScaledEnvironment(Protocol):
    """An environment that knows how large its observations usually are."""

    @property
    def obs_mean(self) -> Tensor:
        """``(D,)``."""
        ...

    @property
    def obs_std(self) -> Tensor:
        """``(D,)``."""
        ...
