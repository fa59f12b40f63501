"""Learning runs with an environment: every baseline solves its task with its own settings, at the end and not just once."""

from __future__ import annotations

import numpy as np
import pytest

from rlcourse.devices import torch_threads
from rlcourse.evaluation.solved import SOLVED
from rlcourse.evaluation.statistics import interquartile_mean
from rlcourse.randomness import Seeds
from rlcourse.training.online import train_online

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("algorithm", "env_id", "seeds"),
    [
        ("ppo", "CartPole-v1", 5),
        ("dqn", "CartPole-v1", 2),
        ("ppo", "Acrobot-v1", 2),
        ("sac", "Pendulum-v1", 2),
    ],
)
def test_the_last_policy_solves_the_task(algorithm: str, env_id: str, seeds: int) -> None:
    with torch_threads(1):
        last = np.array([train_online(algorithm, env_id, seeds=Seeds(seed))[0].last for seed in range(seeds)])
    assert interquartile_mean(last) >= SOLVED[env_id], last
