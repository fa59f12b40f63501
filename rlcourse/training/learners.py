"""From an algorithm's name to a learner. The names are those of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from rlcourse.algorithms.bc import BC, BCConfig
from rlcourse.algorithms.cql import CQL, CQLConfig
from rlcourse.algorithms.iql import IQL, IQLConfig
from rlcourse.errors import UnknownAlgorithmError
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import DiscreteLearner, TaskSpec

OfflineAlgorithm = Literal["bc", "cql", "iql"]
OFFLINE_ALGORITHMS: tuple[OfflineAlgorithm, ...] = get_args(OfflineAlgorithm)


@dataclass(frozen=True)
class OfflineConfigs:
    """The settings of every offline algorithm; each reads its own."""

    bc: BCConfig = field(default_factory=BCConfig)
    """Behavioural cloning."""
    cql: CQLConfig = field(default_factory=CQLConfig)
    """Conservative Q-learning."""
    iql: IQLConfig = field(default_factory=IQLConfig)
    """Implicit Q-learning."""


def offline_learner(
    algorithm: str, spec: TaskSpec, seeds: Seeds, configs: OfflineConfigs | None = None
) -> DiscreteLearner:
    """A fresh learner whose first weights follow from the stream ``"networks"`` of ``seeds``.

    Raises:
        UnknownAlgorithmError: no offline algorithm of that name.
    """
    configs = configs or OfflineConfigs()
    makers: dict[str, Callable[[], DiscreteLearner]] = {
        "bc": lambda: BC(spec, configs.bc),
        "cql": lambda: CQL(spec, configs.cql),
        "iql": lambda: IQL(spec, configs.iql),
    }
    if algorithm not in makers:
        near = difflib.get_close_matches(algorithm, makers, n=1)
        meant = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(makers)}."
        raise UnknownAlgorithmError(f"There is no offline algorithm called {algorithm!r}.", mend=meant)
    with seeds.initialising("networks"):
        return makers[algorithm]()
