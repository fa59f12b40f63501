r"""MountainCar-v0 as one tensor program: a car in a valley whose engine is too weak to climb out without a run-up.

The valley's height is :math:`\sin(3x)`. Each step pushes left (action 0), not at all (1) or right (2) and costs 1. The
task ends at the flag at 0.5; a time limit cuts the episode after 200 steps. Units are the task's own: nothing here is
in metres or seconds.

Physics: Moore (1990) in the arrangement of Gymnasium's ``MountainCarEnv``, which the tests hold this file to, state by
state. With :math:`f` -1, 0 or 1,

.. math:: \dot x' = \dot x + 0.001\,f - 0.0025\cos 3x, \qquad x' = x + \dot x'

both clipped to their bounds; the wall at -1.2 stops the car.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlcourse.environments.tensor_program import TensorProgram
from rlcourse.vocabulary import DiscreteActions

FORCE = 0.001  # change of speed in a step at full push
GRAVITY = 0.0025
LEFT_WALL, RIGHT_WALL = -1.2, 0.6
MAX_SPEED = 0.07  # a step
FLAG = 0.5
START_LOW, START_HIGH = -0.6, -0.4  # the first position is uniform between; the first speed is 0


def next_state(state: Tensor, action: Tensor) -> Tensor:
    """One step of the physics.

    Args:
        state: ``(N, 2)`` position, speed.
        action: ``(N,)`` 0 pushes left, 1 not at all, 2 right.

    Returns:
        ``(N, 2)`` in the state's dtype.
    """
    return roll(state, FORCE * (action.to(state.dtype) - 1.0))


def roll(state: Tensor, push: Tensor) -> Tensor:
    """``(N, 2)`` states and ``(N,)`` changes of speed by the engine to the next states; the valley does the rest."""
    position, speed = state.unbind(-1)
    speed = (speed + push - GRAVITY * (3 * position).cos()).clamp(-MAX_SPEED, MAX_SPEED)
    position = (position + speed).clamp(LEFT_WALL, RIGHT_WALL)
    stopped = (position == LEFT_WALL) & (speed < 0)
    return torch.stack([position, speed.masked_fill(stopped, 0.0)], dim=-1)


def has_arrived(state: Tensor, flag: float = FLAG) -> Tensor:
    """``(N, 2)`` states to ``(N,)`` bool: at the flag or beyond, and not rolling back."""
    position, speed = state.unbind(-1)
    return (position >= flag) & (speed >= 0)


class Valley(TensorProgram):
    """What the tasks with either kind of engine have in common."""

    obs_size = 2
    state_size = 2

    @property
    def obs_mean(self) -> Tensor:
        """The middle between the walls, and standing still."""
        return torch.tensor([(LEFT_WALL + RIGHT_WALL) / 2, 0.0], device=self.device)

    @property
    def obs_std(self) -> Tensor:
        """Half of what each number ranges over."""
        return torch.tensor([(RIGHT_WALL - LEFT_WALL) / 2, MAX_SPEED], device=self.device)

    def _first_states(self) -> Tensor:
        states = self._uniform(START_LOW, START_HIGH)
        states[:, 1] = 0.0
        return states


class MountainCar(Valley):
    """``N`` cars."""

    env_id = "MountainCar-v0"
    time_limit = 200
    actions = DiscreteActions(3)

    def _advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = next_state(state, action)
        return state, torch.full((self.num_envs,), -1.0, device=self.device), has_arrived(state)
