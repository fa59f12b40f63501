r"""A test that is right whatever happens inside an episode: shuffle the episodes.

Every episode is boiled down to a few numbers, its *unit*. If nothing has drifted, the episodes of reference and window are
draws from one urn, and which of them lie in the window is a matter of chance::

    reference  e1 e2 e3 e4 | window  e5 e6      statistic as it is         0.31
               e1 e5 e3 e4 |         e2 e6      ... shuffled               0.12
               e6 e2 e3 e5 |         e1 e4      ... shuffled again         0.17   and so on, 1,999 times

The p-value is the share of shuffles (with the order as it came among them) whose statistic is as large. It is exact for
any statistic, any dependence within an episode and any size of window; it asks one thing, that episodes are
exchangeable. A reference of summer days and a window of winter days are not, and that they differ will be found.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rlcourse.errors import ConfigError, DatasetInvalidError, ShapeError
from rlcourse.monitoring.signals import Array, finite

Statistic = Callable[[Array, Array], Array]
"""``(B, K)`` means of the reference's and of the window's units to ``(B, M)`` statistics."""


def shuffles(reference: int, window: int, permutations: int, rng: np.random.Generator) -> Array:
    """``(1 + B, E + F)``: 1 where an episode lies in the window; the first row is the order as it came.

    Raises:
        ConfigError: an empty side, or no permutations.
    """
    if min(reference, window, permutations) < 1:
        raise ConfigError(
            f"{permutations} shuffles of {reference} and {window} episodes.", mend="Use one or more of each."
        )
    first = np.zeros(reference + window)
    first[reference:] = 1.0
    return np.vstack([first, rng.permuted(np.tile(first, (permutations, 1)), axis=1)])


def permuted_means(units: Array, chosen: Array, statistic: Statistic) -> tuple[Array, Array]:
    """Statistics of means over units, and their p-values.

    Args:
        units: ``(E + F, K)``, those of the reference first.
        chosen: what :func:`shuffles` made.
        statistic: what large values of speak of drift.

    Returns:
        ``(M,)`` statistics and ``(M,)`` p-values, the smallest possible one being ``1 / (1 + B)``.

    Raises:
        ShapeError: units that were not counted when the shuffles were made.
        DatasetInvalidError: NaN.
    """
    finite(units, "units")
    if chosen.shape[1] != len(units):
        raise ShapeError(f"Shuffles of {chosen.shape[1]} episodes for {len(units)}.", mend="Make new ones.")
    inside = chosen @ units
    count = chosen[0].sum()
    values = statistic((units.sum(axis=0) - inside) / (len(units) - count), inside / count)
    return values[0], p_values(values)


def permuted_mmd(kernel: Array, chosen: Array) -> tuple[float, float]:
    r"""Squared maximum mean discrepancy of whole episodes, and its p-value.

    Args:
        kernel: ``(E + F, E + F)``, the mean kernel between the rows of two episodes.
        chosen: what :func:`shuffles` made.

    With weights :math:`w_i = 1/F` in the window and :math:`-1/E` in the reference it is :math:`w^\top K w`.
    """
    if kernel.shape != (chosen.shape[1], chosen.shape[1]):
        raise ShapeError(f"A kernel of shape {kernel.shape} for {chosen.shape[1]} episodes.", mend="Give all pairs.")
    count = chosen[0].sum()
    weights = chosen / count - (1.0 - chosen) / (chosen.shape[1] - count)
    values = ((weights @ kernel) * weights).sum(axis=1, keepdims=True)
    return float(values[0, 0]), float(p_values(values)[0])


def p_values(values: Array) -> Array:
    """``(1 + B, M)`` statistics, the one that was seen first, to ``(M,)`` shares of those at least as large.

    Worked number: 5 seen and 1, 5, 7 shuffled: three of four are 5 or more, so 0.75.
    """
    if len(values) < 2:
        raise DatasetInvalidError("Nothing was shuffled.", mend="Use one permutation or more.")
    # The same sum in another order may differ in its last digit, and an equal value must count.
    seen = values[0] - 1e-9 * np.abs(values[0]) - 1e-12
    shares: Array = (values >= seen).mean(axis=0)
    return shares
