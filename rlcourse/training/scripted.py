"""Rules a person would write down, one for each task: what a learner has to beat, besides chance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rlcourse.environments.batched import BatchedEnvironment
from rlcourse.environments.server_room import thermostat
from rlcourse.errors import ConfigError
from rlcourse.networks import ScriptedPolicy
from rlcourse.vocabulary import ContinuousActions, Policy


class ScriptedBoxPolicy:
    """Acts by a plain function of the observation, ``(B, D)`` to ``(B, K)``."""

    def __init__(self, rule: Callable[[Tensor], Tensor]) -> None:
        self.rule = rule

    def act(self, obs: Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        """``(B, D)`` to ``(B, K)``."""
        return self.rule(obs)


def cartpole(obs: Tensor) -> Tensor:
    """Push to the side to which the pole is falling: the sign of angle plus angular speed."""
    return (obs[:, 2] + obs[:, 3] > 0).long()


def acrobot(obs: Tensor) -> Tensor:
    """Pump: torque along the first joint's motion, 0 for -1 and 2 for +1."""
    return torch.where(obs[:, 4] > 0, 0, 2)


def mountain_car(obs: Tensor) -> Tensor:
    """Push the way the car is already rolling."""
    return torch.where(obs[:, 1] < 0, 0, 2)


def mountain_car_continuous(obs: Tensor) -> Tensor:
    """The same, with full force."""
    return torch.where(obs[:, 1:2] < 0, -1.0, 1.0)


def pendulum(obs: Tensor) -> Tensor:
    """Swing up by energy, then hold: Astrom and Furuta (2000), "Swinging up a pendulum by energy control".

    Below the horizontal, torque follows the motion until the energy is that of standing upright; near the top, springs
    and brakes hold it.
    """
    cos, sin, speed = obs.unbind(-1)
    angle = torch.atan2(sin, cos)
    energy = 0.5 * speed.square() / 3.0 + 5.0 * (cos - 1.0)  # rod of 1 kg and 1 m under g = 10: J/2 w^2, m g l/2
    swing = torch.where(energy < 0, 2.0, -2.0) * torch.where(speed >= 0, 1.0, -1.0)
    hold = -15.0 * angle - 3.0 * speed
    return torch.where(cos > 0.85, hold, swing).clamp(-2.0, 2.0).unsqueeze(-1)


RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "CartPole-v1": cartpole,
    "Acrobot-v1": acrobot,
    "MountainCar-v0": mountain_car,
    "MountainCarContinuous-v0": mountain_car_continuous,
    "Pendulum-v1": pendulum,
}


def scripted_policy(env: BatchedEnvironment) -> Policy:
    """The rule for a task; a thermostat for the server room.

    Raises:
        ConfigError: nobody has written one.
    """
    if env.env_id == "rlcourse/ServerRoom-v0":
        return thermostat()
    if env.env_id not in RULES:
        raise ConfigError(
            f"There is no scripted policy for {env.env_id}.",
            mend=f"Leave 'scripted' out, or use one of {', '.join(RULES)}.",
        )
    rule = RULES[env.env_id]
    return (
        ScriptedBoxPolicy(rule) if isinstance(env.actions, ContinuousActions) else ScriptedPolicy(rule, env.num_actions)
    )
