"""One policy of every kind that can be saved, with numbers that differ from each other."""

from __future__ import annotations

import torch

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.networks import (
    ActionNetwork,
    CategoricalPolicy,
    DeterministicPolicy,
    DuelingQNetwork,
    GaussianNetwork,
    GaussianPolicy,
    GreedyQPolicy,
    LogitsNetwork,
    MLPNetwork,
    QNetwork,
    RecurrentActorCritic,
    RecurrentCategoricalPolicy,
    SquashedGaussianPolicy,
)
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import ContinuousActions, Policy

MEAN, STD = torch.tensor([1.0, 0.0, -1.0, 0.5]), torch.tensor([1.0, 2.0, 0.5, 3.0])
ACTIONS = ContinuousActions(torch.tensor([-2.0, 0.0]), torch.tensor([1.0, 5.0]))
DISCRETE = ("categorical", "tanh", "greedy-q", "dueling", "recurrent")
CONTINUOUS = ("gaussian", "free-gaussian", "squashed-gaussian", "deterministic")
KINDS = (*DISCRETE, *CONTINUOUS)


def policy_of(kind: str, seed: int = 0) -> Policy:
    with Seeds(seed).initialising("networks"):
        match kind:
            case "categorical":
                return CategoricalPolicy(LogitsNetwork(MEAN, STD, (16, 8), 3))
            case "tanh":
                return CategoricalPolicy(LogitsNetwork(MEAN, STD, (16, 8), 3, "tanh"))
            case "greedy-q":
                return GreedyQPolicy(QNetwork(MEAN, STD, (16, 8), 3))
            case "dueling":
                return GreedyQPolicy(DuelingQNetwork(MEAN, STD, (16, 8), 3))
            case "recurrent":
                network = RecurrentActorCritic(MEAN, STD, 12, 3)
                torch.nn.init.orthogonal_(network.actor[0].weight)  # type: ignore[arg-type]  # has opinions
                return RecurrentCategoricalPolicy(network)
            case "gaussian":
                gaussian = GaussianNetwork(MEAN, STD, (16,), ACTIONS)
                return GaussianPolicy(gaussian, gaussian.log_std, ACTIONS)
            case "free-gaussian":
                free = MLPNetwork(MEAN, STD, (16,), 2, "tanh")
                return GaussianPolicy(free, torch.tensor([0.1, -0.5]), ACTIONS)
            case "squashed-gaussian":
                return SquashedGaussianPolicy(MLPNetwork(MEAN, STD, (16,), 4), ACTIONS)
            case _:
                return DeterministicPolicy(ActionNetwork(MEAN, STD, (16,), ACTIONS))


def artifact_of(kind: str, seed: int = 0, version: str = "") -> PolicyArtifact:
    return PolicyArtifact.from_policy(
        policy_of(kind, seed), algorithm="ppo", env_id="Task-v0", provenance={"seed": seed}, version=version
    )
