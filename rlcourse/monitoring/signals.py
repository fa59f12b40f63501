r"""From decisions, rewards and episodes to the numbers of the catalogue: the equations, without any state.

What is delayed makes the trap. An episode that failed is over early, one that goes well is still running::

    started      now
    a ├──────────────── ... still running, return so far 40          mean of those that ended: 3
    b ├──x  ended, return 2                                          mean of all at the same age: see
    c   ├────x  ended, return 4                                      rlcourse.monitoring.streams

To average what has ended is to average the failures (or, where failures go silent, the successes): survivorship bias.
:func:`cumulative_incidence` treats an unfinished episode as censored: it says "not yet", and it counts until its age.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from rlcourse.errors import ConfigError, DatasetInvalidError, ShapeError
from rlcourse.evaluation.statistics import Interval

Array = npt.NDArray[np.float64]
SUCCESS, FAILURE, CENSORED = 1, 0, -1


def finite(values: npt.ArrayLike, name: str) -> Array:
    """``values`` as float64, at least one of them and all of them numbers.

    Raises:
        DatasetInvalidError: there are none, or some are NaN or infinite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise DatasetInvalidError(f"There are no {name}.", mend="Wait until the window holds some, or widen it.")
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise DatasetInvalidError(
            f"{count} of {array.size} {name} are NaN or infinite.",
            mend="Find out which sensor or which join they come from; count them, and do not fill them in.",
        )
    return array


def mean_interval(values: npt.ArrayLike, *, confidence: float = 0.95) -> Interval:
    """The mean of independent ``(E,)`` values with Student's interval; a single value knows nothing of its spread.

    Worked number: (1, 2, 3, 4, 5) at 95 %: 3, give or take 2.776 * 0.707 = 1.963.
    """
    _shares(confidence)
    sample = finite(values, "values").reshape(-1)
    mean = float(sample.mean())
    if sample.size < 2:
        return Interval(mean, -math.inf, math.inf)
    half = float(stats.t.ppf(0.5 + confidence / 2.0, sample.size - 1) * stats.sem(sample))
    return Interval(mean, mean - half, mean + half)


def entropy_nats(probabilities: npt.ArrayLike) -> Array:
    r"""How undecided a policy is: :math:`-\sum_a \pi(a) \ln \pi(a)` over the last axis. Shannon (1948).

    Args:
        probabilities: ``(..., A)``; each row adds up to 1.

    Returns:
        ``(...)``, from 0 (certain) to :math:`\ln A` (uniform).

    Raises:
        DatasetInvalidError: none, NaN, negative, or rows that add up to something else.

    Worked number: (1/2, 1/4, 1/4) has 1.5 bits, which are 1.040 nats.
    """
    rows = finite(probabilities, "probabilities")
    if rows.min() < 0.0 or not np.allclose(rows.sum(-1), 1.0, atol=1e-4):
        raise DatasetInvalidError(
            "Some rows are no probabilities.", mend="Give the softmax of the logits, not the logits themselves."
        )
    entropy: Array = np.asarray(special.entr(rows).sum(-1), dtype=np.float64)
    return entropy


def cost_per_hour(costs: npt.ArrayLike, hours: npt.ArrayLike) -> float:
    """Money over time, both summed first: a ratio of sums, not a mean of ratios.

    Args:
        costs: ``(S,)`` euros.
        hours: ``(S,)`` that each was spent over, or one number for all.

    Raises:
        DatasetInvalidError: none, or NaN.
        ConfigError: no time has passed.

    Worked number: 6 euros in 2 hours and 1 euro in half an hour are 7 / 2.5 = 2.80 an hour (not (3 + 2) / 2 = 2.50).
    """
    money, time = finite(costs, "costs"), finite(hours, "hours")
    total = float(np.broadcast_to(time, money.shape).sum())
    if total <= 0.0 or time.min() < 0.0:
        raise ConfigError(f"The costs were spent in {total:g} hours.", mend="Give the time between two decisions.")
    return float(money.sum()) / total


def return_on_investment(
    costs: npt.ArrayLike, baseline_costs: npt.ArrayLike, *, paired: bool, confidence: float = 0.95
) -> Interval:
    r"""Which share of the safe baseline's cost a policy saves: :math:`1 - \bar c / \bar b`, with Fieller's interval (1954).

    The interval holds every ratio :math:`\rho` for which :math:`\bar c - \rho\,\bar b` is not significantly different
    from 0; to divide by a mean that is itself a guess widens it on one side more than on the other.

    Args:
        costs: ``(E,)`` euros, of independent episodes (days) under the policy.
        baseline_costs: ``(F,)`` euros under the baseline.
        paired: the two met the same days in the same order (a simulated baseline, or two rooms under one roof). What
            makes a day dear for both then cancels.
        confidence: in (0, 1).

    Returns:
        0.1 is a tenth saved, below 0 the policy costs more than it replaces.

    Raises:
        DatasetInvalidError: fewer than two episodes, NaN, or a baseline whose cost cannot be told from 0.
        ShapeError: pairs that are none.

    Worked number: costs (8, 9, 10) against 10 on each day, paired: 0.10, from -0.148 to 0.348, since
    1 / sqrt(3) * 4.303 / 10 = 0.248.
    """
    _shares(confidence)
    ours, theirs = finite(costs, "costs").reshape(-1), finite(baseline_costs, "baseline costs").reshape(-1)
    if paired and ours.size != theirs.size:
        raise ShapeError(
            f"{ours.size} costs are paired with {theirs.size} of the baseline.",
            mend="Give one of each for every day, or set paired=False.",
        )
    if min(ours.size, theirs.size) < 2:
        raise DatasetInvalidError("One episode has no variance.", mend="Wait for the second.")
    var_c, var_b = ours.var(ddof=1) / ours.size, theirs.var(ddof=1) / theirs.size
    cov = float(np.cov(ours, theirs)[0, 1]) / ours.size if paired else 0.0
    freedom = ours.size - 1 if paired else min(ours.size, theirs.size) - 1  # the cautious one of the two
    t2 = float(stats.t.ppf(0.5 + confidence / 2.0, freedom)) ** 2
    c, b = float(ours.mean()), float(theirs.mean())
    # (c - rho b)^2 <= t^2 (var_c - 2 rho cov + rho^2 var_b), a quadratic in rho.
    square, linear, constant = b * b - t2 * var_b, b * c - t2 * cov, c * c - t2 * var_c
    if b <= 0.0 or square <= 0.0:
        raise DatasetInvalidError(
            "The baseline's mean cost cannot be told from 0.", mend="Collect more of its days; a ratio needs a base."
        )
    root = math.sqrt(max(0.0, linear * linear - square * constant))
    return Interval(1.0 - c / b, float(1.0 - (linear + root) / square), float(1.0 - (linear - root) / square))


def steps_to_threshold(steps: Sequence[int], returns: Sequence[float], threshold: float, *, in_a_row: int = 1) -> float:
    """Sample efficiency: environment steps until the evaluation reached ``threshold``; infinity if it did not.

    Args:
        steps: ``(P,)`` at which it was evaluated, rising.
        returns: ``(P,)`` what the evaluations gave. NaN reaches nothing.
        threshold: the wanted return.
        in_a_row: so many evaluations must reach it one after the other; the first of them counts. One lucky evaluation
            is no proof.

    Raises:
        ShapeError: not one return for every step.
        ConfigError: steps that do not rise, or ``in_a_row`` below 1.

    Worked number: 100, 480, 300, 490, 500 after 1 to 5 thousand steps reach 475 at 2000; twice in a row at 4000.
    """
    if len(steps) != len(returns):
        raise ShapeError(f"{len(returns)} returns for {len(steps)} steps.", mend="Give one of each.")
    if in_a_row < 1 or any(a >= b for a, b in pairwise(steps)):
        raise ConfigError("The steps do not rise, or in_a_row is below 1.", mend="Sort the evaluations by step.")
    streak = 0
    for place, value in enumerate(returns):
        streak = streak + 1 if value >= threshold else 0
        if streak == in_a_row:
            return float(steps[place - in_a_row + 1])
    return math.inf


def cumulative_incidence(ages: npt.ArrayLike, outcomes: npt.ArrayLike, horizon: float) -> float:
    r"""The share of episodes that have succeeded by age ``horizon``, although some are not that old yet.

    The estimator of Aalen and Johansen (1978): at each age :math:`a`, of the :math:`n_a` episodes that were still
    running, the share :math:`d_a / n_a` succeeded; weighted with the share :math:`S_a` that had come so far,

    .. math:: \hat F = \sum_{a \le h} S_a \frac{d_a}{n_a}, \qquad S_{a'} = S_a \left(1 - \frac{d_a + f_a}{n_a}\right)

    with :math:`f_a` failures. An episode that is still running counts among :math:`n_a` until its age, and then leaves
    without an outcome. That holds if when we look has nothing to do with how it goes.

    Args:
        ages: ``(E,)`` at which each ended, or which it has reached.
        outcomes: ``(E,)`` of :data:`SUCCESS`, :data:`FAILURE`, :data:`CENSORED`.
        horizon: an age, in the unit of ``ages``.

    Raises:
        DatasetInvalidError: no episodes, NaN, or other outcomes.
        ShapeError: not one outcome for each age.

    Worked number: failures at ages 1 and 2, a success at 4, and two still running at ages 3 and 3. Of those that ended
    1/3 succeeded; of five that came to age 3, three went on, so the estimate is 3/5.
    """
    age, outcome = finite(ages, "ages").reshape(-1), np.asarray(outcomes).reshape(-1)
    if age.shape != outcome.shape:
        raise ShapeError(f"{outcome.size} outcomes for {age.size} ages.", mend="Give one of each for every episode.")
    if not np.isin(outcome, (SUCCESS, FAILURE, CENSORED)).all():
        raise DatasetInvalidError("An outcome is none of 1, 0, -1.", mend="Use SUCCESS, FAILURE and CENSORED.")
    running, share = 1.0, 0.0
    for when in np.unique(age[(outcome != CENSORED) & (age <= horizon)]):
        at_risk = int((age >= when).sum())
        now = age == when
        share += running * int((now & (outcome == SUCCESS)).sum()) / at_risk
        running *= 1.0 - int((now & (outcome != CENSORED)).sum()) / at_risk
    return share


def _shares(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"The confidence is {confidence}.", mend="Use a share between 0 and 1, for example 0.95.")
