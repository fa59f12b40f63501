"""What a study is asked for and what it leaves: plain values, for which Optuna is not needed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch

from rlcourse.errors import ConfigError
from rlcourse.evaluation.comparison import AlgorithmSummary, Verdict
from rlcourse.evaluation.selection import shrunken_scores

ENOUGH_FOR_IMPORTANCE = 10
"""Complete trials below which no importance is computed."""


@dataclass(frozen=True)
class TuningConfig:
    """How a study is made."""

    n_trials: int = 50
    """Finished trials in the study, pruned ones included: the total, however often it was interrupted."""
    seeds_per_trial: int = 3
    """k, runs of each trial. More make a trial's score steadier, and fewer trials affordable."""
    prune: bool = True
    """Stop trials whose mean over the seeds is below the median of the others at the same look."""
    seed: int = 0
    """Runs and proposals follow from it."""

    def __post_init__(self) -> None:
        if self.n_trials < 1 or self.seeds_per_trial < 1:
            raise ConfigError(f"{self.n_trials} trials of {self.seeds_per_trial} seeds.", mend="Use 1 or more of each.")


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial."""

    number: int
    state: Literal["complete", "pruned"]
    score: float
    """IQM over the seeds of the last greedy return, which is the mean for fewer than 4; for a pruned trial, of the last
    look it had. Minus infinity if training diverged."""
    values: dict[str, Any]
    """The settings that were tried."""
    returns: tuple[float, ...]
    """Of each seed."""
    reports: tuple[tuple[int, float], ...]
    """Number of the look, and the score then."""
    seconds: float


@dataclass(frozen=True)
class StudyRecord:
    """The finished trials of a study, in the order in which they were begun."""

    trials: tuple[TrialRecord, ...]
    importances: dict[str, float] = field(default_factory=dict)
    """Share of each setting in what tells the best trials from the others (PED-ANOVA); empty below
    :data:`ENOUGH_FOR_IMPORTANCE` complete trials."""

    @property
    def complete(self) -> tuple[TrialRecord, ...]:
        """Those that were not pruned."""
        return tuple(trial for trial in self.trials if trial.state == "complete")

    @cached_property
    def best(self) -> TrialRecord:
        """The complete trial with the highest score, the earliest of equals.

        Raises:
            ConfigError: none is complete.
        """
        if not self.complete:
            raise ConfigError("No trial of the study is complete.", mend="Allow more trials, or do not prune.")
        return max(self.complete, key=lambda trial: trial.score)

    def history(self) -> list[float]:
        """The best score so far, after each trial; NaN before the first complete one."""
        best, so_far = [], math.nan
        for trial in self.trials:
            if trial.state == "complete" and not so_far >= trial.score:
                so_far = trial.score
            best.append(so_far)
        return best

    def shrunken_best(self) -> float | None:
        """The best trial's score pulled towards the mean of the complete ones (see ``shrunken_scores``).

        ``None`` with fewer than two complete trials or seeds.
        """
        returns = torch.tensor([trial.returns for trial in self.complete], dtype=torch.float64)
        if returns.ndim != 2 or min(returns.shape) < 2:
            return None
        return float(shrunken_scores(returns)[self.complete.index(self.best)])


@dataclass(frozen=True)
class Reassessment:
    """The best trial and the default settings, run again on seeds that no trial has seen."""

    tuned_score: float
    """What the study said of the best trial."""
    summaries: list[AlgorithmSummary]
    """Of ``default`` and ``tuned``, with intervals."""
    verdict: Verdict
    """``tuned`` only if its whole interval lies above that of ``default``."""
    runs: dict[str, list[dict[str, float]]]
    """Of each: ``last``, ``best``, ``steps`` and ``seconds`` of every fresh seed."""

    @property
    def overestimate(self) -> float:
        """The tuned score minus what the same settings earn on fresh seeds."""
        by_name = {summary.algorithm: summary for summary in self.summaries}
        return self.tuned_score - by_name["tuned"].last.estimate
