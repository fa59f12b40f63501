r"""A few looks, planned beforehand: group-sequential boundaries, and what looking without them costs.

At ``K`` looks, each after the same amount of new information, the standardised difference :math:`Z_k` is compared with
:math:`c_k`. Without a plan :math:`c_k = 1.96` at each, and the errors add up. Two classical plans keep them at 5 %:

===========================  ============================  ========================================================
                             boundary                      character
===========================  ============================  ========================================================
Pocock (1977)                :math:`c_k = c`               the same at every look: stops early, pays at the end
O'Brien and Fleming (1979)   :math:`c_k = c\sqrt{K/k}`     almost never stops early, costs almost nothing at the end
===========================  ============================  ========================================================

The constants follow from the density of the random walk that has not crossed yet, integrated from look to look
(Armitage, McPherson and Rowe 1969).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from rlcourse.errors import ConfigError

Array = npt.NDArray[np.float64]
NODES = 101


def crossing_probability(boundaries: npt.ArrayLike, drift: float = 0.0) -> float:
    """The chance that a standardised difference leaves ``(-c_k, c_k)`` at one of ``K`` equally spaced looks.

    Args:
        boundaries: ``(K,)`` the ``c_k``.
        drift: what is expected of Z at the last look; 0 where nothing differs.

    Worked number: 1.96 at each of five looks: 0.142, nearly three times 5 % (Armitage et al. 1969, table 2).
    """
    limits = np.asarray(boundaries, dtype=np.float64).reshape(-1)
    looks = len(limits)
    if looks < 1 or not (limits > 0.0).all():
        raise ConfigError(f"Boundaries {limits.tolist()}.", mend="Give one number above 0 for each look.")
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    step = drift / math.sqrt(looks)  # of the walk, whose increments have variance 1
    density, places = np.ones(1), np.zeros(1)
    for number, limit in enumerate(limits, 1):
        edge = limit * math.sqrt(number)
        reached = edge * nodes
        moved = np.exp(-0.5 * (reached[:, None] - places[None, :] - step) ** 2) / math.sqrt(2.0 * math.pi)
        # Each entry holds density times the weight of its node, so that a sum is an integral.
        density, places = edge * weights * (moved @ density), reached
    return float(1.0 - density.sum())


def pocock(looks: int, alpha: float = 0.05) -> Array:
    """``(K,)``: Pocock's boundaries. Worked number: 2.413 at each of five looks, alpha 0.05."""
    return _solved(lambda c: np.full(looks, c), looks, alpha)


def obrien_fleming(looks: int, alpha: float = 0.05) -> Array:
    """``(K,)``: O'Brien and Fleming's. Worked number: five looks, alpha 0.05: 4.562 at the first, 2.040 at the last."""
    return _solved(lambda c: c * np.sqrt(looks / np.arange(1.0, looks + 1.0)), looks, alpha)


def _solved(shape: Callable[[float], Array], looks: int, alpha: float) -> Array:
    if looks < 1 or not 0.0 < alpha < 1.0:
        raise ConfigError(f"{looks} looks at alpha {alpha}.", mend="Use 1 look or more and a probability.")
    return shape(float(brentq(lambda c: crossing_probability(shape(c)) - alpha, 0.1, 8.0)))
