"""Environments: batched tensor programs, known-answer problems, and the boundary to Gymnasium."""

from __future__ import annotations

import difflib

import gymnasium as gym
import torch

from rlcourse.environments.batched import BatchedEnvironment, Step
from rlcourse.environments.cartpole import CartPole
from rlcourse.environments.gymnasium_batch import GymnasiumBatch
from rlcourse.errors import UnknownEnvironmentError
from rlcourse.randomness import Seeds

__all__ = ["BatchedEnvironment", "CartPole", "GymnasiumBatch", "Step", "make"]


def make(
    env_id: str, num_envs: int, *, seeds: Seeds, device: torch.device | str = "cpu", native: bool = True
) -> BatchedEnvironment:
    """``num_envs`` copies of a task, each with its own first states.

    Args:
        env_id: a Gymnasium name, for example ``CartPole-v1``.
        num_envs: how many copies step together.
        seeds: the stream ``"environment"`` of this family is used.
        device: where the tensors live.
        native: take the tensor program where this package has one; ``False`` always goes through Gymnasium.

    Raises:
        UnknownEnvironmentError: Gymnasium does not know the name.
    """
    check_known(env_id)
    if native and env_id == CartPole.env_id:
        return CartPole(num_envs, device=device, generator=seeds.torch("environment", device))
    return GymnasiumBatch(env_id, num_envs, seed=seeds.integer("environment"), device=device)


def check_known(env_id: str) -> None:
    """Raise :class:`UnknownEnvironmentError`, naming what was probably meant, unless Gymnasium knows ``env_id``."""
    if env_id in gym.registry:
        return
    near = difflib.get_close_matches(env_id, gym.registry.keys(), n=3, cutoff=0.8)
    meant = f"Did you mean {' or '.join(near)}?" if near else "See gymnasium.pprint_registry() for the names."
    raise UnknownEnvironmentError(f"There is no environment called {env_id!r}.", mend=meant)
