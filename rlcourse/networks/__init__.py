"""Networks, target copies and the policies that act by them."""

from rlcourse.networks.mlp import LogitsNetwork, Normaliser, QNetwork, TwinQNetwork, ValueNetwork, mlp
from rlcourse.networks.optimisers import adam, anneal_
from rlcourse.networks.policies import (
    CategoricalPolicy,
    EpsilonGreedyPolicy,
    GreedyQPolicy,
    ScriptedPolicy,
    UniformPolicy,
    sample_actions,
)
from rlcourse.networks.targets import frozen_copy, polyak_update_

__all__ = [
    "CategoricalPolicy",
    "EpsilonGreedyPolicy",
    "GreedyQPolicy",
    "LogitsNetwork",
    "Normaliser",
    "QNetwork",
    "ScriptedPolicy",
    "TwinQNetwork",
    "UniformPolicy",
    "ValueNetwork",
    "adam",
    "anneal_",
    "frozen_copy",
    "mlp",
    "polyak_update_",
    "sample_actions",
]
