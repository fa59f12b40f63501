"""When a task counts as solved, and scores between random (0) and solved (1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from rlcourse.errors import ConfigError
from rlcourse.evaluation.statistics import Array

SOLVED: dict[str, float] = {
    "Acrobot-v1": -85.0,  # ours; Gymnasium's -100 is reached long before the swing is any good
    "CartPole-v1": 475.0,  # Gymnasium's
    "Pendulum-v1": -170.0,  # ours; Gymnasium states none
}
"""Mean greedy returns from which on this course calls a task solved; others have what Gymnasium registers."""


def solved_return(env_id: str) -> float | None:
    """From which mean return on a task counts as solved; ``None`` where nobody has said."""
    if env_id in SOLVED:
        return SOLVED[env_id]
    spec = gym.registry.get(env_id)
    return None if spec is None or spec.reward_threshold is None else float(spec.reward_threshold)


def normalised(scores: npt.ArrayLike, *, random: float, solved: float) -> Array:
    """Scores with 0 for random actions and 1 for solved, so that tasks can be averaged.

    Worked number: in a task where random earns 20 and solved is 475, a return of 247.5 is 0.5.

    Raises:
        ConfigError: random actions solve the task already.
    """
    if solved <= random:
        raise ConfigError(
            f"Random actions earn {random:.1f}, and {solved:.1f} counts as solved.",
            mend="Compare on tasks that random actions do not solve.",
        )
    return (np.asarray(scores, dtype=np.float64) - random) / (solved - random)


@dataclass(frozen=True)
class TimeToSolve:
    """How long the runs of one algorithm took to reach a return for the first time."""

    algorithm: str
    wanted: float
    runs: int
    reached: int
    median_steps: float | None  # over all runs, those that never arrived counting as never; None: half never arrived
    median_cpu_seconds: float | None


def time_to_solve(algorithm: str, runs: Sequence[Sequence[Mapping[str, float]]], wanted: float) -> TimeToSolve:
    """The first evaluation of each run with at least the ``wanted`` return.

    Args:
        algorithm: whose runs they are.
        runs: for each, its evaluations in order: ``step``, ``greedy_return``, ``cpu_seconds``.
        wanted: the return to reach.

    Worked number: arrivals after 10, 30 and never have the median 30; after 10, never and never, none.
    """
    firsts = [next((e for e in run if e["greedy_return"] >= wanted), None) for run in runs]
    return TimeToSolve(
        algorithm,
        wanted,
        len(runs),
        sum(first is not None for first in firsts),
        _median([np.inf if first is None else first["step"] for first in firsts]),
        _median([np.inf if first is None else first["cpu_seconds"] for first in firsts]),
    )


def _median(values: Sequence[float]) -> float | None:
    # The upper one of two in the middle: between a number and never there is nothing.
    middle = float(np.sort(values)[len(values) // 2])
    return middle if np.isfinite(middle) else None
