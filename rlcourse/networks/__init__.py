"""Networks, target copies and the policies that act by them."""

from rlcourse.networks.descent import Descent
from rlcourse.networks.mlp import (
    Activation,
    DuelingQNetwork,
    LogitsNetwork,
    MLPNetwork,
    Normaliser,
    QNetwork,
    TwinActionQNetwork,
    TwinQNetwork,
    ValueNetwork,
    mlp,
    orthogonal_,
)
from rlcourse.networks.optimisers import adam, anneal_, clip_gradients_
from rlcourse.networks.policies import (
    CategoricalPolicy,
    EpsilonGreedyPolicy,
    GaussianPolicy,
    GreedyQPolicy,
    ScriptedPolicy,
    SquashedGaussianPolicy,
    UniformBoxPolicy,
    UniformPolicy,
    sample_actions,
)
from rlcourse.networks.recurrent import RecurrentActorCritic, RecurrentCategoricalPolicy
from rlcourse.networks.targets import frozen_copy, polyak_update_

__all__ = [
    "Activation",
    "CategoricalPolicy",
    "Descent",
    "DuelingQNetwork",
    "EpsilonGreedyPolicy",
    "GaussianPolicy",
    "GreedyQPolicy",
    "LogitsNetwork",
    "MLPNetwork",
    "Normaliser",
    "QNetwork",
    "RecurrentActorCritic",
    "RecurrentCategoricalPolicy",
    "ScriptedPolicy",
    "SquashedGaussianPolicy",
    "TwinActionQNetwork",
    "TwinQNetwork",
    "UniformBoxPolicy",
    "UniformPolicy",
    "ValueNetwork",
    "adam",
    "anneal_",
    "clip_gradients_",
    "frozen_copy",
    "mlp",
    "orthogonal_",
    "polyak_update_",
    "sample_actions",
]
