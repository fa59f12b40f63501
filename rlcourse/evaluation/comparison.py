"""From runs to a verdict: which algorithm is better, and is that more than luck?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rlcourse.errors import ConfigError
from rlcourse.evaluation.statistics import Array, Interval, bootstrap_interval, probability_of_improvement
from rlcourse.randomness import Seeds


@dataclass(frozen=True)
class AlgorithmSummary:
    """What the runs of one algorithm add up to."""

    algorithm: str
    last: Interval  # interquartile mean of the last greedy returns
    best: Interval  # of the best on the way
    improvement: Interval | None  # probability that one of its runs beats one of the baseline's; None for itself
    n: int  # runs


@dataclass(frozen=True)
class Verdict:
    """Which algorithm to keep."""

    chosen: str
    reason: str
    better_than_baseline: bool


def summarise(
    last: Mapping[str, Array], best: Mapping[str, Array], *, baseline: str, seeds: Seeds
) -> list[AlgorithmSummary]:
    """One line per algorithm, in the order given.

    Args:
        last: per algorithm, the last greedy return of each run, ``(R,)``.
        best: the best greedy return of each run, ``(R,)``.
        baseline: the algorithm that the others are compared with.
        seeds: the bootstrap draws from the stream ``"bootstrap"``; every line from a fresh copy of it.
    """
    if baseline not in last:
        raise ConfigError(f"The baseline {baseline!r} has no runs.", mend=f"Name {baseline} beside the others.")
    return [
        AlgorithmSummary(
            name,
            bootstrap_interval(scores, rng=seeds.numpy("bootstrap")),
            bootstrap_interval(best[name], rng=seeds.numpy("bootstrap")),
            None
            if name == baseline
            else probability_of_improvement(scores, last[baseline], rng=seeds.numpy("bootstrap")),
            len(scores),
        )
        for name, scores in last.items()
    ]


def verdict(summaries: list[AlgorithmSummary], *, baseline: str) -> Verdict:
    """Keep the winner only if its whole interval lies above the baseline's whole interval.

    Two intervals that touch say that the data cannot tell the two apart; then the simpler method stays.
    """
    by_name = {summary.algorithm: summary for summary in summaries}
    winner = max(summaries, key=lambda summary: summary.last.estimate)
    floor = by_name[baseline].last
    if winner.algorithm == baseline:
        return Verdict(baseline, f"{baseline} has the highest interquartile mean, {floor}.", False)
    if winner.last.low > floor.high:
        reason = f"{winner.algorithm} {winner.last} lies above {baseline} {floor}."
        return Verdict(winner.algorithm, reason, True)
    reason = f"{winner.algorithm} {winner.last} is not above {baseline} {floor} beyond the intervals; {baseline} stays."
    return Verdict(baseline, reason, False)


def median_run(scores: Array) -> int:
    """The index of the run in the middle: what the interval promises is what this run gives."""
    return int(np.argsort(scores, kind="stable")[(len(scores) - 1) // 2])
