"""What a training run with an environment leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from rlcourse.environments import BatchedEnvironment, ScaledEnvironment
from rlcourse.evaluation.returns import episode_returns
from rlcourse.randomness import Seeds
from rlcourse.vocabulary import Policy, TaskSpec

Stop = Callable[[int, float], bool]
"""Given the step and the greedy return just measured: stop here?"""


@dataclass(frozen=True)
class Evaluation:
    """What the policy earned after so many environment steps."""

    step: int
    greedy_return: float
    train_seconds: float
    """Wall time of collection and updates until here; evaluations left out."""
    cpu_seconds: float
    """Processor time of the same."""


@dataclass
class TrainingRun:
    """The evaluations of a run, in order."""

    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def last(self) -> float:
        """Greedy return at the end."""
        return self.evaluations[-1].greedy_return

    @property
    def best(self) -> float:
        """Best greedy return on the way."""
        return max(evaluation.greedy_return for evaluation in self.evaluations)

    @property
    def steps(self) -> int:
        """Environment steps in all."""
        return self.evaluations[-1].step

    @property
    def train_seconds(self) -> float:
        """Wall time of collection and updates."""
        return self.evaluations[-1].train_seconds

    def first_reaching(self, wanted: float) -> Evaluation | None:
        """The first evaluation with at least the wanted return, or ``None``."""
        return next((e for e in self.evaluations if e.greedy_return >= wanted), None)


def greedy_return(
    policy: Policy, env_id: str, num_episodes: int, seeds: Seeds, device: torch.device | str = "cpu"
) -> float:
    """Mean greedy return over ``num_episodes`` episodes, on states no training run has seen.

    The same first states at every call: two points of a curve differ by the policy alone.
    """
    family = seeds.child("evaluation")
    returns = episode_returns(policy, env_id, num_episodes=num_episodes, greedy=True, seeds=family, device=device)
    return float(np.mean(returns))


def task_spec(env: BatchedEnvironment) -> TaskSpec:
    """What a learner must know of an environment; observations are scaled where the environment says how."""
    if isinstance(env, ScaledEnvironment):
        return TaskSpec(env.obs_mean, env.obs_std, env.actions)
    return TaskSpec.unscaled(env.obs_size, env.actions, env.device)
