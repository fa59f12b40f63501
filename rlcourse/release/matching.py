r"""Two arms of a live release compared fairly: day by day, and with what the weather explains taken out first.

**Matched by day.** While the canary's share grows, most of its episodes are late ones and most of the incumbent's early
ones. If the days grow hotter, a plain difference of means blames the candidate for the heat (Simpson's paradox; Kohavi,
Tang and Xu 2020, chapter 3). So the arms are compared within each day, and the days are averaged with the weights that make
the average most precise:

.. math:: \hat\delta = \frac{\sum_d w_d\,(\bar c_d - \bar i_d)}{\sum_d w_d}, \qquad
          w_d = \Big(\frac{s_c^2}{n_{c,d}} + \frac{s_i^2}{n_{i,d}}\Big)^{-1}, \qquad \text{information} = \sum_d w_d

**Control variates** (CUPED: Deng, Xu, Kohavi and Walker 2013). Most of what an episode costs was settled by things that no
policy touches: outdoor temperature, load, the state in which the day began. What the incumbent *usually* earns under such
conditions is learnt from its old log, once, before the release, and subtracted from every return of both arms. The
difference of the arms keeps its mean, whatever the prediction is worth, because the conditions do not depend on the arm; it
only varies less. Conditions that the policy can change (an average of the inlet temperature, say) must never be used: they
would take a part of the effect with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rlcourse.errors import ConfigError, ShapeError

Array = npt.NDArray[np.float64]
INCUMBENT, CANDIDATE = 0, 1


@dataclass(frozen=True)
class ControlVariates:
    """What the incumbent usually earns under given conditions: a line fitted to its old log."""

    coefficients: Array  # (K,)
    sd: float  # of what the line leaves unexplained
    explained: float  # share of the variance that it explains, R squared

    @staticmethod
    def fit(conditions: npt.ArrayLike, returns: npt.ArrayLike) -> ControlVariates:
        """Least squares.

        Args:
            conditions: ``(E, K)``, a column of ones among them, nothing that the policy can change.
            returns: ``(E,)`` of the incumbent, before the release.

        Raises:
            ShapeError: fewer than ten episodes to a column, or lengths that differ.
        """
        x, y = np.asarray(conditions, dtype=np.float64), np.asarray(returns, dtype=np.float64)
        if x.ndim != 2 or y.shape != x.shape[:1] or len(y) < 10 * x.shape[1]:
            raise ShapeError(
                f"Conditions of shape {x.shape} for returns of shape {y.shape}.",
                mend="Give one row of conditions for each return, and ten rows or more for each column.",
            )
        coefficients: Array = np.linalg.lstsq(x, y, rcond=None)[0].astype(np.float64)
        left = y - x @ coefficients
        sd = float(np.sqrt((left**2).sum() / (len(y) - x.shape[1])))
        return ControlVariates(coefficients, sd, float(1.0 - left.var() / y.var()) if y.var() > 0.0 else 0.0)

    def adjust(self, returns: npt.ArrayLike, conditions: npt.ArrayLike) -> Array:
        """``(E,)`` returns less what the incumbent usually earns under the same ``(E, K)`` conditions."""
        adjusted: Array = np.asarray(returns, dtype=np.float64) - np.asarray(conditions) @ self.coefficients
        return adjusted


class Tally(NamedTuple):
    """Everything the comparison needs to remember of the episodes of ``D`` days; axes ``(..., D, 2)``, the incumbent first."""

    episodes: Array
    total: Array
    squares: Array

    @staticmethod
    def of(day: npt.ArrayLike, arm: npt.ArrayLike, returns: npt.ArrayLike) -> Tally:
        """From ``(E,)`` days from 0 on, arms (0 the incumbent's, 1 the candidate's) and returns."""
        days, arms, x = np.asarray(day, np.int64), np.asarray(arm, np.int64), np.asarray(returns, np.float64)
        if not days.shape == arms.shape == x.shape or x.ndim != 1 or ((arms != 0) & (arms != 1)).any():
            raise ShapeError("Days, arms and returns do not fit together.", mend="Give three (E,) arrays, arms 0 or 1.")
        cell, size = 2 * days + arms, 2 * (int(days.max()) + 1 if len(days) else 0)
        sums = [np.bincount(cell, weights, size).astype(float).reshape(-1, 2) for weights in (np.ones_like(x), x, x**2)]
        return Tally(sums[0], sums[1], sums[2])


class Contrast(NamedTuple):
    """Candidate less incumbent, ``(...)`` each."""

    estimate: Array  # 0 where nothing is known
    information: Array  # one over the variance of the estimate
    episodes: Array  # of the candidate, on days when the incumbent ran too


@dataclass(frozen=True)
class Variation:
    """How much adjusted returns are expected to vary, before the release has shown it."""

    incumbent: float
    """Standard deviation, from the old log."""
    candidate: float
    """Nobody knows it yet; twice the incumbent's is a cautious guess."""
    worth: float = 10.0
    """So many degrees of freedom the guesses are worth beside what is seen; raising it trusts them longer."""
    rooms: float | None = None
    """``None``: every episode has drawn its side for itself, as where a session is named after its room *and* its day. A
    number: the same rooms come every day, and this is the deviation by which they differ for good, their own past taken out
    (:mod:`rlcourse.release.rooms`); the other two are then of the days of one room."""

    def __post_init__(self) -> None:
        if min(self.incumbent, self.candidate) <= 0.0 or self.worth < 0.0 or not (self.rooms or 0.0) >= 0.0:
            raise ConfigError(
                "A deviation of 0 or less.", mend="Use the deviation of the incumbent's adjusted returns."
            )


def matched(tally: Tally, variation: Variation) -> Contrast:
    r"""The two arms compared within days, the days weighed by their precision.

    That adds the days' information up, which is right where each has drawn its rooms anew. Where the same rooms came every
    day (``variation.rooms``) and only sums by day are known, nobody knows what the days have in common. Then the information
    is the least that it can be, :math:`(\sum w_d)^2 / (\sum \sqrt{w_d})^2` (Cauchy and Schwarz): about that of one day. Sums
    by room tell more: :func:`rlcourse.release.rooms.matched_rooms`.

    Worked number: both deviations known to be 2 (``worth`` without bound), day 1: mean 10 of 4 against mean 8 of 4; day 2:
    mean 13 of 12 against mean 12 of 4. Weights 1/(1 + 1) = 0.5 and 1/(1/3 + 1) = 0.75, so (0.5 * 2 + 0.75 * 1)/1.25 = 1.4.
    """
    n = np.maximum(tally.episodes, 1.0)
    mean = tally.total / n
    within = np.maximum(tally.squares - tally.total * mean, 0.0).sum(axis=-2)  # (..., 2)
    freedom = np.maximum(tally.episodes - 1.0, 0.0).sum(axis=-2)
    guess = np.array([variation.incumbent, variation.candidate]) ** 2
    variance = (within + variation.worth * guess) / np.maximum(freedom + variation.worth, 1e-9)
    both = (tally.episodes > 0.0).all(axis=-1)  # (..., D)
    precision = np.where(both, 1.0 / (variance[..., None, :] / n).sum(axis=-1), 0.0)
    summed = precision.sum(axis=-1)
    difference = mean[..., CANDIDATE] - mean[..., INCUMBENT]
    estimate = (precision * difference).sum(axis=-1) / np.where(summed > 0.0, summed, 1.0)
    information = summed
    if variation.rooms is not None:
        information = (summed / np.where(summed > 0.0, np.sqrt(precision).sum(axis=-1), 1.0)) ** 2
    return Contrast(estimate, information, (tally.episodes[..., CANDIDATE] * both).sum(axis=-1))
