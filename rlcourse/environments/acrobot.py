r"""Acrobot-v1 as one tensor program: a gymnast on a bar, with a motor in the hips only.

Two links of 1 kg, 1 m long, each with its centre of mass at 0.5 m and a moment of inertia of 1 kg m^2. The first hangs
from a fixed joint, the second from the first; a motor between them turns with -1, 0 or 1 N m. Each step of 0.2 s costs
1 until the free end swings 1 m above the fixed joint, which ends the task (and costs nothing); a time limit cuts the
episode after 500 steps.

Physics: Sutton (1996), integrated by one fourth-order Runge-Kutta step, in the arrangement of Gymnasium's
``AcrobotEnv``, which the tests hold this file to, state by state. With both angles 0 when hanging down, the second
relative to the first, :math:`c = m_2\ell_1 \ell_{c2}` and :math:`\tau` the torque,

.. math::
   d_1 &= m_1\ell_{c1}^2 + m_2(\ell_1^2 + \ell_{c2}^2) + I_1 + I_2 + 2c\cos\theta_2, \qquad
   d_2 = m_2\ell_{c2}^2 + I_2 + c\cos\theta_2 \\
   \phi_2 &= m_2\ell_{c2}\,g\sin(\theta_1 + \theta_2), \qquad
   \phi_1 = -c\,\dot\theta_2(\dot\theta_2 + 2\dot\theta_1)\sin\theta_2
            + (m_1\ell_{c1} + m_2\ell_1)\,g\sin\theta_1 + \phi_2 \\
   \ddot\theta_2 &= \frac{\tau + \phi_1 d_2/d_1 - c\,\dot\theta_1^2\sin\theta_2 - \phi_2}
                         {m_2\ell_{c2}^2 + I_2 - d_2^2/d_1}, \qquad
   \ddot\theta_1 = -\frac{d_2\ddot\theta_2 + \phi_1}{d_1}

These are the book's equations. Sutton's paper of 1996 (NIPS) prints them without :math:`c\,\dot\theta_1^2\sin\theta_2`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from rlcourse.environments.tensor_program import TensorProgram, constants, vector
from rlcourse.errors import ConfigError
from rlcourse.vocabulary import DiscreteActions

Equations = Literal["book", "nips"]

GRAVITY = 9.8  # m/s^2
MASS = 1.0  # kg, of either link
LENGTH = 1.0  # m, of the first link
CENTRE = 0.5  # m, from a link's joint to its centre of mass
INERTIA = 1.0  # kg m^2, of either link
STEP_S = 0.2  # s
MAX_SPEED_1 = 4 * math.pi  # rad/s
MAX_SPEED_2 = 9 * math.pi  # rad/s
START_RANGE = 0.1  # every entry of the first state is uniform within this

INERTIA_1 = MASS * CENTRE**2 + MASS * (LENGTH**2 + CENTRE**2) + 2 * INERTIA  # d_1 at a right angle
INERTIA_2 = MASS * CENTRE**2 + INERTIA  # d_2 at a right angle
COUPLING = MASS * LENGTH * CENTRE  # c
WEIGHT_1 = MASS * (CENTRE + LENGTH) * GRAVITY  # N m, on the first joint: link 1, and link 2 hung at its end
WEIGHT_2 = MASS * CENTRE * GRAVITY  # N m, on the second joint
PHYSICS = (INERTIA_1, INERTIA_2, COUPLING, WEIGHT_1, WEIGHT_2, 2.0)


def next_state(state: Tensor, action: Tensor, *, equations: Equations = "book") -> Tensor:
    """One Runge-Kutta step of the physics; angles are wrapped, speeds clipped.

    Args:
        state: ``(N, 4)`` angles of the first link and of the second relative to it (rad), their speeds (rad/s).
        action: ``(N,)`` 0, 1, 2 for -1, 0, 1 N m.
        equations: the book's, which Gymnasium uses unless told otherwise, or those printed in the paper.

    Returns:
        ``(N, 4)`` in the state's dtype.
    """
    half, whole, sixth, two = constants(state.dtype, state.device, STEP_S / 2, STEP_S, STEP_S / 6, 2.0)
    torque = vector(state.dtype, state.device, -1.0, 0.0, 1.0).take(action)
    slope_1 = derivative(state, torque, equations)
    slope_2 = derivative(state + half * slope_1, torque, equations)
    slope_3 = derivative(state + half * slope_2, torque, equations)
    slope_4 = derivative(state + whole * slope_3, torque, equations)
    state = state + sixth * (slope_1 + two * (slope_2 + slope_3) + slope_4)
    limit = vector(state.dtype, state.device, MAX_SPEED_1, MAX_SPEED_2)
    return torch.cat([wrap(state[:, :2]), state[:, 2:].clamp(-limit, limit)], dim=-1)


def derivative(state: Tensor, torque: Tensor, equations: Equations = "book") -> Tensor:
    """``(N, 4)`` states and ``(N,)`` torques to ``(N, 4)``: two speeds, two accelerations."""
    inertia_1, inertia_2, coupling, weight_1, weight_2, two = constants(state.dtype, state.device, *PHYSICS)
    angle_1, angle_2, speed_1, speed_2 = state.unbind(-1)
    leverage, drag = coupling * angle_2.cos(), coupling * angle_2.sin()
    d1 = inertia_1 + two * leverage
    d2 = inertia_2 + leverage
    phi2 = weight_2 * (angle_1 + angle_2).sin()
    phi1 = weight_1 * angle_1.sin() + phi2 - drag * speed_2 * (speed_2 + two * speed_1)
    ratio = d2 / d1
    turning = torque + ratio * phi1 - phi2
    if equations == "book":
        turning = turning - drag * speed_1.square()
    acceleration_2 = turning / (inertia_2 - ratio * d2)
    acceleration_1 = -(ratio * acceleration_2 + phi1 / d1)
    return torch.stack([speed_1, speed_2, acceleration_1, acceleration_2], dim=-1)


def wrap(angle: Tensor) -> Tensor:
    """The same direction between -pi and pi. Worked number: 3.5 is 3.5 - 6.2832 = -2.7832."""
    half, whole = constants(angle.dtype, angle.device, math.pi, 2 * math.pi)
    turns = ((angle.abs() - half) / whole).ceil().relu()
    return angle - angle.sign() * turns * whole


def has_arrived(state: Tensor) -> Tensor:
    """``(N, 4)`` states to ``(N,)`` bool: the free end is more than 1 m above the fixed joint."""
    angle_1, angle_2 = state[:, 0], state[:, 1]
    return -angle_1.cos() - (angle_1 + angle_2).cos() > 1.0


class Acrobot(TensorProgram):
    """``N`` gymnasts. What is seen: cosine and sine of the first angle, of the second, and the two speeds."""

    env_id = "Acrobot-v1"
    obs_size = 6
    state_size = 4
    time_limit = 500
    actions = DiscreteActions(3)

    def __init__(
        self,
        num_envs: int,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        max_episode_steps: int | None = None,
        dtype: torch.dtype = torch.float32,
        equations: Equations = "book",
    ) -> None:
        if equations not in ("book", "nips"):
            raise ConfigError(f"There are no equations called {equations!r}.", mend="Use 'book' or 'nips'.")
        super().__init__(num_envs, device=device, generator=generator, max_episode_steps=max_episode_steps, dtype=dtype)
        self.equations: Equations = equations

    @property
    def obs_mean(self) -> Tensor:
        """Zeros: both directions are alike."""
        return torch.zeros(6, device=self.device)

    @property
    def obs_std(self) -> Tensor:
        """Speeds of 2 and 4 rad/s are usual on the way up; their bounds lie far beyond."""
        return torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0, 4.0], device=self.device)

    def _first_states(self) -> Tensor:
        return self._uniform(-START_RANGE, START_RANGE)

    def _advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = next_state(state, action, equations=self.equations)
        arrived = has_arrived(state)
        return state, arrived.float() - 1.0, arrived

    def _observe(self, state: Tensor) -> Tensor:
        angles = state[:, :2]
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(1)
        return torch.cat([directions, state[:, 2:]], dim=-1).float()
