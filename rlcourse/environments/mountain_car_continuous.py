r"""MountainCarContinuous-v0 as one tensor program: the same valley, and an engine with a throttle.

The push is :math:`0.0015\,u` with :math:`u` between -1 and 1, the flag stands at 0.45. Arriving pays 100 and ends the
task; the engine costs :math:`0.1\,u^2` a step; a time limit cuts the episode after 999 steps.

Physics: Gymnasium's ``Continuous_MountainCarEnv``, which the tests hold this file to, state by state. One difference:
Gymnasium charges for what was asked of the engine, this file for what the engine gave. They differ only for actions
out of bounds, which every environment of this package clips first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlcourse.environments.mountain_car import Valley, has_arrived, roll
from rlcourse.vocabulary import ContinuousActions

POWER = 0.0015  # change of speed in a step at full throttle
FLAG = 0.45
PRIZE = 100.0
ENGINE_COST = 0.1


def next_state(state: Tensor, action: Tensor) -> Tensor:
    """One step of the physics.

    Args:
        state: ``(N, 2)`` position, speed.
        action: ``(N, 1)`` throttle, clipped to 1 either way.

    Returns:
        ``(N, 2)`` in the state's dtype.
    """
    return roll(state, POWER * _throttle(state, action))


def reward(state: Tensor, action: Tensor) -> Tensor:
    """``(N, 2)`` states *after* the step and the ``(N, 1)`` actions that led there to ``(N,)`` rewards.

    Worked number: arriving at half throttle pays 100 - 0.1 * 0.25 = 99.975.
    """
    return PRIZE * has_arrived(state, FLAG) - ENGINE_COST * _throttle(state, action).square()


def _throttle(state: Tensor, action: Tensor) -> Tensor:
    return action.squeeze(-1).to(state.dtype).clamp(-1.0, 1.0)


class MountainCarContinuous(Valley):
    """``N`` cars with a throttle."""

    env_id = "MountainCarContinuous-v0"
    time_limit = 999

    @property
    def actions(self) -> ContinuousActions:
        """A throttle from -1, full to the left, to 1."""
        bound = torch.ones(1, device=self.device)
        return ContinuousActions(-bound, bound)

    def _advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = next_state(state, action)
        return state, reward(state, action).float(), has_arrived(state, FLAG)
