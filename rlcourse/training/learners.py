"""From an algorithm's name to a learner. The names are those of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from rlcourse.algorithms.bc import BC, BCConfig
from rlcourse.algorithms.cql import CQL, CQLConfig
from rlcourse.algorithms.cql_continuous import ContinuousCQL, ContinuousCQLConfig
from rlcourse.algorithms.iql import IQL, IQLConfig
from rlcourse.algorithms.td3_bc import TD3BC, TD3BCConfig
from rlcourse.errors import UnknownAlgorithmError
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import ActionSpace, ContinuousActions, Learner, TaskSpec

OfflineAlgorithm = Literal["bc", "cql", "iql", "td3-bc"]
OFFLINE_ALGORITHMS: tuple[OfflineAlgorithm, ...] = get_args(OfflineAlgorithm)
FOR_COUNTED_ACTIONS: tuple[OfflineAlgorithm, ...] = ("bc", "cql", "iql")
"""Those that learn discrete actions; all of them learn continuous ones."""


@dataclass(frozen=True)
class OfflineConfigs:
    """The settings of every offline algorithm; each reads its own."""

    bc: BCConfig = field(default_factory=BCConfig)
    """Behavioural cloning."""
    cql: CQLConfig = field(default_factory=CQLConfig)
    """Conservative Q-learning on discrete actions."""
    cql_continuous: ContinuousCQLConfig = field(default_factory=ContinuousCQLConfig)
    """Conservative Q-learning on continuous actions."""
    iql: IQLConfig = field(default_factory=IQLConfig)
    """Implicit Q-learning."""
    td3_bc: TD3BCConfig = field(default_factory=TD3BCConfig)
    """TD3+BC, for continuous actions alone."""

    def of(self, algorithm: str, actions: ActionSpace) -> Any:
        """The settings that ``algorithm`` reads on a log of such actions.

        Raises:
            UnknownAlgorithmError: no offline algorithm of that name.
        """
        if algorithm not in OFFLINE_ALGORITHMS:
            near = difflib.get_close_matches(algorithm, OFFLINE_ALGORITHMS, n=1)
            meant = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(OFFLINE_ALGORITHMS)}."
            raise UnknownAlgorithmError(f"There is no offline algorithm called {algorithm!r}.", mend=meant)
        if algorithm == "cql" and isinstance(actions, ContinuousActions):
            return self.cql_continuous
        return getattr(self, algorithm.replace("-", "_"))


def offline_learner(algorithm: str, spec: TaskSpec, seeds: Seeds, configs: OfflineConfigs | None = None) -> Learner:
    """A fresh learner whose first weights follow from the stream ``"networks"`` of ``seeds``.

    Raises:
        UnknownAlgorithmError: no offline algorithm of that name.
        ConfigError: the algorithm is not for such actions.
    """
    configs = configs or OfflineConfigs()
    config = configs.of(algorithm, spec.actions)
    drawing = seeds.torch("learner", spec.obs_mean.device)
    makers: dict[type, Callable[[], Learner]] = {
        BCConfig: lambda: BC(spec, config),
        CQLConfig: lambda: CQL(spec, config),
        ContinuousCQLConfig: lambda: ContinuousCQL(spec, config, generator=drawing),
        IQLConfig: lambda: IQL(spec, config),
        TD3BCConfig: lambda: TD3BC(spec, config, generator=drawing),
    }
    with seeds.initialising("networks"):
        return makers[type(config)]()
