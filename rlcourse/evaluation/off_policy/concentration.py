r"""Bounds that hold for *any* distribution: for which estimators there are some, and what has to be known beforehand.

Hoeffding's inequality and the empirical Bernstein bound are about the mean of independent numbers from a known range. What an
episode adds to an estimate is a product of rewards and ratios, so its range follows from that of the rewards, the largest
ratio of one step and the number of steps. None of these can be read off a log: the largest that was seen is not the largest
there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlcourse.errors import ConfigError
from rlcourse.evaluation.off_policy.estimators import RatioStatistic, Statistic
from rlcourse.evaluation.off_policy.intervals import empirical_bernstein_interval, hoeffding_interval
from rlcourse.evaluation.off_policy.trajectories import Trajectories
from rlcourse.evaluation.statistics import Interval
from rlcourse.objectives.importance import step_ratios

ROUNDING = 1e-5
"""Logs hold float32, so that a probability of 0.1 may come out a little smaller than it is."""
LARGEST_EXPONENT = 600.0
"""e to the 709 is the largest double, and sums need some room."""

_NORMALISED = "it is a ratio of two means, since it divides by the sum of the weights; the bounds are about one mean."
_MODEL = "it is a model, and no number of episodes bounds how wrong its form is."
_SOLVED = "its weights were solved from the episodes that they weigh, so that its terms are not independent."
_NO_BOUND = {
    "wis": _NORMALISED,
    "wpdis": _NORMALISED,
    "wdr": _NORMALISED,
    "fqe": _MODEL,
    "linear": _MODEL,
    "task": _MODEL,
    "mis": _SOLVED,
    "mdr": _SOLVED,
}


@dataclass(frozen=True)
class Limits:
    """What is known of the task and the logger before anybody looks at the log."""

    low: float
    """No step pays less."""
    high: float
    """No step pays more."""
    largest_ratio: float | None = None
    """No step has a larger ratio of the two policies' probabilities. Where nothing better is known: 1 over the smallest
    probability with which the logger does anything; epsilon over the number of actions, if it is epsilon-greedy."""
    steps: int | None = None
    """No episode is longer. ``None`` takes the log's longest if one was cut off there or all are equally long."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"Rewards from {self.low} to {self.high}.", mend="Give the lower number first.")
        if self.largest_ratio is not None and not 1.0 <= self.largest_ratio < math.inf:
            raise ConfigError(
                f"The largest ratio is {self.largest_ratio}.", mend="Ratios have mean 1, so that it is 1 or more."
            )
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"Episodes of {self.steps} steps.", mend="Use 1 or more.")


@dataclass(frozen=True)
class Bounds:
    """Intervals that need no bootstrap and no normal distribution."""

    hoeffding: Interval | None = None
    bernstein: Interval | None = None
    reason: str = ""
    """Why one is missing, or why they say nothing."""


def bounds(
    name: str,
    log: Trajectories,
    statistic: Statistic,
    limits: Limits | None,
    *,
    folds: int = 1,
    confidence: float = 0.95,
) -> Bounds:
    r"""Bounds for one estimator, cut to what episodes can pay at all, or the reason why there are none.

    ``dr`` is corrected by models of the other parts of the log. Given its model, each part is a mean of independent terms, but
    the K parts depend on each other. Hölder's inequality puts their moment generating functions together, and Hoeffding's
    bound becomes :math:`\sqrt K` times as wide: as if there were N / K episodes. (The models' values are cut to what the
    *logged* rewards allow, the one thing that they know of the part that they judge.)

    Args:
        name: of the estimator.
        log: what it was made from.
        statistic: the estimator.
        limits: what is known beforehand; ``None`` if nothing is.
        folds: K, parts of the log for ``dr``.
        confidence: of each bound by itself.

    Raises:
        ConfigError: the log goes beyond the limits.
    """
    steps, problem = _known(name, log, limits, folds)
    if problem or limits is None or limits.largest_ratio is None:
        return Bounds(reason=problem)
    assert isinstance(statistic, RatioStatistic)  # is, pdis and dr are means over episodes
    terms = statistic.numerator[:, 0].numpy()
    least, most = _possible(log.gamma, limits, steps)
    cut_off = log.terminated is not None and not bool(log.terminated.all())
    low, high = term_range(name, log.gamma, limits, steps, cut_off=cut_off)
    slack = ROUNDING * steps * (high - low)
    span = low - slack, high + slack

    def cut(interval: Interval, wider: float = 1.0) -> Interval:
        ends = (interval.estimate + wider * (end - interval.estimate) for end in (interval.low, interval.high))
        return Interval(interval.estimate, *(min(max(end, least), most) for end in ends))

    hoeffding = cut(hoeffding_interval(terms, *span, confidence=confidence), math.sqrt(folds) if name == "dr" else 1.0)
    bernstein, reason = None, "Bernstein's needs terms that are all independent; the models of dr link its parts."
    if name != "dr":
        bernstein, reason = cut(empirical_bernstein_interval(terms, *span, confidence=confidence)), ""
    narrowest = min(one.high - one.low for one in (hoeffding, bernstein) if one is not None)
    if narrowest >= most - least:
        reason = (
            f"they say nothing: episodes can pay from {least:g} to {most:g}, and one may add {low:.3g} to {high:.3g}."
        )
    return Bounds(hoeffding, bernstein, reason)


def _known(name: str, log: Trajectories, limits: Limits | None, folds: int) -> tuple[int, str]:
    # How long episodes can be, and what stands in the way of a bound.
    steps = 0
    if name in _NO_BOUND:
        return steps, _NO_BOUND[name]
    if limits is None:
        return steps, "the range of the rewards was not given."
    if log.propensities == "estimated":
        return steps, "the propensities were guessed, and it would be a bound on the guess."
    if limits.largest_ratio is None:
        return steps, "the largest ratio of one step was not given."
    steps = _longest(log, limits)
    if not steps:
        return steps, "nobody said how long an episode can be, and none was cut off."
    _inside(log, limits)
    if log.num_episodes < 2:
        return steps, "one episode has no variance."
    if steps * math.log(limits.largest_ratio) > LARGEST_EXPONENT:
        return steps, f"the product of {steps} ratios of {limits.largest_ratio:g} is too large to be a number."
    if name == "dr" and folds < 2:
        return steps, "its model has seen the episodes that it is corrected by."
    return steps, ""


def _longest(log: Trajectories, limits: Limits) -> int:
    if limits.steps is not None:
        if log.horizon > limits.steps:
            raise ConfigError(
                f"An episode has {log.horizon} steps, and {limits.steps} were said to be the most.",
                mend="Give the number that the task is bound to.",
            )
        return limits.steps
    lengths = log.mask.sum(-1)
    cut_off = log.terminated is not None and bool((~log.terminated & (lengths == log.horizon)).any())
    return log.horizon if cut_off or bool((lengths == log.horizon).all()) else 0


def _inside(log: Trajectories, limits: Limits) -> None:
    there = log.mask > 0
    paid = log.reward[there]
    slack = ROUNDING * max(abs(limits.low), abs(limits.high))
    if float(paid.min()) < limits.low - slack or float(paid.max()) > limits.high + slack:
        raise ConfigError(
            f"Rewards from {float(paid.min()):g} to {float(paid.max()):g} are outside [{limits.low:g}, {limits.high:g}].",
            mend="Give the range that the rewards are bound to by the task, not one that looks right.",
        )
    largest = float(step_ratios(log.target, log.behaviour, log.mask)[there].max())
    if limits.largest_ratio is not None and largest > limits.largest_ratio * (1.0 + ROUNDING):
        raise ConfigError(
            f"A step has the ratio {largest:g}, and {limits.largest_ratio:g} was said to be the largest.",
            mend="Give the largest that the two policies allow: 1 over the logger's smallest probability is enough.",
        )


def _possible(gamma: float, limits: Limits, steps: int) -> tuple[float, float]:
    # What an episode of 1 to `steps` steps can pay.
    longest = sum(gamma**t for t in range(steps))
    return min(limits.low, limits.low * longest), max(limits.high, limits.high * longest)


def term_range(name: str, gamma: float, limits: Limits, steps: int, *, cut_off: bool = False) -> tuple[float, float]:
    r"""The least and the most that one episode can add to the mean which ``is``, ``pdis`` or ``dr`` is.

    Weights may be 0 and episodes shorter than ``steps``. Each part of ``dr`` is at its worst by itself, backwards from the end,
    where nothing is left: :math:`X_t = V + \rho\,(r + \gamma X_{t+1} - Q)`, with values as far out as
    :func:`~rlcourse.evaluation.off_policy.models.possible_values` lets them be. Where episodes were cut off, another such
    value has been taken off them (:meth:`~rlcourse.evaluation.off_policy.models.ModelValues.until_the_cut`).

    Worked number: 3 steps that pay 0 to 1, ratios up to 2, gamma 1. ``is``: 2^3 * 3 = 24 at most. ``pdis``: 2 + 4 + 8 = 14.
    ``dr``: from -42 to 35.
    """
    c = limits.largest_ratio or 1.0
    low, high = min(limits.low, 0.0), max(limits.high, 0.0)
    if name == "is":
        most = c**steps * sum(gamma**t for t in range(steps))
    elif name == "pdis":
        most = sum(gamma**t * c ** (t + 1) for t in range(steps))
    else:
        worth = float(steps) if gamma == 1.0 else 1.0 / (1.0 - gamma)
        lowest, highest = worth * low, worth * high
        if cut_off:
            lowest, highest = lowest - highest, highest - lowest
        least, best = 0.0, 0.0
        for _ in range(steps):
            down, up = low + gamma * least - highest, high + gamma * best - lowest
            least, best = lowest + c * min(0.0, down), highest + c * max(0.0, up)
        return least, best
    return low * most, high * most
