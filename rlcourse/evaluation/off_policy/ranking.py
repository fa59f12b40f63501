"""Putting policies in order: how good an order was, and what is lost by trying only the first few."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

from rlcourse.errors import ConfigError, ShapeError
from rlcourse.evaluation.statistics import Array


def rank_correlation(estimates: npt.ArrayLike, truths: npt.ArrayLike) -> float:
    """Spearman's: 1 if the estimates put the policies in their true order, -1 if in the reverse.

    Worked number: estimates (1, 2, 3) of truths (10, 30, 20) give 0.5.
    """
    a, b = _pairs(estimates, truths)
    if np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        raise ConfigError("Equal values have no order.", mend="Compare policies that differ.")
    return float(stats.spearmanr(a, b).statistic)


def regret_at_k(estimates: npt.ArrayLike, truths: npt.ArrayLike, k: int) -> float:
    """What is lost by trying only the ``k`` policies that look best: the best true value less the best among those.

    Worked number: estimates (3, 2, 1) of truths (10, 30, 20): 20 at k = 1, nothing at k = 2.
    """
    a, b = _pairs(estimates, truths)
    if not 1 <= k <= len(a):
        raise ConfigError(f"k is {k} of {len(a)} policies.", mend="Use 1 up to the number of policies.")
    chosen = np.argsort(-a, kind="stable")[:k]
    return float(b.max() - b[chosen].max())


def expected_regrets(ranked: npt.ArrayLike) -> tuple[float, ...]:
    """What is lost on average by trying only the first k of several policies, for each k: regret at k without the truths.

    Each resample stands in for the truths: the best value in it less the best among the first k. The mean over the resamples
    knows what the resamples know, which is the luck of the draw and no bias.

    Args:
        ranked: ``(M, B)`` values of M policies in B resamples of the same episodes, in the order in which they would be tried.

    Returns:
        M numbers, for k = 1 to M; none rises, and the last is 0.

    Raises:
        ShapeError: no finite ``(M, B)`` array.

    Worked number: (3, 1) before (2, 2): the first is best in one resample and 1 short in the other, so 0.5 at k = 1.
    """
    values = np.asarray(ranked, dtype=np.float64)
    if values.ndim != 2 or values.size == 0 or not np.isfinite(values).all():
        raise ShapeError(
            f"Values of shape {values.shape}, or some that are no number.",
            mend="Give a finite number for each policy and resample: (M, B).",
        )
    reached = np.maximum.accumulate(values, axis=0)
    return tuple(float(lost) for lost in (reached[-1] - reached).mean(-1))


def _pairs(estimates: npt.ArrayLike, truths: npt.ArrayLike) -> tuple[Array, Array]:
    a, b = (np.asarray(values, dtype=np.float64).reshape(-1) for values in (estimates, truths))
    if len(a) != len(b) or len(a) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ShapeError(
            f"{len(a)} estimates of {len(b)} true values.",
            mend="Give two or more finite numbers of each, in one order.",
        )
    return a, b
