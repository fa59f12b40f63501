"""Intervals for off-policy estimates: the bootstrap over episodes, and bounds that hold for any distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from rlcourse.errors import ConfigError, DatasetInvalidError
from rlcourse.evaluation.off_policy.estimators import Statistic
from rlcourse.evaluation.statistics import Interval

Array = npt.NDArray[np.float64]
GROUPS = 200
"""Most groups that are left out in turn when the skewness of an estimator is measured."""


@dataclass(frozen=True)
class Resampled:
    """An estimate and what it would have been for other draws of as many episodes."""

    estimate: float
    values: Array  # (B,), the same draws for every statistic that was given the same generator state
    interval: Interval
    endless: bool = False
    """Of a logger's value: whether it counts what would have been earned if nothing had cut episodes off."""

    @property
    def defined(self) -> bool:
        """Every resample had something to say, and they did not all say the same."""
        return bool(np.isfinite(self.values).all()) and float(np.ptp(self.values)) > 0.0


def resample(
    statistic: Statistic, *, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 1_000
) -> Resampled:
    """Draw episodes with replacement, bias-corrected and accelerated (BCa). Efron (1987).

    Whole episodes are drawn, never steps: the steps of an episode share its weight and are anything but independent.

    Args:
        statistic: what to estimate.
        rng: where the draws come from.
        confidence: in (0, 1).
        resamples: B.

    Raises:
        ConfigError: a confidence outside (0, 1), or no resamples.
        DatasetInvalidError: the statistic has no value even for the log as it is: all its weights are 0, perhaps in one step
            alone.

    Where some resamples have no value (all their weights are 0), the interval is everything, from minus to plus infinity.
    """
    if not 0.0 < confidence < 1.0 or resamples < 1:
        raise ConfigError(
            f"Confidence {confidence} from {resamples} resamples.", mend="Use a share such as 0.95 and 1 or more."
        )
    count = statistic.num_episodes
    estimate = float(statistic.value(torch.ones(1, count, dtype=torch.float64)))
    if not math.isfinite(estimate):
        raise DatasetInvalidError(
            "The target policy never does what was logged, at least not up to the last step: all weights are 0 there, or "
            "their sum is too large to be a number.",
            mend="Use mdr, fqe or linear, let it explore (--epsilon), or collect a log with a policy that tries its actions.",
        )
    drawn = rng.multinomial(count, np.full(count, 1.0 / count), size=resamples)
    values = statistic.value(torch.from_numpy(drawn).double()).numpy()
    if not np.isfinite(values).all():
        return Resampled(estimate, values, Interval(estimate, -math.inf, math.inf))
    tail = 0.5 * (1.0 - confidence)
    shares = _bca_shares(statistic, estimate, values, np.array([tail, 1.0 - tail]))
    low, high = np.quantile(values, shares)
    return Resampled(estimate, values, Interval(estimate, float(low), float(high)))


def _bca_shares(statistic: Statistic, estimate: float, values: Array, shares: Array) -> Array:
    below = np.mean(values < estimate) + 0.5 * np.mean(values == estimate)
    if not 0.0 < below < 1.0:
        return shares
    bias = stats.norm.ppf(below)
    count = statistic.num_episodes
    groups = np.array_split(np.arange(count), min(count, GROUPS))
    if len(groups) < 2:
        return shares
    left_out = torch.ones(len(groups), count, dtype=torch.float64)
    for row, group in enumerate(groups):
        left_out[row, torch.from_numpy(group)] = 0.0
    without = statistic.value(left_out).numpy()
    spread = without.mean() - without
    scale = float((spread**2).sum()) ** 1.5
    if not np.isfinite(without).all() or scale == 0.0:
        return shares
    acceleration = float((spread**3).sum()) / (6.0 * scale)
    place = bias + stats.norm.ppf(shares)
    moved: Array = stats.norm.cdf(bias + place / (1.0 - acceleration * place))
    return moved


def hoeffding_interval(values: npt.ArrayLike, low: float, high: float, *, confidence: float = 0.95) -> Interval:
    r"""The mean, give or take :math:`(b - a)\sqrt{\ln(2/\delta) / 2N}`: true for any distribution on ``[low, high]``.

    Hoeffding (1963). The range has to be known beforehand: that of the data is not enough.

    Worked number: 200 values in [0, 1] at 95 %: half the width is sqrt(ln(40) / 400) = 0.096.
    """
    sample = _within(values, low, high, confidence)
    half = (high - low) * math.sqrt(math.log(2.0 / (1.0 - confidence)) / (2.0 * sample.size))
    return Interval(float(sample.mean()), float(sample.mean()) - half, float(sample.mean()) + half)


def empirical_bernstein_interval(
    values: npt.ArrayLike, low: float, high: float, *, confidence: float = 0.95
) -> Interval:
    r"""Like Hoeffding's, but narrow where the values hardly vary:
    :math:`\sqrt{2 V \ln(4/\delta) / N} + 7 (b-a) \ln(4/\delta) / 3(N-1)` on either side.

    Maurer and Pontil (2009), theorem 4, once for each side.

    Worked number: 101 values with variance 0 in [0, 1] at 95 %: 7 ln(80) / 300 = 0.102.
    """
    sample = _within(values, low, high, confidence)
    if sample.size < 2:
        raise DatasetInvalidError("One value has no variance.", mend="Log more episodes.")
    log = math.log(4.0 / (1.0 - confidence))
    variance = float(sample.var(ddof=1))
    half = math.sqrt(2.0 * variance * log / sample.size) + 7.0 * (high - low) * log / (3.0 * (sample.size - 1))
    return Interval(float(sample.mean()), float(sample.mean()) - half, float(sample.mean()) + half)


def _within(values: npt.ArrayLike, low: float, high: float, confidence: float) -> Array:
    sample = np.asarray(values, dtype=np.float64).reshape(-1)
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"The confidence is {confidence}.", mend="Use a share such as 0.95.")
    if sample.size == 0 or not np.isfinite(sample).all():
        raise DatasetInvalidError("Some values are no number, or there are none.", mend="Look at the weights.")
    if sample.min() < low or sample.max() > high:
        raise ConfigError(
            f"Values from {sample.min():g} to {sample.max():g} are outside [{low:g}, {high:g}].",
            mend="Give the range that the values are bound to by the task, not one that looks right.",
        )
    return sample
