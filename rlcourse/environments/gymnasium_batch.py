"""Any Gymnasium environment with a vector of numbers to see and a finite set of actions, as a batched environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from rlcourse.environments.batched import Step
from rlcourse.errors import ConfigError


class GymnasiumBatch:
    """``num_envs`` copies of ``env_id`` behind Gymnasium's own vector API.

    Each copy is seeded once, from its own part of the seed, and never again: re-seeding at every reset would start
    every episode from the same state.
    """

    def __init__(self, env_id: str, num_envs: int, *, seed: int, device: torch.device | str = "cpu") -> None:
        # SAME_STEP reports the true last observation beside the fresh one, which is what Step wants.
        self.vector = SyncVectorEnv(
            [lambda: gym.make(env_id) for _ in range(num_envs)], autoreset_mode=AutoresetMode.SAME_STEP
        )
        space, actions = self.vector.single_observation_space, self.vector.single_action_space
        if not isinstance(space, gym.spaces.Box) or not isinstance(actions, gym.spaces.Discrete):
            raise ConfigError(
                f"{env_id} has observations {space} and actions {actions}.",
                mend="This chapter's learners need a Box of observations and Discrete actions.",
            )
        self.env_id = env_id
        self.num_envs = num_envs
        self.obs_size = int(np.prod(space.shape))
        self.num_actions = int(actions.n)
        self.device = torch.device(device)
        self._seed: int | None = seed % 2**31

    def reset(self) -> Tensor:
        """Begin ``N`` episodes; returns ``(N, D)`` float32. Only the first call seeds."""
        obs: Any
        obs, _ = self.vector.reset(seed=self._seed)
        self._seed = None
        return self._tensor(obs)

    def step(self, action: Tensor) -> Step:
        """Apply ``(N,)`` actions."""
        result: Any = self.vector.step(action.cpu().numpy())
        obs, reward, terminated, truncated, info = result
        next_obs = np.array(obs, copy=True)
        if "final_obs" in info:
            for index in np.flatnonzero(info["_final_obs"]):
                next_obs[index] = info["final_obs"][index]
        return Step(
            self._tensor(next_obs),
            torch.as_tensor(reward, dtype=torch.float32, device=self.device),
            torch.as_tensor(terminated, device=self.device),
            torch.as_tensor(truncated & ~terminated, device=self.device),
            self._tensor(obs),
        )

    def close(self) -> None:
        """Close the Gymnasium environments."""
        self.vector.close()

    def _tensor(self, obs: object) -> Tensor:
        flat = np.asarray(obs, dtype=np.float32).reshape(self.num_envs, -1)
        return torch.from_numpy(flat.copy()).to(self.device)
