"""A small MDP, a log of it, and two policies: the one that acted and the one in question."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rlcourse.environments.known_answers import TabularMDP, one_hot, random_mdp
from rlcourse.evaluation.off_policy import Trajectories
from rlcourse.randomness import Seeds

STATES = 3
BEHAVIOUR = torch.tensor([[0.5, 0.5], [0.7, 0.3], [0.4, 0.6]], dtype=torch.float64)
TARGET = torch.tensor([[0.8, 0.2], [0.5, 0.5], [0.2, 0.8]], dtype=torch.float64)


def problem(*, ending: float = 0.1) -> TabularMDP:
    return random_mdp(STATES, 2, Seeds(3).torch("mdp"), ending=ending)


def played(
    mdp: TabularMDP, count: int, horizon: int, gamma: float, generator: torch.Generator, target: Tensor = TARGET
) -> Trajectories:
    """``count`` episodes by BEHAVIOUR, beside ``target``."""
    states, action, reward, mask, ended = mdp.play(BEHAVIOUR, count, horizon, generator)
    acting = states[:, :-1]
    return Trajectories(
        target=target[acting, action],
        behaviour=BEHAVIOUR[acting, action],
        reward=reward,
        mask=mask,
        gamma=gamma,
        obs=one_hot(states, STATES),
        action=action,
        terminated=ended,
        all_target=target[states],
    ).validate()


def rng(seed: int = 0) -> np.random.Generator:
    return Seeds(seed).numpy("bootstrap")


def bandit(count: int, *, seed: int = 0, share: float = 0.9) -> Trajectories:
    """Two arms worth 0 and 1, pulled evenly; the target pulls the better one with probability ``share``."""
    source = rng(seed)
    arm = source.integers(2, size=count)
    target = np.where(arm == 1, share, 1.0 - share)
    return Trajectories.from_arrays(
        target=target, behaviour=np.full(count, 0.5), reward=arm + source.normal(size=count)
    )
