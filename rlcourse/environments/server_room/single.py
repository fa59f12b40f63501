"""One server room behind Gymnasium's interface, for learners from elsewhere; the room is the same tensor program."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from rlcourse.environments.server_room.room import NUM_LEVELS, GentleServerRoom, ServerRoom

LOWEST = (-100.0, -100.0, -100.0, -1000.0, 0.0, -1.0, -1.0, 0.0)  # what no fault within reason will reach
HIGHEST = (300.0, 300.0, 150.0, 1000.0, 10.0, 1.0, 1.0, 1.0)


class ServerRoomEnv(gym.Env[npt.NDArray[np.float32], np.int64]):
    """``gymnasium.make("rlcourse/ServerRoom-v0")``. Gymnasium's own time limit cuts the episode; ``info`` has the book.

    Faults are injected into ``env.unwrapped.room``.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own name and type

    def __init__(self, *, gentle: bool = False, start_hour: float | None = None) -> None:
        """With ``gentle``, ``info["action_mask"]`` says which levels the relay lets through."""
        self._generator = torch.Generator()
        self._seeded = False
        kind = GentleServerRoom if gentle else ServerRoom
        self.room = kind(1, generator=self._generator, max_episode_steps=sys.maxsize, start_hour=start_hour)
        self.observation_space = gym.spaces.Box(np.array(LOWEST, np.float32), np.array(HIGHEST, np.float32))
        self.action_space = gym.spaces.Discrete(NUM_LEVELS)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Begin a day. The first seed holds until another one is given, as everywhere in Gymnasium."""
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self._generator.manual_seed(int(self.np_random.integers(2**63 - 1)))
            self._seeded = True
        obs = self.room.reset()
        return obs[0].numpy(), self._info()

    def step(self, action: np.int64) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Ten minutes at one level."""
        step = self.room.step(torch.tensor([int(action)]))
        return step.next_obs[0].numpy(), float(step.reward), False, False, self._info()

    def _info(self) -> dict[str, Any]:
        ledger = self.room.ledger
        info: dict[str, Any] = {
            "energy_kwh": float(ledger.energy_kwh),
            "energy_cost": float(ledger.energy_cost),
            "penalty": float(ledger.penalty),
            "degree_minutes": float(ledger.degree_minutes),
            "violations": int(ledger.violations),
        }
        if isinstance(self.room, GentleServerRoom):
            info["action_mask"] = self.room.action_mask()[0].numpy()
        return info
