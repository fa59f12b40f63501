r"""Pendulum-v1 as one tensor program: swing a rod up and keep it there, with a motor too weak to lift it directly.

A rod of mass 1 kg and length 1 m hangs from a motor of at most 2 N m. The angle :math:`\theta` is 0 when it stands
upright. A step of 0.05 s costs what the state was and what the motor does; nothing ends the task, a time limit cuts
the episode after 200 steps. The best reward is 0 a step, the worst -16.27.

Physics and costs: Gymnasium's ``PendulumEnv`` (semi-implicit Euler: the new speed moves the angle), which the tests
hold this file to, state by state:

.. math:: \ddot\theta = \frac{3g}{2\ell}\sin\theta + \frac{3}{m\ell^2}\,u, \qquad
          r = -\left(\theta^2 + 0.1\,\dot\theta^2 + 0.001\,u^2\right)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlcourse.environments.tensor_program import TensorProgram, vector
from rlcourse.vocabulary import ContinuousActions

GRAVITY = 10.0  # m/s^2
MASS = 1.0  # kg
LENGTH = 1.0  # m
STEP_S = 0.05  # s
MAX_TORQUE = 2.0  # N m
MAX_SPEED = 8.0  # rad/s
START_ANGLE = math.pi  # rad; the first angle is uniform within this, so it may be any
START_SPEED = 1.0  # rad/s; the first speed is uniform within this


def next_state(state: Tensor, action: Tensor) -> Tensor:
    """One step of the physics.

    Args:
        state: ``(N, 2)`` angle (rad, not wrapped), angular speed (rad/s).
        action: ``(N, 1)`` torque (N m), clipped to 2 either way.

    Returns:
        ``(N, 2)`` in the state's dtype.
    """
    angle, speed = state.unbind(-1)
    torque = _torque(state, action)
    acceleration = 3 * GRAVITY / (2 * LENGTH) * angle.sin() + 3 / (MASS * LENGTH**2) * torque
    speed = (speed + acceleration * STEP_S).clamp(-MAX_SPEED, MAX_SPEED)
    return torch.stack([angle + speed * STEP_S, speed], dim=-1)


def reward(state: Tensor, action: Tensor) -> Tensor:
    """``(N, 2)`` states *before* the step and ``(N, 1)`` torques to ``(N,)`` rewards.

    Worked number: hanging still (angle pi) under a torque of 2 costs 9.8696 + 0.004.
    """
    angle, speed = state.unbind(-1)
    from_upright = (angle + math.pi) % (2 * math.pi) - math.pi
    return -(from_upright.square() + 0.1 * speed.square() + 0.001 * _torque(state, action).square())


def _torque(state: Tensor, action: Tensor) -> Tensor:
    return action.squeeze(-1).to(state.dtype).clamp(-MAX_TORQUE, MAX_TORQUE)


class Pendulum(TensorProgram):
    """``N`` rods. What is seen: the angle's cosine and sine, and the angular speed."""

    env_id = "Pendulum-v1"
    obs_size = 3
    state_size = 2
    time_limit = 200

    @property
    def actions(self) -> ContinuousActions:
        """A torque of at most 2 N m either way."""
        bound = torch.tensor([MAX_TORQUE], device=self.device)
        return ContinuousActions(-bound, bound)

    @property
    def obs_mean(self) -> Tensor:
        """Zeros: both directions are alike."""
        return torch.zeros(3, device=self.device)

    @property
    def obs_std(self) -> Tensor:
        """Half of what each number ranges over."""
        return torch.tensor([1.0, 1.0, MAX_SPEED], device=self.device)

    def _first_states(self) -> Tensor:
        ranges = vector(self.state.dtype, self.device, START_ANGLE, START_SPEED)
        return self._uniform(-1.0, 1.0) * ranges

    def _advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        never = torch.zeros(self.num_envs, device=self.device, dtype=torch.bool)
        return next_state(state, action), reward(state, action).float(), never

    def _observe(self, state: Tensor) -> Tensor:
        angle, speed = state.unbind(-1)
        return torch.stack([angle.cos(), angle.sin(), speed], dim=-1).float()
