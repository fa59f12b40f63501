"""A small MDP, a log of it, and two policies: the one that acted and the one in question."""

from __future__ import annotations

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
