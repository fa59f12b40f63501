r"""How many episodes a decision needs, worked out before the first one is spent.

Four numbers belong together: the *effect* that has to be seen, how much returns vary (*sd*), how often a difference may be
seen where there is none (*alpha*), and how often the effect has to be found (*power*). Any three give the fourth:

.. math:: n = \frac{(z_{1-\alpha/2} + z_{\text{power}})^2\,(\sigma_1^2 + \sigma_2^2)}{\text{effect}^2}
          \quad\text{episodes in each arm}

An always-valid interval is wider by what may be saved by stopping early: :func:`always_valid_information`. *Information*
is one over the variance of the estimated difference; arms of :math:`n_c` and :math:`n_i` episodes hold
:math:`1/(\sigma_c^2/n_c + \sigma_i^2/n_i)` of it.
"""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.stats import norm

from rlcourse.errors import ConfigError
from rlcourse.release.sequential import contrast_radius, tuned_mixture


def episodes_per_arm(effect: float, sd: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Episodes in each of two equal arms for a two-sided test that is made once, at the end.

    Args:
        effect: smallest difference of mean returns that has to be found, in the unit of ``sd``.
        sd: standard deviation of an episode's return.
        alpha: chance of finding one where there is none.
        power: chance of finding one of this size.

    Worked number: half a standard deviation, alpha 0.05, power 0.8: 2 (1.960 + 0.842)^2 / 0.25 = 62.8, so 63.

    Raises:
        ConfigError: an effect of 0, a negative sd, or probabilities outside (0, 1).
    """
    return math.ceil(2.0 * sd**2 * fixed_information(effect, alpha=alpha, power=power))


def power_of(episodes: int, effect: float, sd: float, *, alpha: float = 0.05) -> float:
    """The chance that so many episodes in each arm find the effect, both tails counted.

    Worked number: 63 episodes for half a standard deviation: 0.801.
    """
    _check(effect, alpha, 0.5)
    shift = abs(effect) / (sd * math.sqrt(2.0 / episodes))
    z = norm.ppf(1.0 - alpha / 2.0)
    return float(norm.sf(z - shift) + norm.cdf(-z - shift))


def fixed_information(effect: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Information for a two-sided test that is made once. Worked number: effect 1, 0.05, 0.8: 7.849."""
    _check(effect, alpha, power)
    return float((norm.ppf(1.0 - alpha / 2.0) + norm.ppf(power)) / effect) ** 2


def always_valid_information(
    effect: float, *, alpha: float = 0.05, power: float = 0.8, rho: float | None = None
) -> float:
    """Information at which a confidence sequence leaves zero out with probability ``power``, or has before.

    Args:
        effect: true difference of the means.
        alpha: chance of ever finding one where there is none.
        power: chance of having found it by then; at least, as earlier looks are not counted.
        rho: of the mixture; by default tuned to this very amount of information.

    Worked number: effect 1, alpha 0.05, power 0.8: (3.035 + 0.842)^2 = 15.03. Twice the 7.849 of one look: the price of
    being allowed to look always, which stopping early pays back where the effect is larger than planned for.
    """
    _check(effect, alpha, power)
    z = float(norm.ppf(power))
    if rho is None:
        tight = float(contrast_radius(1.0, alpha=alpha, rho=tuned_mixture(1.0, alpha)))
        return ((tight + z) / abs(effect)) ** 2

    def lacking(information: float) -> float:
        needed = float(contrast_radius(information, alpha=alpha, rho=rho)) * math.sqrt(information) + z
        return needed - abs(effect) * math.sqrt(information)

    most = 1.0 / effect**2
    while lacking(most) > 0.0:
        most *= 2.0
    return float(brentq(lacking, most * 1e-6, most))


def information_of(candidate: float, incumbent: float, *, sd_candidate: float, sd_incumbent: float) -> float:
    """What so many episodes of either arm tell about their difference. Worked number: 10 and 40, both of sd 2: 2.0."""
    if min(candidate, incumbent) <= 0.0:
        return 0.0
    return 1.0 / (sd_candidate**2 / candidate + sd_incumbent**2 / incumbent)


def _check(effect: float, alpha: float, power: float) -> None:
    if effect == 0.0 or not 0.0 < alpha < 1.0 or not 0.0 < power < 1.0:
        raise ConfigError(
            f"An effect of {effect} at alpha {alpha} with power {power}.",
            mend="Name an effect other than 0, and two probabilities; to find nothing takes for ever.",
        )
