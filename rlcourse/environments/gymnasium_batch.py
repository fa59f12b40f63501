"""Any Gymnasium environment with a vector of numbers to see, and either kind of actions, as a batched environment."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from rlcourse.environments.batched import Step
from rlcourse.errors import ConfigError, EnvironmentFailedError, MissingExtraError
from rlcourse.vocabulary import ActionSpace, ContinuousActions, DiscreteActions


class GymnasiumBatch:
    """``num_envs`` copies of ``env_id`` behind Gymnasium's own vector API.

    Each copy is seeded once, from its own part of the seed, and never again: re-seeding at every reset would start
    every episode from the same state.

    Raises:
        ConfigError: observations or actions of a kind that no learner here can use.
        MissingExtraError: the environment needs a package that is not installed.
        EnvironmentFailedError: the environment cannot be made, raises, or returns what is no number.
    """

    def __init__(self, env_id: str, num_envs: int, *, seed: int, device: torch.device | str = "cpu") -> None:
        if num_envs < 1:
            raise ConfigError(f"{num_envs} environments cannot be stepped.", mend="Use 1 or more.")
        self.env_id = env_id
        self.num_envs = num_envs
        self.device = torch.device(device)
        _hear_mujoco(env_id)
        try:
            # SAME_STEP reports the true last observation beside the fresh one, which is what Step wants.
            self.vector = SyncVectorEnv(
                [lambda: gym.make(env_id) for _ in range(num_envs)], autoreset_mode=AutoresetMode.SAME_STEP
            )
        except (gym.error.DependencyNotInstalled, ImportError) as error:
            raise MissingExtraError(
                f"{env_id} needs a package that is not installed: {error}",
                mend="pip install 'rlcourse[box2d]' for LunarLander, 'rlcourse[mujoco]' for Hopper and its kind.",
            ) from error
        except Exception as error:  # an environment's constructor may raise anything
            raise self._failed(error) from error
        space = self.vector.single_observation_space
        if not isinstance(space, gym.spaces.Box):
            raise ConfigError(
                f"{env_id} has observations {space}.", mend="The learners here need a Box: wrap the task in one."
            )
        self.obs_size = int(np.prod(space.shape))
        self.actions = self._actions()
        self._seed: int | None = seed % 2**31

    @property
    def num_actions(self) -> int:
        """``A``; a :class:`~rlcourse.errors.ConfigError` where actions are continuous."""
        return self.actions.count

    def reset(self) -> Tensor:
        """Begin ``N`` episodes; returns ``(N, D)`` float32. Only the first call seeds."""
        obs: Any
        try:
            obs, _ = self.vector.reset(seed=self._seed)
        except Exception as error:  # an environment may raise anything
            raise self._failed(error) from error
        self._seed = None
        return self._finite(obs)

    def step(self, action: Tensor) -> Step:
        """Apply ``(N,)`` or ``(N, K)`` actions; continuous ones are clipped to their bounds first."""
        if isinstance(self.actions, ContinuousActions):
            action = action.clamp(self.actions.low, self.actions.high)
        try:
            result: Any = self.vector.step(action.cpu().numpy())
        except Exception as error:  # an environment may raise anything
            raise self._failed(error) from error
        obs, reward, terminated, truncated, info = result
        next_obs = np.array(obs, copy=True)
        if "final_obs" in info:
            for index in np.flatnonzero(info["_final_obs"]):
                next_obs[index] = info["final_obs"][index]
        return Step(
            self._finite(next_obs),
            self._finite(reward, flat=False),
            torch.as_tensor(terminated, device=self.device),
            torch.as_tensor(truncated & ~terminated, device=self.device),
            self._finite(obs),
        )

    def close(self) -> None:
        """Close the Gymnasium environments."""
        self.vector.close()

    def _actions(self) -> ActionSpace:
        space = self.vector.single_action_space
        if isinstance(space, gym.spaces.Discrete) and space.start == 0:
            return DiscreteActions(int(space.n))
        if isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.is_bounded():
            low, high = (
                torch.tensor(bound, dtype=torch.float32, device=self.device) for bound in (space.low, space.high)
            )
            return ContinuousActions(low, high)
        raise ConfigError(
            f"{self.env_id} has actions {space}.",
            mend="The learners here need Discrete actions counted from 0, or a bounded Box with one axis.",
        )

    def _finite(self, values: object, *, flat: bool = True) -> Tensor:
        array = np.asarray(values, dtype=np.float32)
        if not np.isfinite(array).all():
            raise EnvironmentFailedError(
                f"{self.env_id} returned NaN or infinity as {'an observation' if flat else 'a reward'}.",
                mend="Mend the environment; nothing can be learned from what is no number.",
            )
        array = array.reshape(self.num_envs, -1) if flat else array
        return torch.from_numpy(array.copy()).to(self.device)

    def _failed(self, error: Exception) -> EnvironmentFailedError:
        return EnvironmentFailedError(
            f"{self.env_id} raised {type(error).__name__}: {error}",
            mend="The error is the environment's own; see the traceback for the line.",
        )


def _hear_mujoco(env_id: str) -> None:
    """Let MuJoCo's warnings reach Python's logging: by itself it writes them to a file in the current folder."""
    entry = getattr(gym.registry.get(env_id), "entry_point", None)
    if not (isinstance(entry, str) and entry.startswith("gymnasium.envs.mujoco")):
        return
    try:
        mujoco: Any = importlib.import_module("mujoco")
    except ImportError:
        return  # making the environment says so, and names the extra
    if mujoco.get_mju_user_warning() is None:  # else somebody else listens already
        mujoco.set_mju_user_warning(_log_mujoco)


def _log_mujoco(message: str) -> None:
    # What is deprecated stands in Gymnasium's own files; what a simulation does wrong concerns whoever runs it.
    level = logging.DEBUG if "deprecated" in message else logging.WARNING
    logging.getLogger(__name__).log(level, "MuJoCo: %s", message)
