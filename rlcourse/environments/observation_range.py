"""Between which numbers a task says that its observations lie."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from rlcourse.environments.gymnasium_batch import GymnasiumBatch

BOUNDLESS = float(np.finfo(np.float32).max) / 2
"""A bound beyond it stands for none: some tasks write the largest float32 where they mean infinity."""


def observation_range(env_id: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """The lowest and the highest observation of a task's own observation space.

    Returns:
        Two arrays ``(D,)``, infinite where the task names no bound; ``None`` for a task that Gymnasium does not know.

    Raises:
        ConfigError, MissingExtraError, EnvironmentFailedError: as of
            :class:`~rlcourse.environments.gymnasium_batch.GymnasiumBatch`.
    """
    if env_id not in gym.registry:
        return None
    env = GymnasiumBatch(env_id, 1, seed=0)
    space = env.vector.single_observation_space
    env.close()
    assert isinstance(space, gym.spaces.Box)  # or there would be no batch of it
    low, high = (np.array(bound, np.float64).reshape(-1) for bound in (space.low, space.high))
    return np.where(low < -BOUNDLESS, -np.inf, low), np.where(high > BOUNDLESS, np.inf, high)
