r"""CartPole-v1 as one tensor program: all copies move in a handful of tensor operations.

A cart of mass 1 kg carries a pole of mass 0.1 kg and half-length 0.5 m on a hinge. Each step of 0.02 s pushes it with
10 N to the left (action 0) or right (action 1). The task ends when the cart leaves 2.4 m or the pole leans 12 degrees;
every step until then pays 1; a time limit cuts the episode after 500 steps.

Physics: Barto, Sutton and Anderson (1983) in the arrangement of Gymnasium's ``CartPoleEnv`` (explicit Euler), which
the tests hold this file to, state by state. With :math:`m` the pole's mass, :math:`M` the total, :math:`\ell` the
half-length,

.. math:: u = \frac{F + m\ell\,\dot\theta^2 \sin\theta}{M}, \qquad
          \ddot\theta = \frac{g\sin\theta - u\cos\theta}{\ell\,(4/3 - m\cos^2\theta / M)}, \qquad
          \ddot x = u - \frac{m\ell\,\ddot\theta\cos\theta}{M}
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlcourse.environments.batched import Step
from rlcourse.errors import ConfigError
from rlcourse.vocabulary import DiscreteActions

GRAVITY = 9.8  # m/s^2
POLE_MASS = 0.1  # kg
TOTAL_MASS = 1.1  # kg, cart and pole
HALF_LENGTH = 0.5  # m
FORCE = 10.0  # N
STEP_S = 0.02  # s
ANGLE_LIMIT = 12 * 2 * math.pi / 360  # rad
POSITION_LIMIT = 2.4  # m
START_RANGE = 0.05  # every entry of the first state is uniform within this


def next_state(state: Tensor, action: Tensor) -> Tensor:
    """One Euler step of the physics.

    Args:
        state: ``(N, 4)`` position (m), speed (m/s), angle (rad), angular speed (rad/s).
        action: ``(N,)`` 0 pushes left, 1 pushes right.

    Returns:
        ``(N, 4)`` in the state's dtype.
    """
    x, speed, angle, turn = state.unbind(-1)
    force = FORCE * (2.0 * action.to(state.dtype) - 1.0)
    cos, sin = angle.cos(), angle.sin()
    pull = (force + POLE_MASS * HALF_LENGTH * turn.square() * sin) / TOTAL_MASS
    turn_rate = (GRAVITY * sin - cos * pull) / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * cos.square() / TOTAL_MASS))
    acceleration = pull - POLE_MASS * HALF_LENGTH * turn_rate * cos / TOTAL_MASS
    return torch.stack(
        [x + STEP_S * speed, speed + STEP_S * acceleration, angle + STEP_S * turn, turn + STEP_S * turn_rate], dim=-1
    )


def has_failed(state: Tensor) -> Tensor:
    """``(N, 4)`` states to ``(N,)`` bool: the cart is off the track or the pole has fallen."""
    return (state[:, 0].abs() > POSITION_LIMIT) | (state[:, 2].abs() > ANGLE_LIMIT)


class CartPole:
    """``N`` carts. ``dtype=torch.float64`` follows Gymnasium to rounding; float32 is what training uses."""

    env_id = "CartPole-v1"
    obs_size = 4
    num_actions = 2
    actions = DiscreteActions(2)

    def __init__(
        self,
        num_envs: int,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        max_episode_steps: int = 500,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"{num_envs} environments cannot be stepped.", mend="Use 1 or more.")
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.max_episode_steps = max_episode_steps
        self.state = torch.empty(num_envs, 4, device=self.device, dtype=dtype)
        self.elapsed = torch.zeros(num_envs, device=self.device, dtype=torch.int64)
        self._generator = generator

    def reset(self) -> Tensor:
        """Begin ``N`` episodes; returns ``(N, 4)`` float32."""
        self.state = self._first_states()
        self.elapsed.zero_()
        return self.state.float()

    def step(self, action: Tensor) -> Step:
        """Apply ``(N,)`` actions; see :class:`rlcourse.environments.batched.Step`."""
        state = next_state(self.state, action)
        terminated = has_failed(state)
        self.elapsed += 1
        truncated = (self.elapsed >= self.max_episode_steps) & ~terminated
        ended = terminated | truncated
        self.state = torch.where(ended.unsqueeze(-1), self._first_states(), state)
        self.elapsed.masked_fill_(ended, 0)
        reward = torch.ones(self.num_envs, device=self.device)
        return Step(state.float(), reward, terminated, truncated, self.state.float())

    def _first_states(self) -> Tensor:
        return torch.empty_like(self.state).uniform_(-START_RANGE, START_RANGE, generator=self._generator)
