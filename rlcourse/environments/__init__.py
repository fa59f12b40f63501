"""Environments: batched tensor programs, known-answer problems, and the boundary to Gymnasium."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import gymnasium as gym
import torch

from rlcourse.environments.acrobot import Acrobot
from rlcourse.environments.batched import BatchedEnvironment, MaskedEnvironment, ScaledEnvironment, Step
from rlcourse.environments.cartpole import CartPole
from rlcourse.environments.gymnasium_batch import GymnasiumBatch
from rlcourse.environments.mountain_car import MountainCar
from rlcourse.environments.mountain_car_continuous import MountainCarContinuous
from rlcourse.environments.pendulum import Pendulum
from rlcourse.environments.server_room import GentleServerRoom, ServerRoom
from rlcourse.errors import UnknownEnvironmentError
from rlcourse.randomness import Seeds

__all__ = [
    "NATIVE",
    "Acrobot",
    "BatchedEnvironment",
    "CartPole",
    "GentleServerRoom",
    "GymnasiumBatch",
    "MaskedEnvironment",
    "MountainCar",
    "MountainCarContinuous",
    "Pendulum",
    "ScaledEnvironment",
    "ServerRoom",
    "Step",
    "check_known",
    "make",
]

NATIVE: dict[str, Callable[..., BatchedEnvironment]] = {
    "Acrobot-v1": Acrobot,
    "CartPole-v1": CartPole,
    "MountainCar-v0": MountainCar,
    "MountainCarContinuous-v0": MountainCarContinuous,
    "Pendulum-v1": Pendulum,
    "rlcourse/GentleServerRoom-v0": GentleServerRoom,
    "rlcourse/ServerRoom-v0": ServerRoom,
}
"""The tasks with a tensor program: a class called with ``(num_envs, device=..., generator=...)``."""


def make(
    env_id: str, num_envs: int, *, seeds: Seeds, device: torch.device | str = "cpu", native: bool = True
) -> BatchedEnvironment:
    """``num_envs`` copies of a task, each with its own first states.

    Args:
        env_id: a name of :data:`NATIVE` or of Gymnasium, for example ``CartPole-v1``.
        num_envs: how many copies step together.
        seeds: the stream ``"environment"`` of this family is used.
        device: where the tensors live.
        native: take the tensor program where this package has one; ``False`` always goes through Gymnasium.

    Raises:
        UnknownEnvironmentError: nobody knows the name.
    """
    check_known(env_id, native=native)
    if native and env_id in NATIVE:
        return NATIVE[env_id](num_envs, device=device, generator=seeds.torch("environment", device))
    return GymnasiumBatch(env_id, num_envs, seed=seeds.integer("environment"), device=device)


def check_known(env_id: str, *, native: bool = True) -> None:
    """Raise :class:`UnknownEnvironmentError`, naming what was probably meant, unless ``env_id`` can be made."""
    known = {*gym.registry, *(NATIVE if native else ())}
    if env_id in known:
        return
    near = difflib.get_close_matches(env_id, known, n=3, cutoff=0.8)
    meant = f"Did you mean {' or '.join(near)}?" if near else "See gymnasium.pprint_registry() for the names."
    raise UnknownEnvironmentError(f"There is no environment called {env_id!r}.", mend=meant)
