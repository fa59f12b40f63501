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

from rlcourse.environments.tensor_program import TensorProgram, constants, vector
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

PHYSICS = (POLE_MASS * HALF_LENGTH, TOTAL_MASS, GRAVITY, HALF_LENGTH, 4 / 3, POLE_MASS, STEP_S)
LIMITS = (POSITION_LIMIT, math.inf, ANGLE_LIMIT, math.inf)  # of each entry of a state


def next_state(state: Tensor, action: Tensor) -> Tensor:
    """One Euler step of the physics.

    Args:
        state: ``(N, 4)`` position (m), speed (m/s), angle (rad), angular speed (rad/s).
        action: ``(N,)`` 0 pushes left, 1 pushes right.

    Returns:
        ``(N, 4)`` in the state's dtype.
    """
    pushes = vector(state.dtype, state.device, -FORCE, FORCE)
    swing, total, gravity, half, third, pole, duration = constants(state.dtype, state.device, *PHYSICS)
    _, speed, angle, turn = state.unbind(-1)
    force = pushes.take(action)
    cos, sin = angle.cos(), angle.sin()
    pull = (force + swing * turn.square() * sin) / total
    turn_rate = (gravity * sin - cos * pull) / (half * (third - pole * cos.square() / total))
    acceleration = pull - swing * turn_rate * cos / total
    return state + duration * torch.stack([speed, acceleration, turn, turn_rate], dim=-1)


def has_failed(state: Tensor) -> Tensor:
    """``(N, 4)`` states to ``(N,)`` bool: the cart is off the track or the pole has fallen."""
    return (state.abs() > vector(state.dtype, state.device, *LIMITS)).any(-1)


class CartPole(TensorProgram):
    """``N`` carts."""

    env_id = "CartPole-v1"
    obs_size = 4
    state_size = 4
    time_limit = 500
    actions = DiscreteActions(2)

    @property
    def obs_mean(self) -> Tensor:
        """``(4,)``: upright in the middle, at rest."""
        return torch.zeros(4, device=self.device)

    @property
    def obs_std(self) -> Tensor:
        """``(4,)``: 0.5 m, 0.5 m/s, 0.1 rad and 0.5 rad/s, the size of things under a policy that balances."""
        return torch.tensor([0.5, 0.5, 0.1, 0.5], device=self.device)

    def _first_states(self) -> Tensor:
        return self._uniform(-START_RANGE, START_RANGE)

    def _advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = next_state(state, action)
        return state, torch.ones(self.num_envs, device=self.device), has_failed(state)
