"""What all tensor programs share: the clock that cuts episodes off, and the first states of those that follow.

A task adds its physics: how states begin, how they move, and what of them is seen. One step in order::

    state ──action──▶ next state, reward, terminated        the task's
                      elapsed + 1 >= limit ──▶ truncated    shared, as is what follows
                      fresh first states where either holds

First states are drawn for all ``N`` copies at every step and used where an episode ended. Drawing only as many as are
needed would mean asking the device how many, and waiting for its answer.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from rlcourse.environments.batched import Step
from rlcourse.errors import ConfigError
from rlcourse.vocabulary import ActionSpace


@functools.cache
def vector(dtype: torch.dtype, device: torch.device, *values: float) -> Tensor:
    """Numbers as a tensor that is made once and must not be written to."""
    return torch.tensor(values, dtype=dtype, device=device)


@functools.cache
def constants(dtype: torch.dtype, device: torch.device, *values: float) -> tuple[Tensor, ...]:
    """Numbers as 0-d tensors, made once.

    A plain number is converted anew in every operation, and with 8 environments that takes longer than the operation.
    """
    return vector(dtype, device, *values).unbind()


class TensorProgram(ABC):
    """``N`` copies of one task. ``dtype=torch.float64`` follows Gymnasium to rounding; float32 is for training.

    Subclasses name the task and say how it begins, moves and is seen.

    Steps are compiled on a CPU and recorded on a GPU, and go on with the very tensors that they met at first. So, of what a
    step reads, ``state`` alone may be another tensor afterwards; everything else (``elapsed``, or a subclass's own wind or
    wear) is written **in place**, plain numbers stay as they are, and all chance comes from the generator. A collector
    looks at the attributes of the environment, not into objects that these hold, and collects in the ordinary way where
    it finds another tensor or number after a rollout.
    """

    env_id: str
    obs_size: int  # D
    state_size: int  # numbers in one state, which need not be what is seen
    time_limit: int  # steps, unless the constructor is told otherwise

    def __init__(
        self,
        num_envs: int,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        max_episode_steps: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"{num_envs} environments cannot be stepped.", mend="Use 1 or more.")
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.max_episode_steps = self.time_limit if max_episode_steps is None else max_episode_steps
        self.state = torch.empty(num_envs, self.state_size, device=self.device, dtype=dtype)
        self.elapsed = torch.zeros(num_envs, device=self.device, dtype=torch.int64)
        self._generator = generator

    @property
    def generator(self) -> torch.Generator | None:
        """Where first states are drawn from; ``None`` is torch's global stream."""
        return self._generator

    @property
    @abstractmethod
    def actions(self) -> ActionSpace:
        """What can be done."""

    @property
    def num_actions(self) -> int:
        """``A``; a :class:`~rlcourse.errors.ConfigError` where actions are continuous."""
        return self.actions.count

    def reset(self) -> Tensor:
        """Begin ``N`` episodes; returns ``(N, D)`` float32."""
        self.state = self._first_states()
        self.elapsed.zero_()
        return self._observe(self.state)

    def step(self, action: Tensor, first: Tensor | None = None) -> Step:
        """Apply ``(N,)`` or ``(N, K)`` actions; see :class:`rlcourse.environments.batched.Step`.

        ``first``, ``(N, state_size)``, is where those begin anew whose episode ends; drawn here unless it is given.
        """
        state, reward, terminated = self._advance(self.state, action)
        self.elapsed.add_(1)
        late = self.elapsed >= self.max_episode_steps
        truncated = late > terminated  # late and not terminated, in one operation
        ended = late | terminated
        self.state = torch.where(ended.unsqueeze(-1), self.first_states() if first is None else first, state)
        self.elapsed.masked_fill_(ended, 0)
        return Step(self._observe(state), reward, terminated, truncated, self._observe(self.state))

    def first_states(self) -> Tensor:
        """``(N, state_size)``: what the next step will draw for the episodes that begin with it."""
        return self._first_states()

    @abstractmethod
    def _first_states(self) -> Tensor:
        """``(N, state_size)``, drawn from the generator."""

    @abstractmethod
    def _advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next states, ``(N,)`` float32 rewards, and ``(N,)`` bool: the task ended."""

    def _observe(self, state: Tensor) -> Tensor:
        """``(N, state_size)`` states to ``(N, D)`` float32; the state itself unless a task says otherwise."""
        return state.float()

    def _uniform(self, low: float, high: float) -> Tensor:
        """``(N, state_size)`` numbers from ``low`` to ``high``."""
        return torch.empty_like(self.state).uniform_(low, high, generator=self._generator)
