"""Comparing noisy runs honestly: interquartile means, bootstrap intervals, probability of improvement, profiles.

Definitions follow Agarwal, Schwarzer, Castro, Courville and Bellemare (2021), "Deep reinforcement learning at the edge
of the statistical precipice", and their library rliable. Scores come as a matrix ``(R, M)``: ``R`` runs (seeds) of
each of ``M`` tasks (here: data sets). A single task is ``(R, 1)`` or plainly ``(R,)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from rlcourse.errors import ConfigError, DatasetInvalidError, ShapeError

Array = npt.NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""``(..., K)`` scores to ``(...)``: reduces the last axis."""


@dataclass(frozen=True)
class Interval:
    """A point estimate with the interval that goes with it."""

    estimate: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """``f"{interval:.2f}"`` applies ``.2f`` to all three numbers; one digit after the point by default."""
        spec = spec or ".1f"
        return f"{self.estimate:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def __str__(self) -> str:
        return format(self)


def interquartile_mean(scores: Array) -> Array:
    """The mean of the middle half of the last axis: steadier than the mean, less wasteful than the median.

    Agarwal et al. (2021), section 4.3; a 25 % trimmed mean.

    Args:
        scores: ``(..., K)``.

    Returns:
        ``(...)``.

    Worked number: the scores (0, 1, 2, 3, 4, 5, 6, 100) give 3.5: two are cut at either end.
    """
    trimmed: Array = np.asarray(stats.trim_mean(scores, 0.25, axis=-1), dtype=np.float64)
    return trimmed


def bootstrap_interval(
    scores: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    statistic: Statistic = interquartile_mean,
    confidence: float = 0.95,
    resamples: int = 2_000,
) -> Interval:
    """A percentile interval from resampling the runs of each task separately (stratified).

    Args:
        scores: ``(R,)`` or ``(R, M)``.
        rng: where the resamples come from.
        statistic: reduces the pooled scores of all tasks.
        confidence: share of resamples inside the interval, in (0, 1).
        resamples: how many.

    Raises:
        ShapeError: not one or two axes, or no scores.
        ConfigError: scores that are not finite, or a confidence outside (0, 1).

    With ``R`` runs the interval can never leave their range: five seeds make a rough interval, and it is honest to
    say so.
    """
    matrix = _matrix(scores)
    percentiles = _percentiles(confidence)
    runs, tasks = matrix.shape
    drawn = rng.integers(runs, size=(resamples, runs, tasks))
    resampled = matrix[drawn, np.arange(tasks)].reshape(resamples, -1)
    low, high = np.percentile(statistic(resampled), percentiles)
    return Interval(float(statistic(matrix.reshape(-1))), float(low), float(high))


def probability_of_improvement(
    ours: npt.ArrayLike,
    theirs: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2_000,
) -> Interval:
    """How likely a run of ours beats a run of theirs, ties counting half; averaged over tasks.

    The Mann-Whitney U statistic divided by the number of pairs; Agarwal et al. (2021), section 4.3.

    Args:
        ours: ``(R,)`` or ``(R, M)``.
        theirs: ``(S,)`` or ``(S, M)`` over the same tasks.

    Worked number: (1, 2, 3) against (2, 2, 0): 9 pairs, 5 wins and 2 ties, so 6/9 = 0.667.
    """
    a, b = _matrix(ours), _matrix(theirs)
    percentiles = _percentiles(confidence)
    if a.shape[1] != b.shape[1]:
        raise ShapeError(
            f"The scores cover {a.shape[1]} and {b.shape[1]} tasks.", mend="Compare both on the same tasks."
        )
    drawn_a = rng.integers(a.shape[0], size=(resamples, *a.shape))
    drawn_b = rng.integers(b.shape[0], size=(resamples, *b.shape))
    columns = np.arange(a.shape[1])
    resampled = _win_rate(a[drawn_a, columns], b[drawn_b, columns])
    low, high = np.percentile(resampled, percentiles)
    return Interval(float(_win_rate(a, b)), float(low), float(high))


@dataclass(frozen=True)
class Profile:
    """Which share of runs scores above what: the whole distribution instead of one number."""

    thresholds: Array  # (K,)
    share: Array  # (K,) of runs above each, never rising
    low: Array  # (K,)
    high: Array  # (K,)


def performance_profile(
    scores: npt.ArrayLike,
    thresholds: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2_000,
) -> Profile:
    """The share of runs with a score above each threshold, tasks weighing alike, with bootstrap bands.

    The score distribution of Agarwal et al. (2021), section 4.2. A curve that lies above another everywhere belongs to the
    better method at every demand; the area under it is the mean.

    Args:
        scores: ``(R,)`` or ``(R, M)``.
        thresholds: ``(K,)``.
        rng: where the resamples come from.
        confidence: of the band at each threshold by itself.
        resamples: how many.

    Worked number: of the scores (1, 2, 3, 4), 0.5 lie above 2 and 0.25 above 3.5.
    """
    matrix = _matrix(scores)
    percentiles = _percentiles(confidence)
    levels = np.asarray(thresholds, dtype=np.float64).reshape(-1)
    runs, tasks = matrix.shape
    drawn = rng.integers(runs, size=(resamples, runs, tasks))
    pooled = np.sort(matrix[drawn, np.arange(tasks)].reshape(resamples, -1), axis=-1)
    # Sorted, the number above a threshold is a place in the row.
    above = np.stack([1.0 - np.searchsorted(row, levels, side="right") / row.size for row in pooled])
    low, high = np.percentile(above, percentiles, axis=0)
    share = (matrix.reshape(-1, 1) > levels).mean(axis=0)
    return Profile(levels, share, low, high)


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    r"""A share with the interval that stays within [0, 1] and keeps a width at 0 and 1. Wilson (1927).

    .. math:: \frac{\hat p + z^2/2n \pm z\sqrt{\hat p(1-\hat p)/n + z^2/4n^2}}{1 + z^2/n}

    The trials must be independent: episodes are, the steps of one episode are not.

    Raises:
        DatasetInvalidError: no trials.
        ConfigError: more successes than trials, or a confidence outside (0, 1).

    Worked number: 8 of 10 at 95 %: 0.8, from 0.490 to 0.943.
    """
    _percentiles(confidence)  # checks it
    if trials == 0:
        raise DatasetInvalidError("There are no episodes.", mend="Wait until the window holds some, or widen it.")
    if not 0 <= successes <= trials:
        raise ConfigError(f"{successes} successes in {trials} trials.", mend="Count each episode once.")
    share, z = successes / trials, float(special.ndtri(0.5 + confidence / 2.0))
    shrink = 1.0 + z * z / trials
    centre = (share + z * z / (2.0 * trials)) / shrink
    half = z * math.sqrt(share * (1.0 - share) / trials + (z / (2.0 * trials)) ** 2) / shrink
    # At 0 and at 1 the two terms cancel; rounding must not leave a bound just outside.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return Interval(share, low, high)


def _win_rate(a: Array, b: Array) -> Array:
    # (..., R, M) and (..., S, M) to (...): every run of one against every run of the other, task by task.
    difference = a[..., :, None, :] - b[..., None, :, :]
    wins: Array = ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-3, -2, -1))
    return wins


def _percentiles(confidence: float) -> tuple[float, float]:
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"The confidence is {confidence}.", mend="Use a share between 0 and 1, for example 0.95.")
    tail = 50.0 * (1.0 - confidence)
    return tail, 100.0 - tail


def _matrix(scores: npt.ArrayLike) -> Array:
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim == 1:
        matrix = matrix[:, None]
    if matrix.ndim != 2 or matrix.size == 0:
        raise ShapeError(
            f"Scores have shape {np.shape(scores)}.", mend="Give one score per run, (R,), or per run and task, (R, M)."
        )
    if not np.isfinite(matrix).all():
        raise ConfigError("Some scores are not finite.", mend="Leave out no run silently: find out why it failed.")
    return matrix
