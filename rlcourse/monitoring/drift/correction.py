r"""Many tests, few false alarms: what to make of a row of p-values, and how strict to be all day long.

Twelve tests at 5 % on each of 24 windows raise 14 false alarms a day, and nobody looks at the fifteenth. Two bounds:

- *within a window*, Holm keeps the chance of any false finding at the level; Benjamini-Hochberg keeps the share of false
  ones among all findings there, which lets more through once something is wrong. If nothing is wrong at all, every finding
  is false, so both bound the chance of a false alarm.
- *over a day*, the level is shared out: with N windows each gets one N-th (:class:`FalseAlarmBudget`), and no more than N are
  looked at (:class:`~rlcourse.monitoring.drift.looks.Looks`). That holds however the windows depend on each other,
  overlapping ones included.

It is an average over references. One reference stays for years, and the one that is off by chance raises more alarms than
stated, day after day. The more episodes it has beside a window, the less: the book has the measured spread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from rlcourse.errors import ConfigError, DatasetInvalidError
from rlcourse.monitoring.signals import Array, finite

Correction = Literal["holm", "benjamini_hochberg"]


@dataclass(frozen=True)
class FalseAlarmBudget:
    """How often a healthy plant may wake somebody."""

    per_day: float = 0.05
    """Probability of any false alarm in a day: 0.05 is one such day in 20. Raising it finds faults sooner."""
    windows_per_day: int = 4
    """How often a day all checks are made, at most; what would be more is not looked at (:class:`Looks`). More of them find
    faults sooner, and each must be stricter."""

    def __post_init__(self) -> None:
        if not 0.0 < self.per_day < 1.0 or self.windows_per_day < 1:
            raise ConfigError(
                f"{self.per_day} false alarms in {self.windows_per_day} windows a day.",
                mend="Use a probability between 0 and 1, and one window or more.",
            )

    @property
    def per_window(self) -> float:
        """The level at which a window is judged (Bonferroni: the chances of the windows add up to the day's at most)."""
        return self.per_day / self.windows_per_day


def holm(p_values: npt.ArrayLike) -> Array:
    r"""Adjusted p-values :math:`\tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1)\,p_{(j)})`. Holm (1979).

    Those at or below a level may be believed together: the chance that any of them is false is the level at most.

    Raises:
        DatasetInvalidError: none, NaN, or outside [0, 1].

    Worked number: (0.01, 0.04, 0.03) become (0.03, 0.06, 0.06): 3 * 0.01, 2 * 0.03, and 0.04 cannot be less than that.
    """
    p = _probabilities(p_values)
    order = np.argsort(p, kind="stable")
    raised = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    adjusted = np.empty_like(p)
    adjusted[order] = raised
    return adjusted


def benjamini_hochberg(p_values: npt.ArrayLike) -> Array:
    r"""Adjusted p-values :math:`\tilde p_{(i)} = \min_{j \ge i} m\,p_{(j)} / j`, by SciPy. Benjamini and Hochberg (1995).

    Of those at or below a level, the share that is false is the level at most, on average; for tests that are
    independent or rise and fall together.

    Raises:
        DatasetInvalidError: none, NaN, or outside [0, 1].

    Worked number: (0.01, 0.04, 0.03) become (0.03, 0.04, 0.04): 3 * 0.03 / 2 = 0.045 is undercut by 3 * 0.04 / 3.
    """
    adjusted: Array = stats.false_discovery_control(_probabilities(p_values), method="bh")
    return adjusted


CORRECTIONS: dict[Correction, Callable[[npt.ArrayLike], Array]] = {
    "holm": holm,
    "benjamini_hochberg": benjamini_hochberg,
}


def _probabilities(p_values: npt.ArrayLike) -> Array:
    p = finite(p_values, "p-values").reshape(-1)
    if p.min() < 0.0 or p.max() > 1.0:
        raise DatasetInvalidError("Some p-values are outside [0, 1].", mend="Give p-values, not statistics.")
    return p
