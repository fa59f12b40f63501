r"""Confidence sequences: intervals that hold at every moment at once, so that one may look as often as one likes.

An ordinary 95 % interval promises something for one sample size that was fixed beforehand. Who looks every day and stops
at the first day on which it leaves zero out is wrong far more often than 5 % of the time, because there were many days on
which chance could help. A confidence sequence :math:`(L_t, U_t)` promises more:

.. math:: P(\exists t: \mu \notin (L_t, U_t)) \le \alpha

Three of them, from the strictest assumption on the data to the loosest:

- :func:`sub_gaussian_sequence`: the tails are no heavier than a known Gaussian's. (Bounded returns are, Hoeffding 1963.)
- :func:`bounded_sequence`: the returns lie between known bounds; it learns how much they vary (empirical Bernstein).
- :func:`asymptotic_sequence`: the returns have a variance; true in the limit, as the central limit theorem is.

The first and the last rest on one boundary, the normal mixture (Robbins 1970). For a sum :math:`S` with variance
:math:`v`, averaging the likelihood ratio of every drift over a normal distribution gives the martingale

.. math:: M = \sqrt{\frac{\rho}{\rho + v}}\,\exp\frac{S^2}{2(v + \rho)}

which by Ville's inequality ever reaches :math:`1/\alpha` with probability :math:`\alpha` at most; solved for :math:`S`,

.. math:: |S| < u(v) = \sqrt{(v + \rho)\,\log\frac{v + \rho}{\rho\,\alpha^2}}

Sources: Howard, Ramdas, McAuliffe and Sekhon (2021), "Time-uniform, nonparametric, nonasymptotic confidence sequences" (the
two-sided normal mixture and how to tune it); Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), "Time-uniform
central limit theory and asymptotic confidence sequences", theorem 2.2; Waudby-Smith and Ramdas (2024), "Estimating means
of bounded random variables by betting", theorem 2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import lambertw

from rlcourse.errors import ConfigError, ShapeError

Array = npt.NDArray[np.float64]


class ConfidenceSequence(NamedTuple):
    """One interval for each moment, ``(..., T)``: the mean is in all of them together with the stated probability."""

    estimate: Array
    low: Array
    high: Array


def tuned_mixture(variance: float, alpha: float) -> float:
    r"""The :math:`\rho` that makes the boundary narrowest where the variance of the sum is ``variance``.

    It holds everywhere whatever rho is; rho only says where it is to be tight. Setting the derivative of :math:`u(v)^2` by rho
    to 0 gives :math:`v/\rho = -W_{-1}(-\alpha^2/e) - 1` (Howard et al. 2021).

    Worked number: alpha 0.05 at variance 1: rho = 1/8.21 = 0.1218, and the boundary there is 3.035 standard deviations,
    where a single look would need 1.96.
    """
    _probability(alpha)
    if not variance > 0.0:
        raise ConfigError(f"A boundary tuned to the variance {variance}.", mend="Use a number above 0.")
    return variance / (-float(lambertw(-(alpha**2) / math.e, -1).real) - 1.0)


def normal_mixture(variance: npt.ArrayLike, *, alpha: float, rho: float) -> Array:
    """How far a sum of variance ``variance`` may ever stray from its mean, on either side; the same shape.

    Worked number: variance 1, alpha 0.05, rho 1: the root of 2 log(2/0.0025) = 13.37, which is 3.656.
    """
    _probability(alpha)
    v = np.asarray(variance, dtype=np.float64)
    boundary: Array = np.sqrt((v + rho) * np.log((v + rho) / (rho * alpha**2)))
    return boundary


def sub_gaussian_sequence(returns: npt.ArrayLike, *, sigma: float, alpha: float, tuned_at: int) -> ConfidenceSequence:
    """For the mean of returns whose tails are no heavier than those of a Gaussian with deviation ``sigma``.

    Args:
        returns: ``(..., T)``, in order.
        sigma: known beforehand; half the width of the bounds is always right (Hoeffding's lemma).
        alpha: probability with which the mean may ever be outside.
        tuned_at: number of returns at which the interval is to be narrowest.

    Raises:
        ShapeError: no returns.
        ConfigError: alpha outside (0, 1), or sigma or ``tuned_at`` not above 0.
    """
    x, t = _returns(returns)
    rho = tuned_mixture(tuned_at * sigma**2, alpha)
    mean = np.cumsum(x, axis=-1) / t
    radius = normal_mixture(t * sigma**2, alpha=alpha, rho=rho) / t
    return ConfidenceSequence(mean, mean - radius, mean + radius)


def bounded_sequence(returns: npt.ArrayLike, *, low: float, high: float, alpha: float) -> ConfidenceSequence:
    r"""For the mean of returns between ``low`` and ``high``: narrow where they vary little, at any sample size.

    The predictable plug-in empirical Bernstein sequence, Waudby-Smith and Ramdas (2024), theorem 2. Each return is weighed
    by a bet :math:`\lambda_t` that was chosen before it was seen:

    .. math:: \frac{\sum \lambda_i X_i}{\sum \lambda_i} \pm
              \frac{\log(2/\alpha) + \sum 4(X_i - \hat\mu_{i-1})^2\,\psi(\lambda_i)}{\sum \lambda_i}, \qquad
              \psi(\lambda) = \frac{-\log(1 - \lambda) - \lambda}{4}

    Worked number: of the one return 1/2 with bounds 0 and 1, alpha 0.05: the bet is 1/2 at most, nothing strayed, so the
    radius is log(40)/0.5 = 7.38; cut to the bounds, (0, 1): one return says nothing.

    Raises:
        ShapeError: no returns.
        ConfigError: a return outside the bounds.
    """
    x, t = _returns(returns)
    _probability(alpha)
    if not low < high or (x < low).any() or (x > high).any():
        raise ConfigError(f"Returns outside {low} to {high}.", mend="Name bounds that no return can leave.")
    x = (x - low) / (high - low)
    mean = (0.5 + np.cumsum(x, axis=-1)) / (t + 1.0)
    spread = (0.25 + np.cumsum((x - mean) ** 2, axis=-1)) / (t + 1.0)
    before = np.concatenate([np.full_like(x[..., :1], 0.5), mean[..., :-1]], axis=-1)
    known = np.concatenate([np.full_like(x[..., :1], 0.25), spread[..., :-1]], axis=-1)
    bet = np.minimum(np.sqrt(2.0 * math.log(2.0 / alpha) / (known * t * np.log1p(t))), 0.5)
    strayed = np.cumsum((x - before) ** 2 * (-np.log1p(-bet) - bet), axis=-1)
    total = np.cumsum(bet, axis=-1)
    centre, radius = np.cumsum(bet * x, axis=-1) / total, (math.log(2.0 / alpha) + strayed) / total
    lower, upper = np.clip(centre - radius, 0.0, 1.0), np.clip(centre + radius, 0.0, 1.0)
    return ConfidenceSequence(*(low + (high - low) * part for part in (centre, lower, upper)))


def asymptotic_sequence(returns: npt.ArrayLike, *, alpha: float, tuned_at: int, first: int = 20) -> ConfidenceSequence:
    """For the mean of returns of which nothing is known but that they have a variance, which is learnt on the way.

    Waudby-Smith et al. (2024), theorem 2.2: the normal mixture with the variance found so far in place of the true one. What
    is promised holds as the first look is put off; before ``first`` returns nothing is said and the interval is infinite.

    Args:
        returns: ``(..., T)``, in order.
        alpha: probability with which the mean may ever be outside.
        tuned_at: number of returns at which the interval is to be narrowest.
        first: returns before the first look.
    """
    x, t = _returns(returns)
    mean = np.cumsum(x, axis=-1) / t
    variance = np.maximum(np.cumsum(x**2, axis=-1) / t - mean**2, 0.0)
    # In units of the deviation the variance of the sum is the number of returns.
    rho = tuned_mixture(float(tuned_at), alpha)
    radius = np.sqrt(variance) * normal_mixture(t, alpha=alpha, rho=rho) / t
    radius = np.where(t < first, np.inf, radius)
    return ConfidenceSequence(mean, mean - radius, mean + radius)


def contrast_radius(information: npt.ArrayLike, *, alpha: float, rho: float) -> Array:
    """Half the width of the interval for a difference whose estimate has variance ``1 / information``; the same shape.

    An efficient estimate times its information is a sum with that much variance, whatever the sizes of the two arms were:
    the "information time" of group-sequential trials (Jennison and Turnbull 2000, chapter 3). No information, no bound.

    Worked number: information 1 at its own tuning, alpha 0.05: 3.035.
    """
    info = np.asarray(information, dtype=np.float64)
    safe = np.where(info > 0.0, info, 1.0)
    radius: Array = np.where(info > 0.0, normal_mixture(safe, alpha=alpha, rho=rho) / safe, np.inf)
    return radius


def likelihood_ratio(bad: int, of: int, *, limit: float, feared: float) -> float:
    """How much better a share ``feared`` of bad requests explains what was seen than the share ``limit`` that is allowed.

    Wald's sequential probability ratio. Where the true share is within the limit it ever exceeds 1/alpha with probability
    alpha at most, so it may be looked at after every request.

    Worked number: 2 bad of 10, limit 0.1, feared 0.2: (0.2/0.1)^2 (0.8/0.9)^8 = 4 * 0.3897 = 1.559.

    Raises:
        ConfigError: impossible counts or shares.
    """
    if not 0 <= bad <= of or not 0.0 < limit < feared < 1.0:
        raise ConfigError(
            f"{bad} bad of {of}, {limit} allowed, {feared} feared.",
            mend="Use counts from 0 up to all, and shares with 0 < limit < feared < 1.",
        )
    logarithm = bad * math.log(feared / limit) + (of - bad) * math.log((1.0 - feared) / (1.0 - limit))
    return math.exp(min(logarithm, 700.0))


def _returns(returns: npt.ArrayLike) -> tuple[Array, Array]:
    x = np.asarray(returns, dtype=np.float64)
    if x.ndim < 1 or x.shape[-1] < 1 or not np.isfinite(x).all():
        raise ShapeError(f"Returns of shape {x.shape}, or not finite.", mend="Give (..., T) finite numbers, T above 0.")
    return x, np.arange(1, x.shape[-1] + 1, dtype=np.float64)


def _probability(alpha: float) -> None:
    if not 0.0 < alpha < 1.0:
        raise ConfigError(f"alpha is {alpha}.", mend="Use a probability, for example 0.05.")
